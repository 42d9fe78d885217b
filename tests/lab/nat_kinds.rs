//! The table of kinds of access: what is built, and what probing must find.

use std::sync::LazyLock;

use serde::Deserialize;

/// A row of `nat_kinds.toml`, which says what each column means.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) mapping: Option<Mapping>,
    #[serde(default)]
    pub(crate) port_kept: bool,
    #[serde(default)]
    pub(crate) other_port: bool,
    #[serde(default)]
    pub(crate) other_address: bool,
    #[serde(default)]
    pub(crate) own_address: bool,
    pub(crate) tcp: String,
    pub(crate) family: Vec<u8>,
    pub(crate) simulated: bool,
    pub(crate) matrix: bool,
}

/// On what the outside port depends (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Mapping {
    #[serde(rename = "EIM")]
    EndpointIndependent,
    #[serde(rename = "ADM")]
    AddressDependent,
    #[serde(rename = "APDM")]
    AddressAndPortDependent,
}

impl Kind {
    /// All rows.
    pub(crate) fn all() -> &'static [Self] {
        #[derive(Deserialize)]
        struct Table {
            kind: Vec<Kind>,
        }
        static KINDS: LazyLock<Vec<Kind>> =
            LazyLock::new(|| toml::from_str::<Table>(include_str!("nat_kinds.toml")).unwrap().kind);
        &KINDS
    }

    /// # Panics
    /// When the table has no such row.
    #[track_caller]
    pub(crate) fn named(name: &str) -> &'static Self {
        Self::all()
            .iter()
            .find(|kind| kind.name == name)
            .unwrap_or_else(|| panic!("no kind `{name}` in nat_kinds.toml"))
    }

    pub(crate) fn udp(&self) -> bool {
        self.mapping.is_some()
    }

    pub(crate) fn has(&self, family: u8) -> bool {
        self.family.contains(&family)
    }

    pub(crate) fn reaches_tcp(&self, port: u16) -> bool {
        self.tcp == "any" || self.tcp == port.to_string()
    }

    /// Whether two hosts that learnt their outside addresses from a third, and both send, hear each other: the plain hole
    /// punch. A mapping that depends on whom it is for is of use only where the other side does not ask for a port.
    pub(crate) fn punches(&self, other: &Self) -> bool {
        let through = |a: &Self, b: &Self| a.mapping == Some(Mapping::EndpointIndependent) || b.other_port;
        let meet = self.family.iter().any(|family| other.has(*family));
        self.udp() && other.udp() && meet && through(self, other) && through(other, self)
    }
}

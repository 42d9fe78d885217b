//! What is known about a game: how to recognise it, its ports, how it finds others, how its traffic is best treated.
//!
//! Text in, [`Profile`] or [`Problem`]s out. `docs/game-profiles.md` explains every key.

mod fields;
pub mod glob;
mod ports;
mod read;
mod words;

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::wire::IpProtocol;
use glob::Glob;
pub use ports::PortRange;
pub use read::{is_id, limits};
pub use words::{DiscoveryMethod, Os, PortRole, Priority, QueryProtocol, Redundancy, RelayUse, Reply, Role, Word};

/// One game, or an engine whose games are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Small letters, digits and dashes; the name of its file without `.toml`.
    pub id: String,
    /// As players know it.
    pub name: String,
    pub notes: Option<String>,
    /// Web addresses of where the facts come from.
    pub sources: Vec<String>,
    /// At least one; a process of the game matches any of them.
    pub processes: Vec<ProcessRule>,
    pub ports: Vec<PortUse>,
    pub discovery: Option<Discovery>,
    pub query: Option<Query>,
    pub tuning: Tuning,
    pub join: Join,
}

/// How a process of the game looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessRule {
    /// Empty: any. A Windows program that runs under Wine or Proton counts as Windows.
    pub os: Vec<Os>,
    /// File name of the program, without `.exe`.
    pub exe: Glob,
    /// Each must match one of the arguments.
    pub args: Vec<Glob>,
    /// None may match any of the arguments.
    pub not_args: Vec<Glob>,
    pub role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PortUse {
    pub port: PortRange,
    pub protocol: IpProtocol,
    pub role: PortRole,
}

/// How games on one LAN find each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Discovery {
    /// At least one.
    pub methods: Vec<DiscoveryMethod>,
    /// UDP ports that queries and announcements go to.
    pub ports: Vec<PortRange>,
    /// Multicast groups.
    pub groups: Vec<IpAddr>,
    pub reply: Reply,
    /// The answer carries the host's own address, which is the wrong one unless the game sees only the party's network.
    pub embeds_address: bool,
}

/// How a server is asked for its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Query {
    pub protocol: QueryProtocol,
    /// Where servers answer, unless a server is known to listen elsewhere.
    pub port: PortRange,
}

/// What is set while the game runs. `None` and `Auto`: as without a game.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tuning {
    /// Seconds between keepalives.
    pub keepalive_s: Option<u16>,
    /// Bytes of an IP packet on the virtual device.
    pub mtu: Option<u16>,
    pub priority: Priority,
    pub redundancy: Redundancy,
    pub relay: RelayUse,
}

/// How a player gets into a known server; `{ip}` and `{port}` stand for its address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Join {
    /// A command line.
    pub command: Option<String>,
    /// What to type into the game.
    pub address: Option<String>,
}

/// Something wrong in a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Counted from 1; absent where the file as a whole is meant.
    pub line: Option<NonZeroU32>,
    /// Like `process[2].exe`, where the second `[[process]]` is meant; empty for the file as a whole.
    pub field: String,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl Profile {
    /// # Errors
    /// Everything that is wrong with the text, in the order of its lines; never empty.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        read::profile(text)
    }
}

impl Join {
    /// The templates with the address put in.
    #[must_use]
    pub fn fill(template: &str, ip: std::net::Ipv4Addr, port: u16) -> String {
        template.replace("{ip}", &ip.to_string()).replace("{port}", &port.to_string())
    }
}

impl Problem {
    /// About the file as a whole.
    #[must_use]
    pub fn of_file(reason: impl Into<String>) -> Self {
        Self { line: None, field: String::new(), reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

#[cfg(test)]
mod tests;

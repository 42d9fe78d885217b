//! `[run]` of a tier 3 scenario.

use serde::Deserialize;

use super::hostile::Deed;
use super::node::Tuning;
use crate::scenario::{Scenario, ScenarioError};

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Settings {
    /// Publish and look up.
    Lookup(Lookup),
    /// Players find each other and talk.
    Party(Party),
}

/// How the nodes' tables come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Formation {
    /// Filled from outside, with what long service would have put there.
    Filled,
    /// Every node joins through others, one after the other.
    Grown,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dht {
    pub(super) formation: Formation,
    /// Part of the nodes that lose power once all tables are full: 0 to 1.
    #[serde(default)]
    pub(super) gone: f64,
    /// Part of the nodes that are hostile: 0 to 1.
    #[serde(default)]
    pub(super) hostile: f64,
    /// What those do.
    pub(super) deed: Option<Deed>,
    /// Sybils around each rendezvous key, on top of `peers`.
    #[serde(default)]
    pub(super) sybils: usize,
    /// Part of the nodes that serve circuits: 0 to 1.
    #[serde(default)]
    pub(super) relays: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lookup {
    pub(super) dht: Dht,
    /// Rendezvous keys: each is published by one client and then looked up by another.
    pub(super) keys: usize,
    /// Clients that take turns.
    pub(super) clients: usize,
    #[serde(default)]
    pub(super) tuning: Tuning,
    pub(super) expect: LookupExpect,
}

/// Parts are 0 to 1, times virtual seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LookupExpect {
    /// Part of the keys that at least one honest node holds after publishing.
    pub(super) published: f64,
    /// Part of the look-ups that name the real provider.
    pub(super) found: f64,
    /// 95 % of the successful look-ups name it by then.
    pub(super) found_within: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Party {
    pub(super) dht: Dht,
    pub(super) parties: usize,
    /// Of each party.
    pub(super) members: usize,
    /// The first so many of each party.
    #[serde(default)]
    pub(super) behind_nat: usize,
    /// Virtual seconds between two players.
    pub(super) join_every: f64,
    /// All pairs must be linked so many virtual seconds after the last player joined.
    pub(super) linked_within: f64,
}

impl Settings {
    pub(super) fn of(scenario: &Scenario) -> Result<Self, ScenarioError> {
        let settings: Self = scenario.settings()?;
        match &settings {
            Self::Lookup(lookup) => {
                if lookup.clients < 2 || lookup.keys == 0 {
                    return Err(scenario.invalid("in [run]: at least 2 `clients` and 1 of `keys`"));
                }
                lookup.tuning.check().map_err(|why| scenario.invalid(format!("in [run.tuning]: {why}")))?;
                lookup.dht.check(scenario)?;
            }
            Self::Party(party) => {
                if party.members < 2 || party.parties == 0 || party.behind_nat > party.members {
                    return Err(
                        scenario.invalid("in [run]: at least 2 `members`, 1 of `parties`, `behind_nat` <= `members`")
                    );
                }
                for (key, seconds) in [("join_every", party.join_every), ("linked_within", party.linked_within)] {
                    if !(0.0..=1e6).contains(&seconds) {
                        return Err(
                            scenario.invalid(format!("in [run]: `{key}` is {seconds}; it is 0 to 1000000 seconds"))
                        );
                    }
                }
                party.dht.check(scenario)?;
            }
        }
        Ok(settings)
    }
}

impl Dht {
    fn check(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        for (key, part) in [("gone", self.gone), ("hostile", self.hostile), ("relays", self.relays)] {
            if !(0.0..=1.0).contains(&part) {
                return Err(scenario.invalid(format!("in [run.dht]: `{key}` is {part}; a part is 0 to 1")));
            }
        }
        if (self.hostile > 0.0) != matches!(self.deed, Some(Deed::Drop | Deed::Lie)) {
            return Err(scenario.invalid("in [run.dht]: `hostile` and `deed` (\"drop\" or \"lie\") belong together"));
        }
        Ok(())
    }
}

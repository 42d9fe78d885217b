//! Tier 3: real libp2p swarms (noise, yamux, Kademlia, circuit relay) in virtual time on a virtual network.

use serde::Deserialize;

use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::tier::{Job, Tier};

/// See the module.
#[derive(Debug)]
pub struct Tier3;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Tier for Tier3 {
    fn number(&self) -> u8 {
        3
    }

    fn about(&self) -> &'static str {
        "real libp2p swarms (noise, yamux, Kademlia, circuit relay) on a virtual network"
    }

    fn check(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        scenario.settings::<Settings>().map(|_| ())
    }

    fn run(&self, job: &Job<'_>, _: &mut Report) -> Result<(), ScenarioError> {
        job.scenario.settings::<Settings>().map(|_| ())
    }
}

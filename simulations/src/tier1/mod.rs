//! Tier 1: the party and peer machines alone, random operations from the seed, and a reference model that says who must be
//! member, host, and at which address.
#![allow(missing_debug_implementations, reason = "the machines' nets are not looked at as a whole")]

pub mod model;
pub mod net;

use serde::Deserialize;

use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::tier::{Job, Tier};
use crate::tier2::clock;

/// See the module.
#[derive(Debug)]
pub struct Tier1;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Random operations; after each the model is compared.
    pub ops: u32,
    /// Virtual seconds until all must agree again: two digest exchanges and a dial.
    pub quiet_s: u64,
    /// Chance that a frame of a party stream finds a full mailbox.
    pub frame_loss: f64,
    pub datagram_loss: f64,
    /// Wall clocks are wrong, and jump.
    pub clock_jumps: bool,
    /// Now and then a member's addresses change while every frame is lost: only digests can tell the others.
    #[serde(default)]
    pub deaf: bool,
    /// Most members.
    pub limit: usize,
}

impl Tier for Tier1 {
    fn number(&self) -> u8 {
        1
    }

    fn about(&self) -> &'static str {
        "the party and peer machines alone against a reference model: the one to explore with"
    }

    fn check(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        scenario.settings::<Settings>().map(|_| ())
    }

    fn run(&self, job: &Job<'_>, report: &mut Report) -> Result<(), ScenarioError> {
        let settings = job.scenario.settings::<Settings>()?;
        let spent = model::run(job, &settings, report);
        clock::end();
        report.finish(spent);
        Ok(())
    }
}

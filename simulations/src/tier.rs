//! Where a tier plugs in: implement [`Tier`], add it to [`TIERS`].

use std::fmt;

use crate::progress::Progress;
use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::{tier1, tier2, tier3};

/// All tiers, in order.
pub const TIERS: &[&dyn Tier] = &[&tier1::Tier1, &tier2::Tier2, &tier3::Tier3];

/// One way to run scenarios.
pub trait Tier: Sync {
    /// What a scenario file says in `tier`.
    fn number(&self) -> u8;

    /// One line for `list`.
    fn about(&self) -> &'static str;

    /// Reads the `[run]` table, so that a mistake is found before anything runs.
    ///
    /// # Errors
    /// When the table is not what the tier understands.
    fn check(&self, scenario: &Scenario) -> Result<(), ScenarioError>;

    /// Runs the scenario and fills in the report. Called on a fresh thread whose randomness comes from the seed. Broken
    /// expectations go to [`Report::fail`]; they are not errors.
    ///
    /// # Errors
    /// When the scenario cannot be run at all.
    fn run(&self, job: &Job<'_>, report: &mut Report) -> Result<(), ScenarioError>;
}

impl fmt::Debug for dyn Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tier {}: {}", self.number(), self.about())
    }
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub scenario: &'a Scenario,
    pub seed: u64,
    pub peers: u32,
    pub progress: &'a Progress,
}

#[must_use]
pub fn by_number(number: u8) -> Option<&'static dyn Tier> {
    TIERS.iter().copied().find(|tier| tier.number() == number)
}

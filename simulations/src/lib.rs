//! Virtual peers in virtual time. `docs/simulation.md` says how to run and read it.
//!
//! A scenario file names a tier; a tier (see [`tier`]) runs it and fills in a [`report::Report`]. Everything else here
//! (seeds, trace hash, corpus, charts, command line) is common to the tiers.

pub mod charts;
pub mod cli;
pub mod corpus;
pub mod entropy;
pub mod heap;
pub mod logs;
pub mod progress;
pub mod report;
pub mod run;
pub mod scenario;
pub mod threads;
pub mod tier;
pub mod tier1;
pub mod tier2;
pub mod tier3;
pub mod trace;

//! Games: what is known about each (profiles), and which of them run.

pub mod folder;
pub mod matcher;
pub mod process;
pub mod profile;
pub mod set;

#[cfg(test)]
mod shipped_tests;

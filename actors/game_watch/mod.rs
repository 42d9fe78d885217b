//! Games: what is known about each (profiles), and which of them run.

pub mod matcher;
pub mod process;
pub mod profile;

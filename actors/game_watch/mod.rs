//! Games: what is known about each (profiles), and which of them run.

pub mod profile;

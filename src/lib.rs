//! The program around the actors: configuration, command line, API, composition root.

pub mod config;
pub mod system;

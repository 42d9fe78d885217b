//! The program around the actors: configuration, command line, API, composition root.

pub mod api;
pub mod config;
pub mod system;

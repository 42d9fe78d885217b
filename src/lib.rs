//! The program around the actors: configuration, command line, API, composition root.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
mod play;
pub mod system;

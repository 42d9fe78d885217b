//! The program around the actors: configuration, command line, API, composition root.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
mod play;
pub mod system;

/// Ways in for the targets in fuzz/.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::play::read_all as play_lines;
}

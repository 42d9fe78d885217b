//! PLACEHOLDER for the composition root: only the signatures that the command line calls. To be replaced.

use std::process::ExitCode;

use crate::config::{Config, RelayConfig};

/// Runs the node until it is told to stop.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    tracing::error!(name = config.name, "the node is not wired yet");
    ExitCode::FAILURE
}

/// Runs a relay until it is told to stop.
#[must_use]
pub fn run_relay(config: RelayConfig) -> ExitCode {
    tracing::error!(port = config.p2p_port, "the relay is not wired yet");
    ExitCode::FAILURE
}

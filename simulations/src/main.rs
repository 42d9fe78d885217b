//! `simulate`: see `simulate --help` and `docs/simulation.md`.

use std::process::ExitCode;

use clap::Parser as _;
use lanrage_simulations::cli;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}

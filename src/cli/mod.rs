//! The command line.

mod args;
mod client;
mod commands;
mod doctor;
mod events;
mod games;
mod netcheck;
mod percentile;
pub mod print;
mod profile;
mod views;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use self::args::{Cli, Command, PlayArgs, RelayArgs, UpArgs};
use crate::config::{Config, Layer, Places, RelayConfig};
use crate::{daemon, play};

/// Does what the arguments say. Errors go to the error output, the exit code is not 0 then.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let places = Places::of_this_user();
    let outcome = match cli.command {
        None => up(cli.up, &places),
        Some(Command::Up(args)) => up(args, &places),
        Some(Command::Games(args)) => games::run(&args, &places),
        Some(Command::Play(args)) => play(args, &places),
        Some(Command::PlayInside { control, command }) => Ok(play::run_inside(control, &command)),
        Some(Command::Relay(args)) => relay(args, &places),
        Some(Command::Party(command)) => commands::party(command, &places),
        Some(Command::Status(args)) => commands::status(&args, &places),
        Some(Command::Peers(args)) => commands::peers(&args, &places),
        Some(Command::Ping(args)) => commands::ping(&args, &places),
        Some(Command::Events(args)) => events::run(&args, &places),
        Some(Command::Redundancy(args)) => commands::redundancy(&args, &places),
        Some(Command::Profile(command)) => profile::run(command, &places),
        Some(Command::Doctor(args)) => doctor::run(&args, &places),
        Some(Command::Netcheck(args)) => netcheck::run(&args, &places),
    };
    outcome.unwrap_or_else(|message| {
        print::error(&message);
        ExitCode::FAILURE
    })
}

fn up(args: UpArgs, places: &Places) -> Result<ExitCode, String> {
    let config =
        Config::load(args.config.as_deref(), args.layer, args.new_identity, places).map_err(|error| error.0)?;
    log(&config.log)?;
    Ok(daemon::run(config))
}

fn relay(args: RelayArgs, places: &Places) -> Result<ExitCode, String> {
    let config =
        RelayConfig::load(args.config.clone().as_deref(), args.into_flags(), places).map_err(|error| error.0)?;
    log(&config.log)?;
    Ok(daemon::run_relay(config))
}

fn play(args: PlayArgs, places: &Places) -> Result<ExitCode, String> {
    let flags = Layer { data_dir: args.data_dir, ..Layer::default() };
    let config = Config::load(args.config.as_deref(), flags, false, places).map_err(|error| error.0)?;
    play::run(&play::Order {
        data_dir: config.data_dir,
        game: args.game,
        internet: args.internet,
        name_is_address: args.name_is_address,
        command: args.command,
    })
}

fn log(filter: &str) -> Result<(), String> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| {
        format!("`{filter}` is no log filter ({error}); use error, warn, info, debug or trace, like --log debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| format!("the log cannot be started: {error}"))
}

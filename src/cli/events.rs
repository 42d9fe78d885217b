//! `lanrage events`: what happened, and what happens.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::Value;

use super::args::EventsArgs;
use super::client::{Client, read};
use super::commands::pretty;
use super::print::{self, clean};
use crate::config::Places;

/// How long one question waits at the node, seconds; well below the client's own patience.
const WAIT_S: u64 = 25;

#[derive(Debug, Deserialize)]
struct Events {
    events: Vec<Value>,
    next: u64,
    lost: u64,
}

pub(super) fn run(args: &EventsArgs, places: &Places) -> Result<ExitCode, String> {
    let client = Client::new(&args.ask.node, places)?;
    let value = client.get("/events")?;
    if !args.follow {
        if args.ask.json {
            print::line(&pretty(&value));
        } else {
            let Events { events, .. } = read(value)?;
            let lines = events.into_iter().map(line).collect::<Result<Vec<_>, _>>()?;
            print::line(&if lines.is_empty() { "Nothing has happened yet.".to_owned() } else { lines.join("\n") });
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut found: Events = read(value)?;
    loop {
        if found.lost > 0 {
            print::notice(&format!("{} events came faster than they could be shown", found.lost));
        }
        for event in found.events {
            print::line(&if args.ask.json { event.to_string() } else { line(event)? });
        }
        found = read(client.get(&format!("/events?after={}&wait_s={WAIT_S}", found.next))?)?;
    }
}

/// What is shown of an event. Kinds that a newer node has are shown as they are.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Shown {
    PeerConnected { peer: String, path: String, endpoint: String },
    PathChanged { peer: String, path: String, endpoint: String, reason: String },
    PeerDisconnected { peer: String, reason: String },
    GameStarted { name: String },
    GameStopped { name: String },
    TuningApplied { what: String, value: String, game: String, reason: String },
    TuningUndone { what: String, value: String },
    ProfileProblem { file: String, line: Option<u32>, reason: String },
}

fn line(event: Value) -> Result<String, String> {
    #[derive(Deserialize)]
    struct When {
        unix_ms: u64,
    }
    let When { unix_ms } = read(event.clone())?;
    let text = match serde_json::from_value(event.clone()) {
        Ok(shown) => words(shown),
        Err(_) => event.to_string(),
    };
    Ok(format!("{}  {}", clock(unix_ms), clean(&text)))
}

fn words(event: Shown) -> String {
    match event {
        Shown::PeerConnected { peer, path, endpoint } => format!("{peer} connected: {path} {endpoint}"),
        Shown::PathChanged { peer, path, endpoint, reason } => {
            format!("{peer} is reached by another path: {path} {endpoint} ({reason})")
        }
        Shown::PeerDisconnected { peer, reason } => format!("{peer} is not connected any more: {reason}"),
        Shown::GameStarted { name } => format!("{name} was started"),
        Shown::GameStopped { name } => format!("{name} has ended"),
        Shown::TuningApplied { what, value, game, reason } => format!("{what} is {value} now, for {game}: {reason}"),
        Shown::TuningUndone { what, value } => format!("{what} is back to {value}"),
        Shown::ProfileProblem { file, line, reason } => match line {
            Some(line) => format!("profile {file}, line {line}: {reason}"),
            None => format!("profile {file}: {reason}"),
        },
    }
}

/// In UTC, as logs have it: the time zone of this computer is not looked up.
fn clock(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03} UTC", seconds % 60, unix_ms % 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_read_well() {
        let event = json!({"seq": 3, "unix_ms": 1_700_000_000_123_u64, "kind": "path_changed", "peer": "b\u{1b}ob",
            "virtual_ip": "10.66.0.2", "path": "relay", "endpoint": "192.0.2.1:1", "reason": "direct stopped answering"});
        assert_eq!(
            line(event).unwrap(),
            "22:13:20.123 UTC  b?ob is reached by another path: relay 192.0.2.1:1 (direct stopped answering)"
        );
        let problem =
            json!({"unix_ms": 0, "kind": "profile_problem", "file": "doom.toml", "line": 3, "reason": "no port"});
        assert_eq!(line(problem).unwrap(), "00:00:00.000 UTC  profile doom.toml, line 3: no port");
        let unknown = json!({"unix_ms": 0, "kind": "of_tomorrow", "x": 1});
        assert!(line(unknown).unwrap().contains("of_tomorrow"));
        assert!(line(json!({})).is_err());
    }
}

//! The commands that talk to the running node.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::{AskArgs, PartyCommand, PingArgs, RedundancyArgs, When};
use super::client::{ANSWER_TIMEOUT, Client, Kind, escape, read};
use super::percentile::RoundTrips;
use super::print;
use super::views::{self, Pong};
use crate::config::Places;

type Outcome = Result<ExitCode, String>;

const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT_MS: u64 = 2000;
const DEVICE_LOOKS: u32 = 10;
const DEVICE_LOOK_EVERY: Duration = Duration::from_millis(100);

/// JSON as it came, or what `show` makes of it.
fn show<T: serde::de::DeserializeOwned>(value: Value, json: bool, show: impl FnOnce(&T) -> String) -> Outcome {
    let text = if json { pretty(&value) } else { show(&read(value)?) };
    print::line(&text);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

pub(super) fn status(args: &AskArgs, places: &Places) -> Outcome {
    show(Client::new(&args.node, places)?.get("/status")?, args.json, views::status)
}

pub(super) fn peers(args: &AskArgs, places: &Places) -> Outcome {
    let value = Client::new(&args.node, places)?.get("/peers")?;
    show::<Vec<views::Peer>>(value, args.json, |peers| views::peers(peers))
}

pub(super) fn party(command: PartyCommand, places: &Places) -> Outcome {
    match command {
        PartyCommand::Create { name, ask } => {
            let client = Client::new(&ask.node, places)?;
            let value = client.post("/party/create", &json!({ "name": name }), ANSWER_TIMEOUT)?;
            show_party(&client, value, ask.json, views::created)
        }
        PartyCommand::Join { code, wait, ask } => {
            let client = Client::new(&ask.node, places)?;
            let patience = Duration::from_secs(wait) + ANSWER_TIMEOUT;
            if !ask.json {
                print::notice(&format!("looking for the party, for up to {wait} s"));
            }
            let value = client.post("/party/join", &json!({ "code": code, "timeout_s": wait }), patience)?;
            show_party(&client, value, ask.json, views::joined)
        }
        PartyCommand::Leave { node } => {
            Client::new(&node, places)?.post("/party/leave", &json!({}), ANSWER_TIMEOUT)?;
            print::line("You have left the party. Come back with its code; see: lanrage party list");
            Ok(ExitCode::SUCCESS)
        }
        PartyCommand::List(ask) => {
            let value = Client::new(&ask.node, places)?.get("/parties")?;
            show::<Vec<views::Remembered>>(value, ask.json, |parties| views::remembered(parties))
        }
        PartyCommand::Kick { name, ask } => {
            let client = Client::new(&ask.node, places)?;
            let value = client.post("/party/kick", &json!({ "member": name }), ANSWER_TIMEOUT)?;
            show(value, ask.json, |party| views::kicked(party, &name))
        }
    }
}

fn show_party(client: &Client, value: Value, json: bool, view: impl FnOnce(&views::Party) -> String) -> Outcome {
    let shown = show(value, json, view)?;
    if !json {
        tell_of_a_missing_device(client);
    }
    Ok(shown)
}

/// A party without a network device is of no use to a game: said at once, not only to who asks for the status.
fn tell_of_a_missing_device(client: &Client) {
    // The device comes up, or does not, a moment after the answer.
    for _ in 0..DEVICE_LOOKS {
        let Ok(Ok(status)) = client.get("/status").map(read::<views::Status>) else { return };
        match status.device() {
            views::DeviceIs::Coming => std::thread::sleep(DEVICE_LOOK_EVERY),
            views::DeviceIs::There => return,
            views::DeviceIs::Missing(why) => {
                return print::notice(&format!(
                    "games cannot reach the party from this computer yet: {}",
                    print::clean(why)
                ));
            }
        }
    }
}

pub(super) fn redundancy(args: &RedundancyArgs, places: &Places) -> Outcome {
    let client = Client::new(&args.ask.node, places)?;
    let path = format!("/peers/{}/redundancy", escape(&args.peer));
    let value = client.put(&path, &json!({ "redundancy": args.when.name() }))?;
    let what = match args.when {
        When::Off => "go out once, whatever is lost",
        When::On => "go out on two paths at once, while there are two",
        When::Auto => "go out on two paths while packets are being lost",
    };
    show::<views::Named>(value, args.ask.json, |peer| format!("Small packets to {} {what}.", print::clean(&peer.name)))
}

/// One request a second; exit code 1 when none was answered.
pub(super) fn ping(args: &PingArgs, places: &Places) -> Outcome {
    let client = Client::new(&args.ask.node, places)?;
    let body = json!({ "peer": args.peer, "timeout_ms": PING_TIMEOUT_MS });
    let mut replies = Vec::new();
    let mut times = Vec::new();
    let start = Instant::now();
    for seq in 1..=args.count {
        let due = start + PING_INTERVAL * (seq - 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let line = match client.post("/ping", &body, ANSWER_TIMEOUT) {
            Ok(mut value) => {
                let pong: Pong = read(value.clone())?;
                times.push(pong.time_ms);
                value["seq"] = json!(seq);
                replies.push(value);
                views::pong(&pong, seq)
            }
            // Loss is what a ping is there to show; anything else would be the same the next time.
            Err(failure) if is_loss(&failure.kind) => {
                format!("no reply from {}: seq={seq} ({})", print::clean(&args.peer), failure.message)
            }
            Err(failure) => return Err(failure.message),
        };
        if !args.ask.json {
            print::line(&line);
        }
    }
    let trips = RoundTrips::of(&times);
    if args.ask.json {
        let received = times.len();
        let summary = json!({
            "peer": args.peer, "sent": args.count, "received": received, "loss": loss(args.count, received),
            "rtt_ms": trips, "replies": replies,
        });
        print::line(&pretty(&summary));
    } else {
        print::line(&summary(args.count, times.len(), trips));
    }
    Ok(if times.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn is_loss(kind: &Kind) -> bool {
    match kind {
        Kind::Refused(code) => code == "timeout" || code == "not_connected",
        Kind::NotRunning | Kind::NoToken | Kind::Broken => false,
    }
}

/// Of 1.
fn loss(sent: u32, received: usize) -> f64 {
    1.0 - received as f64 / f64::from(sent)
}

fn summary(sent: u32, received: usize, trips: Option<RoundTrips>) -> String {
    let counts = format!("\n{sent} sent, {received} received, {:.0} % lost", loss(sent, received) * 100.0);
    match trips {
        Some(RoundTrips { min, avg, max, p99 }) => {
            format!("{counts}\nround trip min/avg/max/p99 = {min:.2}/{avg:.2}/{max:.2}/{p99:.2} ms")
        }
        None => counts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_summary() {
        let text = summary(4, 3, RoundTrips::of(&[1.0, 2.0, 3.0]));
        assert_eq!(text, "\n4 sent, 3 received, 25 % lost\nround trip min/avg/max/p99 = 1.00/2.00/3.00/3.00 ms");
        assert_eq!(summary(2, 0, None), "\n2 sent, 0 received, 100 % lost");
        assert!(is_loss(&Kind::Refused("timeout".into())) && is_loss(&Kind::Refused("not_connected".into())));
        assert!(!is_loss(&Kind::Refused("unknown_peer".into())) && !is_loss(&Kind::NotRunning));
    }
}

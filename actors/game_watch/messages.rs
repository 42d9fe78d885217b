//! What GameWatchActor accepts and answers.
#![allow(missing_debug_implementations, reason = "actix recipients have no Debug")]

use std::net::SocketAddr;

use actix::{Message, Recipient};
use serde::Serialize;

use super::profile::Role;
use crate::broadcast::messages::SetGameRules;
use crate::browser::messages::SeenHosted;
use crate::metrics::messages::Happened;
use crate::peer::messages::SetTuning;
use crate::tun::messages::{SetClasses, SetMtu};
use crate::wire::IpProtocol;

/// Something wrong in a profile's file; the rest is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfileProblem {
    pub file: String,
    /// Counted from 1; `None` where the file as a whole is meant.
    pub line: Option<u32>,
    pub reason: String,
}

/// A game that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunningGame {
    /// Of its profile.
    pub id: String,
    pub name: String,
    /// Of the process that was there first.
    pub pid: u32,
    pub role: Role,
    pub confidence: Confidence,
    /// Why it is taken for this game, in words.
    pub reason: String,
    /// The ports that it takes packets on.
    #[serde(serialize_with = "as_text")]
    pub listening: Vec<(IpProtocol, SocketAddr)>,
    /// Milliseconds since 1970 when it was seen first.
    pub since_unix_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The program is the game's.
    Likely,
    /// And it has a port open that the game is known to use; or the player has said so.
    Certain,
}

/// One thing that is otherwise than without a game.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Applied {
    /// Such as `mtu`.
    pub what: String,
    pub value: String,
    /// Ids of the games that want it.
    pub games: Vec<String>,
    pub reason: String,
}

/// `lanrage play --game ID` runs a game in a namespace, where the process `pid` is; `None`: it has ended. Answered when all
/// who apply its profile have been told.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Played {
    pub pid: u32,
    pub game: Option<String>,
}

/// Ask what runs and what is done about it.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "GamesView")]
pub struct GetGames;

#[derive(Debug, Clone, Serialize)]
pub struct GamesView {
    /// Games are looked for.
    pub detection: bool,
    /// What they want is done.
    pub tuning: bool,
    pub running: Vec<RunningGame>,
    pub applied: Vec<Applied>,
    pub profiles: ProfilesView,
    pub counters: WatchCounters,
    /// What is wrong and what to do.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ProfilesView {
    pub count: usize,
    pub problems: Vec<ProfileProblem>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WatchCounters {
    pub scans: u64,
    /// Programs that were looked at, not only listed.
    pub looked_at: u64,
    /// Time spent on all scans, microseconds.
    pub busy_us: u64,
    pub failed_scans: u64,
    /// Settings that a busy actor did not take at once; they were sent again.
    pub retried: u64,
    /// Events that did not get into the history.
    pub dropped_events: u64,
    /// Games named with `lanrage play --game` beyond those that can be at a time: nothing is set for them.
    pub dropped_played: u64,
}

/// Whom the watch talks to.
#[derive(Clone)]
pub struct WatchLinks {
    pub tuning: Recipient<SetTuning>,
    /// The device, and who cuts broadcasts to its MTU.
    pub mtu: Vec<Recipient<SetMtu>>,
    pub classes: Recipient<SetClasses>,
    pub broadcast: Option<Recipient<SetGameRules>>,
    /// Who shows friends the servers that run here.
    pub hosted: Recipient<SeenHosted>,
    pub events: Option<Recipient<Happened>>,
}

/// Handed over once all actors exist.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindWatch(pub WatchLinks);

fn as_text<S: serde::Serializer>(ports: &[(IpProtocol, SocketAddr)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ports.iter().map(|(protocol, addr)| format!("{protocol} {addr}")))
}

//! What BrowserActor accepts and answers.
#![allow(missing_debug_implementations, reason = "actix recipients have no Debug")]

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use actix::{Message, Recipient};
use serde::Serialize;

pub use super::query::Language;
use crate::party::messages::{GetHosts, SetHosted};
pub use crate::wire::Hosted;

/// Longest payload that is handed over, bytes: what fits an Ethernet frame. Discovery datagrams are shorter.
pub const MAX_ANNOUNCEMENT: usize = 1472;
/// Where Minecraft says that it is open to the LAN: the only announcements that list a game.
pub const MINECRAFT_PORT: u16 = 4445;

/// A broadcast or multicast of a member, as it was delivered here.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Announcement {
    /// Virtual IP.
    pub member: Ipv4Addr,
    pub source_port: u16,
    pub destination: Ipv4Addr,
    pub destination_port: u16,
    /// At most [`MAX_ANNOUNCEMENT`] bytes; longer ones are not handed over.
    pub payload: Vec<u8>,
}

/// What the browser needs of a game's profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GameFacts {
    pub id: String,
    /// As players know it.
    pub name: String,
    /// How its servers are asked, where that is known and spoken here.
    pub language: Option<Language>,
    /// Where its servers answer, if that is not where players join.
    pub query_ports: Option<RangeInclusive<u16>>,
    /// A command line that joins, with `{ip}` and `{port}`.
    pub join_command: Option<String>,
    /// What to type into the game, with the same.
    pub join_address: Option<String>,
}

/// All games that are known, from now on.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct KnownGames(pub Vec<GameFacts>);

/// Servers of this machine that the player names, on top of those that are seen; replaces what was named before.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), HostedError>")]
pub struct NameHosted(pub Vec<Hosted>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostedError {
    #[error("`{0}` is no id of a game: small letters, digits and dashes, at most 32, like openttd")]
    BadGame(String),
    #[error("port 0 is no port of a server")]
    BadPort,
    #[error("{0}:{1} is there twice; name each server once")]
    Twice(String, u16),
    #[error("more than {} servers cannot be shown to the others", crate::wire::MAX_HOSTED)]
    TooMany,
}

/// Servers of games that were recognised on this machine; replaces what was said before.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SeenHosted(pub Vec<Hosted>);

/// Handed over once the party's actor exists.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindBrowser {
    pub hosts: Recipient<GetHosts>,
    pub publish: Recipient<SetHosted>,
}

/// Ask which games can be joined.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "ServersView")]
pub struct GetServers;

#[derive(Debug, Clone, Default, Serialize)]
pub struct ServersView {
    pub servers: Vec<ServerView>,
    pub counters: BrowserCounters,
}

/// A game that can be joined. Its texts come from others' machines; they are short and without control characters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerView {
    /// Id of the game's profile.
    pub game: String,
    /// The game's name, or its id where there is no profile.
    pub game_name: String,
    /// Name of the member that hosts it.
    pub member: String,
    pub ip: Ipv4Addr,
    pub port: u16,
    /// This machine hosts it.
    pub own: bool,
    /// `answers`: it was asked; `announced`: it was heard; `named`: its host says so, and there is no way to
    /// ask, or it has not answered any question.
    pub state: &'static str,
    pub name: Option<String>,
    pub map: Option<String>,
    pub version: Option<String>,
    pub players: Option<u32>,
    pub max_players: Option<u32>,
    /// Question to answer, milliseconds.
    pub ping_ms: Option<f64>,
    /// A command line.
    pub join_command: Option<String>,
    /// What to type into the game.
    pub join_address: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BrowserCounters {
    /// Questions to servers.
    pub asked: u64,
    pub answered: u64,
    /// No answer in time, or refused.
    pub silent: u64,
    /// Answers in no known form.
    pub garbage: u64,
    /// Servers that were left out because there were too many.
    pub left_out: u64,
}

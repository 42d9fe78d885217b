//! The local HTTP API, `/api/v1`: how the command line (and later the web UI) talks to the node.
//!
//! Whoever can send requests here controls the node, and every web page in the user's browser can reach localhost.
//! `guard.rs` decides about each request before anything else looks at it.

mod answers;
mod error;
mod files;
mod guard;
mod handlers;
mod profiles;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use actix::Recipient;
use lanrage_actors::broadcast::bridge::messages::GetBridge;
use lanrage_actors::broadcast::messages::GetBroadcast;
use lanrage_actors::browser::messages::{GetServers, NameHosted};
use lanrage_actors::discovery::messages::GetDiscovery;
use lanrage_actors::game_watch::messages::GetGames;
use lanrage_actors::metrics::messages::AwaitEvents;
use lanrage_actors::nat::messages::GetNat;
use lanrage_actors::party::messages::{CreateParty, GetParty, JoinParty, KickMember, LeaveParty, ListParties};
use lanrage_actors::peer::messages::{GetPeers, Ping, SetRedundancy};
use lanrage_actors::tun::messages::GetTun;

pub use files::{ADDRESS_FILE, TOKEN_FILE};
pub use server::{ApiError, Bound, Running};

/// What never changes while the node runs.
#[derive(Debug, Clone)]
pub struct Facts {
    /// libp2p PeerId text.
    pub peer_id: String,
    pub name: String,
    pub version: &'static str,
    pub data_dir: PathBuf,
    pub mdns: bool,
    /// What the player was told at start.
    pub notices: Vec<String>,
    pub started: Instant,
}

/// Whom the handlers ask.
#[derive(Clone)]
pub struct Actors {
    pub get_party: Recipient<GetParty>,
    pub list_parties: Recipient<ListParties>,
    pub create_party: Recipient<CreateParty>,
    pub join_party: Recipient<JoinParty>,
    pub leave_party: Recipient<LeaveParty>,
    pub kick_member: Recipient<KickMember>,
    pub get_peers: Recipient<GetPeers>,
    pub ping: Recipient<Ping>,
    pub set_redundancy: Recipient<SetRedundancy>,
    pub await_events: Recipient<AwaitEvents>,
    pub get_tun: Recipient<GetTun>,
    pub get_nat: Recipient<GetNat>,
    pub get_discovery: Recipient<GetDiscovery>,
    pub get_broadcast: Recipient<GetBroadcast>,
    /// In bridge mode.
    pub get_bridge: Option<Recipient<GetBridge>>,
    pub get_servers: Recipient<GetServers>,
    pub name_hosted: Recipient<NameHosted>,
    pub get_games: Recipient<GetGames>,
}

impl std::fmt::Debug for Actors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Actors(…)")
    }
}

/// Everything that the handlers have.
#[derive(Debug, Clone)]
pub struct ApiState {
    pub facts: Facts,
    pub actors: Actors,
}

/// Take the port. Done before the node does anything else, so that an occupied one is said at once.
///
/// # Errors
/// See [`ApiError`].
pub fn bind(address: SocketAddr) -> Result<Bound, ApiError> {
    server::bind(address)
}

#[cfg(test)]
pub(crate) mod tests;

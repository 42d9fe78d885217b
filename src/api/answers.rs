//! The JSON that the API gives, where it is not a view of an actor as it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use lanrage_actors::broadcast::bridge::messages::BridgeView;
use lanrage_actors::broadcast::messages::BroadcastView;
use lanrage_actors::discovery::messages::DiscoveryView;
use lanrage_actors::game_watch::messages::GamesView;
use lanrage_actors::nat::messages::NatView;
use lanrage_actors::party::messages::PartyView;
use lanrage_actors::peer::messages::{PathView, Redundancy};
use lanrage_actors::tun::messages::TunView;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    pub(super) peer_id: &'a str,
    pub(super) name: &'a str,
    pub(super) version: &'static str,
    pub(super) api: SocketAddr,
    pub(super) data_dir: &'a PathBuf,
    pub(super) uptime_s: u64,
    /// Null when in none.
    pub(super) party: Option<PartyView>,
    #[serde(flatten)]
    pub(super) parts: Parts,
    pub(super) notices: &'a [String],
    pub(super) problems: Vec<Trouble>,
}

/// Null where a part did not answer; `problems` says so then.
#[derive(Debug, Default, Serialize)]
pub(super) struct Parts {
    pub(super) tun: Option<TunView>,
    pub(super) nat: Option<NatView>,
    pub(super) discovery: Option<DiscoveryView>,
    pub(super) broadcast: Option<BroadcastView>,
    /// Null when nothing is bridged, too.
    pub(super) bridge: Option<BridgeView>,
    pub(super) games: Option<GamesView>,
}

/// Something that the player should do something about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Trouble {
    pub(super) part: &'static str,
    pub(super) message: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Doctor<'a> {
    pub(super) version: &'static str,
    pub(super) uptime_s: u64,
    /// Whether the node may set up network devices; null where that cannot be told.
    pub(super) net_admin: Option<bool>,
    /// Whether it may capture broadcasts; null where that cannot be told.
    pub(super) net_raw: Option<bool>,
    pub(super) executable: Option<PathBuf>,
    pub(super) mdns: bool,
    #[serde(flatten)]
    pub(super) parts: Parts,
    pub(super) notices: &'a [String],
    pub(super) problems: Vec<Trouble>,
}

#[derive(Debug, Serialize)]
pub(super) struct Pong {
    pub(super) peer_id: String,
    pub(super) name: String,
    pub(super) virtual_ip: Ipv4Addr,
    /// The path in use when the request was sent.
    pub(super) path: PathView,
    pub(super) time_ms: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct RedundancySet {
    pub(super) name: String,
    pub(super) virtual_ip: Ipv4Addr,
    pub(super) redundancy: Redundancy,
}

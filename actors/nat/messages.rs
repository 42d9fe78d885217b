//! What NatActor accepts and answers.
#![allow(missing_debug_implementations, reason = "actix recipients have no Debug")]

use actix::{Message, Recipient};
use serde::{Deserialize, Serialize};

pub use super::behaviour::{FamilyReport, ServerReport};
pub use super::lifetime::MappingLifetime;
pub use super::portmap::{MapProtocol, PortMapView};
use crate::peer::messages::Inbound;

use crate::wire::{Contact, LocalNetworks, TransmitBatch, WgPublicKey};

/// Send these datagrams on the data socket.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Transmit(pub TransmitBatch);

/// Datagrams for this receiver index, probe tag or handshakes of this key go to `inbound` from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Register {
    pub route: PeerRoute,
    pub inbound: Recipient<Inbound>,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Unregister {
    pub route: PeerRoute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRoute {
    /// Upper 24 bits of the WireGuard receiver index.
    pub index: u32,
    /// Opens every probe to this machine from that peer.
    pub probe_tag: [u8; 8],
    pub wg_key: WgPublicKey,
}

/// How the data socket may be reached, for the member record and for peers. Sent whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct OwnContact(pub Contact);

/// The networks that this machine's interfaces are on: tells LAN paths from others. Sent whenever they change.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Networks(pub LocalNetworks);

/// A member sends and is not heard, or does not answer: where others were told that this machine is, it may not be any more.
/// Looked into at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Doubt;

/// Whether this node relays for others and answers STUN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serve {
    /// When anybody can reach it.
    #[default]
    Auto,
    Always,
    Never,
}

/// Give back what the router forwards; answers when it is done or has taken too long.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ReleasePorts;

/// Ask for the state of the data socket.
#[derive(Debug, Message)]
#[rtype(result = "NatView")]
pub struct GetNat;

#[derive(Debug, Clone, Serialize)]
pub struct NatView {
    pub listen_port: u16,
    pub contact: Contact,
    pub report: NatReport,
    pub counters: NatCounters,
}

/// Datagrams since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NatCounters {
    pub received: u64,
    pub sent: u64,
    /// Neither WireGuard nor one of ours.
    pub dropped_unknown: u64,
    /// A handshake, index or tag that belongs to no member: a stranger, or a session of long ago.
    pub dropped_foreign: u64,
    /// More handshakes than the rate limit lets through.
    pub dropped_rate_limited: u64,
    pub dropped_peer_busy: u64,
    pub dropped_send_failed: u64,
    /// The socket was full for too long.
    pub dropped_queue_full: u64,
    pub stun_answers: u64,
    /// STUN requests answered.
    pub stun_served: u64,
    pub stun_refused: u64,
    /// Frames for a relay that this node is not, or more than it takes.
    pub dropped_relay: u64,
}

/// What is known about the NAT in front of the data socket: `lanrage netcheck` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatReport {
    pub listen_port: u16,
    pub v4: FamilyReport,
    pub v6: FamilyReport,
    /// `None`: switched off.
    pub port_mapping: Option<PortMapView>,
    /// Measured only when asked for.
    pub lifetime: Option<MappingLifetime>,
}

//! What the peer supervisor and each PeerActor accept and answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use actix::{Message, Recipient};
use serde::Serialize;

pub use super::probe::{PROBE_MAGIC, probe_tag};
use crate::wire::{CandidateKind, Contact, DatagramBatch, LocalSocket, NodeId, PacketBatch, WgPublicKey};

/// IP packets for this peer, read from the virtual device.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Outbound(pub PacketBatch);

/// Datagrams that the demultiplexer found to be for this peer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Inbound(pub DatagramBatch);

/// The members that must have a tunnel from now on, whole: peers that are not in the list are dropped, new ones
/// started, changed ones updated. An empty list with `party: None` closes all.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SetPeers {
    /// This machine's virtual IP.
    pub own_ip: Option<Ipv4Addr>,
    pub peers: Vec<PeerSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSpec {
    pub node: NodeId,
    pub name: String,
    pub wg_key: WgPublicKey,
    pub virtual_ip: Ipv4Addr,
    /// The WireGuard preshared key of this pair, from the party secret. Never logged: see `Secret`.
    pub psk: Secret,
    /// How the member's data socket may be reached.
    pub contact: Contact,
}

/// 32 secret bytes; `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Ask the supervisor for all peers, in the order of their virtual IPs.
#[derive(Debug, Message)]
#[rtype(result = "Vec<PeerView>")]
pub struct GetPeers;

/// The member's small packets are to go out on two paths at once, or not.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct SetRedundancy {
    pub node: NodeId,
    pub redundancy: Redundancy,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redundancy {
    Off,
    On,
    /// While the path in use loses packets and there is another.
    #[default]
    Auto,
}

/// What running games want of all paths, whole: it replaces what was set before, and the default undoes all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SetTuning(pub PeerTuning);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerTuning {
    /// How often an idle path is probed; `None`: as without games. Kept between 1 and 25 s.
    pub keepalive: Option<Duration>,
    /// For members for whom nothing else was set by hand.
    pub redundancy: Redundancy,
    pub relay: RelayPolicy,
}

/// Whether packets may go through a relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayPolicy {
    /// When that is the faster way, or the only one.
    #[default]
    Auto,
    /// Only while there is no other way.
    Avoid,
    /// A member who is not reached straight is not reached.
    Never,
}

/// More sockets, to punch through a NAT that gives each destination another port; answered by [`PunchSockets`].
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Punch {
    /// The peer's: upper 24 bits of its WireGuard receiver index. Its sockets end with its route.
    pub index: u32,
    pub request: PunchRequest,
    pub answer: Recipient<PunchSockets>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PunchRequest {
    Open {
        count: u16,
    },
    /// All that were opened for this peer, but for one.
    Close {
        keep: Option<LocalSocket>,
    },
}

/// The sockets `first` to `first + count` are open; none when there are too many already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct PunchSockets {
    pub first: LocalSocket,
    pub count: u16,
}

/// Send one ICMP echo request through the peer's tunnel and wait for the answer of its machine.
#[derive(Debug, Message)]
#[rtype(result = "Result<Duration, PingError>")]
pub struct Ping {
    pub node: NodeId,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    #[error("there is no such peer in the party")]
    UnknownPeer,
    #[error("there is no working path to it yet")]
    NotConnected,
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Same local network.
    Lan,
    /// Straight over the internet.
    Direct,
    /// Through a relay.
    Relay,
    /// Through a TCP stream.
    Tcp,
    None,
}

impl PathKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lan => "LAN",
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Tcp => "TCP",
            Self::None => "none",
        }
    }
}

/// How this machine came to know an address of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Host,
    Mapped,
    ServerReflexive,
    /// Seen on a ping.
    PeerReflexive,
    Predicted,
    /// The address is a relay's at which the peer has a ticket.
    Relay,
}

impl From<CandidateKind> for Origin {
    fn from(kind: CandidateKind) -> Self {
        match kind {
            CandidateKind::Host => Self::Host,
            CandidateKind::Mapped => Self::Mapped,
            CandidateKind::ServerReflexive => Self::ServerReflexive,
            CandidateKind::PeerReflexive => Self::PeerReflexive,
            CandidateKind::Predicted => Self::Predicted,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct PathView {
    pub kind: PathKind,
    /// The peer's address, or its relay's.
    pub endpoint: Option<SocketAddr>,
    /// Why this path and not another, in words.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PeerView {
    #[serde(rename = "peer_id", serialize_with = "as_text")]
    pub node: NodeId,
    pub name: String,
    pub virtual_ip: Ipv4Addr,
    /// A path answers and the tunnel has a session.
    pub connected: bool,
    pub path: PathView,
    /// Low percentile of the last round trips on the path in use, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Mean difference between round trips in a row (RFC 3550, section 6.4.1).
    pub jitter_ms: Option<f64>,
    /// Of the last 64 probes on the path in use, there and back.
    pub loss_percent: Option<f32>,
    /// How often another path was taken, and seconds since the last time.
    pub path_changes: u32,
    pub last_path_change_s: Option<u64>,
    pub redundancy: Redundancy,
    /// Between probes of a path that carries nothing, seconds.
    pub keepalive_s: u64,
    /// Small packets go out twice now.
    pub redundant: bool,
    /// Bytes of IP packets through the tunnel.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Seconds since the last WireGuard handshake.
    pub last_handshake_s: Option<u64>,
    pub candidates: Vec<CandidateView>,
    pub counters: PeerCounters,
    /// How often this peer's actor was restarted after a panic.
    pub restarts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateState {
    Untested,
    Probing,
    /// Answers.
    Live,
    /// Answered once, or never over 20 probes.
    Dead,
}

#[derive(Debug, Clone, Serialize)]
pub struct CandidateView {
    pub endpoint: SocketAddr,
    pub kind: PathKind,
    pub origin: Origin,
    pub state: CandidateState,
    pub in_use: bool,
    pub rtt_ms: Option<f64>,
    pub loss_percent: Option<f32>,
}

/// Packets since the tunnel was started: the dropped ones by reason, and what was sent beyond need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PeerCounters {
    /// Staged packets pushed out by newer ones while there was no session.
    pub dropped_staged: u64,
    /// Staged packets for which there was no session in time.
    pub dropped_stale: u64,
    /// Broadcasts and multicasts while there was no path.
    pub dropped_away: u64,
    /// The source address was not the member's virtual IP.
    pub dropped_spoofed: u64,
    /// The destination was not this machine's virtual IP, and no broadcast or multicast of the party.
    pub dropped_misdirected: u64,
    /// WireGuard refused it: wrong key, damage.
    pub dropped_undecryptable: u64,
    /// Had come already: the second copy in redundant mode, or a replay.
    pub dropped_duplicate: u64,
    /// Packets that went out a second time, by another path.
    pub sent_twice: u64,
    /// Probes sent to punch through NATs that give each destination another port.
    pub sent_punches: u64,
    /// Probes and offers that did not open, were malformed, seen before, or too many.
    pub dropped_probes: u64,
    /// Answers to what a relay forwarded, while the peer had given no ticket.
    pub dropped_no_ticket: u64,
    /// Probes not sent because an address that does not answer has had its share.
    pub refused_probes: u64,
    /// The socket's or the device's mailbox was full.
    pub dropped_busy: u64,
    /// Events that did not get into the history.
    pub dropped_events: u64,
}

fn as_text<S: serde::Serializer>(node: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(node)
}

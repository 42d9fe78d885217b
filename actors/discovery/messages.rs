//! What DiscoveryActor accepts and emits.

use std::net::{IpAddr, SocketAddr};

use actix::Message;
use serde::Serialize;

use crate::wire::{NodeId, PacketBatch, TransmitBatch};

/// One party stream to one node. Never reused within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What to look for from now on, whole: replaces what was asked before. Empty: stop publishing and looking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Seek {
    /// Rendezvous keys to publish under and to look up. Nodes found there, and by mDNS, get a party stream.
    pub keys: Vec<[u8; 32]>,
    /// Nodes to keep a party stream to, with the multiaddrs known of them (without `/p2p`, at most 8 each).
    pub nodes: Vec<NodeAddrs>,
    /// Look for more members eagerly (nobody found yet), rather than now and then.
    pub eager: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddrs {
    pub node: NodeId,
    pub addrs: Vec<String>,
}

/// Send one frame on a party stream. Frames to links that are gone are dropped: `LinkClosed` has been or will be sent.
#[derive(Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SendFrame {
    pub link: LinkId,
    pub frame: Vec<u8>,
}

/// Close a party stream once what was sent before is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CloseLink(pub LinkId);

/// A party stream is open; nothing is proved yet beyond the PeerId.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LinkOpened {
    pub link: LinkId,
    pub node: NodeId,
    /// This side opened it.
    pub outbound: bool,
    /// The address at the other end, when it is not behind a circuit relay.
    pub remote_ip: Option<IpAddr>,
}

/// One whole frame, at most `MAX_FRAME` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LinkFrame {
    pub link: LinkId,
    pub frame: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LinkClosed(pub LinkId);

/// Multiaddrs under which other nodes can dial this one (without `/p2p`), best first; sent whenever they change.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct OwnAddrs(pub Vec<String>);

/// A multiaddr (with `/p2p`) that this node now listens on.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Listening(pub String);

/// Longest frame on a party stream, bytes.
pub const MAX_FRAME: usize = 64 * 1024;

/// Keep a data stream to `node` until `CloseDataStream`: a TCP connection that carries datagrams where UDP is blocked.
/// Opened again when it ends, after 0.25 s, doubling to 10 s. Asked for once more, it takes new addresses.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct OpenDataStream {
    pub node: NodeId,
    /// Multiaddrs of `node`; only those with TCP are dialled, at most 8. May be empty when it is connected or a member.
    pub addrs: Vec<String>,
    /// The data socket of the relay that the stream stands for; comes back in `DataStreamOpened`.
    pub relay: Option<SocketAddr>,
}

/// The data stream to `node` is not wanted any more. Streams that `node` opened stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CloseDataStream(pub NodeId);

/// Both sides want this stream; `wire::stream_addr(stream)` stands for it. Ids are never used again in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct DataStreamOpened {
    pub stream: u64,
    pub node: NodeId,
    /// The other side opened it.
    pub inbound: bool,
    /// As it was in `OpenDataStream`.
    pub relay: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct DataStreamClosed {
    pub stream: u64,
}

/// Datagrams out of a data stream, in order, 1 to 1500 bytes each.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StreamDatagrams {
    pub stream: u64,
    pub batch: PacketBatch,
}

/// Send datagrams on a data stream. When too many wait the oldest are dropped; all are when the stream is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SendOnStream {
    pub stream: u64,
    pub datagrams: TransmitBatch,
}

/// This node is a relay on this UDP port, or none: it says so to whoever connects, accepts data streams of anybody, and
/// is found in the DHT while it can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SetServing(pub Option<u16>);

/// Look for relays: `RelayFound` for each. The DHT is asked at most every 10 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct FindRelays;

/// A connected node says that it is a relay.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct RelayFound {
    pub node: NodeId,
    /// Its data socket: the address at which it is connected, with the port that it told.
    pub addr: SocketAddr,
    /// Multiaddrs (without `/p2p`) for a data stream to it, best first, all at the same IP.
    pub tcp_addrs: Vec<String>,
    /// The same data socket at other addresses of it, of the other family: as it says, so it may be a lie.
    pub aliases: Vec<SocketAddr>,
}

/// Ask how discovery is doing.
#[derive(Debug, Message)]
#[rtype(result = "DiscoveryView")]
pub struct GetDiscovery;

#[derive(Debug, Clone, Default, Serialize)]
pub struct DiscoveryView {
    /// Multiaddrs of this node with `/p2p`.
    pub listen_addrs: Vec<String>,
    pub external_addrs: Vec<String>,
    pub connected_nodes: usize,
    /// Nodes in the Kademlia routing table.
    pub dht_nodes: usize,
    pub dht_protocol: String,
    /// Each configured bootstrap multiaddr and whether it has been reached since start.
    pub bootstrap: Vec<BootstrapView>,
    /// `unknown`, `public` (AutoNAT confirmed an address) or `private`.
    pub reachability: &'static str,
    pub relay_reservations: usize,
    /// Rendezvous lookups finished since start, and how many of them named somebody.
    pub lookups: u64,
    pub lookups_with_result: u64,
    pub published: u64,
    /// How often this relay was published, and the relays among the connected nodes.
    pub relay_published: u64,
    pub relays_known: usize,
    pub data_streams: DataStreamsView,
}

/// Datagrams over TCP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DataStreamsView {
    pub open: usize,
    /// Those of them that the other side opened.
    pub inbound: usize,
    /// Streams that were not accepted: of strangers, or beyond the limit.
    pub refused: u64,
    /// Datagrams dropped because newer ones came, or of a size that cannot be.
    pub dropped_oldest: u64,
    /// Datagrams to streams that were gone.
    pub dropped_gone: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct BootstrapView {
    pub addr: String,
    pub reached: bool,
    pub last_error: Option<String>,
}

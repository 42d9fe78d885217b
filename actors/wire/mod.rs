//! Ids, packet batches and IP packet views: the leaf that every concern may use.

mod batch;
mod contact;
mod endpoint;
mod hosted;
pub mod icmp;
mod ids;
pub mod ip;
mod networks;
mod protocol;

pub use batch::{
    Class, DatagramBatch, MAX_BATCH_BYTES, MAX_BATCH_PACKETS, PacketBatch, TransmitBatch, Urgency, idle_bytes,
};
pub use contact::{
    Candidate, CandidateKind, Contact, Dependence, MAX_CANDIDATES, MAX_TICKETS, NatBehaviour, RelayToken, Ticket,
    usable_addr,
};
pub use endpoint::{Endpoint, LocalSocket, is_stream, stream_addr, stream_id};
pub use hosted::{HOSTED_EXTENSION, Hosted, MAX_GAME_ID, MAX_HOSTED, decode_hosted, encode_hosted};
pub use ids::{IdError, Ipv4Range, NodeId, PartyId, RangeError, WgPublicKey};
pub use networks::LocalNetworks;
pub use protocol::IpProtocol;

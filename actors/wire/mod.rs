//! Ids, packet batches and IP packet views: the leaf that every concern may use.

mod batch;
pub mod icmp;
mod ids;
pub mod ip;

pub use batch::{DatagramBatch, MAX_BATCH_BYTES, MAX_BATCH_PACKETS, PacketBatch, TransmitBatch};
pub use ids::{IdError, Ipv4Range, NodeId, PartyId, RangeError, WgPublicKey};

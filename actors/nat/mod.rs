//! The UDP data socket: what comes in is told apart and handed to the peer it is for.

mod actor;
pub mod addrs;
pub mod demux;
pub mod handshake;
pub mod messages;
pub mod udp;

pub use actor::NatActor;
pub use udp::{BindError, BoundSockets, Sockets};

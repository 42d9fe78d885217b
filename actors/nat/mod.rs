//! The UDP data socket: what comes in is told apart and handed to the peer it is for.

mod actor;
pub mod addrs;
pub mod behaviour;
pub mod demux;
pub mod fallback;
mod family;
pub mod handshake;
pub mod lifetime;
pub mod machine;
pub mod messages;
#[cfg(test)]
mod model;
pub mod portmap;
mod questions;
mod queue;
pub mod responder;
mod sleep;
pub mod sockets;
pub mod stun;
pub mod udp;
pub mod verdict;

pub use actor::{BindNat, Halt, NatActor, NatLinks, RelayLinks, StreamLinks};
pub use sockets::DataSockets;
pub use udp::{BindError, BoundSockets, Sockets};

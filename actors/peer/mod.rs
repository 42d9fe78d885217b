//! One PeerActor per member: WireGuard tunnel, paths and their choice, send queue; and the supervisor of them all.

mod actor;
pub mod birthday;
pub mod bucket;
pub mod choice;
pub mod echo;
pub mod machine;
pub mod messages;
pub mod offer;
pub mod paths;
pub mod probe;
pub mod replay;
pub mod stage;
mod supervisor;
pub mod tunnel;
pub mod way;

pub use machine::OwnIdentity;
pub use supervisor::{BindPeers, BindPunch, Broadcast, Halt, Links, PeerSupervisor};

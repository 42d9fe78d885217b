//! One PeerActor per member: WireGuard tunnel, paths and their choice, send queue; and the supervisor of them all.

pub mod messages;

//! The games that members host: who says so, what the servers themselves answer, how to join.
//!
//! Members name their servers in their signed records; every node asks those servers itself, over the tunnel, so that ping
//! and players are true. A record can make a node ask at ports of that very member only, and seldom.

pub mod actor;
mod machine;
pub mod messages;
pub mod query;
mod udp;

//! Data streams: datagrams of the data socket over TCP, for those whose UDP is blocked.

pub(super) mod actor;
pub(super) mod behaviour;
pub mod plan;
pub mod queue;
mod streams;
pub mod window;

//! What happened lately, for those who look at the node from outside.

pub mod actor;
pub mod messages;
pub mod ring;

pub use actor::MetricsActor;

//! Party streams: what members tell each other.

pub(super) mod actor;
mod streams;

//! The games that members host.

pub mod messages;

//! The UDP data socket: what comes in is told apart and handed to the peer it is for.

pub mod messages;

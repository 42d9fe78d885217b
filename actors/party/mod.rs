//! Code, roster, virtual IPs, membership, host rules.

pub mod messages;

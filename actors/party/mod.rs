//! Code, roster, virtual IPs, membership, host rules.

pub mod actor;
pub mod code;
pub mod frame;
pub mod invite;
pub mod keys;
pub mod machine;
pub mod messages;
pub mod proof;
pub mod record;
pub mod roster;
pub mod signed;
pub mod snapshot;
pub mod view;

#[cfg(test)]
mod vectors;

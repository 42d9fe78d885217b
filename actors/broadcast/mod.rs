//! LAN emulation: what local programs shout on their networks is carried to all members, and handed to the programs
//! there.

pub mod actor;
pub mod bridge;
pub mod captures;
pub mod datagram;
pub mod dedup;
pub mod delivery;
pub mod filter;
pub mod interfaces;
pub mod limits;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod local;
pub mod machine;
pub mod mdns;
pub mod messages;
pub mod reassembly;
pub mod system;
pub mod tally;
pub mod unwanted;

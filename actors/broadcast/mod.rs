//! LAN emulation: what local programs shout on their networks is carried to all members, and handed to the programs
//! there.

pub mod actor;
pub mod datagram;
pub mod machine;
pub mod messages;

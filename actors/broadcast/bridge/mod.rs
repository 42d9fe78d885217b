//! Bridge mode, for the networks that the user names: what other machines there shout (a console, a second computer
//! without LANrage) is carried to the party as this machine's own, what members shout is put on that network, and
//! answers find their way back through a bounded NAT for UDP.
//!
//! ```text
//!   console ── shout ──▶ capture ──▶ guest socket: this machine's virtual IP ──▶ party
//!   console ◀── answer ── remote socket: this machine's LAN address ◀── guest socket ◀── member's answer
//!   member ── shout ──▶ remote socket's address, as a frame ──▶ LAN
//! ```
//! A *guest* is an address and port on the bridged network; a *remote* is one in the party.

pub mod actor;
mod bucket;
pub mod hello;
pub mod linux;
pub mod machine;
pub mod messages;
pub mod neighbours;
mod table;

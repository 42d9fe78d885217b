//! What BrowserActor accepts.

use std::net::Ipv4Addr;

use actix::Message;

/// Longest payload that is handed over, bytes: what fits an Ethernet frame. Discovery datagrams are shorter.
pub const MAX_ANNOUNCEMENT: usize = 1472;

/// A broadcast or multicast of a member, as it was delivered here.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Announcement {
    /// Virtual IP.
    pub member: Ipv4Addr,
    pub source_port: u16,
    pub destination: Ipv4Addr,
    pub destination_port: u16,
    /// At most [`MAX_ANNOUNCEMENT`] bytes; longer ones are not handed over.
    pub payload: Vec<u8>,
}

//! What BroadcastActor accepts and answers.
//!
//! Members come by `tun::messages::{AddRoute, RemoveRoute}`, the own address by `tun::messages::SetAddress`: they are the
//! device's facts too.
#![allow(missing_debug_implementations, reason = "actix recipients have no Debug")]

use std::net::Ipv4Addr;

use actix::{Message, Recipient};
use serde::Serialize;

use crate::browser::messages::Announcement;
use crate::tun::messages::Deliver;
use crate::wire::PacketBatch;

/// Broadcasts and multicasts that local programs sent on the virtual device.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromDevice(pub PacketBatch);

/// Broadcasts and multicasts out of the tunnel of the member that has the virtual IP `ip`. The sender has checked that
/// their source is `ip`, and their destination the limited broadcast, the range's or a multicast group.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromMember {
    pub ip: Ipv4Addr,
    pub batch: PacketBatch,
}

/// What the games that run here use for discovery; replaces what was said before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct GameRules {
    /// Carried even where they are left out otherwise, and with wider limits.
    pub ports: Vec<PortRule>,
    /// Multicast groups to hear on the virtual device, whether or not a program was seen to join them.
    pub groups: Vec<Ipv4Addr>,
}

/// UDP destination ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRule {
    pub first: u16,
    pub last: u16,
}

/// See [`GameRules`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SetGameRules(pub GameRules);

/// Handed over once all actors of the data path exist.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindBroadcast {
    /// The virtual device.
    pub deliver: Recipient<Deliver>,
    /// Who wants to read what members announce.
    pub heard: Option<Recipient<Announcement>>,
}

/// Ask for counters and states.
#[derive(Debug, Message)]
#[rtype(result = "BroadcastView")]
pub struct GetBroadcast;

#[derive(Debug, Clone, Default, Serialize)]
pub struct BroadcastView {
    /// `all`, `device` or `off`: which broadcasts of local programs the members get.
    pub carry: &'static str,
    /// Members that broadcasts go to.
    pub members: usize,
    pub counters: BroadcastCounters,
    /// The busiest destination ports first.
    pub ports: Vec<PortView>,
    pub captures: Vec<CaptureView>,
    /// Multicast groups joined on the virtual device for local programs.
    pub groups: Vec<Ipv4Addr>,
    /// What is wrong and what to do.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaptureView {
    pub interface: String,
    pub state: CaptureState,
    /// What is wrong, when `state` is a problem.
    pub problem: Option<String>,
    /// Packets since the capture began.
    pub packets: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureState {
    Running,
    /// CAP_NET_RAW is missing.
    NoPermission,
    /// Anything else that the system refused; retried.
    Failed,
}

/// Datagrams to one destination port since it was seen first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PortView {
    pub port: u16,
    /// To the members; one counts once, however many members there are.
    pub sent: u64,
    /// From members, handed to the local stack.
    pub delivered: u64,
    /// Beyond the rate limits, in both directions.
    pub limited: u64,
}

/// Datagrams since start; fragments are counted once they are whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BroadcastCounters {
    /// Of local programs, sent to the members; one counts once, however many members there are.
    pub sent: u64,
    /// Copies that went to members' tunnels, packets.
    pub sent_copies: u64,
    /// Out of members' tunnels, handed to the local stack.
    pub delivered: u64,
    /// Of these, multicasts to a group that no local program was seen to join; handed over as they were sent.
    pub unheard: u64,
    /// Copies written for single sockets, packets.
    pub delivered_unicast: u64,
    /// Not IPv4 and UDP as they should be: lengths that lie, wrong checksums.
    pub dropped_malformed: u64,
    /// Ports and protocols that are never carried, like DHCP and mDNS.
    pub dropped_unwanted: u64,
    /// The destination is no broadcast or multicast of this party.
    pub dropped_misdirected: u64,
    /// There was nobody to send it to.
    pub dropped_alone: u64,
    /// From an address that is no member's.
    pub dropped_stranger: u64,
    /// Beyond the rate limits.
    pub dropped_limited: u64,
    /// Seen at two capture points within 20 ms.
    pub dropped_duplicate: u64,
    /// Fragments that overlapped, never became whole, or were too many.
    pub dropped_fragments: u64,
    /// Local broadcasts that came faster than captures were read, packets.
    pub dropped_capture: u64,
    /// A mailbox was full, packets.
    pub dropped_busy: u64,
    /// What members announced and the server browser had no room to read, and bridge mode.
    pub unread_browser: u64,
    pub unread_bridge: u64,
}

//! What TunActor accepts and answers.
#![allow(missing_debug_implementations, reason = "actix recipients have no Debug")]

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use actix::{Message, Recipient};
use futures::channel::oneshot;
use serde::Serialize;

use crate::broadcast::messages::FromDevice;
use crate::peer::messages::Outbound;
use crate::wire::{Class, IpProtocol, Ipv4Range, PacketBatch};

/// IP packets out of a tunnel for the local stack. The sender has checked that they come from the member they claim.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Deliver(pub PacketBatch);

/// Give the device this address, opening it first where needed; `None` closes the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SetAddress(pub Option<Address>);

/// The virtual IP of this machine in the range of its party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub ip: Ipv4Addr,
    pub range: Ipv4Range,
}

/// Send packets for `ip` to `peer` from now on; replaces an earlier route of that address.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AddRoute {
    pub ip: Ipv4Addr,
    pub peer: Recipient<Outbound>,
}

impl std::fmt::Debug for AddRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddRoute").field("ip", &self.ip).finish_non_exhaustive()
    }
}

/// Forget the route of `ip`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RemoveRoute {
    pub ip: Ipv4Addr,
}

/// Who carries the broadcasts and multicasts that local programs send on the device; without it they are dropped.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindTun {
    pub broadcast: Recipient<FromDevice>,
}

/// Make this the device's MTU, bytes, or the configured one again. Never above the configured one: that is what fits the
/// way outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SetMtu(pub Option<u16>);

/// How packets of running games are treated, whole: it replaces the rules before. The first that fits counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SetClasses(pub Vec<ClassRule>);

/// Packets from or to one of these ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRule {
    pub protocol: IpProtocol,
    pub ports: RangeInclusive<u16>,
    pub class: Class,
}

impl ClassRule {
    #[must_use]
    pub fn new(protocol: IpProtocol, ports: RangeInclusive<u16>, class: Class) -> Self {
        Self { protocol, ports, class }
    }
}

/// Ask for the state of the device.
#[derive(Debug, Message)]
#[rtype(result = "TunView")]
pub struct GetTun;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TunState {
    /// No party, so no address, so no device.
    Idle,
    Up,
    /// CAP_NET_ADMIN (or the device node) is missing; `TunView::problem` has the command that fixes it.
    NoPermission,
    /// The party's range overlaps a network that this machine is already on.
    RangeClash,
    /// Anything else that the system refused; retried.
    Failed,
}

#[derive(Debug, Clone, Serialize)]
pub struct TunView {
    pub name: String,
    pub mtu: u16,
    pub state: TunState,
    /// What is wrong and what to do, when `state` is a problem.
    pub problem: Option<String>,
    pub counters: TunCounters,
    /// Programs with a network namespace of their own (`lanrage play`).
    pub plays: Vec<PlayView>,
}

/// Packets since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TunCounters {
    pub read_packets: u64,
    pub read_bytes: u64,
    /// Of those, the ones that went ahead of transfers.
    pub read_expedited: u64,
    pub written_packets: u64,
    pub written_bytes: u64,
    /// Packets to an address that no member has.
    pub dropped_no_route: u64,
    /// Broadcast and multicast packets that BroadcastActor had no room for.
    pub dropped_broadcast: u64,
    /// Not IPv4, or not a well-formed IP packet.
    pub dropped_malformed: u64,
    /// A peer's mailbox was full.
    pub dropped_peer_busy: u64,
    /// The device refused a write.
    pub dropped_write_failed: u64,
}

/// A network namespace that shares the virtual IP. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlayId(pub u64);

/// Take this device of another network namespace: it has the same address as the system's.
#[derive(Debug, Message)]
#[rtype(result = "Result<Attached, AttachError>")]
pub struct AttachPlay {
    /// A TAP with the virtio-net header, set up like the system's.
    pub device: OwnedFd,
    /// What it was set up with.
    pub address: Address,
    /// The program that asked for it.
    pub pid: u32,
    /// Id of the game's profile, where the player named it.
    pub game: Option<String>,
}

#[derive(Debug)]
pub struct Attached {
    pub id: PlayId,
    /// Cancelled when the device is dropped here: the address changed, or the device is gone.
    pub ended: oneshot::Receiver<()>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    #[error("the virtual IP has changed meanwhile; try again")]
    Moved,
    #[error("too many programs with a network of their own; end one first")]
    TooMany,
    #[error("the device is not usable: {0}")]
    Refused(String),
}

/// The namespace has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DetachPlay(pub PlayId);

/// The ports that programs in the namespace listen on, all of them; at most 1,024 of each count.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PlayPorts {
    pub id: PlayId,
    pub udp: Vec<u16>,
    pub tcp: Vec<u16>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PlayView {
    pub pid: u32,
    pub game: Option<String>,
    pub counters: PlayCounters,
}

/// Packets of one namespace; those that it sent count in [`TunCounters`] too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlayCounters {
    pub read_packets: u64,
    pub written_packets: u64,
    /// Its device refused them.
    pub dropped: u64,
}

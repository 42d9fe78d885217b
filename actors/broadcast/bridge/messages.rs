//! What BridgeActor accepts and answers. Shouts of members come as `browser::messages::Announcement`, the own address as
//! `tun::messages::SetAddress`.
#![allow(missing_debug_implementations, reason = "actix recipients have no Debug")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use actix::{Message, Recipient};
use serde::Serialize;

use crate::browser::messages::Announcement;
use crate::peer::messages::GetPeers;
use crate::wire::PacketBatch;

/// Shouts from a bridged network, to BroadcastActor, as if local programs had sent them, but not to those members who
/// are on that network and have heard them there.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromBridge {
    pub batch: PacketBatch,
    pub except: Vec<Ipv4Addr>,
}

/// To BroadcastActor: the UDP ports of the virtual IP on which the bridge itself has sockets, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct GuestPorts(pub BTreeSet<u16>);

/// To BroadcastActor: what members shout is told to this one too.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ReadAlong(pub Recipient<Announcement>);

/// Handed over once all actors of the data path exist.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindBridge {
    pub carry: Recipient<FromBridge>,
    /// To the same one.
    pub guests: Recipient<GuestPorts>,
    /// Which members are on a bridged network shows in their paths.
    pub peers: Recipient<GetPeers>,
}

/// Ask for counters and states.
#[derive(Debug, Message)]
#[rtype(result = "BridgeView")]
pub struct GetBridge;

#[derive(Debug, Clone, Default, Serialize)]
pub struct BridgeView {
    pub networks: Vec<NetworkView>,
    /// Addresses and ports on the bridged networks that have a socket here.
    pub guests: usize,
    /// Addresses and ports in the party that have one.
    pub remotes: usize,
    pub counters: BridgeCounters,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkView {
    pub interface: String,
    /// Of this machine; none while it has none there.
    pub address: Option<Ipv4Addr>,
    pub state: NetworkState,
    /// What is wrong and what to do.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkState {
    /// No party, no address, or no such interface.
    Idle,
    /// Waiting for what members who have just come say about themselves.
    Settling,
    Carrying,
    /// Another member on the same network carries.
    LeftToOther,
}

/// Datagrams since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BridgeCounters {
    /// Shouts of the networks, carried to the party.
    pub carried: u64,
    /// Shouts of members, put on the networks; one counts once for each network.
    pub shouted: u64,
    /// Unicast from the party to the networks, and back.
    pub to_lan: u64,
    pub to_party: u64,
    /// Not UDP as it should be.
    pub dropped_malformed: u64,
    /// Ports and groups that are never carried, and what another LANrage put on the network.
    pub dropped_unwanted: u64,
    /// From a member, who carries his own, or from an address that does not belong there.
    pub dropped_foreign: u64,
    /// While the network is not carried by this machine.
    pub dropped_idle: u64,
    /// Beyond the rate limits.
    pub dropped_limited: u64,
    /// No room for another guest or remote.
    pub dropped_full: u64,
    /// A socket could not be opened or did not take it.
    pub dropped_unsent: u64,
}

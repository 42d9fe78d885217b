//! What RelayActor accepts, answers and tells.
#![allow(missing_debug_implementations, reason = "actix recipients have no Debug")]

use std::net::SocketAddr;
use std::time::Duration;

use actix::{Message, Recipient};
use serde::Serialize;

pub use super::client::ClientCounters;
pub use super::frame::{
    ASK, FORWARD, FORWARD_HEADER, FORWARDED, FORWARDED_HEADER, Forward, Forwarded, TICKET, may_be_relayed,
};
pub use super::server::{Limits, RelayCounters};
use crate::nat::messages::Transmit;
use crate::wire::{DatagramBatch, Ticket};

/// Datagrams of one sender whose first bytes are [`ASK`], [`TICKET`] or [`FORWARD`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RelayDatagrams(pub DatagramBatch);

/// Where a relay was heard of. In the order of what they are worth when there is no place for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelaySource {
    Dht,
    Identify,
    Member,
    Configured,
}

impl RelaySource {
    pub(super) const ALL: [Self; 4] = [Self::Dht, Self::Identify, Self::Member, Self::Configured];

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// There is, or may be, a relay at `addr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct KnowRelay {
    /// Its address for everybody.
    pub addr: SocketAddr,
    /// The stream that leads to it where UDP is blocked (`wire::stream_addr`).
    pub stream: Option<SocketAddr>,
    pub source: RelaySource,
}

/// One ticket that a member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FarLeg {
    pub relay: SocketAddr,
    /// The member's round trip to it.
    pub rtt: Duration,
}

/// What the members say of relays, whole: replaces what was said before, in one step. A relay that is named before and
/// after must not be forgotten in between.
#[derive(Debug, Clone, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct MemberRelays {
    /// Members who serve as relays themselves.
    pub serving: Vec<SocketAddr>,
    /// All tickets of all members: relays that pairs can share.
    pub legs: Vec<FarLeg>,
}

/// An address, the default route or the mapping has changed, or the machine was asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct NetworkChanged;

/// What others send does not arrive: the mapping that the tickets name may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct DoubtTickets;

/// Serve as a relay within these limits, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SetServing(pub Option<Limits>);

/// What others are to be told of, whole, whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Tickets {
    /// For this machine's contact: at most `wire::MAX_TICKETS`, the nearest first.
    pub tickets: Vec<Ticket>,
    pub observed: Vec<Observed>,
}

/// How a relay sees this machine. It can lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub relay: SocketAddr,
    pub addr: SocketAddr,
}

/// Handed over once all actors of the data path exist.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindRelay {
    pub transmit: Recipient<Transmit>,
    pub tickets: Recipient<Tickets>,
}

/// Ask for the relays and the service.
#[derive(Debug, Message)]
#[rtype(result = "RelayView")]
pub struct GetRelays;

#[derive(Debug, Clone, Serialize)]
pub struct RelayView {
    pub relays: Vec<RelayState>,
    pub client: ClientCounters,
    /// The limits of this machine's own service; `None` when it serves nobody.
    pub serving: Option<Limits>,
    pub service: RelayCounters,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RelayState {
    pub relay: SocketAddr,
    pub over_tcp: bool,
    pub sources: Vec<RelaySource>,
    pub answers: bool,
    /// Low percentile of the last round trips, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Members are given tickets of it.
    pub held: bool,
    pub observed: Option<SocketAddr>,
}

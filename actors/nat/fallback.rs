//! The last resort where UDP is blocked: streams to relays that carry what the data socket would send.
//!
//! A relay at the far end of a stream keeps its own address here: what goes to it takes the stream (a detour), and what
//! comes out of the stream comes from it. So paths, tickets and tokens need not know. A client at the far end, which has
//! no address of its own, is given one that stands for the stream (`wire::stream_addr`).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::wire::{NodeId, stream_addr, stream_id};

/// Relays remembered to fall back on.
const MAX_RELAYS: usize = 8;
/// Streams to relays at a time: one in use, one in reserve.
const MAX_WANTED: usize = 2;
/// Addresses of relays of the family that this machine may lack.
const MAX_ALIASES: usize = 64;
/// Open streams, of this machine's and of others' making.
const MAX_STREAMS: usize = 4096;

/// A relay that can be reached over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    pub node: NodeId,
    /// Its data socket.
    pub addr: SocketAddr,
    /// Multiaddrs.
    pub tcp_addrs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Open(Reachable),
    Close(NodeId),
}

#[derive(Debug, Default)]
pub struct Fallback {
    relays: Vec<Reachable>,
    wanted: Vec<NodeId>,
    blocked: bool,
    /// The relay at the far end, when this machine opened the stream for it.
    streams: BTreeMap<u64, Option<SocketAddr>>,
    detours: BTreeMap<SocketAddr, u64>,
    /// Addresses of relays, and those of the other family at which the same relays are.
    aliases: BTreeMap<SocketAddr, SocketAddr>,
}

impl Fallback {
    /// A relay is there. The newest addresses of it count.
    pub fn relay_found(&mut self, relay: Reachable) -> Vec<Wish> {
        if relay.tcp_addrs.is_empty() {
            return Vec::new();
        }
        if let Some(known) = self.relays.iter_mut().find(|it| it.node == relay.node) {
            *known = relay;
            return Vec::new();
        }
        if self.relays.len() >= MAX_RELAYS {
            return Vec::new();
        }
        self.relays.push(relay);
        self.wishes()
    }

    /// `relay` is also at `aliases`, as it says. A machine with one address family uses the one in the place of the other:
    /// a relay honours its tokens whatever address of it they come to.
    pub fn also_at(&mut self, relay: SocketAddr, aliases: &[SocketAddr]) {
        for &alias in aliases {
            if self.aliases.len() < MAX_ALIASES || self.aliases.contains_key(&alias) {
                self.aliases.insert(alias, relay);
            }
        }
    }

    /// Where to send instead of to `to`, an address of a family that this machine has not.
    #[must_use]
    pub fn alias_of(&self, to: SocketAddr) -> Option<SocketAddr> {
        self.aliases.get(&to).copied()
    }

    /// Whether UDP is blocked here.
    pub fn set_blocked(&mut self, blocked: bool) -> Vec<Wish> {
        if self.blocked == blocked {
            return Vec::new();
        }
        self.blocked = blocked;
        self.wishes()
    }

    fn wishes(&mut self) -> Vec<Wish> {
        if !self.blocked {
            return self.wanted.drain(..).map(Wish::Close).collect();
        }
        let mut wishes = Vec::new();
        for relay in &self.relays {
            if self.wanted.len() < MAX_WANTED && !self.wanted.contains(&relay.node) {
                self.wanted.push(relay.node);
                wishes.push(Wish::Open(relay.clone()));
            }
        }
        wishes
    }

    /// A stream is open; `relay` is what it leads to when this machine opened it for a relay.
    pub fn opened(&mut self, stream: u64, relay: Option<SocketAddr>) {
        if self.streams.len() < MAX_STREAMS {
            self.streams.insert(stream, relay);
            if let Some(relay) = relay {
                self.detours.insert(relay, stream);
            }
        }
    }

    pub fn closed(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.detours.retain(|_, it| *it != stream);
    }

    /// Whether nothing takes a stream: the usual case.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// The stream that leads to `to`, if one does.
    #[must_use]
    pub fn stream_to(&self, to: SocketAddr) -> Option<u64> {
        self.detours.get(&to).copied().or_else(|| stream_id(to))
    }

    /// Where a datagram out of `stream` comes from; `None` when the stream is unknown.
    #[must_use]
    pub fn source(&self, stream: u64) -> Option<SocketAddr> {
        self.streams.get(&stream).map(|relay| relay.unwrap_or_else(|| stream_addr(stream)))
    }

    /// Relays that are reached over a stream now.
    pub fn detours(&self) -> impl Iterator<Item = SocketAddr> {
        self.detours.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(n: u8) -> Reachable {
        Reachable {
            node: NodeId([n; 32]),
            addr: SocketAddr::from(([203, 0, 113, n], 9)),
            tcp_addrs: vec![format!("/ip4/203.0.113.{n}/tcp/443")],
        }
    }

    #[test]
    fn streams_are_opened_only_while_udp_is_blocked() {
        let mut fallback = Fallback::default();
        assert_eq!(fallback.relay_found(relay(1)), []);
        assert_eq!(fallback.set_blocked(true), [Wish::Open(relay(1))]);
        assert_eq!(fallback.relay_found(relay(2)), [Wish::Open(relay(2))]);
        assert_eq!(fallback.relay_found(relay(3)), [], "two are enough");
        assert_eq!(fallback.set_blocked(true), []);
        assert_eq!(fallback.set_blocked(false), [Wish::Close(relay(1).node), Wish::Close(relay(2).node)]);
    }

    #[test]
    fn a_relay_without_tcp_is_no_help() {
        let mut fallback = Fallback::default();
        fallback.set_blocked(true);
        assert_eq!(fallback.relay_found(Reachable { tcp_addrs: vec![], ..relay(1) }), []);
    }

    #[test]
    fn a_relay_is_one_at_all_its_addresses() {
        let mut fallback = Fallback::default();
        let (v4, v6) = (relay(1).addr, "[2001:db8::1]:9".parse().unwrap());
        fallback.also_at(v6, &[v4]);
        assert_eq!(fallback.alias_of(v4), Some(v6));
        assert_eq!(fallback.alias_of(v6), None);
        for n in 0..=255 {
            fallback.also_at(v6, &[relay(n).addr]);
        }
        assert!(fallback.aliases.len() <= MAX_ALIASES);
    }

    #[test]
    fn a_relay_keeps_its_address_and_a_client_gets_one() {
        let mut fallback = Fallback::default();
        assert!(fallback.is_idle());
        fallback.opened(4, Some(relay(1).addr));
        fallback.opened(5, None);
        assert_eq!(fallback.stream_to(relay(1).addr), Some(4));
        assert_eq!(fallback.source(4), Some(relay(1).addr));
        assert_eq!(fallback.source(5), Some(stream_addr(5)));
        assert_eq!(fallback.stream_to(stream_addr(5)), Some(5));
        assert_eq!(fallback.stream_to(relay(2).addr), None);
        fallback.closed(4);
        assert_eq!(fallback.stream_to(relay(1).addr), None);
        assert_eq!(fallback.source(4), None);
    }
}

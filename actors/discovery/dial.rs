//! Dialling: members, bootstrap peers, relays.

use std::collections::BTreeMap;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use super::actor::{DiscoveryActor, now, peer_id};
use super::data::behaviour::is_tcp;
use super::filter;
use crate::wire::NodeId;

/// Addresses of one node that are dialled for a data stream.
const MAX_TCP_ADDRS: usize = 16;

impl DiscoveryActor {
    pub(super) fn dial(&mut self, node: NodeId, addrs: &[String]) {
        let Some(peer) = peer_id(node) else { return };
        if self.swarm.is_connected(&peer) {
            self.planner.connected(now(), node);
            return;
        }
        let addrs: Vec<Multiaddr> = addrs.iter().filter_map(|addr| addr.parse().ok()).collect();
        let opts = DialOpts::peer_id(peer)
            .addresses(addrs)
            .extend_addresses_through_behaviour()
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%node, %error, "not dialled");
            self.planner.dial_failed(now(), node);
        }
    }

    pub(super) fn dial_bootstrap(&mut self) {
        // All addresses of a peer in one dial: the swarm holds one dial to a peer at a time, and behind a firewall only
        // one of them may work.
        let mut peers: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for bootstrap in &self.bootstrap {
            peers.entry(bootstrap.peer).or_default().push(bootstrap.addr.clone());
        }
        for (peer, addrs) in peers {
            // It enters the routing table once it is connected and turns out to speak the protocol.
            let opts = DialOpts::peer_id(peer).addresses(addrs).build();
            if let Err(error) = self.swarm.dial(opts) {
                for bootstrap in self.bootstrap.iter_mut().filter(|bootstrap| bootstrap.peer == peer) {
                    bootstrap.last_error = Some(error.to_string());
                }
            }
        }
    }

    pub(super) fn reserve(&mut self, relay: PeerId) {
        let Some(addr) = self.remotes.get(&relay).map(filter::without_peer) else {
            self.reservations.gone(relay);
            return;
        };
        let addr = addr.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(addr) {
            Ok(listener) => {
                self.reservation_listeners.insert(listener, relay);
            }
            Err(error) => {
                tracing::debug!(%relay, %error, "no reservation");
                self.reservations.lost(now(), relay);
            }
        }
    }

    /// Connects by TCP, also when there is a connection of another kind.
    pub(super) fn dial_tcp(&mut self, node: NodeId, addrs: &[String]) {
        let Some(peer) = peer_id(node) else { return };
        let parsed = addrs.iter().chain(self.planner.addrs(node)).filter_map(|addr| addr.parse().ok());
        let met = self.swarm.behaviour().data.connections(peer).filter(|it| it.dialled && !it.circuit);
        // LANrage nodes listen on the same port for both.
        let guessed = met.filter_map(|connection| quic_to_tcp(&connection.remote));
        let mut by_tcp: Vec<Multiaddr> = Vec::new();
        for addr in parsed.chain(guessed) {
            let addr = filter::without_peer(&addr);
            if is_tcp(&addr) && !by_tcp.contains(&addr) && by_tcp.len() < MAX_TCP_ADDRS {
                by_tcp.push(addr);
            }
        }
        let opts = DialOpts::peer_id(peer).addresses(by_tcp).condition(PeerCondition::Always).build();
        let dial = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.data.dials.insert(dial, node);
            }
            Err(error) => {
                tracing::debug!(%node, %error, "not dialled by TCP");
                self.data.plan.dial_failed(now(), node);
            }
        }
    }

    /// Connects to a node that may be a relay; what it is it says itself.
    pub(super) fn dial_relay(&mut self, node: NodeId) {
        let Some(peer) = peer_id(node) else { return };
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build();
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%node, %error, "relay not dialled");
            self.relays.settled(node);
        }
    }
}

/// The same port by TCP.
pub(super) fn quic_to_tcp(addr: &Multiaddr) -> Option<Multiaddr> {
    let mut parts = addr.iter();
    let ip = parts.next().filter(|part| matches!(part, Protocol::Ip4(_) | Protocol::Ip6(_)))?;
    match (parts.next(), parts.next()) {
        (Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) => {
            Some(Multiaddr::empty().with(ip).with(Protocol::Tcp(port)))
        }
        _ => None,
    }
}

//! Whether and where others can reach this node, and what they say of themselves.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, identify, kad, relay};

use super::actor::{DiscoveryActor, node_id, now, unix_now};
use super::data::behaviour::{is_tcp, relay_port};
use super::dial::quic_to_tcp;
use super::filter;
use super::messages::RelayFound;
use super::planner::MAX_ADDRS;
use super::relays::Action;
use crate::wire::usable_addr;

/// Other addresses of one relay.
const MAX_ALIASES: usize = 4;

impl DiscoveryActor {
    pub(super) fn on_identified(&mut self, peer: PeerId, info: &identify::Info) {
        if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.reservations.offered(now(), peer);
        }
        let Some(observed) = filter::ip_of(&info.observed_addr).filter(|_| !filter::is_circuit(&info.observed_addr))
        else {
            return;
        };
        let own: Vec<Multiaddr> =
            self.swarm.listeners().filter(|addr| filter::ip_of(addr) == Some(observed)).cloned().collect();
        if own.is_empty() {
            self.reservations.behind_nat(now());
            return;
        }
        // Seen under its own address: no NAT in between. A firewall may still be; AutoNAT tells, and publishing does not
        // wait for it.
        let worth_telling = match observed {
            ip if ip.is_loopback() => self.allow_loopback,
            ip => !self.config.on_public_dht() || filter::is_global(ip),
        };
        for addr in own {
            let known = self.swarm.external_addresses().any(|external| *external == addr);
            if worth_telling && !known {
                self.swarm.add_external_address(addr);
            }
        }
        self.tell_own_addrs();
    }

    pub(super) fn on_autonat(&mut self, addr: &Multiaddr, reachable: bool) {
        tracing::debug!(%addr, reachable, "AutoNAT");
        if filter::is_circuit(addr) {
            return;
        }
        if reachable {
            self.confirmed.insert(addr.clone());
        } else {
            self.confirmed.remove(addr);
        }
        self.apply_reachability();
    }

    /// The network has changed: what was reachable on the old one, and is no address of this machine now, is not.
    pub(super) fn forget_reachability(&mut self) {
        let listening: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        let gone: Vec<Multiaddr> = self.confirmed.iter().filter(|addr| !listening.contains(addr)).cloned().collect();
        for addr in gone {
            self.confirmed.remove(&addr);
            self.swarm.remove_external_address(&addr);
        }
        self.apply_reachability();
    }

    /// What others may use this node for.
    pub(super) fn apply_reachability(&mut self) {
        let public = !self.confirmed.is_empty();
        self.reservations.set_public(public);
        self.relays.set_reachable(public || self.config.role == super::Role::Relay);
        if self.config.role == super::Role::Node {
            let behaviour = self.swarm.behaviour_mut();
            behaviour.kad.set_mode(Some(if public { kad::Mode::Server } else { kad::Mode::Client }));
            behaviour.relay_server.set_status(Some(if public {
                relay::Status::Enable
            } else {
                relay::Status::Disable
            }));
        }
    }

    /// Publishes this relay and looks for others. Returns whether the DHT is there.
    pub(super) fn drive_relays(&mut self, now: Instant) -> bool {
        let dht = self.planner.has_dht();
        for action in self.relays.tick(now, unix_now(), dht) {
            let kad = &mut self.swarm.behaviour_mut().kad;
            match action {
                Action::Publish(key) => {
                    if let Err(error) = kad.start_providing(kad::RecordKey::new(&key)) {
                        tracing::warn!(%error, "this relay could not be published");
                    }
                }
                Action::Unpublish(key) => kad.stop_providing(&kad::RecordKey::new(&key)),
                Action::Lookup(key) => self.relay_lookup = Some(kad.get_providers(kad::RecordKey::new(&key))),
                Action::Dial(node) => self.dial_relay(node),
            }
        }
        dht
    }

    /// The addresses came with the answer and are known to Kademlia while its query runs: dial now.
    pub(super) fn on_relays_found(&mut self, found: &[PeerId]) {
        self.relays.providers(found.iter().filter_map(node_id).collect());
        self.drive_relays(now());
    }

    /// What a node says when it is met: is it a relay, and where.
    pub(super) fn note_relay(&mut self, peer: PeerId, connection: ConnectionId, info: &identify::Info) {
        let Some(node) = node_id(&peer) else { return };
        self.relays.settled(node);
        let Some(port) = info.protocols.iter().find_map(relay_port) else {
            self.relays.gone(node);
            return;
        };
        let Some(connection) = self.swarm.behaviour().data.connection(connection).filter(|it| !it.circuit) else {
            return;
        };
        let remote = &connection.remote;
        // At another address than its own it can tell nothing: it could be somebody else's.
        let Some(ip) = filter::ip_of(remote).filter(|_| self.policy.allows(remote)) else { return };
        let met = connection.dialled.then(|| if is_tcp(remote) { Some(remote.clone()) } else { quic_to_tcp(remote) });
        let named = info.listen_addrs.iter().filter(|addr| is_tcp(addr) && filter::ip_of(addr) == Some(ip)).cloned();
        let mut tcp_addrs: Vec<String> = Vec::new();
        for addr in met.flatten().into_iter().chain(named) {
            let addr = filter::without_peer(&addr).to_string();
            if !tcp_addrs.contains(&addr) && tcp_addrs.len() < MAX_ADDRS {
                tcp_addrs.push(addr);
            }
        }
        let ip = ip.to_canonical();
        let mut aliases: Vec<SocketAddr> = Vec::new();
        for other in info.listen_addrs.iter().filter(|addr| is_tcp(addr)).filter_map(filter::ip_of) {
            let alias = SocketAddr::new(other.to_canonical(), port);
            let other_family = alias.is_ipv4() != ip.is_ipv4();
            let usable = !other.is_loopback() && usable_addr(&alias) && !is_link_local(other);
            if other_family && usable && !aliases.contains(&alias) && aliases.len() < MAX_ALIASES {
                aliases.push(alias);
            }
        }
        let found = RelayFound { node, addr: SocketAddr::new(ip, port), tcp_addrs, aliases };
        if self.relays.found(found.clone()) {
            self.tell_relay(found);
        }
    }

    pub(super) fn tell_relay(&mut self, found: RelayFound) {
        let node = found.node;
        let told = self.data.relay_found.as_ref().map(|to| to.try_send(found));
        if told.is_none_or(|told| told.is_err()) {
            // Told when it is met again.
            self.relays.gone(node);
        }
    }
}

/// Of one link only: to others it is nothing.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

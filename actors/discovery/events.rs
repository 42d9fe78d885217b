//! What the swarm reports, translated for the planner.

#![allow(clippy::wildcard_enum_match_arm, reason = "libp2p's events are many, and more come with each version")]

use std::net::IpAddr;

use libp2p::kad::{self, QueryResult};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, TransportError, identify, mdns, relay};

use super::actor::{DiscoveryActor, node_id, now, unix_now};
use super::filter;
use super::messages::Listening;
use super::relays::Relays;
use super::swarm::BehaviourEvent;
use crate::wire::NodeId;

impl DiscoveryActor {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address),
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                if !filter::is_circuit(&address) {
                    self.forget_reachability();
                }
                self.tell_own_addrs();
            }
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, connection_id, .. } => {
                self.data.dials.remove(&connection_id);
                if let Some(node) = node_id(&peer_id)
                    && self.swarm.behaviour().data.by_tcp(peer_id)
                {
                    self.data.plan.connected(now(), node);
                }
                let address = endpoint.get_remote_address();
                // One that this node dialled can be dialled again; the other kind has a passing port.
                if endpoint.is_dialer() || !self.remotes.contains_key(&peer_id) {
                    self.remotes.insert(peer_id, address.clone());
                }
                let mut found = false;
                for bootstrap in self.bootstrap.iter_mut().filter(|bootstrap| bootstrap.peer == peer_id) {
                    bootstrap.reached = true;
                    bootstrap.last_error = None;
                    found = true;
                }
                if found && self.dht_lost {
                    self.dht_seen(false);
                }
                if let Some(node) = node_id(&peer_id) {
                    self.planner.connected(now(), node);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.remotes.remove(&peer_id);
                if let Some(node) = node_id(&peer_id) {
                    self.relays.gone(node);
                    self.planner.disconnected(now(), node);
                }
                self.reservations.lost(now(), peer_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), connection_id, error } => {
                tracing::debug!(%peer, %error, "could not be reached");
                if self.data_dial_failed(connection_id) {
                    return;
                }
                // That another attempt is under way is no reason why it cannot be reached.
                if !matches!(error, DialError::DialPeerConditionFalse(_)) {
                    for bootstrap in self.bootstrap.iter_mut().filter(|bootstrap| bootstrap.peer == peer) {
                        bootstrap.last_error = Some(reason(&error));
                    }
                }
                if let Some(node) = node_id(&peer) {
                    self.planner.dial_failed(now(), node);
                    self.relays.settled(node);
                }
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(relay) = self.reservation_listeners.remove(&listener_id) {
                    tracing::debug!(%relay, ?reason, "relay reservation ended");
                    self.reservations.lost(now(), relay);
                    self.tell_own_addrs();
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "discovery cannot listen"),
            SwarmEvent::ExternalAddrConfirmed { address } => {
                tracing::debug!(%address, "reachable from outside");
                self.tell_own_addrs();
            }
            SwarmEvent::ExternalAddrExpired { address } => {
                self.confirmed.remove(&address);
                self.apply_reachability();
                self.tell_own_addrs();
            }
            _ => {}
        }
    }

    pub(super) fn tell_listening(&self, address: &Multiaddr) {
        let own = *self.swarm.local_peer_id();
        let text = filter::without_peer(address).with(Protocol::P2p(own)).to_string();
        tracing::debug!(address = %text, "listening");
        if let Some(listening) = &self.listening
            && listening.try_send(Listening(text)).is_err()
        {
            tracing::warn!(%address, "listening, but nobody was told");
        }
    }

    fn on_listening(&mut self, address: &Multiaddr) {
        self.tell_listening(address);
        if filter::ip_of(address).is_some_and(|ip| !ip.is_loopback()) {
            self.planner.network_changed(now());
        }
        self.tell_own_addrs();
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                self.on_identified(peer_id, &info);
                self.note_relay(peer_id, connection_id, &info);
            }
            BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, addr) in found {
                    if let Some(node) = node_id(&peer) {
                        tracing::debug!(%node, %addr, "found on the local network");
                        self.planner.found(now(), node, vec![filter::without_peer(&addr).to_string()]);
                    }
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) => {}
            BehaviourEvent::RelayClient(relay::client::Event::ReservationReqAccepted { relay_peer_id, .. }) => {
                self.reservations.accepted(relay_peer_id);
                self.tell_own_addrs();
            }
            BehaviourEvent::RelayClient(_) => {}
            BehaviourEvent::AutonatClient(event) => self.on_autonat(&event.tested_addr, event.result.is_ok()),
            BehaviourEvent::Ping(event) => {
                if let Err(error) = event.result {
                    tracing::debug!(peer = %event.peer, %error, "no answer to a keep-alive; closing");
                    self.data.connection_lost(event.connection);
                    self.swarm.close_connection(event.connection);
                }
            }
            BehaviourEvent::Dcutr(event) => tracing::debug!(?event, "hole punch"),
            BehaviourEvent::RelayServer(event) => tracing::trace!(?event, "relay"),
            BehaviourEvent::Streams(()) => {}
            BehaviourEvent::Data(event) => self.on_data(event),
            BehaviourEvent::AutonatServer(event) => tracing::trace!(?event, "autonat"),
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated { .. } => self.dht_seen(false),
            kad::Event::OutboundQueryProgressed { id, result, step, stats } => match result {
                QueryResult::GetProviders(result) => {
                    let found: Vec<PeerId> = match result {
                        Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) => providers.into_iter().collect(),
                        Ok(kad::GetProvidersOk::FinishedWithNoAdditionalRecord { .. }) | Err(_) => Vec::new(),
                    };
                    if self.relay_lookup == Some(id) {
                        self.on_relays_found(&found);
                        return;
                    }
                    if step.last {
                        self.view.lookups += 1;
                        if stats.num_successes() == 0 {
                            self.dht_seen(true);
                        }
                    }
                    self.on_found(&found);
                }
                QueryResult::StartProviding(Ok(published)) => {
                    if Relays::is_key(&published.key.to_vec(), unix_now()) {
                        self.view.relay_published += 1;
                    } else {
                        self.view.published += 1;
                    }
                }
                QueryResult::StartProviding(Err(error)) => tracing::debug!(%error, "publishing"),
                _ => {}
            },
            kad::Event::UnroutablePeer { .. }
            | kad::Event::RoutablePeer { .. }
            | kad::Event::PendingRoutablePeer { .. }
            | kad::Event::InboundRequest { .. }
            | kad::Event::ModeChanged { .. } => {}
        }
    }

    fn dht_seen(&mut self, lost: bool) {
        self.dht_lost = lost;
        let size = self.dht_size();
        self.planner.dht_size(now(), size);
    }

    /// The addresses came with the answer and are known to Kademlia while its query runs: dial now.
    fn on_found(&mut self, found: &[PeerId]) {
        let nodes: Vec<NodeId> = found.iter().filter_map(node_id).collect();
        if !nodes.is_empty() {
            self.view.lookups_with_result += 1;
        }
        for node in nodes {
            tracing::debug!(%node, "found in the DHT");
            self.planner.found(now(), node, Vec::new());
        }
        self.act_now();
    }

    pub(super) fn remote_ip(&self, node: NodeId) -> Option<IpAddr> {
        let peer = PeerId::from_bytes(&node.to_peer_id_bytes()).ok()?;
        self.remotes.get(&peer).filter(|addr| !filter::is_circuit(addr)).and_then(filter::ip_of)
    }
}

/// What went wrong in the end, for a status line: libp2p's own text lists every address and layer.
fn reason(error: &DialError) -> String {
    let mut reasons: Vec<String> = match error {
        DialError::Transport(failed) => failed.iter().map(|(_, error)| innermost(error)).collect(),
        other => vec![other.to_string()],
    };
    reasons.sort_unstable();
    reasons.dedup();
    reasons.join("; ").chars().take(200).collect()
}

fn innermost(error: &TransportError<std::io::Error>) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    // Some layers only format what is inside them: the last line is the cause.
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("no connection")
        .trim_start_matches("- ")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_and_not_the_layers() {
        let inner = std::io::Error::other("Multiple dial errors occurred:\n - Network is unreachable (os error 101)\n");
        let error =
            DialError::Transport(vec![("/ip4/203.0.113.1/tcp/1".parse().unwrap(), TransportError::Other(inner))]);
        assert_eq!(reason(&error), "Network is unreachable (os error 101)");
    }
}

//! What discovery tells of itself.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::actor::{DiscoveryActor, now};
use super::filter;
use super::messages::{BootstrapView, DiscoveryView, OwnAddrs};
use super::planner::MAX_ADDRS;

impl DiscoveryActor {
    /// Nodes in the routing table; none while they cannot be reached.
    pub(super) fn dht_size(&mut self) -> usize {
        if self.dht_lost {
            return 0;
        }
        self.swarm.behaviour_mut().kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    /// Tells the party under which addresses this node can be dialled, when that has changed.
    pub(super) fn tell_own_addrs(&mut self) {
        let external: Vec<_> = self.swarm.external_addresses().cloned().collect();
        let listening: Vec<_> = self.swarm.listeners().cloned().collect();
        let told: Vec<String> = filter::tellable(&external, &listening, self.party, MAX_ADDRS)
            .iter()
            .map(ToString::to_string)
            .filter(|addr| addr.len() <= 256)
            .collect();
        if told == self.told {
            return;
        }
        if let Some(links) = &self.links
            && links.own_addrs.try_send(OwnAddrs(told.clone())).is_ok()
        {
            self.told = told;
        }
        self.planner.own_addrs_changed(now());
    }

    pub(super) fn view(&mut self) -> DiscoveryView {
        let own = *self.swarm.local_peer_id();
        let full = |addr: &Multiaddr| filter::without_peer(addr).with(Protocol::P2p(own)).to_string();
        DiscoveryView {
            listen_addrs: self.swarm.listeners().map(full).collect(),
            external_addrs: self.swarm.external_addresses().map(full).collect(),
            connected_nodes: self.swarm.network_info().num_peers(),
            dht_nodes: self.dht_size(),
            bootstrap: self
                .bootstrap
                .iter()
                .map(|bootstrap| BootstrapView {
                    addr: bootstrap.text.clone(),
                    reached: bootstrap.reached,
                    last_error: bootstrap.last_error.clone(),
                })
                .collect(),
            reachability: if !self.confirmed.is_empty() {
                "public"
            } else if self.reservations.held() > 0 {
                "private"
            } else {
                "unknown"
            },
            relay_reservations: self.reservations.held(),
            relays_known: self.relays.known(),
            data_streams: self.data.view(),
            ..self.view.clone()
        }
    }
}

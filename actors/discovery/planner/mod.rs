//! Whom to dial, what to look up, what to publish, and when.

mod node;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::node::Node;
use super::messages::Seek;
use crate::wire::NodeId;

/// Nodes that were found but have not proved to be members: at most this many are tried.
const MAX_FOUND: usize = 128;
/// Addresses kept per node.
pub const MAX_ADDRS: usize = 8;

/// A node that was found and failed this often is left alone until it is found again after `FOUND_REST`.
const FOUND_TRIES: u32 = 4;
const FOUND_REST: Duration = Duration::from_secs(30);
/// A node that does not speak the party protocol is left alone longer.
const UNSUPPORTED_REST: Duration = Duration::from_secs(600);
/// A dial or stream that reported neither success nor failure by then is tried again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// Lookups while nobody has been found, then now and then: a member whose addresses all changed comes back this way.
const LOOKUP_EAGER: Duration = Duration::from_millis(1000);
const LOOKUP_EAGER_LATER: Duration = Duration::from_secs(5);
const EAGER_FOR: Duration = Duration::from_secs(30);
const LOOKUP_CALM: Duration = Duration::from_secs(300);
/// Provider records are put again: on a young or shrinking DHT the nodes that held them may be gone.
const PUBLISH_AGAIN: Duration = Duration::from_secs(600);
/// The first records may be put before the routing table has filled.
const PUBLISH_SOON: Duration = Duration::from_secs(10);
/// Changes of own addresses are gathered before records are put anew.
const PUBLISH_SETTLE: Duration = Duration::from_millis(300);

const BOOTSTRAP_FIRST: Duration = Duration::from_secs(1);
const BOOTSTRAP_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Dial {
        node: NodeId,
        addrs: Vec<String>,
    },
    OpenStream(NodeId),
    Lookup([u8; 32]),
    Publish([u8; 32]),
    Unpublish([u8; 32]),
    DialBootstrap,
    /// Ask the local network again.
    QueryLan,
}

#[derive(Debug)]
struct Rendezvous {
    key: [u8; 32],
    next_lookup: Instant,
    next_publish: Instant,
    published: u32,
}

#[derive(Debug)]
pub struct Planner {
    own: NodeId,
    eager: bool,
    eager_since: Instant,
    rendezvous: Vec<Rendezvous>,
    nodes: BTreeMap<NodeId, Node>,
    dht_nodes: usize,
    has_bootstrap: bool,
    next_bootstrap: Instant,
    bootstrap_tries: u32,
    actions: Vec<Action>,
}

impl Planner {
    #[must_use]
    pub fn new(now: Instant, own: NodeId, has_bootstrap: bool) -> Self {
        Self {
            own,
            eager: false,
            eager_since: now,
            rendezvous: Vec::new(),
            nodes: BTreeMap::new(),
            dht_nodes: 0,
            has_bootstrap,
            next_bootstrap: now,
            bootstrap_tries: 0,
            actions: Vec::new(),
        }
    }

    pub fn seek(&mut self, now: Instant, seek: Seek) {
        let new_keys = seek.keys.iter().any(|key| !self.rendezvous.iter().any(|known| known.key == *key));
        self.rendezvous.retain(|known| {
            let keep = seek.keys.contains(&known.key);
            if !keep {
                self.actions.push(Action::Unpublish(known.key));
            }
            keep
        });
        for key in seek.keys {
            if !self.rendezvous.iter().any(|known| known.key == key) {
                self.rendezvous.push(Rendezvous { key, next_lookup: now, next_publish: now, published: 0 });
            }
        }
        if new_keys || (seek.eager && !self.eager) {
            self.eager_since = now;
            for rendezvous in &mut self.rendezvous {
                rendezvous.next_lookup = now;
            }
        }
        self.eager = seek.eager;
        if new_keys {
            // Whoever refused under other keys may be a member under these.
            for node in self.nodes.values_mut() {
                node.failures = 0;
                node.next_try = now;
            }
            self.actions.push(Action::QueryLan);
        }
        for node in self.nodes.values_mut() {
            node.wanted = false;
        }
        for wanted in seek.nodes {
            if wanted.node == self.own {
                continue;
            }
            let node = self.nodes.entry(wanted.node).or_insert_with(|| Node::new(now));
            node.wanted = true;
            node.visitor = false;
            let fresh = wanted.addrs.iter().any(|addr| !node.addrs.contains(addr));
            node.add_addrs(wanted.addrs);
            if fresh && node.links == 0 {
                node.failures = 0;
                node.next_try = now;
            }
        }
        let searching = !self.rendezvous.is_empty();
        self.nodes.retain(|_, node| node.wanted || node.connected || node.links > 0 || searching);
    }

    /// A node was found under a rendezvous key or on the local network.
    pub fn found(&mut self, now: Instant, id: NodeId, addrs: Vec<String>) {
        if id == self.own {
            return;
        }
        if !self.nodes.contains_key(&id) && self.nodes.len() >= MAX_FOUND {
            let Some(worst) = self
                .nodes
                .iter()
                .filter(|(_, node)| !node.wanted && node.links == 0 && node.attempt_since.is_none())
                .max_by_key(|(_, node)| node.failures)
                .map(|(&id, _)| id)
            else {
                return;
            };
            self.nodes.remove(&worst);
        }
        let node = self.nodes.entry(id).or_insert_with(|| Node::new(now));
        node.visitor = false;
        // Addresses out of the DHT are known only while the lookup that gave them runs.
        if addrs.is_empty() && node.failures < FOUND_TRIES {
            node.next_try = now;
        }
        node.add_addrs(addrs);
    }

    /// The party asked for a stream to this node: it is a member, or the one that an invitation names.
    #[must_use]
    pub fn is_wanted(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.wanted)
    }

    /// The multiaddrs known of a node.
    #[must_use]
    pub fn addrs(&self, id: NodeId) -> &[String] {
        self.nodes.get(&id).map_or(&[], |node| &node.addrs)
    }

    pub fn connected(&mut self, now: Instant, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.connected = true;
            node.attempt_since = None;
            node.next_try = now;
        }
    }

    pub fn disconnected(&mut self, now: Instant, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.connected = false;
            node.attempt_since = None;
            if node.failures == 0 {
                node.next_try = now;
            }
        }
    }

    pub fn dial_failed(&mut self, now: Instant, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.connected) {
            node.failed(now);
        }
    }

    /// `unsupported`: the node does not speak the party protocol.
    pub fn stream_failed(&mut self, now: Instant, id: NodeId, unsupported: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.failed(now);
            if unsupported && !node.wanted {
                node.next_try = now + UNSUPPORTED_REST;
            }
        }
    }

    pub fn link_opened(&mut self, now: Instant, id: NodeId) {
        let node = self.nodes.entry(id).or_insert_with(|| Node { visitor: true, ..Node::new(now) });
        node.links += 1;
        node.connected = true;
        node.attempt_since = None;
    }

    pub fn link_closed(&mut self, now: Instant, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.links = node.links.saturating_sub(1);
        if node.links > 0 {
            return;
        }
        if node.visitor && !node.wanted {
            self.nodes.remove(&id);
        } else if node.wanted {
            // It was good until now: first retry soon.
            node.failures = 0;
            node.failed(now);
        } else {
            node.failures = FOUND_TRIES;
            node.next_try = now + FOUND_REST;
        }
    }

    /// This machine has a new address: what failed before may work now.
    pub fn network_changed(&mut self, now: Instant) {
        self.next_bootstrap = now;
        self.bootstrap_tries = 0;
        for node in self.nodes.values_mut().filter(|node| node.wanted && node.attempt_since.is_none()) {
            node.failures = 0;
            node.next_try = now;
        }
    }

    /// How many nodes of the DHT can be asked.
    pub fn dht_size(&mut self, now: Instant, nodes: usize) {
        if self.dht_nodes == 0 && nodes > 0 {
            self.bootstrap_tries = 0;
            for rendezvous in &mut self.rendezvous {
                rendezvous.next_lookup = now;
                rendezvous.next_publish = now;
            }
        }
        self.dht_nodes = nodes;
    }

    #[must_use]
    pub fn has_dht(&self) -> bool {
        self.dht_nodes > 0
    }

    /// Records carry the addresses of the moment they were put.
    pub fn own_addrs_changed(&mut self, now: Instant) {
        for rendezvous in &mut self.rendezvous {
            rendezvous.next_publish = rendezvous.next_publish.min(now + PUBLISH_SETTLE);
        }
    }

    /// What is to be done now.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.actions);
        if self.dht_nodes > 0 {
            for rendezvous in &mut self.rendezvous {
                if rendezvous.next_lookup <= now {
                    actions.push(Action::Lookup(rendezvous.key));
                    rendezvous.next_lookup = now
                        + match now.saturating_duration_since(self.eager_since) {
                            _ if !self.eager => LOOKUP_CALM,
                            waited if waited < EAGER_FOR => LOOKUP_EAGER,
                            _ => LOOKUP_EAGER_LATER,
                        };
                }
                if rendezvous.next_publish <= now {
                    actions.push(Action::Publish(rendezvous.key));
                    let wait = if rendezvous.published < 3 { PUBLISH_SOON } else { PUBLISH_AGAIN };
                    rendezvous.published += 1;
                    rendezvous.next_publish = now + wait;
                }
            }
        } else if self.has_bootstrap && self.next_bootstrap <= now {
            actions.push(Action::DialBootstrap);
            self.next_bootstrap =
                now + BOOTSTRAP_FIRST.saturating_mul(1 << self.bootstrap_tries.min(8)).min(BOOTSTRAP_MAX);
            self.bootstrap_tries = self.bootstrap_tries.saturating_add(1);
        }
        let searching = !self.rendezvous.is_empty();
        for (&id, node) in &mut self.nodes {
            if node.attempt_since.is_some_and(|since| now.saturating_duration_since(since) >= ATTEMPT_TIMEOUT) {
                node.failed(now);
            }
            let idle = node.links == 0 && node.attempt_since.is_none() && node.next_try <= now;
            if !idle || !(node.wanted || searching) {
                continue;
            }
            node.attempt_since = Some(now);
            actions.push(if node.connected {
                Action::OpenStream(id)
            } else {
                Action::Dial { node: id, addrs: node.addrs.clone() }
            });
        }
        actions
    }

    /// When `tick` wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let searching = !self.rendezvous.is_empty();
        let nodes = self.nodes.values().filter(|node| node.links == 0 && (node.wanted || searching)).map(|node| {
            match node.attempt_since {
                Some(since) => (since + ATTEMPT_TIMEOUT, "attempt timed out"),
                None => (node.next_try, "dial"),
            }
        });
        let dht = (self.dht_nodes > 0).then(|| {
            self.rendezvous.iter().map(|rendezvous| (rendezvous.next_lookup.min(rendezvous.next_publish), "rendezvous"))
        });
        let bootstrap = (self.dht_nodes == 0 && self.has_bootstrap).then_some((self.next_bootstrap, "bootstrap"));
        nodes.chain(dht.into_iter().flatten()).chain(bootstrap).min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests;

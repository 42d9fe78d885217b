//! Whom to dial, what to look up, what to publish, and when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::messages::Seek;
use crate::wire::NodeId;

/// Nodes that were found but have not proved to be members: at most this many are tried.
const MAX_FOUND: usize = 128;
/// Addresses kept per node.
pub const MAX_ADDRS: usize = 8;

const REDIAL_FIRST: Duration = Duration::from_millis(500);
const REDIAL_MAX: Duration = Duration::from_secs(60);
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
struct Node {
    /// A member: never given up.
    wanted: bool,
    /// Known only because it opened a stream to this node: forgotten with it.
    visitor: bool,
    addrs: Vec<String>,
    connected: bool,
    links: usize,
    attempt_since: Option<Instant>,
    failures: u32,
    next_try: Instant,
}

impl Node {
    fn new(now: Instant) -> Self {
        Self {
            wanted: false,
            visitor: false,
            addrs: Vec::new(),
            connected: false,
            links: 0,
            attempt_since: None,
            failures: 0,
            next_try: now,
        }
    }

    fn add_addrs(&mut self, addrs: Vec<String>) {
        for addr in addrs {
            if !self.addrs.contains(&addr) {
                self.addrs.insert(0, addr);
            }
        }
        self.addrs.truncate(MAX_ADDRS);
    }

    fn failed(&mut self, now: Instant) {
        self.attempt_since = None;
        self.failures = self.failures.saturating_add(1);
        let wait = REDIAL_FIRST.saturating_mul(1 << (self.failures - 1).min(10)).min(REDIAL_MAX);
        self.next_try = now + if !self.wanted && self.failures >= FOUND_TRIES { FOUND_REST } else { wait };
    }
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
#[allow(clippy::wildcard_enum_match_arm, reason = "a test looks at some actions only")]
mod tests {
    use super::super::messages::NodeAddrs;
    use super::*;

    const KEY: [u8; 32] = [1; 32];
    const OWN: NodeId = NodeId([0; 32]);
    const MEMBER: NodeId = NodeId([2; 32]);

    fn seek(eager: bool, nodes: &[NodeId]) -> Seek {
        let nodes = nodes.iter().map(|&node| NodeAddrs { node, addrs: vec!["/ip4/203.0.113.1/tcp/1".into()] });
        Seek { keys: vec![KEY], nodes: nodes.collect(), eager }
    }

    /// Runs the planner until `until`, letting `react` answer each action, and returns the actions with their times.
    fn run(
        planner: &mut Planner,
        start: Instant,
        seconds: u64,
        mut react: impl FnMut(&mut Planner, Instant, &Action),
    ) -> Vec<(u64, Action)> {
        let until = start + Duration::from_secs(seconds);
        let mut now = start;
        let mut log = Vec::new();
        while now < until {
            for action in planner.tick(now) {
                react(planner, now, &action);
                log.push((now.duration_since(start).as_millis() as u64, action));
            }
            let Some((next, _)) = planner.poll_timeout() else { break };
            now = next.max(now + Duration::from_millis(1));
        }
        log
    }

    #[test]
    fn nothing_is_looked_up_before_the_dht_is_there_and_all_at_once_then() {
        let start = Instant::now();
        let mut planner = Planner::new(start, OWN, true);
        planner.seek(start, seek(true, &[]));
        let log = run(&mut planner, start, 300, |_, _, _| {});
        assert!(log.iter().all(|(_, action)| matches!(action, Action::DialBootstrap | Action::QueryLan)), "{log:?}");
        assert!((5..20).contains(&log.len()), "bootstrap is retried with back-off: {}", log.len());
        let now = start + Duration::from_secs(300);
        planner.dht_size(now, 1);
        assert_eq!(planner.tick(now), [Action::Lookup(KEY), Action::Publish(KEY)]);
    }

    #[test]
    fn eager_looks_up_each_second_and_calm_now_and_then() {
        let start = Instant::now();
        let mut planner = Planner::new(start, OWN, true);
        planner.dht_size(start, 5);
        planner.seek(start, seek(true, &[]));
        let lookups = |log: Vec<(u64, Action)>| log.iter().filter(|(_, action)| *action == Action::Lookup(KEY)).count();
        assert!((9..=11).contains(&lookups(run(&mut planner, start, 10, |_, _, _| {}))));
        let later = start + Duration::from_secs(10);
        planner.seek(later, seek(false, &[]));
        assert!((11..=14).contains(&lookups(run(&mut planner, later, 3_600, |_, _, _| {}))));
    }

    #[test]
    fn members_are_redialled_for_ever_with_back_off() {
        let start = Instant::now();
        let mut planner = Planner::new(start, OWN, false);
        planner.seek(start, seek(false, &[MEMBER]));
        let log = run(&mut planner, start, 600, |planner, now, action| {
            if let Action::Dial { node, .. } = action {
                planner.dial_failed(now, *node);
            }
        });
        let dials: Vec<_> =
            log.iter().filter(|(_, action)| matches!(action, Action::Dial { .. })).map(|l| l.0).collect();
        assert_eq!(dials[..5], [0, 500, 1_500, 3_500, 7_500]);
        assert!((15..20).contains(&dials.len()), "{dials:?}");
    }

    #[test]
    fn a_lost_link_to_a_member_is_made_again() {
        let start = Instant::now();
        let mut planner = Planner::new(start, OWN, false);
        planner.seek(start, seek(false, &[MEMBER]));
        let mut links = 0;
        run(&mut planner, start, 5, |planner, now, action| match action {
            Action::Dial { node, .. } => planner.connected(now, *node),
            Action::OpenStream(node) => {
                links += 1;
                planner.link_opened(now, *node);
                planner.link_closed(now, *node);
            }
            _ => {}
        });
        assert!((5..=12).contains(&links), "{links}");
    }

    #[test]
    fn strangers_are_left_alone_after_a_refusal() {
        let start = Instant::now();
        let mut planner = Planner::new(start, OWN, false);
        planner.seek(start, seek(false, &[]));
        planner.found(start, MEMBER, vec![]);
        planner.found(start, OWN, vec![]);
        let mut opened = 0;
        run(&mut planner, start, 60, |planner, now, action| match action {
            Action::Dial { node, .. } => {
                assert_ne!(*node, OWN);
                planner.connected(now, *node);
            }
            Action::OpenStream(node) => {
                opened += 1;
                planner.link_opened(now, *node);
                planner.link_closed(now, *node);
            }
            _ => {}
        });
        assert_eq!(opened, 2, "one try each half minute");
    }

    #[test]
    fn visitors_leave_no_trace() {
        let start = Instant::now();
        let mut planner = Planner::new(start, OWN, false);
        planner.seek(start, seek(false, &[]));
        for n in 0..10_000u32 {
            let mut id = [9; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            planner.link_opened(start, NodeId(id));
            planner.link_closed(start, NodeId(id));
        }
        assert!(planner.nodes.is_empty());
        // One that turns out to be a member is kept.
        planner.link_opened(start, MEMBER);
        planner.seek(start, seek(false, &[MEMBER]));
        planner.link_closed(start, MEMBER);
        assert!(planner.nodes.contains_key(&MEMBER));
    }

    #[test]
    fn a_flood_of_found_nodes_is_bounded() {
        let start = Instant::now();
        let mut planner = Planner::new(start, OWN, false);
        planner.seek(start, seek(false, &[MEMBER]));
        for n in 0..10_000u32 {
            let mut id = [9; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            planner.found(start, NodeId(id), vec!["/ip4/198.51.100.1/tcp/1".into(); 100]);
        }
        assert!(planner.nodes.len() <= MAX_FOUND);
        assert!(planner.nodes.contains_key(&MEMBER));
        assert!(planner.nodes.values().all(|node| node.addrs.len() <= MAX_ADDRS));
    }
}

//! Finding nodes that serve as relays, and being found as one: a rendezvous in the DHT that all LANrage nodes know.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::messages::RelayFound;
use crate::wire::NodeId;

const LABEL: &str = "lanrage v1 relay rendezvous";
const DAY_SECS: u64 = 24 * 60 * 60;
/// The next day's key is published this long before, for those whose clocks are ahead.
const OVERLAP_SECS: u64 = 60 * 60;
/// Lookups at most this often: relays are many and stay.
const LOOKUP_PAUSE: Duration = Duration::from_secs(600);
const PUBLISH_AGAIN: Duration = Duration::from_secs(600);
/// Found nodes that are dialled at once, and that wait for it.
const MAX_DIALS: usize = 4;
const MAX_WAITING: usize = 32;
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Relays among the connected nodes that are remembered.
const MAX_KNOWN: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Publish([u8; 32]),
    Unpublish([u8; 32]),
    Lookup([u8; 32]),
    /// Connect, and learn what the node speaks.
    Dial(NodeId),
}

#[derive(Debug)]
pub struct Relays {
    own: NodeId,
    serving: bool,
    reachable: bool,
    /// When each key is to be put again.
    published: BTreeMap<[u8; 32], Instant>,
    asked: bool,
    next_lookup: Option<Instant>,
    waiting: VecDeque<NodeId>,
    dials: BTreeMap<NodeId, Instant>,
    /// What was told of the connected nodes.
    known: BTreeMap<NodeId, RelayFound>,
}

impl Relays {
    #[must_use]
    pub fn new(own: NodeId) -> Self {
        Self {
            own,
            serving: false,
            reachable: false,
            published: BTreeMap::new(),
            asked: false,
            next_lookup: None,
            waiting: VecDeque::new(),
            dials: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    pub fn set_serving(&mut self, serving: bool) {
        self.serving = serving;
    }

    /// Others can connect to this node.
    pub fn set_reachable(&mut self, reachable: bool) {
        self.reachable = reachable;
    }

    /// Somebody wants relays. Returns those that are connected; more may be found.
    pub fn find(&mut self) -> Vec<RelayFound> {
        self.asked = true;
        self.known.values().cloned().collect()
    }

    /// Providers of the rendezvous key.
    pub fn providers(&mut self, mut nodes: Vec<NodeId>) {
        // Each node begins with others, so that no relay gets them all.
        let distance = |node: &NodeId| -> [u8; 32] { std::array::from_fn(|at| node.0[at] ^ self.own.0[at]) };
        nodes.sort_by_key(distance);
        for node in nodes {
            let known = node == self.own
                || self.known.contains_key(&node)
                || self.dials.contains_key(&node)
                || self.waiting.contains(&node);
            if !known && self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(node);
            }
        }
    }

    /// A dial led to a connection whose other end has told what it speaks, or to nothing.
    pub fn settled(&mut self, node: NodeId) {
        self.dials.remove(&node);
    }

    /// A connected node says that it is a relay. Returns whether that is news.
    pub fn found(&mut self, found: RelayFound) -> bool {
        if self.known.get(&found.node) == Some(&found)
            || (self.known.len() >= MAX_KNOWN && !self.known.contains_key(&found.node))
        {
            return false;
        }
        self.known.insert(found.node, found);
        true
    }

    /// It is a relay no more, or not connected.
    pub fn gone(&mut self, node: NodeId) {
        self.known.remove(&node);
    }

    #[must_use]
    pub fn known(&self) -> usize {
        self.known.len()
    }

    #[must_use]
    pub fn is_key(key: &[u8], unix: u64) -> bool {
        let day = unix / DAY_SECS;
        [day.saturating_sub(1), day, day + 1].iter().any(|&day| rendezvous_key(day) == key)
    }

    /// What is to be done now. `unix`: seconds; `dht`: there is somebody to ask.
    pub fn tick(&mut self, now: Instant, unix: u64, dht: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        let keys = if self.serving && self.reachable { publish_keys(unix) } else { Vec::new() };
        self.published.retain(|key, _| {
            let keep = keys.contains(key);
            if !keep {
                actions.push(Action::Unpublish(*key));
            }
            keep
        });
        if dht {
            for key in keys {
                let due = self.published.entry(key).or_insert(now);
                if *due <= now {
                    *due = now + PUBLISH_AGAIN;
                    actions.push(Action::Publish(key));
                }
            }
            if self.asked && self.next_lookup.is_none_or(|next| next <= now) {
                self.asked = false;
                self.next_lookup = Some(now + LOOKUP_PAUSE);
                actions.push(Action::Lookup(rendezvous_key(unix / DAY_SECS)));
            }
        }
        self.dials.retain(|_, since| now.saturating_duration_since(*since) < DIAL_TIMEOUT);
        while self.dials.len() < MAX_DIALS
            && let Some(node) = self.waiting.pop_front()
        {
            self.dials.insert(node, now);
            actions.push(Action::Dial(node));
        }
        actions
    }

    /// When `tick` wants to be called.
    #[must_use]
    pub fn poll_timeout(&self, dht: bool) -> Option<(Instant, &'static str)> {
        let publish = self.published.values().filter(|_| dht).map(|due| (*due, "relay is published"));
        let lookup = self.next_lookup.filter(|_| dht && self.asked).map(|next| (next, "relays are looked up"));
        let dials = self.dials.values().map(|since| (*since + DIAL_TIMEOUT, "dial of a relay timed out"));
        publish.chain(lookup).chain(dials).min_by_key(|(at, _)| *at)
    }
}

fn rendezvous_key(day: u64) -> [u8; 32] {
    blake3::derive_key(LABEL, &day.to_le_bytes())
}

fn publish_keys(unix: u64) -> Vec<[u8; 32]> {
    let day = unix / DAY_SECS;
    let mut keys = vec![rendezvous_key(day)];
    if unix % DAY_SECS >= DAY_SECS - OVERLAP_SECS {
        keys.push(rendezvous_key(day + 1));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: NodeId = NodeId([0; 32]);
    const DAY: u64 = 20_000 * DAY_SECS;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn a_relay_is_published_while_it_serves_and_is_reachable() {
        let now = Instant::now();
        let mut relays = Relays::new(OWN);
        relays.set_serving(true);
        assert_eq!(relays.tick(now, DAY, true), [], "nobody could reach it");
        relays.set_reachable(true);
        assert_eq!(relays.tick(now, DAY, false), [], "nobody to ask");
        let key = rendezvous_key(20_000);
        assert_eq!(relays.tick(now, DAY, true), [Action::Publish(key)]);
        assert_eq!(relays.tick(now, DAY, true), []);
        assert_eq!(relays.poll_timeout(true).unwrap().0, now + PUBLISH_AGAIN);
        let evening = DAY + DAY_SECS - OVERLAP_SECS;
        let next = rendezvous_key(20_001);
        assert_eq!(relays.tick(now, evening, true), [Action::Publish(next)]);
        assert_eq!(relays.tick(now, DAY + DAY_SECS, true), [Action::Unpublish(key)]);
        relays.set_serving(false);
        assert_eq!(relays.tick(now, DAY + DAY_SECS, true), [Action::Unpublish(next)]);
        assert_eq!(relays.poll_timeout(true), None);
    }

    #[test]
    fn relays_are_looked_up_when_asked_for_and_not_often() {
        let now = Instant::now();
        let mut relays = Relays::new(OWN);
        assert_eq!(relays.tick(now, DAY, true), []);
        relays.find();
        assert_eq!(relays.tick(now, DAY, false), [], "it waits for the DHT");
        let lookup = [Action::Lookup(rendezvous_key(20_000))];
        assert_eq!(relays.tick(now, DAY, true), lookup);
        relays.find();
        assert_eq!(relays.tick(now, DAY, true), []);
        assert_eq!(relays.poll_timeout(true).unwrap().0, now + LOOKUP_PAUSE);
        assert_eq!(relays.tick(now + LOOKUP_PAUSE, DAY, true), lookup);
    }

    #[test]
    fn few_are_dialled_at_once_and_a_flood_is_cut() {
        let now = Instant::now();
        let mut relays = Relays::new(OWN);
        relays.providers((0..=255).map(node).collect());
        assert_eq!(relays.waiting.len(), MAX_WAITING);
        let dials = relays.tick(now, DAY, true);
        assert_eq!(dials, [1, 2, 3, 4].map(|n| Action::Dial(node(n))), "nearest first, and not itself");
        relays.settled(node(2));
        assert_eq!(relays.tick(now, DAY, true), [Action::Dial(node(5))]);
        assert_eq!(relays.tick(now + DIAL_TIMEOUT, DAY, true).len(), MAX_DIALS, "silence frees a place");
    }

    #[test]
    fn the_same_news_is_told_once() {
        let mut relays = Relays::new(OWN);
        let found = |port: u16| RelayFound {
            node: node(1),
            addr: ([203, 0, 113, 1], port).into(),
            tcp_addrs: vec![],
            aliases: vec![],
        };
        assert!(relays.found(found(1)) && !relays.found(found(1)) && relays.found(found(2)));
        assert_eq!(relays.find(), [found(2)]);
        relays.gone(node(1));
        assert!(relays.find().is_empty() && relays.found(found(2)));
        for n in 0..1_000u16 {
            let mut id = [9; 32];
            id[..2].copy_from_slice(&n.to_le_bytes());
            relays.found(RelayFound { node: NodeId(id), ..found(1) });
        }
        assert_eq!(relays.known.len(), MAX_KNOWN);
    }
}

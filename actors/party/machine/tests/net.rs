//! An in-memory network of machines in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::super::*;
use crate::party::keys::PartySecret;
use crate::party::messages::PartyError;
use crate::party::record::tests::contact;

pub(super) const UNIX: u64 = 20_000 * 86_400 + 3600;
const LATENCY: Duration = Duration::from_millis(20);
const BACK_OFF: Duration = Duration::from_millis(200);

/// Stands in for Argon2id, which is tried elsewhere and slow.
pub(super) fn fake_secret(code: &PartyCode) -> PartySecret {
    PartySecret::from_bytes(blake3::derive_key("test secret", &code.symbols()))
}

pub(super) struct Node {
    pub(super) machine: PartyMachine,
    pub(super) config: PartyConfig,
    pub(super) up: bool,
    pub(super) seek: Seek,
    pub(super) peers: SetPeers,
    pub(super) address: Option<Address>,
    /// What the disk holds.
    pub(super) disk: BTreeMap<PartyId, StoredParty>,
    pub(super) replies: Vec<Result<Option<PartyView>, PartyError>>,
    pub(super) events: Vec<Event>,
    /// Frames received, for those who look.
    pub(super) received: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct InFlight {
    at: Instant,
    to: usize,
    link: LinkId,
    frame: Option<Vec<u8>>,
}

pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    pub(super) now: Now,
    flight: VecDeque<InFlight>,
    /// (node, its link) → (node, its link) at the other end.
    links: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    next_link: u64,
    /// When a pair was last tried: discovery backs off.
    tried: BTreeMap<(usize, usize), Instant>,
    /// Nodes in different groups do not reach each other.
    pub(super) group: Vec<u8>,
    /// Pairs that do not reach each other.
    pub(super) apart: Vec<(usize, usize)>,
    rng: StdRng,
}

impl Net {
    pub(super) fn new(seed: u64, names: &[&str]) -> Self {
        Self::with_limit(seed, names, MAX_MEMBERS)
    }

    pub(super) fn with_limit(seed: u64, names: &[&str], limit: usize) -> Self {
        let mut net = Self {
            nodes: Vec::new(),
            now: Now { mono: Instant::now(), unix: UNIX },
            flight: VecDeque::new(),
            links: BTreeMap::new(),
            next_link: 0,
            tried: BTreeMap::new(),
            group: Vec::new(),
            apart: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
        };
        for name in names {
            net.add(name, limit);
        }
        net
    }

    pub(super) fn add(&mut self, name: &str, limit: usize) -> usize {
        let identity = SigningKey::from_bytes(&self.rng.random());
        let wg_key = WgPublicKey(self.rng.random());
        let mut config = PartyConfig::new(identity, wg_key, name.into(), Ipv4Range::DEFAULT, self.rng.random());
        config.limit = limit;
        let mut machine = PartyMachine::new(config.clone(), &[]);
        let index = self.nodes.len();
        machine.set_contact(self.now, contact(&[&format!("192.0.2.{}:51820", index + 1)]));
        machine.set_own_addrs(self.now, &[format!("/ip4/192.0.2.{}/tcp/4001", index + 1)]);
        machine.start(self.now);
        self.nodes.push(Node {
            machine,
            config,
            up: true,
            seek: Seek::default(),
            peers: SetPeers { own_ip: None, peers: vec![] },
            address: None,
            disk: BTreeMap::new(),
            replies: vec![],
            events: vec![],
            received: vec![],
        });
        self.group.push(0);
        index
    }

    pub(super) fn create(&mut self, node: usize) -> PartyView {
        self.nodes[node].machine.create(RequestId(1), Some("Friday"));
        self.settle();
        self.answer(node).unwrap().unwrap()
    }

    pub(super) fn ask_join(&mut self, node: usize, code: &str) {
        let now = self.now;
        self.nodes[node].machine.join(now, RequestId(2), code, Duration::from_secs(30));
    }

    pub(super) fn join(&mut self, node: usize, code: &str) -> Result<PartyView, PartyError> {
        self.ask_join(node, code);
        self.run(Duration::from_secs(5));
        self.answer(node).map(Option::unwrap)
    }

    pub(super) fn leave(&mut self, node: usize) {
        let now = self.now;
        self.nodes[node].machine.leave(now, RequestId(3));
        self.settle();
        assert!(self.answer(node).is_ok());
    }

    pub(super) fn kick(&mut self, node: usize, member: &str) -> Result<PartyView, PartyError> {
        self.nodes[node].machine.kick(RequestId(4), member);
        self.settle();
        self.answer(node).map(Option::unwrap)
    }

    pub(super) fn answer(&mut self, node: usize) -> Result<Option<PartyView>, PartyError> {
        assert_eq!(self.nodes[node].replies.len(), 1, "one answer per command");
        self.nodes[node].replies.remove(0)
    }

    pub(super) fn view(&self, node: usize) -> PartyView {
        self.nodes[node].machine.view().expect("in a party")
    }

    pub(super) fn names(&self, node: usize) -> Vec<String> {
        self.view(node).members.into_iter().map(|member| member.name).collect()
    }

    /// As after kill -9: all that is left is what was written down.
    pub(super) fn crash(&mut self, node: usize) {
        self.nodes[node].up = false;
        let ends: Vec<_> = self.links.keys().filter(|(owner, _)| *owner == node).copied().collect();
        for end in ends {
            self.cut(end);
        }
    }

    pub(super) fn restart(&mut self, node: usize) {
        let config = self.nodes[node].config.clone();
        let mut stored: Vec<StoredParty> = self.nodes[node].disk.values().cloned().collect();
        stored.sort_by_key(|party| !party.active);
        let it = &mut self.nodes[node];
        it.machine = PartyMachine::new(config, &stored);
        it.machine.start(self.now);
        it.up = true;
        it.seek = Seek::default();
        it.peers = SetPeers { own_ip: None, peers: vec![] };
        it.address = None;
    }

    /// Lets everything happen that takes no more than a second.
    pub(super) fn settle(&mut self) {
        self.run(Duration::from_secs(1));
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now.mono + time;
        let start = self.now;
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 20_000, "it never comes to rest");
            self.drain();
            self.discover();
            self.drain();
            let arrival = self.flight.iter().map(|it| it.at).min();
            let timeouts = self.nodes.iter().filter(|it| it.up).filter_map(|it| it.machine.poll_timeout());
            let retry = Some(self.now.mono + BACK_OFF);
            let next = timeouts.map(|(at, _)| at).chain(arrival).chain(retry).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            let passed = next.max(self.now.mono);
            self.now = Now { mono: passed, unix: start.unix + (passed - start.mono).as_secs() };
            self.deliver();
            for node in self.nodes.iter_mut().filter(|it| it.up) {
                if node.machine.poll_timeout().is_some_and(|(at, _)| at <= self.now.mono) {
                    node.machine.handle_timeout(self.now);
                    let again = node.machine.poll_timeout();
                    assert!(again.is_none_or(|(at, _)| at > self.now.mono), "would spin: {again:?}");
                }
            }
        }
        self.now = Now { mono: end, unix: start.unix + time.as_secs() };
    }

    fn deliver(&mut self) {
        let (due, rest): (VecDeque<_>, VecDeque<_>) = self.flight.drain(..).partition(|it| it.at <= self.now.mono);
        self.flight = rest;
        for it in due {
            let node = &mut self.nodes[it.to];
            if !node.up {
                continue;
            }
            match it.frame {
                Some(frame) => {
                    node.machine.handle_frame(self.now, it.link, &frame);
                    node.received.push(frame);
                }
                None => node.machine.handle_link_closed(self.now, it.link),
            }
        }
    }

    pub(super) fn drain_now(&mut self) {
        self.drain();
    }

    fn drain(&mut self) {
        for index in 0..self.nodes.len() {
            while let Some(output) = self.nodes[index].machine.poll_output() {
                self.carry_out(index, output);
            }
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        match output {
            Output::Send { link, frame } => {
                assert!(frame.len() <= crate::discovery::messages::MAX_FRAME);
                if let Some(&(to, link)) = self.links.get(&(index, link)) {
                    self.flight.push_back(InFlight { at: self.now.mono + LATENCY, to, link, frame: Some(frame) });
                }
            }
            Output::Close(link) => self.cut((index, link)),
            Output::Seek(seek) => self.nodes[index].seek = seek,
            Output::Persist(party) => {
                if party.active {
                    self.nodes[index].disk.values_mut().for_each(|other| other.active = false);
                }
                self.nodes[index].disk.insert(party.id, party);
            }
            Output::Peers(peers) => self.nodes[index].peers = peers,
            Output::Address(address) => self.nodes[index].address = address,
            Output::Derive(code) => {
                let secret = fake_secret(&code);
                let now = self.now;
                self.nodes[index].machine.handle_derived(now, &code, Some(secret));
            }
            Output::Reply(_, result) => {
                let on_disk = self.nodes[index].machine.view().map(|view| view.id);
                if let (Ok(Some(_)), Some(id)) = (&result, on_disk) {
                    assert!(self.nodes[index].disk.contains_key(&id), "answered before it was written down");
                }
                self.nodes[index].replies.push(result);
            }
            Output::Event(event) => self.nodes[index].events.push(event),
        }
    }

    /// Both ends hear of it after what was sent before.
    fn cut(&mut self, end: (usize, LinkId)) {
        let Some(other) = self.links.remove(&end) else { return };
        self.links.remove(&other);
        self.flight.push_back(InFlight { at: self.now.mono + LATENCY, to: other.0, link: other.1, frame: None });
        self.flight.push_back(InFlight { at: self.now.mono, to: end.0, link: end.1, frame: None });
    }

    pub(super) fn partition(&mut self, groups: &[u8]) {
        self.group = groups.to_vec();
        let crossing = |((a, _), (b, _)): (&(usize, LinkId), &(usize, LinkId))| groups[*a] != groups[*b];
        let ends: Vec<_> = self.links.iter().filter(|(a, b)| crossing((a, b))).map(|(end, _)| *end).collect();
        for end in ends {
            self.cut(end);
        }
    }

    /// For these two only, and for good.
    pub(super) fn keep_apart(&mut self, one: usize, other: usize) {
        self.apart.push((one.min(other), one.max(other)));
        let between = |((a, _), (b, _)): (&(usize, LinkId), &(usize, LinkId))| (*a, *b) == (one, other);
        let ends: Vec<_> = self.links.iter().filter(|(a, b)| between((a, b))).map(|(end, _)| *end).collect();
        for end in ends {
            self.cut(end);
        }
    }

    /// Opens a stream between nodes where one looks for the other.
    fn discover(&mut self) {
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let apart = self.group[a] != self.group[b] || self.apart.contains(&(a.min(b), a.max(b)));
                let reachable = a != b && self.nodes[a].up && self.nodes[b].up && !apart;
                let linked = self.links.iter().any(|((from, _), (to, _))| (*from, *to) == (a, b));
                let rested = self.tried.get(&(a, b)).is_none_or(|at| *at + BACK_OFF <= self.now.mono);
                if reachable && !linked && rested && self.looks_for(a, b) {
                    pairs.push((a, b));
                }
            }
        }
        pairs.shuffle(&mut self.rng);
        for (a, b) in pairs {
            self.tried.insert((a, b), self.now.mono);
            self.open(a, b);
        }
    }

    fn looks_for(&self, a: usize, b: usize) -> bool {
        let (one, other) = (&self.nodes[a].seek, &self.nodes[b]);
        let published = one.keys.iter().any(|key| other.seek.keys.contains(key));
        published || one.nodes.iter().any(|it| it.node == other.machine.node())
    }

    pub(super) fn open(&mut self, a: usize, b: usize) -> (LinkId, LinkId) {
        let (one, other) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        self.links.insert((a, one), (b, other));
        self.links.insert((b, other), (a, one));
        let (node_a, node_b, now) = (self.nodes[a].machine.node(), self.nodes[b].machine.node(), self.now);
        self.nodes[a].machine.handle_link_opened(now, one, node_b, true);
        self.nodes[b].machine.handle_link_opened(now, other, node_a, false);
        (one, other)
    }

    /// Puts a frame on the wire towards `to` as if its peer had sent it.
    pub(super) fn inject(&mut self, to: usize, link: LinkId, frame: Vec<u8>) {
        let now = self.now;
        self.nodes[to].machine.handle_frame(now, link, &frame);
    }

    /// `node`'s end of a proved link to `other`.
    pub(super) fn link_between(&self, node: usize, other: usize) -> LinkId {
        let mut ends = self.links.iter().filter(|((a, _), (b, _))| (*a, *b) == (node, other));
        let proved = |link: &LinkId| self.nodes[node].machine.links.get(link).is_some_and(Link::proved);
        ends.find(|((_, link), _)| proved(link)).expect("linked").0.1
    }

    pub(super) fn is_open(&self, node: usize, link: LinkId) -> bool {
        self.links.contains_key(&(node, link))
    }

    /// All of `nodes` are in step and would have tunnels to one another.
    pub(super) fn assert_together(&self, nodes: &[usize]) {
        let digest = self.nodes[nodes[0]].machine.digest();
        for &one in nodes {
            assert_eq!(self.nodes[one].machine.digest(), digest, "{one} is in step");
            let view = self.view(one);
            assert_eq!(view.members.len(), nodes.len(), "{:?}", self.names(one));
            assert_eq!(view.host, self.view(nodes[0]).host);
            assert!(view.members.iter().all(|it| it.online), "{one} sees {:?}", view.members);
            assert_eq!(self.nodes[one].address.unwrap().ip, view.virtual_ip);
            assert_eq!(self.nodes[one].peers.own_ip, Some(view.virtual_ip));
            for &other in nodes.iter().filter(|it| **it != one) {
                let spec = |from: usize, to: usize| {
                    let node = self.nodes[to].machine.node();
                    self.nodes[from].peers.peers.iter().find(|it| it.node == node).cloned().expect("a tunnel")
                };
                assert_eq!(spec(one, other).psk, spec(other, one).psk);
                assert_eq!(spec(one, other).virtual_ip, self.view(other).virtual_ip);
                assert_eq!(spec(one, other).wg_key, self.nodes[other].config.wg_key);
                assert!(!spec(one, other).contact.candidates.is_empty());
            }
        }
    }
}

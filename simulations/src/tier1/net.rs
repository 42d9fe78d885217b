//! The machines of some nodes, without any actor, and a network that delivers what they put out. Time jumps to whatever
//! is due next.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use lanrage_actors::discovery::messages::{LinkId, Seek};
use lanrage_actors::party::machine::{Event, Now, Output, PartyConfig, PartyMachine, RequestId};
use lanrage_actors::party::messages::{PartyError, PartyView};
use lanrage_actors::peer::OwnIdentity;
use lanrage_actors::peer::machine::{Outputs, PeerMachine};
use lanrage_actors::peer::messages::SetPeers;
use lanrage_actors::peer::replay::first_ping_id;
use lanrage_actors::store::messages::StoredParty;
use lanrage_actors::tun::messages::Address;
use lanrage_actors::wire::{Contact, DatagramBatch, Endpoint, Ipv4Range, LocalNetworks, NodeId, PacketBatch};
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;

use crate::tier2::clock;
use crate::tier2::node::cheap_secret;
use crate::trace::Trace;

/// Between two attempts to open a stream to the same node.
const BACK_OFF: Duration = Duration::from_millis(500);
/// More steps than this within one run of the clock: it never comes to rest.
const MAX_STEPS: u64 = 2_000_000;

pub type Reply = Result<Option<PartyView>, PartyError>;

pub struct Node {
    pub config: PartyConfig,
    pub own: OwnIdentity,
    pub id: NodeId,
    pub machine: PartyMachine,
    pub up: bool,
    /// Seconds that its wall clock is ahead.
    pub skew: i64,
    pub seek: Seek,
    pub specs: SetPeers,
    pub address: Option<Address>,
    pub tunnels: BTreeMap<NodeId, PeerMachine>,
    disk: Vec<StoredParty>,
    pub replies: Vec<Reply>,
    /// Payloads that came out of tunnels: from whom, and what.
    pub delivered: Vec<(NodeId, Vec<u8>)>,
    runs: u32,
}

enum Moving {
    Frame { link: LinkId, frame: Vec<u8> },
    Closed { link: LinkId },
    Datagram { from: usize, bytes: Vec<u8> },
}

pub struct Net {
    pub nodes: Vec<Node>,
    pub by_id: BTreeMap<NodeId, usize>,
    pub trace: Trace,
    pub rng: ChaCha12Rng,
    start: Instant,
    pub elapsed: Duration,
    moving: BTreeMap<(Duration, u64), (usize, Moving)>,
    order: u64,
    links: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    /// When the last frame of a link end arrives: frames do not overtake.
    last_due: BTreeMap<(usize, LinkId), Duration>,
    tried: BTreeMap<(usize, usize), Duration>,
    next_link: u64,
    pub group: Vec<u8>,
    /// Chance that a frame finds a full mailbox, and that a datagram is lost.
    pub frame_loss: f64,
    pub datagram_loss: f64,
    /// What a stranger was sent.
    pub told_stranger: Vec<Vec<u8>>,
    pub failures: Vec<String>,
    /// Who left because the party had too many members.
    pub surplus: Vec<usize>,
    pub frames: u64,
    pub datagrams: u64,
}

/// Stands for a node that is not one of ours.
pub const STRANGER: usize = usize::MAX;

fn endpoint(node: usize) -> SocketAddr {
    let last = u32::try_from(node).unwrap_or(0) + 1;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(20, 0, 0, 0)) + last)), 51820)
}

impl Net {
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        clock::set(Duration::ZERO);
        Self {
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            trace: Trace::default(),
            rng: ChaCha12Rng::seed_from_u64(seed),
            start,
            elapsed: Duration::ZERO,
            moving: BTreeMap::new(),
            order: 0,
            links: BTreeMap::new(),
            last_due: BTreeMap::new(),
            tried: BTreeMap::new(),
            next_link: 0,
            group: Vec::new(),
            frame_loss: 0.0,
            datagram_loss: 0.0,
            told_stranger: Vec::new(),
            failures: Vec::new(),
            surplus: Vec::new(),
            frames: 0,
            datagrams: 0,
        }
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.record(self.elapsed, what);
    }

    pub fn mono(&self) -> Instant {
        self.start + self.elapsed
    }

    pub fn now(&self, node: usize) -> Now {
        let unix = clock::UNIX_START + self.elapsed.as_secs();
        let skew = self.nodes.get(node).map_or(0, |node| node.skew);
        Now { mono: self.mono(), unix: unix.saturating_add_signed(skew) }
    }

    /// A node with this signing key.
    pub fn add(&mut self, signing: [u8; 32], range: Ipv4Range, limit: usize) -> usize {
        let index = self.nodes.len();
        let identity = SigningKey::from_bytes(&signing);
        let id = NodeId(identity.verifying_key().to_bytes());
        let own = OwnIdentity::new(id, self.rng.random());
        let mut config = PartyConfig::new(identity, own.wg_key(), format!("player {index}"), range, self.rng.random());
        config.limit = limit;
        let machine = PartyMachine::new(config.clone(), &[]);
        self.nodes.push(Node {
            config,
            own,
            id,
            machine,
            up: false,
            skew: 0,
            seek: Seek::default(),
            specs: SetPeers { own_ip: None, peers: Vec::new() },
            address: None,
            tunnels: BTreeMap::new(),
            disk: Vec::new(),
            replies: Vec::new(),
            delivered: Vec::new(),
            runs: 0,
        });
        self.by_id.insert(id, index);
        self.group.push(0);
        self.boot(index);
        index
    }

    /// The program starts with what the disk holds.
    pub fn boot(&mut self, index: usize) {
        let now = self.now(index);
        let seed = self.rng.random();
        let node = &mut self.nodes[index];
        node.config.seed = seed;
        node.runs += 1;
        let mut stored = node.disk.clone();
        stored.sort_by_key(|party| !party.active);
        node.machine = PartyMachine::new(node.config.clone(), &stored);
        node.seek = Seek::default();
        node.specs = SetPeers { own_ip: None, peers: Vec::new() };
        node.address = None;
        node.tunnels.clear();
        node.up = true;
        node.machine.set_contact(now, Contact::of_hosts([endpoint(index)]));
        node.machine.set_own_addrs(now, &[format!("/ip4/{}/tcp/4001", endpoint(index).ip())]);
        node.machine.start(now);
        self.note(format_args!("{index} starts"));
    }

    /// One more address, besides the one at which it is.
    pub fn move_house(&mut self, index: usize) {
        let now = self.now(index);
        let port = self.rng.random_range(1024..=u16::MAX);
        let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), port);
        self.nodes[index].machine.set_contact(now, Contact::of_hosts([endpoint(index), other]));
        self.drain(index);
    }

    pub fn crash(&mut self, index: usize) {
        self.note(format_args!("{index} dies"));
        self.nodes[index].up = false;
        self.nodes[index].tunnels.clear();
        self.cut(|a, b| a == index || b == index);
    }

    /// Breaks links: both ends hear of it.
    pub fn cut(&mut self, which: impl Fn(usize, usize) -> bool) {
        let ends: Vec<_> = self.links.iter().filter(|((a, _), (b, _))| which(*a, *b)).map(|(end, _)| *end).collect();
        for end in ends {
            self.close(end);
        }
    }

    fn close(&mut self, end: (usize, LinkId)) {
        let Some(other) = self.links.remove(&end) else { return };
        self.links.remove(&other);
        for (node, link) in [end, other] {
            let due = self.last_due.remove(&(node, link)).unwrap_or(self.elapsed).max(self.elapsed);
            self.put(due + Duration::from_millis(1), node, Moving::Closed { link });
        }
    }

    fn put(&mut self, at: Duration, to: usize, moving: Moving) {
        self.order += 1;
        self.moving.insert((at, self.order), (to, moving));
    }

    pub fn command(&mut self, index: usize, command: impl FnOnce(&mut PartyMachine, Now, RequestId)) {
        let now = self.now(index);
        let node = &mut self.nodes[index];
        node.replies.clear();
        command(&mut node.machine, now, RequestId(1));
        self.drain(index);
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        let mut steps = 0;
        loop {
            steps += 1;
            if steps > MAX_STEPS {
                self.failures.push("it never comes to rest".into());
                return;
            }
            self.discover();
            let mono = |at: Instant| at.saturating_duration_since(self.start);
            let moving = self.moving.keys().next().map(|(at, _)| *at);
            let machines = self.nodes.iter().filter(|node| node.up).flat_map(|node| {
                let tunnels = node.tunnels.values().map(|tunnel| mono(tunnel.poll_timeout().0));
                node.machine.poll_timeout().map(|(at, _)| mono(at)).into_iter().chain(tunnels)
            });
            let next = machines.chain(moving).chain([self.elapsed + BACK_OFF]).min().unwrap_or(end).max(self.elapsed);
            if next > end {
                break;
            }
            self.advance(next);
            self.deliver();
            self.timers();
        }
        self.advance(end);
    }

    fn advance(&mut self, to: Duration) {
        self.elapsed = to;
        clock::set(to);
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.moving.first_entry() {
            if entry.key().0 > self.elapsed {
                return;
            }
            let (to, moving) = entry.remove();
            if to == STRANGER {
                if let Moving::Frame { frame, .. } = moving {
                    self.told_stranger.push(frame);
                }
                continue;
            }
            if !self.nodes[to].up {
                continue;
            }
            let now = self.now(to);
            match moving {
                Moving::Frame { link, frame } => self.nodes[to].machine.handle_frame(now, link, &frame),
                Moving::Closed { link } => self.nodes[to].machine.handle_link_closed(now, link),
                Moving::Datagram { from, bytes } => self.datagram(to, from, &bytes),
            }
            self.drain(to);
        }
    }

    fn datagram(&mut self, to: usize, from: usize, bytes: &[u8]) {
        if self.group[from] != self.group[to] {
            return;
        }
        let (mono, from_id) = (self.mono(), self.nodes[from].id);
        let Some(tunnel) = self.nodes[to].tunnels.get_mut(&from_id) else { return };
        let mut out = Outputs::default();
        tunnel.handle_inbound(
            mono,
            &DatagramBatch::copied(bytes, Endpoint::direct(endpoint(from)), bytes.len()),
            &mut out,
        );
        self.outputs(to, from_id, out);
    }

    fn outputs(&mut self, node: usize, peer: NodeId, out: Outputs) {
        for batch in out.transmits {
            let Some(to) = (0..self.nodes.len()).find(|to| endpoint(*to) == batch.destination()) else { continue };
            for bytes in batch.contents().chunks(batch.segment_size().max(1)) {
                self.datagrams += 1;
                if self.rng.random_bool(self.datagram_loss) {
                    continue;
                }
                let at = self.elapsed + Duration::from_micros(self.rng.random_range(5_000..40_000));
                self.put(at, to, Moving::Datagram { from: node, bytes: bytes.to_vec() });
            }
        }
        if let Some(batch) = out.deliver {
            self.nodes[node].delivered.extend(batch.iter().map(|packet| (peer, packet.to_vec())));
        }
    }

    /// An IP packet from one node to another, from virtual IP to virtual IP.
    pub fn send_packet(&mut self, from: usize, to: usize, packet: &[u8]) {
        let (mono, id) = (self.mono(), self.nodes[to].id);
        let Some(tunnel) = self.nodes[from].tunnels.get_mut(&id) else { return };
        let mut batch = PacketBatch::new();
        let _ = batch.push(packet);
        let mut out = Outputs::default();
        tunnel.handle_outbound(mono, &batch, &mut out);
        self.outputs(from, id, out);
    }

    fn timers(&mut self) {
        let mono = self.mono();
        for index in 0..self.nodes.len() {
            if !self.nodes[index].up {
                continue;
            }
            let now = self.now(index);
            if self.nodes[index].machine.poll_timeout().is_some_and(|(at, _)| at <= mono) {
                self.nodes[index].machine.handle_timeout(now);
                if let Some((at, why)) = self.nodes[index].machine.poll_timeout().filter(|(at, _)| *at <= mono) {
                    let late = mono - at;
                    self.failures.push(format!("the party machine of {index} would spin: {why}, {late:?} ago"));
                    // Once is enough, and the run must end.
                    self.nodes[index].up = false;
                }
                self.drain(index);
            }
            let due: Vec<NodeId> = self.nodes[index]
                .tunnels
                .iter()
                .filter(|(_, it)| it.poll_timeout().0 <= mono)
                .map(|(id, _)| *id)
                .collect();
            for id in due {
                let mut out = Outputs::default();
                if let Some(tunnel) = self.nodes[index].tunnels.get_mut(&id) {
                    tunnel.handle_timeout(mono, &mut out);
                    if tunnel.poll_timeout().0 <= mono {
                        self.failures.push(format!("a tunnel of {index} would spin: {}", tunnel.poll_timeout().1));
                        self.nodes[index].up = false;
                    }
                }
                self.outputs(index, id, out);
            }
        }
    }

    fn drain(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].machine.poll_output() {
            self.carry_out(index, output);
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let now = self.now(index);
        match output {
            Output::Send { link, frame } => {
                self.frames += 1;
                let Some(&(to, other)) = self.links.get(&(index, link)) else { return };
                if self.rng.random_bool(self.frame_loss) {
                    self.nodes[index].machine.count_dropped_send();
                    return;
                }
                let at = self.elapsed + Duration::from_micros(self.rng.random_range(5_000..60_000));
                let due = self.last_due.entry((to, other)).or_default();
                *due = at.max(*due);
                let due = *due;
                self.put(due, to, Moving::Frame { link: other, frame });
            }
            Output::Close(link) => self.close((index, link)),
            Output::Seek(seek) => self.nodes[index].seek = seek,
            Output::Persist(party) => {
                let disk = &mut self.nodes[index].disk;
                disk.retain(|other| other.id != party.id);
                if party.active {
                    disk.iter_mut().for_each(|other| other.active = false);
                }
                disk.push(party);
            }
            Output::Peers(specs) => self.set_peers(index, specs),
            Output::Address(address) => self.nodes[index].address = address,
            Output::Derive(code) => {
                let secret = cheap_secret(&code);
                self.nodes[index].machine.handle_derived(now, &code, Some(secret));
            }
            Output::Reply(_, reply) => self.nodes[index].replies.push(reply),
            Output::Event(event) => {
                self.note(format_args!("{index}: {event:?}"));
                if matches!(event, Event::Surplus(_)) {
                    self.surplus.push(index);
                }
            }
        }
    }

    /// As the supervisor does it.
    fn set_peers(&mut self, index: usize, specs: SetPeers) {
        let mono = self.mono();
        let mut outputs = Vec::new();
        let node = &mut self.nodes[index];
        node.tunnels.retain(|id, _| specs.peers.iter().any(|spec| spec.node == *id));
        if let Some(own_ip) = specs.own_ip {
            for spec in &specs.peers {
                let same = node.tunnels.get(&spec.node).is_some_and(|tunnel| {
                    let old = tunnel.spec();
                    old.wg_key == spec.wg_key && old.psk == spec.psk && old.virtual_ip == spec.virtual_ip
                });
                let mut out = Outputs::default();
                match node.tunnels.get_mut(&spec.node) {
                    Some(tunnel) if same => tunnel.update(mono, own_ip, spec.clone(), &mut out),
                    Some(_) | None => {
                        let (index, seed) = (self.rng.random::<u32>() >> 8, self.rng.random());
                        let networks = LocalNetworks::default();
                        let first_ping = first_ping_id(
                            clock::UNIX_START * 1000 + u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
                        );
                        let tunnel =
                            PeerMachine::new(mono, &node.own, own_ip, spec.clone(), networks, index, first_ping, seed);
                        node.tunnels.insert(spec.node, tunnel);
                    }
                }
                outputs.push((spec.node, out));
            }
        }
        node.specs = specs;
        for (peer, out) in outputs {
            self.outputs(index, peer, out);
        }
    }

    /// Opens streams between nodes where one looks for the other.
    fn discover(&mut self) {
        let mut pairs = Vec::new();
        let linked: std::collections::BTreeSet<(usize, usize)> =
            self.links.iter().map(|((a, _), (b, _))| (*a, *b)).collect();
        for a in 0..self.nodes.len() {
            let one = &self.nodes[a];
            if !one.up || (one.seek.keys.is_empty() && one.seek.nodes.is_empty()) {
                continue;
            }
            for b in 0..self.nodes.len() {
                let other = &self.nodes[b];
                if a == b || !other.up || self.group[a] != self.group[b] || linked.contains(&(a, b)) {
                    continue;
                }
                let rested = self.tried.get(&(a, b)).is_none_or(|at| *at + BACK_OFF <= self.elapsed);
                let published = || one.seek.keys.iter().any(|key| other.seek.keys.contains(key));
                if rested && (one.seek.nodes.iter().any(|it| it.node == other.id) || published()) {
                    pairs.push((a, b));
                }
            }
        }
        pairs.shuffle(&mut self.rng);
        for (a, b) in pairs {
            self.tried.insert((a, b), self.elapsed);
            let (b_id, a_id) = (self.nodes[b].id, self.nodes[a].id);
            let (one, other) = self.connect(a, b);
            let now = self.now(a);
            self.nodes[a].machine.handle_link_opened(now, one, b_id, true);
            let now = self.now(b);
            self.nodes[b].machine.handle_link_opened(now, other, a_id, false);
            self.drain(a);
            self.drain(b);
        }
    }

    fn connect(&mut self, a: usize, b: usize) -> (LinkId, LinkId) {
        let (one, other) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        self.links.insert((a, one), (b, other));
        self.links.insert((b, other), (a, one));
        (one, other)
    }

    /// A stranger opens a stream to a node.
    pub fn stranger_opens(&mut self, node: usize, id: NodeId) -> LinkId {
        let (_, link) = self.connect(STRANGER, node);
        let now = self.now(node);
        self.nodes[node].machine.handle_link_opened(now, link, id, false);
        self.drain(node);
        link
    }

    pub fn stranger_sends(&mut self, node: usize, link: LinkId, frame: &[u8]) {
        let now = self.now(node);
        self.nodes[node].machine.handle_frame(now, link, frame);
        self.drain(node);
    }

    pub fn stranger_closes(&mut self, node: usize, link: LinkId) {
        self.close((node, link));
    }
}

//! What all nodes of a run share: the network, the streams, the DHT, the games, and the queue of what happens when.
//!
//! It lives in a thread-local: the simulated device's factory must be `Send` because the shipped trait says so, and a
//! run that leaks onto another thread finds no world there and fails.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use actix::Addr;
use lanrage_actors::nat::NatActor;
use lanrage_actors::wire::{LocalSocket, NodeId};
use rand_chacha::ChaCha12Rng;
use tokio::sync::Notify;

use super::beacons::Beacons;
use super::clock;
use super::data_streams::DataStreams;
use super::dht::Dht;
use super::discovery::{Heard, SimDiscovery};
use super::game::Game;
use super::infra::Infra;
use super::net::{DATA_PORT, Flight, Net};
use super::paths::Seen;
use super::sockets::Waiting;
use super::streams::Streams;
use crate::trace::Trace;

/// Datagrams that the socket's buffer takes.
const SOCKET_BUFFER: usize = 4096;
const CAPTURED: usize = 512;

pub enum Event {
    Arrival(Flight),
    /// For a node's discovery, if it is still the same run of the node.
    Discovery(usize, u32, Heard),
    GameTick(usize, u32),
    Beacon(usize, u32),
    Storm(usize),
    /// Out of a data stream.
    Carried(u64, Vec<Vec<u8>>),
    /// Traffic of each second goes into the trace as one number.
    Summary,
}

struct Due {
    at: Duration,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    /// The earliest is the greatest; among equals the first that was put in.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// What the world knows of a node while its program runs.
#[derive(Default)]
pub struct Ports {
    /// Counts the runs of the node.
    pub run: u32,
    pub nat: Option<Addr<NatActor>>,
    pub discovery: Option<Addr<SimDiscovery>>,
    pub socket: VecDeque<Waiting>,
    pub socket_waker: Option<Waker>,
    /// Its sockets beside the data socket, by port.
    pub locals: BTreeMap<u16, LocalSocket>,
    /// The port at which it relays, as its discovery was told.
    pub serving: Option<u16>,
    /// From the game to the virtual device.
    pub device: VecDeque<Vec<u8>>,
    pub device_waker: Option<Waker>,
    pub virtual_ip: Option<Ipv4Addr>,
    pub last_ip: Option<Ipv4Addr>,
    /// None of its tasks runs.
    pub asleep: bool,
    /// Wakes the node's tasks.
    pub sleeper: Option<Waker>,
    /// By how much its wall clock is wrong.
    pub skew_s: i64,
    pub socket_overflow: u64,
}

pub struct World {
    pub net: Net,
    pub rng: ChaCha12Rng,
    pub trace: Trace,
    pub streams: Streams,
    pub data_streams: DataStreams,
    pub infra: Infra,
    pub dht: Dht,
    pub game: Game,
    pub beacons: Beacons,
    pub ports: Vec<Ports>,
    pub ids: Vec<NodeId>,
    /// Nodes below this number are no strangers.
    pub honest: usize,
    /// Nodes that are relays and nothing else.
    pub relays: Vec<usize>,
    /// Members who lie about themselves and flood the others.
    pub liars: BTreeSet<usize>,
    /// Datagrams with which they did.
    pub flooded: u64,
    /// When each was told that he had joined, or created.
    pub joined: BTreeMap<usize, Duration>,
    pub seen: Seen,
    /// As they are configured; empty: nodes know no STUN server.
    pub stun_servers: Vec<String>,
    /// Whether nodes open many sockets to get through symmetric NATs.
    pub punching: bool,
    pub by_id: BTreeMap<NodeId, usize>,
    /// Parts of nodes that exist: each comes back to 0 when all nodes have ended.
    pub alive: i64,
    /// The last datagrams on the wire, where somebody listens.
    pub captured: Vec<Vec<u8>>,
    pub capture: bool,
    queue: BinaryHeap<Due>,
    order: u64,
    wake: Rc<Notify>,
    /// Digest of the traffic since the last summary.
    traffic: u64,
    deepest_queue: usize,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// # Panics
/// On a thread that runs no simulation, and when called from within itself.
pub fn with<T>(use_it: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| {
        let world = world.as_mut().expect("a part of the simulation runs on another thread than the simulation");
        use_it(world)
    })
}

/// For what is dropped after the world.
pub fn try_with(use_it: impl FnOnce(&mut World)) {
    let _ = WORLD.try_with(|world| {
        if let Ok(mut world) = world.try_borrow_mut()
            && let Some(world) = world.as_mut()
        {
            use_it(world);
        }
    });
}

pub fn install(world: World) {
    WORLD.with_borrow_mut(|slot| *slot = Some(world));
}

pub fn take() -> Option<World> {
    WORLD.with_borrow_mut(Option::take)
}

impl World {
    #[must_use]
    pub fn new(net: Net, rng: ChaCha12Rng, dht: Dht, game: Game) -> Self {
        Self {
            net,
            rng,
            trace: Trace::default(),
            streams: Streams::default(),
            data_streams: DataStreams::default(),
            infra: Infra::default(),
            dht,
            game,
            beacons: Beacons::default(),
            ports: Vec::new(),
            ids: Vec::new(),
            honest: 0,
            relays: Vec::new(),
            liars: BTreeSet::new(),
            flooded: 0,
            joined: BTreeMap::new(),
            seen: Seen::default(),
            stun_servers: Vec::new(),
            punching: true,
            by_id: BTreeMap::new(),
            alive: 0,
            captured: Vec::new(),
            capture: false,
            queue: BinaryHeap::new(),
            order: 0,
            wake: Rc::new(Notify::new()),
            traffic: 0,
            deepest_queue: 0,
        }
    }

    pub fn at(&mut self, at: Duration, event: Event) {
        let first = self.queue.peek().is_none_or(|due| at < due.at);
        self.order += 1;
        self.queue.push(Due { at, order: self.order, event });
        self.deepest_queue = self.deepest_queue.max(self.queue.len());
        if first {
            self.wake.notify_one();
        }
    }

    pub fn after(&mut self, wait: Duration, event: Event) {
        self.at(clock::elapsed() + wait, event);
    }

    /// Tells a node's discovery something after a time.
    pub fn tell(&mut self, wait: Duration, node: usize, heard: Heard) {
        let run = self.ports[node].run;
        self.after(wait, Event::Discovery(node, run, heard));
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.record(clock::elapsed(), what);
    }

    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    #[must_use]
    pub const fn deepest_queue(&self) -> usize {
        self.deepest_queue
    }

    /// A datagram leaves a node by the socket on `port`.
    pub fn send(&mut self, node: usize, port: u16, to: SocketAddr, bytes: Vec<u8>) {
        self.mix(node as u64, bytes.len() as u64);
        if self.capture {
            let slot = usize::try_from(self.net.counters.sent).unwrap_or(0) % CAPTURED;
            match self.captured.get_mut(slot) {
                Some(old) => old.clone_from(&bytes),
                None => self.captured.push(bytes.clone()),
            }
        }
        if let Some((at, flight)) = self.net.send(clock::elapsed(), node, port, to, bytes) {
            self.at(at, Event::Arrival(flight));
        }
    }

    fn mix(&mut self, node: u64, bytes: u64) {
        let now = u64::try_from(clock::elapsed().as_micros()).unwrap_or(u64::MAX);
        for value in [now, node, bytes] {
            self.traffic = (self.traffic ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival(mut flight) => {
                if let Some((node, port, from)) = self.net.arrive(clock::elapsed(), &flight) {
                    self.mix(!(node as u64), flight.bytes.len() as u64);
                    self.arrived(node, port, from, std::mem::take(&mut flight.bytes));
                }
            }
            Event::Discovery(node, run, heard) => {
                let port = &self.ports[node];
                if port.asleep {
                    self.after(Duration::from_secs(1), Event::Discovery(node, run, heard));
                } else if port.run == run
                    && let Some(discovery) = &port.discovery
                    && let Err(actix::dev::SendError::Full(heard)) = discovery.try_send(heard)
                {
                    self.after(Duration::from_millis(5), Event::Discovery(node, run, heard));
                }
            }
            Event::GameTick(node, run) => {
                if self.ports[node].run == run {
                    super::game::tick(self, node);
                }
            }
            Event::Beacon(node, run) => {
                if self.ports[node].run == run {
                    super::beacons::tick(self, node);
                }
            }
            Event::Storm(node) => super::beacons::burst(self, node),
            Event::Carried(stream, datagrams) => self.carried(stream, &datagrams),
            Event::Summary => {
                let (traffic, counters) = (self.traffic, self.net.counters);
                self.note(format_args!("traffic {traffic:016x} sent {} arrived {}", counters.sent, counters.arrived));
                self.after(Duration::from_secs(1), Event::Summary);
            }
        }
    }

    fn arrived(&mut self, node: usize, at_port: u16, from: SocketAddr, bytes: Vec<u8>) {
        if self.infra_arrived(node, at_port, from, &bytes) {
            return;
        }
        let port = &mut self.ports[node];
        let local = if at_port == DATA_PORT { Some(LocalSocket::MAIN) } else { port.locals.get(&at_port).copied() };
        let Some(local) = local.filter(|_| port.nat.is_some()) else {
            self.net.counters.no_such_address += 1;
            return;
        };
        if port.socket.len() >= SOCKET_BUFFER {
            port.socket_overflow += 1;
            return;
        }
        port.socket.push_back((local, from, bytes));
        if let Some(waker) = port.socket_waker.take() {
            waker.wake();
        }
    }
}

/// Makes everything happen when it is due; ends when `stop` is notified.
pub async fn run() {
    let wake = with(|world| world.wake.clone());
    loop {
        let next = with(|world| {
            let now = clock::elapsed();
            while let Some(due) = world.queue.pop() {
                if due.at > now {
                    let at = due.at;
                    world.queue.push(due);
                    return Some(at);
                }
                world.happen(due.event);
            }
            None
        });
        match next {
            Some(at) => {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(clock::instant(at)) => {}
                    () = wake.notified() => {}
                }
            }
            None => wake.notified().await,
        }
    }
}

//! TCP streams that carry datagrams where UDP is blocked: in order, with latency and the rate of a line, and the newest
//! first to stay when they are too slow. They break when a node dies or the network parts.
#![allow(missing_debug_implementations)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use lanrage_actors::discovery::messages::{
    CloseDataStream, DataStreamClosed, DataStreamOpened, FindRelays, OpenDataStream, RelayFound, SendOnStream,
    SetServing, StreamDatagrams,
};
use lanrage_actors::nat::NatActor;
use lanrage_actors::wire::{NodeId, PacketBatch};

use super::discovery::{Heard, SimDiscovery, multiaddr};
use super::world::{self, Event, World};
use super::{clock, streams};

/// Asked for again after this, when it did not come about.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes a second, and for how long a datagram may wait before newer ones take its place.
const RATE: f64 = 1_250_000.0;
const MAX_WAIT: Duration = Duration::from_millis(250);
/// The DHT is asked for relays this often at most.
const SEEK_EVERY: Duration = Duration::from_secs(600);

/// One end.
struct End {
    node: usize,
    run: u32,
    far: u64,
    free_at: Duration,
}

#[derive(Default)]
pub struct DataStreams {
    ends: BTreeMap<u64, End>,
    next: u64,
    pub dropped: u64,
}

impl DataStreams {
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn of(&self, node: usize) -> impl Iterator<Item = (u64, u64)> {
        self.ends.iter().filter(move |(_, end)| end.node == node).map(|(id, end)| (*id, end.far))
    }
}

/// A node that relays, as those who connect to it are told; `None` when it does not, or has no address that `asker` can
/// reach.
#[must_use]
pub fn relay_of(world: &World, asker: usize, relay: usize) -> Option<RelayFound> {
    let port = world.ports[relay].serving?;
    let (asking, site) = (&world.net.sites[asker], &world.net.sites[relay]);
    let ip = site.seen_by(asking)?;
    let others = site.homes.iter().map(|home| home.ip).filter(|other| *other != ip);
    Some(RelayFound {
        node: world.ids[relay],
        addr: SocketAddr::new(ip, port),
        tcp_addrs: vec![multiaddr(world, relay)],
        aliases: others.map(|ip| SocketAddr::new(ip, port)).collect(),
    })
}

fn reaches(world: &World, a: usize, b: usize) -> bool {
    let (a, b) = (&world.net.sites[a], &world.net.sites[b]);
    a.up && b.up && a.joined(b) && a.seen_by(b).is_some()
}

impl World {
    /// Datagrams out of a stream, at the other end.
    pub fn carried(&mut self, stream: u64, datagrams: &[Vec<u8>]) {
        let Some(end) = self.data_streams.ends.get(&stream) else { return };
        let port = &self.ports[end.node];
        if port.run != end.run || port.asleep || !self.net.sites[end.node].up {
            return;
        }
        let mut batch = PacketBatch::new();
        for datagram in datagrams {
            let _ = batch.push(datagram);
        }
        if let Some(nat) = &port.nat {
            // As discovery does it: what a full mailbox does not take is lost.
            let _ = nat.try_send(StreamDatagrams { stream, batch });
        }
    }

    fn close_data_stream(&mut self, stream: u64) {
        let Some(end) = self.data_streams.ends.remove(&stream) else { return };
        let port = &self.ports[end.node];
        if port.run == end.run
            && let Some(discovery) = &port.discovery
        {
            let _ = discovery.try_send(Heard::DataStreamEnded(stream));
        }
    }

    /// Both ends of all streams of a node, as it and the others will notice.
    pub fn close_data_streams_of(&mut self, node: usize) {
        for (own, far) in self.data_streams.of(node).collect::<Vec<_>>() {
            self.close_data_stream(own);
            self.close_data_stream(far);
        }
    }
}

/// What DiscoveryActor does for the data socket, of one node.
pub struct DataSide {
    node: usize,
    nat: Option<Addr<NatActor>>,
    /// Streams that are wanted, with the relay that each stands for, and the stream while it is open.
    wanted: BTreeMap<NodeId, (Option<SocketAddr>, Option<u64>)>,
    told: BTreeSet<NodeId>,
    sought: Option<Duration>,
}

impl DataSide {
    #[must_use]
    pub fn new(node: usize) -> Self {
        Self { node, nat: None, wanted: BTreeMap::new(), told: BTreeSet::new(), sought: None }
    }

    fn tell<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        NatActor: Handler<M>,
    {
        if let Some(nat) = &self.nat {
            let _ = nat.try_send(message);
        }
    }

    /// It may be a relay: it says so when it is connected.
    pub fn met(&mut self, node: usize) {
        if let Some(found) = world::with(|world| relay_of(world, self.node, node))
            && self.told.insert(found.node)
        {
            self.tell(found);
        }
    }

    pub fn try_open(&mut self, id: NodeId) {
        let Some((relay, None)) = self.wanted.get(&id).copied() else { return };
        let own = self.node;
        let opened = world::with(|world| {
            let far = world.by_id.get(&id).copied().filter(|far| reaches(world, own, *far));
            let Some(far) = far else {
                world.tell(RETRY, own, Heard::OpenDataStream(id));
                return None;
            };
            let (near_id, far_id) = (world.data_streams.next, world.data_streams.next + 1);
            world.data_streams.next += 2;
            for (id, node, other) in [(near_id, own, far_id), (far_id, far, near_id)] {
                let end = End { node, run: world.ports[node].run, far: other, free_at: Duration::ZERO };
                world.data_streams.ends.insert(id, end);
            }
            let node = world.ids[own];
            world.tell(Duration::from_millis(1), far, Heard::DataStreamIn { stream: far_id, node });
            world.note(format_args!("data stream {own} to {far}"));
            Some(near_id)
        });
        if let Some(stream) = opened {
            self.wanted.insert(id, (relay, Some(stream)));
            self.tell(DataStreamOpened { stream, node: id, inbound: false, relay });
        }
    }

    pub fn opened_by_other(&self, stream: u64, node: NodeId) {
        self.tell(DataStreamOpened { stream, node, inbound: true, relay: None });
    }

    pub fn ended(&mut self, stream: u64) {
        self.tell(DataStreamClosed { stream });
        let again = self.wanted.iter_mut().find(|(_, (_, open))| *open == Some(stream));
        if let Some((&id, (_, open))) = again {
            *open = None;
            world::with(|world| world.tell(RETRY, self.node, Heard::OpenDataStream(id)));
        }
    }

    fn seek(&mut self) {
        let now = clock::elapsed();
        if self.sought.is_some_and(|at| now < at + SEEK_EVERY) {
            return;
        }
        self.sought = Some(now);
        let own = self.node;
        world::with(|world| {
            let takes = world.dht.lookup_takes(&mut world.rng);
            if world.dht.bootstrap {
                let serving = (0..world.ports.len()).filter(|&node| node != own && world.ports[node].serving.is_some());
                let serving: Vec<usize> = serving.filter(|&node| reaches(world, own, node)).collect();
                world.tell(takes, own, Heard::Relays(serving));
            }
        });
    }
}

/// Handed over once the node's data socket exists.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindData(pub Addr<NatActor>);

impl Handler<BindData> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, BindData(nat): BindData, _: &mut Self::Context) {
        self.data.nat = Some(nat);
    }
}

impl Handler<OpenDataStream> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, OpenDataStream { node, relay, .. }: OpenDataStream, _: &mut Self::Context) {
        let open = self.data.wanted.get(&node).and_then(|(_, open)| *open);
        self.data.wanted.insert(node, (relay, open));
        let own = self.data.node;
        world::with(|world| {
            // TCP, noise, yamux, and the stream's own round trip.
            let wait = world.by_id.get(&node).map_or(RETRY, |&far| world.net.latency(own, far) * 10);
            world.tell(wait, own, Heard::OpenDataStream(node));
        });
    }
}

impl Handler<CloseDataStream> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, CloseDataStream(node): CloseDataStream, _: &mut Self::Context) {
        if let Some((_, Some(stream))) = self.data.wanted.remove(&node) {
            self.data.tell(DataStreamClosed { stream });
            world::with(|world| {
                if let Some(end) = world.data_streams.ends.remove(&stream) {
                    world.close_data_stream(end.far);
                }
            });
        }
    }
}

impl Handler<SendOnStream> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, SendOnStream { stream, datagrams }: SendOnStream, _: &mut Self::Context) {
        let now = clock::elapsed();
        let bytes: Vec<Vec<u8>> =
            datagrams.contents().chunks(datagrams.segment_size().max(1)).map(<[u8]>::to_vec).collect();
        world::with(|world| {
            let Some(end) = world.data_streams.ends.get_mut(&stream) else { return };
            if end.free_at.saturating_sub(now) > MAX_WAIT {
                world.data_streams.dropped += bytes.len() as u64;
                return;
            }
            #[allow(clippy::cast_precision_loss, reason = "a datagram's length")]
            let takes = Duration::from_secs_f64(bytes.iter().map(Vec::len).sum::<usize>() as f64 / RATE);
            end.free_at = end.free_at.max(now) + takes;
            let (at, far, own) = (end.free_at, end.far, end.node);
            let Some(other) = world.data_streams.ends.get(&far).map(|end| end.node) else { return };
            if reaches(world, own, other) {
                let latency = world.net.latency(own, other);
                world.at(at + latency, Event::Carried(far, bytes));
            }
        });
    }
}

impl Handler<SetServing> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, SetServing(port): SetServing, _: &mut Self::Context) {
        let own = self.data.node;
        let news = world::with(|world| {
            let news = world.ports[own].serving != port;
            world.ports[own].serving = port;
            news && port.is_some()
        });
        if news {
            // Those who are connected already are told.
            world::with(|world| {
                for node in world.streams.neighbours(own) {
                    world.tell(world.net.latency(own, node), node, Heard::Relays(vec![own]));
                }
            });
        }
    }
}

impl Handler<FindRelays> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, _: FindRelays, _: &mut Self::Context) {
        self.data.seek();
    }
}

/// Streams of a node that is gone without a word are noticed after a while.
pub fn die(node: usize) {
    actix::spawn(async move {
        tokio::time::sleep(streams::SILENT_DEATH).await;
        world::try_with(|world| world.close_data_streams_of(node));
    });
}

//! In DiscoveryActor's place: the shipped planner, which decides whom to dial, look up and publish, on a simulated DHT and
//! simulated connections.
#![allow(missing_debug_implementations)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use actix::prelude::*;
use lanrage_actors::discovery::Links;
use lanrage_actors::discovery::messages::{
    BootstrapView, CloseLink, DiscoveryView, GetDiscovery, LinkId, LinkOpened, OwnAddrs, Seek, SendFrame,
};
use lanrage_actors::discovery::planner::{Action, Planner};
use lanrage_actors::nat::messages::Networks;
use lanrage_actors::relay::messages::NetworkChanged;
use lanrage_actors::tun::messages::SetAddress;
use lanrage_actors::wire::NodeId;

use super::data_streams::DataSide;
use super::streams::{self, Incoming, Listener};
use super::world::{self, World};

/// DiscoveryActor's.
const MAILBOX: usize = 256;
const MAX_LINKS: usize = 600;
/// Nodes of the DHT that a node knows once it has reached a bootstrap peer.
const DHT_NODES: usize = 40;
const BOOTSTRAP_TAKES: Duration = Duration::from_millis(800);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const MDNS_TAKES: Duration = Duration::from_millis(300);

/// What happens to a node's discovery.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Heard {
    Lookup {
        providers: Vec<usize>,
        made_up: Vec<NodeId>,
    },
    Published([u8; 32]),
    BootstrapTried,
    Lan(Vec<usize>),
    Dialled(usize),
    DialFailed(NodeId),
    Connected(NodeId),
    Disconnected(NodeId),
    StreamReady(usize),
    StreamIn {
        node: NodeId,
        incoming: Incoming,
    },
    LinkEnded {
        link: LinkId,
        node: NodeId,
    },
    OpenDataStream(NodeId),
    DataStreamIn {
        stream: u64,
        node: NodeId,
    },
    DataStreamEnded(u64),
    /// They may be relays.
    Relays(Vec<usize>),
    Moved,
    Halt,
}

pub struct SimDiscovery {
    node: usize,
    pub data: DataSide,
    planner: Planner,
    /// `None` of a relay, which has no party.
    links: Option<Links>,
    /// Found in the DHT: the answer had its addresses.
    found: BTreeSet<usize>,
    connected: BTreeSet<usize>,
    open: usize,
    dht_nodes: usize,
    told: Vec<String>,
    timer: Option<(Instant, SpawnHandle)>,
    view: DiscoveryView,
}

/// Under which a node's swarm can be dialled (through a circuit relay when it has no public address: the simulation does
/// not tell them apart).
pub fn multiaddr(world: &World, node: usize) -> String {
    let home = world.net.sites[node].homes[0];
    let version = if home.ip.is_ipv4() { 4 } else { 6 };
    format!("/ip{version}/{}/tcp/4001/sim/{}", home.ip, home.realm)
}

fn reachable(world: &World, a: usize, b: usize) -> bool {
    let (a, b) = (&world.net.sites[a], &world.net.sites[b]);
    a.up && b.up && a.joined(b)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl SimDiscovery {
    #[must_use]
    pub fn new(node: usize, links: Option<Links>) -> Self {
        let id = world::with(|world| {
            world.alive += 1;
            world.ids[node]
        });
        Self {
            node,
            data: DataSide::new(node),
            planner: Planner::new(now(), id, true),
            links,
            found: BTreeSet::new(),
            connected: BTreeSet::new(),
            open: 0,
            dht_nodes: 0,
            told: Vec::new(),
            timer: None,
            view: DiscoveryView { dht_protocol: "simulated".into(), ..DiscoveryView::default() },
        }
    }

    fn drive(&mut self, ctx: &mut Context<Self>) {
        let now = now();
        for action in self.planner.tick(now) {
            world::with(|world| self.act(world, action));
        }
        let Some((due, _)) = self.planner.poll_timeout() else { return };
        if let Some((armed, handle)) = self.timer {
            if armed <= due && armed > now {
                return;
            }
            ctx.cancel_future(handle);
        }
        // At least a millisecond on: tokio's timers round.
        let wait = due.saturating_duration_since(now);
        let handle = ctx.run_later(wait, |actor, ctx| {
            actor.timer = None;
            actor.drive(ctx);
        });
        self.timer = Some((due, handle));
    }

    fn act(&mut self, world: &mut World, action: Action) {
        let own = self.node;
        match action {
            Action::Dial { node, addrs } => self.dial(world, node, &addrs),
            Action::OpenStream(id) => match world.by_id.get(&id).copied() {
                Some(node) => {
                    let wait = world.net.latency(own, node) * 3;
                    world.tell(wait, own, Heard::StreamReady(node));
                }
                None => world.tell(DIAL_TIMEOUT, own, Heard::DialFailed(id)),
            },
            Action::Lookup(key) => {
                let takes = world.dht.lookup_takes(&mut world.rng);
                let now = super::clock::elapsed();
                let (providers, lies) = world.dht.lookup(now, &key, &mut world.rng);
                let made_up = (0..lies).map(|_| NodeId(rand::Rng::random(&mut world.rng))).collect();
                self.view.lookups += 1;
                world.tell(takes, own, Heard::Lookup { providers, made_up });
            }
            Action::Publish(key) => {
                let takes = world.dht.publish_takes(&mut world.rng);
                world.tell(takes, own, Heard::Published(key));
            }
            // Records are left to age.
            Action::Unpublish(_) => {}
            Action::DialBootstrap => world.tell(BOOTSTRAP_TAKES, own, Heard::BootstrapTried),
            Action::QueryLan => {
                let lan = (0..world.net.sites.len())
                    .filter(|&other| other != own && world.net.same_lan(own, other) && reachable(world, own, other));
                let lan: Vec<usize> = lan.collect();
                if !lan.is_empty() {
                    world.tell(MDNS_TAKES, own, Heard::Lan(lan));
                }
            }
        }
    }

    fn dial(&self, world: &mut World, id: NodeId, addrs: &[String]) {
        let own = self.node;
        let Some(&node) = world.by_id.get(&id) else {
            world.tell(DIAL_TIMEOUT, own, Heard::DialFailed(id));
            return;
        };
        let known = self.found.contains(&node) || addrs.contains(&multiaddr(world, node));
        if known && reachable(world, own, node) {
            // TCP, noise, yamux.
            let wait = world.net.latency(own, node) * 8;
            world.tell(wait, own, Heard::Dialled(node));
        } else if known || !addrs.is_empty() {
            world.tell(DIAL_TIMEOUT, own, Heard::DialFailed(id));
        } else {
            world.tell(Duration::from_millis(1), own, Heard::DialFailed(id));
        }
    }

    fn stream_ready(&mut self, world: &mut World, node: usize) -> Option<(LinkOpened, Incoming)> {
        let (own, id) = (self.node, world.ids[node]);
        if !reachable(world, own, node) || self.open >= MAX_LINKS {
            self.connected.remove(&node);
            self.planner.disconnected(now(), id);
            self.planner.stream_failed(now(), id, false);
            return None;
        }
        let (mine, theirs) = world.streams.open(own, node);
        let own_id = world.ids[own];
        world.note(format_args!("stream {own} to {node}"));
        world.tell(Duration::from_millis(1), node, Heard::StreamIn { node: own_id, incoming: theirs });
        let remote_ip = world.net.sites[node].seen_by(&world.net.sites[own]);
        Some((LinkOpened { link: mine.link, node: id, outbound: true, remote_ip }, mine))
    }

    fn start_link(&mut self, opened: LinkOpened, incoming: Incoming, ctx: &Context<Self>) {
        let Some(links) = &self.links else {
            streams::refuse(incoming);
            return;
        };
        self.open += 1;
        self.planner.link_opened(now(), opened.node);
        let listener = Listener {
            opened: links.opened.clone(),
            frame: links.frame.clone(),
            closed: links.closed.clone(),
            discovery: ctx.address(),
        };
        actix::spawn(streams::run(incoming, opened, listener));
    }

    fn tell_own_addrs(&mut self) {
        let Some(links) = &self.links else { return };
        let addrs = vec![world::with(|world| multiaddr(world, self.node))];
        if addrs != self.told && links.own_addrs.try_send(OwnAddrs(addrs.clone())).is_ok() {
            self.told = addrs;
            self.planner.own_addrs_changed(now());
        }
    }

    fn bootstrap_tried(&mut self) {
        if world::with(|world| world.dht.bootstrap) {
            self.dht_nodes = DHT_NODES;
            self.planner.dht_size(now(), DHT_NODES);
            // Relays are what nodes enter the DHT by.
            let relays = world::with(|world| world.relays.clone());
            for relay in relays.into_iter().filter(|relay| *relay != self.node) {
                if world::with(|world| reachable(world, self.node, relay)) {
                    self.data.met(relay);
                }
            }
        }
    }
}

impl Drop for SimDiscovery {
    fn drop(&mut self) {
        world::try_with(|world| world.alive -= 1);
    }
}

impl Actor for SimDiscovery {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.tell_own_addrs();
        ctx.run_interval(Duration::from_secs(5), |actor, _| actor.tell_own_addrs());
        self.drive(ctx);
    }
}

impl Handler<Heard> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, heard: Heard, ctx: &mut Self::Context) {
        let now = now();
        let id_of = |node: usize| world::with(|world| world.ids[node]);
        match heard {
            Heard::Lookup { providers, made_up } => {
                self.view.lookups_with_result += u64::from(!providers.is_empty());
                for node in providers.into_iter().filter(|node| *node != self.node) {
                    self.found.insert(node);
                    self.planner.found(now, id_of(node), Vec::new());
                }
                for id in made_up {
                    self.planner.found(now, id, Vec::new());
                }
            }
            Heard::Published(key) => {
                self.view.published += 1;
                let node = self.node;
                world::with(|world| world.dht.published(super::clock::elapsed(), key, node, &mut world.rng));
            }
            Heard::BootstrapTried => self.bootstrap_tried(),
            Heard::Lan(nodes) => {
                for node in nodes {
                    let addr = world::with(|world| multiaddr(world, node));
                    self.planner.found(now, id_of(node), vec![addr]);
                }
            }
            Heard::Dialled(node) => {
                if world::with(|world| reachable(world, self.node, node)) {
                    self.connected.insert(node);
                    self.planner.connected(now, id_of(node));
                    self.data.met(node);
                    let own = id_of(self.node);
                    world::with(|world| world.tell(Duration::from_millis(1), node, Heard::Connected(own)));
                } else {
                    self.planner.dial_failed(now, id_of(node));
                }
            }
            Heard::DialFailed(id) => self.planner.dial_failed(now, id),
            Heard::Connected(id) => {
                if let Some(node) = world::with(|world| world.by_id.get(&id).copied()) {
                    self.connected.insert(node);
                    self.data.met(node);
                }
                self.planner.connected(now, id);
            }
            Heard::Disconnected(id) => self.planner.disconnected(now, id),
            Heard::StreamReady(node) => {
                if let Some((opened, incoming)) = world::with(|world| self.stream_ready(world, node)) {
                    self.start_link(opened, incoming, ctx);
                }
            }
            Heard::StreamIn { node, incoming } => {
                let remote_ip = None;
                let opened = LinkOpened { link: incoming.link, node, outbound: false, remote_ip };
                self.start_link(opened, incoming, ctx);
            }
            Heard::LinkEnded { node, .. } => {
                self.open = self.open.saturating_sub(1);
                self.planner.link_closed(now, node);
                let own = self.node;
                world::with(|world| {
                    if let Some(&other) = world.by_id.get(&node)
                        && !world.streams.between(own, other)
                        && !reachable(world, own, other)
                    {
                        world.tell(Duration::from_millis(1), own, Heard::Disconnected(node));
                    }
                });
            }
            Heard::OpenDataStream(id) => self.data.try_open(id),
            Heard::DataStreamIn { stream, node } => self.data.opened_by_other(stream, node),
            Heard::DataStreamEnded(stream) => self.data.ended(stream),
            Heard::Relays(nodes) => nodes.into_iter().for_each(|node| self.data.met(node)),
            Heard::Moved => self.tell_own_addrs(),
            Heard::Halt => {
                ctx.stop();
                return;
            }
        }
        self.drive(ctx);
    }
}

impl Handler<Seek> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, seek: Seek, ctx: &mut Self::Context) {
        self.planner.seek(now(), seek);
        self.drive(ctx);
    }
}

impl Handler<SendFrame> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, SendFrame { link, frame }: SendFrame, _: &mut Self::Context) {
        world::with(|world| world.send_frame(link, frame));
    }
}

impl Handler<CloseLink> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, CloseLink(link): CloseLink, _: &mut Self::Context) {
        world::with(|world| world.streams.close(link));
    }
}

impl Handler<SetAddress> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, _: SetAddress, _: &mut Self::Context) {}
}

impl Handler<NetworkChanged> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, _: NetworkChanged, ctx: &mut Self::Context) {
        self.planner.network_changed(now());
        self.drive(ctx);
    }
}

impl Handler<Networks> for SimDiscovery {
    type Result = ();

    fn handle(&mut self, _: Networks, _: &mut Self::Context) {}
}

impl Handler<GetDiscovery> for SimDiscovery {
    type Result = MessageResult<GetDiscovery>;

    fn handle(&mut self, _: GetDiscovery, _: &mut Self::Context) -> Self::Result {
        let reached = self.dht_nodes > 0;
        let addr = "/dns4/bootstrap.invalid/tcp/4001".to_owned();
        let last_error = (!reached).then(|| "no answer".to_owned());
        MessageResult(DiscoveryView {
            dht_nodes: self.dht_nodes,
            bootstrap: vec![BootstrapView { addr, reached, last_error }],
            ..self.view.clone()
        })
    }
}

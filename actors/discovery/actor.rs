#![allow(missing_debug_implementations, reason = "actix addresses and the swarm have no Debug")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, Swarm};
use libp2p_stream::{IncomingStreams, OpenStreamError};
use tokio::sync::mpsc;

use super::filter::{self, DialPolicy, Surroundings};
use super::messages::{
    BootstrapView, CloseLink, DiscoveryView, GetDiscovery, LinkClosed, LinkFrame, LinkId, LinkOpened, Listening,
    OwnAddrs, Seek, SendFrame,
};
use super::planner::{Action, MAX_ADDRS, Planner};
use super::reservations::Reservations;
use super::streams::{self, LinkListener, SEND_QUEUE};
use super::swarm::{Behaviour, PARTY_PROTOCOL};
use super::transport::Network;
use super::{DiscoveryConfig, swarm, udp};
use crate::nat::messages::Networks;
use crate::tun::messages::SetAddress;
use crate::wire::{Ipv4Range, NodeId};

const MAILBOX: usize = 256;
/// Swarm events before other actors get their turn.
const EVENTS_PER_POLL: usize = 64;
/// Links at once, proved or not: twice a full party.
const MAX_LINKS: usize = 600;

/// Why discovery cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("port {0} (TCP or UDP) is in use by another program; choose another with --p2p-port, or end that program")]
    PortInUse(u16),
    #[error("`{0}` is not a bootstrap address ({1}); it looks like /ip4/203.0.113.5/tcp/4001/p2p/12D3KooW…")]
    BadBootstrap(String, String),
    #[error("discovery could not start: {0}")]
    Other(#[from] io::Error),
}

/// Whom discovery talks to.
#[derive(Clone)]
pub struct Links {
    pub opened: Recipient<LinkOpened>,
    pub frame: Recipient<LinkFrame>,
    pub closed: Recipient<LinkClosed>,
    pub own_addrs: Recipient<OwnAddrs>,
}

/// Handed over once the other actors exist.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindDiscovery {
    /// Absent in a relay, which has no party.
    pub links: Option<Links>,
    /// Hears every multiaddr as soon as the node listens on it.
    pub listening: Option<Recipient<Listening>>,
}

pub(super) struct Bootstrap {
    pub(super) text: String,
    pub(super) peer: PeerId,
    pub(super) addr: Multiaddr,
    pub(super) reached: bool,
    pub(super) last_error: Option<String>,
}

/// Owns the swarm; carries out what the planner wants and tells it what happened.
pub struct DiscoveryActor {
    pub(super) config: DiscoveryConfig,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) planner: Planner,
    pub(super) reservations: Reservations,
    pub(super) reservation_listeners: HashMap<ListenerId, PeerId>,
    pub(super) bootstrap: Vec<Bootstrap>,
    policy: DialPolicy,
    /// A bootstrap peer on this very machine was asked for.
    pub(super) allow_loopback: bool,
    pub(super) party: Option<Ipv4Range>,
    incoming: Option<IncomingStreams>,
    links: Option<Links>,
    pub(super) listening: Option<Recipient<Listening>>,
    open: BTreeMap<LinkId, mpsc::Sender<Vec<u8>>>,
    next_link: u64,
    deferred: Vec<Action>,
    /// The last lookup reached nobody, and nobody of the DHT has been connected since.
    pub(super) dht_lost: bool,
    told: Vec<String>,
    /// Where each connected peer is.
    pub(super) remotes: BTreeMap<PeerId, Multiaddr>,
    own_address: Option<Addr<Self>>,
    /// Addresses that AutoNAT confirmed.
    pub(super) confirmed: BTreeSet<Multiaddr>,
    pub(super) view: DiscoveryView,
    pub(super) dropped_frames: u64,
    timer: Option<(Instant, SpawnHandle)>,
}

impl DiscoveryActor {
    /// Starts to listen. Must be called on the arbiter's runtime. `signing` is the Ed25519 seed of the node identity.
    ///
    /// # Errors
    /// When a bootstrap address is malformed, the port is taken or the system refuses.
    pub fn new(config: DiscoveryConfig, signing: [u8; 32]) -> Result<Self, DiscoveryError> {
        Self::build(config, signing, None)
    }

    /// The same on another network; `config.port` and `config.public_ips` do not matter there.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_network(config: DiscoveryConfig, signing: [u8; 32], network: Network) -> Result<Self, DiscoveryError> {
        Self::build(config, signing, Some(network))
    }

    fn build(config: DiscoveryConfig, signing: [u8; 32], network: Option<Network>) -> Result<Self, DiscoveryError> {
        let keypair = Keypair::ed25519_from_bytes(signing).map_err(io::Error::other)?;
        let local = keypair.public().to_peer_id();
        let own = node_id(&local).ok_or_else(|| io::Error::other("the identity is not Ed25519"))?;
        let bootstrap = config.bootstrap.iter().map(|text| parse_bootstrap(text)).collect::<Result<Vec<_>, _>>()?;
        let allow_loopback = bootstrap.iter().any(|b| filter::ip_of(&b.addr).is_some_and(|ip| ip.is_loopback()));
        let policy = DialPolicy::new(Surroundings {
            public_dht: config.on_public_dht(),
            allow_loopback,
            ..Surroundings::default()
        });
        let on_system = network.is_none();
        let mut swarm = swarm::build(&config, &keypair, &policy, network)?;
        if on_system {
            listen(&mut swarm, config.port)?;
            for ip in &config.public_ips {
                for addr in multiaddrs(*ip, config.port) {
                    swarm.add_external_address(addr);
                }
            }
        }
        let incoming = match config.role {
            super::Role::Node => {
                let accepted = swarm.behaviour().streams.new_control().accept(PARTY_PROTOCOL);
                Some(accepted.map_err(|_| io::Error::other("the party protocol is already registered"))?)
            }
            super::Role::Relay => None,
        };
        let now = now();
        Ok(Self {
            planner: Planner::new(now, own, !bootstrap.is_empty()),
            reservations: Reservations::new(now),
            reservation_listeners: HashMap::new(),
            view: DiscoveryView { dht_protocol: config.dht_protocol.clone(), ..DiscoveryView::default() },
            config,
            swarm,
            bootstrap,
            policy,
            allow_loopback,
            party: None,
            incoming,
            links: None,
            listening: None,
            open: BTreeMap::new(),
            next_link: 0,
            deferred: Vec::new(),
            dht_lost: false,
            told: Vec::new(),
            remotes: BTreeMap::new(),
            own_address: None,
            confirmed: BTreeSet::new(),
            dropped_frames: 0,
            timer: None,
        })
    }

    /// Lets due things happen, then arms one timer for the next.
    fn drive(&mut self, ctx: &mut Context<Self>) {
        let now = now();
        let mut actions = std::mem::take(&mut self.deferred);
        actions.extend(self.planner.tick(now));
        for action in actions {
            self.act(action, ctx);
        }
        for relay in self.reservations.tick(now) {
            self.reserve(relay);
        }
        let due = [self.planner.poll_timeout(), self.reservations.poll_timeout()].into_iter().flatten().min();
        let Some((due, _reason)) = due else { return };
        if let Some((armed, handle)) = self.timer {
            if armed <= due && armed > now {
                return;
            }
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(due.saturating_duration_since(now), |actor, ctx| {
            actor.timer = None;
            actor.drive(ctx);
        });
        self.timer = Some((due, handle));
    }

    /// Dials what was just found; everything else waits for the end of this round.
    pub(super) fn act_now(&mut self) {
        let actions = self.planner.tick(now());
        for action in actions {
            match action {
                Action::Dial { node, addrs } => self.dial(node, &addrs),
                Action::OpenStream(_)
                | Action::Lookup(_)
                | Action::Publish(_)
                | Action::Unpublish(_)
                | Action::DialBootstrap
                | Action::QueryLan => self.deferred.push(action),
            }
        }
    }

    fn act(&mut self, action: Action, ctx: &mut Context<Self>) {
        let kad = |key: [u8; 32]| libp2p::kad::RecordKey::new(&key);
        match action {
            Action::Dial { node, addrs } => self.dial(node, &addrs),
            Action::OpenStream(node) => self.open_stream(node, ctx),
            Action::Lookup(key) => {
                self.swarm.behaviour_mut().kad.get_providers(kad(key));
            }
            Action::Publish(key) => {
                if let Err(error) = self.swarm.behaviour_mut().kad.start_providing(kad(key)) {
                    tracing::warn!(%error, "the party could not be published");
                }
            }
            Action::Unpublish(key) => self.swarm.behaviour_mut().kad.stop_providing(&kad(key)),
            Action::DialBootstrap => self.dial_bootstrap(),
            Action::QueryLan => {
                if self.config.mdns {
                    udp::ask_local_network(self.swarm.listeners().filter_map(filter::ip_of));
                }
            }
        }
    }

    fn dial(&mut self, node: NodeId, addrs: &[String]) {
        let Some(peer) = peer_id(node) else { return };
        if self.swarm.is_connected(&peer) {
            self.planner.connected(now(), node);
            return;
        }
        let addrs: Vec<Multiaddr> = addrs.iter().filter_map(|addr| addr.parse().ok()).collect();
        let opts = DialOpts::peer_id(peer)
            .addresses(addrs)
            .extend_addresses_through_behaviour()
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%node, %error, "not dialled");
            self.planner.dial_failed(now(), node);
        }
    }

    fn dial_bootstrap(&mut self) {
        for index in 0..self.bootstrap.len() {
            let (peer, addr) = (self.bootstrap[index].peer, self.bootstrap[index].addr.clone());
            // It enters the routing table once it is connected and turns out to speak the protocol.
            let opts = DialOpts::peer_id(peer).addresses(vec![addr]).build();
            if let Err(error) = self.swarm.dial(opts) {
                self.bootstrap[index].last_error = Some(error.to_string());
            }
        }
    }

    fn reserve(&mut self, relay: PeerId) {
        let Some(addr) = self.remotes.get(&relay).map(filter::without_peer) else {
            self.reservations.gone(relay);
            return;
        };
        let addr = addr.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(addr) {
            Ok(listener) => {
                self.reservation_listeners.insert(listener, relay);
            }
            Err(error) => {
                tracing::debug!(%relay, %error, "no reservation");
                self.reservations.lost(now(), relay);
            }
        }
    }

    fn open_stream(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let Some(peer) = peer_id(node) else { return };
        let mut control = self.swarm.behaviour().streams.new_control();
        let open = async move { control.open_stream(peer, PARTY_PROTOCOL).await };
        ctx.spawn(open.into_actor(self).map(move |opened, actor, ctx| {
            match opened {
                Ok(stream) => actor.add_link(node, stream, true),
                Err(error) => {
                    tracing::debug!(%node, %error, "no party stream");
                    let unsupported = matches!(error, OpenStreamError::UnsupportedProtocol(_));
                    actor.planner.stream_failed(now(), node, unsupported);
                }
            }
            actor.drive(ctx);
        }));
    }

    fn add_link(&mut self, node: NodeId, stream: libp2p::Stream, outbound: bool) {
        let Some(links) = self.links.clone().filter(|_| self.open.len() < MAX_LINKS) else {
            self.planner.stream_failed(now(), node, false);
            return;
        };
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let (sender, receiver) = mpsc::channel(SEND_QUEUE);
        self.open.insert(link, sender);
        self.planner.link_opened(now(), node);
        let opened = LinkOpened { link, node, outbound, remote_ip: self.remote_ip(node) };
        let listener = LinkListener { opened: links.opened, frame: links.frame, closed: links.closed };
        let own = self.own_address.clone();
        actix::spawn(async move {
            streams::run(stream, opened, receiver, listener).await;
            if let Some(own) = own {
                let _ = own.send(LinkEnded { link, node }).await;
            }
        });
    }

    fn poll_incoming(&mut self, cx: &mut TaskContext<'_>) {
        while let Some(Poll::Ready(Some((peer, stream)))) =
            self.incoming.as_mut().map(|incoming| incoming.poll_next_unpin(cx))
        {
            if let Some(node) = node_id(&peer) {
                self.add_link(node, stream, false);
            }
        }
    }

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
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) fn node_id(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes()).ok()
}

fn peer_id(node: NodeId) -> Option<PeerId> {
    PeerId::from_bytes(&node.to_peer_id_bytes()).ok()
}

fn parse_bootstrap(text: &str) -> Result<Bootstrap, DiscoveryError> {
    let bad = |why: &str| DiscoveryError::BadBootstrap(text.to_owned(), why.to_owned());
    let mut addr: Multiaddr = text.parse().map_err(|error: libp2p::multiaddr::Error| bad(&error.to_string()))?;
    match addr.pop() {
        Some(Protocol::P2p(peer)) => {
            Ok(Bootstrap { text: text.to_owned(), peer, addr, reached: false, last_error: None })
        }
        Some(_) | None => Err(bad("it does not end in /p2p/ and a PeerId")),
    }
}

fn multiaddrs(ip: std::net::IpAddr, port: u16) -> [Multiaddr; 2] {
    let base = Multiaddr::from(ip);
    [base.clone().with(Protocol::Udp(port)).with(Protocol::QuicV1), base.with(Protocol::Tcp(port))]
}

fn listen(swarm: &mut Swarm<Behaviour>, port: u16) -> Result<(), DiscoveryError> {
    let in_use = |error: &libp2p::TransportError<io::Error>| match error {
        libp2p::TransportError::Other(error) => {
            error.kind() == io::ErrorKind::AddrInUse || error.to_string().contains("in use")
        }
        libp2p::TransportError::MultiaddrNotSupported(_) => false,
    };
    for addr in multiaddrs(std::net::Ipv4Addr::UNSPECIFIED.into(), port) {
        if let Err(error) = swarm.listen_on(addr) {
            return Err(if in_use(&error) {
                DiscoveryError::PortInUse(port)
            } else {
                DiscoveryError::Other(io::Error::other(error.to_string()))
            });
        }
    }
    for addr in multiaddrs(std::net::Ipv6Addr::UNSPECIFIED.into(), port) {
        if let Err(error) = swarm.listen_on(addr) {
            tracing::debug!(%error, "no IPv6 for discovery");
        }
    }
    Ok(())
}

/// A link's task is over.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LinkEnded {
    link: LinkId,
    node: NodeId,
}

impl Actor for DiscoveryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.own_address = Some(ctx.address());
        ctx.spawn(SwarmLoop);
        // Bootstrap peers that were reached late, and addresses that a full mailbox did not take.
        ctx.run_interval(Duration::from_secs(5), |actor, _| actor.tell_own_addrs());
        self.drive(ctx);
    }
}

/// Polls the swarm with the actor at hand.
struct SwarmLoop;

impl ActorFuture<DiscoveryActor> for SwarmLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut DiscoveryActor,
        ctx: &mut Context<DiscoveryActor>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let mut events = 0;
        while let Poll::Ready(Some(event)) = actor.swarm.poll_next_unpin(cx) {
            actor.on_swarm_event(event);
            events += 1;
            if events >= EVENTS_PER_POLL {
                cx.waker().wake_by_ref();
                break;
            }
        }
        actor.poll_incoming(cx);
        actor.drive(ctx);
        Poll::Pending
    }
}

impl Handler<BindDiscovery> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, bind: BindDiscovery, _: &mut Self::Context) {
        self.links = bind.links;
        self.listening = bind.listening;
        // The swarm listens from the start: what it reported before there was anybody to tell.
        for address in self.swarm.listeners().cloned().collect::<Vec<_>>() {
            self.tell_listening(&address);
        }
        self.told.clear();
        self.tell_own_addrs();
    }
}

impl Handler<Seek> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, seek: Seek, ctx: &mut Self::Context) {
        self.planner.seek(now(), seek);
        self.drive(ctx);
    }
}

impl Handler<SendFrame> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, SendFrame { link, frame }: SendFrame, _: &mut Self::Context) {
        let Some(sender) = self.open.get(&link) else { return };
        if sender.try_send(frame).is_err() {
            // Too slow to keep up, or gone: without one frame the rest would make no sense.
            self.dropped_frames += 1;
            self.open.remove(&link);
        }
    }
}

impl Handler<CloseLink> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, CloseLink(link): CloseLink, _: &mut Self::Context) {
        self.open.remove(&link);
    }
}

impl Handler<LinkEnded> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, ended: LinkEnded, ctx: &mut Self::Context) {
        self.open.remove(&ended.link);
        self.planner.link_closed(now(), ended.node);
        self.drive(ctx);
    }
}

/// Addresses inside the party's range lead into the tunnel itself: neither dialled nor told.
impl Handler<SetAddress> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, _: &mut Self::Context) {
        self.party = address.map(|address| address.range);
        self.policy.update(|surroundings| surroundings.party = self.party);
        self.tell_own_addrs();
    }
}

impl Handler<Networks> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, Networks(networks): Networks, _: &mut Self::Context) {
        self.policy.update(|surroundings| surroundings.networks = networks);
    }
}

impl Handler<GetDiscovery> for DiscoveryActor {
    type Result = MessageResult<GetDiscovery>;

    fn handle(&mut self, _: GetDiscovery, _: &mut Self::Context) -> Self::Result {
        let own = *self.swarm.local_peer_id();
        let full = |addr: &Multiaddr| filter::without_peer(addr).with(Protocol::P2p(own)).to_string();
        MessageResult(DiscoveryView {
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
            ..self.view.clone()
        })
    }
}

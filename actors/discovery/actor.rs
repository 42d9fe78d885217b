#![allow(missing_debug_implementations, reason = "actix addresses and the swarm have no Debug")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::kad::QueryId;
use libp2p::{Multiaddr, PeerId, Swarm};
use libp2p_stream::IncomingStreams;
use tokio::sync::mpsc;

use super::data::actor::DataStreams;
use super::filter::{self, DialPolicy, Surroundings};
use super::messages::{
    DiscoveryView, GetDiscovery, LinkClosed, LinkFrame, LinkId, LinkOpened, Listening, OwnAddrs, Seek,
};
use super::planner::{Action, Planner};
use super::relays::Relays;
use super::reservations::Reservations;
use super::setup::{self, Bootstrap, DiscoveryError};
use super::swarm::{Behaviour, PARTY_PROTOCOL};
use super::transport::Network;
use super::{DiscoveryConfig, swarm, udp};
use crate::nat::messages::Networks;
use crate::relay::messages::NetworkChanged;
use crate::tun::messages::SetAddress;
use crate::wire::{Ipv4Range, NodeId};

const MAILBOX: usize = 256;
/// Swarm events before other actors get their turn.
const EVENTS_PER_POLL: usize = 64;

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

/// Owns the swarm; carries out what the planner wants and tells it what happened.
pub struct DiscoveryActor {
    pub(super) config: DiscoveryConfig,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) planner: Planner,
    pub(super) reservations: Reservations,
    pub(super) reservation_listeners: HashMap<ListenerId, PeerId>,
    pub(super) bootstrap: Vec<Bootstrap>,
    pub(super) policy: DialPolicy,
    /// A bootstrap peer on this very machine was asked for.
    pub(super) allow_loopback: bool,
    pub(super) party: Option<Ipv4Range>,
    pub(super) incoming: Option<IncomingStreams>,
    pub(super) links: Option<Links>,
    pub(super) listening: Option<Recipient<Listening>>,
    pub(super) open: BTreeMap<LinkId, mpsc::Sender<Vec<u8>>>,
    pub(super) next_link: u64,
    deferred: Vec<Action>,
    /// The last lookup reached nobody, and nobody of the DHT has been connected since.
    pub(super) dht_lost: bool,
    pub(super) told: Vec<String>,
    /// Where each connected peer is.
    pub(super) remotes: BTreeMap<PeerId, Multiaddr>,
    pub(super) own_address: Option<Addr<Self>>,
    /// Addresses that AutoNAT confirmed.
    pub(super) confirmed: BTreeSet<Multiaddr>,
    pub(super) view: DiscoveryView,
    pub(super) dropped_frames: u64,
    pub(super) data: DataStreams,
    pub(super) relays: Relays,
    pub(super) relay_lookup: Option<QueryId>,
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
        let bootstrap =
            config.bootstrap.iter().map(|text| setup::parse_bootstrap(text)).collect::<Result<Vec<_>, _>>()?;
        let allow_loopback = bootstrap.iter().any(|b| filter::ip_of(&b.addr).is_some_and(|ip| ip.is_loopback()));
        let policy = DialPolicy::new(Surroundings {
            public_dht: config.on_public_dht(),
            allow_loopback,
            ..Surroundings::default()
        });
        let on_system = network.is_none();
        let mut swarm = swarm::build(&config, &keypair, &policy, network)?;
        if on_system {
            setup::listen(&mut swarm, &config)?;
        }
        let incoming = match config.role {
            super::Role::Node => {
                let accepted = swarm.behaviour().streams.new_control().accept(PARTY_PROTOCOL);
                Some(accepted.map_err(|_| io::Error::other("the party protocol is already registered"))?)
            }
            super::Role::Relay => None,
        };
        let now = now();
        let mut relays = Relays::new(own);
        relays.set_reachable(config.role == super::Role::Relay);
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
            // Room for as many as there can be streams in one run.
            data: DataStreams::starting_at(rand::random::<u64>() >> 1),
            relays,
            relay_lookup: None,
            timer: None,
        })
    }

    /// Lets due things happen, then arms one timer for the next.
    pub(super) fn drive(&mut self, ctx: &mut Context<Self>) {
        let now = now();
        let mut actions = std::mem::take(&mut self.deferred);
        actions.extend(self.planner.tick(now));
        for action in actions {
            self.act(action, ctx);
        }
        for relay in self.reservations.tick(now) {
            self.reserve(relay);
        }
        self.drive_data(now);
        let dht = self.drive_relays(now);
        let due = [
            self.planner.poll_timeout(),
            self.reservations.poll_timeout(),
            self.data.plan.poll_timeout(),
            self.relays.poll_timeout(dht),
        ];
        let due = due.into_iter().flatten().min();
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
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn node_id(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes()).ok()
}

pub(super) fn peer_id(node: NodeId) -> Option<PeerId> {
    PeerId::from_bytes(&node.to_peer_id_bytes()).ok()
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

impl Handler<NetworkChanged> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, _: NetworkChanged, ctx: &mut Self::Context) {
        self.planner.network_changed(now());
        self.drive(ctx);
    }
}

impl Handler<GetDiscovery> for DiscoveryActor {
    type Result = MessageResult<GetDiscovery>;

    fn handle(&mut self, _: GetDiscovery, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.view())
    }
}

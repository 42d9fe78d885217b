#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::actor::{PeerActor, PeerLinks};
use super::machine::{OwnIdentity, PeerMachine};
use super::messages::{
    GetPeers, PeerSpec, PeerTuning, PeerView, Ping, PingError, Punch, Redundancy, SetPeers, SetRedundancy, SetTuning,
};
use super::replay::first_ping_id;
use crate::broadcast::messages::FromMember;
use crate::metrics::messages::{Event, Happened};
use crate::nat::messages::{Doubt, Networks, OwnContact, PeerRoute, Register, Transmit, Unregister};
use crate::relay::messages::{FarLeg, MemberRelays, NetworkChanged};
use crate::tun::messages::{AddRoute, Deliver, RemoveRoute, SetAddress};
use crate::wire::{Contact, Ipv4Range, LocalNetworks, NodeId, Ticket};

/// One `Died` for each of 255 peers, and a few questions.
const MAILBOX: usize = 512;
/// A peer that panics again and again is restarted ever more slowly.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A PeerActor whose end was not told is found by this.
const SWEEP: Duration = Duration::from_secs(2);
/// Routes that did not get through to a busy mailbox are sent again with this.
const RETRY: Duration = Duration::from_millis(50);

/// A PeerActor is gone; `incarnation` tells a late message from one about the actor that runs now.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(super) struct Died {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
}

/// New facts for a running PeerActor.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Update {
    pub(super) own_ip: Ipv4Addr,
    pub(super) range: Option<Ipv4Range>,
    pub(super) spec: PeerSpec,
}

/// End: the member is no longer in the party.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

#[derive(Message)]
#[rtype(result = "PeerState")]
pub(super) struct ReportState;

pub(super) struct PeerState {
    pub(super) view: PeerView,
}

/// Whom the supervisor talks to.
#[derive(Clone)]
pub struct Links {
    pub transmit: Recipient<Transmit>,
    pub register: Recipient<Register>,
    pub unregister: Recipient<Unregister>,
    pub deliver: Recipient<Deliver>,
    pub add_route: Recipient<AddRoute>,
    pub remove_route: Recipient<RemoveRoute>,
    /// `None` where broadcasts are not carried.
    pub broadcast: Option<Broadcast>,
    /// `None` where there are no relays.
    pub relays: Option<Recipient<MemberRelays>>,
    /// Who keeps the history; `None` where nobody does.
    pub events: Option<Recipient<Happened>>,
    /// Who finds out whether this machine is still where others think; `None` where nobody does.
    pub doubt: Option<Recipient<Doubt>>,
}

/// The BroadcastActor, which hears the members' broadcasts and has to know the members.
#[derive(Clone)]
pub struct Broadcast {
    pub from_member: Recipient<FromMember>,
    pub add_route: Recipient<AddRoute>,
    pub remove_route: Recipient<RemoveRoute>,
}

impl Links {
    /// Makes device and broadcasts forget `ip`; false when one of them had no room for it.
    fn remove(&self, ip: Ipv4Addr) -> bool {
        let quiet = self.broadcast.as_ref().is_none_or(|to| to.remove_route.try_send(RemoveRoute { ip }).is_ok());
        self.remove_route.try_send(RemoveRoute { ip }).is_ok() && quiet
    }
}

/// Handed over once all actors of the data path exist.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindPeers(pub Links);

/// Who opens sockets for punching; peers that are started before this is handed over do without.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BindPunch(pub Recipient<Punch>);

/// End, with all PeerActors, as when the program is killed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Halt;

struct Peer {
    spec: PeerSpec,
    addr: Option<Addr<PeerActor>>,
    route: PeerRoute,
    incarnation: u64,
    restarts: u32,
    redundancy: Redundancy,
}

/// Starts, updates, restarts and stops the PeerActors, so that they are those of the roster.
pub struct PeerSupervisor {
    own: OwnIdentity,
    own_ip: Option<Ipv4Addr>,
    range: Option<Ipv4Range>,
    networks: LocalNetworks,
    contact: Contact,
    links: Option<Links>,
    punch: Option<Recipient<Punch>>,
    peers: BTreeMap<NodeId, Peer>,
    /// Of the running games, for all peers.
    tuning: PeerTuning,
    incarnations: u64,
    rng: StdRng,
    relays_told: Option<MemberRelays>,
}

impl PeerSupervisor {
    /// `seed`: for receiver indices and nonces, from a secure source.
    #[must_use]
    pub fn new(own: OwnIdentity, seed: [u8; 32]) -> Self {
        Self {
            own,
            own_ip: None,
            range: None,
            networks: LocalNetworks::default(),
            contact: Contact::default(),
            links: None,
            punch: None,
            peers: BTreeMap::new(),
            tuning: PeerTuning::default(),
            incarnations: 0,
            rng: StdRng::from_seed(seed),
            relays_told: None,
        }
    }

    fn start(&mut self, spec: PeerSpec, restarts: u32, ctx: &mut Context<Self>) {
        let (Some(links), Some(own_ip)) = (self.links.clone(), self.own_ip) else { return };
        self.incarnations += 1;
        let index = loop {
            let index = self.rng.random::<u32>() >> 8;
            if !self.peers.values().any(|peer| peer.route.index == index) {
                break index;
            }
        };
        let node = spec.node;
        let mut machine = PeerMachine::new(
            now(),
            &self.own,
            own_ip,
            spec.clone(),
            self.networks.clone(),
            index,
            first_ping_id(unix_ms()),
            self.rng.random(),
        )
        .with_contact(now(), self.contact.clone());
        machine.set_range(self.range);
        let route = PeerRoute { index, probe_tag: machine.probe_tag(), wg_key: spec.wg_key };
        let died = Died { node, incarnation: self.incarnations };
        let peer_links = PeerLinks {
            nat: links.transmit,
            tun: links.deliver,
            broadcast: links.broadcast.map(|broadcast| broadcast.from_member),
            punch: self.punch.clone(),
            events: links.events,
            doubt: links.doubt,
            index,
        };
        let addr = PeerActor::new(machine, peer_links, ctx.address().recipient(), died, restarts).start();
        let redundancy = self.peers.get(&node).map_or_else(Redundancy::default, |peer| peer.redundancy);
        let peer = Peer { spec, addr: Some(addr), route, incarnation: self.incarnations, restarts, redundancy };
        self.peers.insert(node, peer);
        self.tell_redundancy(node, ctx);
        self.tell_tuning(node, ctx);
        self.connect(node, ctx);
    }

    /// Makes the device and the socket know the peer's actor.
    fn connect(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let (Some(links), Some(peer)) = (&self.links, self.peers.get(&node)) else { return };
        let Some(addr) = &peer.addr else { return };
        let register = Register { route: peer.route, inbound: addr.clone().recipient() };
        let add = || AddRoute { ip: peer.spec.virtual_ip, peer: addr.clone().recipient() };
        let carried = links.broadcast.as_ref().is_none_or(|to| to.add_route.try_send(add()).is_ok());
        if links.register.try_send(register).is_err() || links.add_route.try_send(add()).is_err() || !carried {
            ctx.run_later(RETRY, move |actor, ctx| actor.connect(node, ctx));
        }
    }

    fn disconnect(&self, route: PeerRoute, ip: Ipv4Addr, ctx: &mut Context<Self>) {
        let Some(links) = &self.links else { return };
        // Another peer may own the address by now.
        let owned = self.peers.values().any(|peer| peer.spec.virtual_ip == ip);
        let unregistered = links.unregister.try_send(Unregister { route }).is_ok();
        let removed = owned || links.remove(ip);
        if !unregistered || !removed {
            ctx.run_later(RETRY, move |actor, ctx| actor.disconnect(route, ip, ctx));
        }
    }

    fn stop(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        if let Some(peer) = self.peers.remove(&node) {
            self.disconnect(peer.route, peer.spec.virtual_ip, ctx);
            if let Some(addr) = peer.addr {
                end(addr, ctx);
            }
        }
    }

    fn on_died(&mut self, died: Died, ctx: &mut Context<Self>) {
        let Some(peer) = self.peers.get_mut(&died.node).filter(|peer| peer.incarnation == died.incarnation) else {
            return;
        };
        if peer.addr.take().is_none() {
            return;
        }
        peer.restarts = peer.restarts.saturating_add(1);
        let (restarts, route, ip) = (peer.restarts, peer.route, peer.spec.virtual_ip);
        let wait = RESTART_FIRST.saturating_mul(1 << (restarts - 1).min(10)).min(RESTART_MAX);
        tracing::error!(peer = %peer.spec.name, restarts, ?wait, "the actor of this peer failed; restarting it, the others go on");
        let Some(links) = &self.links else { return };
        let _ = links.unregister.try_send(Unregister { route });
        let _ = links.remove(ip);
        let reason = "a fault in LANrage; starting it again".to_owned();
        let event = Event::PeerDisconnected { peer: peer.spec.name.clone(), virtual_ip: ip, reason };
        // The log above has it too.
        let _ = links.events.as_ref().map(|events| events.try_send(Happened(event)));
        ctx.run_later(wait, move |actor, ctx| {
            let dead = actor.peers.get(&died.node).filter(|peer| peer.incarnation == died.incarnation);
            if let Some(spec) = dead.map(|peer| peer.spec.clone()) {
                actor.start(spec, restarts, ctx);
            }
        });
    }

    /// Tells the peer's actor what the roster says now; a busy one a moment later.
    fn update(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let (Some(peer), Some(own_ip)) = (self.peers.get(&node), self.own_ip) else { return };
        let Some(addr) = &peer.addr else { return };
        if let Err(SendError::Full(_)) = addr.try_send(Update { own_ip, range: self.range, spec: peer.spec.clone() }) {
            ctx.run_later(RETRY, move |actor, ctx| actor.update(node, ctx));
        }
    }

    fn tell_networks(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let Some(addr) = self.peers.get(&node).and_then(|peer| peer.addr.as_ref()) else { return };
        if let Err(SendError::Full(_)) = addr.try_send(Networks(self.networks.clone())) {
            ctx.run_later(RETRY, move |actor, ctx| actor.tell_networks(node, ctx));
        }
    }

    fn tell_contact(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let Some(addr) = self.peers.get(&node).and_then(|peer| peer.addr.as_ref()) else { return };
        if let Err(SendError::Full(_)) = addr.try_send(OwnContact(self.contact.clone())) {
            ctx.run_later(RETRY, move |actor, ctx| actor.tell_contact(node, ctx));
        }
    }

    /// The relays that members are, and those that they hold tickets of.
    fn tell_relays(&mut self, ctx: &mut Context<Self>) {
        let Some(relays) = self.links.as_ref().and_then(|links| links.relays.clone()) else { return };
        // This machine is no relay for itself, though others may hold its tickets.
        let other = |addr: &SocketAddr| !self.contact.is_at(addr);
        let serving = self.peers.values().filter_map(|peer| peer.spec.contact.serves);
        let serving: BTreeSet<SocketAddr> = serving.filter(other).collect();
        let leg =
            |ticket: &Ticket| FarLeg { relay: ticket.relay, rtt: Duration::from_micros(u64::from(ticket.rtt) * 100) };
        let tickets = self.peers.values().flat_map(|peer| &peer.spec.contact.tickets);
        let legs = tickets.filter(|it| other(&it.relay)).map(leg).collect();
        let news = MemberRelays { serving: serving.into_iter().collect(), legs };
        if self.relays_told.as_ref() == Some(&news) {
            return;
        }
        match relays.try_send(news.clone()) {
            Ok(()) => self.relays_told = Some(news),
            Err(_) => {
                ctx.run_later(RETRY, Self::tell_relays);
            }
        }
    }

    fn tell_redundancy(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let Some(peer) = self.peers.get(&node) else { return };
        let Some(addr) = &peer.addr else { return };
        if let Err(SendError::Full(_)) = addr.try_send(SetRedundancy { node, redundancy: peer.redundancy }) {
            ctx.run_later(RETRY, move |actor, ctx| actor.tell_redundancy(node, ctx));
        }
    }

    fn tell_tuning(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let Some(addr) = self.peers.get(&node).and_then(|peer| peer.addr.as_ref()) else { return };
        if let Err(SendError::Full(_)) = addr.try_send(SetTuning(self.tuning)) {
            ctx.run_later(RETRY, move |actor, ctx| actor.tell_tuning(node, ctx));
        }
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let dead: Vec<Died> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.addr.as_ref().is_some_and(|addr| !addr.connected()))
            .map(|(&node, peer)| Died { node, incarnation: peer.incarnation })
            .collect();
        for died in dead {
            self.on_died(died, ctx);
        }
    }
}

/// A PeerActor has a timer always and so would outlive its addresses.
fn end(addr: Addr<PeerActor>, ctx: &mut Context<PeerSupervisor>) {
    if let Err(SendError::Full(_)) = addr.try_send(Stop) {
        ctx.run_later(RETRY, move |_, ctx| end(addr, ctx));
    }
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Actor for PeerSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(SWEEP, Self::sweep);
    }
}

impl Handler<BindPeers> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, BindPeers(links): BindPeers, _: &mut Self::Context) {
        self.links = Some(links);
    }
}

impl Handler<Halt> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        for addr in self.peers.values().filter_map(|peer| peer.addr.clone()) {
            // Waits for room in the mailbox, wherever this actor is by then.
            actix::spawn(async move {
                let _ = addr.send(Stop).await;
            });
        }
        ctx.stop();
    }
}

impl Handler<Died> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, died: Died, ctx: &mut Self::Context) {
        self.on_died(died, ctx);
    }
}

impl Handler<SetPeers> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, set: SetPeers, ctx: &mut Self::Context) {
        // The own address is in every machine: with another one all start anew.
        let moved = self.own_ip != set.own_ip;
        self.own_ip = set.own_ip;
        let gone: Vec<NodeId> = self
            .peers
            .keys()
            .filter(|node| set.own_ip.is_none() || !set.peers.iter().any(|spec| spec.node == **node))
            .copied()
            .collect();
        for node in gone {
            self.stop(node, ctx);
        }
        if set.own_ip.is_none() {
            self.tell_relays(ctx);
            return;
        }
        for spec in set.peers {
            let Some(peer) = self.peers.get_mut(&spec.node) else {
                self.start(spec, 0, ctx);
                continue;
            };
            let same_keys = peer.spec.wg_key == spec.wg_key && peer.spec.psk == spec.psk;
            let same_ip = peer.spec.virtual_ip == spec.virtual_ip && !moved;
            if same_keys && same_ip {
                if peer.spec != spec {
                    let node = spec.node;
                    peer.spec = spec;
                    self.update(node, ctx);
                }
            } else {
                // New keys change the probe tag and the tunnel: a new actor is simpler than one that changes its skin.
                let node = spec.node;
                let restarts = peer.restarts;
                self.stop(node, ctx);
                self.start(spec, restarts, ctx);
            }
        }
        self.tell_relays(ctx);
    }
}

impl Handler<SetAddress> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, ctx: &mut Self::Context) {
        let range = address.map(|address| address.range);
        if self.range != range {
            self.range = range;
            for node in self.peers.keys().copied().collect::<Vec<_>>() {
                self.update(node, ctx);
            }
        }
    }
}

impl Handler<Networks> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, Networks(networks): Networks, ctx: &mut Self::Context) {
        self.networks = networks;
        for node in self.peers.keys().copied().collect::<Vec<_>>() {
            self.tell_networks(node, ctx);
        }
    }
}

impl Handler<NetworkChanged> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, _: NetworkChanged, _: &mut Self::Context) {
        for addr in self.peers.values().filter_map(|peer| peer.addr.as_ref()) {
            // One that is busy sends and receives: it notices by itself.
            let _ = addr.try_send(NetworkChanged);
        }
    }
}

impl Handler<OwnContact> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, OwnContact(contact): OwnContact, ctx: &mut Self::Context) {
        self.contact = contact;
        for node in self.peers.keys().copied().collect::<Vec<_>>() {
            self.tell_contact(node, ctx);
        }
        // Its own service is not among the relays of the members.
        self.tell_relays(ctx);
    }
}

impl Handler<SetRedundancy> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, set: SetRedundancy, ctx: &mut Self::Context) {
        if let Some(peer) = self.peers.get_mut(&set.node) {
            peer.redundancy = set.redundancy;
            self.tell_redundancy(set.node, ctx);
        }
    }
}

impl Handler<SetTuning> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, SetTuning(tuning): SetTuning, ctx: &mut Self::Context) {
        if self.tuning == tuning {
            return;
        }
        self.tuning = tuning;
        for node in self.peers.keys().copied().collect::<Vec<_>>() {
            self.tell_tuning(node, ctx);
        }
    }
}

impl Handler<BindPunch> for PeerSupervisor {
    type Result = ();

    fn handle(&mut self, BindPunch(nat): BindPunch, _: &mut Self::Context) {
        self.punch = Some(nat);
    }
}

impl Handler<GetPeers> for PeerSupervisor {
    type Result = ResponseFuture<Vec<PeerView>>;

    fn handle(&mut self, _: GetPeers, _: &mut Self::Context) -> Self::Result {
        let asked: Vec<_> =
            self.peers.values().filter_map(|peer| peer.addr.as_ref()).map(|addr| addr.send(ReportState)).collect();
        Box::pin(async move {
            let mut views: Vec<PeerView> =
                join_all(asked).await.into_iter().filter_map(Result::ok).map(|state| state.view).collect();
            views.sort_by_key(|view| view.virtual_ip);
            views
        })
    }
}

impl Handler<Ping> for PeerSupervisor {
    type Result = ResponseFuture<Result<Duration, PingError>>;

    fn handle(&mut self, ping: Ping, _: &mut Self::Context) -> Self::Result {
        let peer = self.peers.get(&ping.node);
        let Some(peer) = peer else { return Box::pin(async { Err(PingError::UnknownPeer) }) };
        let Some(addr) = peer.addr.clone() else { return Box::pin(async { Err(PingError::NotConnected) }) };
        Box::pin(async move { addr.send(ping).await.unwrap_or(Err(PingError::NotConnected)) })
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;

//! In NatActor's place: the shipped gatekeeper and routes on a simulated socket.
#![allow(missing_debug_implementations)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use actix::prelude::*;
use boringtun::x25519::StaticSecret;
use lanrage_actors::nat::addrs::{self, InterfaceAddr};
use lanrage_actors::nat::demux::{Class, Routes, classify};
use lanrage_actors::nat::handshake::{Gatekeeper, MAX_COOKIE, Verdict};
use lanrage_actors::nat::messages::{NatCounters, Networks, OwnContact, Register, Transmit, Unregister};
use lanrage_actors::peer::messages::Inbound;
use lanrage_actors::tun::messages::SetAddress;
use lanrage_actors::wire::{Candidate, CandidateKind, Contact, DatagramBatch, Endpoint, Ipv4Range};

use super::clock;
use super::net::{DATA_PORT, Home, INTERNET};
use super::world;

/// NatActor's.
const MAILBOX: usize = 256;
/// Stand for any STUN server on the internet.
const STUN_SERVERS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 19, 0, 1)), 3478),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2600, 0xffff, 0, 0, 0, 0, 0, 1)), 3478),
];
/// How often the mapping is looked at: it keeps the mapping alive as well.
const STUN_EVERY: Duration = Duration::from_secs(20);

/// Datagrams wait in the simulated socket.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SocketReady;

/// The node's addresses have changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookAgain;

#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HaltNat;

pub struct SimNat {
    node: usize,
    gatekeeper: Gatekeeper,
    routes: Routes<Recipient<Inbound>>,
    contact: Recipient<OwnContact>,
    networks: Vec<Recipient<Networks>>,
    party: Option<Ipv4Range>,
    /// Offer the address that a server on the internet sees, as a STUN client will.
    stun: bool,
    told: Option<(Contact, Vec<InterfaceAddr>)>,
    counters: NatCounters,
    /// Everybody who was ever registered: all must be gone when the node is.
    registered: Vec<Recipient<Inbound>>,
}

impl SimNat {
    #[must_use]
    pub fn new(
        node: usize,
        wg_secret: [u8; 32],
        stun: bool,
        contact: Recipient<OwnContact>,
        networks: Vec<Recipient<Networks>>,
    ) -> Self {
        world::with(|world| world.alive += 1);
        Self {
            node,
            gatekeeper: Gatekeeper::new(StaticSecret::from(wg_secret)),
            routes: Routes::default(),
            contact,
            networks,
            party: None,
            stun,
            told: None,
            counters: NatCounters::default(),
            registered: Vec::new(),
        }
    }

    fn announce(&mut self) {
        let (homes, observed) = world::with(|world| {
            let observe = |server| world.net.observed(clock::elapsed(), self.node, server);
            let observed: Vec<_> =
                if self.stun { STUN_SERVERS.into_iter().filter_map(observe).collect() } else { vec![] };
            (world.net.sites[self.node].homes.clone(), observed)
        });
        let interface = |home: Home| {
            let neighbours = if home.realm == INTERNET { 0 } else { 8 };
            let prefix_len = if home.ip.is_ipv4() { 32 - neighbours } else { 128 - neighbours };
            InterfaceAddr { interface: "eth0".into(), ip: home.ip, prefix_len }
        };
        let interfaces: Vec<_> = homes.into_iter().map(interface).collect();
        let mut contact = Contact::of_hosts(addrs::candidates(&interfaces, DATA_PORT, "lanrage0", self.party));
        let seen = observed.into_iter().map(|addr| Candidate { kind: CandidateKind::ServerReflexive, addr });
        contact.candidates.extend(seen);
        let contact = contact.bounded();
        let news = Some((contact.clone(), interfaces.clone()));
        if self.told == news {
            return;
        }
        let networks = addrs::local_networks(&interfaces, "lanrage0", self.party);
        let mut told = self.contact.try_send(OwnContact(contact)).is_ok();
        for listener in &self.networks {
            told &= listener.try_send(Networks(networks.clone())).is_ok();
        }
        if told {
            self.told = news;
        }
    }

    fn read_socket(&mut self) {
        let datagrams = world::with(|world| std::mem::take(&mut world.ports[self.node].socket));
        for (from, bytes) in datagrams {
            self.received(from, &bytes);
        }
    }

    /// As NatActor does it, a datagram at a time.
    fn received(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.counters.received += 1;
        let class = classify(bytes);
        let target = match class {
            Class::HandshakeInit => {
                let mut reply = [0; MAX_COOKIE];
                match self.gatekeeper.judge(from.ip(), bytes, &mut reply) {
                    Verdict::From(key) => self.routes.find_key(key),
                    Verdict::Cookie(len) => {
                        self.counters.dropped_rate_limited += 1;
                        world::with(|world| world.send(self.node, from, reply[..len].to_vec()));
                        return;
                    }
                    Verdict::Foreign => None,
                }
            }
            Class::Stun | Class::Relay | Class::Unknown => {
                self.counters.dropped_unknown += 1;
                return;
            }
            Class::Session { .. } | Class::Probe { .. } => self.routes.find(class),
        };
        match target {
            None => self.counters.dropped_foreign += 1,
            Some(peer) => {
                if peer.try_send(Inbound(DatagramBatch::copied(bytes, Endpoint::direct(from), bytes.len()))).is_err() {
                    self.counters.dropped_peer_busy += 1;
                }
            }
        }
    }
}

impl Drop for SimNat {
    fn drop(&mut self) {
        let (node, counters) = (self.node, self.counters);
        world::try_with(|world| {
            world.alive -= 1;
            world.ports[node].last_nat_counters = counters;
        });
    }
}

impl Actor for SimNat {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.announce();
        ctx.run_interval(STUN_EVERY, |actor, _| actor.announce());
        ctx.run_interval(Duration::from_secs(1), |actor, _| {
            actor.gatekeeper.reset();
            // A wake-up that the full mailbox did not take.
            actor.read_socket();
            if actor.told.is_none() {
                actor.announce();
            }
        });
    }
}

impl Handler<SocketReady> for SimNat {
    type Result = ();

    fn handle(&mut self, _: SocketReady, _: &mut Self::Context) {
        self.read_socket();
    }
}

impl Handler<LookAgain> for SimNat {
    type Result = ();

    fn handle(&mut self, _: LookAgain, _: &mut Self::Context) {
        self.announce();
    }
}

impl Handler<Transmit> for SimNat {
    type Result = ();

    fn handle(&mut self, Transmit(batch): Transmit, _: &mut Self::Context) {
        self.counters.sent += batch.segments() as u64;
        world::with(|world| {
            for datagram in batch.contents().chunks(batch.segment_size().max(1)) {
                world.send(self.node, batch.destination(), datagram.to_vec());
            }
        });
    }
}

impl Handler<Register> for SimNat {
    type Result = ();

    fn handle(&mut self, Register { route, inbound }: Register, _: &mut Self::Context) {
        self.routes.insert(&route, &inbound);
        self.registered.retain(Recipient::connected);
        // The supervisor registers again when the route of the device did not get through.
        if !self.registered.contains(&inbound) {
            self.registered.push(inbound);
        }
    }
}

impl Handler<Unregister> for SimNat {
    type Result = ();

    fn handle(&mut self, Unregister { route }: Unregister, _: &mut Self::Context) {
        self.routes.remove(&route);
    }
}

impl Handler<SetAddress> for SimNat {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, _: &mut Self::Context) {
        let range = address.map(|address| address.range);
        if range != self.party {
            self.party = range;
            self.announce();
        }
    }
}

/// The counters, and the peers that still run.
#[derive(Debug, Message)]
#[rtype(result = "(NatCounters, usize)")]
pub struct InspectNat;

impl Handler<InspectNat> for SimNat {
    type Result = MessageResult<InspectNat>;

    fn handle(&mut self, _: InspectNat, _: &mut Self::Context) -> Self::Result {
        let running = self.registered.iter().filter(|peer| peer.connected()).count();
        MessageResult((self.counters, running))
    }
}

impl Handler<HaltNat> for SimNat {
    type Result = ();

    fn handle(&mut self, _: HaltNat, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

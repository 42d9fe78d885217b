//! The data socket without I/O: tells datagrams apart, finds out how this machine can be reached, answers STUN.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use boringtun::x25519;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::addrs::{self, InterfaceAddr};
use super::behaviour::{FamilyReport, MAX_SERVERS, Server, StunClient};
use super::demux::{Class, Kind, Routes, runs};
use super::handshake::{Gatekeeper, MAX_COOKIE, Verdict};
use super::messages::{NatCounters, NatReport, PeerRoute, PortMapView, Serve};
use super::responder::{Origin, Responder};
use crate::relay::messages::Tickets;
use crate::wire::{
    Candidate, CandidateKind, Contact, DatagramBatch, Dependence, Endpoint, Ipv4Range, LocalNetworks, LocalSocket,
    NatBehaviour, TransmitBatch, is_stream,
};

/// Handshakes are counted anew each second.
const GATE_EVERY: Duration = Duration::from_secs(1);

/// What does not change while the program runs.
#[derive(Debug, Clone)]
pub struct NatSettings {
    pub listen_port: u16,
    /// The virtual device, whose addresses are no candidates.
    pub device: String,
    pub serve: Serve,
    /// `LocalSocket(1)`: a second socket, on which STUN answers can be asked for, and its port.
    pub alternate: Option<(LocalSocket, u16)>,
    /// Where others reach this machine, as its user says.
    pub public_ips: Vec<IpAddr>,
}

/// What the machine wants done.
#[derive(Debug)]
pub struct NatOutputs<T> {
    pub transmits: Vec<TransmitBatch>,
    pub inbound: Vec<(T, DatagramBatch)>,
    /// Frames of relays and their clients.
    pub relay: Vec<DatagramBatch>,
    pub contact_changed: bool,
    pub networks_changed: bool,
}

impl<T> Default for NatOutputs<T> {
    fn default() -> Self {
        Self {
            transmits: Vec::new(),
            inbound: Vec::new(),
            relay: Vec::new(),
            contact_changed: false,
            networks_changed: false,
        }
    }
}

/// `T` is how a peer is reached.
#[derive(Debug)]
pub struct NatMachine<T> {
    settings: NatSettings,
    gatekeeper: Gatekeeper,
    gate_at: Instant,
    routes: Routes<T>,
    stun: StunClient,
    responder: Responder,
    interfaces: Vec<InterfaceAddr>,
    party: Option<Ipv4Range>,
    /// From the configuration.
    servers: Vec<SocketAddr>,
    /// This machine's tickets, and how relays see its data socket.
    relays: Tickets,
    /// Relays that were heard of, whether or not they answer: that none does is how a blocked UDP shows.
    heard_of: Vec<SocketAddr>,
    /// `None`: switched off.
    port_mapping: Option<PortMapView>,
    contact: Contact,
    networks: LocalNetworks,
    counters: NatCounters,
}

impl<T: Clone> NatMachine<T> {
    /// `wg_secret` is this machine's X25519 secret; `seed` must be unpredictable.
    #[must_use]
    pub fn new(now: Instant, settings: NatSettings, wg_secret: [u8; 32], seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            settings,
            gatekeeper: Gatekeeper::new(x25519::StaticSecret::from(wg_secret)),
            gate_at: now + GATE_EVERY,
            routes: Routes::default(),
            stun: StunClient::new(now, rng.random()),
            responder: Responder::new(now, rng.random()),
            interfaces: Vec::new(),
            party: None,
            servers: Vec::new(),
            relays: Tickets { tickets: Vec::new(), observed: Vec::new() },
            heard_of: Vec::new(),
            port_mapping: None,
            contact: Contact::default(),
            networks: LocalNetworks::default(),
            counters: NatCounters::default(),
        }
    }

    pub fn register(&mut self, route: &PeerRoute, to: &T) {
        self.routes.insert(route, to);
    }

    pub fn unregister(&mut self, route: &PeerRoute) {
        self.routes.remove(route);
    }

    /// What one receive call gave: datagrams of `stride` bytes, the last one possibly shorter.
    pub fn handle_datagrams(
        &mut self,
        now: Instant,
        local: LocalSocket,
        from: SocketAddr,
        data: &[u8],
        stride: usize,
        out: &mut NatOutputs<T>,
    ) {
        for (Kind { class, relayed }, run) in runs(data, stride) {
            let datagrams = run.len().div_ceil(stride.max(1)) as u64;
            self.counters.received += datagrams;
            let target = match class {
                Class::HandshakeInit => match self.judge(from, relayed, run, out) {
                    Some(target) => target,
                    None => continue,
                },
                Class::Stun => {
                    self.handle_stun(now, local, from, run, stride, out);
                    continue;
                }
                Class::Relay => {
                    out.relay.push(DatagramBatch::copied(run, Endpoint { addr: from, local, relayed: false }, stride));
                    continue;
                }
                Class::Unknown => {
                    self.counters.dropped_unknown += datagrams;
                    continue;
                }
                Class::Session { .. } | Class::Probe { .. } => self.routes.find(class).cloned(),
            };
            match target {
                None => self.counters.dropped_foreign += datagrams,
                Some(peer) => {
                    let source = Endpoint { addr: from, local, relayed };
                    let batch = DatagramBatch::with_header(run, source, stride, usize::from(relayed));
                    out.inbound.push((peer, batch));
                }
            }
        }
    }

    /// Whose handshake it is; `None` when it has been dealt with.
    fn judge(&mut self, from: SocketAddr, relayed: bool, run: &[u8], out: &mut NatOutputs<T>) -> Option<Option<T>> {
        let mut reply = [0; MAX_COOKIE];
        let handshake = run.get(usize::from(relayed)..).unwrap_or_default();
        match self.gatekeeper.judge(from.ip(), handshake, &mut reply) {
            Verdict::From(key) => Some(self.routes.find_key(key).cloned()),
            Verdict::Cookie(len) => {
                self.counters.dropped_rate_limited += 1;
                // A cookie proves the sender's address; through a relay there is none to prove.
                if !relayed && let Some(reply) = reply.get(..len) {
                    out.transmits.push(single(LocalSocket::MAIN, from, reply));
                }
                None
            }
            Verdict::Foreign => Some(None),
        }
    }

    fn handle_stun(
        &mut self,
        now: Instant,
        local: LocalSocket,
        from: SocketAddr,
        run: &[u8],
        stride: usize,
        out: &mut NatOutputs<T>,
    ) {
        for datagram in run.chunks(stride.max(1)) {
            if local == LocalSocket::MAIN && self.stun.handle(now, from, datagram) {
                self.counters.stun_answers += 1;
            } else if self.contact.serves.is_some()
                && let Some(reply) = self.responder.answer(now, local, from, datagram)
            {
                out.transmits.push(single(reply.from, from, &reply.bytes));
            } else {
                self.counters.dropped_unknown += 1;
            }
        }
        self.poll_stun(now, out);
        self.refresh(now, out);
    }

    /// The addresses of this machine's interfaces now. Other ones mean another network: everything is asked anew. Returns
    /// whether they are others.
    pub fn set_interfaces(&mut self, now: Instant, interfaces: Vec<InterfaceAddr>, out: &mut NatOutputs<T>) -> bool {
        if interfaces == self.interfaces {
            return false;
        }
        self.interfaces = interfaces;
        self.set_local();
        self.restart(now, out);
        true
    }

    fn set_local(&mut self) {
        let hosts: Vec<IpAddr> = self.hosts().into_iter().map(|addr| addr.ip()).collect();
        self.stun.set_local(self.settings.listen_port, &hosts);
    }

    /// Addresses inside the party's range lead into the tunnel itself and are no candidates.
    pub fn set_party(&mut self, now: Instant, party: Option<Ipv4Range>, out: &mut NatOutputs<T>) {
        if party != self.party {
            self.party = party;
            self.set_local();
            self.refresh(now, out);
        }
    }

    /// STUN servers of the configuration, resolved.
    pub fn set_servers(&mut self, now: Instant, servers: Vec<SocketAddr>, out: &mut NatOutputs<T>) {
        self.servers = servers;
        self.set_stun_servers(now, out);
    }

    /// What members send does not come in any more: is this machine where they were told?
    pub fn doubt(&mut self, now: Instant, out: &mut NatOutputs<T>) {
        self.stun.doubt(now);
        self.poll_stun(now, out);
        self.refresh(now, out);
    }

    /// The machine was asleep, or something else says that all that was found out may be wrong.
    pub fn restart(&mut self, now: Instant, out: &mut NatOutputs<T>) {
        self.stun.restart(now);
        self.poll_stun(now, out);
        self.refresh(now, out);
    }

    /// What the relays said: tickets, and how they see this machine. Returns whether one sees it elsewhere than before: the
    /// NAT has forgotten what it knew.
    pub fn set_relays(&mut self, now: Instant, relays: Tickets, out: &mut NatOutputs<T>) -> bool {
        let moved = relays.observed.iter().any(|seen| {
            let before = self.relays.observed.iter().find(|it| it.relay == seen.relay);
            !is_stream(seen.addr.ip()) && before.is_some_and(|before| before.addr != seen.addr)
        });
        for seen in &relays.observed {
            // Through a stream the relay sees no address of this machine.
            if !is_stream(seen.addr.ip()) {
                self.stun.note_observed(now, seen.relay, seen.addr, false);
            }
        }
        self.relays = relays;
        self.set_stun_servers(now, out);
        moved
    }

    /// There is, or may be, a relay, which answers STUN.
    pub fn relay_found(&mut self, now: Instant, relay: SocketAddr, out: &mut NatOutputs<T>) {
        if !self.heard_of.contains(&relay) {
            if self.heard_of.len() >= MAX_SERVERS {
                self.heard_of.remove(0);
            }
            self.heard_of.push(relay);
            self.set_stun_servers(now, out);
        }
    }

    fn set_stun_servers(&mut self, now: Instant, out: &mut NatOutputs<T>) {
        let configured = self.servers.iter().map(|&addr| Server { addr, trusted: true });
        let heard_of = self.heard_of.iter().rev().copied();
        let relays = self.relays.observed.iter().map(|it| it.relay).chain(heard_of);
        let relays = relays.map(|addr| Server { addr, trusted: false });
        let mut servers: Vec<Server> = Vec::new();
        for server in relays.chain(configured) {
            if servers.len() < 2 * MAX_SERVERS && !servers.iter().any(|it| it.addr == server.addr) {
                servers.push(server);
            }
        }
        self.stun.set_servers(now, &servers);
        self.poll_stun(now, out);
        self.refresh(now, out);
    }

    /// What the router said to the question to forward the data port.
    pub fn set_port_mapping(&mut self, now: Instant, view: PortMapView, out: &mut NatOutputs<T>) {
        self.port_mapping = Some(view);
        self.refresh(now, out);
    }

    fn mapped(&self) -> Option<SocketAddr> {
        self.port_mapping.as_ref().and_then(|view| view.external)
    }

    fn hosts(&self) -> Vec<SocketAddr> {
        addrs::candidates(&self.interfaces, self.settings.listen_port, &self.settings.device, self.party)
    }

    /// Whether IPv4, and IPv6, lead out: there is an address, and not only the other family is answered.
    #[must_use]
    pub fn families(&self) -> (bool, bool) {
        let hosts = self.hosts();
        let answered = (self.stun.v4().mapped.is_some(), self.stun.v6().mapped.is_some());
        let v4 = hosts.iter().any(SocketAddr::is_ipv4) && (answered.0 || !answered.1);
        let v6 = hosts.iter().any(SocketAddr::is_ipv6) && (answered.1 || !answered.0);
        (v4, v6)
    }

    fn poll_stun(&mut self, now: Instant, out: &mut NatOutputs<T>) {
        self.stun.poll(now, &mut |to, bytes| out.transmits.push(single(LocalSocket::MAIN, to, bytes)));
    }

    pub fn handle_timeout(&mut self, now: Instant, out: &mut NatOutputs<T>) {
        if now >= self.gate_at {
            self.gatekeeper.reset();
            self.gate_at = now + GATE_EVERY;
        }
        self.poll_stun(now, out);
        self.refresh(now, out);
    }

    /// When `handle_timeout` wants to be called, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> (Instant, &'static str) {
        match self.stun.poll_timeout() {
            Some(at) if at < self.gate_at => (at, "STUN"),
            Some(_) | None => (self.gate_at, "handshake limit"),
        }
    }

    /// Puts together what others are told, and says when it is something new.
    fn refresh(&mut self, _: Instant, out: &mut NatOutputs<T>) {
        let _ = self.stun.take_changed();
        let contact = self.compose();
        let networks = addrs::local_networks(&self.interfaces, &self.settings.device, self.party);
        if contact != self.contact {
            self.set_origins(&contact);
            self.contact = contact;
            out.contact_changed = true;
        }
        if networks != self.networks {
            self.networks = networks;
            out.networks_changed = true;
        }
    }

    fn compose(&self) -> Contact {
        let hosts = self.hosts();
        let of = |kind| move |addr| Candidate { kind, addr };
        let port = self.settings.listen_port;
        let named = self.settings.public_ips.iter().map(|&ip| SocketAddr::new(ip, port));
        let reports = [self.stun.v4(), self.stun.v6()];
        let reflexive = reports.into_iter().filter_map(|report| report.mapped);
        let mut candidates: Vec<Candidate> = self.mapped().into_iter().map(of(CandidateKind::Mapped)).collect();
        candidates.extend(named.map(of(CandidateKind::Mapped)));
        // Hosts before what is seen from outside: where both are the same, it is an address of this machine's own.
        candidates.splice(0..0, hosts.iter().copied().map(of(CandidateKind::Host)));
        candidates.extend(reflexive.map(of(CandidateKind::ServerReflexive)));
        let mut seen = std::collections::BTreeSet::new();
        candidates.retain(|it| seen.insert(it.addr));
        // A crowd of interfaces must not push out the address that the internet sees.
        while candidates.len() > crate::wire::MAX_CANDIDATES {
            let Some(host) = candidates.iter().rposition(|it| it.kind == CandidateKind::Host) else { break };
            candidates.remove(host);
        }
        Contact { candidates, nat: self.nat(), tickets: self.relays.tickets.clone(), serves: self.serves() }.bounded()
    }

    /// Of IPv4 where it is there: nearly all games' players have it, and nearly all NATs are there.
    fn nat(&self) -> NatBehaviour {
        let (v4, v6) = (self.stun.v4(), self.stun.v6());
        let has_v4 = self.hosts().iter().any(SocketAddr::is_ipv4);
        let mut nat = if has_v4 && (v4.mapped.is_some() || v6.mapped.is_none()) { v4.nat } else { v6.nat };
        let answered = v4.mapped.is_some() || v6.mapped.is_some();
        let silent = v4.nat.udp_blocked && (v6.nat.udp_blocked || v6.mapped.is_none());
        // A server that is asked for the first time is no sign that UDP works; only an answer is.
        nat.udp_blocked = !answered && (silent || self.contact.nat.udp_blocked);
        nat
    }

    /// Where anybody reaches this machine's data socket without its doing anything first.
    fn serves(&self) -> Option<SocketAddr> {
        let port = self.settings.listen_port;
        let named = self.settings.public_ips.first().map(|&ip| SocketAddr::new(ip, port));
        match self.settings.serve {
            Serve::Never => None,
            Serve::Always => named
                .or_else(|| self.stun.v4().mapped)
                .or_else(|| self.mapped())
                .or_else(|| self.hosts().into_iter().find(|addr| addrs::is_global(addr.ip())))
                .or_else(|| self.hosts().into_iter().next()),
            Serve::Auto => {
                let open = |report: &FamilyReport| {
                    // Servers with one address, as LANrage's relays are, can show no more than that other ports get in; and a
                    // firewall that lets those in lets in all.
                    let filtered = report.nat.filtering == Dependence::AddressAndPortDependent;
                    report.mapped.filter(|_| report.public == Some(true) && !filtered)
                };
                open(self.stun.v4())
                    .or_else(|| self.mapped().filter(|it| addrs::is_global(it.ip())))
                    .or_else(|| open(self.stun.v6()))
            }
        }
    }

    fn set_origins(&mut self, contact: &Contact) {
        let of = |local, port: Option<u16>| {
            let find = |v4: bool| {
                let serves = contact.serves.filter(|it| it.is_ipv4() == v4);
                let own = || self.hosts().into_iter().find(|it| it.is_ipv4() == v4 && addrs::is_global(it.ip()));
                serves.or_else(own).map(|it| SocketAddr::new(it.ip(), port.unwrap_or_else(|| it.port())))
            };
            Origin { local, v4: find(true), v6: find(false) }
        };
        let alternate = self.settings.alternate.map(|(local, port)| of(local, Some(port)));
        self.responder.set_origins(of(LocalSocket::MAIN, None), alternate);
    }

    #[must_use]
    pub fn contact(&self) -> &Contact {
        &self.contact
    }

    #[must_use]
    pub fn networks(&self) -> &LocalNetworks {
        &self.networks
    }

    #[must_use]
    pub fn counters(&self) -> NatCounters {
        let stun = self.responder.counters();
        NatCounters {
            stun_served: stun.answered,
            stun_refused: stun.refused + stun.dropped_rate_limited,
            ..self.counters
        }
    }

    pub fn counters_mut(&mut self) -> &mut NatCounters {
        &mut self.counters
    }

    #[must_use]
    pub fn report(&self) -> NatReport {
        NatReport {
            listen_port: self.settings.listen_port,
            v4: self.stun.v4().clone(),
            v6: self.stun.v6().clone(),
            port_mapping: self.port_mapping.clone(),
            lifetime: None,
        }
    }
}

/// A batch of one datagram.
fn single(local: LocalSocket, to: SocketAddr, message: &[u8]) -> TransmitBatch {
    let mut batch = TransmitBatch::on(local, to);
    batch.push_with(message.len(), message.len(), |slot| {
        slot.copy_from_slice(message);
        Some(message.len())
    });
    batch
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

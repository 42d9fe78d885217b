//! One peer: its tunnel, its paths, and the packets that wait for them.

mod control;
mod redundant;
mod view;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use boringtun::x25519;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::birthday::Birthday;
use super::choice::Reason;
use super::echo::{Echoes, PingId};
use super::messages::{PathKind, PeerCounters, PeerSpec, PingError, PunchRequest};
use super::offer::Offers;
use super::paths::{Paths, ProbeOut};
use super::probe::{PROBE_MAGIC, Probe, ProbeKeys};
use super::replay::ReplayWindow;
use super::stage::Stage;
use super::tunnel::{Decapsulated, MAX_CONTROL, OVERHEAD, Tunnel};
use redundant::Redundant;

use super::way::{Way, append, append_message};
use crate::wire::ip::{Ipv4Packet, is_broadcast_or_multicast};
use crate::wire::{
    Class, Contact, DatagramBatch, Endpoint, Ipv4Range, LocalNetworks, NodeId, PacketBatch, TransmitBatch, WgPublicKey,
};

/// What this machine is to its peers.
#[derive(Clone)]
pub struct OwnIdentity {
    pub node: NodeId,
    pub wg_secret: x25519::StaticSecret,
}

impl OwnIdentity {
    /// `wg_secret` is the X25519 secret of this machine.
    #[must_use]
    pub fn new(node: NodeId, wg_secret: [u8; 32]) -> Self {
        Self { node, wg_secret: x25519::StaticSecret::from(wg_secret) }
    }

    #[must_use]
    pub fn wg_key(&self) -> WgPublicKey {
        WgPublicKey(x25519::PublicKey::from(&self.wg_secret).to_bytes())
    }
}

impl std::fmt::Debug for OwnIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnIdentity").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What the machine wants done, in order of their coming up.
#[derive(Debug, Default)]
pub struct Outputs {
    pub transmits: Vec<TransmitBatch>,
    /// For the virtual device.
    pub deliver: Option<PacketBatch>,
    /// Broadcasts and multicasts of the member.
    pub broadcast: Option<PacketBatch>,
    pub pings: Vec<(PingId, Result<Duration, PingError>)>,
    pub events: Vec<PeerEvent>,
    /// In this order, for whoever has the sockets.
    pub punch: Vec<PunchRequest>,
    /// Nothing comes back by the path in use: is this machine still where others were told?
    pub doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    Connected { path: PathKind, endpoint: SocketAddr },
    PathChanged { path: PathKind, endpoint: SocketAddr, reason: Option<Reason> },
    Disconnected { why: Disconnect },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    NoPath,
    NoSession,
}

impl std::fmt::Display for Disconnect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoPath => "no path answers any more",
            Self::NoSession => "its machine takes no new session",
        })
    }
}

#[derive(Debug)]
pub struct PeerMachine {
    own_ip: Ipv4Addr,
    /// Of the party, for its broadcast address.
    range: Option<Ipv4Range>,
    spec: PeerSpec,
    /// How this machine can be reached, for offers.
    own_contact: Contact,
    /// How the peer can be reached, by its record and its last offer.
    peer_contact: Contact,
    networks: LocalNetworks,
    tunnel: Tunnel,
    keys: ProbeKeys,
    paths: Paths,
    offers: Offers,
    birthday: Birthday,
    redundant: Redundant,
    stage: Stage,
    echoes: Echoes,
    pings_seen: ReplayWindow,
    rng: StdRng,
    counters: PeerCounters,
    rx_bytes: u64,
    tx_bytes: u64,
    connected: bool,
    probes: Vec<ProbeOut>,
    punches: Vec<Endpoint>,
    punch_requests: Vec<PunchRequest>,
}

impl PeerMachine {
    /// `index`: upper 24 bits of the WireGuard receiver index. `first_ping`: see `replay::first_ping_id`; numbers of
    /// offers start there too. `seed`: for nonces and ids, from a secure source.
    #[must_use]
    pub fn new(
        now: Instant,
        own: &OwnIdentity,
        own_ip: Ipv4Addr,
        spec: PeerSpec,
        networks: LocalNetworks,
        index: u32,
        first_ping: u64,
        seed: [u8; 32],
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut paths = Paths::new(first_ping);
        paths.set_networks(&networks, spec.contact.nat.udp_blocked);
        paths.set_contact(now, &spec.contact, &Contact::default(), &networks);
        Self {
            tunnel: Tunnel::new(now, own.wg_secret.clone(), spec.wg_key, spec.psk.clone(), index, own.node < spec.node),
            keys: ProbeKeys::new(&own.wg_secret, spec.wg_key, &spec.psk),
            echoes: Echoes::new(rng.random()),
            pings_seen: ReplayWindow::default(),
            own_ip,
            range: None,
            own_contact: Contact::default(),
            peer_contact: spec.contact.clone(),
            spec,
            networks,
            paths,
            offers: Offers::new(first_ping),
            birthday: Birthday::default(),
            redundant: Redundant::default(),
            stage: Stage::default(),
            rng,
            counters: PeerCounters::default(),
            rx_bytes: 0,
            tx_bytes: 0,
            connected: false,
            probes: Vec::new(),
            punches: Vec::new(),
            punch_requests: Vec::new(),
        }
    }

    /// As `set_contact`, before anything is sent.
    #[must_use]
    pub fn with_contact(mut self, now: Instant, contact: Contact) -> Self {
        self.own_contact = contact;
        self.paths.set_contact(now, &self.peer_contact, &self.own_contact, &self.networks);
        self.paths.set_networks(&self.networks, self.own_contact.nat.udp_blocked || self.peer_contact.nat.udp_blocked);
        self
    }

    /// The party's range: broadcasts to it are accepted from now on.
    pub fn set_range(&mut self, range: Option<Ipv4Range>) {
        self.range = range;
    }

    #[must_use]
    pub fn probe_tag(&self) -> [u8; 8] {
        self.keys.receive_tag()
    }

    #[must_use]
    pub fn spec(&self) -> &PeerSpec {
        &self.spec
    }

    /// What the roster says of the member now. Its keys and virtual IP are the same: with others it is another machine.
    pub fn update(&mut self, now: Instant, own_ip: Ipv4Addr, spec: PeerSpec, out: &mut Outputs) {
        self.own_ip = own_ip;
        if spec.contact == self.spec.contact {
            self.spec = spec;
        } else {
            self.spec = spec;
            self.offers.on_record(now);
            self.contact_changed(now);
        }
        self.handle_timeout(now, out);
    }

    /// This machine's networks have changed.
    pub fn set_networks(&mut self, now: Instant, networks: LocalNetworks, out: &mut Outputs) {
        if networks != self.networks {
            self.networks = networks;
            self.contact_changed(now);
            self.handle_timeout(now, out);
        }
    }

    /// What worked may work no more: everything is asked anew, and the member told to do the same.
    pub fn network_changed(&mut self, now: Instant, out: &mut Outputs) {
        self.offers.request(now);
        self.paths.restart_probing(now);
        self.handle_timeout(now, out);
    }

    /// IP packets for the peer.
    pub fn handle_outbound(&mut self, now: Instant, batch: &PacketBatch, out: &mut Outputs) {
        let Some(way) = self.sendable_way() else {
            let path = self.paths.selected().is_some();
            for packet in batch.iter() {
                // It goes to members who are away as well, and nobody looks for them for its sake.
                if !path && self.is_shout(packet) {
                    self.counters.dropped_away += 1;
                } else {
                    self.counters.dropped_staged += self.stage.push(now, packet, batch.class());
                }
            }
            self.handle_timeout(now, out);
            return;
        };
        let spare = self.spare();
        for packet in batch.iter() {
            let sent = self.encrypt(&way, batch.class(), packet, out);
            if let Some(spare) = spare.as_ref().filter(|_| sent) {
                self.copy_last(spare, packet.len(), out);
            }
        }
        out.transmits.append(&mut self.redundant.copies);
        self.paths.on_sent(now);
    }

    fn is_shout(&self, packet: &[u8]) -> bool {
        let destination = Ipv4Packet::parse(packet).map(|packet| packet.destination());
        destination.is_ok_and(|ip| is_broadcast_or_multicast(ip, self.range.unwrap_or(Ipv4Range::DEFAULT)))
    }

    fn sendable(&self) -> bool {
        self.sendable_way().is_some()
    }

    fn sendable_way(&self) -> Option<Way> {
        self.paths.selected().filter(|_| self.tunnel.has_session()).map(|(way, _)| way)
    }

    fn encrypt(&mut self, way: &Way, class: Class, packet: &[u8], out: &mut Outputs) -> bool {
        let sealed = packet.len() + OVERHEAD;
        let tunnel = &mut self.tunnel;
        let mut sent = false;
        append(&mut out.transmits, way, class, sealed, sealed.max(MAX_CONTROL), |slot| {
            let len = tunnel.encapsulate(packet, slot);
            sent = len.is_some();
            len
        });
        if sent {
            self.tx_bytes += packet.len() as u64;
        }
        sent
    }

    /// Datagrams from the network that the demultiplexer took for this peer's.
    pub fn handle_inbound(&mut self, now: Instant, batch: &DatagramBatch, out: &mut Outputs) {
        let from = batch.from();
        for datagram in batch.iter() {
            if datagram.first() == Some(&PROBE_MAGIC) {
                self.handle_probe(now, from, datagram, out);
            } else {
                self.handle_wireguard(now, from, datagram, out);
            }
        }
        self.settle(now, out);
    }

    fn handle_wireguard(&mut self, now: Instant, from: Endpoint, datagram: &[u8], out: &mut Outputs) {
        let room = datagram.len().max(MAX_CONTROL);
        let mut kept = false;
        let mut outcome = Decapsulated::Refused;
        let deliver = out.deliver.get_or_insert_default();
        if !deliver.has_room(room) {
            self.counters.dropped_busy += 1;
            return;
        }
        let (transmits, broadcast) = (&mut out.transmits, &mut out.broadcast);
        let paths = &self.paths;
        deliver.push_with(room, |slot| {
            outcome = self.tunnel.decapsulate(now, datagram, slot);
            match outcome {
                Decapsulated::Packet(len) => {
                    let packet = &slot[..len];
                    match accept(packet, self.spec.virtual_ip, self.own_ip, self.range, &mut self.counters) {
                        Some(Audience::Own) => {
                            self.rx_bytes += len as u64;
                            kept = !self.echoes.is_waiting() || !self.echoes.on_packet(now, packet);
                        }
                        Some(Audience::All) => {
                            self.rx_bytes += len as u64;
                            if !broadcast.get_or_insert_default().push(packet) {
                                self.counters.dropped_busy += 1;
                            }
                        }
                        None => {}
                    }
                    kept.then_some(len)
                }
                Decapsulated::Reply(len) => {
                    match paths.answer_to(from).or_else(|| paths.selected().map(|(way, _)| way)) {
                        Some(way) => append_message(transmits, &way, &slot[..len]),
                        None => self.counters.dropped_no_ticket += 1,
                    }
                    None
                }
                Decapsulated::Nothing | Decapsulated::Duplicate | Decapsulated::Refused => None,
            }
        });
        match outcome {
            Decapsulated::Refused => self.counters.dropped_undecryptable += 1,
            Decapsulated::Duplicate => self.counters.dropped_duplicate += 1,
            Decapsulated::Packet(_) | Decapsulated::Reply(_) | Decapsulated::Nothing => {
                self.paths.on_received(now, from);
            }
        }
    }

    /// After input: packets that waited go out once they can, and changes are told.
    fn settle(&mut self, now: Instant, out: &mut Outputs) {
        self.counters.dropped_stale += self.stage.expire(now);
        if let Some(way) = self.sendable_way().filter(|_| !self.stage.is_empty()) {
            while let Some((packet, class)) = self.stage.pop() {
                self.encrypt(&way, class, &packet, out);
            }
            self.paths.on_sent(now);
        }
        self.echoes.drain(now, &mut out.pings);
        let connected = self.sendable();
        if connected != self.connected {
            self.connected = connected;
            out.events.push(match self.paths.selected() {
                Some((way, path)) if connected => PeerEvent::Connected { path, endpoint: way.to().addr },
                Some(_) => PeerEvent::Disconnected { why: Disconnect::NoSession },
                None => PeerEvent::Disconnected { why: Disconnect::NoPath },
            });
        }
    }

    fn reselect(&mut self, now: Instant, out: &mut Outputs) {
        if self.paths.reselect(now) {
            self.path_changed(out);
        }
    }

    fn path_changed(&self, out: &mut Outputs) {
        if let (true, Some((way, path))) = (self.connected, self.paths.selected()) {
            out.events.push(PeerEvent::PathChanged { path, endpoint: way.to().addr, reason: self.paths.last_reason() });
        }
    }

    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outputs) {
        let mut probes = std::mem::take(&mut self.probes);
        probes.clear();
        if self.paths.tick(now, &mut probes) {
            self.path_changed(out);
        }
        if self.paths.take_lost() {
            self.offers.request(now);
            if self.paths.selected().is_none() {
                self.paths.restart_probing(now);
                self.paths.tick(now, &mut probes);
            }
        }
        self.counters.dropped_stale += self.stage.expire(now);
        out.doubt |= self.paths.take_doubt(now, !self.stage.is_empty());
        for probe in &probes {
            self.send_probe(&probe.way, Probe::Ping { id: probe.id }, out);
        }
        self.probes = probes;
        self.punch(now, out);
        self.send_offers(now, out);
        self.redundant.judge(self.paths.loss());
        let selected = self.paths.selected();
        let wanted = !self.stage.is_empty();
        let transmits = &mut out.transmits;
        self.tunnel.tick(now, selected.is_some(), wanted, |message| {
            if let Some((way, _)) = &selected {
                append_message(transmits, way, message);
            }
        });
        self.settle(now, out);
    }

    /// When `handle_timeout` wants to be called, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> (Instant, &'static str) {
        [
            self.paths.poll_timeout(),
            self.echoes.poll_timeout(),
            self.offers.poll_timeout(),
            self.birthday.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .fold(self.tunnel.poll_timeout(), |least, next| if next.0 < least.0 { next } else { least })
    }

    /// Sends an ICMP echo request through the tunnel; the outcome comes out as one of `Outputs::pings`.
    ///
    /// # Errors
    /// `NotConnected` when there is no path or session now.
    pub fn ping(&mut self, now: Instant, timeout: Duration, out: &mut Outputs) -> Result<PingId, PingError> {
        let way = self.sendable_way().ok_or(PingError::NotConnected)?;
        let (id, request) =
            self.echoes.start(now, timeout, self.own_ip, self.spec.virtual_ip).ok_or(PingError::NotConnected)?;
        self.encrypt(&way, Class::EXPEDITED, &request, out);
        self.paths.on_sent(now);
        Ok(id)
    }

    pub fn count_busy(&mut self) {
        self.counters.dropped_busy += 1;
    }

    pub fn count_lost_event(&mut self) {
        self.counters.dropped_events += 1;
    }

    /// As the last event said.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }
}

/// Whom a packet out of the tunnel is for.
enum Audience {
    Own,
    /// A broadcast or multicast.
    All,
}

/// Only from the member's own virtual IP, only to this machine's or to all of the party.
fn accept(
    packet: &[u8],
    peer_ip: Ipv4Addr,
    own_ip: Ipv4Addr,
    range: Option<Ipv4Range>,
    counters: &mut PeerCounters,
) -> Option<Audience> {
    match Ipv4Packet::parse(packet) {
        Ok(packet) if packet.source() != peer_ip => counters.dropped_spoofed += 1,
        Ok(packet) if packet.destination() == own_ip => return Some(Audience::Own),
        Ok(packet) if range.is_some_and(|range| is_broadcast_or_multicast(packet.destination(), range)) => {
            return Some(Audience::All);
        }
        Ok(_) => counters.dropped_misdirected += 1,
        Err(_) => counters.dropped_spoofed += 1,
    }
    None
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod nat_tests;
#[cfg(test)]
mod tests;

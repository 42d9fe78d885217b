//! One peer: its tunnel, its paths, and the packets that wait for them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use boringtun::x25519;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::echo::{Echoes, PingId};
use super::messages::{PathKind, PathView, PeerCounters, PeerSpec, PeerView, PingError};
use super::paths::{Paths, ProbeOut};
use super::probe::{PROBE_MAGIC, Probe, ProbeKeys};
use super::replay::ReplayWindow;
use super::stage::Stage;
use super::tunnel::{Decapsulated, MAX_CONTROL, OVERHEAD, Tunnel};
use crate::wire::ip::Ipv4Packet;
use crate::wire::{DatagramBatch, LocalNetworks, NodeId, PacketBatch, TransmitBatch, WgPublicKey};

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
    pub pings: Vec<(PingId, Result<Duration, PingError>)>,
    pub events: Vec<PeerEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    Connected { path: PathKind, endpoint: SocketAddr },
    PathChanged { path: PathKind, endpoint: SocketAddr },
    Disconnected,
}

#[derive(Debug)]
pub struct PeerMachine {
    own_ip: Ipv4Addr,
    spec: PeerSpec,
    networks: LocalNetworks,
    tunnel: Tunnel,
    keys: ProbeKeys,
    paths: Paths,
    stage: Stage,
    echoes: Echoes,
    pings_seen: ReplayWindow,
    rng: StdRng,
    counters: PeerCounters,
    rx_bytes: u64,
    tx_bytes: u64,
    connected: bool,
    probes: Vec<ProbeOut>,
}

impl PeerMachine {
    /// `index`: upper 24 bits of the WireGuard receiver index. `seed`: for nonces and ids, from a secure source.
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
        paths.set_candidates(now, &addrs(&spec), &networks);
        Self {
            tunnel: Tunnel::new(now, own.wg_secret.clone(), spec.wg_key, spec.psk.clone(), index, own.node < spec.node),
            keys: ProbeKeys::new(&own.wg_secret, spec.wg_key, &spec.psk),
            echoes: Echoes::new(rng.random()),
            pings_seen: ReplayWindow::default(),
            own_ip,
            spec,
            networks,
            paths,
            stage: Stage::default(),
            rng,
            counters: PeerCounters::default(),
            rx_bytes: 0,
            tx_bytes: 0,
            connected: false,
            probes: Vec::new(),
        }
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
        if spec.contact.candidates != self.spec.contact.candidates {
            self.paths.set_candidates(now, &addrs(&spec), &self.networks);
            self.paths.restart_probing(now);
        }
        self.spec = spec;
        self.handle_timeout(now, out);
    }

    /// This machine's networks have changed.
    pub fn set_networks(&mut self, now: Instant, networks: LocalNetworks, out: &mut Outputs) {
        if networks != self.networks {
            self.networks = networks;
            self.paths.set_networks(&self.networks);
            self.paths.restart_probing(now);
            self.handle_timeout(now, out);
        }
    }

    /// IP packets for the peer.
    pub fn handle_outbound(&mut self, now: Instant, batch: &PacketBatch, out: &mut Outputs) {
        if !self.sendable() {
            for packet in batch.iter() {
                self.counters.dropped_staged += self.stage.push(packet);
            }
            self.handle_timeout(now, out);
            return;
        }
        for packet in batch.iter() {
            self.encrypt(packet, out);
        }
        self.paths.on_sent(now);
    }

    fn sendable(&self) -> bool {
        self.tunnel.has_session() && self.paths.selected().is_some()
    }

    fn encrypt(&mut self, packet: &[u8], out: &mut Outputs) {
        let Some((to, _)) = self.paths.selected() else { return };
        let sealed = packet.len() + OVERHEAD;
        let tunnel = &mut self.tunnel;
        let mut sent = false;
        append(&mut out.transmits, to, sealed, sealed.max(MAX_CONTROL), |slot| {
            let len = tunnel.encapsulate(packet, slot);
            sent = len.is_some();
            len
        });
        if sent {
            self.tx_bytes += packet.len() as u64;
        }
    }

    /// Datagrams from the network that the demultiplexer took for this peer's.
    pub fn handle_inbound(&mut self, now: Instant, batch: &DatagramBatch, out: &mut Outputs) {
        let from = batch.from().addr;
        for datagram in batch.iter() {
            if datagram.first() == Some(&PROBE_MAGIC) {
                self.handle_probe(now, from, datagram, out);
            } else {
                self.handle_wireguard(now, from, datagram, out);
            }
        }
        self.settle(now, out);
    }

    fn handle_probe(&mut self, now: Instant, from: SocketAddr, datagram: &[u8], out: &mut Outputs) {
        match self.keys.open(datagram) {
            // A repeated ping would make this node answer, and probe, wherever it was replayed from.
            Some(Probe::Ping { id }) if !self.pings_seen.accept(id) => self.counters.dropped_probes += 1,
            Some(Probe::Ping { id }) => {
                self.paths.on_ping(now, from, &self.networks);
                self.send_probe(from, Probe::Pong { id, observed: from }, out);
                self.handle_timeout(now, out);
            }
            Some(Probe::Pong { id, .. }) => {
                self.paths.on_pong(now, from, id);
                self.reselect(out);
            }
            None => self.counters.dropped_probes += 1,
        }
    }

    fn send_probe(&mut self, to: SocketAddr, probe: Probe, out: &mut Outputs) {
        let sealed = self.keys.seal(probe, self.rng.random());
        append_message(&mut out.transmits, to, &sealed);
    }

    fn handle_wireguard(&mut self, now: Instant, from: SocketAddr, datagram: &[u8], out: &mut Outputs) {
        let room = datagram.len().max(MAX_CONTROL);
        let mut kept = false;
        let mut outcome = Decapsulated::Refused;
        let deliver = out.deliver.get_or_insert_default();
        if !deliver.has_room(room) {
            self.counters.dropped_busy += 1;
            return;
        }
        let transmits = &mut out.transmits;
        deliver.push_with(room, |slot| {
            outcome = self.tunnel.decapsulate(now, datagram, slot);
            match outcome {
                Decapsulated::Packet(len) => {
                    let packet = &slot[..len];
                    kept = accept(packet, self.spec.virtual_ip, self.own_ip, &mut self.counters);
                    if kept {
                        self.rx_bytes += len as u64;
                        kept = !self.echoes.is_waiting() || !self.echoes.on_packet(now, packet);
                    }
                    kept.then_some(len)
                }
                Decapsulated::Reply(len) => {
                    append_message(transmits, from, &slot[..len]);
                    None
                }
                Decapsulated::Nothing | Decapsulated::Refused => None,
            }
        });
        match outcome {
            Decapsulated::Refused => self.counters.dropped_undecryptable += 1,
            Decapsulated::Packet(_) | Decapsulated::Reply(_) | Decapsulated::Nothing => {
                self.paths.on_received(now, from);
            }
        }
    }

    /// After input: packets that waited go out once they can, and changes are told.
    fn settle(&mut self, now: Instant, out: &mut Outputs) {
        if self.sendable() && !self.stage.is_empty() {
            while let Some(packet) = self.stage.pop() {
                self.encrypt(&packet, out);
            }
            self.paths.on_sent(now);
        }
        self.echoes.drain(now, &mut out.pings);
        let connected = self.sendable();
        if connected != self.connected {
            self.connected = connected;
            out.events.push(match self.paths.selected() {
                Some((endpoint, path)) if connected => PeerEvent::Connected { path, endpoint },
                Some(_) | None => PeerEvent::Disconnected,
            });
        }
    }

    fn reselect(&mut self, out: &mut Outputs) {
        if self.paths.reselect() {
            self.path_changed(out);
        }
    }

    fn path_changed(&self, out: &mut Outputs) {
        if let (true, Some((endpoint, path))) = (self.connected, self.paths.selected()) {
            out.events.push(PeerEvent::PathChanged { path, endpoint });
        }
    }

    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outputs) {
        let mut probes = std::mem::take(&mut self.probes);
        probes.clear();
        if self.paths.tick(now, &mut probes) {
            self.path_changed(out);
        }
        for probe in &probes {
            self.send_probe(probe.to, Probe::Ping { id: probe.id }, out);
        }
        self.probes = probes;
        let selected = self.paths.selected();
        let wanted = !self.stage.is_empty();
        let transmits = &mut out.transmits;
        self.tunnel.tick(now, selected.is_some(), wanted, |message| {
            if let Some((to, _)) = selected {
                append_message(transmits, to, message);
            }
        });
        self.settle(now, out);
    }

    /// When `handle_timeout` wants to be called, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> (Instant, &'static str) {
        [self.paths.poll_timeout(), self.echoes.poll_timeout()]
            .into_iter()
            .flatten()
            .fold(self.tunnel.poll_timeout(), |least, next| if next.0 < least.0 { next } else { least })
    }

    /// Sends an ICMP echo request through the tunnel; the outcome comes out as one of `Outputs::pings`.
    ///
    /// # Errors
    /// `NotConnected` when there is no path or session now.
    pub fn ping(&mut self, now: Instant, timeout: Duration, out: &mut Outputs) -> Result<PingId, PingError> {
        if !self.sendable() {
            return Err(PingError::NotConnected);
        }
        let (id, request) =
            self.echoes.start(now, timeout, self.own_ip, self.spec.virtual_ip).ok_or(PingError::NotConnected)?;
        self.encrypt(&request, out);
        self.paths.on_sent(now);
        Ok(id)
    }

    pub fn count_busy(&mut self) {
        self.counters.dropped_busy += 1;
    }

    #[must_use]
    pub fn view(&self, now: Instant, restarts: u32) -> PeerView {
        let selected = self.paths.selected();
        PeerView {
            node: self.spec.node,
            name: self.spec.name.clone(),
            virtual_ip: self.spec.virtual_ip,
            connected: self.sendable(),
            path: PathView {
                kind: selected.map_or(PathKind::None, |(_, kind)| kind),
                endpoint: selected.map(|(endpoint, _)| endpoint),
            },
            rtt_ms: self.paths.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            last_handshake_s: self.tunnel.since_handshake(now).map(|age| age.as_secs()),
            candidates: self.paths.candidates(),
            counters: self.counters,
            restarts,
        }
    }
}

fn addrs(spec: &PeerSpec) -> Vec<SocketAddr> {
    spec.contact.candidates.iter().map(|candidate| candidate.addr).collect()
}

/// Only from the member's own virtual IP, only to this machine's.
fn accept(packet: &[u8], peer_ip: Ipv4Addr, own_ip: Ipv4Addr, counters: &mut PeerCounters) -> bool {
    match Ipv4Packet::parse(packet) {
        Ok(packet) if packet.source() != peer_ip => counters.dropped_spoofed += 1,
        Ok(packet) if packet.destination() != own_ip => counters.dropped_misdirected += 1,
        Ok(_) => return true,
        Err(_) => counters.dropped_spoofed += 1,
    }
    false
}

/// Adds one datagram to the last batch when it fits its shape, else to a new one.
fn append(
    transmits: &mut Vec<TransmitBatch>,
    to: SocketAddr,
    expected: usize,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Option<usize>,
) {
    if let Some(last) = transmits.last_mut()
        && last.destination() == to
        && last.push_with(expected, room, &mut write)
    {
        return;
    }
    let mut batch = TransmitBatch::new(to);
    batch.push_with(expected, room, write);
    if !batch.is_empty() {
        transmits.push(batch);
    }
}

fn append_message(transmits: &mut Vec<TransmitBatch>, to: SocketAddr, message: &[u8]) {
    append(transmits, to, message.len(), message.len(), |slot| {
        slot[..message.len()].copy_from_slice(message);
        Some(message.len())
    });
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

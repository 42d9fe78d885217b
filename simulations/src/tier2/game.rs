//! Games: small UDP packets between the members of a party, and the check that each arrives where it may and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use lanrage_actors::wire::ip;
use serde::Deserialize;

use super::beacons;
use super::clock;
use super::world::{Event, World};

const MAGIC: [u8; 8] = *b"sim game";
const HEADERS: usize = 28;
/// Magic, source, destination, time.
const MIN_PAYLOAD: usize = 8 + 4 + 4 + 8;
/// Packets that wait in the simulated device; the stack drops what is beyond.
const DEVICE_QUEUE: usize = 256;
/// Packets of one who has left or was removed may still be under way for this long.
const GRACE: Duration = Duration::from_secs(5);
const MAX_VIOLATIONS: usize = 20;

/// As in a scenario's `[run.game]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GameSettings {
    /// Packets a second from each node; each goes to the next member in turn.
    pub pps: f64,
    /// Of the UDP payload.
    pub bytes: usize,
    /// Sessions of so long ...
    pub session_s: f64,
    /// ... begin so far apart; 0: the game never ends.
    pub session_every_s: f64,
    /// Between sessions: a packet from each node so often.
    pub idle_every_s: f64,
}

impl Default for GameSettings {
    fn default() -> Self {
        Self { pps: 20.0, bytes: 100, session_s: 0.0, session_every_s: 0.0, idle_every_s: 60.0 }
    }
}

/// Who is in which party, by what the scenario has done; and what the games saw.
#[derive(Debug)]
pub struct Game {
    settings: GameSettings,
    /// By party: its members.
    pub members: Vec<Vec<usize>>,
    /// By node: the party that it is in, or else when it last was in one.
    pub party_of: Vec<Option<usize>>,
    pub left_at: Vec<Duration>,
    cursor: Vec<usize>,
    /// Packets are counted from here on: everybody is connected.
    pub counting: bool,
    pub counting_since: Duration,
    pub sent: u64,
    pub delivered: u64,
    pub device_full: u64,
    /// One-way times in steps of a millisecond, the last for all above.
    pub latency_ms: Vec<u64>,
    pub violations: Vec<(Duration, String)>,
    /// By source and destination: the last arrival and the longest silence, while somebody wants to know.
    gaps: Option<BTreeMap<(usize, usize), (Duration, Duration)>>,
    /// Members whose packets do not count: they harm themselves.
    pub uncounted: BTreeSet<usize>,
    /// All pairs reach each other, if need be through a relay.
    pub relayed: bool,
}

impl Game {
    #[must_use]
    pub fn new(settings: GameSettings, nodes: usize) -> Self {
        Self {
            settings,
            members: Vec::new(),
            party_of: vec![None; nodes],
            left_at: vec![Duration::ZERO; nodes],
            cursor: (0..nodes).collect(),
            counting: false,
            counting_since: Duration::ZERO,
            sent: 0,
            delivered: 0,
            device_full: 0,
            latency_ms: vec![0; 1001],
            violations: Vec::new(),
            gaps: None,
            uncounted: BTreeSet::new(),
            relayed: false,
        }
    }

    pub fn enter(&mut self, node: usize, party: usize) {
        self.leave(node);
        self.party_of[node] = Some(party);
        self.members[party].push(node);
        self.members[party].sort_unstable();
    }

    pub fn leave(&mut self, node: usize) {
        if let Some(party) = self.party_of[node].take() {
            self.members[party].retain(|member| *member != node);
            self.left_at[node] = clock::elapsed();
        }
    }

    /// Until a node's next packet.
    fn period(&self, now: Duration) -> Option<Duration> {
        let settings = &self.settings;
        let playing =
            settings.session_every_s <= 0.0 || now.as_secs_f64() % settings.session_every_s < settings.session_s;
        let period = if playing { 1.0 / settings.pps } else { settings.idle_every_s };
        (settings.pps > 0.0 && period > 0.0).then(|| Duration::from_secs_f64(period))
    }

    fn violation(&mut self, what: String) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push((clock::elapsed(), what));
        }
    }

    /// From now on silences are measured, of all pairs of a party.
    pub fn watch_gaps(&mut self) {
        let now = clock::elapsed();
        let pairs = self.members.iter().flat_map(|members| {
            members.iter().flat_map(move |a| members.iter().filter(move |b| a != *b).map(move |b| (*a, *b)))
        });
        self.gaps = Some(pairs.map(|pair| (pair, (now, Duration::ZERO))).collect());
    }

    /// The longest silence of each pair since [`Self::watch_gaps`].
    pub fn take_gaps(&mut self) -> Vec<((usize, usize), Duration)> {
        let now = clock::elapsed();
        let gaps = self.gaps.take().unwrap_or_default();
        gaps.into_iter().map(|(pair, (last, longest))| (pair, longest.max(now.saturating_sub(last)))).collect()
    }

    /// Whether the two are in one party, or were a moment ago.
    #[must_use]
    pub fn together(&self, a: usize, b: usize) -> bool {
        let now = clock::elapsed();
        match (self.party_of[a], self.party_of[b]) {
            (Some(one), Some(other)) => one == other,
            (None, _) => now.saturating_sub(self.left_at[a]) <= GRACE,
            (_, None) => now.saturating_sub(self.left_at[b]) <= GRACE,
        }
    }

    fn unicast_arrived(&mut self, node: usize, packet: &[u8]) {
        let Some((source, destination, sent)) = parse(packet) else {
            self.violation(format!("node {node} was given a packet that no game has sent"));
            return;
        };
        let now = clock::elapsed();
        if destination != node {
            self.violation(format!("node {node} was given a packet from {source} to {destination}"));
            return;
        }
        if !self.together(source, node) {
            self.violation(format!("a packet from {source} came to {node}, which is not in its party"));
            return;
        }
        if let Some((last, longest)) = self.gaps.as_mut().and_then(|gaps| gaps.get_mut(&(source, node))) {
            *longest = (*longest).max(now.saturating_sub(*last));
            *last = now;
        }
        let counts = !self.uncounted.contains(&source) && !self.uncounted.contains(&node);
        if self.counting && sent >= self.counting_since && counts {
            self.delivered += 1;
            let ms = usize::try_from((now.saturating_sub(sent)).as_millis()).unwrap_or(usize::MAX);
            let last = self.latency_ms.len() - 1;
            self.latency_ms[ms.min(last)] += 1;
        }
    }

    /// The time below which a part `p` of the packets was delivered, ms.
    #[must_use]
    pub fn latency(&self, p: f64) -> f64 {
        let total: u64 = self.latency_ms.iter().sum();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rank = (total as f64 * p) as u64;
        let mut seen = 0;
        for (ms, count) in self.latency_ms.iter().enumerate() {
            seen += count;
            if seen > rank {
                return f64::from(u32::try_from(ms).unwrap_or(u32::MAX));
            }
        }
        0.0
    }
}

impl World {
    /// Whether packets from `a` must come to `b`: both run on one side of a partition, and there is a path for them.
    #[must_use]
    pub fn reached(&self, a: usize, b: usize) -> bool {
        let (from, to) = (&self.net.sites[a], &self.net.sites[b]);
        let path = self.game.relayed || self.net.same_lan(a, b) || from.punches(to);
        let counts = !self.game.uncounted.contains(&a) && !self.game.uncounted.contains(&b);
        counts && to.up && from.group == to.group && path
    }
}

/// A packet came out of a node's tunnel.
pub fn arrived(world: &mut World, node: usize, packet: &[u8]) {
    match beacons::arrived(world, node, packet.get(HEADERS..).unwrap_or_default()) {
        None => world.game.unicast_arrived(node, packet),
        Some(wrong) => wrong.into_iter().for_each(|what| world.game.violation(what)),
    }
}

/// Starts the game of a node that has just started.
pub fn start(world: &mut World, node: usize) {
    if let Some(period) = world.game.period(clock::elapsed()) {
        // Not all in step.
        let share = f64::from(u32::try_from(node % 97).unwrap_or(0)) / 97.0;
        let run = world.ports[node].run;
        world.after(period.mul_f64(share), Event::GameTick(node, run));
    }
}

pub fn tick(world: &mut World, node: usize) {
    let Some(period) = world.game.period(clock::elapsed()) else { return };
    let run = world.ports[node].run;
    world.after(period, Event::GameTick(node, run));
    if world.ports[node].asleep {
        return;
    }
    let (Some(own), Some(party)) = (world.ports[node].virtual_ip, world.game.party_of[node]) else { return };
    let members = &world.game.members[party];
    if members.len() < 2 {
        return;
    }
    let mut target = members[world.game.cursor[node] % members.len()];
    if target == node {
        world.game.cursor[node] += 1;
        target = members[world.game.cursor[node] % members.len()];
    }
    world.game.cursor[node] += 1;
    // Also of one whose program has died: games do not know.
    let Some(to) = world.ports[target].last_ip else { return };
    let reaches = world.reached(node, target);
    let packet = build(own, to, node, target, world.game.settings.bytes);
    if world.game.counting && reaches {
        world.game.sent += 1;
    }
    shout(world, node, packet);
}

/// Something that a local program sends over the virtual device.
pub fn shout(world: &mut World, node: usize, packet: Vec<u8>) {
    let port = &mut world.ports[node];
    if port.device.len() >= DEVICE_QUEUE {
        world.game.device_full += 1;
        return;
    }
    port.device.push_back(packet);
    if let Some(waker) = port.device_waker.take() {
        waker.wake();
    }
}

fn build(source: Ipv4Addr, destination: Ipv4Addr, from: usize, to: usize, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes.max(MIN_PAYLOAD)];
    payload[..8].copy_from_slice(&MAGIC);
    payload[8..12].copy_from_slice(&u32::try_from(from).unwrap_or(u32::MAX).to_le_bytes());
    payload[12..16].copy_from_slice(&u32::try_from(to).unwrap_or(u32::MAX).to_le_bytes());
    let micros = u64::try_from(clock::elapsed().as_micros()).unwrap_or(u64::MAX);
    payload[16..24].copy_from_slice(&micros.to_le_bytes());
    datagram(source, destination, 27015, &payload)
}

/// An IP packet with UDP from `port` to the same port.
pub fn datagram(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let total = HEADERS + payload.len();
    let mut packet = vec![0; total];
    let _ = ip::write_header(&mut packet, source, destination, ip::UDP, total);
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    let udp = u16::try_from(total - 20).unwrap_or(u16::MAX);
    packet[24..26].copy_from_slice(&udp.to_be_bytes());
    // The checksum may be zero over IPv4.
    packet[HEADERS..].copy_from_slice(payload);
    packet
}

fn parse(packet: &[u8]) -> Option<(usize, usize, Duration)> {
    let payload = packet.get(HEADERS..)?;
    let number = |at: usize| Some(u32::from_le_bytes(payload.get(at..at + 4)?.try_into().ok()?) as usize);
    if payload.get(..8)? != MAGIC {
        return None;
    }
    let micros = u64::from_le_bytes(payload.get(16..24)?.try_into().ok()?);
    Some((number(8)?, number(12)?, Duration::from_micros(micros)))
}

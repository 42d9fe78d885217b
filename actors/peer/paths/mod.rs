//! The paths to one peer: probing, round trips, life and death.

mod path;
mod probing;
mod state;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::choice::{PathQuality, Reason, choose};
use super::messages::{Origin, PathKind, PeerTuning, RelayPolicy};
use super::way::Way;
use crate::wire::{Contact, Endpoint, LocalNetworks, LocalSocket, stream_id};
use path::Path;
pub(super) use path::millis;
use probing::Allowance;

/// More than this are not tried; a peer-reflexive one gives way to one that the member names.
pub const MAX_PATHS: usize = 36;
/// So many addresses seen on pings are probed at a time: a replayed or misdirected ping must not make this node a
/// nuisance to others.
const MAX_UNPROVED_REFLEXIVE: usize = 4;
/// Relayed paths that are probed as often as the one in use.
const WARM_RELAYS: usize = 2;

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeOut {
    pub way: Way,
    pub id: u64,
}

#[derive(Debug)]
pub struct Paths {
    paths: Vec<Path>,
    in_use: Option<usize>,
    reason: Option<Reason>,
    changes: u32,
    last_change: Option<Instant>,
    /// The path in use has died since this was last asked.
    lost: bool,
    /// When packets went out or came in.
    last_traffic: Option<Instant>,
    /// When the oldest packet went out since the path in use last showed life.
    waiting_since: Option<Instant>,
    /// All paths were asked because of that.
    alarm: bool,
    /// The path in use has left a probe unanswered for as long as its answer takes.
    doubt: bool,
    doubted_at: Option<Instant>,
    /// Doubts in a row that brought no life.
    doubts: u32,
    next_id: u64,
    allowance: Allowance,
    /// One of the two is reached only through streams: so are its relays.
    tcp: bool,
    /// Between probes of a path that carries nothing.
    idle_interval: Duration,
    relays: RelayPolicy,
}

impl Paths {
    /// `first_id` starts the transaction ids; they must grow over restarts, so that none is used twice.
    #[must_use]
    pub fn new(first_id: u64) -> Self {
        Self {
            paths: Vec::new(),
            in_use: None,
            reason: None,
            changes: 0,
            last_change: None,
            lost: false,
            last_traffic: None,
            waiting_since: None,
            alarm: false,
            doubt: false,
            doubted_at: None,
            doubts: 0,
            next_id: first_id,
            allowance: Allowance::default(),
            tcp: false,
            idle_interval: probing::PROBE_IDLE,
            relays: RelayPolicy::Auto,
        }
    }

    /// Applies to the next probes; `reselect` applies it to the choice.
    pub fn set_tuning(&mut self, now: Instant, tuning: &PeerTuning) {
        let asked = tuning.keepalive.unwrap_or(probing::PROBE_IDLE);
        self.idle_interval = asked.clamp(probing::PROBE_ACTIVE, probing::PROBE_IDLE_MAX);
        self.relays = tuning.relay;
        for path in self.paths.iter_mut().filter(|path| path.live()) {
            path.next_probe = path.next_probe.min(now + self.idle_interval);
        }
    }

    fn allows(&self, path: &Path) -> bool {
        self.relays != RelayPolicy::Never || !path.is_relayed()
    }

    /// How the member can be reached now. Paths that it no longer names go, unless they are live. `own`: where this machine
    /// is itself; it is no relay for what it sends.
    pub fn set_contact(&mut self, now: Instant, contact: &Contact, own: &Contact, networks: &LocalNetworks) {
        let told =
            contact.candidates.iter().map(|it| (Way::straight(Endpoint::direct(it.addr)), Origin::from(it.kind)));
        let others = contact.tickets.iter().filter(|it| !own.is_at(&it.relay));
        let relayed = others.map(|it| (Way::relayed(Endpoint::relayed(it.relay), it.token), Origin::Relay));
        let named: Vec<(Way, Origin)> = told.chain(relayed).collect();
        self.retain(|path| {
            path.origin == Origin::PeerReflexive
                || (path.live() && !(path.is_relayed() && own.is_at(&path.addr())))
                || named.iter().any(|(way, _)| way.to() == path.endpoint())
        });
        for (way, origin) in named {
            if let Some(path) = self.find(way.to()) {
                // A new token for the same relay: what is known of the path still holds.
                path.way = way;
                path.origin = origin;
                continue;
            }
            if self.paths.len() >= MAX_PATHS {
                // What the member says of itself goes before what was merely seen.
                let Some(guess) = self.paths.iter().position(|it| it.origin == Origin::PeerReflexive && !it.live())
                else {
                    continue;
                };
                let guess = self.paths.get(guess).map(Path::endpoint);
                self.retain(|path| Some(path.endpoint()) != guess);
            }
            self.paths.push(Path::new(way, kind_of(way.to(), networks, self.tcp), origin, now));
        }
    }

    fn find(&mut self, endpoint: Endpoint) -> Option<&mut Path> {
        self.paths.iter_mut().find(|path| path.endpoint() == endpoint)
    }

    /// Drops paths; the index of the one in use follows.
    fn retain(&mut self, keep: impl Fn(&Path) -> bool) {
        let in_use = self.current().map(Path::endpoint);
        self.paths.retain(keep);
        self.in_use = in_use.and_then(|endpoint| self.paths.iter().position(|path| path.endpoint() == endpoint));
    }

    fn current(&self) -> Option<&Path> {
        self.in_use.and_then(|index| self.paths.get(index))
    }

    /// This machine is on other networks now, or one of the two is cut off from UDP, or no longer.
    pub fn set_networks(&mut self, networks: &LocalNetworks, tcp: bool) {
        self.tcp = tcp;
        for path in &mut self.paths {
            path.kind = kind_of(path.endpoint(), networks, tcp);
        }
    }

    /// Try every candidate again at once: the member or this machine has moved.
    pub fn restart_probing(&mut self, now: Instant) {
        for path in &mut self.paths {
            path.next_probe = now;
            if !path.live() {
                path.sent = 0;
            }
        }
    }

    /// The way to send, and its kind.
    #[must_use]
    pub fn selected(&self) -> Option<(Way, PathKind)> {
        self.current().map(|path| (path.way, path.kind))
    }

    /// Where an answer to something from `from` goes: back, or, for what a relay forwarded, through that relay or the
    /// best other one. `None` without a ticket of the peer's.
    #[must_use]
    pub fn answer_to(&self, from: Endpoint) -> Option<Way> {
        if !from.relayed {
            return Some(Way::straight(from));
        }
        let back = self.paths.iter().find(|path| path.endpoint() == from);
        back.or_else(|| self.best_relayed()).map(|path| path.way)
    }

    fn best_relayed(&self) -> Option<&Path> {
        let unknown = Duration::MAX;
        self.paths
            .iter()
            .filter(|path| path.is_relayed())
            .min_by_key(|path| (!path.live(), path.failing, path.rtt().unwrap_or(unknown)))
    }

    /// Where the peer hears of this machine most likely: the path in use and the best relay, or, when nothing answers,
    /// all its relays.
    pub fn offer_ways(&self) -> impl Iterator<Item = Way> {
        let best = self.best_relayed().filter(|path| path.live());
        let (use_all, best) = (best.is_none(), best.map(Path::endpoint));
        self.paths.iter().enumerate().filter_map(move |(index, path)| {
            let wanted = self.in_use == Some(index) || Some(path.endpoint()) == best || (use_all && path.is_relayed());
            wanted.then_some(path.way)
        })
    }

    /// A transaction id that was not used before.
    pub fn next_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    /// Those sockets are closed, but for one: their paths are gone.
    pub fn forget_sockets(&mut self, keep: Option<LocalSocket>) {
        self.retain(|path| {
            let local = path.endpoint().local;
            local == LocalSocket::MAIN || Some(local) == keep
        });
    }

    /// Whether the path in use has died since the last call.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// Packets of the tunnel went out.
    pub fn on_sent(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
        self.on_traffic(now);
    }

    /// Who only listens must notice as soon as who sends that nothing comes any more.
    fn on_traffic(&mut self, now: Instant) {
        let was_active = self.is_active(now);
        self.last_traffic = Some(now);
        if !was_active {
            for index in 0..self.paths.len() {
                if self.paths[index].live() {
                    let soon = now + self.interval_after(index, now);
                    self.paths[index].next_probe = self.paths[index].next_probe.min(soon);
                }
            }
        }
    }

    fn is_active(&self, now: Instant) -> bool {
        self.last_traffic.is_some_and(|at| now.saturating_duration_since(at) < probing::ACTIVE_FOR)
    }

    /// Something authentic of the tunnel came in from `from`.
    pub fn on_received(&mut self, now: Instant, from: Endpoint) {
        if let Some(index) = self.paths.iter().position(|path| path.endpoint() == from) {
            self.paths[index].heard(now);
            self.on_life(index);
        }
        self.on_traffic(now);
    }

    /// Whether this machine's own address is to be doubted: the path in use does not answer, or packets wait (`wanted`) and
    /// there is none. Not more often than every `DOUBT_EVERY`, and ever less often about a member who stays away.
    pub fn take_doubt(&mut self, now: Instant, wanted: bool) -> bool {
        let doubt = std::mem::take(&mut self.doubt) || (wanted && self.in_use.is_none());
        let doublings = self.doubts.saturating_sub(probing::DOUBTS_IN_A_ROW).min(probing::DOUBT_DOUBLINGS);
        if !doubt || self.doubted_at.is_some_and(|at| now < at + probing::DOUBT_EVERY * (1 << doublings)) {
            return false;
        }
        self.doubted_at = Some(now);
        self.doubts = self.doubts.saturating_add(1);
        true
    }

    /// What came in by another path does not say that the one in use carries anything.
    fn on_life(&mut self, index: usize) {
        if self.in_use == Some(index) {
            self.waiting_since = None;
            self.doubts = 0;
            if std::mem::take(&mut self.alarm) {
                self.paths.iter_mut().for_each(|path| path.failing = false);
            }
        }
    }

    /// An authentic ping came in from `from`: a path may be there in the other direction as well.
    pub fn on_ping(&mut self, now: Instant, from: Endpoint, networks: &LocalNetworks) {
        match self.find(from) {
            Some(path) => {
                path.heard(now);
                if !path.live() {
                    path.next_probe = path.next_probe.min(now);
                    if path.origin != Origin::PeerReflexive {
                        path.sent = path.sent.min(1);
                    }
                }
            }
            // The peer has tickets of ours; only its own make a path.
            None if from.relayed => {}
            None => {
                let reflexive = |path: &&Path| path.origin == Origin::PeerReflexive && !path.proved();
                if self.paths.iter().filter(reflexive).count() >= MAX_UNPROVED_REFLEXIVE
                    || self.paths.len() >= MAX_PATHS
                {
                    return;
                }
                let kind = kind_of(from, networks, self.tcp);
                self.paths.push(Path::new(Way::straight(from), kind, Origin::PeerReflexive, now));
            }
        }
    }

    /// A pong came in. Returns its round trip when it answers a probe that was sent to where it came from: an answer
    /// from elsewhere, a repeated one or one to a forgotten probe says nothing. What goes through a relay may come back
    /// through another.
    pub fn on_pong(&mut self, now: Instant, from: Endpoint, id: u64) -> Option<Duration> {
        let index = self.paths.iter().position(|path| {
            let matching = if from.relayed { path.is_relayed() } else { path.endpoint() == from };
            matching && path.is_waiting_for(id)
        })?;
        let path = self.paths.get_mut(index)?;
        let rtt = path.on_pong(now, id)?;
        if !path.is_relayed() {
            self.allowance.answered(now, path.addr().ip());
        }
        self.on_life(index);
        Some(rtt)
    }

    /// Puts the probes that are due into `out` and returns whether the path in use changed.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<ProbeOut>) -> bool {
        if self.paths.iter().any(|path| path.next_probe <= now && path.is_spent(now)) {
            self.retain(|path| path.next_probe > now || !path.is_spent(now));
        }
        if !self.alarm && self.suspect_at().is_some_and(|at| at <= now) {
            self.raise_alarm(now);
        }
        for index in 0..self.paths.len() {
            if self.probe_due(index) > now {
                continue;
            }
            let interval = self.interval_after(index, now);
            let path = &mut self.paths[index];
            if !self.allowance.take(now, path) {
                path.next_probe = now + probing::PROBE_ACTIVE;
                continue;
            }
            if self.in_use == Some(index) {
                path.failing |= self.alarm && path.unanswered >= probing::FAILING_AFTER;
                self.doubt |= path.unanswered >= if self.alarm { 1 } else { 2 };
            }
            let (id, way) = (self.next_id, path.way);
            path.on_probe(now, id);
            path.next_probe = now + interval;
            self.next_id = id.wrapping_add(1);
            out.push(ProbeOut { way, id });
        }
        self.reselect(now)
    }

    /// When packets went out and nothing came back: for long enough to ask.
    fn suspect_at(&self) -> Option<Instant> {
        self.in_use.and(self.waiting_since).map(|since| since + probing::QUIET_BEFORE_SUSPECT)
    }

    /// The path in use may be gone: which other one would answer now?
    fn raise_alarm(&mut self, now: Instant) {
        self.alarm = true;
        for (index, path) in self.paths.iter_mut().enumerate() {
            if self.in_use != Some(index) {
                path.failing = true;
                path.next_probe = now;
                if !path.live() {
                    path.sent = 0;
                }
            }
        }
    }

    /// Applies the choice; returns whether it changed.
    pub fn reselect(&mut self, now: Instant) -> bool {
        let mut known = [PathQuality::NONE; MAX_PATHS];
        for (slot, path) in known.iter_mut().zip(&self.paths) {
            *slot = path.quality();
            slot.live &= self.allows(path);
        }
        let chosen = choose(&known[..self.paths.len().min(MAX_PATHS)], self.in_use, self.relays);
        let index = chosen.map(|(index, _)| index);
        if index == self.in_use {
            return false;
        }
        let lost = self.current().is_some_and(|path| !path.live() || path.failing);
        self.lost |= lost;
        self.doubt |= lost;
        self.in_use = index;
        self.reason = chosen.and_then(|(_, reason)| reason);
        self.changes = self.changes.saturating_add(1);
        self.last_change = Some(now);
        self.waiting_since = None;
        self.alarm = false;
        true
    }

    /// When `tick` wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let alarm = self.suspect_at().filter(|_| !self.alarm);
        (0..self.paths.len()).map(|index| self.probe_due(index)).chain(alarm).min().map(|due| (due, "probe"))
    }

    /// The path in use is asked early when packets go out and nothing comes back.
    fn probe_due(&self, index: usize) -> Instant {
        let path = &self.paths[index];
        match self.suspect_at() {
            Some(suspect) if self.in_use == Some(index) => {
                let spaced = path.last_probe().map_or(suspect, |sent| suspect.max(sent + path.suspect_interval()));
                path.next_probe.min(spaced)
            }
            Some(_) | None => path.next_probe,
        }
    }

    fn interval_after(&self, index: usize, now: Instant) -> Duration {
        let path = &self.paths[index];
        let active = self.is_active(now);
        if !path.live() {
            probing::silent_interval(path.sent)
        } else if self.alarm {
            path.suspect_interval()
        } else if path.unanswered > 0 || (active && (self.in_use == Some(index) || self.is_warm(path))) {
            // With an answer missing: find out soon whether the path is gone.
            probing::PROBE_ACTIVE
        } else if active {
            probing::PROBE_BESIDE
        } else {
            self.idle_interval
        }
    }

    /// By one of the best relays. What differs in the port only is one relay: with it both would be gone.
    fn is_warm(&self, path: &Path) -> bool {
        let better = |it: &&Path| it.is_relayed() && it.live() && (it.rtt(), it.addr()) < (path.rtt(), path.addr());
        let mut machines = [None; WARM_RELAYS];
        for ip in self.paths.iter().filter(better).map(|it| it.addr().ip()) {
            if ip == path.addr().ip() {
                return false;
            }
            if !machines.contains(&Some(ip)) {
                let Some(free) = machines.iter_mut().find(|it| it.is_none()) else { return false };
                *free = Some(ip);
            }
        }
        path.is_relayed() && machines.contains(&None)
    }
}

fn kind_of(to: Endpoint, networks: &LocalNetworks, tcp: bool) -> PathKind {
    let ip = match to.addr.ip() {
        IpAddr::V6(ip) => ip.to_canonical(),
        ip @ IpAddr::V4(_) => ip,
    };
    if stream_id(to.addr).is_some() || (to.relayed && tcp) {
        PathKind::Tcp
    } else if to.relayed {
        PathKind::Relay
    } else if networks.contain(ip) {
        PathKind::Lan
    } else {
        PathKind::Direct
    }
}

#[cfg(test)]
mod tests;

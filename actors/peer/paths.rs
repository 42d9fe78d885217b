//! The paths to one peer: probing, round trips, life and death.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::choice::{PathQuality, choose};
use super::messages::{CandidateView, PathKind};
use crate::wire::LocalNetworks;

/// More candidates than this are not tried; the oldest peer-reflexive one gives way to a new one.
pub const MAX_PATHS: usize = 24;
/// Round trips remembered per path.
const RTT_WINDOW: usize = 8;
/// Probes remembered as not yet answered per path.
const OUTSTANDING: usize = 8;
/// A path that left this many probes unanswered is dead.
const DEAD_AFTER: u32 = 3;

/// Traffic within this time makes the probe rate that of a game.
const ACTIVE_FOR: Duration = Duration::from_secs(3);
const PROBE_ACTIVE: Duration = Duration::from_secs(1);
/// Well under the 30 s that the shortest-lived NAT mappings in homes last.
const PROBE_IDLE: Duration = Duration::from_secs(15);
/// Packets went out and nothing authentic came back for this long: ask.
const QUIET_BEFORE_SUSPECT: Duration = Duration::from_millis(250);
const PROBE_SUSPECT: Duration = Duration::from_millis(100);
/// First retry towards a candidate that has not answered; doubles up to `PROBE_SILENT_MAX`.
const PROBE_FIRST: Duration = Duration::from_millis(100);
const PROBE_SILENT_MAX: Duration = Duration::from_secs(5);
/// Doublings until the longest interval, which then holds until the candidate is given up as offline.
const SILENT_LONG_AFTER: u32 = 20;
const PROBE_OFFLINE: Duration = Duration::from_secs(30);
/// An address that was only seen on a ping gets this many probes to prove itself …
const REFLEXIVE_PROBES: u32 = 5;
/// … and so many such addresses at a time: a replayed or misdirected ping must not make this node a nuisance to others.
const MAX_UNPROVED_REFLEXIVE: usize = 4;
/// A peer-reflexive path that has died is forgotten after this.
const REFLEXIVE_KEPT: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Path {
    endpoint: SocketAddr,
    kind: PathKind,
    /// Seen on an authentic ping rather than told by the member.
    peer_reflexive: bool,
    rtts: [Duration; RTT_WINDOW],
    rtt_count: usize,
    outstanding: [Option<(u64, Instant)>; OUTSTANDING],
    sent: u32,
    unanswered: u32,
    answered: bool,
    last_heard: Option<Instant>,
    next_probe: Instant,
}

impl Path {
    fn new(endpoint: SocketAddr, kind: PathKind, peer_reflexive: bool, now: Instant) -> Self {
        Self {
            endpoint,
            kind,
            peer_reflexive,
            rtts: [Duration::ZERO; RTT_WINDOW],
            rtt_count: 0,
            outstanding: [None; OUTSTANDING],
            sent: 0,
            unanswered: 0,
            answered: false,
            last_heard: None,
            next_probe: now,
        }
    }

    fn live(&self) -> bool {
        self.answered
    }

    /// Second lowest of the window: one lucky or lying sample does not decide.
    fn rtt(&self) -> Option<Duration> {
        let count = self.rtt_count.min(RTT_WINDOW);
        let mut window = self.rtts;
        window[..count].sort_unstable();
        window[..count].get(usize::from(count > 2)).copied()
    }

    /// Seen only on a ping, and of no use (any more).
    fn is_spent(&self, now: Instant) -> bool {
        let proved = self.rtt_count > 0;
        self.peer_reflexive
            && !self.live()
            && if proved {
                self.last_heard.is_none_or(|at| now.saturating_duration_since(at) >= REFLEXIVE_KEPT)
            } else {
                self.sent >= REFLEXIVE_PROBES
            }
    }

    fn heard(&mut self, now: Instant) {
        self.last_heard = Some(now);
        if self.answered {
            self.unanswered = 0;
        }
    }
}

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeOut {
    pub to: SocketAddr,
    pub id: u64,
}

#[derive(Debug)]
pub struct Paths {
    paths: Vec<Path>,
    in_use: Option<usize>,
    last_sent: Option<Instant>,
    last_received: Option<Instant>,
    /// When the oldest packet went out to which nothing authentic has come back.
    waiting_since: Option<Instant>,
    next_id: u64,
}

impl Paths {
    /// `first_id` starts the transaction ids; random, so that a restarted node does not repeat them.
    #[must_use]
    pub fn new(first_id: u64) -> Self {
        Self {
            paths: Vec::new(),
            in_use: None,
            last_sent: None,
            last_received: None,
            waiting_since: None,
            next_id: first_id,
        }
    }

    /// What the member says of itself now. Paths that it no longer names go, unless they are live.
    pub fn set_candidates(&mut self, now: Instant, candidates: &[SocketAddr], networks: &LocalNetworks) {
        let in_use = self.endpoint_in_use();
        self.paths.retain(|path| path.peer_reflexive || path.live() || candidates.contains(&path.endpoint));
        for &endpoint in candidates {
            if let Some(path) = self.paths.iter_mut().find(|path| path.endpoint == endpoint) {
                path.peer_reflexive = false;
                continue;
            }
            if self.paths.len() >= MAX_PATHS {
                // What the member says of itself goes before what was merely seen.
                let Some(guess) = self.paths.iter().position(|path| path.peer_reflexive && !path.live()) else {
                    continue;
                };
                self.paths.remove(guess);
            }
            self.paths.push(Path::new(endpoint, kind_of(endpoint, networks), false, now));
        }
        self.use_again(in_use);
    }

    /// Indices have moved.
    fn use_again(&mut self, endpoint: Option<SocketAddr>) {
        self.in_use = endpoint.and_then(|endpoint| self.paths.iter().position(|path| path.endpoint == endpoint));
    }

    /// This machine is on other networks now.
    pub fn set_networks(&mut self, networks: &LocalNetworks) {
        for path in &mut self.paths {
            path.kind = kind_of(path.endpoint, networks);
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

    /// The address to send to, and its kind.
    #[must_use]
    pub fn selected(&self) -> Option<(SocketAddr, PathKind)> {
        self.in_use.and_then(|index| self.paths.get(index)).map(|path| (path.endpoint, path.kind))
    }

    fn endpoint_in_use(&self) -> Option<SocketAddr> {
        self.selected().map(|(endpoint, _)| endpoint)
    }

    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.in_use.and_then(|index| self.paths.get(index)).and_then(Path::rtt)
    }

    #[must_use]
    pub fn candidates(&self) -> Vec<CandidateView> {
        self.paths
            .iter()
            .map(|path| CandidateView {
                endpoint: path.endpoint,
                kind: path.kind,
                live: path.live(),
                rtt_ms: path.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
            })
            .collect()
    }

    /// Packets of the tunnel went out.
    pub fn on_sent(&mut self, now: Instant) {
        self.last_sent = Some(now);
        self.waiting_since.get_or_insert(now);
    }

    /// Something authentic of the tunnel came in from `from`.
    pub fn on_received(&mut self, now: Instant, from: SocketAddr) {
        self.last_received = Some(now);
        self.waiting_since = None;
        if let Some(path) = self.paths.iter_mut().find(|path| path.endpoint == from) {
            path.heard(now);
        }
    }

    /// An authentic ping came in from `from`: a path may be there in the other direction as well.
    pub fn on_ping(&mut self, now: Instant, from: SocketAddr, networks: &LocalNetworks) {
        match self.paths.iter_mut().find(|path| path.endpoint == from) {
            Some(path) => {
                path.heard(now);
                if !path.live() {
                    path.next_probe = path.next_probe.min(now);
                    if !path.peer_reflexive {
                        path.sent = path.sent.min(1);
                    }
                }
            }
            None => {
                let unproved = self.paths.iter().filter(|path| path.peer_reflexive && path.rtt_count == 0).count();
                if unproved >= MAX_UNPROVED_REFLEXIVE || self.paths.len() >= MAX_PATHS {
                    return;
                }
                self.paths.push(Path::new(from, kind_of(from, networks), true, now));
            }
        }
    }

    /// A pong came in. Returns its round trip when it answers a probe that was sent to where it came from: an answer
    /// from elsewhere, a repeated one or one to a forgotten probe says nothing.
    pub fn on_pong(&mut self, now: Instant, from: SocketAddr, id: u64) -> Option<Duration> {
        let path = self.paths.iter_mut().find(|path| path.endpoint == from)?;
        let slot = path.outstanding.iter_mut().find(|slot| slot.is_some_and(|(sent_id, _)| sent_id == id))?;
        let (_, sent_at) = slot.take()?;
        let rtt = now.saturating_duration_since(sent_at);
        path.rtts[path.rtt_count % RTT_WINDOW] = rtt;
        path.rtt_count = path.rtt_count.checked_add(1).unwrap_or(RTT_WINDOW);
        path.answered = true;
        path.unanswered = 0;
        path.last_heard = Some(now);
        self.last_received = Some(now);
        if self.endpoint_in_use() == Some(from) {
            self.waiting_since = None;
        }
        Some(rtt)
    }

    /// Sends the probes that are due into `out` and returns whether the path in use changed.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<ProbeOut>) -> bool {
        if self.paths.iter().any(|path| path.next_probe <= now && path.is_spent(now)) {
            let in_use = self.endpoint_in_use();
            self.paths.retain(|path| path.next_probe > now || !path.is_spent(now));
            self.use_again(in_use);
        }
        for index in 0..self.paths.len() {
            if self.probe_due(index) > now {
                continue;
            }
            let path = &mut self.paths[index];
            // Judged when the next one is due: the last of them has then had its time to be answered.
            if path.answered && path.unanswered >= DEAD_AFTER {
                path.answered = false;
                path.sent = 0;
            }
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let interval = self.interval_after(index, now);
            let path = &mut self.paths[index];
            path.sent = path.sent.saturating_add(1);
            path.unanswered = path.unanswered.saturating_add(1);
            path.outstanding.rotate_right(1);
            path.outstanding[0] = Some((id, now));
            path.next_probe = now + interval;
            out.push(ProbeOut { to: path.endpoint, id });
        }
        self.reselect()
    }

    /// Applies the choice; returns whether it changed.
    pub fn reselect(&mut self) -> bool {
        let mut qualities = [PathQuality { kind: PathKind::None, live: false, rtt: Duration::ZERO }; MAX_PATHS];
        for (quality, path) in qualities.iter_mut().zip(&self.paths) {
            *quality = PathQuality { kind: path.kind, live: path.live(), rtt: path.rtt().unwrap_or(Duration::MAX / 8) };
        }
        let chosen = choose(&qualities[..self.paths.len().min(MAX_PATHS)], self.in_use);
        let changed = chosen != self.in_use;
        self.in_use = chosen;
        changed
    }

    /// When `tick` wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        (0..self.paths.len()).map(|index| self.probe_due(index)).min().map(|due| (due, "probe"))
    }

    /// The path in use is asked early when packets go out and nothing comes back.
    fn probe_due(&self, index: usize) -> Instant {
        let path = &self.paths[index];
        match self.waiting_since {
            Some(since) if self.in_use == Some(index) => {
                let suspect = since + QUIET_BEFORE_SUSPECT;
                let spaced =
                    path.outstanding[0].map_or(suspect, |(_, sent)| suspect.max(sent + suspect_interval(path)));
                path.next_probe.min(spaced)
            }
            Some(_) | None => path.next_probe,
        }
    }

    fn interval_after(&self, index: usize, now: Instant) -> Duration {
        let path = &self.paths[index];
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < ACTIVE_FOR);
        let active = recent(self.last_sent) || recent(self.last_received);
        if path.live() && self.in_use == Some(index) {
            if self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= QUIET_BEFORE_SUSPECT) {
                suspect_interval(path)
            } else if active && recent(self.last_sent) {
                PROBE_ACTIVE
            } else if path.unanswered > 0 {
                // One answer is missing: find out soon whether the path is gone.
                PROBE_ACTIVE
            } else {
                PROBE_IDLE
            }
        } else if path.live() {
            PROBE_IDLE
        } else if path.sent >= SILENT_LONG_AFTER {
            PROBE_OFFLINE
        } else {
            PROBE_FIRST.saturating_mul(1 << path.sent.min(6)).min(PROBE_SILENT_MAX)
        }
    }
}

/// Each probe gets the time in which its answer would have come.
fn suspect_interval(path: &Path) -> Duration {
    PROBE_SUSPECT.max(path.rtt().unwrap_or_default() * 5 / 4)
}

fn kind_of(endpoint: SocketAddr, networks: &LocalNetworks) -> PathKind {
    let ip = match endpoint.ip() {
        IpAddr::V6(ip) => ip.to_canonical(),
        ip @ IpAddr::V4(_) => ip,
    };
    if networks.contain(ip) { PathKind::Lan } else { PathKind::Direct }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, n], 4000))
    }

    struct Sim {
        paths: Paths,
        now: Instant,
        probes: Vec<ProbeOut>,
        pending: Vec<(Instant, SocketAddr, u64)>,
    }

    impl Sim {
        fn new(candidates: &[SocketAddr]) -> Self {
            let now = Instant::now();
            let mut paths = Paths::new(0);
            paths.set_candidates(now, candidates, &LocalNetworks::default());
            Self { paths, now, probes: Vec::new(), pending: Vec::new() }
        }

        /// Runs until `until`, answering probes to those for which `answers` gives a round trip.
        fn run(&mut self, until: Instant, answers: impl Fn(SocketAddr) -> Option<Duration>) -> usize {
            let mut sent = 0;
            while self.now < until {
                self.pending.retain(|&(at, from, id)| {
                    if at <= self.now {
                        self.paths.on_pong(at, from, id);
                        self.paths.reselect();
                        return false;
                    }
                    true
                });
                self.probes.clear();
                self.paths.tick(self.now, &mut self.probes);
                for probe in &self.probes {
                    sent += 1;
                    if let Some(rtt) = answers(probe.to) {
                        self.pending.push((self.now + rtt, probe.to, probe.id));
                    }
                }
                let next = self.pending.iter().map(|p| p.0).min();
                let due = self.paths.poll_timeout().map(|(at, _)| at);
                let step = [next, due, Some(until)].into_iter().flatten().min().unwrap();
                self.now = step.max(self.now + Duration::from_micros(1));
            }
            sent
        }
    }

    #[test]
    fn the_faster_path_is_used_and_left_when_it_dies() {
        let mut sim = Sim::new(&[endpoint(1), endpoint(2)]);
        let start = sim.now;
        let ms = Duration::from_millis;
        let rtt = move |to: SocketAddr| Some(if to == endpoint(1) { ms(30) } else { ms(10) });
        sim.run(start + ms(200), rtt);
        assert_eq!(sim.paths.selected(), Some((endpoint(2), PathKind::Direct)));
        sim.run(start + ms(3000), rtt);
        assert!((sim.paths.rtt().unwrap().as_millis()) == 10);

        // The path in use dies while packets go out.
        let cut = sim.now;
        sim.paths.on_sent(cut);
        sim.run(cut + ms(900), move |to| if to == endpoint(1) { Some(ms(30)) } else { None });
        assert_eq!(sim.paths.selected(), Some((endpoint(1), PathKind::Direct)), "failed over within 0.9 s");
    }

    #[test]
    fn a_long_path_is_not_taken_for_dead() {
        let mut sim = Sim::new(&[endpoint(1)]);
        let answer = |_| Some(Duration::from_millis(600));
        let start = sim.now;
        sim.run(start + Duration::from_secs(20), answer);
        sim.paths.on_sent(sim.now);
        for _ in 0..200 {
            let until = sim.now + Duration::from_millis(50);
            sim.run(until, answer);
            assert_eq!(sim.paths.selected().map(|s| s.0), Some(endpoint(1)));
        }
    }

    #[test]
    fn probes_to_a_silent_candidate_back_off() {
        let mut sim = Sim::new(&[endpoint(1)]);
        let start = sim.now;
        let first_minute = sim.run(start + Duration::from_secs(60), |_| None);
        assert!((10..=20).contains(&first_minute), "{first_minute}");
        let hour = sim.run(start + Duration::from_secs(3660), |_| None);
        assert!(hour <= 130, "{hour}");
        assert_eq!(sim.paths.selected(), None);
    }

    #[test]
    fn an_idle_path_is_kept_open_and_noticed_when_dead() {
        let mut sim = Sim::new(&[endpoint(1)]);
        let start = sim.now;
        let answer = |_| Some(Duration::from_millis(5));
        sim.run(start + Duration::from_secs(10), answer);
        let sent = sim.run(start + Duration::from_secs(310), answer);
        assert!((18..=24).contains(&sent), "{sent}");
        sim.run(start + Duration::from_secs(340), |_| None);
        assert_eq!(sim.paths.selected(), None);
    }

    #[test]
    fn answers_from_elsewhere_or_repeated_say_nothing() {
        let mut sim = Sim::new(&[endpoint(1)]);
        let now = sim.now;
        sim.paths.tick(now, &mut sim.probes);
        let id = sim.probes[0].id;
        assert_eq!(sim.paths.on_pong(now, endpoint(2), id), None);
        assert_eq!(sim.paths.on_pong(now, endpoint(1), id + 1), None);
        assert!(sim.paths.on_pong(now, endpoint(1), id).is_some());
        assert_eq!(sim.paths.on_pong(now, endpoint(1), id), None, "replayed");
    }

    #[test]
    fn peer_reflexive_paths_are_learnt_and_bounded() {
        let mut sim = Sim::new(&[endpoint(1)]);
        let networks = LocalNetworks::default();
        for n in 0..200 {
            sim.paths.on_ping(sim.now, SocketAddr::from(([198, 51, 100, n], 1)), &networks);
        }
        assert_eq!(sim.paths.paths.len(), 1 + MAX_UNPROVED_REFLEXIVE);
        // Nobody there answers: each gets a few probes, then it is left alone.
        let start = sim.now;
        let sent = std::cell::RefCell::new(Vec::new());
        sim.run(start + Duration::from_secs(600), |to| {
            sent.borrow_mut().push(to);
            None
        });
        let sent = sent.into_inner();
        let to_strangers = sent.iter().filter(|to| **to != endpoint(1)).count();
        assert!(to_strangers <= MAX_UNPROVED_REFLEXIVE * REFLEXIVE_PROBES as usize, "{to_strangers}");
        assert_eq!(sim.paths.paths.iter().map(|path| path.endpoint).collect::<Vec<_>>(), [endpoint(1)]);
    }

    #[test]
    fn a_crowd_of_old_guesses_does_not_keep_new_candidates_out() {
        let mut sim = Sim::new(&[]);
        let networks = LocalNetworks::default();
        for n in 0..40 {
            let from = SocketAddr::from(([198, 51, 100, n], 1));
            sim.paths.on_ping(sim.now, from, &networks);
            let until = sim.now + Duration::from_millis(50);
            sim.run(until, |to| (to == from).then_some(Duration::from_millis(1)));
        }
        assert_eq!(sim.paths.paths.len(), MAX_PATHS);
        let until = sim.now + Duration::from_secs(60);
        sim.run(until, |_| None);
        sim.paths.set_candidates(sim.now, &[endpoint(1), endpoint(2)], &networks);
        let until = sim.now + Duration::from_secs(1);
        sim.run(until, |to| (to == endpoint(2)).then_some(Duration::from_millis(1)));
        assert_eq!(sim.paths.selected().map(|s| s.0), Some(endpoint(2)));
    }

    #[test]
    fn candidates_that_are_gone_go_unless_live() {
        let mut sim = Sim::new(&[endpoint(1), endpoint(2)]);
        let start = sim.now;
        sim.run(start + Duration::from_secs(1), |to| (to == endpoint(1)).then_some(Duration::from_millis(1)));
        sim.paths.set_candidates(sim.now, &[endpoint(3)], &LocalNetworks::default());
        let left: Vec<_> = sim.paths.candidates().iter().map(|c| c.endpoint).collect();
        assert_eq!(left, [endpoint(1), endpoint(3)]);
        assert_eq!(sim.paths.selected().map(|s| s.0), Some(endpoint(1)));
    }
}

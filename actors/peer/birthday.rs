//! Symmetric NAT against a filter by address and port: neither side can tell the other a port that will work. One side
//! has many mappings, the other tries many ports, and with 256 of the one a few hundred of the other meet (the birthday
//! paradox): of 64,512 ports, 512 probes hit with 87 %, 1,024 with 98 %.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::messages::{PunchRequest, PunchSockets};
use crate::wire::{CandidateKind, Contact, Dependence, Endpoint, LocalSocket};

/// Sockets of the side behind the symmetric NAT.
pub const SOCKETS: u16 = 256;
/// Ordinary probing gets this long.
const PATIENCE: Duration = Duration::from_millis(700);
/// A hundred a second: more trips flood guards of home routers.
const PACE: Duration = Duration::from_millis(10);
/// Ports tried by the other side, each once.
const MAX_PORTS: u32 = 2_048;
/// The sockets stay this long: the other side may start later, and takes 20 s for all its ports.
const OPEN_FOR: Duration = Duration::from_secs(45);
/// A mapping is refreshed after this; many NATs forget one after 30 s.
const REFRESH: Duration = Duration::from_secs(20);
/// Between attempts that failed, unless the contact of either changes …
const REST: Duration = Duration::from_secs(600);
/// … and attempts of any kind: three at once, then one each ten minutes.
const RUNS: u32 = 3;
/// Addresses of the peer that are tried.
const MAX_TARGETS: usize = 2;
/// Ports around the one that a counting NAT is expected to take next.
const PREDICTED_AROUND: i32 = 15;
/// Ports after those, where the many sockets of the other side end up.
const PREDICTED_AHEAD: i32 = 64;

const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 65_536 - FIRST_PORT;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// This side is behind the symmetric NAT: many sockets, each sends to these.
    Open { targets: Vec<SocketAddr> },
    /// The peer is: many ports of these addresses.
    Probe { ips: Vec<IpAddr>, predicted: Vec<u16> },
}

#[derive(Debug)]
enum State {
    Idle {
        /// Since when there is no straight path.
        since: Option<Instant>,
    },
    /// Sockets were asked for.
    Opening { until: Instant },
    Opened {
        sockets: PunchSockets,
        /// Pings sent so far, over all sockets and targets.
        sent: u32,
        next: Instant,
        until: Instant,
    },
    Probing {
        start: u32,
        step: u32,
        /// Ports tried so far, the predicted ones first.
        tried: u32,
        next: Instant,
    },
    /// Tried in vain.
    Resting { until: Instant },
}

/// What the machine's paths are like now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Straight {
    /// A path past all relays answers.
    pub live: bool,
    /// The socket of the path in use when that is straight.
    pub local: Option<LocalSocket>,
}

#[derive(Debug)]
pub struct Birthday {
    role: Option<Role>,
    state: State,
    /// The socket that a path was found on.
    kept: Option<LocalSocket>,
    runs: Bucket,
}

impl Default for Birthday {
    fn default() -> Self {
        Self { role: None, state: State::Idle { since: None }, kept: None, runs: Bucket::new(RUNS, REST) }
    }
}

impl Birthday {
    /// What both sides say of themselves now.
    pub fn set_contacts(&mut self, own: &Contact, peer: &Contact, requests: &mut Vec<PunchRequest>) {
        let role = role(own, peer);
        if role != self.role {
            self.role = role;
            self.stop(State::Idle { since: None }, requests);
        }
    }

    /// `seed` decides in which order ports are tried.
    pub fn tick(
        &mut self,
        now: Instant,
        straight: Straight,
        seed: impl FnOnce() -> u32,
        pings: &mut Vec<Endpoint>,
        requests: &mut Vec<PunchRequest>,
    ) {
        if straight.live {
            self.settle(now, straight.local, requests);
            return;
        }
        if self.kept.take().is_some() {
            requests.push(PunchRequest::Close { keep: None });
        }
        let Some(role) = &self.role else { return };
        match &mut self.state {
            State::Idle { since } => {
                let start = *since.get_or_insert(now) + PATIENCE;
                if now < start {
                    return;
                }
                if !self.runs.take(now) {
                    self.state = State::Resting { until: self.runs.free_at(now) };
                    return;
                }
                self.state = match role {
                    Role::Open { .. } => {
                        requests.push(PunchRequest::Open { count: SOCKETS });
                        State::Opening { until: now + OPEN_FOR }
                    }
                    Role::Probe { .. } => {
                        let seed = seed();
                        State::Probing {
                            start: seed % PORTS,
                            step: coprime_step(seed / PORTS),
                            tried: 0,
                            next: now + PACE,
                        }
                    }
                };
            }
            State::Opening { until } | State::Resting { until } if now >= *until => {
                self.state = State::Idle { since: None };
            }
            State::Opening { .. } | State::Resting { .. } => {}
            State::Opened { until, .. } if now >= *until => self.stop(State::Resting { until: now + REST }, requests),
            State::Opened { sockets, sent, next, .. } => {
                let Role::Open { targets } = role else { return };
                if now < *next {
                    return;
                }
                let (count, of) = (u32::from(sockets.count).max(1), targets.len().max(1) as u32);
                let (socket, target) = (*sent / of % count, *sent % of);
                *sent += 1;
                let round_over = (*sent).is_multiple_of(count * of);
                *next = now + PACE;
                if round_over {
                    *next = (now + REFRESH.saturating_sub(PACE * count * of)).max(*next);
                }
                if let Some(addr) = targets.get(target as usize) {
                    let local = LocalSocket(sockets.first.0.saturating_add(u16::try_from(socket).unwrap_or(0)));
                    pings.push(Endpoint { local, ..Endpoint::direct(*addr) });
                }
            }
            State::Probing { start, step, tried, next } => {
                let Role::Probe { ips, predicted } = role else { return };
                if now < *next {
                    return;
                }
                if *tried >= MAX_PORTS {
                    self.stop(State::Resting { until: now + REST }, requests);
                    return;
                }
                *next = now + PACE;
                let port = predicted.get(*tried as usize).copied().unwrap_or_else(|| {
                    let at = tried.saturating_sub(predicted.len() as u32);
                    let port = FIRST_PORT + (*start + at * *step) % PORTS;
                    u16::try_from(port).unwrap_or(u16::MAX)
                });
                let ip = ips.get(*tried as usize % ips.len().max(1));
                *tried += 1;
                pings.extend(ip.map(|ip| Endpoint::direct(SocketAddr::new(*ip, port))));
            }
        }
    }

    /// A straight path answers. The sockets but its own go once it is in use: before that nobody knows which it will be.
    fn settle(&mut self, now: Instant, local: Option<LocalSocket>, requests: &mut Vec<PunchRequest>) {
        match &mut self.state {
            State::Opened { next, until, .. } if local.is_none() && now < *until => *next = *until,
            State::Opened { .. } => {
                self.kept = local.filter(|local| *local != LocalSocket::MAIN);
                requests.push(PunchRequest::Close { keep: self.kept });
                self.state = State::Idle { since: None };
            }
            State::Idle { .. } | State::Opening { .. } | State::Probing { .. } | State::Resting { .. } => {
                self.stop(State::Idle { since: None }, requests);
                if local.is_some() && self.kept.take_if(|kept| Some(*kept) != local).is_some() {
                    requests.push(PunchRequest::Close { keep: None });
                }
            }
        }
    }

    fn stop(&mut self, then: State, requests: &mut Vec<PunchRequest>) {
        if matches!(self.state, State::Opening { .. } | State::Opened { .. }) {
            requests.push(PunchRequest::Close { keep: self.kept });
        }
        self.state = then;
    }

    /// The sockets that were asked for, or none.
    pub fn on_sockets(&mut self, now: Instant, sockets: PunchSockets, requests: &mut Vec<PunchRequest>) {
        match self.state {
            State::Opening { .. } if sockets.count == 0 => self.state = State::Resting { until: now + REST },
            State::Opening { .. } => {
                self.state = State::Opened { sockets, sent: 0, next: now, until: now + OPEN_FOR };
            }
            // Too late.
            State::Idle { .. } | State::Opened { .. } | State::Probing { .. } | State::Resting { .. } => {
                if sockets.count > 0 {
                    requests.push(PunchRequest::Close { keep: self.kept });
                }
            }
        }
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let at = match &self.state {
            _ if self.role.is_none() => None,
            State::Idle { since } => since.map(|at| at + PATIENCE),
            State::Opening { until } | State::Resting { until } => Some(*until),
            State::Opened { next, until, .. } => Some(*next.min(until)),
            State::Probing { next, .. } => Some(*next),
        };
        at.map(|at| (at, "punch"))
    }
}

/// Who does what, when this is of use at all. A side whose filter lets all in is reached by ordinary probes, and two
/// symmetric NATs would need 64,512 × 64,512 / 256.
fn role(own: &Contact, peer: &Contact) -> Option<Role> {
    let seen = |contact: &Contact, kinds: &[CandidateKind]| {
        let mut found = Vec::new();
        for candidate in contact.candidates.iter().filter(|it| it.addr.is_ipv4() && kinds.contains(&it.kind)) {
            if !found.contains(&candidate.addr) {
                found.push(candidate.addr);
            }
        }
        found
    };
    let filters = |contact: &Contact| contact.nat.filtering != Dependence::EndpointIndependent;
    let (own_mapping, peer_mapping) = (own.nat.mapping, peer.nat.mapping);
    // One server alone cannot tell that a mapping is endpoint-independent; most are.
    if own_mapping.is_symmetric() && !peer_mapping.is_symmetric() && filters(peer) {
        let mut targets = seen(peer, &[CandidateKind::ServerReflexive, CandidateKind::Mapped]);
        if targets.is_empty() {
            // A firewall without NAT.
            targets = seen(peer, &[CandidateKind::Host]);
        }
        targets.truncate(MAX_TARGETS);
        (!targets.is_empty()).then_some(Role::Open { targets })
    } else if peer_mapping.is_symmetric() && !own_mapping.is_symmetric() && filters(own) {
        // Where nobody has seen this machine, the peer does not know where to send.
        if own.candidates.is_empty() {
            return None;
        }
        let seen = seen(peer, &[CandidateKind::ServerReflexive, CandidateKind::Predicted]);
        let mut ips: Vec<IpAddr> = Vec::new();
        for addr in &seen {
            if !ips.contains(&addr.ip()) && ips.len() < MAX_TARGETS {
                ips.push(addr.ip());
            }
        }
        let step = peer.nat.port_step.filter(|step| *step != 0 && ips.len() == 1);
        let predicted = step.zip(seen.first()).map(|(step, last)| predict(last.port(), step)).unwrap_or_default();
        (!ips.is_empty()).then_some(Role::Probe { ips, predicted })
    } else {
        None
    }
}

/// Where a NAT that counts goes next after `last`: nearest first.
fn predict(last: u16, step: i16) -> Vec<u16> {
    let around = (0..=PREDICTED_AROUND).flat_map(|n| if n == 0 { vec![0] } else { vec![n, -n] });
    around
        .chain(PREDICTED_AROUND + 1..=PREDICTED_AHEAD)
        .filter_map(|n| u16::try_from(i32::from(last) + i32::from(step) * (1 + n)).ok())
        .filter(|port| u32::from(*port) >= FIRST_PORT && *port != last)
        .collect()
}

/// A step with which all ports are visited once: one without a factor in common with their number (2^10 · 3^2 · 7).
fn coprime_step(seed: u32) -> u32 {
    let mut step = (seed % PORTS) | 1;
    while step.is_multiple_of(3) || step.is_multiple_of(7) {
        step += 2;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Candidate, NatBehaviour};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const NONE: Straight = Straight { live: false, local: None };

    fn contact(mapping: Dependence, filtering: Dependence, addr: &str) -> Contact {
        Contact {
            candidates: vec![Candidate { kind: CandidateKind::ServerReflexive, addr: addr.parse().unwrap() }],
            nat: NatBehaviour { mapping, filtering, ..NatBehaviour::default() },
            ..Contact::default()
        }
    }

    fn symmetric() -> Contact {
        contact(Dependence::AddressAndPortDependent, Dependence::AddressAndPortDependent, "192.0.2.1:5000")
    }

    fn restricted() -> Contact {
        contact(Dependence::EndpointIndependent, Dependence::AddressAndPortDependent, "198.51.100.1:6000")
    }

    #[test]
    fn only_where_it_can_help() {
        let open = contact(Dependence::EndpointIndependent, Dependence::EndpointIndependent, "198.51.100.1:6000");
        assert!(matches!(role(&symmetric(), &restricted()), Some(Role::Open { .. })));
        assert!(matches!(role(&restricted(), &symmetric()), Some(Role::Probe { .. })));
        for (own, peer) in [
            (symmetric(), symmetric()),
            (restricted(), restricted()),
            (symmetric(), open.clone()),
            (open, symmetric()),
            (Contact::default(), symmetric()),
        ] {
            assert_eq!(role(&own, &peer), None);
        }
    }

    struct Run {
        birthday: Birthday,
        now: Instant,
        pings: Vec<Endpoint>,
        requests: Vec<PunchRequest>,
    }

    impl Run {
        fn new(own: &Contact, peer: &Contact) -> Self {
            let mut requests = Vec::new();
            let mut birthday = Birthday::default();
            birthday.set_contacts(own, peer, &mut requests);
            Self { birthday, now: Instant::now(), pings: Vec::new(), requests }
        }

        fn run(&mut self, time: Duration, straight: Straight) {
            let until = self.now + time;
            while self.now < until {
                self.birthday.tick(self.now, straight, || 0x9e37_79b9, &mut self.pings, &mut self.requests);
                self.now += Duration::from_millis(1);
            }
        }
    }

    #[test]
    fn ports_are_tried_once_each_at_the_pace_and_then_no_more() {
        let mut run = Run::new(&restricted(), &symmetric());
        run.run(Duration::from_millis(650), NONE);
        assert_eq!(run.pings.len(), 0);
        run.run(Duration::from_secs(1), NONE);
        assert!((90..=101).contains(&run.pings.len()), "{}", run.pings.len());
        run.run(Duration::from_secs(500), NONE);
        let ports: BTreeSet<u16> = run.pings.iter().map(|it| it.addr.port()).collect();
        assert_eq!((run.pings.len(), ports.len()), (MAX_PORTS as usize, MAX_PORTS as usize));
        assert!(run.pings.iter().all(|it| it.addr.ip() == IpAddr::from([192, 0, 2, 1]) && it.addr.port() >= 1024));
        // A peer that changes its story each second gets three attempts, not one each second.
        for n in 0..200u8 {
            let mut peer = symmetric();
            peer.candidates[0].addr = ([192, 0, 2, n], 5000).into();
            run.birthday.set_contacts(&restricted(), &peer, &mut run.requests);
            run.run(Duration::from_secs(1), NONE);
        }
        assert!(run.pings.len() <= 3 * MAX_PORTS as usize, "{}", run.pings.len());
    }

    #[test]
    fn sockets_are_opened_refreshed_and_closed() {
        let mut run = Run::new(&symmetric(), &restricted());
        run.run(Duration::from_secs(1), NONE);
        assert_eq!(run.requests, [PunchRequest::Open { count: SOCKETS }]);
        run.birthday.on_sockets(run.now, PunchSockets { first: LocalSocket(7), count: SOCKETS }, &mut run.requests);
        run.run(Duration::from_secs(3), NONE);
        let locals: BTreeSet<u16> = run.pings.iter().map(|it| it.local.0).collect();
        assert_eq!((locals.len(), locals.first(), locals.last()), (256, Some(&7), Some(&262)));
        assert_eq!(run.pings.len(), 256, "then quiet");
        run.run(Duration::from_secs(20), NONE);
        assert_eq!(run.pings.len(), 512, "refreshed");
        run.run(Duration::from_secs(60), NONE);
        assert_eq!(run.requests[1..], [PunchRequest::Close { keep: None }]);
    }

    #[test]
    fn the_socket_with_a_path_is_kept_until_the_path_ends() {
        let mut run = Run::new(&symmetric(), &restricted());
        run.run(Duration::from_secs(1), NONE);
        run.birthday.on_sockets(run.now, PunchSockets { first: LocalSocket(1), count: SOCKETS }, &mut run.requests);
        run.run(Duration::from_secs(1), NONE);
        let found = Straight { live: true, local: Some(LocalSocket(40)) };
        let sent = run.pings.len();
        run.run(Duration::from_secs(60), found);
        assert_eq!(run.requests[1..], [PunchRequest::Close { keep: Some(LocalSocket(40)) }]);
        assert_eq!(run.pings.len(), sent);
        run.run(Duration::from_millis(10), NONE);
        assert_eq!(run.requests[2..], [PunchRequest::Close { keep: None }]);
    }

    #[test]
    fn a_counting_nat_is_tried_where_it_counts() {
        assert_eq!(predict(5000, 2)[..5], [5002, 5004, 5006, 4998, 5008]);
        let mut peer = symmetric();
        peer.nat.port_step = Some(1);
        let mut run = Run::new(&restricted(), &peer);
        run.run(Duration::from_millis(1_200), NONE);
        assert!(run.pings.iter().all(|it| (4986..=5065).contains(&it.addr.port())));
    }

    proptest! {
        #[test]
        fn a_step_visits_every_port_once(seed: u32) {
            let step = coprime_step(seed);
            let mut seen = vec![false; PORTS as usize];
            for n in 0..PORTS {
                let at = (u64::from(n) * u64::from(step) % u64::from(PORTS)) as usize;
                prop_assert!(!std::mem::replace(&mut seen[at], true));
            }
        }
    }
}

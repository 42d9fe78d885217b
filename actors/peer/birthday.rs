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
/// What a timer that fires late may make up for at once: on a busy machine every timer does, and the other side's mappings
/// do not wait.
const CATCH_UP: Duration = Duration::from_millis(50);
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
/// Sockets are asked for this often, each after `PATIENCE`: for about as long as the other side tries ports.
const MAX_REFUSED: u32 = 30;
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
    /// How often in a row there were no sockets to be had.
    refused: u32,
}

impl Default for Birthday {
    fn default() -> Self {
        Self { role: None, state: State::Idle { since: None }, kept: None, runs: Bucket::new(RUNS, REST), refused: 0 }
    }
}

impl Birthday {
    /// What both sides say of themselves now.
    pub fn set_contacts(&mut self, own: &Contact, peer: &Contact, requests: &mut Vec<PunchRequest>) {
        let role = role(own, peer);
        if role == self.role {
            return;
        }
        // Another last port of a NAT that gives random ones: an attempt under way is as good as before.
        let same_ports = match (&self.role, &role) {
            (Some(Role::Probe { ips, .. }), Some(Role::Probe { ips: now, predicted })) => {
                ips == now && predicted.is_empty()
            }
            _ => false,
        };
        self.role = role;
        if !same_ports {
            self.stop(State::Idle { since: None }, requests);
        }
    }

    /// When the next one is due after one that was due at `due`.
    fn paced(now: Instant, due: Instant) -> Instant {
        (due + PACE).max(now.checked_sub(CATCH_UP).unwrap_or(now))
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
                let free_at = self.runs.free_at(now);
                if free_at > now {
                    self.state = State::Resting { until: free_at };
                    return;
                }
                self.state = match role {
                    Role::Open { .. } => {
                        requests.push(PunchRequest::Open { count: SOCKETS });
                        State::Opening { until: now + OPEN_FOR }
                    }
                    Role::Probe { .. } => {
                        self.runs.take(now);
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
                let (count, of) = (u32::from(sockets.count).max(1), targets.len().max(1) as u32);
                while *next <= now {
                    let (socket, target) = (*sent / of % count, *sent % of);
                    *sent += 1;
                    let round_over = (*sent).is_multiple_of(count * of);
                    *next = Self::paced(now, *next);
                    if round_over {
                        *next = (now + REFRESH.saturating_sub(PACE * count * of)).max(*next);
                    }
                    if let Some(addr) = targets.get(target as usize) {
                        let local = LocalSocket(sockets.first.0.saturating_add(u16::try_from(socket).unwrap_or(0)));
                        pings.push(Endpoint { local, ..Endpoint::direct(*addr) });
                    }
                }
            }
            State::Probing { start, step, tried, next } => {
                let Role::Probe { ips, predicted } = role else { return };
                while *next <= now && *tried < MAX_PORTS {
                    *next = Self::paced(now, *next);
                    let port = predicted.get(*tried as usize).copied().unwrap_or_else(|| {
                        let at = tried.saturating_sub(predicted.len() as u32);
                        let port = FIRST_PORT + (*start + at * *step) % PORTS;
                        u16::try_from(port).unwrap_or(u16::MAX)
                    });
                    let ip = ips.get(*tried as usize % ips.len().max(1));
                    *tried += 1;
                    pings.extend(ip.map(|ip| Endpoint::direct(SocketAddr::new(*ip, port))));
                }
                if *next <= now && *tried >= MAX_PORTS {
                    self.stop(State::Resting { until: now + REST }, requests);
                }
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
            // Other peers have them all: soon somebody will be done, while the other side still tries ports.
            State::Opening { .. } if sockets.count == 0 && self.refused < MAX_REFUSED => {
                self.refused += 1;
                self.state = State::Idle { since: Some(now) };
            }
            State::Opening { .. } if sockets.count == 0 => {
                self.refused = 0;
                self.state = State::Resting { until: now + REST };
            }
            State::Opening { .. } => {
                self.refused = 0;
                self.runs.take(now);
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
#[path = "birthday_tests.rs"]
mod tests;

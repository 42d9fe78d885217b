//! Circuit relay reservations: libp2p does not make a lost one again by itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// Reservations to hold while nobody can dial this node directly.
const WANTED: usize = 2;
/// Relays remembered; the DHT names thousands.
const MAX_KNOWN: usize = 64;
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// AutoNAT gets this long to find the node reachable before a relay is bothered, when the address looks its own.
const GRACE: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Asked,
    Held,
}

#[derive(Debug)]
struct Relay {
    state: State,
    failures: u32,
    next_try: Instant,
}

#[derive(Debug)]
pub struct Reservations {
    relays: BTreeMap<PeerId, Relay>,
    /// AutoNAT confirmed a direct address.
    public: bool,
    not_before: Instant,
}

impl Reservations {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { relays: BTreeMap::new(), public: false, not_before: now + GRACE }
    }

    /// A connected node offers to be a relay: it can be asked now, whatever was before.
    pub fn offered(&mut self, now: Instant, relay: PeerId) {
        if let Some(known) = self.relays.get_mut(&relay) {
            if known.state == State::Idle {
                known.failures = 0;
                known.next_try = known.next_try.min(now + RETRY_FIRST);
            }
            return;
        }
        if self.relays.len() >= MAX_KNOWN {
            let idle = self.relays.iter().filter(|(_, relay)| relay.state == State::Idle);
            let Some(worst) = idle.max_by_key(|(_, relay)| (relay.failures, relay.next_try)).map(|(&peer, _)| peer)
            else {
                return;
            };
            self.relays.remove(&worst);
        }
        self.relays.insert(relay, Relay { state: State::Idle, failures: 0, next_try: now });
    }

    /// There is no connection to it: worth a try only when it is met again.
    pub fn gone(&mut self, relay: PeerId) {
        self.relays.remove(&relay);
    }

    /// Others see this node under an address that is none of its own: it is behind a NAT, no use in waiting.
    pub fn behind_nat(&mut self, now: Instant) {
        self.not_before = self.not_before.min(now);
    }

    pub fn set_public(&mut self, public: bool) {
        self.public = public;
    }

    pub fn accepted(&mut self, relay: PeerId) {
        if let Some(relay) = self.relays.get_mut(&relay) {
            relay.state = State::Held;
            relay.failures = 0;
        }
    }

    /// Refused, expired, or the connection is gone.
    pub fn lost(&mut self, now: Instant, relay: PeerId) {
        if let Some(relay) = self.relays.get_mut(&relay).filter(|relay| relay.state != State::Idle) {
            relay.state = State::Idle;
            relay.failures = relay.failures.saturating_add(1);
            relay.next_try = now + RETRY_FIRST.saturating_mul(1 << (relay.failures - 1).min(8)).min(RETRY_MAX);
        }
    }

    #[must_use]
    pub fn held(&self) -> usize {
        self.relays.values().filter(|relay| relay.state == State::Held).count()
    }

    /// Relays to ask now.
    pub fn tick(&mut self, now: Instant) -> Vec<PeerId> {
        if self.public || now < self.not_before {
            return Vec::new();
        }
        let active = self.relays.values().filter(|relay| relay.state != State::Idle).count();
        let mut idle: Vec<_> =
            self.relays.iter_mut().filter(|(_, relay)| relay.state == State::Idle && relay.next_try <= now).collect();
        idle.sort_by_key(|(_, relay)| relay.failures);
        idle.into_iter()
            .take(WANTED.saturating_sub(active))
            .map(|(&peer, relay)| {
                relay.state = State::Asked;
                peer
            })
            .collect()
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let active = self.relays.values().filter(|relay| relay.state != State::Idle).count();
        if self.public || active >= WANTED {
            return None;
        }
        let next = self.relays.values().filter(|relay| relay.state == State::Idle).map(|relay| relay.next_try).min()?;
        Some((next.max(self.not_before), "relay reservation"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_held_and_made_again_when_lost() {
        let start = Instant::now();
        let mut reservations = Reservations::new(start);
        let relays: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        for &relay in &relays {
            reservations.offered(start, relay);
        }
        assert!(reservations.tick(start).is_empty(), "AutoNAT first");
        reservations.behind_nat(start);
        let asked = reservations.tick(start);
        assert_eq!(asked.len(), WANTED);
        assert!(reservations.tick(start).is_empty() && reservations.poll_timeout().is_none());
        reservations.accepted(asked[0]);
        reservations.lost(start, asked[1]);
        assert_eq!(reservations.held(), 1);
        let again = reservations.tick(start);
        assert!(again.len() == 1 && again[0] != asked[1], "another one, not the one that just refused");
        reservations.lost(start, again[0]);
        reservations.lost(start, asked[0]);
        reservations.set_public(true);
        assert!(reservations.tick(start + RETRY_MAX).is_empty());
    }

    #[test]
    fn a_relay_that_comes_back_is_asked_soon() {
        let start = Instant::now();
        let mut reservations = Reservations::new(start);
        reservations.behind_nat(start);
        let relay = PeerId::random();
        reservations.offered(start, relay);
        let mut now = start;
        for _ in 0..8 {
            now += RETRY_MAX;
            assert_eq!(reservations.tick(now), [relay]);
            reservations.lost(now, relay);
        }
        assert!(reservations.tick(now + RETRY_FIRST).is_empty(), "backed off");
        reservations.offered(now, relay);
        assert_eq!(reservations.tick(now + RETRY_FIRST), [relay]);
    }

    #[test]
    fn known_relays_are_bounded() {
        let now = Instant::now();
        let mut reservations = Reservations::new(now);
        for _ in 0..1_000 {
            reservations.offered(now, PeerId::random());
        }
        assert_eq!(reservations.relays.len(), MAX_KNOWN);
    }
}

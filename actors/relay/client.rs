//! Which relays this machine can be reached through: asks them all, keeps tickets of the best.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use super::frame::{ASK_LEN, TicketFrame};
use super::known::{Held, Known};
use super::limiter::{Nanos, Rate};
use super::messages::{FarLeg, Observed, RelaySource, RelayState};
use super::token::LIFETIME_S;
use crate::wire::{MAX_TICKETS, Ticket, stream_id, usable_addr};

/// More are not asked.
pub const MAX_RELAYS: usize = 16;
/// The nearest, kept whatever others do …
const NEAREST: usize = 2;
/// … and those over which the way to others is the shortest, of the relays that they hold tickets of.
const SHARED: usize = MAX_TICKETS - NEAREST;
/// Another relay must be nearer by this much, and by a fifth, to take the place of one that is kept.
const STICKY: Duration = Duration::from_millis(5);
/// At most so many legs of others are looked at: four for each of 255 members.
const MAX_LEGS: usize = 1024;

/// Asks a second to addresses that never answered, and how long none must have been sent for this many times as many at
/// once: members name relays, and one that lies must not make this machine a nuisance to others.
const UNPROVED_PER_S: u64 = 4;
const UNPROVED_BURST: Duration = Duration::from_secs(16);

const LIFETIME: Duration = Duration::from_secs(LIFETIME_S as u64);
/// Others are given a new token when this is left of the old one's life.
const RENEW_LEFT: Duration = Duration::from_secs(LIFETIME_S as u64 / 3);
/// An expiry that is this far from what was to be expected says that one of the clocks has jumped, or that this machine
/// slept.
const CLOCK_SLACK_S: u64 = 60;

/// Since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ClientCounters {
    pub asked: u64,
    pub answered: u64,
    /// Tickets that nobody asked for, or that make no sense.
    pub dropped_tickets: u64,
    /// Relays that were named and had no place.
    pub dropped_relays: u64,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Outputs {
    pub asks: Vec<(SocketAddr, [u8; ASK_LEN])>,
}

#[derive(Debug)]
pub struct RelayClient {
    relays: Vec<Known>,
    /// Mean round trip of those who hold tickets, by relay.
    far: BTreeMap<SocketAddr, Duration>,
    tickets: Vec<Ticket>,
    /// Counts the changes of tickets and observed addresses.
    version: u64,
    observed: Vec<Observed>,
    start: Instant,
    unproved: (Rate, Nanos),
    rng: StdRng,
    counters: ClientCounters,
}

impl RelayClient {
    /// `seed` must be random and new at each start: it makes the ids that answers must bring back.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32]) -> Self {
        Self {
            relays: Vec::new(),
            far: BTreeMap::new(),
            tickets: Vec::new(),
            version: 0,
            observed: Vec::new(),
            start: now,
            unproved: (Rate::per_second(UNPROVED_PER_S, UNPROVED_BURST), 0),
            rng: StdRng::from_seed(seed),
            counters: ClientCounters::default(),
        }
    }

    /// `via`: where this machine reaches the relay at `addr`, which others are told: `addr` itself, or a stream to it.
    pub fn know(&mut self, now: Instant, addr: SocketAddr, via: SocketAddr, source: RelaySource, out: &mut Outputs) {
        if self.admit(now, addr, via, source) {
            self.handle_timeout(now, out);
        }
    }

    fn admit(&mut self, now: Instant, addr: SocketAddr, via: SocketAddr, source: RelaySource) -> bool {
        if let Some(relay) = self.relays.iter_mut().find(|it| it.addr == addr && it.via == via) {
            relay.add_source(source);
            return false;
        }
        if !usable_addr(&addr) || !(via == addr || stream_id(via).is_some()) {
            self.counters.dropped_relays += 1;
            return false;
        }
        let new = Known::new(now, addr, via, source);
        if self.relays.len() >= MAX_RELAYS {
            let least = self.relays.iter().enumerate().min_by_key(|(_, it)| it.worth());
            match least {
                Some((at, it)) if it.worth() < new.worth() => drop(self.relays.remove(at)),
                Some(_) | None => {
                    self.counters.dropped_relays += 1;
                    return false;
                }
            }
        }
        self.relays.push(new);
        true
    }

    /// Members who serve, and the tickets that members hold: of what relay, and how far each member is from it. Replaces
    /// what was said before, whole: what the members tell goes back and forth between them, so that a relay which went in
    /// between, and its ticket with it, would change what they tell, and so on for ever.
    pub fn set_member_relays(&mut self, now: Instant, serving: &[SocketAddr], legs: &[FarLeg], out: &mut Outputs) {
        let serving = serving.get(..serving.len().min(MAX_LEGS)).unwrap_or_default();
        let mut sums: BTreeMap<SocketAddr, (Duration, u32)> = BTreeMap::new();
        for leg in legs.iter().take(MAX_LEGS).filter(|leg| usable_addr(&leg.relay)) {
            let (sum, count) = sums.entry(leg.relay).or_default();
            *sum += leg.rtt;
            *count += 1;
        }
        let named = |addr: &SocketAddr| sums.contains_key(addr) || serving.contains(addr);
        self.relays.retain_mut(|it| named(&it.addr) || it.remove_source(RelaySource::Member));
        // Those that most members hold come first, should there be no place for all.
        let mut by_holders: Vec<_> = sums.iter().map(|(&addr, &(_, count))| (count, addr)).collect();
        by_holders.sort_unstable_by(|a, b| b.cmp(a));
        for addr in by_holders.into_iter().map(|(_, addr)| addr).chain(serving.iter().copied()) {
            self.admit(now, addr, addr, RelaySource::Member);
        }
        self.far = sums
            .into_iter()
            .filter(|(addr, _)| self.relays.iter().any(|it| it.addr == *addr))
            .map(|(addr, (sum, count))| (addr, sum / count.max(1)))
            .collect();
        self.settle(now);
        self.handle_timeout(now, out);
    }

    /// The network has changed: asks all relays again, at once. Tickets stand until the answers are there.
    pub fn restart(&mut self, now: Instant, out: &mut Outputs) {
        for relay in &mut self.relays {
            relay.restart(now);
        }
        self.handle_timeout(now, out);
    }

    /// Others may not reach this machine by the tickets that they have: asks anew for those, at once. Tickets stand until
    /// the answers are there.
    pub fn doubt(&mut self, now: Instant, out: &mut Outputs) {
        self.relays.iter_mut().filter(|it| it.kept || it.published.is_some()).for_each(|it| it.doubt(now));
        self.handle_timeout(now, out);
    }

    /// A datagram that came from `from` and looks like a ticket.
    pub fn handle_ticket(&mut self, now: Instant, from: SocketAddr, datagram: &[u8], out: &mut Outputs) {
        let answered = TicketFrame::parse(datagram).is_some_and(|ticket| {
            let alone = self.is_alone();
            // Two of the same `via`: an id fits one of them.
            let found = self
                .relays
                .iter_mut()
                .filter(|it| it.via == from)
                .any(|it| it.handle_ticket(now, &ticket, &mut self.rng));
            if found && alone {
                // The network is back: no need for the others to wait.
                self.relays.iter_mut().filter(|it| !it.is_sound()).for_each(|it| it.ask_now(now));
            }
            found
        });
        if !answered {
            self.counters.dropped_tickets += 1;
            return;
        }
        self.counters.answered += 1;
        self.settle(now);
        self.handle_timeout(now, out);
    }

    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outputs) {
        let alone = self.is_alone();
        let (mut missed, mut kept_missed) = (false, false);
        for relay in &mut self.relays {
            let before = relay.missed;
            if relay.is_unproved_ask(now) {
                let (rate, full_at) = &mut self.unproved;
                let now_nanos = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(0);
                if !rate.fits(*full_at, now_nanos, 1, 0) {
                    relay.postpone(now);
                    continue;
                }
                rate.take(full_at, now_nanos, 1);
            }
            if let Some(ask) = relay.handle_timeout(now, alone, &mut self.rng) {
                self.counters.asked += 1;
                out.asks.push((relay.via, ask));
            }
            missed |= relay.missed != before;
            kept_missed |= relay.kept && relay.missed != before;
        }
        if kept_missed {
            // Which of the others could take its place, or is it the network?
            self.relays.iter_mut().filter(|it| !it.kept && it.is_sound()).for_each(|it| it.ask_now(now));
        }
        if missed {
            self.settle(now);
        }
    }

    /// When and why `handle_timeout` wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.relays.iter().map(Known::due).min()
    }

    /// What others are to be told, the nearest first.
    #[must_use]
    pub fn tickets(&self) -> &[Ticket] {
        &self.tickets
    }

    /// How the relays that answer see this machine: server-reflexive addresses.
    #[must_use]
    pub fn observed(&self) -> &[Observed] {
        &self.observed
    }

    /// Grows when tickets or observed addresses change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    #[must_use]
    pub fn counters(&self) -> ClientCounters {
        self.counters
    }

    #[must_use]
    pub fn view(&self) -> Vec<RelayState> {
        self.relays
            .iter()
            .map(|it| RelayState {
                relay: it.addr,
                over_tcp: it.via != it.addr,
                sources: it.sources().collect(),
                answers: it.answers(),
                rtt_ms: it.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
                held: it.kept,
                observed: it.observed(),
            })
            .collect()
    }

    /// No relay answers: the network is to blame rather than the relays.
    fn is_alone(&self) -> bool {
        !self.relays.iter().any(Known::is_sound)
    }

    /// Chooses, and tells others if there is something to tell.
    fn settle(&mut self, now: Instant) {
        if self.is_alone() {
            // When the network is back, others may reach this machine by the tickets that they have: they stand as long
            // as they are good.
            let good = |held: &Held| now.saturating_duration_since(held.at) < LIFETIME;
            self.relays.iter_mut().for_each(|it| it.kept &= it.published.as_ref().is_some_and(good));
        } else {
            self.choose(now);
        }
        let observed: Vec<_> =
            self.relays.iter().filter_map(|it| Some(Observed { relay: it.addr, addr: it.observed()? })).collect();
        let mut changed = observed != self.observed;
        self.observed = observed;
        let told = self.relays.iter().filter(|it| it.published.is_some()).count();
        let removed = self.tickets.len() != told;
        if removed || self.relays.iter().any(|it| it.kept != it.published.is_some() || is_outdated(it, now)) {
            self.publish();
            changed = true;
        }
        self.version += u64::from(changed);
    }

    fn choose(&mut self, now: Instant) {
        let mut chosen: Vec<IpAddr> = Vec::with_capacity(MAX_TICKETS);
        let mut kept = [false; MAX_RELAYS];
        for (room, shared) in [(NEAREST, false), (SHARED, true)] {
            let mut ranked: Vec<_> = self
                .relays
                .iter()
                .enumerate()
                .filter(|(_, it)| it.is_sound() || it.kept && it.answers())
                .filter_map(|(at, it)| {
                    let far = if shared { *self.far.get(&it.addr)? } else { Duration::ZERO };
                    let own = it.rtt()?;
                    let bonus = if it.kept { STICKY.max(own / 5) } else { Duration::ZERO };
                    Some(((own + far).saturating_sub(bonus), at, it.addr))
                })
                .collect();
            ranked.sort_unstable();
            let limit = chosen.len() + room;
            for (_, at, addr) in ranked {
                // What differs in the port only is one machine: when it goes, both go.
                if chosen.len() < limit && !chosen.contains(&addr.ip()) {
                    chosen.push(addr.ip());
                    if let Some(slot) = kept.get_mut(at) {
                        *slot = true;
                    }
                }
            }
        }
        for (relay, kept) in self.relays.iter_mut().zip(kept) {
            relay.keep(now, kept, &mut self.rng);
        }
    }

    fn publish(&mut self) {
        for relay in &mut self.relays {
            relay.published = if relay.kept { relay.latest } else { None };
        }
        let mut kept: Vec<_> =
            self.relays.iter().filter_map(|it| Some((it.rtt()?, it.addr, it.published.as_ref()?))).collect();
        kept.sort_unstable_by_key(|(rtt, addr, _)| (*rtt, *addr));
        self.tickets = kept
            .into_iter()
            .map(|(rtt, relay, held)| Ticket {
                relay,
                token: held.token,
                expires: held.expires,
                rtt: u16::try_from(rtt.as_micros() / 100).unwrap_or(u16::MAX),
            })
            .collect();
    }
}

/// Whether the token that others have is not, or soon not, worth having.
fn is_outdated(relay: &Known, now: Instant) -> bool {
    let (Some(told), Some(latest)) = (&relay.published, &relay.latest) else { return false };
    if told.at == latest.at {
        return false;
    }
    let between = latest.at.saturating_duration_since(told.at).as_secs();
    let expected = u64::from(told.expires) + between;
    told.observed != latest.observed
        || now.saturating_duration_since(told.at) + RENEW_LEFT >= LIFETIME
        || expected.abs_diff(u64::from(latest.expires)) > CLOCK_SLACK_S
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

//! What a client knows of one relay: whether it answers, how fast, and with what token.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::frame::{ASK_LEN, Ask, TicketFrame};
use super::messages::RelaySource;
use crate::wire::{RelayToken, usable_addr};

/// First retransmission of an Ask after this, or one and a half round trips; then after twice and four times as long.
const RETRANSMIT: Duration = Duration::from_millis(100);
const RETRANSMIT_MAX: Duration = Duration::from_secs(1);
/// Asks of one round, all told. A round that brings no answer is missed.
const ASKS: usize = 4;
/// A relay that missed this many rounds is taken for dead.
pub(super) const DEAD_AFTER: u32 = 3;
/// Holds the NAT's mapping, and notices when it has changed: the shortest-lived mappings in homes last 30 s.
pub(super) const REFRESH: Duration = Duration::from_secs(15);
/// A relay that is only looked at, for its round trip.
pub(super) const STANDBY: Duration = Duration::from_secs(60);
/// Up to so much is taken from or added to these two.
const JITTER_PART: u32 = 8;
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// While no relay answers at all: the network is to blame, and how soon it is back matters.
const AGAIN_MAX_ALONE: Duration = Duration::from_secs(10);
/// An address that never answered and that this machine's owner did not name: others may have named it to make it a
/// target.
const AGAIN_UNPROVED: Duration = Duration::from_secs(600);
const RTT_WINDOW: usize = 8;
/// Doubts may come from 255 members at once.
const DOUBT_EVERY: Duration = Duration::from_millis(400);

/// An answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) token: RelayToken,
    pub(super) expires: u32,
    pub(super) observed: SocketAddr,
    pub(super) at: Instant,
}

#[derive(Debug)]
pub(super) struct Known {
    /// What others are told.
    pub(super) addr: SocketAddr,
    /// Where this machine reaches it: `addr`, or a stream.
    pub(super) via: SocketAddr,
    /// One bit for each `RelaySource`.
    sources: u8,
    rtts: [Duration; RTT_WINDOW],
    rtt_count: usize,
    /// The network has changed: the first answer starts the window anew.
    rtts_stale: bool,
    outstanding: [Option<(u64, Instant)>; ASKS],
    asked: usize,
    /// When an Ask went out last.
    asked_at: Option<Instant>,
    pub(super) missed: u32,
    next: Instant,
    pub(super) kept: bool,
    pub(super) latest: Option<Held>,
    /// What others were told.
    pub(super) published: Option<Held>,
}

impl Known {
    pub(super) fn new(now: Instant, addr: SocketAddr, via: SocketAddr, source: RelaySource) -> Self {
        Self {
            addr,
            via,
            sources: source.bit(),
            rtts: [Duration::ZERO; RTT_WINDOW],
            rtt_count: 0,
            rtts_stale: false,
            outstanding: [None; ASKS],
            asked: 0,
            asked_at: None,
            missed: 0,
            next: now,
            kept: false,
            latest: None,
            published: None,
        }
    }

    pub(super) fn add_source(&mut self, source: RelaySource) {
        self.sources |= source.bit();
    }

    /// Whether anybody still names it.
    pub(super) fn remove_source(&mut self, source: RelaySource) -> bool {
        self.sources &= !source.bit();
        self.sources != 0
    }

    pub(super) fn is_from(&self, source: RelaySource) -> bool {
        self.sources & source.bit() != 0
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = RelaySource> {
        RelaySource::ALL.into_iter().filter(|source| self.is_from(*source))
    }

    pub(super) fn answers(&self) -> bool {
        self.latest.is_some() && self.missed < DEAD_AFTER
    }

    /// It answered, and nothing has been missed since.
    pub(super) fn is_sound(&self) -> bool {
        self.latest.is_some() && self.missed == 0
    }

    /// The least is given up for one that is worth more.
    pub(super) fn worth(&self) -> (bool, bool, bool, u8) {
        (self.is_from(RelaySource::Configured), self.kept, self.missed < DEAD_AFTER, self.sources)
    }

    /// Second lowest of the window: one lucky sample does not decide.
    pub(super) fn rtt(&self) -> Option<Duration> {
        let mut window = self.rtts;
        let window = window.get_mut(..self.rtt_count.min(RTT_WINDOW))?;
        window.sort_unstable();
        window.get(usize::from(window.len() > 2)).copied()
    }

    pub(super) fn due(&self) -> (Instant, &'static str) {
        (self.next, if self.asked == 0 { "ask a relay" } else { "ask a relay again" })
    }

    pub(super) fn ask_now(&mut self, now: Instant) {
        if self.asked == 0 {
            self.next = self.next.min(now);
        }
    }

    /// Something that others should have sent did not come: the token that they have may lead nowhere.
    pub(super) fn doubt(&mut self, now: Instant) {
        if self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= DOUBT_EVERY) {
            self.ask_now(now);
        }
    }

    /// What was asked counts no more: the answers would tell of another network.
    pub(super) fn restart(&mut self, now: Instant) {
        self.outstanding = [None; ASKS];
        self.asked = 0;
        self.missed = 0;
        self.rtts_stale = true;
        self.next = now;
    }

    /// Wants to send an Ask to an address of which nobody knows whether it is a relay.
    pub(super) fn is_unproved_ask(&self, now: Instant) -> bool {
        self.next <= now && self.asked < ASKS && self.latest.is_none()
    }

    pub(super) fn postpone(&mut self, now: Instant) {
        self.next = now + AGAIN;
    }

    /// The next Ask of a round, if it is time for one. `alone`: no relay is sound.
    pub(super) fn handle_timeout(&mut self, now: Instant, alone: bool, rng: &mut StdRng) -> Option<[u8; ASK_LEN]> {
        if self.next > now {
            return None;
        }
        if self.asked >= ASKS {
            self.asked = 0;
            self.missed = self.missed.saturating_add(1);
            self.next = now + self.pause(alone);
            return None;
        }
        // A new id for each, so that it is known which of them an answer is to.
        let id = rng.random();
        self.outstanding.rotate_right(1);
        self.outstanding[0] = Some((id, now));
        self.asked_at = Some(now);
        let first = self.rtt().map_or(RETRANSMIT, |rtt| (rtt + rtt / 2).clamp(RETRANSMIT, RETRANSMIT_MAX));
        self.next = now + first * (1 << self.asked);
        self.asked += 1;
        Some(Ask { id }.encode())
    }

    fn pause(&self, alone: bool) -> Duration {
        let doubling = AGAIN * (1 << self.missed.saturating_sub(2).min(10));
        if self.missed < DEAD_AFTER {
            AGAIN
        } else if self.latest.is_none() && !self.is_from(RelaySource::Configured) {
            AGAIN_UNPROVED
        } else {
            doubling.min(if alone { AGAIN_MAX_ALONE } else { AGAIN_MAX })
        }
    }

    /// Whether `ticket` answers an Ask of this machine to this relay, and makes sense.
    pub(super) fn handle_ticket(&mut self, now: Instant, ticket: &TicketFrame, rng: &mut StdRng) -> bool {
        let asked = self.outstanding.iter().flatten().find(|(id, _)| *id == ticket.id);
        let Some(&(_, sent)) = asked else { return false };
        let observed = ticket.observed;
        if observed.port() == 0 || observed.ip().is_unspecified() || observed.ip().is_multicast() {
            return false;
        }
        if std::mem::take(&mut self.rtts_stale) {
            self.rtt_count = 0;
        }
        self.rtts[self.rtt_count % RTT_WINDOW] = now.saturating_duration_since(sent);
        // Does not wrap around to "fewer than the window".
        self.rtt_count = if self.rtt_count >= 2 * RTT_WINDOW { RTT_WINDOW + 1 } else { self.rtt_count + 1 };
        self.outstanding = [None; ASKS];
        self.asked = 0;
        self.missed = 0;
        self.latest = Some(Held { token: ticket.token, expires: ticket.expires, observed, at: now });
        self.schedule(now, rng);
        true
    }

    /// When to ask next, now that it has answered.
    fn schedule(&mut self, now: Instant, rng: &mut StdRng) {
        let pause = if self.kept { REFRESH } else { STANDBY };
        let jitter = pause / JITTER_PART;
        self.next = now + pause - jitter + rng.random_range(Duration::ZERO..=2 * jitter);
    }

    /// Kept ones are asked more often.
    pub(super) fn keep(&mut self, now: Instant, kept: bool, rng: &mut StdRng) {
        if self.kept == kept {
            return;
        }
        self.kept = kept;
        if self.asked > 0 {
            return;
        }
        // From the last answer on: the mapping towards one that was only looked at may be gone already.
        self.schedule(self.latest.map_or(now, |held| held.at), rng);
    }

    /// The address for server-reflexive candidates.
    pub(super) fn observed(&self) -> Option<SocketAddr> {
        self.latest.filter(|_| self.answers()).map(|held| held.observed).filter(usable_addr)
    }
}

//! One path: what was asked, what came back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::choice::{DEAD_AFTER, PathQuality};
use super::super::messages::{CandidateState, CandidateView, Origin, PathKind};
use super::super::way::Way;
use super::probing;
use crate::wire::Endpoint;

/// Round trips remembered per path.
const RTT_WINDOW: usize = 8;
/// Probes remembered as not yet answered per path.
const OUTSTANDING: usize = 12;
/// Probes of which it is remembered whether they were answered.
const LOSS_WINDOW: u32 = 64;
/// So many must be known before loss is spoken of.
const LOSS_KNOWN: u32 = 20;
/// A probe that is not answered within this, or four round trips, is lost.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// A peer-reflexive path that has died is forgotten after this.
const REFLEXIVE_KEPT: Duration = Duration::from_secs(300);
/// An address that was only seen on a ping gets this many probes to prove itself.
pub(super) const REFLEXIVE_PROBES: u32 = 5;

#[derive(Debug)]
pub(super) struct Path {
    pub(super) way: Way,
    pub(super) kind: PathKind,
    pub(super) origin: Origin,
    rtts: [Duration; RTT_WINDOW],
    pub(super) rtt_count: usize,
    /// Mean difference between round trips in a row, as RFC 3550, section 6.4.1, smooths it.
    jitter: Duration,
    outstanding: [Option<(u64, Instant)>; OUTSTANDING],
    /// Newest first: bit set for a probe that was lost.
    lost: u64,
    known: u32,
    /// Since it last lived, or was to be tried anew.
    pub(super) sent: u32,
    /// Since it was named.
    pub(super) asked: u32,
    pub(super) unanswered: u32,
    pub(super) answered: bool,
    /// See `PathQuality::failing`.
    pub(super) failing: bool,
    pub(super) last_heard: Option<Instant>,
    pub(super) next_probe: Instant,
}

impl Path {
    pub(super) fn new(way: Way, kind: PathKind, origin: Origin, now: Instant) -> Self {
        Self {
            way,
            kind,
            origin,
            rtts: [Duration::ZERO; RTT_WINDOW],
            rtt_count: 0,
            jitter: Duration::ZERO,
            outstanding: [None; OUTSTANDING],
            lost: 0,
            known: 0,
            sent: 0,
            asked: 0,
            unanswered: 0,
            answered: false,
            failing: false,
            last_heard: None,
            next_probe: now,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.way.to()
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.endpoint().addr
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.endpoint().relayed
    }

    pub(super) fn live(&self) -> bool {
        self.answered
    }

    pub(super) fn proved(&self) -> bool {
        self.rtt_count > 0
    }

    /// Second lowest of the window: one lucky or lying sample does not decide.
    pub(super) fn rtt(&self) -> Option<Duration> {
        let count = self.rtt_count.min(RTT_WINDOW);
        let mut window = self.rtts;
        window[..count].sort_unstable();
        window[..count].get(usize::from(count > 2)).copied()
    }

    pub(super) fn jitter(&self) -> Option<Duration> {
        (self.rtt_count > 1).then_some(self.jitter)
    }

    /// Lost probes of those in the window, percent.
    pub(super) fn loss(&self) -> Option<f32> {
        #[allow(clippy::cast_precision_loss, reason = "at most 64")]
        (self.known >= LOSS_KNOWN).then(|| self.lost.count_ones() as f32 * 100.0 / self.known as f32)
    }

    pub(super) fn quality(&self) -> PathQuality {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        PathQuality {
            kind: self.kind,
            live: self.live(),
            failing: self.failing,
            rtt: self.rtt().unwrap_or(Duration::MAX / 64),
            settled: self.rtt_count >= RTT_WINDOW,
            loss: self.loss().map(|percent| percent as u8),
        }
    }

    pub(super) fn view(&self, in_use: bool) -> CandidateView {
        let state = if self.live() {
            CandidateState::Live
        } else if self.proved() || self.sent >= probing::SILENT_LONG_AFTER {
            CandidateState::Dead
        } else if self.sent > 0 {
            CandidateState::Probing
        } else {
            CandidateState::Untested
        };
        CandidateView {
            endpoint: self.addr(),
            kind: self.kind,
            origin: self.origin,
            state,
            in_use,
            rtt_ms: self.rtt().map(millis),
            loss_percent: self.loss(),
        }
    }

    /// Seen only on a ping, and of no use (any more).
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.origin == Origin::PeerReflexive
            && !self.live()
            && if self.proved() {
                self.last_heard.is_none_or(|at| now.saturating_duration_since(at) >= REFLEXIVE_KEPT)
            } else {
                self.sent >= REFLEXIVE_PROBES
            }
    }

    /// Something authentic came in by it: not a proof of the other direction, but good reason not to give it up.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = Some(now);
        self.failing = false;
        if self.answered {
            self.unanswered = 0;
        }
    }

    pub(super) fn is_waiting_for(&self, id: u64) -> bool {
        self.outstanding.iter().flatten().any(|(sent, _)| *sent == id)
    }

    pub(super) fn last_probe(&self) -> Option<Instant> {
        self.outstanding[0].map(|(_, sent)| sent)
    }

    /// The round trip when `id` is a probe of this path that was not answered yet.
    pub(super) fn on_pong(&mut self, now: Instant, id: u64) -> Option<Duration> {
        // Kept in its place, so that the newest stays first.
        let slot = self.outstanding.iter_mut().find(|slot| slot.is_some_and(|(sent, _)| sent == id))?;
        let (_, sent_at) = slot.take()?;
        let rtt = now.saturating_duration_since(sent_at);
        if !self.answered {
            // What was lost before it lived says nothing about it now.
            (self.lost, self.known) = (0, 0);
            self.outstanding.iter_mut().for_each(|slot| *slot = slot.filter(|(_, sent)| *sent > sent_at));
        }
        if self.rtt_count > 0 {
            let last = self.rtts[(self.rtt_count - 1) % RTT_WINDOW];
            self.jitter = self.jitter * 15 / 16 + last.abs_diff(rtt) / 16;
        }
        self.rtts[self.rtt_count % RTT_WINDOW] = rtt;
        self.rtt_count = self.rtt_count.checked_add(1).unwrap_or(RTT_WINDOW);
        self.remember(false);
        self.answered = true;
        self.unanswered = 0;
        self.failing = false;
        self.last_heard = Some(now);
        Some(rtt)
    }

    fn remember(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u64::from(lost);
        self.known = (self.known + 1).min(LOSS_WINDOW);
    }

    pub(super) fn on_probe(&mut self, now: Instant, id: u64) {
        // Judged when the next one is due: the last of them has then had its time to be answered.
        if self.answered && self.unanswered >= DEAD_AFTER {
            self.answered = false;
            self.sent = 0;
        }
        let patience = LOST_AFTER.max(self.rtt().unwrap_or_default() * 4);
        for at in 0..OUTSTANDING {
            let late = self.outstanding[at].is_some_and(|(_, sent)| now.saturating_duration_since(sent) >= patience);
            if late || (at + 1 == OUTSTANDING && self.outstanding[at].is_some()) {
                self.outstanding[at] = None;
                self.remember(true);
            }
        }
        self.sent = self.sent.saturating_add(1);
        self.asked = self.asked.saturating_add(1);
        self.unanswered = self.unanswered.saturating_add(1);
        self.outstanding.rotate_right(1);
        self.outstanding[0] = Some((id, now));
    }

    /// Each probe of a path that is suspected gets the time in which its answer would have come.
    pub(super) fn suspect_interval(&self) -> Duration {
        probing::PROBE_SUSPECT.max(self.rtt().unwrap_or_default() * 5 / 4)
    }
}

pub(in super::super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

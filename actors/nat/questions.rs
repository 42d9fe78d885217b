//! The questions to STUN servers that are out: sent again until they are answered or given up.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngCore;
use rand::rngs::StdRng;

use super::stun::{self, Change, TransactionId};

/// Pauses after each transmission; the last one before giving up. The RFC's 500 ms × 7 is far too slow for somebody who
/// waits for a game.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400), Duration::from_millis(800)];
/// A NAT may let through what was sent to within the last minutes.
const REMEMBER: Duration = Duration::from_secs(600);
const MAX_REMEMBERED: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Mapped,
    /// Wanted from the server's other address.
    OtherAddress,
    /// Wanted from the server's other port.
    OtherPort,
    /// At another address of `operator`.
    Elsewhere {
        operator: IpAddr,
    },
    /// At the own mapped address.
    Hairpin,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) id: TransactionId,
    pub(super) ask: Ask,
    pub(super) to: SocketAddr,
    /// From where the answer has to come.
    pub(super) expected: SocketAddr,
    /// The order in which questions were first sent, and so mappings made.
    pub(super) order: u32,
    first_sent: Instant,
    sent: usize,
    due: Instant,
}

impl Question {
    /// Round trip; `None` when it was sent more than once, as the answer does not say to which it is one.
    pub(super) fn rtt(&self, now: Instant) -> Option<Duration> {
        (self.sent == 1).then(|| now.saturating_duration_since(self.first_sent))
    }
}

#[derive(Debug, Default)]
pub(super) struct Questions {
    out: Vec<Question>,
    order: u32,
    /// Where something was sent to, and when last.
    contacted: VecDeque<(SocketAddr, Instant)>,
}

impl Questions {
    pub(super) fn start(&mut self, now: Instant, rng: &mut StdRng, ask: Ask, to: SocketAddr, expected: SocketAddr) {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id[4..]);
        let id = TransactionId(u128::from_be_bytes(id));
        let order = self.next_order();
        self.out.push(Question { id, ask, to, expected, order, first_sent: now, sent: 0, due: now });
    }

    /// A place in the order for what was learned otherwise.
    pub(super) fn next_order(&mut self) -> u32 {
        self.order += 1;
        self.order
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.out.clear();
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Question) -> bool) {
        self.out.retain(keep);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.out.iter().map(|it| it.due).min()
    }

    /// The question that an answer with this id belongs to.
    pub(super) fn find(&self, id: TransactionId) -> Option<Question> {
        self.out.iter().find(|it| it.id == id && it.sent > 0).copied()
    }

    /// Takes one out that was sent often enough without an answer.
    pub(super) fn given_up(&mut self, now: Instant) -> Option<Question> {
        let dead = self.out.iter().position(|it| it.due <= now && it.sent >= PAUSES.len())?;
        Some(self.out.remove(dead))
    }

    pub(super) fn transmit(&mut self, now: Instant, send: &mut dyn FnMut(SocketAddr, &[u8])) {
        let Self { out, contacted, .. } = self;
        for it in out.iter_mut().filter(|it| it.due <= now) {
            let Some(pause) = PAUSES.get(it.sent) else { continue };
            if it.sent == 0 {
                it.first_sent = now;
            }
            it.sent += 1;
            it.due = now + *pause;
            let change = match it.ask {
                Ask::OtherAddress => Change::BOTH,
                Ask::OtherPort => Change::PORT,
                Ask::Mapped | Ask::Elsewhere { .. } | Ask::Hairpin => Change::NONE,
            };
            send(it.to, &stun::request(it.id, change, it.to));
            contacted.retain(|(addr, _)| *addr != it.to);
            if contacted.len() >= MAX_REMEMBERED {
                contacted.pop_front();
            }
            contacted.push_back((it.to, now));
        }
    }

    /// What a NAT that filters may let in because it was sent to: a filter test against it says nothing.
    pub(super) fn contacted(&self, now: Instant) -> Vec<SocketAddr> {
        let lately = |at: Instant| now.saturating_duration_since(at) < REMEMBER;
        self.contacted.iter().filter(|(_, at)| lately(*at)).map(|(addr, _)| *addr).collect()
    }
}

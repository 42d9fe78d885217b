//! What others may know of the paths.

use std::time::{Duration, Instant};

use super::path::Path;
use super::{Paths, probing};
use crate::peer::birthday::Straight;
use crate::peer::choice::Reason;
use crate::peer::messages::{CandidateView, PathKind};
use crate::peer::way::Way;

impl Paths {
    /// The best live path beside the one in use, to another endpoint; not through a stream, which would queue.
    #[must_use]
    pub fn spare(&self) -> Option<Way> {
        let in_use = self.current()?.addr();
        self.paths
            .iter()
            .filter(|path| path.live() && !path.failing && path.addr() != in_use && path.kind != PathKind::Tcp)
            .filter(|path| self.allows(path))
            .min_by_key(|path| path.rtt())
            .map(|path| path.way)
    }

    /// The path in use has left a probe unanswered that was sent since packets go out and nothing comes back.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.alarm && self.current().is_some_and(|path| path.unanswered >= probing::FAILING_AFTER)
    }

    /// Whether a path past all relays answers, and from which socket if it is in use.
    #[must_use]
    pub fn straight(&self) -> Straight {
        let is_straight = |path: &&Path| matches!(path.kind, PathKind::Lan | PathKind::Direct);
        Straight {
            live: self.paths.iter().filter(is_straight).any(Path::live),
            local: self.current().filter(is_straight).map(|path| path.endpoint().local),
        }
    }

    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.current().and_then(Path::rtt)
    }

    #[must_use]
    pub fn jitter(&self) -> Option<Duration> {
        self.current().and_then(Path::jitter)
    }

    /// Between probes of a path that carries nothing.
    #[must_use]
    pub fn idle_interval(&self) -> Duration {
        self.idle_interval
    }

    /// Of the path in use, percent.
    #[must_use]
    pub fn loss(&self) -> Option<f32> {
        self.current().and_then(Path::loss)
    }

    /// Of the last change.
    #[must_use]
    pub fn last_reason(&self) -> Option<Reason> {
        self.reason
    }

    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.current()?;
        match self.paths.iter().filter(|path| path.live()).count() {
            0 | 1 => Some("only path".to_owned()),
            _ => self.reason.map(|reason| reason.to_string()),
        }
    }

    /// How often another path was taken, and when last.
    #[must_use]
    pub fn changes(&self) -> (u32, Option<Instant>) {
        (self.changes, self.last_change)
    }

    /// Probes not sent because an address that does not answer has had its share.
    #[must_use]
    pub fn refused_probes(&self) -> u64 {
        self.allowance.refused
    }

    #[must_use]
    pub fn candidates(&self) -> Vec<CandidateView> {
        self.paths.iter().enumerate().map(|(index, path)| path.view(self.in_use == Some(index))).collect()
    }
}

//! A node's line to the network, without I/O: latency, jitter, bursts of loss, reordering, rate and buffer.

use std::time::Duration;

use rand::Rng;
use serde::Deserialize;

/// Loss in bursts (Gilbert–Elliott): chances per datagram to go from good to bad and back, and of loss in each.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    pub to_bad: f64,
    pub to_good: f64,
    #[serde(default)]
    pub in_good: f64,
    pub in_bad: f64,
}

/// As in a scenario's `[run.link]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkSettings {
    /// One way, from the node to the middle of the network: each node draws its own from this range.
    pub latency_ms: [f64; 2],
    pub jitter_ms: f64,
    pub loss: Option<Loss>,
    /// Chance that a datagram is held back by `reorder_ms`.
    pub reorder: f64,
    pub reorder_ms: f64,
    /// Upstream; 0 is without limit.
    pub rate_kbit: f64,
    /// What waits for the line, bytes; beyond it is lost.
    pub buffer: f64,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            latency_ms: [3.0, 30.0],
            jitter_ms: 1.0,
            loss: None,
            reorder: 0.0,
            reorder_ms: 5.0,
            rate_kbit: 20_000.0,
            buffer: 256_000.0,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Link {
    settings: LinkSettings,
    pub latency: Duration,
    bad: bool,
    /// When the line is free again.
    free_at: Duration,
    pub lost: u64,
    pub overflowed: u64,
}

impl Link {
    pub fn new(settings: LinkSettings, rng: &mut impl Rng) -> Self {
        let [low, high] = settings.latency_ms;
        let latency = Duration::from_secs_f64((low + (high - low).max(0.0) * rng.random::<f64>()) / 1e3);
        Self { settings, latency, bad: false, free_at: Duration::ZERO, lost: 0, overflowed: 0 }
    }

    /// When a datagram of `bytes`, headers counted, that is sent now has passed the line; `None` when it is lost.
    pub fn send(&mut self, now: Duration, bytes: usize, rng: &mut impl Rng) -> Option<Duration> {
        let settings = &self.settings;
        if let Some(loss) = settings.loss {
            let turn = if self.bad { loss.to_good } else { loss.to_bad };
            self.bad ^= rng.random_bool(turn.clamp(0.0, 1.0));
            let chance = if self.bad { loss.in_bad } else { loss.in_good };
            if rng.random_bool(chance.clamp(0.0, 1.0)) {
                self.lost += 1;
                return None;
            }
        }
        let mut at = now;
        if settings.rate_kbit > 0.0 {
            let takes = |bytes: f64| Duration::from_secs_f64(bytes * 8.0 / (settings.rate_kbit * 1e3));
            let start = self.free_at.max(now);
            if start - now > takes(settings.buffer) {
                self.overflowed += 1;
                return None;
            }
            #[allow(clippy::cast_precision_loss, reason = "a datagram's length")]
            let length = bytes as f64;
            self.free_at = start + takes(length);
            at = self.free_at;
        }
        at += self.latency;
        if settings.jitter_ms > 0.0 {
            at += Duration::from_secs_f64(settings.jitter_ms * rng.random::<f64>() / 1e3);
        }
        if settings.reorder > 0.0 && rng.random_bool(settings.reorder.clamp(0.0, 1.0)) {
            at += Duration::from_secs_f64(settings.reorder_ms / 1e3);
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    fn plain() -> LinkSettings {
        LinkSettings { latency_ms: [10.0, 10.0], jitter_ms: 0.0, rate_kbit: 0.0, ..LinkSettings::default() }
    }

    #[test]
    fn rate_and_buffer_hold() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut link = Link::new(LinkSettings { rate_kbit: 8.0, buffer: 2000.0, ..plain() }, &mut rng);
        // 8 kbit/s are 1,000 bytes a second.
        let arrivals: Vec<_> = (0..5).map(|_| link.send(Duration::ZERO, 1000, &mut rng)).collect();
        let at = |ms| Some(Duration::from_millis(ms));
        assert_eq!(arrivals, [at(1010), at(2010), at(3010), None, None]);
        assert_eq!(link.overflowed, 2);
    }

    #[test]
    fn loss_comes_in_bursts_of_the_length_asked_for() {
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let loss = Loss { to_bad: 0.01, to_good: 0.2, in_good: 0.0, in_bad: 1.0 };
        let mut link = Link::new(LinkSettings { loss: Some(loss), ..plain() }, &mut rng);
        let lost: Vec<bool> = (0..100_000).map(|_| link.send(Duration::ZERO, 100, &mut rng).is_none()).collect();
        let total = lost.iter().filter(|lost| **lost).count();
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        // Share 0.01 / 0.21, mean length 1 / 0.2.
        assert!((4000..5600).contains(&total), "{total}");
        let mean = total as f64 / bursts as f64;
        assert!((4.0..6.0).contains(&mean), "{mean}");
    }
}

//! What `ping` sums up.

use serde::Serialize;

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct RoundTrips {
    pub(super) min: f64,
    pub(super) avg: f64,
    pub(super) max: f64,
    /// Nearest rank: the smallest that at least 99 % do not exceed.
    pub(super) p99: f64,
}

impl RoundTrips {
    /// `None` without an answer.
    pub(super) fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        Some(Self {
            min: *sorted.first()?,
            avg: sorted.iter().sum::<f64>() / sorted.len() as f64,
            max: *sorted.last()?,
            p99: *sorted.get(rank)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary() {
        assert_eq!(RoundTrips::of(&[]), None);
        assert_eq!(RoundTrips::of(&[2.0]), Some(RoundTrips { min: 2.0, avg: 2.0, max: 2.0, p99: 2.0 }));
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(RoundTrips::of(&hundred), Some(RoundTrips { min: 1.0, avg: 50.5, max: 100.0, p99: 99.0 }));
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(RoundTrips::of(&many).map(|trips| trips.p99), Some(198.0));
    }
}

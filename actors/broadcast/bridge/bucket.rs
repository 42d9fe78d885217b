//! A limit of a rate.

use std::time::{Duration, Instant};

/// Lets a burst through and then a steady rate.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    every: Duration,
    burst: u32,
    /// When all that was taken will have been earned.
    paid: Option<Instant>,
}

impl Bucket {
    /// One each `every` in the long run.
    pub(super) fn new(every: Duration, burst: u32) -> Self {
        Self { every, burst, paid: None }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let paid = self.paid.map_or(now, |paid| paid.max(now));
        let next = paid + self.every;
        if next.saturating_duration_since(now) > self.every * self.burst {
            return false;
        }
        self.paid = Some(next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Duration::from_millis(10), 5);
        let taken =
            |bucket: &mut Bucket, at: u64| (0..100).filter(|_| bucket.take(start + Duration::from_millis(at))).count();
        assert_eq!(taken(&mut bucket, 0), 5);
        assert_eq!(taken(&mut bucket, 10), 1);
        assert_eq!(taken(&mut bucket, 40), 3);
        assert_eq!(taken(&mut bucket, 5000), 5, "no more than the burst is saved up");
    }
}

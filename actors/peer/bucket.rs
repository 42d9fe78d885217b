//! A token bucket: so many at once, so many over time.

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Time that one costs; the bucket holds `burst` times this.
    each: Duration,
    burst: u32,
    /// When the bucket is full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// `burst` at once, and one more each `each`.
    #[must_use]
    pub const fn new(burst: u32, each: Duration) -> Self {
        Self { each, burst, full_at: None }
    }

    /// The time from which one may be taken.
    #[must_use]
    pub fn free_at(&self, now: Instant) -> Instant {
        let room = self.each.saturating_mul(self.burst.saturating_sub(1));
        self.full_at.and_then(|at| at.checked_sub(room)).map_or(now, |at| at.max(now))
    }

    pub fn take(&mut self, now: Instant) -> bool {
        self.take_above(now, 0)
    }

    /// Takes one if `reserve` are left after it.
    pub fn take_above(&mut self, now: Instant, reserve: u32) -> bool {
        let all_but_reserve = Self { burst: self.burst.saturating_sub(reserve), ..*self };
        if all_but_reserve.free_at(now) > now {
            return false;
        }
        self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + self.each);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_and_then_a_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(5, Duration::from_millis(100));
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 5);
        assert_eq!(bucket.free_at(start), start + Duration::from_millis(100));
        let taken = (0..1000).filter(|ms| bucket.take(start + Duration::from_millis(*ms))).count();
        assert_eq!(taken, 9);
        let mut bucket = Bucket::new(5, Duration::from_millis(100));
        assert_eq!((0..20).filter(|_| bucket.take_above(start, 2)).count(), 3);
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 2, "the reserve");
        let later = start + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| bucket.take(later)).count(), 5);
    }
}

//! Was this machine asleep, or this program stopped? Mappings end meanwhile, and nothing else says so.

use std::time::{Duration, Instant};

/// Between two looks, beyond what is usual: a busy machine may be late by some seconds.
const SLEPT: Duration = Duration::from_secs(5);

/// Looks at two clocks every now and then. While a machine sleeps the monotonic one may stand still (Linux), while the
/// program is stopped both go on.
#[derive(Debug, Default)]
pub(super) struct SleepWatch {
    last: Option<(Instant, u64)>,
}

impl SleepWatch {
    /// `unix_ms`: milliseconds since 1970 by the wall clock. Returns for how long nothing was done, if that was long. A wall
    /// clock that somebody sets ahead looks the same, and costs as little.
    pub(super) fn look(&mut self, now: Instant, unix_ms: u64) -> Option<Duration> {
        let (then, unix_then) = self.last.replace((now, unix_ms))?;
        let by_wall = Duration::from_millis(unix_ms.saturating_sub(unix_then));
        let slept = now.saturating_duration_since(then).max(by_wall);
        (slept >= SLEPT).then_some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_shows_on_either_clock() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut watch = SleepWatch::default();
        assert_eq!(watch.look(at(0), 1_000_000), None, "nothing to compare with");
        assert_eq!(watch.look(at(500), 1_000_500), None);
        assert_eq!(watch.look(at(3_000), 1_003_000), None, "a busy machine");
        assert_eq!(watch.look(at(3_500), 4_603_500), Some(Duration::from_millis(3_600_500)), "suspended for an hour");
        assert_eq!(watch.look(at(4_000), 4_604_000), None, "said once");
        assert_eq!(watch.look(at(64_000), 4_664_000), Some(Duration::from_secs(60)), "stopped for a minute");
        assert_eq!(watch.look(at(64_500), 4_000), None, "the clock was set back");
        assert_eq!(watch.look(at(124_500), 4_500), Some(Duration::from_secs(60)), "stopped, and the clock with it");
    }
}

//! How many bytes may be under way on a data stream.
//!
//! Below the stream lie the multiplexer's window (256 KiB and more) and the kernel's socket buffers (megabytes). Left to
//! fill, they hold seconds of packets on a slow line, and dropping the oldest at the top does not help any more. So the
//! receiver says how much it got, and the sender keeps no more under way than what the line carries with little delay:
//! it grows while the time until a byte is acknowledged stays near the least seen, and shrinks when it does not (the
//! idea of LEDBAT, RFC 6817).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::queue::{LENGTH, MAX_DATAGRAM};

/// Delay that the window may add below the stream.
pub const TARGET: Duration = Duration::from_millis(30);
const FIRST: usize = 32 * 1024;
/// Two acknowledgements' worth: a smaller one would wait for the acknowledgement of what it does not send.
const LEAST: usize = 2 * COUNT_EVERY;
const MOST: usize = 4 << 20;
/// The receiver tells its count after this many bytes.
pub const COUNT_EVERY: usize = 4 * 1024;
/// The least delay is forgotten after one to two of these: the route may have changed.
const BASE_KEPT: Duration = Duration::from_secs(60);
/// Writes whose time is remembered.
const MAX_MARKS: usize = 256;

/// The other side acknowledges what was never sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes were acknowledged that were not sent")]
pub struct NeverSent;

#[derive(Debug)]
pub struct Window {
    size: usize,
    sent: u64,
    acked: u64,
    /// Up to which byte was written when.
    marks: VecDeque<(u64, Instant)>,
    /// Least delay of the current period and of the one before.
    base: [Option<Duration>; 2],
    base_since: Instant,
    /// Measuring the least delay anew: up to which byte, and the size to go back to.
    measuring: Option<(u64, usize)>,
    /// No further shrinking before this byte is acknowledged: it was sent before the last one.
    shrunk_until: u64,
    /// The window has been the limit since the last acknowledgement.
    limited: bool,
}

impl Window {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            size: FIRST,
            sent: 0,
            acked: 0,
            marks: VecDeque::new(),
            base: [None; 2],
            base_since: now,
            measuring: None,
            shrunk_until: 0,
            limited: false,
        }
    }

    /// Bytes that may be written now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.size.saturating_sub(self.under_way())
    }

    /// Bytes sent and not yet acknowledged.
    #[must_use]
    pub fn under_way(&self) -> usize {
        usize::try_from(self.sent - self.acked).unwrap_or(usize::MAX)
    }

    /// `bytes` go to the stream now; `more` wait and do not fit.
    pub fn sent(&mut self, now: Instant, bytes: usize, more: bool) {
        self.sent += bytes as u64;
        self.limited |= more;
        if bytes > 0 && self.marks.len() < MAX_MARKS {
            self.marks.push_back((self.sent, now));
        }
    }

    /// The other side's count.
    ///
    /// # Errors
    /// When it is more than was sent.
    pub fn acknowledged(&mut self, now: Instant, count: u32) -> Result<(), NeverSent> {
        // What is under way is far less than 2³².
        let low = u32::try_from(self.acked & u64::from(u32::MAX)).unwrap_or_default();
        let bytes = u64::from(count.wrapping_sub(low));
        if bytes > self.sent - self.acked {
            return Err(NeverSent);
        }
        self.acked += bytes;
        let mut written = None;
        while let Some((_, at)) = self.marks.pop_front_if(|(end, _)| *end <= self.acked) {
            written = Some(at);
        }
        if let Some(written) = written {
            self.adapt(now, now.saturating_duration_since(written), usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    fn adapt(&mut self, now: Instant, delay: Duration, bytes: usize) {
        if now.saturating_duration_since(self.base_since) >= BASE_KEPT {
            self.base = [None, self.base[0]];
            self.base_since = now;
            // A queue that stood all the time would pass for the line itself: let it run empty.
            self.measuring = Some((self.sent + LEAST as u64, self.size));
            self.size = LEAST;
        }
        self.base[0] = Some(self.base[0].map_or(delay, |least| least.min(delay)));
        let base = self.base.iter().flatten().min().copied().unwrap_or(delay);
        if let Some((until, size)) = self.measuring {
            if self.acked >= until {
                self.size = size;
                self.measuring = None;
            }
            self.limited = false;
            return;
        }
        let added = delay.saturating_sub(base);
        if added > TARGET {
            if self.acked >= self.shrunk_until {
                // With this much under way the delay was `delay`; with so much less it is what it should be.
                let keep = ((base + TARGET).as_secs_f64() / delay.as_secs_f64()).clamp(0.5, 1.0);
                self.size = scaled(self.size, keep);
                self.shrunk_until = self.sent;
            }
        } else if self.limited {
            let left = 1.0 - added.as_secs_f64() / TARGET.as_secs_f64();
            self.size += scaled(bytes, left / 2.0);
        }
        self.size = self.size.clamp(LEAST, MOST);
        self.limited = false;
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "up to MOST")]
fn scaled(bytes: usize, by: f64) -> usize {
    (bytes as f64 * by) as usize
}

const _: () = assert!(LEAST - COUNT_EVERY > MAX_DATAGRAM + LENGTH, "one frame always fits beside what is not told yet");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: usize = MAX_DATAGRAM + LENGTH;

    /// A line of `rate` bytes/s and `rtt`, offered more than it carries: bytes carried per second and the delay that the
    /// queue in front of it adds, percentiles 50 and 95, over the second half of `seconds`.
    fn saturated(rate: f64, rtt: Duration, seconds: u64) -> (f64, Duration, Duration) {
        let start = Instant::now();
        let mut now = start;
        let end = start + Duration::from_secs(seconds);
        let half = start + Duration::from_secs(seconds / 2);
        let mut window = Window::new(start);
        let mut free = start;
        let mut acks: VecDeque<(Instant, u64)> = VecDeque::new();
        let (mut total, mut told, mut carried) = (0u64, 0u64, 0u64);
        let mut delays = Vec::new();
        while now < end {
            while window.room() >= FRAME {
                let starts = free.max(now);
                free = starts + Duration::from_secs_f64(FRAME as f64 / rate);
                if now >= half {
                    delays.push(starts - now);
                    carried += FRAME as u64;
                }
                total += FRAME as u64;
                window.sent(now, FRAME, true);
                if total - told >= COUNT_EVERY as u64 {
                    told = total;
                    acks.push_back((free + rtt, total));
                }
            }
            let (at, count) = acks.pop_front().expect("a full window has an acknowledgement under way");
            now = now.max(at);
            window.acknowledged(now, count as u32).unwrap();
        }
        delays.sort_unstable();
        let at = |percent: usize| delays[delays.len() * percent / 100];
        (carried as f64 / (end - half).as_secs_f64(), at(50), at(95))
    }

    #[test]
    fn a_saturated_line_is_used_and_adds_little_delay() {
        for (mbit, rtt) in [(1, 20), (1, 100), (5, 10), (10, 30), (10, 150), (50, 5), (50, 50), (100, 20)] {
            let rate = f64::from(mbit) * 125_000.0;
            // Long enough for the least delay to be forgotten several times.
            let (carried, p50, p95) = saturated(rate, Duration::from_millis(rtt), 300);
            println!("{mbit:>4} Mbit/s {rtt:>4} ms: {:.0} % used, {p50:?} {p95:?}", 100.0 * carried / rate);
            // The least window is 8 KiB: 65 ms at 1 Mbit/s.
            let least = Duration::from_secs_f64(LEAST as f64 / rate);
            assert!(p95 <= 2 * TARGET + least, "{mbit} Mbit/s, {rtt} ms: {p95:?}");
            assert!(carried >= 0.8 * rate, "{mbit} Mbit/s, {rtt} ms: {:.2}", carried / rate);
        }
    }

    #[test]
    fn a_reader_that_stops_leaves_little_under_way() {
        let now = Instant::now();
        let mut window = Window::new(now);
        let mut written = 0;
        while window.room() >= FRAME {
            window.sent(now, FRAME, true);
            written += FRAME;
        }
        assert!(written <= FIRST);
    }

    #[test]
    fn counts_wrap_around() {
        let now = Instant::now();
        let mut window = Window::new(now);
        for _ in 0..100_000 {
            window.sent(now, 60_000, false);
            window.acknowledged(now, (window.sent & 0xFFFF_FFFF) as u32).unwrap();
        }
        assert!(window.sent > 1 << 32 && window.under_way() == 0);
        assert_eq!(window.acknowledged(now, (window.sent & 0xFFFF_FFFF) as u32 + 1), Err(NeverSent));
    }

    proptest! {
        #[test]
        fn hostile_counts_never_open_it_beyond_what_was_sent(
            steps in proptest::collection::vec((0usize..5_000, any::<u32>(), 0u64..1_000), 1..200),
        ) {
            let mut now = Instant::now();
            let mut window = Window::new(now);
            for (bytes, count, pause) in steps {
                now += Duration::from_millis(pause);
                let before = window.acked;
                window.sent(now, bytes, true);
                let known = window.acknowledged(now, count).is_ok();
                prop_assert!(known || window.acked == before);
                prop_assert!(window.acked <= window.sent);
                prop_assert!((LEAST..=MOST).contains(&window.size) && window.room() <= MOST);
                prop_assert!(window.marks.len() <= MAX_MARKS);
            }
        }
    }
}

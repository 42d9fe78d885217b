//! What happened, in order: the hash over all of it, and the last of it in words.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Events kept in words for a failure's file.
const KEPT: usize = 200;

/// Two runs with the same seed must have the same hash. Put in what is the same on any machine: virtual time, who, what;
/// never wall-clock time, memory, addresses of objects or bytes of ephemeral keys.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    hasher: blake3::Hasher,
    events: u64,
    last: VecDeque<String>,
}

impl Trace {
    /// `at`: virtual time since the start of the run.
    pub fn record(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        let line = format!("{:>14.6} {what}", at.as_secs_f64());
        self.hasher.update(line.as_bytes());
        self.hasher.update(b"\n");
        self.events += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The first 16 bytes of BLAKE3 over all events, in hex.
    #[must_use]
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The most recent events, oldest first.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_time_are_part_of_the_hash_and_the_tail_is_bounded() {
        let trace = |events: &[(u64, &str)]| {
            let mut trace = Trace::default();
            for (at, what) in events {
                trace.record(Duration::from_millis(*at), format_args!("{what}"));
            }
            trace
        };
        let one = trace(&[(1, "a"), (2, "b")]);
        assert_eq!(one.hash(), trace(&[(1, "a"), (2, "b")]).hash());
        for other in [&[(2, "b"), (1, "a")][..], &[(1, "a"), (3, "b")], &[(1, "a")]] {
            assert_ne!(one.hash(), trace(other).hash());
        }
        let long = trace(&vec![(1, "a"); 10 * KEPT]);
        assert_eq!((long.tail().len(), long.events()), (KEPT, 10 * KEPT as u64));
    }
}

//! Which pings have been seen: each id counts once, and old ones not at all.

/// Ids this far behind the greatest may still come, once each: pings overtake each other on different paths.
const WINDOW: u64 = 64;

#[derive(Debug, Default)]
pub struct ReplayWindow {
    greatest: u64,
    /// Bit n: `greatest - n` was seen.
    seen: u64,
}

impl ReplayWindow {
    /// Whether `id` is new; it is not from now on.
    pub fn accept(&mut self, id: u64) -> bool {
        if id > self.greatest {
            let ahead = id - self.greatest;
            self.seen = if ahead >= WINDOW { 1 } else { self.seen << ahead | 1 };
            self.greatest = id;
            return true;
        }
        let behind = self.greatest - id;
        if behind >= WINDOW || self.seen & 1 << behind != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

/// Ids of a run start here: they grow over restarts as long as the clock does, which WireGuard's handshake asks for as
/// well. There is room for a million probes a millisecond.
#[must_use]
pub fn first_ping_id(unix_ms: u64) -> u64 {
    unix_ms << 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn each_id_counts_once_and_recent_ones_are_not_lost(
            steps in proptest::collection::vec((1u64..40, 0u64..80), 1..200),
        ) {
            let mut window = ReplayWindow::default();
            let mut accepted = BTreeSet::new();
            let mut next = first_ping_id(1);
            for (ahead, behind) in steps {
                next += ahead;
                for id in [next, next - behind] {
                    let fresh = !accepted.contains(&id);
                    let got = window.accept(id);
                    prop_assert!(fresh || !got, "{} twice", id);
                    if got {
                        accepted.insert(id);
                    } else if fresh {
                        prop_assert!(next - id >= WINDOW, "{} is recent and new", id);
                    }
                }
            }
        }
    }
}

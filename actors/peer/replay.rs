//! Which pings have been seen: each id counts once, and old ones not at all.

/// Ids this far behind the greatest may still come, once each: pings overtake each other on different paths, and while
/// a NAT is punched a hundred a second leave of which few arrive.
const WINDOW: u64 = 512;
const WORDS: usize = (WINDOW / 64) as usize;

#[derive(Debug, Default)]
pub struct ReplayWindow {
    greatest: u64,
    /// Bit `id % WINDOW`: `id` was seen, for ids less than `WINDOW` behind the greatest.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// Whether `id` is new; it is not from now on.
    pub fn accept(&mut self, id: u64) -> bool {
        if id > self.greatest {
            if id - self.greatest >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for passed in self.greatest + 1..id {
                    self.set(passed, false);
                }
            }
            self.greatest = id;
        } else if self.greatest - id >= WINDOW || self.is_set(id) {
            return false;
        }
        self.set(id, true);
        true
    }

    fn is_set(&self, id: u64) -> bool {
        self.seen[word(id)] & 1 << (id % 64) != 0
    }

    fn set(&mut self, id: u64, seen: bool) {
        let bit = 1 << (id % 64);
        let word = &mut self.seen[word(id)];
        *word = if seen { *word | bit } else { *word & !bit };
    }
}

fn word(id: u64) -> usize {
    (id % WINDOW / 64) as usize
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
            steps in proptest::collection::vec((1u64..700, 0u64..600), 1..200),
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

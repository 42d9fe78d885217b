//! Which path a peer's packets take: a pure function of what is known about each.

use std::time::Duration;

use super::messages::PathKind;

/// What the choice may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathQuality {
    pub kind: PathKind,
    /// Answered lately, and has not since failed to answer.
    pub live: bool,
    /// Low percentile of the last round trips.
    pub rtt: Duration,
}

/// A path must be this much better than the one in use before packets move: flapping reorders packets.
const STICKY_RATIO: (u32, u32) = (4, 5);
const STICKY_GAIN: Duration = Duration::from_millis(1);

/// The index of the path to use, or `None` when none is live.
#[must_use]
pub fn choose(paths: &[PathQuality], in_use: Option<usize>) -> Option<usize> {
    let rank = |path: &PathQuality| (tier(path.kind), path.rtt, path.kind != PathKind::Lan);
    let (best, found) = paths.iter().enumerate().filter(|(_, path)| path.live).min_by_key(|(_, path)| rank(path))?;
    let Some((index, current)) = in_use.and_then(|index| paths.get(index).map(|path| (index, path))) else {
        return Some(best);
    };
    let better = tier(found.kind) < tier(current.kind)
        || (found.rtt * STICKY_RATIO.1 < current.rtt * STICKY_RATIO.0 && found.rtt + STICKY_GAIN < current.rtt);
    Some(if current.live && !better { index } else { best })
}

/// Straight paths before those through a third machine, those before TCP.
fn tier(kind: PathKind) -> u8 {
    match kind {
        PathKind::Lan | PathKind::Direct => 0,
        PathKind::Relay => 1,
        PathKind::Tcp => 2,
        PathKind::None => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kind: PathKind, live: bool, rtt_us: u64) -> PathQuality {
        PathQuality { kind, live, rtt: Duration::from_micros(rtt_us) }
    }

    #[test]
    fn table() {
        use PathKind::{Direct, Lan, Relay, Tcp};
        let cases: &[(&str, &[PathQuality], Option<usize>, Option<usize>)] = &[
            ("nothing known", &[], None, None),
            ("nothing live", &[path(Lan, false, 100)], Some(0), None),
            ("first answer is used", &[path(Direct, false, 0), path(Relay, true, 90_000)], None, Some(1)),
            ("lowest round trip", &[path(Direct, true, 9_000), path(Direct, true, 5_000)], None, Some(1)),
            ("same round trip: the LAN", &[path(Direct, true, 500), path(Lan, true, 500)], None, Some(1)),
            (
                "a little better does not move",
                &[path(Direct, true, 10_000), path(Direct, true, 8_500)],
                Some(0),
                Some(0),
            ),
            ("microseconds do not move", &[path(Lan, true, 300), path(Lan, true, 100)], Some(0), Some(0)),
            ("much better moves", &[path(Direct, true, 10_000), path(Direct, true, 5_000)], Some(0), Some(1)),
            ("direct beats a faster relay", &[path(Relay, true, 5_000), path(Direct, true, 6_000)], Some(0), Some(1)),
            ("TCP only as the last resort", &[path(Tcp, true, 100), path(Relay, true, 90_000)], Some(0), Some(1)),
            ("dead path is left", &[path(Lan, false, 100), path(Direct, true, 50_000)], Some(0), Some(1)),
            ("index of a path that is gone", &[path(Direct, true, 1_000)], Some(7), Some(0)),
        ];
        for (name, paths, in_use, expected) in cases {
            assert_eq!(choose(paths, *in_use), *expected, "{name}");
        }
    }
}

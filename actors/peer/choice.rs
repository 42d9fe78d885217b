//! Which path a peer's packets take: a pure function of what is known about each.

use std::time::Duration;

use super::messages::{PathKind, RelayPolicy};

/// What the choice may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathQuality {
    pub kind: PathKind,
    /// Answered lately, and has not since failed to answer.
    pub live: bool,
    /// Live by the rules, but packets go out and nothing comes back while others answer.
    pub failing: bool,
    /// Low percentile of the last round trips.
    pub rtt: Duration,
    /// As many round trips are known as the window holds.
    pub settled: bool,
    /// Lost probes in percent, once enough were sent.
    pub loss: Option<u8>,
}

impl PathQuality {
    /// Nothing there.
    pub const NONE: Self =
        Self { kind: PathKind::None, live: false, failing: false, rtt: Duration::ZERO, settled: false, loss: None };
}

/// Why the choice fell on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There was none before.
    First,
    LowestRoundTrip,
    /// A path of this kind came up, and is preferred to the one through a third machine or a stream.
    Straighter(PathKind),
    /// The relay's round trip is this much lower.
    RelayFaster {
        by: Duration,
    },
    /// The path before was of this kind and left its probes unanswered.
    Failed(PathKind),
    /// The path before was of this kind; packets went out on it and nothing came back.
    Silent(PathKind),
    /// The path before lost so many percent of its probes.
    LessLoss(u8),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First => f.write_str("first to answer"),
            Self::LowestRoundTrip => f.write_str("lowest round trip"),
            Self::Straighter(kind) => write!(f, "{} came up", kind.name()),
            Self::RelayFaster { by } => write!(f, "relay {:.0} ms faster than direct", by.as_secs_f64() * 1e3),
            Self::Failed(kind) => write!(f, "{} failed {DEAD_AFTER} probes", kind.name()),
            Self::Silent(kind) => write!(f, "{} stopped answering", kind.name()),
            Self::LessLoss(percent) => write!(f, "the other lost {percent} % of its probes"),
        }
    }
}

/// A path that left this many probes unanswered is dead.
pub const DEAD_AFTER: u32 = 3;

/// A path must be this much better than the one in use before packets move: flapping reorders packets.
const STICKY_RATIO: (u32, u32) = (4, 5);
const STICKY_GAIN: Duration = Duration::from_millis(1);
/// A relay must beat a straight path by this, too, since it is another's machine, and by less to stay in use.
const RELAY_GAIN: Duration = Duration::from_millis(5);
const RELAY_STAY_RATIO: (u32, u32) = (9, 10);
const RELAY_STAY_GAIN: Duration = Duration::from_micros(2500);
/// Percent of probes: above the first the path in use is left, above the second none is taken for it.
const LOSSY: u8 = 15;
const CLEAN: u8 = 5;

/// The index of the path to use, with the reason when it is another than the one in use; `None` when none is live.
#[must_use]
pub fn choose(paths: &[PathQuality], in_use: Option<usize>, relays: RelayPolicy) -> Option<(usize, Option<Reason>)> {
    let is_current = |index: usize| in_use == Some(index);
    let rank = |index: usize, path: &PathQuality| {
        (path.failing, tier(path, is_current(index)), path.rtt, path.kind != PathKind::Lan)
    };
    let live = || paths.iter().enumerate().filter(|(_, path)| path.live);
    let (mut best, mut found) = live().min_by_key(|(index, path)| rank(*index, path))?;
    let mut faster = None;
    if relays == RelayPolicy::Auto
        && is_straight(found.kind)
        && let Some((index, relay)) = live()
            .filter(|(index, path)| {
                path.kind == PathKind::Relay && !path.failing && !is_lossy(path, is_current(*index))
            })
            .min_by_key(|(index, path)| rank(*index, path))
        && beats(relay, found, is_current(index))
    {
        faster = Some(found.rtt.saturating_sub(relay.rtt));
        (best, found) = (index, relay);
    }
    let current = in_use.and_then(|index| paths.get(index).map(|path| (index, path)));
    let Some((index, current)) = current else { return Some((best, Some(Reason::First))) };
    if index == best {
        return Some((index, None));
    }
    let (was, will) = (tier(current, true), tier(found, false));
    let reason = if !current.live {
        Reason::Failed(current.kind)
    } else if current.failing && !found.failing {
        Reason::Silent(current.kind)
    } else if found.failing && !current.failing {
        return Some((index, None));
    } else if let Some(by) = faster {
        // Among relays the usual stickiness holds.
        if current.kind == PathKind::Relay && !clearly_lower(found.rtt, current.rtt) {
            return Some((index, None));
        }
        Reason::RelayFaster { by }
    } else if is_lossy(current, true) && !is_lossy(found, false) && will < was {
        Reason::LessLoss(current.loss.unwrap_or_default())
    } else if will < was {
        Reason::Straighter(found.kind)
    } else if will == was && clearly_lower(found.rtt, current.rtt) {
        Reason::LowestRoundTrip
    } else if current.kind == PathKind::Relay && is_straight(found.kind) {
        Reason::Straighter(found.kind)
    } else {
        return Some((index, None));
    };
    Some((best, Some(reason)))
}

fn clearly_lower(rtt: Duration, than: Duration) -> bool {
    rtt * STICKY_RATIO.1 < than * STICKY_RATIO.0 && rtt + STICKY_GAIN < than
}

/// A window full of low round trips, not one lucky sample, sends packets the long way round.
fn beats(relay: &PathQuality, straight: &PathQuality, in_use: bool) -> bool {
    let (ratio, gain) = if in_use { (RELAY_STAY_RATIO, RELAY_STAY_GAIN) } else { (STICKY_RATIO, RELAY_GAIN) };
    relay.settled
        && straight.settled
        && relay.rtt * ratio.1 < straight.rtt * ratio.0
        && relay.rtt + gain <= straight.rtt
}

fn is_straight(kind: PathKind) -> bool {
    matches!(kind, PathKind::Lan | PathKind::Direct)
}

fn is_lossy(path: &PathQuality, in_use: bool) -> bool {
    path.loss.is_some_and(|percent| percent > if in_use { LOSSY } else { CLEAN })
}

/// Straight paths before those through a third machine; one that loses packets after a relay that does not; TCP last.
fn tier(path: &PathQuality, in_use: bool) -> u8 {
    match path.kind {
        PathKind::Lan | PathKind::Direct if is_lossy(path, in_use) => 2,
        PathKind::Lan | PathKind::Direct => 0,
        PathKind::Relay if is_lossy(path, in_use) => 3,
        PathKind::Relay => 1,
        PathKind::Tcp => 4,
        PathKind::None => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathKind::{Direct, Lan, Relay, Tcp};
    use proptest::prelude::*;

    fn path(kind: PathKind, live: bool, rtt_us: u64) -> PathQuality {
        PathQuality { kind, live, failing: false, rtt: Duration::from_micros(rtt_us), settled: true, loss: Some(0) }
    }

    fn new(kind: PathKind, rtt_us: u64) -> PathQuality {
        PathQuality { settled: false, loss: None, ..path(kind, true, rtt_us) }
    }

    fn failing(path: PathQuality) -> PathQuality {
        PathQuality { failing: true, ..path }
    }

    fn lossy(path: PathQuality, percent: u8) -> PathQuality {
        PathQuality { loss: Some(percent), ..path }
    }

    #[test]
    fn table() {
        let direct = |ms: u64| path(Direct, true, ms * 1000);
        let relay = |ms: u64| path(Relay, true, ms * 1000);
        let cases: &[(&str, &[PathQuality], Option<usize>, Option<usize>)] = &[
            ("nothing known", &[], None, None),
            ("nothing live", &[path(Lan, false, 100)], Some(0), None),
            ("first answer is used", &[path(Direct, false, 0), relay(90)], None, Some(1)),
            ("lowest round trip", &[direct(9), direct(5)], None, Some(1)),
            ("same round trip: the LAN", &[path(Direct, true, 500), path(Lan, true, 500)], None, Some(1)),
            ("a little better does not move", &[direct(10), path(Direct, true, 8_500)], Some(0), Some(0)),
            ("microseconds do not move", &[path(Lan, true, 300), path(Lan, true, 100)], Some(0), Some(0)),
            ("much better moves", &[direct(10), direct(5)], Some(0), Some(1)),
            ("direct beats a relay as fast", &[relay(6), direct(6)], Some(0), Some(1)),
            ("direct beats a relay 1 ms faster", &[relay(5), direct(6)], Some(0), Some(1)),
            ("a new direct path needs one answer", &[relay(5), new(Direct, 50_000)], Some(0), Some(1)),
            ("a relay much faster wins", &[direct(60), relay(40)], Some(0), Some(1)),
            ("not when it is new", &[direct(60), new(Relay, 40_000)], Some(0), Some(0)),
            ("not by less than 5 ms", &[direct(12), relay(8)], Some(0), Some(0)),
            ("not by less than 20 %", &[direct(60), relay(50)], Some(0), Some(0)),
            ("a relay in use stays while 10 % faster", &[direct(60), relay(50)], Some(1), Some(1)),
            ("and is left when it no longer is", &[direct(60), relay(58)], Some(1), Some(0)),
            ("between fast relays no flapping", &[direct(60), relay(40), relay(38)], Some(1), Some(1)),
            ("TCP only as the last resort", &[path(Tcp, true, 100), relay(90)], Some(0), Some(1)),
            ("TCP is not compared by time", &[relay(90), path(Tcp, true, 100)], Some(0), Some(0)),
            ("TCP rather than nothing", &[path(Direct, false, 1), path(Tcp, true, 100)], Some(0), Some(1)),
            ("dead path is left", &[path(Lan, false, 100), direct(50)], Some(0), Some(1)),
            ("index of a path that is gone", &[direct(1)], Some(7), Some(0)),
            ("silent path is left for one that answers", &[failing(direct(5)), relay(90)], Some(0), Some(1)),
            ("silent path stays when all are", &[failing(direct(5)), failing(relay(9))], Some(0), Some(0)),
            ("not to one that is silent itself", &[relay(9), failing(direct(5))], Some(0), Some(0)),
            ("heavy loss is left for a relay", &[lossy(direct(5), 20), relay(30)], Some(0), Some(1)),
            ("some loss is not", &[lossy(direct(5), 12), relay(30)], Some(0), Some(0)),
            ("and not gone back to before it is clean", &[lossy(direct(5), 12), relay(30)], Some(1), Some(1)),
            ("but then", &[lossy(direct(5), 4), relay(30)], Some(1), Some(0)),
            ("loss everywhere: straight", &[lossy(direct(5), 20), lossy(relay(5), 20)], Some(0), Some(0)),
            ("loss rather than TCP", &[lossy(relay(5), 30), path(Tcp, true, 1)], Some(0), Some(0)),
        ];
        for (name, paths, in_use, expected) in cases {
            assert_eq!(choose(paths, *in_use, RelayPolicy::Auto).map(|it| it.0), *expected, "{name}");
        }
    }

    /// As in the table, but the game wants no relay: only one that is the sole way is taken, and left for anything else.
    #[test]
    fn a_relay_that_is_to_be_avoided() {
        let direct = |ms: u64| path(Direct, true, ms * 1000);
        let relay = |ms: u64| path(Relay, true, ms * 1000);
        let cases: &[(&str, &[PathQuality], Option<usize>, Option<usize>)] = &[
            ("a much faster relay is not taken", &[direct(90), relay(10)], Some(0), Some(0)),
            ("and left", &[direct(90), relay(10)], Some(1), Some(0)),
            ("the only way is", &[path(Direct, false, 1), relay(10)], Some(0), Some(1)),
            ("heavy loss is left for it", &[lossy(direct(5), 20), relay(30)], Some(0), Some(1)),
        ];
        for (name, paths, in_use, expected) in cases {
            assert_eq!(choose(paths, *in_use, RelayPolicy::Avoid).map(|it| it.0), *expected, "{name}");
        }
    }

    #[test]
    fn reasons() {
        let cases: &[(&[PathQuality], Option<usize>, &str)] = &[
            (&[path(Relay, true, 9_000)], None, "first to answer"),
            (&[path(Direct, true, 60_000), path(Relay, true, 45_000)], Some(0), "relay 15 ms faster than direct"),
            (&[path(Direct, false, 60_000), path(Relay, true, 48_000)], Some(0), "direct failed 3 probes"),
            (&[path(Relay, true, 60_000), path(Direct, true, 60_000)], Some(0), "direct came up"),
            (&[path(Direct, true, 60_000), path(Lan, true, 300)], Some(0), "lowest round trip"),
            (&[failing(path(Direct, true, 60_000)), path(Relay, true, 300)], Some(0), "direct stopped answering"),
            (&[lossy(path(Direct, true, 1), 30), path(Relay, true, 300)], Some(0), "the other lost 30 % of its probes"),
        ];
        for (paths, in_use, text) in cases {
            let reason = choose(paths, *in_use, RelayPolicy::Auto).and_then(|it| it.1);
            assert_eq!(reason.map(|it| it.to_string()).as_deref(), Some(*text), "{paths:?}");
        }
    }

    fn any_path() -> impl Strategy<Value = PathQuality> {
        let kinds = prop_oneof![Just(Lan), Just(Direct), Just(Relay), Just(Tcp)];
        (kinds, any::<[bool; 3]>(), 0u64..200_000, proptest::option::of(0u8..100)).prop_map(
            |(kind, [live, failing, settled], us, loss)| PathQuality {
                kind,
                live,
                failing,
                rtt: Duration::from_micros(us),
                settled,
                loss,
            },
        )
    }

    proptest! {
        /// With nothing new, a choice that was made stands: else packets would flap between two paths.
        #[test]
        fn a_choice_stands(
            paths in proptest::collection::vec(any_path(), 1..8),
            start in 0usize..8,
            avoid in any::<bool>(),
        ) {
            let relays = if avoid { RelayPolicy::Avoid } else { RelayPolicy::Auto };
            if let Some((chosen, _)) = choose(&paths, Some(start), relays) {
                prop_assert!(paths[chosen].live);
                let again = choose(&paths, Some(chosen), relays);
                prop_assert_eq!(again, Some((chosen, None)), "{:?}", paths);
            }
        }
    }
}

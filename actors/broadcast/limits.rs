//! How much a member may shout, and how much this machine: by packets and by bytes, in all and for each port.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// So much over time, and so much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Per second.
    pub packets: u32,
    /// Per second.
    pub bytes: u32,
    /// Seconds of the rate that may come at once.
    pub burst: u32,
}

impl Rate {
    /// For datagrams to one port. Lobbies repeat each second; old games that play over broadcasts send each of 60 frames.
    pub const PORT: Self = Self { packets: 250, bytes: 1_000_000, burst: 2 };
    /// For ports that a running game uses for discovery.
    pub const GAME_PORT: Self = Self { packets: 1000, bytes: 4_000_000, burst: 2 };
    /// For all ports of one member, or of this machine; and for their fragments.
    pub const MEMBER: Self = Self { packets: 2000, bytes: 4_000_000, burst: 2 };
    /// Copies to all members together: what a home connection can carry up without its games feeling it.
    pub const COPIES: Self = Self { packets: 20_000, bytes: 4_000_000, burst: 4 };
}

/// A token bucket for packets and one for bytes. What does not fit entirely into what is left passes all the same, and
/// is owed: so the largest datagram passes small buckets too.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    /// When what was taken will have been earned.
    packets_paid: Option<Instant>,
    bytes_paid: Option<Instant>,
}

impl Meter {
    pub fn take(&mut self, now: Instant, rate: Rate, packets: u32, bytes: usize) -> bool {
        let burst = Duration::from_secs(u64::from(rate.burst));
        let (by_packets, by_bytes) =
            (self.packets_paid.map_or(now, |at| at.max(now)), self.bytes_paid.map_or(now, |at| at.max(now)));
        if by_packets - now >= burst || by_bytes - now >= burst {
            return false;
        }
        let cost = |amount: u64, rate: u32| Duration::from_nanos(amount * 1_000_000_000 / u64::from(rate.max(1)));
        self.packets_paid = Some(by_packets + cost(u64::from(packets), rate.packets));
        self.bytes_paid = Some(by_bytes + cost(bytes as u64, rate.bytes));
        true
    }

    /// Nothing is owed or used: as good as new.
    fn is_idle(&self, now: Instant) -> bool {
        self.packets_paid.is_none_or(|at| at <= now) && self.bytes_paid.is_none_or(|at| at <= now)
    }
}

/// Ports of one sender that have a meter of their own; what goes beyond shares one.
const MAX_PORTS: usize = 64;

/// The limits of one sender.
#[derive(Debug, Clone, Default)]
pub struct SenderLimits {
    all: Meter,
    fragments: Meter,
    ports: BTreeMap<u16, Meter>,
    others: Meter,
}

impl SenderLimits {
    /// For a fragment, whose port is not known yet.
    pub fn take_fragment(&mut self, now: Instant, bytes: usize) -> bool {
        self.fragments.take(now, Rate::MEMBER, 1, bytes)
    }

    /// For a whole datagram. By port first, so that a storm to one port leaves the others theirs.
    pub fn take_datagram(&mut self, now: Instant, port: u16, rate: Rate, bytes: usize) -> bool {
        if !self.ports.contains_key(&port) && self.ports.len() >= MAX_PORTS {
            self.ports.retain(|_, meter| !meter.is_idle(now));
        }
        let meter = if self.ports.len() < MAX_PORTS || self.ports.contains_key(&port) {
            self.ports.entry(port).or_default()
        } else {
            &mut self.others
        };
        meter.take(now, rate, 1, bytes) && self.all.take(now, Rate::MEMBER, 1, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_cut_to_the_rate_and_a_lobby_is_not() {
        let start = Instant::now();
        let mut limits = SenderLimits::default();
        let mut passed = [0; 2];
        for tick in 0..50_000u64 {
            let now = start + Duration::from_micros(100 * tick);
            passed[0] += usize::from(limits.take_datagram(now, 1, Rate::PORT, 100));
            if tick % 10_000 == 0 {
                passed[1] += usize::from(limits.take_datagram(now, 2, Rate::PORT, 100));
            }
        }
        // Five seconds and the burst of two.
        assert!((1700..=1760).contains(&passed[0]), "{}", passed[0]);
        assert_eq!(passed[1], 5, "another port does not feel it");
    }

    #[test]
    fn the_largest_datagrams_pass_and_are_owed() {
        let start = Instant::now();
        let mut limits = SenderLimits::default();
        let big = |limits: &mut SenderLimits, now| limits.take_datagram(now, 1, Rate::PORT, 65_535);
        assert_eq!((0..100).filter(|_| big(&mut limits, start)).count(), 31);
        let later = start + Duration::from_secs(10);
        assert_eq!((0..100).filter(|_| big(&mut limits, later)).count(), 31, "and no more is saved than the burst");
        let mut meter = Meter::default();
        let small = Rate { packets: 10, bytes: 100, burst: 1 };
        assert!(meter.take(start, small, 1, 1000));
        assert!(!meter.take(start + Duration::from_secs(8), small, 1, 1));
        assert!(meter.take(start + Duration::from_secs(10), small, 1, 1));
    }

    #[test]
    fn a_sender_that_uses_all_ports_holds_few_meters() {
        let start = Instant::now();
        let mut limits = SenderLimits::default();
        let passed = (0..=u16::MAX).filter(|&port| limits.take_datagram(start, port, Rate::PORT, 0)).count();
        assert_eq!(limits.ports.len(), MAX_PORTS);
        assert_eq!(passed, MAX_PORTS + 500, "the rest shares what one port has");
        assert!(limits.take_datagram(start + Duration::from_secs(10), 60_000, Rate::PORT, 0));
        assert!(limits.ports.len() < MAX_PORTS, "idle ones make room");
    }
}

//! One datagram that a program sends on several interfaces is one announcement: it is seen at two capture points within
//! moments. What is seen twice at one point is two.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::datagram::Datagram;

/// Programs that send on each interface do so in one loop; games repeat what they say after 0.3 ms or a second.
pub const WINDOW: Duration = Duration::from_millis(20);
/// Datagrams remembered. More within the window are beyond what the limits let through anyway.
const MAX_SEEN: usize = 512;

/// Where local datagrams are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The virtual device.
    Device,
    /// A physical interface, by the number that the machine gave it (below 31).
    Interface(u8),
}

impl Point {
    fn bit(self) -> u32 {
        match self {
            Self::Device => 1,
            Self::Interface(number) => 2 << (number % 31),
        }
    }
}

#[derive(Debug)]
struct Seen {
    hash: u64,
    at: Instant,
    /// Points that have shown it.
    points: u32,
}

#[derive(Debug, Default)]
pub struct Dedup {
    seen: VecDeque<Seen>,
}

impl Dedup {
    /// Whether `datagram`, seen at `point`, is one that another point has shown already.
    pub fn is_copy(&mut self, now: Instant, point: Point, datagram: &Datagram<'_>) -> bool {
        while self.seen.front().is_some_and(|it| now.saturating_duration_since(it.at) > WINDOW) {
            self.seen.pop_front();
        }
        let hash = hash(datagram);
        let bit = point.bit();
        // Each showing of a point takes the oldest that it has not shown: two of one point match two of another.
        if let Some(it) = self.seen.iter_mut().find(|it| it.hash == hash && it.points & bit == 0) {
            it.points |= bit;
            return true;
        }
        if self.seen.len() >= MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen { hash, at: now, points: bit });
        false
    }
}

/// All broadcast addresses are one: each interface has its own.
fn hash(datagram: &Datagram<'_>) -> u64 {
    let group = Some(datagram.destination).filter(Ipv4Addr::is_multicast);
    let mut hasher = DefaultHasher::new();
    (group, datagram.source_port, datagram.destination_port, datagram.payload).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH: Point = Point::Interface(0);
    const WLAN: Point = Point::Interface(1);

    fn to(destination: [u8; 4], payload: &[u8]) -> Datagram<'_> {
        Datagram {
            source: Ipv4Addr::new(192, 168, 1, 5),
            destination: destination.into(),
            source_port: 1,
            destination_port: 2,
            ttl: 64,
            payload,
        }
    }

    #[test]
    fn one_send_on_each_interface_passes_once() {
        let (mut dedup, now) = (Dedup::default(), Instant::now());
        for round in 0..100u64 {
            let now = now + Duration::from_millis(5 * round);
            assert!(!dedup.is_copy(now, ETH, &to([192, 168, 1, 255], b"x")), "{round}");
            assert!(dedup.is_copy(now, WLAN, &to([10, 0, 0, 255], b"x")), "{round}");
            assert!(dedup.is_copy(now + WINDOW / 4, Point::Device, &to([10, 66, 255, 255], b"x")), "{round}");
        }
    }

    #[test]
    fn repetitions_at_one_point_all_pass() {
        let (mut dedup, now) = (Dedup::default(), Instant::now());
        for _ in 0..MAX_SEEN * 2 {
            assert!(!dedup.is_copy(now, ETH, &to([255; 4], b"x")));
        }
        assert_eq!(dedup.seen.len(), MAX_SEEN);
    }

    #[test]
    fn two_at_each_point_are_two() {
        let (mut dedup, now) = (Dedup::default(), Instant::now());
        let seen = [ETH, ETH, Point::Device, Point::Device, Point::Device];
        let copies = seen.map(|point| dedup.is_copy(now, point, &to([255; 4], b"x")));
        assert_eq!(copies, [false, false, true, true, false]);
    }

    #[test]
    fn another_payload_group_or_time_is_another() {
        let (mut dedup, now) = (Dedup::default(), Instant::now());
        assert!(!dedup.is_copy(now, ETH, &to([255; 4], b"x")));
        assert!(!dedup.is_copy(now, Point::Device, &to([255; 4], b"y")));
        assert!(!dedup.is_copy(now, Point::Device, &to([224, 0, 2, 60], b"x")));
        assert!(!dedup.is_copy(now + WINDOW * 2, Point::Device, &to([255; 4], b"x")));
    }
}

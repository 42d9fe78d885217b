//! Packets that wait for a path and a session.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::{Class, Urgency};

/// At most this many packets wait; a newer one pushes out the oldest of the least urgent: for a game the newest state
/// counts.
const MAX_PACKETS: usize = 64;
/// No longer than that: a game has said it anew or given up, and who comes back after an hour is not to hear what was.
const LIFE: Duration = Duration::from_secs(5);

type Waiting = (Box<[u8]>, Class);

#[derive(Debug, Default)]
pub struct Stage {
    /// By urgency, each with when it came.
    queues: [VecDeque<(Instant, Waiting)>; Urgency::ALL.len()],
}

impl Stage {
    /// Keeps a copy; returns how many packets were pushed out, this one perhaps.
    pub fn push(&mut self, now: Instant, packet: &[u8], class: Class) -> u64 {
        self.queues[class.urgency as usize].push_back((now, (packet.into(), class)));
        if self.queues.iter().map(VecDeque::len).sum::<usize>() <= MAX_PACKETS {
            return 0;
        }
        let least = self.queues.iter_mut().rev().find_map(VecDeque::pop_front);
        u64::from(least.is_some())
    }

    /// Drops what has waited too long; returns how many packets that were.
    pub fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        for queue in &mut self.queues {
            while queue.pop_front_if(|(since, _)| now.saturating_duration_since(*since) >= LIFE).is_some() {
                expired += 1;
            }
        }
        expired
    }

    /// The most urgent, in order.
    pub fn pop(&mut self) -> Option<Waiting> {
        self.queues.iter_mut().find_map(VecDeque::pop_front).map(|(_, waiting)| waiting)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        let (mut stage, now) = (Stage::default(), Instant::now());
        let dropped: u64 = (0..100u8).map(|n| stage.push(now, &[n], Class::default())).sum();
        assert_eq!(dropped, 36);
        assert_eq!(stage.pop().unwrap().0[..], [36]);
        assert_eq!(std::iter::from_fn(|| stage.pop()).count(), 63);
        assert!(stage.is_empty());
    }

    #[test]
    fn a_transfer_does_not_push_out_a_game() {
        let (mut stage, now) = (Stage::default(), Instant::now());
        let background = Class { urgency: Urgency::Background, dscp: 8 };
        assert_eq!(stage.push(now, &[1], Class::EXPEDITED) + stage.push(now, &[2], background), 0);
        let dropped: u64 = (0..64u8).map(|n| stage.push(now, &[n], Class::default())).sum();
        assert_eq!(dropped, 2, "first the one that can wait, then the oldest of the transfer");
        assert_eq!(stage.pop(), Some((vec![1].into(), Class::EXPEDITED)));
        assert_eq!(stage.pop(), Some((vec![1].into(), Class::default())));
        assert_eq!(std::iter::from_fn(|| stage.pop()).count(), 62);
    }

    #[test]
    fn what_waited_too_long_is_dropped() {
        let (mut stage, start) = (Stage::default(), Instant::now());
        assert_eq!(stage.push(start, &[1], Class::default()), 0);
        let later = start + LIFE / 2;
        assert_eq!(stage.push(later, &[2], Class::EXPEDITED) + stage.push(later, &[3], Class::default()), 0);
        assert_eq!(stage.expire(start + LIFE), 1);
        assert_eq!(std::iter::from_fn(|| stage.pop()).map(|(packet, _)| packet[0]).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(stage.push(start, &[4], Class::default()), 0);
        assert_eq!(stage.expire(start + LIFE), 1);
        assert!(stage.is_empty());
    }
}

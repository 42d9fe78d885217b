//! Packets that wait for a path and a session.

use std::collections::VecDeque;

use crate::wire::{Class, Urgency};

/// At most this many packets wait; a newer one pushes out the oldest of the least urgent: for a game the newest state
/// counts.
const MAX_PACKETS: usize = 64;

type Waiting = (Box<[u8]>, Class);

#[derive(Debug, Default)]
pub struct Stage {
    /// By urgency.
    queues: [VecDeque<Waiting>; Urgency::ALL.len()],
}

impl Stage {
    /// Keeps a copy; returns how many packets were pushed out, this one perhaps.
    pub fn push(&mut self, packet: &[u8], class: Class) -> u64 {
        self.queues[class.urgency as usize].push_back((packet.into(), class));
        if self.queues.iter().map(VecDeque::len).sum::<usize>() <= MAX_PACKETS {
            return 0;
        }
        let least = self.queues.iter_mut().rev().find_map(VecDeque::pop_front);
        u64::from(least.is_some())
    }

    /// The most urgent, in order.
    pub fn pop(&mut self) -> Option<Waiting> {
        self.queues.iter_mut().find_map(VecDeque::pop_front)
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
        let mut stage = Stage::default();
        let dropped: u64 = (0..100u8).map(|n| stage.push(&[n], Class::default())).sum();
        assert_eq!(dropped, 36);
        assert_eq!(stage.pop().unwrap().0[..], [36]);
        assert_eq!(std::iter::from_fn(|| stage.pop()).count(), 63);
        assert!(stage.is_empty());
    }

    #[test]
    fn a_transfer_does_not_push_out_a_game() {
        let mut stage = Stage::default();
        let background = Class { urgency: Urgency::Background, dscp: 8 };
        assert_eq!(stage.push(&[1], Class::EXPEDITED) + stage.push(&[2], background), 0);
        let dropped: u64 = (0..64u8).map(|n| stage.push(&[n], Class::default())).sum();
        assert_eq!(dropped, 2, "first the one that can wait, then the oldest of the transfer");
        assert_eq!(stage.pop(), Some((vec![1].into(), Class::EXPEDITED)));
        assert_eq!(stage.pop(), Some((vec![1].into(), Class::default())));
        assert_eq!(std::iter::from_fn(|| stage.pop()).count(), 62);
    }
}

//! Packets that wait for a path and a session.

use std::collections::VecDeque;

/// At most this many packets wait; a newer one pushes out the oldest: for a game the newest state counts.
const MAX_PACKETS: usize = 64;

#[derive(Debug, Default)]
pub struct Stage {
    packets: VecDeque<Box<[u8]>>,
}

impl Stage {
    /// Keeps a copy; returns how many packets were pushed out.
    pub fn push(&mut self, packet: &[u8]) -> u64 {
        let full = self.packets.len() >= MAX_PACKETS;
        if full {
            self.packets.pop_front();
        }
        self.packets.push_back(packet.into());
        u64::from(full)
    }

    pub fn pop(&mut self) -> Option<Box<[u8]>> {
        self.packets.pop_front()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        let mut stage = Stage::default();
        let dropped: u64 = (0..100u8).map(|n| stage.push(&[n])).sum();
        assert_eq!(dropped, 36);
        assert_eq!(stage.pop().as_deref(), Some(&[36u8][..]));
        assert_eq!(std::iter::from_fn(|| stage.pop()).count(), 63);
    }
}

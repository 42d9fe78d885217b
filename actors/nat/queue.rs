//! What waits while the socket is full, the most urgent first.

use std::collections::VecDeque;

use crate::wire::{TransmitBatch, Urgency};

/// Datagrams that may wait, by urgency; the oldest go for newer ones. At 100 Mbit/s the second are 38 ms.
const MAX_DATAGRAMS: [usize; Urgency::ALL.len()] = [256, 320, 64];
/// More urgent datagrams that may go out before one that waited already. They have been numbered on the way here, and
/// the receiver refuses a number that is 1,024 behind the highest: what waits here, what may overtake it and what the
/// kernel holds must stay below.
const MAX_OVERTAKING: u64 = 128;

/// A batch, and its bytes that are out already.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) batch: TransmitBatch,
    pub(super) out: usize,
    /// `SendQueue::ahead` when it came.
    since: u64,
    /// Grows from one to the next.
    order: u64,
}

impl Waiting {
    fn datagrams(&self) -> usize {
        let size = self.batch.segment_size().max(1);
        self.batch.contents().len().saturating_sub(self.out).div_ceil(size)
    }
}

#[derive(Debug, Default)]
pub(super) struct SendQueue {
    queues: [VecDeque<Waiting>; Urgency::ALL.len()],
    datagrams: [usize; Urgency::ALL.len()],
    /// Datagrams that went out before those of this urgency, or nowhere, ever.
    ahead: [u64; Urgency::ALL.len()],
    orders: u64,
}

impl SendQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// `out` bytes of it are sent. Returns how many datagrams had to go for it. Those are the oldest, which the receiver
    /// would refuse soonest, and which tell a transfer soonest that it is too fast.
    pub(super) fn push(&mut self, batch: TransmitBatch, out: usize) -> u64 {
        let at = batch.class().urgency as usize;
        self.orders = self.orders.wrapping_add(1);
        let waiting = Waiting { batch, out, since: self.ahead[at], order: self.orders };
        self.datagrams[at] += waiting.datagrams();
        self.queues[at].push_back(waiting);
        let mut dropped = 0;
        while self.datagrams[at] > MAX_DATAGRAMS[at]
            && let Some(oldest) = self.queues[at].pop_front()
        {
            dropped += self.left(at, oldest.datagrams());
            // Numbers that never get out: those which wait fall behind by them, too.
            for earlier in &mut self.ahead[..at] {
                *earlier = earlier.wrapping_add(oldest.datagrams() as u64);
            }
        }
        dropped
    }

    /// So many are sent or dropped: each is a number that those which are less urgent fall behind by.
    fn left(&mut self, at: usize, datagrams: usize) -> u64 {
        self.datagrams[at] -= datagrams;
        for later in &mut self.ahead[at + 1..] {
            *later = later.wrapping_add(datagrams as u64);
        }
        datagrams as u64
    }

    /// The next to be sent: the most urgent, unless something older has been overtaken by as many as it may.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let mut at = self.queues.iter().position(|queue| !queue.is_empty())?;
        for later in at + 1..self.queues.len() {
            if let (Some(front), Some(other)) = (self.queues[at].front(), self.queues[later].front())
                && other.order < front.order
                && self.ahead[later].wrapping_sub(other.since) >= MAX_OVERTAKING
            {
                at = later;
            }
        }
        let next = self.queues[at].pop_front()?;
        self.left(at, next.datagrams());
        Some(next)
    }

    /// Puts back what was popped last, of which `sent` more bytes are out.
    pub(super) fn put_back(&mut self, mut waiting: Waiting, sent: usize) {
        waiting.out += sent;
        let at = waiting.batch.class().urgency as usize;
        let datagrams = waiting.datagrams();
        self.datagrams[at] += datagrams;
        for later in &mut self.ahead[at + 1..] {
            *later = later.wrapping_sub(datagrams as u64);
        }
        self.queues[at].push_front(waiting);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Class;

    fn batch(urgency: Urgency, datagrams: usize, mark: u8) -> TransmitBatch {
        let mut batch = TransmitBatch::new(([192, 0, 2, 1], 9).into()).with_class(Class { urgency, dscp: 0 });
        for _ in 0..datagrams {
            assert!(batch.push_with(100, 100, |slot| {
                slot.fill(mark);
                Some(slot.len())
            }));
        }
        batch
    }

    fn mark(waiting: &Waiting) -> u8 {
        waiting.batch.contents()[0]
    }

    #[test]
    fn the_most_urgent_goes_first_and_each_is_bounded() {
        let mut queue = SendQueue::default();
        for (urgency, mark) in
            [(Urgency::Background, 1), (Urgency::Bulk, 2), (Urgency::Expedited, 3), (Urgency::Bulk, 4)]
        {
            assert_eq!(queue.push(batch(urgency, 1, mark), 0), 0);
        }
        let order: Vec<u8> = std::iter::from_fn(|| queue.pop()).map(|it| mark(&it)).collect();
        assert_eq!(order, [3, 2, 4, 1]);
        assert_eq!(queue.push(batch(Urgency::Expedited, 50, 6), 0), 0);
        let dropped: u64 = (0..10).map(|n| queue.push(batch(Urgency::Bulk, 50, n), 0)).sum();
        assert_eq!(dropped, 200);
        assert_eq!(mark(&queue.pop().unwrap()), 6, "a transfer takes no room from a game");
        assert_eq!(mark(&queue.pop().unwrap()), 4, "the oldest of the transfer are gone");
        assert!(!queue.is_empty());
    }

    #[test]
    fn what_is_put_back_goes_on_where_it_was() {
        let mut queue = SendQueue::default();
        assert_eq!(queue.push(batch(Urgency::Bulk, 10, 1), 0) + queue.push(batch(Urgency::Bulk, 1, 2), 0), 0);
        let first = queue.pop().unwrap();
        queue.put_back(first, 300);
        assert_eq!(queue.push(batch(Urgency::Expedited, 1, 3), 0), 0);
        assert_eq!(mark(&queue.pop().unwrap()), 3, "the rest of a batch can be overtaken");
        let rest = queue.pop().unwrap();
        assert_eq!((mark(&rest), rest.out, rest.datagrams()), (1, 300, 7));
        assert_eq!(queue.datagrams, [0, 1, 0]);
    }

    proptest! {
        /// However many come and however few go: none goes out so late that the receiver's window has passed it, and
        /// what is equally urgent stays in order.
        #[test]
        fn nothing_is_overtaken_by_more_than_the_window(
            steps in proptest::collection::vec((0usize..12, 1usize..60), 1..600),
            pops in 3usize..12,
        ) {
            let mut queue = SendQueue::default();
            let mut numbers = Vec::new();
            let (mut next, mut highest) = (0usize, 0usize);
            let mut last = [0usize; 3];
            for (what, datagrams) in steps {
                if let (Some(&urgency), true) = (Urgency::ALL.get(what % 3), what >= pops) {
                    let mut waiting = batch(urgency, datagrams, 0);
                    waiting.redirect(([192, 0, 2, 1], u16::try_from(numbers.len()).unwrap()).into());
                    numbers.push(next);
                    next += datagrams;
                    queue.push(waiting, 0);
                } else if let Some(sent) = queue.pop() {
                    let number = numbers[usize::from(sent.batch.destination().port())];
                    let at = sent.batch.class().urgency as usize;
                    prop_assert!(number >= last[at], "in order");
                    last[at] = number;
                    // The receiver's 1,024, less what the kernel may turn round.
                    if at != Urgency::Background as usize {
                        prop_assert!(highest < number + 1024 - 190, "{highest} before {number}");
                    }
                    highest = highest.max(number + datagrams.min(1));
                }
            }
            prop_assert!(queue.datagrams.iter().zip(MAX_DATAGRAMS).all(|(waiting, max)| *waiting <= max));
        }
    }
}

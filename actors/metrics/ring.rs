//! The last events, each with a number.

use std::collections::VecDeque;

use super::messages::{Event, EventsView, Recorded};

/// Events that are remembered.
pub const EVENTS: usize = 1024;
/// A text of an event is cut off here, bytes.
const MAX_TEXT: usize = 512;

#[derive(Debug, Default)]
pub struct EventRing {
    events: VecDeque<Recorded>,
    last: u64,
}

impl EventRing {
    pub fn push(&mut self, unix_ms: u64, mut event: Event) {
        event.texts().into_iter().for_each(shorten);
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.last += 1;
        self.events.push_back(Recorded { seq: self.last, unix_ms, event });
    }

    /// Whether somebody who has seen all up to `after` has something to be told.
    #[must_use]
    pub fn has_news(&self, after: u64) -> bool {
        self.last != after
    }

    #[must_use]
    pub fn after(&self, after: u64, limit: usize) -> EventsView {
        // A number that was never given out is from an earlier run.
        let after = if after > self.last { 0 } else { after };
        let before_first = self.events.front().map_or(self.last, |first| first.seq - 1);
        let from = after.max(before_first);
        let skip = usize::try_from(from - before_first).unwrap_or(usize::MAX);
        let events: Vec<Recorded> = self.events.iter().skip(skip).take(limit).cloned().collect();
        EventsView { next: events.last().map_or(from, |last| last.seq), events, lost: from - after }
    }
}

fn shorten(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
}

impl Event {
    fn texts(&mut self) -> Vec<&mut String> {
        match self {
            Self::PeerConnected { peer, .. } => vec![peer],
            Self::PathChanged { peer, reason, .. } | Self::PeerDisconnected { peer, reason, .. } => vec![peer, reason],
            Self::GameStarted { game, name, .. } | Self::GameStopped { game, name, .. } => vec![game, name],
            Self::TuningApplied { what, value, game, reason } => vec![what, value, game, reason],
            Self::TuningUndone { what, value, game } => vec![what, value, game],
            Self::ProfileProblem { file, reason, .. } => vec![file, reason],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(pid: u32) -> Event {
        Event::GameStarted { game: "doom".into(), name: "Doom".into(), pid }
    }

    fn ring(count: u32) -> EventRing {
        let mut ring = EventRing::default();
        (1..=count).for_each(|pid| ring.push(u64::from(pid) * 10, event(pid)));
        ring
    }

    fn numbers(view: &EventsView) -> Vec<u64> {
        view.events.iter().map(|it| it.seq).collect()
    }

    #[test]
    fn asked_step_by_step_nothing_is_missed_or_told_twice() {
        let ring = ring(7);
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let view = ring.after(after, 3);
            assert_eq!(view.lost, 0);
            if view.events.is_empty() {
                break;
            }
            seen.extend(numbers(&view));
            after = view.next;
        }
        assert_eq!(seen, (1..=7).collect::<Vec<_>>());
        assert_eq!(ring.after(2, 1).events[0], Recorded { seq: 3, unix_ms: 30, event: event(3) });
        assert!(ring.has_news(6) && !ring.has_news(7));
    }

    #[test]
    fn old_ones_are_pushed_out_and_said_to_be_lost() {
        let count = u32::try_from(EVENTS).unwrap() + 10;
        let ring = ring(count);
        let view = ring.after(4, usize::MAX);
        assert_eq!((view.events.len(), view.events[0].seq, view.lost), (EVENTS, 11, 6));
        assert_eq!(view.next, u64::from(count));
    }

    #[test]
    fn a_number_of_an_earlier_run_starts_anew() {
        let ring = ring(3);
        let view = ring.after(500, 10);
        assert_eq!((numbers(&view), view.next, view.lost), (vec![1, 2, 3], 3, 0));
        assert!(ring.has_news(500));
        let empty = EventRing::default().after(500, 10);
        assert_eq!((empty.events.len(), empty.next, empty.lost), (0, 0, 0));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut ring = EventRing::default();
        let peer = "é".repeat(400);
        ring.push(0, Event::PeerDisconnected { peer, virtual_ip: [10, 66, 0, 1].into(), reason: "r".into() });
        let Event::PeerDisconnected { peer, .. } = &ring.after(0, 1).events[0].event else { panic!() };
        assert_eq!(peer.chars().count(), MAX_TEXT / 2);
    }

    proptest! {
        #[test]
        fn any_question_has_an_answer(count in 0u32..1500, after in 0u64..3000, limit in 0usize..2000) {
            let view = ring(count).after(after, limit);
            prop_assert!(view.events.len() <= limit.min(EVENTS));
            prop_assert!(view.next <= u64::from(count));
            prop_assert!(view.events.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
        }
    }
}

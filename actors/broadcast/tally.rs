//! Counters for each destination port, in a table of bounded size.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::messages::PortView;

/// Ports that are counted apart.
const MAX_PORTS: usize = 128;
/// A port without traffic for that long makes room for another.
const QUIET: Duration = Duration::from_secs(60);

/// What happened to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Sent,
    Delivered,
    Limited,
}

#[derive(Debug, Default)]
pub struct Tally {
    ports: BTreeMap<u16, (Instant, PortView)>,
    /// All that had no room.
    others: PortView,
}

impl Tally {
    pub fn count(&mut self, now: Instant, port: u16, fate: Fate) {
        if !self.ports.contains_key(&port) && self.ports.len() >= MAX_PORTS {
            let quietest = self.ports.iter().min_by_key(|(_, (last, _))| *last).map(|(&port, &(last, _))| (port, last));
            if let Some((old, _)) = quietest.filter(|(_, last)| now.saturating_duration_since(*last) >= QUIET) {
                self.ports.remove(&old);
            }
        }
        let view = if self.ports.len() < MAX_PORTS || self.ports.contains_key(&port) {
            let entry = self.ports.entry(port).or_insert_with(|| (now, PortView { port, ..PortView::default() }));
            entry.0 = now;
            &mut entry.1
        } else {
            &mut self.others
        };
        *match fate {
            Fate::Sent => &mut view.sent,
            Fate::Delivered => &mut view.delivered,
            Fate::Limited => &mut view.limited,
        } += 1;
    }

    /// The busiest first; what had no room is told as port 0.
    #[must_use]
    pub fn view(&self) -> Vec<PortView> {
        let total = |it: &PortView| it.sent + it.delivered + it.limited;
        let mut all: Vec<PortView> = self.ports.values().map(|(_, view)| *view).collect();
        all.extend(Some(self.others).filter(|others| total(others) > 0));
        all.sort_by_key(|it| (std::cmp::Reverse(total(it)), it.port));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_counted_apart_and_the_table_is_bounded() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        tally.count(start, 5, Fate::Sent);
        tally.count(start, 5, Fate::Delivered);
        tally.count(start, 9, Fate::Limited);
        let five = PortView { port: 5, sent: 1, delivered: 1, limited: 0 };
        assert_eq!(tally.view(), [five, PortView { port: 9, limited: 1, ..PortView::default() }]);
        for port in 0..=u16::MAX {
            tally.count(start, port, Fate::Delivered);
        }
        let view = tally.view();
        assert_eq!(view.len(), MAX_PORTS + 1);
        assert_eq!(view.iter().map(|it| it.delivered).sum::<u64>(), 1 + 65_536);
        tally.count(start + QUIET, 60_000, Fate::Sent);
        assert!(tally.view().iter().any(|it| it.port == 60_000 && it.sent == 1), "a quiet one made room");
    }
}

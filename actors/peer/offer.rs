//! "Call me maybe": a machine tells a member, through a relay or whatever path there is, how it can be reached now, so
//! that both probe at the same time. When one is sent and how often, and which are believed.

use std::time::{Duration, Instant};

use super::bucket::Bucket;
use crate::wire::{Contact, MAX_CANDIDATES, MAX_TICKETS, Ticket};

/// An offer is said again at these times until it is acknowledged.
const REPEATS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(600), Duration::from_millis(1400)];
/// New offers sent and believed: so many at once, then one each so long (four in ten seconds over time).
const BURST: u32 = 4;
const EACH: Duration = Duration::from_millis(2500);
/// One offer is acknowledged at most this often: its sender repeats it four times, on two paths.
const MAX_ACKS: u32 = 8;
/// After this the member's record, when it changes, is newer than its last offer.
const OFFER_HOLDS: Duration = Duration::from_secs(30);
/// Tickets kept of one member, over record and offer.
const MAX_KEPT_TICKETS: usize = MAX_TICKETS + 2;

#[derive(Debug)]
struct Round {
    seq: u64,
    started: Instant,
    sent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Believe it and acknowledge.
    New,
    /// Seen before: its acknowledgement was lost.
    Again,
    /// Old, or one too many.
    Refused,
}

#[derive(Debug)]
pub struct Offers {
    next_seq: u64,
    wanted: Option<Instant>,
    round: Option<Round>,
    send: Bucket,
    newest: u64,
    acks: u32,
    receive: Bucket,
    received: Option<(Instant, Contact)>,
}

impl Offers {
    /// Numbers start at `first_seq` and must grow over restarts, as those of pings do.
    #[must_use]
    pub fn new(first_seq: u64) -> Self {
        Self {
            next_seq: first_seq,
            wanted: None,
            round: None,
            send: Bucket::new(BURST, EACH),
            newest: 0,
            acks: 0,
            receive: Bucket::new(BURST, EACH),
            received: None,
        }
    }

    /// The member should hear from this machine, as soon as the rate allows.
    pub fn request(&mut self, now: Instant) {
        self.wanted.get_or_insert(now);
    }

    /// The number of the offer to send now. Without a way to send it on, the wish is dropped: whoever finds one asks
    /// again.
    pub fn due(&mut self, now: Instant, reachable: bool) -> Option<u64> {
        if !reachable {
            self.wanted = None;
            self.round = None;
            return None;
        }
        if self.wanted.is_some() && self.send.take(now) {
            self.wanted = None;
            self.round = Some(Round { seq: self.next_seq, started: now, sent: 0 });
            self.next_seq = self.next_seq.wrapping_add(1);
        }
        let round = self.round.as_mut()?;
        if now < round.started + *REPEATS.get(round.sent)? {
            return None;
        }
        round.sent += 1;
        let seq = round.seq;
        if round.sent >= REPEATS.len() {
            self.round = None;
        }
        Some(seq)
    }

    pub fn on_ack(&mut self, seq: u64) {
        self.round.take_if(|round| round.seq == seq);
    }

    pub fn on_offer(&mut self, now: Instant, seq: u64, contact: Contact) -> Verdict {
        if seq == self.newest && self.acks < MAX_ACKS {
            self.acks += 1;
            return Verdict::Again;
        }
        if seq <= self.newest || !self.receive.take(now) {
            return Verdict::Refused;
        }
        (self.newest, self.acks) = (seq, 1);
        self.received = Some((now, contact));
        Verdict::New
    }

    /// The member's record has changed: it stands alone unless the member has just made an offer.
    pub fn on_record(&mut self, now: Instant) {
        self.received.take_if(|(at, _)| now.saturating_duration_since(*at) >= OFFER_HOLDS);
    }

    /// What is known of how the member can be reached, from its record and its last offer.
    #[must_use]
    pub fn merged(&self, record: &Contact) -> Contact {
        let Some((_, offer)) = &self.received else { return record.clone() };
        let mut all = offer.clone();
        for candidate in &record.candidates {
            if !all.candidates.iter().any(|known| known.addr == candidate.addr) {
                all.candidates.push(*candidate);
            }
        }
        all.candidates.truncate(MAX_CANDIDATES + MAX_CANDIDATES / 2);
        for ticket in &record.tickets {
            keep_newer(&mut all.tickets, ticket);
        }
        all.tickets.truncate(MAX_KEPT_TICKETS);
        all
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let repeat = self.round.as_ref().and_then(|round| Some(round.started + *REPEATS.get(round.sent)?));
        let start = self.wanted.map(|at| self.send.free_at(at));
        [repeat, start].into_iter().flatten().min().map(|at| (at, "offer"))
    }
}

/// One ticket for each relay: the one that holds longer.
fn keep_newer(tickets: &mut Vec<Ticket>, ticket: &Ticket) {
    match tickets.iter_mut().find(|known| known.relay == ticket.relay) {
        Some(known) if known.expires < ticket.expires => *known = *ticket,
        Some(_) => {}
        None => tickets.push(*ticket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RelayToken;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn said_four_times_or_until_heard() {
        let start = Instant::now();
        let mut offers = Offers::new(100);
        offers.request(start);
        let mut times = Vec::new();
        for ms in 0..5_000 {
            times.extend(offers.due(at(start, ms), true).map(|seq| (ms, seq)));
        }
        assert_eq!(times, [(0, 100), (200, 100), (600, 100), (1400, 100)]);
        assert_eq!(offers.poll_timeout(), None);

        offers.request(start);
        assert_eq!(offers.due(at(start, 6_000), true), Some(101));
        offers.on_ack(100);
        assert_eq!(offers.due(at(start, 6_200), true), Some(101), "the acknowledgement of another");
        offers.on_ack(101);
        assert_eq!(offers.due(at(start, 6_600), true), None);
    }

    #[test]
    fn wishes_are_bounded() {
        let start = Instant::now();
        let mut offers = Offers::new(0);
        let mut seqs = std::collections::BTreeSet::new();
        for ms in 0..20_000 {
            offers.request(at(start, ms));
            seqs.extend(offers.due(at(start, ms), true));
        }
        assert_eq!(seqs.len(), 4 + 7);
        offers.request(start);
        assert_eq!(offers.due(at(start, 60_000), false), None);
        assert_eq!(offers.due(at(start, 60_001), true), None, "forgotten while there was no way");
    }

    #[test]
    fn old_and_repeated_ones_are_not_believed() {
        let start = Instant::now();
        let mut offers = Offers::new(0);
        let contact = Contact::default;
        assert_eq!(offers.on_offer(start, 7, contact()), Verdict::New);
        for _ in 1..MAX_ACKS {
            assert_eq!(offers.on_offer(start, 7, contact()), Verdict::Again);
        }
        assert_eq!(offers.on_offer(start, 7, contact()), Verdict::Refused, "its acks are used up");
        assert_eq!(offers.on_offer(start, 6, contact()), Verdict::Refused);
        let believed = (8..100).filter(|seq| offers.on_offer(start, *seq, contact()) == Verdict::New).count();
        assert_eq!(believed, 3, "four at once");
    }

    #[test]
    fn the_longer_ticket_and_all_candidates_are_kept() {
        let ticket = |relay: u8, expires, fill| Ticket {
            relay: ([192, 0, 2, relay], 1).into(),
            token: RelayToken::new([fill; 50]),
            expires,
            rtt: 0,
        };
        let start = Instant::now();
        let mut offers = Offers::new(0);
        let host = |n| Contact::of_hosts([([10, 0, 0, n], 1).into()]);
        let record = Contact { tickets: vec![ticket(1, 50, 5), ticket(2, 10, 2)], ..host(1) };
        assert_eq!(offers.merged(&record), record);
        offers.on_offer(start, 1, Contact { tickets: vec![ticket(1, 40, 4), ticket(2, 20, 3)], ..host(2) });
        let merged = offers.merged(&record);
        assert_eq!(merged.tickets, [ticket(1, 50, 5), ticket(2, 20, 3)]);
        assert_eq!(merged.candidates, [host(2).candidates, host(1).candidates].concat());
        offers.on_record(at(start, 29_000));
        assert_eq!(offers.merged(&record).candidates.len(), 2);
        offers.on_record(at(start, 31_000));
        assert_eq!(offers.merged(&record), record);
    }
}

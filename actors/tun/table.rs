//! Virtual IP → peer, and the packets of one drain of the device grouped by peer.

use std::net::Ipv4Addr;

use super::segment::Segments;
use crate::wire::{Class, PacketBatch, Urgency};

/// More than the members of any party (255).
const MAX_ROUTES: usize = 1024;

struct Entry<P> {
    ip: Ipv4Addr,
    peer: P,
    /// By urgency.
    batches: [Option<PacketBatch>; Urgency::ALL.len()],
}

/// One way out for packets whatever their destination, gathered as those of a peer are.
pub(super) struct Lane<P> {
    to: Option<P>,
    batch: Option<PacketBatch>,
}

impl<P> Default for Lane<P> {
    fn default() -> Self {
        Self { to: None, batch: None }
    }
}

impl<P> Lane<P> {
    pub(super) fn bind(&mut self, to: P) {
        self.to = Some(to);
    }

    /// As [`RouteTable::push`]; false when it leads nowhere.
    #[must_use]
    pub(super) fn push(&mut self, mut segments: Segments<'_>, mut send: impl FnMut(&P, PacketBatch)) -> bool {
        let Some(to) = &self.to else { return false };
        while !segments.fill(self.batch.get_or_insert_default()) {
            if let Some(full) = self.batch.take() {
                send(to, full);
            }
        }
        true
    }

    pub(super) fn flush(&mut self, mut send: impl FnMut(&P, PacketBatch)) {
        if let (Some(to), Some(batch)) = (&self.to, self.batch.take()) {
            send(to, batch);
        }
    }
}

/// Routes in the order of their addresses. `P` is how a peer is reached.
pub(super) struct RouteTable<P> {
    entries: Vec<Entry<P>>,
    /// How many batches are begun.
    pending: usize,
}

impl<P> Default for RouteTable<P> {
    fn default() -> Self {
        Self { entries: Vec::new(), pending: 0 }
    }
}

impl<P> RouteTable<P> {
    /// Returns false when there are too many routes.
    #[must_use]
    pub(super) fn insert(&mut self, ip: Ipv4Addr, peer: P) -> bool {
        match self.find(ip) {
            Ok(index) => self.entries[index].peer = peer,
            Err(_) if self.entries.len() >= MAX_ROUTES => return false,
            Err(index) => self.entries.insert(index, Entry { ip, peer, batches: Default::default() }),
        }
        true
    }

    pub(super) fn remove(&mut self, ip: Ipv4Addr) {
        if let Ok(index) = self.find(ip) {
            let entry = self.entries.remove(index);
            self.pending -= entry.batches.iter().flatten().count();
        }
    }

    /// Adds `segments` to the batch of the peer that has their destination; batches that are full on the way, or of
    /// another mark, are handed to `send`. Returns false when no peer has it.
    #[must_use]
    pub(super) fn push(
        &mut self,
        mut segments: Segments<'_>,
        class: Class,
        mut send: impl FnMut(&P, PacketBatch),
    ) -> bool {
        let Ok(index) = self.find(segments.packet().destination()) else { return false };
        let Entry { peer, batches, .. } = &mut self.entries[index];
        let batch = &mut batches[class.urgency as usize];
        loop {
            if let Some(other) = batch.take_if(|batch| batch.class() != class) {
                self.pending -= 1;
                send(peer, other);
            }
            if batch.is_none() {
                self.pending += 1;
            }
            if segments.fill(batch.get_or_insert_with(|| PacketBatch::of(class))) {
                return true;
            }
            if let Some(full) = batch.take() {
                self.pending -= 1;
                send(peer, full);
            }
        }
    }

    /// Hands out what has been gathered, the most urgent of all peers first.
    pub(super) fn flush(&mut self, mut send: impl FnMut(&P, PacketBatch)) {
        for urgency in Urgency::ALL {
            for entry in &mut self.entries {
                if self.pending == 0 {
                    return;
                }
                if let Some(batch) = entry.batches[urgency as usize].take() {
                    self.pending -= 1;
                    send(&entry.peer, batch);
                }
            }
        }
    }

    fn find(&self, ip: Ipv4Addr) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&ip, |entry| entry.ip)
    }
}

#[cfg(test)]
mod tests {
    use super::super::offload::{Incoming, Offload};
    use super::super::testing::PacketSpec;
    use super::*;
    use crate::wire::ip::Ipv4Packet;

    fn packet(last: u8, payload: usize) -> Vec<u8> {
        PacketSpec { destination: [10, 66, 0, last].into(), ..PacketSpec::tcp(payload) }.build()
    }

    fn segments(packet: &[u8], offload: Offload) -> Segments<'_> {
        Segments::new(Incoming { packet: Ipv4Packet::parse(packet).unwrap(), offload }).unwrap()
    }

    #[test]
    fn packets_are_grouped_by_peer_in_order() {
        let mut table = RouteTable::default();
        for last in [5, 2, 9] {
            assert!(table.insert([10, 66, 0, last].into(), last));
        }
        let mut unexpected = |_: &u8, _: PacketBatch| panic!("nothing is full yet");
        for (last, len) in [(9, 1), (2, 2), (9, 3), (2, 4)] {
            assert!(table.push(segments(&packet(last, len), Offload::None), Class::default(), &mut unexpected));
        }
        assert!(!table.push(segments(&packet(7, 1), Offload::None), Class::default(), &mut unexpected));
        let mut sent = Vec::new();
        table.flush(|&peer, batch| sent.push((peer, batch.iter().map(|p| p.len() - 40).collect::<Vec<_>>())));
        assert_eq!(sent, [(2, vec![2, 4]), (9, vec![1, 3])]);
        table.flush(|_, _| panic!("all is out"));
    }

    #[test]
    fn the_most_urgent_of_all_peers_goes_first() {
        let mut table = RouteTable::default();
        assert!(table.insert([10, 66, 0, 2].into(), 2) && table.insert([10, 66, 0, 3].into(), 3));
        let game = |dscp| Class { urgency: Urgency::Expedited, dscp };
        let wait = Class { urgency: Urgency::Background, dscp: 8 };
        let mut sent = Vec::new();
        let mut push = |last, len, class| {
            let packet = packet(last, len);
            let segments = segments(&packet, Offload::None);
            assert!(table.push(segments, class, |&peer, batch| sent.push((peer, batch.class(), batch.len()))));
        };
        push(2, 1, wait);
        push(2, 2, Class::default());
        push(3, 3, game(46));
        push(2, 4, Class::EXPEDITED);
        push(3, 5, game(46));
        push(3, 6, game(32));
        assert_eq!(sent, [(3, game(46), 2)], "of another mark: first what came first");
        table.flush(|&peer, batch| sent.push((peer, batch.class(), batch.len())));
        let rest = [(2, Class::EXPEDITED, 1), (3, game(32), 1), (2, Class::default(), 1), (2, wait, 1)];
        assert_eq!(sent[1..], rest);
        table.flush(|_, _| panic!("all is out"));
    }

    #[test]
    fn a_read_larger_than_a_batch_goes_out_in_order() {
        let mut table = RouteTable::default();
        assert!(table.insert([10, 66, 0, 2].into(), ()));
        let whole = packet(2, 30_000);
        let mut sent = Vec::new();
        assert!(
            table.push(segments(&whole, Offload::Tcp { segment: 100 }), Class::default(), |(), batch| sent.push(batch))
        );
        table.flush(|(), batch| sent.push(batch));
        assert_eq!(sent.iter().map(PacketBatch::len).collect::<Vec<_>>(), [128, 128, 44]);
        let payload: Vec<u8> = sent.iter().flat_map(|b| b.iter().flat_map(|p| p[40..].to_vec())).collect();
        assert_eq!(payload, whole[40..]);
    }

    #[test]
    fn routes_are_replaced_removed_and_bounded() {
        let mut table = RouteTable::default();
        let ip = Ipv4Addr::new(10, 66, 0, 2);
        assert!(table.insert(ip, 1) && table.insert(ip, 2));
        assert!(table.push(segments(&packet(2, 1), Offload::None), Class::default(), |_, _| ()));
        table.remove(ip);
        table.remove(ip);
        assert!(!table.push(segments(&packet(2, 1), Offload::None), Class::default(), |_, _| ()));
        assert!((0..MAX_ROUTES).all(|n| table.insert(Ipv4Addr::from(n as u32), 0)));
        assert!(!table.insert(Ipv4Addr::BROADCAST, 0));
        assert!(table.insert(Ipv4Addr::from(5), 1), "replacing is always possible");
    }
}

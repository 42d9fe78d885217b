//! Virtual IP → peer, and the packets of one drain of the device grouped by peer.

use std::net::Ipv4Addr;

use super::segment::Segments;
use crate::wire::PacketBatch;

/// More than the members of any party (255).
const MAX_ROUTES: usize = 1024;

struct Entry<P> {
    ip: Ipv4Addr,
    peer: P,
    batch: Option<PacketBatch>,
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
    /// How many entries have a batch begun.
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
            Err(index) => self.entries.insert(index, Entry { ip, peer, batch: None }),
        }
        true
    }

    pub(super) fn remove(&mut self, ip: Ipv4Addr) {
        if let Ok(index) = self.find(ip) {
            let entry = self.entries.remove(index);
            self.pending -= usize::from(entry.batch.is_some());
        }
    }

    /// Adds `segments` to the batch of the peer that has their destination; batches that are full on the way are handed
    /// to `send`. Returns false when no peer has it.
    #[must_use]
    pub(super) fn push(&mut self, mut segments: Segments<'_>, mut send: impl FnMut(&P, PacketBatch)) -> bool {
        let Ok(index) = self.find(segments.packet().destination()) else { return false };
        let entry = &mut self.entries[index];
        loop {
            if entry.batch.is_none() {
                self.pending += 1;
            }
            if segments.fill(entry.batch.get_or_insert_default()) {
                return true;
            }
            if let Some(full) = entry.batch.take() {
                self.pending -= 1;
                send(&entry.peer, full);
            }
        }
    }

    /// Hands out what has been gathered, one batch a peer.
    pub(super) fn flush(&mut self, mut send: impl FnMut(&P, PacketBatch)) {
        for entry in &mut self.entries {
            if self.pending == 0 {
                return;
            }
            if let Some(batch) = entry.batch.take() {
                self.pending -= 1;
                send(&entry.peer, batch);
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
            assert!(table.push(segments(&packet(last, len), Offload::None), &mut unexpected));
        }
        assert!(!table.push(segments(&packet(7, 1), Offload::None), &mut unexpected));
        let mut sent = Vec::new();
        table.flush(|&peer, batch| sent.push((peer, batch.iter().map(|p| p.len() - 40).collect::<Vec<_>>())));
        assert_eq!(sent, [(2, vec![2, 4]), (9, vec![1, 3])]);
        table.flush(|_, _| panic!("all is out"));
    }

    #[test]
    fn a_read_larger_than_a_batch_goes_out_in_order() {
        let mut table = RouteTable::default();
        assert!(table.insert([10, 66, 0, 2].into(), ()));
        let whole = packet(2, 30_000);
        let mut sent = Vec::new();
        assert!(table.push(segments(&whole, Offload::Tcp { segment: 100 }), |(), batch| sent.push(batch)));
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
        assert!(table.push(segments(&packet(2, 1), Offload::None), |_, _| ()));
        table.remove(ip);
        table.remove(ip);
        assert!(!table.push(segments(&packet(2, 1), Offload::None), |_, _| ()));
        assert!((0..MAX_ROUTES).all(|n| table.insert(Ipv4Addr::from(n as u32), 0)));
        assert!(!table.insert(Ipv4Addr::BROADCAST, 0));
        assert!(table.insert(Ipv4Addr::from(5), 1), "replacing is always possible");
    }
}

//! The devices of the namespaces, and how a batch is divided among them and the system's own.

use std::net::Ipv4Addr;
use std::time::Instant;

use futures::channel::oneshot;

use super::super::device::Device;
use super::super::messages::{PlayCounters, PlayId, PlayView};
use super::{Owners, Side};
use crate::wire::PacketBatch;
use crate::wire::ip::Ipv4Packet;

/// Namespaces at a time.
pub(in crate::tun) const MAX_PLAYS: usize = 8;

pub(in crate::tun) struct Play {
    pub(in crate::tun) id: PlayId,
    pub(in crate::tun) device: Box<dyn Device>,
    pub(in crate::tun) pid: u32,
    pub(in crate::tun) game: Option<String>,
    pub(in crate::tun) counters: PlayCounters,
    /// Tells the session at the other end when it is dropped with the device.
    pub(in crate::tun) _ended: oneshot::Sender<()>,
}

/// Empty nearly always: then nothing here costs a packet anything.
#[derive(Default)]
pub(in crate::tun) struct Sides {
    pub(in crate::tun) plays: Vec<Play>,
    pub(in crate::tun) owners: Owners,
    last_id: u64,
}

/// What becomes of a batch that came in.
#[derive(Debug)]
pub(in crate::tun) enum Split {
    /// All of it is for this side.
    Whole(Side),
    /// The system's part first, then those of the namespaces in their order.
    Parts(Vec<PacketBatch>),
}

impl Sides {
    pub(in crate::tun) fn is_empty(&self) -> bool {
        self.plays.is_empty()
    }

    pub(in crate::tun) fn is_full(&self) -> bool {
        self.plays.len() >= MAX_PLAYS
    }

    pub(in crate::tun) fn next_id(&mut self) -> PlayId {
        self.last_id += 1;
        PlayId(self.last_id)
    }

    pub(in crate::tun) fn find(&mut self, id: PlayId) -> Option<&mut Play> {
        self.plays.iter_mut().find(|play| play.id == id)
    }

    pub(in crate::tun) fn remove(&mut self, id: PlayId) -> Option<Play> {
        let index = self.plays.iter().position(|play| play.id == id)?;
        self.owners.forget(id);
        Some(self.plays.remove(index))
    }

    pub(in crate::tun) fn clear(&mut self) {
        self.plays.clear();
        self.owners = Owners::default();
    }

    pub(in crate::tun) fn view(&self) -> Vec<PlayView> {
        let view = |play: &Play| PlayView { pid: play.pid, game: play.game.clone(), counters: play.counters };
        self.plays.iter().map(view).collect()
    }

    /// Divides `batch`, which is for `own` or for all.
    pub(in crate::tun) fn split(&mut self, batch: &PacketBatch, own: Ipv4Addr, now: Instant) -> Split {
        let Self { plays, owners, .. } = self;
        // What is no packet is counted by the system's device.
        let mut sides = batch
            .iter()
            .map(|packet| Ipv4Packet::parse(packet).map_or(Side::System, |packet| owners.receiver(&packet, own, now)));
        let Some(first) = sides.next() else { return Split::Whole(Side::System) };
        // Mostly a batch is of one flow.
        let alike = sides.by_ref().position(|side| side != first);
        drop(sides);
        if alike.is_none() {
            return Split::Whole(first);
        }
        let mut parts: Vec<PacketBatch> = (0..=plays.len()).map(|_| PacketBatch::new()).collect();
        for packet in batch.iter() {
            let side = Ipv4Packet::parse(packet).map_or(Side::System, |packet| owners.receiver(&packet, own, now));
            let sides = [Side::System].into_iter().chain(plays.iter().map(|play| Side::Play(play.id)));
            for (_, part) in sides.zip(&mut parts).filter(|(its, _)| side == Side::All || side == *its) {
                // A part of a batch always fits in a batch.
                let _ = part.push(packet);
            }
        }
        Split::Parts(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::task::{Context, Poll};

    use super::super::super::device::{ReadError, WriteReport};
    use super::super::super::offload::Incoming;
    use super::super::super::testing::PacketSpec;
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);

    struct Nothing;

    impl Device for Nothing {
        fn poll_read(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Incoming<'_>, ReadError>> {
            Poll::Ready(Err(ReadError::Gone(io::ErrorKind::NotFound.into())))
        }

        fn write_batch(&mut self, _batch: &PacketBatch) -> WriteReport {
            WriteReport::default()
        }
    }

    fn sides(count: usize) -> Sides {
        let mut sides = Sides::default();
        for _ in 0..count {
            let (ended, _) = oneshot::channel();
            let id = sides.next_id();
            let (device, counters) = (Box::new(Nothing), PlayCounters::default());
            sides.plays.push(Play { id, device, pid: 1, game: None, counters, _ended: ended });
        }
        sides
    }

    fn batch(packets: &[(u16, Ipv4Addr)]) -> PacketBatch {
        let mut batch = PacketBatch::new();
        for (port, destination) in packets {
            let spec = PacketSpec { ports: (9, *port), destination: *destination, ..PacketSpec::udp(3) };
            assert!(batch.push(&spec.build()));
        }
        batch
    }

    #[test]
    fn batches_are_divided_in_order() {
        let mut sides = sides(2);
        let ids: Vec<_> = sides.plays.iter().map(|play| play.id).collect();
        sides.owners.listens(ids[0], &[10], &[]);
        sides.owners.listens(ids[1], &[20], &[]);
        let now = Instant::now();
        for (ports, side) in [([10, 10], Side::Play(ids[0])), ([20, 20], Side::Play(ids[1])), ([5, 6], Side::System)] {
            let whole = batch(&ports.map(|port| (port, OWN)));
            assert!(matches!(sides.split(&whole, OWN, now), Split::Whole(found) if found == side));
        }
        let mixed = batch(&[(10, OWN), (5, OWN), (7, Ipv4Addr::BROADCAST), (20, OWN), (10, OWN)]);
        let Split::Parts(parts) = sides.split(&mixed, OWN, now) else { panic!("not divided") };
        let ports = |batch: &PacketBatch| batch.iter().map(|p| u16::from_be_bytes([p[22], p[23]])).collect::<Vec<_>>();
        assert_eq!(parts.iter().map(ports).collect::<Vec<_>>(), [vec![5, 7], vec![10, 7, 10], vec![7, 20]]);
        assert!(matches!(sides.split(&PacketBatch::new(), OWN, now), Split::Whole(Side::System)));
    }

    #[test]
    fn what_is_removed_gets_nothing_more() {
        let mut sides = sides(1);
        let id = sides.plays[0].id;
        sides.owners.listens(id, &[10], &[]);
        assert!(sides.remove(id).is_some() && sides.remove(id).is_none() && sides.is_empty());
        let left = sides.split(&batch(&[(10, OWN)]), OWN, Instant::now());
        assert!(matches!(left, Split::Whole(Side::System)));
        assert_ne!(sides.next_id(), id, "an id is never used twice");
    }
}

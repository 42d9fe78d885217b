//! Splitting what the local stack sends: a segmented packet becomes the packets that go over the wire, and checksums
//! that were left to the device are completed.

use super::offload::{Incoming, Offload};
use crate::wire::PacketBatch;
use crate::wire::ip::{self, Ipv4Packet, Sum};

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Whole,
    Checksum { start: usize, at: usize },
    Tcp,
    Udp,
}

/// The packets of one read, to be filled into batches. Resumable, since one read can hold more than a batch takes.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: Ipv4Packet<'a>,
    kind: Kind,
    /// IP and transport header, repeated on each segment.
    headers: &'a [u8],
    payload: &'a [u8],
    /// Payload bytes of each segment but the last.
    size: usize,
    count: usize,
    next: usize,
}

impl<'a> Segments<'a> {
    /// `None` when the packet is not what its offload says: no or a truncated transport header, a fragment, size zero.
    #[must_use]
    pub fn new(incoming: Incoming<'a>) -> Option<Self> {
        let Incoming { packet, offload } = incoming;
        let (kind, transport_len, size) = match offload {
            Offload::None => return Some(Self::whole(packet, Kind::Whole)),
            Offload::Checksum { start, at } => {
                // `at` is bounded by `from_frame`, but another device may construct it.
                let inside = packet.header_len() <= start && start <= at && at + 2 <= packet.bytes().len();
                return inside.then(|| Self::whole(packet, Kind::Checksum { start, at }));
            }
            Offload::Tcp { segment } => {
                // The header length of the virtio header is a hint only: the data offset is what counts.
                let len = usize::from(*packet.payload().get(12)? >> 4) * 4;
                if packet.protocol() != ip::TCP || len < 20 {
                    return None;
                }
                (Kind::Tcp, len, segment)
            }
            Offload::Udp { segment } => {
                if packet.protocol() != ip::UDP {
                    return None;
                }
                (Kind::Udp, 8, segment)
            }
        };
        if size == 0 || packet.is_fragment() || transport_len > packet.payload().len() {
            return None;
        }
        let (headers, payload) = packet.bytes().split_at(packet.header_len() + transport_len);
        let count = payload.len().div_ceil(size).max(1);
        Some(Self { packet, kind, headers, payload, size, count, next: 0 })
    }

    fn whole(packet: Ipv4Packet<'a>, kind: Kind) -> Self {
        let payload = packet.bytes();
        Self { packet, kind, headers: &[], payload, size: payload.len(), count: 1, next: 0 }
    }

    /// How many packets there are in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all packets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.count * self.headers.len()
    }

    #[must_use]
    pub fn packet(&self) -> Ipv4Packet<'a> {
        self.packet
    }

    /// Appends packets to `batch` until all are in or it is full. Returns whether all are in.
    pub fn fill(&mut self, batch: &mut PacketBatch) -> bool {
        while self.next < self.count {
            let start = self.next * self.size;
            let chunk = &self.payload[start..(start + self.size).min(self.payload.len())];
            let Some(slot) = batch.push_joined(self.headers, chunk) else { return false };
            match self.kind {
                Kind::Whole => {}
                Kind::Checksum { start, at } => {
                    let value = Sum::default().with(&slot[start..]).finish();
                    // Zero would say "no checksum" (RFC 768).
                    let value = if value == 0 && self.packet.protocol() == ip::UDP { 0xffff } else { value };
                    slot[at..at + 2].copy_from_slice(&value.to_be_bytes());
                }
                Kind::Tcp | Kind::Udp => self.finish(slot),
            }
            self.next += 1;
        }
        true
    }

    /// Turns a copy of the headers and a piece of the payload into a packet of its own.
    fn finish(&self, slot: &mut [u8]) {
        let index = self.next;
        // Both fit: a segment is no longer than the whole packet, and the identification wraps.
        let total = u16::try_from(slot.len()).unwrap_or(u16::MAX);
        let ident = self.packet.identification().wrapping_add(u16::try_from(index & 0xffff).unwrap_or(0));
        let (header, segment) = slot.split_at_mut(self.packet.header_len());
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&ident.to_be_bytes());
        ip::write_header_checksum(header);

        let (protocol, checksum_at) = if matches!(self.kind, Kind::Tcp) { (ip::TCP, 16) } else { (ip::UDP, 6) };
        if matches!(self.kind, Kind::Tcp) {
            let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
            let sequence = sequence.wrapping_add(u32::try_from(index * self.size).unwrap_or(0));
            segment[4..8].copy_from_slice(&sequence.to_be_bytes());
            if index + 1 < self.count {
                segment[13] &= !(TCP_FIN | TCP_PSH);
            }
            if index > 0 {
                segment[13] &= !TCP_CWR;
            }
        } else {
            let len = u16::try_from(segment.len()).unwrap_or(u16::MAX);
            segment[4..6].copy_from_slice(&len.to_be_bytes());
        }
        segment[checksum_at..checksum_at + 2].fill(0);
        let value = ip::transport_checksum(self.packet.source(), self.packet.destination(), protocol, segment);
        let value = if value == 0 && protocol == ip::UDP { 0xffff } else { value };
        segment[checksum_at..checksum_at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{self, PacketSpec};
    use super::*;

    fn split(packet: &[u8], offload: Offload) -> Vec<Vec<u8>> {
        let packet = Ipv4Packet::parse(packet).unwrap();
        let mut segments = Segments::new(Incoming { packet, offload }).unwrap();
        let mut out = Vec::new();
        loop {
            let mut batch = PacketBatch::new();
            let done = segments.fill(&mut batch);
            out.extend(batch.iter().map(<[u8]>::to_vec));
            if done {
                assert_eq!(out.len(), segments.count());
                assert_eq!(out.iter().map(Vec::len).sum::<usize>(), segments.bytes());
                return out;
            }
        }
    }

    #[test]
    fn tcp_flags_and_sequence_follow_the_rules() {
        let spec = PacketSpec { flags: 0x10 | TCP_FIN | TCP_PSH | TCP_CWR, seq: u32::MAX - 50, ..PacketSpec::tcp(250) };
        let parts = split(&spec.build(), Offload::Tcp { segment: 100 });
        assert_eq!(parts.len(), 3);
        let flags: Vec<u8> = parts.iter().map(|p| p[33]).collect();
        assert_eq!(flags, [0x10 | TCP_CWR, 0x10, 0x10 | TCP_FIN | TCP_PSH]);
        let sequences: Vec<u32> = parts.iter().map(|p| u32::from_be_bytes(p[24..28].try_into().unwrap())).collect();
        assert_eq!(sequences, [u32::MAX - 50, 49, 149]);
    }

    #[test]
    fn tiny_segments_span_batches() {
        let parts = split(&PacketSpec::tcp(3000).build(), Offload::Tcp { segment: 7 });
        assert_eq!(parts.len(), 429);
    }

    #[test]
    fn partial_udp_checksum_of_zero_becomes_ones() {
        let spec = PacketSpec::udp(4);
        let mut packet = spec.build();
        // Choose the payload so that the sum comes out as 0xffff, that is, the checksum as zero.
        packet[28..32].fill(0);
        packet[26..28].fill(0);
        let open = ip::transport_checksum(testing::SOURCE, testing::DESTINATION, ip::UDP, &packet[20..]);
        packet[28..30].copy_from_slice(&open.to_be_bytes());
        let partial = Sum::pseudo_header(testing::SOURCE, testing::DESTINATION, ip::UDP, 12).fold();
        packet[26..28].copy_from_slice(&partial.to_be_bytes());
        let parts = split(&packet, Offload::Checksum { start: 20, at: 26 });
        assert_eq!(parts[0][26..28], [0xff, 0xff]);
        assert_eq!(Ipv4Packet::parse(&parts[0]).unwrap().transport_checksum_ok(), Some(true));
    }

    #[test]
    fn contradictions_are_refused() {
        let tcp = PacketSpec::tcp(100).build();
        let udp = PacketSpec::udp(100).build();
        let refused = |packet: &[u8], offload| {
            Segments::new(Incoming { packet: Ipv4Packet::parse(packet).unwrap(), offload }).is_none()
        };
        assert!(refused(&tcp, Offload::Tcp { segment: 0 }));
        assert!(refused(&udp, Offload::Tcp { segment: 10 }));
        assert!(refused(&tcp, Offload::Udp { segment: 10 }));
        assert!(refused(&tcp, Offload::Checksum { start: 0, at: 10 }));
        assert!(refused(&tcp, Offload::Checksum { start: 20, at: 139 }));
        let mut short = tcp.clone();
        short[32] = 0x40;
        assert!(refused(&short, Offload::Tcp { segment: 10 }));
        let mut fragment = tcp;
        fragment[6] = 0x20;
        assert!(refused(&fragment, Offload::Tcp { segment: 10 }));
    }

    proptest! {
        #[test]
        fn segments_are_right_packets_and_hold_the_payload(
            tcp: bool, len in 1usize..20_000, segment in 1usize..3000, options in 0usize..10, id: u16,
        ) {
            let base = if tcp { PacketSpec::tcp(len) } else { PacketSpec::udp(len) };
            let spec = PacketSpec { id, tcp_options: options * 4, ..base };
            let whole = spec.build();
            let offload = if tcp { Offload::Tcp { segment } } else { Offload::Udp { segment } };
            let parts = split(&whole, offload);
            let header_len = spec.header_len();
            let mut payload = Vec::new();
            for (n, part) in parts.iter().enumerate() {
                let ip = Ipv4Packet::parse(part).unwrap();
                prop_assert!(ip.header_checksum_ok());
                prop_assert_eq!(ip.transport_checksum_ok(), Some(true));
                prop_assert_eq!(ip.bytes().len(), part.len());
                prop_assert_eq!(ip.identification(), id.wrapping_add(n as u16));
                prop_assert!(part.len() - header_len <= segment);
                if !tcp {
                    prop_assert_eq!(u16::from_be_bytes([part[24], part[25]]) as usize, part.len() - 20);
                }
                payload.extend_from_slice(&part[header_len..]);
            }
            prop_assert_eq!(&payload[..], &whole[header_len..]);
        }

        #[test]
        fn partial_checksums_are_completed(tcp: bool, len in 0usize..2000) {
            let spec = if tcp { PacketSpec::tcp(len) } else { PacketSpec::udp(len) };
            let whole = spec.build();
            let mut partial = whole.clone();
            let (protocol, at) = if tcp { (ip::TCP, 36) } else { (ip::UDP, 26) };
            let sum = Sum::pseudo_header(testing::SOURCE, testing::DESTINATION, protocol, whole.len() - 20).fold();
            partial[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(split(&partial, Offload::Checksum { start: 20, at }), vec![whole]);
        }

        #[test]
        fn random_packets_never_panic(
            mut data in proptest::collection::vec(any::<u8>(), 20..200), kind in 0..4, a in 0usize..250, b in 0usize..250,
        ) {
            data[0] = 0x45 + (data[0] & 1);
            data[9] = if data[9] & 1 == 0 { ip::TCP } else { ip::UDP };
            let len = data.len() as u16;
            data[2..4].copy_from_slice(&len.to_be_bytes());
            let Ok(packet) = Ipv4Packet::parse(&data) else { return Ok(()) };
            let offload = match kind {
                0 => Offload::None,
                1 => Offload::Checksum { start: a, at: b },
                2 => Offload::Tcp { segment: a },
                _ => Offload::Udp { segment: a },
            };
            if let Some(mut segments) = Segments::new(Incoming { packet, offload }) {
                while !segments.fill(&mut PacketBatch::new()) {}
            }
        }
    }
}

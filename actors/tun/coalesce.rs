//! Planning what is written to the device: runs of packets of one flow go to the stack as one segmented packet, by the
//! rules of the kernel's own receive offload, so that splitting it again gives the same packets. Nothing is copied but
//! the first packet's headers.

use std::ops::Range;

use super::offload::{ETHERNET_LEN, GSO_TCPV4, GSO_UDP_L4, LINK_LEN, NEEDS_CSUM, VirtioHeader};
use crate::wire::PacketBatch;
use crate::wire::ip::{self, Ipv4Packet, MAX_PACKET_LEN, Sum};

const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;
/// UDP_MAX_SEGMENTS before Linux 6.9; a longer run is refused there.
const MAX_UDP_SEGMENTS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// One packet as it is.
    Single,
    Tcp,
    Udp,
}

/// Packets of the batch that are written together.
#[derive(Debug, Clone)]
pub struct Run {
    pub kind: RunKind,
    /// Indices in the batch.
    pub packets: Range<usize>,
    /// What goes in front, in [`WritePlan::header`].
    header: Range<usize>,
    /// Bytes at the front of each packet that the header stands for.
    skip: usize,
    /// Bytes of the packets as they are in the batch.
    pub bytes: u64,
}

/// What runs the device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coalescing {
    pub tcp: bool,
    pub udp: bool,
}

/// The runs of one batch. Kept and reused, so that planning does not allocate in the steady state.
#[derive(Debug, Default)]
pub struct WritePlan {
    headers: Vec<u8>,
    runs: Vec<Run>,
    malformed: u64,
}

impl WritePlan {
    /// Plans `batch` anew. `ethernet` goes in front of each packet.
    pub fn build(&mut self, batch: &PacketBatch, ethernet: &[u8; ETHERNET_LEN], coalescing: Coalescing) {
        self.runs.clear();
        self.malformed = 0;
        self.headers.clear();
        self.headers.extend_from_slice(&VirtioHeader::default().to_bytes());
        self.headers.extend_from_slice(ethernet);

        let mut index = 0;
        let mut candidate = None;
        while index < batch.len() {
            let packet = batch.get(index);
            let Ok(ip) = Ipv4Packet::parse(packet) else {
                self.malformed += 1;
                index += 1;
                candidate = None;
                continue;
            };
            let Some(mut first) = candidate.take().or_else(|| Candidate::of(packet, coalescing)) else {
                self.push_single(index, ip.bytes().len());
                index += 1;
                continue;
            };
            let mut end = index + 1;
            let mut last = first;
            let mut payload = first.payload;
            while end < batch.len() {
                let Some(mut next) = Candidate::of(batch.get(end), coalescing) else { break };
                let fits = first.header_len + payload + next.payload <= MAX_PACKET_LEN
                    && (first.tcp || end - index < MAX_UDP_SEGMENTS);
                if !fits || !next.follows(&last, &first) || !first.verify() || !next.verify() {
                    candidate = Some(next);
                    break;
                }
                payload += next.payload;
                last = next;
                end += 1;
            }
            if end == index + 1 {
                self.push_single(index, packet.len());
            } else {
                self.push_run(index..end, &first, &last, payload, ethernet);
            }
            index = end;
        }
    }

    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Packets of the batch that are in no run: not IPv4, or shorter than they say.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The bytes in front of the first payload of `run`: virtio-net, Ethernet and (unless single) IP and transport header.
    #[must_use]
    pub fn header(&self, run: &Run) -> &[u8] {
        &self.headers[run.header.clone()]
    }

    /// The header in front of a packet that is written alone.
    #[must_use]
    pub fn single_header(&self) -> &[u8] {
        &self.headers[..LINK_LEN]
    }

    fn push_single(&mut self, index: usize, len: usize) {
        self.runs.push(Run {
            kind: RunKind::Single,
            packets: index..index + 1,
            header: 0..LINK_LEN,
            skip: 0,
            bytes: len as u64,
        });
    }

    fn push_run(
        &mut self,
        packets: Range<usize>,
        first: &Candidate<'_>,
        last: &Candidate<'_>,
        payload: usize,
        ethernet: &[u8; ETHERNET_LEN],
    ) {
        let word = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        let total = first.header_len + payload;
        let (kind, gso_type, csum_offset) =
            if first.tcp { (RunKind::Tcp, GSO_TCPV4, 16) } else { (RunKind::Udp, GSO_UDP_L4, 6) };
        let virtio = VirtioHeader {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: word(ETHERNET_LEN + first.header_len),
            gso_size: word(first.payload),
            csum_start: word(ETHERNET_LEN + ip::MIN_HEADER_LEN),
            csum_offset,
        };
        let start = self.headers.len();
        self.headers.extend_from_slice(&virtio.to_bytes());
        self.headers.extend_from_slice(ethernet);
        let at = self.headers.len();
        self.headers.extend_from_slice(&first.packet[..first.header_len]);
        let (header, segment) = self.headers[at..].split_at_mut(ip::MIN_HEADER_LEN);
        header[2..4].copy_from_slice(&word(total).to_be_bytes());
        ip::write_header_checksum(header);
        let len = total - ip::MIN_HEADER_LEN;
        if first.tcp {
            segment[13] |= last.packet[33] & TCP_PSH;
        } else {
            segment[4..6].copy_from_slice(&word(len).to_be_bytes());
        }
        let partial = Sum::default()
            .add(&header[12..20])
            .add(&[0, header[9]])
            .add(&word(len).to_be_bytes())
            .fold();
        let at = usize::from(csum_offset);
        segment[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        let bytes = packets.len() * first.header_len + payload;
        self.runs.push(Run {
            kind,
            packets,
            header: start..self.headers.len(),
            skip: first.header_len,
            bytes: bytes as u64,
        });
    }
}

impl Run {
    /// What follows the header: the packet of a single, the payloads of a run.
    pub fn payloads<'a>(&'a self, batch: &'a PacketBatch) -> impl Iterator<Item = &'a [u8]> {
        self.packets.clone().map(|index| batch.get(index).get(self.skip..).unwrap_or(&[]))
    }
}

/// A packet that may be part of a run.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    packet: &'a [u8],
    tcp: bool,
    header_len: usize,
    /// Bytes; never 0.
    payload: usize,
    verified: bool,
}

impl<'a> Candidate<'a> {
    fn of(packet: &'a [u8], coalescing: Coalescing) -> Option<Self> {
        let ip = Ipv4Packet::parse(packet).ok()?;
        // No options, no padding, no fragment, no reserved flag.
        if ip.header_len() != ip::MIN_HEADER_LEN
            || ip.bytes().len() != packet.len()
            || packet[6] & !0x40 != 0
            || packet[7] != 0
        {
            return None;
        }
        let segment = ip.payload();
        let (tcp, transport_len) = match ip.protocol() {
            ip::TCP if coalescing.tcp && segment.len() > 20 => {
                let data_offset = usize::from(segment[12] >> 4) * 4;
                let flags = segment[13];
                if data_offset < 20
                    || segment[12] & 0x0f != 0
                    || flags & TCP_ACK == 0
                    || flags & !(TCP_ACK | TCP_PSH | TCP_ECE) != 0
                    || segment[18..20] != [0, 0]
                {
                    return None;
                }
                (true, data_offset)
            }
            ip::UDP if coalescing.udp && segment.len() > 8 => {
                let len = usize::from(u16::from_be_bytes([segment[4], segment[5]]));
                if len != segment.len() || segment[6..8] == [0, 0] {
                    return None;
                }
                (false, 8)
            }
            _ => return None,
        };
        let payload = segment.len().checked_sub(transport_len).filter(|&len| len > 0)?;
        Some(Self { packet, tcp, header_len: ip::MIN_HEADER_LEN + transport_len, payload, verified: false })
    }

    /// Whether this packet may stand directly after `last` in the run that `first` began.
    fn follows(&self, last: &Self, first: &Self) -> bool {
        let (a, b) = (last.packet, self.packet);
        let word = |p: &[u8], at: usize| u16::from_be_bytes([p[at], p[at + 1]]);
        // Only the last packet of a run may be shorter, so none follows a shorter one.
        let same = last.payload == first.payload
            && self.payload <= first.payload
            && self.header_len == first.header_len
            // Type of service, "don't fragment", TTL, protocol, addresses and ports.
            && a[1] == b[1]
            && a[6] == b[6]
            && a[8..10] == b[8..10]
            && a[12..24] == b[12..24];
        // The identification of a packet that must not be fragmented has no meaning (RFC 6864, 4.1).
        let ident = a[6] & 0x40 != 0 || word(b, 4) == word(a, 4).wrapping_add(1);
        if !same || !ident || !first.tcp {
            return same && ident;
        }
        let sequence = |p: &[u8]| u32::from_be_bytes([p[24], p[25], p[26], p[27]]);
        let advance = u32::try_from(last.payload).unwrap_or(u32::MAX);
        // Acknowledgement, data offset, flags but PSH, window, options.
        sequence(b) == sequence(a).wrapping_add(advance)
            && a[33] & TCP_PSH == 0
            && a[28..33] == b[28..33]
            && a[33] == b[33] & !TCP_PSH
            && a[34..36] == b[34..36]
            && a[40..self.header_len] == b[40..self.header_len]
    }

    /// Checks the checksums once: a run gets new ones, and a damaged packet must not be healed by that.
    fn verify(&mut self) -> bool {
        self.verified = self.verified
            || Ipv4Packet::parse(self.packet)
                .is_ok_and(|ip| ip.header_checksum_ok() && ip.transport_checksum_ok() == Some(true));
        self.verified
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::offload::{Incoming, Offload};
    use super::super::segment::Segments;
    use super::super::testing::PacketSpec;
    use super::*;

    const BOTH: Coalescing = Coalescing { tcp: true, udp: true };
    const ETHERNET: [u8; ETHERNET_LEN] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

    fn batch(packets: &[Vec<u8>]) -> PacketBatch {
        let mut batch = PacketBatch::new();
        for packet in packets {
            assert!(batch.push(packet));
        }
        batch
    }

    fn plan(batch: &PacketBatch) -> WritePlan {
        let mut plan = WritePlan::default();
        plan.build(batch, &ETHERNET, BOTH);
        plan
    }

    /// Writes the plan out and reads it back as the other end of a device would.
    fn round_trip(batch: &PacketBatch, plan: &WritePlan) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for run in plan.runs() {
            let mut frame = plan.header(run).to_vec();
            run.payloads(batch).for_each(|part| frame.extend_from_slice(part));
            assert_eq!(frame[10..24], ETHERNET);
            let incoming = Incoming::from_frame(&frame).expect("a planned frame is well-formed");
            assert_eq!(incoming.offload == Offload::None, run.kind == RunKind::Single);
            let mut segments = Segments::new(incoming).expect("a planned run splits");
            assert_eq!(segments.count(), run.packets.len());
            assert_eq!(segments.bytes() as u64, run.bytes);
            let mut parts = PacketBatch::new();
            assert!(segments.fill(&mut parts));
            out.extend(parts.iter().map(<[u8]>::to_vec));
        }
        out
    }

    fn tcp_run(count: usize, size: usize, tail: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| {
                let last = n + 1 == count;
                PacketSpec {
                    id: 0xfffe_u16.wrapping_add(n as u16),
                    seq: (u32::MAX - 3000).wrapping_add((n * size) as u32),
                    flags: if last { 0x18 } else { 0x10 },
                    tcp_options: 12,
                    ..PacketSpec::tcp(if last { tail } else { size })
                }
                .build()
            })
            .collect()
    }

    fn kinds(plan: &WritePlan) -> Vec<(RunKind, usize)> {
        plan.runs().iter().map(|run| (run.kind, run.packets.len())).collect()
    }

    #[test]
    fn a_tcp_stream_becomes_one_run() {
        let packets = tcp_run(40, 1308, 500);
        let batch = batch(&packets);
        let plan = plan(&batch);
        assert_eq!(kinds(&plan), [(RunKind::Tcp, 40)]);
        let (virtio, _) = VirtioHeader::parse(plan.header(&plan.runs()[0])).unwrap();
        assert_eq!((virtio.gso_size, virtio.hdr_len, virtio.csum_start), (1308, 14 + 52, 34));
        assert_eq!(round_trip(&batch, &plan), packets);
    }

    #[test]
    fn runs_end_at_the_longest_ip_packet_and_the_most_udp_segments() {
        let packets = tcp_run(100, 1308, 1308);
        let planned = batch(&packets);
        assert_eq!(kinds(&plan(&planned)), [(RunKind::Tcp, 50), (RunKind::Tcp, 50)]);
        assert_eq!(round_trip(&planned, &plan(&planned)), packets);
        let packets: Vec<_> = (0..100).map(|n| PacketSpec { id: n, ..PacketSpec::udp(100) }.build()).collect();
        let planned = batch(&packets);
        assert_eq!(kinds(&plan(&planned)), [(RunKind::Udp, 64), (RunKind::Udp, 36)]);
        assert_eq!(round_trip(&planned, &plan(&planned)), packets);
    }

    #[test]
    fn each_rule_ends_a_run() {
        let base = PacketSpec { seq: 1000, id: 1, ..PacketSpec::tcp(100) };
        let next = PacketSpec { seq: 1100, id: 2, ..base.clone() };
        let joined = |first: &PacketSpec, second: Vec<u8>| plan(&batch(&[first.build(), second])).runs().len() == 1;
        assert!(joined(&base, next.build()));
        let alone = [
            PacketSpec { seq: 1101, ..next.clone() },
            PacketSpec { id: 3, ..next.clone() },
            PacketSpec { ports: (4001, 5000), ..next.clone() },
            PacketSpec { destination: [10, 66, 0, 3].into(), ..next.clone() },
            PacketSpec { dont_fragment: true, ..next.clone() },
            PacketSpec { payload: 101, ..next.clone() },
            PacketSpec { payload: 0, ..next.clone() },
            PacketSpec { tcp_options: 4, ..next.clone() },
            PacketSpec { tcp: false, ..next.clone() },
        ];
        for spec in &alone {
            assert!(!joined(&base, spec.build()), "{spec:?}");
        }
        for flag in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80] {
            assert!(!joined(&base, PacketSpec { flags: 0x10 | flag, ..next.clone() }.build()), "flag {flag:#x}");
        }
        assert!(!joined(&PacketSpec { flags: 0x18, ..base.clone() }, next.build()), "after PSH");
        assert!(!joined(&PacketSpec { payload: 100, ..base.clone() }, {
            let mut damaged = next.build();
            *damaged.last_mut().unwrap() ^= 1;
            damaged
        }));
        // Window, TTL, type of service; the checksums are put right so that only the rule can tell.
        for at in [1, 8, 34] {
            let mut packet = next.build();
            packet[at] ^= 4;
            ip::write_header_checksum(&mut packet[..20]);
            packet[36..38].fill(0);
            let ip = Ipv4Packet::parse(&packet).unwrap();
            let value = ip::transport_checksum(ip.source(), ip.destination(), ip::TCP, ip.payload());
            packet[36..38].copy_from_slice(&value.to_be_bytes());
            assert_eq!(Ipv4Packet::parse(&packet).unwrap().transport_checksum_ok(), Some(true));
            assert!(!joined(&base, packet), "byte {at}");
        }
        let udp = PacketSpec::udp(100);
        let mut unchecked = PacketSpec { id: 8, ..udp.clone() }.build();
        assert!(joined(&udp, unchecked.clone()));
        unchecked[26..28].fill(0);
        assert!(!joined(&udp, unchecked), "UDP without checksum");
    }

    #[test]
    fn atomic_datagrams_need_no_identification() {
        let spec = PacketSpec { id: 0, dont_fragment: true, ..PacketSpec::udp(900) };
        assert_eq!(kinds(&plan(&batch(&vec![spec.build(); 5]))), [(RunKind::Udp, 5)]);
    }

    #[test]
    fn what_the_device_cannot_take_stays_single_and_garbage_is_counted() {
        let mut packets: Vec<_> = (0..3).map(|n| PacketSpec { id: n, ..PacketSpec::udp(100) }.build()).collect();
        packets.push(vec![0x60; 40]);
        packets.extend(tcp_run(3, 100, 100));
        let batch = batch(&packets);
        let mut plan = WritePlan::default();
        plan.build(&batch, &ETHERNET, Coalescing { tcp: true, udp: false });
        assert_eq!(
            kinds(&plan),
            [(RunKind::Single, 1), (RunKind::Single, 1), (RunKind::Single, 1), (RunKind::Tcp, 3)]
        );
        assert_eq!(plan.malformed(), 1);
        plan.build(&batch, &ETHERNET, BOTH);
        assert_eq!(kinds(&plan), [(RunKind::Udp, 3), (RunKind::Tcp, 3)], "a plan can be reused");
    }

    fn specs() -> impl Strategy<Value = Vec<PacketSpec>> {
        let step = (any::<bool>(), 0u8..8, 0usize..4, prop::bool::weighted(0.9), prop::bool::weighted(0.1), any::<bool>());
        proptest::collection::vec(step, 1..100).prop_map(|steps| {
            let (mut seq, mut id, mut size, mut tcp) = (u32::MAX - 2000, 0xfff0_u16, 100, true);
            steps
                .into_iter()
                .map(|(new_kind, change, size_pick, contiguous, push, dont_fragment)| {
                    if change == 0 {
                        tcp = new_kind;
                        size = [1, 60, 100, 700][size_pick];
                    }
                    let payload = if change == 1 { size / 2 } else { size };
                    seq = if contiguous { seq } else { seq.wrapping_add(1) };
                    let spec = PacketSpec {
                        tcp,
                        payload,
                        id,
                        seq,
                        dont_fragment: dont_fragment && change == 2,
                        flags: if push { 0x18 } else { 0x10 },
                        ..PacketSpec::udp(0)
                    };
                    seq = seq.wrapping_add(payload as u32);
                    id = id.wrapping_add(1);
                    spec
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn splitting_a_plan_gives_the_packets_back(specs in specs()) {
            let packets: Vec<_> = specs.iter().map(PacketSpec::build).collect();
            let batch = batch(&packets);
            prop_assert_eq!(round_trip(&batch, &plan(&batch)), packets);
        }

        #[test]
        fn damaged_packets_pass_as_they_are(
            specs in specs(), damage in proptest::collection::vec((0usize..100, 20usize..200, 1u8..), 1..8),
        ) {
            let mut packets: Vec<_> = specs.iter().map(PacketSpec::build).collect();
            for (which, at, flip) in damage {
                let which = which % packets.len();
                let at = at % packets[which].len();
                // Not the version, header length and total length: that would make them malformed instead.
                if at >= 4 {
                    packets[which][at] ^= flip;
                }
            }
            let batch = batch(&packets);
            let plan = plan(&batch);
            let out = round_trip(&batch, &plan);
            prop_assert_eq!(out, packets);
        }

        #[test]
        fn random_bytes_never_panic(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20), shape: bool,
        ) {
            let mut planned = PacketBatch::new();
            for mut packet in packets {
                if shape && packet.len() >= 20 {
                    let len = packet.len() as u16;
                    packet[0] = 0x45;
                    packet[2..4].copy_from_slice(&len.to_be_bytes());
                    packet[6..8].fill(0);
                    packet[9] = if packet[9] & 1 == 0 { ip::TCP } else { ip::UDP };
                }
                let _ = planned.push(&packet);
            }
            let plan = plan(&planned);
            let written: usize = plan.runs().iter().map(|run| run.packets.len()).sum();
            prop_assert_eq!(written as u64 + plan.malformed(), planned.len() as u64);
        }
    }
}

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
        let partial = Sum::default().with(&header[12..20]).with(&[0, header[9]]).with(&word(len).to_be_bytes()).fold();
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
#[path = "coalesce_tests.rs"]
mod tests;

//! Views of IPv4 packets (RFC 791) and the internet checksum (RFC 1071).

use std::net::Ipv4Addr;

use super::Ipv4Range;

/// IP protocol numbers (IANA).
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Bytes of an IPv4 header without options.
pub const MIN_HEADER_LEN: usize = 20;
/// The total length field has 16 bits.
pub const MAX_PACKET_LEN: usize = 65_535;

/// The "don't fragment" bit of the flags and fragment offset field.
pub const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Why bytes are not an IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IpError {
    #[error("{0} bytes are too few for an IPv4 header")]
    Truncated(usize),
    #[error("IP version {0}, not 4")]
    Version(u8),
    #[error("header length {0} bytes is below 20 or beyond the packet")]
    HeaderLength(usize),
    #[error("total length {total} bytes is shorter than the header or longer than the {available} bytes there are")]
    TotalLength { total: usize, available: usize },
}

/// An IPv4 packet whose header length and total length were checked against the bytes. The header checksum is not part
/// of the check: see [`Self::header_checksum_ok`].
#[derive(Debug, Clone, Copy)]
pub struct Ipv4Packet<'a> {
    bytes: &'a [u8],
    header_len: usize,
}

impl<'a> Ipv4Packet<'a> {
    /// Bytes beyond the total length (Ethernet padding) are cut off.
    ///
    /// # Errors
    /// See [`IpError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IpError> {
        let &[version_ihl, _, total_high, total_low, ..] = bytes else {
            return Err(IpError::Truncated(bytes.len()));
        };
        if version_ihl >> 4 != 4 {
            return Err(IpError::Version(version_ihl >> 4));
        }
        if bytes.len() < MIN_HEADER_LEN {
            return Err(IpError::Truncated(bytes.len()));
        }
        let header_len = usize::from(version_ihl & 0x0f) * 4;
        if header_len < MIN_HEADER_LEN || header_len > bytes.len() {
            return Err(IpError::HeaderLength(header_len));
        }
        let total = usize::from(u16::from_be_bytes([total_high, total_low]));
        if total < header_len || total > bytes.len() {
            return Err(IpError::TotalLength { total, available: bytes.len() });
        }
        Ok(Self { bytes: &bytes[..total], header_len })
    }

    /// The whole packet, `total length` bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of the header with its options.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    #[must_use]
    pub fn header(&self) -> &'a [u8] {
        &self.bytes[..self.header_len]
    }

    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header_len..]
    }

    #[must_use]
    pub fn identification(&self) -> u16 {
        be16(self.bytes, 4)
    }

    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        be16(self.bytes, 6) & DONT_FRAGMENT != 0
    }

    #[must_use]
    pub fn more_fragments(&self) -> bool {
        be16(self.bytes, 6) & MORE_FRAGMENTS != 0
    }

    /// Offset of this fragment in the original payload, bytes.
    #[must_use]
    pub fn fragment_offset(&self) -> usize {
        usize::from(be16(self.bytes, 6) & FRAGMENT_OFFSET) * 8
    }

    /// Part of a larger packet. Only the fragment at offset 0 has a transport header.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        be16(self.bytes, 6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.bytes[8]
    }

    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        address(self.bytes, 12)
    }

    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        address(self.bytes, 16)
    }

    #[must_use]
    pub fn header_checksum_ok(&self) -> bool {
        checksum(self.header()) == 0
    }

    /// Whether the checksum of a TCP, UDP or ICMP packet is right; a UDP checksum of zero means "none" (RFC 768).
    /// `None` for other protocols and for fragments, whose checksum covers more than this packet.
    #[must_use]
    pub fn transport_checksum_ok(&self) -> Option<bool> {
        if self.is_fragment() {
            return None;
        }
        let payload = self.payload();
        match self.protocol() {
            ICMP => Some(payload.len() >= 8 && checksum(payload) == 0),
            UDP if payload.len() >= 8 && payload[6..8] == [0, 0] => Some(true),
            UDP if payload.len() < 8 => Some(false),
            TCP if payload.len() < 20 => Some(false),
            TCP | UDP => Some(transport_checksum(self.source(), self.destination(), self.protocol(), payload) == 0),
            _ => None,
        }
    }
}

/// Whether `destination` is the limited broadcast, a multicast group (224.0.0.0/4), or the broadcast of `range`.
#[must_use]
pub fn is_broadcast_or_multicast(destination: Ipv4Addr, range: Ipv4Range) -> bool {
    destination.is_broadcast() || destination.is_multicast() || destination == range.broadcast()
}

/// A running ones' complement sum. Kept in the machine's byte order, because the sum of swapped words is the swapped sum
/// (RFC 1071, 2B): only the result is turned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The pseudo header of TCP and UDP (RFC 793, RFC 768); `len` is the length of transport header and payload.
    #[must_use]
    pub fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> Self {
        Self::default()
            .with(&source.octets())
            .with(&destination.octets())
            .with(&[0, protocol])
            .with(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes())
    }

    /// Adds `data`. All but the last call must add an even number of bytes; an odd last byte is padded with zero.
    #[must_use]
    pub fn with(self, data: &[u8]) -> Self {
        // 32-bit words into 64-bit accumulators: the carries cannot be lost below 2^32 words, and the loop vectorises.
        let (words, rest) = data.as_chunks::<4>();
        let mut sum = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
        let (halves, odd) = rest.as_chunks::<2>();
        for half in halves {
            sum += u64::from(u16::from_ne_bytes(*half));
        }
        if let &[last] = odd {
            sum += u64::from(u16::from_ne_bytes([last, 0]));
        }
        // Folded once, so that a chain of additions cannot overflow either.
        Self(self.0 + (sum >> 32) + (sum & 0xffff_ffff))
    }

    /// The sum in 16 bits, not complemented: what a partial checksum holds before the payload is added.
    #[must_use]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::from_be(u16::try_from(sum).unwrap_or(u16::MAX))
    }

    /// The internet checksum: the complement of the sum.
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

/// The internet checksum of `data` (RFC 1071); 0 for data that holds its own right checksum.
#[must_use]
pub fn checksum(data: &[u8]) -> u16 {
    Sum::default().with(data).finish()
}

/// The checksum of a TCP or UDP `segment` (header and payload) with its pseudo header. With the checksum field zeroed it
/// is the value to write; with the right value in the field it is 0.
#[must_use]
pub fn transport_checksum(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, segment: &[u8]) -> u16 {
    Sum::pseudo_header(source, destination, protocol, segment.len()).with(segment).finish()
}

/// Writes the right checksum into an IPv4 header (20 to 60 bytes, without payload); nothing on a shorter slice.
pub fn write_header_checksum(header: &mut [u8]) {
    if header.len() < MIN_HEADER_LEN {
        return;
    }
    header[10..12].fill(0);
    let value = checksum(header);
    header[10..12].copy_from_slice(&value.to_be_bytes());
}

/// Writes a header of 20 bytes (TTL 64, "don't fragment", checksum) for a packet of `total_len` bytes at the front of
/// `packet`. `None`, with nothing written, when it does not fit or `total_len` is out of bounds.
pub fn write_header(
    packet: &mut [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    total_len: usize,
) -> Option<()> {
    let total = u16::try_from(total_len).ok().filter(|_| total_len >= MIN_HEADER_LEN)?;
    let header = packet.get_mut(..MIN_HEADER_LEN)?;
    header.fill(0);
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = 64;
    header[9] = protocol;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    write_header_checksum(header);
    Some(())
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 66, 3, 4);

    /// RFC 1071 as it is written: 16-bit words, end-around carry at once.
    fn naive(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            if sum > 0xffff {
                sum = (sum & 0xffff) + 1;
            }
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().with(&data).fold(), 0xddf2);
        assert_eq!(checksum(&data), 0x220d);
    }

    #[test]
    fn longest_packet_of_ones_does_not_overflow() {
        let data = vec![0xff; MAX_PACKET_LEN];
        assert_eq!(checksum(&data), naive(&data));
    }

    #[test]
    fn fields_are_read() {
        let mut packet = vec![0u8; 60];
        write_header(&mut packet, A, B, UDP, 60).unwrap();
        packet[4..6].copy_from_slice(&[0xab, 0xcd]);
        packet[6..8].copy_from_slice(&[0x20, 0x03]);
        packet[0] = 0x46;
        let ip = Ipv4Packet::parse(&packet).unwrap();
        assert_eq!((ip.source(), ip.destination(), ip.protocol(), ip.ttl()), (A, B, UDP, 64));
        assert_eq!((ip.header_len(), ip.payload().len(), ip.identification()), (24, 36, 0xabcd));
        assert!(ip.is_fragment() && ip.more_fragments() && !ip.dont_fragment());
        assert_eq!(ip.fragment_offset(), 24);
        assert!(!ip.header_checksum_ok());
        assert_eq!(ip.transport_checksum_ok(), None);
    }

    #[test]
    fn malformed_headers_are_named() {
        let mut packet = vec![0u8; 40];
        write_header(&mut packet, A, B, UDP, 40).unwrap();
        let with = |at: usize, value: u8| {
            let mut copy = packet.clone();
            copy[at] = value;
            Ipv4Packet::parse(&copy).err()
        };
        assert_eq!(with(0, 0x65), Some(IpError::Version(6)));
        assert_eq!(with(0, 0x44), Some(IpError::HeaderLength(16)));
        assert_eq!(with(0, 0x4f), Some(IpError::HeaderLength(60)));
        assert_eq!(with(3, 41), Some(IpError::TotalLength { total: 41, available: 40 }));
        assert_eq!(with(3, 19), Some(IpError::TotalLength { total: 19, available: 40 }));
        assert_eq!(with(3, 30), None, "padding is allowed");
        assert_eq!(Ipv4Packet::parse(&packet[..19]).err(), Some(IpError::Truncated(19)));
        assert_eq!(Ipv4Packet::parse(&[]).err(), Some(IpError::Truncated(0)));
    }

    #[test]
    fn broadcasts_and_groups_are_known() {
        let range = Ipv4Range::DEFAULT;
        for yes in ["255.255.255.255", "10.66.255.255", "224.0.0.251", "239.255.255.250"] {
            assert!(is_broadcast_or_multicast(yes.parse().unwrap(), range), "{yes}");
        }
        for no in ["10.66.1.255", "10.66.0.1", "240.0.0.1", "10.67.255.255"] {
            assert!(!is_broadcast_or_multicast(no.parse().unwrap(), range), "{no}");
        }
    }

    proptest! {
        #[test]
        fn checksum_is_that_of_the_reference(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(checksum(&data), naive(&data));
        }

        #[test]
        fn checksum_of_parts_is_that_of_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150,
        ) {
            let (head, tail) = data.split_at((cut * 2).min(data.len()));
            prop_assert_eq!(Sum::default().with(head).with(tail).finish(), naive(&data));
        }

        #[test]
        fn pseudo_header_is_that_of_the_reference(
            source: [u8; 4], destination: [u8; 4], protocol: u8,
            segment in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut whole = Vec::new();
            whole.extend_from_slice(&source);
            whole.extend_from_slice(&destination);
            whole.extend_from_slice(&[0, protocol]);
            whole.extend_from_slice(&(segment.len() as u16).to_be_bytes());
            whole.extend_from_slice(&segment);
            prop_assert_eq!(
                transport_checksum(source.into(), destination.into(), protocol, &segment), naive(&whole));
        }

        #[test]
        fn random_bytes_never_panic(mut data in proptest::collection::vec(any::<u8>(), 0..120), v4: bool) {
            if v4 && !data.is_empty() {
                data[0] = 0x40 | (data[0] & 0x0f);
            }
            if let Ok(ip) = Ipv4Packet::parse(&data) {
                prop_assert_eq!(ip.header().len() + ip.payload().len(), ip.bytes().len());
                prop_assert!(ip.bytes().len() <= data.len());
                let _ = (ip.transport_checksum_ok(), ip.header_checksum_ok(), ip.fragment_offset(), ip.source());
            }
            write_header_checksum(&mut data);
        }

        #[test]
        fn written_headers_verify_and_damage_shows(len in 20usize..200, bit in 0usize..160) {
            let mut packet = vec![0; len];
            write_header(&mut packet, A, B, TCP, len).unwrap();
            prop_assert!(Ipv4Packet::parse(&packet).unwrap().header_checksum_ok());
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(checksum(&packet[..20]), 0);
        }
    }
}

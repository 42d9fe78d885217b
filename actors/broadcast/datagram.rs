//! UDP datagrams (RFC 768) in IPv4 packets: reading them with mistrust, and writing them anew in packets that fit.

use std::net::Ipv4Addr;

use crate::wire::PacketBatch;
use crate::wire::ip::{self, Ipv4Packet, MIN_HEADER_LEN, Sum};

/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;
/// The longest payload of a UDP datagram over IPv4, bytes.
pub const MAX_PAYLOAD: usize = ip::MAX_PACKET_LEN - MIN_HEADER_LEN - UDP_HEADER;
/// Flag of the flags and fragment offset field.
const MORE_FRAGMENTS: u16 = 0x2000;

/// A whole datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub source_port: u16,
    pub destination_port: u16,
    pub ttl: u8,
    pub payload: &'a [u8],
}

/// What a wrong checksum may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Damage.
    Final,
    /// Work left to the network card: the field holds the sum of the pseudo header alone. Only what this machine sends
    /// itself can look so.
    MaybeUnfilled,
}

/// Why bytes are no datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    #[error("not UDP")]
    NotUdp,
    #[error("the IP header's checksum is wrong")]
    HeaderChecksum,
    #[error("the UDP length is not that of the IP payload")]
    Length,
    #[error("the UDP checksum is wrong")]
    Checksum,
}

impl<'a> Datagram<'a> {
    /// Reads a packet that is no fragment.
    ///
    /// # Errors
    /// See [`DatagramError`].
    pub fn parse(packet: &Ipv4Packet<'a>, checksum: Checksum) -> Result<Self, DatagramError> {
        if packet.protocol() != ip::UDP {
            return Err(DatagramError::NotUdp);
        }
        if !packet.header_checksum_ok() {
            return Err(DatagramError::HeaderChecksum);
        }
        Self::from_segment(packet.source(), packet.destination(), packet.ttl(), packet.payload(), checksum)
    }

    /// Reads a UDP header and its payload.
    ///
    /// # Errors
    /// See [`DatagramError`].
    pub fn from_segment(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        ttl: u8,
        segment: &'a [u8],
        checksum: Checksum,
    ) -> Result<Self, DatagramError> {
        let &[s0, s1, d0, d1, l0, l1, c0, c1, ..] = segment else { return Err(DatagramError::Length) };
        // A shorter length would leave bytes that nobody reads: no stack sends that.
        if usize::from(u16::from_be_bytes([l0, l1])) != segment.len() {
            return Err(DatagramError::Length);
        }
        let given = u16::from_be_bytes([c0, c1]);
        let pseudo = Sum::pseudo_header(source, destination, ip::UDP, segment.len());
        let right = given == 0 || pseudo.with(segment).finish() == 0;
        if !right && (checksum == Checksum::Final || given != pseudo.fold()) {
            return Err(DatagramError::Checksum);
        }
        Ok(Self {
            source,
            destination,
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            ttl,
            payload: &segment[UDP_HEADER..],
        })
    }

    /// Bytes of the datagram as one IP packet.
    #[must_use]
    pub fn packet_len(&self) -> usize {
        MIN_HEADER_LEN + UDP_HEADER + self.payload.len()
    }

    fn header(&self) -> [u8; UDP_HEADER] {
        let len = UDP_HEADER + self.payload.len();
        let mut header = [0; UDP_HEADER];
        header[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        header[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        header[4..6].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        let sum = Sum::pseudo_header(self.source, self.destination, ip::UDP, len);
        let value = sum.with(&header).with(self.payload).finish();
        // Zero would say "no checksum" (RFC 768).
        header[6..8].copy_from_slice(&(if value == 0 { 0xffff } else { value }).to_be_bytes());
        header
    }

    /// Appends the datagram to `batches`, in fragments where it is longer than `mtu` bytes. `ident`: tells its fragments
    /// from those of others. Nothing is written for a payload that no UDP datagram can have.
    pub fn write(&self, mtu: u16, ident: u16, batches: &mut Batches) {
        if self.payload.len() > MAX_PAYLOAD {
            return;
        }
        let udp = self.header();
        let whole = self.packet_len();
        if whole <= usize::from(mtu) {
            batches.push_with(whole, |slot| {
                let (header, rest) = slot.split_at_mut(MIN_HEADER_LEN);
                self.write_ip(header, whole, ident, 0);
                rest[..UDP_HEADER].copy_from_slice(&udp);
                rest[UDP_HEADER..].copy_from_slice(self.payload);
            });
            return;
        }
        // Offsets are counted in units of 8 bytes (RFC 791).
        let room = (usize::from(mtu).saturating_sub(MIN_HEADER_LEN) / 8 * 8).max(8);
        let len = UDP_HEADER + self.payload.len();
        let mut offset = 0;
        while offset < len {
            let end = (offset + room).min(len);
            let more = if end < len { MORE_FRAGMENTS } else { 0 };
            let field = u16::try_from(offset / 8).unwrap_or(0) | more;
            batches.push_with(MIN_HEADER_LEN + end - offset, |slot| {
                let total = slot.len();
                let (header, rest) = slot.split_at_mut(MIN_HEADER_LEN);
                self.write_ip(header, total, ident, field);
                if offset == 0 {
                    rest[..UDP_HEADER].copy_from_slice(&udp);
                    rest[UDP_HEADER..].copy_from_slice(&self.payload[..end - UDP_HEADER]);
                } else {
                    rest.copy_from_slice(&self.payload[offset - UDP_HEADER..end - UDP_HEADER]);
                }
            });
            offset = end;
        }
    }

    fn write_ip(&self, header: &mut [u8], total: usize, ident: u16, fragment: u16) {
        header.fill(0);
        header[0] = 0x45;
        header[2..4].copy_from_slice(&u16::try_from(total).unwrap_or(u16::MAX).to_be_bytes());
        header[4..6].copy_from_slice(&ident.to_be_bytes());
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[8] = self.ttl.max(1);
        header[9] = ip::UDP;
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..20].copy_from_slice(&self.destination.octets());
        ip::write_header_checksum(header);
    }
}

/// Batches that are begun as they are needed.
#[derive(Debug, Default)]
pub struct Batches(Vec<PacketBatch>);

impl Batches {
    fn push_with(&mut self, len: usize, write: impl FnOnce(&mut [u8])) {
        if !self.0.last().is_some_and(|batch| batch.has_room(len)) {
            self.0.push(PacketBatch::new());
        }
        if let Some(batch) = self.0.last_mut() {
            batch.push_with(len, |slot| {
                write(slot);
                Some(len)
            });
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Packets in all batches.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.0.iter().map(PacketBatch::len).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = &PacketBatch> {
        self.0.iter()
    }

    pub fn drain(&mut self) -> impl Iterator<Item = PacketBatch> {
        self.0.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 2);
    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 2, 60);

    fn datagram(payload: &[u8]) -> Datagram<'_> {
        Datagram { source: A, destination: GROUP, source_port: 7, destination_port: 4445, ttl: 1, payload }
    }

    fn written(datagram: &Datagram<'_>, mtu: u16) -> Vec<Vec<u8>> {
        let mut batches = Batches::default();
        datagram.write(mtu, 99, &mut batches);
        batches.iter().flat_map(PacketBatch::iter).map(<[u8]>::to_vec).collect()
    }

    fn parse(packet: &[u8], checksum: Checksum) -> Result<Datagram<'_>, DatagramError> {
        Datagram::parse(&Ipv4Packet::parse(packet).map_err(|_| DatagramError::HeaderChecksum)?, checksum)
    }

    #[test]
    fn the_largest_payload_fits_one_packet_and_a_larger_one_is_not_written() {
        let payload = vec![7; MAX_PAYLOAD];
        assert_eq!(MAX_PAYLOAD, 65_507);
        let packets = written(&datagram(&payload), u16::MAX);
        assert_eq!(packets.len(), 1);
        assert_eq!(parse(&packets[0], Checksum::Final).unwrap(), datagram(&payload));
        assert_eq!(written(&datagram(&vec![7; MAX_PAYLOAD + 1]), 1360), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn checksums_that_the_card_would_have_filled_are_known_from_wrong_ones() {
        let payload = b"hello".to_vec();
        let mut packet = written(&datagram(&payload), 1360).remove(0);
        let unfilled = Sum::pseudo_header(A, GROUP, ip::UDP, 13).fold();
        packet[26..28].copy_from_slice(&unfilled.to_be_bytes());
        assert_eq!(parse(&packet, Checksum::Final), Err(DatagramError::Checksum));
        assert_eq!(parse(&packet, Checksum::MaybeUnfilled), Ok(datagram(&payload)));
        packet[26..28].copy_from_slice(&(unfilled ^ 1).to_be_bytes());
        assert_eq!(parse(&packet, Checksum::MaybeUnfilled), Err(DatagramError::Checksum));
        packet[26..28].copy_from_slice(&[0, 0]);
        assert_eq!(parse(&packet, Checksum::Final), Ok(datagram(&payload)), "none at all is allowed");
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let packet = written(&datagram(b"hello"), 1360).remove(0);
        for len in [0u16, 7, 8, 12, 14, 1000, u16::MAX] {
            let mut copy = packet.clone();
            copy[24..26].copy_from_slice(&len.to_be_bytes());
            copy[26..28].fill(0);
            assert_eq!(parse(&copy, Checksum::MaybeUnfilled), Err(DatagramError::Length), "{len}");
        }
        let mut tcp = packet.clone();
        tcp[9] = ip::TCP;
        assert_eq!(parse(&tcp, Checksum::Final), Err(DatagramError::NotUdp));
        let mut damaged = packet;
        damaged[8] ^= 1;
        assert_eq!(parse(&damaged, Checksum::Final), Err(DatagramError::HeaderChecksum));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_fits(
            payload in proptest::collection::vec(any::<u8>(), 0..5000), mtu in 576u16..1500, ports: (u16, u16), ttl in 1u8..,
        ) {
            let sent = Datagram { source_port: ports.0, destination_port: ports.1, ttl, ..datagram(&payload) };
            let packets = written(&sent, mtu);
            let mut segment = Vec::new();
            for (index, bytes) in packets.iter().enumerate() {
                prop_assert!(bytes.len() <= usize::from(mtu));
                let packet = Ipv4Packet::parse(bytes).unwrap();
                prop_assert!(packet.header_checksum_ok());
                prop_assert_eq!(packet.fragment_offset(), segment.len());
                prop_assert_eq!(packet.more_fragments(), index + 1 < packets.len());
                prop_assert_eq!((packet.identification(), packet.ttl()), (99, ttl));
                segment.extend_from_slice(packet.payload());
            }
            let read = Datagram::from_segment(A, GROUP, ttl, &segment, Checksum::Final);
            prop_assert_eq!(read, Ok(sent));
        }

        #[test]
        fn random_bytes_never_panic(mut data in proptest::collection::vec(any::<u8>(), 0..100), head: bool) {
            if head && data.len() >= 20 {
                data[0] = 0x45;
                data[9] = ip::UDP;
                let len = data.len() as u16;
                data[2..4].copy_from_slice(&len.to_be_bytes());
                ip::write_header_checksum(&mut data[..20]);
            }
            if let Ok(packet) = Ipv4Packet::parse(&data) {
                for checksum in [Checksum::Final, Checksum::MaybeUnfilled] {
                    if let Ok(datagram) = Datagram::parse(&packet, checksum) {
                        prop_assert_eq!(datagram.payload.len() + 8, packet.payload().len());
                    }
                }
            }
        }
    }
}

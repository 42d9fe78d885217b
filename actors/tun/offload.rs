//! The virtio-net header (Virtual I/O Device 1.2, 5.1.6) in front of each frame of a device with offloads, and the frames
//! that are read with it.

use crate::wire::ip::Ipv4Packet;

/// Bytes of the header without `num_buffers`, the form that Linux uses on TUN/TAP unless told otherwise.
pub const VIRTIO_LEN: usize = 10;
/// Bytes of an Ethernet header without VLAN tag.
pub const ETHERNET_LEN: usize = 14;
/// Bytes in front of each IP packet.
pub const LINK_LEN: usize = VIRTIO_LEN + ETHERNET_LEN;
/// The longest frame with its header.
pub const MAX_FRAME: usize = LINK_LEN + crate::wire::ip::MAX_PACKET_LEN;

pub(super) const NEEDS_CSUM: u8 = 1;
pub(super) const GSO_NONE: u8 = 0;
pub(super) const GSO_TCPV4: u8 = 1;
/// UDP segmentation offload: each segment is a datagram of its own.
pub(super) const GSO_UDP_L4: u8 = 5;
/// A flag on `gso_type`: the first segment has CWR set (RFC 3168).
const GSO_ECN: u8 = 0x80;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// `struct virtio_net_hdr` in the machine's byte order (the legacy interface, which TUN/TAP uses by default).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    pub flags: u8,
    pub gso_type: u8,
    /// A hint; nothing here relies on it.
    pub hdr_len: u16,
    pub gso_size: u16,
    /// Counted from the start of the Ethernet frame.
    pub csum_start: u16,
    /// Counted from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioHeader {
    /// `None` when there are fewer than 10 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (h, rest) = bytes.split_first_chunk::<VIRTIO_LEN>()?;
        let word = |at: usize| u16::from_ne_bytes([h[at], h[at + 1]]);
        Some((
            Self {
                flags: h[0],
                gso_type: h[1],
                hdr_len: word(2),
                gso_size: word(4),
                csum_start: word(6),
                csum_offset: word(8),
            },
            rest,
        ))
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; VIRTIO_LEN] {
        let mut out = [0; VIRTIO_LEN];
        out[0] = self.flags;
        out[1] = self.gso_type;
        for (at, word) in [(2, self.hdr_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)] {
            out[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        out
    }
}

/// What the stack left for the device to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    None,
    /// Sum the packet from `start` to its end and put the checksum at `at`, both counted from the IP header. The field
    /// holds the sum of the pseudo header already.
    Checksum {
        start: usize,
        at: usize,
    },
    /// Split the TCP stream data into segments of that many bytes.
    Tcp {
        segment: usize,
    },
    /// Split the payload into UDP datagrams of that many bytes.
    Udp {
        segment: usize,
    },
}

/// An IPv4 packet from the local stack, possibly a segmented one ("super-packet") of many segments.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub packet: Ipv4Packet<'a>,
    pub offload: Offload,
}

impl<'a> Incoming<'a> {
    /// A packet of a device without offloads; `None` when it is not a well-formed IPv4 packet.
    #[must_use]
    pub fn plain(packet: &'a [u8]) -> Option<Self> {
        Some(Self { packet: Ipv4Packet::parse(packet).ok()?, offload: Offload::None })
    }

    /// A frame as read from a TAP: virtio-net header, Ethernet header, IPv4 packet. `None` for all else, also for an
    /// offload that was never asked for or that contradicts the packet.
    #[must_use]
    pub fn from_frame(frame: &'a [u8]) -> Option<Self> {
        let (virtio, frame) = VirtioHeader::parse(frame)?;
        let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_LEN>()?;
        if ethernet[12..] != ETHERTYPE_IPV4 {
            return None;
        }
        let packet = Ipv4Packet::parse(packet).ok()?;
        let offload = match virtio.gso_type & !GSO_ECN {
            GSO_NONE if virtio.flags & NEEDS_CSUM == 0 => Offload::None,
            GSO_NONE => {
                let start = usize::from(virtio.csum_start).checked_sub(ETHERNET_LEN)?;
                let at = start + usize::from(virtio.csum_offset);
                if start < packet.header_len() || at + 2 > packet.bytes().len() {
                    return None;
                }
                Offload::Checksum { start, at }
            }
            GSO_TCPV4 => Offload::Tcp { segment: usize::from(virtio.gso_size) },
            GSO_UDP_L4 => Offload::Udp { segment: usize::from(virtio.gso_size) },
            _ => return None,
        };
        Some(Self { packet, offload })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::ip::{UDP, write_header};

    fn frame(virtio: VirtioHeader, ethertype: [u8; 2], len: usize) -> Vec<u8> {
        let mut out = virtio.to_bytes().to_vec();
        out.extend_from_slice(&[2; 12]);
        out.extend_from_slice(&ethertype);
        let mut packet = vec![0; len];
        write_header(&mut packet, [10, 66, 0, 1].into(), [10, 66, 0, 2].into(), UDP, len).unwrap();
        out.extend_from_slice(&packet);
        out
    }

    #[test]
    fn checksum_offload_is_bounded_by_the_packet() {
        let virtio =
            |csum_start, csum_offset| VirtioHeader { flags: NEEDS_CSUM, csum_start, csum_offset, ..Default::default() };
        let good = frame(virtio(34, 6), ETHERTYPE_IPV4, 40);
        assert_eq!(Incoming::from_frame(&good).unwrap().offload, Offload::Checksum { start: 20, at: 26 });
        for (start, offset) in [(33, 6), (13, 6), (0, 0), (34, 19), (34, u16::MAX), (u16::MAX, u16::MAX)] {
            assert!(Incoming::from_frame(&frame(virtio(start, offset), ETHERTYPE_IPV4, 40)).is_none());
        }
    }

    #[test]
    fn only_ipv4_and_known_offloads_pass() {
        let none = VirtioHeader::default();
        assert!(Incoming::from_frame(&frame(none, ETHERTYPE_IPV4, 40)).is_some());
        assert!(Incoming::from_frame(&frame(none, [0x08, 0x06], 40)).is_none(), "ARP");
        assert!(Incoming::from_frame(&frame(none, [0x86, 0xdd], 40)).is_none(), "IPv6");
        for gso_type in [2, 3, 4, 6, 0x7f] {
            let virtio = VirtioHeader { gso_type, ..none };
            assert!(Incoming::from_frame(&frame(virtio, ETHERTYPE_IPV4, 40)).is_none(), "{gso_type}");
        }
        let virtio = VirtioHeader { gso_type: GSO_TCPV4 | GSO_ECN, gso_size: 100, ..none };
        assert_eq!(
            Incoming::from_frame(&frame(virtio, ETHERTYPE_IPV4, 40)).unwrap().offload,
            Offload::Tcp { segment: 100 }
        );
    }

    proptest! {
        #[test]
        fn header_round_trips(
            flags: u8, gso_type: u8, hdr_len: u16, gso_size: u16, csum_start: u16, csum_offset: u16,
        ) {
            let header = VirtioHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset };
            let bytes = header.to_bytes();
            prop_assert_eq!(VirtioHeader::parse(&bytes), Some((header, &[][..])));
        }

        #[test]
        fn random_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Incoming::from_frame(&data);
            let _ = Incoming::plain(&data);
        }
    }
}

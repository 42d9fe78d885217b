//! ICMP echo (RFC 792): what `ping` sends and gets.

use std::net::Ipv4Addr;

use super::ip::{self, Ipv4Packet, MIN_HEADER_LEN};

/// Bytes of an ICMP echo header.
const HEADER_LEN: usize = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// What an echo reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoReply {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ident: u16,
    pub seq: u16,
}

/// Writes an echo request with `payload_len` bytes of counting payload as a whole IPv4 packet at the front of `out` and
/// returns its length, or `None` when it does not fit into `out` or into an IP packet.
pub fn icmp_echo_request(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ident: u16,
    seq: u16,
    payload_len: usize,
    out: &mut [u8],
) -> Option<usize> {
    let total = payload_len.checked_add(MIN_HEADER_LEN + HEADER_LEN)?;
    let packet = out.get_mut(..total)?;
    ip::write_header(packet, src, dst, ip::ICMP, total)?;
    let message = &mut packet[MIN_HEADER_LEN..];
    message[..4].copy_from_slice(&[ECHO_REQUEST, 0, 0, 0]);
    message[4..6].copy_from_slice(&ident.to_be_bytes());
    message[6..8].copy_from_slice(&seq.to_be_bytes());
    for (byte, count) in message[HEADER_LEN..].iter_mut().zip((0..=u8::MAX).cycle()) {
        *byte = count;
    }
    let checksum = ip::checksum(message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(total)
}

/// The reply in `packet`, when it is a whole (not fragmented) and undamaged echo reply.
#[must_use]
pub fn parse_icmp_echo_reply(packet: &[u8]) -> Option<EchoReply> {
    let ip = Ipv4Packet::parse(packet).ok()?;
    let &[ECHO_REPLY, 0, _, _, ident_high, ident_low, seq_high, seq_low, ..] = ip.payload() else {
        return None;
    };
    if ip.protocol() != ip::ICMP || ip.transport_checksum_ok() != Some(true) || !ip.header_checksum_ok() {
        return None;
    }
    Some(EchoReply {
        src: ip.source(),
        dst: ip.destination(),
        ident: u16::from_be_bytes([ident_high, ident_low]),
        seq: u16::from_be_bytes([seq_high, seq_low]),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 66, 3, 4);

    fn reply_to(request: &[u8]) -> Vec<u8> {
        let mut reply = request.to_vec();
        ip::write_header(&mut reply, B, A, ip::ICMP, request.len()).unwrap();
        reply[20] = ECHO_REPLY;
        reply[22..24].fill(0);
        let checksum = ip::checksum(&reply[20..]);
        reply[22..24].copy_from_slice(&checksum.to_be_bytes());
        reply
    }

    #[test]
    fn request_is_a_right_packet_and_its_reply_is_read() {
        let mut out = [0; 128];
        let len = icmp_echo_request(A, B, 0x1234, 7, 56, &mut out).unwrap();
        assert_eq!(len, 84);
        let ip = Ipv4Packet::parse(&out[..len]).unwrap();
        assert_eq!((ip.source(), ip.destination(), ip.header_checksum_ok()), (A, B, true));
        assert_eq!(ip.transport_checksum_ok(), Some(true));
        assert_eq!(parse_icmp_echo_reply(&out[..len]), None, "a request is no reply");
        let reply = reply_to(&out[..len]);
        assert_eq!(parse_icmp_echo_reply(&reply), Some(EchoReply { src: B, dst: A, ident: 0x1234, seq: 7 }));
        for cut in 0..reply.len() {
            assert_eq!(parse_icmp_echo_reply(&reply[..cut]), None);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(icmp_echo_request(A, B, 0, 0, 101, &mut [0; 128]), None);
        assert_eq!(icmp_echo_request(A, B, 0, 0, usize::MAX, &mut [0; 128]), None);
        assert_eq!(icmp_echo_request(A, B, 0, 0, 65_508, &mut vec![0; 70_000]), None);
        assert_eq!(icmp_echo_request(A, B, 0, 0, 65_507, &mut vec![0; 70_000]), Some(65_535));
    }

    proptest! {
        #[test]
        fn any_damage_to_a_reply_is_noticed(ident: u16, seq: u16, len in 0usize..64, at in 0usize..92, flip in 1u8..) {
            let mut out = [0; 128];
            let total = icmp_echo_request(A, B, ident, seq, len, &mut out).unwrap();
            let mut reply = reply_to(&out[..total]);
            let at = at % reply.len();
            reply[at] ^= flip;
            prop_assert_eq!(parse_icmp_echo_reply(&reply), None);
        }

        #[test]
        fn random_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_icmp_echo_reply(&data);
        }
    }
}

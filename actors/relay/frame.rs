//! The four datagrams between a client and a relay. A byte too many or too few is an error; nothing here is
//! authenticated.

use std::net::SocketAddr;

use super::token::{ip_bytes, ip_from};
use crate::peer::messages::PROBE_MAGIC;
use crate::wire::RelayToken;

/// First bytes: neither WireGuard (1–4) nor STUN (0–3) nor a probe (0x90).
pub const ASK: u8 = 0x91;
pub const TICKET: u8 = 0x92;
pub const FORWARD: u8 = 0x93;
pub const FORWARDED: u8 = 0x94;

const VERSION: u8 = 1;
/// An Ask is as long as its answer, so that a relay amplifies nothing.
pub const ASK_LEN: usize = 82;
pub const TICKET_LEN: usize = 82;
/// Before the payload of a Forward. With a payload of 1,392 bytes (MTU 1,360 in WireGuard) and IPv6 and UDP headers (48)
/// that is 1,492 bytes: the MTU of PPPoE.
pub const FORWARD_HEADER: usize = 2 + RelayToken::LEN;
/// Before the payload of a Forwarded.
pub const FORWARDED_HEADER: usize = 1;
/// The shortest WireGuard message: a keepalive.
const SHORTEST_PAYLOAD: usize = 32;

/// "Under which address do you see me? Give me a token for it."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Random; comes back in the answer.
    pub id: u64,
}

impl Ask {
    #[must_use]
    pub fn encode(self) -> [u8; ASK_LEN] {
        let mut bytes = [0; ASK_LEN];
        bytes[..2].copy_from_slice(&[ASK, VERSION]);
        bytes[2..10].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let bytes: &[u8; ASK_LEN] = datagram.try_into().ok()?;
        let (head, padding) = bytes.split_at(10);
        if head[..2] != [ASK, VERSION] || padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        Some(Self { id: u64::from_le_bytes(head[2..].try_into().ok()?) })
    }
}

/// The answer to an Ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketFrame {
    pub id: u64,
    /// Where the Ask came from.
    pub observed: SocketAddr,
    /// Unix seconds, by the relay's clock.
    pub expires: u32,
    pub token: RelayToken,
}

impl TicketFrame {
    #[must_use]
    pub fn encode(self) -> [u8; TICKET_LEN] {
        let mut bytes = [0; TICKET_LEN];
        bytes[..2].copy_from_slice(&[TICKET, VERSION]);
        bytes[2..10].copy_from_slice(&self.id.to_le_bytes());
        bytes[10..26].copy_from_slice(&ip_bytes(self.observed.ip()));
        bytes[26..28].copy_from_slice(&self.observed.port().to_be_bytes());
        bytes[28..32].copy_from_slice(&self.expires.to_le_bytes());
        bytes[32..].copy_from_slice(&self.token.bytes());
        bytes
    }

    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let bytes: &[u8; TICKET_LEN] = datagram.try_into().ok()?;
        if bytes[..2] != [TICKET, VERSION] {
            return None;
        }
        Some(Self {
            id: u64::from_le_bytes(bytes[2..10].try_into().ok()?),
            observed: SocketAddr::new(
                ip_from(bytes[10..26].try_into().ok()?),
                u16::from_be_bytes([bytes[26], bytes[27]]),
            ),
            expires: u32::from_le_bytes(bytes[28..32].try_into().ok()?),
            token: RelayToken::new(bytes[32..].try_into().ok()?),
        })
    }
}

/// Sender to relay: the receiver's token and what is to be forwarded to him.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward<'a> {
    pub token: &'a [u8; RelayToken::LEN],
    pub payload: &'a [u8],
}

impl<'a> Forward<'a> {
    /// What a sender puts before each payload.
    #[must_use]
    pub fn header(token: &RelayToken) -> [u8; FORWARD_HEADER] {
        let mut header = [0; FORWARD_HEADER];
        header[..2].copy_from_slice(&[FORWARD, VERSION]);
        header[2..].copy_from_slice(&token.bytes());
        header
    }

    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, payload) = datagram.split_first_chunk::<FORWARD_HEADER>()?;
        let (kind, token) = header.split_first_chunk::<2>()?;
        if *kind != [FORWARD, VERSION] {
            return None;
        }
        Some(Self { token: token.try_into().ok()?, payload })
    }
}

/// Relay to receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded<'a> {
    pub payload: &'a [u8],
}

impl<'a> Forwarded<'a> {
    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (kind, payload) = datagram.split_first()?;
        (*kind == FORWARDED && may_be_relayed(payload)).then_some(Self { payload })
    }
}

/// WireGuard messages and probes, nothing else: no relay frame in a relay frame, so that no loop of relays can be made,
/// and nothing that other programs would take for theirs.
#[must_use]
pub fn may_be_relayed(payload: &[u8]) -> bool {
    payload.len() >= SHORTEST_PAYLOAD && matches!(payload, [1..=4, 0, 0, 0, ..] | [PROBE_MAGIC, ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::token::{Grant, TokenKey};
    use proptest::prelude::*;

    fn addrs() -> impl Strategy<Value = SocketAddr> {
        any::<SocketAddr>().prop_map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }

    #[test]
    fn matches_the_vectors_in_the_protocol_document() {
        let observed = "203.0.113.7:4242".parse().unwrap();
        let token = TokenKey::derive(&[1; 32]).seal(Grant { to: observed, expires: 1_800_000_600 }, [4; 12]);
        let payload: Vec<u8> = [4, 0, 0, 0].into_iter().chain(4..32).collect();
        let document = include_str!("../../docs/protocol.md");
        for bytes in [
            Ask { id: 0x0102_0304_0506_0708 }.encode().to_vec(),
            TicketFrame { id: 0x0102_0304_0506_0708, observed, expires: 1_800_000_600, token }.encode().to_vec(),
            [Forward::header(&token).as_slice(), &payload].concat(),
            [[FORWARDED].as_slice(), &payload].concat(),
        ] {
            let vector = data_encoding::HEXLOWER.encode(&bytes);
            assert!(document.contains(&format!("`{vector}`")), "docs/protocol.md lacks {vector}");
        }
    }

    #[test]
    fn only_wireguard_and_probes_may_be_relayed() {
        let padded = |head: &[u8]| [head, &[0; 40]].concat();
        for head in [[1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0], [PROBE_MAGIC, 1, 2, 3]] {
            assert!(may_be_relayed(&padded(&head)), "{head:?}");
        }
        for head in [[0, 0, 0, 0], [5, 0, 0, 0], [4, 0, 1, 0], [0, 1, 0, 0]] {
            assert!(!may_be_relayed(&padded(&head)), "{head:?}");
        }
        for kind in [ASK, TICKET, FORWARD, FORWARDED] {
            assert!(!may_be_relayed(&padded(&[kind, 1, 0, 0])), "{kind:x}");
        }
        assert!(!may_be_relayed(&[4; 0]) && !may_be_relayed(&[&[4, 0, 0, 0][..], &[0; 27]].concat()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(id in any::<u64>(), observed in addrs(), expires in any::<u32>(), fill in any::<u8>(),
            payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(Ask::parse(&Ask { id }.encode()), Some(Ask { id }));
            let token = RelayToken::new([fill; 50]);
            let ticket = TicketFrame { id, observed, expires, token };
            prop_assert_eq!(TicketFrame::parse(&ticket.encode()), Some(ticket));
            let datagram = [&Forward::header(&token)[..], &payload].concat();
            prop_assert_eq!(Forward::parse(&datagram), Some(Forward { token: &token.bytes(), payload: &payload }));
        }

        #[test]
        fn what_is_read_is_what_was_there(kind in 0x90u8..0x96, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = bytes;
            if let [first, version, ..] = bytes.as_mut_slice() {
                (*first, *version) = (kind, VERSION);
            }
            if let Some(ask) = Ask::parse(&bytes) {
                prop_assert_eq!(&ask.encode()[..], &bytes[..]);
            }
            // An IPv4-mapped address has one form only, so this is the identity as well.
            if let Some(ticket) = TicketFrame::parse(&bytes) {
                prop_assert_eq!(&ticket.encode()[..], &bytes[..]);
            }
            if let Some(forward) = Forward::parse(&bytes) {
                prop_assert_eq!([&Forward::header(&RelayToken::new(*forward.token))[..], forward.payload].concat(), bytes.clone());
            }
            if let Some(forwarded) = Forwarded::parse(&bytes) {
                prop_assert_eq!([&[FORWARDED][..], forwarded.payload].concat(), bytes);
            }
        }

        #[test]
        fn an_ask_has_no_room_for_anything_else(at in 10..ASK_LEN, value in 1u8..) {
            let mut bytes = Ask { id: 7 }.encode();
            bytes[at] = value;
            prop_assert_eq!(Ask::parse(&bytes), None);
            prop_assert_eq!(Ask::parse(&bytes[..ASK_LEN - 1]), None);
            prop_assert_eq!(Ask::parse(&[&Ask { id: 7 }.encode()[..], &[0]].concat()), None);
        }
    }
}

//! Sealed probes: the question "does this path work, and how long does it take?" and its answer.
//!
//! Layout (76 bytes, the same for ping and pong so that nothing is amplified):
//!
//! | bytes | content |
//! | --- | --- |
//! | 0 | `0x90` |
//! | 1..9 | tag: tells the receiver which peer it is from |
//! | 9..33 | nonce, random |
//! | 33..60 | sealed: kind (1 ping, 2 pong, 4 offer heard), transaction id (u64 LE), observed IP (IPv6, or IPv4-mapped), observed port (u16 BE) |
//! | 60..76 | Poly1305 tag over the above with bytes 0..9 as associated data |
//!
//! kind 4 acknowledges the offer of that number. An offer (kind 3) has the same layout and another length: number of the
//! offer (u64 LE), the sender's `Contact` in bincode, zeroes up to a multiple of 32 bytes.
//!
//! XChaCha20-Poly1305 under a key for this pair and direction, from both X25519 static keys and the preshared key: only
//! the two members can make or read one, and a probe sent back to its sender does not open.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use boringtun::x25519;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};

use super::messages::Secret;
use crate::wire::{Contact, WgPublicKey};

/// First byte of a probe: not a WireGuard type (1–4) and not STUN (0–3).
pub const PROBE_MAGIC: u8 = 0x90;
/// Length of every probe, bytes.
pub const PROBE_LEN: usize = 76;
/// Length of an offer, bytes.
pub const OFFER_LEN: std::ops::RangeInclusive<usize> = 96..=1100;

const HEADER: usize = 9;
const BODY: usize = 33;
const SEALED: usize = 27;
/// Poly1305.
const TAG: usize = 16;
const CODING: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<1100>,
> = bincode::config::standard().with_limit::<1100>();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Ping {
        id: u64,
    },
    /// `observed` is where the ping came from, as its receiver saw it.
    Pong {
        id: u64,
        observed: SocketAddr,
    },
    /// The offer of this number has arrived.
    OfferHeard {
        seq: u64,
    },
}

/// What goes before the contact of an offer, and its padding.
const OFFER_FIXED: usize = BODY + 1 + 8;
const OFFER_PAD: usize = 32;

/// Keys and tags of the probes between this machine and one peer.
pub struct ProbeKeys {
    send: XChaCha20Poly1305,
    receive: XChaCha20Poly1305,
    send_tag: [u8; 8],
    receive_tag: [u8; 8],
}

impl std::fmt::Debug for ProbeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProbeKeys").finish_non_exhaustive()
    }
}

impl ProbeKeys {
    #[must_use]
    pub fn new(own: &x25519::StaticSecret, peer: WgPublicKey, psk: &Secret) -> Self {
        let own_public = x25519::PublicKey::from(own);
        let shared = own.diffie_hellman(&x25519::PublicKey::from(peer.0));
        let direction = |from: &[u8; 32], to: &[u8; 32]| {
            let mut hasher = blake3::Hasher::new_derive_key("lanrage 2026 probe key v1");
            for part in [shared.as_bytes(), &psk.0, from, to] {
                hasher.update(part);
            }
            let mut key = [0; 32];
            let mut tag = [0; 8];
            let mut output = hasher.finalize_xof();
            output.fill(&mut key);
            output.fill(&mut tag);
            (XChaCha20Poly1305::new(&key.into()), tag)
        };
        let (send, send_tag) = direction(own_public.as_bytes(), &peer.0);
        let (receive, receive_tag) = direction(&peer.0, own_public.as_bytes());
        Self { send, receive, send_tag, receive_tag }
    }

    /// Opens every probe that the peer sends to this machine.
    #[must_use]
    pub fn receive_tag(&self) -> [u8; 8] {
        self.receive_tag
    }

    /// `nonce` must never repeat under one key; 24 random bytes do not.
    #[must_use]
    pub fn seal(&self, probe: Probe, nonce: [u8; 24]) -> [u8; PROBE_LEN] {
        let mut out = [0; PROBE_LEN];
        out[0] = PROBE_MAGIC;
        out[1..HEADER].copy_from_slice(&self.send_tag);
        out[HEADER..BODY].copy_from_slice(&nonce);
        let nobody = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        let (kind, id, observed) = match probe {
            Probe::Ping { id } => (1, id, nobody),
            Probe::Pong { id, observed } => (2, id, observed),
            Probe::OfferHeard { seq } => (4, seq, nobody),
        };
        let ip = match observed.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out[BODY] = kind;
        out[BODY + 1..BODY + 9].copy_from_slice(&id.to_le_bytes());
        out[BODY + 9..BODY + 25].copy_from_slice(&ip.octets());
        out[BODY + 25..BODY + 27].copy_from_slice(&observed.port().to_be_bytes());
        let (header, rest) = out.split_at_mut(HEADER);
        let (body, tag) = rest[BODY - HEADER..].split_at_mut(SEALED);
        match self.send.encrypt_in_place_detached(&XNonce::from(nonce), header, body) {
            Ok(sealed) => tag.copy_from_slice(&sealed),
            // Only lengths beyond 256 GiB are refused; an all-zero tag never opens.
            Err(_) => body.fill(0),
        }
        out
    }

    /// `None` unless the datagram is a whole probe that the peer made for this machine.
    #[must_use]
    pub fn open(&self, datagram: &[u8]) -> Option<Probe> {
        let datagram: &[u8; PROBE_LEN] = datagram.try_into().ok()?;
        if probe_tag(datagram)? != self.receive_tag {
            return None;
        }
        let nonce: [u8; 24] = datagram[HEADER..BODY].try_into().ok()?;
        let mut body: [u8; SEALED] = datagram[BODY..BODY + SEALED].try_into().ok()?;
        let tag: [u8; 16] = datagram[BODY + SEALED..].try_into().ok()?;
        self.receive
            .decrypt_in_place_detached(&XNonce::from(nonce), &datagram[..HEADER], &mut body, &Tag::from(tag))
            .ok()?;
        let id = u64::from_le_bytes(body[1..9].try_into().ok()?);
        match body[0] {
            1 => Some(Probe::Ping { id }),
            2 => {
                let ip: [u8; 16] = body[9..25].try_into().ok()?;
                let port = u16::from_be_bytes([body[25], body[26]]);
                Some(Probe::Pong { id, observed: SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port) })
            }
            4 => Some(Probe::OfferHeard { seq: id }),
            _ => None,
        }
    }

    /// The offer of `contact`, or `None` when it is too long. `seq` and `nonce` are never used twice.
    #[must_use]
    pub fn seal_offer(&self, seq: u64, contact: &Contact, nonce: [u8; 24]) -> Option<Vec<u8>> {
        let mut out = vec![0; *OFFER_LEN.end()];
        out[0] = PROBE_MAGIC;
        out[1..HEADER].copy_from_slice(&self.send_tag);
        out[HEADER..BODY].copy_from_slice(&nonce);
        out[BODY] = 3;
        out[BODY + 1..OFFER_FIXED].copy_from_slice(&seq.to_le_bytes());
        let room = out.len() - TAG;
        let written = bincode::serde::encode_into_slice(contact, &mut out[OFFER_FIXED..room], CODING).ok()?;
        let len = (OFFER_FIXED + written + TAG).next_multiple_of(OFFER_PAD).clamp(*OFFER_LEN.start(), *OFFER_LEN.end());
        out.truncate(len);
        let (header, rest) = out.split_at_mut(HEADER);
        let (body, tag) = rest[BODY - HEADER..].split_at_mut(len - BODY - TAG);
        tag.copy_from_slice(&self.send.encrypt_in_place_detached(&XNonce::from(nonce), header, body).ok()?);
        Some(out)
    }

    /// Number and contact, unless it is anything but a sound offer that the peer made for this machine.
    #[must_use]
    pub fn open_offer(&self, datagram: &[u8]) -> Option<(u64, Contact)> {
        if !OFFER_LEN.contains(&datagram.len()) || probe_tag(datagram)? != self.receive_tag {
            return None;
        }
        let nonce: [u8; 24] = datagram[HEADER..BODY].try_into().ok()?;
        let (sealed, tag) = datagram[BODY..].split_last_chunk::<TAG>()?;
        let mut body = sealed.to_vec();
        self.receive
            .decrypt_in_place_detached(&XNonce::from(nonce), &datagram[..HEADER], &mut body, &Tag::from(*tag))
            .ok()?;
        let (fixed, contact) = body.split_at_checked(OFFER_FIXED - BODY)?;
        let (3, seq) = (fixed[0], u64::from_le_bytes(fixed[1..].try_into().ok()?)) else { return None };
        let (contact, _): (Contact, usize) = bincode::serde::decode_from_slice(contact, CODING).ok()?;
        contact.is_sound().then_some((seq, contact))
    }
}

/// The tag of a datagram that has the shape of a probe or an offer.
#[must_use]
pub fn probe_tag(datagram: &[u8]) -> Option<[u8; 8]> {
    let known = datagram.len() == PROBE_LEN || OFFER_LEN.contains(&datagram.len());
    if !known || datagram[0] != PROBE_MAGIC {
        return None;
    }
    datagram[1..HEADER].try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Candidate, CandidateKind, MAX_CANDIDATES, MAX_TICKETS, NatBehaviour, RelayToken, Ticket};
    use proptest::prelude::*;

    fn pair() -> (ProbeKeys, ProbeKeys) {
        let (a, b) = (x25519::StaticSecret::from([1; 32]), x25519::StaticSecret::from([2; 32]));
        let key = |secret: &x25519::StaticSecret| WgPublicKey(x25519::PublicKey::from(secret).to_bytes());
        let psk = Secret([3; 32]);
        (ProbeKeys::new(&a, key(&b), &psk), ProbeKeys::new(&b, key(&a), &psk))
    }

    #[test]
    fn opens_only_at_the_other_end() {
        let (a, b) = pair();
        let observed = "203.0.113.7:4242".parse().unwrap();
        for probe in [
            Probe::Ping { id: 7 },
            Probe::Pong { id: u64::MAX, observed },
            Probe::Pong { id: 0, observed: "[2001:db8::1]:1".parse().unwrap() },
            Probe::OfferHeard { seq: 1 << 40 },
        ] {
            let sealed = a.seal(probe, [9; 24]);
            assert_eq!(probe_tag(&sealed), Some(b.receive_tag()));
            assert_eq!(b.open(&sealed), Some(probe));
            assert_eq!(a.open(&sealed), None, "a reflected probe must not open");
        }
    }

    #[test]
    fn matches_the_vector_in_the_protocol_document() {
        let (a, _) = pair();
        let sealed = a.seal(Probe::Ping { id: 1 }, [4; 24]);
        let vector = data_encoding::HEXLOWER.encode(&sealed);
        let document = include_str!("../../docs/protocol.md");
        assert!(document.contains(&vector), "docs/protocol.md lacks the probe vector {vector}");
    }

    fn fullest() -> Contact {
        let candidate = |n: u16| Candidate {
            kind: CandidateKind::ServerReflexive,
            addr: SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, n, n, n, n, n, n).into(), 65_000 + n),
        };
        let ticket = |n: u16| Ticket {
            relay: candidate(n).addr,
            token: RelayToken::new([0xff; 50]),
            expires: u32::MAX,
            rtt: u16::MAX,
        };
        Contact {
            candidates: (0..MAX_CANDIDATES as u16).map(candidate).collect(),
            nat: NatBehaviour { port_step: Some(i16::MIN), hairpin: Some(true), ..NatBehaviour::default() },
            tickets: (0..MAX_TICKETS as u16).map(ticket).collect(),
            serves: Some(candidate(99).addr),
        }
    }

    #[test]
    fn offers_open_only_at_the_other_end_and_fit_in_a_datagram() {
        let (a, b) = pair();
        for contact in [Contact::default(), fullest()] {
            let sealed = a.seal_offer(7, &contact, [9; 24]).unwrap();
            assert!(sealed.len().is_multiple_of(32) && sealed.len() <= 928, "{}", sealed.len());
            assert_eq!(probe_tag(&sealed), Some(b.receive_tag()));
            assert_eq!(b.open_offer(&sealed), Some((7, contact)));
            assert_eq!((a.open_offer(&sealed), b.open(&sealed)), (None, None));
        }
    }

    #[test]
    fn unsound_offers_are_refused() {
        let (a, b) = pair();
        let mut contact = fullest();
        contact.candidates[3].addr.set_port(0);
        assert_eq!(b.open_offer(&a.seal_offer(7, &contact, [9; 24]).unwrap()), None);
        let mut contact = fullest();
        contact.candidates.push(contact.candidates[0]);
        assert_eq!(b.open_offer(&a.seal_offer(7, &contact, [9; 24]).unwrap()), None);
        contact.candidates = vec![contact.candidates[0]; 200];
        assert_eq!(a.seal_offer(7, &contact, [9; 24]), None);
    }

    #[test]
    fn the_offer_matches_the_vector_in_the_protocol_document() {
        let (a, _) = pair();
        let contact = Contact::of_hosts(["192.0.2.1:4242".parse().unwrap()]);
        let vector = data_encoding::HEXLOWER.encode(&a.seal_offer(1, &contact, [4; 24]).unwrap());
        let document = include_str!("../../docs/protocol.md");
        assert!(document.contains(&vector), "docs/protocol.md lacks the offer vector {vector}");
    }

    proptest! {
        #[test]
        fn damaged_and_cut_offers_never_open(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in 0usize..900) {
            let (a, b) = pair();
            let sealed = a.seal_offer(7, &fullest(), [9; 24]).unwrap();
            let mut damaged = sealed.clone();
            damaged[at.index(sealed.len())] ^= 1 << bit;
            prop_assert_eq!(b.open_offer(&damaged), None);
            prop_assert_eq!(b.open_offer(&sealed[..cut.min(sealed.len() - 1)]), None);
        }

        #[test]
        fn random_bytes_are_no_offer(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let (a, _) = pair();
            prop_assert_eq!(a.open_offer(&bytes), None);
        }

        #[test]
        fn damage_never_opens(at in 0..PROBE_LEN, bit in 0u8..8) {
            let (a, b) = pair();
            let mut sealed = a.seal(Probe::Ping { id: 1 }, [9; 24]);
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(b.open(&sealed), None);
        }

        #[test]
        fn random_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (a, _) = pair();
            prop_assert_eq!(a.open(&bytes), None);
        }
    }
}

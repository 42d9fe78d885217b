//! Sealed probes: the question "does this path work, and how long does it take?" and its answer.
//!
//! Layout (76 bytes, the same for ping and pong so that nothing is amplified):
//!
//! | bytes | content |
//! | --- | --- |
//! | 0 | `0x90` |
//! | 1..9 | tag: tells the receiver which peer it is from |
//! | 9..33 | nonce, random |
//! | 33..60 | sealed: kind (1 ping, 2 pong), transaction id (u64 LE), observed IP (IPv6, or IPv4-mapped), observed port (u16 BE) |
//! | 60..76 | Poly1305 tag over the above with bytes 0..9 as associated data |
//!
//! XChaCha20-Poly1305 under a key for this pair and direction, from both X25519 static keys and the preshared key: only
//! the two members can make or read one, and a probe sent back to its sender does not open.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use boringtun::x25519;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};

use super::messages::Secret;
use crate::wire::WgPublicKey;

/// First byte of a probe: not a WireGuard type (1–4) and not STUN (0–3).
pub const PROBE_MAGIC: u8 = 0x90;
/// Length of every probe, bytes.
pub const PROBE_LEN: usize = 76;

const HEADER: usize = 9;
const BODY: usize = 33;
const SEALED: usize = 27;

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
}

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
        let (kind, id, observed) = match probe {
            Probe::Ping { id } => (1, id, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)),
            Probe::Pong { id, observed } => (2, id, observed),
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
            _ => None,
        }
    }
}

/// The tag of a datagram that has the shape of a probe.
#[must_use]
pub fn probe_tag(datagram: &[u8]) -> Option<[u8; 8]> {
    if datagram.len() != PROBE_LEN || datagram[0] != PROBE_MAGIC {
        return None;
    }
    datagram[1..HEADER].try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
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

    proptest! {
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

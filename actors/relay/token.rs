//! Tokens: leave to send to one address through this relay, which only this relay can give and read.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..12 | nonce, random |
//! | 12..34 | sealed: IP (IPv6, or IPv4-mapped), port (u16 BE), expiry (u32 LE, unix seconds) |
//! | 34..50 | Poly1305 tag |
//!
//! ChaCha20-Poly1305 (RFC 8439). A repeated nonce would let tokens be forged; with random ones the odds are below 2^-32
//! until 2^32 tokens were given, which at the greatest rate of questions takes days of flooding, and reach 2^-16 after
//! years of it. What could then be forged is leave to send rate-limited WireGuard datagrams to an address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::wire::RelayToken;

/// How long a token is good for, seconds. Clients count on it: see `client.rs`.
pub const LIFETIME_S: u32 = 600;
/// A token that would be good for longer than this beyond its lifetime was made by a clock that has been set back since.
const CLOCK_SLACK_S: u32 = 60;

const NONCE: usize = 12;
const SEALED: usize = 22;

/// Why a token leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not made under this key, or damaged.
    Forged,
    /// Its time is over, or so far ahead that the clock must have been set back.
    Expired,
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub to: SocketAddr,
    /// Unix seconds.
    pub expires: u32,
}

impl Grant {
    /// # Errors
    /// `Expired`.
    pub fn check(self, now_unix: u64) -> Result<SocketAddr, Refused> {
        let expires = u64::from(self.expires);
        let latest = now_unix.saturating_add(u64::from(LIFETIME_S + CLOCK_SLACK_S));
        if now_unix < expires && expires <= latest { Ok(self.to) } else { Err(Refused::Expired) }
    }
}

/// `ring` opens such a short text in a fraction of the time that the probes' crate needs, and a relay with many clients
/// opens a token for each datagram.
pub struct TokenKey(LessSafeKey);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").finish_non_exhaustive()
    }
}

impl TokenKey {
    /// The same after a restart, so that tokens outlive it.
    #[must_use]
    pub fn derive(identity_secret: &[u8; 32]) -> Self {
        let key = blake3::derive_key("lanrage 2026 relay token key v1", identity_secret);
        match UnboundKey::new(&CHACHA20_POLY1305, &key) {
            Ok(key) => Self(LessSafeKey::new(key)),
            Err(_) => unreachable!("refused for another length than 32 bytes only"),
        }
    }

    /// `nonce` must be random.
    #[must_use]
    pub fn seal(&self, grant: Grant, nonce: [u8; NONCE]) -> RelayToken {
        let mut body = [0; SEALED];
        body[..16].copy_from_slice(&ip_bytes(grant.to.ip()));
        body[16..18].copy_from_slice(&grant.to.port().to_be_bytes());
        body[18..].copy_from_slice(&grant.expires.to_le_bytes());
        let mut token = [0; RelayToken::LEN];
        // Only lengths beyond 256 GiB are refused; an all-zero tag does not open.
        if let Ok(tag) = self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body)
        {
            token[..NONCE].copy_from_slice(&nonce);
            token[NONCE..NONCE + SEALED].copy_from_slice(&body);
            token[NONCE + SEALED..].copy_from_slice(tag.as_ref());
        }
        RelayToken::new(token)
    }

    /// # Errors
    /// When the token was not made under this key, or its time is over.
    pub fn open(&self, token: &[u8; RelayToken::LEN], now_unix: u64) -> Result<Grant, Refused> {
        let grant = self.unseal(token).ok_or(Refused::Forged)?;
        grant.check(now_unix).map(|_| grant)
    }

    fn unseal(&self, token: &[u8; RelayToken::LEN]) -> Option<Grant> {
        let nonce: [u8; NONCE] = token[..NONCE].try_into().ok()?;
        let mut sealed: [u8; RelayToken::LEN - NONCE] = token[NONCE..].try_into().ok()?;
        let body = self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).ok()?;
        let to = SocketAddr::new(ip_from(body[..16].try_into().ok()?), u16::from_be_bytes([body[16], body[17]]));
        Some(Grant { to, expires: u32::from_le_bytes(body[18..].try_into().ok()?) })
    }
}

/// IPv4 is mapped into IPv6 (RFC 4291, section 2.5.5.2).
pub(super) fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

pub(super) fn ip_from(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn grant(to: &str) -> Grant {
        Grant { to: to.parse().unwrap(), expires: 1_800_000_600 }
    }

    #[test]
    fn only_its_own_key_opens_it() {
        let key = TokenKey::derive(&[1; 32]);
        for to in ["203.0.113.7:4242", "[2001:db8::1]:1"] {
            let token = key.seal(grant(to), [4; 12]).bytes();
            assert_eq!(key.open(&token, NOW), Ok(grant(to)));
            assert_eq!(TokenKey::derive(&[1; 32]).open(&token, NOW), Ok(grant(to)), "after a restart");
            assert_eq!(TokenKey::derive(&[2; 32]).open(&token, NOW), Err(Refused::Forged));
        }
    }

    #[test]
    fn it_ends() {
        let key = TokenKey::derive(&[1; 32]);
        let token = key.seal(grant("203.0.113.7:4242"), [4; 12]).bytes();
        for (at, fine) in [(NOW + 599, true), (NOW + 600, false), (NOW - 60, true), (NOW - 61, false), (0, false)] {
            assert_eq!(key.open(&token, at).is_ok(), fine, "{at}");
        }
        assert_eq!(key.open(&token, u64::MAX), Err(Refused::Expired));
    }

    #[test]
    fn matches_the_vector_in_the_protocol_document() {
        let token = TokenKey::derive(&[1; 32]).seal(grant("203.0.113.7:4242"), [4; 12]);
        let vector = data_encoding::HEXLOWER.encode(&token.bytes());
        let document = include_str!("../../docs/protocol.md");
        assert!(document.contains(&vector), "docs/protocol.md lacks the token vector {vector}");
    }

    proptest! {
        #[test]
        fn damage_never_opens(at in 0..RelayToken::LEN, bit in 0u8..8) {
            let key = TokenKey::derive(&[1; 32]);
            let mut token = key.seal(grant("203.0.113.7:4242"), [4; 12]).bytes();
            token[at] ^= 1 << bit;
            prop_assert_eq!(key.open(&token, NOW), Err(Refused::Forged));
        }

        #[test]
        fn random_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 50), now in any::<u64>()) {
            let bytes: [u8; 50] = bytes.try_into().unwrap();
            prop_assert_eq!(TokenKey::derive(&[1; 32]).open(&bytes, now), Err(Refused::Forged));
        }
    }
}

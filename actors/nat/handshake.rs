//! Whom a WireGuard handshake initiation is from, before any peer is bothered with it.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, TunnResult};
use boringtun::x25519;

use crate::wire::WgPublicKey;

/// Handshakes a second that are looked into freely; beyond that a sender must first prove its address (WireGuard's
/// cookie). One costs about 0.1 ms.
const HANDSHAKES_PER_SECOND: u64 = 300;

/// Longest answer: a cookie reply, bytes.
pub const MAX_COOKIE: usize = 64;

pub struct Gatekeeper {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    limiter: Arc<RateLimiter>,
}

impl std::fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gatekeeper").finish_non_exhaustive()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Made by the holder of this key, or replayed: the peer's tunnel tells.
    From(WgPublicKey),
    /// Send this many bytes of the buffer back.
    Cookie(usize),
    /// Not made for this machine's key, or damaged.
    Foreign,
}

impl Gatekeeper {
    #[must_use]
    pub fn new(secret: x25519::StaticSecret) -> Self {
        let public = x25519::PublicKey::from(&secret);
        Self { limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND)), secret, public }
    }

    /// Call about once a second.
    pub fn reset(&self) {
        self.limiter.reset_count();
    }

    #[must_use]
    pub fn judge(&self, from: IpAddr, datagram: &[u8], reply: &mut [u8; MAX_COOKIE]) -> Verdict {
        match self.limiter.verify_packet(Some(from), datagram, reply) {
            Ok(Packet::HandshakeInit(init)) => match parse_handshake_anon(&self.secret, &self.public, &init) {
                Ok(half) => Verdict::From(WgPublicKey(half.peer_static_public)),
                Err(_) => Verdict::Foreign,
            },
            Err(TunnResult::WriteToNetwork(cookie)) => Verdict::Cookie(cookie.len()),
            Ok(Packet::HandshakeResponse(_) | Packet::PacketCookieReply(_) | Packet::PacketData(_)) | Err(_) => {
                Verdict::Foreign
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boringtun::noise::Tunn;
    use proptest::prelude::*;

    fn initiation(to: &x25519::StaticSecret) -> (Vec<u8>, WgPublicKey) {
        let secret = x25519::StaticSecret::from([9; 32]);
        let public = WgPublicKey(x25519::PublicKey::from(&secret).to_bytes());
        let mut tunn = Tunn::new(secret, x25519::PublicKey::from(to), None, None, 1, None);
        let mut buf = [0; 148];
        let result = tunn.format_handshake_initiation(&mut buf, false);
        let TunnResult::WriteToNetwork(message) = result else { panic!("{result:?}") };
        (message.to_vec(), public)
    }

    #[test]
    fn knows_the_sender_and_refuses_strangers() {
        let own = x25519::StaticSecret::from([1; 32]);
        let keeper = Gatekeeper::new(own.clone());
        let from = IpAddr::from([198, 51, 100, 1]);
        let mut reply = [0; MAX_COOKIE];
        let (message, public) = initiation(&own);
        assert_eq!(keeper.judge(from, &message, &mut reply), Verdict::From(public));
        let (message, _) = initiation(&x25519::StaticSecret::from([2; 32]));
        assert_eq!(keeper.judge(from, &message, &mut reply), Verdict::Foreign);
    }

    #[test]
    fn a_flood_gets_cookies_only() {
        let own = x25519::StaticSecret::from([1; 32]);
        let keeper = Gatekeeper::new(own.clone());
        let from = IpAddr::from([198, 51, 100, 1]);
        let (message, _) = initiation(&own);
        let mut reply = [0; MAX_COOKIE];
        let cookies = (0..400).filter(|_| keeper.judge(from, &message, &mut reply) == Verdict::Cookie(64)).count();
        assert_eq!(cookies, 100);
    }

    proptest! {
        #[test]
        fn random_bytes_are_foreign(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let keeper = Gatekeeper::new(x25519::StaticSecret::from([1; 32]));
            let mut reply = [0; MAX_COOKIE];
            prop_assert_eq!(keeper.judge(IpAddr::from([10, 0, 0, 1]), &bytes, &mut reply), Verdict::Foreign);
        }
    }
}

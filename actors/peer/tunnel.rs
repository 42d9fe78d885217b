//! The WireGuard tunnel to one peer, around boringtun's `Tunn`: when a session is made and renewed.
//!
//! boringtun keeps its own clock for timers inside a session. What it leaves to chance for our use is done here: it
//! retries a handshake only each 5 s, and expires for good when nobody answers for 90 s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::messages::Secret;
use crate::wire::WgPublicKey;

/// A data packet grows by header and authentication tag, bytes.
pub const OVERHEAD: usize = 32;
/// Longest message that is not data: a handshake initiation, bytes.
pub const MAX_CONTROL: usize = 148;

/// boringtun rounds its timers to seconds.
const TICK: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// The side with the lower NodeId starts; the other waits this long for it.
const YIELD: Duration = Duration::from_millis(1000);
/// WireGuard's REKEY_AFTER_TIME; an idle tunnel is renewed as well, so that the first packet after a pause is not held up.
const REKEY_AFTER: Duration = Duration::from_secs(120);
/// A little later the side that does not lead renews the tunnel, if the other has not.
const REKEY_SELF_AFTER: Duration = Duration::from_secs(130);
/// Without a session: below boringtun's 90 s, after which it would give up and say so as an error.
const RENEW_TUNN_AFTER: Duration = Duration::from_secs(60);
/// The same while an older session still counts: as long as boringtun would keep that.
const UNANSWERED_FOR: Duration = Duration::from_secs(85);
/// WireGuard's REJECT_AFTER_TIME. boringtun ends sessions itself, but after three times as long (a program that was
/// stopped, a machine that slept) it gives up, and says so as an error.
const REJECT_AFTER: Duration = Duration::from_secs(180);

pub struct Tunnel {
    tunn: Tunn,
    make: TunnKeys,
    /// This side has the lower NodeId.
    leads: bool,
    /// Since when the peer is reachable and there is no session.
    missing_since: Option<Instant>,
    next_try: Option<Instant>,
    tries: u32,
    next_tick: Instant,
    born: Instant,
    established: Option<Instant>,
    /// Since when initiations, boringtun's own among them, go out unanswered.
    asking_since: Option<Instant>,
    /// A session that this side has answered to counts for sending only once the other has used it. If the message that
    /// does so is lost and no other follows, this side goes on with the session before, and has none when that ends.
    /// Receiver index of the session that waits to be used.
    unconfirmed: Option<[u8; 4]>,
    /// When the session was made that is used for sending.
    confirmed: Option<Instant>,
}

struct TunnKeys {
    /// Never says no: initiations have passed the limit, with cookies, of the demultiplexer, and a limit of ten a second
    /// here, which is boringtun's own, would let eleven replayed ones a second keep a tunnel down.
    limiter: Arc<RateLimiter>,
    own: x25519::StaticSecret,
    peer: x25519::PublicKey,
    psk: Secret,
    index: u32,
}

impl TunnKeys {
    fn tunn(&self) -> Tunn {
        Tunn::new(self.own.clone(), self.peer, Some(self.psk.0), None, self.index, Some(self.limiter.clone()))
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("leads", &self.leads)
            .field("established", &self.established)
            .finish_non_exhaustive()
    }
}

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Decapsulated {
    /// An IP packet of this length stands at the start of the buffer.
    Packet(usize),
    /// A message of this length for the peer stands at the start of the buffer.
    Reply(usize),
    /// Authentic, nothing to pass on.
    Nothing,
    /// A data message with a counter that has come before, or that is too old to tell. Not known to be authentic.
    Duplicate,
    Refused,
}

impl Tunnel {
    /// `index` is the upper 24 bits of the receiver index.
    #[must_use]
    pub fn new(
        now: Instant,
        own: x25519::StaticSecret,
        peer: WgPublicKey,
        psk: Secret,
        index: u32,
        leads: bool,
    ) -> Self {
        let limiter = Arc::new(RateLimiter::new(&x25519::PublicKey::from(&own), u64::MAX));
        let make = TunnKeys { limiter, own, peer: x25519::PublicKey::from(peer.0), psk, index };
        Self {
            tunn: make.tunn(),
            make,
            leads,
            missing_since: None,
            next_try: None,
            tries: 0,
            next_tick: now,
            born: now,
            established: None,
            asking_since: None,
            unconfirmed: None,
            confirmed: None,
        }
    }

    #[must_use]
    pub fn has_session(&self) -> bool {
        self.established.is_some()
    }

    #[must_use]
    pub fn since_handshake(&self, now: Instant) -> Option<Duration> {
        self.established.map(|at| now.saturating_duration_since(at))
    }

    /// Encrypts `packet` to the start of `out`, which has room for `packet.len() + OVERHEAD` and `MAX_CONTROL`.
    /// `None` without a session.
    pub fn encapsulate(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.established.is_none() || out.len() < (packet.len() + OVERHEAD).max(MAX_CONTROL) {
            return None;
        }
        match self.tunn.encapsulate(packet, out) {
            // Data only: without a session boringtun would hand out an initiation here, and keep the packet.
            TunnResult::WriteToNetwork(sent) if sent.first() == Some(&4) => Some(sent.len()),
            TunnResult::WriteToNetwork(_)
            | TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    /// Opens `datagram` into `out`, which has room for `datagram.len()` and `MAX_CONTROL`.
    pub fn decapsulate(&mut self, now: Instant, datagram: &[u8], out: &mut [u8]) -> Decapsulated {
        // boringtun takes an empty datagram as "continue" and panics on a short buffer.
        if datagram.is_empty() || out.len() < datagram.len().max(MAX_CONTROL) {
            return Decapsulated::Refused;
        }
        let data = datagram[0] == 4;
        let result = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Decapsulated::Packet(packet.len())
            }
            TunnResult::WriteToNetwork(reply) => Decapsulated::Reply(reply.len()),
            TunnResult::Done => Decapsulated::Nothing,
            TunnResult::Err(WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter) if data => {
                return Decapsulated::Duplicate;
            }
            TunnResult::Err(_) => Decapsulated::Refused,
        };
        if !data && matches!(result, Decapsulated::Reply(_)) {
            self.asking_since = None;
        }
        match result {
            Decapsulated::Reply(len) if datagram[0] == 1 && out[0] == 2 => {
                // Sender index of the response.
                self.unconfirmed = out[..len].get(4..8).and_then(|bytes| bytes.try_into().ok());
            }
            Decapsulated::Reply(_) if datagram[0] == 2 => {
                self.unconfirmed = None;
                self.confirmed = Some(now);
            }
            Decapsulated::Packet(_) | Decapsulated::Nothing if data => {
                if self.unconfirmed.take_if(|index| datagram.get(4..8) == Some(&index[..])).is_some() {
                    self.confirmed = Some(now);
                }
            }
            Decapsulated::Packet(_)
            | Decapsulated::Nothing
            | Decapsulated::Reply(_)
            | Decapsulated::Duplicate
            | Decapsulated::Refused => {}
        }
        // A session counts once data can go both ways: for the initiator with the response, for the responder with the
        // first data (or keepalive) under the new keys.
        if result != Decapsulated::Refused && (!data || self.established.is_none()) {
            self.refresh_established(now);
        }
        result
    }

    fn refresh_established(&mut self, now: Instant) {
        let was = self.established;
        self.established = self.tunn.time_since_last_handshake().map(|age| now.checked_sub(age).unwrap_or(now));
        if self.established.is_some() && (was.is_none() || was < self.established) {
            self.missing_since = None;
            self.next_try = None;
            self.tries = 0;
        }
    }

    /// Runs the timers. `reachable`: a path answers; `wanted`: packets wait for a session. Each message for the peer
    /// is handed to `send`.
    pub fn tick(&mut self, now: Instant, reachable: bool, wanted: bool, mut send: impl FnMut(&[u8])) {
        let mut buf = [0; MAX_CONTROL];
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            let life = now.saturating_duration_since(self.established.unwrap_or(self.born));
            let asked = self.asking_since.map(|since| now.saturating_duration_since(since));
            if life >= REJECT_AFTER || asked.is_some_and(|asked| asked >= UNANSWERED_FOR) {
                self.renew(now);
            }
            match self.tunn.update_timers(&mut buf) {
                TunnResult::WriteToNetwork(message) => {
                    if message.first() == Some(&1) {
                        self.asking_since.get_or_insert(now);
                    }
                    if reachable {
                        send(message);
                    }
                }
                TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {}
                TunnResult::Err(_) => self.renew(now),
            }
            // After boringtun has dropped the sessions that are too old.
            self.refresh_established(now);
        }
        let age = self.since_handshake(now);
        let stale = age.is_some_and(|age| age >= if self.leads { REKEY_AFTER } else { REKEY_SELF_AFTER });
        let in_use = self.confirmed.map(|at| now.saturating_duration_since(at));
        let stale = stale || (self.unconfirmed.is_some() && in_use.is_some_and(|age| age >= REKEY_SELF_AFTER));
        if !reachable || !(age.is_none() || stale) {
            self.missing_since = None;
            self.next_try = None;
            self.tries = 0;
        } else {
            let since = *self.missing_since.get_or_insert(now);
            let due = match self.next_try {
                Some(at) if self.tries > 0 => at,
                Some(_) | None if self.leads || wanted || stale => since,
                Some(_) | None => since + YIELD,
            };
            self.next_try = Some(due);
            if now >= due {
                let wait = RETRY_FIRST.saturating_mul(1 << self.tries.min(8)).min(RETRY_MAX);
                self.tries = self.tries.saturating_add(1);
                self.next_try = Some(now + wait);
                if let Some(message) = self.ask(now, &mut buf) {
                    send(message);
                }
            }
        }
        let last_life = self.established.unwrap_or(self.born);
        if age.is_none() && now.saturating_duration_since(last_life) >= RENEW_TUNN_AFTER {
            self.renew(now);
        }
    }

    /// A handshake initiation.
    fn ask<'a>(&mut self, now: Instant, buf: &'a mut [u8]) -> Option<&'a [u8]> {
        let TunnResult::WriteToNetwork(message) = self.tunn.format_handshake_initiation(buf, true) else { return None };
        self.asking_since.get_or_insert(now);
        Some(message)
    }

    fn renew(&mut self, now: Instant) {
        self.tunn = self.make.tunn();
        self.born = now;
        self.established = None;
        self.asking_since = None;
        self.unconfirmed = None;
        self.confirmed = None;
        self.missing_since = None;
        self.next_try = None;
    }

    #[must_use]
    pub fn poll_timeout(&self) -> (Instant, &'static str) {
        match self.next_try {
            Some(at) if at < self.next_tick => (at, "handshake"),
            Some(_) | None => (self.next_tick, "wireguard timers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(psk_b: u8) -> (Tunnel, Tunnel, Instant) {
        let now = Instant::now();
        let (a, b) = (x25519::StaticSecret::from([1; 32]), x25519::StaticSecret::from([2; 32]));
        let public = |secret: &x25519::StaticSecret| WgPublicKey(x25519::PublicKey::from(secret).to_bytes());
        let (a_key, b_key) = (public(&a), public(&b));
        (
            Tunnel::new(now, a, b_key, Secret([7; 32]), 1, true),
            Tunnel::new(now, b, a_key, Secret([psk_b; 32]), 2, false),
            now,
        )
    }

    fn packet(len: u16) -> Vec<u8> {
        let mut packet = vec![0; usize::from(len)];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    /// Carries messages between the two until none is left.
    fn exchange(a: &mut Tunnel, b: &mut Tunnel, now: Instant) {
        let mut first = None;
        a.tick(now, true, true, |message| first = Some(message.to_vec()));
        let mut message = first.expect("the one with packets waiting starts at once");
        let mut to_b = true;
        let mut out = [0; 2000];
        loop {
            let receiver = if to_b { &mut *b } else { &mut *a };
            match receiver.decapsulate(now, &message, &mut out) {
                Decapsulated::Reply(len) => message = out[..len].to_vec(),
                Decapsulated::Nothing | Decapsulated::Refused | Decapsulated::Duplicate | Decapsulated::Packet(_) => {
                    return;
                }
            }
            to_b = !to_b;
        }
    }

    #[test]
    fn packets_pass_after_the_handshake_and_not_before() {
        let (mut a, mut b, now) = pair(7);
        let mut sealed = [0; 2000];
        let mut opened = [0; 2000];
        assert_eq!(a.encapsulate(&packet(100), &mut sealed), None);
        exchange(&mut a, &mut b, now);
        assert!(a.has_session() && b.has_session());
        for len in [20, 1360] {
            let sent = a.encapsulate(&packet(len), &mut sealed).unwrap();
            assert_eq!(sent, usize::from(len) + OVERHEAD);
            let got = b.decapsulate(now, &sealed[..sent], &mut opened);
            assert_eq!(got, Decapsulated::Packet(usize::from(len)));
            assert_eq!(opened[..usize::from(len)], packet(len));
            assert_eq!(b.decapsulate(now, &sealed[..sent], &mut opened), Decapsulated::Duplicate, "replayed");
        }
    }

    #[test]
    fn another_preshared_key_gets_no_session() {
        let (mut a, mut b, now) = pair(8);
        exchange(&mut a, &mut b, now);
        assert!(!a.has_session() && !b.has_session());
    }

    #[test]
    fn a_session_that_the_other_side_never_uses_is_made_anew() {
        for keepalive_lost in [true, false] {
            let (mut a, mut b, now) = pair(7);
            exchange(&mut a, &mut b, now);
            let mut sent = 0;
            b.tick(now + REKEY_SELF_AFTER, true, false, |_| sent += 1);
            assert_eq!(sent, 0);
            let (mut buf, mut out) = ([0; MAX_CONTROL], [0; 2000]);
            let TunnResult::WriteToNetwork(init) = a.tunn.format_handshake_initiation(&mut buf, true) else { panic!() };
            let Decapsulated::Reply(len) = b.decapsulate(now, init, &mut out) else { panic!() };
            let response = out[..len].to_vec();
            let Decapsulated::Reply(len) = a.decapsulate(now, &response, &mut out) else { panic!() };
            if !keepalive_lost {
                let keepalive = out[..len].to_vec();
                assert_eq!(b.decapsulate(now, &keepalive, &mut out), Decapsulated::Nothing);
            }
            // boringtun counts by the real clock, so that the session looks new here; what is left is whether it is used.
            b.tick(now + REKEY_SELF_AFTER + TICK, true, false, |_| sent += 1);
            assert_eq!(sent, usize::from(keepalive_lost));
        }
    }

    #[test]
    fn what_stays_unanswered_ends_before_boringtun_gives_up_with_an_error() {
        for answered in [false, true] {
            let (mut a, mut b, now) = pair(7);
            exchange(&mut a, &mut b, now);
            // TAI64N stamps of boringtun are whole milliseconds and more apart.
            std::thread::sleep(Duration::from_millis(20));
            // boringtun counts by the real clock, so the session is always new here.
            let asked = now + REKEY_AFTER;
            let mut buf = [0; MAX_CONTROL];
            let init = a.ask(asked, &mut buf).unwrap();
            if answered {
                let mut out = [0; 2000];
                let Decapsulated::Reply(len) = b.decapsulate(asked, init, &mut out) else { panic!() };
                let response = out[..len].to_vec();
                assert!(matches!(a.decapsulate(asked, &response, &mut out), Decapsulated::Reply(_)));
            }
            for second in 1..UNANSWERED_FOR.as_secs() {
                a.tick(asked + Duration::from_secs(second), true, false, |_| ());
                assert!(a.has_session(), "{second}");
            }
            a.tick(asked + UNANSWERED_FOR, true, false, |_| ());
            assert_eq!(a.has_session(), answered);
        }
    }

    #[test]
    fn a_stopped_clock_ends_the_session_before_boringtun_sees_the_time() {
        let (mut a, mut b, now) = pair(7);
        exchange(&mut a, &mut b, now);
        a.tick(now + REJECT_AFTER * 3, false, false, |_| ());
        assert!(!a.has_session());
    }

    #[test]
    fn tries_back_off_and_stop_when_unreachable() {
        let (mut a, _, start) = pair(7);
        let mut sent = 0;
        for ms in 0..30_000 {
            a.tick(start + Duration::from_millis(ms), true, false, |_| sent += 1);
        }
        assert!((7..=14).contains(&sent), "{sent}");
        let mut sent = 0;
        for ms in 30_000..40_000 {
            a.tick(start + Duration::from_millis(ms), false, true, |_| sent += 1);
        }
        assert_eq!(sent, 0);
    }

    #[test]
    fn the_one_that_does_not_lead_waits_for_the_other() {
        let (_, mut b, start) = pair(7);
        let mut at = None;
        for ms in 0..2_000 {
            b.tick(start + Duration::from_millis(ms), true, false, |_| at = at.or(Some(ms)));
        }
        assert_eq!(at, Some(1_000));
    }

    #[test]
    fn a_replayed_initiation_does_not_keep_the_real_one_out() {
        let (mut a, mut b, now) = pair(7);
        let mut recorded = None;
        a.tick(now, true, true, |message| recorded = Some(message.to_vec()));
        let recorded = recorded.unwrap();
        let mut out = [0; 2000];
        assert!(matches!(b.decapsulate(now, &recorded, &mut out), Decapsulated::Reply(_)));
        for _ in 0..200 {
            assert_eq!(b.decapsulate(now, &recorded, &mut out), Decapsulated::Refused);
        }
        // TAI64N stamps of boringtun are whole milliseconds and more apart.
        std::thread::sleep(Duration::from_millis(20));
        let mut fresh = None;
        a.tick(now + RETRY_FIRST, true, true, |message| fresh = Some(message.to_vec()));
        assert!(matches!(b.decapsulate(now, &fresh.unwrap(), &mut out), Decapsulated::Reply(_)));
    }

    proptest! {
        #[test]
        fn random_and_truncated_messages_are_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..1600),
            kind in 0u8..6,
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut a, mut b, now) = pair(7);
            exchange(&mut a, &mut b, now);
            let mut out = [0; 2000];
            if let Some(first) = bytes.get_mut(..4) {
                first.copy_from_slice(&[kind, 0, 0, 0]);
            }
            prop_assert_eq!(b.decapsulate(now, &bytes, &mut out), Decapsulated::Refused);
            let mut sealed = [0; 2000];
            let sent = a.encapsulate(&packet(200), &mut sealed).unwrap();
            let cut = cut.index(sent);
            prop_assert_eq!(b.decapsulate(now, &sealed[..cut], &mut out), Decapsulated::Refused);
            prop_assert_eq!(b.decapsulate(now, &sealed[..sent], &mut out), Decapsulated::Packet(200));
        }
    }
}

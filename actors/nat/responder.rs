//! Answers Binding requests, so that a party needs no STUN server of others. Without I/O: it is given a datagram and says
//! what to send from which socket.
//!
//! No state is kept for a client, and an answer goes only to where the request came from. It is never longer than the
//! request, except that header and XOR-MAPPED-ADDRESS are always given: a bare request of 20 bytes gets 32 (IPv4) or 44
//! (IPv6), which is 1.25 and 1.35 times its length on the wire; and that an error, which names what was not understood,
//! may be 12 bytes longer. So RFC 5780's OTHER-ADDRESS and RESPONSE-ORIGIN reach only clients that fill their requests up,
//! as LANrage does: somebody who forges the sender gains nothing worth having.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::stun::{self, Change, Request, Stun};
use crate::wire::LocalSocket;

/// Answers a second, to all together.
const GLOBAL_RATE: u32 = 1000;
/// Answers a second to one address (IPv6: one /64), and how many at once. A client asks up to four questions, each sent
/// up to four times, and many may share one address.
const SOURCE_RATE: u32 = 20;
const SOURCE_BURST: u32 = 60;
/// Senders are spread over so many buckets; who shares one shares its rate.
const SOURCES: usize = 1024;

/// A socket that answers, with the addresses where others reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub local: LocalSocket,
    pub v4: Option<SocketAddr>,
    pub v6: Option<SocketAddr>,
}

impl Origin {
    /// The data socket, its addresses still unknown.
    pub const MAIN: Self = Self { local: LocalSocket::MAIN, v4: None, v6: None };

    fn towards(&self, client: SocketAddr) -> Option<SocketAddr> {
        if client.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Send `bytes` from `from` to where the request came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub from: LocalSocket,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponderCounters {
    pub answered: u64,
    /// Asked to answer from an address that the node does not have, or something else that it does not know.
    pub refused: u64,
    pub dropped_rate_limited: u64,
}

#[derive(Debug)]
pub struct Responder {
    main: Origin,
    alternate: Option<Origin>,
    global: Bucket,
    sources: Box<[Bucket]>,
    salt: u64,
    counters: ResponderCounters,
}

impl Responder {
    /// `salt` is random: nobody may know whose bucket he shares.
    #[must_use]
    pub fn new(now: Instant, salt: u64) -> Self {
        Self {
            main: Origin::MAIN,
            alternate: None,
            global: Bucket::full(now, GLOBAL_RATE),
            sources: vec![Bucket::full(now, SOURCE_BURST); SOURCES].into(),
            salt,
            counters: ResponderCounters::default(),
        }
    }

    /// Where others reach the data socket, and a second socket on another port of the same machine, if there is one.
    /// Only with a second one is OTHER-ADDRESS given and CHANGE-REQUEST (port) obeyed; it names the same IP address, so a
    /// client learns from it how its NAT treats other ports, not other addresses.
    pub fn set_origins(&mut self, main: Origin, alternate: Option<Origin>) {
        self.main = main;
        self.alternate = alternate.filter(|alternate| alternate.local != main.local);
    }

    #[must_use]
    pub fn counters(&self) -> ResponderCounters {
        self.counters
    }

    /// What to answer to a datagram from `client` that came in on `on`. Nothing to what is no Binding request.
    pub fn answer(&mut self, now: Instant, on: LocalSocket, client: SocketAddr, datagram: &[u8]) -> Option<Reply> {
        let Some(Stun::Request(request)) = stun::parse(datagram) else { return None };
        let source = self.bucket_of(client.ip());
        let allowed = self.sources.get_mut(source)?.take(now, SOURCE_RATE, SOURCE_BURST)
            && self.global.take(now, GLOBAL_RATE, GLOBAL_RATE);
        if !allowed {
            self.counters.dropped_rate_limited += 1;
            return None;
        }
        Some(self.answer_allowed(on, client, &request, datagram.len()))
    }

    fn answer_allowed(&mut self, on: LocalSocket, client: SocketAddr, request: &Request, room: usize) -> Reply {
        let asked_alternate = self.alternate.filter(|alternate| alternate.local == on);
        let (asked, other) = match asked_alternate {
            Some(alternate) => (alternate, Some(self.main)),
            None => (self.main, self.alternate),
        };
        let Request { id, change, unknown } = request;
        let from = match (*change, other) {
            _ if !unknown.is_empty() => Err(stun::unknown_attributes(*id, unknown)),
            (Change::NONE, _) => Ok(asked),
            (Change::PORT, Some(other)) => Ok(other),
            _ => Err(stun::cannot_change(*id)),
        };
        match from {
            Ok(origin) => {
                self.counters.answered += 1;
                let other = other.and_then(|other| other.towards(client));
                let bytes = stun::success(*id, client, origin.towards(client), other, room);
                Reply { from: origin.local, bytes }
            }
            Err(bytes) => {
                self.counters.refused += 1;
                Reply { from: asked.local, bytes }
            }
        }
    }

    fn bucket_of(&self, ip: IpAddr) -> usize {
        let network = match ip.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => u64::try_from(ip.to_bits() >> 64).unwrap_or(0),
        };
        let mut hasher = DefaultHasher::new();
        (self.salt, ip.is_ipv4(), network).hash(&mut hasher);
        usize::try_from(hasher.finish()).unwrap_or(0) % SOURCES
    }
}

/// A token bucket. Tokens are counted in thousandths.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    fn full(now: Instant, burst: u32) -> Self {
        Self { tokens: burst * 1000, filled: now }
    }

    fn take(&mut self, now: Instant, rate: u32, burst: u32) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_millis();
        let gained = u32::try_from(passed).unwrap_or(u32::MAX).saturating_mul(rate);
        if gained > 0 {
            self.tokens = self.tokens.saturating_add(gained).min(burst * 1000);
            self.filled += Duration::from_millis(u64::try_from(passed).unwrap_or(u64::MAX));
        }
        let enough = self.tokens >= 1000;
        if enough {
            self.tokens -= 1000;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nat::stun::{Success, TransactionId};

    const ID: TransactionId = TransactionId(77);
    const SECOND: LocalSocket = LocalSocket(1);

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn client() -> SocketAddr {
        addr("198.51.100.7:4000")
    }

    fn ask(change: Change) -> Vec<u8> {
        stun::request(ID, change, addr("192.0.2.1:1"))
    }

    fn serving(now: Instant, alternate: bool) -> Responder {
        let mut responder = Responder::new(now, 5);
        let main = Origin { v4: Some(addr("192.0.2.1:1000")), ..Origin::MAIN };
        let second = Origin { local: SECOND, v4: Some(addr("192.0.2.1:1001")), v6: None };
        responder.set_origins(main, alternate.then_some(second));
        responder
    }

    #[test]
    fn says_from_where_it_was_asked() {
        let now = Instant::now();
        let mut responder = serving(now, false);
        let reply = responder.answer(now, LocalSocket::MAIN, client(), &ask(Change::NONE)).unwrap();
        assert_eq!(reply.from, LocalSocket::MAIN);
        let expected = Success { id: ID, mapped: client(), other: None };
        assert_eq!(stun::parse(&reply.bytes), Some(Stun::Success(expected)));
    }

    #[test]
    fn answers_from_the_other_port_only_when_there_is_one() {
        let now = Instant::now();
        let (main, second) = (LocalSocket::MAIN, SECOND);
        // Second socket?, asked on, change → from, refused?
        let table = [
            (true, main, Change::NONE, main, false),
            (true, main, Change::PORT, second, false),
            (true, second, Change::NONE, second, false),
            (true, second, Change::PORT, main, false),
            (true, main, Change::BOTH, main, true),
            (true, main, Change { ip: true, port: false }, main, true),
            (false, main, Change::PORT, main, true),
            (false, main, Change::BOTH, main, true),
        ];
        for (alternate, on, change, from, refused) in table {
            let mut responder = serving(now, alternate);
            let reply = responder.answer(now, on, client(), &ask(change)).unwrap();
            assert_eq!(reply.from, from, "{alternate} {on:?} {change:?}");
            let other = alternate.then(|| addr(if on == main { "192.0.2.1:1001" } else { "192.0.2.1:1000" }));
            let success = Stun::Success(Success { id: ID, mapped: client(), other });
            let expected = if refused { Stun::Refused { id: ID } } else { success };
            assert_eq!(stun::parse(&reply.bytes), Some(expected), "{alternate} {on:?} {change:?}");
        }
    }

    #[test]
    fn answers_to_nothing_but_requests() {
        let now = Instant::now();
        let mut responder = serving(now, true);
        let success = stun::success(ID, client(), None, None, 99);
        for datagram in [&success[..], &[], &[0; 20], &[4; 100]] {
            assert_eq!(responder.answer(now, LocalSocket::MAIN, client(), datagram), None);
        }
        assert_eq!(responder.counters(), ResponderCounters::default());
    }

    #[test]
    fn one_source_cannot_take_it_all() {
        let now = Instant::now();
        let mut responder = serving(now, false);
        let mut answered =
            |now, from: SocketAddr| responder.answer(now, LocalSocket::MAIN, from, &ask(Change::NONE)).is_some();
        let flood = (0..5000).filter(|port| answered(now, SocketAddr::new(client().ip(), *port))).count();
        assert_eq!(flood, 60);
        assert!(answered(now, addr("203.0.113.5:9")));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| answered(later, client())).count(), 20);
        // A /64 is one source: its owner has all of its addresses.
        let v6 = |n: u16| SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 1, 2, n, n, 5, n]), 7);
        assert_eq!((0..1000).filter(|n| answered(now, v6(*n))).count(), 60);
        assert_eq!(responder.counters().dropped_rate_limited, 4940 + 80 + 940);
    }

    #[test]
    fn many_sources_together_cannot_either() {
        let now = Instant::now();
        let mut responder = serving(now, false);
        let answered = (0..20_000u32)
            .filter(|n| {
                let from = SocketAddr::new(IpAddr::from((0x0b00_0000 + n * 7919).to_be_bytes()), 1);
                responder.answer(now, LocalSocket::MAIN, from, &ask(Change::NONE)).is_some()
            })
            .count();
        assert_eq!(answered, 1000);
    }

    /// Requests of any length that are filled with any attribute.
    fn any_request() -> impl Strategy<Value = Vec<u8>> {
        (0..5usize, 0..3u32, proptest::collection::vec(any::<u8>(), 0..80)).prop_map(|(unknown, change, filling)| {
            let mut body = Vec::new();
            for _ in 0..unknown {
                body.extend([0x00, 0x27, 0, 4, 0, 53, 0, 0]);
            }
            if change > 0 {
                body.extend([0x00, 0x03, 0, 4, 0, 0, 0, if change == 1 { 2 } else { 6 }]);
            }
            if filling.len() > 3 {
                body.extend([0x80, 0x22]);
                body.extend(u16::try_from(filling.len()).unwrap().to_be_bytes());
                body.extend(filling);
                body.resize(body.len().next_multiple_of(4), 0);
            }
            let len = u16::try_from(body.len()).unwrap().to_be_bytes();
            [&[0, 1][..], &len, &[0x21, 0x12, 0xa4, 0x42], &[3; 12], &body].concat()
        })
    }

    proptest! {
        /// The bound that the module promises.
        #[test]
        fn nothing_is_amplified(request in any_request(), v6: bool, alternate: bool) {
            let now = Instant::now();
            let mut responder = serving(now, alternate);
            let from = if v6 { addr("[2001:db8::7]:4000") } else { client() };
            let reply = responder.answer(now, LocalSocket::MAIN, from, &request).unwrap();
            let bare = if v6 { 44 } else { 32 };
            prop_assert!(reply.bytes.len() <= bare.max(request.len() + 12), "{} to {}", reply.bytes.len(), request.len());
        }
    }
}

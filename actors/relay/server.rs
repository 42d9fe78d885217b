//! The relay's service: answers Asks with tokens, forwards what comes with one. Nothing is kept of any client.
//!
//! A datagram in gives at most one out, which is shorter, and an Ask an answer of its own length: nothing is amplified,
//! and nothing goes to an address that did not itself ask for it and read the answer. A Forward that somebody plays back
//! is forwarded again, once each: the receiver's WireGuard and probe windows know it, and it counts against the limits.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::frame::{
    Ask, FORWARD_HEADER, FORWARDED, FORWARDED_HEADER, Forward, TICKET_LEN, TicketFrame, may_be_relayed,
};
use super::limiter::{Host, Nanos, Rate, Slots, Table};
use super::token::{Grant, LIFETIME_S, Refused, TokenKey};
use crate::wire::{RelayToken, TransmitBatch, stream_id, usable_addr};

/// As much as comes in this time may come at once: of one host, and of all.
const HOST_BURST: Duration = Duration::from_millis(250);
const TOTAL_BURST: Duration = Duration::from_millis(100);
const ASK_BURST: Duration = Duration::from_secs(2);
/// Traffic of a host within this rate is served first when the whole is full: games are, file copies are not.
const ASSURED_BITS_PER_S: u64 = 1_000_000;
/// This part (one in …) of the whole is kept for such traffic.
const KEPT_PART: u64 = 4;

/// Tokens opened lately. Their number is a power of two.
const CACHED: usize = 256;

/// What the relay gives at most. Bits are those of UDP payloads that come in. A host is an IPv4 address, an IPv6 /64, or
/// a stream; its limits hold for what it sends and for what is sent to it, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub total_bits_per_s: u64,
    pub total_packets_per_s: u64,
    pub host_bits_per_s: u64,
    pub host_packets_per_s: u64,
    pub total_asks_per_s: u64,
    pub host_asks_per_s: u64,
}

impl Limits {
    /// A member that relays beside its own game.
    pub const MEMBER: Self = Self {
        total_bits_per_s: 50_000_000,
        total_packets_per_s: 20_000,
        host_bits_per_s: 20_000_000,
        host_packets_per_s: 5_000,
        total_asks_per_s: 2_000,
        host_asks_per_s: 20,
    };

    /// `lanrage relay`.
    pub const DEDICATED: Self = Self {
        total_bits_per_s: 1_000_000_000,
        total_packets_per_s: 400_000,
        total_asks_per_s: 20_000,
        ..Self::MEMBER
    };
}

/// Datagrams since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RelayCounters {
    pub asks_answered: u64,
    pub forwarded: u64,
    /// Bytes of UDP payload that went out.
    pub forwarded_bytes: u64,
    /// A relay frame of the wrong length, version or content.
    pub dropped_malformed: u64,
    /// The payload is neither WireGuard nor a probe.
    pub dropped_payload: u64,
    /// A token that this relay did not make.
    pub dropped_forged: u64,
    pub dropped_expired: u64,
    /// An Ask from an address that cannot be answered, or forwarded to.
    pub dropped_address: u64,
    /// Over a limit: of the sender, of the receiver, of the whole.
    pub dropped_source_limit: u64,
    pub dropped_destination_limit: u64,
    pub dropped_total_limit: u64,
    pub dropped_ask_limit: u64,
    /// The data socket's mailbox was full.
    pub dropped_busy: u64,
    /// Somebody takes this machine for a relay, which it is not (any more).
    pub dropped_not_serving: u64,
}

impl RelayCounters {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            asks_answered: self.asks_answered + other.asks_answered,
            forwarded: self.forwarded + other.forwarded,
            forwarded_bytes: self.forwarded_bytes + other.forwarded_bytes,
            dropped_malformed: self.dropped_malformed + other.dropped_malformed,
            dropped_payload: self.dropped_payload + other.dropped_payload,
            dropped_forged: self.dropped_forged + other.dropped_forged,
            dropped_expired: self.dropped_expired + other.dropped_expired,
            dropped_address: self.dropped_address + other.dropped_address,
            dropped_source_limit: self.dropped_source_limit + other.dropped_source_limit,
            dropped_destination_limit: self.dropped_destination_limit + other.dropped_destination_limit,
            dropped_total_limit: self.dropped_total_limit + other.dropped_total_limit,
            dropped_ask_limit: self.dropped_ask_limit + other.dropped_ask_limit,
            dropped_busy: self.dropped_busy + other.dropped_busy,
            dropped_not_serving: self.dropped_not_serving + other.dropped_not_serving,
        }
    }
}

enum Limit {
    Source,
    Destination,
    Total,
}

/// Of each host, in its `Table`.
const BYTES: usize = 0;
const PACKETS: usize = 1;
const ASSURED: usize = 2;

pub struct RelayServer {
    start: Instant,
    key: TokenKey,
    rng: StdRng,
    limits: Limits,
    cache: Box<[Option<([u8; RelayToken::LEN], Grant)>]>,
    sources: Table<3>,
    destinations: Table<3>,
    asking: Table<1>,
    total_bytes: (Rate, Nanos),
    total_packets: (Rate, Nanos),
    total_asks: (Rate, Nanos),
    counters: RelayCounters,
}

impl std::fmt::Debug for RelayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayServer")
            .field("limits", &self.limits)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// What a run of datagrams with one header has in common.
struct Run {
    to: SocketAddr,
    destination: Slots,
}

impl RelayServer {
    /// `seed` must be random and new at each start.
    #[must_use]
    pub fn new(now: Instant, identity_secret: &[u8; 32], limits: Limits, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut server = Self {
            start: now,
            key: TokenKey::derive(identity_secret),
            limits,
            cache: vec![None; CACHED].into_boxed_slice(),
            sources: Table::new(host_rates(&limits), rng.random()),
            destinations: Table::new(host_rates(&limits), rng.random()),
            asking: Table::new([ask_rate(limits.host_asks_per_s)], rng.random()),
            total_bytes: (Rate::bytes_per_second(limits.total_bits_per_s / 8, TOTAL_BURST), 0),
            total_packets: (Rate::per_second(limits.total_packets_per_s, TOTAL_BURST), 0),
            total_asks: (ask_rate(limits.total_asks_per_s), 0),
            counters: RelayCounters::default(),
            rng,
        };
        server.set_limits(limits);
        server
    }

    /// Takes effect at once.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.sources.set_rates(host_rates(&limits));
        self.destinations.set_rates(host_rates(&limits));
        self.asking.set_rates([ask_rate(limits.host_asks_per_s)]);
        self.total_bytes.0 = Rate::bytes_per_second(limits.total_bits_per_s / 8, TOTAL_BURST);
        self.total_packets.0 = Rate::per_second(limits.total_packets_per_s, TOTAL_BURST);
        self.total_asks.0 = ask_rate(limits.total_asks_per_s);
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    #[must_use]
    pub fn counters(&self) -> RelayCounters {
        self.counters
    }

    /// Bytes of memory beside the struct; never changes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.sources.bytes() + self.destinations.bytes() + self.asking.bytes() + size_of_val(&*self.cache)
    }

    /// The answer to send back to `from`, if there is one.
    pub fn handle_ask(
        &mut self,
        now: Instant,
        unix: u64,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Option<[u8; TICKET_LEN]> {
        let Some(Ask { id }) = Ask::parse(datagram) else {
            self.counters.dropped_malformed += 1;
            return None;
        };
        if !can_be_forwarded_to(from) {
            self.counters.dropped_address += 1;
            return None;
        }
        let now = self.nanos(now);
        let slots = self.asking.slots(Host::of(from));
        let (total, full_at) = &mut self.total_asks;
        if !self.asking.fits(slots, 0, now, 1) || !total.fits(*full_at, now, 1, 0) {
            self.counters.dropped_ask_limit += 1;
            return None;
        }
        self.asking.take(slots, 0, now, 1);
        total.take(full_at, now, 1);
        self.counters.asks_answered += 1;
        let expires = u32::try_from(unix.saturating_add(u64::from(LIFETIME_S))).unwrap_or(u32::MAX);
        let token = self.key.seal(Grant { to: from, expires }, self.rng.random());
        Some(TicketFrame { id, observed: from, expires, token }.encode())
    }

    /// Forwards `datagrams`, which came from `from` in one receive call, into `out`: a batch for each run with the same
    /// token, in the shape that leaves in one system call.
    pub fn handle_forward<'a>(
        &mut self,
        now: Instant,
        unix: u64,
        from: SocketAddr,
        datagrams: impl IntoIterator<Item = &'a [u8]>,
        out: &mut Vec<TransmitBatch>,
    ) {
        let now = self.nanos(now);
        let source = self.sources.slots(Host::of(from));
        let mut header: &[u8] = &[];
        let mut run = Err(Refused::Forged);
        let mut batch: Option<TransmitBatch> = None;
        for datagram in datagrams {
            let Some(Forward { token, payload }) = Forward::parse(datagram) else {
                self.counters.dropped_malformed += 1;
                continue;
            };
            if !may_be_relayed(payload) {
                self.counters.dropped_payload += 1;
                continue;
            }
            let own_header = &datagram[..FORWARD_HEADER];
            if header != own_header {
                header = own_header;
                run = self.open(token, unix);
                out.extend(batch.take());
            }
            let Run { to, destination } = match &run {
                Ok(run) => run,
                Err(Refused::Forged) => {
                    self.counters.dropped_forged += 1;
                    continue;
                }
                Err(Refused::Expired) => {
                    self.counters.dropped_expired += 1;
                    continue;
                }
            };
            match self.admit(now, source, *destination, datagram.len() as u64) {
                Ok(()) => {}
                Err(limit) => {
                    match limit {
                        Limit::Source => self.counters.dropped_source_limit += 1,
                        Limit::Destination => self.counters.dropped_destination_limit += 1,
                        Limit::Total => self.counters.dropped_total_limit += 1,
                    }
                    continue;
                }
            }
            self.counters.forwarded += 1;
            self.counters.forwarded_bytes += (FORWARDED_HEADER + payload.len()) as u64;
            if !batch.as_mut().is_some_and(|batch| push(batch, payload)) {
                out.extend(batch.take());
                let mut next = TransmitBatch::new(*to);
                push(&mut next, payload);
                batch = Some(next);
            }
        }
        out.extend(batch);
    }

    /// A datagram that was forwarded could not be handed on.
    pub fn count_busy(&mut self, datagrams: u64) {
        self.counters.dropped_busy += datagrams;
    }

    fn nanos(&self, now: Instant) -> Nanos {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX >> 1)
    }

    fn open(&mut self, token: &[u8; RelayToken::LEN], unix: u64) -> Result<Run, Refused> {
        // The nonce is random; that a sender can choose among his tokens by it costs him and us one opening each.
        let cached = &mut self.cache[usize::from(token[0]) % CACHED];
        let to = match cached {
            Some((known, grant)) if known == token => grant.check(unix)?,
            Some(_) | None => {
                let grant = self.key.open(token, unix)?;
                *cached = Some((*token, grant));
                grant.to
            }
        };
        Ok(Run { to, destination: self.destinations.slots(Host::of(to)) })
    }

    /// Takes from all buckets or from none: what one refuses must not empty another. Only what came with a good token
    /// gets here, so somebody who forges senders has to spend his own receiver's limit.
    fn admit(&mut self, now: Nanos, source: Slots, destination: Slots, bytes: u64) -> Result<(), Limit> {
        let fit = |table: &Table<3>, slots| table.fits(slots, BYTES, now, bytes) && table.fits(slots, PACKETS, now, 1);
        if !fit(&self.destinations, destination) {
            return Err(Limit::Destination);
        }
        if !fit(&self.sources, source) {
            return Err(Limit::Source);
        }
        let assured =
            self.sources.fits(source, ASSURED, now, bytes) && self.destinations.fits(destination, ASSURED, now, bytes);
        let keep = if assured { 0 } else { KEPT_PART };
        let (byte_rate, bytes_full_at) = &mut self.total_bytes;
        let (packet_rate, packets_full_at) = &mut self.total_packets;
        if !byte_rate.fits(*bytes_full_at, now, bytes, keep) || !packet_rate.fits(*packets_full_at, now, 1, keep) {
            return Err(Limit::Total);
        }
        byte_rate.take(bytes_full_at, now, bytes);
        packet_rate.take(packets_full_at, now, 1);
        for (table, slots) in [(&mut self.sources, source), (&mut self.destinations, destination)] {
            table.take(slots, BYTES, now, bytes);
            table.take(slots, PACKETS, now, 1);
            if assured {
                table.take(slots, ASSURED, now, bytes);
            }
        }
        Ok(())
    }
}

fn push(batch: &mut TransmitBatch, payload: &[u8]) -> bool {
    let len = FORWARDED_HEADER + payload.len();
    batch.push_with(len, len, |slot| {
        let (kind, rest) = slot.split_first_mut()?;
        *kind = FORWARDED;
        rest.copy_from_slice(payload);
        Some(len)
    })
}

fn host_rates(limits: &Limits) -> [Rate; 3] {
    [
        Rate::bytes_per_second(limits.host_bits_per_s / 8, HOST_BURST),
        Rate::per_second(limits.host_packets_per_s, HOST_BURST),
        Rate::bytes_per_second(ASSURED_BITS_PER_S.min(limits.host_bits_per_s) / 8, HOST_BURST),
    ]
}

fn ask_rate(per_second: u64) -> Rate {
    Rate::per_second(per_second, ASK_BURST)
}

/// A link-local address means something only together with an interface, which a token does not name.
fn can_be_forwarded_to(addr: SocketAddr) -> bool {
    let link_local = matches!(addr.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    (usable_addr(&addr) || stream_id(addr).is_some()) && !link_local
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;

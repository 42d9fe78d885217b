//! Fragments become datagrams (RFC 791, RFC 815), in a table that nobody can make grow.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::wire::ip::{Ipv4Packet, MAX_PACKET_LEN, MIN_HEADER_LEN};

/// Datagrams that are being put together at once; the oldest goes first. Each holds at most 64 KiB.
pub const MAX_DATAGRAMS: usize = 64;
/// Of one sender, so that one that never finishes any cannot push out those of others.
pub const MAX_PER_SENDER: usize = 4;
/// A datagram whose fragments have not all come by then is given up.
pub const LIFETIME: Duration = Duration::from_secs(5);
/// A datagram of 64 KiB in fragments of the smallest usual MTU (576 bytes) has 119.
const MAX_FRAGMENTS: usize = 256;

/// Who sent a fragment, and by which of this machine's ways it came: the same identification at another is another
/// datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    way: u32,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ident: u16,
    protocol: u8,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    since: Instant,
    ttl: u8,
    payload: Vec<u8>,
    /// Start and end of what is there, in bytes, in order.
    have: Vec<(usize, usize)>,
    /// Length of the whole payload, known from the last fragment.
    whole: Option<usize>,
    /// Its fragments contradicted each other: the rest of it is dropped as it comes.
    refused: bool,
}

/// A payload (transport header and data) whose fragments are all there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    pub payload: Vec<u8>,
}

/// What became of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Kept,
    Whole(Whole),
    /// It contradicts others, or is none that a stack would send.
    Refused,
}

#[derive(Debug, Default)]
pub struct Reassembly {
    /// Oldest first.
    partials: Vec<Partial>,
    given_up: u64,
}

impl Reassembly {
    /// `way`: where the fragment came in.
    pub fn on_fragment(&mut self, now: Instant, way: u32, packet: &Ipv4Packet<'_>) -> Outcome {
        self.expire(now);
        let (start, data) = (packet.fragment_offset(), packet.payload());
        let end = start + data.len();
        // All but the last are multiples of 8 bytes, because offsets are counted so.
        let odd = packet.more_fragments() && !data.len().is_multiple_of(8);
        if data.is_empty() || odd || end > MAX_PACKET_LEN - MIN_HEADER_LEN || !packet.header_checksum_ok() {
            return Outcome::Refused;
        }
        let key = Key {
            way,
            source: packet.source(),
            destination: packet.destination(),
            ident: packet.identification(),
            protocol: packet.protocol(),
        };
        let index = self.find_or_begin(now, key, packet.ttl());
        let partial = &mut self.partials[index];
        if partial.refused {
            return Outcome::Refused;
        }
        if !partial.add(start, data, packet.more_fragments()) {
            // RFC 5722 forbids overlaps for IPv6; nobody sends them in IPv4 either, but to get past filters.
            partial.refused = true;
            partial.payload = Vec::new();
            self.given_up += 1;
            return Outcome::Refused;
        }
        if !partial.is_whole() {
            return Outcome::Kept;
        }
        let Partial { ttl, payload, .. } = self.partials.remove(index);
        Outcome::Whole(Whole { source: key.source, destination: key.destination, protocol: key.protocol, ttl, payload })
    }

    fn find_or_begin(&mut self, now: Instant, key: Key, ttl: u8) -> usize {
        if let Some(index) = self.partials.iter().position(|partial| partial.key == key) {
            return index;
        }
        let of_sender = |partial: &&Partial| (partial.key.way, partial.key.source) == (key.way, key.source);
        if self.partials.iter().filter(of_sender).count() >= MAX_PER_SENDER {
            let oldest = self.partials.iter().position(|partial| of_sender(&partial));
            self.give_up(oldest);
        } else if self.partials.len() >= MAX_DATAGRAMS {
            self.give_up(Some(0));
        }
        let partial =
            Partial { key, since: now, ttl, payload: Vec::new(), have: Vec::new(), whole: None, refused: false };
        self.partials.push(partial);
        self.partials.len() - 1
    }

    fn give_up(&mut self, index: Option<usize>) {
        if let Some(index) = index {
            self.given_up += u64::from(!self.partials[index].refused);
            self.partials.remove(index);
        }
    }

    fn expire(&mut self, now: Instant) {
        while self.partials.first().is_some_and(|oldest| now.saturating_duration_since(oldest.since) >= LIFETIME) {
            self.give_up(Some(0));
        }
    }

    /// Datagrams that were begun and never became whole, since the last time this was asked.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// When the oldest is to be given up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.partials.first().map(|oldest| oldest.since + LIFETIME)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
    }

    /// Bytes held, for the bound.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.partials.iter().map(|partial| partial.payload.len()).sum()
    }
}

impl Partial {
    /// False when it contradicts what is there.
    fn add(&mut self, start: usize, data: &[u8], more: bool) -> bool {
        let end = start + data.len();
        let last = self.have.last().map_or(0, |range| range.1);
        if let Some(whole) = self.whole {
            let fits = if more { end < whole } else { end == whole };
            if !fits {
                return false;
            }
        } else if !more && last > end {
            return false;
        }
        let index = self.have.partition_point(|range| range.0 < start);
        if self.have.get(index) == Some(&(start, end)) {
            // The same once more is no contradiction.
            return self.payload[start..end] == *data;
        }
        let overlaps =
            index > 0 && self.have[index - 1].1 > start || self.have.get(index).is_some_and(|next| next.0 < end);
        if overlaps || self.have.len() >= MAX_FRAGMENTS {
            return false;
        }
        if !more {
            self.whole = Some(end);
        }
        if self.payload.len() < end {
            self.payload.resize(end, 0);
        }
        self.payload[start..end].copy_from_slice(data);
        self.have.insert(index, (start, end));
        true
    }

    fn is_whole(&self) -> bool {
        let Some(whole) = self.whole else { return false };
        let mut at = 0;
        for &(start, end) in &self.have {
            if start != at {
                return false;
            }
            at = end;
        }
        at == whole
    }
}

#[cfg(test)]
#[path = "reassembly_tests.rs"]
mod tests;

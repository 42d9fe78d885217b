//! Batches: the unit on every queue of the data path.
//!
//! Buffers come from a pool of the thread and go back to the pool of the thread that drops them. The data path runs on
//! one arbiter, so the pool needs no lock and reaches a steady state without allocating.

use std::cell::RefCell;
use std::net::SocketAddr;

use super::endpoint::{Endpoint, LocalSocket};

/// At most this many packets in one batch.
pub const MAX_BATCH_PACKETS: usize = 128;
/// At most this many bytes in one batch: two reads of the largest segmented packet fit.
pub const MAX_BATCH_BYTES: usize = 160 * 1024;
/// At most this many idle buffers are kept by a thread; more are freed.
const POOL_BUFFERS: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn pooled() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn recycle(mut buf: Vec<u8>) {
    if buf.capacity() == 0 || buf.capacity() > 2 * MAX_BATCH_BYTES {
        return;
    }
    buf.clear();
    // `try_with`: a batch may be dropped while its thread is being torn down.
    let _ = POOL.try_with(|pool| {
        if let Ok(mut pool) = pool.try_borrow_mut()
            && pool.len() < POOL_BUFFERS
        {
            pool.push(buf);
        }
    });
}

/// Bytes that the idle buffers of this thread hold. It settles at what busy moments needed: what is left of a growth of
/// memory without it is a leak.
#[must_use]
pub fn idle_bytes() -> usize {
    POOL.with_borrow(|pool| pool.iter().map(Vec::capacity).sum())
}

/// What goes first where packets queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A game's packets, small packets, and what keeps a tunnel up.
    Expedited,
    /// Transfers, and all that is not known to be anything else.
    #[default]
    Bulk,
    /// What is known to be able to wait.
    Background,
}

impl Urgency {
    /// Most urgent first.
    pub const ALL: [Self; 3] = [Self::Expedited, Self::Bulk, Self::Background];
}

/// How a packet is treated on its way. All packets of a flow have the same class, so that none overtakes another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Class {
    pub urgency: Urgency,
    /// Code point (RFC 2474) of the outer packet; 0 is "no mark".
    pub dscp: u8,
}

impl Class {
    pub const EXPEDITED: Self = Self { urgency: Urgency::Expedited, dscp: 0 };
}

/// IP packets of one peer, back to back in one buffer.
#[derive(Debug)]
pub struct PacketBatch {
    buf: Vec<u8>,
    ends: [u32; MAX_BATCH_PACKETS],
    count: usize,
    class: Class,
}

impl Default for PacketBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketBatch {
    #[must_use]
    pub fn new() -> Self {
        Self::of(Class::default())
    }

    #[must_use]
    pub fn of(class: Class) -> Self {
        Self { buf: pooled(), ends: [0; MAX_BATCH_PACKETS], count: 0, class }
    }

    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether a packet of `len` bytes still fits.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.count < MAX_BATCH_PACKETS && self.buf.len() + len <= MAX_BATCH_BYTES
    }

    /// Appends a copy of `packet`. Returns false, leaving the batch as it was, when it does not fit.
    #[must_use]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        self.push_with(packet.len(), |slot| {
            slot.copy_from_slice(packet);
            Some(packet.len())
        })
    }

    /// Lets `write` fill a slot of `room` bytes in place and keep the returned number of them, or roll back with `None`.
    /// Returns whether a packet was added.
    pub fn push_with(&mut self, room: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        if !self.has_room(room) {
            return false;
        }
        let start = self.buf.len();
        self.buf.resize(start + room, 0);
        match write(&mut self.buf[start..]) {
            Some(len) if len <= room => {
                self.buf.truncate(start + len);
                self.ends[self.count] = u32::try_from(start + len).unwrap_or(u32::MAX);
                self.count += 1;
                true
            }
            Some(_) | None => {
                self.buf.truncate(start);
                false
            }
        }
    }

    /// Appends `head` and `tail` as one packet and gives it back to be finished in place. `None`, leaving the batch as it
    /// was, when it does not fit. Unlike [`Self::push_with`] it writes no byte twice.
    pub fn push_joined(&mut self, head: &[u8], tail: &[u8]) -> Option<&mut [u8]> {
        if !self.has_room(head.len() + tail.len()) {
            return None;
        }
        let start = self.buf.len();
        self.buf.extend_from_slice(head);
        self.buf.extend_from_slice(tail);
        self.ends[self.count] = u32::try_from(self.buf.len()).unwrap_or(u32::MAX);
        self.count += 1;
        Some(&mut self.buf[start..])
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sum of the packets' lengths, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// The packet at `index`, empty when there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> &[u8] {
        if index >= self.count {
            return &[];
        }
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.buf[start..self.ends[index] as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|index| self.get(index))
    }
}

impl Drop for PacketBatch {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.buf));
    }
}

/// Datagrams of one receive call: `stride` bytes each, the last one possibly shorter (UDP GRO).
#[derive(Debug)]
pub struct DatagramBatch {
    buf: Vec<u8>,
    from: Endpoint,
    stride: usize,
    /// Bytes before each datagram that are not part of it.
    header: usize,
}

impl DatagramBatch {
    /// Copies what one receive call gave. `stride` is clamped to 1..=len.
    #[must_use]
    pub fn copied(data: &[u8], from: Endpoint, stride: usize) -> Self {
        Self::with_header(data, from, stride, 0)
    }

    /// As [`Self::copied`]; the first `header` bytes of each datagram are left out when they are read.
    #[must_use]
    pub fn with_header(data: &[u8], from: Endpoint, stride: usize, header: usize) -> Self {
        let mut buf = pooled();
        buf.extend_from_slice(data);
        Self { from, stride: stride.clamp(1, buf.len().max(1)), header, buf }
    }

    #[must_use]
    pub fn from(&self) -> Endpoint {
        self.from
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.buf.chunks(self.stride).map(|datagram| datagram.get(self.header..).unwrap_or_default())
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }
}

impl Drop for DatagramBatch {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.buf));
    }
}

/// Datagrams to one destination in the shape that UDP GSO sends in one call: equal segments, the last possibly shorter.
#[derive(Debug)]
pub struct TransmitBatch {
    buf: Vec<u8>,
    destination: SocketAddr,
    local: LocalSocket,
    segment_size: usize,
    segments: usize,
    closed: bool,
    class: Class,
}

impl TransmitBatch {
    /// The kernel's UDP_MAX_SEGMENTS was 64 until Linux 6.9.
    const MAX_SEGMENTS: usize = 64;
    /// A GSO send is one UDP datagram to the stack: 65,535 bytes less the headers.
    const MAX_BYTES: usize = 65_000;

    #[must_use]
    pub fn new(destination: SocketAddr) -> Self {
        Self::on(LocalSocket::MAIN, destination)
    }

    /// To be sent on `local`.
    #[must_use]
    pub fn on(local: LocalSocket, destination: SocketAddr) -> Self {
        let class = Class::default();
        Self { buf: pooled(), destination, local, segment_size: 0, segments: 0, closed: false, class }
    }

    #[must_use]
    pub fn with_class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// To be sent to another address than it was made for.
    pub fn redirect(&mut self, destination: SocketAddr) {
        self.destination = destination;
    }

    #[must_use]
    pub fn local(&self) -> LocalSocket {
        self.local
    }

    /// Lets `write` fill up to `room` bytes in place and keep the returned number of them; `None` rolls back.
    /// `expected` is the length that the datagram will have. Returns false, without calling `write`, when a datagram of
    /// that length cannot be sent together with those before it: then the caller sends this batch and starts another.
    pub fn push_with(&mut self, expected: usize, room: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        if self.segments > 0
            && (self.closed
                || expected > self.segment_size
                || self.segments >= Self::MAX_SEGMENTS
                || self.buf.len() + room > Self::MAX_BYTES)
        {
            return false;
        }
        let start = self.buf.len();
        self.buf.resize(start + room.max(expected), 0);
        let Some(len) = write(&mut self.buf[start..]).filter(|&len| len > 0 && len <= room.max(expected)) else {
            self.buf.truncate(start);
            return true;
        };
        self.buf.truncate(start + len);
        if self.segments == 0 {
            self.segment_size = len;
        } else if len < self.segment_size {
            self.closed = true;
        }
        debug_assert!(len <= self.segment_size);
        self.segments += 1;
        true
    }

    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// Bytes of each segment but the last.
    #[must_use]
    pub fn segment_size(&self) -> usize {
        self.segment_size
    }

    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments == 0
    }

    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.buf
    }
}

impl Drop for TransmitBatch {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.buf));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

    #[test]
    fn packets_come_back_in_order_and_bounds_hold() {
        let mut batch = PacketBatch::new();
        for n in 0..MAX_BATCH_PACKETS {
            assert!(batch.push(&vec![n as u8; n + 1]));
        }
        assert!(!batch.push(&[1]));
        assert_eq!(batch.len(), MAX_BATCH_PACKETS);
        for (n, packet) in batch.iter().enumerate() {
            assert_eq!(packet, vec![n as u8; n + 1]);
        }
        let mut batch = PacketBatch::new();
        while batch.push(&[0; 60_000]) {}
        assert!(batch.bytes() <= MAX_BATCH_BYTES);
        assert!(!batch.push_with(10, |_| None));
        assert_eq!(batch.len(), 2);
        assert!(batch.push_joined(&[0; 30_000], &[0; 20_000]).is_none());
        batch.push_joined(&[1, 2], &[3]).unwrap()[0] = 9;
        assert_eq!(batch.get(2), [9, 2, 3]);
    }

    #[test]
    fn transmit_batch_keeps_gso_shape() {
        let mut batch = TransmitBatch::new(TO);
        assert!(batch.push_with(100, 148, |slot| {
            slot[..100].fill(1);
            Some(100)
        }));
        assert!(batch.push_with(100, 148, |_| Some(100)));
        assert!(!batch.push_with(101, 148, |_| unreachable!("longer than the first")));
        assert!(batch.push_with(40, 148, |_| Some(40)));
        assert!(!batch.push_with(40, 148, |_| unreachable!("after a shorter tail")));
        assert_eq!((batch.segments(), batch.segment_size(), batch.contents().len()), (3, 100, 240));
    }

    #[test]
    fn transmit_batch_stays_within_one_gso_send() {
        let mut batch = TransmitBatch::new(TO);
        let mut pushed = 0;
        while batch.push_with(1392, 1392, |_| Some(1392)) {
            pushed += 1;
        }
        assert_eq!(pushed, 46);
        let mut batch = TransmitBatch::new(TO);
        let mut pushed = 0;
        while batch.push_with(60, 148, |_| Some(60)) {
            pushed += 1;
        }
        assert_eq!(pushed, 64);
    }
}

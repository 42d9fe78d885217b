//! What a data stream carries, and the queue in front of it.
//!
//! A frame is a length (2 bytes, big endian) of 1 to [`MAX_DATAGRAM`] and that many bytes of a datagram; or a length of 0
//! and a count (4 bytes, big endian): bytes of datagram frames received so far, modulo 2³².

use std::collections::VecDeque;

/// Longest datagram, bytes: an Ethernet payload.
pub const MAX_DATAGRAM: usize = 1500;
/// What may wait to be written.
pub const MAX_WAITING: usize = 128;
/// The same in bytes, lengths included.
pub const MAX_WAITING_BYTES: usize = 64 * 1024;
/// Bytes before a datagram.
pub const LENGTH: usize = 2;

/// Whole frames that wait to be written. When it is full the oldest goes: a late game packet is worth nothing.
#[derive(Debug, Default)]
pub struct SendQueue {
    frames: VecDeque<u8>,
    waiting: usize,
    dropped: u64,
}

impl SendQueue {
    /// Appends a datagram; drops the oldest ones when there is no room, or the new one when it can never be sent.
    pub fn push(&mut self, datagram: &[u8]) {
        let Some(length) = u16::try_from(datagram.len()).ok().filter(|_| fits(datagram.len())) else {
            self.dropped += 1;
            return;
        };
        while self.waiting >= MAX_WAITING || self.frames.len() + LENGTH + datagram.len() > MAX_WAITING_BYTES {
            let Some(oldest) = self.front() else { break };
            self.frames.drain(..oldest);
            self.waiting -= 1;
            self.dropped += 1;
        }
        self.frames.extend(&length.to_be_bytes());
        self.frames.extend(datagram);
        self.waiting += 1;
    }

    /// Moves the oldest frames to the end of `out`, as many whole ones as fit in `room` bytes. Returns the bytes moved.
    pub fn take(&mut self, room: usize, out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while let Some(next) = self.front_at(taken)
            && taken + next <= room
        {
            taken += next;
            self.waiting -= 1;
        }
        let (first, second) = self.frames.as_slices();
        let split = taken.min(first.len());
        out.extend_from_slice(first.get(..split).unwrap_or_default());
        out.extend_from_slice(second.get(..taken - split).unwrap_or_default());
        self.frames.drain(..taken);
        taken
    }

    /// Bytes of the oldest frame.
    fn front(&self) -> Option<usize> {
        self.front_at(0)
    }

    fn front_at(&self, at: usize) -> Option<usize> {
        let length = [*self.frames.get(at)?, *self.frames.get(at + 1)?];
        Some(LENGTH + usize::from(u16::from_be_bytes(length)))
    }

    /// Bytes that wait, lengths included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Datagrams dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn fits(length: usize) -> bool {
    (1..=MAX_DATAGRAM).contains(&length)
}

/// Appends the count of bytes received so far.
pub fn write_count(received: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; LENGTH]);
    let low = u32::try_from(received & u64::from(u32::MAX)).unwrap_or_default();
    out.extend_from_slice(&low.to_be_bytes());
}

#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Datagram(&'a [u8]),
    /// Bytes of datagram frames that the other side has received, modulo 2³².
    Count(u32),
}

/// The other side does not keep to the format: close.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a datagram of {0} bytes was announced")]
pub struct TooLong(pub usize);

/// Cuts what was read into frames. Its buffer is made once and never grows.
#[derive(Debug)]
pub struct Decoder {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buf: vec![0; Self::SIZE].into_boxed_slice(), start: 0, end: 0 }
    }
}

impl Decoder {
    const SIZE: usize = 32 * 1024;

    /// Where the next bytes are to be read to; never empty once `next_frame` has returned `Ok(None)`.
    pub fn spare(&mut self) -> &mut [u8] {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.buf.get_mut(self.end..).unwrap_or_default()
    }

    /// The first `bytes` of what `spare` gave have been filled.
    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buf.len());
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// When a datagram longer than [`MAX_DATAGRAM`] is announced.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, TooLong> {
        let rest = self.buf.get(self.start..self.end).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            let Some(count) = rest.first_chunk() else { return Ok(None) };
            self.start += LENGTH + count.len();
            return Ok(Some(Frame::Count(u32::from_be_bytes(*count))));
        }
        if !fits(length) {
            return Err(TooLong(length));
        }
        let Some(datagram) = rest.get(..length) else { return Ok(None) };
        self.start += LENGTH + length;
        Ok(Some(Frame::Datagram(datagram)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(n: u32, length: usize) -> Vec<u8> {
        let mut datagram = vec![0xAA; length.max(4)];
        datagram[..4].copy_from_slice(&n.to_be_bytes());
        datagram
    }

    /// Feeds `wire` in pieces of `piece` bytes; the datagrams and counts that come out.
    fn decode(wire: &[u8], piece: usize) -> Result<(Vec<Vec<u8>>, Vec<u32>), TooLong> {
        let mut decoder = Decoder::default();
        let (mut datagrams, mut counts) = (Vec::new(), Vec::new());
        for part in wire.chunks(piece) {
            let spare = decoder.spare();
            assert!(spare.len() >= Decoder::SIZE - MAX_DATAGRAM - LENGTH);
            spare[..part.len()].copy_from_slice(part);
            decoder.filled(part.len());
            while let Some(frame) = decoder.next_frame()? {
                match frame {
                    Frame::Datagram(datagram) => datagrams.push(datagram.to_vec()),
                    Frame::Count(count) => counts.push(count),
                }
            }
        }
        Ok((datagrams, counts))
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut queue = SendQueue::default();
        for n in 0..1_000 {
            queue.push(&datagram(n, 4));
        }
        assert_eq!(queue.dropped(), 1_000 - MAX_WAITING as u64);
        let mut wire = Vec::new();
        queue.take(usize::MAX, &mut wire);
        let (got, _) = decode(&wire, 1_000).unwrap();
        assert_eq!(got, (1_000 - MAX_WAITING as u32..1_000).map(|n| datagram(n, 4)).collect::<Vec<_>>());
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn what_can_never_be_sent_takes_nothing_with_it() {
        let mut queue = SendQueue::default();
        queue.push(&datagram(1, MAX_DATAGRAM));
        queue.push(&[]);
        queue.push(&[0; MAX_DATAGRAM + 1]);
        queue.push(&[0; 70_000]);
        assert_eq!((queue.dropped(), queue.bytes()), (3, LENGTH + MAX_DATAGRAM));
        assert_eq!(queue.take(LENGTH + MAX_DATAGRAM - 1, &mut Vec::new()), 0, "no part of a frame");
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        assert_eq!(decode(&1501u16.to_be_bytes(), 8), Err(TooLong(1501)));
        assert_eq!(decode(&[0xFF, 0xFF, 1], 8), Err(TooLong(65_535)));
        assert_eq!(decode(&[5, 220], 8), Ok((vec![], vec![])), "1500 is the longest");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_the_newest_in_order_and_within_the_bounds(
            lengths in proptest::collection::vec(4usize..=MAX_DATAGRAM, 1..400),
            take_each in 1usize..50,
            room in 0usize..20_000,
            piece in 1usize..5_000,
        ) {
            let mut queue = SendQueue::default();
            let mut wire = Vec::new();
            let mut moved = 0;
            for (n, &length) in lengths.iter().enumerate() {
                queue.push(&datagram(n as u32, length));
                prop_assert!(queue.bytes() <= MAX_WAITING_BYTES && queue.waiting <= MAX_WAITING);
                if n % take_each == 0 {
                    let before = wire.len();
                    let taken = queue.take(room, &mut wire);
                    prop_assert!(taken <= room && wire.len() - before == taken);
                    moved += taken;
                    write_count(moved as u64, &mut wire);
                }
            }
            queue.take(usize::MAX, &mut wire);
            let (got, counts) = decode(&wire, piece).unwrap();
            prop_assert_eq!(got.len() as u64 + queue.dropped(), lengths.len() as u64);
            let number = |datagram: &Vec<u8>| u32::from_be_bytes(datagram[..4].try_into().unwrap());
            prop_assert!(got.windows(2).all(|two| number(&two[0]) < number(&two[1])));
            prop_assert_eq!(number(got.last().unwrap()) as usize, lengths.len() - 1, "the newest is never the one to go");
            prop_assert!(got.iter().all(|it| it.len() == lengths[number(it) as usize]));
            prop_assert_eq!(counts.last().copied(), (!counts.is_empty()).then_some(moved as u32));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5_000), piece in 1usize..3_000) {
            if let Ok((datagrams, _)) = decode(&bytes, piece) {
                prop_assert!(datagrams.iter().all(|it| (1..=MAX_DATAGRAM).contains(&it.len())));
                prop_assert!(datagrams.iter().map(Vec::len).sum::<usize>() <= bytes.len());
            }
        }
    }
}

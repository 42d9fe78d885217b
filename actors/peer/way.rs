//! How a datagram gets to the peer, and the batches that carry it there.

use crate::wire::{Class, Endpoint, RelayToken, TransmitBatch};

/// Bytes in front of what a relay is asked to forward: `0x93`, version 1, the receiver's token.
pub const RELAY_HEADER: usize = 2 + RelayToken::LEN;
const FORWARD: [u8; 2] = [0x93, 1];

/// Where to send, and the leave to send there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    to: Endpoint,
    /// The peer's, by which the relay forwards. There is one exactly when `to.relayed`.
    token: Option<RelayToken>,
}

impl Way {
    /// Straight to the peer; `to` must not be relayed.
    #[must_use]
    pub fn straight(to: Endpoint) -> Self {
        Self { to: Endpoint { relayed: false, ..to }, token: None }
    }

    #[must_use]
    pub fn relayed(to: Endpoint, token: RelayToken) -> Self {
        Self { to: Endpoint { relayed: true, ..to }, token: Some(token) }
    }

    #[must_use]
    pub fn to(&self) -> Endpoint {
        self.to
    }

    /// Bytes that go before each datagram.
    #[must_use]
    pub fn header_len(&self) -> usize {
        if self.token.is_some() { RELAY_HEADER } else { 0 }
    }

    /// Writes the header and gives back what follows it.
    fn write_header<'a>(&self, slot: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let Some(token) = &self.token else { return Some(slot) };
        let (header, rest) = slot.split_at_mut_checked(RELAY_HEADER)?;
        header[..2].copy_from_slice(&FORWARD);
        header[2..].copy_from_slice(&token.bytes());
        Some(rest)
    }
}

/// Adds one datagram to the last batch when it fits its shape, else to a new one. `expected`, `room` and what `write`
/// sees are without the header.
pub fn append(
    transmits: &mut Vec<TransmitBatch>,
    way: &Way,
    class: Class,
    expected: usize,
    room: usize,
    write: impl FnOnce(&mut [u8]) -> Option<usize>,
) {
    let header = way.header_len();
    let mut write = Some(write);
    let mut fill = |slot: &mut [u8]| Some(header + write.take()?(way.write_header(slot)?)?);
    if let Some(last) = transmits.last_mut()
        && last.destination() == way.to.addr
        && last.local() == way.to.local
        && last.class() == class
        && last.push_with(header + expected, header + room, &mut fill)
    {
        return;
    }
    let mut batch = TransmitBatch::on(way.to.local, way.to.addr).with_class(class);
    batch.push_with(header + expected, header + room, fill);
    if !batch.is_empty() {
        transmits.push(batch);
    }
}

pub fn append_copy(transmits: &mut Vec<TransmitBatch>, way: &Way, class: Class, message: &[u8]) {
    append(transmits, way, class, message.len(), message.len(), |slot| {
        slot.get_mut(..message.len())?.copy_from_slice(message);
        Some(message.len())
    });
}

/// What keeps the tunnel up does not wait behind what the tunnel carries: a probe that did would take a busy path for a
/// slow or a dead one.
pub fn append_message(transmits: &mut Vec<TransmitBatch>, way: &Way, message: &[u8]) {
    append_copy(transmits, way, Class::EXPEDITED, message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_goes_before_each_datagram() {
        let relay = Endpoint::relayed(([192, 0, 2, 1], 9).into());
        let way = Way::relayed(relay, RelayToken::new([7; 50]));
        let mut out = Vec::new();
        append_message(&mut out, &way, &[1; 100]);
        append_message(&mut out, &way, &[2; 100]);
        append_message(&mut out, &way, &[3; 101]);
        assert_eq!(out.iter().map(|it| (it.segments(), it.segment_size())).collect::<Vec<_>>(), [(2, 152), (1, 153)]);
        for datagram in out[0].contents().chunks(152) {
            assert_eq!((&datagram[..2], &datagram[2..52]), (&FORWARD[..], &[7; 50][..]));
        }
        assert_eq!(out[0].contents()[152 + 52..], [2; 100]);
        append_message(&mut out, &Way::straight(Endpoint::direct(([192, 0, 2, 2], 9).into())), &[4; 60]);
        assert_eq!(out[2].contents(), [4; 60]);
    }
}

//! The part of Kademlia's wire format that hostile nodes need to answer with whatever they like (protobuf, by hand:
//! libp2p keeps its own private). <https://github.com/libp2p/specs/blob/master/kad-dht/README.md#rpc-messages>

use libp2p::{Multiaddr, PeerId};

pub const ADD_PROVIDER: u64 = 2;
pub const GET_PROVIDERS: u64 = 3;
pub const FIND_NODE: u64 = 4;

/// Longest message that libp2p sends.
pub const MAX_MESSAGE: usize = 16 * 1024;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Request {
    pub kind: u64,
    pub key: Vec<u8>,
}

impl Request {
    /// `None`: not a message.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut request = Self::default();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            match (tag >> 3, tag & 7) {
                (1, 0) => request.kind = varint(&mut bytes)?,
                (2, 2) => request.key = take(&mut bytes)?.to_vec(),
                (_, 0) => drop(varint(&mut bytes)?),
                (_, 2) => drop(take(&mut bytes)?),
                _ => return None,
            }
        }
        Some(request)
    }
}

/// An answer with its length in front.
#[must_use]
pub fn answer(request: &Request, closer: &[(PeerId, Multiaddr)], providers: &[(PeerId, Multiaddr)]) -> Vec<u8> {
    let mut body = Vec::new();
    put_varint(&mut body, 1 << 3);
    put_varint(&mut body, request.kind);
    put_bytes(&mut body, 2, &request.key);
    for (field, peers) in [(8, closer), (9, providers)] {
        for (peer, addr) in peers {
            let mut one = Vec::new();
            put_bytes(&mut one, 1, &peer.to_bytes());
            put_bytes(&mut one, 2, &addr.to_vec());
            put_bytes(&mut body, field, &one);
        }
    }
    let mut framed = Vec::new();
    put_varint(&mut framed, body.len() as u64);
    framed.extend(body);
    framed
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

pub fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let request = Request { kind: GET_PROVIDERS, key: vec![9; 300] };
        let peer = (PeerId::random(), "/ip4/20.0.0.1/tcp/4001".parse().unwrap());
        let framed = answer(&request, &[peer.clone(), peer.clone()], &[peer]);
        let mut rest = &framed[..];
        assert_eq!(varint(&mut rest), Some(rest.len() as u64));
        assert_eq!(Request::decode(rest), Some(request));
        for end in 1..rest.len() {
            let _ = Request::decode(&rest[..end]);
        }
        assert_eq!(varint(&mut &[0xff; 20][..]), None);
    }
}

//! What a datagram is, by its first bytes, and which peer it is for.

use std::collections::HashMap;

use super::messages::PeerRoute;
use super::stun;
use crate::peer::messages::{PROBE_MAGIC, probe_tag};
use crate::wire::WgPublicKey;

/// What the first bytes say. Nothing is authenticated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// WireGuard handshake initiation: which peer it is from stands inside, encrypted.
    HandshakeInit,
    /// Any other WireGuard message, with the upper 24 bits of the receiver index.
    Session {
        index: u32,
    },
    Probe {
        tag: [u8; 8],
    },
    Stun,
    /// A frame between a relay and its client or a sender; not what the relay forwarded.
    Relay,
    Unknown,
}

/// First bytes of what relays and their clients say to each other.
pub const RELAY_FRAMES: std::ops::RangeInclusive<u8> = 0x91..=0x93;
/// First byte of what a relay forwarded; the sender's datagram follows.
pub const FORWARDED: u8 = 0x94;

/// A class, and how it got here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub class: Class,
    /// A relay forwarded it: its first byte is not part of it.
    pub relayed: bool,
}

/// [`classify`], after the byte with which a relay marks what it forwards. Only what peers send each other is forwarded.
#[must_use]
pub fn kind(datagram: &[u8]) -> Kind {
    match datagram {
        [FORWARDED, inner @ ..] => {
            let class = classify(inner);
            let class = if matches!(class, Class::Stun | Class::Relay) { Class::Unknown } else { class };
            Kind { class, relayed: true }
        }
        _ => Kind { class: classify(datagram), relayed: false },
    }
}

#[must_use]
pub fn classify(datagram: &[u8]) -> Class {
    let index_at = |at: usize| {
        let bytes: Option<[u8; 4]> = datagram.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(Class::Unknown, |bytes| Class::Session { index: u32::from_le_bytes(bytes) >> 8 })
    };
    // Lengths: WireGuard, section 5.4 of the paper.
    match (datagram.get(..4), datagram.len()) {
        (Some([1, 0, 0, 0]), 148) => Class::HandshakeInit,
        (Some([2, 0, 0, 0]), 92) => index_at(8),
        (Some([3, 0, 0, 0]), 64) => index_at(4),
        (Some([4, 0, 0, 0]), 32..) => index_at(4),
        (Some([first, ..]), _) if RELAY_FRAMES.contains(first) => Class::Relay,
        _ if stun::is_stun(datagram) => Class::Stun,
        (Some([PROBE_MAGIC, ..]), _) => probe_tag(datagram).map_or(Class::Unknown, |tag| Class::Probe { tag }),
        _ => Class::Unknown,
    }
}

/// Which peer a class belongs to. `T` is how the peer is reached.
#[derive(Debug)]
pub struct Routes<T> {
    by_index: HashMap<u32, T>,
    /// With the index of the route that the entry belongs to: a route that is late to go must not take its successor's.
    by_tag: HashMap<[u8; 8], (u32, T)>,
    by_key: HashMap<WgPublicKey, (u32, T)>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { by_index: HashMap::new(), by_tag: HashMap::new(), by_key: HashMap::new() }
    }
}

impl<T: Clone> Routes<T> {
    pub fn insert(&mut self, route: &PeerRoute, to: &T) {
        self.by_index.insert(route.index, to.clone());
        self.by_tag.insert(route.probe_tag, (route.index, to.clone()));
        self.by_key.insert(route.wg_key, (route.index, to.clone()));
    }

    pub fn remove(&mut self, route: &PeerRoute) {
        self.by_index.remove(&route.index);
        if self.by_tag.get(&route.probe_tag).is_some_and(|(owner, _)| *owner == route.index) {
            self.by_tag.remove(&route.probe_tag);
        }
        if self.by_key.get(&route.wg_key).is_some_and(|(owner, _)| *owner == route.index) {
            self.by_key.remove(&route.wg_key);
        }
    }

    /// Only sessions and probes belong to somebody as such.
    #[must_use]
    pub fn find(&self, class: Class) -> Option<&T> {
        match class {
            Class::Session { index } => self.by_index.get(&index),
            Class::Probe { tag } => self.by_tag.get(&tag).map(|(_, to)| to),
            Class::HandshakeInit | Class::Stun | Class::Relay | Class::Unknown => None,
        }
    }

    #[must_use]
    pub fn find_key(&self, key: WgPublicKey) -> Option<&T> {
        self.by_key.get(&key).map(|(_, to)| to)
    }
}

/// Splits what one receive call gave (`stride` bytes a datagram) into runs of the same class, so that a run travels as
/// one batch.
pub fn runs(data: &[u8], stride: usize) -> impl Iterator<Item = (Kind, &[u8])> {
    let stride = stride.max(1);
    let mut rest = data;
    std::iter::from_fn(move || {
        let kind = kind(rest.get(..stride.min(rest.len())).filter(|first| !first.is_empty())?);
        // Initiations go one by one: each may be from another peer.
        let datagrams = if kind.class == Class::HandshakeInit {
            1
        } else {
            rest.chunks(stride).take_while(|datagram| self::kind(datagram) == kind).count()
        };
        let (run, after) = rest.split_at((datagrams * stride).min(rest.len()));
        rest = after;
        Some((kind, run))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u8, len: usize, index_at: usize, index: u32) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[0] = kind;
        bytes[index_at..index_at + 4].copy_from_slice(&(index << 8 | 5).to_le_bytes());
        bytes
    }

    #[test]
    fn classes() {
        let session = Class::Session { index: 0xABCDEF };
        for (bytes, class) in [
            (message(1, 148, 4, 9), Class::HandshakeInit),
            (message(1, 147, 4, 9), Class::Unknown),
            (message(2, 92, 8, 0xABCDEF), session),
            (message(3, 64, 4, 0xABCDEF), session),
            (message(4, 32, 4, 0xABCDEF), session),
            (message(4, 31, 4, 0xABCDEF), Class::Unknown),
            (message(0, 20, 4, 1), Class::Unknown),
            (vec![], Class::Unknown),
            (vec![4, 0, 0], Class::Unknown),
            (vec![0x91; 82], Class::Relay),
            (vec![0x93, 1], Class::Unknown),
            ([&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[9; 12]].concat(), Class::Stun),
        ] {
            assert_eq!(classify(&bytes), class, "{bytes:?}");
        }
    }

    #[test]
    fn a_run_is_one_peer() {
        let data = [message(4, 40, 4, 1), message(4, 40, 4, 1), message(4, 40, 4, 2), message(4, 33, 4, 2)].concat();
        let got: Vec<_> = runs(&data, 40).map(|(kind, run)| (kind.class, run.len())).collect();
        assert_eq!(got, [(Class::Session { index: 1 }, 80), (Class::Session { index: 2 }, 73)]);
    }

    #[test]
    fn what_a_relay_forwards_is_told_apart() {
        let forwarded = |inner: Vec<u8>| kind(&[vec![FORWARDED], inner].concat());
        let session = Class::Session { index: 3 };
        assert_eq!(forwarded(message(4, 40, 4, 3)), Kind { class: session, relayed: true });
        assert_eq!(forwarded(vec![0x93; 60]), Kind { class: Class::Unknown, relayed: true });
        assert_eq!(forwarded(vec![FORWARDED; 60]), Kind { class: Class::Unknown, relayed: true });
        let data = [message(4, 41, 4, 3), [&[FORWARDED][..], &message(4, 40, 4, 3)].concat()].concat();
        assert_eq!(runs(&data, 41).count(), 2, "direct and relayed are two runs");
    }

    #[test]
    fn removed_routes_are_gone() {
        let mut routes = Routes::default();
        let route = PeerRoute { index: 7, probe_tag: [1; 8], wg_key: WgPublicKey([2; 32]) };
        routes.insert(&route, &"peer");
        assert_eq!(routes.find(Class::Session { index: 7 }), Some(&"peer"));
        assert_eq!(routes.find(Class::Probe { tag: [1; 8] }), Some(&"peer"));
        assert_eq!(routes.find_key(route.wg_key), Some(&"peer"));
        routes.remove(&route);
        assert_eq!(routes.find(Class::Session { index: 7 }), None);
        assert_eq!(routes.find(Class::Probe { tag: [1; 8] }), None);
        assert_eq!(routes.find_key(route.wg_key), None);
    }

    #[test]
    fn a_late_removal_leaves_the_successor_alone() {
        let mut routes = Routes::default();
        let old = PeerRoute { index: 7, probe_tag: [1; 8], wg_key: WgPublicKey([2; 32]) };
        let new = PeerRoute { index: 8, ..old };
        routes.insert(&old, &"old");
        routes.insert(&new, &"new");
        routes.remove(&old);
        assert_eq!(routes.find(Class::Probe { tag: [1; 8] }), Some(&"new"));
        assert_eq!(routes.find_key(old.wg_key), Some(&"new"));
        assert_eq!(routes.find(Class::Session { index: 7 }), None);
    }

    proptest! {
        #[test]
        fn runs_cover_every_byte_once(
            data in proptest::collection::vec(any::<u8>(), 0..600),
            kinds in proptest::collection::vec(0u8..6, 0..20),
            stride in 0usize..200,
        ) {
            let mut data = data;
            for (chunk, kind) in data.chunks_mut(stride.max(1)).zip(kinds) {
                if let Some(first) = chunk.get_mut(..4) {
                    first.copy_from_slice(&[kind, 0, 0, 0]);
                }
            }
            let joined: Vec<u8> = runs(&data, stride).flat_map(|(_, run)| run.to_vec()).collect();
            prop_assert_eq!(&joined, &data);
            for (expected, run) in runs(&data, stride) {
                prop_assert!(run.chunks(stride.max(1)).all(|datagram| kind(datagram) == expected));
            }
        }
    }
}

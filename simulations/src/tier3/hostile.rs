//! What hostile DHT nodes do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;

use libp2p::identity::Keypair;
use libp2p::kad::{KBucketKey, RecordKey};
use libp2p::{Multiaddr, PeerId};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::RngCore as _;
use serde::Deserialize;

use super::kadwire::{ADD_PROVIDER, FIND_NODE, GET_PROVIDERS, Request, answer};
use super::node::PORT;
use super::transport::tcp;

/// Nodes and providers in a lie.
const CLOSER: usize = 20;
const PROVIDERS: usize = 3;
/// Invented ids tried per key; the nearest are named. Costs an attacker a few milliseconds.
const INVENTED: usize = 20_000;
/// Real key pairs tried for one Sybil before the search is given up.
const MAX_TRIES: usize = 10_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// Takes requests and never answers.
    Drop,
    /// Names invented nodes nearer to the key than any real one, and invented providers; their addresses are silent.
    Lie,
    /// Real nodes with ids around the key that name only each other and invented providers, and forget what they are
    /// told.
    Sybil,
}

/// Per key, whom hostile nodes name. All of them work together.
#[derive(Debug, Default)]
pub struct Conspiracy {
    closer: RefCell<BTreeMap<Vec<u8>, Vec<(PeerId, Multiaddr)>>>,
    providers: RefCell<BTreeMap<Vec<u8>, Vec<(PeerId, Multiaddr)>>>,
}

#[derive(Debug, Clone)]
pub struct Conduct {
    pub deed: Deed,
    pub conspiracy: Rc<Conspiracy>,
}

impl Conduct {
    pub(super) fn answer(&self, request: &Request) -> Option<Vec<u8>> {
        match (self.deed, request.kind) {
            (Deed::Drop, _) | (_, ADD_PROVIDER) => None,
            (Deed::Lie | Deed::Sybil, GET_PROVIDERS | FIND_NODE) => {
                let closer = self.conspiracy.closer.borrow();
                let providers = self.conspiracy.providers.borrow();
                let named = |map: &BTreeMap<Vec<u8>, Vec<_>>| map.get(&request.key).cloned().unwrap_or_default();
                let providers = if request.kind == GET_PROVIDERS { named(&providers) } else { Vec::new() };
                Some(answer(request, &named(&closer), &providers))
            }
            (Deed::Lie | Deed::Sybil, _) => None,
        }
    }
}

impl Conspiracy {
    /// Prepares the lies about one key.
    pub fn invent(&self, rng: &mut ChaCha12Rng, key: &RecordKey) {
        let target = KBucketKey::new(key.clone());
        let mut ids: Vec<_> = (0..INVENTED)
            .map(|_| {
                let mut seed = [0; 8];
                rng.fill_bytes(&mut seed);
                let id = invented(seed);
                (target.distance(&KBucketKey::from(id)), id)
            })
            .collect();
        ids.sort();
        let mut silent = || tcp(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) | rng.next_u32() >> 15), PORT);
        let mut named = ids.into_iter().map(|(_, id)| (id, silent()));
        self.providers.borrow_mut().insert(key.to_vec(), named.by_ref().take(PROVIDERS).collect());
        self.closer.borrow_mut().insert(key.to_vec(), named.take(CLOSER).collect());
    }

    /// The Sybils around a key name each other.
    pub fn collude(&self, key: &RecordKey, sybils: Vec<(PeerId, Multiaddr)>) {
        self.closer.borrow_mut().insert(key.to_vec(), sybils);
    }
}

/// Nobody has the key to it.
fn invented(seed: [u8; 8]) -> PeerId {
    let mut bytes = vec![0x12, 0x20];
    bytes.extend_from_slice(blake3::hash(&seed).as_bytes());
    // SHA2-256 multihash: any 32 bytes are one.
    PeerId::from_bytes(&bytes).unwrap_or_else(|_| PeerId::random())
}

/// Key pairs whose ids are nearer to `key` than all of `honest`, and how many had to be tried.
#[must_use]
pub fn grind(rng: &mut ChaCha12Rng, key: &RecordKey, honest: &[PeerId], count: usize) -> (Vec<Keypair>, usize) {
    let target = KBucketKey::new(key.clone());
    let Some(nearest) = honest.iter().map(|&peer| target.distance(&KBucketKey::from(peer))).min() else {
        return (Vec::new(), 0);
    };
    let mut found = Vec::new();
    let mut tries = 0;
    while found.len() < count && tries < MAX_TRIES {
        tries += 1;
        let keys = super::keys(rng);
        if target.distance(&KBucketKey::from(keys.public().to_peer_id())) < nearest {
            found.push(keys);
        }
    }
    (found, tries)
}

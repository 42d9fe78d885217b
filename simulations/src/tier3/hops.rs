//! How far a look-up had to go. Kademlia does not say, but all nodes are here: whoever answers, its closest nodes are
//! one hop further than it is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use libp2p::PeerId;
use libp2p::kad::{KBucketKey, RecordKey};

/// One look-up at a time.
#[derive(Debug)]
struct Current {
    target: KBucketKey<RecordKey>,
    /// How many requests it takes to learn of a node and ask it, at least.
    depth: BTreeMap<PeerId, u32>,
    answered: u32,
    named_at: Option<u32>,
}

/// Shared by all nodes.
#[derive(Debug, Clone, Default)]
pub struct Hops(Rc<RefCell<Option<Current>>>);

/// What was seen of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Requests one after the other until an answer named a provider.
    pub to_provider: Option<u32>,
    /// Honest nodes that answered.
    pub answered: u32,
}

/// Nodes that Kademlia names in one answer.
const NAMED: usize = 20;

impl Hops {
    /// `known`: the nodes that the asker knows already.
    pub fn start(&self, key: &RecordKey, known: impl IntoIterator<Item = PeerId>) {
        let depth = known.into_iter().map(|peer| (peer, 1)).collect();
        let target = KBucketKey::new(key.clone());
        *self.0.borrow_mut() = Some(Current { target, depth, answered: 0, named_at: None });
    }

    #[must_use]
    pub fn end(&self) -> Option<Seen> {
        let current = self.0.borrow_mut().take()?;
        Some(Seen { to_provider: current.named_at, answered: current.answered })
    }

    pub(super) fn answered(
        &self,
        who: PeerId,
        named: bool,
        closest: impl FnOnce(&KBucketKey<RecordKey>) -> Vec<KBucketKey<PeerId>>,
    ) {
        let mut current = self.0.borrow_mut();
        let Some(current) = current.as_mut() else { return };
        current.answered += 1;
        let Some(&depth) = current.depth.get(&who) else { return };
        if named {
            current.named_at = Some(current.named_at.map_or(depth, |known| known.min(depth)));
        }
        for peer in closest(&current.target).into_iter().take(NAMED) {
            let known = current.depth.entry(*peer.preimage()).or_insert(depth + 1);
            *known = (*known).min(depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_chain_of_answers_counts() {
        let hops = Hops::default();
        let key = RecordKey::new(&[1; 32]);
        let [a, b, c] = [(); 3].map(|()| PeerId::random());
        let names = |peer: PeerId| move |_: &KBucketKey<RecordKey>| vec![KBucketKey::from(peer)];
        hops.answered(a, true, names(b));
        assert_eq!(hops.end(), None, "nothing was looked up");
        hops.start(&key, [a]);
        hops.answered(a, false, names(b));
        hops.answered(b, false, names(c));
        hops.answered(c, true, names(a));
        assert_eq!(hops.end(), Some(Seen { to_provider: Some(3), answered: 3 }));
    }
}

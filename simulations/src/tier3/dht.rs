//! Puts a DHT together.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::kad::{KBucketKey, RecordKey};
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::RngCore as _;

use super::hops::Hops;
use super::hostile::{Conduct, Conspiracy, Deed, grind};
use super::net::Network;
use super::node::{Duty, Node};
use super::settings::{Dht as Settings, Formation};
use crate::progress::Progress;

/// Entries of a bucket.
const K: usize = 20;
/// Nodes that a newcomer is told.
pub const CONTACTS: usize = 3;
/// A node joins each so often, and the last ones get this much time to settle.
const JOIN_EVERY: Duration = Duration::from_millis(500);
const SETTLE: Duration = Duration::from_secs(60);

/// A DHT that stands.
#[allow(missing_debug_implementations, reason = "nodes have none")]
pub struct Dht {
    pub net: Network,
    pub nodes: Vec<Node>,
    pub hops: Hops,
    pub keys: Vec<RecordKey>,
    /// Identities tried for the Sybils.
    pub ground: usize,
}

impl Dht {
    /// `size` nodes, Sybils not counted, and `keys` rendezvous keys.
    pub(super) async fn form(
        rng: &mut ChaCha12Rng,
        size: usize,
        keys: usize,
        settings: &Settings,
        progress: &Progress,
    ) -> io::Result<Self> {
        let mut dht =
            Self { net: Network::default(), nodes: Vec::new(), hops: Hops::default(), keys: Vec::new(), ground: 0 };
        let conspiracy = Rc::new(Conspiracy::default());
        for _ in 0..keys {
            let mut key = [0; 32];
            rng.fill_bytes(&mut key);
            let key = RecordKey::new(&key);
            conspiracy.invent(rng, &key);
            dht.keys.push(key);
        }
        let filled = settings.formation == Formation::Filled;
        let mut duties: Vec<Duty> = Vec::new();
        let (hostile, relays) = (part(size, settings.hostile), part(size, settings.relays));
        for index in 0..size {
            duties.push(match settings.deed {
                Some(deed) if index < hostile => Duty::Hostile(Conduct { deed, conspiracy: conspiracy.clone() }),
                Some(_) | None => Duty::Server { relay: index < hostile + relays, filled },
            });
        }
        duties.shuffle(rng);
        let total = duties.len() + settings.sybils * keys;
        for duty in duties {
            let keys = super::keys(rng);
            dht.add(rng, &keys, duty)?;
            if !filled {
                let known: Vec<usize> = (0..dht.nodes.len() - 1).collect();
                dht.introduce(rng, &known, dht.nodes.len() - 1);
                tokio::time::sleep(JOIN_EVERY).await;
            }
            progress.set(0.4 * ratio(dht.nodes.len(), total), "the DHT forms");
        }
        dht.add_sybils(rng, settings.sybils, &conspiracy)?;
        // Listening is an event; it must be over before the tables are filled.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if filled {
            dht.fill(rng, progress);
        } else {
            tokio::time::sleep(SETTLE).await;
        }
        let mut honest: Vec<usize> = (0..dht.nodes.len()).filter(|&index| !dht.nodes[index].hostile).collect();
        honest.shuffle(rng);
        for &index in honest.iter().take(part(size, settings.gone)) {
            dht.nodes[index].vanish(&dht.net);
        }
        Ok(dht)
    }

    fn add(&mut self, rng: &mut ChaCha12Rng, keys: &libp2p::identity::Keypair, duty: Duty) -> io::Result<()> {
        let host = self.net.host(rng, false);
        self.nodes.push(Node::start(&self.net, host, keys, duty, &self.hops)?);
        Ok(())
    }

    fn add_sybils(&mut self, rng: &mut ChaCha12Rng, each: usize, conspiracy: &Rc<Conspiracy>) -> io::Result<()> {
        if each == 0 {
            return Ok(());
        }
        let honest: Vec<PeerId> = self.nodes.iter().map(|node| node.peer).collect();
        for key in self.keys.clone() {
            let (identities, tries) = grind(rng, &key, &honest, each);
            self.ground += tries;
            let first = self.nodes.len();
            for keys in identities {
                let conduct = Conduct { deed: Deed::Sybil, conspiracy: conspiracy.clone() };
                self.add(rng, &keys, Duty::Hostile(conduct))?;
            }
            conspiracy.collude(&key, self.nodes[first..].iter().map(|n| (n.peer, n.addr.clone())).collect());
        }
        Ok(())
    }

    /// Tells `newcomer` some of `known`.
    fn introduce(&self, rng: &mut ChaCha12Rng, known: &[usize], newcomer: usize) {
        let mut known = known.to_vec();
        known.shuffle(rng);
        for &index in known.iter().take(CONTACTS) {
            let contact = &self.nodes[index];
            self.nodes[newcomer].kad(|kad| kad.add_address(&contact.peer, contact.addr.clone()));
        }
    }

    /// Each table gets up to 20 random nodes per bucket.
    fn fill(&self, rng: &mut ChaCha12Rng, progress: &Progress) {
        let places: Vec<KBucketKey<PeerId>> = self.nodes.iter().map(|node| KBucketKey::from(node.peer)).collect();
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        for (index, node) in self.nodes.iter().enumerate() {
            if node.hostile {
                continue;
            }
            order.shuffle(rng);
            let mut room: BTreeMap<Option<u32>, usize> = BTreeMap::new();
            let mut chosen = Vec::new();
            for &other in order.iter().filter(|&&other| other != index) {
                let bucket = room.entry(places[index].distance(&places[other]).ilog2()).or_insert(K);
                if *bucket > 0 {
                    *bucket -= 1;
                    chosen.push(other);
                }
            }
            node.fill(chosen.iter().map(|&other| (&self.nodes[other].peer, &self.nodes[other].addr)));
            progress.set(0.4 + 0.1 * ratio(index, self.nodes.len()), "the tables fill");
        }
    }

    /// Honest nodes that still have power.
    pub fn healthy(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.hostile && !node.is_gone())
    }

    /// Random healthy nodes, as a bootstrap list would name them.
    pub fn contacts(&self, rng: &mut ChaCha12Rng) -> Vec<&Node> {
        let mut healthy: Vec<&Node> = self.healthy().collect();
        healthy.shuffle(rng);
        healthy.truncate(CONTACTS);
        healthy
    }
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub(super) fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / (whole.max(1)) as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to 1")]
fn part(whole: usize, part: f64) -> usize {
    (whole as f64 * part).round() as usize
}

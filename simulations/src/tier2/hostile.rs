//! A stranger who watches the DHT and the wire but does not know the code. He tries proofs, replays and forgeries; the
//! oracle is that he hears nothing but greetings and refusals, and that nothing of his gets into a tunnel.
#![allow(missing_debug_implementations)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use lanrage_actors::discovery::messages::{
    LinkClosed, LinkFrame, LinkId, LinkOpened, NodeAddrs, OwnAddrs, Seek, SendFrame,
};
use lanrage_actors::party::frame::Frame;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;

use super::clock;
use super::discovery::{SimDiscovery, multiaddr};
use super::net::DATA_PORT;
use super::world;

const ATTACK_EVERY: Duration = Duration::from_millis(500);
const KEPT: usize = 64;

pub struct Hostile {
    node: usize,
    rng: ChaCha12Rng,
    discovery: Option<Addr<SimDiscovery>>,
    links: BTreeMap<LinkId, bool>,
    /// MACs that members have shown him.
    macs: Vec<[u8; 32]>,
    proofs: u64,
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Attack(pub Addr<SimDiscovery>);

impl Hostile {
    #[must_use]
    pub fn new(node: usize, seed: u64) -> Self {
        let rng = ChaCha12Rng::seed_from_u64(seed);
        Self { node, rng, discovery: None, links: BTreeMap::new(), macs: Vec::new(), proofs: 0 }
    }

    fn say(&self, link: LinkId, frame: &Frame) {
        if let (Some(discovery), Ok(frame)) = (&self.discovery, frame.encode()) {
            let _ = discovery.try_send(SendFrame { link, frame });
        }
    }

    /// Whom he knows of: everybody who runs.
    fn seek(&self) {
        let node = self.node;
        let nodes = world::with(|world| {
            let now = clock::elapsed();
            // He runs a node of the DHT and sees the keys.
            world.dht.publish_everywhere(now, node);
            let up = (0..world.honest).filter(|&other| world.net.sites[other].up);
            up.map(|other| NodeAddrs { node: world.ids[other], addrs: vec![multiaddr(world, other)] }).collect()
        });
        if let Some(discovery) = &self.discovery {
            let _ = discovery.try_send(Seek { keys: vec![self.rng.clone().random()], nodes, eager: true });
        }
    }

    fn proof(&mut self) -> Frame {
        self.proofs += 1;
        let count = if self.rng.random_bool(0.5) { 1 } else { 5 };
        let macs = (0..count).map(|_| match self.macs.choose(&mut self.rng) {
            Some(mac) if self.rng.random_bool(0.5) => *mac,
            Some(_) | None => self.rng.random(),
        });
        Frame::Proof { macs: macs.collect() }
    }

    fn datagrams(&mut self) {
        let node = self.node;
        world::with(|world| {
            for target in 0..world.honest {
                if !world.net.sites[target].up {
                    continue;
                }
                let to = SocketAddr::new(world.net.sites[target].homes[0].ip, DATA_PORT);
                let mut bytes = match world.captured.choose(&mut self.rng) {
                    Some(captured) => captured.clone(),
                    None => vec![4, 0, 0, 0],
                };
                if self.rng.random_bool(0.5) {
                    let at = self.rng.random_range(0..bytes.len().max(1));
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= self.rng.random_range(1..=255u8);
                    }
                }
                world.send(node, DATA_PORT, to, bytes);
            }
        });
    }
}

impl Actor for Hostile {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        ctx.run_interval(ATTACK_EVERY, |actor, _| {
            actor.seek();
            actor.datagrams();
        });
    }
}

impl Handler<Attack> for Hostile {
    type Result = ();

    fn handle(&mut self, Attack(discovery): Attack, _: &mut Self::Context) {
        self.discovery = Some(discovery);
        self.seek();
    }
}

impl Handler<LinkOpened> for Hostile {
    type Result = ();

    fn handle(&mut self, it: LinkOpened, _: &mut Self::Context) {
        // Strangers among themselves are of no interest.
        let honest = world::with(|world| world.by_id.get(&it.node).is_some_and(|&node| node < world.honest));
        if !honest {
            return;
        }
        self.links.insert(it.link, it.outbound);
        let nonce = self.rng.random();
        self.say(it.link, &Frame::Hello { nonce });
    }
}

impl Handler<LinkFrame> for Hostile {
    type Result = ();

    fn handle(&mut self, it: LinkFrame, _: &mut Self::Context) {
        let Some(&outbound) = self.links.get(&it.link) else { return };
        match Frame::decode(&it.frame) {
            Ok(Frame::Hello { .. }) => {
                if self.rng.random_bool(0.2) {
                    let garbage: Vec<u8> = (0..self.rng.random_range(1..300)).map(|_| self.rng.random()).collect();
                    if let Some(discovery) = &self.discovery {
                        let _ = discovery.try_send(SendFrame { link: it.link, frame: garbage });
                    }
                } else {
                    let proof = self.proof();
                    self.say(it.link, &proof);
                }
            }
            // The opener's MACs prove nothing to him, and he keeps them.
            Ok(Frame::Proof { macs }) if !outbound => {
                self.macs.extend(macs);
                let surplus = self.macs.len().saturating_sub(KEPT);
                self.macs.drain(..surplus);
                let proof = self.proof();
                self.say(it.link, &proof);
            }
            Ok(Frame::Refusal) => {}
            other => world::with(|world| {
                let kind = format!("{other:?}").chars().take(40).collect::<String>();
                world.game.violations.push((clock::elapsed(), format!("a stranger was told {kind}…")));
            }),
        }
    }
}

impl Handler<LinkClosed> for Hostile {
    type Result = ();

    fn handle(&mut self, it: LinkClosed, _: &mut Self::Context) {
        self.links.remove(&it.0);
    }
}

impl Handler<OwnAddrs> for Hostile {
    type Result = ();

    fn handle(&mut self, _: OwnAddrs, _: &mut Self::Context) {}
}

//! One virtual machine: the shipped actors, wired as `src/daemon/wiring.rs` wires them, with the simulated ones in the
//! places of socket, swarm, device and disk.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix::{Actor as _, Addr, MailboxError};
use ed25519_dalek::SigningKey;
use lanrage_actors::discovery;
use lanrage_actors::party::actor::{Bind, Derive, Halt, PartyActor, Start};
use lanrage_actors::party::code::PartyCode;
use lanrage_actors::party::keys::PartySecret;
use lanrage_actors::party::machine::PartyConfig;
use lanrage_actors::peer::{self, BindPeers, OwnIdentity, PeerSupervisor};
use lanrage_actors::tun::actor::{TunActor, TunConfig};
use lanrage_actors::tun::messages::SetAddress;
use lanrage_actors::wire::{Ipv4Range, NodeId};
use rand::Rng as _;
use rand_chacha::ChaCha12Rng;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::device::SimFactory;
use super::discovery::{Heard, SimDiscovery};
use super::nat_actor::{HaltNat, SimNat};
use super::store::{self, SimStore};
use super::streams::SILENT_DEATH;
use super::{clock, game, world};

/// Cheap, where the shipped derivation costs 64 MiB and a fifth of a second.
pub fn cheap_secret(code: &PartyCode) -> PartySecret {
    PartySecret::from_bytes(blake3::derive_key("lanrage simulation party secret", &code.symbols()))
}

/// What outlives the program.
#[derive(Debug, Clone)]
pub struct Machine {
    pub node: usize,
    pub id: NodeId,
    pub name: String,
    signing: [u8; 32],
    wireguard: [u8; 32],
    stun: bool,
}

/// The running program.
#[derive(Clone)]
pub struct Running {
    pub party: Addr<PartyActor>,
    pub peers: Addr<PeerSupervisor>,
    pub tun: Addr<TunActor>,
    pub nat: Addr<SimNat>,
    pub discovery: Addr<SimDiscovery>,
}

/// All tasks of a node's program: the runtime polls them as one, with the node's wall clock, and not while it sleeps.
struct Program {
    node: usize,
    tasks: LocalSet,
}

impl Future for Program {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let node = self.node;
        let state = world::with(|world| {
            let port = &mut world.ports[node];
            if port.asleep {
                port.sleeper = Some(cx.waker().clone());
            }
            (!port.asleep).then_some(port.skew_s)
        });
        let Some(skew) = state else { return Poll::Pending };
        let before = clock::skew(skew);
        let polled = Pin::new(&mut self.tasks).poll(cx);
        clock::skew(before);
        polled
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        world::try_with(|world| world.alive -= 1);
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

impl Machine {
    #[must_use]
    pub fn new(node: usize, stun: bool, rng: &mut ChaCha12Rng) -> Self {
        let signing: [u8; 32] = rng.random();
        let id = NodeId(SigningKey::from_bytes(&signing).verifying_key().to_bytes());
        Self { node, id, name: format!("player {node}"), signing, wireguard: rng.random(), stun }
    }

    /// Starts the program: its actors, in a set of tasks of their own, so that they can be stopped all at once.
    ///
    /// # Errors
    /// When an actor ends while it is started.
    pub async fn start(&self) -> Result<Running, MailboxError> {
        let (tell, told) = oneshot::channel();
        let tasks = LocalSet::new();
        let machine = self.clone();
        tasks.spawn_local(async move { tell.send(machine.start_actors().await) });
        world::with(|world| world.alive += 1);
        actix::spawn(Program { node: self.node, tasks });
        told.await.unwrap_or(Err(MailboxError::Closed))
    }

    async fn start_actors(&self) -> Result<Running, MailboxError> {
        let node = self.node;
        let seeds: [[u8; 32]; 2] = world::with(|world| {
            world.net.sites[node].up = true;
            let port = &mut world.ports[node];
            port.run += 1;
            port.socket.clear();
            world.note(format_args!("node {node} starts"));
            [world.rng.random(), world.rng.random()]
        });
        let signing = SigningKey::from_bytes(&self.signing);
        let own = OwnIdentity::new(self.id, self.wireguard);
        let config = PartyConfig::new(signing, own.wg_key(), self.name.clone(), Ipv4Range::DEFAULT, seeds[0]);
        let store = SimStore { node }.start();
        let peers = PeerSupervisor::new(own, seeds[1]).start();
        let tun = TunActor::new(TunConfig::default(), Box::new(SimFactory { node })).start();
        let (active, others) = store::load(node);
        let party = PartyActor::new(config, active, others).with_derive(Derive::AtOnce(cheap_secret)).start();
        let links = discovery::Links {
            opened: party.clone().recipient(),
            frame: party.clone().recipient(),
            closed: party.clone().recipient(),
            own_addrs: party.clone().recipient(),
        };
        let discovery = SimDiscovery::new(node, links).start();
        let networks = vec![peers.clone().recipient(), discovery.clone().recipient()];
        let nat = SimNat::new(node, self.wireguard, self.stun, party.clone().recipient(), networks).start();
        world::with(|world| {
            let port = &mut world.ports[node];
            (port.nat, port.discovery) = (Some(nat.clone()), Some(discovery.clone()));
            game::start(world, node);
        });
        let links = peer::Links {
            transmit: nat.clone().recipient(),
            register: nat.clone().recipient(),
            unregister: nat.clone().recipient(),
            deliver: tun.clone().recipient(),
            add_route: tun.clone().recipient(),
            remove_route: tun.clone().recipient(),
            broadcast: None,
            relays: None,
            events: None,
            doubt: None,
        };
        peers.send(BindPeers(links)).await?;
        let bind = Bind {
            seek: discovery.clone().recipient(),
            send_frame: discovery.clone().recipient(),
            close_link: discovery.clone().recipient(),
            set_peers: peers.clone().recipient(),
            set_address: vec![tun.clone().recipient(), nat.clone().recipient(), discovery.clone().recipient()],
            save_party: store.recipient(),
            get_discovery: discovery.clone().recipient(),
        };
        party.send(bind).await?;
        party.send(Start).await?;
        Ok(Running { party, peers, tun, nat, discovery })
    }

    /// The machine sleeps, or the program is stopped: none of its tasks runs, what is sent to it is lost, and the world
    /// goes on. Its timers count the time, so that all that are due fire when it wakes.
    pub fn sleep(&self) {
        let node = self.node;
        let far = world::with(|world| {
            world.note(format_args!("node {node} sleeps"));
            world.net.sites[node].up = false;
            world.ports[node].asleep = true;
            world.streams.ends_between(|own, other| own == node || other == node)
        });
        actix::spawn(async move {
            tokio::time::sleep(SILENT_DEATH).await;
            world::try_with(|world| {
                if world.ports[node].asleep {
                    world.streams.kill(|own, other| own == node || other == node);
                    far.into_iter().for_each(|link| world.streams.close(link));
                }
            });
        });
    }

    pub fn wake(&self) {
        let node = self.node;
        world::with(|world| {
            world.note(format_args!("node {node} wakes"));
            world.net.sites[node].up = true;
            let port = &mut world.ports[node];
            port.asleep = false;
            if let Some(waker) = port.sleeper.take() {
                waker.wake();
            }
        });
    }

    /// As `kill -9`: nobody is told, and the others notice by and by.
    pub async fn kill(&self, running: Running) {
        let node = self.node;
        let far = world::with(|world| {
            world.note(format_args!("node {node} dies"));
            world.net.sites[node].up = false;
            let port = &mut world.ports[node];
            port.run += 1;
            (port.nat, port.discovery, port.virtual_ip) = (None, None, None);
            world.streams.kill(|own, other| own == node || other == node)
        });
        actix::spawn(async move {
            tokio::time::sleep(SILENT_DEATH).await;
            world::try_with(|world| far.into_iter().for_each(|link| world.streams.close(link)));
        });
        // Mailboxes may be full: each waits for its turn.
        let _ = running.party.send(Halt).await;
        let _ = running.peers.send(peer::Halt).await;
        let _ = running.tun.send(SetAddress(None)).await;
        let _ = running.nat.send(HaltNat).await;
        let _ = running.discovery.send(Heard::Halt).await;
    }
}

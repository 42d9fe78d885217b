//! One virtual machine: the shipped actors, wired as `src/daemon/wiring.rs` wires them, with the simulated ones in the
//! places of socket, swarm, device and disk.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix::{Actor as _, Addr, MailboxError, Recipient};
use ed25519_dalek::SigningKey;
use lanrage_actors::broadcast::actor::{BroadcastActor, Halt as HaltBroadcast};
use lanrage_actors::broadcast::machine::{Carry, Settings as BroadcastSettings};
use lanrage_actors::broadcast::messages::BindBroadcast;
use lanrage_actors::broadcast::system::NoSystem;
use lanrage_actors::discovery;
use lanrage_actors::nat::machine::NatSettings;
use lanrage_actors::nat::messages::{OwnContact, Serve};
use lanrage_actors::nat::{self, BindNat, NatActor, NatLinks, RelayLinks, StreamLinks};
use lanrage_actors::party::actor::{Bind, Derive, Halt, PartyActor, Start};
use lanrage_actors::party::code::PartyCode;
use lanrage_actors::party::keys::PartySecret;
use lanrage_actors::party::machine::PartyConfig;
use lanrage_actors::peer::{self, BindPeers, BindPunch, OwnIdentity, PeerSupervisor};
use lanrage_actors::relay::messages::{BindRelay, GetRelays, Limits, NetworkChanged, RelayView};
use lanrage_actors::relay::{self, RelayActor};
use lanrage_actors::tun::actor::{TunActor, TunConfig};
use lanrage_actors::tun::messages::{BindTun, SetAddress};
use lanrage_actors::wire::{Contact, Ipv4Range, LocalSocket, NodeId};
use rand::Rng as _;
use rand_chacha::ChaCha12Rng;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::data_streams::{self, BindData};
use super::device::SimFactory;
use super::discovery::{Heard, SimDiscovery};
use super::net::DATA_PORT;
use super::sockets::SimSockets;
use super::store::{self, SimStore};
use super::streams::SILENT_DEATH;
use super::taps::{HaltTap, Liar, Registry};
use super::{beacons, clock, game, world};

/// `LocalSocket(1)` of a relay, so that others can find out how their NATs filter.
const RELAY_ALTERNATE: u16 = DATA_PORT + 1;

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
    /// What it says of itself is made up by this.
    pub forge: Option<fn(&mut Contact)>,
}

/// The data path's actors.
#[derive(Clone)]
struct Data {
    nat: Addr<NatActor>,
    relay: Addr<RelayActor>,
    registry: Addr<Registry>,
    liar: Option<Addr<Liar>>,
}

/// A running relay, as `lanrage relay` is one.
#[derive(Clone)]
pub struct RunningRelay {
    data: Data,
    discovery: Addr<SimDiscovery>,
}

/// The running program.
#[derive(Clone)]
pub struct Running {
    pub party: Addr<PartyActor>,
    pub peers: Addr<PeerSupervisor>,
    pub tun: Addr<TunActor>,
    pub nat: Addr<NatActor>,
    pub relay: Addr<RelayActor>,
    pub registry: Addr<Registry>,
    pub broadcast: Addr<BroadcastActor>,
    liar: Option<Addr<Liar>>,
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

impl std::fmt::Debug for RunningRelay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunningRelay")
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

impl Machine {
    #[must_use]
    pub fn new(node: usize, rng: &mut ChaCha12Rng) -> Self {
        let signing: [u8; 32] = rng.random();
        let id = NodeId(SigningKey::from_bytes(&signing).verifying_key().to_bytes());
        Self { node, id, name: format!("player {node}"), signing, wireguard: rng.random(), forge: None }
    }

    /// Starts the program: its actors, in a set of tasks of their own, so that they can be stopped all at once.
    ///
    /// # Errors
    /// When an actor ends while it is started.
    pub async fn start(&self) -> Result<Running, MailboxError> {
        let machine = self.clone();
        self.launch(async move { machine.start_actors().await }).await
    }

    /// As [`Self::start`], as a relay that has no party.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_relay(&self) -> Result<RunningRelay, MailboxError> {
        let machine = self.clone();
        self.launch(async move { machine.start_relay_actors().await }).await
    }

    async fn launch<T: 'static>(
        &self,
        actors: impl Future<Output = Result<T, MailboxError>> + 'static,
    ) -> Result<T, MailboxError> {
        let (tell, told) = oneshot::channel();
        let tasks = LocalSet::new();
        tasks.spawn_local(async move { tell.send(actors.await) });
        world::with(|world| world.alive += 1);
        actix::spawn(Program { node: self.node, tasks });
        told.await.unwrap_or(Err(MailboxError::Closed))
    }

    /// The network is there, and a new run of the program begins.
    fn boot(&self) {
        let node = self.node;
        world::with(|world| {
            world.net.sites[node].up = true;
            let port = &mut world.ports[node];
            port.run += 1;
            port.socket.clear();
            port.serving = None;
            world.note(format_args!("node {node} starts"));
        });
    }

    /// The data socket and the RelayActor, bound to each other and to the streams.
    async fn start_data(
        &self,
        limits: Limits,
        contact: Vec<Recipient<OwnContact>>,
        networks: Vec<Recipient<nat::messages::Networks>>,
        changed: Vec<Recipient<NetworkChanged>>,
        discovery: &Addr<SimDiscovery>,
    ) -> Result<Data, MailboxError> {
        let node = self.node;
        let dedicated = limits == Limits::DEDICATED;
        let (seeds, servers) = world::with(|world| {
            let seeds: [[u8; 32]; 2] = [world.rng.random(), world.rng.random()];
            (seeds, if dedicated { Vec::new() } else { world.stun_servers.clone() })
        });
        let mut sockets = SimSockets::new(node);
        let second = LocalSocket(1);
        let alternate = dedicated.then_some((second, RELAY_ALTERNATE));
        if alternate.is_some() {
            // Its only other socket: the port is free.
            let _ = nat::DataSockets::open(&mut sockets, second, RELAY_ALTERNATE);
        }
        let settings = NatSettings {
            listen_port: DATA_PORT,
            device: "lanrage0".into(),
            serve: if dedicated { Serve::Always } else { Serve::Auto },
            alternate,
            public_ips: Vec::new(),
        };
        let nat = NatActor::new(sockets, settings, servers, self.wireguard, seeds[0], None).start();
        let relay = RelayActor::new(self.signing, seeds[1]).start();
        let registry = Registry::new(nat.clone()).start();
        discovery.send(BindData(nat.clone())).await?;
        relay.send(BindRelay { transmit: nat.clone().recipient(), tickets: nat.clone().recipient() }).await?;
        let (liar, contact) = match self.forge {
            Some(forge) => {
                let liar = Liar::new(Box::new(forge), contact).start();
                (Some(liar.clone()), vec![liar.recipient()])
            }
            None => (None, contact),
        };
        let links = NatLinks {
            contact,
            networks,
            changed,
            relay: RelayLinks {
                datagrams: relay.clone().recipient(),
                know: relay.clone().recipient(),
                serve: relay.clone().recipient(),
                network_changed: relay.clone().recipient(),
                doubt: relay.clone().recipient(),
                limits,
            },
            streams: StreamLinks {
                open: discovery.clone().recipient(),
                close: discovery.clone().recipient(),
                send: discovery.clone().recipient(),
                serve: discovery.clone().recipient(),
                find_relays: discovery.clone().recipient(),
            },
        };
        world::with(|world| {
            let port = &mut world.ports[node];
            (port.nat, port.discovery) = (Some(nat.clone()), Some(discovery.clone()));
        });
        nat.send(BindNat(links)).await?;
        Ok(Data { nat, relay, registry, liar })
    }

    async fn start_relay_actors(&self) -> Result<RunningRelay, MailboxError> {
        self.boot();
        let discovery = SimDiscovery::new(self.node, None).start();
        let networks = vec![discovery.clone().recipient()];
        let changed = vec![discovery.clone().recipient()];
        let data = self.start_data(Limits::DEDICATED, Vec::new(), networks, changed, &discovery).await?;
        Ok(RunningRelay { data, discovery })
    }

    async fn start_actors(&self) -> Result<Running, MailboxError> {
        let node = self.node;
        self.boot();
        let seeds: [[u8; 32]; 2] = world::with(|world| [world.rng.random(), world.rng.random()]);
        let signing = SigningKey::from_bytes(&self.signing);
        let own = OwnIdentity::new(self.id, self.wireguard);
        let config = PartyConfig::new(signing, own.wg_key(), self.name.clone(), Ipv4Range::DEFAULT, seeds[0]);
        let store = SimStore { node }.start();
        let peers = PeerSupervisor::new(own, seeds[1]).start();
        let tun = TunActor::new(TunConfig::default(), Box::new(SimFactory { node })).start();
        let mtu = TunConfig::default().mtu;
        let settings = BroadcastSettings { mtu, carry: Carry::Device, ..BroadcastSettings::default() };
        let broadcast = BroadcastActor::new(settings, Box::new(NoSystem)).start();
        let (active, others) = store::load(node);
        let party = PartyActor::new(config, active, others).with_derive(Derive::AtOnce(cheap_secret)).start();
        let links = discovery::Links {
            opened: party.clone().recipient(),
            frame: party.clone().recipient(),
            closed: party.clone().recipient(),
            own_addrs: party.clone().recipient(),
        };
        let discovery = SimDiscovery::new(node, Some(links)).start();
        let contact = vec![party.clone().recipient(), peers.clone().recipient()];
        let networks = vec![peers.clone().recipient(), discovery.clone().recipient()];
        let changed = vec![peers.clone().recipient(), discovery.clone().recipient()];
        let data = self.start_data(Limits::MEMBER, contact, networks, changed, &discovery).await?;
        let Data { nat, relay, registry, liar } = data;
        tun.send(BindTun { broadcast: broadcast.clone().recipient() }).await?;
        broadcast.send(BindBroadcast { deliver: tun.clone().recipient(), heard: None }).await?;
        world::with(|world| {
            game::start(world, node);
            beacons::start(world, node);
        });
        let links = peer::Links {
            transmit: nat.clone().recipient(),
            register: registry.clone().recipient(),
            unregister: registry.clone().recipient(),
            deliver: tun.clone().recipient(),
            add_route: tun.clone().recipient(),
            remove_route: tun.clone().recipient(),
            relays: Some(relay.clone().recipient()),
            broadcast: Some(peer::Broadcast {
                from_member: broadcast.clone().recipient(),
                add_route: broadcast.clone().recipient(),
                remove_route: broadcast.clone().recipient(),
            }),
            events: None,
            doubt: Some(nat.clone().recipient()),
        };
        peers.send(BindPeers(links)).await?;
        if world::with(|world| world.punching) {
            peers.send(BindPunch(nat.clone().recipient())).await?;
        }
        let bind = Bind {
            seek: discovery.clone().recipient(),
            send_frame: discovery.clone().recipient(),
            close_link: discovery.clone().recipient(),
            set_peers: peers.clone().recipient(),
            set_address: vec![
                tun.clone().recipient(),
                peers.clone().recipient(),
                nat.clone().recipient(),
                discovery.clone().recipient(),
                broadcast.clone().recipient(),
            ],
            save_party: store.recipient(),
            get_discovery: discovery.clone().recipient(),
        };
        party.send(bind).await?;
        party.send(Start).await?;
        Ok(Running { party, peers, tun, nat, relay, registry, broadcast, liar, discovery })
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

    /// Nothing of it is on the network any more; those at the far ends of its streams notice later.
    fn vanish(&self) {
        let node = self.node;
        let far = world::with(|world| {
            world.note(format_args!("node {node} dies"));
            world.net.sites[node].up = false;
            let port = &mut world.ports[node];
            port.run += 1;
            (port.nat, port.discovery, port.virtual_ip) = (None, None, None);
            (port.serving, port.socket_waker) = (None, None);
            world.streams.kill(|own, other| own == node || other == node)
        });
        actix::spawn(async move {
            tokio::time::sleep(SILENT_DEATH).await;
            world::try_with(|world| far.into_iter().for_each(|link| world.streams.close(link)));
        });
        data_streams::die(node);
    }

    /// As `kill -9`: nobody is told, and the others notice by and by.
    pub async fn kill(&self, running: Running) {
        self.vanish();
        // Mailboxes may be full: each waits for its turn.
        let _ = running.party.send(Halt).await;
        let _ = running.peers.send(peer::Halt).await;
        let _ = running.tun.send(SetAddress(None)).await;
        let _ = running.broadcast.send(HaltBroadcast).await;
        let Running { nat, relay, registry, liar, .. } = running;
        Data { nat, relay, registry, liar }.halt().await;
        let _ = running.discovery.send(Heard::Halt).await;
    }

    pub async fn kill_relay(&self, running: RunningRelay) {
        self.vanish();
        running.data.halt().await;
        let _ = running.discovery.send(Heard::Halt).await;
    }
}

impl RunningRelay {
    pub async fn view(&self) -> Option<RelayView> {
        self.data.relay.send(GetRelays).await.ok()
    }
}

impl Data {
    async fn halt(self) {
        let _ = self.registry.send(HaltTap).await;
        if let Some(liar) = self.liar {
            let _ = liar.send(HaltTap).await;
        }
        let _ = self.relay.send(relay::Halt).await;
        let _ = self.nat.send(nat::Halt).await;
    }
}

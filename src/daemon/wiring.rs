//! Which actor knows which.

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use actix::prelude::*;
use ed25519_dalek::SigningKey;
use futures::channel::oneshot;
use lanrage_actors::broadcast::actor::BroadcastActor;
use lanrage_actors::broadcast::bridge::actor::{BridgeActor, BridgeConfig};
use lanrage_actors::broadcast::bridge::messages::{BindBridge, ReadAlong};
use lanrage_actors::broadcast::linux::LinuxSystem;
use lanrage_actors::broadcast::machine::{Carry, Settings as BroadcastSettings};
use lanrage_actors::broadcast::messages::BindBroadcast;
use lanrage_actors::broadcast::unwanted::Wanted;
use lanrage_actors::browser::actor::BrowserActor;
use lanrage_actors::browser::messages::{BindBrowser, GameFacts};
use lanrage_actors::discovery::{self, BindDataStreams, BindDiscovery, DiscoveryActor, DiscoveryConfig};
use lanrage_actors::game_watch::actor::{GameWatchActor, WatchConfig};
use lanrage_actors::game_watch::folder::DiskFolder;
use lanrage_actors::game_watch::linux::ProcFs;
use lanrage_actors::game_watch::messages::{BindWatch, WatchLinks};
use lanrage_actors::game_watch::source::LoadedProfiles;
use lanrage_actors::metrics::MetricsActor;
use lanrage_actors::nat::machine::NatSettings;
use lanrage_actors::nat::messages::{ReleasePorts, Serve};
use lanrage_actors::nat::{
    BindNat, BoundSockets, DataSockets as _, NatActor, NatLinks, RelayLinks, Sockets, StreamLinks,
};
use lanrage_actors::party::actor::{Bind as BindParty, PartyActor, Start as StartParty};
use lanrage_actors::party::machine::PartyConfig;
use lanrage_actors::peer::{self, BindPeers, BindPunch, OwnIdentity, PeerSupervisor};
use lanrage_actors::relay::RelayActor;
use lanrage_actors::relay::messages::{BindRelay, KnowRelay, Limits, RelaySource};
use lanrage_actors::store::messages::StoredParty;
use lanrage_actors::store::{Identity, Store, StoreActor};
use lanrage_actors::tun::actor::{TunActor, TunConfig};
use lanrage_actors::tun::linux::LinuxFactory;
use lanrage_actors::tun::messages::{BindTun, SetAddress};
use lanrage_actors::wire::{Ipv4Range, LocalSocket, NodeId};

use crate::api;
use crate::play::PlayActors;

/// How often the name of a configured relay that was not found is looked up.
const RESOLVE_AGAIN: Duration = Duration::from_secs(10);

/// What the actors are made of.
pub(super) struct Data {
    pub(super) store: Store,
    pub(super) stored: Vec<StoredParty>,
    pub(super) sockets: BoundSockets,
    pub(super) discovery: DiscoveryConfig,
    pub(super) name: String,
    pub(super) range: Ipv4Range,
    pub(super) tun: String,
    pub(super) mtu: u16,
    /// Interfaces.
    pub(super) bridge: Vec<String>,
    pub(super) wanted: Wanted,
    pub(super) nat: NatData,
    pub(super) known_games: Vec<GameFacts>,
    pub(super) games: WatchConfig,
    /// The player's own profiles are in there.
    pub(super) data_dir: PathBuf,
    /// `HOST:PORT`.
    pub(super) relay_servers: Vec<String>,
    pub(super) broadcasts: Carry,
    /// UDP ports whose broadcasts are not carried.
    pub(super) broadcast_except: Vec<(u16, u16)>,
}

/// What the data socket is made of.
pub(super) struct NatData {
    pub(super) stun_servers: Vec<String>,
    pub(super) serve: Serve,
    pub(super) public_ips: Vec<IpAddr>,
    /// Ask the router to forward the data port.
    pub(super) port_mapping: bool,
    /// A second socket, so that others can find out how their NATs filter.
    pub(super) alternate: bool,
}

/// The running actors.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) party: Addr<PartyActor>,
    pub(super) tun: Addr<TunActor>,
    nat: Addr<NatActor>,
    peers: Addr<PeerSupervisor>,
    discovery: Addr<DiscoveryActor>,
    relay: Addr<RelayActor>,
    broadcast: Addr<BroadcastActor>,
    bridge: Option<Addr<BridgeActor>>,
    pub(super) browser: Addr<BrowserActor>,
    metrics: Addr<MetricsActor>,
    games: Addr<GameWatchActor>,
    arbiters: [Arbiter; 3],
}

/// Random bytes of the system.
pub(super) fn seed() -> Result<[u8; 32], String> {
    Identity::generate().map(|identity| identity.signing)
}

/// Runs `make` on the thread of `arbiter`: what it makes may need the runtime there.
pub(super) async fn on<T: Send + 'static, F>(
    arbiter: &Arbiter,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<T, String>
where
    F: Future<Output = Result<T, String>> + 'static,
{
    let (sender, receiver) = oneshot::channel();
    arbiter.spawn_fn(move || {
        actix::spawn(async move {
            let _ = sender.send(make().await);
        });
    });
    receiver.await.map_err(|_| "a thread of LANrage ended while it was starting".to_owned())?
}

fn split_active(mut stored: Vec<StoredParty>) -> (Option<StoredParty>, Vec<StoredParty>) {
    let active = stored.iter().position(|party| party.active).map(|index| stored.remove(index));
    (active, stored)
}

/// Starts the actor of the data socket.
pub(super) async fn data_socket(
    arbiter: &Arbiter,
    sockets: BoundSockets,
    device: String,
    data: NatData,
    wg_secret: [u8; 32],
) -> Result<Addr<NatActor>, String> {
    let seed = seed()?;
    on(arbiter, move || async move {
        let listen_port = sockets.port();
        let refused = |error| format!("the data socket cannot be used: {error}");
        let mut sockets = Sockets::new(sockets).map_err(refused)?;
        let second = LocalSocket(1);
        let alternate = if data.alternate { Some((second, sockets.open(second, 0).map_err(refused)?)) } else { None };
        let settings = NatSettings { listen_port, device, serve: data.serve, alternate, public_ips: data.public_ips };
        let nonce = data.port_mapping.then(|| {
            // Another program must not be able to guess it, and the router must see the same after a restart.
            let derived = blake3::derive_key("lanrage v1 pcp nonce", &wg_secret);
            let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| derived[at + byte]));
            [word(0), word(4), word(8)]
        });
        Ok(NatActor::new(sockets, settings, data.stun_servers, wg_secret, seed, nonce).start())
    })
    .await
}

pub(super) fn relay(arbiter: &Arbiter, identity: &Identity) -> Result<Addr<RelayActor>, String> {
    let (secret, seed) = (identity.signing, seed()?);
    Ok(RelayActor::start_in_arbiter(&arbiter.handle(), move |_| RelayActor::new(secret, seed)))
}

pub(super) fn relay_links(relay: &Addr<RelayActor>, limits: Limits) -> RelayLinks {
    RelayLinks {
        datagrams: relay.clone().recipient(),
        know: relay.clone().recipient(),
        serve: relay.clone().recipient(),
        network_changed: relay.clone().recipient(),
        doubt: relay.clone().recipient(),
        limits,
    }
}

pub(super) fn stream_links(discovery: &Addr<DiscoveryActor>) -> StreamLinks {
    StreamLinks {
        open: discovery.clone().recipient(),
        close: discovery.clone().recipient(),
        send: discovery.clone().recipient(),
        serve: discovery.clone().recipient(),
        find_relays: discovery.clone().recipient(),
    }
}

pub(super) async fn bind_data_streams(
    discovery: &Addr<DiscoveryActor>,
    nat: &Addr<NatActor>,
) -> Result<(), MailboxError> {
    discovery
        .send(BindDataStreams {
            opened: nat.clone().recipient(),
            closed: nat.clone().recipient(),
            datagrams: nat.clone().recipient(),
            relay_found: Some(nat.clone().recipient()),
        })
        .await
}

pub(super) async fn bind_relay(relay: &Addr<RelayActor>, nat: &Addr<NatActor>) -> Result<(), MailboxError> {
    relay.send(BindRelay { transmit: nat.clone().recipient(), tickets: nat.clone().recipient() }).await
}

/// None when nothing is to be bridged.
fn bridge(arbiter: &Arbiter, interfaces: Vec<String>, device: String) -> Option<Addr<BridgeActor>> {
    let config = BridgeConfig { interfaces, device };
    let on = !config.interfaces.is_empty();
    on.then(|| BridgeActor::start_in_arbiter(&arbiter.handle(), move |_| BridgeActor::new(config)))
}

/// Looks up the configured relays' names until all are found.
fn know_relays(relay: Addr<RelayActor>, mut servers: Vec<String>) {
    actix::spawn(async move {
        while !servers.is_empty() {
            let mut unknown = Vec::new();
            for server in servers {
                match tokio::net::lookup_host(server.as_str()).await.map(|mut addrs| addrs.next()) {
                    Ok(Some(addr)) => {
                        let know = KnowRelay { addr, stream: None, source: RelaySource::Configured };
                        let _ = relay.send(know).await;
                    }
                    Ok(None) | Err(_) => unknown.push(server),
                }
            }
            servers = unknown;
            tokio::time::sleep(RESOLVE_AGAIN).await;
        }
    });
}

impl Node {
    pub(super) async fn start(data: Data, identity: &Identity) -> Result<Self, String> {
        let signing = SigningKey::from_bytes(&identity.signing);
        let id = NodeId(signing.verifying_key().to_bytes());
        let own = OwnIdentity::new(id, identity.wireguard);
        let wg_key = own.wg_key();

        // The data path shares one arbiter: a hop within one costs a thirtieth of a hop between two.
        let data_path = Arbiter::new();
        let control = Arbiter::new();
        let disk = Arbiter::new();

        let store = data.store;
        let store = StoreActor::start_in_arbiter(&disk.handle(), move |_| StoreActor::new(store));
        let peers_seed = seed()?;
        let peers =
            PeerSupervisor::start_in_arbiter(&data_path.handle(), move |_| PeerSupervisor::new(own, peers_seed));
        let device = data.tun.clone();
        let tun_config = TunConfig { name: data.tun.clone(), mtu: data.mtu };
        let tun =
            TunActor::start_in_arbiter(&data_path.handle(), move |_| TunActor::new(tun_config, Box::new(LinuxFactory)));
        let (discovery_config, discovery_seed) = (data.discovery, identity.signing);
        let discovery = on(&control, move || async move {
            let actor = DiscoveryActor::new(discovery_config, discovery_seed).map_err(|error| error.to_string())?;
            Ok(actor.start())
        })
        .await?;
        let party_config = PartyConfig::new(signing, wg_key, data.name, data.range, seed()?);
        let (active, stored) = split_active(data.stored);
        let party =
            PartyActor::start_in_arbiter(&control.handle(), move |_| PartyActor::new(party_config, active, stored));
        let (relay_servers, known_games) = (data.relay_servers, data.known_games);
        let nat = data_socket(&data_path, data.sockets, data.tun, data.nat, identity.wireguard).await?;
        let relay = relay(&data_path, identity)?;
        let metrics = MetricsActor::start_in_arbiter(&control.handle(), |_| MetricsActor::default());
        let bridge = bridge(&data_path, data.bridge, device.clone());
        let settings = BroadcastSettings {
            device: device.clone(),
            mtu: data.mtu,
            carry: data.broadcasts,
            except: data.broadcast_except,
            wanted: data.wanted,
        };
        let broadcast = BroadcastActor::start_in_arbiter(&data_path.handle(), move |_| {
            BroadcastActor::new(settings, Box::new(LinuxSystem::default()))
        });

        let browser = BrowserActor::start_in_arbiter(&control.handle(), move |_| BrowserActor::new(known_games));
        let watch = data.games;
        let profiles = LoadedProfiles::new(Box::new(DiskFolder::of_data(&data.data_dir)));
        let games = GameWatchActor::start_in_arbiter(&control.handle(), move |_| {
            GameWatchActor::new(watch, Box::new(ProcFs::default()), Box::new(profiles))
        });

        let arbiters = [data_path, control, disk];
        let node =
            Self { id, party, tun, nat, peers, discovery, relay, metrics, broadcast, bridge, browser, games, arbiters };
        node.connect(store).await.map_err(|error| format!("the parts of LANrage could not be connected: {error}"))?;
        know_relays(node.relay.clone(), relay_servers);
        Ok(node)
    }

    async fn connect(&self, store: Addr<StoreActor>) -> Result<(), MailboxError> {
        self.peers
            .send(BindPeers(peer::Links {
                transmit: self.nat.clone().recipient(),
                register: self.nat.clone().recipient(),
                unregister: self.nat.clone().recipient(),
                deliver: self.tun.clone().recipient(),
                add_route: self.tun.clone().recipient(),
                remove_route: self.tun.clone().recipient(),
                broadcast: Some(peer::Broadcast {
                    from_member: self.broadcast.clone().recipient(),
                    add_route: self.broadcast.clone().recipient(),
                    remove_route: self.broadcast.clone().recipient(),
                }),
                relays: Some(self.relay.clone().recipient()),
                events: Some(self.metrics.clone().recipient()),
                doubt: Some(self.nat.clone().recipient()),
            }))
            .await?;
        self.tun.send(BindTun { broadcast: self.broadcast.clone().recipient() }).await?;
        self.broadcast
            .send(BindBroadcast {
                deliver: self.tun.clone().recipient(),
                heard: Some(self.browser.clone().recipient()),
            })
            .await?;
        if let Some(bridge) = &self.bridge {
            let links = BindBridge {
                carry: self.broadcast.clone().recipient(),
                guests: self.broadcast.clone().recipient(),
                peers: self.peers.clone().recipient(),
            };
            bridge.send(links).await?;
            self.broadcast.send(ReadAlong(bridge.clone().recipient())).await?;
        }
        self.peers.send(BindPunch(self.nat.clone().recipient())).await?;
        bind_data_streams(&self.discovery, &self.nat).await?;
        bind_relay(&self.relay, &self.nat).await?;
        self.nat
            .send(BindNat(NatLinks {
                contact: vec![self.party.clone().recipient(), self.peers.clone().recipient()],
                networks: vec![self.peers.clone().recipient(), self.discovery.clone().recipient()],
                changed: vec![self.peers.clone().recipient(), self.discovery.clone().recipient()],
                relay: relay_links(&self.relay, Limits::MEMBER),
                streams: stream_links(&self.discovery),
            }))
            .await?;
        self.games
            .send(BindWatch(WatchLinks {
                tuning: self.peers.clone().recipient(),
                mtu: vec![self.tun.clone().recipient(), self.broadcast.clone().recipient()],
                classes: self.tun.clone().recipient(),
                broadcast: Some(self.broadcast.clone().recipient()),
                hosted: self.browser.clone().recipient(),
                events: Some(self.metrics.clone().recipient()),
            }))
            .await?;
        let links = discovery::Links {
            opened: self.party.clone().recipient(),
            frame: self.party.clone().recipient(),
            closed: self.party.clone().recipient(),
            own_addrs: self.party.clone().recipient(),
        };
        self.discovery.send(BindDiscovery { links: Some(links), listening: None }).await?;
        self.party
            .send(BindParty {
                seek: self.discovery.clone().recipient(),
                send_frame: self.discovery.clone().recipient(),
                close_link: self.discovery.clone().recipient(),
                set_peers: self.peers.clone().recipient(),
                set_address: [
                    self.tun.clone().recipient(),
                    self.peers.clone().recipient(),
                    self.broadcast.clone().recipient(),
                    self.nat.clone().recipient(),
                    self.discovery.clone().recipient(),
                    self.games.clone().recipient(),
                ]
                .into_iter()
                .chain(self.bridge.clone().map(Addr::recipient))
                .collect(),
                save_party: store.recipient(),
                get_discovery: self.discovery.clone().recipient(),
            })
            .await?;
        self.browser
            .send(BindBrowser { hosts: self.party.clone().recipient(), publish: self.party.clone().recipient() })
            .await?;
        self.party.send(StartParty).await
    }

    pub(super) fn play_actors(&self) -> PlayActors {
        PlayActors { tun: self.tun.clone(), party: self.party.clone(), games: self.games.clone() }
    }

    pub(super) fn api_actors(&self) -> api::Actors {
        api::Actors {
            get_party: self.party.clone().recipient(),
            list_parties: self.party.clone().recipient(),
            create_party: self.party.clone().recipient(),
            join_party: self.party.clone().recipient(),
            leave_party: self.party.clone().recipient(),
            kick_member: self.party.clone().recipient(),
            get_peers: self.peers.clone().recipient(),
            ping: self.peers.clone().recipient(),
            set_redundancy: self.peers.clone().recipient(),
            await_events: self.metrics.clone().recipient(),
            get_games: self.games.clone().recipient(),
            get_tun: self.tun.clone().recipient(),
            get_nat: self.nat.clone().recipient(),
            get_discovery: self.discovery.clone().recipient(),
            get_broadcast: self.broadcast.clone().recipient(),
            get_bridge: self.bridge.clone().map(Addr::recipient),
            get_servers: self.browser.clone().recipient(),
            name_hosted: self.browser.clone().recipient(),
        }
    }

    /// Closes the device and ends the threads; the party remembers this machine as a member that is away.
    pub(super) async fn stop(self, within: Duration) {
        let device = self.tun.send(SetAddress(None));
        let ports = self.nat.send(ReleasePorts);
        let _ = tokio::time::timeout(within, futures::future::join(device, ports)).await;
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}

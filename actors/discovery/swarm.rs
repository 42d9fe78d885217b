//! The libp2p swarm: which behaviours it has, and with what limits.

use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    PeerId, StreamProtocol, Swarm, autonat, dcutr, identify, kad, mdns, memory_connection_limits, ping, relay, swarm,
};

use super::filter::DialPolicy;
use super::transport::{self, Network};
use super::{DiscoveryConfig, Role, data};

pub(super) const PARTY_PROTOCOL: StreamProtocol = StreamProtocol::new("/lanrage/party/1");

/// Connections that nothing uses are closed after this; DHT queries reuse them meanwhile.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection whose other end is gone is noticed within the sum of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The crate's 60 s is a long time to look at "joining …".
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests of a query at once, and how long each waits. With the crate's 3 and 10 s, a query of 20 s is over once six
/// nodes were dead or silent; with these it gets past forty. `docs/simulation.md` has the measurements.
const PARALLELISM: NonZeroUsize = NonZeroUsize::new(10).expect("not zero");
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// No new connections beyond this much memory of the whole process.
const MEMORY_LIMIT_NODE: usize = 256 << 20;
const MEMORY_LIMIT_RELAY: usize = 2 << 30;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    relay_client: relay::client::Behaviour,
    pub(super) relay_server: relay::Behaviour,
    dcutr: dcutr::Behaviour,
    autonat_client: autonat::v2::client::Behaviour,
    autonat_server: Toggle<autonat::v2::server::Behaviour>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) streams: libp2p_stream::Behaviour,
    pub(super) data: data::behaviour::Behaviour,
}

/// # Errors
/// When the transport cannot be built, or the DHT protocol name is not one.
pub(super) fn build(
    config: &DiscoveryConfig,
    keypair: &Keypair,
    policy: &DialPolicy,
    network: Option<Network>,
) -> io::Result<Swarm<Behaviour>> {
    let local = keypair.public().to_peer_id();
    let headless = config.role == Role::Relay;
    let (substitute, listen, memory_limit) = match network {
        Some(network) => (Some(network.transport), network.listen, network.memory_limit),
        None => (None, Vec::new(), if headless { MEMORY_LIMIT_RELAY } else { MEMORY_LIMIT_NODE }),
    };
    let (transport, relay_client) = transport::build(keypair, policy, substitute)?;
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits(config.role)),
        memory: memory_connection_limits::Behaviour::with_max_bytes(memory_limit),
        identify: identify::Behaviour::new(
            identify::Config::new("/lanrage/1".to_owned(), keypair.public())
                .with_agent_version(concat!("lanrage/", env!("CARGO_PKG_VERSION")).to_owned())
                // Else every DHT node that this one talks to learns its LAN addresses.
                .with_hide_listen_addrs(true),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
        kad: kad(config, local)?,
        relay_client,
        relay_server: relay_server(local, headless),
        dcutr: dcutr::Behaviour::new(local),
        autonat_client: autonat::v2::client::Behaviour::default(),
        autonat_server: Toggle::from(headless.then(autonat::v2::server::Behaviour::default)),
        mdns: Toggle::from(mdns(config, local)),
        streams: libp2p_stream::Behaviour::new(),
        data: data::behaviour::Behaviour::default(),
    };
    let swarm_config =
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT).with_smart_dial();
    let mut swarm = Swarm::new(transport, behaviour, local, swarm_config);
    for addr in listen {
        swarm.listen_on(addr).map_err(|error| io::Error::other(error.to_string()))?;
    }
    Ok(swarm)
}

fn limits(role: Role) -> ConnectionLimits {
    let (incoming, outgoing) = match role {
        Role::Node => (384, 512),
        Role::Relay => (8_192, 1_024),
    };
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(128))
        .with_max_pending_outgoing(Some(256))
        .with_max_established_incoming(Some(incoming))
        .with_max_established_outgoing(Some(outgoing))
        .with_max_established_per_peer(Some(6))
}

/// How LANrage uses Kademlia, also where the simulation looks up without an actor.
#[must_use]
pub fn kademlia(protocol: StreamProtocol) -> kad::Config {
    let mut settings = kad::Config::new(protocol);
    settings.set_query_timeout(QUERY_TIMEOUT);
    settings.set_parallelism(PARALLELISM);
    settings.set_substreams_timeout(ANSWER_TIMEOUT);
    settings
}

fn kad(config: &DiscoveryConfig, local: PeerId) -> io::Result<kad::Behaviour<MemoryStore>> {
    let protocol = StreamProtocol::try_from_owned(config.dht_protocol.clone()).map_err(|_| {
        io::Error::other(format!("`{}` is no DHT protocol name: it must start with /", config.dht_protocol))
    })?;
    let settings = kademlia(protocol);
    let store = MemoryStore::with_config(
        local,
        MemoryStoreConfig { max_provided_keys: 16 * 1024, ..MemoryStoreConfig::default() },
    );
    let mut kad = kad::Behaviour::with_config(local, store, settings);
    // Left to itself it turns server on any confirmed address, be it a relay circuit.
    kad.set_mode(Some(match config.role {
        Role::Node => kad::Mode::Client,
        Role::Relay => kad::Mode::Server,
    }));
    Ok(kad)
}

fn relay_server(local: PeerId, headless: bool) -> relay::Behaviour {
    let mut settings = relay::Config::default();
    if headless {
        settings.max_reservations = 1_024;
        settings.max_circuits = 256;
    }
    let mut server = relay::Behaviour::new(local, settings);
    server.set_status(Some(if headless { relay::Status::Enable } else { relay::Status::Disable }));
    server
}

fn mdns(config: &DiscoveryConfig, local: PeerId) -> Option<mdns::tokio::Behaviour> {
    if !config.mdns {
        return None;
    }
    match mdns::tokio::Behaviour::new(mdns::Config::default(), local) {
        Ok(mdns) => Some(mdns),
        Err(error) => {
            tracing::warn!(%error, "friends on the same local network cannot be found by mDNS");
            None
        }
    }
}

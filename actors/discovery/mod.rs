//! Finding the other members: the libp2p swarm, the party streams, and datagrams over TCP where UDP is blocked.

mod actor;
pub mod data;
mod dial;
mod events;
pub mod filter;
mod links;
pub mod messages;
pub mod planner;
mod reachability;
pub mod relays;
pub mod reservations;
mod setup;
mod swarm;
mod transport;
mod udp;
mod view;

use std::net::IpAddr;

pub use actor::{BindDiscovery, DiscoveryActor, Links};
pub use data::actor::BindDataStreams;
pub use setup::DiscoveryError;
pub use swarm::kademlia;
pub use transport::{Network, Secured, UPGRADE_TIMEOUT};

/// What kind of node this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A player's machine: Kademlia client until AutoNAT finds it reachable.
    Node,
    /// `lanrage relay`: publicly reachable, serves the DHT, circuits and AutoNAT; has no party.
    Relay,
}

#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    pub role: Role,
    /// TCP and QUIC port; 0 lets the system choose.
    pub port: u16,
    /// Multiaddrs that end in `/p2p/…`.
    pub bootstrap: Vec<String>,
    /// `/ipfs/kad/1.0.0` is the public DHT.
    pub dht_protocol: String,
    pub mdns: bool,
    /// Addresses under which this node is known to be reachable.
    pub public_ips: Vec<IpAddr>,
    /// More TCP ports to listen on: 443 gets through where others do not. None of them may fail.
    pub extra_tcp_ports: Vec<u16>,
}

impl DiscoveryConfig {
    pub const PUBLIC_DHT: &str = "/ipfs/kad/1.0.0";

    #[must_use]
    pub fn on_public_dht(&self) -> bool {
        self.dht_protocol == Self::PUBLIC_DHT
    }
}

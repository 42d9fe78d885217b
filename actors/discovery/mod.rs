//! Finding the other members: the libp2p swarm and the party streams.

mod actor;
mod events;
pub mod filter;
pub mod messages;
pub mod planner;
pub mod reservations;
mod streams;
mod swarm;
mod transport;
mod udp;

use std::net::IpAddr;

pub use actor::{BindDiscovery, DiscoveryActor, DiscoveryError, Links};
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
}

impl DiscoveryConfig {
    pub const PUBLIC_DHT: &str = "/ipfs/kad/1.0.0";

    #[must_use]
    pub fn on_public_dht(&self) -> bool {
        self.dht_protocol == Self::PUBLIC_DHT
    }
}

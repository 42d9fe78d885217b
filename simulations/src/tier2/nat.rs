//! NATs and firewalls without I/O, in the terms of RFC 4787: mapping × filtering × expiry × hairpin × port allocation.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use serde::Deserialize;

/// On what the outside port, or the pass inwards, depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depends {
    /// Endpoint-independent.
    Nothing,
    /// Address-dependent.
    Address,
    /// Address-and-port-dependent.
    AddressAndPort,
}

/// Which outside port a new mapping gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The inside port when it is free.
    Preserve,
    Sequential,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    pub mapping: Depends,
    pub filtering: Depends,
    pub ports: Ports,
    pub hairpin: bool,
    /// A mapping that nothing went out through for this long is gone.
    pub expiry: Duration,
}

/// How a node is attached, by the names of the table of the namespace lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A public address.
    None,
    /// A public address behind a stateful firewall.
    Firewall,
    FullCone,
    /// Address-restricted.
    Addr,
    /// Port-restricted: the usual home router.
    Port,
    Symmetric,
    UdpBlocked,
    /// A home router behind a carrier's NAT.
    Cgnat,
    CgnatSymmetric,
    /// Port-restricted, and two neighbours share it.
    Lan,
}

const HOME_EXPIRY: Duration = Duration::from_secs(30);

impl Behaviour {
    const PORT: Self = Self {
        mapping: Depends::Nothing,
        filtering: Depends::AddressAndPort,
        ports: Ports::Preserve,
        hairpin: false,
        expiry: HOME_EXPIRY,
    };
    const SYMMETRIC: Self = Self { mapping: Depends::AddressAndPort, ports: Ports::Random, ..Self::PORT };
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::Firewall,
        Self::FullCone,
        Self::Addr,
        Self::Port,
        Self::Symmetric,
        Self::UdpBlocked,
        Self::Cgnat,
        Self::CgnatSymmetric,
        Self::Lan,
    ];

    /// The NATs between the node and the internet, the node's own first.
    #[must_use]
    pub fn chain(self) -> Vec<Behaviour> {
        let port = Behaviour::PORT;
        match self {
            Self::None | Self::UdpBlocked => vec![],
            Self::Firewall | Self::Port | Self::Lan => vec![port],
            Self::FullCone => vec![Behaviour { filtering: Depends::Nothing, ..port }],
            Self::Addr => vec![Behaviour { filtering: Depends::Address, ..port }],
            Self::Symmetric => vec![Behaviour::SYMMETRIC],
            Self::Cgnat => vec![port, port],
            Self::CgnatSymmetric => vec![port, Behaviour::SYMMETRIC],
        }
    }

    /// Whether two nodes that learnt their outside address from a third and both send reach each other: the table of the
    /// plain hole punch.
    #[must_use]
    pub fn punches(self, other: Self) -> bool {
        let udp = |kind| kind != Self::UdpBlocked;
        let endpoint_dependent = |kind| matches!(kind, Self::Symmetric | Self::CgnatSymmetric);
        let by_port = |kind: Self| kind.chain().iter().any(|nat| nat.filtering == Depends::AddressAndPort);
        let through = |a, b| !endpoint_dependent(a) || !by_port(b);
        udp(self) && udp(other) && through(self, other) && through(other, self)
    }
}

/// The destination, as far as mappings depend on it.
type Key = Option<(IpAddr, Option<u16>)>;

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    key: Key,
    used: Duration,
    /// Whom the inside has sent to through it.
    peers: BTreeMap<SocketAddr, Duration>,
}

/// One box with its table. Time is virtual time since the start.
#[derive(Debug)]
pub struct Nat {
    pub behaviour: Behaviour,
    pub outside_ip: IpAddr,
    mappings: BTreeMap<u16, Mapping>,
    /// The outside port of each mapping, by what it is for.
    by_key: BTreeMap<(SocketAddr, Key), u16>,
    next_port: u16,
    rng: ChaCha12Rng,
    pub refused: u64,
}

impl Nat {
    #[must_use]
    pub fn new(behaviour: Behaviour, outside_ip: IpAddr, rng: ChaCha12Rng) -> Self {
        Self {
            behaviour,
            outside_ip,
            mappings: BTreeMap::new(),
            by_key: BTreeMap::new(),
            next_port: 20_000,
            rng,
            refused: 0,
        }
    }

    /// The source address that a datagram has on the outside.
    pub fn outbound(&mut self, now: Duration, inside: SocketAddr, to: SocketAddr) -> SocketAddr {
        let key = match self.behaviour.mapping {
            Depends::Nothing => None,
            Depends::Address => Some((to.ip(), None)),
            Depends::AddressAndPort => Some((to.ip(), Some(to.port()))),
        };
        let expiry = self.behaviour.expiry;
        let known = self.by_key.get(&(inside, key)).copied();
        let alive = known.filter(|port| now.saturating_sub(self.mappings[port].used) < expiry);
        let port = alive.unwrap_or_else(|| {
            self.expire(now);
            let port = self.allocate(inside.port());
            self.by_key.insert((inside, key), port);
            port
        });
        let mapping =
            self.mappings.entry(port).or_insert_with(|| Mapping { inside, key, used: now, peers: BTreeMap::new() });
        mapping.used = now;
        if mapping.peers.insert(to, now).is_none() {
            mapping.peers.retain(|_, used| now.saturating_sub(*used) < expiry);
        }
        SocketAddr::new(self.outside_ip, port)
    }

    /// Those that have not expired.
    pub fn mappings(&mut self, now: Duration) -> usize {
        self.expire(now);
        self.mappings.len()
    }

    fn expire(&mut self, now: Duration) {
        let Self { behaviour, mappings, by_key, .. } = self;
        mappings.retain(|_, mapping| {
            let lives = now.saturating_sub(mapping.used) < behaviour.expiry;
            if !lives {
                by_key.remove(&(mapping.inside, mapping.key));
            }
            lives
        });
    }

    /// As a router that restarts.
    pub fn forget(&mut self) {
        self.mappings.clear();
        self.by_key.clear();
    }

    fn allocate(&mut self, inside: u16) -> u16 {
        loop {
            let port = match self.behaviour.ports {
                Ports::Preserve if !self.mappings.contains_key(&inside) => inside,
                Ports::Sequential => {
                    self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
                    self.next_port
                }
                Ports::Preserve | Ports::Random => self.rng.random_range(1024..=u16::MAX),
            };
            if !self.mappings.contains_key(&port) {
                return port;
            }
        }
    }

    /// Where a datagram to `port` of the outside address goes on the inside, if it may.
    pub fn inbound(&mut self, now: Duration, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        let expiry = self.behaviour.expiry;
        let passes = self.mappings.get(&port).filter(|it| now.saturating_sub(it.used) < expiry).and_then(|it| {
            let mut peers = it.peers.iter().filter(|(_, used)| now.saturating_sub(**used) < expiry);
            let pass = match self.behaviour.filtering {
                Depends::Nothing => true,
                Depends::Address => peers.any(|(peer, _)| peer.ip() == from.ip()),
                Depends::AddressAndPort => peers.any(|(peer, _)| *peer == from),
            };
            pass.then_some(it.inside)
        });
        self.refused += u64::from(passes.is_none());
        passes
    }
}

//! The simulated network: who is attached where, which NATs lie between, and what each datagram meets on its way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use serde::Deserialize;

use super::link::{Link, LinkSettings};
use super::nat::{Behaviour, Kind, Nat, Ports};

/// The realm in which everybody reaches everybody.
pub const INTERNET: usize = 0;
/// The group of servers that every part of a network that fell apart reaches.
pub const EVERYWHERE: u8 = u8::MAX;
const LAN_LATENCY: Duration = Duration::from_micros(300);
/// The data socket's port on every node.
pub const DATA_PORT: u16 = 51820;

#[derive(Debug, Clone, Copy)]
enum Attach {
    Host(usize),
    /// The outside of this realm's NAT.
    Nat(usize),
}

/// One address space: the internet, a carrier's network, a LAN.
#[derive(Debug)]
struct Realm {
    hosts: BTreeMap<IpAddr, Attach>,
    /// Outwards: the NAT, and the realm it stands in.
    uplink: Option<(Nat, usize)>,
    /// Of everybody in it, so that neighbours share a line's latency.
    latency: Duration,
}

/// Which versions of IP a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    #[default]
    V4,
    V6,
    Dual,
}

/// Where a node has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    pub realm: usize,
    pub ip: IpAddr,
}

#[derive(Debug)]
pub struct Site {
    /// Of its IPv4; `kind6` says what that means for IPv6.
    pub kind: Kind,
    pub family: Family,
    /// IPv4 first; one or two.
    pub homes: Vec<Home>,
    pub link: Link,
    /// Nodes of different groups do not reach each other.
    pub group: u8,
    /// Cleared when the node's program does not run.
    pub up: bool,
}

/// IPv6 knows no NAT here: where IPv4 has one, a stateful firewall lets in only what was asked for.
const fn kind6(kind: Kind) -> Kind {
    match kind {
        Kind::None | Kind::UdpBlocked => kind,
        Kind::Firewall
        | Kind::FullCone
        | Kind::Addr
        | Kind::Port
        | Kind::Symmetric
        | Kind::Cgnat
        | Kind::CgnatSymmetric
        | Kind::Lan => Kind::Firewall,
    }
}

impl Site {
    /// Where it has an address of the same version as `ip`.
    #[must_use]
    pub fn home(&self, ip: IpAddr) -> Option<Home> {
        self.homes.iter().find(|home| home.ip.is_ipv4() == ip.is_ipv4()).copied()
    }

    /// Whether the other can be reached at all as the network lies now.
    #[must_use]
    pub const fn joined(&self, other: &Self) -> bool {
        self.group == other.group || self.group == EVERYWHERE || other.group == EVERYWHERE
    }

    fn has(&self, v4: bool) -> bool {
        self.homes.iter().any(|home| home.ip.is_ipv4() == v4)
    }

    /// Whether a plain hole punch reaches the other, over IPv4 or IPv6.
    #[must_use]
    pub fn punches(&self, other: &Self) -> bool {
        let v4 = self.has(true) && other.has(true) && self.kind.punches(other.kind);
        v4 || (self.has(false) && other.has(false) && kind6(self.kind).punches(kind6(other.kind)))
    }

    /// The address under which the other sees it, when they have a version in common.
    #[must_use]
    pub fn seen_by(&self, other: &Self) -> Option<IpAddr> {
        self.homes.iter().map(|home| home.ip).find(|ip| other.home(*ip).is_some())
    }
}

/// A datagram that is under way.
#[derive(Debug)]
pub struct Flight {
    realm: usize,
    source: SocketAddr,
    destination: SocketAddr,
    group: u8,
    pub bytes: Vec<u8>,
}

/// What became of datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetCounters {
    pub sent: u64,
    pub bytes: u64,
    pub arrived: u64,
    pub lost_on_line: u64,
    pub no_such_address: u64,
    pub refused_by_nat: u64,
    pub partitioned: u64,
}

#[derive(Debug)]
pub struct Net {
    realms: Vec<Realm>,
    pub sites: Vec<Site>,
    links: LinkSettings,
    rng: ChaCha12Rng,
    next_public: u32,
    pub counters: NetCounters,
}

impl Net {
    #[must_use]
    pub fn new(links: LinkSettings, seed: u64) -> Self {
        let internet = Realm { hosts: BTreeMap::new(), uplink: None, latency: Duration::ZERO };
        Self {
            realms: vec![internet],
            sites: Vec::new(),
            links,
            rng: ChaCha12Rng::seed_from_u64(seed),
            next_public: 0,
            counters: NetCounters::default(),
        }
    }

    fn public_ip(&mut self, v4: bool) -> IpAddr {
        self.next_public += 1;
        if v4 {
            return IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(20, 0, 0, 0)) + self.next_public));
        }
        let net = u128::from(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1));
        IpAddr::V6(Ipv6Addr::from(net + (u128::from(self.next_public) << 64)))
    }

    /// Attaches a node; its number is its place in `sites`.
    pub fn attach(&mut self, kind: Kind, family: Family) -> usize {
        self.attach_by(self.links.clone(), kind, family)
    }

    /// As [`Self::attach`], with a line of its own kind.
    pub fn attach_by(&mut self, line: LinkSettings, kind: Kind, family: Family) -> usize {
        let node = self.sites.len();
        let link = Link::new(line, &mut self.rng);
        let homes = self.homes(node, kind, family, link.latency);
        self.sites.push(Site { kind, family, homes, link, group: 0, up: false });
        node
    }

    /// The node gets new addresses, as after a walk from one network to another.
    pub fn move_site(&mut self, node: usize, kind: Kind) {
        for Home { realm, ip } in std::mem::take(&mut self.sites[node].homes) {
            self.realms[realm].hosts.remove(&ip);
        }
        let (latency, family) = (self.sites[node].link.latency, self.sites[node].family);
        let homes = self.homes(node, kind, family, latency);
        let site = &mut self.sites[node];
        (site.homes, site.kind) = (homes, kind);
    }

    fn homes(&mut self, node: usize, kind: Kind, family: Family, latency: Duration) -> Vec<Home> {
        let mut homes = Vec::new();
        if family != Family::V6 {
            homes.push(self.place(node, kind, true, latency));
        }
        if family != Family::V4 {
            homes.push(self.place(node, kind6(kind), false, latency));
        }
        homes
    }

    fn place(&mut self, node: usize, kind: Kind, v4: bool, latency: Duration) -> Home {
        let chain = kind.chain();
        if kind == Kind::Lan
            && let Some(realm) = self.lan_with_room()
        {
            let ip = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 11));
            self.realms[realm].hosts.insert(ip, Attach::Host(node));
            return Home { realm, ip };
        }
        // From the internet inwards.
        let (mut realm, mut ip) = (INTERNET, self.public_ip(v4));
        for (depth, behaviour) in chain.iter().rev().enumerate() {
            let innermost = depth + 1 == chain.len();
            let inside = match (kind, innermost) {
                // A firewall translates nothing.
                (Kind::Firewall, _) => ip,
                (_, true) => IpAddr::V4(Ipv4Addr::new(192, 168, 1, 10)),
                (_, false) => IpAddr::V4(Ipv4Addr::new(100, 64, 0, 10)),
            };
            realm = self.add_nat(*behaviour, realm, ip, latency);
            ip = inside;
        }
        self.realms[realm].hosts.insert(ip, Attach::Host(node));
        Home { realm, ip }
    }

    fn lan_with_room(&self) -> Option<usize> {
        let lans = self.sites.iter().filter(|site| site.kind == Kind::Lan);
        let mut realms =
            lans.filter_map(|site| site.homes.iter().find(|home| home.ip.is_ipv4())).map(|home| home.realm);
        realms.find(|realm| self.realms[*realm].hosts.len() == 1)
    }

    fn add_nat(&mut self, behaviour: Behaviour, outer: usize, outside_ip: IpAddr, latency: Duration) -> usize {
        let inner = self.realms.len();
        let rng = ChaCha12Rng::seed_from_u64(self.rng.random());
        self.realms[outer].hosts.insert(outside_ip, Attach::Nat(inner));
        let uplink = Some((Nat::new(behaviour, outside_ip, rng), outer));
        self.realms.push(Realm { hosts: BTreeMap::new(), uplink, latency });
        inner
    }

    #[must_use]
    pub fn same_lan(&self, a: usize, b: usize) -> bool {
        let inside = |home: &&Home| home.realm != INTERNET;
        self.sites[a].homes.iter().filter(inside).any(|own| self.sites[b].homes.iter().any(|it| it.realm == own.realm))
    }

    /// One way between two nodes, without jitter.
    #[must_use]
    pub fn latency(&self, a: usize, b: usize) -> Duration {
        if self.same_lan(a, b) { LAN_LATENCY } else { self.sites[a].link.latency + self.sites[b].link.latency }
    }

    /// What a server on the internet sees of a node that sends from its data socket: the mapping, as STUN tells it.
    pub fn observed(&mut self, now: Duration, node: usize, server: SocketAddr) -> Option<SocketAddr> {
        if self.sites[node].kind == Kind::UdpBlocked {
            return None;
        }
        let Home { mut realm, ip } = self.sites[node].home(server.ip())?;
        let mut source = SocketAddr::new(ip, DATA_PORT);
        while let Some((nat, outer)) = &mut self.realms[realm].uplink {
            source = nat.outbound(now, source, server);
            realm = *outer;
        }
        Some(source)
    }

    /// Whether a datagram from `from` on the internet to `to` would get to `node` now.
    pub fn admits(&mut self, now: Duration, from: SocketAddr, to: SocketAddr, node: usize) -> bool {
        self.ingress(now, INTERNET, from, to).is_some_and(|(host, _)| host == node)
    }

    /// Sends from `port` of a node. Returns when it arrives and what does.
    pub fn send(
        &mut self,
        now: Duration,
        node: usize,
        port: u16,
        to: SocketAddr,
        bytes: Vec<u8>,
    ) -> Option<(Duration, Flight)> {
        self.counters.sent += 1;
        self.counters.bytes += bytes.len() as u64;
        let Some(Home { realm, ip }) = self.sites[node].home(to.ip()) else {
            self.counters.no_such_address += 1;
            return None;
        };
        let source = SocketAddr::new(ip, port);
        let group = self.sites[node].group;
        if realm != INTERNET && self.realms[realm].hosts.contains_key(&to.ip()) {
            let flight = Flight { realm, source, destination: to, group, bytes };
            return Some((now + LAN_LATENCY, flight));
        }
        if self.sites[node].kind == Kind::UdpBlocked {
            self.counters.refused_by_nat += 1;
            return None;
        }
        let Some(at) = self.sites[node].link.send(now, bytes.len() + if to.is_ipv6() { 48 } else { 28 }, &mut self.rng)
        else {
            self.counters.lost_on_line += 1;
            return None;
        };
        let Some((realm, source)) = self.egress(now, realm, source, to) else {
            self.counters.no_such_address += 1;
            return None;
        };
        let far = match self.realms[realm].hosts.get(&to.ip()) {
            Some(Attach::Host(host)) => self.sites[*host].link.latency,
            Some(Attach::Nat(inner)) => self.realms[*inner].latency,
            None => Duration::ZERO,
        };
        Some((at + far, Flight { realm, source, destination: to, group, bytes }))
    }

    /// Outwards until a realm that knows the destination.
    fn egress(
        &mut self,
        now: Duration,
        mut realm: usize,
        mut source: SocketAddr,
        to: SocketAddr,
    ) -> Option<(usize, SocketAddr)> {
        loop {
            if self.realms[realm].hosts.contains_key(&to.ip()) {
                return Some((realm, source));
            }
            let (nat, outer) = self.realms[realm].uplink.as_mut()?;
            if to.ip() == nat.outside_ip && !nat.behaviour.hairpin {
                return None;
            }
            source = nat.outbound(now, source, to);
            realm = *outer;
        }
    }

    /// Inwards from where the destination's address is known.
    fn ingress(
        &mut self,
        now: Duration,
        mut realm: usize,
        from: SocketAddr,
        mut to: SocketAddr,
    ) -> Option<(usize, u16)> {
        loop {
            match self.realms[realm].hosts.get(&to.ip())? {
                Attach::Host(node) => {
                    return (self.sites[*node].kind != Kind::UdpBlocked).then_some((*node, to.port()));
                }
                Attach::Nat(inner) => {
                    realm = *inner;
                    let (nat, _) = self.realms[realm].uplink.as_mut()?;
                    to = nat.inbound(now, from, to.port())?;
                }
            }
        }
    }

    /// At the time of arrival: who gets it, on which port, and from which address.
    pub fn arrive(&mut self, now: Duration, flight: &Flight) -> Option<(usize, u16, SocketAddr)> {
        let Some((node, port)) = self.ingress(now, flight.realm, flight.source, flight.destination) else {
            self.counters.refused_by_nat += 1;
            return None;
        };
        let group = self.sites[node].group;
        if group != flight.group && group != EVERYWHERE && flight.group != EVERYWHERE {
            self.counters.partitioned += 1;
            return None;
        }
        if !self.sites[node].up {
            self.counters.no_such_address += 1;
            return None;
        }
        self.counters.arrived += 1;
        Some((node, port, flight.source))
    }

    /// All NATs of a node forget what they have mapped, as a router that restarts does.
    pub fn forget_mappings(&mut self, node: usize) {
        for home in self.sites[node].homes.clone() {
            let mut realm = home.realm;
            while let Some((nat, outer)) = &mut self.realms[realm].uplink {
                nat.forget();
                realm = *outer;
            }
        }
    }

    /// Of all NATs and firewalls.
    pub fn mappings(&mut self, now: Duration) -> usize {
        self.realms.iter_mut().filter_map(|realm| realm.uplink.as_mut()).map(|(nat, _)| nat.mappings(now)).sum()
    }

    /// For hairpin and port allocation, which the kinds of the table leave at one value.
    pub fn set_behaviour(&mut self, node: usize, hairpin: bool, ports: Ports) {
        for home in &self.sites[node].homes {
            if let Some((nat, _)) = &mut self.realms[home.realm].uplink {
                nat.behaviour.hairpin = hairpin;
                nat.behaviour.ports = ports;
            }
        }
    }
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;

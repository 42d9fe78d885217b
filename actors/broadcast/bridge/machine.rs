//! What goes across between the bridged networks and the party.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::hello;
use super::messages::{BridgeCounters, BridgeView, NetworkState, NetworkView};
use super::neighbours::{HELLO_EVERY, Member, Neighbours, Network};
use super::table::{Full, Table};
use crate::broadcast::unwanted::may_cross;
use crate::tun::messages::Address;

/// Type of service of all that a bridge puts on a network: DSCP 43, of the pool for local use (RFC 2474, section 6). No
/// LANrage carries what has it, so that nothing goes in circles, whatever the parties know of each other.
pub const MARK: u8 = 43 << 2;

/// Sockets on this machine's virtual IP, for addresses of the bridged networks.
const MAX_GUESTS: usize = 128;
const MAX_GUESTS_OF_ONE: usize = 24;
/// Sockets on this machine's LAN addresses, for addresses of the party.
const MAX_REMOTES: usize = 256;
const MAX_REMOTES_OF_ONE: usize = 32;
/// Hosts or members whose rates are watched; beyond it the limit of all stands alone.
const MAX_WATCHED: usize = 512;
/// Shouts of one host or member: 50 a second, and of all: 250.
const ONE_EVERY: Duration = Duration::from_millis(20);
const ALL_EVERY: Duration = Duration::from_millis(4);
const BURST: u32 = 100;
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Names a socket of the NAT; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// Where a socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// This machine's virtual IP.
    Party,
    /// Its address on the bridged network of this number.
    Lan(usize),
}

/// The shell's sockets.
pub trait Sockets {
    /// Opens a socket with this port, or another where it is taken; gives the port.
    fn open(&mut self, id: SocketId, side: Side, port: u16) -> Option<u16>;
    fn close(&mut self, id: SocketId);
}

/// A broadcast or multicast that was seen on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shout {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub type_of_service: u8,
}

/// A shout as it goes to the party: from this machine, to the members but those who heard it themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    pub source_port: u16,
    pub destination: Ipv4Addr,
    pub except: Vec<Ipv4Addr>,
}

/// A shout as it goes to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnLan {
    pub network: usize,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// A datagram to be sent from a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    pub socket: SocketId,
    pub to: SocketAddrV4,
}

/// Why the machine wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Hello,
    Sweep,
}

#[derive(Debug)]
struct Interface {
    name: String,
    index: Option<u32>,
    network: Option<Network>,
    problem: Option<String>,
}

#[derive(Debug)]
pub struct BridgeMachine {
    interfaces: Vec<Interface>,
    own: Option<Address>,
    /// Index of the virtual device.
    device: Option<u32>,
    neighbours: Neighbours,
    guests: Table<usize>,
    remotes: Table<usize>,
    next_socket: u64,
    hosts: HashMap<Ipv4Addr, Bucket>,
    members: HashMap<Ipv4Addr, Bucket>,
    from_lan: Bucket,
    from_party: Bucket,
    next_hello: Option<Instant>,
    next_sweep: Option<Instant>,
    counters: BridgeCounters,
}

impl BridgeMachine {
    /// Bridges the networks of the interfaces with these names; more than [`hello::MAX_NETWORKS`] are left out.
    #[must_use]
    pub fn new(interfaces: Vec<String>) -> Self {
        let interface = |name| Interface { name, index: None, network: None, problem: None };
        Self {
            interfaces: interfaces.into_iter().take(hello::MAX_NETWORKS).map(interface).collect(),
            own: None,
            device: None,
            neighbours: Neighbours::default(),
            guests: Table::new(MAX_GUESTS, MAX_GUESTS_OF_ONE),
            remotes: Table::new(MAX_REMOTES, MAX_REMOTES_OF_ONE),
            next_socket: 0,
            hosts: HashMap::new(),
            members: HashMap::new(),
            from_lan: Bucket::new(ALL_EVERY, BURST * 2),
            from_party: Bucket::new(ALL_EVERY, BURST * 2),
            next_hello: None,
            next_sweep: None,
            counters: BridgeCounters::default(),
        }
    }

    /// Names of the interfaces, in the order of their numbers.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().map(|it| it.name.as_str())
    }

    pub fn set_address(&mut self, now: Instant, address: Option<Address>, sockets: &mut dyn Sockets) {
        if self.own == address {
            return;
        }
        self.own = address;
        // Bound to the old one.
        self.guests.sweep(now, sockets, |_, _| false);
        self.remotes.sweep(now, sockets, |_, _| false);
        self.neighbours = Neighbours::default();
        self.next_hello = address.map(|_| now);
        self.next_sweep = address.map(|_| now + SWEEP_EVERY);
    }

    /// The network of an interface as it is now, or what is wrong with it.
    pub fn set_network(
        &mut self,
        now: Instant,
        number: usize,
        network: Result<Network, String>,
        sockets: &mut dyn Sockets,
    ) {
        let (network, problem) = match network.and_then(|it| self.once(number, it)) {
            Ok(network) => (Some(network), None),
            Err(problem) => (None, Some(problem)),
        };
        let Some(interface) = self.interfaces.get_mut(number) else { return };
        interface.problem = problem;
        if interface.network != network {
            interface.network = network;
            self.guests.sweep(now, sockets, |side, _| side != number);
            self.remotes.sweep(now, sockets, |side, _| side != number);
            self.next_hello = self.own.map(|_| now);
        }
    }

    /// `Ok` unless the network is one that is bridged by an interface of a lower number: all would be carried twice.
    ///
    /// # Errors
    /// In words for the user.
    pub fn once(&self, number: usize, network: Network) -> Result<Network, String> {
        let same = |it: &&Interface| it.network.is_some_and(|other| other.is_same(network));
        match self.interfaces.iter().take(number).find(same) {
            None => Ok(network),
            Some(first) => {
                Err(format!("it is on the same network as {}, which is bridged already; name one of them", first.name))
            }
        }
    }

    /// The interface of that side is another now, by its index, though its name and address may be the same: the sockets
    /// there stay with the one that is gone.
    pub fn set_index(&mut self, now: Instant, side: Side, index: Option<u32>, sockets: &mut dyn Sockets) {
        let known = match side {
            Side::Party => &mut self.device,
            Side::Lan(number) => match self.interfaces.get_mut(number) {
                Some(interface) => &mut interface.index,
                None => return,
            },
        };
        if *known == index {
            return;
        }
        let before = std::mem::replace(known, index);
        if before.is_none() {
            return;
        }
        match side {
            Side::Party => self.guests.sweep(now, sockets, |_, _| false),
            Side::Lan(number) => self.remotes.sweep(now, sockets, |side, _| side != number),
        }
    }

    /// Ports of the guests on the virtual IP.
    #[must_use]
    pub fn guest_ports(&self) -> BTreeSet<u16> {
        self.guests.ports().collect()
    }

    pub fn set_members(&mut self, now: Instant, members: Vec<Member>) {
        if self.neighbours.set(now, members) {
            self.next_hello = self.own.map(|_| now);
        }
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Why)> {
        let hello = self.next_hello.map(|at| (at, Why::Hello));
        let sweep = self.next_sweep.map(|at| (at, Why::Sweep));
        hello.into_iter().chain(sweep).min_by_key(|(at, _)| *at)
    }

    /// What is to be sent to [`hello::GROUP`] now, if anything.
    pub fn on_timeout(&mut self, now: Instant, sockets: &mut dyn Sockets) -> Option<Vec<u8>> {
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.next_sweep = Some(now + SWEEP_EVERY);
            self.guests.sweep(now, sockets, |_, _| true);
            self.remotes.sweep(now, sockets, |_, _| true);
            // A bucket that would be full again says nothing any more.
            if self.hosts.len() + self.members.len() > MAX_WATCHED {
                self.hosts.clear();
                self.members.clear();
            }
        }
        if self.next_hello.is_none_or(|at| at > now) {
            return None;
        }
        self.next_hello = Some(now + HELLO_EVERY);
        let networks: Vec<_> = self.interfaces.iter().filter_map(|it| it.network).map(|network| network.ip).collect();
        (!networks.is_empty()).then(|| hello::write(&networks))
    }

    /// A shout seen on the network `number`.
    pub fn on_lan_shout(
        &mut self,
        now: Instant,
        number: usize,
        shout: Shout,
        payload: &[u8],
        sockets: &mut dyn Sockets,
    ) -> Option<Carried> {
        let (own, network) = self.active(now, number)?;
        if shout.type_of_service & !3 == MARK || !may_cross(shout.destination, shout.source.port(), payload) {
            self.counters.dropped_unwanted += 1;
            return None;
        }
        let destination = match *shout.destination.ip() {
            ip if ip == network.broadcast() => own.range.broadcast(),
            ip if ip.is_broadcast() || ip.is_multicast() => ip,
            _ => {
                self.counters.dropped_unwanted += 1;
                return None;
            }
        };
        let source = *shout.source.ip();
        if !self.is_guest(now, network, source) || shout.source.port() == 0 {
            self.counters.dropped_foreign += 1;
            return None;
        }
        if !take(&mut self.hosts, source, now) || !self.from_lan.take(now) {
            self.counters.dropped_limited += 1;
            return None;
        }
        let (_, source_port) = self.guest(now, number, shout.source, sockets)?;
        self.counters.carried += 1;
        Some(Carried { source_port, destination, except: self.neighbours.on(network).collect() })
    }

    /// A shout of the member at `source`, to go to each network.
    pub fn on_party_shout(
        &mut self,
        now: Instant,
        source: SocketAddrV4,
        destination: SocketAddrV4,
        payload: &[u8],
        sockets: &mut dyn Sockets,
    ) -> Vec<OnLan> {
        if *destination.ip() == hello::GROUP && destination.port() == hello::PORT {
            let first = hello::read(payload).is_some_and(|it| self.neighbours.hello(now, *source.ip(), it));
            if first {
                // It may be new here and not know of this machine.
                self.next_hello = self.own.map(|_| now);
            }
            return Vec::new();
        }
        if source.port() == 0 || !may_cross(destination, source.port(), payload) {
            self.counters.dropped_unwanted += 1;
            return Vec::new();
        }
        if !take(&mut self.members, *source.ip(), now) || !self.from_party.take(now) {
            self.counters.dropped_limited += 1;
            return Vec::new();
        }
        let mut shouts = Vec::new();
        for number in 0..self.interfaces.len() {
            let Some((own, network)) = self.active(now, number) else { continue };
            // Who is there has shouted there himself.
            if self.neighbours.is_on(network, *source.ip()) || *source.ip() == own.ip {
                continue;
            }
            let ip = match *destination.ip() {
                ip if ip == own.range.broadcast() => network.broadcast(),
                ip => ip,
            };
            let Some((_, port)) = self.remote(now, number, source, sockets) else { continue };
            self.counters.shouted += 1;
            shouts.push(OnLan {
                network: number,
                source: SocketAddrV4::new(network.ip, port),
                destination: SocketAddrV4::new(ip, destination.port()),
            });
        }
        shouts
    }

    /// A datagram for a guest, or for a remote, at the socket that stands for it.
    pub fn on_socket(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddrV4,
        sockets: &mut dyn Sockets,
    ) -> Option<Forward> {
        if let Some((number, guest)) = self.guests.owner(now, socket) {
            let (own, _) = self.active(now, number)?;
            if !own.range.contains(*from.ip()) || *from.ip() == own.ip {
                self.counters.dropped_foreign += 1;
                return None;
            }
            let (socket, _) = self.remote(now, number, from, sockets)?;
            self.counters.to_lan += 1;
            return Some(Forward { socket, to: guest });
        }
        let (number, remote) = self.remotes.owner(now, socket)?;
        let (_, network) = self.active(now, number)?;
        if !self.is_guest(now, network, *from.ip()) {
            self.counters.dropped_foreign += 1;
            return None;
        }
        let (socket, _) = self.guest(now, number, from, sockets)?;
        self.counters.to_party += 1;
        Some(Forward { socket, to: remote })
    }

    pub fn count_malformed(&mut self) {
        self.counters.dropped_malformed += 1;
    }

    pub fn count_unsent(&mut self) {
        self.counters.dropped_unsent += 1;
    }

    #[must_use]
    pub fn view(&self, now: Instant) -> BridgeView {
        let network = |it: &Interface| NetworkView {
            interface: it.name.clone(),
            address: it.network.map(|network| network.ip),
            state: self.state(now, it),
            problem: it.problem.clone(),
        };
        BridgeView {
            networks: self.interfaces.iter().map(network).collect(),
            guests: self.guests.len(),
            remotes: self.remotes.len(),
            counters: self.counters,
        }
    }

    fn state(&self, now: Instant, interface: &Interface) -> NetworkState {
        let (Some(own), Some(network)) = (self.own, interface.network) else { return NetworkState::Idle };
        if !self.neighbours.settled(now, network) {
            NetworkState::Settling
        } else if self.neighbours.leaves_to(now, network, own.ip).is_some() {
            NetworkState::LeftToOther
        } else {
            NetworkState::Carrying
        }
    }

    /// The network, when this machine carries it; counted when not.
    fn active(&mut self, now: Instant, number: usize) -> Option<(Address, Network)> {
        let interface = self.interfaces.get(number)?;
        let carries = self.state(now, interface) == NetworkState::Carrying;
        let both = self.own.zip(interface.network).filter(|_| carries);
        if both.is_none() {
            self.counters.dropped_idle += 1;
        }
        both
    }

    /// A machine of that network without LANrage, as far as is known.
    fn is_guest(&self, now: Instant, network: Network, ip: Ipv4Addr) -> bool {
        network.has_host(ip) && ip != network.ip && !self.neighbours.owns(now, ip)
    }

    fn guest(
        &mut self,
        now: Instant,
        number: usize,
        who: SocketAddrV4,
        sockets: &mut dyn Sockets,
    ) -> Option<(SocketId, u16)> {
        let id = SocketId(self.next_socket);
        let open = |sockets: &mut dyn Sockets| Some((id, sockets.open(id, Side::Party, who.port())?));
        let got = self.guests.socket(now, number, who, sockets, open);
        self.got(id, got)
    }

    fn remote(
        &mut self,
        now: Instant,
        number: usize,
        who: SocketAddrV4,
        sockets: &mut dyn Sockets,
    ) -> Option<(SocketId, u16)> {
        let id = SocketId(self.next_socket);
        let open = |sockets: &mut dyn Sockets| Some((id, sockets.open(id, Side::Lan(number), who.port())?));
        let got = self.remotes.socket(now, number, who, sockets, open);
        self.got(id, got)
    }

    fn got(&mut self, id: SocketId, got: Result<(SocketId, u16), Full>) -> Option<(SocketId, u16)> {
        match got {
            Ok((socket, port)) => {
                self.next_socket += u64::from(socket == id);
                Some((socket, port))
            }
            Err(Full::NoRoom) => {
                self.counters.dropped_full += 1;
                None
            }
            Err(Full::NoSocket) => {
                self.counters.dropped_unsent += 1;
                None
            }
        }
    }
}

fn take(buckets: &mut HashMap<Ipv4Addr, Bucket>, ip: Ipv4Addr, now: Instant) -> bool {
    if buckets.len() >= MAX_WATCHED && !buckets.contains_key(&ip) {
        return true;
    }
    buckets.entry(ip).or_insert_with(|| Bucket::new(ONE_EVERY, BURST)).take(now)
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

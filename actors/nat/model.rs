//! A NAT and the servers behind it, small enough to be seen to be right: mapping × filtering × how ports are given out.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::stun::{self, Change, Stun};
use crate::wire::Dependence;

pub(super) const OUTSIDE: [u8; 4] = [198, 51, 100, 1];
const ONE_WAY: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy)]
pub(super) enum Ports {
    Preserved,
    Counted(i16),
    Random,
}

#[derive(Debug)]
pub(super) struct ModelNat {
    pub(super) mapping: Dependence,
    pub(super) filtering: Dependence,
    pub(super) ports: Ports,
    pub(super) hairpin: bool,
    pub(super) blocked: bool,
    /// By what the mapping depends on.
    maps: HashMap<(Option<IpAddr>, Option<u16>), u16>,
    sent_to: HashSet<(u16, SocketAddr)>,
    next: u16,
}

impl ModelNat {
    pub(super) fn new(mapping: Dependence, filtering: Dependence, ports: Ports) -> Self {
        Self {
            mapping,
            filtering,
            ports,
            hairpin: false,
            blocked: false,
            maps: HashMap::new(),
            sent_to: HashSet::new(),
            next: 30_000,
        }
    }

    /// All mappings end.
    pub(super) fn flush(&mut self) {
        self.maps.clear();
        self.sent_to.clear();
        self.next = self.next.wrapping_mul(31).max(2000);
    }

    /// How `to` sees the socket, which sends there.
    pub(super) fn seen_by(&mut self, own_port: u16, to: SocketAddr) -> SocketAddr {
        self.out(own_port, to)
    }

    /// The port of the last mapping, where they are counted.
    pub(super) fn maps_made(&self) -> u16 {
        self.next
    }

    fn out(&mut self, own_port: u16, to: SocketAddr) -> SocketAddr {
        let key = match self.mapping {
            Dependence::AddressDependent => (Some(to.ip()), None),
            Dependence::AddressAndPortDependent => (Some(to.ip()), Some(to.port())),
            Dependence::EndpointIndependent | Dependence::Unknown => (None, None),
        };
        let used: HashSet<u16> = self.maps.values().copied().collect();
        let next = &mut self.next;
        let port = *self.maps.entry(key).or_insert_with(|| match self.ports {
            Ports::Preserved if !used.contains(&own_port) => own_port,
            Ports::Counted(step) => {
                *next = next.wrapping_add_signed(step);
                *next
            }
            Ports::Preserved | Ports::Random => {
                *next = next.wrapping_mul(25_173).wrapping_add(13_849);
                (*next).max(1024)
            }
        });
        self.sent_to.insert((port, to));
        SocketAddr::from((OUTSIDE, port))
    }

    /// Whether what `from` sends to the outside port gets in.
    fn lets_in(&self, port: u16, from: SocketAddr) -> bool {
        let mapped = self.maps.values().any(|it| *it == port);
        let mut asked = self.sent_to.iter().filter(|(own, _)| *own == port);
        mapped
            && match self.filtering {
                Dependence::EndpointIndependent | Dependence::Unknown => true,
                Dependence::AddressDependent => asked.any(|(_, to)| to.ip() == from.ip()),
                Dependence::AddressAndPortDependent => asked.any(|(_, to)| *to == from),
            }
    }
}

/// How a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// With a mapped address of its own.
    Lies(u16),
    Silent,
    /// Names another address, but never answers from there.
    Deaf,
    /// As `Deaf`, and answers such requests from where they were sent to.
    Stubborn,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ModelServer {
    pub(super) addr: SocketAddr,
    /// The other address and port (RFC 5780).
    pub(super) other: Option<SocketAddr>,
    pub(super) manner: Manner,
}

/// One socket behind a NAT (or none), and servers.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) own: SocketAddr,
    pub(super) nat: Option<ModelNat>,
    pub(super) servers: Vec<ModelServer>,
    /// How many of 100 datagrams do not arrive.
    pub(super) loss: u32,
    sent: u32,
    pub(super) sent_to: Vec<SocketAddr>,
    flying: Vec<(Instant, SocketAddr, Vec<u8>)>,
}

impl World {
    pub(super) fn new(now: Instant, own: SocketAddr, nat: Option<ModelNat>, servers: Vec<ModelServer>) -> Self {
        Self { now, own, nat, servers, loss: 0, sent: 0, sent_to: Vec::new(), flying: Vec::new() }
    }

    /// The socket sends.
    pub(super) fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.sent += 1;
        self.sent_to.push(to);
        if (self.sent.wrapping_mul(2_654_435_761) >> 16) % 100 < self.loss {
            return;
        }
        let seen = match &mut self.nat {
            None => self.own,
            Some(nat) if nat.blocked => return,
            Some(nat) => nat.out(self.own.port(), to),
        };
        if to.ip() == seen.ip() {
            let back = self.nat.as_ref().is_some_and(|nat| nat.hairpin && nat.lets_in(to.port(), seen));
            if back {
                self.flying.push((self.now + ONE_WAY, seen, bytes.to_vec()));
            }
            return;
        }
        let serves = |it: &&ModelServer| {
            it.addr == to
                || it.other.is_some_and(|other| {
                    (to.ip() == it.addr.ip() || to.ip() == other.ip())
                        && (to.port() == it.addr.port() || to.port() == other.port())
                })
        };
        let Some(server) = self.servers.iter().find(serves).copied() else { return };
        let Some((from, answer)) = answer(&server, seen, to, bytes) else { return };
        if self.nat.as_ref().is_none_or(|nat| nat.lets_in(seen.port(), from)) {
            self.flying.push((self.now + ONE_WAY * 2, from, answer));
        }
    }

    /// What has arrived by now, first come first.
    pub(super) fn arrived(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.flying.sort_by_key(|(at, ..)| *at);
        let due = self.flying.iter().take_while(|(at, ..)| *at <= self.now).count();
        self.flying.drain(..due).map(|(_, from, bytes)| (from, bytes)).collect()
    }

    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.flying.iter().map(|(at, ..)| *at).min()
    }
}

fn answer(server: &ModelServer, seen: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let Some(Stun::Request(request)) = stun::parse(bytes) else { return None };
    let other = server.other;
    let swap = |change: Change| {
        let other = other?;
        let ip = if change.ip == (to.ip() == server.addr.ip()) { other.ip() } else { server.addr.ip() };
        let port = if change.port == (to.port() == server.addr.port()) { other.port() } else { server.addr.port() };
        Some(SocketAddr::new(ip, port))
    };
    let from = match (request.change, server.manner) {
        (_, Manner::Silent) => return None,
        (Change::NONE, _) | (_, Manner::Stubborn) => Some(to),
        (_, Manner::Deaf) => return None,
        (change, Manner::Honest | Manner::Lies(_)) => swap(change),
    };
    let Some(from) = from else { return Some((to, stun::cannot_change(request.id))) };
    let mapped = match server.manner {
        Manner::Lies(port) => SocketAddr::from(([203, 0, 113, 66], port)),
        Manner::Honest | Manner::Silent | Manner::Deaf | Manner::Stubborn => seen,
    };
    Some((from, stun::success(request.id, mapped, Some(from), other, bytes.len())))
}

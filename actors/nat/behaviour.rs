//! What the NAT in front of the data socket does, found out by asking STUN servers from that socket (RFC 5780, in the
//! terms of RFC 4787), and kept up to date. Without I/O: `poll` sends what is due, `handle` takes what comes in.
//!
//! Up to eight servers of each family are asked at once, so that the first answer is there after one round trip to the
//! nearest, and that one server that lies is outvoted.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::family::Family;
use super::{stun, verdict};
use crate::wire::NatBehaviour;

/// Servers of each family; more are not asked.
pub const MAX_SERVERS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    pub addr: SocketAddr,
    /// The user configured it. Members and relays found on the way are not: see [`verdict::mapping`].
    pub trusted: bool,
}

/// What is known for one address family.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyReport {
    pub nat: NatBehaviour,
    /// The server-reflexive address. Behind a symmetric NAT only its IP address holds for others.
    pub mapped: Option<SocketAddr>,
    /// No NAT: the mapped address is an interface's own.
    pub public: Option<bool>,
    /// All that can be found out is; it is repeated every five minutes.
    pub complete: bool,
    pub servers: Vec<ServerReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    pub server: SocketAddr,
    /// `None`: it did not answer.
    pub mapped: Option<SocketAddr>,
    /// Round trip, µs.
    pub rtt_us: Option<u32>,
}

/// The STUN client of the data socket.
#[derive(Debug)]
pub struct StunClient {
    v4: Family,
    v6: Family,
    rng: StdRng,
    changed: bool,
}

impl StunClient {
    /// `seed` must be unpredictable: the transaction ids come from it.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32]) -> Self {
        Self { v4: Family::new(now), v6: Family::new(now), rng: StdRng::from_seed(seed), changed: false }
    }

    /// Whom to ask from now on. Those that are new are asked at once.
    pub fn set_servers(&mut self, now: Instant, servers: &[Server]) {
        let (v4, v6): (Vec<_>, Vec<_>) = servers.iter().partition(|server| server.addr.is_ipv4());
        self.watched(|client| {
            client.v4.set_servers(now, &mut client.rng, &v4);
            client.v6.set_servers(now, &mut client.rng, &v6);
        });
    }

    /// The data port, and the addresses of the interfaces that lead out.
    pub fn set_local(&mut self, port: u16, addrs: &[IpAddr]) {
        let (v4, v6): (Vec<IpAddr>, Vec<_>) = addrs.iter().partition(|addr| addr.is_ipv4());
        self.watched(|client| {
            client.v4.set_local(port, v4);
            client.v6.set_local(port, v6);
        });
    }

    /// The network changed: forget what was found, and ask again at once.
    pub fn restart(&mut self, now: Instant) {
        self.watched(|client| {
            client.v4.restart(now, &mut client.rng);
            client.v6.restart(now, &mut client.rng);
        });
    }

    /// Nothing comes in where something should: is the mapping still the same? Asked at once, unless it is being asked.
    pub fn doubt(&mut self, now: Instant) {
        self.watched(|client| {
            client.v4.doubt(now, &mut client.rng);
            client.v6.doubt(now, &mut client.rng);
        });
    }

    /// Somebody else at `server`, a relay, saw the data socket as `mapped`.
    pub fn note_observed(&mut self, now: Instant, server: SocketAddr, mapped: SocketAddr, trusted: bool) {
        self.watched(|client| {
            let (family, rng) = client.family(server);
            family.note_observed(now, rng, server, mapped, trusted);
        });
    }

    /// Takes a datagram that came in on the data socket. `false`: it is not for this machine (perhaps a request, for the
    /// responder, which must come second: the own hairpin test is a request too).
    pub fn handle(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(message) = stun::parse(datagram) else { return false };
        self.watched(|client| {
            let (family, rng) = client.family(from);
            family.handle(now, rng, from, &message)
        })
    }

    /// Sends what is due, through `send`.
    pub fn poll(&mut self, now: Instant, send: &mut dyn FnMut(SocketAddr, &[u8])) {
        self.watched(|client| {
            client.v4.poll(now, &mut client.rng, send);
            client.v6.poll(now, &mut client.rng, send);
        });
    }

    /// When to call `poll` next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.v4.poll_timeout().into_iter().chain(self.v6.poll_timeout()).min()
    }

    #[must_use]
    pub fn v4(&self) -> &FamilyReport {
        self.v4.report()
    }

    #[must_use]
    pub fn v6(&self) -> &FamilyReport {
        self.v6.report()
    }

    /// Whether a report is another one than when this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Where the next mapping of a symmetric NAT that counts is to be expected: 31 addresses, the likeliest first. Empty
    /// for others.
    #[must_use]
    pub fn predicted(&self) -> Vec<SocketAddr> {
        let reports = [self.v4.report(), self.v6.report()];
        let one = |report: &FamilyReport| Some(verdict::predict(report.mapped?, report.nat.port_step?));
        reports.into_iter().filter_map(one).flatten().collect()
    }

    fn family(&mut self, addr: SocketAddr) -> (&mut Family, &mut StdRng) {
        (if addr.is_ipv4() { &mut self.v4 } else { &mut self.v6 }, &mut self.rng)
    }

    fn watched<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let versions = (self.v4.version(), self.v6.version());
        let result = act(self);
        self.changed |= versions != (self.v4.version(), self.v6.version());
        result
    }
}

#[cfg(test)]
#[path = "behaviour_tests.rs"]
mod tests;

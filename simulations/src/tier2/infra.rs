//! What stands on the internet beside the players: STUN servers, which are the shipped responder, and a bystander who
//! counts what he is sent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lanrage_actors::nat::responder::{Origin, Responder};
use lanrage_actors::wire::LocalSocket;

use super::net::Site;
use super::world::World;
use super::{clock, net};

/// Servers of different operators, on which all can be told of a NAT.
pub const STUN_SERVERS: usize = 3;
pub const STUN_PORT: u16 = 3478;
const STUN_OTHER_PORT: u16 = 3479;
const ALTERNATE: LocalSocket = LocalSocket(1);

/// What came to somebody who has nothing to do with any of it.
#[derive(Debug, Default)]
pub struct Bystander {
    pub datagrams: u64,
    pub bytes: u64,
    /// In the second that is counted now, and in the busiest.
    second: (u64, u64),
    pub most_in_a_second: u64,
    /// By sender's address.
    pub senders: BTreeMap<IpAddr, u64>,
}

impl Bystander {
    fn hit(&mut self, from: SocketAddr, bytes: usize) {
        let second = clock::elapsed().as_secs();
        if self.second.0 != second {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        self.most_in_a_second = self.most_in_a_second.max(self.second.1);
        self.datagrams += 1;
        self.bytes += bytes as u64;
        *self.senders.entry(from.ip()).or_default() += 1;
    }
}

/// By number of the site.
#[derive(Debug, Default)]
pub struct Infra {
    stun: BTreeMap<usize, Responder>,
    pub bystanders: BTreeMap<usize, Bystander>,
}

impl Infra {
    pub fn add_stun(&mut self, node: usize, site: &Site) {
        let origin = |local, port| {
            let find = |v4: bool| site.homes.iter().find(|home| home.ip.is_ipv4() == v4);
            let at = |v4| find(v4).map(|home| SocketAddr::new(home.ip, port));
            Origin { local, v4: at(true), v6: at(false) }
        };
        let mut responder = Responder::new(tokio::time::Instant::now().into_std(), node as u64);
        responder.set_origins(origin(LocalSocket::MAIN, STUN_PORT), Some(origin(ALTERNATE, STUN_OTHER_PORT)));
        self.stun.insert(node, responder);
    }

    /// `HOST:PORT` of each address of each server.
    #[must_use]
    pub fn stun_servers(&self, net: &net::Net) -> Vec<String> {
        let homes = self.stun.keys().flat_map(|node| &net.sites[*node].homes);
        homes.map(|home| SocketAddr::new(home.ip, STUN_PORT).to_string()).collect()
    }
}

impl World {
    /// Whether the datagram was for one of these.
    pub fn infra_arrived(&mut self, node: usize, port: u16, from: SocketAddr, bytes: &[u8]) -> bool {
        if let Some(bystander) = self.infra.bystanders.get_mut(&node) {
            bystander.hit(from, bytes.len());
            return true;
        }
        let Some(server) = self.infra.stun.get_mut(&node) else { return false };
        let on = match port {
            STUN_PORT => LocalSocket::MAIN,
            STUN_OTHER_PORT => ALTERNATE,
            _ => return true,
        };
        let now = tokio::time::Instant::now().into_std();
        if let Some(reply) = server.answer(now, on, from, bytes) {
            let port = if reply.from == ALTERNATE { STUN_OTHER_PORT } else { STUN_PORT };
            self.send(node, port, from, reply.bytes);
        }
        true
    }
}

/// A line of a server: fast, and without loss.
#[must_use]
pub fn server_line() -> super::link::LinkSettings {
    super::link::LinkSettings { latency_ms: [2.0, 15.0], jitter_ms: 0.5, rate_kbit: 0.0, ..Default::default() }
}

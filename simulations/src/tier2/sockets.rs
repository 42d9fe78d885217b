//! The data socket of a node: the shipped NatActor sends and receives through it, and learns its addresses from it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use lanrage_actors::nat::addrs::InterfaceAddr;
use lanrage_actors::nat::sockets::{DataSockets, Receive, Sent};
use lanrage_actors::wire::LocalSocket;
use rand::Rng as _;

use super::net::{DATA_PORT, Home, INTERNET};
use super::world;

/// Datagrams that one round of receiving takes in.
const RECEIVE_AT_ONCE: usize = 128;
/// Where the system takes ports from when it may choose.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A datagram that waits in a socket.
pub type Waiting = (LocalSocket, SocketAddr, Vec<u8>);

#[derive(Debug)]
pub struct SimSockets {
    node: usize,
    /// Beside the data socket.
    extra: BTreeMap<LocalSocket, u16>,
}

impl SimSockets {
    #[must_use]
    pub fn new(node: usize) -> Self {
        world::with(|world| {
            world.alive += 1;
            let port = &mut world.ports[node];
            port.socket.clear();
            port.locals.clear();
        });
        Self { node, extra: BTreeMap::new() }
    }

    fn port(&self, local: LocalSocket, to: SocketAddr) -> Option<u16> {
        match local {
            LocalSocket::MAIN => Some(DATA_PORT),
            extra => self.extra.get(&extra).copied().filter(|_| to.is_ipv4()),
        }
    }
}

impl Drop for SimSockets {
    fn drop(&mut self) {
        let node = self.node;
        world::try_with(|world| {
            world.alive -= 1;
            world.ports[node].locals.clear();
        });
    }
}

impl DataSockets for SimSockets {
    fn open(&mut self, local: LocalSocket, port: u16) -> io::Result<u16> {
        let node = self.node;
        let port = world::with(|world| {
            let free = |world: &world::World, port| port != DATA_PORT && !world.ports[node].locals.contains_key(&port);
            let port = match port {
                0 => {
                    let drawn: Vec<u16> = (0..64).map(|_| world.rng.random_range(EPHEMERAL)).collect();
                    drawn.into_iter().find(|port| free(world, *port))
                }
                port => Some(port).filter(|port| free(world, *port)),
            };
            if let Some(port) = port {
                world.ports[node].locals.insert(port, local);
            }
            port
        });
        let port = port.ok_or(io::ErrorKind::AddrInUse)?;
        self.extra.insert(local, port);
        Ok(port)
    }

    fn close(&mut self, local: LocalSocket) {
        if let Some(port) = self.extra.remove(&local) {
            world::with(|world| world.ports[self.node].locals.remove(&port));
        }
    }

    fn send(&self, local: LocalSocket, destination: SocketAddr, contents: &[u8], segment_size: usize) -> Sent {
        let Some(port) = self.port(local, destination) else { return Sent::Failed };
        world::with(|world| {
            for datagram in contents.chunks(segment_size.max(1)) {
                world.send(self.node, port, destination, datagram.to_vec());
            }
        });
        Sent::Done
    }

    /// The simulated socket is never full: what is too much waits for the line, and is lost there.
    fn poll_writable(&self, _: &mut Context<'_>, _: LocalSocket, _: SocketAddr) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, each: &mut Receive<'_>) -> Poll<io::Result<()>> {
        for round in 0..RECEIVE_AT_ONCE {
            let next = world::with(|world| {
                let port = &mut world.ports[self.node];
                let next = port.socket.pop_front();
                if next.is_none() && !port.socket_waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    port.socket_waker = Some(cx.waker().clone());
                }
                next
            });
            match next {
                Some((local, from, bytes)) => each(local, from, &bytes, bytes.len()),
                None if round == 0 => return Poll::Pending,
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn interfaces(&self) -> Option<Vec<InterfaceAddr>> {
        let interface = |home: &Home| {
            let neighbours = if home.realm == INTERNET { 0 } else { 8 };
            let prefix_len = if home.ip.is_ipv4() { 32 - neighbours } else { 128 - neighbours };
            InterfaceAddr { interface: "eth0".into(), ip: home.ip, prefix_len }
        };
        Some(world::with(|world| world.net.sites[self.node].homes.iter().map(interface).collect()))
    }
}

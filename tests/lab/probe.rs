//! What a host can tell of the routers between it and the internet, found out as RFC 5780 does: from two servers with
//! two addresses each.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::Host;
use super::nat_kinds::{Kind, Mapping};
use super::sites::{Internet, Site};

const PORTS: [u16; 2] = [3478, 3479];
/// Another port than the only one that some sites let out.
const OTHER_TCP: u16 = 4001;
/// A wait for what should come. Its end is no failure of a machine with much to do: nothing here takes milliseconds.
const SHOULD: Duration = Duration::from_secs(5);
/// A wait for what should not come, after a datagram that had to come by the same way has come.
const SHOULD_NOT: Duration = Duration::from_millis(50);

/// Sockets on the public servers.
#[derive(Debug)]
pub(crate) struct Servers {
    /// By family (0 for IPv4), server, address, port.
    udp: Vec<(SocketAddr, UdpSocket)>,
    _tcp: Vec<TcpListener>,
}

/// What was found, in the columns of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) udp: Option<UdpFound>,
    pub(crate) tcp443: bool,
    pub(crate) tcp_other: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UdpFound {
    pub(crate) mapping: Mapping,
    pub(crate) port_kept: bool,
    pub(crate) other_port: bool,
    pub(crate) other_address: bool,
    pub(crate) own_address: bool,
    /// As seen by server 1, by its other port, and by server 2.
    pub(crate) maps: [SocketAddr; 3],
}

impl Servers {
    pub(crate) fn start(internet: &Internet<'_>) -> Self {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for server in &internet.servers {
            let addresses = server.v4.map(IpAddr::from).into_iter().chain(server.v6.map(IpAddr::from));
            for address in addresses {
                for port in PORTS {
                    let at = SocketAddr::new(address, port);
                    udp.push((at, server.host.enter(|| UdpSocket::bind(at)).unwrap()));
                }
                for port in [443, OTHER_TCP] {
                    tcp.push(server.host.enter(|| TcpListener::bind((address, port))).unwrap());
                }
            }
        }
        Self { udp, _tcp: tcp }
    }

    /// Of server 0 or 1, its first or other address, its first or other port.
    pub(crate) fn at(&self, family: u8, server: usize, address: usize, port: usize) -> &(SocketAddr, UdpSocket) {
        &self.udp[server * 8 + usize::from(family == 6) * 4 + address * 2 + port]
    }

    /// The outside address of `socket` as a server sees it. None when nothing arrives within `limit`.
    pub(crate) fn observed(
        &self,
        socket: &UdpSocket,
        by: &(SocketAddr, UdpSocket),
        limit: Duration,
    ) -> Option<SocketAddr> {
        let nonce = nonce();
        // The first may meet a neighbour whose link address is still asked for: those are queued, not lost.
        socket.send_to(&nonce, by.0).ok()?;
        hear(&by.1, nonce, limit)
    }
}

/// Find out all that the table says of a host.
pub(crate) fn explore(servers: &Servers, host: &Host, family: u8, inside_port: u16) -> Found {
    let tcp = |port| {
        let (address, _) = servers.at(family, 0, 0, 0);
        let to = SocketAddr::new(address.ip(), port);
        host.enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(700))).is_ok()
    };
    // Before the silent wait of UDP: where TCP came through, UDP would have.
    let (tcp443, tcp_other) = (tcp(443), tcp(OTHER_TCP));
    Found { udp: explore_udp(servers, host, family, inside_port), tcp443, tcp_other }
}

fn explore_udp(servers: &Servers, host: &Host, family: u8, inside_port: u16) -> Option<UdpFound> {
    let socket = socket(host, family, inside_port);
    let first = servers.at(family, 0, 0, 0);
    let limit = if any_udp(servers, host, family) { SHOULD } else { Duration::from_millis(200) };
    let outside = servers.observed(&socket, first, limit)?;

    // Filtering before mapping, as what is sent out opens ways in.
    let others = [(0, 0, 1), (0, 1, 0), (1, 0, 0)].map(|(server, address, port)| {
        let nonce = nonce();
        let by = servers.at(family, server, address, port);
        by.1.send_to(&nonce, outside).unwrap();
        (by.0, nonce)
    });
    let fence = nonce();
    first.1.send_to(&fence, outside).unwrap();
    let heard = hear_all(&socket, fence);
    let got = |which: usize| heard.contains(&others[which]);
    // The server's other address is as foreign as the other server.
    assert_eq!(got(1), got(2), "{}: what is let in depends on more than RFC 4787 knows", host.name());

    let maps = [first, servers.at(family, 0, 0, 1), servers.at(family, 1, 0, 0)]
        .map(|by| servers.observed(&socket, by, SHOULD).unwrap());
    let mapping = match maps {
        [a, b, c] if a == b && b == c => Mapping::EndpointIndependent,
        [a, b, _] if a == b => Mapping::AddressDependent,
        _ => Mapping::AddressAndPortDependent,
    };
    let neighbour = self::socket(host, family, inside_port + 1);
    let to = servers.observed(&neighbour, first, SHOULD)?;
    Some(UdpFound {
        mapping,
        port_kept: maps[0].port() == inside_port,
        other_port: got(0),
        other_address: got(1),
        own_address: reaches(&socket, &neighbour, to, first, to),
        maps,
    })
}

/// Whether a datagram from `from` to `to` arrives at `at`, told by a fence that server `by` sends to `fence_to`.
pub(crate) fn reaches(
    from: &UdpSocket,
    at: &UdpSocket,
    to: SocketAddr,
    by: &(SocketAddr, UdpSocket),
    fence_to: SocketAddr,
) -> bool {
    let (sent, fence) = (nonce(), nonce());
    // Refused at once is not reached.
    let _ = from.send_to(&sent, to);
    by.1.send_to(&fence, fence_to).unwrap();
    hear_all(at, fence).iter().any(|(_, heard)| *heard == sent)
}

/// One datagram gets out within a good while, or none does.
fn any_udp(servers: &Servers, host: &Host, family: u8) -> bool {
    let socket = socket(host, family, 0);
    servers.observed(&socket, servers.at(family, 0, 0, 0), Duration::from_millis(500)).is_some()
}

/// The plain hole punch: both ends have learnt their outside addresses from one server, and send to each other ten times.
/// For all pairs at once.
pub(crate) fn punch(servers: &Servers, pairs: &[(&Site, &Site)]) -> Vec<bool> {
    let mut attempts: Vec<_> = pairs.iter().map(|(a, b)| Attempt::new(servers, a, b)).collect();
    for _ in 0..10 {
        for attempt in attempts.iter_mut().flatten() {
            attempt.send();
        }
        std::thread::sleep(Duration::from_millis(30));
        for attempt in attempts.iter_mut().flatten() {
            attempt.receive();
        }
    }
    attempts.iter().map(|attempt| attempt.as_ref().is_some_and(|attempt| attempt.heard == [true, true])).collect()
}

struct Attempt {
    nonce: [u8; 8],
    sockets: [UdpSocket; 2],
    targets: [SocketAddr; 2],
    heard: [bool; 2],
}

impl Attempt {
    /// None when one of them cannot learn its outside address.
    fn new(servers: &Servers, a: &Site, b: &Site) -> Option<Self> {
        let family = *a.kind.family.iter().find(|family| b.kind.has(**family))?;
        let sockets = [a, b].map(|site| socket(site.player(), family, 0));
        let by = servers.at(family, 0, 0, 0);
        let limit = |site: &Site| if site.kind.udp() { SHOULD } else { Duration::from_millis(100) };
        let outside_b = servers.observed(&sockets[1], by, limit(b))?;
        let outside_a = servers.observed(&sockets[0], by, limit(a))?;
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
        }
        Some(Self { nonce: nonce(), sockets, targets: [outside_b, outside_a], heard: [false; 2] })
    }

    fn send(&self) {
        for (socket, target) in self.sockets.iter().zip(self.targets) {
            let _ = socket.send_to(&self.nonce, target);
        }
    }

    fn receive(&mut self) {
        for side in 0..2 {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = self.sockets[side].recv_from(&mut buffer) {
                if buffer[..length] == self.nonce {
                    self.heard[side] = true;
                    // Answers go to where it came from.
                    self.targets[side] = from;
                }
            }
        }
    }
}

/// A UDP socket of a host, bound to all addresses of that family.
pub(crate) fn socket(host: &Host, family: u8, port: u16) -> UdpSocket {
    let any: IpAddr = if family == 6 { [0_u16; 8].into() } else { [0_u8; 4].into() };
    host.enter(|| UdpSocket::bind((any, port))).unwrap()
}

fn nonce() -> [u8; 8] {
    rand::random()
}

fn receive(socket: &UdpSocket, until: Instant) -> io::Result<(SocketAddr, Vec<u8>)> {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
    socket.set_read_timeout(Some(left))?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((from, buffer[..length].to_vec()))
}

/// Where a datagram came from; others are passed over.
fn hear(socket: &UdpSocket, nonce: [u8; 8], limit: Duration) -> Option<SocketAddr> {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        match receive(socket, until) {
            Ok((from, heard)) if heard == nonce => return Some(from),
            _ => {}
        }
    }
    None
}

/// All that comes until the fence and shortly after it.
fn hear_all(socket: &UdpSocket, fence: [u8; 8]) -> Vec<(SocketAddr, [u8; 8])> {
    let mut heard = Vec::new();
    let mut until = Instant::now() + SHOULD;
    let mut fenced = false;
    while Instant::now() < until {
        let Ok((from, datagram)) = receive(socket, until) else { continue };
        let Ok(nonce) = <[u8; 8]>::try_from(datagram) else { continue };
        if nonce == fence {
            (until, fenced) = (Instant::now() + SHOULD_NOT, true);
        } else {
            heard.push((from, nonce));
        }
    }
    assert!(fenced, "a server's datagram to a mapping that it has seen did not arrive");
    heard
}

impl Found {
    /// What the table says of a kind; the maps are taken from what was found, as they are no behaviour.
    pub(crate) fn expected(kind: &Kind, maps: Option<[SocketAddr; 3]>) -> Self {
        let udp = kind.mapping.map(|mapping| UdpFound {
            mapping,
            port_kept: kind.port_kept,
            other_port: kind.other_port,
            other_address: kind.other_address,
            own_address: kind.own_address,
            maps: maps.unwrap_or_else(|| panic!("{}: no UDP gets out", kind.name)),
        });
        Self { udp, tcp443: kind.reaches_tcp(443), tcp_other: kind.reaches_tcp(OTHER_TCP) }
    }
}

//! `lanrage netcheck`: what stands between this computer and the internet, and what to do about it.

mod text;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lanrage_actors::nat::addrs;
use lanrage_actors::nat::behaviour::{MAX_SERVERS, Server, StunClient};
use lanrage_actors::nat::messages::{NatReport, PortMapView};
use lanrage_actors::nat::portmap::{PortMapSettings, PortMapper};
use serde_json::json;
use tokio::net::UdpSocket;

use super::args::NetcheckArgs;
use super::client::{Client, Kind, read};
use super::commands::pretty;
use super::print;
use crate::config::Places;

/// Asked where no others are named. Run by companies for everybody.
const PUBLIC_SERVERS: [&str; 3] = ["stun.l.google.com:19302", "stun.cloudflare.com:3478", "stun.nextcloud.com:3478"];
/// All stages of the discovery with all of their retransmissions take 4.5 s.
const DISCOVERY: Duration = Duration::from_secs(8);
const PORT_MAPPING: Duration = Duration::from_secs(20);
const RELEASE: Duration = Duration::from_secs(2);
const MAX_DATAGRAM: usize = 1500;

/// The running node knows; without one, or with a port or servers of one's own, this program looks by itself.
pub(super) fn run(args: &NetcheckArgs, places: &Places) -> Result<ExitCode, String> {
    let by_itself = args.port.is_some() || !args.server.is_empty();
    let answer = if by_itself { None } else { ask(args, places)? };
    let by_node = answer.is_some();
    let report = match answer {
        Some(report) => report,
        None => look(args)?,
    };
    let advice = text::advice(&report);
    if args.ask.json {
        let by = if by_node { "node" } else { "netcheck" };
        print::line(&pretty(&json!({ "by": by, "report": report, "advice": advice })));
    } else {
        let by = if by_node { "by the running LANrage" } else { "by this command; LANrage is not running" };
        print::line(&text::shown(&report, if args.port.is_some() { "by this command" } else { by }, &advice));
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(args: &NetcheckArgs, places: &Places) -> Result<Option<NatReport>, String> {
    match Client::new(&args.ask.node, places)?.get("/netcheck") {
        Ok(value) => Ok(Some(read(value)?)),
        Err(failure) if failure.kind == Kind::NotRunning => Ok(None),
        Err(failure) => Err(failure.message),
    }
}

fn look(args: &NetcheckArgs) -> Result<NatReport, String> {
    let named: Vec<&str> = args.server.iter().map(String::as_str).collect();
    let (servers, unknown) = resolve(if named.is_empty() { &PUBLIC_SERVERS } else { &named });
    if servers.is_empty() && !named.is_empty() {
        return Err(format!("no such server: {}; write it like stun.example.org:3478", unknown.join(", ")));
    }
    for name in &unknown {
        print::notice(&format!("{name} has no address; is there a network, and does DNS work?"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let sockets = Sockets::bind(args.port.unwrap_or(0)).await.map_err(|error| {
            format!("UDP port {} cannot be used: {error}; name another with --port", args.port.unwrap_or(0))
        })?;
        let mut report = sockets.discover(&servers).await;
        // After it: a port that the router forwards looks like a NAT that filters nothing.
        report.port_mapping = if args.no_port_mapping { None } else { Some(map(report.listen_port).await) };
        Ok(report)
    })
}

/// Addresses of both families, and the names that have none.
fn resolve(names: &[&str]) -> (Vec<Server>, Vec<String>) {
    let (mut servers, mut unknown): (Vec<Server>, _) = (Vec::new(), Vec::new());
    for name in names {
        let addrs: Vec<_> = name.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        if addrs.is_empty() {
            unknown.push((*name).to_owned());
        }
        for ipv4 in [true, false] {
            // One address each: several of one name are one operator.
            let first = addrs.iter().find(|addr| addr.is_ipv4() == ipv4);
            servers.extend(first.map(|addr| Server { addr: *addr, trusted: true }));
        }
    }
    servers.truncate(2 * MAX_SERVERS);
    (servers, unknown)
}

/// A mapping for a moment, to see whether the router makes one.
async fn map(port: u16) -> PortMapView {
    let mapper = PortMapper::start(PortMapSettings::default(), rand::random());
    mapper.map(port);
    let mut view = mapper.watch();
    let tried = tokio::time::timeout(PORT_MAPPING, view.wait_for(|view| view.tried)).await;
    let found = match tried {
        Ok(Ok(view)) => view.clone(),
        Ok(Err(_)) | Err(_) => PortMapView::default(),
    };
    mapper.release(RELEASE).await;
    found
}

#[derive(Debug)]
struct Sockets {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    port: u16,
}

impl Sockets {
    async fn bind(port: u16) -> io::Result<Self> {
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        let port = v4.local_addr()?.port();
        // Where the system binds both families at once, the port is taken for the second.
        let v6 = bind_v6(port).ok();
        Ok(Self { v4, v6, port })
    }

    async fn discover(&self, servers: &[Server]) -> NatReport {
        let start = Instant::now();
        let mut client = StunClient::new(start, rand::random());
        client.set_local(self.port, &own_addresses());
        let reachable = |server: &&Server| server.addr.is_ipv4() || self.v6.is_some();
        client.set_servers(start, &servers.iter().filter(reachable).copied().collect::<Vec<_>>());
        let idle = |v6: bool| !servers.iter().any(|server| server.addr.is_ipv6() == v6);
        let (mut first, mut second) = ([0; MAX_DATAGRAM], [0; MAX_DATAGRAM]);
        loop {
            let now = Instant::now();
            let mut out = Vec::new();
            client.poll(now, &mut |to, bytes| out.push((to, bytes.to_vec())));
            for (to, bytes) in out {
                // A family without a route: the question counts as unanswered.
                let _ = self.send(to, &bytes).await;
            }
            let done =
                (idle(false) || client.v4().complete) && (idle(true) || self.v6.is_none() || client.v6().complete);
            if done || now > start + DISCOVERY {
                break;
            }
            let wake = client.poll_timeout().unwrap_or(now + DISCOVERY).min(start + DISCOVERY);
            let received = tokio::select! {
                received = self.v4.recv_from(&mut first) => received.map(|(len, from)| (from, first.get(..len))),
                received = receive(self.v6.as_ref(), &mut second) =>
                    received.map(|(len, from)| (from, second.get(..len))),
                () = tokio::time::sleep_until(wake.into()) => continue,
            };
            if let Ok((from, Some(datagram))) = received {
                client.handle(Instant::now(), from, datagram);
            }
        }
        NatReport {
            listen_port: self.port,
            v4: client.v4().clone(),
            v6: client.v6().clone(),
            port_mapping: None,
            lifetime: None,
        }
    }

    async fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<usize> {
        match &self.v6 {
            Some(v6) if to.is_ipv6() => v6.send_to(bytes, to).await,
            _ => self.v4.send_to(bytes, to).await,
        }
    }
}

fn bind_v6(port: u16) -> io::Result<UdpSocket> {
    use rustix::net::sockopt::set_ipv6_v6only;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
    set_ipv6_v6only(&socket, true)?;
    bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

/// Of the interfaces that lead out.
fn own_addresses() -> Vec<IpAddr> {
    let all = addrs::system_addrs().unwrap_or_default();
    addrs::candidates(&all, 1, "", None).into_iter().map(|addr| addr.ip()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_of_each_family_and_name() {
        let (servers, unknown) = resolve(&["192.0.2.1:3478", "[2001:db8::1]:3478", "nonsense"]);
        let addrs: Vec<_> = servers.iter().map(|server| server.addr.to_string()).collect();
        assert_eq!(addrs, ["192.0.2.1:3478", "[2001:db8::1]:3478"]);
        assert_eq!(unknown, ["nonsense"]);
        let many: Vec<_> = (0..100).map(|n| format!("192.0.2.{n}:1")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(resolve(&many).0.len(), 2 * MAX_SERVERS);
    }
}

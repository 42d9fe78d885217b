//! `lanrage netcheck`: what stands between this computer and the internet, and what to do about it.

mod lifetime;
mod text;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lanrage_actors::nat::addrs;
use lanrage_actors::nat::behaviour::{MAX_SERVERS, Server, StunClient};
use lanrage_actors::nat::lifetime::{QUICK_WAITS, WAITS};
use lanrage_actors::nat::messages::{MappingLifetime, NatReport, PortMapView};
use lanrage_actors::nat::portmap::{PortMapSettings, PortMapper};
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

use super::args::NetcheckArgs;
use super::client::{Client, Kind, read};
use super::commands::pretty;
use super::print;
use crate::config::{Config, Layer, Places};

/// All stages of the discovery with all of their retransmissions take 4.5 s.
const DISCOVERY: Duration = Duration::from_secs(8);
const PORT_MAPPING: Duration = Duration::from_secs(20);
const RELEASE: Duration = Duration::from_secs(2);
const MAX_DATAGRAM: usize = 1500;

/// The running node knows; without one, or with a port or servers of one's own, this program looks by itself.
pub(super) fn run(args: &NetcheckArgs, places: &Places) -> Result<ExitCode, String> {
    let flags = Layer { data_dir: args.ask.node.data_dir.clone(), ..Layer::default() };
    let config = Config::load(args.ask.node.config.as_deref(), flags, false, places).map_err(|error| error.0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let asks_node = args.port.is_none() && args.server.is_empty();
    let answer = if asks_node { ask(args, places)? } else { None };
    let (mut report, by) = match answer {
        Some(report) => (report, "node"),
        None => (runtime.block_on(look(args, &config))?, "netcheck"),
    };
    if args.lifetime {
        report.lifetime = Some(measure(args, &config, &runtime)?);
    }
    let advice = text::advice(&report);
    if args.ask.json {
        print::line(&pretty(&json!({ "by": by, "report": report, "advice": advice })));
    } else {
        print::line(&text::shown(&report, by, &advice));
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

async fn look(args: &NetcheckArgs, config: &Config) -> Result<NatReport, String> {
    let names = if args.server.is_empty() { &config.stun_servers } else { &args.server };
    let (servers, unknown) = resolve(names);
    if servers.is_empty() && !args.server.is_empty() {
        return Err(format!("no such server: {}; write it like stun.example.org:3478", unknown.join(", ")));
    }
    for name in &unknown {
        print::notice(&format!("{name} has no address; is there a network, and does DNS work?"));
    }
    let port = args.port.unwrap_or(0);
    let sockets = Sockets::bind(port)
        .await
        .map_err(|error| format!("UDP port {port} cannot be used: {error}; name another with --port"))?;
    let mut report = sockets.discover(&servers).await;
    // After it: a port that the router forwards looks like a NAT that filters nothing.
    let off = args.no_port_mapping || !config.port_mapping;
    report.port_mapping = if off { None } else { Some(map(report.listen_port).await) };
    Ok(report)
}

fn measure(args: &NetcheckArgs, config: &Config, runtime: &Runtime) -> Result<MappingLifetime, String> {
    let names = args.relay.as_ref().map_or(&config.relay_servers[..], std::slice::from_ref);
    let relay = resolve(names).0.into_iter().map(|relay| relay.addr).find(SocketAddr::is_ipv4);
    let relay = relay.ok_or("--lifetime needs a relay that helps: name one with --relay HOST:PORT")?;
    let waits: &[u16] = if args.quick { &QUICK_WAITS } else { &WAITS };
    let longest = waits.iter().max().copied().unwrap_or_default();
    print::notice(&format!("measuring for {longest} s how long an unused mapping lives"));
    runtime.block_on(lifetime::measure(relay, waits)).map_err(|error| format!("no socket for it: {error}"))
}

/// Addresses of both families, and the names that have none.
fn resolve(names: &[String]) -> (Vec<Server>, Vec<String>) {
    let (mut servers, mut unknown): (Vec<Server>, _) = (Vec::new(), Vec::new());
    for name in names {
        let addrs: Vec<_> = name.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        if addrs.is_empty() {
            unknown.push(name.clone());
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
        let (servers, unknown) = resolve(&["192.0.2.1:3478", "[2001:db8::1]:3478", "nonsense"].map(String::from));
        let addrs: Vec<_> = servers.iter().map(|server| server.addr.to_string()).collect();
        assert_eq!(addrs, ["192.0.2.1:3478", "[2001:db8::1]:3478"]);
        assert_eq!(unknown, ["nonsense"]);
        let many: Vec<_> = (0..100).map(|n| format!("192.0.2.{n}:1")).collect();
        assert_eq!(resolve(&many).0.len(), 2 * MAX_SERVERS);
    }
}

//! `lanrage netcheck` behind real NATs: what it says is what was built.

#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{Host, Lab, PATIENCE, binary, shown, until};
use lanrage_actors::nat::stun::{self, Change, Stun};
use serde_json::Value;

const STUN_PORT: u16 = 3478;
const OTHER_PORT: u16 = 3479;
const PORT: u16 = 50_321;

/// A STUN server with two addresses and two ports (RFC 5780), on threads of the test.
struct Server {
    addr: Ipv4Addr,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start(host: &Host, addrs: [Ipv4Addr; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ports = [STUN_PORT, OTHER_PORT];
        let bind = |ip, port| host.enter(|| UdpSocket::bind((ip, port))).unwrap();
        let sockets: Arc<Vec<UdpSocket>> =
            Arc::new(addrs.iter().flat_map(|ip| ports.map(|port| bind(*ip, port))).collect());
        for own in 0..4 {
            let (sockets, stop) = (sockets.clone(), stop.clone());
            sockets[own].set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 1500];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((len, from)) = sockets[own].recv_from(&mut buffer) else { continue };
                    let Some(Stun::Request(request)) = stun::parse(&buffer[..len]) else { continue };
                    let Change { ip, port } = request.change;
                    let by = own ^ (usize::from(ip) << 1) ^ usize::from(port);
                    let other = sockets[own ^ 3].local_addr().ok();
                    let answer = stun::success(request.id, from, None, other, len);
                    drop(sockets[by].send_to(&answer, from));
                }
            });
        }
        Self { addr: addrs[0], stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct World {
    _lab: Lab,
    player: Host,
    home: Host,
    servers: [Server; 2],
}

/// A player behind a router with these rules (`WAN` stands for its outside interface), and two servers.
fn world(lab: Lab, rules: &str) -> World {
    world_with(lab, rules, &[])
}

/// As `world`, with more hosts on the internet.
fn world_with(lab: Lab, rules: &str, more: &[&Host]) -> World {
    let internet = lab.router("internet");
    let [one, two, home] = [lab.host("one"), lab.host("two"), lab.router("home")];
    for host in [&one, &two, &home].into_iter().chain(more.iter().copied()) {
        lab.attach(&internet, host);
    }
    let wan = home.ip(&["-o", "route", "get", "192.0.2.77"]);
    let wan = wan.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned();
    let player = lab.host("player");
    let (inside, outside) = lab.wire(&home, &player);
    home.address_on(&inside, Ipv4Addr::new(192, 168, 90, 1));
    player.address_on(&outside, Ipv4Addr::new(192, 168, 90, 2));
    player.ip(&["route", "add", "default", "via", "192.168.90.1"]);
    let file = home.dir().join("rules.nft");
    // What nobody asked for is dropped before it is tracked: else it takes the port that a mapping would keep.
    let common = format!(
        "table ip home {{
            chain input {{ type filter hook input priority 0; iifname {wan} ct state new drop; }}
            chain forward {{ type filter hook forward priority 0; iifname {wan} ct status dnat accept; iifname {wan} ct state new drop; }}
            {}
        }}",
        rules.replace("WAN", &wan)
    );
    std::fs::write(&file, common).unwrap();
    home.run(&["nft", "-f", file.to_str().unwrap()]).expect_ok();
    let second = |host: &Host| {
        let [a, b, c, d] = host.address().octets();
        let addr = Ipv4Addr::new(a, b, c, d + 1);
        let interface = host.ip(&["-o", "route", "get", &Ipv4Addr::new(a, b, c, 1).to_string()]);
        let interface = interface.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap();
        host.address_on(interface, addr);
        addr
    };
    let servers = [&one, &two].map(|host| Server::start(host, [host.address(), second(host)]));
    World { _lab: lab, player, home, servers }
}

fn lab() -> Option<Lab> {
    Lab::with_programs(&[("nft", "nftables")])
}

fn netcheck(world: &World) -> Value {
    let servers =
        world.servers.iter().map(|server| format!("{}:{STUN_PORT}", server.addr)).collect::<Vec<_>>().join(",");
    let port = PORT.to_string();
    let args = [&binary(), "netcheck", "--json", "--no-port-mapping", "--port", &port, "--server", &servers];
    serde_json::from_str(&world.player.run(&args).expect_ok().stdout).unwrap()
}

fn expect(kind: &str, rules: &str, mapping: &str, filtering: &str, preserving: bool) {
    let Some(lab) = lab() else { return };
    let said = netcheck(&world(lab, rules));
    let (v4, nat) = (&said["report"]["v4"], &said["report"]["v4"]["nat"]);
    assert_eq!(nat["mapping"], mapping, "{said:#}");
    assert_eq!(nat["filtering"], filtering, "{said:#}");
    assert_eq!(nat["port_preserving"], preserving, "{said:#}");
    assert_eq!(v4["public"], false);
    assert_eq!(v4["complete"], true, "{said:#}");
    shown(format!("{kind}: {nat}; {}", said["advice"][0]));
}

#[test]
fn port_restricted() {
    let rules = "chain post { type nat hook postrouting priority 100; oifname WAN masquerade; }";
    expect("masquerade", rules, "endpoint_independent", "address_and_port_dependent", true);
}

#[test]
fn symmetric() {
    let rules = "chain post { type nat hook postrouting priority 100; oifname WAN masquerade fully-random; }";
    expect("masquerade fully-random", rules, "address_and_port_dependent", "address_and_port_dependent", false);
}

#[test]
fn full_cone() {
    // One fixed port both ways, open to everybody.
    let rules = format!(
        "chain pre {{ type nat hook prerouting priority -100; iifname WAN udp dport {PORT} dnat to 192.168.90.2; }}
         chain post {{ type nat hook postrouting priority 100; oifname WAN masquerade; }}"
    );
    expect("forwarded port", &rules, "endpoint_independent", "endpoint_independent", true);
}

#[test]
fn no_nat() {
    let Some(lab) = Lab::new() else { return };
    let [one, two, player] = lab.routed(["one", "two", "player"]);
    let plus_one = |addr: Ipv4Addr| Ipv4Addr::from_bits(addr.to_bits() + 1);
    let servers = [&one, &two].map(|host| {
        let interface = host.ip(&["-o", "route", "get", "198.51.100.77"]);
        let interface = interface.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap();
        host.address_on(interface, plus_one(host.address()));
        Server::start(host, [host.address(), plus_one(host.address())])
    });
    let own = SocketAddr::from((player.address(), PORT));
    let home = lab.host("unused");
    let said = netcheck(&World { _lab: lab, player, home, servers });
    let v4 = &said["report"]["v4"];
    assert_eq!((&v4["public"], &v4["mapped"]), (&Value::Bool(true), &Value::String(own.to_string())), "{said:#}");
    assert_eq!(v4["nat"]["filtering"], "endpoint_independent", "{said:#}");
    shown(format!("no NAT: {}", said["advice"][0]));
}

#[test]
fn udp_blocked() {
    let rules = "chain post { type nat hook postrouting priority 100; oifname WAN masquerade; }
         chain block { type filter hook forward priority -1; meta l4proto udp drop; }";
    let Some(lab) = lab() else { return };
    let said = netcheck(&world(lab, rules));
    assert_eq!(said["report"]["v4"]["nat"]["udp_blocked"], true, "{said:#}");
    assert!(said["advice"][0].as_str().unwrap().contains("TCP"), "{said:#}");
    shown(format!("UDP blocked: {}", said["advice"][0]));
}

/// Takes a minute: the times are those of the program.
#[test]
fn mappings_end_when_the_router_says() {
    let Some(lab) = lab() else { return };
    let rules = "chain post { type nat hook postrouting priority 100; oifname WAN masquerade; }";
    let relay_host = lab.host("relay");
    let data = lab.dir().join("relay-data");
    let world = world_with(lab, rules, &[&relay_host]);
    for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        world.home.enter(|| std::fs::write(format!("/proc/sys/net/netfilter/{timeout}"), "25")).unwrap();
    }
    let address = relay_host.address().to_string();
    let args = ["relay", "--listen-port", "5555", "--public-ip", &address, "--data-dir", data.to_str().unwrap()];
    let relay = relay_host.spawn(&[&[&binary()[..]], &args[..]].concat());
    until("the relay runs", PATIENCE, || if relay.all().is_empty() { Err(relay.all()) } else { Ok(()) });
    let servers = format!("{}:{STUN_PORT}", world.servers[0].addr);
    let said = world.player.run(&[
        &binary(),
        "netcheck",
        "--json",
        "--no-port-mapping",
        "--server",
        &servers,
        "--lifetime",
        "--quick",
        "--relay",
        &format!("{address}:5555"),
    ]);
    let said: Value = serde_json::from_str(&said.expect_ok().stdout).unwrap();
    let lifetime = &said["report"]["lifetime"];
    assert_eq!(
        (&lifetime["alive_s"], &lifetime["gone_s"]),
        (&Value::from(20), &Value::from(30)),
        "{said:#}\n{}",
        relay.all()
    );
    shown(format!("a router that forgets after 25 s: {lifetime}"));
}

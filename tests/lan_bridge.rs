//! Bridge mode: a console, that is a machine without LANrage on a member's local network, plays along.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod lab;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lab::{Host, Lab, Node, NodeOptions, PATIENCE, Relay, shown, until};

const SERVER: &str = "/usr/games/chocolate-server";
const CLIENT: &str = "/usr/games/chocolate-doom";
const LIMITED: Ipv4Addr = Ipv4Addr::BROADCAST;

/// A home with a switch and a router, and a friend somewhere else; all reach the relay.
struct Homes<'lab> {
    lab: &'lab Lab,
    router: Host,
    switch: Host,
    relay: Relay,
    last: u8,
}

impl<'lab> Homes<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let (router, switch, relay_host) = (lab.router("router"), lab.switch("switch"), lab.host("relay"));
        lab.plug(&switch, &router, Ipv4Addr::new(192, 168, 70, 1));
        lab.attach(&router, &relay_host);
        let relay = Relay::start(&relay_host);
        Self { lab, router, switch, relay, last: 9 }
    }

    /// On the switch, with the router as way out.
    fn at_home(&mut self, name: &str) -> Host {
        let host = self.lab.host(name);
        self.last += 1;
        self.lab.plug(&self.switch, &host, Ipv4Addr::new(192, 168, 70, self.last));
        host.ip(&["route", "add", "default", "via", "192.168.70.1"]);
        host
    }

    fn elsewhere(&self, name: &str) -> Host {
        let host = self.lab.host(name);
        self.lab.attach(&self.router, &host);
        host
    }

    fn node(&self, host: &Host, more: &[&str]) -> Node {
        Node::start(host, host.name(), &NodeOptions::bootstrap(&self.relay).with(more))
    }
}

fn state(node: &Node) -> String {
    let status = node.status();
    status["bridge"]["networks"][0]["state"].as_str().unwrap_or("none").to_owned()
}

#[track_caller]
fn wait_state(node: &Node, wanted: &str) {
    until(&format!("{} says that its bridge is {wanted}", node.name()), PATIENCE, || {
        let state = state(node);
        if state == wanted { Ok(()) } else { Err(state) }
    });
}

fn socket(host: &Host, port: u16) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    socket.set_broadcast(true).unwrap();
    socket
}

/// All that comes until it has been quiet for a while; the first is waited for.
fn all(socket: &UdpSocket) -> Vec<(SocketAddr, Vec<u8>)> {
    let (mut got, mut buffer) = (Vec::new(), [0; 2048]);
    let mut wait = Duration::from_secs(5);
    loop {
        socket.set_read_timeout(Some(wait)).unwrap();
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { return got };
        got.push((from, buffer[..length].to_vec()));
        wait = Duration::from_millis(400);
    }
}

/// Nothing comes.
fn quiet(socket: &UdpSocket) -> Vec<(SocketAddr, Vec<u8>)> {
    socket.set_nonblocking(true).unwrap();
    let (mut got, mut buffer) = (Vec::new(), [0; 2048]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(400) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => got.push((from, buffer[..length].to_vec())),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    socket.set_nonblocking(false).unwrap();
    got
}

fn one(from: (Ipv4Addr, u16), payload: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
    vec![(from.into(), payload.to_vec())]
}

#[test]
fn a_console_finds_a_friends_server_and_they_talk_and_the_other_way_round() {
    let Some(lab) = Lab::new() else { return };
    let mut homes = Homes::new(&lab);
    let (a_host, console) = (homes.at_home("ann"), homes.at_home("console"));
    let (b_host, c_host) = (homes.elsewhere("bob"), homes.elsewhere("cid"));
    let a = homes.node(&a_host, &["--bridge", "eth0"]);
    let (b, c) = (homes.node(&b_host, &[]), homes.node(&c_host, &[]));
    let (code, _) = a.create();
    b.join(&code);
    c.join(&code);
    b.expect_ping(&a);
    c.expect_ping(&b);
    std::thread::sleep(Duration::from_secs(7));
    wait_state(&a, "carrying");
    let (a_ip, lan_ip) = (a.virtual_ip(), a_host.address());
    assert!(a.said().contains("bridging eth0: every machine on that network"), "it warns:\n{}", a.said());

    // The console looks for servers; two friends have one.
    let asking = socket(&console, 3074);
    let servers = [socket(&b_host, 2342), socket(&c_host, 2342)];
    asking.send_to(b"who?", (LIMITED, 2342)).unwrap();
    for server in &servers {
        assert_eq!(all(server), one((a_ip, 3074), b"who?"), "once, from the console's port");
        server.send_to(b"me", (a_ip, 3074)).unwrap();
    }
    let mut answers = all(&asking);
    answers.sort();
    assert_eq!(answers.len(), 2, "{answers:?}: {}", a.status()["bridge"]);
    assert!(answers.iter().all(|(from, payload)| from.ip() == lan_ip && payload == b"me"), "{answers:?}");
    assert!(answers.iter().any(|(from, _)| from.port() == 2342), "one has the server's own port: {answers:?}");
    shown(format!("a console's shout reaches two friends from {a_ip}:3074; their answers come from {answers:?}"));

    // Each answer's address leads to the one who gave it, also from another port of the console.
    let other = socket(&console, 3080);
    for (number, (address, _)) in answers.iter().enumerate() {
        asking.send_to(&[number as u8], address).unwrap();
        other.send_to(&[number as u8 + 10], address).unwrap();
    }
    let mut reached: Vec<_> = servers.iter().map(all).collect();
    reached.sort_by_key(|got| got[0].1.clone());
    for (number, got) in reached.iter_mut().enumerate() {
        got.sort_by_key(|(_, payload)| payload.clone());
        let number = number as u8;
        let expected: Vec<(SocketAddr, Vec<u8>)> =
            vec![((a_ip, 3074).into(), vec![number]), ((a_ip, 3080).into(), vec![number + 10])];
        assert_eq!(*got, expected);
    }
    servers[0].send_to(b"go", (a_ip, 3080)).unwrap();
    assert_eq!(all(&other).len(), 1);
    assert_eq!(quiet(&asking), [], "for another port");
    shown("unicast goes on both ways, from two ports of the console to two servers");

    // A friend hosts and announces; the console hears it and answers.
    let (announcing, listening) = (socket(&b_host, 7777), socket(&console, 8888));
    b_host.enter(|| bind_to(&announcing, "lanrage0"));
    announcing.send_to(b"game!", (LIMITED, 8888)).unwrap();
    assert_eq!(all(&listening), one((lan_ip, 7777), b"game!"));
    listening.send_to(b"join", (lan_ip, 7777)).unwrap();
    assert_eq!(all(&announcing), one((a_ip, 8888), b"join"));
    announcing.send_to(b"welcome", (a_ip, 8888)).unwrap();
    assert_eq!(all(&listening), one((lan_ip, 7777), b"welcome"));
    shown("a friend's announcement reaches the console, which joins, both ways");

    // On the console's own port, which a socket of the bridge has on the virtual IP by now: still once.
    for payload in [b"first", b"again"] {
        announcing.send_to(payload, (LIMITED, 3074)).unwrap();
        assert_eq!(all(&asking), one((lan_ip, 7777), payload));
        // Until the sockets here have been looked at again.
        std::thread::sleep(Duration::from_millis(2500));
    }
    shown("a friend's announcement to the port that the console speaks from reaches it once");

    // Multicast, and the network's own broadcast address.
    let group = Ipv4Addr::new(224, 0, 2, 60);
    listening.join_multicast_v4(&group, &console.address()).unwrap();
    announcing.send_to(b"[MOTD]", (group, 8888)).unwrap();
    assert_eq!(all(&listening), one((lan_ip, 7777), b"[MOTD]"));
    asking.send_to(b"subnet", (Ipv4Addr::new(192, 168, 70, 255), 2342)).unwrap();
    for server in &servers {
        assert_eq!(all(server), one((a_ip, 3074), b"subnet"));
    }

    // Larger than a frame.
    let large = vec![7; 9000];
    asking.send_to(&large, (LIMITED, 2342)).unwrap();
    let mut buffer = vec![0; 10_000];
    servers[0].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(servers[0].recv_from(&mut buffer).unwrap(), (9000, (a_ip, 3074).into()));

    // Housekeeping of the network stays there.
    let dhcp = socket(&b_host, 67);
    let lookup = socket(&b_host, 5355);
    asking.send_to(b"x", (LIMITED, 67)).unwrap();
    asking.send_to(b"x", (LIMITED, 5355)).unwrap();
    assert_eq!((quiet(&dhcp), quiet(&lookup)), (vec![], vec![]));
    shown(format!("bridge: {}", a.status()["bridge"]));
}

/// What a program does that is set to use the party's network only.
fn bind_to(socket: &UdpSocket, device: &str) {
    socket2::SockRef::from(socket).bind_device(Some(device.as_bytes())).unwrap();
}

#[test]
fn two_members_who_bridge_the_same_network_carry_each_shout_once() {
    let Some(lab) = Lab::new() else { return };
    let mut homes = Homes::new(&lab);
    let (a_host, d_host, console) = (homes.at_home("ann"), homes.at_home("dan"), homes.at_home("console"));
    let (b_host, e_host) = (homes.elsewhere("bob"), homes.at_home("eve"));
    let a = homes.node(&a_host, &["--bridge", "eth0"]);
    let d = homes.node(&d_host, &["--bridge", "eth0"]);
    let (b, e) = (homes.node(&b_host, &[]), homes.node(&e_host, &[]));
    let (code, _) = a.create();
    for node in [&d, &b, &e] {
        node.join(&code);
    }
    for node in [&a, &d, &e] {
        b.expect_ping(node);
    }
    a.expect_ping(&d);
    until("one of them carries and the other leaves it to him", PATIENCE, || {
        let mut states = [state(&a), state(&d)];
        states.sort();
        if states == ["carrying", "left_to_other"] { Ok(()) } else { Err(format!("{states:?}")) }
    });
    // A member who has just come to the network holds the bridges up for 5 s: he may be about to say that he bridges.
    std::thread::sleep(Duration::from_secs(7));
    let carrier = if state(&a) == "carrying" { &a } else { &d };

    const TIMES: usize = 20;
    let counted = |got: Vec<(SocketAddr, Vec<u8>)>| {
        let mut payloads: Vec<_> = got.iter().map(|(_, payload)| payload[0]).collect();
        payloads.sort_unstable();
        (payloads, got)
    };
    let expected: Vec<u8> = (0..TIMES as u8).collect();

    // The console shouts: once to the friend elsewhere, once (by the switch) to each member at home.
    let asking = socket(&console, 3074);
    let everywhere = [socket(&b_host, 2342), socket(&a_host, 2342), socket(&d_host, 2342), socket(&e_host, 2342)];
    for number in 0..TIMES {
        asking.send_to(&[number as u8], (LIMITED, 2342)).unwrap();
        std::thread::sleep(Duration::from_millis(40));
    }
    for (index, socket) in everywhere.iter().enumerate() {
        let (payloads, got) = counted(all(socket));
        assert_eq!(payloads, expected, "listener {index}: {got:?}: {}", carrier.status()["bridge"]);
        let from: SocketAddr =
            if index == 0 { (carrier.virtual_ip(), 3074).into() } else { (console.address(), 3074).into() };
        assert!(got.iter().all(|(source, _)| *source == from), "listener {index} from {from}: {got:?}");
    }
    assert_eq!(quiet(&asking), [], "nothing comes back to the console");

    // The friend shouts: once to the console.
    let (announcing, listening) = (socket(&b_host, 7777), socket(&console, 8888));
    b_host.enter(|| bind_to(&announcing, "lanrage0"));
    for number in 0..TIMES {
        announcing.send_to(&[number as u8], (LIMITED, 8888)).unwrap();
        std::thread::sleep(Duration::from_millis(40));
    }
    let (payloads, got) = counted(all(&listening));
    assert_eq!(payloads, expected, "{got:?}");
    assert_eq!(quiet(&announcing), [], "nothing comes back to the friend");

    // A member at home shouts, on the party's device: the console hears it by the switch, if at all, not by a bridge.
    let member = socket(&e_host, 7778);
    e_host.enter(|| bind_to(&member, "lanrage0"));
    member.send_to(b"e", (LIMITED, 8888)).unwrap();
    assert_eq!(quiet(&listening), []);
    shown(format!("{TIMES} shouts each way, each once; {} carries", carrier.name()));

    // Who carried is gone: the other takes over.
    let (mut first, second) = if carrier.name() == a.name() { (a, d) } else { (d, a) };
    first.kill9();
    let waited = Instant::now();
    until("the other takes over", Duration::from_secs(90), || {
        let state = state(&second);
        if state == "carrying" { Ok(()) } else { Err(state) }
    });
    asking.send_to(b"still?", (LIMITED, 2342)).unwrap();
    assert_eq!(all(&everywhere[0]), one((second.virtual_ip(), 3074), b"still?"));
    shown(format!("after its end the other carries ({:.0} s)", waited.elapsed().as_secs_f64()));
}

#[test]
fn a_real_game_on_a_machine_without_lanrage_finds_a_friends_server() {
    let programs = [(SERVER, "chocolate-doom"), (CLIENT, "chocolate-doom")];
    let Some(lab) = Lab::with_programs(&programs.map(|(path, package)| (&path[11..], package))) else { return };
    let mut homes = Homes::new(&lab);
    let (a_host, console) = (homes.at_home("ann"), homes.at_home("console"));
    let b_host = homes.elsewhere("bob");
    let (a, b) = (homes.node(&a_host, &["--bridge", "eth0"]), homes.node(&b_host, &[]));
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);
    wait_state(&a, "carrying");
    let _server = b_host.spawn_as_player(&[SERVER, "-privateserver"]);
    let lan_ip = a_host.address().to_string();
    let line = until("chocolate-doom -localsearch on the console lists the server", PATIENCE, || {
        let search = console.run_as_player(&[CLIENT, "-localsearch"]);
        let line = search.stdout.lines().find(|line| line.contains(&lan_ip) && line.contains("0/8"));
        line.map(str::to_owned).ok_or_else(|| search.all())
    });
    shown(format!("chocolate-doom -localsearch on a machine without LANrage: {line}"));
    let query = console.run_as_player(&[CLIENT, "-query", &lan_ip]).expect_ok();
    assert!(query.stdout.contains("0/8"), "{}", query.all());

    // Without the bridge it finds nothing.
    let mut a = a;
    a.kill9();
    let alone = Node::launch_in(&a_host, a.name(), a.data(), &NodeOptions::bootstrap(&homes.relay));
    let mut alone = alone;
    alone.wait_for_api();
    b.expect_ping(&alone);
    assert!(alone.status()["bridge"].is_null());
    let search = console.run_as_player(&[CLIENT, "-localsearch"]);
    assert!(!search.stdout.contains("0/8"), "the bridge is off:\n{}", search.all());
}

#[test]
fn an_interface_that_cannot_be_bridged_is_named() {
    let Some(lab) = Lab::new() else { return };
    let [host] = lab.lan(["a"]);
    let node = Node::start(&host, "ann", &NodeOptions::alone().with(&["--bridge", "wlan7"]));
    let status = node.status();
    let problems = status["problems"].to_string();
    assert!(problems.contains("there is no interface wlan7") && problems.contains("eth0"), "{status}");
}

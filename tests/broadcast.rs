//! What a program shouts on one machine is heard by programs on the others, with a physical network as the default route
//! beside the party's.

// A test file is all test, its helpers too, which the clippy settings for test functions do not see.
#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use lab::{Answer, Host, Lab, Node, NodeOptions, PATIENCE, Relay, shown, until};
use socket2::{Domain, Protocol, Socket, Type};

const PORT: u16 = 27_960;
const LIMITED: Ipv4Addr = Ipv4Addr::BROADCAST;
const RANGE_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 66, 255, 255);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 2, 60);
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// Wait for what should not come, after what had to come by the same way has come.
const SHOULD_NOT: Duration = Duration::from_millis(300);

/// A program's socket that may broadcast.
fn socket(host: &Host, address: Ipv4Addr, port: u16) -> UdpSocket {
    open(host, address, port, |_| ())
}

fn open(host: &Host, address: Ipv4Addr, port: u16, set_up: impl FnOnce(&Socket) + Send) -> UdpSocket {
    let socket = host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_recv_buffer_size(4 << 20).unwrap();
        socket.bind(&SocketAddrV4::new(address, port).into()).unwrap();
        set_up(&socket);
        UdpSocket::from(socket)
    });
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// All that arrives until nothing has for a while.
fn heard(socket: &UdpSocket, quiet: Duration) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut buffer = vec![0; 65_536];
    let mut all = Vec::new();
    socket.set_read_timeout(Some(quiet)).unwrap();
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        all.push((from, buffer[..length].to_vec()));
    }
    all
}

/// Nodes in one party, each on a network of its own with the internet in the middle.
struct Party {
    hosts: Vec<Host>,
    nodes: Vec<Node>,
    router: Host,
    _relay: Relay,
}

impl Party {
    fn new<const N: usize>(lab: &Lab, names: [&str; N]) -> Self {
        let router = lab.router("internet");
        let attach = |name: &str| {
            let host = lab.host(name);
            lab.attach(&router, &host);
            host
        };
        let relay = Relay::start(&attach("relay"));
        let hosts: Vec<Host> = names.iter().map(|name| attach(name)).collect();
        let options = NodeOptions::bootstrap(&relay);
        let nodes: Vec<Node> = hosts.iter().zip(names).map(|(host, name)| Node::start(host, name, &options)).collect();
        let (code, _) = nodes[0].create();
        for node in &nodes[1..] {
            node.join(&code);
        }
        for node in &nodes {
            for name in names.iter().filter(|name| **name != node.name()) {
                node.wait_connected(name);
            }
            until("the capture runs", PATIENCE, || {
                let captures = broadcast(node)["captures"].clone();
                let running = captures.as_array().is_some_and(|list| list.iter().any(|it| it["state"] == "running"));
                if running { Ok(()) } else { Err(captures.to_string()) }
            });
        }
        Self { hosts, nodes, router, _relay: relay }
    }

    fn ip(&self, index: usize) -> Ipv4Addr {
        self.nodes[index].virtual_ip()
    }

    /// The broadcast address of the host's physical network.
    fn lan_broadcast(&self, index: usize) -> Ipv4Addr {
        let [a, b, c, _] = self.hosts[index].address().octets();
        Ipv4Addr::new(a, b, c, 255)
    }
}

fn broadcast(node: &Node) -> Answer {
    node.status()["broadcast"].clone()
}

fn counter(node: &Node, name: &str) -> u64 {
    let view = broadcast(node);
    view["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {view}"))
}

#[test]
fn a_broadcast_of_a_program_bound_to_the_virtual_ip_is_heard_and_answered() {
    let Some(lab) = Lab::new() else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let a = Node::start(&a_host, "alice", &NodeOptions::alone());
    let b = Node::start(&b_host, "bob", &NodeOptions::alone());
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);

    let game = socket(&a_host, a.virtual_ip(), 0);
    let server = socket(&b_host, ANY, PORT);
    for to in [LIMITED, RANGE_BROADCAST] {
        let mut buffer = [0; 64];
        // The first may meet a route that is still on its way to BroadcastActor.
        let from = until("the other machine hears it", PATIENCE, || {
            game.send_to(to.to_string().as_bytes(), (to, PORT)).unwrap();
            let (length, from) = server.recv_from(&mut buffer).map_err(|problem| problem.to_string())?;
            if buffer[..length] == *to.to_string().as_bytes() { Ok(from) } else { Err("an earlier one".into()) }
        });
        assert_eq!(from, SocketAddrV4::new(a.virtual_ip(), game.local_addr().unwrap().port()).into());
        server.send_to(b"welcome", from).unwrap();
        let (length, from) = game.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"welcome");
        assert_eq!(from, SocketAddrV4::new(b.virtual_ip(), PORT).into());
    }
    let view = broadcast(&b);
    assert!(view["counters"]["delivered"].as_u64() >= Some(2), "{view}");
    shown(format!("{} hears {} on both broadcast addresses, and is heard by it", b.virtual_ip(), a.virtual_ip()));
}

#[test]
fn what_games_shout_on_their_lan_reaches_each_kind_of_socket_once_and_every_reply_comes_back() {
    let Some(lab) = Lab::new() else { return };
    let party = Party::new(&lab, ["alice", "bob"]);
    let (a, b) = (&party.hosts[0], &party.hosts[1]);
    let (a_ip, b_ip) = (party.ip(0), party.ip(1));
    // Source port = destination port, and it listens there itself.
    let game = open(a, ANY, PORT, |socket| socket.join_multicast_v4(&GROUP, &a.address()).unwrap());

    let join = |socket: &Socket| socket.join_multicast_v4(&GROUP, &b.address()).unwrap();
    let java = |socket: &Socket| {
        join(socket);
        socket.set_multicast_all_v4(false).unwrap();
    };
    type SetUp<'a> = &'a (dyn Fn(&Socket) + Sync);
    let plain: SetUp<'_> = &|_| ();
    let lan = party.lan_broadcast(0);
    let cases: [(&str, Ipv4Addr, &[(Ipv4Addr, SetUp<'_>)]); 10] = [
        ("limited, any address", LIMITED, &[(ANY, plain)]),
        ("subnet, any address", lan, &[(ANY, plain)]),
        ("limited, the virtual IP", LIMITED, &[(b_ip, plain)]),
        ("subnet, the virtual IP", lan, &[(b_ip, plain)]),
        ("limited, any address and the virtual IP", LIMITED, &[(ANY, plain), (b_ip, plain)]),
        ("limited, two of any address", LIMITED, &[(ANY, plain), (ANY, plain)]),
        ("limited, the broadcast address", LIMITED, &[(LIMITED, plain)]),
        ("multicast, any address", GROUP, &[(ANY, &join)]),
        ("multicast, Java", GROUP, &[(ANY, &java)]),
        ("multicast, the group", GROUP, &[(GROUP, &join)]),
    ];
    for (what, to, sockets) in cases {
        let listeners: Vec<_> =
            sockets.iter().map(|(address, set_up)| open(b, *address, PORT, |socket| set_up(socket))).collect();
        // What was seen of the sockets before is at most that old.
        std::thread::sleep(Duration::from_millis(1200));
        game.send_to(what.as_bytes(), (to, PORT)).unwrap();
        for listener in &listeners {
            let expected = vec![(SocketAddr::from((a_ip, PORT)), what.as_bytes().to_vec())];
            assert_eq!(heard(listener, Duration::from_secs(1)), expected, "{what}");
        }
        shown(format!("{what}: each socket hears it once, from {a_ip}:{PORT}"));
    }
    // Its own broadcasts come back to it by its own network only, as on any LAN; none from a virtual address.
    let own = heard(&game, SHOULD_NOT);
    assert!(own.iter().all(|(from, _)| from.ip() == a.address()), "an echo through the party: {own:?}");

    let server = open(b, ANY, PORT, join);
    std::thread::sleep(Duration::from_millis(1200));
    let other = socket(b, ANY, 0);
    let ask = |to: Ipv4Addr| game.send_to(b"who?", (to, PORT)).unwrap();
    ask(LIMITED);
    let (from, _) = heard(&server, Duration::from_secs(1)).remove(0);
    let lan = party.lan_broadcast(1);
    type Reply<'a> = (&'a str, &'a UdpSocket, SocketAddr);
    let replies: [Reply<'_>; 5] = [
        ("unicast", &server, from),
        ("limited broadcast", &server, (LIMITED, PORT).into()),
        ("subnet broadcast", &server, (lan, PORT).into()),
        ("multicast", &server, (GROUP, PORT).into()),
        ("unicast from another port", &other, from),
    ];
    for (what, socket, to) in replies {
        socket.send_to(what.as_bytes(), to).unwrap();
        let port = socket.local_addr().unwrap().port();
        let expected = vec![(SocketAddr::from((b_ip, port)), what.as_bytes().to_vec())];
        let mut all = heard(&game, Duration::from_secs(1));
        // Its own question, by its own network.
        all.retain(|(from, _)| from.ip() != a.address());
        assert_eq!(all, expected, "{what}");
        shown(format!("a reply by {what} arrives once"));
    }
    let view = broadcast(&party.nodes[1]);
    assert_eq!(view["groups"], serde_json::json!([GROUP.to_string()]), "{view}");
    drop((server, game));
    until("the group is left", PATIENCE, || {
        let groups = broadcast(&party.nodes[1])["groups"].clone();
        if groups == serde_json::json!([]) { Ok(()) } else { Err(groups.to_string()) }
    });
}

#[test]
fn four_members_hear_each_announcement_exactly_once() {
    let Some(lab) = Lab::new() else { return };
    let party = Party::new(&lab, ["alice", "bob", "carol", "dave"]);
    let sockets: Vec<UdpSocket> = party
        .hosts
        .iter()
        .map(|host| open(host, ANY, PORT, |it| it.join_multicast_v4(&GROUP, &host.address()).unwrap()))
        .collect();
    std::thread::sleep(Duration::from_secs(3));
    let repetitions = lab::runs(40);
    let start = Instant::now();
    // Read as they come: the kernel keeps some hundred for a socket.
    let all: Vec<Vec<(SocketAddr, Vec<u8>)>> = std::thread::scope(|scope| {
        let readers: Vec<_> =
            sockets.iter().map(|socket| scope.spawn(|| heard(socket, Duration::from_secs(3)))).collect();
        announce(&party, &sockets, repetitions);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let took = start.elapsed();
    let ips: Vec<Ipv4Addr> = (0..4).map(|index| party.ip(index)).collect();
    for (me, all) in all.into_iter().enumerate() {
        let mut copies: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (from, payload) in all {
            let text = String::from_utf8(payload).unwrap();
            let (index, number) = text.split_once(':').unwrap();
            let index: usize = index.parse().unwrap();
            // Its own comes back to it by its own kernel, as on any LAN: once, so none by the party.
            let sources = if index == me { [ips[me], party.hosts[me].address()] } else { [ips[index]; 2] };
            assert!(from.port() == PORT && sources.iter().any(|ip| from.ip() == *ip), "{text} from {from}");
            *copies.entry((index, number.parse().unwrap())).or_default() += 1;
        }
        let twice = copies.values().filter(|&&copies| copies > 1).count();
        assert_eq!(
            (copies.len(), twice),
            (4 * repetitions, 0),
            "at {}: heard, of these more than once",
            party.nodes[me].name()
        );
    }
    shown(format!(
        "{repetitions} announcements of each of four members in {took:.1?}: each heard once by each of the three others, none came back to its sender"
    ));

    // The same each second is each time another.
    for _ in 0..3 {
        sockets[0].send_to(b"0:0", (LIMITED, PORT)).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    }
    for socket in &sockets[1..] {
        assert_eq!(heard(socket, SHOULD_NOT).len(), 3);
    }
    shown("three identical announcements one second apart: all heard");
}

/// Each member shouts once in each round, to another kind of address each time.
fn announce(party: &Party, sockets: &[UdpSocket], rounds: usize) {
    for number in 0..rounds {
        for (index, socket) in sockets.iter().enumerate() {
            let to = [LIMITED, party.lan_broadcast(index), GROUP, RANGE_BROADCAST][(number + index) % 4];
            socket.send_to(format!("{index}:{number}").as_bytes(), (to, PORT)).unwrap();
        }
        // Below the limits of a port (250/s), with room for four senders on a busy machine.
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_program_that_sends_on_each_interface_is_heard_once() {
    let Some(lab) = Lab::new() else { return };
    let party = Party::new(&lab, ["alice", "bob"]);
    let second = lab.switch("second");
    lab.plug(&second, &party.hosts[0], Ipv4Addr::new(192, 168, 99, 7));
    until("the new interface is captured", PATIENCE, || {
        let view = broadcast(&party.nodes[0]);
        if view["captures"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(view.to_string()) }
    });
    let (game, listener) = (socket(&party.hosts[0], ANY, 0), socket(&party.hosts[1], ANY, PORT));
    let each = [party.lan_broadcast(0), Ipv4Addr::new(192, 168, 99, 255), RANGE_BROADCAST];
    for _ in 0..2 {
        for to in each {
            game.send_to(b"here", (to, PORT)).unwrap();
        }
    }
    assert_eq!(heard(&listener, Duration::from_secs(1)).len(), 2, "twice on three interfaces");
    game.send_to(b"here", (each[1], PORT)).unwrap();
    assert_eq!(heard(&listener, Duration::from_secs(1)).len(), 1, "once on the new interface");
    party.hosts[0].ip(&["link", "del", "eth1"]);
    until("the interface that went is captured no more", PATIENCE, || {
        let view = broadcast(&party.nodes[0]);
        if view["captures"].as_array().map(Vec::len) == Some(1) { Ok(()) } else { Err(view.to_string()) }
    });
    game.send_to(b"here", (each[0], PORT)).unwrap();
    assert_eq!(heard(&listener, Duration::from_secs(1)).len(), 1, "on the one that stayed");
    shown(
        "two sends on three interfaces each: heard twice; an interface that came was captured, one that went left out",
    );
}

#[test]
fn large_datagrams_arrive_whole() {
    let Some(lab) = Lab::new() else { return };
    let party = Party::new(&lab, ["alice", "bob"]);
    let (game, listener) = (socket(&party.hosts[0], ANY, PORT), socket(&party.hosts[1], ANY, PORT));
    for length in [1472, 1473, 20_000, 65_507] {
        let payload: Vec<u8> = (0..length).map(|at: usize| (at * 7 % 251) as u8).collect();
        for (what, to) in [("limited", LIMITED), ("the party's own", RANGE_BROADCAST)] {
            game.send_to(&payload, (to, PORT)).unwrap();
            let all = heard(&listener, Duration::from_secs(1));
            assert_eq!(all.len(), 1, "{length} bytes, {what}");
            assert!(all[0].1 == payload && all[0].0 == (party.ip(0), PORT).into(), "{length} bytes, {what}");
        }
    }
    shown("payloads of 1,472, 1,473, 20,000 and 65,507 bytes arrive whole, from both networks");
}

/// 10,000 broadcasts a second until `end`.
fn storm(socket: &UdpSocket, port: u16, end: Instant) -> u32 {
    let (start, mut sent) = (Instant::now(), 0u32);
    while Instant::now() < end {
        // In steps that the scheduler can keep.
        while f64::from(sent) < start.elapsed().as_secs_f64() * 10_000.0 {
            socket.send_to(&[7; 200], (LIMITED, port)).unwrap();
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

#[test]
fn a_storm_of_one_member_neither_slows_the_others_nor_grows_memory() {
    let Some(lab) = Lab::new() else { return };
    let mut party = Party::new(&lab, ["alice", "bob", "carol"]);
    let pids: Vec<u32> = party.nodes.iter_mut().map(|node| node.process().pid()).collect();
    let (bob, carol) = (party.hosts[1].clone(), party.ip(2));
    let ping =
        || percentiles(&bob.run(&["ping", "-n", "-i", "0.01", "-c", "300", &carol.to_string()]).expect_ok().stdout);
    // A machine like the others without a node: what the sender and the kernels cost by themselves.
    let stranger = lab.host("stranger");
    lab.attach(&party.router, &stranger);
    let listener = socket(&party.hosts[2], ANY, PORT + 1);
    let lobby = socket(&party.hosts[0], ANY, 0);
    let rss_before: Vec<u64> = pids.iter().map(|pid| rss_kib(*pid)).collect();
    let (mut sent, mut said) = (0, Vec::new());
    for (what, host) in
        [("quiet", None), ("storm of a stranger", Some(&stranger)), ("storm of alice", Some(&party.hosts[0]))]
    {
        let shouting = host.map(|host| socket(host, ANY, PORT));
        let (start, ticks) = (Instant::now(), pids.iter().map(|pid| cpu_ticks(*pid)).collect::<Vec<_>>());
        let (p50, p99) = std::thread::scope(|scope| {
            let storm =
                shouting.as_ref().map(|socket| scope.spawn(|| storm(socket, PORT, start + Duration::from_secs(5))));
            std::thread::sleep(Duration::from_millis(500));
            let figures = ping();
            if what == "storm of alice" {
                for _ in 0..5 {
                    lobby.send_to(b"lobby", (LIMITED, PORT + 1)).unwrap();
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            sent = storm.map_or(0, |storm| storm.join().unwrap());
            figures
        });
        let seconds = start.elapsed().as_secs_f64();
        // Hundredths of a second, as the kernel tells them.
        let cpu =
            pids.iter().zip(ticks).map(|(pid, before)| format!("{:.1}", (cpu_ticks(*pid) - before) as f64 / seconds));
        said.push(format!("{what}: p50/p99 {p50:.2}/{p99:.2} ms, % of a core {}", cpu.collect::<Vec<_>>().join(" ")));
    }
    let rss_after: Vec<u64> = pids.iter().map(|pid| rss_kib(*pid)).collect();
    let lobbies = heard(&listener, Duration::from_secs(1)).len();
    assert!(lobbies >= 4, "of five announcements of another program beside the storm {lobbies} arrived");
    let (limited, passed) = (counter(&party.nodes[0], "dropped_limited"), counter(&party.nodes[0], "sent"));
    let overflown = counter(&party.nodes[0], "dropped_capture");
    assert!(
        sent > 20_000 && passed < 3000 && limited + overflown > u64::from(sent) / 2,
        "{sent} sent: {passed} passed, {limited} limited, {overflown} not read in time"
    );
    for (before, after) in rss_before.iter().zip(&rss_after) {
        assert!(*after < before + 16 * 1024, "memory grew: {rss_before:?} → {rss_after:?} KiB");
    }
    shown(format!(
        "{sent} broadcasts in 5 s: {passed} carried, {limited} refused, {overflown} not read in time; memory {rss_before:?} → {rss_after:?} KiB"
    ));
    shown(format!("ping between the two others, and use of alice, bob, carol: {}", said.join("; ")));
}

/// User and system time of a process, in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Median and 99th percentile of what `ping` prints, milliseconds.
fn percentiles(said: &str) -> (f64, f64) {
    let times = said.lines().filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok());
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn broken_packets_are_refused_and_counted() {
    let Some(lab) = Lab::new() else { return };
    let party = Party::new(&lab, ["alice", "bob"]);
    let listener = socket(&party.hosts[1], ANY, PORT);
    // What the kernel would never send goes out by a socket that takes the IP header from us.
    let raw = party.hosts[0].enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        socket.set_broadcast(true).unwrap();
        socket
    });
    let source = party.hosts[0].address();
    let send = |packet: &[u8]| raw.send_to(packet, &SocketAddrV4::new(LIMITED, 0).into()).unwrap();
    let good = udp_packet(source, PORT, b"good");
    let broken: [(&str, usize, u8); 4] = [
        ("UDP length too long", 25, 200),
        ("UDP length too short", 25, 9),
        ("UDP length zero", 25, 12),
        ("wrong checksum", 27, 0x55),
    ];
    let before = counter(&party.nodes[0], "dropped_malformed");
    for (_, at, value) in broken {
        let mut packet = good.clone();
        packet[at] ^= value;
        send(&packet);
    }
    // Fragments that overlap: the second begins within the first.
    let refused = counter(&party.nodes[0], "dropped_fragments");
    for (offset, more) in [(0u16, true), (1, false)] {
        let mut packet = udp_packet(source, PORT, &[1; 24]);
        let field = offset | if more { 0x2000 } else { 0 };
        packet[4..6].copy_from_slice(&[9, 9]);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        send(&packet);
    }
    send(&good);
    let all = heard(&listener, Duration::from_secs(1));
    assert_eq!(all, [(SocketAddr::from((party.ip(0), PORT)), b"good".to_vec())]);
    assert_eq!(counter(&party.nodes[0], "dropped_malformed") - before, broken.len() as u64);
    assert!(counter(&party.nodes[0], "dropped_fragments") > refused);
    shown(
        "lengths that lie, a wrong checksum and overlapping fragments are dropped and counted; the good one after them arrives",
    );
}

/// A UDP datagram to the limited broadcast with right lengths and checksum; the kernel fills the IP header's.
fn udp_packet(source: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&LIMITED.octets());
    packet.extend_from_slice(&port.to_be_bytes());
    packet.extend_from_slice(&port.to_be_bytes());
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    let pseudo = [&source.octets()[..], &LIMITED.octets(), &[0, 17], &length.to_be_bytes()].concat();
    let words = pseudo.chunks(2).chain(packet[20..].chunks(2));
    let mut sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    packet[26..28].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

#[test]
fn without_the_right_to_capture_the_node_says_so_and_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let less = NodeOptions::alone().wrapped(&["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]);
    let a = Node::start(&a_host, "alice", &less);
    let b = Node::start(&b_host, "bob", &NodeOptions::alone());
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);
    let said = until("the missing right is said", PATIENCE, || {
        let status = a.status();
        let state = &status["broadcast"]["captures"][0]["state"];
        if state == "no_permission" { Ok(status["problems"].to_string()) } else { Err(status["broadcast"].to_string()) }
    });
    assert!(said.contains("setcap cap_net_admin,cap_net_raw+ep"), "{said}");
    assert!(a.cli(&["status"]).expect_ok().stdout.contains("setcap"));
    let (game, server) = (socket(&a_host, a.virtual_ip(), 0), socket(&b_host, ANY, PORT));
    until("what is sent on the party's device is carried all the same", PATIENCE, || {
        game.send_to(b"x", (LIMITED, PORT)).unwrap();
        server.recv_from(&mut [0; 8]).map_err(|problem| problem.to_string())
    });
    shown("without CAP_NET_RAW: status names the command; what is sent on the party's device is still carried");
}

#[test]
fn nothing_of_a_busy_interface_reaches_the_capture() {
    let Some(lab) = Lab::new() else { return };
    let mut party = Party::new(&lab, ["alice", "bob"]);
    let pid = party.nodes[0].process().pid();
    let captured = || broadcast(&party.nodes[0])["captures"][0]["packets"].as_u64().unwrap();
    let (from, to) = (party.hosts[0].clone(), party.hosts[1].clone());
    let listener = to.enter(|| TcpListener::bind((ANY, 5201)).unwrap());
    let mut sending = from.enter(|| TcpStream::connect((to.address(), 5201)).unwrap());
    let (mut receiving, _) = listener.accept().unwrap();
    let (before, ticks, start) = (captured(), cpu_ticks(pid), Instant::now());
    let bytes = std::thread::scope(|scope| {
        let reader = scope.spawn(move || std::io::copy(&mut receiving, &mut std::io::sink()).unwrap());
        let chunk = vec![7; 64 * 1024];
        while start.elapsed() < Duration::from_secs(3) {
            sending.write_all(&chunk).unwrap();
        }
        drop(sending);
        reader.join().unwrap()
    });
    let seconds = start.elapsed().as_secs_f64();
    let (cpu, captured) = ((cpu_ticks(pid) - ticks) as f64 / seconds, captured() - before);
    // A frame carries 64 KiB at most. LANrage's own search for members is a multicast, of which there are few.
    assert!(captured * 10 < bytes / 65_536, "{bytes} bytes: {captured} captured");
    shown(format!(
        "{:.2} Gbit/s beside it on the captured interface: {captured} packets captured, {cpu:.1} % of a core for the node",
        bytes as f64 * 8e-9 / seconds
    ));
}

/// Figures, not a check: `cargo test --test broadcast -- --ignored --nocapture latency`.
#[test]
#[ignore = "measures; run by hand"]
fn latency_from_send_to_receive() {
    let Some(lab) = Lab::new() else { return };
    let party = Party::new(&lab, ["alice", "bob"]);
    let (game, listener) = (socket(&party.hosts[0], ANY, 0), socket(&party.hosts[1], ANY, PORT));
    let count = lab::runs(1000);
    for (what, to) in
        [("broadcast on the LAN", LIMITED), ("broadcast on the device", RANGE_BROADCAST), ("unicast", party.ip(1))]
    {
        let mut times: Vec<f64> = Vec::new();
        for number in 0..count {
            let start = Instant::now();
            game.send_to(&number.to_be_bytes(), (to, PORT)).unwrap();
            if listener.recv_from(&mut [0; 64]).is_ok() {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        times.sort_by(f64::total_cmp);
        shown(format!(
            "{what}: {} of {count}, one way p50 {:.3} ms, p99 {:.3} ms",
            times.len(),
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        ));
    }
    let ping = party.hosts[0].run(&["ping", "-n", "-i", "0.005", "-c", "1000", &party.ip(1).to_string()]).expect_ok();
    let (p50, p99) = percentiles(&ping.stdout);
    shown(format!("ping there and back: p50 {p50:.3} ms, p99 {p99:.3} ms"));
}

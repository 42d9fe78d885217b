//! Somebody without the code: sees nothing, gets no packet in, and cannot stop the party.

mod lab;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use lab::{Answer, Host, Lab, Node, NodeOptions, PATIENCE, Relay, Sniffer, shown, until};

const DATA_PORT: u16 = 50_001;
const P2P_PORT: u16 = 4_101;

#[test]
fn a_node_of_another_party_sees_nothing_of_this_one() {
    let Some(lab) = Lab::new() else { return };
    let [relay_host, a_host, b_host, mallory_host, nobody_host] = lab.routed(["relay", "a", "b", "mallory", "nobody"]);
    let relay = Relay::start(&relay_host);
    let options = NodeOptions::bootstrap(&relay);
    let a = Node::start(&a_host, "alice", &options.clone().with(&["--p2p-port", &P2P_PORT.to_string()]));
    let b = Node::start(&b_host, "bob", &options);
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);

    // Mallory dials alice by her address, and is in a party of his own.
    let mut prying = options.clone();
    prying.bootstrap.push(format!("/ip4/{}/tcp/{P2P_PORT}/p2p/{}", a_host.address(), a.peer_id()));
    let mallory = Node::start(&mallory_host, "mallory", &prying);
    mallory.create();
    until("mallory has reached alice's libp2p port", PATIENCE, || {
        let discovery = mallory.status()["discovery"].clone();
        let dialled = discovery["bootstrap"].as_array().is_some_and(|all| all.iter().all(|one| one["reached"] == true));
        if dialled { Ok(()) } else { Err(discovery.to_string()) }
    });
    mallory_host.expect_no_ping(a.virtual_ip());
    assert_eq!(mallory.peers(), Vec::<Answer>::new());
    assert_eq!(mallory.members(), ["mallory"]);
    let everything = mallory.json(&["status"]).to_string() + &mallory.json(&["peers"]).to_string();
    for secret in [&code, "alice", "bob"] {
        assert!(!everything.contains(secret), "mallory knows `{secret}`: {everything}");
    }
    for node in [&a, &b] {
        assert_eq!(node.members(), ["alice", "bob"]);
        assert!(node.peers().iter().all(|peer| peer["peer_id"] != mallory.peer_id().as_str()));
    }
    shown("a node of another party that dials a member sees no name, no code, no member, and pings nobody");

    // A code with the right check symbols that belongs to no party.
    mallory.leave();
    let nobody = Node::start(&nobody_host, "nobody", &options);
    let (wrong, _) = nobody.create();
    nobody.leave();
    let refused = mallory.cli(&["party", "join", &wrong]).expect_failure(&["no party answered", "code"]);
    assert!(mallory.party().is_null());
    shown(format!("a wrong code: {}", refused.stderr.trim()));
    b.expect_ping(&a);
}

#[test]
fn forged_and_replayed_datagrams_get_no_packet_in_and_stop_nothing() {
    let Some(lab) = Lab::new() else { return };
    let router = lab.router("internet");
    let [relay_host, a_host, b_host, mallory_host] = ["relay", "a", "b", "mallory"].map(|name| {
        let host = lab.host(name);
        lab.attach(&router, &host);
        host
    });
    let relay = Relay::start(&relay_host);
    let options = NodeOptions::bootstrap(&relay);
    let listening = options.clone().with(&["--listen-port", &DATA_PORT.to_string()]);
    let a = Node::start(&a_host, "alice", &listening);
    let b = Node::start(&b_host, "bob", &options);

    // Mallory sits on the router and takes down all that goes to alice's data port: handshakes, probes, data.
    let sniffer = Sniffer::on(&router);
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);
    b_host.run(&["ping", "-n", "-i", "0.02", "-c", "50", &a.virtual_ip().to_string()]).expect_ok();
    let recorded = sniffer.datagrams_to(DATA_PORT, 500);
    // The first of them may come through a relay, which puts one byte in front.
    let kind = |datagram: &[u8]| datagram.get(usize::from(datagram.first() == Some(&0x94))).copied();
    let kinds = |first: u8| recorded.iter().filter(|datagram| kind(datagram) == Some(first)).count();
    assert!(
        kinds(1) + kinds(2) > 0 && kinds(4) >= 50,
        "a handshake and data were recorded: {:?} of {} in all",
        [1, 2, 3, 4].map(kinds),
        recorded.len()
    );

    let before = Before::of(&a, "bob");
    let target = SocketAddrV4::new(a_host.address(), DATA_PORT);
    mallory_host.enter(|| attack(target, a.virtual_ip(), &recorded));
    let sent = 3 * recorded.len() + FORGED;
    // The node has worked through them once it answers again.
    a.status();
    before.expect_unchanged(&a, "bob");
    b.expect_ping(&a);
    a.expect_ping(&b);
    let lost = b_host.run(&["ping", "-n", "-i", "0.02", "-c", "50", &a.virtual_ip().to_string()]).expect_ok();
    assert!(lost.stdout.contains(" 0% packet loss"), "{}", lost.stdout);
    assert_eq!(a.members(), ["alice", "bob"]);
    shown(format!(
        "{sent} forged, truncated and replayed datagrams ({} recorded on the way): no packet in, the path is as before, no ping lost afterwards",
        recorded.len()
    ));
}

/// How many datagrams `attack` makes up.
const FORGED: usize = 4_000;

fn attack(target: SocketAddrV4, virtual_ip: Ipv4Addr, recorded: &[Vec<u8>]) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    let send = |datagram: &[u8]| {
        // A full queue on the way is no failure of the test.
        let _ = socket.send_to(datagram, target);
    };
    // As they were, cut short, and with one bit turned.
    for (number, datagram) in recorded.iter().enumerate() {
        send(datagram);
        send(&datagram[..datagram.len() * (number % 16) / 16]);
        let mut turned = datagram.clone();
        if let Some(byte) = turned.get_mut(number % datagram.len().max(1)) {
            *byte ^= 1 << (number % 8);
        }
        send(&turned);
    }
    let mut noise = Noise(0x5eed_1a2b_3c4d_5e6f);
    for number in 0..FORGED {
        match number % 5 {
            // Handshake initiations of the right length.
            0 => send(&noise.frame(1, 148)),
            // Responses, cookies and data for indices that may exist.
            1 => send(&noise.frame(2, 92)),
            2 => send(&noise.frame(4, 32 + number % 1_400)),
            // Anything.
            3 => {
                let first = u8::try_from(number % 256).expect("a byte");
                send(&noise.frame(first, number % 1_472));
            }
            // An IP packet in the clear, to the virtual IP.
            _ => send(&echo_request(virtual_ip)),
        }
        if number % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Noise(u64);

impl Noise {
    fn frame(&mut self, kind: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0; length];
        for byte in &mut frame {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0.to_le_bytes()[3];
        }
        if let Some(start) = frame.get_mut(..4) {
            start.copy_from_slice(&[kind, 0, 0, 0]);
        }
        frame
    }
}

fn echo_request(to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 10, 66, 0, 99];
    packet.extend(to.octets());
    let sum = packet.chunks_exact(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded");
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend([8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    packet
}

/// What must not change while nobody in the party sends anything.
#[derive(Debug, PartialEq, Eq)]
struct Before {
    /// Packets that the node gave to the machine.
    delivered: u64,
    echo_requests: u64,
    endpoint: Answer,
    received_bytes: Answer,
}

impl Before {
    fn of(node: &Node, peer: &str) -> Self {
        let seen = node.wait_connected(peer);
        Self {
            delivered: delivered(node.host()),
            echo_requests: echo_requests(node.host()),
            endpoint: seen["path"]["endpoint"].clone(),
            received_bytes: seen["rx_bytes"].clone(),
        }
    }

    fn expect_unchanged(&self, node: &Node, peer: &str) {
        assert_eq!(&Self::of(node, peer), self);
    }
}

/// Packets that came out of the virtual device.
fn delivered(host: &Host) -> u64 {
    let links: Answer = serde_json::from_str(&host.ip(&["-j", "-s", "link", "show", "lanrage0"])).expect("JSON of ip");
    links[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter")
}

/// ICMP echo requests that reached the machine, by whatever interface.
fn echo_requests(host: &Host) -> u64 {
    let snmp = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("/proc/net/snmp");
    let mut icmp = snmp.lines().filter(|line| line.starts_with("Icmp:")).map(str::split_whitespace);
    let (names, values) = (icmp.next().expect("names"), icmp.next().expect("values"));
    let echoes = names.zip(values).find(|(name, _)| *name == "InEchos").expect("InEchos");
    echoes.1.parse().expect("a number")
}

//! mDNS and SSDP between members: only when both asked for it, and then with the ways of their answers; never LANrage's
//! own search for members, nor anybody's for routers.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod lab;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use lab::{Host, Lab, Node, NodeOptions, Relay, shown};
use socket2::{Domain, Protocol, Socket, Type};

const MDNS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);
const SSDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
const BOTH: [&str; 2] = ["--share-mdns", "--share-ssdp"];

/// `_mumble._tcp.local`, PTR, as RFC 6762 has it.
const QUERY: &[u8] = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x07_mumble\x04_tcp\x05local\0\0\x0c\0\x01";
const RESPONSE: &[u8] =
    b"\0\0\x84\0\0\0\0\x01\0\0\0\0\x07_mumble\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x06\x03ann\xc0\x0c";
const LIBP2P: &[u8] = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x04_p2p\x04_udp\x05local\0\0\x0c\0\x01";
const SEARCH: &[u8] = b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
    ST: urn:schemas-upnp-org:device:MediaServer:1\r\n\r\n";
const ROUTER_SEARCH: &[u8] =
    b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
    ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
const FOUND: &[u8] = b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:MediaServer:1\r\n\r\n";

fn listener(host: &Host, at: SocketAddrV4) -> UdpSocket {
    host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, at.port()).into()).unwrap();
        socket.join_multicast_v4(at.ip(), &Ipv4Addr::UNSPECIFIED).unwrap();
        socket.into()
    })
}

/// What comes with these bytes within `wait`; others, like libp2p's own on the host, are passed over.
fn hear(socket: &UdpSocket, payload: &[u8], wait: Duration) -> Vec<SocketAddr> {
    let (mut from, mut buffer) = (Vec::new(), [0; 2048]);
    let mut end = Instant::now() + wait;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).unwrap();
        let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
        if &buffer[..length] == payload {
            from.push(source);
            // For a copy too many.
            end = end.min(Instant::now() + Duration::from_millis(300));
        }
    }
    from
}

fn soon(socket: &UdpSocket, payload: &[u8]) -> Vec<SocketAddr> {
    hear(socket, payload, Duration::from_secs(5))
}

/// Not even a while after something else has come.
fn never(socket: &UdpSocket, payload: &[u8]) -> bool {
    hear(socket, payload, Duration::from_millis(1200)).is_empty()
}

fn party(lab: &Lab, options: [&[&str]; 2]) -> (Relay, [Node; 2]) {
    let [relay_host, a_host, b_host] = lab.routed(["relay", "a", "b"]);
    let relay = Relay::start(&relay_host);
    let a = Node::start(&a_host, "ann", &NodeOptions::bootstrap(&relay).with(options[0]));
    let b = Node::start(&b_host, "bob", &NodeOptions::bootstrap(&relay).with(options[1]));
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);
    a.expect_ping(&b);
    (relay, [a, b])
}

#[test]
fn who_asked_for_it_on_both_sides_has_mdns_and_ssdp() {
    let Some(lab) = Lab::new() else { return };
    let (_relay, [a, b]) = party(&lab, [&BOTH, &BOTH]);
    let (a_ip, b_ip) = (a.virtual_ip(), b.virtual_ip());
    let responder = listener(b.host(), MDNS);
    let asking = listener(a.host(), MDNS);
    std::thread::sleep(Duration::from_secs(3));

    // A querier that is a responder too asks and is answered on the group.
    asking.send_to(QUERY, MDNS).unwrap();
    assert_eq!(soon(&responder, QUERY), [SocketAddr::from((a_ip, 5353))]);
    responder.send_to(RESPONSE, MDNS).unwrap();
    let heard = soon(&asking, RESPONSE);
    assert_eq!(heard, [SocketAddr::from((b_ip, 5353))]);
    // A simple one asks from another port and is answered there (RFC 6762, 6.7).
    let simple = a.host().enter(|| UdpSocket::bind("0.0.0.0:40001")).unwrap();
    simple.send_to(QUERY, MDNS).unwrap();
    assert_eq!(soon(&responder, QUERY), [SocketAddr::from((a_ip, 40_001))]);
    responder.send_to(RESPONSE, (a_ip, 40_001)).unwrap();
    assert_eq!(soon(&simple, RESPONSE), [SocketAddr::from((b_ip, 5353))]);
    shown(format!("mDNS: {a_ip}:5353 is answered on the group by {b_ip}:5353, and {a_ip}:40001 by unicast"));

    let device = listener(b.host(), SSDP);
    std::thread::sleep(Duration::from_secs(3));
    simple.send_to(SEARCH, SSDP).unwrap();
    assert_eq!(soon(&device, SEARCH), [SocketAddr::from((a_ip, 40_001))]);
    let answer = b.host().enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    answer.send_to(FOUND, (a_ip, 40_001)).unwrap();
    assert_eq!(soon(&simple, FOUND).len(), 1);
    shown("SSDP: the search arrives, the answer comes back by unicast from another port");

    // LANrage's own, in the form that libp2p and the port mapping send.
    asking.send_to(LIBP2P, MDNS).unwrap();
    simple.send_to(ROUTER_SEARCH, SSDP).unwrap();
    assert!(never(&responder, LIBP2P) && never(&device, ROUTER_SEARCH));
    shown("searches for members (libp2p) and for routers stay at home");
}

#[test]
fn one_side_alone_or_nobody_has_neither() {
    for options in [[&[][..], &[]], [&BOTH, &[]], [&[], &BOTH]] {
        let Some(lab) = Lab::new() else { return };
        let (_relay, [a, b]) = party(&lab, options);
        let (responder, device) = (listener(b.host(), MDNS), listener(b.host(), SSDP));
        // That something else does arrive shows that these could have.
        let group = SocketAddrV4::new(Ipv4Addr::new(224, 0, 2, 60), 4445);
        let game = listener(b.host(), group);
        std::thread::sleep(Duration::from_secs(3));
        let asking = a.host().enter(|| UdpSocket::bind("0.0.0.0:40001")).unwrap();
        asking.send_to(QUERY, MDNS).unwrap();
        asking.send_to(SEARCH, SSDP).unwrap();
        asking.send_to(b"game", group).unwrap();
        assert_eq!(soon(&game, b"game"), [SocketAddr::from((a.virtual_ip(), 40_001))]);
        assert!(never(&responder, QUERY) && never(&device, SEARCH), "with {options:?}");
    }
    shown("without the keys on both sides nothing of either is carried");
}

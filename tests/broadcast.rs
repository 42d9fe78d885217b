//! What a program shouts on one machine is heard by programs on the others.

// A test file is all test, its helpers too, which the clippy settings for test functions do not see.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use lab::{Host, Lab, Node, NodeOptions, shown, until};

const PORT: u16 = 27_960;
const RANGE_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 66, 255, 255);

/// A program's socket that may broadcast.
fn socket(host: &Host, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind((address, port))).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
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
    let server = socket(&b_host, Ipv4Addr::UNSPECIFIED, PORT);
    for to in [Ipv4Addr::BROADCAST, RANGE_BROADCAST] {
        let mut buffer = [0; 64];
        // The first may meet a route that is still on its way to BroadcastActor.
        let from = until("the other machine hears it", lab::PATIENCE, || {
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
    let view = b.status()["broadcast"].clone();
    assert!(view["counters"]["delivered"].as_u64() >= Some(2), "{view}");
    shown(format!("{} hears {} on both broadcast addresses, and is heard by it", b.virtual_ip(), a.virtual_ip()));
}

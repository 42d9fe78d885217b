//! What machines on a bridged network shout, and members: packets that lie, hellos, and sockets that are opened for them.

#![no_main]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use lanrage_actors::broadcast::bridge::hello;
use lanrage_actors::broadcast::bridge::machine::{BridgeMachine, Shout, Side, SocketId, Sockets};
use lanrage_actors::broadcast::bridge::neighbours::{Member, Network};
use lanrage_actors::broadcast::datagram::{Checksum, Datagram};
use lanrage_actors::tun::messages::Address;
use lanrage_actors::wire::Ipv4Range;
use lanrage_actors::wire::ip::{self, Ipv4Packet};
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Open(BTreeSet<SocketId>);

impl Sockets for Open {
    fn open(&mut self, id: SocketId, _: Side, port: u16) -> Option<u16> {
        assert!(self.0.insert(id));
        Some(port.max(1))
    }

    fn close(&mut self, id: SocketId) {
        assert!(self.0.remove(&id));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::now();
    let mut sockets = Open::default();
    let mut machine = BridgeMachine::new(vec!["eth0".to_owned()]);
    let own = Address { ip: Ipv4Addr::new(10, 66, 0, 5), range: Ipv4Range::DEFAULT };
    machine.set_address(now, Some(own), &mut sockets);
    machine.set_network(now, 0, Ok(Network { ip: Ipv4Addr::new(192, 168, 1, 2), prefix: 24 }), &mut sockets);
    let member = Ipv4Addr::new(10, 66, 0, 2);
    machine.set_members(now, vec![Member { ip: member, connected: false, live: vec![], named: vec![] }]);
    let mut rest = bytes;
    while let Some((&len, more)) = rest.split_first() {
        let (piece, after) = more.split_at(usize::from(len).min(more.len()));
        rest = after;
        now += Duration::from_millis(u64::from(len));
        let mut packet = piece.to_vec();
        if packet.len() >= 28 {
            // Nothing random is a whole datagram: what is behind that check is to be reached.
            let len = u16::try_from(packet.len()).unwrap_or(0);
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            packet[6..8].fill(0);
            packet[9] = ip::UDP;
            packet[24..26].copy_from_slice(&(len - 20).to_be_bytes());
            packet[26..28].fill(0);
            ip::write_header_checksum(&mut packet[..20]);
        }
        let read = Ipv4Packet::parse(&packet).ok();
        let Some(it) = read.and_then(|packet| Datagram::parse(&packet, Checksum::MaybeUnfilled).ok()) else { continue };
        let shout = Shout {
            source: SocketAddrV4::new(it.source, it.source_port),
            destination: SocketAddrV4::new(it.destination, it.destination_port),
            type_of_service: packet[1],
        };
        let _ = machine.on_lan_shout(now, 0, shout, it.payload, &mut sockets);
        let source = SocketAddrV4::new(member, it.source_port);
        let _ = machine.on_party_shout(now, source, shout.destination, it.payload, &mut sockets);
        let hello = SocketAddrV4::new(hello::GROUP, hello::PORT);
        let _ = machine.on_party_shout(now, source, hello, piece, &mut sockets);
        if let Some(&socket) = sockets.0.iter().nth(usize::from(len)) {
            let _ = machine.on_socket(now, socket, shout.source, &mut sockets);
        }
        let _ = machine.on_timeout(now, &mut sockets);
        let view = machine.view(now);
        assert_eq!(view.guests + view.remotes, sockets.0.len());
    }
});

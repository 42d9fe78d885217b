//! Broadcasts out of a member's tunnel: packets and fragments whose lengths, offsets and checksums lie. The first byte of
//! each piece of the input is its length.

#![no_main]

use std::net::Ipv4Addr;
use std::time::Instant;

use lanrage_actors::broadcast::machine::{BroadcastMachine, Outputs, Settings};
use lanrage_actors::tun::messages::Address;
use lanrage_actors::wire::ip::{self, Ipv4Packet};
use lanrage_actors::wire::{Ipv4Range, PacketBatch};
use libfuzzer_sys::fuzz_target;

const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);

fuzz_target!(|bytes: &[u8]| {
    let now = Instant::now();
    let mut machine = BroadcastMachine::new(Settings::default());
    machine.set_address(now, Some(Address { ip: Ipv4Addr::new(10, 66, 0, 1), range: Ipv4Range::DEFAULT }));
    machine.add_member(MEMBER);
    let mut out = Outputs::default();
    let mut rest = bytes;
    while let Some((&len, more)) = rest.split_first() {
        let (piece, after) = more.split_at(usize::from(len).min(more.len()));
        rest = after;
        let mut packet = piece.to_vec();
        // Nothing random has the right checksum: half of the pieces get it, so that what is behind it is reached.
        if len % 2 == 0 && packet.len() >= 20 {
            packet[0] = 0x45;
            packet[9] = ip::UDP;
            packet[12..16].copy_from_slice(&MEMBER.octets());
            packet[16..20].fill(255);
            ip::write_header_checksum(&mut packet[..20]);
        }
        let mut batch = PacketBatch::new();
        if batch.push(&packet) {
            machine.on_member(now, MEMBER, &batch, &mut out);
            machine.on_device(now, &batch, &mut out);
        }
    }
    for batch in out.deliver.iter() {
        for packet in batch.iter() {
            let packet = Ipv4Packet::parse(packet).expect("what is delivered is a packet");
            assert_eq!(packet.source(), MEMBER);
            assert!(packet.header_checksum_ok() && packet.transport_checksum_ok() == Some(true));
        }
    }
});

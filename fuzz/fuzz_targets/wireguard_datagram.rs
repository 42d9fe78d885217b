//! What a stranger can send to the data socket: the demultiplexer, the handshake gate, and a peer's machine with a
//! session waiting behind it.

#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use lanrage_actors::nat::demux::runs;
use lanrage_actors::nat::handshake::{Gatekeeper, MAX_COOKIE, Verdict};
use lanrage_actors::peer::machine::{Outputs, OwnIdentity, PeerMachine};
use lanrage_actors::peer::messages::{PeerSpec, Secret};
use lanrage_actors::wire::{Contact, DatagramBatch, Endpoint, LocalNetworks, NodeId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (kind, stride, mut bytes) = input;
    // Most random bytes are of no known kind; help them past the first look.
    if let Some(first) = bytes.get_mut(..4) {
        first.copy_from_slice(&[[1, 2, 3, 4, 0x90, 0x94][usize::from(kind) % 6], 0, 0, 0]);
    }
    let from: SocketAddr = ([198, 51, 100, 1], 1).into();
    let own = OwnIdentity::new(NodeId([1; 32]), [1; 32]);
    let other = OwnIdentity::new(NodeId([2; 32]), [2; 32]);
    let spec = PeerSpec {
        node: other.node,
        name: "fuzz".into(),
        wg_key: other.wg_key(),
        virtual_ip: Ipv4Addr::new(10, 66, 0, 2),
        psk: Secret([3; 32]),
        contact: Contact::of_hosts([from]),
    };
    let own_ip = Ipv4Addr::new(10, 66, 0, 1);
    let now = Instant::now();
    let mut machine = PeerMachine::new(now, &own, own_ip, spec, LocalNetworks::default(), 7, 1, [4; 32]);
    let gate = Gatekeeper::new(boringtun::x25519::StaticSecret::from([1; 32]));
    let mut out = Outputs::default();
    let mut cookie = [0; MAX_COOKIE];
    for (kind, run) in runs(&bytes, usize::from(stride)) {
        assert_eq!(gate.judge([198, 51, 100, 1].into(), run, &mut cookie), Verdict::Foreign);
        let source = Endpoint { relayed: kind.relayed, ..Endpoint::direct(from) };
        machine.handle_inbound(
            now,
            &DatagramBatch::with_header(run, source, usize::from(stride), usize::from(kind.relayed)),
            &mut out,
        );
    }
    assert!(out.deliver.is_none_or(|batch| batch.is_empty()), "nothing forged gets in");
});

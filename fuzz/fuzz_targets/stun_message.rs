//! STUN: what strangers ask this node, and what a server answers it.

#![no_main]

use std::net::SocketAddr;
use std::time::Instant;

use lanrage_actors::nat::responder::{Origin, Responder};
use lanrage_actors::nat::stun::{self, HEADER_LEN, Stun};
use lanrage_actors::wire::LocalSocket;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (kind, mut bytes) = input;
    // A good header in front of most: behind it are the attributes.
    if kind & 0x80 == 0 {
        let class = [[0x00, 0x01], [0x01, 0x01], [0x01, 0x11], [0x00, 0x11]][usize::from(kind % 4)];
        bytes.truncate(1500);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let len = (bytes.len() as u16).to_be_bytes();
        bytes = [&class[..], &len, &[0x21, 0x12, 0xa4, 0x42], &[7; 12], &bytes].concat();
    }
    let said = stun::parse(&bytes);
    assert!(said.is_none() || stun::is_stun(&bytes));
    let now = Instant::now();
    let mut responder = Responder::new(now, 7);
    let addr = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let v4 = Some(addr("198.51.100.1:1"));
    let main = Origin { v4, v6: None, ..Origin::MAIN };
    let alternate = Origin { local: LocalSocket(1), v4: Some(addr("198.51.100.1:2")), v6: None };
    responder.set_origins(main, Some(alternate));
    for client in [addr("203.0.113.7:9"), addr("[2001:db8::7]:9")] {
        let reply = responder.answer(now, LocalSocket::MAIN, client, &bytes);
        let asked = matches!(said, Some(Stun::Request(_)));
        assert_eq!(reply.is_some(), asked);
        let Some(reply) = reply else { continue };
        // Header and XOR-MAPPED-ADDRESS are always given, and an error names what it did not understand.
        let bare = HEADER_LEN + if client.is_ipv4() { 12 } else { 24 };
        assert!(reply.bytes.len() <= bare.max(bytes.len() + 12), "{} to {}", reply.bytes.len(), bytes.len());
        assert!(stun::parse(&reply.bytes).is_some());
    }
});

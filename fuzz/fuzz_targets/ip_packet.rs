//! IP packets as they come out of a tunnel or the device: headers that lie about lengths.

#![no_main]

use lanrage_actors::wire::icmp::parse_icmp_echo_reply;
use lanrage_actors::wire::ip::Ipv4Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Ipv4Packet::parse(bytes) {
        assert!(packet.bytes().len() <= bytes.len());
        let _ = (packet.header_checksum_ok(), packet.transport_checksum_ok());
    }
    let _ = parse_icmp_echo_reply(bytes);
});

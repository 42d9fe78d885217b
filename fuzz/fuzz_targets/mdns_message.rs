//! mDNS messages of programs of the local network, whose addresses are replaced.

#![no_main]

use std::net::Ipv4Addr;

use lanrage_actors::broadcast::mdns::readdressed;
use libfuzzer_sys::fuzz_target;

const LAN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 1, 10), Ipv4Addr::UNSPECIFIED];
const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);

fuzz_target!(|input: ([u8; 4], Vec<u8>)| {
    let (counts, mut message) = input;
    // Few records: random counts are never met by as many records.
    for (index, count) in counts.into_iter().enumerate() {
        if let Some(place) = message.get_mut(4 + 2 * index..6 + 2 * index) {
            place.copy_from_slice(&[0, count % 8]);
        }
    }
    if let Some(changed) = readdressed(&message, &LAN, OWN) {
        assert_eq!(changed.len(), message.len());
        assert_ne!(changed, message);
        assert_eq!(readdressed(&changed, &LAN, OWN), None, "what is replaced is replaced at once");
    }
});

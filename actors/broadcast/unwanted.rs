//! What is never carried: the housekeeping of a local network, which would do harm or tell of a home in another one.

use std::net::{Ipv4Addr, SocketAddrV4};

pub const MDNS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);
pub const SSDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);

/// What is carried between members only when it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub mdns: bool,
    pub ssdp: bool,
}

/// The housekeeping of other machines: no game, by source or destination port (IANA, or the program that uses it).
const PORTS: [u16; 20] = [
    67, 68,  // DHCP
    123, // NTP
    137, 138, // NetBIOS names and browsing
    319, 320,  // PTP
    520,  // RIP
    1716, // KDE Connect
    1985, // HSRP
    3222, // GLBP
    3289, // Epson printers
    3702, // WS-Discovery: printers, cameras, shares
    5350, 5351,   // NAT-PMP, PCP
    5355,   // LLMNR
    5678,   // MikroTik routers
    8612,   // Canon printers
    17_500, // Dropbox
    57_621, // Spotify
];

/// Whether what another machine shouts may cross a bridge: none of `PORTS`, which a user may not have had in mind, and
/// no mDNS or SSDP, whose answers name addresses and ports that are not reached from the other side.
#[must_use]
pub fn may_cross(destination: SocketAddrV4, source_port: u16, payload: &[u8]) -> bool {
    !PORTS.contains(&destination.port())
        && !PORTS.contains(&source_port)
        && is_carried(destination, source_port, payload, Wanted::default())
}

/// Whether a broadcast or multicast to `destination` is carried between members: mDNS and SSDP only where wanted.
#[must_use]
pub fn is_carried(destination: SocketAddrV4, source_port: u16, payload: &[u8], wanted: Wanted) -> bool {
    let port = destination.port();
    if port == MDNS.port() || source_port == MDNS.port() || destination.ip() == MDNS.ip() {
        return wanted.mdns && destination == MDNS && !is_libp2p(payload);
    }
    if port == SSDP.port() || destination.ip() == SSDP.ip() {
        return wanted.ssdp && destination == SSDP && !is_router(payload);
    }
    true
}

/// LANrage's own search for members on the local network: who hears it through the party knows each other already.
fn is_libp2p(payload: &[u8]) -> bool {
    contains(payload, b"\x04_p2p\x04_udp\x05local")
}

/// Searches for routers that forward ports, and their answers: nobody may open ports in a friend's router.
fn is_router(payload: &[u8]) -> bool {
    [&b"InternetGatewayDevice"[..], b"WANIPConnection", b"WANPPPConnection", b"WANDevice", b"WANConnectionDevice"]
        .iter()
        .any(|name| contains(payload, name))
}

fn contains(payload: &[u8], wanted: &[u8]) -> bool {
    payload.windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOTHING: Wanted = Wanted { mdns: false, ssdp: false };
    const ALL: Wanted = Wanted { mdns: true, ssdp: true };

    fn limited(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::BROADCAST, port)
    }

    #[test]
    fn games_are_carried_and_the_networks_housekeeping_is_not() {
        for port in [6112, 27015, 4445, 9999, 14001] {
            assert!(is_carried(limited(port), port, b"x", NOTHING), "{port}");
            assert!(may_cross(limited(port), port, b"x"), "{port}");
        }
        for port in PORTS {
            assert!(!may_cross(limited(port), 1, b"x"), "{port}");
            assert!(!may_cross(limited(1), port, b"x"), "{port}");
        }
    }

    #[test]
    fn mdns_and_ssdp_are_carried_when_asked_for_and_only_then() {
        let query = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x07_mumble\x04_tcp\x05local\0\0\x0c\0\x01";
        let search = b"M-SEARCH * HTTP/1.1\r\nST: urn:schemas-upnp-org:device:MediaServer:1\r\n\r\n";
        for (to, port, payload) in [(MDNS, 5353, &query[..]), (MDNS, 40_000, query), (SSDP, 40_000, search)] {
            assert!(!is_carried(to, port, payload, NOTHING), "{to}");
            assert!(is_carried(to, port, payload, ALL), "{to}");
            assert!(!may_cross(to, port, payload), "{to}");
        }
        assert!(!is_carried(MDNS, 5353, query, Wanted { ssdp: true, mdns: false }));
        assert!(!is_carried(SSDP, 40_000, search, Wanted { mdns: true, ssdp: false }));
        assert!(!is_carried(limited(5353), 5353, query, ALL), "mDNS has its group");
    }

    #[test]
    fn the_search_for_members_and_for_routers_stays_at_home() {
        let libp2p = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x04_p2p\x04_udp\x05local\0\0\x0c\0\x01";
        assert!(!is_carried(MDNS, 5353, libp2p, ALL));
        let search = b"M-SEARCH * HTTP/1.1\r\nST: urn:schemas-upnp-org:device:internetgatewaydevice:1\r\n\r\n";
        assert!(!is_carried(SSDP, 40_000, search, ALL));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..100), port: u16) {
            let _ = (is_carried(MDNS, port, &payload, ALL), is_carried(SSDP, port, &payload, ALL));
        }
    }
}

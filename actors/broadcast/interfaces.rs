//! Which of this machine's network interfaces local broadcasts are captured on.

use std::net::Ipv4Addr;

use crate::wire::Ipv4Range;

/// Interfaces captured on at once; a machine has one or two.
pub const MAX_CAPTURES: usize = 8;

/// What the system says of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub up: bool,
    /// Can broadcast and is no loopback.
    pub broadcast: bool,
    pub kind: Kind,
    /// IPv4 address and the broadcast address of its network.
    pub addresses: Vec<(Ipv4Addr, Ipv4Addr)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ethernet, WLAN, and what behaves so.
    Ordinary,
    /// TUN, TAP, WireGuard: leads into another network over one that is captured.
    Tunnel,
    /// A port of a bridge or bond: the same frames pass the bridge.
    Port,
    /// A bridge with a way to the outside.
    Bridge,
    /// A bridge between containers or virtual machines of this machine, or another host-only network.
    Inner,
}

/// A capture that is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub index: u32,
    /// This machine's addresses there: what it sends comes from one of them.
    pub sources: Vec<Ipv4Addr>,
    /// Of the networks there.
    pub broadcasts: Vec<Ipv4Addr>,
}

/// Names of networks that exist within one machine; they look like Ethernet.
const INNER_PREFIXES: [&str; 6] = ["docker", "br-", "virbr", "vboxnet", "vmnet", "lxcbr"];

/// The interfaces to capture on, in the order of their indices. `own`: the name of the virtual device.
#[must_use]
pub fn wanted(interfaces: &[Interface], own: &str, range: Option<Ipv4Range>) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = interfaces
        .iter()
        .filter(|it| it.up && it.broadcast && it.name != own)
        .filter(|it| matches!(it.kind, Kind::Ordinary | Kind::Bridge))
        // A bridge is known by its ports: routers call theirs br-lan.
        .filter(|it| it.kind == Kind::Bridge || !INNER_PREFIXES.iter().any(|prefix| it.name.starts_with(prefix)))
        .filter_map(|it| {
            // An address of the party elsewhere is the party by another way (`ip link` under another name, a bridge).
            let usable = |ip: &Ipv4Addr| !range.is_some_and(|range| range.contains(*ip)) && !ip.is_unspecified();
            let of: Vec<_> = it.addresses.iter().filter(|(ip, _)| usable(ip)).collect();
            (!of.is_empty()).then(|| Wanted {
                name: it.name.clone(),
                index: it.index,
                sources: of.iter().map(|(ip, _)| *ip).collect(),
                broadcasts: of.iter().map(|(_, broadcast)| *broadcast).collect(),
            })
        })
        .collect();
    wanted.sort_by_key(|it| it.index);
    wanted.truncate(MAX_CAPTURES);
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, kind: Kind, ip: [u8; 4]) -> Interface {
        let [a, b, c, _] = ip;
        let addresses = vec![(ip.into(), [a, b, c, 255].into())];
        Interface { name: name.into(), index, up: true, broadcast: true, kind, addresses }
    }

    #[test]
    fn real_networks_are_captured_and_nothing_else() {
        let list = [
            interface("wlan0", 3, Kind::Ordinary, [192, 168, 1, 7]),
            interface("eth0", 2, Kind::Ordinary, [10, 0, 0, 7]),
            Interface { up: false, ..interface("eth1", 4, Kind::Ordinary, [10, 1, 0, 7]) },
            Interface { broadcast: false, ..interface("lo", 1, Kind::Ordinary, [127, 0, 0, 1]) },
            interface("lanrage0", 5, Kind::Tunnel, [10, 66, 1, 1]),
            interface("party", 6, Kind::Ordinary, [10, 66, 1, 1]),
            interface("wg0", 7, Kind::Tunnel, [10, 9, 0, 1]),
            interface("eth2", 8, Kind::Port, [10, 2, 0, 7]),
            interface("br0", 9, Kind::Bridge, [10, 2, 0, 8]),
            interface("br1", 10, Kind::Inner, [172, 18, 0, 1]),
            interface("docker0", 11, Kind::Ordinary, [172, 17, 0, 1]),
            interface("br-lan", 13, Kind::Bridge, [10, 3, 0, 8]),
            interface("br-1a2b3c", 14, Kind::Inner, [172, 19, 0, 1]),
            Interface { addresses: vec![], ..interface("eth3", 12, Kind::Ordinary, [0; 4]) },
        ];
        let wanted = wanted(&list, "lanrage0", Some(Ipv4Range::DEFAULT));
        assert_eq!(wanted.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["eth0", "wlan0", "br0", "br-lan"]);
        assert_eq!(wanted[0].sources, [Ipv4Addr::new(10, 0, 0, 7)]);
        assert_eq!(wanted[0].broadcasts, [Ipv4Addr::new(10, 0, 0, 255)]);
    }

    #[test]
    fn captures_are_bounded() {
        let list: Vec<_> = (0..100).map(|n| interface("e", n, Kind::Ordinary, [10, 0, n as u8, 1])).collect();
        assert_eq!(wanted(&list, "lanrage0", None).len(), MAX_CAPTURES);
    }
}

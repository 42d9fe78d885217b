//! Host candidates: the addresses of this machine's interfaces under which the data socket may be reached.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::wire::{Ipv4Range, LocalNetworks};

/// At most this many candidates go into a member record.
pub const MAX_CANDIDATES: usize = 16;

/// One address of one interface, as the system tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddr {
    pub interface: String,
    pub ip: IpAddr,
    pub prefix_len: u8,
}

/// Interfaces that lead into a tunnel or a container bridge of this machine: nobody else reaches them, and a tunnel
/// inside a tunnel is a loop.
const VIRTUAL_PREFIXES: [&str; 12] =
    ["tun", "tap", "wg", "lanrage", "zt", "tailscale", "utun", "docker", "br-", "virbr", "veth-docker", "vboxnet"];

fn usable(addr: &InterfaceAddr, own_device: &str, party: Option<Ipv4Range>) -> bool {
    let by_ip = match addr.ip {
        IpAddr::V4(ip) => {
            !ip.is_loopback()
                && !ip.is_link_local()
                && !ip.is_unspecified()
                && !party.is_some_and(|range| range.contains(ip))
        }
        IpAddr::V6(ip) => !ip.is_loopback() && !is_link_local(ip) && !ip.is_unspecified(),
    };
    by_ip && addr.interface != own_device && !VIRTUAL_PREFIXES.iter().any(|prefix| addr.interface.starts_with(prefix))
}

/// Whether the internet can route to it. Addresses for documentation and benchmarks count: nobody else uses them.
#[must_use]
pub fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let carrier = a == 100 && (64..128).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || carrier
                || a == 0
                || a >= 224)
        }
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

/// Candidates with `port`, at most `MAX_CANDIDATES`, in a stable order: IPv4 first.
#[must_use]
pub fn candidates(addrs: &[InterfaceAddr], port: u16, own_device: &str, party: Option<Ipv4Range>) -> Vec<SocketAddr> {
    let mut found: Vec<_> = addrs
        .iter()
        .filter(|addr| usable(addr, own_device, party))
        .map(|addr| SocketAddr::new(addr.ip, port))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_CANDIDATES);
    found
}

/// The networks that count as the same LAN.
#[must_use]
pub fn local_networks(addrs: &[InterfaceAddr], own_device: &str, party: Option<Ipv4Range>) -> LocalNetworks {
    LocalNetworks::new(
        addrs.iter().filter(|addr| usable(addr, own_device, party)).map(|addr| (addr.ip, addr.prefix_len)),
    )
}

/// What the system says now; `None` when it says nothing.
#[must_use]
pub fn system_addrs() -> Option<Vec<InterfaceAddr>> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    let addrs = interfaces
        .into_iter()
        .map(|interface| {
            let (ip, prefix_len) = match interface.addr {
                if_addrs::IfAddr::V4(addr) => (IpAddr::V4(addr.ip), addr.prefixlen),
                if_addrs::IfAddr::V6(addr) => (IpAddr::V6(addr.ip), addr.prefixlen),
            };
            InterfaceAddr { interface: interface.name, ip, prefix_len }
        })
        .collect();
    Some(addrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(interface: &str, ip: &str, prefix_len: u8) -> InterfaceAddr {
        InterfaceAddr { interface: interface.to_owned(), ip: ip.parse().unwrap(), prefix_len }
    }

    #[test]
    fn tunnels_and_the_unreachable_are_left_out() {
        let addrs = [
            addr("lo", "127.0.0.1", 8),
            addr("eth0", "192.168.1.5", 24),
            addr("eth0", "fe80::1", 64),
            addr("eth0", "2001:db8::5", 64),
            addr("lanrage0", "10.66.3.4", 16),
            addr("game7", "10.66.3.4", 16),
            addr("party", "10.77.0.1", 16),
            addr("wg0", "10.8.0.2", 24),
            addr("docker0", "172.17.0.1", 16),
            addr("wlan0", "169.254.3.3", 16),
        ];
        let got = candidates(&addrs, 5000, "party", Some(Ipv4Range::DEFAULT));
        let expected: Vec<SocketAddr> =
            ["192.168.1.5:5000", "[2001:db8::5]:5000"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(got, expected);
        let lan = local_networks(&addrs, "party", Some(Ipv4Range::DEFAULT));
        assert!(lan.contain("192.168.1.9".parse().unwrap()));
        assert!(!lan.contain("10.66.9.9".parse().unwrap()) && !lan.contain("172.17.0.9".parse().unwrap()));
    }

    #[test]
    fn the_list_is_bounded() {
        let addrs: Vec<_> = (0..100).map(|n| addr("eth0", &format!("192.168.{n}.1"), 24)).collect();
        assert_eq!(candidates(&addrs, 1, "lanrage0", None).len(), MAX_CANDIDATES);
    }
}

//! Which addresses are worth dialling and telling.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, RwLock};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::wire::{Ipv4Range, LocalNetworks};

/// What the policy depends on; changes when the party or the machine's networks change.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// A tunnel inside a tunnel is a loop.
    pub party: Option<Ipv4Range>,
    pub networks: LocalNetworks,
    /// On the public DHT anybody can name any private address; dialling those is noise and, in numbers, a scan.
    pub public_dht: bool,
    /// A bootstrap peer on this very machine was asked for.
    pub allow_loopback: bool,
}

/// The policy, shared with the transport.
#[derive(Debug, Clone, Default)]
pub struct DialPolicy(Arc<RwLock<Surroundings>>);

impl DialPolicy {
    #[must_use]
    pub fn new(surroundings: Surroundings) -> Self {
        Self(Arc::new(RwLock::new(surroundings)))
    }

    pub fn update(&self, change: impl FnOnce(&mut Surroundings)) {
        change(&mut self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    #[must_use]
    pub fn allows(&self, addr: &Multiaddr) -> bool {
        allows(addr, &self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

fn allows(addr: &Multiaddr, surroundings: &Surroundings) -> bool {
    let Some(ip) = ip_of(addr) else {
        // Names; what they resolve to is asked again.
        return true;
    };
    if is_circuit(addr) {
        return true;
    }
    let ip = ip.to_canonical();
    if ip.is_loopback() {
        return surroundings.allow_loopback;
    }
    if ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    match ip {
        IpAddr::V4(ip) if surroundings.party.is_some_and(|range| range.contains(ip)) => false,
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => {
            !surroundings.public_dht || is_global(ip) || surroundings.networks.contain(ip)
        }
    }
}

/// The IP of the first component.
#[must_use]
pub fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        Some(_) | None => None,
    }
}

#[must_use]
pub fn is_circuit(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Reachable from the internet as far as the address tells (IANA special-purpose registries).
#[must_use]
pub fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b)))
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80)
        }
    }
}

/// Own addresses worth telling others, best first: confirmed ones, then circuits, then those of the local network.
#[must_use]
pub fn tellable(
    external: &[Multiaddr],
    listening: &[Multiaddr],
    party: Option<Ipv4Range>,
    limit: usize,
) -> Vec<Multiaddr> {
    let usable = |addr: &&Multiaddr| {
        is_circuit(addr)
            || ip_of(addr).is_some_and(|ip| {
                !ip.is_loopback()
                    && !ip.is_unspecified()
                    && !matches!(ip, IpAddr::V4(ip) if party.is_some_and(|range| range.contains(ip)) || ip == Ipv4Addr::BROADCAST)
                    && !matches!(ip, IpAddr::V6(ip) if is_link_local(ip))
            })
    };
    let rank = |addr: &Multiaddr, confirmed: bool| match (is_circuit(addr), confirmed) {
        (false, true) => 0,
        (true, _) => 1,
        (false, false) => 2,
    };
    let mut found: Vec<(u8, Multiaddr)> = Vec::new();
    for (addr, confirmed) in external
        .iter()
        .map(|addr| (addr, true))
        .chain(listening.iter().map(|addr| (addr, false)))
        .filter(|(addr, _)| usable(addr))
    {
        let plain = without_peer(addr);
        if !found.iter().any(|(_, known)| *known == plain) {
            found.push((rank(addr, confirmed), plain));
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, addr)| addr).take(limit).collect()
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

/// The address without the final `/p2p/…` of the node itself (a relay's own stays).
#[must_use]
pub fn without_peer(addr: &Multiaddr) -> Multiaddr {
    let mut addr = addr.clone();
    if matches!(addr.iter().last(), Some(Protocol::P2p(_))) {
        addr.pop();
    }
    addr
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_may_be_dialled() {
        let networks = LocalNetworks::new([("192.168.1.5".parse().unwrap(), 24)]);
        let public =
            Surroundings { party: Some(Ipv4Range::DEFAULT), networks, public_dht: true, allow_loopback: false };
        let private = Surroundings { public_dht: false, ..public.clone() };
        for (text, on_public, on_private) in [
            ("/ip4/8.8.8.8/tcp/1", true, true),
            ("/ip4/127.0.0.1/tcp/1", false, false),
            ("/ip6/::1/tcp/1", false, false),
            ("/ip6/::ffff:127.0.0.1/tcp/1", false, false),
            ("/ip4/0.0.0.0/tcp/1", false, false),
            ("/ip4/10.66.3.4/tcp/1", false, false),
            ("/ip4/192.168.1.77/udp/1/quic-v1", true, true),
            ("/ip4/192.168.2.77/tcp/1", false, true),
            ("/ip4/100.64.0.1/tcp/1", false, true),
            ("/ip6/fd00::1/tcp/1", false, true),
            ("/ip6/2001:db8::1/tcp/1", true, true),
            ("/dnsaddr/bootstrap.example", true, true),
        ] {
            assert_eq!(allows(&addr(text), &public), on_public, "{text} on the public DHT");
            assert_eq!(allows(&addr(text), &private), on_private, "{text} on a private DHT");
        }
        assert!(allows(&addr("/ip4/127.0.0.1/tcp/1"), &Surroundings { allow_loopback: true, ..private }));
    }

    #[test]
    fn what_is_told_best_first() {
        let relay = "/ip4/203.0.113.9/tcp/4001/p2p/12D3KooWD3bfmNbuuuVCYwkjnFt3ukm3qaB3hDED3peHHXawvRAi/p2p-circuit";
        let external = [addr(relay), addr("/ip4/203.0.113.5/tcp/7")];
        let listening =
            ["/ip4/127.0.0.1/tcp/7", "/ip4/203.0.113.5/tcp/7", "/ip4/192.168.1.5/tcp/7", "/ip4/10.66.1.1/tcp/7"]
                .map(addr);
        let told = tellable(&external, &listening, Some(Ipv4Range::DEFAULT), 8);
        assert_eq!(told, [addr("/ip4/203.0.113.5/tcp/7"), addr(relay), addr("/ip4/192.168.1.5/tcp/7")]);
        assert_eq!(tellable(&external, &listening, None, 2).len(), 2);
    }
}

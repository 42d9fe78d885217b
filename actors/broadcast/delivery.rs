//! In which form a datagram of a member is handed to the local stack, so that each socket that would hear it on a real
//! network hears it once.
//!
//! What Linux does: a broadcast reaches sockets bound to any address, and those bound to that very broadcast address. A
//! multicast reaches sockets bound to any address or to the group, if somebody here joined the group on the interface it
//! comes in by; but not those that want only the groups that they joined themselves there (`IP_MULTICAST_ALL` off, as Java
//! does), which cannot be seen from outside. A unicast datagram reaches one socket: the one bound to its destination, else
//! one bound to any address.

use std::net::Ipv4Addr;

use super::local::Listeners;
use crate::tun::messages::Address;

/// What is written to the device for one datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Destinations of broadcasts or multicasts. More than one only where each is heard by other sockets.
    pub shouts: Vec<Ipv4Addr>,
    /// A copy to the own virtual IP.
    pub unicast: bool,
}

/// For a datagram to a broadcast address. `listeners`: of its port, if any are known. `broadcasts`: of this machine's
/// networks.
#[must_use]
pub fn broadcast(destination: Ipv4Addr, own: Address, listeners: Option<&Listeners>, broadcasts: &[Ipv4Addr]) -> Plan {
    // Nobody known may be somebody whom this process does not see (a socket in another namespace, one just opened): the
    // kernel drops what nobody hears.
    let Some(listeners) = listeners else { return Plan { shouts: vec![destination], unicast: false } };
    let shout = |ip: &&Ipv4Addr| ip.is_broadcast() || **ip == own.range.broadcast() || broadcasts.contains(ip);
    let bound: Vec<Ipv4Addr> = listeners.addresses.iter().filter(shout).copied().collect();
    let unicast = listeners.addresses.contains(&own.ip);
    let as_sent = bound.is_empty() || bound.contains(&destination);
    let shouts = match (listeners.wildcards() > 0, as_sent) {
        // One only: sockets bound to any address hear each.
        (true, true) => vec![destination],
        (true, false) => bound.into_iter().take(1).collect(),
        (false, _) if !bound.is_empty() => bound,
        (false, _) if unicast => Vec::new(),
        (false, _) => vec![destination],
    };
    Plan { shouts, unicast }
}

/// For a datagram to a multicast group that somebody here joined.
#[must_use]
pub fn multicast(group: Ipv4Addr, own: Address, listeners: Option<&Listeners>) -> Plan {
    let Some(listeners) = listeners else { return Plan { shouts: vec![group], unicast: false } };
    let to_group = listeners.addresses.contains(&group);
    let to_own = listeners.addresses.contains(&own.ip);
    match (listeners.wildcards(), to_group) {
        // All sockets there are hear a unicast copy, also the one that would not hear the group.
        (1, false) if !to_own => Plan { shouts: Vec::new(), unicast: true },
        (0, false) if to_own => Plan { shouts: Vec::new(), unicast: true },
        _ => Plan { shouts: vec![group], unicast: to_own },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::Ipv4Range;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 1);
    const RANGE: Ipv4Addr = Ipv4Addr::new(10, 66, 255, 255);
    const LIMITED: Ipv4Addr = Ipv4Addr::BROADCAST;
    const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 255);
    const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);
    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 2, 60);
    const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 2, 61);

    fn own() -> Address {
        Address { ip: OWN, range: Ipv4Range::DEFAULT }
    }

    fn sockets(wildcard: usize, addresses: &[Ipv4Addr]) -> Listeners {
        Listeners { wildcard, wildcard6: 0, addresses: addresses.iter().copied().collect() }
    }

    /// How many copies each socket hears, by the rules of Linux: those bound to any address, and each address.
    fn copies(plan: &Plan, listeners: &Listeners) -> (usize, Vec<usize>) {
        let specific = listeners.addresses.contains(&OWN);
        let wildcard = plan.shouts.len() + usize::from(plan.unicast && !specific);
        let each = listeners
            .addresses
            .iter()
            .map(|ip| plan.shouts.iter().filter(|to| *to == ip).count() + usize::from(plan.unicast && *ip == OWN));
        (wildcard, each.collect())
    }

    #[test]
    fn broadcasts_by_listening_sockets() {
        let plan = |to, wildcard, addresses: &[Ipv4Addr]| {
            let Plan { shouts, unicast } = broadcast(to, own(), Some(&sockets(wildcard, addresses)), &[LAN]);
            (shouts, unicast)
        };
        for to in [LIMITED, RANGE] {
            assert_eq!(plan(to, 1, &[]), (vec![to], false));
            assert_eq!(plan(to, 2, &[OWN]), (vec![to], true));
            assert_eq!(plan(to, 0, &[OWN]), (vec![], true));
            assert_eq!(plan(to, 0, &[HOST]), (vec![to], false), "bound to the physical network: not for it");
            assert_eq!(plan(to, 0, &[to]), (vec![to], false));
            assert_eq!(plan(to, 0, &[LAN]), (vec![LAN], false));
            assert_eq!(plan(to, 0, &[LIMITED, OWN, RANGE]), (vec![RANGE, LIMITED], true));
            assert_eq!(plan(to, 1, &[LAN]), (vec![LAN], false));
        }
        assert_eq!(broadcast(LIMITED, own(), None, &[]), Plan { shouts: vec![LIMITED], unicast: false });
    }

    #[test]
    fn multicasts_by_listening_sockets() {
        let plan = |wildcard, addresses: &[Ipv4Addr]| {
            let Plan { shouts, unicast } = multicast(GROUP, own(), Some(&sockets(wildcard, addresses)));
            (shouts, unicast)
        };
        assert_eq!(plan(1, &[]), (vec![], true), "also Java");
        assert_eq!(plan(1, &[OTHER_GROUP]), (vec![], true));
        assert_eq!(plan(2, &[]), (vec![GROUP], false));
        assert_eq!(plan(0, &[GROUP]), (vec![GROUP], false));
        assert_eq!(plan(1, &[GROUP]), (vec![GROUP], false));
        assert_eq!(plan(0, &[OWN]), (vec![], true));
        assert_eq!(plan(1, &[OWN]), (vec![GROUP], true));
        assert_eq!(multicast(GROUP, own(), None), Plan { shouts: vec![GROUP], unicast: false });
    }

    #[test]
    fn no_socket_hears_anything_twice() {
        let addresses = [OWN, RANGE, LIMITED, LAN, HOST, GROUP, OTHER_GROUP];
        for bits in 0..1u32 << addresses.len() {
            let chosen: BTreeSet<Ipv4Addr> =
                addresses.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, ip)| *ip).collect();
            for wildcard in 0..3 {
                let listeners = Listeners { wildcard, wildcard6: 0, addresses: chosen.clone() };
                let plans = [
                    broadcast(LIMITED, own(), Some(&listeners), &[LAN]),
                    broadcast(RANGE, own(), Some(&listeners), &[LAN]),
                    multicast(GROUP, own(), Some(&listeners)),
                ];
                for plan in plans {
                    let (any, each) = copies(&plan, &listeners);
                    assert!(each.iter().all(|&copies| copies <= 1), "{plan:?} {listeners:?}");
                    assert!(wildcard == 0 || any == 1, "{plan:?} {listeners:?}");
                    assert!(!chosen.contains(&OWN) || plan.unicast, "{plan:?} {listeners:?}");
                }
            }
        }
    }
}

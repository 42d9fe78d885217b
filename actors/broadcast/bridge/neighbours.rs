//! Which members are on a bridged network themselves, and which of those who bridge it carries.
//!
//! A member is there when a path to it lives at an address of that network: a probe has been answered with the member's
//! key. That it *names* such an address proves nothing, because half the homes of the world use 192.168.1.x. So a
//! member who has just come holds up the networks in which it names an address, until the path lives or a while is over.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// For a member's first answer on the local network and its hello. Both take a round trip.
pub const SETTLE: Duration = Duration::from_secs(5);
/// Who was here so lately and has never said that it bridges is not waited for again: else a member whose connection
/// comes and goes holds the bridge up for ever.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Hellos are sent this often.
pub const HELLO_EVERY: Duration = Duration::from_secs(10);
/// Without a hello for so long, a member bridges no more: three lost ones are forgiven.
const HELLO_LIFE: Duration = Duration::from_secs(35);

/// An interface's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub ip: Ipv4Addr,
    /// 1 to 30.
    pub prefix: u8,
}

impl Network {
    #[must_use]
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let mask = self.mask();
        ip.to_bits() & mask == self.ip.to_bits() & mask
    }

    /// With the same addresses in it.
    #[must_use]
    pub fn is_same(&self, other: Self) -> bool {
        self.prefix == other.prefix && self.contains(other.ip)
    }

    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ip.to_bits() | !self.mask())
    }

    /// A host of it: neither its own nor its broadcast address.
    #[must_use]
    pub fn has_host(&self, ip: Ipv4Addr) -> bool {
        self.contains(ip) && ip != self.broadcast() && ip.to_bits() & !self.mask() != 0
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.clamp(1, 32))).unwrap_or(0)
    }
}

/// What the paths of a member tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub ip: Ipv4Addr,
    pub connected: bool,
    /// Local addresses at which it answers.
    pub live: Vec<Ipv4Addr>,
    /// Addresses of its interfaces, by its own account.
    pub named: Vec<Ipv4Addr>,
}

#[derive(Debug)]
struct Neighbour {
    connected: Option<Instant>,
    /// When it was waited for, and when it was last seen connected.
    seen: Option<(Instant, Instant)>,
    live: Vec<Ipv4Addr>,
    named: Vec<Ipv4Addr>,
    /// When the last hello came, and the networks in it.
    bridges: Option<(Instant, Vec<Ipv4Addr>)>,
}

/// The members, by virtual IP.
#[derive(Debug, Default)]
pub struct Neighbours(BTreeMap<Ipv4Addr, Neighbour>);

impl Neighbours {
    /// All members as they are now. Whether one of them has just come.
    pub fn set(&mut self, now: Instant, members: Vec<Member>) -> bool {
        let mut came = false;
        let mut before = std::mem::take(&mut self.0);
        for member in members {
            let known = before.remove(&member.ip);
            let (since, seen, bridges) = known.map_or((None, None, None), |it| (it.connected, it.seen, it.bridges));
            let lately = |at: Instant| now.saturating_duration_since(at) < REMEMBERED;
            let again = seen.filter(|(_, last)| bridges.is_none() && lately(*last)).map(|(first, _)| first);
            let connected = member.connected.then(|| since.or(again).unwrap_or(now));
            came |= connected.is_some() && since.is_none();
            let seen = connected.map(|first| (first, now)).or(seen);
            let neighbour = Neighbour { connected, seen, live: member.live, named: member.named, bridges };
            self.0.insert(member.ip, neighbour);
        }
        came
    }

    /// A hello of the member `ip`. Whether it is the first.
    pub fn hello(&mut self, now: Instant, ip: Ipv4Addr, networks: Vec<Ipv4Addr>) -> bool {
        let Some(neighbour) = self.0.get_mut(&ip) else { return false };
        neighbour.bridges.replace((now, networks)).is_none()
    }

    /// `address` is a member's own, or may be: who is on the network carries his shouts himself.
    #[must_use]
    pub fn owns(&self, now: Instant, address: Ipv4Addr) -> bool {
        self.0.values().any(|it| it.live.contains(&address) || (it.is_new(now) && it.named.contains(&address)))
    }

    /// The member `ip` is on this network.
    #[must_use]
    pub fn is_on(&self, network: Network, ip: Ipv4Addr) -> bool {
        self.0.get(&ip).is_some_and(|it| it.is_on(network))
    }

    /// The members on this network.
    pub fn on(&self, network: Network) -> impl Iterator<Item = Ipv4Addr> {
        self.0.iter().filter(move |(_, it)| it.is_on(network)).map(|(ip, _)| *ip)
    }

    /// Nobody has come of late who may be on this network and bridge it.
    #[must_use]
    pub fn settled(&self, now: Instant, network: Network) -> bool {
        let open = |it: &Neighbour| {
            let heard = it.bridges.is_some() && it.is_on(network);
            it.is_new(now) && !heard && it.named.iter().chain(&it.live).any(|ip| network.contains(*ip))
        };
        !self.0.values().any(open)
    }

    /// Of the members who bridge one network, the one with the lowest virtual IP carries.
    #[must_use]
    pub fn leaves_to(&self, now: Instant, network: Network, own: Ipv4Addr) -> Option<Ipv4Addr> {
        let bridges = |it: &Neighbour| {
            it.bridges.as_ref().is_some_and(|(heard, networks)| {
                // The address must be one at which it answers here: 192.168.1.2 is in many homes.
                now.saturating_duration_since(*heard) < HELLO_LIFE
                    && networks.iter().any(|ip| network.contains(*ip) && it.live.contains(ip))
            })
        };
        self.0.range(..own).find(|(_, it)| bridges(it)).map(|(ip, _)| *ip)
    }
}

impl Neighbour {
    fn is_new(&self, now: Instant) -> bool {
        self.connected.is_some_and(|since| now.saturating_duration_since(since) < SETTLE)
    }

    fn is_on(&self, network: Network) -> bool {
        self.live.iter().any(|ip| network.contains(*ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 5);
    const LOW: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
    const HIGH: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 9);
    const HOME: Network = Network { ip: Ipv4Addr::new(192, 168, 1, 2), prefix: 24 };
    const THERE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);

    fn member(ip: Ipv4Addr, live: bool) -> Member {
        Member { ip, connected: true, live: if live { vec![THERE] } else { vec![] }, named: vec![THERE] }
    }

    #[test]
    fn networks_know_their_hosts() {
        assert_eq!(HOME.broadcast(), Ipv4Addr::new(192, 168, 1, 255));
        assert!(HOME.has_host(THERE) && HOME.has_host(HOME.ip));
        for no in [[192, 168, 1, 255], [192, 168, 1, 0], [192, 168, 2, 7], [255, 255, 255, 255]] {
            assert!(!HOME.has_host(no.into()), "{no:?}");
        }
    }

    #[test]
    fn an_address_that_is_only_named_holds_up_for_a_while_and_then_counts_for_nothing() {
        let start = Instant::now();
        let mut neighbours = Neighbours::default();
        assert!(neighbours.set(start, vec![member(LOW, false)]));
        assert!(neighbours.owns(start, THERE) && !neighbours.settled(start, HOME));
        let later = start + SETTLE;
        assert!(!neighbours.set(later, vec![member(LOW, false)]), "it had come before");
        assert!(!neighbours.owns(later, THERE) && neighbours.settled(later, HOME));
        assert_eq!(neighbours.on(HOME).count(), 0);
        neighbours.set(later, vec![member(LOW, true)]);
        assert!(neighbours.owns(later, THERE) && neighbours.is_on(HOME, LOW));
    }

    #[test]
    fn the_lowest_of_those_who_bridge_the_same_network_carries() {
        let start = Instant::now();
        let mut neighbours = Neighbours::default();
        neighbours.set(start, vec![member(LOW, true), member(HIGH, true)]);
        assert!(!neighbours.settled(start, HOME), "they may bridge");
        assert!(neighbours.hello(start, HIGH, vec![THERE]));
        assert_eq!(neighbours.leaves_to(start, HOME, OWN), None);
        assert!(neighbours.hello(start, LOW, vec![THERE]));
        assert!(!neighbours.hello(start, LOW, vec![THERE]));
        assert!(neighbours.settled(start, HOME), "both have said so");
        assert_eq!(neighbours.leaves_to(start, HOME, OWN), Some(LOW));
        assert_eq!(neighbours.leaves_to(start + HELLO_LIFE, HOME, OWN), None, "it has not been heard of for long");
    }

    #[test]
    fn another_home_with_the_same_addresses_leaves_nothing_to_anybody() {
        let start = Instant::now();
        let mut neighbours = Neighbours::default();
        neighbours.set(start, vec![member(LOW, false)]);
        neighbours.hello(start, LOW, vec![THERE]);
        assert_eq!(neighbours.leaves_to(start + SETTLE, HOME, OWN), None);
        assert!(!neighbours.hello(start, HIGH, vec![THERE]), "no member");
    }

    #[test]
    fn who_comes_back_is_waited_for_again() {
        for (away, bridges) in [(REMEMBERED, false), (SETTLE, true)] {
            let start = Instant::now();
            let mut neighbours = Neighbours::default();
            neighbours.set(start, vec![member(LOW, false)]);
            if bridges {
                neighbours.hello(start, LOW, vec![THERE]);
            }
            neighbours.set(start + SETTLE, vec![Member { connected: false, ..member(LOW, false) }]);
            assert!(neighbours.settled(start + SETTLE, HOME));
            let back = start + SETTLE + away;
            assert!(neighbours.set(back, vec![member(LOW, false)]));
            assert!(!neighbours.settled(back, HOME), "{away:?}, {bridges}");
        }
    }

    #[test]
    fn who_comes_and_goes_all_the_time_holds_nothing_up() {
        let start = Instant::now();
        let mut neighbours = Neighbours::default();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            let here = Member { connected: second % 3 != 2, ..member(LOW, false) };
            neighbours.set(now, vec![here]);
            assert_eq!(neighbours.settled(now, HOME), now >= start + SETTLE || second % 3 == 2, "after {second} s");
        }
    }
}

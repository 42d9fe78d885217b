//! What the local programs listen on: UDP sockets and multicast groups, as Linux tells them in /proc/net.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Sockets that are kept of one port; programs have one or two.
const MAX_PER_PORT: usize = 32;
/// Groups that are kept of one interface.
const MAX_GROUPS: usize = 256;

/// The unconnected sockets of one UDP port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Bound to any address.
    pub wildcard: usize,
    /// Bound to any IPv6 address; these hear IPv4 as well unless they were told not to, which cannot be seen.
    pub wildcard6: usize,
    /// Addresses that sockets are bound to.
    pub addresses: BTreeSet<Ipv4Addr>,
}

impl Listeners {
    /// Sockets that hear what is sent to any address of this machine. A program that binds both families has to tell its
    /// IPv6 socket to keep off IPv4.
    #[must_use]
    pub fn wildcards(&self) -> usize {
        if self.wildcard > 0 { self.wildcard } else { self.wildcard6 }
    }
}

/// A group that programs (or this one) joined on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub interface: String,
    pub group: Ipv4Addr,
    /// How many did.
    pub users: u32,
}

/// All of it at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    pub ports: BTreeMap<u16, Listeners>,
    pub groups: Vec<Joined>,
}

impl Local {
    /// Adds the sockets of /proc/net/udp.
    pub fn add_udp(&mut self, text: &str) {
        for (local, remote) in text.lines().filter_map(addresses) {
            let (Some((ip, port)), Some((_, 0))) = (ipv4(local), ipv4(remote)) else { continue };
            let listeners = self.ports.entry(port).or_default();
            if ip.is_unspecified() {
                listeners.wildcard += 1;
            } else if listeners.addresses.len() < MAX_PER_PORT {
                listeners.addresses.insert(ip);
            }
        }
    }

    /// Adds the sockets of /proc/net/udp6.
    pub fn add_udp6(&mut self, text: &str) {
        for (local, remote) in text.lines().filter_map(addresses) {
            let (Some((ip, port)), Some((_, 0))) = (ipv6(local), ipv6(remote)) else { continue };
            let mapped = ip.to_ipv4_mapped();
            if !ip.is_unspecified() && mapped.is_none() {
                continue;
            }
            let listeners = self.ports.entry(port).or_default();
            match mapped.filter(|ip| !ip.is_unspecified()) {
                None => listeners.wildcard6 += 1,
                Some(ip) if listeners.addresses.len() < MAX_PER_PORT => {
                    listeners.addresses.insert(ip);
                }
                Some(_) => {}
            }
        }
    }

    /// Adds the groups of /proc/net/igmp.
    pub fn add_igmp(&mut self, text: &str) {
        let mut interface = None;
        let mut kept = 0;
        for line in text.lines().skip(1) {
            if !line.starts_with([' ', '\t']) {
                // `2   eth0      :     2      V3`
                interface = line.split_whitespace().nth(1).map(|name| name.trim_end_matches(':').to_owned());
                kept = 0;
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(interface), Some(group), Some(users)) = (&interface, words.next(), words.next()) else {
                continue;
            };
            let (Some(group), Ok(users)) = (ipv4_word(group), users.parse()) else { continue };
            if kept < MAX_GROUPS {
                self.groups.push(Joined { interface: interface.clone(), group, users });
                kept += 1;
            }
        }
    }
}

/// Local and remote address of a line of /proc/net/udp: the second and third word.
fn addresses(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    let slot = words.next()?;
    // The heading has no slot number.
    if !slot.trim_end_matches(':').bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((words.next()?, words.next()?))
}

/// The kernel prints the four bytes of the address as one number of the machine's byte order.
fn ipv4_word(hex: &str) -> Option<Ipv4Addr> {
    (hex.len() == 8).then_some(())?;
    Some(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes().into())
}

fn port(hex: &str) -> Option<u16> {
    u16::from_str_radix(hex, 16).ok()
}

fn ipv4(text: &str) -> Option<(Ipv4Addr, u16)> {
    let (ip, number) = text.split_once(':')?;
    Some((ipv4_word(ip)?, port(number)?))
}

fn ipv6(text: &str) -> Option<(Ipv6Addr, u16)> {
    let (ip, number) = text.split_once(':')?;
    if ip.len() != 32 || !ip.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_mut(4).enumerate() {
        chunk.copy_from_slice(&ipv4_word(ip.get(8 * index..8 * index + 8)?)?.octets());
    }
    Some((bytes.into(), port(number)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops             
  362: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000   104        0 17 2 0000000000000000 0         
  363: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000   104        0 18 2 0000000000000000 0         
  400: 0101420A:17E0 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 19 2 0000000000000000 0         
  401: 0101A8C0:9C40 0201A8C0:0035 01 00000000:00000000 00:00000000 00000000     0        0 20 2 0000000000000000 0         
";
    const UDP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 00000000000000000000000000000000:115D 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 21 2 0000000000000000 0
  101: 0000000000000000FFFF00000101420A:17E1 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 22 2 0000000000000000 0
  102: 000080FE00000000FF005450B6AD1DFE:0222 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 23 2 0000000000000000 0
";
    const IGMP: &str = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
2\teth0      :     2      V3
\t\t\t\t3C0200E0     2 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0
";

    #[test]
    fn what_linux_prints_is_read() {
        if cfg!(target_endian = "big") {
            return;
        }
        let mut local = Local::default();
        local.add_udp(UDP);
        local.add_udp6(UDP6);
        local.add_igmp(IGMP);
        let own = Ipv4Addr::new(10, 66, 1, 1);
        let bound = |ip| Listeners { addresses: BTreeSet::from([ip]), ..Listeners::default() };
        assert_eq!(
            local.ports.into_iter().collect::<Vec<_>>(),
            [
                (4445, Listeners { wildcard6: 1, ..Listeners::default() }),
                (5353, Listeners { wildcard: 2, ..Listeners::default() }),
                (6112, bound(own)),
                (6113, bound(own)),
            ]
        );
        let joined =
            |interface: &str, group: [u8; 4], users| Joined { interface: interface.into(), group: group.into(), users };
        assert_eq!(
            local.groups,
            [joined("lo", [224, 0, 0, 1], 1), joined("eth0", [224, 0, 2, 60], 2), joined("eth0", [224, 0, 0, 1], 1)]
        );
    }

    #[test]
    fn a_program_with_both_families_is_one_listener() {
        let both = Listeners { wildcard: 1, wildcard6: 1, ..Listeners::default() };
        assert_eq!(both.wildcards(), 1);
        assert_eq!(Listeners { wildcard6: 2, ..Listeners::default() }.wildcards(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[0-9A-Fa-f: \n\tx]{0,400}") {
            let mut local = Local::default();
            local.add_udp(&text);
            local.add_udp6(&text);
            local.add_igmp(&text);
        }
    }
}

//! Whether the party's range is free on this machine.

use std::fmt;
use std::net::Ipv4Addr;

use crate::wire::Ipv4Range;

/// A route of the local stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRoute {
    pub device: String,
    pub network: Ipv4Addr,
    /// 0 to 32.
    pub prefix_len: u8,
}

impl fmt::Display for LocalRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.network, self.prefix_len, self.device)
    }
}

/// What the routes of other devices mean for a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlaps {
    /// Equal to the range or inside it: traffic of the party or of that network would go astray.
    pub clashes: Vec<LocalRoute>,
    /// Wider than the range: hosts of that network that have an address in the range cannot be reached meanwhile.
    pub covering: Vec<LocalRoute>,
}

/// Compares `routes` with `range`; those of `own_device` do not count. A default route does not count either, nor do its
/// two halves (0.0.0.0/1 and 128.0.0.0/1, how VPN clients override a default route).
#[must_use]
pub fn overlaps(range: Ipv4Range, own_device: &str, routes: &[LocalRoute]) -> Overlaps {
    let mut found = Overlaps::default();
    for route in routes {
        if route.device == own_device || route.prefix_len <= 1 || route.prefix_len > 32 {
            continue;
        }
        let shorter = u32::from(route.prefix_len.min(range.prefix_len()));
        let differing = u32::from(route.network) ^ u32::from(range.network());
        if differing.leading_zeros() < shorter {
            continue;
        }
        let list = if route.prefix_len >= range.prefix_len() { &mut found.clashes } else { &mut found.covering };
        if !list.contains(route) {
            list.push(route.clone());
        }
    }
    found
}

/// What to tell about a clash, in one line.
#[must_use]
pub fn clash_message(range: Ipv4Range, clash: &LocalRoute) -> String {
    format!(
        "the party's range {range} overlaps the route {clash} of this machine; leave that network, or use another range: \
         on the machine that creates the party set `range` in the config (or `lanrage up --range`), for example \
         {}, and create the party anew (a party's range is its host's choice: who joins cannot change it)",
        alternative(range, clash)
    )
}

/// What to tell about a wider route, in one line.
#[must_use]
pub fn covering_message(range: Ipv4Range, route: &LocalRoute) -> String {
    format!(
        "the route {route} contains the party's range {range}: hosts of that network with addresses in the range cannot \
         be reached while the party is up; if one is missed, set `range` in the config (or `lanrage up --range`) \
         on the machine that creates the party"
    )
}

/// A range that overlaps neither.
fn alternative(range: Ipv4Range, clash: &LocalRoute) -> &'static str {
    let ten_is_free = range.network().octets()[0] != 10 && clash.network.octets()[0] != 10;
    if ten_is_free { "10.66.0.0/16" } else { "172.29.0.0/16" }
}

const RTF_UP: u32 = 0x1;

/// The routes in the text of Linux's `/proc/net/route`. Lines that do not parse and routes that are not up are left out.
/// Addresses there are in the machine's byte order, as hexadecimal numbers of network-order words.
#[must_use]
pub fn parse_proc_net_route(text: &str) -> Vec<LocalRoute> {
    text.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<LocalRoute> {
    let mut columns = line.split_ascii_whitespace();
    let device = columns.next()?;
    let network = u32::from_str_radix(columns.next()?, 16).ok()?;
    let flags = u32::from_str_radix(columns.nth(1)?, 16).ok()?;
    let mask = u32::from_str_radix(columns.nth(3)?, 16).ok()?;
    let mask = u32::from_be(mask);
    // A mask with holes cannot be set on any current system.
    let contiguous = mask.leading_ones() + mask.trailing_zeros() == 32 || mask == 0;
    if flags & RTF_UP == 0 || !contiguous {
        return None;
    }
    Some(LocalRoute {
        device: device.to_owned(),
        network: Ipv4Addr::from(u32::from_be(network)),
        prefix_len: u8::try_from(mask.leading_ones()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(device: &str, network: [u8; 4], prefix_len: u8) -> LocalRoute {
        LocalRoute { device: device.into(), network: network.into(), prefix_len }
    }

    fn line(device: &str, network: [u8; 4], flags: u32, mask: [u8; 4]) -> String {
        let hex = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        format!("{device}\t{}\t00000000\t{flags:04X}\t0\t0\t100\t{}\t0\t0\t0", hex(network), hex(mask))
    }

    #[test]
    fn the_kernels_table_is_read() {
        let text = [
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT".to_owned(),
            line("eth0", [0, 0, 0, 0], 3, [0, 0, 0, 0]),
            line("eth0", [192, 168, 1, 0], 1, [255, 255, 255, 0]),
            line("wg0", [10, 0, 0, 0], 1, [255, 0, 0, 0]),
            line("down", [10, 66, 0, 0], 0, [255, 255, 0, 0]),
            line("host", [10, 66, 7, 9], 5, [255; 4]),
            "rubbish".to_owned(),
            "eth0 xyz 0 1 0 0 0 0".to_owned(),
        ]
        .join("\n");
        assert_eq!(
            parse_proc_net_route(&text),
            [
                route("eth0", [0, 0, 0, 0], 0),
                route("eth0", [192, 168, 1, 0], 24),
                route("wg0", [10, 0, 0, 0], 8),
                route("host", [10, 66, 7, 9], 32),
            ]
        );
        let found = overlaps(Ipv4Range::DEFAULT, "lanrage0", &parse_proc_net_route(&text));
        assert_eq!(found.clashes, [route("host", [10, 66, 7, 9], 32)]);
        assert_eq!(found.covering, [route("wg0", [10, 0, 0, 0], 8)]);
    }

    #[test]
    fn clashes_are_told_from_what_is_harmless() {
        let range = Ipv4Range::DEFAULT;
        let clash = |r: LocalRoute| !overlaps(range, "lanrage0", &[r]).clashes.is_empty();
        assert!(clash(route("eth0", [10, 66, 0, 0], 16)));
        assert!(clash(route("eth0", [10, 66, 255, 0], 24)));
        assert!(!clash(route("lanrage0", [10, 66, 0, 0], 16)), "our own device");
        assert!(!clash(route("eth0", [10, 67, 0, 0], 16)));
        assert!(!clash(route("eth0", [10, 0, 0, 0], 8)));
        let default_halves = [route("tun0", [0, 0, 0, 0], 1), route("tun0", [128, 0, 0, 0], 1), route("e", [0; 4], 0)];
        assert_eq!(overlaps(range, "lanrage0", &default_halves), Overlaps::default());
    }

    #[test]
    fn messages_name_route_device_and_setting() {
        let text = clash_message(Ipv4Range::DEFAULT, &route("wlan0", [10, 66, 3, 0], 24));
        for part in ["10.66.0.0/16", "10.66.3.0/24", "wlan0", "--range", "172.29.0.0/16"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let range = "172.29.0.0/16".parse().unwrap();
        assert!(clash_message(range, &route("docker0", [172, 29, 0, 0], 16)).contains("example 10.66.0.0/16"));
    }

    proptest! {
        #[test]
        fn overlap_is_sharing_an_address(network: u32, prefix_len in 2u8..=32) {
            let network = network & (u32::MAX << (32 - prefix_len));
            let network = if network & 1 << 30 == 0 { 0x0a42_0000 | network & 0xffff } else { network };
            let network = network & (u32::MAX << (32 - prefix_len));
            let r = route("eth0", Ipv4Addr::from(network).octets(), prefix_len);
            let range = Ipv4Range::DEFAULT;
            let last = network | (u64::from(u32::MAX) >> prefix_len) as u32;
            let shares = network <= u32::from(range.broadcast()) && last >= u32::from(range.network());
            let found = overlaps(range, "lanrage0", &[r]);
            prop_assert_eq!(found.clashes.len() + found.covering.len(), usize::from(shares));
            prop_assert_eq!(found.clashes.len(), usize::from(shares && prefix_len >= 16));
        }

        #[test]
        fn random_text_never_panics(text in "\\PC{0,200}", lines in "[a-z0-9A-F\t \n]{0,300}") {
            let _ = (parse_proc_net_route(&text), parse_proc_net_route(&lines));
        }
    }
}

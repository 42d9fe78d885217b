//! Routers as nftables rules. In all of them `wan0` is the outside and `lan0` the inside.
//!
//! A router drops what arrives outside for itself and belongs to nothing. The drop comes before conntrack keeps the
//! connection; without it an early datagram of the peer would own (remote, port), and the masquerade of the host's own
//! first datagram would get another port, which no home router does.

use std::fmt::Write as _;

/// What a router lets in and what it makes of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Router {
    /// Forwards all, translates nothing.
    Plain,
    /// Stateful, translates nothing; IPv4 and IPv6.
    Firewall,
    FullCone,
    AddressRestricted,
    PortRestricted,
    Symmetric,
    SymmetricSequential,
    UdpBlocked,
    /// Nothing but TCP to this port.
    OnlyTcp(u16),
}

/// First port that the sequential NAT gives, and how many before it starts again.
const SEQUENTIAL: (u16, u16) = (20_000, 4_096);

impl Router {
    /// The rule set for a router whose outside IPv4 address is `outside`.
    pub(crate) fn rules(self, outside: &str) -> String {
        if self == Self::Plain {
            return String::new();
        }
        let mut rules = String::from("table inet nat_lab {\n");
        let cone = matches!(self, Self::FullCone | Self::AddressRestricted);
        if cone {
            rules += "map cone { type inet_service : ipv4_addr; flags dynamic,timeout; timeout 2m; size 65535; }\n";
            rules += "set seen { type inet_service . ipv4_addr; flags dynamic,timeout; timeout 2m; size 65535; }\n";
        }
        rules += "chain to_itself { type filter hook input priority filter; policy accept;\n\
                  iifname \"wan0\" ct state { new, invalid } drop\n\
                  iifname \"lan0\" ip daddr ";
        let _ = writeln!(rules, "{outside} drop\n}}");

        rules += "chain forwarded { type filter hook forward priority filter; policy drop;\n";
        if cone {
            // Ports are kept as long as one host is behind it, so the inside port is the outside port.
            rules += "iifname \"lan0\" oifname \"wan0\" meta l4proto udp \
                      update @cone { udp sport : ip saddr } update @seen { udp sport . ip daddr }\n";
        }
        rules += "ct state established,related accept\nct status dnat accept\n";
        let out = "iifname \"lan0\" oifname \"wan0\"";
        let _ = if self == Self::UdpBlocked {
            writeln!(rules, "{out} meta l4proto tcp accept")
        } else if let Self::OnlyTcp(port) = self {
            writeln!(rules, "{out} tcp dport {port} accept")
        } else {
            writeln!(rules, "{out} accept")
        };
        rules += "}\n";

        if cone {
            rules += "chain inwards { type nat hook prerouting priority dstnat;\niifname \"wan0\" ";
            rules += if self == Self::FullCone { "" } else { "udp dport . ip saddr @seen " };
            rules += "dnat ip to udp dport map @cone\n}\n";
        }
        if self != Self::Firewall {
            rules += "chain outwards { type nat hook postrouting priority srcnat;\n";
            let out = "oifname \"wan0\" meta nfproto ipv4";
            let (first, count) = SEQUENTIAL;
            let _ = if self == Self::Symmetric {
                writeln!(rules, "{out} masquerade fully-random")
            } else if self == Self::SymmetricSequential {
                // By a map: a port straight from `numgen` has its bytes in the wrong order.
                let ports: Vec<_> = (0..count).map(|number| format!("{number} : {}", first + number)).collect();
                let ports = ports.join(", ");
                writeln!(
                    rules,
                    "{out} meta l4proto udp snat ip to {outside}:numgen inc mod {count} map {{ {ports} }}\n{out} masquerade"
                )
            } else {
                writeln!(rules, "{out} masquerade")
            };
            rules += "}\n";
        }
        rules + "}\n"
    }
}

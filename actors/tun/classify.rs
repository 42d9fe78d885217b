//! Which packets go first: the class of what local programs send.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::messages::ClassRule;
use crate::wire::Class;
use crate::wire::ip::{self, Ipv4Packet};

/// IP packets below this many bytes are a game's state, a voice, a name or a ping rather than a transfer.
const SMALL: usize = 256;
/// A flow that sent a larger packet within this time or twice it is a transfer, and its small packets go with the others:
/// longer than anything waits here, so that none overtakes one of its own flow.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Flows are told apart by so many bits of a hash. Two that share one both wait: nothing is reordered by that.
const FLOW_BITS: usize = 4096;
/// More rules than this are left out.
pub(super) const MAX_RULES: usize = 64;

type Flows = [u64; FLOW_BITS / 64];

/// The datagram whose fragments are being read: those after the first have no ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Datagram {
    id: u16,
    destination: Ipv4Addr,
    protocol: u8,
}

#[derive(Debug)]
pub(super) struct Classifier {
    rules: Vec<ClassRule>,
    /// Flows that lately sent a large packet: within this period, and the one before.
    transfers: [Flows; 2],
    period_began: Option<Instant>,
    fragmented: Option<(Datagram, Class)>,
}

impl Default for Classifier {
    fn default() -> Self {
        Self { rules: Vec::new(), transfers: [[0; FLOW_BITS / 64]; 2], period_began: None, fragmented: None }
    }
}

impl Classifier {
    pub(super) fn set_rules(&mut self, mut rules: Vec<ClassRule>) {
        rules.truncate(MAX_RULES);
        self.rules = rules;
    }

    /// Once before a round of packets.
    pub(super) fn begin(&mut self, now: Instant) {
        let began = *self.period_began.get_or_insert(now);
        let age = now.saturating_duration_since(began);
        if age >= REMEMBERED {
            let last = if age < 2 * REMEMBERED { self.transfers[0] } else { [0; FLOW_BITS / 64] };
            self.transfers = [[0; FLOW_BITS / 64], last];
            self.period_began = Some(now);
        }
    }

    /// `segmented`: the packet stands for several, which are as long as the device allows.
    pub(super) fn classify(&mut self, packet: Ipv4Packet<'_>, segmented: bool) -> Class {
        let protocol = packet.protocol();
        let destination = packet.destination();
        let datagram = Datagram { id: packet.identification(), destination, protocol };
        if packet.fragment_offset() > 0 {
            return self.fragmented.filter(|(known, _)| *known == datagram).map_or_else(Class::default, |(_, it)| it);
        }
        let ports = ports(packet);
        let rule = ports.and_then(|ports| {
            self.rules.iter().find(|rule| {
                rule.protocol.number() == protocol && (rule.ports.contains(&ports.0) || rule.ports.contains(&ports.1))
            })
        });
        let class = match rule {
            Some(rule) => rule.class,
            None if matches!(protocol, ip::UDP | ip::ICMP) => {
                let (word, bit) = place(destination, protocol, ports.unwrap_or_default());
                let small = packet.bytes().len() < SMALL && !segmented && !packet.is_fragment();
                let transfer = self.transfers.iter().any(|flows| flows[word] & bit != 0);
                if !small {
                    self.transfers[0][word] |= bit;
                }
                if small && !transfer { Class::EXPEDITED } else { Class::default() }
            }
            None => Class::default(),
        };
        if packet.more_fragments() {
            self.fragmented = Some((datagram, class));
        }
        class
    }
}

/// Source and destination port; for an ICMP echo its identifier, so that two pings are two flows.
fn ports(packet: Ipv4Packet<'_>) -> Option<(u16, u16)> {
    let be16 = |at: usize| {
        let bytes = packet.payload().get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    match packet.protocol() {
        ip::TCP | ip::UDP => be16(0).zip(be16(2)),
        ip::ICMP => be16(4).map(|id| (id, 0)),
        _ => None,
    }
}

/// Word and bit of a flow.
fn place(destination: Ipv4Addr, protocol: u8, ports: (u16, u16)) -> (usize, u64) {
    let key = u64::from(u32::from(destination)) << 32 | u64::from(ports.0) << 16 | u64::from(ports.1);
    // Fibonacci hashing: the upper bits of the product depend on all bits of the key.
    let hash = (key ^ u64::from(protocol) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
    let index = usize::try_from(hash).unwrap_or(0) % FLOW_BITS;
    (index / 64, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::PacketSpec;
    use super::*;
    use crate::wire::{IpProtocol, Urgency};

    const GAME: Class = Class { urgency: Urgency::Expedited, dscp: 46 };

    fn class(classifier: &mut Classifier, packet: &[u8], segmented: bool) -> Class {
        classifier.classify(Ipv4Packet::parse(packet).unwrap(), segmented)
    }

    fn udp(ports: (u16, u16), payload: usize) -> Vec<u8> {
        PacketSpec { ports, ..PacketSpec::udp(payload) }.build()
    }

    #[test]
    fn small_packets_and_a_games_ports_go_first() {
        let mut it = Classifier::default();
        let now = Instant::now();
        it.begin(now);
        assert_eq!(class(&mut it, &udp((5000, 53), 60), false), Class::EXPEDITED);
        assert_eq!(class(&mut it, &udp((5001, 53), 1200), false), Class::default());
        assert_eq!(class(&mut it, &udp((5001, 53), 60), false), Class::default(), "behind the large one of its flow");
        assert_eq!(class(&mut it, &udp((5002, 53), 60), true), Class::default(), "a burst of equal datagrams");
        assert_eq!(class(&mut it, &PacketSpec::tcp(0).build(), false), Class::default());
        it.set_rules(vec![
            ClassRule::new(IpProtocol::Udp, 2342..=2342, GAME),
            ClassRule::new(IpProtocol::Tcp, 25_565..=25_570, GAME),
            ClassRule::new(IpProtocol::Udp, 7000..=7000, Class { urgency: Urgency::Background, dscp: 8 }),
        ]);
        assert_eq!(class(&mut it, &udp((2342, 40_000), 1300), false), GAME, "from the server");
        assert_eq!(class(&mut it, &udp((40_000, 2342), 10), true), GAME, "to the server");
        let tcp = PacketSpec { ports: (40_000, 25_570), ..PacketSpec::tcp(1300) }.build();
        assert_eq!(class(&mut it, &tcp, false), GAME);
        assert_eq!(class(&mut it, &udp((40_000, 25_570), 1300), false), Class::default(), "the other protocol");
        assert_eq!(class(&mut it, &udp((7000, 1), 10), false).urgency, Urgency::Background);
        it.set_rules(Vec::new());
        assert_eq!(class(&mut it, &udp((2342, 40_000), 1300), false), Class::default());
        // Forgotten after twice the time at most, kept for once at least.
        it.begin(now + REMEMBERED);
        assert_eq!(class(&mut it, &udp((5001, 53), 60), false), Class::default());
        it.begin(now + 2 * REMEMBERED);
        assert_eq!(class(&mut it, &udp((5001, 53), 60), false), Class::EXPEDITED);
    }

    #[test]
    fn fragments_go_with_the_first() {
        let mut it = Classifier::default();
        it.set_rules(vec![ClassRule::new(IpProtocol::Udp, 2342..=2342, GAME)]);
        let fragment = |ports, id, offset: u16, more: bool| {
            let mut packet = PacketSpec { ports, id, ..PacketSpec::udp(100) }.build();
            packet[6..8].copy_from_slice(&((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
            packet
        };
        assert_eq!(class(&mut it, &fragment((1, 2342), 9, 0, true), false), GAME);
        assert_eq!(class(&mut it, &fragment((0, 0), 9, 1320, true), false), GAME);
        assert_eq!(class(&mut it, &fragment((0, 0), 9, 2640, false), false), GAME);
        // Payload that looks like the game's ports is none.
        assert_eq!(class(&mut it, &fragment((2342, 2342), 10, 1320, false), false), Class::default());
        assert_eq!(class(&mut it, &fragment((1, 2), 11, 0, true), false), Class::default());
        assert_eq!(class(&mut it, &fragment((1, 2), 11, 104, false), false), Class::default());
        assert_eq!(class(&mut it, &udp((1, 2), 10), false), Class::default(), "behind its flow's fragments");
    }

    proptest! {
        /// Whatever flows are mixed: once a packet of a flow waits, no later one of that flow goes first while the first
        /// may still be here.
        #[test]
        fn no_packet_overtakes_its_own_flow(
            packets in proptest::collection::vec((0u16..40, 0usize..600, 0u64..200, any::<bool>()), 1..300),
        ) {
            let mut it = Classifier::default();
            let start = Instant::now();
            let mut now = start;
            let mut waits: std::collections::HashMap<u16, Instant> = std::collections::HashMap::new();
            for (flow, payload, pause_ms, segmented) in packets {
                now += Duration::from_millis(pause_ms);
                it.begin(now);
                let got = class(&mut it, &udp((flow, 9000), payload), segmented);
                if got.urgency == Urgency::Bulk {
                    if payload + 28 >= SMALL || segmented {
                        waits.insert(flow, now);
                    }
                } else if let Some(since) = waits.get(&flow) {
                    prop_assert!(now.saturating_duration_since(*since) >= REMEMBERED);
                }
            }
        }

        #[test]
        fn anything_is_classed(mut packet in proptest::collection::vec(any::<u8>(), 20..80), segmented in any::<bool>()) {
            packet[0] = 0x45;
            let len = u16::try_from(packet.len()).unwrap();
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            let mut it = Classifier::default();
            it.set_rules(vec![ClassRule::new(IpProtocol::Tcp, 0..=u16::MAX, GAME)]);
            let _ = class(&mut it, &packet, segmented);
        }
    }
}

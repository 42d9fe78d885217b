//! Whose packet it is: the system's, or that of a namespace which shares the virtual IP.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::tun::messages::PlayId;
use crate::wire::ip::{ICMP, Ipv4Packet, TCP, UDP};

/// Entries of one generation of a table; a table has two.
const GENERATION_ENTRIES: usize = 4096;
/// An entry that nothing touched is forgotten after one to two of these. TCP keepalives of games come more often.
const GENERATION: Duration = Duration::from_secs(300);
/// What the system has not sent for so long is a namespace's that listens: games say more. A server that ended outside and
/// was started again inside would not hear the friends it had.
const QUIET: Duration = Duration::from_secs(10);
/// Listening ports that are kept for one namespace and protocol.
pub(super) const MAX_LISTENING: usize = 1024;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tun) enum Side {
    System,
    Play(PlayId),
    /// All sides: broadcasts, multicasts, and fragments that do not say a port.
    All,
}

/// Both ends as seen from this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    protocol: u8,
    local: u16,
    remote: (Ipv4Addr, u16),
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    side: Side,
    at: Instant,
}

/// Two generations: what is used moves to the young one, the old one is dropped as a whole. Bounded in entries and time
/// without a timer.
#[derive(Debug)]
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    since: Option<Instant>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), since: None }
    }
}

impl<K: Hash + Eq, V: Copy> Recent<K, V> {
    fn put(&mut self, key: K, value: V, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let full = self.young.len() >= GENERATION_ENTRIES && !self.young.contains_key(&key);
        if full || now.saturating_duration_since(since) >= GENERATION {
            self.old = std::mem::take(&mut self.young);
            self.since = Some(now);
        }
        self.young.insert(key, value);
    }

    fn get(&mut self, key: K, now: Instant) -> Option<V> {
        if let Some(value) = self.young.get(&key) {
            return Some(*value);
        }
        let value = self.old.get(&key).copied()?;
        // Nothing was put in since: then the entry may be far older than two generations.
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= 2 * GENERATION) {
            return None;
        }
        self.put(key, value, now);
        Some(value)
    }

    fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.young.retain(|_, value| keep(value));
        self.old.retain(|_, value| keep(value));
    }
}

/// Learns from what goes out, and from the listening sockets that the namespaces tell of.
#[derive(Debug, Default)]
pub(in crate::tun) struct Owners {
    flows: Recent<Flow, Sent>,
    /// UDP ports that a namespace sent from: an answer may come from another port or machine.
    senders: Recent<u16, PlayId>,
    /// (protocol, port).
    listening: HashMap<(u8, u16), PlayId>,
}

impl Owners {
    /// `side` sent this packet.
    pub(in crate::tun) fn sent(&mut self, packet: &Ipv4Packet<'_>, side: Side, now: Instant) {
        let Some(flow) = outgoing(packet) else { return };
        self.flows.put(flow, Sent { side, at: now }, now);
        if let Side::Play(id) = side
            && flow.protocol == UDP
        {
            self.senders.put(flow.local, id, now);
        }
    }

    /// The ports that programs of `id` listen on, all of them.
    pub(in crate::tun) fn listens(&mut self, id: PlayId, udp: &[u16], tcp: &[u16]) {
        self.listening.retain(|_, owner| *owner != id);
        for (protocol, ports) in [(UDP, udp), (TCP, tcp)] {
            for port in ports.iter().take(MAX_LISTENING) {
                self.listening.insert((protocol, *port), id);
            }
        }
    }

    pub(in crate::tun) fn forget(&mut self, id: PlayId) {
        self.flows.retain(|sent| sent.side != Side::Play(id));
        self.senders.retain(|owner| *owner != id);
        self.listening.retain(|_, owner| *owner != id);
    }

    /// Who gets a packet that came in for `own`, the virtual IP, or for all.
    pub(in crate::tun) fn receiver(&mut self, packet: &Ipv4Packet<'_>, own: Ipv4Addr, now: Instant) -> Side {
        if packet.destination() != own || packet.fragment_offset() > 0 {
            return Side::All;
        }
        let Some(flow) = incoming(packet) else { return Side::System };
        let listens = self.listening.get(&(flow.protocol, flow.local)).copied();
        if let Some(Sent { side, at }) = self.flows.get(flow, now) {
            let over = side == Side::System && now.saturating_duration_since(at) >= QUIET && begins(packet);
            return listens.filter(|_| over).map_or(side, Side::Play);
        }
        if let Some(id) = listens {
            return Side::Play(id);
        }
        match self.senders.get(flow.local, now) {
            Some(id) if flow.protocol == UDP => Side::Play(id),
            Some(_) | None => Side::System,
        }
    }
}

fn ports(transport: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d, ..] = transport else { return None };
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// Whether it can be the first of a conversation. A connection of TCP may be idle for hours.
fn begins(packet: &Ipv4Packet<'_>) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    packet.protocol() != TCP || packet.payload().get(13).is_some_and(|flags| flags & (SYN | ACK) == SYN)
}

/// The flow of a packet that this machine sends.
fn outgoing(packet: &Ipv4Packet<'_>) -> Option<Flow> {
    if packet.fragment_offset() > 0 {
        return None;
    }
    flow_of_sent(packet.protocol(), packet.destination(), packet.payload())
}

fn flow_of_sent(protocol: u8, remote: Ipv4Addr, transport: &[u8]) -> Option<Flow> {
    match protocol {
        TCP | UDP => {
            let (local, port) = ports(transport)?;
            Some(Flow { protocol, local, remote: (remote, port) })
        }
        ICMP => echo(transport, ECHO_REQUEST).map(|local| Flow { protocol, local, remote: (remote, 0) }),
        _ => None,
    }
}

/// The flow that a packet answers to.
fn incoming(packet: &Ipv4Packet<'_>) -> Option<Flow> {
    let (protocol, transport) = (packet.protocol(), packet.payload());
    match protocol {
        TCP | UDP => {
            let (port, local) = ports(transport)?;
            Some(Flow { protocol, local, remote: (packet.source(), port) })
        }
        ICMP => match echo(transport, ECHO_REPLY) {
            Some(local) => Some(Flow { protocol, local, remote: (packet.source(), 0) }),
            None => quoted(transport),
        },
        _ => None,
    }
}

/// The identifier of an ICMP echo of this kind.
fn echo(icmp: &[u8], kind: u8) -> Option<u16> {
    let &[found, _, _, _, high, low, ..] = icmp else { return None };
    (found == kind).then(|| u16::from_be_bytes([high, low]))
}

/// The flow of the packet that an ICMP error quotes: its header and at least 8 bytes of what follows (RFC 792). Its total
/// length counts more than there is, so it is no packet for `Ipv4Packet`.
fn quoted(icmp: &[u8]) -> Option<Flow> {
    if !matches!(icmp.first()?, 3..=5 | 11 | 12) {
        return None;
    }
    let inner = icmp.get(8..)?;
    let header_len = usize::from(inner.first()? & 0x0f) * 4;
    if inner[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let header = inner.get(..header_len)?;
    let remote = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    flow_of_sent(header[9], remote, &inner[header_len..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::PacketSpec;
    use super::*;
    use crate::wire::ip::{write_header, write_header_checksum};

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
    const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 3);
    const ONE: PlayId = PlayId(1);
    const TWO: PlayId = PlayId(2);

    fn packet(protocol: u8, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
        let base = if protocol == TCP { PacketSpec::tcp(4) } else { PacketSpec::udp(4) };
        let mut bytes = PacketSpec { destination: to.0, ports: (from.1, to.1), ..base }.build();
        bytes[12..16].copy_from_slice(&from.0.octets());
        bytes
    }

    fn icmp(from: Ipv4Addr, to: Ipv4Addr, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20 + body.len()];
        write_header(&mut bytes, from, to, ICMP, 20 + body.len()).unwrap();
        bytes[20..].copy_from_slice(body);
        bytes
    }

    struct Bench {
        owners: Owners,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { owners: Owners::default(), now: Instant::now() }
        }

        fn sent(&mut self, bytes: &[u8], side: Side) {
            self.owners.sent(&Ipv4Packet::parse(bytes).unwrap(), side, self.now);
        }

        fn receiver(&mut self, bytes: &[u8]) -> Side {
            self.owners.receiver(&Ipv4Packet::parse(bytes).unwrap(), OWN, self.now)
        }
    }

    #[test]
    fn answers_go_to_who_asked() {
        let mut bench = Bench::new();
        for protocol in [UDP, TCP] {
            bench.sent(&packet(protocol, (OWN, 5000), (FRIEND, 27960)), Side::Play(ONE));
            assert_eq!(bench.receiver(&packet(protocol, (FRIEND, 27960), (OWN, 5000))), Side::Play(ONE));
            assert_eq!(bench.receiver(&packet(protocol, (FRIEND, 27960), (OWN, 5001))), Side::System);
        }
        // From another port or machine: only UDP games do that.
        assert_eq!(bench.receiver(&packet(UDP, (OTHER, 9), (OWN, 5000))), Side::Play(ONE));
        assert_eq!(bench.receiver(&packet(TCP, (OTHER, 9), (OWN, 5000))), Side::System);
    }

    #[test]
    fn the_same_port_on_both_sides_is_told_apart_by_the_other_end() {
        let mut bench = Bench::new();
        bench.sent(&packet(UDP, (OWN, 27960), (FRIEND, 27960)), Side::System);
        bench.sent(&packet(UDP, (OWN, 27960), (OTHER, 27960)), Side::Play(ONE));
        assert_eq!(bench.receiver(&packet(UDP, (FRIEND, 27960), (OWN, 27960))), Side::System);
        assert_eq!(bench.receiver(&packet(UDP, (OTHER, 27960), (OWN, 27960))), Side::Play(ONE));
    }

    #[test]
    fn servers_are_found_by_their_listening_ports_until_they_end() {
        let mut bench = Bench::new();
        bench.owners.listens(ONE, &[27960], &[5556]);
        bench.owners.listens(TWO, &[2342], &[]);
        assert_eq!(bench.receiver(&packet(TCP, (FRIEND, 40000), (OWN, 5556))), Side::Play(ONE));
        assert_eq!(bench.receiver(&packet(UDP, (FRIEND, 40000), (OWN, 5556))), Side::System);
        assert_eq!(bench.receiver(&packet(UDP, (FRIEND, 40000), (OWN, 2342))), Side::Play(TWO));
        bench.owners.listens(ONE, &[], &[5556]);
        assert_eq!(bench.receiver(&packet(UDP, (FRIEND, 40000), (OWN, 27960))), Side::System);
        bench.sent(&packet(TCP, (OWN, 5556), (FRIEND, 40000)), Side::Play(ONE));
        bench.owners.forget(ONE);
        assert_eq!(bench.receiver(&packet(TCP, (FRIEND, 40000), (OWN, 5556))), Side::System);
        assert_eq!(bench.receiver(&packet(UDP, (FRIEND, 40000), (OWN, 2342))), Side::Play(TWO));
    }

    #[test]
    fn a_server_that_moved_inside_hears_its_friends_again() {
        let mut bench = Bench::new();
        let (udp, mut tcp) = (packet(UDP, (FRIEND, 40000), (OWN, 27960)), packet(TCP, (FRIEND, 40000), (OWN, 5556)));
        bench.sent(&packet(UDP, (OWN, 27960), (FRIEND, 40000)), Side::System);
        bench.sent(&packet(TCP, (OWN, 5556), (FRIEND, 40000)), Side::System);
        bench.owners.listens(ONE, &[27960], &[5556]);
        // The friend's game goes on to send.
        for _ in 0..10 {
            assert_eq!(bench.receiver(&udp), Side::System, "the system still talks");
            bench.now += QUIET / 10;
        }
        assert_eq!(bench.receiver(&udp), Side::Play(ONE));
        for (flags, side) in [(0x10, Side::System), (0x12, Side::System), (0x02, Side::Play(ONE))] {
            tcp[20 + 13] = flags;
            assert_eq!(bench.receiver(&tcp), side, "flags {flags:#x}");
        }
        bench.sent(&packet(UDP, (OWN, 27960), (FRIEND, 40000)), Side::System);
        assert_eq!(bench.receiver(&udp), Side::System, "it talks again");
        bench.owners.listens(ONE, &[], &[]);
        bench.now += QUIET;
        assert_eq!(bench.receiver(&udp), Side::System, "nobody else listens");
    }

    #[test]
    fn what_is_for_all_goes_to_all() {
        let mut bench = Bench::new();
        bench.owners.listens(ONE, &[7], &[]);
        for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 66, 255, 255), Ipv4Addr::new(225, 1, 1, 1)] {
            assert_eq!(bench.receiver(&packet(UDP, (FRIEND, 7), (to, 7))), Side::All);
        }
        let mut later_fragment = packet(UDP, (FRIEND, 9), (OWN, 9));
        later_fragment[7] = 1;
        write_header_checksum(&mut later_fragment[..20]);
        assert_eq!(bench.receiver(&later_fragment), Side::All);
    }

    #[test]
    fn pings_and_errors_find_their_way() {
        let mut bench = Bench::new();
        bench.sent(&icmp(OWN, FRIEND, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]), Side::Play(ONE));
        assert_eq!(bench.receiver(&icmp(FRIEND, OWN, &[0, 0, 0, 0, 0x12, 0x34, 0, 1])), Side::Play(ONE));
        assert_eq!(bench.receiver(&icmp(FRIEND, OWN, &[0, 0, 0, 0, 0x12, 0x35, 0, 1])), Side::System);
        assert_eq!(
            bench.receiver(&icmp(FRIEND, OWN, &[8, 0, 0, 0, 0x12, 0x34, 0, 1])),
            Side::System,
            "asked from there"
        );

        let out = packet(UDP, (OWN, 700), (FRIEND, 800));
        bench.sent(&out, Side::Play(TWO));
        let error = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &out[..28]].concat();
        assert_eq!(bench.receiver(&icmp(FRIEND, OWN, &error)), Side::Play(TWO));
        for len in 0..error.len() - 4 {
            assert_eq!(bench.receiver(&icmp(FRIEND, OWN, &error[..len])), Side::System, "{len}");
        }
    }

    #[test]
    fn memory_is_bounded_in_entries_and_time() {
        let mut bench = Bench::new();
        for port in 0..=u16::MAX {
            bench.sent(&packet(UDP, (OWN, port), (FRIEND, 1)), Side::Play(ONE));
        }
        let flows = &bench.owners.flows;
        assert!(flows.young.len() <= GENERATION_ENTRIES && flows.old.len() <= GENERATION_ENTRIES);
        assert_eq!(bench.receiver(&packet(UDP, (FRIEND, 1), (OWN, u16::MAX))), Side::Play(ONE));
        let many: Vec<u16> = (0..=u16::MAX).collect();
        bench.owners.listens(ONE, &many, &many);
        assert_eq!(bench.owners.listening.len(), 2 * MAX_LISTENING);

        let mut bench = Bench::new();
        bench.sent(&packet(UDP, (OWN, 5), (FRIEND, 6)), Side::Play(ONE));
        let answer = packet(UDP, (FRIEND, 6), (OWN, 5));
        for _ in 0..4 {
            bench.now += GENERATION - Duration::from_secs(1);
            bench.sent(&packet(TCP, (OWN, 1), (FRIEND, 1)), Side::System);
            assert_eq!(bench.receiver(&answer), Side::Play(ONE), "in use");
        }
        for _ in 0..3 {
            bench.now += GENERATION;
            bench.sent(&packet(TCP, (OWN, 1), (FRIEND, 1)), Side::System);
            bench.sent(&packet(UDP, (OWN, 2), (FRIEND, 1)), Side::Play(TWO));
        }
        assert_eq!(bench.receiver(&answer), Side::System);
    }

    proptest! {
        #[test]
        fn random_packets_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 20..120), sends: bool) {
            bytes[0] = 0x45 + (bytes[0] & 1);
            let len = u16::try_from(bytes.len()).unwrap();
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[9] = [ICMP, TCP, UDP, 99][usize::from(bytes[9] % 4)];
            if bytes[12] & 1 == 0 {
                bytes[16..20].copy_from_slice(&OWN.octets());
            }
            let mut bench = Bench::new();
            let Ok(packet) = Ipv4Packet::parse(&bytes) else { return Ok(()) };
            if sends {
                bench.owners.sent(&packet, Side::Play(ONE), bench.now);
            }
            let _ = bench.owners.receiver(&packet, OWN, bench.now);
        }
    }
}

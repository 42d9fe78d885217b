//! Two machines and the network between them, in virtual time.

use super::*;
use crate::peer::messages::{PeerTuning, Redundancy, Secret};
use crate::peer::way::RELAY_HEADER;
use crate::wire::{Contact, Endpoint, RelayToken, Ticket, icmp, ip};

pub(super) const IP_A: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
pub(super) const IP_B: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);

pub(super) struct End {
    pub(super) machine: PeerMachine,
    addr: SocketAddr,
    pub(super) ip: Ipv4Addr,
    delivered: Vec<Vec<u8>>,
    events: Vec<PeerEvent>,
    pings: Vec<(PingId, Result<Duration, PingError>)>,
}

pub(super) struct Net {
    pub(super) ends: [End; 2],
    pub(super) now: Instant,
    latency: Duration,
    pub(super) flying: Vec<(Instant, usize, DatagramBatch)>,
    /// Datagrams to this end are lost.
    cut: Option<usize>,
    /// Straight datagrams are lost.
    walled: bool,
    /// Address, latency from any end to any other through it; without one it is down.
    relays: Vec<(SocketAddr, Option<Duration>)>,
    /// Offers seen on relays.
    offers: u32,
    last_offer: Vec<u8>,
    /// How often the first end doubted its own address.
    doubts: u32,
    /// Percent of all datagrams lost.
    loss: Option<(u32, StdRng)>,
}

const RELAYS: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 3000),
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 3000),
];

/// The token says to which end the relay forwards.
fn tickets(end: u8, relays: &[SocketAddr]) -> Vec<Ticket> {
    relays.iter().map(|&relay| Ticket { relay, token: RelayToken::new([end; 50]), expires: 1, rtt: 0 }).collect()
}

pub(super) fn identity(n: u8) -> OwnIdentity {
    OwnIdentity { node: NodeId([n; 32]), wg_secret: x25519::StaticSecret::from([n; 32]) }
}

pub(super) fn spec(n: u8, ip: Ipv4Addr, psk: u8, candidates: &[SocketAddr]) -> PeerSpec {
    PeerSpec {
        node: NodeId([n; 32]),
        name: format!("node{n}"),
        wg_key: WgPublicKey(x25519::PublicKey::from(&identity(n).wg_secret).to_bytes()),
        virtual_ip: ip,
        psk: Secret([psk; 32]),
        contact: Contact::of_hosts(candidates.iter().copied()),
    }
}

impl Net {
    pub(super) fn new(psk_b: u8, b_knows_a: bool) -> Self {
        let now = Instant::now();
        let addrs: [SocketAddr; 2] = [([203, 0, 113, 1], 1000).into(), ([198, 51, 100, 2], 2000).into()];
        let networks = LocalNetworks::default;
        let a = PeerMachine::new(now, &identity(1), IP_A, spec(2, IP_B, 7, &addrs[1..]), networks(), 11, 1, [1; 32]);
        let b_candidates = if b_knows_a { &addrs[..1] } else { &[] };
        let b =
            PeerMachine::new(now, &identity(2), IP_B, spec(1, IP_A, psk_b, b_candidates), networks(), 22, 1, [2; 32]);
        let end = |machine, addr, ip| End { machine, addr, ip, delivered: vec![], events: vec![], pings: vec![] };
        Self {
            ends: [end(a, addrs[0], IP_A), end(b, addrs[1], IP_B)],
            now,
            latency: Duration::from_millis(10),
            flying: vec![],
            cut: None,
            walled: false,
            relays: RELAYS.map(|addr| (addr, Some(Duration::from_millis(15)))).to_vec(),
            offers: 0,
            last_offer: Vec::new(),
            doubts: 0,
            loss: None,
        }
    }

    /// Each has tickets at the relays given for it.
    fn relayed(straight: bool, relays: [&[SocketAddr]; 2]) -> Self {
        let mut net = Self::new(7, true);
        net.walled = !straight;
        for (end, relays) in relays.into_iter().enumerate() {
            let contact = Contact { tickets: tickets(end as u8, relays), ..net.contact(end) };
            let mut spec = net.ends[1 - end].machine.spec.clone();
            spec.contact = contact.clone();
            let own_ip = net.ends[1 - end].ip;
            net.with(1 - end, |machine, now, out| machine.update(now, own_ip, spec, out));
            net.with(end, |machine, now, out| machine.set_contact(now, contact, out));
        }
        net
    }

    fn contact(&self, end: usize) -> Contact {
        Contact::of_hosts([self.ends[end].addr])
    }

    fn absorb(&mut self, from: usize, outputs: Outputs) {
        let end = &mut self.ends[from];
        for batch in outputs.deliver.iter().chain(&outputs.broadcast) {
            end.delivered.extend(batch.iter().map(<[u8]>::to_vec));
        }
        end.events.extend(outputs.events);
        end.pings.extend(outputs.pings);
        self.doubts += u32::from(outputs.doubt && from == 0);
        let source = end.addr;
        for transmit in outputs.transmits {
            if let Some((percent, rng)) = &mut self.loss
                && rng.random_ratio(*percent, 100)
            {
                continue;
            }
            let relay = self.relays.iter().find(|(addr, _)| *addr == transmit.destination());
            if let Some(&(addr, latency)) = relay {
                let (Some(latency), stride) = (latency, transmit.segment_size()) else { continue };
                for datagram in transmit.contents().chunks(stride) {
                    assert_eq!(datagram[..2], [0x93, 1]);
                    assert!(datagram.len() > RELAY_HEADER);
                    let to = usize::from(datagram[2]);
                    let payload = &datagram[RELAY_HEADER..];
                    if payload[0] == PROBE_MAGIC && payload.len() > 76 {
                        self.offers += 1;
                        self.last_offer = payload.to_vec();
                    }
                    let batch = DatagramBatch::with_header(datagram, Endpoint::relayed(addr), stride, RELAY_HEADER);
                    if self.cut != Some(to) {
                        self.flying.push((self.now + latency, to, batch));
                    }
                }
                continue;
            }
            let Some(to) = self.ends.iter().position(|end| end.addr == transmit.destination()) else { continue };
            if self.cut != Some(to) && !self.walled {
                let batch =
                    DatagramBatch::copied(transmit.contents(), Endpoint::direct(source), transmit.segment_size());
                self.flying.push((self.now + self.latency, to, batch));
            }
        }
    }

    pub(super) fn with(&mut self, end: usize, act: impl FnOnce(&mut PeerMachine, Instant, &mut Outputs)) {
        let mut outputs = Outputs::default();
        act(&mut self.ends[end].machine, self.now, &mut outputs);
        self.absorb(end, outputs);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let timers = self.ends.iter().map(|end| end.machine.poll_timeout().0);
            let arrivals = self.flying.iter().map(|(at, ..)| *at);
            let next = timers.chain(arrivals).min().unwrap().max(self.now);
            if next > until {
                self.now = until;
                return;
            }
            self.now = next;
            if let Some(found) = self.flying.iter().position(|(at, ..)| *at <= next) {
                let (_, to, batch) = self.flying.remove(found);
                self.with(to, |machine, now, out| machine.handle_inbound(now, &batch, out));
                if self.ends[to].machine.spec.virtual_ip != self.ends[1 - to].ip {
                    continue;
                }
                // The other machine's network stack answers pings.
                let requests: Vec<_> = self.ends[to].delivered.extract_if(.., |packet| packet[9] == ip::ICMP).collect();
                for request in requests {
                    self.send(to, &[&echo_reply(&request)]);
                }
            }
            for end in 0..2 {
                if self.ends[end].machine.poll_timeout().0 <= self.now {
                    self.with(end, |machine, now, out| machine.handle_timeout(now, out));
                }
            }
        }
    }

    fn send(&mut self, from: usize, packets: &[&[u8]]) {
        let mut batch = PacketBatch::new();
        for packet in packets {
            assert!(batch.push(packet));
        }
        self.with(from, |machine, now, out| machine.handle_outbound(now, &batch, out));
    }
}

fn echo_reply(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[12..16].copy_from_slice(&request[16..20]);
    reply[16..20].copy_from_slice(&request[12..16]);
    reply[20] = 0;
    reply[22..24].fill(0);
    let sum = ip::checksum(&reply[20..]);
    reply[22..24].copy_from_slice(&sum.to_be_bytes());
    assert!(icmp::parse_icmp_echo_reply(&reply).is_some());
    reply
}

pub(super) fn packet(from: Ipv4Addr, to: Ipv4Addr, fill: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![fill; len];
    ip::write_header(&mut packet, from, to, 200, len).unwrap();
    packet
}

#[test]
fn connects_within_a_few_round_trips_and_carries_any_protocol() {
    let mut net = Net::new(7, true);
    net.run(Duration::from_millis(100));
    for end in &net.ends {
        assert!(matches!(end.events[..], [PeerEvent::Connected { path: PathKind::Direct, .. }]), "{:?}", end.events);
    }
    let sent: Vec<_> = (0..50).map(|n| packet(IP_A, IP_B, n, 1360)).collect();
    net.send(0, &sent.iter().map(Vec::as_slice).collect::<Vec<_>>());
    net.run(Duration::from_millis(20));
    assert_eq!(net.ends[1].delivered, sent);
    let view = net.ends[1].machine.view(net.now, 0);
    assert!(view.connected && view.rx_bytes == 50 * 1360 && view.rtt_ms == Some(20.0), "{view:?}");
}

#[test]
fn packets_sent_before_the_path_are_not_lost() {
    let mut net = Net::new(7, true);
    let early = packet(IP_A, IP_B, 1, 100);
    net.send(0, &[&early]);
    net.run(Duration::from_millis(200));
    assert_eq!(net.ends[1].delivered, [early]);
}

/// The member is away, and the games here shout and ask for it; then it comes back. What it gets, and how often this
/// machine doubted its address in the last minute.
fn away(to: Ipv4Addr) -> (Vec<u8>, u32, PeerCounters) {
    let mut net = Net::new(7, true);
    net.ends[0].machine.set_range(Some(Ipv4Range::DEFAULT));
    net.ends[1].machine.set_range(Some(Ipv4Range::DEFAULT));
    net.cut = Some(1);
    for second in 0..120 {
        if second == 60 {
            net.doubts = 0;
        }
        net.send(0, &[&packet(IP_A, to, second, 100)]);
        net.run(Duration::from_secs(1));
    }
    let doubts = net.doubts;
    net.cut = None;
    net.run(Duration::from_secs(20));
    assert!(net.ends[1].machine.is_connected());
    let got = net.ends[1].delivered.iter().map(|packet| packet[30]).collect();
    (got, doubts, net.ends[0].machine.counters)
}

#[test]
fn who_was_away_does_not_hear_what_was_shouted_meanwhile() {
    for to in [Ipv4Addr::BROADCAST, Ipv4Range::DEFAULT.broadcast(), Ipv4Addr::new(224, 0, 2, 60)] {
        let (got, doubts, counters) = away(to);
        assert_eq!((got, doubts), (vec![], 0), "{to}: and nobody was asked about this machine's address");
        assert_eq!((counters.dropped_away, counters.dropped_stale, counters.dropped_staged), (120, 0, 0));
    }
    let (got, doubts, counters) = away(IP_B);
    assert!(got.len() <= 5 && doubts > 0, "{got:?}, {doubts}");
    assert_eq!((counters.dropped_stale + got.len() as u64, counters.dropped_staged), (120, 0));
}

#[test]
fn a_shout_waits_for_a_session_that_is_being_made() {
    let mut net = Net::new(7, true);
    while net.ends[0].machine.paths.selected().is_none() {
        net.run(Duration::from_millis(1));
    }
    assert!(!net.ends[0].machine.sendable());
    net.ends[1].machine.set_range(Some(Ipv4Range::DEFAULT));
    let shout = packet(IP_A, Ipv4Addr::BROADCAST, 1, 100);
    net.send(0, &[&shout]);
    net.run(Duration::from_millis(100));
    assert_eq!(net.ends[1].delivered, [shout]);
}

#[test]
fn one_side_knowing_the_other_is_enough() {
    let mut net = Net::new(7, false);
    net.run(Duration::from_millis(200));
    assert!(net.ends.iter().all(|end| end.machine.view(net.now, 0).connected));
}

#[test]
fn strangers_and_liars_get_no_packet_in() {
    let mut net = Net::new(7, true);
    net.run(Duration::from_millis(100));
    let spoofed = packet(Ipv4Addr::new(10, 66, 9, 9), IP_B, 1, 60);
    let misdirected = packet(IP_A, Ipv4Addr::new(192, 168, 1, 1), 1, 60);
    net.send(0, &[&spoofed, &misdirected]);
    net.run(Duration::from_millis(50));
    assert!(net.ends[1].delivered.is_empty());
    let counters = net.ends[1].machine.counters;
    assert_eq!((counters.dropped_spoofed, counters.dropped_misdirected), (1, 1));

    let mut net = Net::new(8, true);
    net.send(0, &[&packet(IP_A, IP_B, 1, 60)]);
    net.run(Duration::from_secs(10));
    assert!(net.ends.iter().all(|end| !end.machine.view(net.now, 0).connected && end.delivered.is_empty()));
}

#[test]
fn a_ping_goes_through_the_tunnel_and_back() {
    let mut net = Net::new(7, true);
    net.with(0, |machine, now, out| {
        assert_eq!(machine.ping(now, Duration::from_secs(1), out), Err(PingError::NotConnected));
    });
    net.run(Duration::from_millis(100));
    net.with(0, |machine, now, out| assert!(machine.ping(now, Duration::from_secs(1), out).is_ok()));
    net.run(Duration::from_millis(50));
    assert!(matches!(net.ends[0].pings[..], [(_, Ok(rtt))] if rtt == Duration::from_millis(20)));
    assert!(net.ends[0].delivered.is_empty(), "the answer is not for the device");
    net.cut = Some(1);
    net.with(0, |machine, now, out| assert!(machine.ping(now, Duration::from_millis(200), out).is_ok()));
    net.run(Duration::from_millis(300));
    assert!(matches!(net.ends[0].pings[1].1, Err(PingError::Timeout(_))));
}

#[test]
fn a_restarted_peer_is_back_by_itself() {
    let mut net = Net::new(7, true);
    net.run(Duration::from_secs(30));
    let b = spec(1, IP_A, 7, &[net.ends[0].addr]);
    net.ends[1].machine =
        PeerMachine::new(net.now, &identity(2), IP_B, b, LocalNetworks::default(), 23, 1 << 40, [3; 32]);
    net.run(Duration::from_millis(1500));
    let late = packet(IP_B, IP_A, 1, 100);
    net.send(1, &[&late]);
    net.run(Duration::from_millis(100));
    assert_eq!(net.ends[0].delivered, [late]);
    let back = packet(IP_A, IP_B, 2, 100);
    net.send(0, &[&back]);
    net.run(Duration::from_millis(100));
    assert_eq!(net.ends[1].delivered, [back], "the new session is used in the other direction too");
}

#[test]
fn a_cut_is_told_and_healed() {
    let mut net = Net::new(7, true);
    net.run(Duration::from_millis(100));
    net.cut = Some(1);
    for _ in 0..50 {
        net.send(0, &[&packet(IP_A, IP_B, 1, 100)]);
        net.run(Duration::from_millis(20));
    }
    assert_eq!(net.ends[0].events.last(), Some(&PeerEvent::Disconnected { why: Disconnect::NoPath }));
    net.cut = None;
    net.run(Duration::from_secs(6));
    assert!(matches!(net.ends[0].events.last(), Some(PeerEvent::Connected { .. })));
}

/// Sends a packet each way every 5 ms and gives the longest time in which none of them arrived at either end.
fn longest_gap(net: &mut Net, time: Duration) -> Duration {
    let until = net.now + time;
    let (mut last, mut longest) = ([net.now; 2], Duration::ZERO);
    while net.now < until {
        net.send(0, &[&packet(IP_A, IP_B, 1, 100)]);
        net.send(1, &[&packet(IP_B, IP_A, 1, 100)]);
        net.run(Duration::from_millis(5));
        for (end, last) in net.ends.iter_mut().zip(&mut last) {
            if !end.delivered.is_empty() {
                end.delivered.clear();
                *last = net.now;
            }
            longest = longest.max(net.now - *last);
        }
    }
    longest
}

fn kinds(net: &Net) -> [PathKind; 2] {
    [0, 1].map(|end: usize| net.ends[end].machine.view(net.now, 0).path.kind)
}

#[test]
fn behind_walls_all_goes_through_each_others_relays() {
    for relays in [[&RELAYS[..1], &RELAYS[..1]], [&RELAYS[..1], &RELAYS[1..]]] {
        let mut net = Net::relayed(false, relays);
        net.run(Duration::from_millis(150));
        assert_eq!(kinds(&net), [PathKind::Relay; 2]);
        let sent: Vec<_> = (0..50).map(|n| packet(IP_A, IP_B, n, 1360)).collect();
        net.send(0, &sent.iter().map(Vec::as_slice).collect::<Vec<_>>());
        net.run(Duration::from_millis(20));
        assert_eq!(net.ends[1].delivered, sent);
        let view = net.ends[0].machine.view(net.now, 0);
        assert_eq!(view.rtt_ms, Some(30.0));
        assert_eq!(view.counters, PeerCounters::default());
    }
}

#[test]
fn one_side_without_a_ticket_is_reached_by_nobody_else() {
    let mut net = Net::relayed(false, [&RELAYS[..1], &[]]);
    net.run(Duration::from_secs(3));
    assert_eq!(kinds(&net), [PathKind::None; 2]);
    assert!(net.ends[0].machine.counters.dropped_no_ticket > 3, "pings came, and no way back was known");
}

#[test]
fn traffic_starts_by_relay_and_moves_to_the_straight_path_without_losing_a_packet() {
    let mut net = Net::relayed(false, [&RELAYS[..1], &RELAYS[..1]]);
    net.run(Duration::from_millis(200));
    let mut sent = [Vec::new(), Vec::new()];
    for n in 0..400u16 {
        let fill = n as u8;
        sent[1].push(packet(IP_A, IP_B, fill, 200));
        sent[0].push(packet(IP_B, IP_A, fill, 200));
        net.send(0, &[&sent[1][usize::from(n)]]);
        net.send(1, &[&sent[0][usize::from(n)]]);
        net.run(Duration::from_millis(5));
        net.walled = n < 100;
    }
    net.run(Duration::from_millis(100));
    assert_eq!(kinds(&net), [PathKind::Direct; 2]);
    for (end, sent) in net.ends.iter_mut().zip(&mut sent) {
        // Overtaking where the shorter path takes over is all that is allowed.
        end.delivered.sort();
        sent.sort();
        assert_eq!(&end.delivered, sent);
    }
}

#[test]
fn the_straight_path_cut_in_mid_flow_is_a_short_gap() {
    let mut net = Net::relayed(true, [&RELAYS[..1], &RELAYS[1..]]);
    net.run(Duration::from_secs(1));
    assert_eq!(kinds(&net), [PathKind::Direct; 2]);
    assert!(longest_gap(&mut net, Duration::from_secs(5)) < Duration::from_millis(15));
    let handshakes = net.ends[0].machine.view(net.now, 0).last_handshake_s;
    net.walled = true;
    let gap = longest_gap(&mut net, Duration::from_secs(3));
    println!("direct cut: {gap:?}");
    assert!(gap < Duration::from_millis(600), "{gap:?}");
    assert_eq!(kinds(&net), [PathKind::Relay; 2]);
    let view = net.ends[0].machine.view(net.now, 0);
    assert!(view.path.reason.is_some() && view.path_changes >= 2, "{view:?}");
    assert!(view.last_handshake_s >= handshakes, "the session is the same");
    net.walled = false;
    let gap = longest_gap(&mut net, Duration::from_secs(20));
    assert!(gap < Duration::from_millis(50), "{gap:?}");
    assert_eq!(kinds(&net), [PathKind::Direct; 2]);
}

#[test]
fn a_relay_that_dies_is_left_for_another() {
    let mut net = Net::relayed(false, [&RELAYS, &RELAYS]);
    net.relays[1].1 = Some(Duration::from_millis(30));
    net.run(Duration::from_secs(1));
    assert!(longest_gap(&mut net, Duration::from_secs(5)) < Duration::from_millis(15));
    assert_eq!(
        net.ends.each_ref().map(|end| end.machine.paths.selected().map(|it| it.0.to().addr)),
        [Some(RELAYS[0]); 2]
    );
    net.relays[0].1 = None;
    let gap = longest_gap(&mut net, Duration::from_secs(3));
    println!("relay killed: {gap:?}");
    assert!(gap < Duration::from_millis(600), "{gap:?}");
    assert_eq!(kinds(&net), [PathKind::Relay; 2]);
}

#[test]
fn a_machine_that_moves_is_found_at_its_new_address() {
    // With a relay, by the offer; without, by the pings that come from there.
    for relays in [&RELAYS[..1], &[]] {
        let mut net = Net::relayed(true, [relays, relays]);
        net.run(Duration::from_secs(1));
        longest_gap(&mut net, Duration::from_secs(5));
        net.ends[0].addr = ([203, 0, 113, 200], 4321).into();
        let contact = Contact { tickets: tickets(0, relays), ..net.contact(0) };
        net.with(0, |machine, now, out| machine.set_contact(now, contact, out));
        let gap = longest_gap(&mut net, Duration::from_secs(3));
        println!("moved, {} relays: {gap:?}", relays.len());
        assert!(gap < Duration::from_secs(1), "{gap:?}");
        assert_eq!(kinds(&net), [PathKind::Direct; 2]);
        assert_eq!(net.ends[1].machine.view(net.now, 0).path.endpoint, Some(net.ends[0].addr));
    }
}

#[test]
fn an_offer_is_acknowledged_and_said_no_more() {
    let mut net = Net::relayed(false, [&RELAYS[..1], &RELAYS[..1]]);
    net.run(Duration::from_secs(10));
    let before = net.offers;
    let contact = Contact { tickets: tickets(0, &RELAYS[..1]), ..Contact::of_hosts([([10, 9, 9, 9], 9).into()]) };
    net.with(0, |machine, now, out| machine.set_contact(now, contact.clone(), out));
    net.run(Duration::from_secs(10));
    assert_eq!(net.offers - before, 1);
    assert!(net.ends[1].machine.peer_contact.candidates.contains(&contact.candidates[0]));

    // Played back, it changes nothing, however often.
    let offer = net.last_offer.clone();
    net.run(Duration::from_secs(10));
    let from = Endpoint::relayed(RELAYS[0]);
    for _ in 0..100 {
        let batch = DatagramBatch::copied(&offer, from, offer.len());
        net.with(1, |machine, now, out| machine.handle_inbound(now, &batch, out));
    }
    assert!(net.ends[1].machine.counters.dropped_probes >= 90);
    assert_eq!(net.offers - before, 1);
}

#[test]
fn a_games_redundancy_gives_way_to_what_was_set_by_hand() {
    let mut net = Net::relayed(true, [&RELAYS, &RELAYS]);
    net.run(Duration::from_secs(1));
    let game = |redundancy| PeerTuning { redundancy, ..PeerTuning::default() };
    let cases = [
        (Redundancy::Auto, Redundancy::Auto, Redundancy::Auto),
        (Redundancy::Auto, Redundancy::On, Redundancy::On),
        (Redundancy::Off, Redundancy::On, Redundancy::Off),
        (Redundancy::On, Redundancy::Off, Redundancy::On),
    ];
    for (hand, wished, expected) in cases {
        net.with(0, |machine, now, out| {
            machine.set_redundancy(hand);
            machine.set_tuning(now, &game(wished), out);
        });
        let view = net.ends[0].machine.view(net.now, 0);
        assert_eq!((view.redundancy, view.redundant), (expected, expected == Redundancy::On));
    }
    net.with(0, |machine, now, out| {
        machine.set_redundancy(Redundancy::Auto);
        machine.set_tuning(now, &PeerTuning::default(), out);
    });
    assert!(!net.ends[0].machine.view(net.now, 0).redundant, "undone");
}

#[test]
fn redundant_mode_hides_loss_on_either_path() {
    for mode in [Redundancy::Off, Redundancy::On, Redundancy::Auto] {
        let mut net = Net::relayed(true, [&RELAYS, &RELAYS]);
        net.run(Duration::from_secs(1));
        net.with(0, |machine, _, _| machine.set_redundancy(mode));
        net.loss = Some((5, StdRng::from_seed([9; 32])));
        if mode == Redundancy::Auto {
            // Loss is noticed first.
            for n in 0..6_000u32 {
                net.send(0, &[&packet(IP_A, IP_B, n as u8, 100)]);
                net.send(1, &[&packet(IP_B, IP_A, n as u8, 100)]);
                net.run(Duration::from_millis(10));
            }
            net.ends[1].delivered.clear();
            assert!(net.ends[0].machine.view(net.now, 0).redundant);
        }
        let sent = 2_000;
        for n in 0..sent {
            net.send(0, &[&packet(IP_A, IP_B, n as u8, 100), &packet(IP_A, IP_B, n as u8, 1_000)]);
            net.run(Duration::from_millis(10));
        }
        net.run(Duration::from_millis(100));
        let arrived = |len: usize| net.ends[1].delivered.iter().filter(|packet| packet.len() == len).count();
        let lost = |len| (sent - arrived(len)) as f64 * 100.0 / sent as f64;
        println!(
            "redundancy {mode:?}: 5 % loss on each path: lost {:.2} % small, {:.2} % large",
            lost(100),
            lost(1_000)
        );
        let twice = net.ends[0].machine.counters.sent_twice;
        assert!((3.5..6.5).contains(&lost(1_000)), "large packets go once");
        if mode == Redundancy::Off {
            assert!((3.5..6.5).contains(&lost(100)));
            assert!(twice < 500, "{twice}: only in doubt");
        } else {
            assert!(lost(100) < 1.0 && twice >= sent as u64 * 9 / 10, "{twice}");
            assert!(net.ends[1].machine.counters.dropped_duplicate > 1_500);
        }
        assert_eq!(net.ends[1].machine.counters.dropped_undecryptable, 0);
    }
}

//! Two machines and the network between them, in virtual time.

use super::*;
use crate::peer::messages::Secret;
use crate::wire::{Contact, Endpoint, icmp, ip};

const IP_A: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const IP_B: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);

struct End {
    machine: PeerMachine,
    addr: SocketAddr,
    ip: Ipv4Addr,
    delivered: Vec<Vec<u8>>,
    events: Vec<PeerEvent>,
    pings: Vec<(PingId, Result<Duration, PingError>)>,
}

struct Net {
    ends: [End; 2],
    now: Instant,
    latency: Duration,
    flying: Vec<(Instant, usize, DatagramBatch)>,
    /// Datagrams to this end are lost.
    cut: Option<usize>,
}

fn identity(n: u8) -> OwnIdentity {
    OwnIdentity { node: NodeId([n; 32]), wg_secret: x25519::StaticSecret::from([n; 32]) }
}

fn spec(n: u8, ip: Ipv4Addr, psk: u8, candidates: &[SocketAddr]) -> PeerSpec {
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
    fn new(psk_b: u8, b_knows_a: bool) -> Self {
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
        }
    }

    fn absorb(&mut self, from: usize, outputs: Outputs) {
        let end = &mut self.ends[from];
        for batch in outputs.deliver.iter() {
            end.delivered.extend(batch.iter().map(<[u8]>::to_vec));
        }
        end.events.extend(outputs.events);
        end.pings.extend(outputs.pings);
        let source = end.addr;
        for transmit in outputs.transmits {
            let Some(to) = self.ends.iter().position(|end| end.addr == transmit.destination()) else { continue };
            if self.cut != Some(to) {
                let batch =
                    DatagramBatch::copied(transmit.contents(), Endpoint::direct(source), transmit.segment_size());
                self.flying.push((self.now + self.latency, to, batch));
            }
        }
    }

    fn with(&mut self, end: usize, act: impl FnOnce(&mut PeerMachine, Instant, &mut Outputs)) {
        let mut outputs = Outputs::default();
        act(&mut self.ends[end].machine, self.now, &mut outputs);
        self.absorb(end, outputs);
    }

    fn run(&mut self, time: Duration) {
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

fn packet(from: Ipv4Addr, to: Ipv4Addr, fill: u8, len: usize) -> Vec<u8> {
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
    assert_eq!(net.ends[0].events.last(), Some(&PeerEvent::Disconnected));
    net.cut = None;
    net.run(Duration::from_secs(6));
    assert!(matches!(net.ends[0].events.last(), Some(PeerEvent::Connected { .. })));
}

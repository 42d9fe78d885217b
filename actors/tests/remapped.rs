//! Both routers forget all mappings in mid-game and give other ports afterwards, in virtual time: the shipped machines of
//! peer and relay, with a model of NATs between them and of the party stream beside them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on ends")]

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lanrage_actors::peer::OwnIdentity;
use lanrage_actors::peer::machine::{Outputs, PeerMachine};
use lanrage_actors::peer::messages::{PathKind, PeerSpec, Secret};
use lanrage_actors::relay::client::{self, RelayClient};
use lanrage_actors::relay::messages::{ASK, Limits, RelaySource, TICKET};
use lanrage_actors::relay::server::RelayServer;
use lanrage_actors::wire::{
    Candidate, CandidateKind, Contact, DatagramBatch, Dependence, Endpoint, LocalNetworks, NatBehaviour, NodeId,
    PacketBatch, TransmitBatch, ip,
};

const RELAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 250)), 3000);
const MS: Duration = Duration::from_millis(1);
/// One way, between any two: 60 ms from one player to the other and back, as far through the relay again.
const LATENCY: Duration = Duration::from_millis(30);
/// PartyActor waits so long for more that has changed.
const PUBLISH: Duration = Duration::from_millis(20);
const IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 66, 0, 1), Ipv4Addr::new(10, 66, 0, 2)];

/// One mapping for all destinations, a filter by address and port.
struct Nat {
    ip: Ipv4Addr,
    port: u16,
    open: HashSet<SocketAddr>,
}

struct End {
    peer: PeerMachine,
    relays: RelayClient,
    told: u64,
    nat: Nat,
    last: Option<Instant>,
    doubts: u32,
}

enum Flying {
    /// From where, and the receiving NAT's port.
    ToEnd(usize, SocketAddr, u16, TransmitBatch),
    ToRelay(SocketAddr, TransmitBatch),
    /// What the other says on the party stream.
    Record(usize, Contact),
}

struct World {
    ends: [End; 2],
    server: RelayServer,
    now: Instant,
    count: u64,
    flying: BTreeMap<(Instant, u64), Flying>,
    /// The party stream works.
    stream: bool,
}

fn spec(n: u8) -> PeerSpec {
    PeerSpec {
        node: NodeId([n; 32]),
        name: format!("node{n}"),
        wg_key: OwnIdentity::new(NodeId([n; 32]), [n; 32]).wg_key(),
        virtual_ip: IPS[usize::from(n) - 1],
        psk: Secret([7; 32]),
        contact: Contact::default(),
    }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let end = |n: u8, ip| {
            let (own, own_ip) = (OwnIdentity::new(NodeId([n; 32]), [n; 32]), IPS[usize::from(n) - 1]);
            let networks = LocalNetworks::default();
            End {
                peer: PeerMachine::new(now, &own, own_ip, spec(3 - n), networks, u32::from(n), 1, [n; 32]),
                relays: RelayClient::new(now, [n; 32]),
                told: 0,
                nat: Nat { ip, port: 1000, open: HashSet::new() },
                last: None,
                doubts: 0,
            }
        };
        let ends = [end(1, Ipv4Addr::new(203, 0, 113, 1)), end(2, Ipv4Addr::new(203, 0, 113, 2))];
        let server = RelayServer::new(now, &[9; 32], Limits::DEDICATED, [8; 32]);
        let mut world = Self { ends, server, now, count: 0, flying: BTreeMap::new(), stream: true };
        for end in 0..2 {
            world.with_relays(end, |it, now, out| it.know(now, RELAY, RELAY, RelaySource::Configured, out));
        }
        world
    }

    fn fly(&mut self, after: Duration, what: Flying) {
        self.count += 1;
        self.flying.insert((self.now + after, self.count), what);
    }

    fn send(&mut self, end: usize, batch: TransmitBatch) {
        let (to, nat) = (batch.destination(), &mut self.ends[end].nat);
        nat.open.insert(to);
        let from = SocketAddr::from((nat.ip, nat.port));
        if to == RELAY {
            self.fly(LATENCY, Flying::ToRelay(from, batch));
        } else if to.ip() == self.ends[1 - end].nat.ip {
            self.fly(LATENCY, Flying::ToEnd(1 - end, from, to.port(), batch));
        }
    }

    fn with_peer(&mut self, end: usize, act: impl FnOnce(&mut PeerMachine, Instant, &mut Outputs)) {
        let mut out = Outputs::default();
        act(&mut self.ends[end].peer, self.now, &mut out);
        for batch in out.transmits {
            self.send(end, batch);
        }
        if out.deliver.is_some_and(|batch| !batch.is_empty()) {
            self.ends[end].last = Some(self.now);
        }
        if out.doubt {
            self.ends[end].doubts += 1;
            self.with_relays(end, RelayClient::doubt);
        }
    }

    /// As NatActor does: what the relay says becomes the contact, for the peer at once and for the others by the stream.
    fn with_relays(&mut self, end: usize, act: impl FnOnce(&mut RelayClient, Instant, &mut client::Outputs)) {
        let mut out = client::Outputs::default();
        act(&mut self.ends[end].relays, self.now, &mut out);
        for (to, ask) in out.asks {
            let mut batch = TransmitBatch::new(to);
            batch.push_with(ask.len(), ask.len(), |slot| {
                slot.copy_from_slice(&ask);
                Some(ask.len())
            });
            self.send(end, batch);
        }
        let it = &mut self.ends[end];
        if it.told != it.relays.version() {
            it.told = it.relays.version();
            let seen = it.relays.observed().iter();
            let candidates = seen.map(|it| Candidate { kind: CandidateKind::ServerReflexive, addr: it.addr }).collect();
            let nat = NatBehaviour { mapping: Dependence::EndpointIndependent, ..NatBehaviour::default() };
            let contact = Contact { candidates, nat, tickets: it.relays.tickets().to_vec(), serves: None };
            if self.stream {
                self.fly(PUBLISH + LATENCY, Flying::Record(1 - end, contact.clone()));
            }
            self.with_peer(end, |peer, now, out| peer.set_contact(now, contact, out));
        }
    }

    fn arrive(&mut self, what: Flying) {
        match what {
            Flying::Record(end, contact) => {
                let told = PeerSpec { contact, ..spec(2 - u8::try_from(end).unwrap()) };
                self.with_peer(end, |peer, now, out| peer.update(now, IPS[end], told, out));
            }
            Flying::ToEnd(end, from, port, batch) => {
                let nat = &self.ends[end].nat;
                if port != nat.port || !nat.open.contains(&from) {
                    return;
                }
                for datagram in batch.contents().chunks(batch.segment_size()) {
                    if datagram[0] == TICKET {
                        self.with_relays(end, |it, now, out| it.handle_ticket(now, from, datagram, out));
                        continue;
                    }
                    let relayed = from == RELAY;
                    let source = if relayed { Endpoint::relayed(from) } else { Endpoint::direct(from) };
                    let inbound = DatagramBatch::with_header(datagram, source, datagram.len(), usize::from(relayed));
                    self.with_peer(end, |peer, now, out| peer.handle_inbound(now, &inbound, out));
                }
            }
            Flying::ToRelay(from, batch) => {
                let (now, port_of) = (self.now, |end: &End| SocketAddr::from((end.nat.ip, end.nat.port)));
                let mut out = Vec::new();
                for datagram in batch.contents().chunks(batch.segment_size()) {
                    if datagram[0] == ASK {
                        let Some(answer) = self.server.handle_ask(now, 1, from, datagram) else { continue };
                        let mut batch = TransmitBatch::new(from);
                        batch.push_with(answer.len(), answer.len(), |slot| {
                            slot.copy_from_slice(&answer);
                            Some(answer.len())
                        });
                        out.push(batch);
                    } else {
                        self.server.handle_forward(now, 1, from, [datagram], &mut out);
                    }
                }
                for batch in out {
                    // To a port that a NAT no longer has it leads nowhere.
                    if let Some(end) = (0..2).find(|&end| port_of(&self.ends[end]) == batch.destination()) {
                        let port = batch.destination().port();
                        self.fly(LATENCY, Flying::ToEnd(end, RELAY, port, batch));
                    }
                }
            }
        }
    }

    fn run_until(&mut self, until: Instant) {
        loop {
            let timers = self.ends.iter().map(|end| end.peer.poll_timeout().0);
            let relays = self.ends.iter().filter_map(|end| end.relays.poll_timeout()).map(|(at, _)| at);
            let arrival = self.flying.keys().next().map(|(at, _)| *at);
            let next = timers.chain(relays).chain(arrival).min().unwrap().max(self.now);
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next;
            while let Some(found) = self.flying.first_entry().filter(|it| it.key().0 <= next) {
                let what = found.remove();
                self.arrive(what);
            }
            for end in 0..2 {
                if self.ends[end].relays.poll_timeout().is_some_and(|(at, _)| at <= next) {
                    self.with_relays(end, RelayClient::handle_timeout);
                }
                if self.ends[end].peer.poll_timeout().0 <= next {
                    self.with_peer(end, |peer, now, out| peer.handle_timeout(now, out));
                }
            }
        }
    }

    /// The senders send a packet each 20 ms; the longest time without one at those who are sent to.
    fn play(&mut self, time: Duration, senders: &[usize]) -> Duration {
        let (until, start) = (self.now + time, self.now);
        let mut longest = Duration::ZERO;
        while self.now < until {
            for &end in senders {
                let mut batch = PacketBatch::new();
                assert!(batch.push(&packet(IPS[end], IPS[1 - end])));
                self.with_peer(end, |peer, now, out| peer.handle_outbound(now, &batch, out));
            }
            self.run_until(self.now + 20 * MS);
            for &end in senders {
                longest = longest.max(self.now - self.ends[1 - end].last.unwrap_or(start).max(start));
            }
        }
        longest
    }

    /// Both routers forget all. With other ports for whoever asks next.
    fn restart_routers(&mut self, which: &[usize]) {
        for &end in which {
            let nat = &mut self.ends[end].nat;
            nat.port += 1;
            nat.open.clear();
        }
    }

    fn kinds(&self) -> [PathKind; 2] {
        [0, 1].map(|end: usize| self.ends[end].peer.view(self.now, 0).path.kind)
    }

    fn doubts(&self) -> u32 {
        self.ends.iter().map(|end| end.doubts).sum()
    }
}

/// An IPv4 packet of UDP with 100 bytes inside.
fn packet(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0; 128];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&128_u16.to_be_bytes());
    (packet[8], packet[9]) = (64, 17);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum = ip::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn both_nats_with_other_ports_are_a_matter_of_a_second() {
    let mut world = World::new();
    world.play(Duration::from_secs(6), &[0, 1]);
    assert_eq!(world.kinds(), [PathKind::Direct; 2]);
    let doubts = world.doubts();
    assert!(doubts <= 2, "before there was a path, and not since: {doubts}");
    let mut gaps = Vec::new();
    for _ in 0..10 {
        world.restart_routers(&[0, 1]);
        gaps.push(world.play(Duration::from_secs(7), &[0, 1]));
        assert_eq!(world.kinds(), [PathKind::Direct; 2], "straight again after {gaps:?}");
    }
    println!("both, other ports: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(1)), "{gaps:?}");
}

/// Nothing but the relay is left to tell of it: the other's ticket is still good.
#[test]
fn one_nat_with_another_port_needs_no_party_stream() {
    let mut world = World::new();
    world.play(Duration::from_secs(6), &[0, 1]);
    world.stream = false;
    for which in [0, 1, 0, 1] {
        world.restart_routers(&[which]);
        let gap = world.play(Duration::from_secs(15), &[0, 1]);
        println!("router {which} only, no stream: {gap:?}");
        assert!(gap < Duration::from_secs(1), "{gap:?}");
        assert_eq!(world.kinds(), [PathKind::Direct; 2]);
    }
}

/// Who only watches has nothing to wait for an answer to.
#[test]
fn who_only_listens_notices_too() {
    let mut world = World::new();
    world.play(Duration::from_secs(6), &[0, 1]);
    let before = world.doubts();
    world.play(Duration::from_secs(6), &[0]);
    assert_eq!(world.doubts(), before, "one-sided traffic is no reason to doubt");
    world.restart_routers(&[0, 1]);
    let gap = world.play(Duration::from_secs(12), &[0]);
    println!("one-sided traffic: {gap:?}");
    assert!(gap < Duration::from_secs(5), "{gap:?}");
}

/// A member whose machine is off must not make this one ask its relays for ever.
#[test]
fn doubts_are_few() {
    let mut world = World::new();
    world.play(Duration::from_secs(6), &[0, 1]);
    world.stream = false;
    world.restart_routers(&[0, 1]);
    let asked = world.ends[0].relays.counters().asked;
    world.play(Duration::from_secs(60), &[0]);
    let asked = world.ends[0].relays.counters().asked - asked;
    println!("asked {asked} times in a minute without the other");
    assert!((10..=130).contains(&asked), "{asked}");
}

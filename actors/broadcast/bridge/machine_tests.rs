use std::collections::BTreeMap;

use super::super::neighbours::SETTLE;
use super::*;
use crate::wire::Ipv4Range;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 5);
const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 9);
const LAN: Network = Network { ip: Ipv4Addr::new(192, 168, 1, 2), prefix: 24 };
const CONSOLE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 50), 3074);

/// Ports as the system gives them: the wanted one while it is free.
#[derive(Debug, Default)]
struct Ports {
    open: BTreeMap<SocketId, (Side, u16)>,
    taken: Vec<(Side, u16)>,
    refuse: bool,
}

impl Sockets for Ports {
    fn open(&mut self, id: SocketId, side: Side, port: u16) -> Option<u16> {
        assert!(!self.open.contains_key(&id), "an id is used twice");
        if self.refuse {
            return None;
        }
        let used: Vec<_> = self.open.values().chain(&self.taken).copied().collect();
        let port = std::iter::once(port).chain(40_000..).find(|port| !used.contains(&(side, *port)))?;
        self.open.insert(id, (side, port));
        Some(port)
    }

    fn close(&mut self, id: SocketId) {
        assert!(self.open.remove(&id).is_some(), "closed twice");
    }
}

impl Ports {
    fn at(&self, side: Side, port: u16) -> SocketId {
        *self.open.iter().find(|(_, bound)| **bound == (side, port)).expect("such a socket is open").0
    }
}

fn machine(now: Instant, ports: &mut Ports) -> BridgeMachine {
    let mut machine = BridgeMachine::new(vec!["eth0".into()]);
    machine.set_address(now, Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }), ports);
    machine.set_network(now, 0, Ok(LAN), ports);
    machine
}

fn limited(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::BROADCAST, port)
}

fn shout(source: SocketAddrV4, destination: SocketAddrV4) -> Shout {
    Shout { source, destination, type_of_service: 0 }
}

fn here(ip: Ipv4Addr, at: [u8; 4]) -> Member {
    Member { ip, connected: true, live: vec![at.into()], named: vec![at.into()] }
}

#[test]
fn a_consoles_question_goes_out_and_the_answer_and_the_game_after_it_go_both_ways() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    let mut machine = machine(now, &mut ports);
    let carried = machine.on_lan_shout(now, 0, shout(CONSOLE, limited(2342)), b"?", &mut ports).unwrap();
    assert_eq!(carried, Carried { source_port: 3074, destination: Ipv4Addr::BROADCAST, except: vec![] });

    let guest = ports.at(Side::Party, 3074);
    let server = SocketAddrV4::new(FRIEND, 2342);
    let answer = machine.on_socket(now, guest, server, &mut ports).unwrap();
    let remote = ports.at(Side::Lan(0), 2342);
    assert_eq!(answer, Forward { socket: remote, to: CONSOLE }, "from the port of the server");

    assert_eq!(machine.on_socket(now, remote, CONSOLE, &mut ports), Some(Forward { socket: guest, to: server }));
    // From another port of the console: another guest, the same server.
    let second = SocketAddrV4::new(*CONSOLE.ip(), 3075);
    let forward = machine.on_socket(now, remote, second, &mut ports).unwrap();
    assert_eq!(forward, Forward { socket: ports.at(Side::Party, 3075), to: server });
    let counters = machine.view(now).counters;
    assert_eq!((counters.carried, counters.to_lan, counters.to_party), (1, 1, 2));
}

#[test]
fn a_members_shout_is_put_on_the_network_and_leads_back() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    let mut machine = machine(now, &mut ports);
    let range = SocketAddrV4::new(Ipv4Range::DEFAULT.broadcast(), 8888);
    let friend = SocketAddrV4::new(FRIEND, 7777);
    let shouts = machine.on_party_shout(now, friend, range, b"!", &mut ports);
    let source = SocketAddrV4::new(LAN.ip, 7777);
    let destination = SocketAddrV4::new(LAN.broadcast(), 8888);
    assert_eq!(shouts, [OnLan { network: 0, source, destination }]);
    let remote = ports.at(Side::Lan(0), 7777);
    let forward = machine.on_socket(now, remote, CONSOLE, &mut ports).unwrap();
    assert_eq!(forward, Forward { socket: ports.at(Side::Party, 3074), to: friend });
}

#[test]
fn ports_that_are_taken_are_replaced() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    ports.taken = vec![(Side::Party, 3074), (Side::Lan(0), 2342)];
    let mut machine = machine(now, &mut ports);
    let carried = machine.on_lan_shout(now, 0, shout(CONSOLE, limited(2342)), b"?", &mut ports).unwrap();
    assert_eq!(carried.source_port, 40_000);
    let guest = ports.at(Side::Party, 40_000);
    let answer = machine.on_socket(now, guest, SocketAddrV4::new(FRIEND, 2342), &mut ports).unwrap();
    assert_eq!(answer, Forward { socket: ports.at(Side::Lan(0), 40_000), to: CONSOLE });
}

#[test]
fn the_networks_broadcast_becomes_the_ranges_and_groups_stay() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    let mut machine = machine(now, &mut ports);
    let mut carried = |to: [u8; 4]| {
        let to = SocketAddrV4::new(to.into(), 8888);
        machine.on_lan_shout(now, 0, shout(CONSOLE, to), b"?", &mut ports).map(|carried| carried.destination)
    };
    assert_eq!(carried([192, 168, 1, 255]), Some(Ipv4Range::DEFAULT.broadcast()));
    assert_eq!(carried([224, 0, 2, 60]), Some(Ipv4Addr::new(224, 0, 2, 60)));
    assert_eq!(carried([192, 168, 2, 255]), None, "another network's");
    assert_eq!(carried([192, 168, 1, 3]), None, "unicast");
}

#[test]
fn what_a_bridge_put_there_what_members_shout_and_what_does_not_belong_there_is_left() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    let mut machine = machine(now, &mut ports);
    machine.set_members(now, vec![here(FRIEND, [192, 168, 1, 7])]);
    let later = now + SETTLE;
    let mut refused = |shout: Shout| machine.on_lan_shout(later, 0, shout, b"?", &mut ports).is_none();
    let marked = Shout { type_of_service: MARK | 2, ..shout(CONSOLE, limited(2342)) };
    assert!(refused(marked), "with the mark, whatever the congestion bits say");
    for source in [[192, 168, 1, 7], [192, 168, 1, 2], [10, 0, 0, 1], [192, 168, 1, 255], [192, 168, 1, 0], [0; 4]] {
        assert!(refused(shout(SocketAddrV4::new(source.into(), 99), limited(2342))), "{source:?}");
    }
    assert!(refused(shout(SocketAddrV4::new(*CONSOLE.ip(), 0), limited(2342))), "nobody could answer");
    for port in [67, 137, 5353, 1900, 17_500] {
        assert!(refused(shout(CONSOLE, limited(port))), "{port}");
    }
    assert!(ports.open.is_empty());
    let carried = machine.on_lan_shout(later, 0, shout(CONSOLE, limited(2342)), b"?", &mut ports).unwrap();
    assert_eq!(carried.except, [FRIEND], "who is there has heard it");
    let friend = SocketAddrV4::new(FRIEND, 1);
    assert_eq!(machine.on_party_shout(later, friend, limited(1), b"!", &mut ports), [], "and has shouted there");
}

#[test]
fn sockets_take_only_what_comes_from_where_it_should() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    let mut machine = machine(now, &mut ports);
    machine.on_lan_shout(now, 0, shout(CONSOLE, limited(2342)), b"?", &mut ports).unwrap();
    let guest = ports.at(Side::Party, 3074);
    for from in [OWN, *CONSOLE.ip(), Ipv4Addr::new(8, 8, 8, 8)] {
        assert_eq!(machine.on_socket(now, guest, SocketAddrV4::new(from, 1), &mut ports), None, "{from}");
    }
    machine.on_socket(now, guest, SocketAddrV4::new(FRIEND, 1), &mut ports).unwrap();
    let remote = ports.at(Side::Lan(0), 1);
    for from in [OWN, FRIEND, LAN.ip, Ipv4Addr::new(8, 8, 8, 8)] {
        assert_eq!(machine.on_socket(now, remote, SocketAddrV4::new(from, 1), &mut ports), None, "{from}");
    }
    assert_eq!(machine.view(now).counters.dropped_foreign, 7);
    assert_eq!(machine.on_socket(now, SocketId(99), CONSOLE, &mut ports), None);
}

#[test]
fn two_who_bridge_one_network_agree_on_one() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    let mut machine = machine(now, &mut ports);
    let lower = Ipv4Addr::new(10, 66, 0, 1);
    let at = Ipv4Addr::new(192, 168, 1, 7);
    machine.set_members(now, vec![here(lower, at.octets())]);
    assert_eq!(machine.view(now).networks[0].state, NetworkState::Settling);
    assert!(machine.on_lan_shout(now, 0, shout(CONSOLE, limited(1)), b"?", &mut ports).is_none());
    let hello = machine.on_timeout(now, &mut ports).expect("somebody has come");
    assert_eq!(hello::read(&hello), Some(vec![LAN.ip]));
    assert_eq!(machine.on_timeout(now, &mut ports), None);

    let to = SocketAddrV4::new(hello::GROUP, hello::PORT);
    let from = SocketAddrV4::new(lower, hello::PORT);
    assert_eq!(machine.on_party_shout(now, from, to, &hello::write(&[at]), &mut ports), []);
    assert_eq!(machine.view(now).networks[0].state, NetworkState::LeftToOther);
    assert!(machine.on_timeout(now, &mut ports).is_some(), "it is told back at once");
    assert!(machine.on_lan_shout(now, 0, shout(CONSOLE, limited(1)), b"?", &mut ports).is_none());
    assert_eq!(machine.on_party_shout(now, SocketAddrV4::new(FRIEND, 1), limited(1), b"!", &mut ports), []);
    // It leaves.
    machine.set_members(now, vec![]);
    assert_eq!(machine.view(now).networks[0].state, NetworkState::Carrying);
}

#[test]
fn tables_and_rates_are_bounded_and_idle_entries_make_room() {
    let (start, mut ports) = (Instant::now(), Ports::default());
    let mut machine = machine(start, &mut ports);
    let mut now = start;
    let one = |port| SocketAddrV4::new(*CONSOLE.ip(), port);
    for port in 1001..=1100 {
        machine.on_lan_shout(now, 0, shout(one(port), limited(7777)), b"?", &mut ports);
    }
    assert_eq!(machine.view(now).guests, MAX_GUESTS_OF_ONE);
    assert_eq!(machine.view(now).counters.dropped_full, 100 - MAX_GUESTS_OF_ONE as u64);
    for host in 60..=250u8 {
        now += Duration::from_millis(10);
        let source = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, host), 9);
        machine.on_lan_shout(now, 0, shout(source, limited(7777)), b"?", &mut ports);
    }
    assert_eq!((machine.view(now).guests, ports.open.len()), (MAX_GUESTS, MAX_GUESTS));
    now += Duration::from_secs(11);
    assert!(machine.on_lan_shout(now, 0, shout(one(999), limited(7777)), b"?", &mut ports).is_some(), "idle ones go");
    assert_eq!(machine.view(now).guests, MAX_GUESTS);

    let flood =
        (0..1000).filter(|_| machine.on_lan_shout(now, 0, shout(one(999), limited(7777)), b"?", &mut ports).is_some());
    assert!(flood.count() <= BURST as usize);
    assert!(machine.view(now).counters.dropped_limited >= 900);

    now += Duration::from_secs(121);
    machine.on_timeout(now, &mut ports);
    assert_eq!((machine.view(now).guests, ports.open.len()), (0, 0));
}

#[test]
fn a_refused_socket_and_a_lost_network_leave_nothing_behind() {
    let (now, mut ports) = (Instant::now(), Ports { refuse: true, ..Ports::default() });
    let mut machine = machine(now, &mut ports);
    assert!(machine.on_lan_shout(now, 0, shout(CONSOLE, limited(1)), b"?", &mut ports).is_none());
    assert_eq!(machine.view(now).counters.dropped_unsent, 1);
    ports.refuse = false;
    machine.on_lan_shout(now, 0, shout(CONSOLE, limited(1)), b"?", &mut ports).unwrap();
    machine.on_party_shout(now, SocketAddrV4::new(FRIEND, 1), limited(1), b"!", &mut ports);
    assert_eq!(ports.open.len(), 2);
    machine.set_network(now, 0, Err("gone".into()), &mut ports);
    assert!(ports.open.is_empty());
    assert_eq!(machine.view(now).networks[0].problem.as_deref(), Some("gone"));
    machine.set_network(now, 0, Ok(LAN), &mut ports);
    machine.on_lan_shout(now, 0, shout(CONSOLE, limited(1)), b"?", &mut ports).unwrap();
    machine.set_address(now, None, &mut ports);
    assert!(ports.open.is_empty());
    assert_eq!(machine.view(now).networks[0].state, NetworkState::Idle);
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn sockets_do_not_outlive_the_interface_that_they_are_bound_to() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    let mut machine = machine(now, &mut ports);
    let sides = |ports: &Ports| ports.open.values().map(|(side, _)| *side).collect::<Vec<_>>();
    let (party, lan) = (Side::Party, Side::Lan(0));
    for side in [party, lan] {
        machine.set_index(now, side, Some(7), &mut ports);
    }
    let talk = |machine: &mut BridgeMachine, ports: &mut Ports| {
        machine.on_lan_shout(now, 0, shout(CONSOLE, limited(2342)), b"?", ports).unwrap();
        assert_eq!(machine.on_party_shout(now, SocketAddrV4::new(FRIEND, 7), limited(8), b"!", ports).len(), 1);
    };
    talk(&mut machine, &mut ports);
    assert_eq!(machine.guest_ports(), [CONSOLE.port()].into());
    for side in [party, lan] {
        machine.set_index(now, side, Some(7), &mut ports);
    }
    assert_eq!(ports.open.len(), 2, "as before");
    machine.set_index(now, party, Some(8), &mut ports);
    assert_eq!((sides(&ports), machine.guest_ports().len()), (vec![lan], 0));
    talk(&mut machine, &mut ports);
    machine.set_index(now, lan, None, &mut ports);
    assert_eq!(sides(&ports), [party]);
}

#[test]
fn one_network_by_two_interfaces_is_bridged_once() {
    let (now, mut ports) = (Instant::now(), Ports::default());
    let mut machine = BridgeMachine::new(vec!["eth0".into(), "wlan0".into()]);
    machine.set_address(now, Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }), &mut ports);
    let second = Network { ip: Ipv4Addr::new(192, 168, 1, 3), ..LAN };
    machine.set_network(now, 1, Ok(second), &mut ports);
    let shouts = |machine: &mut BridgeMachine| {
        let shouts = machine.on_party_shout(now, SocketAddrV4::new(FRIEND, 7), limited(8), b"!", &mut Ports::default());
        shouts.iter().map(|it| it.network).collect::<Vec<_>>()
    };
    assert_eq!(shouts(&mut machine), [1]);
    let mut ports = Ports::default();
    let mut machine = BridgeMachine::new(vec!["eth0".into(), "wlan0".into()]);
    machine.set_address(now, Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }), &mut ports);
    machine.set_network(now, 0, Ok(LAN), &mut ports);
    machine.set_network(now, 1, Ok(second), &mut ports);
    assert_eq!(shouts(&mut machine), [0]);
    let problem = machine.view(now).networks[1].problem.clone().unwrap();
    assert!(problem.contains("eth0"), "{problem}");
    let other = Network { ip: Ipv4Addr::new(192, 168, 2, 3), ..LAN };
    machine.set_network(now, 1, Ok(other), &mut ports);
    assert_eq!(shouts(&mut machine), [0, 1]);
}

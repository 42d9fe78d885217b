use super::super::datagram::Checksum;
use super::*;
use crate::wire::Ipv4Range;
use crate::wire::PacketBatch;
use crate::wire::ip::{Ipv4Packet, UDP};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
const RANGE_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 66, 255, 255);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 2, 60);

fn machine() -> BroadcastMachine {
    let mut machine = BroadcastMachine::new(Settings::default());
    machine.set_address(Instant::now(), Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }));
    machine.add_member(MEMBER);
    machine
}

fn datagram(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Datagram<'_> {
    Datagram { source, destination, source_port: 6112, destination_port: 6112, ttl: 64, payload }
}

fn batch(datagram: &Datagram<'_>) -> PacketBatch {
    let mut batches = Batches::default();
    datagram.write(u16::MAX, 1, &mut batches);
    batches.drain().next().unwrap()
}

fn read(batches: &Batches) -> Vec<(Ipv4Addr, Ipv4Addr, u16, u16, Vec<u8>)> {
    let packets = batches.iter().flat_map(PacketBatch::iter);
    packets
        .map(|bytes| {
            let packet = Ipv4Packet::parse(bytes).unwrap();
            let it = Datagram::parse(&packet, Checksum::Final).unwrap();
            (it.source, it.destination, it.source_port, it.destination_port, it.payload.to_vec())
        })
        .collect()
}

#[test]
fn what_is_sent_on_the_device_goes_out_as_it_is_with_the_own_source() {
    for destination in [Ipv4Addr::BROADCAST, RANGE_BROADCAST, GROUP] {
        // A program may be bound to another address of this machine.
        for source in [OWN, Ipv4Addr::new(192, 168, 1, 5)] {
            let (mut machine, mut out) = (machine(), Outputs::default());
            machine.on_device(Instant::now(), &batch(&datagram(source, destination, b"here")), &mut out);
            assert_eq!(read(&out.send), [(OWN, destination, 6112, 6112, b"here".to_vec())]);
            assert!(out.deliver.is_empty() && out.heard.is_empty());
        }
    }
}

#[test]
fn what_a_member_sent_is_delivered_and_never_sent_on() {
    let (mut machine, mut out) = (machine(), Outputs::default());
    machine.on_member(Instant::now(), MEMBER, &batch(&datagram(MEMBER, GROUP, b"there")), &mut out);
    assert_eq!(read(&out.deliver), [(MEMBER, GROUP, 6112, 6112, b"there".to_vec())]);
    assert_eq!(out.heard.len(), 0, "it lists no game");
    let to_browser = Datagram { destination_port: 4445, ..datagram(MEMBER, GROUP, b"there") };
    machine.on_member(Instant::now(), MEMBER, &batch(&to_browser), &mut out);
    assert_eq!(out.heard.len(), 1);
    machine.read_along();
    machine.on_member(Instant::now(), MEMBER, &batch(&datagram(MEMBER, GROUP, b"there")), &mut out);
    assert_eq!(out.heard.len(), 2, "a bridge wants all");
    machine.on_device(Instant::now(), &batch(&datagram(MEMBER, GROUP, b"there")), &mut out);
    assert!(out.send.is_empty());
    assert_eq!(machine.view().counters.dropped_misdirected, 1);
}

#[test]
fn strangers_and_other_destinations_are_refused() {
    let (mut machine, mut out) = (machine(), Outputs::default());
    let stranger = Ipv4Addr::new(10, 66, 0, 9);
    let now = Instant::now();
    machine.on_member(now, stranger, &batch(&datagram(stranger, GROUP, b"x")), &mut out);
    machine.on_member(now, MEMBER, &batch(&datagram(stranger, GROUP, b"x")), &mut out);
    machine.on_member(now, MEMBER, &batch(&datagram(MEMBER, Ipv4Addr::new(192, 168, 1, 255), b"x")), &mut out);
    machine.on_device(now, &batch(&datagram(OWN, MEMBER, b"x")), &mut out);
    let counters = machine.view().counters;
    assert_eq!((counters.dropped_stranger, counters.dropped_misdirected), (1, 3));
    assert!(out.send.is_empty() && out.deliver.is_empty() && out.heard.is_empty());
}

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);
const LAN_BROADCAST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 255);

fn eth0() -> Wanted {
    Wanted { name: "eth0".into(), index: 2, sources: vec![HOST], broadcasts: vec![LAN_BROADCAST] }
}

fn packet(datagram: &Datagram<'_>) -> Vec<u8> {
    batch(datagram).get(0).to_vec()
}

fn fragments(datagram: &Datagram<'_>, mtu: u16) -> Vec<Vec<u8>> {
    let mut batches = Batches::default();
    datagram.write(mtu, 77, &mut batches);
    batches.iter().flat_map(|batch| batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
}

#[test]
fn captured_broadcasts_get_the_own_address_and_that_of_the_party() {
    let cases = [(Ipv4Addr::BROADCAST, Ipv4Addr::BROADCAST), (LAN_BROADCAST, RANGE_BROADCAST), (GROUP, GROUP)];
    for (to, inside) in cases {
        let (mut machine, mut out) = (machine(), Outputs::default());
        machine.set_captured(BTreeMap::from([(0, eth0())]));
        machine.on_captured(Instant::now(), 0, &packet(&datagram(HOST, to, b"here")), &mut out);
        assert_eq!(read(&out.send), [(OWN, inside, 6112, 6112, b"here".to_vec())]);
    }
    let (mut machine, mut out) = (machine(), Outputs::default());
    machine.set_captured(BTreeMap::from([(0, eth0())]));
    let now = Instant::now();
    // Of another machine (a member's, passed on by whatever), of an unknown capture, to one machine.
    machine.on_captured(now, 0, &packet(&datagram(MEMBER, Ipv4Addr::BROADCAST, b"x")), &mut out);
    machine.on_captured(now, 1, &packet(&datagram(HOST, Ipv4Addr::BROADCAST, b"x")), &mut out);
    machine.on_captured(now, 0, &packet(&datagram(HOST, Ipv4Addr::new(192, 168, 1, 6), b"x")), &mut out);
    assert!(out.send.is_empty());
    assert_eq!(machine.view().counters.dropped_misdirected, 3);
}

#[test]
fn one_send_on_two_interfaces_goes_out_once_and_repetitions_all_do() {
    let (mut machine, mut out, now) = (machine(), Outputs::default(), Instant::now());
    machine.set_captured(BTreeMap::from([(0, eth0())]));
    machine.on_captured(now, 0, &packet(&datagram(HOST, LAN_BROADCAST, b"x")), &mut out);
    machine.on_device(now, &batch(&datagram(OWN, RANGE_BROADCAST, b"x")), &mut out);
    assert_eq!((out.send.packets(), machine.view().counters.dropped_duplicate), (1, 1));
    for n in 0..100 {
        let later = now + std::time::Duration::from_secs(1 + n);
        machine.on_captured(later, 0, &packet(&datagram(HOST, LAN_BROADCAST, b"x")), &mut out);
        machine.on_captured(later, 0, &packet(&datagram(HOST, LAN_BROADCAST, b"x")), &mut out);
    }
    assert_eq!(out.send.packets(), 201);
}

#[test]
fn fragments_are_put_together_and_cut_anew_on_both_sides() {
    for len in [2000, 20_000, 65_507] {
        let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let (mut machine, mut out, now) = (machine(), Outputs::default(), Instant::now());
        machine.set_captured(BTreeMap::from([(0, eth0())]));
        for fragment in fragments(&datagram(HOST, Ipv4Addr::BROADCAST, &payload), 1500) {
            machine.on_captured(now, 0, &fragment, &mut out);
        }
        assert!(out.send.iter().flat_map(PacketBatch::iter).all(|packet| packet.len() <= 1360));
        let (mut other, mut heard) = (self::machine(), Outputs::default());
        other.set_address(now, Some(Address { ip: MEMBER, range: Ipv4Range::DEFAULT }));
        other.add_member(OWN);
        for batch in out.send.iter() {
            other.on_member(now, OWN, batch, &mut heard);
        }
        assert_eq!(read(&heard.deliver), [(OWN, Ipv4Addr::BROADCAST, 6112, 6112, payload)]);
        assert_eq!(heard.heard.len(), 0, "too long for those who read along");
    }
}

#[test]
fn unwanted_ports_are_left_out_both_ways_unless_a_game_needs_them() {
    let settings = Settings { except: vec![(67, 68)], ..Settings::default() };
    let mut machine = BroadcastMachine::new(settings);
    let now = Instant::now();
    machine.set_address(now, Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }));
    machine.add_member(MEMBER);
    let to = |source, port| Datagram { destination_port: port, ..datagram(source, Ipv4Addr::BROADCAST, b"x") };
    let both = |machine: &mut BroadcastMachine, port| {
        let mut out = Outputs::default();
        machine.on_device(now, &batch(&to(OWN, port)), &mut out);
        machine.on_member(now, MEMBER, &batch(&to(MEMBER, port)), &mut out);
        (out.send.packets(), out.deliver.packets())
    };
    for port in [67, 68, 1900, 5353] {
        assert_eq!(both(&mut machine, port), (0, 0), "{port}");
    }
    assert_eq!(both(&mut machine, 69), (1, 1));
    let rule = super::super::messages::PortRule { first: 60, last: 70 };
    machine.set_rules(now, GameRules { ports: vec![rule], groups: vec![] });
    assert_eq!(both(&mut machine, 67), (1, 1));
    assert_eq!(both(&mut machine, 5353), (0, 0));
}

#[test]
fn a_storm_of_one_program_leaves_the_others_theirs_and_memory_is_bounded() {
    let (mut machine, start) = (machine(), Instant::now());
    let mut passed = [0; 2];
    for n in 0..30_000u64 {
        let now = start + std::time::Duration::from_micros(100 * n);
        for (which, port, each) in [(0, 1, 1), (1, 2, 5000)] {
            if n % each == 0 {
                let mut out = Outputs::default();
                let it = Datagram { destination_port: port, ..datagram(MEMBER, Ipv4Addr::BROADCAST, b"x") };
                machine.on_member(now, MEMBER, &batch(&it), &mut out);
                passed[which] += out.deliver.packets();
            }
        }
    }
    assert!((1200..1300).contains(&passed[0]), "{}", passed[0]);
    assert_eq!(passed[1], 6);
    let view = machine.view();
    assert_eq!(view.counters.dropped_limited as usize, 30_000 - passed[0]);
    assert_eq!((view.ports[0].port, view.ports[0].limited), (1, view.counters.dropped_limited));
}

fn local(wildcard: usize, bound: &[Ipv4Addr], groups: &[(&str, Ipv4Addr, u32)]) -> Local {
    let listeners =
        super::super::local::Listeners { wildcard, wildcard6: 0, addresses: bound.iter().copied().collect() };
    let joined = |&(interface, group, users): &(&str, Ipv4Addr, u32)| super::super::local::Joined {
        interface: interface.into(),
        group,
        users,
    };
    Local { ports: BTreeMap::from([(6112, listeners)]), groups: groups.iter().map(joined).collect() }
}

#[test]
fn multicasts_go_to_the_groups_that_programs_joined_elsewhere() {
    let (mut machine, now) = (machine(), Instant::now());
    let hear = |machine: &mut BroadcastMachine| {
        let mut out = Outputs::default();
        machine.on_member(now, MEMBER, &batch(&datagram(MEMBER, GROUP, b"x")), &mut out);
        read(&out.deliver).into_iter().map(|it| it.1).collect::<Vec<_>>()
    };
    machine.set_local(local(1, &[], &[("eth0", Ipv4Addr::new(224, 0, 0, 1), 1)]));
    assert_eq!(hear(&mut machine), [GROUP], "nobody joined it here");
    assert_eq!(machine.view().counters.unheard, 1);
    assert!(machine.wanted_groups().is_empty());
    machine.set_local(local(1, &[], &[("eth0", GROUP, 1), ("eth0", Ipv4Addr::new(224, 0, 0, 251), 1)]));
    assert_eq!(machine.wanted_groups(), BTreeSet::from([GROUP]));
    machine.set_held(BTreeSet::from([GROUP]));
    assert_eq!(hear(&mut machine), [OWN], "the only socket may be one of Java");
    machine.set_local(local(2, &[], &[("eth0", GROUP, 1), ("lanrage0", GROUP, 1)]));
    assert_eq!(hear(&mut machine), [GROUP]);
    machine.set_local(local(1, &[], &[("lanrage0", GROUP, 1)]));
    assert!(machine.wanted_groups().is_empty(), "only this program is left in it");
    machine.set_local(local(1, &[], &[("lanrage0", GROUP, 2)]));
    assert_eq!(machine.wanted_groups(), BTreeSet::from([GROUP]), "a program joined it there");
    let rules = GameRules { ports: vec![], groups: vec![Ipv4Addr::new(239, 1, 2, 3)] };
    machine.set_rules(now, rules);
    machine.set_local(local(0, &[], &[]));
    assert_eq!(machine.wanted_groups(), BTreeSet::from([Ipv4Addr::new(239, 1, 2, 3)]));
}

#[test]
fn groups_are_bounded() {
    let mut machine = machine();
    let many: Vec<_> = (0..250u8).map(|n| ("eth0", Ipv4Addr::new(239, 1, 1, n), 1)).collect();
    machine.set_local(local(0, &[], &many));
    assert_eq!(machine.wanted_groups().len(), 64);
}

#[test]
fn sockets_are_looked_at_when_they_may_have_changed_and_not_more_often() {
    let (mut machine, start) = (machine(), Instant::now());
    let known = batch(&datagram(MEMBER, Ipv4Addr::BROADCAST, b"x"));
    let unknown = batch(&Datagram { destination_port: 9, ..datagram(MEMBER, Ipv4Addr::BROADCAST, b"x") });
    let ms = |n| start + std::time::Duration::from_millis(n);
    assert!(machine.wants_local(ms(0), &known), "never looked");
    machine.set_local(local(1, &[], &[]));
    assert!(!machine.wants_local(ms(50), &unknown), "just looked");
    assert!(!machine.wants_local(ms(500), &known));
    assert!(machine.wants_local(ms(500), &unknown));
    assert!(!machine.wants_local(ms(599), &unknown));
    assert!(!machine.wants_local(ms(700), &unknown), "a storm to a port where nobody listens has been asked for");
    let other = batch(&Datagram { destination_port: 10, ..datagram(MEMBER, Ipv4Addr::BROADCAST, b"x") });
    assert!(machine.wants_local(ms(700), &other));
    assert!(machine.wants_local(ms(1700), &known), "old");
    assert!(machine.wants_local(ms(1800), &unknown), "a listener may have come since");
    let mut many = PacketBatch::new();
    for destination_port in 1000..1100 {
        let one = batch(&Datagram { destination_port, ..datagram(MEMBER, Ipv4Addr::BROADCAST, b"x") });
        assert!(one.iter().all(|packet| many.push(packet)));
    }
    assert!(machine.wants_local(ms(2000), &many));
    assert_eq!(machine.asked.len(), 64);
}

#[test]
fn switched_off_nothing_is_carried_or_delivered() {
    let mut machine = BroadcastMachine::new(Settings { carry: Carry::Off, ..Settings::default() });
    let now = Instant::now();
    machine.set_address(now, Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }));
    machine.add_member(MEMBER);
    let mut out = Outputs::default();
    machine.on_device(now, &batch(&datagram(OWN, Ipv4Addr::BROADCAST, b"x")), &mut out);
    machine.on_member(now, MEMBER, &batch(&datagram(MEMBER, Ipv4Addr::BROADCAST, b"x")), &mut out);
    assert!(out.send.is_empty() && out.deliver.is_empty());
    assert_eq!(machine.poll_timeout(), None);
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_from_a_member_give_whole_datagrams_of_that_member_or_nothing(
            mut data in proptest::collection::vec(any::<u8>(), 0..200), shape in 0u8..3, group: bool,
        ) {
            let (mut machine, mut out) = (machine(), Outputs::default());
            if shape > 0 && data.len() >= 28 {
                let len = data.len();
                let to = if group { GROUP } else { Ipv4Addr::BROADCAST };
                let fragment = [data[6], data[7]];
                crate::wire::ip::write_header(&mut data, MEMBER, to, UDP, len).unwrap();
                if shape == 2 {
                    data[6..8].copy_from_slice(&fragment);
                    crate::wire::ip::write_header_checksum(&mut data[..20]);
                }
            }
            let mut batch = PacketBatch::new();
            assert!(batch.push(&data));
            machine.on_member(Instant::now(), MEMBER, &batch, &mut out);
            machine.on_device(Instant::now(), &batch, &mut out);
            for (source, _, _, _, _) in read(&out.deliver) {
                prop_assert_eq!(source, MEMBER);
            }
            for (source, _, _, _, _) in read(&out.send) {
                prop_assert_eq!(source, OWN);
            }
        }
    }
}

/// A program announces each of its addresses on its own network; members reach one of them only.
#[test]
fn mdns_names_the_virtual_ip_whatever_network_it_was_said_on() {
    let mdns = *unwanted::MDNS.ip();
    let wanted = unwanted::Wanted { mdns: true, ..unwanted::Wanted::default() };
    let mut machine = BroadcastMachine::new(Settings { wanted, ..Settings::default() });
    machine.set_address(Instant::now(), Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }));
    machine.add_member(MEMBER);
    machine.set_captured(BTreeMap::from([(0, eth0())]));
    let response = |address: Ipv4Addr| {
        let head = b"\0\0\x84\0\0\0\0\x01\0\0\0\0\x03ann\x05local\0\0\x01\x80\x01\0\0\0\x78\0\x04";
        [&head[..], &address.octets()].concat()
    };
    let (at_home, in_party, mut out) = (response(HOST), response(OWN), Outputs::default());
    let say =
        |source, payload| Datagram { source_port: 5353, destination_port: 5353, ..datagram(source, mdns, payload) };
    let now = Instant::now();
    machine.on_captured(now, 0, &packet(&say(HOST, &at_home)), &mut out);
    // On the virtual device it says so itself: the same datagram.
    machine.on_device(now, &batch(&say(OWN, &in_party)), &mut out);
    assert_eq!(read(&out.send), [(OWN, mdns, 5353, 5353, in_party)]);
    assert_eq!(machine.view().counters.dropped_duplicate, 1);
}

#[test]
fn the_bridges_own_sockets_are_no_programs_that_want_a_copy() {
    let listens = |ip| {
        let mut local = Local::default();
        local.ports.entry(6112).or_default().addresses.insert(ip);
        local
    };
    let shouted = |machine: &mut BroadcastMachine| {
        let mut out = Outputs::default();
        machine.on_member(Instant::now(), MEMBER, &batch(&datagram(MEMBER, Ipv4Addr::BROADCAST, b"x")), &mut out);
        read(&out.deliver).into_iter().map(|(_, to, ..)| to).collect::<Vec<_>>()
    };
    let mut machine = machine();
    machine.set_local(listens(OWN));
    assert_eq!(shouted(&mut machine), [OWN], "a program that is bound to the virtual IP");
    machine.set_guests(BTreeSet::from([6112]));
    assert_eq!(shouted(&mut machine), [Ipv4Addr::BROADCAST]);
    machine.set_local(listens(OWN));
    assert_eq!(shouted(&mut machine), [Ipv4Addr::BROADCAST], "seen again");
    machine.set_guests(BTreeSet::new());
    machine.set_local(listens(OWN));
    assert_eq!(shouted(&mut machine), [OWN], "the port is a program's now");
}

use super::*;
use crate::wire::Ipv4Range;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
const RANGE_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 66, 255, 255);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 2, 60);

fn machine() -> BroadcastMachine {
    let mut machine = BroadcastMachine::new(Settings { mtu: 1360 });
    machine.set_address(Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }));
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
    assert_eq!(out.heard.len(), 1);
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

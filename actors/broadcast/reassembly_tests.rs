use proptest::prelude::*;

use super::super::datagram::{Batches, Checksum, Datagram};
use super::*;
use crate::wire::ip::write_header_checksum;

const A: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
const TO: Ipv4Addr = Ipv4Addr::BROADCAST;

fn fragments(source: Ipv4Addr, payload: &[u8], mtu: u16, ident: u16) -> Vec<Vec<u8>> {
    let sent = Datagram { source, destination: TO, source_port: 1, destination_port: 2, ttl: 64, payload };
    let mut batches = Batches::default();
    sent.write(mtu, ident, &mut batches);
    batches.iter().flat_map(|batch| batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
}

fn feed(table: &mut Reassembly, now: Instant, packet: &[u8]) -> Outcome {
    table.on_fragment(now, 0, &Ipv4Packet::parse(packet).unwrap())
}

/// One fragment with these bytes at this offset (units of 8).
fn piece(offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
    let mut packet = fragments(A, &[0; 4000], 1360, 7).remove(0);
    packet.truncate(20);
    packet.extend_from_slice(data);
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
    write_header_checksum(&mut packet[..20]);
    packet
}

#[test]
fn contradictions_are_refused_and_stay_so() {
    let now = Instant::now();
    let cases: [(&str, &[Vec<u8>]); 6] = [
        ("overlap of the one before", &[piece(0, true, &[1; 16]), piece(1, false, &[1; 16])]),
        ("overlap of the one after", &[piece(2, false, &[1; 16]), piece(1, true, &[1; 16])]),
        ("other bytes at the same place", &[piece(0, true, &[1; 16]), piece(0, true, &[2; 16])]),
        ("beyond the end", &[piece(1, false, &[1; 8]), piece(2, true, &[1; 8])]),
        ("two ends", &[piece(1, false, &[1; 8]), piece(2, false, &[1; 8])]),
        ("an end before what is there", &[piece(4, true, &[1; 8]), piece(1, false, &[1; 8])]),
    ];
    for (what, packets) in cases {
        let mut table = Reassembly::default();
        assert_eq!(feed(&mut table, now, &packets[0]), Outcome::Kept, "{what}");
        assert_eq!(feed(&mut table, now, &packets[1]), Outcome::Refused, "{what}");
        assert_eq!(feed(&mut table, now, &packets[0]), Outcome::Refused, "{what}: the rest of it too");
        assert_eq!((table.take_given_up(), table.bytes()), (1, 0), "{what}");
    }
}

#[test]
fn fragments_that_no_stack_sends_are_refused() {
    let (mut table, now) = (Reassembly::default(), Instant::now());
    for bad in [piece(0, true, &[]), piece(0, true, &[1; 15]), piece(0x1fff, false, &[1; 8])] {
        assert_eq!(feed(&mut table, now, &bad), Outcome::Refused);
    }
    let mut damaged = piece(0, true, &[1; 16]);
    damaged[8] ^= 1;
    assert_eq!(feed(&mut table, now, &damaged), Outcome::Refused);
    assert!(table.partials.is_empty());
}

#[test]
fn one_sender_cannot_push_out_another_and_the_table_is_bounded() {
    let (mut table, now) = (Reassembly::default(), Instant::now());
    let good = fragments(A, &[5; 3000], 1360, 1);
    assert_eq!(feed(&mut table, now, &good[0]), Outcome::Kept);
    let enemy = Ipv4Addr::new(10, 66, 0, 3);
    for ident in 0..1000 {
        assert_eq!(feed(&mut table, now, &fragments(enemy, &[6; 3000], 1360, ident)[0]), Outcome::Kept);
    }
    assert_eq!(table.partials.len(), 1 + MAX_PER_SENDER);
    assert_eq!(feed(&mut table, now, &good[1]), Outcome::Kept);
    assert!(matches!(feed(&mut table, now, &good[2]), Outcome::Whole(_)));
    for last in 0..=255 {
        for ident in 0..4 {
            let packets = fragments(Ipv4Addr::new(10, 66, 1, last), &[7; 65_000], 65_000, ident);
            assert_eq!(feed(&mut table, now, &packets[0]), Outcome::Kept);
        }
    }
    assert!(table.partials.len() <= MAX_DATAGRAMS && table.bytes() <= MAX_DATAGRAMS * MAX_PACKET_LEN);
}

#[test]
fn what_never_becomes_whole_is_given_up_in_time() {
    let (mut table, start) = (Reassembly::default(), Instant::now());
    let packets = fragments(A, &[5; 3000], 1360, 1);
    assert_eq!(feed(&mut table, start, &packets[0]), Outcome::Kept);
    assert_eq!(table.poll_timeout(), Some(start + LIFETIME));
    table.handle_timeout(start + LIFETIME);
    assert_eq!((table.take_given_up(), table.poll_timeout(), table.bytes()), (1, None, 0));
    // Its rest begins a datagram that lacks its head.
    assert_eq!(feed(&mut table, start + LIFETIME, &packets[1]), Outcome::Kept);
}

proptest! {
    #[test]
    fn any_order_with_repetitions_gives_the_datagram(
        payload in proptest::collection::vec(any::<u8>(), 600..9000), mtu in 576u16..1500, order: u64, repeat: bool,
    ) {
        let mut packets = fragments(A, &payload, mtu, 9);
        prop_assume!(packets.len() > 1);
        let mut state = order;
        for i in (1..packets.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            packets.swap(i, (state >> 33) as usize % (i + 1));
        }
        let (mut table, now) = (Reassembly::default(), Instant::now());
        let count = packets.len();
        for (index, packet) in packets.iter().enumerate() {
            match feed(&mut table, now, packet) {
                Outcome::Kept => {
                    prop_assert!(index + 1 < count);
                    if repeat {
                        prop_assert_eq!(feed(&mut table, now, packet), Outcome::Kept);
                    }
                }
                Outcome::Whole(whole) => {
                    prop_assert_eq!(index + 1, count);
                    let read =
                        Datagram::from_segment(whole.source, whole.destination, whole.ttl, &whole.payload, Checksum::Final);
                    prop_assert_eq!(read.map(|it| it.payload.to_vec()), Ok(payload.clone()));
                }
                Outcome::Refused => prop_assert!(false, "refused"),
            }
        }
        prop_assert_eq!((table.bytes(), table.take_given_up()), (0, 0));
    }

    #[test]
    fn hostile_fragments_never_panic_or_grow_the_table(
        pieces in proptest::collection::vec((0u16..0x2000, any::<bool>(), 0usize..200, 0u16..6), 0..200),
    ) {
        let (mut table, now) = (Reassembly::default(), Instant::now());
        for (offset, more, len, ident) in pieces {
            let mut packet = piece(offset & 0x3f, more, &vec![7; len]);
            packet[4..6].copy_from_slice(&ident.to_be_bytes());
            write_header_checksum(&mut packet[..20]);
            if let Outcome::Whole(whole) = feed(&mut table, now, &packet) {
                prop_assert!(whole.payload.iter().all(|&byte| byte == 7));
            }
            prop_assert!(table.partials.len() <= MAX_PER_SENDER);
        }
    }
}

//! Planning: what joins, what ends a run, and that nothing is changed by it.

use proptest::prelude::*;

use super::super::offload::{Incoming, Offload};
use super::super::segment::Segments;
use super::super::testing::PacketSpec;
use super::*;

const BOTH: Coalescing = Coalescing { tcp: true, udp: true };
const ETHERNET: [u8; ETHERNET_LEN] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

fn batch(packets: &[Vec<u8>]) -> PacketBatch {
    let mut batch = PacketBatch::new();
    for packet in packets {
        assert!(batch.push(packet));
    }
    batch
}

fn plan(batch: &PacketBatch) -> WritePlan {
    let mut plan = WritePlan::default();
    plan.build(batch, &ETHERNET, BOTH);
    plan
}

/// Writes the plan out and reads it back as the other end of a device would.
fn round_trip(batch: &PacketBatch, plan: &WritePlan) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for run in plan.runs() {
        let mut frame = plan.header(run).to_vec();
        run.payloads(batch).for_each(|part| frame.extend_from_slice(part));
        assert_eq!(frame[10..24], ETHERNET);
        let incoming = Incoming::from_frame(&frame).expect("a planned frame is well-formed");
        assert_eq!(incoming.offload == Offload::None, run.kind == RunKind::Single);
        let mut segments = Segments::new(incoming).expect("a planned run splits");
        assert_eq!(segments.count(), run.packets.len());
        assert_eq!(segments.bytes() as u64, run.bytes);
        let mut parts = PacketBatch::new();
        assert!(segments.fill(&mut parts));
        out.extend(parts.iter().map(<[u8]>::to_vec));
    }
    out
}

fn tcp_run(count: usize, size: usize, tail: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            let last = n + 1 == count;
            PacketSpec {
                id: 0xfffe_u16.wrapping_add(n as u16),
                seq: (u32::MAX - 3000).wrapping_add((n * size) as u32),
                flags: if last { 0x18 } else { 0x10 },
                tcp_options: 12,
                ..PacketSpec::tcp(if last { tail } else { size })
            }
            .build()
        })
        .collect()
}

fn kinds(plan: &WritePlan) -> Vec<(RunKind, usize)> {
    plan.runs().iter().map(|run| (run.kind, run.packets.len())).collect()
}

#[test]
fn a_tcp_stream_becomes_one_run() {
    let packets = tcp_run(40, 1308, 500);
    let batch = batch(&packets);
    let plan = plan(&batch);
    assert_eq!(kinds(&plan), [(RunKind::Tcp, 40)]);
    let (virtio, _) = VirtioHeader::parse(plan.header(&plan.runs()[0])).unwrap();
    assert_eq!((virtio.gso_size, virtio.hdr_len, virtio.csum_start), (1308, 14 + 52, 34));
    assert_eq!(round_trip(&batch, &plan), packets);
}

#[test]
fn runs_end_at_the_longest_ip_packet_and_the_most_udp_segments() {
    let packets = tcp_run(100, 1308, 1308);
    let planned = batch(&packets);
    assert_eq!(kinds(&plan(&planned)), [(RunKind::Tcp, 50), (RunKind::Tcp, 50)]);
    assert_eq!(round_trip(&planned, &plan(&planned)), packets);
    let packets: Vec<_> = (0..100).map(|n| PacketSpec { id: n, ..PacketSpec::udp(100) }.build()).collect();
    let planned = batch(&packets);
    assert_eq!(kinds(&plan(&planned)), [(RunKind::Udp, 64), (RunKind::Udp, 36)]);
    assert_eq!(round_trip(&planned, &plan(&planned)), packets);
}

#[test]
fn each_rule_ends_a_run() {
    let base = PacketSpec { seq: 1000, id: 1, ..PacketSpec::tcp(100) };
    let next = PacketSpec { seq: 1100, id: 2, ..base };
    let joined = |first: &PacketSpec, second: Vec<u8>| plan(&batch(&[first.build(), second])).runs().len() == 1;
    assert!(joined(&base, next.build()));
    let alone = [
        PacketSpec { seq: 1101, ..next.clone() },
        PacketSpec { id: 3, ..next.clone() },
        PacketSpec { ports: (4001, 5000), ..next.clone() },
        PacketSpec { destination: [10, 66, 0, 3].into(), ..next.clone() },
        PacketSpec { dont_fragment: true, ..next.clone() },
        PacketSpec { payload: 101, ..next.clone() },
        PacketSpec { payload: 0, ..next.clone() },
        PacketSpec { tcp_options: 4, ..next.clone() },
        PacketSpec { tcp: false, ..next },
    ];
    for spec in &alone {
        assert!(!joined(&base, spec.build()), "{spec:?}");
    }
    for flag in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80] {
        assert!(!joined(&base, PacketSpec { flags: 0x10 | flag, ..next.clone() }.build()), "flag {flag:#x}");
    }
    assert!(!joined(&PacketSpec { flags: 0x18, ..base }, next.build()), "after PSH");
    assert!(!joined(&PacketSpec { payload: 100, ..base }, {
        let mut damaged = next.build();
        *damaged.last_mut().unwrap() ^= 1;
        damaged
    }));
    // Window, TTL, type of service; the checksums are put right so that only the rule can tell.
    for at in [1, 8, 34] {
        let mut packet = next.build();
        packet[at] ^= 4;
        ip::write_header_checksum(&mut packet[..20]);
        packet[36..38].fill(0);
        let ip = Ipv4Packet::parse(&packet).unwrap();
        let value = ip::transport_checksum(ip.source(), ip.destination(), ip::TCP, ip.payload());
        packet[36..38].copy_from_slice(&value.to_be_bytes());
        assert_eq!(Ipv4Packet::parse(&packet).unwrap().transport_checksum_ok(), Some(true));
        assert!(!joined(&base, packet), "byte {at}");
    }
    let udp = PacketSpec::udp(100);
    let mut unchecked = PacketSpec { id: 8, ..udp }.build();
    assert!(joined(&udp, unchecked.clone()));
    unchecked[26..28].fill(0);
    assert!(!joined(&udp, unchecked), "UDP without checksum");
}

#[test]
fn atomic_datagrams_need_no_identification() {
    let spec = PacketSpec { id: 0, dont_fragment: true, ..PacketSpec::udp(900) };
    assert_eq!(kinds(&plan(&batch(&vec![spec.build(); 5]))), [(RunKind::Udp, 5)]);
}

#[test]
fn what_the_device_cannot_take_stays_single_and_garbage_is_counted() {
    let mut packets: Vec<_> = (0..3).map(|n| PacketSpec { id: n, ..PacketSpec::udp(100) }.build()).collect();
    packets.push(vec![0x60; 40]);
    packets.extend(tcp_run(3, 100, 100));
    let batch = batch(&packets);
    let mut plan = WritePlan::default();
    plan.build(&batch, &ETHERNET, Coalescing { tcp: true, udp: false });
    assert_eq!(kinds(&plan), [(RunKind::Single, 1), (RunKind::Single, 1), (RunKind::Single, 1), (RunKind::Tcp, 3)]);
    assert_eq!(plan.malformed(), 1);
    plan.build(&batch, &ETHERNET, BOTH);
    assert_eq!(kinds(&plan), [(RunKind::Udp, 3), (RunKind::Tcp, 3)], "a plan can be reused");
}

fn specs() -> impl Strategy<Value = Vec<PacketSpec>> {
    let step = (any::<bool>(), 0u8..8, 0usize..4, prop::bool::weighted(0.9), prop::bool::weighted(0.1), any::<bool>());
    proptest::collection::vec(step, 1..100).prop_map(|steps| {
        let (mut seq, mut id, mut size, mut tcp) = (u32::MAX - 2000, 0xfff0_u16, 100, true);
        steps
            .into_iter()
            .map(|(new_kind, change, size_pick, contiguous, push, dont_fragment)| {
                if change == 0 {
                    tcp = new_kind;
                    size = [1, 60, 100, 700][size_pick];
                }
                let payload = if change == 1 { size / 2 } else { size };
                seq = if contiguous { seq } else { seq.wrapping_add(1) };
                let spec = PacketSpec {
                    tcp,
                    payload,
                    id,
                    seq,
                    dont_fragment: dont_fragment && change == 2,
                    flags: if push { 0x18 } else { 0x10 },
                    ..PacketSpec::udp(0)
                };
                seq = seq.wrapping_add(payload as u32);
                id = id.wrapping_add(1);
                spec
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn splitting_a_plan_gives_the_packets_back(specs in specs()) {
        let packets: Vec<_> = specs.iter().map(PacketSpec::build).collect();
        let batch = batch(&packets);
        prop_assert_eq!(round_trip(&batch, &plan(&batch)), packets);
    }

    #[test]
    fn damaged_packets_pass_as_they_are(
        specs in specs(), damage in proptest::collection::vec((0usize..100, 20usize..200, 1u8..), 1..8),
    ) {
        let mut packets: Vec<_> = specs.iter().map(PacketSpec::build).collect();
        for (which, at, flip) in damage {
            let which = which % packets.len();
            let at = at % packets[which].len();
            // Not the version, header length and total length: that would make them malformed instead.
            if at >= 4 {
                packets[which][at] ^= flip;
            }
        }
        let batch = batch(&packets);
        let plan = plan(&batch);
        let out = round_trip(&batch, &plan);
        prop_assert_eq!(out, packets);
    }

    #[test]
    fn random_bytes_never_panic(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20), shape: bool,
    ) {
        let mut planned = PacketBatch::new();
        for mut packet in packets {
            if shape && packet.len() >= 20 {
                let len = packet.len() as u16;
                packet[0] = 0x45;
                packet[2..4].copy_from_slice(&len.to_be_bytes());
                packet[6..8].fill(0);
                packet[9] = if packet[9] & 1 == 0 { ip::TCP } else { ip::UDP };
            }
            let _ = planned.push(&packet);
        }
        let plan = plan(&planned);
        let written: usize = plan.runs().iter().map(|run| run.packets.len()).sum();
        prop_assert_eq!(written as u64 + plan.malformed(), planned.len() as u64);
    }
}

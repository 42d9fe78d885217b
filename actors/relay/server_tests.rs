use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::relay::frame::{ASK, FORWARD};
use crate::wire::stream_addr;

const UNIX: u64 = 1_800_000_000;

fn server(limits: Limits) -> (RelayServer, Instant) {
    let now = Instant::now();
    (RelayServer::new(now, &[1; 32], limits, [2; 32]), now)
}

fn client(n: u32) -> SocketAddr {
    (std::net::Ipv4Addr::from(0x0a00_0000 | n), 4000).into()
}

fn payload(kind: u8, len: usize) -> Vec<u8> {
    let mut payload = vec![0xAB; len];
    payload[..4].copy_from_slice(&[kind, 0, 0, 0]);
    payload
}

fn ticket(server: &mut RelayServer, now: Instant, unix: u64, of: SocketAddr) -> TicketFrame {
    let answer = server.handle_ask(now, unix, of, &Ask { id: 7 }.encode()).unwrap();
    TicketFrame::parse(&answer).unwrap()
}

fn forward(token: &RelayToken, payload: &[u8]) -> Vec<u8> {
    [&Forward::header(token)[..], payload].concat()
}

/// All that went out, by datagram.
fn run(
    server: &mut RelayServer,
    now: Instant,
    unix: u64,
    from: SocketAddr,
    datagrams: &[Vec<u8>],
) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut out = Vec::new();
    server.handle_forward(now, unix, from, datagrams.iter().map(Vec::as_slice), &mut out);
    out.iter()
        .flat_map(|batch| batch.contents().chunks(batch.segment_size()).map(|it| (batch.destination(), it.to_vec())))
        .collect()
}

fn dropped(counters: RelayCounters) -> BTreeMap<&'static str, u64> {
    let c = counters;
    [
        ("malformed", c.dropped_malformed),
        ("payload", c.dropped_payload),
        ("forged", c.dropped_forged),
        ("expired", c.dropped_expired),
        ("address", c.dropped_address),
        ("source", c.dropped_source_limit),
        ("destination", c.dropped_destination_limit),
        ("total", c.dropped_total_limit),
        ("ask", c.dropped_ask_limit),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .collect()
}

#[test]
fn a_client_is_told_its_address_and_reached_by_its_token() {
    let (mut server, now) = server(Limits::MEMBER);
    for receiver in [client(1), "[2001:db8::1]:9".parse().unwrap(), stream_addr(3)] {
        let answer = ticket(&mut server, now, UNIX, receiver);
        assert_eq!((answer.id, answer.observed, answer.expires), (7, receiver, 1_800_000_600));
        for kind in [1, 2, 3, 4, 0x90] {
            let payload = payload(kind, 76);
            let out = run(&mut server, now, UNIX, client(2), &[forward(&answer.token, &payload)]);
            assert_eq!(out, [(receiver, [&[FORWARDED][..], &payload].concat())]);
        }
    }
    assert_eq!((server.counters().asks_answered, server.counters().forwarded), (3, 15));
    assert!(dropped(server.counters()).is_empty());
}

#[test]
fn one_receive_call_leaves_as_one_batch_per_receiver() {
    let (mut server, now) = server(Limits::MEMBER);
    let tokens = [1, 2].map(|n| ticket(&mut server, now, UNIX, client(n)).token);
    let to = |n: usize, len| forward(&tokens[n], &payload(4, len));
    let datagrams = [to(0, 1392), to(0, 1392), to(0, 96), to(1, 96), to(1, 96), to(0, 1392)];
    let mut out = Vec::new();
    server.handle_forward(now, UNIX, client(9), datagrams.iter().map(Vec::as_slice), &mut out);
    let shapes: Vec<_> = out.iter().map(|it| (it.destination(), it.segments(), it.segment_size())).collect();
    assert_eq!(shapes, [(client(1), 3, 1393), (client(2), 2, 97), (client(1), 1, 1393)]);
}

#[test]
fn a_restart_with_the_same_identity_loses_nothing() {
    let (mut old, now) = server(Limits::MEMBER);
    let token = ticket(&mut old, now, UNIX, client(1)).token;
    let mut new = RelayServer::new(now, &[1; 32], Limits::MEMBER, [3; 32]);
    assert_eq!(run(&mut new, now, UNIX + 1, client(2), &[forward(&token, &payload(4, 32))]).len(), 1);
}

#[test]
fn foreign_damaged_and_expired_tokens_forward_nothing() {
    let (mut server, now) = server(Limits::MEMBER);
    let mut other = RelayServer::new(now, &[9; 32], Limits::MEMBER, [2; 32]);
    let foreign = ticket(&mut other, now, UNIX, client(1)).token;
    let own = ticket(&mut server, now, UNIX, client(1)).token;
    let mut damaged = own.bytes();
    damaged[20] ^= 1;
    for token in [foreign, RelayToken::new(damaged), RelayToken::new([0; 50])] {
        assert!(run(&mut server, now, UNIX, client(2), &[forward(&token, &payload(4, 32))]).is_empty());
    }
    let own = [forward(&own, &payload(4, 32))];
    assert_eq!(run(&mut server, now, UNIX + 599, client(2), &own).len(), 1, "now it is in the cache");
    assert!(run(&mut server, now, UNIX + 600, client(2), &own).is_empty(), "which knows the time as well");
    assert!(run(&mut server, now, UNIX + 100_000, client(2), &own).is_empty());
    assert_eq!(dropped(server.counters()), BTreeMap::from([("forged", 3), ("expired", 2)]));
}

#[test]
fn an_address_that_did_not_ask_gets_nothing() {
    let (mut server, now) = server(Limits::MEMBER);
    // A forged Ask: the answer goes to the victim, as long as the question, and the forger does not see the token.
    let victim = client(1);
    let ask = Ask { id: 7 }.encode();
    let answer = server.handle_ask(now, UNIX, victim, &ask).unwrap();
    assert!(answer.len() <= ask.len());
    // What can be had is a token for one's own address; it cannot be turned towards another.
    let own = ticket(&mut server, now, UNIX, client(2)).token.bytes();
    for at in 12..34 {
        for bit in 0..8 {
            let mut turned = own;
            turned[at] ^= 1 << bit;
            let datagram = forward(&RelayToken::new(turned), &payload(4, 32));
            assert!(run(&mut server, now, UNIX, client(2), &[datagram]).is_empty());
        }
    }
    for nowhere in
        ["0.0.0.0:5", "10.0.0.1:0", "224.0.0.1:5", "255.255.255.255:5", "[fe80::1]:5", "[ff02::1]:5", "[::]:1"]
    {
        assert_eq!(server.handle_ask(now, UNIX, nowhere.parse().unwrap(), &ask), None, "{nowhere}");
    }
    assert_eq!(dropped(server.counters()), BTreeMap::from([("forged", 176), ("address", 7)]));
}

#[test]
fn a_replay_is_forwarded_once_for_each_time_it_is_sent() {
    let (mut server, now) = server(Limits::MEMBER);
    let token = ticket(&mut server, now, UNIX, client(1)).token;
    let datagram = forward(&token, &payload(4, 32));
    let out = run(&mut server, now, UNIX, client(666), &vec![datagram; 5]);
    assert_eq!(out.len(), 5);
}

#[test]
fn no_relay_frame_travels_in_a_relay_frame() {
    let (mut server, now) = server(Limits::MEMBER);
    let token = ticket(&mut server, now, UNIX, client(1)).token;
    let ours =
        [forward(&token, &payload(4, 32)), Ask { id: 1 }.encode().to_vec(), [&[FORWARDED], &[4; 40][..]].concat()];
    for inner in ours.into_iter().chain([payload(0, 40), payload(5, 40), payload(4, 31), vec![]]) {
        assert!(run(&mut server, now, UNIX, client(2), &[forward(&token, &inner)]).is_empty(), "{inner:?}");
    }
    assert_eq!(dropped(server.counters()), BTreeMap::from([("payload", 7)]));
}

const FLOOD_S: u64 = 4;

/// Sends every millisecond for some seconds what `each` says; returns how many bytes and packets came through.
fn flood(
    server: &mut RelayServer,
    start: Instant,
    each: &mut dyn FnMut(u64) -> Vec<(SocketAddr, Vec<Vec<u8>>)>,
) -> (u64, u64) {
    let before = server.counters();
    for step in 0..FLOOD_S * 1_000 {
        for (from, datagrams) in each(step) {
            let mut out = Vec::new();
            let now = start + Duration::from_millis(step);
            server.handle_forward(now, UNIX, from, datagrams.iter().map(Vec::as_slice), &mut out);
            assert!(out.iter().map(TransmitBatch::segments).sum::<usize>() <= datagrams.len());
        }
    }
    let after = server.counters();
    (after.forwarded_bytes - before.forwarded_bytes, after.forwarded - before.forwarded)
}

/// Whether `got` is what `rate` a second and the burst allow, and not much less.
fn is_share(got: u64, rate: u64) -> bool {
    let share = FLOOD_S * rate;
    got > share * 9 / 10 && got < share * 11 / 10
}

#[test]
fn one_flooder_gets_a_hosts_share() {
    let (mut server, now) = server(Limits::MEMBER);
    let token = ticket(&mut server, now, UNIX, client(1)).token;
    // 110 Mbit/s.
    let (bytes, _) = flood(&mut server, now, &mut |_| vec![(client(2), vec![forward(&token, &payload(4, 1392)); 10])]);
    assert!(is_share(bytes, Limits::MEMBER.host_bits_per_s / 8), "{bytes}");
    // 20,000 small ones a second.
    let (_, packets) = flood(&mut server, now + Duration::from_secs(20), &mut |_| {
        vec![(client(2), vec![forward(&token, &payload(4, 32)); 20])]
    });
    assert!(is_share(packets, Limits::MEMBER.host_packets_per_s), "{packets}");
}

#[test]
fn a_hundred_thousand_senders_to_one_receiver_get_one_receivers_share() {
    let (mut server, now) = server(Limits::DEDICATED);
    let memory = server.memory();
    let token = ticket(&mut server, now, UNIX, client(1)).token;
    let datagram = vec![forward(&token, &payload(4, 1392))];
    let mut sender = 1_000;
    let (bytes, _) = flood(&mut server, now, &mut |_| {
        sender += 25;
        (sender..sender + 25).map(|n| (client(n), datagram.clone())).collect()
    });
    assert!(sender > 100_000);
    assert!(is_share(bytes, Limits::DEDICATED.host_bits_per_s / 8), "{bytes}");
    assert_eq!(dropped(server.counters()).into_keys().collect::<Vec<_>>(), ["destination"]);
    // Others get through all the same: what was refused has cost the senders' buckets nothing.
    let other = ticket(&mut server, now, UNIX, client(5)).token;
    let late = now + Duration::from_millis(FLOOD_S * 1_000 - 1);
    assert_eq!(run(&mut server, late, UNIX, client(6), &[forward(&other, &payload(4, 200))]).len(), 1);
    assert_eq!(server.memory(), memory);
}

#[test]
fn a_hundred_thousand_senders_to_a_thousand_receivers_share_the_whole_and_memory_stays() {
    let (mut server, now) = server(Limits::MEMBER);
    let memory = server.memory();
    assert!(memory < 1_100_000, "{memory}");
    let datagrams: Vec<_> = (0..1_000)
        .map(|n| vec![forward(&ticket(&mut server, now, UNIX, client(n)).token, &payload(4, 1392))])
        .collect();
    let mut sender = 1_000;
    let (bytes, _) = flood(&mut server, now, &mut |_| {
        sender += 25;
        (sender..sender + 25).map(|n| (client(n), datagrams[n as usize % 1_000].clone())).collect()
    });
    assert!(is_share(bytes, Limits::MEMBER.total_bits_per_s / 8), "{bytes}");
    assert_eq!(server.memory(), memory);
}

#[test]
fn a_game_gets_through_while_copies_fill_the_relay() {
    let (mut server, now) = server(Limits::MEMBER);
    let copies: Vec<_> = (0..8).map(|n| ticket(&mut server, now, UNIX, client(n)).token).collect();
    let game = ticket(&mut server, now, UNIX, client(50)).token;
    let mut lost = 0;
    for step in 0..4_000u64 {
        let now = now + Duration::from_millis(step);
        // Eight of 16 Mbit/s each: 128 Mbit/s where 50 fit.
        for (n, token) in (100..).zip(&copies) {
            if step % 2 == 0 {
                run(
                    &mut server,
                    now,
                    UNIX,
                    client(n),
                    &[forward(token, &payload(4, 1392)), forward(token, &payload(4, 1392))],
                );
            }
        }
        if step % 16 == 0 {
            lost += 1 - run(&mut server, now, UNIX, client(60), &[forward(&game, &payload(4, 300))]).len();
        }
    }
    assert!(server.counters().dropped_total_limit > 10_000, "{:?}", server.counters());
    assert_eq!(lost, 0);
}

#[test]
fn questions_are_limited_by_sender_and_in_all() {
    let (mut server, now) = server(Limits::MEMBER);
    let ask = Ask { id: 1 }.encode();
    let mut answered = |from: &dyn Fn(u32) -> SocketAddr| {
        (0..100_000).filter(|&n| server.handle_ask(now, UNIX, from(n), &ask).is_some()).count() as u64
    };
    assert_eq!(answered(&|n| (client(1).ip(), 1 + (n % 60_000) as u16).into()), 2 * Limits::MEMBER.host_asks_per_s);
    let all = answered(&|n| client(100 + n));
    assert!(all <= 2 * Limits::MEMBER.total_asks_per_s && all > 3_000, "{all}");
    assert!(server.handle_ask(now + Duration::from_secs(2), UNIX, client(1), &ask).is_some());
}

#[test]
fn limits_can_be_changed_at_work() {
    let (mut server, now) = server(Limits::MEMBER);
    let token = ticket(&mut server, now, UNIX, client(1)).token;
    server.set_limits(Limits { host_packets_per_s: 40, ..Limits::MEMBER });
    let out = run(&mut server, now, UNIX, client(2), &vec![forward(&token, &payload(4, 32)); 64]);
    assert_eq!(out.len(), 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, in whatever order: at most one out for one in, shorter than it, to an address that asked, with a
    /// payload that was sent, and every datagram is accounted for.
    #[test]
    fn one_in_at_most_one_out(
        datagrams in proptest::collection::vec(
            (0u8..8, 0usize..3, proptest::collection::vec(any::<u8>(), 0..200), any::<u16>()), 0..60),
    ) {
        let (mut server, now) = server(Limits::MEMBER);
        let mut foreign = RelayServer::new(now, &[9; 32], Limits::MEMBER, [2; 32]);
        let tokens: Vec<_> = (0..3).map(|n| ticket(&mut server, now, UNIX, client(n)).token).collect();
        let strange = ticket(&mut foreign, now, UNIX, client(7)).token;
        let made: Vec<Vec<u8>> = datagrams.into_iter().map(|(kind, n, bytes, at)| {
            let inner: Vec<u8> = [&[1 + kind % 4, 0, 0, 0][..], &bytes].concat();
            match kind {
                0..=3 => forward(&tokens[n], &inner),
                4 => forward(&strange, &inner),
                5 => forward(&tokens[n], &bytes),
                6 => {
                    let mut datagram = forward(&tokens[n], &inner);
                    let at = usize::from(at) % datagram.len();
                    datagram[at] ^= 0x10;
                    datagram
                }
                _ => [&[FORWARD, 1][..], &bytes].concat(),
            }
        }).collect();
        let out = run(&mut server, now, UNIX, client(9), &made);
        let count = server.counters();
        prop_assert_eq!(count.forwarded, out.len() as u64);
        prop_assert_eq!(out.len() as u64 + dropped(count).values().sum::<u64>(), made.len() as u64);
        prop_assert_eq!(count.forwarded_bytes, out.iter().map(|(_, it)| it.len() as u64).sum::<u64>());
        let mut sent = made.iter();
        for (to, datagram) in &out {
            prop_assert!((0..3).any(|n| client(n) == *to));
            prop_assert_eq!(datagram[0], FORWARDED);
            prop_assert!(may_be_relayed(&datagram[1..]));
            // In order, each from one that came in, and shorter than that.
            let from = sent.find(|came| came.get(FORWARD_HEADER..) == Some(&datagram[1..]));
            prop_assert!(from.is_some_and(|came| datagram.len() < came.len()));
        }
    }

    #[test]
    fn random_questions_are_answered_with_no_more_than_they_are(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), long in any::<bool>(), from in any::<SocketAddr>(),
    ) {
        let (mut server, now) = server(Limits::MEMBER);
        let mut bytes = bytes;
        if long {
            bytes.resize(82, 0);
            bytes[10..].fill(0);
            bytes[..2].copy_from_slice(&[ASK, 1]);
        }
        if let Some(answer) = server.handle_ask(now, UNIX, from, &bytes) {
            prop_assert!(answer.len() <= bytes.len());
        }
        prop_assert_eq!(run(&mut server, now, UNIX, from, &[bytes]), vec![]);
    }
}

//! The client against relays that a test answers for, in virtual time.

use proptest::prelude::*;

use super::*;
use crate::relay::frame::{Ask, TICKET};
use crate::relay::messages::RelaySource::{Configured, Dht};
use crate::wire::{RelayToken, stream_addr};

fn relay(n: u8) -> SocketAddr {
    ([198, 51, 100, n], 3478).into()
}

const OWN: &str = "203.0.113.7:4242";
const MS: Duration = Duration::from_millis(1);

/// Relays that answer after their round trip, a network that can be cut, and a clock.
struct World {
    client: RelayClient,
    now: Instant,
    start: Instant,
    /// Milliseconds, by relay.
    rtt: BTreeMap<SocketAddr, u64>,
    own: SocketAddr,
    on_the_way: Vec<(Instant, SocketAddr, Vec<u8>)>,
    asked: BTreeMap<SocketAddr, Vec<Duration>>,
    tokens: u64,
    relay_unix: u32,
    versions: Vec<(Duration, Vec<SocketAddr>)>,
}

impl World {
    fn new(relays: &[(u8, u64)]) -> Self {
        let now = Instant::now();
        let mut world = Self {
            client: RelayClient::new(now, [5; 32]),
            now,
            start: now,
            rtt: relays.iter().map(|&(n, rtt)| (relay(n), rtt)).collect(),
            own: OWN.parse().unwrap(),
            on_the_way: Vec::new(),
            asked: BTreeMap::new(),
            tokens: 0,
            relay_unix: 1_800_000_000,
            versions: Vec::new(),
        };
        for &(n, _) in relays {
            world.act(|client, now, out| client.know(now, relay(n), relay(n), Dht, out));
        }
        world
    }

    fn act(&mut self, act: impl FnOnce(&mut RelayClient, Instant, &mut Outputs)) {
        let mut out = Outputs::default();
        let version = self.client.version();
        act(&mut self.client, self.now, &mut out);
        for (to, ask) in out.asks {
            self.asked.entry(to).or_default().push(self.now - self.start);
            let Some(&rtt) = self.rtt.get(&to) else { continue };
            self.tokens += 1;
            let mut token = [0; 50];
            token[..8].copy_from_slice(&self.tokens.to_le_bytes());
            let elapsed = u32::try_from((self.now - self.start).as_secs()).unwrap();
            let ticket = TicketFrame {
                id: Ask::parse(&ask).unwrap().id,
                observed: self.own,
                expires: self.relay_unix + elapsed + LIFETIME_S,
                token: RelayToken::new(token),
            };
            self.on_the_way.push((self.now + MS * u32::try_from(rtt).unwrap(), to, ticket.encode().to_vec()));
        }
        if self.client.version() != version {
            self.versions.push((self.now - self.start, self.relays()));
        }
        assert!(self.client.tickets().len() <= MAX_TICKETS && self.client.view().len() <= MAX_RELAYS);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let answer =
                self.on_the_way.iter().enumerate().min_by_key(|(_, (at, ..))| *at).map(|(n, (at, ..))| (n, *at));
            let timer = self.client.poll_timeout().map(|(at, _)| at);
            match (answer, timer) {
                (Some((n, at)), _) if at <= end && timer.is_none_or(|timer| at <= timer) => {
                    self.now = self.now.max(at);
                    let (_, from, bytes) = self.on_the_way.remove(n);
                    self.act(|client, now, out| client.handle_ticket(now, from, &bytes, out));
                }
                (_, Some(at)) if at <= end => {
                    self.now = self.now.max(at);
                    self.act(|client, now, out| client.handle_timeout(now, out));
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn run_s(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    fn relays(&self) -> Vec<SocketAddr> {
        self.client.tickets().iter().map(|it| it.relay).collect()
    }

    fn legs(&mut self, legs: &[(u8, u64)]) {
        let legs: Vec<_> =
            legs.iter().map(|&(n, rtt)| FarLeg { relay: relay(n), rtt: Duration::from_millis(rtt) }).collect();
        self.act(|client, now, out| client.set_member_relays(now, &[], &legs, out));
    }
}

#[test]
fn the_two_nearest_are_kept_and_told_as_soon_as_they_answer() {
    let mut world = World::new(&[(1, 80), (2, 20), (3, 40), (4, 150)]);
    world.run_s(1);
    assert_eq!(world.relays(), [relay(2), relay(3)]);
    assert_eq!(world.client.tickets()[0].rtt, 200);
    assert_eq!(world.versions[0], (20 * MS, vec![relay(2)]), "the first answer is told at once");
    let observed = world.client.observed();
    assert_eq!(observed.len(), 4);
    assert!(observed.iter().all(|it| it.addr == OWN.parse().unwrap()));
}

#[test]
fn kept_ones_are_asked_every_15_s_others_each_minute_and_others_are_told_rarely() {
    let mut world = World::new(&[(1, 80), (2, 20), (3, 40)]);
    world.run_s(1);
    let told = world.versions.len();
    world.run_s(390);
    assert_eq!(world.versions.len(), told, "nothing new to tell");
    let gaps = |n: u8| {
        let at = &world.asked[&relay(n)];
        at.windows(2).skip(1).map(|pair| (pair[1] - pair[0]).as_secs()).collect::<Vec<_>>()
    };
    assert!(gaps(2).iter().chain(&gaps(3)).all(|gap| (13..=17).contains(gap)), "{:?}", gaps(2));
    assert!(gaps(1).iter().all(|gap| (52..=68).contains(gap)), "{:?}", gaps(1));
    let first = world.client.tickets().to_vec();
    world.run_s(40);
    assert_eq!(world.versions.len(), told + 1, "a third of the life is left: new tokens for both at once");
    for (old, new) in first.iter().zip(world.client.tickets()) {
        assert!(old.relay == new.relay && old.token != new.token && new.expires >= old.expires + 385);
    }
}

#[test]
fn questions_are_repeated_after_100_200_and_400_ms_and_then_less_and_less() {
    let mut world = World::new(&[]);
    world.act(|client, now, out| client.know(now, relay(1), relay(1), Configured, out));
    world.run_s(600);
    let at: Vec<_> = world.asked[&relay(1)].iter().map(Duration::as_millis).collect();
    assert_eq!(at[..9], [0, 100, 300, 700, 2500, 2600, 2800, 3200, 5000]);
    // Alone, so at least every ten seconds: the network may be back any time.
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] <= 10_800), "{at:?}");
    // And one that nobody answers for, named by others, gets few.
    let mut world = World::new(&[(1, 20)]);
    world.legs(&[(9, 10)]);
    world.run_s(590);
    assert_eq!(world.asked[&relay(9)].len(), 12);
}

#[test]
fn a_relay_that_dies_leaves_the_tickets_and_comes_back() {
    let mut world = World::new(&[(1, 10), (2, 20), (3, 30)]);
    world.run_s(1);
    world.rtt.remove(&relay(1));
    world.run_s(30);
    assert_eq!(world.relays(), [relay(2), relay(3)]);
    world.rtt.insert(relay(1), 10);
    world.run_s(90);
    assert_eq!(world.relays(), [relay(1), relay(2)]);
}

#[test]
fn a_lost_answer_or_two_change_nothing() {
    let mut world = World::new(&[(1, 10), (2, 20), (3, 30)]);
    world.run_s(1);
    let told = world.versions.len();
    world.rtt.remove(&relay(1));
    let asked = world.asked[&relay(1)].len();
    // A round and a half without answers.
    while world.asked[&relay(1)].len() < asked + 6 {
        world.run(100 * MS);
    }
    world.rtt.insert(relay(1), 10);
    world.run_s(60);
    assert_eq!((world.relays(), world.versions.len()), (vec![relay(1), relay(2)], told));
}

#[test]
fn a_dead_network_takes_no_tickets_back_and_all_are_asked_when_it_lives() {
    let mut world = World::new(&[(1, 10), (2, 20), (3, 200)]);
    world.run_s(1);
    let rtt = std::mem::take(&mut world.rtt);
    let told = world.versions.iter().filter(|(_, it)| it.is_empty()).count();
    world.run_s(120);
    assert_eq!(world.relays(), [relay(1), relay(2)]);
    assert_eq!(world.versions.iter().filter(|(_, it)| it.is_empty()).count(), told);
    world.rtt = rtt;
    world.run_s(14);
    assert!(world.client.view().iter().all(|it| it.answers), "{:?}", world.client.view());
    // Beyond their lifetime they are of no use to anybody.
    world.rtt.clear();
    world.run_s(900);
    assert!(world.relays().is_empty());
}

#[test]
fn a_little_nearer_is_not_worth_a_change() {
    let mut world = World::new(&[(1, 40), (2, 41), (3, 43)]);
    world.run_s(1);
    assert_eq!(world.relays(), [relay(1), relay(2)]);
    let told = world.versions.len();
    world.rtt.insert(relay(3), 38);
    world.run_s(380);
    assert_eq!((world.relays(), world.versions.len()), (vec![relay(1), relay(2)], told));
    world.rtt.insert(relay(3), 15);
    world.run_s(600);
    assert_eq!(world.relays()[0], relay(3));
}

#[test]
fn relays_that_others_hold_are_kept_by_the_sum_of_both_legs() {
    let mut world = World::new(&[(1, 10), (2, 20)]);
    world.rtt.extend([(3, 60), (4, 30), (5, 50), (6, 40)].map(|(n, rtt)| (relay(n), rtt)));
    world.legs(&[(3, 5), (4, 200), (5, 30), (6, 100), (6, 20)]);
    world.run_s(2);
    // 3: 60 + 5, 5: 50 + 30, 6: 40 + (100 + 20) / 2, 4: 30 + 200.
    assert_eq!(world.relays(), [relay(1), relay(2), relay(5), relay(3)]);
    world.legs(&[(4, 10), (1, 5)]);
    world.run_s(2);
    assert_eq!(world.relays(), [relay(1), relay(2), relay(4)], "the nearest count once");
    let asked = world.client.view().iter().map(|it| it.relay).collect::<Vec<_>>();
    assert_eq!(asked, [relay(1), relay(2), relay(4)], "what nobody names any more is forgotten");
    world.legs(&[]);
    assert_eq!(world.relays(), [relay(1), relay(2)], "which others name too");
}

#[test]
fn two_ports_of_one_machine_are_one_relay() {
    let mut world = World::new(&[(1, 10), (2, 40)]);
    let other_port = SocketAddr::new(relay(1).ip(), 9);
    world.rtt.insert(other_port, 20);
    world.act(|client, now, out| client.know(now, other_port, other_port, Dht, out));
    world.run_s(2);
    assert_eq!(world.relays(), [relay(1), relay(2)]);
    world.rtt.remove(&relay(1));
    world.run_s(30);
    assert_eq!(world.relays(), [other_port, relay(2)], "in its place");
}

/// What one member tells changes what the others tell, so nothing may go and come back meanwhile.
#[test]
fn a_relay_that_members_go_on_naming_is_not_forgotten_in_between() {
    let mut world = World::new(&[]);
    world.rtt.insert(relay(7), 30);
    let tell = |world: &mut World, serving: &[SocketAddr], legs: &[FarLeg]| {
        world.act(|client, now, out| client.set_member_relays(now, serving, legs, out));
    };
    tell(&mut world, &[relay(7)], &[]);
    world.run_s(2);
    assert_eq!(world.relays(), [relay(7)]);
    let (version, asked) = (world.client.version(), world.client.counters().asked);
    let leg = |ms| FarLeg { relay: relay(7), rtt: Duration::from_millis(ms) };
    for ms in 0..20 {
        tell(&mut world, &[relay(7)], &[]);
        tell(&mut world, &[relay(7)], &[leg(ms)]);
        tell(&mut world, &[], &[leg(ms), leg(2 * ms)]);
    }
    assert_eq!((world.client.version(), world.client.counters().asked), (version, asked));
    tell(&mut world, &[], &[]);
    assert!(world.relays().is_empty() && world.client.view().is_empty());
}

#[test]
fn a_new_network_asks_all_at_once_and_tells_the_new_address() {
    let mut world = World::new(&[(1, 10), (2, 20), (3, 30)]);
    world.run_s(5);
    let (before, asked) = (world.client.tickets().to_vec(), world.asked.clone());
    world.own = "192.0.2.9:5".parse().unwrap();
    world.act(|client, now, out| client.restart(now, out));
    assert_eq!(world.client.tickets(), before, "until there are better ones");
    for n in 1..=3 {
        assert_eq!(world.asked[&relay(n)].len(), asked[&relay(n)].len() + 1);
    }
    world.run(50 * MS);
    assert!(world.client.observed().iter().all(|it| it.addr == world.own));
    assert!(world.client.tickets().iter().zip(&before).all(|(new, old)| new.token != old.token));
}

#[test]
fn an_answer_from_before_the_change_is_not_believed() {
    let mut world = World::new(&[(1, 500)]);
    world.run(50 * MS);
    let late = std::mem::take(&mut world.on_the_way);
    world.act(|client, now, out| client.restart(now, out));
    for (_, from, bytes) in late {
        world.act(|client, now, out| client.handle_ticket(now, from, &bytes, out));
    }
    assert!(world.client.tickets().is_empty());
    assert_eq!(world.client.counters().dropped_tickets, 1);
}

#[test]
fn a_relay_whose_clock_was_set_is_told_anew() {
    let mut world = World::new(&[(1, 10)]);
    world.run_s(5);
    let old = world.client.tickets()[0];
    world.relay_unix -= 3_600;
    world.run_s(20);
    assert!(world.client.tickets()[0].expires < old.expires);
}

#[test]
fn a_stream_reaches_it_and_others_are_told_its_address() {
    let mut world = World::new(&[]);
    world.rtt.insert(stream_addr(1), 30);
    world.own = stream_addr(77);
    world.act(|client, now, out| client.know(now, relay(1), stream_addr(1), Configured, out));
    world.act(|client, now, out| client.know(now, relay(1), relay(1), Configured, out));
    world.run_s(1);
    assert_eq!(world.relays(), [relay(1)]);
    assert!(world.client.observed().is_empty(), "the relay's name for the stream is no address");
    assert!(world.client.view().iter().any(|it| it.over_tcp && it.held));
}

#[test]
fn relays_beyond_the_bound_take_the_place_of_worse_ones_only() {
    let mut world = World::new(&[]);
    for n in 0..20 {
        world.act(|client, now, out| client.know(now, relay(n), relay(n), Dht, out));
    }
    assert_eq!(world.client.view().len(), MAX_RELAYS);
    assert_eq!(world.client.counters().dropped_relays, 4);
    world.act(|client, now, out| client.know(now, relay(50), relay(50), Configured, out));
    // None answers, so they give way.
    world.run_s(60);
    for n in 100..140 {
        world.act(|client, now, out| client.know(now, relay(n), relay(n), Dht, out));
    }
    let known: Vec<_> = world.client.view().iter().map(|it| it.relay).collect();
    assert!(known.contains(&relay(50)) && known.contains(&relay(100)) && !known.contains(&relay(1)));
    for (n, bad) in ["0.0.0.0:1", "192.0.2.1:0", "224.0.0.1:5", "[100::1]:1"].iter().enumerate() {
        let dropped = world.client.counters().dropped_relays;
        let bad = bad.parse().unwrap();
        world.act(|client, now, out| client.know(now, bad, bad, Configured, out));
        assert_eq!(world.client.counters().dropped_relays, dropped + 1, "{n}");
    }
}

#[test]
fn a_member_that_names_ever_new_relays_does_not_make_a_flood() {
    let mut world = World::new(&[(1, 10)]);
    for n in 0..100 {
        world.legs(&[(2 + n, 1), (102 + n, 1)]);
        world.run_s(1);
    }
    let stray: usize = world.asked.iter().filter(|(to, _)| **to != relay(1)).map(|(_, at)| at.len()).sum();
    assert!(stray <= 4 * 100 + 64, "{stray}");
    assert_eq!(world.relays(), [relay(1)]);
}

proptest! {
    #[test]
    fn only_the_answer_of_the_one_that_was_asked_counts(
        bytes in proptest::collection::vec(any::<u8>(), 0..120), from in 0u8..4, id: u64, sized: bool,
    ) {
        let mut world = World::new(&[(1, 10), (2, 10)]);
        let stolen = world.on_the_way.clone();
        world.on_the_way.clear();
        let mut bytes = bytes;
        if sized {
            bytes.resize(82, 1);
            bytes[..2].copy_from_slice(&[TICKET, 1]);
            bytes[2..10].copy_from_slice(&id.to_le_bytes());
        }
        world.act(|client, now, out| client.handle_ticket(now, relay(from), &bytes, out));
        // The right answer from the wrong address: of another relay, of nobody.
        for (_, to, answer) in &stolen {
            for wrong in [relay(1), relay(2), (to.ip(), 9).into(), relay(77)].into_iter().filter(|it| it != to) {
                world.act(|client, now, out| client.handle_ticket(now, wrong, answer, out));
            }
        }
        prop_assert!(world.client.tickets().is_empty());
        // The right one counts once.
        let (_, from, answer) = &stolen[0];
        for _ in 0..2 {
            world.act(|client, now, out| client.handle_ticket(now, *from, answer, out));
        }
        prop_assert_eq!(world.client.tickets().len(), 1);
        prop_assert_eq!(world.client.counters().answered, 1);
    }
}

#[test]
fn a_doubt_asks_at_once_and_a_new_mapping_is_told() {
    let mut world = World::new(&[(1, 20), (2, 40), (3, 60)]);
    world.run_s(60);
    let before = world.client.tickets().to_vec();
    let asked = |world: &World, n| world.asked[&relay(n)].len();
    let counts = [1, 2, 3].map(|n| asked(&world, n));
    world.own = "203.0.113.7:9999".parse().unwrap();
    // Each member may doubt.
    for _ in 0..255 {
        world.act(RelayClient::doubt);
    }
    let more = [1, 2, 3].map(|n| asked(&world, n) - counts[n as usize - 1]);
    assert_eq!(more, [1, 1, 0], "the two whose tickets others have, once each");
    let start = world.now;
    world.run(50 * MS);
    assert!(world.client.observed().iter().any(|it| it.addr == world.own));
    let tickets = world.client.tickets();
    assert!(tickets.iter().all(|it| before.iter().all(|old| old.token != it.token)), "{tickets:?}");
    // Doubt without end is bounded.
    let counts = [1, 2].map(|n| asked(&world, n));
    while world.now < start + Duration::from_secs(10) {
        world.act(RelayClient::doubt);
        world.run(10 * MS);
    }
    for (n, before) in [1, 2].into_iter().zip(counts) {
        let more = asked(&world, n) - before;
        assert!((20..=26).contains(&more), "{more} in ten seconds");
    }
}

use std::time::Duration;

use super::super::model::{Manner, ModelNat, ModelServer, OUTSIDE, Ports, World};
use super::super::stun::{Change, TransactionId};
use super::*;
use crate::wire::Dependence::{self, AddressAndPortDependent, AddressDependent, EndpointIndependent, Unknown};

const OWN_PORT: u16 = 5000;
const KINDS: [Dependence; 3] = [EndpointIndependent, AddressDependent, AddressAndPortDependent];

fn own() -> SocketAddr {
    SocketAddr::from(([192, 168, 1, 9], OWN_PORT))
}

fn plain(number: u8) -> ModelServer {
    ModelServer { addr: SocketAddr::from(([192, 0, 2, number], 3478)), other: None, manner: Manner::Honest }
}

/// With two addresses, as RFC 5780 wants it.
fn full(number: u8) -> ModelServer {
    let other = SocketAddr::from(([192, 0, 2, number + 100], 3479));
    ModelServer { other: Some(other), ..plain(number) }
}

/// With two ports of one address: a LANrage node with two sockets.
fn two_ports(number: u8) -> ModelServer {
    ModelServer { other: Some(SocketAddr::from(([192, 0, 2, number], 3479))), ..plain(number) }
}

fn with_manner(server: ModelServer, manner: Manner) -> ModelServer {
    ModelServer { manner, ..server }
}

struct Run {
    client: StunClient,
    world: World,
}

impl Run {
    fn start(nat: impl Into<Option<ModelNat>>, servers: &[ModelServer], trusted: bool) -> Self {
        let now = Instant::now();
        let mut client = StunClient::new(now, [7; 32]);
        client.set_local(OWN_PORT, &[own().ip()]);
        let listed: Vec<_> = servers.iter().map(|it| Server { addr: it.addr, trusted }).collect();
        client.set_servers(now, &listed);
        Self { client, world: World::new(now, own(), nat.into(), servers.to_vec()) }
    }

    fn nat(&mut self) -> &mut ModelNat {
        self.world.nat.as_mut().unwrap()
    }

    fn run(&mut self, time: Duration) {
        let end = self.world.now + time;
        loop {
            let now = self.world.now;
            for (from, bytes) in self.world.arrived() {
                self.client.handle(now, from, &bytes);
            }
            let mut out = Vec::new();
            self.client.poll(now, &mut |to, bytes| out.push((to, bytes.to_vec())));
            for (to, bytes) in out {
                self.world.send(to, &bytes);
            }
            let next = self.client.poll_timeout().into_iter().chain(self.world.next_arrival()).min();
            match next {
                Some(next) if next <= end => {
                    assert!(next > now || self.client.poll_timeout() != Some(now), "it spins");
                    self.world.now = next.max(now);
                }
                _ => break,
            }
        }
        self.world.now = end;
    }

    fn finished(mut self) -> FamilyReport {
        self.run(Duration::from_secs(6));
        assert!(self.client.v4().complete);
        self.client.v4().clone()
    }
}

fn behind(mapping: Dependence, filtering: Dependence, ports: Ports) -> ModelNat {
    ModelNat::new(mapping, filtering, ports)
}

#[test]
fn every_mapping_and_filter_is_told_from_the_others() {
    for mapping in KINDS {
        for filtering in KINDS {
            for servers in [vec![full(1)], vec![full(1), plain(2)], vec![plain(2), full(1), plain(3), full(4)]] {
                let report = Run::start(behind(mapping, filtering, Ports::Random), &servers, true).finished();
                let found = (report.nat.mapping, report.nat.filtering);
                assert_eq!(found, (mapping, filtering), "{} servers", servers.len());
                assert_eq!(report.public, Some(false));
                assert_eq!(report.nat.port_preserving, Some(false));
                assert_eq!(report.mapped.unwrap().ip(), IpAddr::from(OUTSIDE));
                assert!(!report.nat.udp_blocked);
            }
        }
    }
}

#[test]
fn the_first_answer_is_told_after_one_round_trip() {
    let servers = [plain(1), with_manner(plain(2), Manner::Silent)];
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Random), &servers, true);
    run.run(Duration::from_millis(25));
    assert!(run.client.v4().mapped.is_some() && !run.client.v4().complete);
    assert!(run.client.take_changed() && !run.client.take_changed());
}

#[test]
fn nodes_with_two_ports_tell_port_restricted_from_the_rest() {
    for (filtering, expected) in [
        (AddressAndPortDependent, AddressAndPortDependent),
        (AddressDependent, AddressDependent),
        // Cannot be told from the one before without a second address.
        (EndpointIndependent, AddressDependent),
    ] {
        let servers = [two_ports(1), plain(2), plain(3)];
        let nat = behind(EndpointIndependent, filtering, Ports::Preserved);
        assert_eq!(Run::start(nat, &servers, false).finished().nat.filtering, expected);
    }
}

#[test]
fn one_liar_among_three_changes_nothing() {
    for place in 0..3 {
        let mut servers = [plain(1), plain(2), plain(3)];
        servers[place].manner = Manner::Lies(9);
        for trusted in [false, true] {
            let nat = behind(EndpointIndependent, AddressDependent, Ports::Preserved);
            let report = Run::start(nat, &servers, trusted).finished();
            assert_eq!(report.nat.mapping, EndpointIndependent);
            assert_eq!(report.mapped, Some(SocketAddr::from((OUTSIDE, OWN_PORT))));
            assert_eq!(report.nat.port_preserving, Some(true));
        }
    }
}

#[test]
fn one_liar_of_two_makes_nothing_symmetric() {
    let servers = [full(1), with_manner(full(2), Manner::Lies(9))];
    let nat = || behind(EndpointIndependent, AddressDependent, Ports::Preserved);
    assert_eq!(Run::start(nat(), &servers, false).finished().nat.mapping, Unknown);
}

#[test]
fn servers_that_do_not_do_what_they_offer_prove_nothing() {
    let nat = || behind(EndpointIndependent, EndpointIndependent, Ports::Preserved);
    let stubborn = [with_manner(full(1), Manner::Stubborn), plain(2)];
    assert_eq!(Run::start(nat(), &stubborn, true).finished().nat.filtering, Unknown);
    // A deaf one looks like a filter, until another gets through.
    let deaf = with_manner(full(1), Manner::Deaf);
    assert_eq!(Run::start(nat(), &[deaf, plain(2)], true).finished().nat.filtering, AddressAndPortDependent);
    assert_eq!(Run::start(nat(), &[deaf, full(2)], true).finished().nat.filtering, EndpointIndependent);
}

#[test]
fn strangers_cannot_name_a_victim() {
    // A server that nobody configured says that it also answers at 192.0.2.101. It is asked at its own address only.
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Random), &[full(1)], false);
    run.run(Duration::from_secs(6));
    assert!(run.world.sent_to.iter().all(|to| to.ip() == full(1).addr.ip() || to.ip() == IpAddr::from(OUTSIDE)));
}

#[test]
fn ports_that_are_counted_are_predicted() {
    for step in [1, 2, -1] {
        let nat = behind(AddressAndPortDependent, AddressAndPortDependent, Ports::Counted(step));
        let mut run = Run::start(nat, &[plain(1), plain(2), plain(3), plain(4)], true);
        run.run(Duration::from_secs(6));
        assert_eq!(run.client.v4().nat.port_step, Some(step));
        let before = run.nat().maps_made();
        let next = SocketAddr::from((OUTSIDE, before.wrapping_add_signed(step)));
        assert_eq!(run.client.predicted().first(), Some(&next));
    }
    // One server with several ports will do.
    for servers in [[full(1)], [two_ports(1)]] {
        let nat = behind(AddressAndPortDependent, AddressAndPortDependent, Ports::Counted(1));
        let mut run = Run::start(nat, &servers, true);
        run.run(Duration::from_secs(6));
        let next = SocketAddr::from((OUTSIDE, run.nat().maps_made() + 1));
        assert!(run.client.predicted().contains(&next), "{:?}", run.client.v4());
    }
    let nat = behind(AddressAndPortDependent, AddressAndPortDependent, Ports::Random);
    let mut run = Run::start(nat, &[plain(1), plain(2), plain(3)], true);
    run.run(Duration::from_secs(6));
    assert_eq!((run.client.v4().nat.port_step, run.client.predicted().len()), (None, 0));
}

#[test]
fn hairpinning() {
    for hairpin in [true, false] {
        let mut run = Run::start(
            behind(EndpointIndependent, AddressAndPortDependent, Ports::Preserved),
            &[plain(1), plain(2)],
            true,
        );
        run.nat().hairpin = hairpin;
        assert_eq!(run.finished().nat.hairpin, Some(hairpin));
    }
}

#[test]
fn no_nat() {
    let mut run = Run::start(None, &[full(1), plain(2)], true);
    run.run(Duration::from_secs(6));
    let report = run.client.v4();
    assert_eq!((report.public, report.mapped), (Some(true), Some(own())));
    assert_eq!((report.nat.mapping, report.nat.filtering), (EndpointIndependent, EndpointIndependent));
    assert_eq!((report.nat.hairpin, report.nat.port_preserving), (None, Some(true)));
    // Another address of the machine takes over: the one that the servers see is no longer its own.
    run.client.set_local(OWN_PORT, &[IpAddr::from([10, 0, 0, 1])]);
    assert_eq!(run.client.v4().public, Some(false));
}

#[test]
fn udp_blocked_and_unblocked() {
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Random), &[plain(1), plain(2)], true);
    run.nat().blocked = true;
    run.run(Duration::from_millis(1000));
    assert!(!run.client.v4().nat.udp_blocked, "too early to say");
    run.run(Duration::from_secs(2));
    assert!(run.client.v4().nat.udp_blocked);
    // Four transmissions to each server, then one round each 20 s.
    assert_eq!(run.world.sent_to.len(), 8);
    run.run(Duration::from_secs(60));
    assert!((24..=40).contains(&run.world.sent_to.len()), "{}", run.world.sent_to.len());
    run.nat().blocked = false;
    run.run(Duration::from_secs(30));
    assert!(!run.client.v4().nat.udp_blocked && run.client.v4().mapped.is_some());
}

#[test]
fn without_a_network_nothing_is_blocked() {
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Random), &[plain(1)], true);
    run.client.set_local(OWN_PORT, &[]);
    run.nat().blocked = true;
    run.run(Duration::from_secs(6));
    assert!(!run.client.v4().nat.udp_blocked);
}

#[test]
fn loss_is_made_up_for() {
    for loss in [10, 40] {
        let nat = behind(EndpointIndependent, AddressDependent, Ports::Random);
        let mut run = Run::start(nat, &[full(1), plain(2), plain(3)], true);
        run.world.loss = loss;
        let report = run.finished();
        assert_eq!((report.nat.mapping, report.nat.filtering), (EndpointIndependent, AddressDependent));
    }
}

#[test]
fn one_server_keeps_the_mapping_alive() {
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Random), &[plain(1), plain(2)], true);
    run.run(Duration::from_secs(6));
    run.world.sent_to.clear();
    run.run(Duration::from_secs(200));
    assert!((9..=11).contains(&run.world.sent_to.len()), "{:?}", run.world.sent_to);
    assert!(run.world.sent_to.iter().all(|to| *to == run.world.sent_to[0]));
    // Every five minutes all are asked.
    run.run(Duration::from_secs(150));
    assert!(run.world.sent_to.contains(&plain(1).addr) && run.world.sent_to.contains(&plain(2).addr));
}

#[test]
fn another_server_takes_over() {
    let servers = [plain(1), plain(2)];
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Random), &servers, true);
    run.run(Duration::from_secs(6));
    let before = run.client.v4().mapped;
    run.world.servers.remove(0);
    run.run(Duration::from_secs(60));
    run.world.sent_to.clear();
    run.run(Duration::from_secs(100));
    assert!(run.world.sent_to.iter().filter(|to| **to == plain(2).addr).count() >= 4);
    assert_eq!(run.client.v4().mapped, before);
}

#[test]
fn a_new_mapping_is_seen_with_the_next_keepalive() {
    let servers = [plain(1), plain(2), plain(3)];
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Counted(7)), &servers, true);
    run.run(Duration::from_secs(6));
    let before = run.client.v4().mapped;
    run.nat().flush();
    run.client.take_changed();
    run.run(Duration::from_secs(26));
    let report = run.client.v4();
    assert!(report.mapped.is_some() && report.mapped != before && run.client.changed);
    assert_eq!(report.nat.mapping, EndpointIndependent);
}

/// A router that forgets its mappings has as many as before and after: that they differ makes it no symmetric one, whenever
/// it happens and whoever notices first. What is wrong now stays wrong for five minutes.
#[test]
fn a_nat_that_forgets_is_not_taken_for_symmetric() {
    for servers in [vec![two_ports(1)], vec![two_ports(1), two_ports(2)], vec![full(1), plain(2), plain(3)]] {
        for filtering in KINDS {
            for ms in (0..3_000).step_by(60) {
                for (relay_first, settle) in [(false, 0), (true, 0), (true, 4)] {
                    let settle = Duration::from_secs(settle);
                    let nat = behind(EndpointIndependent, filtering, Ports::Counted(7));
                    let mut run = Run::start(nat, &servers, true);
                    let relay = servers[0].addr;
                    for flush in 0..3 {
                        run.run(settle + Duration::from_millis(ms));
                        run.nat().flush();
                        if relay_first {
                            let seen = run.nat().seen_by(own().port(), relay);
                            run.client.note_observed(run.world.now, relay, seen, false);
                        }
                        for _ in 0..6 {
                            run.client.doubt(run.world.now);
                            run.run(Duration::from_millis(500));
                        }
                        let seen = run.nat().seen_by(own().port(), relay);
                        let report = run.client.v4();
                        let about = (servers.len(), filtering, ms, relay_first, flush);
                        assert!(!report.nat.mapping.is_symmetric(), "{about:?}");
                        assert_eq!(report.mapped, Some(seen), "{about:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_restart_forgets_and_asks_at_once() {
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Random), &[plain(1), plain(2)], true);
    run.run(Duration::from_secs(6));
    run.world.nat = Some(behind(AddressAndPortDependent, AddressDependent, Ports::Random));
    run.client.take_changed();
    run.client.restart(run.world.now);
    assert!(run.client.take_changed() && run.client.v4().mapped.is_none());
    run.run(Duration::from_secs(6));
    assert_eq!(run.client.v4().nat.mapping, AddressAndPortDependent);
}

#[test]
fn filters_are_not_asked_twice_by_what_is_open_now() {
    // The third stage opened the filter for the server's other addresses: asked again, all would pass.
    let mut run =
        Run::start(behind(AddressDependent, AddressAndPortDependent, Ports::Random), &[full(1), plain(2)], true);
    for _ in 0..3 {
        run.run(Duration::from_secs(6));
        assert_eq!(run.client.v4().nat.filtering, AddressAndPortDependent);
        run.client.restart(run.world.now);
    }
    run.run(Duration::from_secs(1300));
    assert_eq!(run.client.v4().nat.filtering, AddressAndPortDependent);
}

#[test]
fn what_relays_saw_counts_too() {
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Preserved), &[plain(1)], false);
    run.run(Duration::from_secs(6));
    assert_eq!(run.client.v4().nat.mapping, Unknown);
    let now = run.world.now;
    let seen = SocketAddr::from((OUTSIDE, OWN_PORT));
    run.client.note_observed(now, "192.0.2.77:1".parse().unwrap(), seen, false);
    assert_eq!(run.client.v4().nat.mapping, EndpointIndependent);
    // Nonsense does not.
    for mapped in ["0.0.0.0:1", "224.0.0.1:7", "[2001:db8::1]:7", "192.0.2.3:0"] {
        run.client.note_observed(now, "192.0.2.78:1".parse().unwrap(), mapped.parse().unwrap(), false);
    }
    // However many say something, few are kept, and the answers of servers are not displaced.
    for n in 0..100 {
        let relay = SocketAddr::from(([203, 0, 113, n], 1));
        run.client.note_observed(now, relay, SocketAddr::from(([203, 0, 113, 200], 7)), false);
    }
    assert_eq!(run.client.v4().servers.len(), 1);
}

#[test]
fn answers_count_once_and_only_from_whom_was_asked() {
    let now = Instant::now();
    let mut client = StunClient::new(now, [1; 32]);
    let server = plain(1).addr;
    client.set_servers(now, &[Server { addr: server, trusted: true }]);
    let mut asked = Vec::new();
    client.poll(now, &mut |to, bytes| asked.push((to, bytes.to_vec())));
    let Some(stun::Stun::Request(request)) = stun::parse(&asked[0].1) else { panic!() };
    assert_eq!((asked.len(), asked[0].0), (1, server));
    let answer = |id, mapped: &str| stun::success(id, mapped.parse().unwrap(), None, None, 99);
    let good = answer(request.id, "198.51.100.1:7");
    let foreign = answer(TransactionId(request.id.0 ^ 1), "198.51.100.1:7");
    let refused = [
        (plain(2).addr, &good),
        (SocketAddr::new(server.ip(), 1), &good),
        (server, &foreign),
        (server, &answer(request.id, "[2001:db8::1]:7")),
        (server, &answer(request.id, "0.0.0.0:7")),
        (server, &stun::request(request.id, Change::NONE, server)),
    ];
    for (from, bytes) in refused {
        assert!(!client.handle(now, from, bytes), "{from}");
    }
    assert_eq!(client.v4().mapped, None);
    assert!(client.handle(now, server, &good));
    assert_eq!(client.v4().mapped, Some("198.51.100.1:7".parse().unwrap()));
    // A copy that comes late changes nothing.
    assert!(!client.handle(now, server, &answer(request.id, "198.51.100.1:8")));
    assert_eq!(client.v4().mapped, Some("198.51.100.1:7".parse().unwrap()));
}

#[test]
fn the_list_of_servers_is_bounded_and_may_change() {
    let many: Vec<_> = (0..200).map(plain).collect();
    let mut run = Run::start(behind(EndpointIndependent, AddressDependent, Ports::Random), &many, true);
    run.run(Duration::from_secs(6));
    assert_eq!(run.client.v4().servers.len(), MAX_SERVERS);
    let now = run.world.now;
    run.client.set_servers(now, &[Server { addr: plain(150).addr, trusted: true }]);
    run.run(Duration::from_secs(6));
    assert_eq!(run.client.v4().servers.len(), 1);
    assert!(run.client.v4().servers[0].mapped.is_some());
    run.client.set_servers(run.world.now, &[]);
    assert_eq!(run.client.poll_timeout().filter(|at| *at > run.world.now), None);
    assert!(run.client.v4().servers.is_empty() && !run.client.v4().nat.udp_blocked);
}

#[test]
fn families_do_not_mix() {
    let now = Instant::now();
    let mut client = StunClient::new(now, [1; 32]);
    let v6: SocketAddr = "[2001:db8::1]:3478".parse().unwrap();
    client.set_servers(now, &[plain(1).addr, v6].map(|addr| Server { addr, trusted: true }));
    client.set_local(OWN_PORT, &["2001:db8::9".parse().unwrap()]);
    let mut asked = Vec::new();
    client.poll(now, &mut |to, bytes| asked.push((to, bytes.to_vec())));
    for (to, bytes) in asked {
        let Some(stun::Stun::Request(request)) = stun::parse(&bytes) else { panic!() };
        if to == v6 {
            let own = SocketAddr::from(("2001:db8::9".parse::<IpAddr>().unwrap(), OWN_PORT));
            assert!(client.handle(now, to, &stun::success(request.id, own, None, None, 99)));
        }
    }
    assert_eq!((client.v6().public, client.v4().public), (Some(true), None));
}

mod anything_at_all {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever servers do and whenever: it neither spins nor falls asleep, and never sends much.
        #[test]
        fn it_goes_on(steps in proptest::collection::vec((0..9u8, 0..30_000u64, 0..4u8), 1..60)) {
            let nat = behind(EndpointIndependent, AddressAndPortDependent, Ports::Counted(3));
            let mut run = Run::start(nat, &[full(1), plain(2), two_ports(3), plain(4)], true);
            let began = run.world.now;
            let mut restarts = 1;
            for (act, pause, which) in steps {
                let now = run.world.now;
                match act {
                    0 => run.nat().blocked ^= true,
                    1 => run.nat().flush(),
                    2 => run.world.loss = 50,
                    3 => run.world.loss = 0,
                    4 => (restarts += 1, run.client.restart(now)).1,
                    5 => {
                        let server = |it: &ModelServer| Server { addr: it.addr, trusted: which == 1 };
                        let some: Vec<_> = run.world.servers.iter().skip(which.into()).map(server).collect();
                        run.client.set_servers(now, &some);
                        restarts += 1;
                    }
                    6 => run.world.servers[usize::from(which)].manner = Manner::Lies(which.into()),
                    7 => run.world.servers[usize::from(which)].manner = Manner::Stubborn,
                    _ => run.world.servers[usize::from(which)].manner = Manner::Silent,
                }
                run.run(Duration::from_millis(pause));
            }
            let asleep = run.client.poll_timeout().is_none();
            prop_assert_eq!(asleep, run.client.v4().servers.is_empty());
            // A round: 4 servers, 2 × 3 filter tests, hairpin, 3 elsewhere, each up to four times.
            let rounds = restarts + 2 + (run.world.now - began).as_secs() / 15;
            prop_assert!(run.world.sent_to.len() as u64 <= rounds * 4 * 14);
        }
    }
}

//! Paths with a network that answers as it is told, in virtual time.

use super::path::REFLEXIVE_PROBES;
use super::*;
use crate::peer::messages::CandidateState;
use crate::wire::{RelayToken, Ticket};
use std::net::SocketAddr;

fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n], 4000))
}

fn relay(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 5000))
}

fn ticket(n: u8, fill: u8) -> Ticket {
    Ticket { relay: relay(n), token: RelayToken::new([fill; 50]), expires: 9, rtt: 0 }
}

fn contact(candidates: &[SocketAddr], relays: &[u8]) -> Contact {
    let tickets = relays.iter().map(|&n| ticket(n, n)).collect();
    Contact { tickets, ..Contact::of_hosts(candidates.iter().copied()) }
}

fn in_use(paths: &Paths) -> Option<SocketAddr> {
    paths.selected().map(|(way, _)| way.to().addr)
}

struct Sim {
    paths: Paths,
    now: Instant,
    probes: Vec<ProbeOut>,
    pending: Vec<(Instant, Endpoint, u64)>,
}

impl Sim {
    fn new(candidates: &[SocketAddr]) -> Self {
        Self::with_relays(candidates, &[])
    }

    fn with_relays(candidates: &[SocketAddr], relays: &[u8]) -> Self {
        let now = Instant::now();
        let mut paths = Paths::new(0);
        paths.set_contact(now, &contact(candidates, relays), &Contact::default(), &LocalNetworks::default());
        Self { paths, now, probes: Vec::new(), pending: Vec::new() }
    }

    /// Runs until `until`, answering probes to those for which `answers` gives a round trip.
    fn run(&mut self, until: Instant, answers: impl Fn(SocketAddr) -> Option<Duration>) -> usize {
        let mut sent = 0;
        while self.now < until {
            self.pending.retain(|&(at, from, id)| {
                if at <= self.now {
                    self.paths.on_pong(at, from, id);
                    self.paths.reselect(at);
                    return false;
                }
                true
            });
            self.probes.clear();
            self.paths.tick(self.now, &mut self.probes);
            for probe in &self.probes {
                sent += 1;
                if let Some(rtt) = answers(probe.way.to().addr) {
                    self.pending.push((self.now + rtt, probe.way.to(), probe.id));
                }
            }
            let next = self.pending.iter().map(|p| p.0).min();
            let due = self.paths.poll_timeout().map(|(at, _)| at);
            let step = [next, due, Some(until)].into_iter().flatten().min().unwrap();
            self.now = step.max(self.now + Duration::from_micros(1));
        }
        sent
    }
}

#[test]
fn the_faster_path_is_used_and_left_when_it_dies() {
    let mut sim = Sim::new(&[endpoint(1), endpoint(2)]);
    let start = sim.now;
    let ms = Duration::from_millis;
    let rtt = move |to: SocketAddr| Some(if to == endpoint(1) { ms(30) } else { ms(10) });
    sim.run(start + ms(200), rtt);
    assert_eq!(in_use(&sim.paths), Some(endpoint(2)));
    sim.run(start + ms(3000), rtt);
    assert!((sim.paths.rtt().unwrap().as_millis()) == 10);

    // The path in use dies while packets go out.
    let cut = sim.now;
    sim.paths.on_sent(cut);
    sim.run(cut + ms(900), move |to| if to == endpoint(1) { Some(ms(30)) } else { None });
    assert_eq!(in_use(&sim.paths), Some(endpoint(1)), "failed over within 0.9 s");
}

#[test]
fn a_long_path_is_not_taken_for_dead() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let answer = |_| Some(Duration::from_millis(600));
    let start = sim.now;
    sim.run(start + Duration::from_secs(20), answer);
    sim.paths.on_sent(sim.now);
    for _ in 0..200 {
        let until = sim.now + Duration::from_millis(50);
        sim.run(until, answer);
        assert_eq!(in_use(&sim.paths), Some(endpoint(1)));
    }
}

#[test]
fn a_games_keepalive_sets_the_pace_of_an_idle_path_and_is_undone() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let answer = |_| Some(Duration::from_millis(10));
    let mut minute = |tuning: PeerTuning| {
        sim.paths.set_tuning(sim.now, &tuning);
        // The first probe may still come early.
        let until = sim.now + Duration::from_secs(60);
        sim.run(until, answer)
    };
    let of = |seconds| PeerTuning { keepalive: Some(Duration::from_secs(seconds)), ..PeerTuning::default() };
    minute(PeerTuning::default());
    assert_eq!(minute(PeerTuning::default()), 4);
    assert!((12..=13).contains(&minute(of(5))));
    assert!((2..=3).contains(&minute(of(3600))), "25 s at most");
    assert!((58..=61).contains(&minute(of(0))), "1 s at least");
    minute(PeerTuning::default());
    assert_eq!(minute(PeerTuning::default()), 4);
}

#[test]
fn a_game_that_wants_no_relay_gets_none() {
    let mut sim = Sim::with_relays(&[endpoint(1)], &[7]);
    let start = sim.now;
    let straight_dead = |to: SocketAddr| (to == relay(7)).then_some(Duration::from_millis(10));
    sim.run(start + Duration::from_secs(5), straight_dead);
    assert_eq!(in_use(&sim.paths), Some(relay(7)));
    for (policy, expected) in
        [(RelayPolicy::Avoid, Some(relay(7))), (RelayPolicy::Never, None), (RelayPolicy::Auto, Some(relay(7)))]
    {
        sim.paths.set_tuning(sim.now, &PeerTuning { relay: policy, ..PeerTuning::default() });
        sim.paths.reselect(sim.now);
        assert_eq!(in_use(&sim.paths), expected, "{policy:?}");
        let until = sim.now + Duration::from_secs(5);
        sim.run(until, straight_dead);
        assert_eq!(in_use(&sim.paths), expected, "{policy:?}, later");
    }
}

#[test]
fn probes_to_a_silent_candidate_back_off() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let start = sim.now;
    let first_minute = sim.run(start + Duration::from_secs(60), |_| None);
    assert!((10..=20).contains(&first_minute), "{first_minute}");
    let hour = sim.run(start + Duration::from_secs(3660), |_| None);
    assert!(hour <= 130, "{hour}");
    assert_eq!(in_use(&sim.paths), None);
}

#[test]
fn an_idle_path_is_kept_open_and_noticed_when_dead() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let start = sim.now;
    let answer = |_| Some(Duration::from_millis(5));
    sim.run(start + Duration::from_secs(10), answer);
    let sent = sim.run(start + Duration::from_secs(310), answer);
    assert!((18..=24).contains(&sent), "{sent}");
    sim.run(start + Duration::from_secs(340), |_| None);
    assert_eq!(in_use(&sim.paths), None);
}

#[test]
fn answers_from_elsewhere_or_repeated_say_nothing() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let now = sim.now;
    sim.paths.tick(now, &mut sim.probes);
    let id = sim.probes[0].id;
    assert_eq!(sim.paths.on_pong(now, Endpoint::direct(endpoint(2)), id), None);
    assert_eq!(sim.paths.on_pong(now, Endpoint::direct(endpoint(1)), id + 1), None);
    assert!(sim.paths.on_pong(now, Endpoint::direct(endpoint(1)), id).is_some());
    assert_eq!(sim.paths.on_pong(now, Endpoint::direct(endpoint(1)), id), None, "replayed");
}

#[test]
fn peer_reflexive_paths_are_learnt_and_bounded() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let networks = LocalNetworks::default();
    for n in 0..200 {
        sim.paths.on_ping(sim.now, Endpoint::direct(([198, 51, 100, n], 1).into()), &networks);
    }
    assert_eq!(sim.paths.paths.len(), 1 + MAX_UNPROVED_REFLEXIVE);
    // Nobody there answers: each gets a few probes, then it is left alone.
    let start = sim.now;
    let sent = std::cell::RefCell::new(Vec::new());
    sim.run(start + Duration::from_secs(600), |to| {
        sent.borrow_mut().push(to);
        None
    });
    let sent = sent.into_inner();
    let to_strangers = sent.iter().filter(|to| **to != endpoint(1)).count();
    assert!(to_strangers <= MAX_UNPROVED_REFLEXIVE * REFLEXIVE_PROBES as usize, "{to_strangers}");
    assert_eq!(sim.paths.paths.iter().map(Path::addr).collect::<Vec<_>>(), [endpoint(1)]);
}

#[test]
fn a_crowd_of_old_guesses_does_not_keep_new_candidates_out() {
    let mut sim = Sim::new(&[]);
    let networks = LocalNetworks::default();
    for n in 0..40 {
        let from = SocketAddr::from(([198, 51, 100, n], 1));
        sim.paths.on_ping(sim.now, Endpoint::direct(from), &networks);
        let until = sim.now + Duration::from_millis(50);
        sim.run(until, |to| (to == from).then_some(Duration::from_millis(1)));
    }
    assert_eq!(sim.paths.paths.len(), MAX_PATHS);
    let until = sim.now + Duration::from_secs(60);
    sim.run(until, |_| None);
    sim.paths.set_contact(sim.now, &contact(&[endpoint(1), endpoint(2)], &[]), &Contact::default(), &networks);
    let until = sim.now + Duration::from_secs(1);
    sim.run(until, |to| (to == endpoint(2)).then_some(Duration::from_millis(1)));
    assert_eq!(in_use(&sim.paths), Some(endpoint(2)));
}

#[test]
fn candidates_that_are_gone_go_unless_live() {
    let mut sim = Sim::new(&[endpoint(1), endpoint(2)]);
    let start = sim.now;
    sim.run(start + Duration::from_secs(1), |to| (to == endpoint(1)).then_some(Duration::from_millis(1)));
    sim.paths.set_contact(sim.now, &contact(&[endpoint(3)], &[]), &Contact::default(), &LocalNetworks::default());
    let left: Vec<_> = sim.paths.candidates().iter().map(|c| c.endpoint).collect();
    assert_eq!(left, [endpoint(1), endpoint(3)]);
    assert_eq!(in_use(&sim.paths), Some(endpoint(1)));
}

#[test]
fn the_first_that_answers_is_used_and_left_for_a_straight_one() {
    let mut sim = Sim::with_relays(&[endpoint(1)], &[1]);
    let start = sim.now;
    let ms = Duration::from_millis;
    let rtt = move |to: SocketAddr| Some(if to == relay(1) { ms(20) } else { ms(70) });
    sim.run(start + ms(50), rtt);
    assert_eq!(sim.paths.selected().map(|it| (it.0.to(), it.1)), Some((Endpoint::relayed(relay(1)), PathKind::Relay)));
    assert_eq!(sim.paths.reason().as_deref(), Some("only path"));
    sim.run(start + ms(200), rtt);
    assert_eq!(in_use(&sim.paths), Some(endpoint(1)));
    assert_eq!(sim.paths.reason().as_deref(), Some("direct came up"));
    // A window full of better round trips later, while packets flow.
    for _ in 0..200 {
        sim.paths.on_sent(sim.now);
        let until = sim.now + ms(100);
        sim.run(until, rtt);
    }
    assert_eq!(in_use(&sim.paths), Some(relay(1)));
    assert_eq!(sim.paths.reason().as_deref(), Some("relay 50 ms faster than direct"));
    assert_eq!(sim.paths.changes().0, 3);
}

#[test]
fn a_pong_may_come_back_through_another_relay_but_not_past_them() {
    let mut sim = Sim::with_relays(&[endpoint(1)], &[1, 2]);
    let now = sim.now;
    sim.paths.tick(now, &mut sim.probes);
    let id = |to: SocketAddr| sim.probes.iter().find(|it| it.way.to().addr == to).unwrap().id;
    assert_eq!(sim.paths.on_pong(now, Endpoint::direct(relay(1)), id(relay(1))), None, "not forwarded");
    assert_eq!(sim.paths.on_pong(now, Endpoint::relayed(relay(1)), id(endpoint(1))), None, "a straight path's");
    let elsewhere = Endpoint::relayed(relay(9));
    assert!(sim.paths.on_pong(now, elsewhere, id(relay(2))).is_some());
    assert_eq!(sim.paths.on_pong(now, elsewhere, id(relay(2))), None, "once");
    sim.paths.reselect(now);
    assert_eq!(in_use(&sim.paths), Some(relay(2)));
}

#[test]
fn answers_go_through_the_relay_they_came_by_or_the_best() {
    let mut sim = Sim::with_relays(&[], &[1, 2]);
    let until = sim.now + Duration::from_millis(500);
    sim.run(until, |to| (to == relay(2)).then_some(Duration::from_millis(5)));
    let through = |from| sim.paths.answer_to(from).map(|way| way.to());
    assert_eq!(through(Endpoint::relayed(relay(1))), Some(Endpoint::relayed(relay(1))));
    assert_eq!(through(Endpoint::relayed(relay(7))), Some(Endpoint::relayed(relay(2))));
    assert_eq!(through(Endpoint::direct(endpoint(7))), Some(Endpoint::direct(endpoint(7))));
    assert_eq!(Sim::new(&[endpoint(1)]).paths.answer_to(Endpoint::relayed(relay(1))), None);
}

#[test]
fn a_new_token_keeps_what_is_known_of_the_path() {
    let mut sim = Sim::with_relays(&[], &[1]);
    let until = sim.now + Duration::from_secs(1);
    sim.run(until, |_| Some(Duration::from_millis(5)));
    let renewed = Contact { tickets: vec![ticket(1, 9)], ..Contact::default() };
    sim.paths.set_contact(sim.now, &renewed, &Contact::default(), &LocalNetworks::default());
    let (way, _) = sim.paths.selected().unwrap();
    assert_eq!(way, Way::relayed(Endpoint::relayed(relay(1)), RelayToken::new([9; 50])));
    assert_eq!(sim.paths.rtt(), Some(Duration::from_millis(5)));
}

#[test]
fn two_relays_are_kept_warm_while_packets_flow() {
    let mut sim = Sim::with_relays(&[endpoint(1)], &[1, 2, 3]);
    let ms = Duration::from_millis;
    let asked = std::cell::RefCell::new([0; 4]);
    let count = |to: SocketAddr| {
        let n = (1..4).find(|n| to == relay(*n)).unwrap_or(0);
        asked.borrow_mut()[usize::from(n)] += 1;
        Some(ms(10 + 10 * u64::from(n)))
    };
    let until = sim.now + ms(500);
    sim.run(until, count);
    *asked.borrow_mut() = [0; 4];
    for _ in 0..200 {
        sim.paths.on_sent(sim.now);
        sim.paths.on_received(sim.now, Endpoint::direct(endpoint(1)));
        let until = sim.now + ms(100);
        sim.run(until, count);
    }
    let asked = asked.into_inner();
    assert!(asked[..3].iter().all(|n| (17..=22).contains(n)) && asked[3] <= 5, "{asked:?}");
}

#[test]
fn a_silent_path_is_left_for_a_relay_within_half_a_second() {
    let mut sim = Sim::with_relays(&[endpoint(1)], &[1]);
    let ms = Duration::from_millis;
    let until = sim.now + ms(5_000);
    sim.run(until, |to| Some(if to == relay(1) { ms(40) } else { ms(20) }));
    let cut = sim.now;
    sim.paths.on_sent(cut);
    sim.run(cut + ms(440), |to| (to == relay(1)).then_some(ms(40)));
    assert_eq!(in_use(&sim.paths), Some(endpoint(1)));
    sim.run(cut + ms(460), |to| (to == relay(1)).then_some(ms(40)));
    assert_eq!(in_use(&sim.paths), Some(relay(1)));
    assert_eq!(sim.paths.reason().as_deref(), Some("direct stopped answering"));
    assert!(sim.paths.take_lost() && !sim.paths.take_lost());
    // What comes in through the relay does not make the direct path live again.
    sim.run(cut + ms(10_000), |to| (to == relay(1)).then_some(ms(40)));
    assert_eq!(in_use(&sim.paths), Some(relay(1)));
    let direct = &sim.paths.candidates()[0];
    assert_eq!((direct.endpoint, direct.state), (endpoint(1), CandidateState::Dead));
}

#[test]
fn life_elsewhere_does_not_hide_that_the_path_in_use_is_gone() {
    let mut sim = Sim::with_relays(&[endpoint(1)], &[1]);
    let ms = Duration::from_millis;
    let until = sim.now + ms(5_000);
    sim.run(until, |_| Some(ms(20)));
    assert_eq!(in_use(&sim.paths), Some(endpoint(1)));
    let cut = sim.now;
    for _ in 0..50 {
        sim.paths.on_sent(sim.now);
        sim.paths.on_received(sim.now, Endpoint::relayed(relay(1)));
        let until = sim.now + ms(10);
        sim.run(until, |to| (to == relay(1)).then_some(ms(20)));
    }
    assert_eq!(sim.now, cut + ms(500));
    assert_eq!(in_use(&sim.paths), Some(relay(1)));
}

#[test]
fn lost_probes_and_jitter_are_told() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let n = std::cell::Cell::new(0u64);
    for _ in 0..600 {
        sim.paths.on_sent(sim.now);
        sim.paths.on_received(sim.now, Endpoint::direct(endpoint(1)));
        let until = sim.now + Duration::from_millis(100);
        sim.run(until, |_| {
            n.set(n.get() + 1);
            (!n.get().is_multiple_of(10)).then_some(Duration::from_millis(20 + n.get() % 2))
        });
    }
    let loss = sim.paths.loss().unwrap();
    assert!((8.0..12.0).contains(&loss), "{loss}");
    let jitter = sim.paths.jitter().unwrap();
    assert!((600..1_100).contains(&jitter.as_micros()), "{jitter:?}");
    assert_eq!(in_use(&sim.paths), Some(endpoint(1)), "one probe in ten lost is no death");
}

/// However a member changes what it says of itself, somebody who has not answered gets no more than this.
#[test]
fn lists_of_others_addresses_make_no_flood() {
    let mut sim = Sim::new(&[]);
    let start = sim.now;
    let victim = std::net::Ipv4Addr::new(203, 0, 113, 77);
    let to_victim = std::cell::Cell::new(0);
    let mut all = 0;
    let (mut minute, mut worst, mut worst_all) = (start, 0, 0);
    for round in 0..3_000u16 {
        let ports: Vec<SocketAddr> =
            (0..8).map(|n| SocketAddr::new(victim.into(), 1_000 + round % 5_000 * 8 + n)).collect();
        let others = (0..8u16).map(|n| SocketAddr::from(([198, 51, round as u8, n as u8], 7)));
        let named: Vec<SocketAddr> = ports.into_iter().chain(others).collect();
        sim.paths.set_contact(sim.now, &contact(&named, &[]), &Contact::default(), &LocalNetworks::default());
        sim.paths.restart_probing(sim.now);
        let until = sim.now + Duration::from_millis(100);
        all += sim.run(until, |to| {
            to_victim.set(to_victim.get() + i32::from(to.ip() == IpAddr::V4(victim)));
            None
        });
        if sim.now >= minute + Duration::from_secs(60) {
            minute = sim.now;
            worst = worst.max(to_victim.replace(0));
            worst_all = worst_all.max(std::mem::take(&mut all));
        }
    }
    assert!((20..=71).contains(&worst) && worst_all <= 96 + 1_201, "{worst} {worst_all}");
    assert!(sim.paths.refused_probes() > 1_000);
}

/// A NAT that forgot gives another port each time. Where the member was must not use up the probes to where it is.
#[test]
fn a_new_port_is_asked_at_once_whatever_the_old_ones_have_cost() {
    let mut sim = Sim::with_relays(&[], &[1]);
    let at = |port: u16| SocketAddr::from(([203, 0, 113, 7], port));
    let answer = |to: SocketAddr, open: Option<SocketAddr>| {
        (to == relay(1) || Some(to) == open).then_some(Duration::from_millis(5))
    };
    let mut named: Vec<SocketAddr> = Vec::new();
    for port in 1..=12 {
        // What it has told, and what comes from it by other ways: the last four are tried.
        named.push(at(port));
        named.drain(..named.len().saturating_sub(4));
        sim.paths.set_contact(sim.now, &contact(&named, &[1]), &Contact::default(), &LocalNetworks::default());
        let until = sim.now + Duration::from_millis(300);
        sim.run(until, |to| answer(to, Some(at(port))));
        assert_eq!(in_use(&sim.paths), Some(at(port)));
        // It is gone, and several things say so.
        for _ in 0..4 {
            sim.paths.on_sent(sim.now);
            sim.paths.restart_probing(sim.now);
            let until = sim.now + Duration::from_millis(400);
            sim.run(until, |to| answer(to, None));
        }
    }
    assert!(sim.paths.refused_probes() > 0, "the old ones have cost too much");
}

#[test]
fn this_machine_is_no_relay_for_what_it_sends() {
    let own = |serves| Contact { serves, ..Contact::of_hosts([endpoint(9)]) };
    let told = contact(&[endpoint(1)], &[1, 2]);
    let mut sim = Sim::with_relays(&[endpoint(1)], &[1, 2]);
    let until = sim.now + Duration::from_secs(1);
    sim.run(until, |_| Some(Duration::from_millis(5)));
    let relays = |paths: &Paths| {
        let all = paths.candidates();
        all.iter().filter(|it| it.kind == PathKind::Relay).map(|it| it.endpoint).collect::<Vec<_>>()
    };
    assert_eq!(relays(&sim.paths), [relay(1), relay(2)]);
    // It serves since a moment ago; the path lived.
    sim.paths.set_contact(sim.now, &told, &own(Some(relay(2))), &LocalNetworks::default());
    assert_eq!(relays(&sim.paths), [relay(1)]);
    let by_port = Contact::of_hosts([relay(1)]);
    sim.paths.set_contact(sim.now, &told, &by_port, &LocalNetworks::default());
    assert_eq!(relays(&sim.paths), [relay(2)], "by whatever name");
    let until = sim.now + Duration::from_secs(30);
    sim.run(until, |to| {
        assert_ne!(to, relay(1), "nothing is sent to itself");
        Some(Duration::from_millis(5))
    });
}

/// Two ports of one machine go together when it goes.
#[test]
fn the_relays_kept_warm_are_two_machines() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let ms = Duration::from_millis;
    let other_port = SocketAddr::new(relay(1).ip(), 5001);
    let mut told = contact(&[endpoint(1)], &[1, 2, 3]);
    told.tickets.push(Ticket { relay: other_port, ..ticket(1, 8) });
    sim.paths.set_contact(sim.now, &told, &Contact::default(), &LocalNetworks::default());
    let asked = std::cell::RefCell::new(std::collections::BTreeMap::<SocketAddr, usize>::new());
    let rtt = |to: SocketAddr| {
        *asked.borrow_mut().entry(to).or_default() += 1;
        Some(match to {
            to if to == endpoint(1) => ms(5),
            to if to == relay(1) => ms(10),
            to if to == other_port => ms(11),
            to if to == relay(2) => ms(30),
            _ => ms(40),
        })
    };
    let until = sim.now + ms(500);
    sim.run(until, rtt);
    asked.borrow_mut().clear();
    for _ in 0..200 {
        sim.paths.on_sent(sim.now);
        sim.paths.on_received(sim.now, Endpoint::direct(endpoint(1)));
        let until = sim.now + ms(100);
        sim.run(until, rtt);
    }
    let count = |to| asked.borrow()[&to];
    assert!(count(relay(1)) >= 17 && count(relay(2)) >= 17, "{asked:?}");
    assert!(count(other_port) <= 5 && count(relay(3)) <= 5, "{asked:?}");
}

/// Nor is the member's own address, where it does answer, one at which others can be flooded who share it.
#[test]
fn ports_beside_one_that_answers_are_asked_within_bounds() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let beside = std::cell::Cell::new(0);
    let (mut worst, mut least) = (0, usize::MAX);
    for second in 0..120u16 {
        let ports = (0..12).map(|n| SocketAddr::new(endpoint(1).ip(), 10_000 + second * 12 + n));
        let named: Vec<SocketAddr> = ports.chain([endpoint(1)]).collect();
        sim.paths.set_contact(sim.now, &contact(&named, &[]), &Contact::default(), &LocalNetworks::default());
        sim.paths.restart_probing(sim.now);
        let until = sim.now + Duration::from_secs(1);
        sim.run(until, |to| {
            beside.set(beside.get() + usize::from(to != endpoint(1)));
            (to == endpoint(1)).then_some(Duration::from_millis(5))
        });
        if second % 10 == 9 {
            let asked = beside.replace(0);
            (worst, least) = (worst.max(asked), least.min(asked));
        }
    }
    assert!(worst <= 3 * 40 + 5 && least >= 40, "{least} to {worst} in ten seconds");
}

#[test]
fn streams_come_last_and_relays_reached_by_them_too() {
    let networks = LocalNetworks::default();
    let mut sim = Sim::with_relays(&[], &[1]);
    let stream = Endpoint::direct(crate::wire::stream_addr(4));
    sim.paths.on_ping(sim.now, stream, &networks);
    let kinds = |paths: &Paths| paths.candidates().iter().map(|it| it.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&sim.paths), [PathKind::Relay, PathKind::Tcp]);
    sim.paths.set_networks(&networks, true);
    assert_eq!(kinds(&sim.paths), [PathKind::Tcp, PathKind::Tcp]);
}

/// What a doubt brings up goes to the whole party, so a member who stays away must not raise one every half second.
#[test]
fn doubts_about_a_member_who_stays_away_become_rare_and_end_with_life() {
    let mut sim = Sim::new(&[endpoint(1)]);
    let doubts = |sim: &mut Sim, answers: bool, seconds: u32| {
        let mut count = 0;
        for _ in 0..seconds * 10 {
            let until = sim.now + Duration::from_millis(100);
            sim.run(until, |_| answers.then_some(Duration::from_millis(20)));
            count += u32::from(sim.paths.take_doubt(sim.now, true));
        }
        count
    };
    assert!(doubts(&mut sim, false, 5) >= 7, "quick at first");
    assert!(doubts(&mut sim, false, 60) <= 10);
    assert!((15..=21).contains(&doubts(&mut sim, false, 600)), "one each 32 s");
    doubts(&mut sim, true, 60);
    assert_eq!(in_use(&sim.paths), Some(endpoint(1)));
    assert_eq!(doubts(&mut sim, true, 60), 0);
    // Gone again: as quick as the first time.
    assert!(doubts(&mut sim, false, 60) >= 8);
}

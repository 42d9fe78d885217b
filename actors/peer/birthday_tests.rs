//! Who punches, how fast, how long.

use super::*;
use crate::wire::{Candidate, NatBehaviour};
use proptest::prelude::*;
use std::collections::BTreeSet;

const NONE: Straight = Straight { live: false, local: None };

fn contact(mapping: Dependence, filtering: Dependence, addr: &str) -> Contact {
    Contact {
        candidates: vec![Candidate { kind: CandidateKind::ServerReflexive, addr: addr.parse().unwrap() }],
        nat: NatBehaviour { mapping, filtering, ..NatBehaviour::default() },
        ..Contact::default()
    }
}

fn symmetric() -> Contact {
    contact(Dependence::AddressAndPortDependent, Dependence::AddressAndPortDependent, "192.0.2.1:5000")
}

fn restricted() -> Contact {
    contact(Dependence::EndpointIndependent, Dependence::AddressAndPortDependent, "198.51.100.1:6000")
}

#[test]
fn only_where_it_can_help() {
    let open = contact(Dependence::EndpointIndependent, Dependence::EndpointIndependent, "198.51.100.1:6000");
    assert!(matches!(role(&symmetric(), &restricted()), Some(Role::Open { .. })));
    assert!(matches!(role(&restricted(), &symmetric()), Some(Role::Probe { .. })));
    for (own, peer) in [
        (symmetric(), symmetric()),
        (restricted(), restricted()),
        (symmetric(), open.clone()),
        (open, symmetric()),
        (Contact::default(), symmetric()),
    ] {
        assert_eq!(role(&own, &peer), None);
    }
}

struct Run {
    birthday: Birthday,
    now: Instant,
    pings: Vec<Endpoint>,
    requests: Vec<PunchRequest>,
}

impl Run {
    fn new(own: &Contact, peer: &Contact) -> Self {
        let mut requests = Vec::new();
        let mut birthday = Birthday::default();
        birthday.set_contacts(own, peer, &mut requests);
        Self { birthday, now: Instant::now(), pings: Vec::new(), requests }
    }

    fn run(&mut self, time: Duration, straight: Straight) {
        let until = self.now + time;
        while self.now < until {
            self.birthday.tick(self.now, straight, || 0x9e37_79b9, &mut self.pings, &mut self.requests);
            self.now += Duration::from_millis(1);
        }
    }
}

#[test]
fn ports_are_tried_once_each_at_the_pace_and_then_no_more() {
    let mut run = Run::new(&restricted(), &symmetric());
    run.run(Duration::from_millis(650), NONE);
    assert_eq!(run.pings.len(), 0);
    run.run(Duration::from_secs(1), NONE);
    assert!((90..=101).contains(&run.pings.len()), "{}", run.pings.len());
    run.run(Duration::from_secs(500), NONE);
    let ports: BTreeSet<u16> = run.pings.iter().map(|it| it.addr.port()).collect();
    assert_eq!((run.pings.len(), ports.len()), (MAX_PORTS as usize, MAX_PORTS as usize));
    assert!(run.pings.iter().all(|it| it.addr.ip() == IpAddr::from([192, 0, 2, 1]) && it.addr.port() >= 1024));
    // A peer that changes its story each second gets three attempts, not one each second.
    for n in 0..200u8 {
        let mut peer = symmetric();
        peer.candidates[0].addr = ([192, 0, 2, n], 5000).into();
        run.birthday.set_contacts(&restricted(), &peer, &mut run.requests);
        run.run(Duration::from_secs(1), NONE);
    }
    assert!(run.pings.len() <= 3 * MAX_PORTS as usize, "{}", run.pings.len());
}

/// Timers of a busy machine fire late: the pace holds on average, and no more than a few go out at once.
#[test]
fn a_timer_that_fires_late_does_not_slow_it_down() {
    for late in [3, 17, 40] {
        let mut run = Run::new(&restricted(), &symmetric());
        run.run(Duration::from_millis(701), NONE);
        let (start, mut most) = (run.now, 0);
        while run.now < start + Duration::from_secs(4) {
            run.now = run.now.max(run.birthday.poll_timeout().unwrap().0) + Duration::from_millis(late);
            let before = run.pings.len();
            run.birthday.tick(run.now, NONE, || 7, &mut run.pings, &mut run.requests);
            most = most.max(run.pings.len() - before);
        }
        assert!((390..=405).contains(&run.pings.len()) && most <= 7, "{late}: {} {most}", run.pings.len());
    }
    // After a long stop what was missed is not made up for.
    let mut run = Run::new(&restricted(), &symmetric());
    run.run(Duration::from_secs(1), NONE);
    let before = run.pings.len();
    run.now += Duration::from_secs(5);
    run.birthday.tick(run.now, NONE, || 7, &mut run.pings, &mut run.requests);
    assert!(run.pings.len() - before <= 7, "{}", run.pings.len() - before);
}

/// Each server shows another port of such a NAT; that is no other place to look.
#[test]
fn another_last_port_of_the_peer_does_not_begin_it_anew() {
    let mut run = Run::new(&restricted(), &symmetric());
    for n in 0..20 {
        let mut peer = symmetric();
        peer.candidates[0].addr.set_port(5_000 + n);
        run.birthday.set_contacts(&restricted(), &peer, &mut run.requests);
        run.run(Duration::from_secs(1), NONE);
    }
    assert!((1_900..=1_935).contains(&run.pings.len()), "{}", run.pings.len());
}

#[test]
fn sockets_are_opened_refreshed_and_closed() {
    let mut run = Run::new(&symmetric(), &restricted());
    run.run(Duration::from_secs(1), NONE);
    assert_eq!(run.requests, [PunchRequest::Open { count: SOCKETS }]);
    run.birthday.on_sockets(run.now, PunchSockets { first: LocalSocket(7), count: SOCKETS }, &mut run.requests);
    run.run(Duration::from_secs(3), NONE);
    let locals: BTreeSet<u16> = run.pings.iter().map(|it| it.local.0).collect();
    assert_eq!((locals.len(), locals.first(), locals.last()), (256, Some(&7), Some(&262)));
    assert_eq!(run.pings.len(), 256, "then quiet");
    run.run(Duration::from_secs(20), NONE);
    assert_eq!(run.pings.len(), 512, "refreshed");
    run.run(Duration::from_secs(60), NONE);
    assert_eq!(run.requests[1..], [PunchRequest::Close { keep: None }]);
}

#[test]
fn sockets_that_others_hold_are_asked_for_again() {
    let mut run = Run::new(&symmetric(), &restricted());
    for _ in 0..10 {
        run.run(Duration::from_millis(750), NONE);
        assert_eq!(run.requests.drain(..).collect::<Vec<_>>(), [PunchRequest::Open { count: SOCKETS }]);
        let none = PunchSockets { first: LocalSocket(1), count: 0 };
        run.birthday.on_sockets(run.now, none, &mut run.requests);
    }
    run.run(Duration::from_millis(750), NONE);
    run.birthday.on_sockets(run.now, PunchSockets { first: LocalSocket(1), count: 64 }, &mut run.requests);
    run.run(Duration::from_secs(3), NONE);
    assert_eq!(run.pings.len(), 64);
}

#[test]
fn the_socket_with_a_path_is_kept_until_the_path_ends() {
    let mut run = Run::new(&symmetric(), &restricted());
    run.run(Duration::from_secs(1), NONE);
    run.birthday.on_sockets(run.now, PunchSockets { first: LocalSocket(1), count: SOCKETS }, &mut run.requests);
    run.run(Duration::from_secs(1), NONE);
    let found = Straight { live: true, local: Some(LocalSocket(40)) };
    let sent = run.pings.len();
    run.run(Duration::from_secs(60), found);
    assert_eq!(run.requests[1..], [PunchRequest::Close { keep: Some(LocalSocket(40)) }]);
    assert_eq!(run.pings.len(), sent);
    run.run(Duration::from_millis(10), NONE);
    assert_eq!(run.requests[2..], [PunchRequest::Close { keep: None }]);
}

#[test]
fn a_counting_nat_is_tried_where_it_counts() {
    assert_eq!(predict(5000, 2)[..5], [5002, 5004, 5006, 4998, 5008]);
    let mut peer = symmetric();
    peer.nat.port_step = Some(1);
    let mut run = Run::new(&restricted(), &peer);
    run.run(Duration::from_millis(1_200), NONE);
    assert!(run.pings.iter().all(|it| (4986..=5065).contains(&it.addr.port())));
}

proptest! {
    #[test]
    fn a_step_visits_every_port_once(seed: u32) {
        let step = coprime_step(seed);
        let mut seen = vec![false; PORTS as usize];
        for n in 0..PORTS {
            let at = (u64::from(n) * u64::from(step) % u64::from(PORTS)) as usize;
            prop_assert!(!std::mem::replace(&mut seen[at], true));
        }
    }
}

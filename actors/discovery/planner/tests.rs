#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at some actions only")]

use super::*;
use crate::discovery::messages::NodeAddrs;

const KEY: [u8; 32] = [1; 32];
const OWN: NodeId = NodeId([0; 32]);
const MEMBER: NodeId = NodeId([2; 32]);

fn seek(eager: bool, nodes: &[NodeId]) -> Seek {
    let nodes = nodes.iter().map(|&node| NodeAddrs { node, addrs: vec!["/ip4/203.0.113.1/tcp/1".into()] });
    Seek { keys: vec![KEY], nodes: nodes.collect(), eager }
}

/// Runs the planner until `until`, letting `react` answer each action, and returns the actions with their times.
fn run(
    planner: &mut Planner,
    start: Instant,
    seconds: u64,
    mut react: impl FnMut(&mut Planner, Instant, &Action),
) -> Vec<(u64, Action)> {
    let until = start + Duration::from_secs(seconds);
    let mut now = start;
    let mut log = Vec::new();
    while now < until {
        for action in planner.tick(now) {
            react(planner, now, &action);
            log.push((now.duration_since(start).as_millis() as u64, action));
        }
        let Some((next, _)) = planner.poll_timeout() else { break };
        now = next.max(now + Duration::from_millis(1));
    }
    log
}

#[test]
fn nothing_is_looked_up_before_the_dht_is_there_and_all_at_once_then() {
    let start = Instant::now();
    let mut planner = Planner::new(start, OWN, true);
    planner.seek(start, seek(true, &[]));
    let log = run(&mut planner, start, 300, |_, _, _| {});
    assert!(log.iter().all(|(_, action)| matches!(action, Action::DialBootstrap | Action::QueryLan)), "{log:?}");
    assert!((5..20).contains(&log.len()), "bootstrap is retried with back-off: {}", log.len());
    let now = start + Duration::from_secs(300);
    planner.dht_size(now, 1);
    assert_eq!(planner.tick(now), [Action::Lookup(KEY), Action::Publish(KEY)]);
}

#[test]
fn eager_looks_up_each_second_and_calm_now_and_then() {
    let start = Instant::now();
    let mut planner = Planner::new(start, OWN, true);
    planner.dht_size(start, 5);
    planner.seek(start, seek(true, &[]));
    let lookups = |log: Vec<(u64, Action)>| log.iter().filter(|(_, action)| *action == Action::Lookup(KEY)).count();
    assert!((9..=11).contains(&lookups(run(&mut planner, start, 10, |_, _, _| {}))));
    let later = start + Duration::from_secs(10);
    planner.seek(later, seek(false, &[]));
    assert!((11..=14).contains(&lookups(run(&mut planner, later, 3_600, |_, _, _| {}))));
}

#[test]
fn members_are_redialled_for_ever_with_back_off() {
    let start = Instant::now();
    let mut planner = Planner::new(start, OWN, false);
    planner.seek(start, seek(false, &[MEMBER]));
    let log = run(&mut planner, start, 600, |planner, now, action| {
        if let Action::Dial { node, .. } = action {
            planner.dial_failed(now, *node);
        }
    });
    let dials: Vec<_> = log.iter().filter(|(_, action)| matches!(action, Action::Dial { .. })).map(|l| l.0).collect();
    assert_eq!(dials[..5], [0, 500, 1_500, 3_500, 7_500]);
    assert!((15..20).contains(&dials.len()), "{dials:?}");
}

#[test]
fn a_lost_link_to_a_member_is_made_again() {
    let start = Instant::now();
    let mut planner = Planner::new(start, OWN, false);
    planner.seek(start, seek(false, &[MEMBER]));
    let mut links = 0;
    run(&mut planner, start, 5, |planner, now, action| match action {
        Action::Dial { node, .. } => planner.connected(now, *node),
        Action::OpenStream(node) => {
            links += 1;
            planner.link_opened(now, *node);
            planner.link_closed(now, *node);
        }
        _ => {}
    });
    assert!((5..=12).contains(&links), "{links}");
}

#[test]
fn strangers_are_left_alone_after_a_refusal() {
    let start = Instant::now();
    let mut planner = Planner::new(start, OWN, false);
    planner.seek(start, seek(false, &[]));
    planner.found(start, MEMBER, vec![]);
    planner.found(start, OWN, vec![]);
    let mut opened = 0;
    run(&mut planner, start, 60, |planner, now, action| match action {
        Action::Dial { node, .. } => {
            assert_ne!(*node, OWN);
            planner.connected(now, *node);
        }
        Action::OpenStream(node) => {
            opened += 1;
            planner.link_opened(now, *node);
            planner.link_closed(now, *node);
        }
        _ => {}
    });
    assert_eq!(opened, 2, "one try each half minute");
}

#[test]
fn visitors_leave_no_trace() {
    let start = Instant::now();
    let mut planner = Planner::new(start, OWN, false);
    planner.seek(start, seek(false, &[]));
    for n in 0..10_000u32 {
        let mut id = [9; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        planner.link_opened(start, NodeId(id));
        planner.link_closed(start, NodeId(id));
    }
    assert!(planner.nodes.is_empty());
    // One that turns out to be a member is kept.
    planner.link_opened(start, MEMBER);
    planner.seek(start, seek(false, &[MEMBER]));
    planner.link_closed(start, MEMBER);
    assert!(planner.nodes.contains_key(&MEMBER));
}

#[test]
fn a_flood_of_found_nodes_is_bounded() {
    let start = Instant::now();
    let mut planner = Planner::new(start, OWN, false);
    planner.seek(start, seek(false, &[MEMBER]));
    for n in 0..10_000u32 {
        let mut id = [9; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        planner.found(start, NodeId(id), vec!["/ip4/198.51.100.1/tcp/1".into(); 100]);
    }
    assert!(planner.nodes.len() <= MAX_FOUND);
    assert!(planner.nodes.contains_key(&MEMBER));
    assert!(planner.nodes.values().all(|node| node.addrs.len() <= MAX_ADDRS));
}

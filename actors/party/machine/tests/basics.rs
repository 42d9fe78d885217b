use std::time::Duration;

use super::super::*;
use super::net::Net;
use crate::party::messages::PartyError;
use crate::party::record::tests::contact;

const NAMES: [&str; 8] = ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal"];

#[test]
fn a_party_is_created_joined_and_left() {
    let mut net = Net::new(1, &NAMES[..3]);
    let view = net.create(0);
    assert_eq!((view.name.as_str(), view.host.as_str(), view.is_host), ("Friday", "Ann", true));
    assert!(net.nodes[0].seek.eager);
    let joined = net.join(1, &view.code.to_lowercase()).unwrap();
    assert_eq!(joined.id, view.id);
    net.assert_together(&[0, 1]);
    assert!(!net.nodes[0].seek.eager);
    net.join(2, &view.code).unwrap();
    net.assert_together(&[0, 1, 2]);
    assert_eq!(net.names(2), ["Ann", "Bob", "Cid"]);

    net.leave(1);
    net.assert_together(&[0, 2]);
    assert!(net.nodes[1].machine.view().is_none());
    assert_eq!(net.nodes[1].seek, Seek::default());
    assert_eq!((net.nodes[1].address, net.nodes[1].peers.peers.len()), (None, 0));
    let list = net.nodes[1].machine.summaries();
    assert_eq!((list[0].state, list[0].active, list[0].code.as_ref()), ("left", false, Some(&view.code)));
    let ip = joined.virtual_ip;
    assert_eq!(net.join(1, &view.code).unwrap().virtual_ip, ip, "the same address as before");
    net.assert_together(&[0, 1, 2]);
    assert_eq!(net.nodes[1].machine.summaries().len(), 1);
}

#[test]
fn joining_takes_few_round_trips() {
    let mut net = Net::new(2, &NAMES[..2]);
    let view = net.create(0);
    net.ask_join(1, &view.code);
    // 20 ms each way: hello, proof, join, and the answers.
    net.run(Duration::from_millis(125));
    assert!(net.answer(1).is_ok());
    net.assert_together(&[0, 1]);
}

#[test]
fn eight_join_at_once_and_drift_together() {
    let mut net = Net::new(3, &NAMES);
    let view = net.create(0);
    for node in 1..8 {
        net.ask_join(node, &view.code);
    }
    net.run(Duration::from_secs(5));
    for node in 1..8 {
        net.answer(node).unwrap();
    }
    net.run(Duration::from_secs(60));
    net.assert_together(&[0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn only_who_is_there_hosts_games() {
    let mut net = Net::new(41, &NAMES[..3]);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    net.join(2, &view.code).unwrap();
    let now = net.now;
    net.nodes[1].machine.set_hosted(now, &[Hosted { game: "openttd".into(), port: 3979, query_port: None }]);
    net.run(Duration::from_secs(31));
    let hosts = |net: &Net, node: usize| {
        let hosts = net.nodes[node].machine.hosts();
        hosts.into_iter().map(|it| (it.name, it.me, it.hosted.len())).collect::<Vec<_>>()
    };
    let named = |number: usize| NAMES[number].to_owned();
    assert!(hosts(&net, 0).contains(&(named(1), false, 1)) && hosts(&net, 0).len() == 3);
    net.keep_apart(0, 1);
    net.settle();
    assert_eq!(hosts(&net, 0).len(), 2, "away: {:?}", hosts(&net, 0));
    assert!(!hosts(&net, 0).iter().any(|(name, ..)| *name == named(1)));
    assert!(hosts(&net, 1).contains(&(named(1), true, 1)), "its own it always has");
}

#[test]
fn an_invite_link_needs_no_rendezvous() {
    let mut net = Net::new(4, &NAMES[..2]);
    let view = net.create(0);
    net.nodes[0].seek.keys.clear();
    assert!(view.link.contains("?via=/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW"), "{}", view.link);
    net.join(1, &view.link).unwrap();
    net.assert_together(&[0, 1]);
}

#[test]
fn wrong_input_and_wrong_moments_are_told_apart() {
    let mut net = Net::new(5, &NAMES[..2]);
    assert!(matches!(net.join(1, "K7QM-2XPA"), Err(PartyError::BadCode(_, why)) if why.contains("8 symbols")));
    assert!(matches!(net.join(1, "lanrage://join/1"), Err(PartyError::BadLink(..))));
    assert!(matches!(net.kick(1, "x"), Err(PartyError::NotInParty)));
    net.nodes[1].machine.create(RequestId(1), Some("\u{7}"));
    net.settle();
    assert!(matches!(net.answer(1), Err(PartyError::BadName(..))));
    let view = net.create(0);
    assert!(matches!(net.join(0, &view.code), Err(PartyError::AlreadyInParty(name)) if name == "Friday"));
    assert_eq!(net.kick(0, "Ann").unwrap_err(), PartyError::CannotKickSelf);
    assert_eq!(net.kick(0, "Zoe").unwrap_err(), PartyError::UnknownMember("Zoe".into()));

    // A right code that is of no party.
    let code = PartyCode::try_from(5).unwrap().to_string();
    net.ask_join(1, &code);
    net.run(Duration::from_secs(29));
    assert!(net.nodes[1].replies.is_empty());
    net.ask_join(1, &code);
    net.run(Duration::from_secs(2));
    let replies: Vec<_> = net.nodes[1].replies.drain(..).map(Result::unwrap_err).collect();
    assert_eq!(replies, [PartyError::Busy, PartyError::NoSuchParty(Duration::from_secs(30))]);
    assert_eq!(net.nodes[1].seek, Seek::default());
}

#[test]
fn names_are_taken_and_parties_are_full() {
    let mut net = Net::with_limit(6, &["Ann", "ann", "Cid", "Dan"], 3);
    let view = net.create(0);
    assert_eq!(net.join(1, &view.code).unwrap_err(), PartyError::NameTaken("ann".into()));
    net.join(2, &view.code).unwrap();
    net.join(3, &view.code).unwrap();
    net.nodes[1].machine.profile.name = "Bob".into();
    assert_eq!(net.join(1, &view.code).unwrap_err(), PartyError::PartyFull(3));
    net.leave(2);
    net.join(1, &view.code).unwrap();
    net.assert_together(&[0, 1, 3]);
}

#[test]
fn a_party_of_255_takes_one_more_never() {
    // A roster of 254 made-up members beside the creator: only what admission looks at.
    let mut net = Net::new(7, &NAMES[..2]);
    let view = net.create(0);
    for _ in 0..254 {
        add_silent_member(&mut net);
    }
    net.settle();
    assert_eq!(net.view(0).members.len(), 255);
    assert_eq!(net.join(1, &view.code).unwrap_err(), PartyError::PartyFull(255));
}

fn add_silent_member(net: &mut Net) {
    use rand::Rng;

    let mut rng = StdRng::seed_from_u64(1000 + net.view(0).members.len() as u64);
    let identity = SigningKey::from_bytes(&rng.random());
    let mut profile = net.nodes[1].machine.profile.clone();
    profile.node = NodeId(identity.verifying_key().to_bytes());
    profile.wg_key = WgPublicKey(profile.node.0);
    profile.name = profile.node.to_string()[20..].to_owned();
    let now = net.now;
    let session = net.nodes[0].machine.session().unwrap();
    let known = crate::party::frame::Known { joined_at: now.unix, departures: 0, seq: 0 };
    let record = profile.first_record(&session.roster, &session.roster.taken_ips(), known, now.unix);
    let signed = crate::party::signed::Verified::sign(record, &identity).unwrap().signed().clone();
    net.nodes[0].machine.apply_items(now, vec![crate::party::frame::Item::Record(signed)], None);
}

#[test]
fn the_host_leaves_and_the_longest_standing_member_follows() {
    let mut net = Net::new(8, &NAMES[..4]);
    let view = net.create(0);
    for node in [1, 2, 3] {
        net.join(node, &view.code).unwrap();
    }
    assert_eq!(net.kick(1, "Cid").unwrap_err(), PartyError::NotHost("Ann".into()));
    net.leave(0);
    net.assert_together(&[1, 2, 3]);
    assert_eq!(net.view(3).host, "Bob");
    assert!(net.view(1).is_host);
    net.kick(1, "Dan").unwrap();
    net.run(Duration::from_secs(40));
    net.assert_together(&[1, 2]);
    // The creator is back with the new code: host again, and what was done meanwhile stands.
    let code = net.view(2).code;
    net.join(0, &code).unwrap();
    net.assert_together(&[0, 1, 2]);
    assert!(net.view(0).is_host);
}

#[test]
fn a_restart_needs_no_answer_from_anybody() {
    let mut net = Net::new(9, &NAMES[..3]);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    net.join(2, &view.code).unwrap();
    net.settle();
    let before = net.view(2);
    net.crash(2);
    net.run(Duration::from_secs(5));
    assert_eq!(net.view(0).members.iter().filter(|it| it.online).count(), 2);
    net.restart(2);
    net.drain_now();
    assert_eq!(net.view(2).virtual_ip, before.virtual_ip);
    assert_eq!(net.nodes[2].peers.peers.len(), 2, "tunnels before anybody was heard");
    net.settle();
    net.assert_together(&[0, 1, 2]);
    // All of them at once.
    for node in 0..3 {
        net.crash(node);
    }
    for node in 0..3 {
        net.restart(node);
    }
    net.settle();
    net.assert_together(&[0, 1, 2]);
}

#[test]
fn everybody_may_leave_and_come_back() {
    let mut net = Net::new(10, &NAMES[..2]);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    net.leave(0);
    net.leave(1);
    net.ask_join(1, &view.code);
    net.run(Duration::from_secs(11));
    assert_eq!(net.answer(1).unwrap().unwrap().members.len(), 1);
    net.join(0, &view.code).unwrap();
    net.assert_together(&[0, 1]);
}

#[test]
fn partitions_heal() {
    let mut net = Net::new(11, &NAMES[..6]);
    let view = net.create(0);
    for node in 1..4 {
        net.join(node, &view.code).unwrap();
    }
    net.partition(&[0, 0, 1, 1, 0, 1]);
    net.settle();
    // Two newcomers of the same name, one on either side.
    net.nodes[5].machine.profile.name = "eve".into();
    net.join(4, &view.code).unwrap();
    net.join(5, &view.code).unwrap();
    net.partition(&[0; 6]);
    net.run(Duration::from_secs(65));
    net.assert_together(&[0, 1, 2, 3, 4, 5]);
    let mut names = net.names(0);
    names.sort_by_key(|name| name.to_lowercase());
    assert!(names.contains(&"Eve-2".into()) || names.contains(&"eve-2".into()), "{names:?}");
}

#[test]
fn changed_addresses_reach_everybody_together() {
    let mut net = Net::new(12, &NAMES[..3]);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    net.join(2, &view.code).unwrap();
    net.settle();
    let now = net.now;
    let before = net.nodes[0].received.len();
    net.nodes[1].machine.set_contact(now, contact(&["198.51.100.7:9", "0.0.0.0:1"]));
    net.nodes[1].machine.set_contact(now, contact(&["198.51.100.8:9"]));
    net.nodes[1].machine.set_own_addrs(now, &["/ip4/198.51.100.8/tcp/1".into(), "not an address".into()]);
    net.settle();
    let node = net.nodes[1].machine.node();
    for other in [0, 2] {
        let spec = net.nodes[other].peers.peers.iter().find(|it| it.node == node).unwrap();
        assert_eq!(spec.contact, contact(&["198.51.100.8:9"]));
        let seek = net.nodes[other].seek.nodes.iter().find(|it| it.node == node).unwrap();
        assert_eq!(seek.addrs, ["/ip4/198.51.100.8/tcp/1"]);
    }
    assert!(net.nodes[0].received.len() - before <= 2, "one record, and at most an echo");
}

#[test]
fn a_shared_virtual_ip_is_settled_for_the_lower_peer_id() {
    let mut rng = StdRng::seed_from_u64(1);
    let range: Ipv4Range = "10.66.0.0/22".parse().unwrap();
    let mut small = Net::new(14, &NAMES[..2]);
    small.nodes[0].machine.range = range;
    let view = small.create(0);
    let host = small.nodes[0].machine.node();
    let taken = crate::party::record::virtual_ip(view.id, host, 0, range);
    let twin = std::iter::repeat_with(|| SigningKey::from_bytes(&rand::Rng::random(&mut rng)))
        .find(|key| {
            crate::party::record::virtual_ip(view.id, NodeId(key.verifying_key().to_bytes()), 0, range) == taken
        })
        .unwrap();
    let twin_node = NodeId(twin.verifying_key().to_bytes());
    small.nodes[1].machine.identity = twin.clone();
    small.nodes[1].machine.profile.node = twin_node;
    small.nodes[1].config.identity = twin;
    // Both enter the roster at the first attempt.
    small.ask_join(1, &view.code);
    small.run(Duration::from_secs(1));
    assert_ne!(small.view(1).virtual_ip, taken, "the newcomer avoids what it is told is in use");
    let now = small.now;
    for node in 0..2 {
        let machine = &mut small.nodes[node].machine;
        let Phase::Member(session) = &mut machine.phase else { panic!("in the party") };
        session.own.attempt = 0;
        session.own.virtual_ip = taken;
        machine.publish_soon(now, PUBLISH_DELAY);
    }
    small.run(Duration::from_secs(5));
    small.nodes[1].replies.clear();
    small.assert_together(&[0, 1]);
    let keeper = if host < twin_node { 0 } else { 1 };
    assert_eq!(small.view(keeper).virtual_ip, taken);
    assert_ne!(small.view(1 - keeper).virtual_ip, taken);
}

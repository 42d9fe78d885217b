//! Leaving when nobody hears it; standing when clocks are wrong; one identity on two machines.

use std::time::Duration;

use super::super::*;
use super::net::Net;
use crate::party::frame::Frame;
use crate::party::record::MemberRecord;
use crate::party::record::tests::contact;
use crate::party::signed::Verified;

fn party_of(seed: u64, names: &[&str]) -> (Net, PartyView) {
    let mut net = Net::new(seed, names);
    let view = net.create(0);
    for node in 1..names.len() {
        net.join(node, &view.code).unwrap();
    }
    net.settle();
    (net, view)
}

#[test]
fn a_host_that_leaves_unheard_is_gone_once_it_is_met_again() {
    let (mut net, view) = party_of(60, &["Ann", "Bob", "Cid"]);
    net.partition(&[0, 1, 1]);
    net.settle();
    net.leave(0);
    // It outlives the program, and a party of its own in between does not hold it up for ever.
    net.crash(0);
    net.restart(0);
    let list = net.nodes[0].machine.summaries();
    assert_eq!((list[0].state, list[0].active), ("left", false));
    let other = net.create(0);
    assert_ne!(other.id, view.id);
    net.leave(0);
    net.partition(&[0; 3]);
    net.run(Duration::from_secs(5));
    net.assert_together(&[1, 2]);
    assert!(net.view(1).is_host);
    assert_eq!((net.nodes[0].seek.clone(), net.nodes[0].machine.links.len()), (Seek::default(), 0));
    assert_eq!(net.nodes[0].machine.poll_timeout(), None, "nothing left to do");
    let now = net.now;
    net.nodes[0].machine.set_contact(now, contact(&["192.0.2.1:51820"]));
    assert!(net.join(0, &view.code).unwrap().is_host, "the creator");
    net.assert_together(&[0, 1, 2]);
}

#[test]
fn a_farewell_that_got_lost_is_said_again() {
    let (mut net, _) = party_of(61, &["Ann", "Bob"]);
    // The link is dead and neither side knows it.
    let now = net.now;
    net.nodes[1].machine.leave(now, RequestId(3));
    while let Some(output) = net.nodes[1].machine.poll_output() {
        if let Output::Persist(party) = output {
            net.nodes[1].disk.insert(party.id, party);
        }
    }
    net.settle();
    assert_eq!(net.view(0).members.len(), 2);
    net.run(Duration::from_secs(31));
    net.assert_together(&[0]);
    assert!(net.nodes[1].machine.links.is_empty());
}

#[test]
fn who_left_last_takes_along_who_left_before() {
    let (mut net, _) = party_of(66, &["Ann", "Bob", "Cid"]);
    net.partition(&[0, 1, 1]);
    net.settle();
    net.leave(1);
    assert!(net.nodes[1].seek.nodes.is_empty(), "Cid has heard it");
    net.leave(2);
    net.crash(1);
    net.partition(&[0; 3]);
    net.run(Duration::from_secs(5));
    net.assert_together(&[0]);
}

#[test]
fn a_leaver_tells_nobody_who_only_has_an_old_code() {
    let (mut net, view) = party_of(67, &["Ann", "Bob", "Cid"]);
    net.kick(0, "Cid").unwrap();
    net.crash(0);
    net.settle();
    net.leave(1);
    let eve = net.add("Eve", MAX_MEMBERS);
    net.ask_join(eve, &view.code);
    net.settle();
    net.open(eve, 1);
    net.run(Duration::from_secs(31));
    assert!(matches!(net.answer(eve), Err(crate::party::messages::PartyError::NoSuchParty(_))));
    assert!(!net.nodes[eve].received.is_empty(), "they met");
    for frame in &net.nodes[eve].received {
        let frame = Frame::decode(frame).unwrap();
        assert!(matches!(frame, Frame::Hello { .. } | Frame::Proof { .. } | Frame::Refusal), "{frame:?}");
    }
}

#[test]
fn nobody_is_looked_for_for_ever() {
    let (mut net, view) = party_of(62, &["Ann", "Bob"]);
    net.crash(0);
    net.settle();
    net.leave(1);
    assert!(!net.nodes[1].seek.nodes.is_empty());
    net.now.unix += 8 * 24 * 3600;
    net.run(Duration::from_secs(40));
    assert_eq!(net.nodes[1].seek, Seek::default());
    net.ask_join(1, &view.code);
    net.run(Duration::from_secs(11));
    assert!(net.answer(1).is_ok(), "and its own way back stays open");
}

/// Whoever stood before the host would be host itself, and the host's kicks and codes would lose their force.
#[test]
fn a_slow_clock_does_not_put_a_newcomer_before_the_host() {
    let (mut net, view) = party_of(63, &["Ann", "Bob", "Cid", "Dan"]);
    net.leave(0);
    net.kick(1, "Dan").unwrap();
    let code = net.view(1).code;
    assert_ne!(code, view.code);
    net.crash(1);
    net.settle();
    // Only Cid is there, and its clock is three hours behind.
    let eve = net.add("Eve", MAX_MEMBERS);
    net.now.unix -= 3 * 3600;
    net.join(eve, &code).unwrap();
    net.now.unix += 3 * 3600;
    net.restart(1);
    net.run(Duration::from_secs(35));
    net.assert_together(&[1, 2, eve]);
    assert_eq!((net.view(eve).host, net.view(eve).code), ("Bob".into(), code));
    assert!(net.nodes[3].machine.view().is_none());
}

#[test]
fn a_newcomer_that_claims_to_have_been_there_before_the_host_is_not_let_in() {
    let (mut net, _) = party_of(64, &["Ann", "Bob", "Cid"]);
    net.leave(0);
    let eve = net.add("Eve", MAX_MEMBERS);
    let claim = |net: &mut Net, joined_at: u64| {
        let session = net.nodes[1].machine.session().unwrap();
        let mut welcome = session.welcome(net.nodes[eve].machine.node(), net.now.unix);
        welcome.unix = joined_at;
        let known = crate::party::frame::Known { joined_at: welcome.unix, departures: 0, seq: 0 };
        let profile = net.nodes[eve].machine.profile.clone();
        let record: MemberRecord = profile.first_record(&session.roster, &welcome.taken, known, net.now.unix);
        let record = Verified::sign(record, &net.nodes[eve].config.identity).unwrap().signed().clone();
        // A stream that has proved the code.
        let (link, now) = (LinkId(1 << 43), net.now);
        let node = net.nodes[eve].machine.node();
        net.nodes[1].machine.handle_link_opened(now, link, node, false);
        net.nodes[1].machine.links.get_mut(&link).unwrap().stage = link::Stage::Proved;
        net.inject(1, link, Frame::Join { record }.encode().unwrap());
        net.nodes[1].machine.handle_link_closed(now, link);
        net.view(1).members.iter().any(|member| member.node == node)
    };
    let host = net.nodes[1].machine.node();
    let since = net.nodes[1].machine.session().unwrap().roster.record(host).unwrap().joined_at;
    assert!(!claim(&mut net, since - 60));
    assert!(!claim(&mut net, since));
    assert!(claim(&mut net, since + 1));
}

/// Both copies publish as Bob. Each answers the other's record, but not at the speed of the network.
#[test]
fn two_copies_of_one_data_folder_do_not_shout_at_each_other() {
    let (mut net, _) = party_of(65, &["Ann", "Bob", "Cid"]);
    let copy = net.add("Bob", MAX_MEMBERS);
    net.nodes[copy].config = PartyConfig { seed: [9; 32], ..net.nodes[1].config.clone() };
    net.nodes[copy].disk = net.nodes[1].disk.clone();
    // One is linked to Ann, the other to Cid: each record of one gets to the other at once.
    net.keep_apart(1, 2);
    net.keep_apart(copy, 0);
    net.restart(copy);
    let now = net.now;
    net.nodes[copy].machine.set_contact(now, contact(&["198.51.100.44:51820"]));
    let bob = net.nodes[1].machine.node();
    let seq = |net: &Net| net.nodes[0].machine.session().unwrap().roster.record(bob).unwrap().seq;
    let before = seq(&net);
    net.run(Duration::from_secs(60));
    let published = seq(&net) - before;
    assert!(published > 4, "{published}: they do not contend, and nothing is shown");
    // Each at most twice in five seconds: once when the pause ends, and once at the next answer.
    assert!(published <= 2 * 2 * 60 / 5, "{published} records in a minute");
    assert_eq!(net.view(2).members.len(), 3);
}

fn in_two_halves(seed: u64) -> (Net, PartyView) {
    let mut net = Net::with_limit(seed, &["Ann", "Bob", "Cid", "Dan"], 3);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    net.partition(&[0, 1, 1, 0]);
    net.settle();
    net.join(2, &view.code).unwrap();
    net.join(3, &view.code).unwrap();
    (net, view)
}

#[test]
fn where_two_halves_let_in_too_many_the_last_one_goes() {
    let (mut net, _) = in_two_halves(68);
    net.partition(&[0; 4]);
    net.run(Duration::from_secs(65));
    net.assert_together(&[0, 1, 2]);
    assert!(net.nodes[3].events.contains(&Event::Surplus("Friday".into())));
    assert!(net.nodes[3].machine.view().is_none());
}

#[test]
fn who_seems_to_be_too_many_waits_until_it_has_heard_all() {
    let (mut net, _) = in_two_halves(69);
    net.leave(1);
    // Dan hears of Cid, and not yet that Bob has left.
    let cid = net.nodes[2].machine.node();
    let record = net.nodes[2].machine.session().unwrap().roster.signed_record(cid).unwrap().clone();
    let link = net.link_between(3, 0);
    net.inject(3, link, Frame::Items(vec![crate::party::frame::Item::Record(record)]).encode().unwrap());
    net.settle();
    net.partition(&[0; 4]);
    net.run(Duration::from_secs(65));
    net.assert_together(&[0, 2, 3]);
    assert!(!net.nodes[3].events.contains(&Event::Surplus("Friday".into())));
}

//! Kicks and code rolls.

use std::time::Duration;

use super::super::*;
use super::net::Net;
use crate::party::messages::PartyError;

fn party_of(seed: u64, count: usize) -> (Net, PartyView) {
    let names = ["Ann", "Bob", "Cid", "Dan"];
    let mut net = Net::new(seed, &names[..count]);
    let view = net.create(0);
    for node in 1..count {
        net.join(node, &view.code).unwrap();
    }
    net.settle();
    (net, view)
}

#[test]
fn a_kicked_member_is_out_for_good_and_the_code_is_rolled() {
    let (mut net, view) = party_of(20, 4);
    let psk = |net: &Net| net.nodes[0].peers.peers.iter().find(|it| it.name == "Bob").unwrap().psk.clone();
    let before = psk(&net);
    let kicked = net.kick(0, "dan").unwrap();
    assert_ne!(kicked.code, view.code);
    net.assert_together(&[0, 1, 2]);
    assert_eq!(net.view(2).code, kicked.code);
    assert!(psk(&net) != before);

    assert!(net.nodes[3].machine.view().is_none());
    assert!(net.nodes[3].events.contains(&Event::Removed("Friday".into())));
    assert_eq!((net.nodes[3].address, net.nodes[3].peers.peers.len()), (None, 0));
    let list = net.nodes[3].machine.summaries();
    assert_eq!((list[0].state, list[0].code.clone()), ("kicked", None));
    net.restart(3);
    assert_eq!(net.nodes[3].machine.summaries()[0].state, "kicked");
    // Neither the old code nor the new one lets him in again; whoever else has the old one finds nobody.
    assert_eq!(net.join(3, &view.code).unwrap_err(), PartyError::Kicked);
    assert_eq!(net.join(3, &kicked.code).unwrap_err(), PartyError::Kicked);
    let stranger = net.add("Eve", MAX_MEMBERS);
    net.ask_join(stranger, &view.code);
    net.run(Duration::from_secs(31));
    assert!(matches!(net.answer(stranger), Err(PartyError::NoSuchParty(_))));
    net.join(stranger, &kicked.code).unwrap();
    net.assert_together(&[0, 1, 2, stranger]);
}

#[test]
fn a_member_that_was_away_comes_back_with_the_old_code() {
    let (mut net, _) = party_of(21, 4);
    net.crash(2);
    net.kick(0, "Dan").unwrap();
    let code = net.kick(0, "12D3KooWx").unwrap_err();
    assert_eq!(code, PartyError::UnknownMember("12D3KooWx".into()));
    let code = net.view(0).code;
    net.run(Duration::from_secs(60));
    net.restart(2);
    net.run(Duration::from_secs(2));
    net.assert_together(&[0, 1, 2]);
    assert_eq!(net.view(2).code, code);
    // And everybody still is in step after a restart with the new code.
    net.crash(2);
    net.restart(2);
    net.settle();
    net.assert_together(&[0, 1, 2]);
}

#[test]
fn a_member_that_was_away_for_several_rolls_is_told_the_last_code() {
    let (mut net, _) = party_of(22, 4);
    net.crash(1);
    net.kick(0, "Cid").unwrap();
    net.kick(0, "Dan").unwrap();
    net.restart(1);
    net.run(Duration::from_secs(2));
    net.assert_together(&[0, 1]);
    assert_eq!(net.view(1).code, net.view(0).code);
}

#[test]
fn somebody_kicked_while_away_is_told_when_he_comes_back() {
    let (mut net, _) = party_of(23, 3);
    net.crash(2);
    net.kick(0, "Cid").unwrap();
    net.restart(2);
    net.run(Duration::from_secs(2));
    assert!(net.nodes[2].machine.view().is_none());
    assert_eq!(net.nodes[2].machine.summaries()[0].state, "kicked");
    net.assert_together(&[0, 1]);
}

#[test]
fn a_kicked_member_cannot_smuggle_a_new_identity_in_through_one_who_was_away() {
    let (mut net, view) = party_of(24, 4);
    // Cid does not hear that Dan was removed; Dan makes up Eve, and Cid lets her in with the old code.
    net.partition(&[0, 0, 1, 1]);
    net.kick(0, "Dan").unwrap();
    let eve = net.add("Eve", MAX_MEMBERS);
    net.group[eve] = 1;
    net.join(eve, &view.code).unwrap();
    net.partition(&[0, 0, 0, 1, 0]);
    net.run(Duration::from_secs(65));
    let code = net.view(0).code;
    assert_eq!(net.view(2).code, code, "Cid was told the new code");
    assert_ne!(net.nodes[eve].machine.view().map(|it| it.code), Some(code), "Eve was not");
    // Her tunnels have keys of another code.
    let node = net.nodes[eve].machine.node();
    let psk_of =
        |of: usize, to: NodeId| net.nodes[of].peers.peers.iter().find(|it| it.node == to).map(|it| it.psk.clone());
    for member in 0..3 {
        let theirs = psk_of(eve, net.nodes[member].machine.node());
        assert!(psk_of(member, node).is_none() || psk_of(member, node) != theirs);
        assert!(!net.nodes[member].machine.is_linked(node));
    }
}

#[test]
fn a_forged_or_powerless_kick_does_nothing() {
    use crate::party::frame::{Frame, Item};
    use crate::party::record::Kick;
    use crate::party::signed::Verified;

    let (mut net, view) = party_of(25, 3);
    let by = net.nodes[1].machine.node();
    let kick = Kick { party: view.id, member: net.nodes[2].machine.node(), by, at: net.now.unix };
    let kick = Verified::sign(kick, &net.nodes[1].config.identity).unwrap().signed().clone();
    let link = net.link_between(0, 1);
    net.inject(0, link, Frame::Items(vec![Item::Kick(kick.clone())]).encode().unwrap());
    net.settle();
    net.assert_together(&[0, 1, 2]);
    let link = net.link_between(2, 1);
    let reason = crate::party::frame::Reason::Kicked { kick };
    net.inject(2, link, Frame::Refused(reason).encode().unwrap());
    net.settle();
    net.assert_together(&[0, 1, 2]);
}

/// While a machine joins, it trusts whoever knows the code that it joins with: it cannot know better. Once it is in, it can.
#[test]
fn a_node_that_was_trusted_while_joining_is_not_told_the_new_code() {
    use crate::party::frame::Frame;

    let (mut net, view) = party_of(26, 4);
    // Cid leaves where nobody hears it, so that the others carry him over to the next code.
    net.partition(&[0, 0, 1, 0]);
    net.settle();
    net.leave(2);
    net.kick(0, "Dan").unwrap();
    net.crash(3);
    let code = net.view(0).code;
    assert_ne!(code, view.code);
    // Eve has the old code from Dan, and meets Cid while both of them join with it.
    let eve = net.add("Eve", MAX_MEMBERS);
    net.group[eve] = 1;
    net.ask_join(eve, &view.code);
    net.ask_join(2, &view.code);
    net.settle();
    let (trusted, eve_node) = (net.link_between(2, eve), net.nodes[eve].machine.node());
    assert!(net.nodes[2].machine.is_linked(eve_node));
    // Now Cid meets the party, and is told the new code.
    net.partition(&[0; 5]);
    net.run(Duration::from_secs(2));
    assert!(net.answer(2).is_ok());
    net.assert_together(&[0, 1, 2]);
    assert_eq!(net.view(2).code, code);
    assert!(!net.is_open(2, trusted));
    net.run(Duration::from_secs(31));
    assert!(matches!(net.answer(eve), Err(PartyError::NoSuchParty(_))));
    for frame in &net.nodes[eve].received {
        let frame = Frame::decode(frame).unwrap();
        assert!(matches!(frame, Frame::Hello { .. } | Frame::Proof { .. } | Frame::Refusal), "{frame:?}");
    }
    net.assert_together(&[0, 1, 2]);
}

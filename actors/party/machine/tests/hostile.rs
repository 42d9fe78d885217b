//! Strangers, forgers and noise.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::net::{Net, UNIX};
use crate::discovery::messages::MAX_FRAME;
use crate::party::frame::{Frame, Item};
use crate::party::record::tests::contact;
use crate::party::signed::Verified;

/// What a knocker hears from `acceptor`: hello, proof of nothing, answer.
fn knock(net: &mut Net, stranger: usize, acceptor: usize, macs: Vec<[u8; 32]>) -> Vec<Frame> {
    net.nodes[stranger].received.clear();
    // The stranger's own machine would not even try: speak for it.
    let (_, link) = net.open(stranger, acceptor);
    let (own, now) = (LinkId(1 << 40), net.now);
    let knocker = net.nodes[stranger].machine.node();
    net.nodes[acceptor].machine.handle_link_closed(now, link);
    net.nodes[acceptor].machine.handle_link_opened(now, own, knocker, false);
    let mut heard = Vec::new();
    for frame in [Frame::Hello { nonce: [1; 32] }, Frame::Proof { macs }, Frame::Digest([0; 32]), Frame::Seeking] {
        net.nodes[acceptor].machine.handle_frame(now, own, &frame.encode().unwrap());
        while let Some(output) = net.nodes[acceptor].machine.poll_output() {
            match output {
                Output::Send { link, frame } if link == own => heard.push(Frame::decode(&frame).unwrap()),
                Output::Close(link) => assert_eq!(link, own),
                Output::Send { .. } | Output::Seek(_) | Output::Event(_) => {}
                Output::Persist(_) | Output::Peers(_) | Output::Address(_) | Output::Derive(_) | Output::Reply(..) => {
                    panic!("moved by a stranger")
                }
            }
        }
    }
    heard
}

#[test]
fn a_stranger_learns_nothing_not_even_that_there_is_a_party() {
    let mut net = Net::new(30, &["Ann", "Bob", "Cid"]);
    net.create(0);
    for macs in [vec![[0; 32]; 5], vec![], vec![[7; 32]]] {
        let in_party = knock(&mut net, 1, 0, macs.clone());
        let in_none = knock(&mut net, 1, 2, macs);
        for heard in [in_party, in_none] {
            assert!(matches!(heard[..], [Frame::Hello { .. }, Frame::Refusal]), "{heard:?}");
        }
    }
    assert_eq!(net.nodes[0].machine.counters().refused_proofs, 3);
}

#[test]
fn what_a_searcher_with_another_code_sees_is_the_same_from_all() {
    let mut net = Net::new(31, &["Ann", "Bob", "Cid"]);
    net.create(0);
    net.ask_join(1, &PartyCode::try_from(77).unwrap().to_string());
    net.settle();
    for acceptor in [0, 2] {
        net.nodes[1].received.clear();
        net.open(1, acceptor);
        net.settle();
        let heard: Vec<Frame> = net.nodes[1].received.iter().map(|it| Frame::decode(it).unwrap()).collect();
        assert!(matches!(heard[..], [Frame::Hello { .. }, Frame::Refusal]), "{heard:?}");
    }
}

#[test]
fn proofs_cannot_be_reflected_or_replayed() {
    let mut net = Net::new(32, &["Ann", "Bob"]);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    // All that Ann ever said to Bob, said back to her by somebody else on a new link.
    let said: Vec<Vec<u8>> = net.nodes[1].received.clone();
    let eve = net.add("Eve", MAX_MEMBERS);
    let (knocker, now) = (net.nodes[eve].machine.node(), net.now);
    for outbound in [false, true] {
        let link = LinkId(1 << (41 + u64::from(outbound)));
        net.nodes[0].machine.handle_link_opened(now, link, knocker, outbound);
        for frame in &said {
            net.nodes[0].machine.handle_frame(now, link, frame);
        }
        assert!(!net.nodes[0].machine.is_linked(knocker));
    }
}

#[test]
fn silent_strangers_are_cut_off_and_too_many_are_not_let_near() {
    let mut net = Net::new(33, &["Ann"]);
    net.create(0);
    let now = net.now;
    for number in 0..100_u8 {
        net.nodes[0].machine.handle_link_opened(now, LinkId(1000 + u64::from(number)), NodeId([number; 32]), false);
    }
    assert_eq!(net.nodes[0].machine.links.len(), link::MAX_UNPROVED);
    assert_eq!(net.nodes[0].machine.counters().refused_links, 36);
    net.run(Duration::from_secs(11));
    assert!(net.nodes[0].machine.links.is_empty());
}

#[test]
fn another_protocol_version_is_told_clearly() {
    let mut net = Net::new(34, &["Ann", "Bob"]);
    net.ask_join(1, &PartyCode::try_from(77).unwrap().to_string());
    net.settle();
    let (link, _) = net.open(1, 0);
    let mut hello = Frame::Hello { nonce: [0; 32] }.encode().unwrap();
    hello[0] = 9;
    net.inject(1, link, hello);
    net.run(Duration::from_secs(31));
    let error = net.answer(1).unwrap_err();
    assert_eq!(error, crate::party::messages::PartyError::VersionMismatch { ours: 1, theirs: 9 });
}

#[test]
fn garbage_from_a_member_closes_the_link_and_floods_are_cut() {
    let mut net = Net::new(35, &["Ann", "Bob"]);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    net.settle();
    let link = net.link_between(0, 1);
    let digest = Frame::Digest(net.nodes[0].machine.digest().unwrap()).encode().unwrap();
    for _ in 0..400 {
        net.inject(0, link, digest.clone());
    }
    assert!(net.nodes[0].machine.counters().rate_limited >= 100);
    assert!(net.is_open(0, link));
    net.settle();
    net.inject(0, link, vec![0xff; MAX_FRAME + 1]);
    net.drain_now();
    assert!(!net.is_open(0, link));
    assert_eq!(net.nodes[0].machine.counters().garbage, 1);
    net.run(Duration::from_secs(5));
    net.assert_together(&[0, 1]);
}

#[test]
fn a_record_in_anothers_name_is_refused_and_old_ones_change_nothing() {
    let mut net = Net::new(36, &["Ann", "Bob", "Cid"]);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    net.join(2, &view.code).unwrap();
    let link = net.link_between(0, 1);
    let session = |net: &Net| net.nodes[2].machine.session().unwrap().own.clone();
    let old = net.nodes[2].machine.session().unwrap().roster.signed_record(session(&net).node).unwrap().clone();
    let now = net.now;
    net.nodes[2].machine.set_contact(now, contact(&["198.51.100.9:1"]));
    net.settle();
    let before = net.nodes[0].machine.digest();
    net.inject(0, link, Frame::Items(vec![Item::Record(old)]).encode().unwrap());
    // Bob signs a record for Cid with his own key: the signature is wrong.
    let mut forged = session(&net);
    forged.seq += 1;
    forged.name = "Mud".into();
    forged.node = net.nodes[1].machine.node();
    let signed = Verified::sign(forged, &net.nodes[1].config.identity).unwrap().signed().clone();
    let mut bytes = Frame::Items(vec![Item::Record(signed)]).encode().unwrap();
    let (bob, cid) = (net.nodes[1].machine.node().0, net.nodes[2].machine.node().0);
    let at = bytes.windows(32).position(|it| *it == bob).unwrap();
    bytes[at..at + 32].copy_from_slice(&cid);
    net.inject(0, link, bytes);
    net.settle();
    assert_eq!(net.nodes[0].machine.digest(), before);
    assert_eq!(net.nodes[0].machine.counters().refused_items, 1);
    net.assert_together(&[0, 1, 2]);
}

#[test]
fn damaged_snapshots_are_said_and_left_alone() {
    let mut net = Net::new(37, &["Ann"]);
    let view = net.create(0);
    let mut party = net.nodes[0].disk[&view.id].clone();
    party.snapshot.truncate(100);
    let config = net.nodes[0].config.clone();
    let mut machine = PartyMachine::new(config, &[party]);
    assert!(machine.view().is_none());
    assert!(matches!(machine.poll_output(), Some(Output::Event(Event::SnapshotUnreadable(_)))));
}

fn member_with_a_proved_link() -> (Net, LinkId) {
    let mut net = Net::new(38, &["Ann", "Bob"]);
    let view = net.create(0);
    net.join(1, &view.code).unwrap();
    net.settle();
    let link = net.link_between(0, 1);
    (net, link)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_frames_do_no_harm(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
        kind in prop::option::of(0_u8..12),
        proved: bool,
    ) {
        let (mut net, mut link) = member_with_a_proved_link();
        let now = Now { mono: net.now.mono, unix: UNIX };
        let before = net.nodes[0].machine.digest();
        for mut bytes in frames {
            if !proved {
                link = LinkId(link.0 + (1 << 42));
                net.nodes[0].machine.handle_link_opened(now, link, NodeId([9; 32]), false);
            }
            if let Some(kind) = kind {
                bytes.splice(0..0, [1, 0, kind]);
            }
            net.nodes[0].machine.handle_frame(now, link, &bytes);
            net.nodes[0].machine.handle_link_closed(now, LinkId(1 << 42));
        }
        prop_assert_eq!(net.nodes[0].machine.digest(), before);
        while net.nodes[0].machine.poll_output().is_some() {}
    }
}

use proptest::prelude::*;

use super::super::code::PartyCode;
use super::super::record::tests::{key, node, record};
use super::*;
use crate::wire::{Ipv4Range, WgPublicKey};

const CREATOR: u8 = 1;

fn info() -> Verified<PartyInfo> {
    let info = PartyInfo {
        salt: [5; 16],
        name: "Friday".into(),
        range: Ipv4Range::DEFAULT,
        creator: node(CREATOR),
        created_at: 1000,
    };
    Verified::sign(info, &key(CREATOR)).unwrap()
}

fn empty() -> Roster {
    Roster::new(info(), 4)
}

fn member(seed: u8, change: impl FnOnce(&mut MemberRecord)) -> Item {
    let mut record = record(empty().id(), seed, &format!("player {seed}"));
    record.joined_at = 1000 + u64::from(seed);
    change(&mut record);
    Item::Record(Verified::sign(record, &key(seed)).unwrap().signed().clone())
}

fn kick(by: u8, member: u8) -> Item {
    let kick = Kick { party: empty().id(), member: node(member), by: node(by), at: 2000 };
    Item::Kick(Verified::sign(kick, &key(by)).unwrap().signed().clone())
}

fn rekey(by: u8, generation: u32) -> Item {
    let code = PartyCode::try_from(u64::from(generation) << 8 | u64::from(by)).unwrap();
    let rekey = Rekey { party: empty().id(), generation, code, stay: vec![], by: node(by), at: 2000 };
    Item::Rekey(Verified::sign(rekey, &key(by)).unwrap().signed().clone())
}

fn merged(items: impl IntoIterator<Item = Item>) -> Roster {
    let mut roster = empty();
    let (_, errors) = roster.merge(items, 3000);
    assert_eq!(errors, []);
    roster
}

#[test]
fn the_later_record_stands_and_standing_cannot_be_talked_up() {
    let old = member(2, |it| it.seq = 5);
    let newer = member(2, |it| (it.seq, it.name) = (6, "new".into()));
    let roster = merged([newer.clone(), old.clone()]);
    assert_eq!(roster, merged([old, newer.clone()]));
    assert_eq!(roster.record(node(2)).unwrap().name, "new");
    let earlier = member(2, |it| (it.seq, it.joined_at) = (99, 1));
    assert_eq!(merged([newer, earlier]).record(node(2)).unwrap().seq, 6);
}

#[test]
fn forged_foreign_and_misplaced_items_are_refused() {
    let mut roster = empty();
    let mut other = record(PartyId([9; 16]), 2, "x");
    let foreign = Item::Record(Verified::sign(other.clone(), &key(2)).unwrap().signed().clone());
    other.party = roster.id();
    other.virtual_ip = Ipv4Addr::new(10, 66, 1, 1);
    let misplaced = Item::Record(Verified::sign(other, &key(2)).unwrap().signed().clone());
    let Item::Kick(a_kick) = kick(1, 2) else { unreachable!() };
    let (news, errors) = roster.merge([foreign, misplaced, Item::Record(a_kick)], 0);
    assert_eq!(news, []);
    assert_eq!(errors, [MergeError::OtherParty, MergeError::WrongIp, MergeError::Signed(SignedError::Malformed)]);
}

#[test]
fn host_passes_to_the_longest_standing_and_kicks_need_standing() {
    let all = || (1..=3).map(|seed| member(seed, |_| {})).collect::<Vec<_>>();
    let roster = merged(all());
    assert_eq!(roster.view().host(), Some(node(1)));
    // 2 is not host: its kick has no force, and neither has its code.
    let roster = merged(all().into_iter().chain([kick(2, 3), rekey(1, 0), rekey(2, 1)]));
    assert!(roster.view().is_member(node(3)));
    assert_eq!(roster.codes().next().unwrap().by, node(1));
    // The creator leaves: 2 is host, its kick counts, and goes on counting when the creator is back.
    let left = member(1, |it| (it.seq, it.state, it.departures) = (2, MemberState::Left, 1));
    let roster = merged(all().into_iter().chain([kick(2, 3), left.clone()]));
    assert_eq!(roster.view().host(), Some(node(2)));
    assert!(roster.view().kicked.contains(&node(3)));
    let back = member(1, |it| (it.seq, it.departures) = (3, 1));
    let roster = merged(all().into_iter().chain([kick(2, 3), left, back]));
    assert_eq!(roster.view().host(), Some(node(1)));
    assert!(roster.view().kicked.contains(&node(3)));
    // His own later records do not undo it, and nobody puts out the creator.
    let again = member(3, |it| it.seq = 50);
    let roster = merged(all().into_iter().chain([kick(1, 3), again, kick(2, 1)]));
    assert_eq!(roster.view().members, [node(1), node(2)]);
    assert!(roster.kick_of(node(3)).is_some());
}

#[test]
fn names_ips_keys_and_the_limit_are_settled_alike_everywhere() {
    let same = member(3, |it| (it.name, it.wg_key) = ("PLAYER 2".into(), WgPublicKey([2; 32])));
    let view = merged([member(2, |_| {}), same]).view().clone();
    assert!(view.without_name.contains(&node(3)) && view.without_key.contains(&node(3)));
    let view = merged((2..8).map(|seed| member(seed, |_| {}))).view().clone();
    assert_eq!(view.members, [2, 3, 4, 5].map(node));
}

#[test]
fn members_that_left_are_forgotten_after_thirty_days() {
    let left = member(2, |it| (it.state, it.departures) = (MemberState::Left, 1));
    let mut roster = merged([member(1, |_| {}), left.clone()]);
    assert!(roster.record(node(2)).is_some());
    roster.refresh(1000 + LEFT_KEPT_SECS + 1);
    assert!(roster.record(node(2)).is_none());
    assert_eq!(roster.merge([left], 1000 + LEFT_KEPT_SECS + 1), (vec![], vec![]));
}

#[test]
fn tables_stay_bounded_and_rightful_items_find_room() {
    let mut roster = merged([member(1, |_| {}), rekey(1, 0)]);
    for seed in 0..=255 {
        for other in [2, 3, 4] {
            if seed != other {
                let _ = roster.merge([kick(seed, other)], 0);
            }
        }
    }
    assert_eq!(roster.kicks.len(), MAX_KICKS);
    let _ = roster.merge([kick(1, 9), member(9, |_| {})], 0);
    assert!(roster.view().kicked.contains(&node(9)));
    for generation in 0..40 {
        let _ = roster.merge([rekey(7, u32::MAX - generation)], 0);
    }
    assert!(roster.rekeys.len() <= MAX_REKEYS);
    let (_, errors) = roster.merge((1..9).map(|generation| rekey(1, generation)), 0);
    assert_eq!(errors, []);
    assert_eq!(roster.codes().map(|it| it.generation).collect::<Vec<_>>(), [8, 7, 6, 5, 4]);
}

fn any_item() -> impl Strategy<Value = Item> {
    let records = (1_u8..9, 0_u64..4, 0_u32..2, any::<bool>(), 0_u8..3, 0_u64..3).prop_map(
        |(seed, seq, departures, active, attempt, joined)| {
            member(seed, |it| {
                it.seq = seq;
                it.departures = departures;
                it.state = if active { MemberState::Active } else { MemberState::Left };
                it.joined_at = 1000 + joined;
                it.attempt = attempt;
                it.name = format!("name {attempt}");
                it.virtual_ip = virtual_ip(it.party, it.node, attempt, Ipv4Range::DEFAULT);
            })
        },
    );
    let kicks = (1_u8..9, 1_u8..9).prop_filter("own", |(by, member)| by != member).prop_map(|(by, it)| kick(by, it));
    prop_oneof![4 => records, 1 => kicks, 1 => (1_u8..9, 0_u32..4).prop_map(|(by, generation)| rekey(by, generation))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_order_and_duplication_ends_alike(
        items in prop::collection::vec(any_item(), 1..30),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        split in 0_usize..30,
    ) {
        let one = merged(items.clone());
        // Some twice and out of order first, then all backwards, in two batches.
        let shuffled: Vec<_> = order.iter().map(|at| at.get(&items).clone()).chain(items.iter().rev().cloned()).collect();
        let (head, tail) = shuffled.split_at(split.min(shuffled.len()));
        let mut other = merged(head.to_vec());
        other.merge(tail.to_vec(), 3000);
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(one.compare(&other.summary(false)), (vec![], false));

        let view = one.view();
        prop_assert!(view.members.len() <= one.limit());
        let reachable: Vec<_> = one.members().filter(|it| view.has_tunnel(it.node)).map(|it| it.virtual_ip).collect();
        let unique: std::collections::BTreeSet<_> = reachable.iter().collect();
        prop_assert_eq!(unique.len(), reachable.len());
        for member in one.members().filter(|it| view.without_ip.contains(&it.node)) {
            prop_assert!(one.members().any(|it| it.virtual_ip == member.virtual_ip && it.node < member.node));
        }
    }

    #[test]
    fn summaries_bring_two_halves_together(items in prop::collection::vec(any_item(), 1..30), split in 0_usize..30) {
        let (a, b) = items.split_at(split.min(items.len()));
        let (mut one, mut other) = (merged(a.to_vec()), merged(b.to_vec()));
        let (for_other, _) = one.compare(&other.summary(true));
        other.merge(for_other, 3000);
        let (for_one, _) = other.compare(&one.summary(true));
        one.merge(for_one, 3000);
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(one.digest(), merged(items).digest());
    }
}

#[test]
fn a_newcomer_believes_the_successor_of_a_creator_who_left_long_ago() {
    let left = |it: &mut MemberRecord| (it.state, it.departures) = (MemberState::Left, 1);
    let items = [rekey(1, 0), rekey(2, 1), kick(2, 3), member(3, |_| {}), member(2, |_| {}), member(1, left)];
    let late = 1000 + 2 * LEFT_KEPT_SECS;
    let mut newcomer = empty();
    newcomer.merge(items.clone(), late);
    assert_eq!(newcomer.view().host(), Some(node(2)));
    assert_eq!(newcomer.codes().next().map(|code| (code.generation, code.by)), Some((1, node(2))));
    assert!(newcomer.view().kicked.contains(&node(3)));
    // A member that was there all the time agrees.
    let mut old_hand = merged(items);
    old_hand.refresh(late);
    assert_eq!(old_hand.digest(), newcomer.digest());
}

#[test]
fn kicks_without_force_do_not_push_each_other_out() {
    let mut roster = merged([member(1, |_| {})]);
    let flood = |by: u8| (2..=255u8).filter(move |other| *other != by).map(move |other| kick(by, other));
    roster.merge(flood(7).chain(flood(8)).chain(flood(9)), 3000);
    assert_eq!(roster.kicks.len(), MAX_KICKS);
    let digest = roster.digest();
    roster.merge(flood(9).chain(flood(10)), 3000);
    assert_eq!(roster.digest(), digest);
}

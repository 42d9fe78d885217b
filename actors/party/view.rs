//! What a set of records, kicks and code rolls means. A pure function of the set: every machine that holds the same items
//! sees the same party, in whatever order they came.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::record::{Kick, MemberRecord, MemberState, Rekey};
use super::signed::Verified;
use crate::wire::{NodeId, WgPublicKey};

/// Codes before the current one that still let members prove themselves.
pub const OLD_CODES: usize = 4;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Active members that count, by standing: the creator, then who joined first. At most the party's limit.
    pub members: Vec<NodeId>,
    /// Whose removal counts.
    pub kicked: BTreeSet<NodeId>,
    /// Who may remove members and roll the code: those before whom nobody stands who has never been away.
    /// (Any of them is or has been host; a kick must not lose its force when an earlier host comes back.)
    pub authorised: BTreeSet<NodeId>,
    /// Code rolls that count, the current one first, then up to `OLD_CODES` older ones.
    pub codes: Vec<(u32, NodeId)>,
    /// Members whose virtual IP belongs to another (the lower PeerId keeps it).
    pub without_ip: BTreeSet<NodeId>,
    /// Members whose name belongs to another (the longer-standing one keeps it).
    pub without_name: BTreeSet<NodeId>,
    /// Members whose WireGuard key another one showed first.
    pub without_key: BTreeSet<NodeId>,
}

/// What a view is made from.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    pub(super) creator: NodeId,
    pub(super) limit: usize,
    pub(super) records: &'a BTreeMap<NodeId, Verified<MemberRecord>>,
    pub(super) kicks: &'a BTreeMap<(NodeId, NodeId), Verified<Kick>>,
    pub(super) rekeys: &'a BTreeMap<(u32, NodeId), Verified<Rekey>>,
}

/// Names that a player could not tell apart are the same.
#[must_use]
pub fn fold_name(name: &str) -> String {
    name.to_lowercase()
}

impl View {
    pub(super) fn new(sources: &Sources<'_>) -> Self {
        let mut view = Self::default();
        let mut order: Vec<&MemberRecord> = sources.records.values().map(Verified::get).collect();
        order.sort_by_key(|record| (record.node != sources.creator, record.joined_at, record.node));
        view.judge(sources, &order);
        view.members = order
            .iter()
            .filter(|record| record.state == MemberState::Active && !view.kicked.contains(&record.node))
            .map(|record| record.node)
            .take(sources.limit)
            .collect();
        view.settle(sources);
        view.codes = sources.rekeys.keys().copied().filter(|(_, by)| view.authorised.contains(by)).collect();
        let standing: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(at, it)| (it.node, at)).collect();
        view.codes.sort_by_key(|(generation, by)| (std::cmp::Reverse(*generation), standing.get(by).copied()));
        view.codes.truncate(1 + OLD_CODES);
        view
    }

    /// One pass from the longest-standing member down: whoever may remove a member stands before it.
    fn judge(&mut self, sources: &Sources<'_>, order: &[&MemberRecord]) {
        // Until the creator's record is known it counts as one who has never been away.
        let mut nobody_before = true;
        if !sources.records.contains_key(&sources.creator) {
            self.authorised.insert(sources.creator);
            nobody_before = false;
        }
        for record in order {
            let node = record.node;
            let removed_by = |(_, by): &(NodeId, NodeId)| self.authorised.contains(by);
            let kicks = sources.kicks.range((node, NodeId([0; 32]))..=(node, NodeId([0xff; 32])));
            if node != sources.creator && kicks.map(|(key, _)| key).any(removed_by) {
                self.kicked.insert(node);
                continue;
            }
            if nobody_before {
                self.authorised.insert(node);
                nobody_before = record.state == MemberState::Left || record.departures > 0;
            }
        }
    }

    fn settle(&mut self, sources: &Sources<'_>) {
        let record_of = |node: &NodeId| sources.records.get(node).map(Verified::get);
        let mut names = BTreeSet::new();
        let mut keys: BTreeSet<WgPublicKey> = BTreeSet::new();
        for record in self.members.iter().filter_map(record_of) {
            if !names.insert(fold_name(&record.name)) {
                self.without_name.insert(record.node);
            }
            if !keys.insert(record.wg_key) {
                self.without_key.insert(record.node);
            }
        }
        let mut ips: BTreeMap<Ipv4Addr, NodeId> = BTreeMap::new();
        for record in self.members.iter().filter_map(record_of) {
            let keeper = ips.entry(record.virtual_ip).or_insert(record.node);
            if *keeper != record.node {
                let loser = record.node.max(*keeper);
                *keeper = record.node.min(*keeper);
                self.without_ip.insert(loser);
            }
        }
    }

    #[must_use]
    pub fn host(&self) -> Option<NodeId> {
        self.members.first().copied()
    }

    #[must_use]
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }

    /// Whether a tunnel to this member can be unambiguous.
    #[must_use]
    pub fn has_tunnel(&self, node: NodeId) -> bool {
        !self.without_ip.contains(&node) && !self.without_key.contains(&node)
    }
}

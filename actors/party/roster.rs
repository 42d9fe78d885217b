//! All that is known of one party. Merging is last-writer-wins per key with a total order on what competes, so any order
//! and any duplication of the same items ends in the same roster.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::frame::{Item, RecordTag, Summary, Tag};
use super::record::{Kick, MemberRecord, MemberState, PartyInfo, Rekey, virtual_ip};
use super::signed::{Signed, SignedError, Verified};
use super::view::{Sources, View, fold_name};
use crate::wire::{NodeId, PartyId};

/// Most members that are active at a time.
pub const MAX_MEMBERS: usize = 255;
/// Most records, those of members that left included.
pub const MAX_RECORDS: usize = 1024;
pub const MAX_KICKS: usize = 512;
pub const MAX_REKEYS: usize = 32;
/// Records of members that left are forgotten after this time, seconds.
const LEFT_KEPT_SECS: u64 = 30 * 24 * 60 * 60;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    id: PartyId,
    info: Verified<PartyInfo>,
    limit: usize,
    records: BTreeMap<NodeId, Verified<MemberRecord>>,
    /// By (member, who removed it).
    kicks: BTreeMap<(NodeId, NodeId), Verified<Kick>>,
    rekeys: BTreeMap<(u32, NodeId), Verified<Rekey>>,
    view: View,
}

/// Why an item is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error(transparent)]
    Signed(#[from] SignedError),
    #[error("of another party")]
    OtherParty,
    #[error("not the virtual IP that this member can have")]
    WrongIp,
    #[error("the roster is full")]
    Full,
}

impl Roster {
    /// A party of which only this is known yet. `limit` is the number of active members, at most `MAX_MEMBERS`.
    #[must_use]
    pub fn new(info: Verified<PartyInfo>, limit: usize) -> Self {
        let id = PartyInfo::id(&info);
        let limit = limit.min(MAX_MEMBERS);
        let mut roster = Self {
            id,
            info,
            limit,
            records: BTreeMap::new(),
            kicks: BTreeMap::new(),
            rekeys: BTreeMap::new(),
            view: View::default(),
        };
        roster.refresh(0);
        roster
    }

    /// Takes what is newer than what is held. Returns the items that changed something, to be passed on, and how many
    /// were refused. `unix` is the time in seconds, for the age of records.
    pub fn merge(&mut self, items: impl IntoIterator<Item = Item>, unix: u64) -> (Vec<Item>, Vec<MergeError>) {
        let mut news = Vec::new();
        let mut errors = Vec::new();
        for item in items {
            let merged = match &item {
                Item::Record(signed) => self.merge_record(signed),
                Item::Kick(signed) => self.merge_kick(signed),
                Item::Rekey(signed) => self.merge_rekey(signed),
            };
            match merged {
                Ok(true) => news.push(item),
                Ok(false) => {}
                Err(error) => errors.push(error),
            }
        }
        if !news.is_empty() {
            self.refresh(unix);
            // What is too old to keep is no news either. Whether it is depends on who had a say, which is known only now.
            news.retain(|item| match item {
                Item::Record(signed) => self.records.values().any(|held| held.signed() == signed),
                Item::Kick(_) | Item::Rekey(_) => true,
            });
        }
        (news, errors)
    }

    fn merge_record(&mut self, signed: &Signed) -> Result<bool, MergeError> {
        let record: MemberRecord = signed.peek()?;
        self.same_party(record.party)?;
        if let Some(held) = self.records.get(&record.node)
            && rank(&record, signed) <= rank(held.get(), held.signed())
        {
            return Ok(false);
        }
        if record.virtual_ip != virtual_ip(self.id, record.node, record.attempt, self.info.get().range) {
            return Err(MergeError::WrongIp);
        }
        let verified = signed.verify()?;
        if !self.records.contains_key(&record.node) && self.records.len() >= MAX_RECORDS {
            self.evict_oldest_left()?;
        }
        self.records.insert(record.node, verified);
        Ok(true)
    }

    fn merge_kick(&mut self, signed: &Signed) -> Result<bool, MergeError> {
        let kick: Kick = signed.peek()?;
        self.same_party(kick.party)?;
        let key = (kick.member, kick.by);
        if self.kicks.get(&key).is_some_and(|held| (kick.at, signed) <= (held.get().at, held.signed())) {
            return Ok(false);
        }
        let verified = signed.verify()?;
        if !self.kicks.contains_key(&key) && self.kicks.len() >= MAX_KICKS {
            // Anybody can sign kicks; those without force make room for those that have it, and for no others: else two
            // rosters could push each other's out for ever.
            if !self.view.authorised.contains(&kick.by) {
                return Err(MergeError::Full);
            }
            let idle = self.kicks.keys().find(|(_, by)| !self.view.authorised.contains(by)).copied();
            self.kicks.remove(&idle.ok_or(MergeError::Full)?);
        }
        self.kicks.insert(key, verified);
        Ok(true)
    }

    fn merge_rekey(&mut self, signed: &Signed) -> Result<bool, MergeError> {
        let rekey: Rekey = signed.peek()?;
        self.same_party(rekey.party)?;
        let key = (rekey.generation, rekey.by);
        if self.rekeys.get(&key).is_some_and(|held| signed <= held.signed()) {
            return Ok(false);
        }
        if self.oldest_kept_generation().is_some_and(|oldest| rekey.generation < oldest) {
            return Ok(false);
        }
        let verified = signed.verify()?;
        if !self.rekeys.contains_key(&key) && self.rekeys.len() >= MAX_REKEYS {
            if !self.view.authorised.contains(&rekey.by) {
                return Err(MergeError::Full);
            }
            let idle = self.rekeys.keys().find(|(_, by)| !self.view.authorised.contains(by)).copied();
            self.rekeys.remove(&idle.ok_or(MergeError::Full)?);
        }
        self.rekeys.insert(key, verified);
        Ok(true)
    }

    fn same_party(&self, party: PartyId) -> Result<(), MergeError> {
        if party == self.id { Ok(()) } else { Err(MergeError::OtherParty) }
    }

    fn oldest_kept_generation(&self) -> Option<u32> {
        let (current, _) = self.view.codes.first()?;
        Some(current.saturating_sub(super::view::OLD_CODES as u32))
    }

    fn evict_oldest_left(&mut self) -> Result<(), MergeError> {
        let left = self.records.values().map(Verified::get).filter(|record| self.forgettable(record));
        let oldest = left.min_by_key(|record| (record.issued_at, record.node)).map(|record| record.node);
        self.records.remove(&oldest.ok_or(MergeError::Full)?);
        Ok(())
    }

    /// Members with a say in who may remove whom are never forgotten.
    fn forgettable(&self, record: &MemberRecord) -> bool {
        record.state == MemberState::Left && !self.view.authorised.contains(&record.node)
    }

    /// Drops what time has made worthless and works out anew what the rest means.
    pub fn refresh(&mut self, unix: u64) {
        let gone: Vec<NodeId> = self
            .records
            .values()
            .map(Verified::get)
            .filter(|record| aged_out(record, unix) && self.forgettable(record))
            .map(|record| record.node)
            .collect();
        for node in gone {
            self.records.remove(&node);
        }
        self.view = View::new(&Sources {
            creator: self.info.get().creator,
            limit: self.limit,
            records: &self.records,
            kicks: &self.kicks,
            rekeys: &self.rekeys,
        });
        if let Some(oldest) = self.oldest_kept_generation() {
            let authorised = &self.view.authorised;
            self.rekeys.retain(|(generation, by), _| *generation >= oldest || !authorised.contains(by));
        }
    }

    #[must_use]
    pub fn id(&self) -> PartyId {
        self.id
    }

    #[must_use]
    pub fn info(&self) -> &Verified<PartyInfo> {
        &self.info
    }

    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    #[must_use]
    pub fn record(&self, node: NodeId) -> Option<&MemberRecord> {
        self.records.get(&node).map(Verified::get)
    }

    /// Of everybody who was ever let in and is not forgotten.
    pub fn records(&self) -> impl Iterator<Item = &MemberRecord> {
        self.records.values().map(Verified::get)
    }

    #[must_use]
    pub fn signed_record(&self, node: NodeId) -> Option<&Signed> {
        self.records.get(&node).map(Verified::signed)
    }

    /// The active members that count, by standing.
    pub fn members(&self) -> impl Iterator<Item = &MemberRecord> {
        self.view.members.iter().filter_map(|node| self.record(*node))
    }

    /// Code rolls that count, the current one first.
    pub fn codes(&self) -> impl Iterator<Item = &Rekey> {
        self.view.codes.iter().filter_map(|key| self.rekeys.get(key)).map(Verified::get)
    }

    /// Whether a node that only knows an older code may be told the current one.
    #[must_use]
    pub fn may_stay(&self, node: NodeId) -> bool {
        self.codes().next().is_some_and(|rekey| rekey.stay.contains(&node))
    }

    /// The kick that put this node out, when there is one that counts.
    #[must_use]
    pub fn kick_of(&self, node: NodeId) -> Option<&Signed> {
        let counts = |((member, by), _): &(&(NodeId, NodeId), _)| *member == node && self.view.authorised.contains(by);
        self.view
            .kicked
            .contains(&node)
            .then(|| self.kicks.iter().find(counts).map(|(_, kick)| kick.signed()))
            .flatten()
    }

    /// Nodes that are out only because of kicks by `by`.
    #[must_use]
    pub fn kicked_only_by(&self, by: NodeId) -> Vec<NodeId> {
        let by_others = |node: &NodeId| {
            self.kicks.keys().any(|(member, who)| member == node && *who != by && self.view.authorised.contains(who))
        };
        self.view.kicked.iter().copied().filter(|node| !by_others(node)).collect()
    }

    /// Whether another active member than `node` is called so.
    #[must_use]
    pub fn name_taken(&self, name: &str, node: NodeId) -> bool {
        let name = fold_name(name);
        self.members().any(|record| record.node != node && fold_name(&record.name) == name)
    }

    /// Virtual IPs of active members.
    #[must_use]
    pub fn taken_ips(&self) -> Vec<Ipv4Addr> {
        self.members().map(|record| record.virtual_ip).collect()
    }

    /// Everything, in the order in which it is best merged.
    #[must_use]
    pub fn all_items(&self) -> Vec<Item> {
        let rekeys = self.rekeys.values().map(|it| Item::Rekey(it.signed().clone()));
        let kicks = self.kicks.values().map(|it| Item::Kick(it.signed().clone()));
        let records = self.records.values().map(|it| Item::Record(it.signed().clone()));
        rekeys.chain(kicks).chain(records).collect()
    }

    /// Equal for equal rosters.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("lanrage v1 roster digest");
        hasher.update(&self.id.0);
        for item in self.all_items() {
            hasher.update(&item.signed().hash());
        }
        *hasher.finalize().as_bytes()
    }

    #[must_use]
    pub fn summary(&self, reply: bool) -> Summary {
        let record_tag =
            |(node, it): (&NodeId, &Verified<MemberRecord>)| RecordTag { node: *node, tag: tag(it.signed()) };
        Summary {
            records: self.records.iter().map(record_tag).collect(),
            kicks: self.kicks.values().map(|it| tag(it.signed())).collect(),
            rekeys: self.rekeys.values().map(|it| tag(it.signed())).collect(),
            reply,
        }
    }

    /// What the sender of `theirs` may lack, and whether this roster lacks something of theirs. A record that differs
    /// counts as both: only merging tells which is newer.
    #[must_use]
    pub fn compare(&self, theirs: &Summary) -> (Vec<Item>, bool) {
        let records: BTreeMap<NodeId, Tag> = theirs.records.iter().map(|it| (it.node, it.tag)).collect();
        let differs = |item: &Item| {
            let tag = tag(item.signed());
            match item {
                Item::Record(_) => false,
                Item::Kick(_) => !theirs.kicks.contains(&tag),
                Item::Rekey(_) => !theirs.rekeys.contains(&tag),
            }
        };
        let mut missing: Vec<Item> = self.all_items().into_iter().filter(differs).collect();
        for (node, record) in &self.records {
            if records.get(node) != Some(&tag(record.signed())) {
                missing.push(Item::Record(record.signed().clone()));
            }
        }
        let mine = self.summary(false);
        let lacking =
            theirs.records.iter().any(|it| self.records.get(&it.node).map(|it| tag(it.signed())) != Some(it.tag))
                || theirs.kicks.iter().any(|it| !mine.kicks.contains(it))
                || theirs.rekeys.iter().any(|it| !mine.rekeys.contains(it));
        (missing, lacking)
    }
}

/// A later `joined_at` beats everything, so that nobody can talk himself up to a longer standing afterwards.
fn rank<'a>(record: &MemberRecord, signed: &'a Signed) -> (u64, u64, &'a Signed) {
    (record.joined_at, record.seq, signed)
}

fn aged_out(record: &MemberRecord, unix: u64) -> bool {
    record.state == MemberState::Left && record.issued_at.saturating_add(LEFT_KEPT_SECS) < unix
}

fn tag(signed: &Signed) -> Tag {
    let mut tag = [0; 8];
    tag.copy_from_slice(&signed.hash()[..8]);
    tag
}

#[cfg(test)]
mod tests;

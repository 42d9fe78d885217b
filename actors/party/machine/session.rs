//! Being in a party: the roster, the secrets of its codes, and this machine's own record.

use std::collections::BTreeSet;
use std::time::Instant;

use ed25519_dalek::SigningKey;

use super::super::code::PartyCode;
use super::super::frame::{Item, Known, Reason, Welcome};
use super::super::keys::PartySecret;
use super::super::record::{
    MAX_ADDRS, MAX_ATTEMPT, MAX_NAME, MemberRecord, MemberState, Rekey, usable_addr, virtual_ip,
};
use super::super::roster::Roster;
use super::super::signed::Verified;
use super::super::snapshot::{Membership, Snapshot};
use super::gossip::JOINED_AT_TOLERANCE;
use crate::wire::{Contact, NodeId, WgPublicKey};

/// What goes into this machine's record besides what the party decides.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) node: NodeId,
    pub(super) wg_key: WgPublicKey,
    pub(super) name: String,
    pub(super) contact: Contact,
    pub(super) addrs: Vec<String>,
    /// Kinds ascending.
    pub(super) extensions: Vec<(u16, Vec<u8>)>,
}

impl Profile {
    pub(super) fn set_addrs(&mut self, addrs: &[String]) {
        self.addrs = addrs.iter().filter(|it| usable_addr(it)).take(MAX_ADDRS).cloned().collect();
    }

    /// A first record in a party of which this much is known.
    pub(super) fn first_record(
        &self,
        roster: &Roster,
        taken: &[std::net::Ipv4Addr],
        known: Known,
        unix: u64,
    ) -> MemberRecord {
        let range = roster.info().get().range;
        let address = |attempt| virtual_ip(roster.id(), self.node, attempt, range);
        let attempt = (0..=MAX_ATTEMPT).find(|attempt| !taken.contains(&address(*attempt))).unwrap_or(0);
        MemberRecord {
            party: roster.id(),
            node: self.node,
            wg_key: self.wg_key,
            name: self.name.clone(),
            virtual_ip: address(attempt),
            attempt,
            contact: self.contact.clone(),
            addrs: self.addrs.clone(),
            joined_at: known.joined_at,
            departures: known.departures,
            issued_at: unix,
            seq: known.seq.saturating_add(1),
            state: MemberState::Active,
            extensions: self.extensions.clone(),
        }
    }
}

/// A time far in the future, that somebody claims, must not keep everybody out who comes later.
fn credible(joined_at: u64, unix: u64) -> bool {
    joined_at <= unix.saturating_add(JOINED_AT_TOLERANCE / 2)
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) roster: Roster,
    pub(super) secrets: Vec<(PartyCode, PartySecret)>,
    pub(super) deriving: BTreeSet<PartyCode>,
    pub(super) own: MemberRecord,
    /// The own record is to be published anew.
    pub(super) publish_at: Option<Instant>,
    pub(super) save_at: Option<Instant>,
    /// Another machine publishes as this node; not answered before then.
    pub(super) contested_until: Option<Instant>,
    /// The party seems to have too many members and this machine to be the last: until then it waits for news that others
    /// have left.
    pub(super) surplus_at: Option<Instant>,
    /// As last told to the log.
    pub(super) seen: Vec<NodeId>,
    pub(super) generation: u32,
}

impl Session {
    pub(super) fn new(roster: Roster, secrets: Vec<(PartyCode, PartySecret)>, own: MemberRecord) -> Self {
        let seen = roster.view().members.clone();
        let generation = roster.codes().next().map_or(0, |rekey| rekey.generation);
        let deriving = BTreeSet::new();
        Self {
            roster,
            secrets,
            deriving,
            own,
            publish_at: None,
            save_at: None,
            contested_until: None,
            surplus_at: None,
            seen,
            generation,
        }
    }

    pub(super) fn from_snapshot(snapshot: Snapshot, node: NodeId) -> Option<Self> {
        let own = snapshot.roster.record(node)?.clone();
        Some(Self::new(snapshot.roster, snapshot.secrets, own))
    }

    pub(super) fn snapshot(&self, membership: Membership) -> Snapshot {
        let secrets = if membership == Membership::Kicked { Vec::new() } else { self.secrets.clone() };
        Snapshot { membership, roster: self.roster.clone(), secrets }
    }

    pub(super) fn secret(&self, code: &PartyCode) -> Option<&PartySecret> {
        self.secrets.iter().find(|(known, _)| known == code).map(|(_, secret)| secret)
    }

    /// The codes that count and whose secrets are known, the current one first, with whether it is that.
    pub(super) fn keys(&self) -> impl Iterator<Item = (bool, &PartyCode, &PartySecret)> {
        let known = |(at, rekey): (usize, &'_ Rekey)| (at == 0, rekey.code.clone());
        let codes: Vec<(bool, PartyCode)> = self.roster.codes().enumerate().map(known).collect();
        codes.into_iter().filter_map(|(current, code)| {
            self.secrets.iter().find(|(known, _)| *known == code).map(|(code, secret)| (current, code, secret))
        })
    }

    /// The secret that tunnels and rendezvous use: of the newest code that has been derived.
    pub(super) fn newest_secret(&self) -> Option<&PartySecret> {
        self.keys().next().map(|(_, _, secret)| secret)
    }

    pub(super) fn party_name(&self) -> &str {
        &self.roster.info().get().name
    }

    /// A code that counts and whose secret is neither known nor being derived.
    pub(super) fn code_to_derive(&self) -> Option<PartyCode> {
        let unknown = |code: &&PartyCode| self.secret(code).is_none() && !self.deriving.contains(code);
        self.roster.codes().map(|rekey| &rekey.code).find(unknown).cloned()
    }

    pub(super) fn forget_old_secrets(&mut self) {
        let codes: Vec<PartyCode> = self.roster.codes().map(|rekey| rekey.code.clone()).collect();
        if !codes.is_empty() {
            self.secrets.retain(|(code, _)| codes.contains(code));
        }
    }

    pub(super) fn kicked_reason(&self, node: NodeId) -> Option<Reason> {
        self.roster.kick_of(node).map(|kick| Reason::Kicked { kick: kick.clone() })
    }

    pub(super) fn welcome(&self, node: NodeId, unix: u64) -> Welcome {
        let known = self.roster.record(node).map(|record| Known {
            joined_at: record.joined_at,
            departures: record.departures,
            seq: record.seq,
        });
        let unix = self.next_joined_at(unix);
        Welcome { info: self.roster.info().signed().clone(), unix, known, taken: self.taken_by_others(node) }
    }

    /// What a newcomer is told to take for `joined_at`: the time, but after everybody who is known, however slow this
    /// machine's clock is. Else it would stand before them, be host in their place, and undo what they did as hosts.
    fn next_joined_at(&self, unix: u64) -> u64 {
        let newest = self.roster.records().map(|record| record.joined_at).filter(|at| credible(*at, unix)).max();
        newest.map_or(unix, |newest| unix.max(newest.saturating_add(1)))
    }

    /// When the last of those joined who are or were host, the creator aside, who stands first in any case.
    pub(super) fn hosts_since(&self, unix: u64) -> u64 {
        let creator = self.roster.info().get().creator;
        let hosts = self.roster.view().authorised.iter().filter(|node| **node != creator);
        let since = hosts.filter_map(|node| self.roster.record(*node)).map(|record| record.joined_at);
        since.filter(|at| credible(*at, unix)).max().unwrap_or(0)
    }

    /// Settles what the party decides about the own record, and brings it up to date. Returns it, signed and merged,
    /// when it had to change.
    pub(super) fn update_own(&mut self, profile: &Profile, key: &SigningKey, unix: u64) -> Option<Item> {
        let mut next = self.own.clone();
        let mut outranked = false;
        if let Some(held) = self.roster.record(profile.node).filter(|held| **held != self.own) {
            // A record of an earlier run, or one that another copy of this identity has made: go on from there.
            next.seq = next.seq.max(held.seq);
            next.joined_at = next.joined_at.max(held.joined_at);
            next.departures = next.departures.max(held.departures);
            outranked = true;
        }
        next.name = self.free_name(profile);
        next.wg_key = profile.wg_key;
        next.contact.clone_from(&profile.contact);
        next.addrs.clone_from(&profile.addrs);
        next.extensions.clone_from(&profile.extensions);
        let taken = self.taken_by_others(profile.node);
        if self.roster.view().without_ip.contains(&profile.node)
            && let Some(attempt) =
                (next.attempt + 1..=MAX_ATTEMPT).find(|it| !taken.contains(&self.address(&next, *it)))
        {
            next.attempt = attempt;
            next.virtual_ip = self.address(&next, attempt);
        }
        next.state = MemberState::Active;
        if next == self.own && !outranked {
            return None;
        }
        self.sign_own(next, key, unix)
    }

    /// The own record with which this machine leaves.
    pub(super) fn leave(&mut self, key: &SigningKey, unix: u64) -> Option<Item> {
        let mut next = self.own.clone();
        next.state = MemberState::Left;
        next.departures = next.departures.saturating_add(1);
        next.contact = Contact::default();
        next.addrs.clear();
        self.sign_own(next, key, unix)
    }

    fn sign_own(&mut self, mut next: MemberRecord, key: &SigningKey, unix: u64) -> Option<Item> {
        next.seq = next.seq.saturating_add(1);
        next.issued_at = unix;
        let item = Item::Record(Verified::sign(next.clone(), key).ok()?.signed().clone());
        self.roster.merge([item.clone()], unix);
        self.own = next;
        Some(item)
    }

    fn address(&self, record: &MemberRecord, attempt: u8) -> std::net::Ipv4Addr {
        virtual_ip(self.roster.id(), record.node, attempt, self.roster.info().get().range)
    }

    fn taken_by_others(&self, node: NodeId) -> Vec<std::net::Ipv4Addr> {
        self.roster.members().filter(|it| it.node != node).map(|it| it.virtual_ip).collect()
    }

    /// The configured name, or `name-2` and so on when a member of longer standing has it.
    fn free_name(&self, profile: &Profile) -> String {
        let elders = self.roster.members().take_while(|it| it.node != profile.node);
        let taken: BTreeSet<String> = elders.map(|it| super::super::view::fold_name(&it.name)).collect();
        let free = |name: &String| !taken.contains(&super::super::view::fold_name(name));
        let numbered = (2..=300).map(|number| {
            let suffix = format!("-{number}");
            let stem: String = profile.name.chars().take(MAX_NAME - suffix.len()).collect();
            format!("{}{suffix}", stem.trim_end())
        });
        std::iter::once(profile.name.clone()).chain(numbered).find(free).unwrap_or_else(|| profile.name.clone())
    }
}

//! Leaving a party is over when a member has shown that it knows. Until then the record that says so is handed to whichever
//! member is met: else, after a leave with the cable out, the others would count this machine as a member for ever, and as
//! their host if it was that.

use super::super::frame::{Frame, Welcome};
use super::super::record::PartyInfo;
use super::super::signed::Verified;
use super::super::snapshot::{Membership, Snapshot};
use super::streams::Key;
use super::{DIGEST_EVERY, Now, Output, PartyMachine, Phase};
use crate::discovery::messages::{LinkId, NodeAddrs, Seek};

/// Members are looked for this long, seconds.
const LOOKED_FOR_SECS: u64 = 7 * 24 * 60 * 60;

impl PartyMachine {
    /// A party that does not know yet that this machine has left it. One after the other, and only while this machine is in
    /// no party: a node has one set of rendezvous keys.
    pub(super) fn unheard(&self) -> Option<&Snapshot> {
        let leaving = |other: &&Snapshot| other.membership == Membership::Leaving;
        self.others.iter().find(leaving).filter(|_| matches!(self.phase, Phase::Idle))
    }

    /// This machine is in no party now.
    pub(super) fn idle(&mut self, now: Now) {
        self.digest_at = self.unheard().map(|_| now.mono + DIGEST_EVERY);
        self.emit(now);
    }

    pub(super) fn farewell_keys(&self) -> Vec<Key> {
        let Some(party) = self.unheard() else { return Vec::new() };
        let codes = party.roster.codes().enumerate();
        let secret = |code| party.secrets.iter().find(|(known, _)| known == code).map(|(_, secret)| secret);
        codes.filter_map(|(at, rekey)| Some(Key::new(&rekey.code, secret(&rekey.code)?, at == 0))).collect()
    }

    pub(super) fn farewell_seek(&self, now: Now) -> Seek {
        let Some(party) = self.unheard() else { return Seek::default() };
        let newest = party.roster.codes().find_map(|rekey| party.secrets.iter().find(|(code, _)| *code == rekey.code));
        let keys = newest.map_or_else(Vec::new, |(_, secret)| secret.rendezvous_keys(now.unix));
        let members = party.roster.members().filter(|it| it.node != self.profile.node);
        let nodes = members.map(|it| NodeAddrs { node: it.node, addrs: it.addrs.clone() }).collect();
        Seek { keys, nodes, eager: false }
    }

    /// Says to a member that this machine has left, with all that nobody else may have heard, as that others have left; and
    /// asks what it holds of this machine: the answer shows whether it has heard.
    pub(super) fn say_farewell(&mut self, id: LinkId) {
        let Some(items) = self.unheard().map(|party| party.roster.all_items()) else { return };
        self.out.send_items(&[id], items);
        self.out.send(id, &Frame::Seeking);
    }

    /// A frame may have been lost: again to all who are there.
    pub(super) fn farewell_timeout(&mut self, now: Now) {
        let me = self.profile.node;
        let Some(party) = self.unheard() else {
            self.digest_at = None;
            return;
        };
        let left_at = party.roster.record(me).map_or(0, |record| record.issued_at);
        if left_at.saturating_add(LOOKED_FOR_SECS) < now.unix {
            self.farewell_done(now);
            return;
        }
        self.digest_at = Some(now.mono + DIGEST_EVERY);
        self.farewell_to_all();
    }

    pub(super) fn farewell_to_all(&mut self) {
        let links: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.proved()).map(|(id, _)| *id).collect();
        for id in links {
            self.say_farewell(id);
        }
    }

    pub(super) fn farewell_answered(&mut self, now: Now, id: LinkId, info: &Verified<PartyInfo>, welcome: &Welcome) {
        let me = self.profile.node;
        let said = self.unheard().filter(|party| party.id() == PartyInfo::id(info));
        let Some(seq) = said.and_then(|party| party.roster.record(me)).map(|record| record.seq) else {
            self.close(now, id);
            return;
        };
        if welcome.known.is_some_and(|known| known.seq >= seq) {
            self.farewell_done(now);
        }
    }

    /// The party knows, or nobody is looked for any more.
    pub(super) fn farewell_done(&mut self, now: Now) {
        let Some(id) = self.unheard().map(Snapshot::id) else { return };
        if let Some(party) = self.others.iter_mut().find(|other| other.id() == id) {
            party.membership = Membership::Left;
            // Every part of it was encoded before, so this does not fail.
            if let Ok(stored) = party.store() {
                self.out.push(Output::Persist(stored));
            }
        }
        self.close_all();
        self.idle(now);
    }
}

//! Keeping the members' rosters alike: admission, news, digests; and what follows from a changed roster.

use std::time::Duration;

use rand::seq::IteratorRandom;

use super::super::frame::{Frame, Item, Reason, Summary};
use super::super::record::{MemberRecord, MemberState};
use super::super::signed::Signed;
use super::super::snapshot::Membership;
use super::outbox::Event;
use super::{DIGEST_EVERY, Now, Output, PartyMachine, Phase, SAVE_DELAY};
use crate::discovery::messages::LinkId;

/// In larger parties news are passed on to this many members only; each passes them on in turn.
const FAN_OUT: usize = 8;
const FAN_OUT_TO_ALL: usize = 16;
/// Between two answers to a record of this node that this node did not make.
const CONTESTED_PAUSE: Duration = Duration::from_secs(5);
/// A newcomer's `joined_at` may differ this much from the clock of the member that lets it in, seconds. It was told the
/// clock of a member, and players' clocks are off.
pub(super) const JOINED_AT_TOLERANCE: u64 = 24 * 60 * 60;

impl PartyMachine {
    pub(super) fn on_join(&mut self, now: Now, id: LinkId, signed: Signed) {
        // While this machine joins itself: once it is in, it greets, and the other asks again.
        let (Some(link), Phase::Member(session)) = (self.links.get(&id), &self.phase) else { return };
        let node = link.node;
        let record = signed.verify::<MemberRecord>().map(|record| record.get().clone());
        let Ok(record) = record.map_err(|_| ()).and_then(|record| {
            let honest = record.node == node && record.state == MemberState::Active;
            if honest && record.party == session.roster.id() { Ok(record) } else { Err(()) }
        }) else {
            self.reject(now, id);
            return;
        };
        let view = session.roster.view();
        if !view.is_member(node) {
            let reason = if let Some(reason) = session.kicked_reason(node) {
                Some(reason)
            } else if view.members.len() >= session.roster.limit() {
                Some(Reason::PartyFull { limit: session.roster.limit() as u16 })
            } else if session.roster.name_taken(&record.name, node) {
                Some(Reason::NameTaken)
            } else {
                None
            };
            if let Some(reason) = reason {
                self.out.send(id, &Frame::Refused(reason));
                return;
            }
            let known = session.roster.record(node).is_some();
            let absurd = record.joined_at.abs_diff(now.unix) > JOINED_AT_TOLERANCE;
            // Before a host of past or present, it would have been host itself, and their kicks without force.
            if !known && (absurd || record.joined_at <= session.hosts_since(now.unix)) {
                self.out.counters.refused_items += 1;
                return;
            }
        }
        let item = Item::Record(signed);
        let news = self.merge(now, vec![item]);
        let Phase::Member(session) = &self.phase else { return };
        if !session.roster.view().is_member(node) {
            return;
        }
        let items = session.roster.all_items();
        self.forward(news, Some(id), true);
        self.out.send_items(&[id], items);
        self.out.send(id, &Frame::Admitted);
        self.reconcile(now);
    }

    pub(super) fn on_items(&mut self, now: Now, id: LinkId, items: Vec<Item>) {
        match &self.phase {
            Phase::Idle => {}
            Phase::Joining(_) => self.learn(now, id, items),
            Phase::Member(_) => self.apply_items(now, items, Some(id)),
        }
    }

    pub(super) fn apply_items(&mut self, now: Now, items: Vec<Item>, from: Option<LinkId>) {
        let news = self.merge(now, items);
        if !news.is_empty() {
            self.forward(news, from, false);
            self.reconcile(now);
        }
    }

    fn merge(&mut self, now: Now, items: Vec<Item>) -> Vec<Item> {
        let Phase::Member(session) = &mut self.phase else { return Vec::new() };
        let (news, errors) = session.roster.merge(items, now.unix);
        self.out.counters.refused_items += errors.len() as u64;
        if !news.is_empty() {
            session.save_at.get_or_insert(now.mono + SAVE_DELAY);
            self.recheck_links(now);
        }
        news
    }

    /// Links to members, one each.
    pub(super) fn proved_links(&self, except: Option<LinkId>) -> Vec<LinkId> {
        let Phase::Member(session) = &self.phase else { return Vec::new() };
        let view = session.roster.view();
        let mut seen = Vec::new();
        let mut links = Vec::new();
        let except = except.and_then(|id| self.links.get(&id)).map(|link| link.node);
        for (id, link) in &self.links {
            let wanted = link.proved() && Some(link.node) != except && !seen.contains(&link.node);
            if wanted && view.is_member(link.node) {
                seen.push(link.node);
                links.push(*id);
            }
        }
        links
    }

    /// Passes items on to the other members: to all when it begins here, else to some in a large party.
    pub(super) fn forward(&mut self, items: Vec<Item>, from: Option<LinkId>, to_all: bool) {
        if items.is_empty() {
            return;
        }
        let mut links = self.proved_links(from);
        if !to_all && links.len() > FAN_OUT_TO_ALL {
            links = links.into_iter().choose_multiple(&mut self.rng, FAN_OUT);
        }
        self.out.send_items(&links, items);
    }

    pub(super) fn send_digests(&mut self, now: Now) {
        let links = self.proved_links(None);
        let some = if links.len() > FAN_OUT_TO_ALL { FAN_OUT } else { links.len() };
        let links = links.into_iter().choose_multiple(&mut self.rng, some);
        let Phase::Member(session) = &mut self.phase else {
            self.farewell_timeout(now);
            return;
        };
        session.roster.refresh(now.unix);
        let digest = session.roster.digest();
        for id in links {
            self.out.send(id, &Frame::Digest(digest));
        }
        self.reconcile(now);
    }

    pub(super) fn on_digest(&mut self, id: LinkId, digest: [u8; 32]) {
        match &self.phase {
            Phase::Idle => {}
            Phase::Joining(_) => self.out.send(id, &Frame::Seeking),
            Phase::Member(session) => {
                if session.roster.digest() != digest {
                    self.out.send(id, &Frame::Summary(session.roster.summary(true)));
                }
            }
        }
    }

    pub(super) fn on_summary(&mut self, id: LinkId, summary: &Summary) {
        let Phase::Member(session) = &self.phase else { return };
        let (missing, lacking) = session.roster.compare(summary);
        self.out.send_items(&[id], missing);
        if lacking && summary.reply {
            self.out.send(id, &Frame::Summary(session.roster.summary(false)));
        }
    }

    pub(super) fn publish_soon(&mut self, now: Now, delay: Duration) {
        if let Phase::Member(session) = &mut self.phase {
            let at = now.mono + delay;
            session.publish_at = Some(session.publish_at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// Brings the own record up to date and tells everybody, if anything about it has changed.
    pub(super) fn publish(&mut self, now: Now) {
        let Phase::Member(session) = &mut self.phase else { return };
        session.publish_at = None;
        let name = session.own.name.clone();
        let Some(item) = session.update_own(&self.profile, &self.identity, now.unix) else { return };
        if session.own.name != name && session.own.name != self.profile.name {
            let name = session.own.name.clone();
            self.out.event(Event::Renamed(name));
        }
        self.save(Membership::Active);
        self.forward(vec![item], None, true);
        self.emit(now);
    }

    pub(super) fn save(&mut self, membership: Membership) {
        let Phase::Member(session) = &mut self.phase else { return };
        session.save_at = None;
        // Every part of it was encoded before, so this does not fail.
        if let Ok(stored) = session.snapshot(membership).store() {
            self.out.push(Output::Persist(stored));
        }
    }

    /// Draws the conclusions from a changed roster.
    pub(super) fn reconcile(&mut self, now: Now) {
        let me = self.profile.node;
        // Each round may move the own virtual IP or name once; the bound is against a roster that never settles.
        for _ in 0..3 {
            let Phase::Member(session) = &self.phase else { return };
            if session.roster.view().kicked.contains(&me) {
                self.removed(now);
                return;
            }
            let view = session.roster.view();
            let unsettled = session.roster.record(me) != Some(&session.own)
                || session.own.state != MemberState::Active
                || view.without_ip.contains(&me)
                || view.without_name.contains(&me);
            if !unsettled {
                break;
            }
            // Somebody else publishes as this node: a copy of its data folder on another machine. Answering at once
            // would go back and forth at the speed of the network.
            let foreign = session.roster.record(me) != Some(&session.own);
            if foreign && session.contested_until.is_some_and(|until| now.mono < until) {
                let at = session.contested_until;
                if let Phase::Member(session) = &mut self.phase {
                    session.publish_at = session.publish_at.or(at);
                }
                break;
            }
            if foreign && let Phase::Member(session) = &mut self.phase {
                session.contested_until = Some(now.mono + CONTESTED_PAUSE);
            }
            self.publish(now);
        }
        let Phase::Member(session) = &mut self.phase else { return };
        if session.roster.view().is_member(me) {
            session.surplus_at = None;
        } else if *session.surplus_at.get_or_insert(now.mono + DIGEST_EVERY) <= now.mono {
            let name = session.party_name().to_owned();
            self.out.event(Event::Surplus(name));
            self.depart(now);
            return;
        }
        if session.roster.view().without_ip.contains(&me) {
            self.out.event(Event::NoVirtualIp);
        }
        let Phase::Member(session) = &mut self.phase else { return };
        session.forget_old_secrets();
        while let Some(code) = session.code_to_derive() {
            session.deriving.insert(code.clone());
            self.out.push(Output::Derive(code));
        }
        self.tell_removed(now);
        self.tell_changes();
        self.emit(now);
    }

    /// This machine was kicked.
    fn removed(&mut self, now: Now) {
        let Phase::Member(session) = &self.phase else { return };
        let name = session.party_name().to_owned();
        self.save(Membership::Kicked);
        self.out.event(Event::Removed(name));
        self.drop_party(now, Membership::Kicked);
    }

    /// Says goodbye to nodes that were kicked.
    fn tell_removed(&mut self, now: Now) {
        let Phase::Member(session) = &self.phase else { return };
        let removed = self.links.iter().filter(|(_, link)| link.proved());
        let removed: Vec<(LinkId, Reason)> =
            removed.filter_map(|(id, link)| Some((*id, session.kicked_reason(link.node)?))).collect();
        for (id, reason) in removed {
            self.out.send(id, &Frame::Refused(reason));
            self.close(now, id);
        }
    }

    /// For the log.
    fn tell_changes(&mut self) {
        let Phase::Member(session) = &mut self.phase else { return };
        let members = session.roster.view().members.clone();
        let generation = session.roster.codes().next().map_or(0, |rekey| rekey.generation);
        if generation > session.generation {
            self.out.event(Event::CodeRolled(generation));
        }
        session.generation = generation;
        if members == session.seen {
            return;
        }
        let before = std::mem::replace(&mut session.seen, members.clone());
        let name = |node| session.roster.record(node).map_or_else(|| format!("{node}"), |it| it.name.clone());
        for node in members.iter().filter(|node| !before.contains(node)) {
            self.out.event(Event::MemberJoined(name(*node)));
        }
        for node in before.iter().filter(|node| !members.contains(node)) {
            self.out.event(Event::MemberGone(name(*node)));
        }
        if let Some(host) = members.first()
            && before.first() != Some(host)
        {
            self.out.event(Event::HostIs(name(*host)));
        }
    }
}

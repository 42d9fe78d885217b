//! Joining: from the code to the first `Admitted`.

use std::time::{Duration, Instant};

use super::super::code::PartyCode;
use super::super::frame::{Frame, Item, Known, PROTOCOL_VERSION, Reason, Welcome};
use super::super::keys::PartySecret;
use super::super::messages::PartyError;
use super::super::record::{Kick, MemberRecord, PartyInfo};
use super::super::roster::Roster;
use super::super::signed::{Signed, Verified};
use super::super::snapshot::Membership;
use super::gossip::JOINED_AT_TOLERANCE;
use super::outbox::{Event, RequestId};
use super::session::Session;
use super::{DIGEST_EVERY, Now, Output, PartyMachine, Phase};
use crate::discovery::messages::{LinkId, NodeAddrs};

/// `Join` is sent again after this time: a frame may have been dropped on the way to the stream.
const RETRY: Duration = Duration::from_secs(3);
/// A party that was left is entered again on one's own when nobody has answered for this long.
const ALONE_AFTER: Duration = Duration::from_secs(10);
/// No node publishes so often.
const MAX_KNOWN_SEQ: u64 = 1 << 48;

#[derive(Debug)]
pub(super) struct Joining {
    pub(super) request: RequestId,
    pub(super) code: PartyCode,
    /// Not derived yet while absent.
    pub(super) secret: Option<PartySecret>,
    pub(super) vias: Vec<NodeAddrs>,
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
    pub(super) alone_at: Option<Instant>,
    pub(super) retry_at: Instant,
    pub(super) prospect: Option<Prospect>,
    /// Somebody spoke another version of the party protocol.
    pub(super) foreign_version: Option<u16>,
}

/// The party that is being joined, as far as it is known.
#[derive(Debug)]
pub(super) struct Prospect {
    roster: Roster,
    own: MemberRecord,
    record: Signed,
}

impl Joining {
    pub(super) fn new(
        now: Now,
        request: RequestId,
        code: PartyCode,
        vias: Vec<NodeAddrs>,
        timeout: Duration,
        known: bool,
    ) -> Self {
        Self {
            request,
            code,
            secret: None,
            vias,
            timeout,
            deadline: now.mono + timeout,
            alone_at: known.then(|| now.mono + ALONE_AFTER.min(timeout / 2)),
            retry_at: now.mono + RETRY,
            prospect: None,
            foreign_version: None,
        }
    }

    pub(super) fn next_timeout(&self) -> (Instant, &'static str) {
        let alone = self.alone_at.map(|at| (at, "enter a party of old"));
        let retry = self.prospect.is_some().then_some((self.retry_at, "ask to join again"));
        let deadline = (self.deadline, "nobody let this machine in");
        [alone, retry].into_iter().flatten().fold(deadline, Ord::min)
    }
}

impl PartyMachine {
    pub(super) fn on_welcome(&mut self, now: Now, id: LinkId, welcome: &Welcome) {
        let Ok(info) = welcome.info.verify::<PartyInfo>() else {
            self.reject(now, id);
            return;
        };
        // The newcomer signs what it is told about its own past: absurd numbers would stick to it.
        let absurd =
            |known: &Known| known.seq > MAX_KNOWN_SEQ || known.joined_at > now.unix.saturating_add(JOINED_AT_TOLERANCE);
        if welcome.known.as_ref().is_some_and(absurd) {
            self.reject(now, id);
            return;
        }
        match &self.phase {
            Phase::Idle => self.farewell_answered(now, id, &info, welcome),
            Phase::Member(session) => {
                if session.roster.id() == PartyInfo::id(&info) {
                    // It does not know this member yet.
                    let record = session.roster.signed_record(self.profile.node).cloned();
                    let digest = session.roster.digest();
                    self.out.send_items(&[id], record.map(Item::Record).into_iter().collect());
                    self.out.send(id, &Frame::Digest(digest));
                }
            }
            Phase::Joining(_) => self.ask_to_join(now, id, info, welcome),
        }
    }

    fn ask_to_join(&mut self, now: Now, id: LinkId, info: Verified<PartyInfo>, welcome: &Welcome) {
        let party = PartyInfo::id(&info);
        let Phase::Joining(joining) = &mut self.phase else { return };
        if joining.prospect.is_none() {
            let roster = Roster::new(info, self.limit);
            let held = self.others.iter().find(|other| other.id() == party);
            let held = held.and_then(|other| other.roster.record(self.profile.node));
            let mut known = welcome.known.unwrap_or(Known { joined_at: welcome.unix, departures: 0, seq: 0 });
            if let Some(held) = held {
                known.departures = known.departures.max(held.departures);
                known.seq = known.seq.max(held.seq);
            }
            let own = self.profile.first_record(&roster, &welcome.taken, known, now.unix);
            let Ok(record) = Verified::sign(own.clone(), &self.identity) else { return };
            joining.prospect = Some(Prospect { roster, own, record: record.signed().clone() });
            joining.retry_at = now.mono + RETRY;
        }
        let Some(prospect) = &joining.prospect else { return };
        if prospect.roster.id() != party {
            return;
        }
        let frame = Frame::Join { record: prospect.record.clone() };
        if let Some(link) = self.links.get_mut(&id) {
            link.welcomed = true;
        }
        self.out.send(id, &frame);
    }

    /// News on the party that is being joined.
    pub(super) fn learn(&mut self, now: Now, id: LinkId, items: Vec<Item>) {
        let welcomed = self.links.get(&id).is_some_and(|link| link.welcomed);
        if let Phase::Joining(joining) = &mut self.phase
            && let Some(prospect) = joining.prospect.as_mut().filter(|_| welcomed)
        {
            let (_, errors) = prospect.roster.merge(items, now.unix);
            self.out.counters.refused_items += errors.len() as u64;
        }
    }

    pub(super) fn on_admitted(&mut self, now: Now, id: LinkId) {
        let me = self.profile.node;
        let welcomed = self.links.get(&id).is_some_and(|link| link.welcomed);
        let Phase::Joining(joining) = &mut self.phase else { return };
        let (Some(prospect), Some(secret), true) = (&mut joining.prospect, &joining.secret, welcomed) else { return };
        prospect.roster.merge([Item::Record(prospect.record.clone())], now.unix);
        let knows_code = prospect.roster.codes().any(|rekey| rekey.code == joining.code);
        if !prospect.roster.view().is_member(me) || !knows_code {
            return;
        }
        let secrets = vec![(joining.code.clone(), secret.clone())];
        let session = Session::new(prospect.roster.clone(), secrets, prospect.own.clone());
        let request = joining.request;
        let record = Item::Record(prospect.record.clone());
        self.enter(now, session);
        let links = self.proved_links(None);
        self.out.send_items(&links, vec![record]);
        let view = self.view();
        self.out.reply(request, Ok(view));
    }

    /// Takes up a party: writes it down first, then everything else.
    pub(super) fn enter(&mut self, now: Now, session: Session) {
        self.forget_other(session.roster.id());
        self.out.event(Event::Entered(session.party_name().to_owned()));
        self.phase = Phase::Member(Box::new(session));
        self.digest_at = Some(now.mono + DIGEST_EVERY);
        self.save(Membership::Active);
        for link in self.links.values_mut() {
            link.welcomed = false;
        }
        // While joining, whoever knew the code was trusted; the roster may know better.
        self.recheck_links(now);
        self.reconcile(now);
        let links: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.proved()).map(|(id, _)| *id).collect();
        for id in links {
            self.greet(now, id);
        }
    }

    pub(super) fn on_refused(&mut self, now: Now, id: LinkId, reason: Reason) {
        match &self.phase {
            Phase::Idle => self.farewell_done(now),
            Phase::Member(_) => {
                if let Reason::Kicked { kick } = reason {
                    self.apply_items(now, vec![Item::Kick(kick)], Some(id));
                }
            }
            Phase::Joining(_) => {
                let error = match reason {
                    Reason::PartyFull { limit } => PartyError::PartyFull(usize::from(limit)),
                    Reason::NameTaken => PartyError::NameTaken(self.profile.name.clone()),
                    Reason::Kicked { kick } => match kick.verify::<Kick>() {
                        Ok(kick) if kick.get().member == self.profile.node => PartyError::Kicked,
                        Ok(_) | Err(_) => {
                            self.reject(now, id);
                            return;
                        }
                    },
                };
                self.give_up_joining(now, error);
            }
        }
    }

    pub(super) fn give_up_joining(&mut self, now: Now, error: PartyError) {
        let Phase::Joining(joining) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        self.close_all();
        self.idle(now);
        self.out.reply(joining.request, Err(error));
    }

    pub(super) fn join_timeout(&mut self, now: Now) {
        let Phase::Joining(joining) = &mut self.phase else { return };
        if joining.alone_at.is_some_and(|at| at <= now.mono) && joining.prospect.is_none() {
            joining.alone_at = None;
            if self.enter_alone(now) {
                return;
            }
        }
        let Phase::Joining(joining) = &mut self.phase else { return };
        if joining.deadline <= now.mono {
            let error = match joining.foreign_version {
                Some(theirs) => PartyError::VersionMismatch { ours: PROTOCOL_VERSION, theirs },
                None => PartyError::NoSuchParty(joining.timeout),
            };
            self.give_up_joining(now, error);
            return;
        }
        if joining.alone_at.is_some_and(|at| at <= now.mono) {
            joining.alone_at = None;
        }
        if joining.retry_at <= now.mono {
            joining.retry_at = now.mono + RETRY;
            if let Some(prospect) = &joining.prospect {
                let frame = Frame::Join { record: prospect.record.clone() };
                for id in self.links.iter().filter(|(_, link)| link.welcomed).map(|(id, _)| *id) {
                    self.out.send(id, &frame);
                }
            }
        }
    }

    /// Goes back into a party that this machine has left, without being let in: everybody else may have left, too.
    fn enter_alone(&mut self, now: Now) -> bool {
        let Phase::Joining(joining) = &self.phase else { return false };
        let request = joining.request;
        let is_it = |other: &&super::Snapshot| other.secrets.iter().any(|(code, _)| *code == joining.code);
        let Some(session) =
            self.others.iter().find(is_it).and_then(|other| Session::from_snapshot(other.clone(), self.profile.node))
        else {
            return false;
        };
        self.enter(now, session);
        self.publish(now);
        let view = self.view();
        self.out.push(Output::Reply(request, Ok(view)));
        true
    }
}

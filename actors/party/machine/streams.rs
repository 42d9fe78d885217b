//! Party streams: opening, proof, and what each frame leads to.

use rand::RngCore;

use super::super::code::PartyCode;
use super::super::frame::{Frame, FrameError, MAX_UNPROVED_FRAME, Reason};
use super::super::keys::PartySecret;
use super::super::proof::Transcript;
use super::link::{Link, MAX_LINKS_PER_NODE, MAX_UNPROVED, PROOF_TIMEOUT, Stage};
use super::{Now, Output, PartyMachine, Phase};
use crate::discovery::messages::LinkId;
use crate::wire::NodeId;

/// A secret that counts in a proof.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) code: PartyCode,
    /// Of the newest code that this machine knows of.
    current: bool,
    secret: PartySecret,
}

impl Key {
    pub(super) fn new(code: &PartyCode, secret: &PartySecret, current: bool) -> Self {
        Self { code: code.clone(), current, secret: secret.clone() }
    }
}

/// What a right proof makes of a node.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Trusted,
    /// It knows a code but was removed: it may be told that, and nothing else.
    Removed(Reason),
}

impl PartyMachine {
    pub fn handle_link_opened(&mut self, now: Now, link: LinkId, node: NodeId, outbound: bool) {
        if node == self.profile.node || (outbound && self.keys().is_empty()) {
            self.out.push(Output::Close(link));
            return;
        }
        // The newest counts: a node's oldest is the likeliest to be dead. Likewise with strangers: an honest proof takes a
        // moment, so who has had longer makes room.
        self.make_room(now, MAX_LINKS_PER_NODE, |other| other.node == node);
        self.make_room(now, MAX_UNPROVED, |other| !other.proved());
        let mut nonce = [0; 32];
        self.rng.fill_bytes(&mut nonce);
        self.links.insert(link, Link::new(node, outbound, nonce, now.mono));
        self.out.send(link, &Frame::Hello { nonce });
    }

    /// Closes the oldest of the links that `counts`, when there are `limit` of them.
    fn make_room(&mut self, now: Now, limit: usize, counts: impl Fn(&Link) -> bool) {
        let counted = || self.links.iter().filter(|(_, link)| counts(link));
        if counted().count() < limit {
            return;
        }
        let oldest = counted().min_by_key(|(id, link)| (link.opened, **id)).map(|(id, _)| *id);
        if let Some(oldest) = oldest {
            self.out.counters.refused_links += 1;
            self.close(now, oldest);
        }
    }

    pub fn handle_link_closed(&mut self, now: Now, link: LinkId) {
        if self.links.remove(&link).is_some() {
            self.after_link_gone(now);
        }
    }

    pub fn handle_frame(&mut self, now: Now, id: LinkId, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else {
            // Closed here; say so again, in case that did not reach discovery.
            self.out.push(Output::Close(id));
            return;
        };
        if !link.take_token(now.mono) {
            self.out.counters.rate_limited += 1;
            return;
        }
        if !link.proved() && bytes.len() > MAX_UNPROVED_FRAME {
            self.reject(now, id);
            return;
        }
        match Frame::decode(bytes) {
            Ok(frame) => self.dispatch(now, id, frame),
            Err(FrameError::Version(theirs)) => {
                if let Phase::Joining(joining) = &mut self.phase {
                    joining.foreign_version = Some(theirs);
                }
                self.close(now, id);
            }
            Err(FrameError::TooLong(_) | FrameError::TooShort | FrameError::Malformed | FrameError::TooMany) => {
                self.reject(now, id);
            }
        }
    }

    fn dispatch(&mut self, now: Now, id: LinkId, frame: Frame) {
        let Some(link) = self.links.get(&id) else { return };
        match (link.stage, frame) {
            (Stage::AwaitHello, Frame::Hello { nonce }) => self.on_hello(now, id, nonce),
            (Stage::AwaitProof(transcript), Frame::Proof { macs }) => self.on_proof(now, id, transcript, &macs),
            (_, Frame::Refusal) => self.close(now, id),
            (Stage::Proved, Frame::Party(welcome)) => self.on_welcome(now, id, &welcome),
            (Stage::Proved, Frame::Seeking) => self.send_welcome(now, id),
            (Stage::Proved, Frame::Join { record }) => self.on_join(now, id, record),
            (Stage::Proved, Frame::Admitted) => self.on_admitted(now, id),
            (Stage::Proved, Frame::Refused(reason)) => self.on_refused(now, id, reason),
            (Stage::Proved, Frame::Items(items)) => self.on_items(now, id, items),
            (Stage::Proved, Frame::Digest(digest)) => self.on_digest(id, digest),
            (Stage::Proved, Frame::Summary(summary)) => self.on_summary(id, &summary),
            (
                Stage::AwaitHello | Stage::AwaitProof(_) | Stage::Proved,
                Frame::Hello { .. }
                | Frame::Proof { .. }
                | Frame::Party(_)
                | Frame::Seeking
                | Frame::Join { .. }
                | Frame::Admitted
                | Frame::Refused(_)
                | Frame::Items(_)
                | Frame::Digest(_)
                | Frame::Summary(_),
            ) => self.reject(now, id),
        }
    }

    fn on_hello(&mut self, now: Now, id: LinkId, nonce: [u8; 32]) {
        let keys = self.keys();
        let own = self.profile.node;
        let Some(link) = self.links.get_mut(&id) else { return };
        let transcript = link.transcript(own, nonce);
        link.stage = Stage::AwaitProof(transcript);
        if !link.outbound {
            return;
        }
        if keys.is_empty() {
            // Left the party meanwhile.
            self.close(now, id);
            return;
        }
        let keys = keys.iter().map(|key| key.secret.membership_key());
        let macs = transcript.opener_macs(keys, &mut self.rng).to_vec();
        self.out.send(id, &Frame::Proof { macs });
    }

    fn on_proof(&mut self, now: Now, id: LinkId, transcript: Transcript, macs: &[[u8; 32]]) {
        let Some(link) = self.links.get(&id) else { return };
        let (node, outbound, own_role) = (link.node, link.outbound, link.own_role());
        if outbound && macs.len() != 1 {
            self.reject(now, id);
            return;
        }
        let their_role = link.their_role();
        let found = self.keys().into_iter().find_map(|key| {
            let membership = key.secret.membership_key();
            transcript.proves(their_role, &membership, macs).then_some((key, membership))
        });
        let verdict = found.and_then(|(key, membership)| Some((self.judge(node, key.current)?, key.code, membership)));
        let Some((verdict, code, key)) = verdict else {
            self.out.counters.refused_proofs += 1;
            self.out.send(id, &Frame::Refusal);
            self.close(now, id);
            return;
        };
        if !outbound {
            let mac = *transcript.mac(own_role, &key).as_bytes();
            self.out.send(id, &Frame::Proof { macs: vec![mac] });
        }
        match verdict {
            Verdict::Trusted => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.stage = Stage::Proved;
                    link.code = Some(code);
                }
                self.greet(now, id);
                self.emit_seek(now);
            }
            Verdict::Removed(reason) => {
                self.out.send(id, &Frame::Refused(reason));
                self.close(now, id);
            }
        }
    }

    /// Whether a node that knows a code (`current`: the newest that this machine knows of) is to be talked to.
    fn judge(&self, node: NodeId, current: bool) -> Option<Verdict> {
        let party = self.session().map(|session| &session.roster).or_else(|| self.unheard().map(|party| &party.roster));
        let Some(roster) = party else { return Some(Verdict::Trusted) };
        if let Some(kick) = roster.kick_of(node) {
            return Some(Verdict::Removed(Reason::Kicked { kick: kick.clone() }));
        }
        (current || roster.may_stay(node)).then_some(Verdict::Trusted)
    }

    /// First words to a node that has just proved itself, or after this machine has entered the party.
    pub(super) fn greet(&mut self, now: Now, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let session = match &self.phase {
            Phase::Idle => return self.say_farewell(id),
            Phase::Joining(_) => return,
            Phase::Member(session) => session,
        };
        if session.roster.view().is_member(link.node) {
            self.out.send(id, &Frame::Digest(session.roster.digest()));
        } else {
            self.out.send(id, &Frame::Party(session.welcome(link.node, now.unix)));
        }
    }

    pub(super) fn send_welcome(&mut self, now: Now, id: LinkId) {
        let (Some(link), Some(session)) = (self.links.get(&id), self.session()) else { return };
        let welcome = session.welcome(link.node, now.unix);
        self.out.send(id, &Frame::Party(welcome));
    }

    /// Closes links to nodes that proved an older code and are not among those who stay: before anything more is said
    /// there, least of all the new code.
    pub(super) fn recheck_links(&mut self, now: Now) {
        let Phase::Member(session) = &self.phase else { return };
        let Some(current) = session.roster.codes().next() else { return };
        let stale = |link: &Link| {
            let old = link.proved() && link.code.as_ref() != Some(&current.code);
            old && !current.stay.contains(&link.node) && session.kicked_reason(link.node).is_none()
        };
        let ids: Vec<LinkId> = self.links.iter().filter(|(_, link)| stale(link)).map(|(id, _)| *id).collect();
        for id in ids {
            self.out.send(id, &Frame::Refusal);
            self.close(now, id);
        }
    }

    /// Secrets that count in a proof, the current one first.
    pub(super) fn keys(&self) -> Vec<Key> {
        match &self.phase {
            Phase::Idle => self.farewell_keys(),
            Phase::Joining(joining) => {
                joining.secret.iter().map(|secret| Key::new(&joining.code, secret, true)).collect()
            }
            Phase::Member(session) => {
                session.keys().map(|(current, code, secret)| Key::new(code, secret, current)).collect()
            }
        }
    }

    pub(super) fn is_linked(&self, node: NodeId) -> bool {
        self.links.values().any(|link| link.node == node && link.proved())
    }

    /// Closes a link for something that no honest node sends.
    pub(super) fn reject(&mut self, now: Now, id: LinkId) {
        self.out.counters.garbage += 1;
        self.close(now, id);
    }

    pub(super) fn close(&mut self, now: Now, id: LinkId) {
        if self.links.remove(&id).is_some() {
            self.out.push(Output::Close(id));
            self.after_link_gone(now);
        }
    }

    pub(super) fn close_all(&mut self) {
        for id in std::mem::take(&mut self.links).into_keys() {
            self.out.push(Output::Close(id));
        }
    }

    fn after_link_gone(&mut self, now: Now) {
        if let Phase::Joining(joining) = &mut self.phase
            && !self.links.values().any(|link| link.welcomed)
        {
            // Nobody is left who said what party this is: whoever answers next may say.
            joining.prospect = None;
        }
        self.emit_seek(now);
    }

    pub(super) fn cut_off_unproved(&mut self, now: Now) {
        let overdue = |link: &Link| !link.proved() && link.opened + PROOF_TIMEOUT <= now.mono;
        let ids: Vec<LinkId> = self.links.iter().filter(|(_, link)| overdue(link)).map(|(id, _)| *id).collect();
        for id in ids {
            self.close(now, id);
        }
    }
}

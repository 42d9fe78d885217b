//! What the player asks for: create, join, leave, kick.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::RngCore;

use super::super::code::PartyCode;
use super::super::frame::{Item, Known};
use super::super::invite::Invite;
use super::super::keys::PartySecret;
use super::super::messages::PartyError;
use super::super::record::{Kick, MAX_NAME, MemberRecord, PartyInfo, Rekey, clean_name};
use super::super::roster::Roster;
use super::super::signed::{SignedError, Verified};
use super::super::snapshot::Membership;
use super::super::view::fold_name;
use super::join::Joining;
use super::outbox::{Event, RequestId};
use super::session::Session;
use super::{Command, Now, Output, PartyMachine, Phase};
use crate::wire::NodeId;

impl PartyMachine {
    /// Makes a party and enters it once its code's secret has been derived.
    pub fn create(&mut self, request: RequestId, name: Option<&str>) {
        if let Err(error) = self.free_for_party().and_then(|()| self.start_creating(request, name)) {
            self.out.reply(request, Err(error));
        }
    }

    fn start_creating(&mut self, request: RequestId, name: Option<&str>) -> Result<(), PartyError> {
        let name = match name {
            Some(name) => clean_name(name).map_err(|why| PartyError::BadName(name.to_owned(), why.to_owned()))?,
            None => default_party_name(&self.profile.name),
        };
        let code = PartyCode::random(&mut self.rng);
        self.out.push(Output::Derive(code.clone()));
        self.command = Some(Command::Create { request, name, code });
        Ok(())
    }

    /// Looks for the party of a code or invite link. Answers when a member has let this machine in, refused it, or
    /// nobody did either within `timeout`.
    pub fn join(&mut self, now: Now, request: RequestId, code_or_link: &str, timeout: Duration) {
        let parsed = self.free_for_party().and_then(|()| parse_invite(code_or_link));
        match parsed {
            Ok(Invite { code, vias }) => {
                // Streams that were proved for another party.
                self.close_all();
                self.out.push(Output::Derive(code.clone()));
                let known = self.others.iter().any(|other| other.secrets.iter().any(|(held, _)| *held == code));
                let joining = Joining::new(now, request, code, vias, timeout, known);
                self.phase = Phase::Joining(Box::new(joining));
            }
            Err(error) => self.out.reply(request, Err(error)),
        }
    }

    pub fn leave(&mut self, now: Now, request: RequestId) {
        let result = match (&self.phase, &self.command) {
            (Phase::Member(_), None) => Ok(None),
            (Phase::Member(_) | Phase::Idle, Some(_)) | (Phase::Joining(_), _) => Err(PartyError::Busy),
            (Phase::Idle, None) => Err(PartyError::NotInParty),
        };
        if result.is_ok() {
            self.depart(now);
        }
        self.out.reply(request, result);
    }

    /// Removes a member, named by name, PeerId or virtual IP, and rolls the code.
    pub fn kick(&mut self, request: RequestId, member: &str) {
        match self.start_kick(request, member) {
            Ok(()) => {}
            Err(error) => self.out.reply(request, Err(error)),
        }
    }

    fn start_kick(&mut self, request: RequestId, text: &str) -> Result<(), PartyError> {
        if self.command.is_some() {
            return Err(PartyError::Busy);
        }
        let Phase::Member(session) = &self.phase else { return Err(PartyError::NotInParty) };
        check_host(session, self.profile.node)?;
        let member = find_member(session, text).ok_or_else(|| PartyError::UnknownMember(text.to_owned()))?;
        if member == self.profile.node {
            return Err(PartyError::CannotKickSelf);
        }
        let code = PartyCode::random(&mut self.rng);
        self.out.push(Output::Derive(code.clone()));
        self.command = Some(Command::Kick { request, member, code });
        Ok(())
    }

    fn free_for_party(&self) -> Result<(), PartyError> {
        match &self.phase {
            Phase::Member(session) => Err(PartyError::AlreadyInParty(session.party_name().to_owned())),
            Phase::Joining(_) => Err(PartyError::Busy),
            Phase::Idle if self.command.is_some() => Err(PartyError::Busy),
            Phase::Idle => Ok(()),
        }
    }

    /// The secret of a code that `Derive` asked for; `None` when it could not be had.
    pub fn handle_derived(&mut self, now: Now, code: &PartyCode, secret: Option<PartySecret>) {
        let waits = match &self.command {
            Some(Command::Create { code: waited, .. } | Command::Kick { code: waited, .. }) => waited == code,
            None => false,
        };
        let Some(secret) = secret else {
            self.derive_failed(now, code, waits);
            return;
        };
        if waits && let Some(command) = self.command.take() {
            match command {
                Command::Create { request, name, code } => self.finish_create(now, request, name, code, secret),
                Command::Kick { request, member, code } => self.finish_kick(now, request, member, code, secret),
            }
            return;
        }
        match &mut self.phase {
            Phase::Idle => {}
            Phase::Joining(joining) => {
                if joining.code == *code {
                    joining.secret = Some(secret);
                    self.emit_seek(now);
                }
            }
            Phase::Member(session) => {
                session.deriving.remove(code);
                if session.roster.codes().any(|rekey| rekey.code == *code) && session.secret(code).is_none() {
                    session.secrets.push((code.clone(), secret));
                    self.save(Membership::Active);
                    self.reconcile(now);
                }
            }
        }
    }

    fn derive_failed(&mut self, now: Now, code: &PartyCode, waits: bool) {
        let error = PartyError::Internal("the key of the party code could not be derived".into());
        if waits && let Some(Command::Create { request, .. } | Command::Kick { request, .. }) = self.command.take() {
            self.out.reply(request, Err(error));
            return;
        }
        match &mut self.phase {
            Phase::Idle => {}
            Phase::Joining(joining) => {
                if joining.code == *code {
                    self.give_up_joining(now, error);
                }
            }
            Phase::Member(session) => {
                session.deriving.remove(code);
            }
        }
    }

    fn finish_create(&mut self, now: Now, request: RequestId, name: String, code: PartyCode, secret: PartySecret) {
        let result = match self.new_party(now, name, &code) {
            Ok((roster, own)) => {
                self.enter(now, Session::new(roster, vec![(code, secret)], own));
                Ok(self.view())
            }
            Err(error) => Err(PartyError::Internal(error.to_string())),
        };
        self.out.reply(request, result);
    }

    fn new_party(&mut self, now: Now, name: String, code: &PartyCode) -> Result<(Roster, MemberRecord), SignedError> {
        let me = self.profile.node;
        let mut salt = [0; 16];
        self.rng.fill_bytes(&mut salt);
        let info = PartyInfo { salt, name, range: self.range, creator: me, created_at: now.unix };
        let mut roster = Roster::new(Verified::sign(info, &self.identity)?, self.limit);
        let party = roster.id();
        let rekey = Rekey { party, generation: 0, code: code.clone(), stay: vec![me], by: me, at: now.unix };
        let rekey = Verified::sign(rekey, &self.identity)?;
        let known = Known { joined_at: now.unix, departures: 0, seq: 0 };
        let own = self.profile.first_record(&roster, &[], known, now.unix);
        let record = Verified::sign(own.clone(), &self.identity)?;
        roster.merge([Item::Record(record.signed().clone()), Item::Rekey(rekey.signed().clone())], now.unix);
        Ok((roster, own))
    }

    fn finish_kick(&mut self, now: Now, request: RequestId, member: NodeId, code: PartyCode, secret: PartySecret) {
        let me = self.profile.node;
        let items = match &self.phase {
            Phase::Member(session) => {
                check_host(session, me).and_then(|()| self.kick_items(session, now, member, &code))
            }
            Phase::Idle | Phase::Joining(_) => Err(PartyError::NotInParty),
        };
        let result = items.map(|items| {
            if let Phase::Member(session) = &mut self.phase {
                session.secrets.insert(0, (code, secret));
                session.roster.merge(items.clone(), now.unix);
            }
            self.recheck_links(now);
            self.save(Membership::Active);
            self.forward(items, None, true);
            self.reconcile(now);
            self.view()
        });
        self.out.reply(request, result);
    }

    fn kick_items(
        &self,
        session: &Session,
        now: Now,
        member: NodeId,
        code: &PartyCode,
    ) -> Result<Vec<Item>, PartyError> {
        let internal = |error: SignedError| PartyError::Internal(error.to_string());
        let (party, me) = (session.roster.id(), self.profile.node);
        let generation =
            session.generation.checked_add(1).ok_or_else(|| PartyError::Internal("too many codes".into()))?;
        // Kicks by somebody who is removed lose their force: those whom only he removed are removed again.
        let mut removed = session.roster.kicked_only_by(member);
        removed.push(member);
        let mut items = Vec::new();
        for member in removed {
            let kick = Kick { party, member, by: me, at: now.unix };
            items.push(Item::Kick(Verified::sign(kick, &self.identity).map_err(internal)?.signed().clone()));
        }
        let stay = session.roster.view().members.iter().copied().filter(|it| *it != member).collect();
        let rekey = Rekey { party, generation, code: code.clone(), stay, by: me, at: now.unix };
        items.push(Item::Rekey(Verified::sign(rekey, &self.identity).map_err(internal)?.signed().clone()));
        Ok(items)
    }

    /// Out of the party by own will. It stays in the list.
    pub(super) fn depart(&mut self, now: Now) {
        let Phase::Member(session) = &mut self.phase else { return };
        let record = session.leave(&self.identity, now.unix);
        let name = session.party_name().to_owned();
        let told = record.is_none() || session.roster.members().next().is_none();
        let membership = if told { Membership::Left } else { Membership::Leaving };
        self.save(membership);
        self.out.event(Event::Left(name));
        self.drop_party(now, membership);
    }

    /// Puts the party on the shelf.
    pub(super) fn drop_party(&mut self, now: Now, membership: Membership) {
        let Phase::Member(session) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        self.remember(session.snapshot(membership));
        if membership == Membership::Leaving {
            self.farewell_to_all();
        } else {
            self.close_all();
        }
        self.idle(now);
        if let Some(Command::Create { request, .. } | Command::Kick { request, .. }) = self.command.take() {
            self.out.reply(request, Err(PartyError::NotInParty));
        }
    }

    /// The player was told that the party could not be written down: then he is not in it either.
    pub fn abandon(&mut self, now: Now) {
        self.depart(now);
    }
}

fn default_party_name(player: &str) -> String {
    const SUFFIX: &str = "'s party";
    let player: String = player.chars().take(MAX_NAME - SUFFIX.len()).collect();
    format!("{}{SUFFIX}", player.trim_end())
}

fn parse_invite(text: &str) -> Result<Invite, PartyError> {
    // What is shown back must not flood the player's screen.
    let shown = || text.trim().chars().filter(|c| !c.is_control()).take(80).collect::<String>();
    if Invite::looks_like_one(text) {
        text.parse().map_err(|error: super::super::invite::InviteError| PartyError::BadLink(shown(), error.to_string()))
    } else {
        let code: PartyCode = text
            .parse()
            .map_err(|error: super::super::code::CodeError| PartyError::BadCode(shown(), error.to_string()))?;
        Ok(Invite { code, vias: Vec::new() })
    }
}

fn check_host(session: &Session, me: NodeId) -> Result<(), PartyError> {
    let host = session.roster.view().host();
    if host == Some(me) {
        return Ok(());
    }
    let name = host.and_then(|host| session.roster.record(host)).map_or_else(String::new, |it| it.name.clone());
    Err(PartyError::NotHost(name))
}

fn find_member(session: &Session, text: &str) -> Option<NodeId> {
    let text = text.trim();
    let ip = text.parse::<Ipv4Addr>().ok();
    let node = text.parse::<NodeId>().ok();
    let name = fold_name(text);
    let named = |record: &&MemberRecord| fold_name(&record.name) == name;
    let meant = |record: &&MemberRecord| Some(record.virtual_ip) == ip || Some(record.node) == node;
    session.roster.members().find(meant).or_else(|| session.roster.members().find(named)).map(|record| record.node)
}

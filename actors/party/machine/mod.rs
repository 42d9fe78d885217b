//! The party concern as a sans-IO machine: fed with commands, frames and time, it puts out frames, the peers to have
//! tunnels to, what to look for, and what to write down.

mod commands;
mod emit;
mod farewell;
mod gossip;
mod join;
mod link;
mod outbox;
mod session;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::code::PartyCode;
use super::messages::{MemberHosts, MemberView, PartySummary, PartyView};
use super::record::MemberRecord;
use super::roster::MAX_MEMBERS;
use super::snapshot::{Membership, Snapshot};
use crate::discovery::messages::{LinkId, Seek};
use crate::peer::messages::SetPeers;
use crate::store::messages::StoredParty;
use crate::tun::messages::Address;
use crate::wire::{
    Contact, HOSTED_EXTENSION, Hosted, Ipv4Range, NodeId, PartyId, WgPublicKey, decode_hosted, encode_hosted,
};
use join::Joining;
use link::Link;
use outbox::Outbox;
pub use outbox::{Counters, Event, Output, RequestId};
use session::{Profile, Session};

/// Changes of the own record within this time go out as one.
const PUBLISH_DELAY: Duration = Duration::from_millis(200);
/// The tickets that others hold may lead nowhere: long enough for what a second relay and a STUN server say to go along.
const PUBLISH_AT_ONCE: Duration = Duration::from_millis(20);
/// Changes of others' records are written down together.
const SAVE_DELAY: Duration = Duration::from_secs(1);
const DIGEST_EVERY: Duration = Duration::from_secs(30);
/// Parties of the past that are kept in memory.
const MAX_OTHERS: usize = 64;

/// One moment on both clocks, read once per input.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub mono: Instant,
    /// Seconds since 1970.
    pub unix: u64,
}

/// What the machine is told once.
#[derive(Clone)]
pub struct PartyConfig {
    pub identity: SigningKey,
    pub wg_key: WgPublicKey,
    /// As `clean_name` gave it.
    pub name: String,
    /// The range of parties that this machine creates.
    pub range: Ipv4Range,
    /// Most active members of a party; `MAX_MEMBERS` but in tests.
    pub limit: usize,
    /// Seed of the random generator: from the system's.
    pub seed: [u8; 32],
}

impl PartyConfig {
    #[must_use]
    pub fn new(identity: SigningKey, wg_key: WgPublicKey, name: String, range: Ipv4Range, seed: [u8; 32]) -> Self {
        Self { identity, wg_key, name, range, limit: MAX_MEMBERS, seed }
    }
}

impl std::fmt::Debug for PartyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartyConfig").field("name", &self.name).field("range", &self.range).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Phase {
    Idle,
    Joining(Box<Joining>),
    Member(Box<Session>),
}

/// A command that waits for a code's secret.
#[derive(Debug)]
enum Command {
    Create { request: RequestId, name: String, code: PartyCode },
    Kick { request: RequestId, member: NodeId, code: PartyCode },
}

#[derive(Debug)]
pub struct PartyMachine {
    identity: SigningKey,
    profile: Profile,
    range: Ipv4Range,
    limit: usize,
    rng: StdRng,
    phase: Phase,
    command: Option<Command>,
    links: BTreeMap<LinkId, Link>,
    /// Parties of the past, the last one first.
    others: Vec<Snapshot>,
    out: Outbox,
    digest_at: Option<Instant>,
    /// When the rendezvous keys change next.
    keys_at: Option<Instant>,
    sent_seek: Seek,
    sent_peers: SetPeers,
    sent_address: Option<Address>,
}

impl PartyMachine {
    /// `stored`: all parties as they were written down, the active one first.
    #[must_use]
    pub fn new(config: PartyConfig, stored: &[StoredParty]) -> Self {
        let node = NodeId(config.identity.verifying_key().to_bytes());
        let profile = Profile {
            node,
            wg_key: config.wg_key,
            name: config.name,
            contact: Contact::default(),
            addrs: Vec::new(),
            extensions: Vec::new(),
        };
        let mut machine = Self {
            identity: config.identity,
            profile,
            range: config.range,
            limit: config.limit.min(MAX_MEMBERS),
            rng: StdRng::from_seed(config.seed),
            phase: Phase::Idle,
            command: None,
            links: BTreeMap::new(),
            others: Vec::new(),
            out: Outbox::default(),
            digest_at: None,
            keys_at: None,
            sent_seek: Seek::default(),
            sent_peers: SetPeers { own_ip: None, peers: Vec::new() },
            sent_address: None,
        };
        for party in stored.iter().take(MAX_OTHERS) {
            machine.restore(party);
        }
        machine
    }

    fn restore(&mut self, stored: &StoredParty) {
        match Snapshot::restore(stored, self.limit) {
            Ok(snapshot) if stored.active && matches!(self.phase, Phase::Idle) => {
                match Session::from_snapshot(snapshot, self.profile.node) {
                    Some(session) => {
                        // Until the sockets have reported anew, the addresses of the last run are the best guess.
                        self.profile.contact.clone_from(&session.own.contact);
                        self.profile.addrs.clone_from(&session.own.addrs);
                        self.phase = Phase::Member(Box::new(session));
                    }
                    None => self.out.event(Event::SnapshotUnreadable("of another identity".into())),
                }
            }
            Ok(snapshot) => self.others.push(snapshot),
            Err(error) => self.out.event(Event::SnapshotUnreadable(error.to_string())),
        }
    }

    /// Takes up the party that this machine was in, if any.
    pub fn start(&mut self, now: Now) {
        if let Phase::Member(session) = &mut self.phase {
            session.roster.refresh(now.unix);
            self.digest_at = Some(now.mono + DIGEST_EVERY);
            self.reconcile(now);
            self.publish(now);
        } else {
            self.idle(now);
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.queue.pop_front()
    }

    /// When `handle_timeout` must be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let unproved = self.links.values().filter(|link| !link.proved());
        let proof = unproved.map(|link| (link.opened + link::PROOF_TIMEOUT, "proof overdue")).min();
        let (mut publish, mut save, mut join) = (None, None, None);
        match &self.phase {
            Phase::Idle => {}
            Phase::Joining(joining) => join = Some(joining.next_timeout()),
            Phase::Member(session) => {
                publish = session.publish_at.map(|at| (at, "own record changed"));
                save = session.save_at.map(|at| (at, "roster changed"));
            }
        }
        let digest = self.digest_at.map(|at| (at, "digest exchange"));
        let keys = self.keys_at.map(|at| (at, "rendezvous keys change"));
        [proof, publish, save, join, digest, keys].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Now) {
        self.cut_off_unproved(now);
        let (mut publish, mut save, mut join) = (false, false, false);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        match &self.phase {
            Phase::Idle => {}
            Phase::Joining(_) => join = true,
            Phase::Member(session) => (publish, save) = (due(session.publish_at), due(session.save_at)),
        }
        if join {
            self.join_timeout(now);
        }
        if publish {
            self.publish(now);
        }
        if save {
            self.save(Membership::Active);
        }
        if due(self.digest_at) {
            self.digest_at = Some(now.mono + DIGEST_EVERY);
            self.send_digests(now);
        }
        if due(self.keys_at) {
            self.emit_seek(now);
        }
    }

    /// How the data socket may be reached.
    pub fn set_contact(&mut self, now: Now, contact: Contact) {
        let contact = contact.bounded();
        let moved = contact.replaces_tickets_of(&self.profile.contact);
        self.profile.contact = contact;
        self.publish_soon(now, if moved { PUBLISH_AT_ONCE } else { PUBLISH_DELAY });
    }

    /// Multiaddrs of this node, without `/p2p`.
    pub fn set_own_addrs(&mut self, now: Now, addrs: &[String]) {
        self.profile.set_addrs(addrs);
        self.publish_soon(now, PUBLISH_DELAY);
    }

    /// What games this machine hosts.
    pub fn set_hosted(&mut self, now: Now, servers: &[Hosted]) {
        self.profile.extensions = match servers {
            [] => Vec::new(),
            some => vec![(HOSTED_EXTENSION, encode_hosted(some))],
        };
        self.publish_soon(now, PUBLISH_DELAY);
    }

    /// What every member that is there says it hosts. What cannot be read counts as nothing.
    #[must_use]
    pub fn hosts(&self) -> Vec<MemberHosts> {
        let hosted = |record: &MemberRecord| {
            let extension = record.extensions.iter().find(|(kind, _)| *kind == HOSTED_EXTENSION);
            extension.and_then(|(_, bytes)| decode_hosted(bytes)).unwrap_or_default()
        };
        let members = self.session().into_iter().flat_map(|session| session.roster.members());
        let members = members.filter(|it| it.node == self.profile.node || self.is_linked(it.node));
        let hosts = members.map(|it| MemberHosts {
            name: it.name.clone(),
            ip: it.virtual_ip,
            me: it.node == self.profile.node,
            hosted: hosted(it),
        });
        hosts.collect()
    }

    /// A frame could not be handed on. What it said comes again with the next digest.
    pub fn count_dropped_send(&mut self) {
        self.out.counters.dropped_sends += 1;
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.out.counters
    }

    #[must_use]
    pub fn node(&self) -> NodeId {
        self.profile.node
    }

    /// Hash of the roster, equal on all machines that are in step.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.session().map(|session| session.roster.digest())
    }

    /// The party this machine is in.
    #[must_use]
    pub fn view(&self) -> Option<PartyView> {
        let session = self.session()?;
        let host = session.roster.view().host();
        let code = session.roster.codes().next().map(|rekey| rekey.code.clone())?;
        let me = self.profile.node;
        let member = |record: &MemberRecord| MemberView {
            node: record.node,
            name: record.name.clone(),
            virtual_ip: record.virtual_ip,
            host: host == Some(record.node),
            me: record.node == me,
            online: record.node == me || self.is_linked(record.node),
        };
        Some(PartyView {
            id: session.roster.id(),
            name: session.party_name().to_owned(),
            link: super::invite::Invite::new(code.clone(), me, &self.profile.addrs).to_string(),
            code: code.to_string(),
            virtual_ip: session.own.virtual_ip,
            range: session.roster.info().get().range,
            host: host.and_then(|host| session.roster.record(host)).map_or_else(String::new, |it| it.name.clone()),
            is_host: host == Some(me),
            members: session.roster.members().map(member).collect(),
        })
    }

    /// Every party in memory, the active one first.
    #[must_use]
    pub fn summaries(&self) -> Vec<PartySummary> {
        let active = self.session().map(|session| session.snapshot(Membership::Active));
        active.iter().chain(&self.others).filter_map(|snapshot| self.summary(snapshot)).collect()
    }

    fn summary(&self, snapshot: &Snapshot) -> Option<PartySummary> {
        let own = snapshot.roster.record(self.profile.node)?;
        let code = snapshot.roster.codes().next().map(|rekey| rekey.code.to_string());
        Some(PartySummary {
            id: snapshot.id(),
            name: snapshot.roster.info().get().name.clone(),
            code: code.filter(|_| snapshot.membership != Membership::Kicked),
            active: snapshot.membership == Membership::Active,
            members: snapshot.roster.view().members.len(),
            virtual_ip: own.virtual_ip,
            state: match snapshot.membership {
                Membership::Active => "active",
                Membership::Left | Membership::Leaving => "left",
                Membership::Kicked => "kicked",
            },
        })
    }

    fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::Member(session) => Some(session),
            Phase::Idle | Phase::Joining(_) => None,
        }
    }

    /// A party that was left or lost goes into the list; it is the last one now.
    fn remember(&mut self, snapshot: Snapshot) {
        self.others.retain(|other| other.id() != snapshot.id());
        self.others.insert(0, snapshot);
        self.others.truncate(MAX_OTHERS);
    }

    fn forget_other(&mut self, id: PartyId) {
        self.others.retain(|other| other.id() != id);
    }
}

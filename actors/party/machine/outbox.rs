//! What the machine puts out.

use std::collections::VecDeque;

use super::super::code::PartyCode;
use super::super::frame::{Frame, Item};
use super::super::messages::{PartyError, PartyView};
use crate::discovery::messages::{LinkId, Seek};
use crate::peer::messages::SetPeers;
use crate::store::messages::StoredParty;
use crate::tun::messages::Address;

/// Most outputs that wait to be fetched; frames beyond are dropped and counted.
const MAX_OUTPUTS: usize = 4096;

/// Names a command until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

#[derive(Debug, Clone)]
pub enum Output {
    Send {
        link: LinkId,
        frame: Vec<u8>,
    },
    Close(LinkId),
    Seek(Seek),
    /// Write this down. A `Reply` that comes after it must wait until that has been done.
    Persist(StoredParty),
    Peers(SetPeers),
    Address(Option<Address>),
    /// Run Argon2id over the code and answer with `handle_derived`.
    Derive(PartyCode),
    Reply(RequestId, Result<Option<PartyView>, PartyError>),
    Event(Event),
}

/// For the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Entered(String),
    Left(String),
    /// The host removed this machine.
    Removed(String),
    /// The party had more members than its limit and this machine came last.
    Surplus(String),
    MemberJoined(String),
    MemberGone(String),
    HostIs(String),
    /// This machine has another name in the party: somebody of longer standing has its own.
    Renamed(String),
    /// Every virtual IP that this machine may try belongs to another.
    NoVirtualIp,
    /// The code was rolled.
    CodeRolled(u32),
    /// A stored party could not be read and is left alone.
    SnapshotUnreadable(String),
}

/// Since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that were not well-formed or came out of turn; their links were closed.
    pub garbage: u64,
    /// Frames over a link's rate limit.
    pub rate_limited: u64,
    /// Signed items that were refused.
    pub refused_items: u64,
    /// Nodes that could not prove membership.
    pub refused_proofs: u64,
    /// Links closed because there were too many.
    pub refused_links: u64,
    /// Frames dropped because nobody fetched the outputs.
    pub dropped_outputs: u64,
    /// Frames that discovery had no room for.
    pub dropped_sends: u64,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) queue: VecDeque<Output>,
    pub(super) counters: Counters,
}

impl Outbox {
    pub(super) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(super) fn event(&mut self, event: Event) {
        if self.queue.len() < MAX_OUTPUTS {
            self.push(Output::Event(event));
        }
    }

    pub(super) fn send(&mut self, link: LinkId, frame: &Frame) {
        match frame.encode() {
            Ok(bytes) => self.send_bytes(link, bytes),
            Err(_) => self.counters.dropped_outputs += 1,
        }
    }

    fn send_bytes(&mut self, link: LinkId, frame: Vec<u8>) {
        if self.queue.len() < MAX_OUTPUTS {
            self.push(Output::Send { link, frame });
        } else {
            self.counters.dropped_outputs += 1;
        }
    }

    pub(super) fn send_items(&mut self, links: &[LinkId], items: Vec<Item>) {
        for frame in Frame::items(items) {
            let Ok(bytes) = frame.encode() else {
                self.counters.dropped_outputs += links.len() as u64;
                continue;
            };
            for link in links {
                self.send_bytes(*link, bytes.clone());
            }
        }
    }

    pub(super) fn reply(&mut self, request: RequestId, result: Result<Option<PartyView>, PartyError>) {
        self.push(Output::Reply(request, result));
    }
}

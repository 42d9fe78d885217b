//! What PartyActor accepts and answers.

use std::net::Ipv4Addr;
use std::time::Duration;

use actix::Message;
use serde::Serialize;

use crate::wire::{Hosted, Ipv4Range, NodeId, PartyId};

/// Create a party and enter it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<PartyView, PartyError>")]
pub struct CreateParty {
    /// Shown to members; default `<node name>'s party`.
    pub name: Option<String>,
}

/// Join by code or invite link; answers once a member has let this machine in.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<PartyView, PartyError>")]
pub struct JoinParty {
    pub code_or_link: String,
    /// Give up after this time.
    pub timeout: Duration,
}

#[derive(Debug, Message)]
#[rtype(result = "Result<(), PartyError>")]
pub struct LeaveParty;

/// Remove a member and roll the code. `member` is a name, PeerId or virtual IP.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<PartyView, PartyError>")]
pub struct KickMember {
    pub member: String,
}

/// The party this machine is in.
#[derive(Debug, Message)]
#[rtype(result = "Option<PartyView>")]
pub struct GetParty;

/// Every party this machine remembers, the active one first.
#[derive(Debug, Message)]
#[rtype(result = "Vec<PartySummary>")]
pub struct ListParties;

/// What every member says it hosts.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<MemberHosts>")]
pub struct GetHosts;

/// A member, this machine among them, with the servers that its record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberHosts {
    pub name: String,
    /// Virtual IP.
    pub ip: Ipv4Addr,
    pub me: bool,
    pub hosted: Vec<Hosted>,
}

/// What this machine hosts, for its record.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct SetHosted(pub Vec<Hosted>);

#[derive(Debug, Clone, Serialize)]
pub struct PartyView {
    #[serde(serialize_with = "as_text")]
    pub id: PartyId,
    pub name: String,
    /// `K7QM-2XPA-9DRK`
    pub code: String,
    /// `lanrage://join/…`
    pub link: String,
    pub virtual_ip: Ipv4Addr,
    #[serde(serialize_with = "as_text")]
    pub range: Ipv4Range,
    /// Name of the host.
    pub host: String,
    pub is_host: bool,
    pub members: Vec<MemberView>,
}

#[derive(Debug, Clone, Serialize)]
pub struct MemberView {
    #[serde(rename = "peer_id", serialize_with = "as_text")]
    pub node: NodeId,
    pub name: String,
    pub virtual_ip: Ipv4Addr,
    pub host: bool,
    /// This machine.
    pub me: bool,
    /// A proved party stream to it is open (always true for this machine).
    pub online: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct PartySummary {
    #[serde(serialize_with = "as_text")]
    pub id: PartyId,
    pub name: String,
    /// Absent when this machine was kicked.
    pub code: Option<String>,
    pub active: bool,
    pub members: usize,
    pub virtual_ip: Ipv4Addr,
    /// `active`, `left` or `kicked`
    pub state: &'static str,
}

/// Every way in which a party command fails. `code()` is stable for programs, `Display` is for the player.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartyError {
    #[error("`{0}` is not a party code: {1}. A code looks like K7QM-2XPA-9DRK; ask your friend to send it again.")]
    BadCode(String, String),
    #[error("`{0}` is not an invite link: {1}.")]
    BadLink(String, String),
    #[error("`{0}` is not a usable name: {1}.")]
    BadName(String, String),
    #[error("you are already in the party \"{0}\"; leave it first with: lanrage party leave")]
    AlreadyInParty(String),
    #[error("you are not in a party; start one with: lanrage party create, or join one with: lanrage party join CODE")]
    NotInParty,
    #[error(
        "no party answered for this code within {} s. Check the code with your friend, and that your friend's LANrage is running.",
        .0.as_secs()
    )]
    NoSuchParty(Duration),
    #[error(
        "no party could be looked for: none of the bootstrap peers could be reached within {} s ({problem}). Check your internet connection, name other ones with --bootstrap, or join with your friend's invite link.",
        .waited.as_secs()
    )]
    NoBootstrap { waited: Duration, problem: String },
    #[error("the party is full: it has {0} members, which is the limit.")]
    PartyFull(usize),
    #[error(
        "somebody in the party is already called \"{0}\"; start LANrage with another name (lanrage up --name NAME) and join again."
    )]
    NameTaken(String),
    #[error("the host has removed you from this party.")]
    Kicked,
    #[error(
        "your LANrage (party protocol {ours}) and the party's (protocol {theirs}) cannot talk; update the older one."
    )]
    VersionMismatch { ours: u16, theirs: u16 },
    #[error("only the host ({0}) can remove members.")]
    NotHost(String),
    #[error("there is no member \"{0}\" in the party; see: lanrage peers")]
    UnknownMember(String),
    #[error("you cannot remove yourself; leave with: lanrage party leave")]
    CannotKickSelf,
    #[error("another party command is still running; try again when it has ended")]
    Busy,
    #[error("the party could not be saved: {0}")]
    Store(String),
    #[error("something went wrong inside LANrage: {0}. Please report it.")]
    Internal(String),
}

impl PartyError {
    /// A word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadCode(..) => "bad_code",
            Self::BadLink(..) => "bad_link",
            Self::BadName(..) => "bad_name",
            Self::AlreadyInParty(_) => "already_in_party",
            Self::NotInParty => "not_in_party",
            Self::NoSuchParty(_) => "no_such_party",
            Self::NoBootstrap { .. } => "no_bootstrap",
            Self::PartyFull(_) => "party_full",
            Self::NameTaken(_) => "name_taken",
            Self::Kicked => "kicked",
            Self::VersionMismatch { .. } => "version_mismatch",
            Self::NotHost(_) => "not_host",
            Self::UnknownMember(_) => "unknown_member",
            Self::CannotKickSelf => "cannot_kick_self",
            Self::Busy => "busy",
            Self::Store(_) => "store",
            Self::Internal(_) => "internal",
        }
    }
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

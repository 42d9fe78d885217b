//! A party as it is written down: enough to be a member again after a restart without asking anybody.

use serde::{Deserialize, Serialize};

use super::code::PartyCode;
use super::frame::Item;
use super::keys::PartySecret;
use super::record::PartyInfo;
use super::roster::Roster;
use super::signed::Signed;
use crate::store::messages::StoredParty;
use crate::wire::PartyId;

const SNAPSHOT_VERSION: u8 = 1;
/// Longest snapshot, bytes: every table of the roster full of the longest items.
const MAX_SNAPSHOT: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Membership {
    Active,
    Left,
    Kicked,
    /// Left, and nobody in the party has shown yet that it knows.
    Leaving,
}

/// A party that this machine is or was in.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub membership: Membership,
    pub roster: Roster,
    /// Codes whose secrets are known. None when kicked.
    pub secrets: Vec<(PartyCode, PartySecret)>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    membership: Membership,
    info: Signed,
    items: Vec<Item>,
    secrets: Vec<(PartyCode, [u8; 32])>,
}

/// Why a stored party cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("written by another version of LANrage")]
    Version,
    #[error("damaged")]
    Damaged,
}

impl Snapshot {
    #[must_use]
    pub fn id(&self) -> PartyId {
        self.roster.id()
    }

    /// # Errors
    /// When it cannot be encoded.
    pub fn store(&self) -> Result<StoredParty, SnapshotError> {
        let stored = Stored {
            membership: self.membership,
            info: self.roster.info().signed().clone(),
            items: self.roster.all_items(),
            secrets: self.secrets.iter().map(|(code, secret)| (code.clone(), *secret.as_bytes())).collect(),
        };
        let mut snapshot = vec![SNAPSHOT_VERSION];
        let encoded = bincode::serde::encode_to_vec(&stored, bincode::config::standard());
        snapshot.extend(encoded.map_err(|_| SnapshotError::Damaged)?);
        Ok(StoredParty { id: self.id(), active: self.membership == Membership::Active, snapshot })
    }

    /// # Errors
    /// When the bytes are not a party, or not the one that they are stored as.
    pub fn restore(stored: &StoredParty, limit: usize) -> Result<Self, SnapshotError> {
        let (&version, body) = stored.snapshot.split_first().ok_or(SnapshotError::Damaged)?;
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version);
        }
        let config = bincode::config::standard().with_limit::<MAX_SNAPSHOT>();
        let (parts, _): (Stored, usize) =
            bincode::serde::decode_from_slice(body, config).map_err(|_| SnapshotError::Damaged)?;
        let info = parts.info.verify::<PartyInfo>().map_err(|_| SnapshotError::Damaged)?;
        let mut roster = Roster::new(info, limit);
        // Whatever does not verify any more is left behind: the others still have it. Age is looked at later.
        let _ = roster.merge(parts.items, 0);
        if roster.id() != stored.id {
            return Err(SnapshotError::Damaged);
        }
        let secrets = parts.secrets.into_iter().map(|(code, bytes)| (code, PartySecret::from_bytes(bytes))).collect();
        Ok(Self { membership: parts.membership, roster, secrets })
    }
}

//! What StoreActor accepts and answers. Every answer means: written and synced to disk.

use actix::Message;

use crate::wire::PartyId;

#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// A party as its concern wrote it down; the store does not look into `snapshot`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredParty {
    pub id: PartyId,
    /// At most one party is active.
    pub active: bool,
    pub snapshot: Vec<u8>,
}

/// Insert or replace a party; if it is active, every other one becomes inactive in the same transaction.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct SaveParty(pub StoredParty);

/// All parties, the active one first, then the last changed first.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<StoredParty>, StoreError>")]
pub struct LoadParties;

#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct ForgetParty(pub PartyId);

/// Write a setting; `None` deletes it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct PutSetting {
    pub key: String,
    pub value: Option<String>,
}

#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<String>, StoreError>")]
pub struct GetSetting(pub String);

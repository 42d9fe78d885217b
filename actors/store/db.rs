//! The open database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::damage::{self, Contents};
use super::error::OpenError;
use super::identity::Identity;
use super::lock::DataLock;
use super::messages::{StoreError, StoredParty};
use super::private::{create_private_dir, open_private, writable_by_others};
use super::schema::{self, checksum};
use crate::wire::PartyId;

pub(super) const FILE: &str = "lanrage.db";

/// Parties remembered; beyond it the inactive one that was changed longest ago is forgotten.
const MAX_PARTIES: i64 = 256;
/// As large as the party concern writes at most.
const MAX_SNAPSHOT: usize = 16 * 1024 * 1024;
const MAX_SETTINGS: i64 = 1024;
const MAX_SETTING_KEY: usize = 64;
const MAX_SETTING_VALUE: usize = 64 * 1024;
/// Only we may hold the database (see `lock.rs`), but a backup program may read it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do about the identity that is in the data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityPolicy {
    Keep,
    /// Set the database aside, damaged or not, and start afresh.
    New,
}

/// The store, and what the player should be told about how it was opened.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub notices: Vec<String>,
}

/// The database of one data folder. Holds the folder's lock. Every write is synced when it returns.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    _lock: DataLock,
}

impl Store {
    /// Open the database in `dir`, creating both (with a new identity) where they are missing.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing that was in the folder is changed then.
    pub fn open(dir: &Path, policy: IdentityPolicy) -> Result<Opened, OpenError> {
        let folder = |source| OpenError::Folder { path: dir.to_owned(), source };
        create_private_dir(dir).map_err(folder)?;
        let mut notices = Vec::new();
        if writable_by_others(dir).map_err(folder)? {
            notices.push(format!(
                "other users of this computer can write to the data folder {0}, and so could take over this node. Close it with: chmod 700 {0}",
                dir.display()
            ));
        }
        let lock = DataLock::acquire(dir)?;
        let path = dir.join(FILE);
        notices.extend(damage::settle(dir, &path, policy)?);
        open_private(&path).map_err(folder)?;
        let connection = connect(&path).map_err(|error| database_error(&path, &error))?;
        Ok(Opened { store: Self { connection, path, _lock: lock }, notices })
    }

    /// # Errors
    /// When it cannot be read any more: `open` has seen it.
    pub fn identity(&self) -> Result<Identity, StoreError> {
        read_identity(&self.connection)
            .map_err(|error| self.error("read", &error))?
            .ok_or_else(|| StoreError(format!("the identity in {} is damaged; restart LANrage", self.path.display())))
    }

    /// Insert or replace; if `party` is active, every other one becomes inactive in the same transaction.
    ///
    /// # Errors
    /// When the snapshot is over 4 MiB, or the disk refuses.
    pub fn save_party(&mut self, party: &StoredParty) -> Result<(), StoreError> {
        if party.snapshot.len() > MAX_SNAPSHOT {
            return Err(StoreError(format!(
                "the party takes {} bytes, more than the {MAX_SNAPSHOT} that the store takes",
                party.snapshot.len()
            )));
        }
        self.write(|transaction| {
            put_party(transaction, party)?;
            let forgotten = transaction.execute(
                "DELETE FROM parties WHERE active = 0 AND id NOT IN
                 (SELECT id FROM parties ORDER BY active DESC, changed DESC LIMIT ?1)",
                [MAX_PARTIES],
            )?;
            if forgotten > 0 {
                tracing::info!(forgotten, "forgot the parties that were used longest ago");
            }
            Ok(())
        })
    }

    /// All parties, the active one first, then the last changed first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn parties(&self) -> Result<Vec<StoredParty>, StoreError> {
        let read = || -> rusqlite::Result<Vec<StoredParty>> {
            let mut statement = self
                .connection
                .prepare_cached("SELECT id, active, snapshot FROM parties ORDER BY active DESC, changed DESC")?;
            let parties = statement.query_map([], |row| {
                Ok(StoredParty { id: PartyId(row.get(0)?), active: row.get(1)?, snapshot: row.get(2)? })
            })?;
            parties.collect()
        };
        read().map_err(|error| self.error("read", &error))
    }

    /// # Errors
    /// When the disk refuses. A party that is not there is no error.
    pub fn forget_party(&mut self, id: PartyId) -> Result<(), StoreError> {
        self.write(|transaction| transaction.execute("DELETE FROM parties WHERE id = ?1", [id.0]).map(drop))
    }

    /// Write a setting; `None` deletes it.
    ///
    /// # Errors
    /// When key or value are too long, there are too many settings, or the disk refuses.
    pub fn put_setting(&mut self, key: &str, value: Option<&str>) -> Result<(), StoreError> {
        let Some(value) = value else {
            return self
                .write(|transaction| transaction.execute("DELETE FROM settings WHERE key = ?1", [key]).map(drop));
        };
        if key.is_empty() || key.len() > MAX_SETTING_KEY || value.len() > MAX_SETTING_VALUE {
            return Err(StoreError(format!("the setting `{key}` is too long")));
        }
        let others: i64 = self
            .connection
            .query_row("SELECT count(*) FROM settings WHERE key <> ?1", [key], |row| row.get(0))
            .map_err(|error| self.error("read", &error))?;
        if others >= MAX_SETTINGS {
            return Err(StoreError(format!("there are already {MAX_SETTINGS} settings")));
        }
        self.write(|transaction| put_setting(transaction, key, value))
    }

    /// # Errors
    /// When the database cannot be read.
    pub fn setting(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.connection
            .query_row("SELECT value FROM settings WHERE key = ?1", [key], |row| row.get(0))
            .optional()
            .map_err(|error| self.error("read", &error))
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn write(&mut self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        let outcome = self.connection.transaction().and_then(|transaction| {
            change(&transaction)?;
            transaction.commit()
        });
        outcome.map_err(|error| self.error("written", &error))
    }

    fn error(&self, what: &str, error: &rusqlite::Error) -> StoreError {
        StoreError(format!("{} cannot be {what}: {error}", self.path.display()))
    }
}

pub(super) fn database_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    OpenError::Database { path: path.to_owned(), problem: error.to_string() }
}

/// Open for use, and bring the tables up to date.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        // Still safe with synchronous=FULL, only slower.
        tracing::warn!(mode, "this file system cannot do SQLite's write-ahead log");
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    schema::migrate(&mut connection, schema::STEPS)?;
    Ok(connection)
}

/// Write a new database with these contents at `path`, where there is none, synced when it returns.
pub(super) fn create(path: &Path, contents: &Contents) -> rusqlite::Result<()> {
    let mut connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // A rollback journal here: with a write-ahead log the main file alone would be an empty database, and losing the log
    // would look like a first start.
    connection.pragma_update(None, "synchronous", "EXTRA")?;
    let transaction = connection.transaction()?;
    for (version, step) in (1..).zip(schema::STEPS) {
        schema::apply(&transaction, step, version)?;
    }
    put_identity(&transaction, &contents.identity)?;
    for party in contents.parties.iter().rev() {
        put_party(&transaction, party)?;
    }
    for (key, value) in &contents.settings {
        put_setting(&transaction, key, value)?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

pub(super) fn read_identity(connection: &Connection) -> rusqlite::Result<Option<Identity>> {
    let row = connection.query_row("SELECT signing, wireguard, checksum FROM identity WHERE id = 1", [], |row| {
        let identity = Identity { signing: row.get(0)?, wireguard: row.get(1)? };
        Ok((identity, row.get::<_, [u8; 16]>(2)?))
    });
    Ok(row.optional()?.and_then(|(identity, sum)| (identity_checksum(&identity) == sum).then_some(identity)))
}

fn identity_checksum(identity: &Identity) -> [u8; 16] {
    checksum("identity", &[&identity.signing, &identity.wireguard])
}

pub(super) fn party_checksum(id: &[u8], active: bool, snapshot: &[u8]) -> [u8; 16] {
    checksum("parties", &[id, &[u8::from(active)], snapshot])
}

pub(super) fn setting_checksum(key: &str, value: &str) -> [u8; 16] {
    checksum("settings", &[key.as_bytes(), value.as_bytes()])
}

fn put_identity(transaction: &Transaction<'_>, identity: &Identity) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO identity (id, signing, wireguard, checksum) VALUES (1, ?1, ?2, ?3)",
        params![identity.signing, identity.wireguard, identity_checksum(identity)],
    )?;
    Ok(())
}

fn put_party(transaction: &Transaction<'_>, party: &StoredParty) -> rusqlite::Result<()> {
    if party.active {
        // The checksum covers the flag, so the row of the party that was active is written anew.
        let previous = transaction
            .query_row("SELECT id, snapshot FROM parties WHERE active = 1 AND id <> ?1", [party.id.0], |row| {
                Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, Vec<u8>>(1)?))
            })
            .optional()?;
        if let Some((id, snapshot)) = previous {
            transaction.execute(
                "UPDATE parties SET active = 0, checksum = ?2 WHERE id = ?1",
                params![id, party_checksum(&id, false, &snapshot)],
            )?;
        }
    }
    transaction.execute(
        "INSERT INTO parties (id, active, changed, snapshot, checksum)
         VALUES (?1, ?2, (SELECT coalesce(max(changed), 0) + 1 FROM parties), ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET active = excluded.active, changed = excluded.changed,
         snapshot = excluded.snapshot, checksum = excluded.checksum",
        params![party.id.0, party.active, party.snapshot, party_checksum(&party.id.0, party.active, &party.snapshot)],
    )?;
    Ok(())
}

fn put_setting(transaction: &Transaction<'_>, key: &str, value: &str) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO settings (key, value, checksum) VALUES (?1, ?2, ?3)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, checksum = excluded.checksum",
        params![key, value, setting_checksum(key, value)],
    )?;
    Ok(())
}

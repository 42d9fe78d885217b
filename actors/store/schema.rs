//! Tables, migrations, and the checksum that every row carries.

use rusqlite::{Connection, Transaction};

/// `LNRG`: tells our databases from other programs' (SQLite file format, 1.3.12).
pub(super) const APPLICATION_ID: u32 = 0x4C4E_5247;

/// Step n takes a database from version n to n + 1. Steps that were ever released never change.
pub(super) const STEPS: &[&str] = &["
    CREATE TABLE identity (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        signing BLOB NOT NULL CHECK (length(signing) = 32),
        wireguard BLOB NOT NULL CHECK (length(wireguard) = 32),
        checksum BLOB NOT NULL
    );
    CREATE TABLE parties (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
        active INTEGER NOT NULL CHECK (active IN (0, 1)),
        changed INTEGER NOT NULL,
        snapshot BLOB NOT NULL,
        checksum BLOB NOT NULL
    );
    CREATE UNIQUE INDEX one_active_party ON parties (active) WHERE active = 1;
    CREATE TABLE settings (
        seq INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        value TEXT NOT NULL,
        checksum BLOB NOT NULL
    );
"];

/// The version that `steps` lead to.
pub(super) fn target(steps: &[&str]) -> u32 {
    u32::try_from(steps.len()).unwrap_or(u32::MAX)
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Bring the database to the version of `steps`; each step and its version number become true together.
pub(super) fn migrate(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let from = version(connection)?;
    for (next, step) in (1u32..).zip(steps).skip(usize::try_from(from).unwrap_or(usize::MAX)) {
        let transaction = connection.transaction()?;
        apply(&transaction, step, next)?;
        transaction.commit()?;
    }
    Ok(())
}

pub(super) fn apply(transaction: &Transaction<'_>, step: &str, version: u32) -> rusqlite::Result<()> {
    transaction.execute_batch(step)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", version)
}

/// `quick_check` sees a broken tree, not a flipped bit in a value; this does.
pub(super) fn checksum(table: &str, values: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("LANrage store row v1");
    for value in [table.as_bytes()].iter().chain(values) {
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(value);
    }
    let mut sum = [0; 16];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

//! What happens before the database is used: is it whole, and if not, what can be kept of it.
//!
//! Rules: a damaged database is set aside, never deleted. It is replaced only by one with the same identity, or when the
//! player says so. While neither holds, no byte in the data folder changes.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::db::{self, IdentityPolicy, database_error, party_checksum, read_identity, setting_checksum};
use super::error::OpenError;
use super::identity::Identity;
use super::messages::StoredParty;
use super::private::{length, open_private, remove_if_there, rename_if_there, sync_dir, with_suffix};
use super::schema::{self, APPLICATION_ID};
use crate::wire::PartyId;

/// A write-ahead log that is no longer than its header holds nothing (SQLite file format, 4.1).
const WAL_HEADER: u64 = 32;

/// Everything that a database holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) identity: Identity,
    /// The active one first, then the last changed first.
    pub(super) parties: Vec<StoredParty>,
    pub(super) settings: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// No byte was ever in it. A file of a few bytes is not empty, though SQLite would take it for that.
    Empty,
    Whole,
    Newer(u32),
    Damaged(String),
}

/// Leave a whole database at `path`, or say why not. Returns what the player should know.
pub(super) fn settle(dir: &Path, path: &Path, policy: IdentityPolicy) -> Result<Vec<String>, OpenError> {
    let io = |source| OpenError::Folder { path: dir.to_owned(), source };
    let mut notices = Vec::new();
    if finish_replacement(dir, path).map_err(io)? {
        notices.push(format!("the repair of {} that was interrupted last time is finished", path.display()));
    }
    let condition = inspect(path)?;
    if policy == IdentityPolicy::New && condition != Condition::Empty {
        let label = if matches!(condition, Condition::Damaged(_)) { "damaged" } else { "old" };
        let aside = set_aside(dir, path, label).map_err(io)?;
        notices.push(format!(
            "a new identity was made, as asked; the database with the old one is now {}",
            aside.display()
        ));
        create_new(dir, path)?;
        return Ok(notices);
    }
    match condition {
        Condition::Whole => {}
        Condition::Empty => create_new(dir, path)?,
        Condition::Newer(found) => {
            let supported = schema::target(schema::STEPS);
            return Err(OpenError::NewerSchema { path: path.to_owned(), found, supported });
        }
        Condition::Damaged(problem) => {
            let unreadable = |problem| OpenError::IdentityUnreadable { path: path.to_owned(), problem };
            let contents = salvage(path).ok().flatten().ok_or_else(|| unreadable(problem.clone()))?;
            let aside = replace(dir, path, &contents)?;
            let kept = contents.parties.len();
            notices.push(format!(
                "the database {} was damaged ({problem}) and is now {}. The identity of this machine was kept. Of the parties remembered in it, {kept} could be read and {} kept; any other is gone: join it again with its code.",
                path.display(),
                aside.display(),
                if kept == 1 { "was" } else { "were" },
            ));
        }
    }
    Ok(notices)
}

/// Looks without changing a byte of the database or its log.
pub(super) fn inspect(path: &Path) -> Result<Condition, OpenError> {
    let io = |source| OpenError::Folder { path: path.to_owned(), source };
    let log = length(&with_suffix(path, "-wal")).map_err(io)?;
    if length(path).map_err(io)? == 0 {
        // SQLite would delete the log of an empty file, and with it perhaps the identity.
        let lost = log > WAL_HEADER;
        return Ok(if lost { Condition::Damaged("the file is empty".to_owned()) } else { Condition::Empty });
    }
    match look(path) {
        Ok(condition) => Ok(condition),
        Err(error) if is_damage(&error) => Ok(Condition::Damaged(error.to_string())),
        Err(error) => Err(database_error(path, &error)),
    }
}

fn look(path: &Path) -> rusqlite::Result<Condition> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "query_only", true)?;
    let version = schema::version(&connection)?;
    let application: u32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION_ID || version == 0 {
        return Ok(Condition::Damaged("it is not a database of LANrage".to_owned()));
    }
    if version > schema::target(schema::STEPS) {
        return Ok(Condition::Newer(version));
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Ok(Condition::Damaged(verdict.replace('\n', " ")));
    }
    if read_identity(&connection)?.is_none() {
        return Ok(Condition::Damaged("the identity is not what was written".to_owned()));
    }
    let (mut damaged, mut rows) = (0u32, Rows::default());
    damaged += rows.read_parties(&connection, "ASC")?;
    damaged += rows.read_settings(&connection, "ASC")?;
    if damaged > 0 {
        return Ok(Condition::Damaged(format!("{damaged} rows are not what was written")));
    }
    Ok(Condition::Whole)
}

/// Says that the file's contents are wrong, rather than that the disk or the rights are.
fn is_damage(error: &rusqlite::Error) -> bool {
    let Some(code) = error.sqlite_error_code() else {
        // A row of another type or shape than we write.
        return true;
    };
    // `Unknown` is SQLITE_ERROR: a table that is missing.
    matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
}

/// Whatever can be read and has the right checksum; `None` without the identity.
fn salvage(path: &Path) -> rusqlite::Result<Option<Contents>> {
    if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        // To open it is enough to lose its log: see `inspect`.
        return Ok(None);
    }
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // With it SQLite reads on in a file that is shorter than its header says.
    connection.pragma_update(None, "writable_schema", true)?;
    let Some(identity) = read_identity(&connection)? else {
        return Ok(None);
    };
    let mut rows = Rows::default();
    // A damaged page ends a walk through the table; the walk from the other end gets what lies behind it.
    for direction in ["ASC", "DESC"] {
        for outcome in [rows.read_parties(&connection, direction), rows.read_settings(&connection, direction)] {
            if let Err(error) = outcome {
                tracing::debug!(%error, "damaged database: rows lost");
            }
        }
    }
    Ok(Some(rows.into_contents(identity)))
}

#[derive(Default)]
struct Rows {
    /// (changed, party)
    parties: Vec<(i64, StoredParty)>,
    settings: Vec<(String, String)>,
}

impl Rows {
    /// Returns how many rows had a wrong checksum.
    fn read_parties(&mut self, connection: &Connection, direction: &str) -> rusqlite::Result<u32> {
        let mut damaged = 0;
        let mut statement = connection.prepare(&format!(
            "SELECT id, active, snapshot, checksum, changed FROM parties NOT INDEXED ORDER BY seq {direction}"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let read = || -> rusqlite::Result<_> {
                let party = StoredParty { id: PartyId(row.get(0)?), active: row.get(1)?, snapshot: row.get(2)? };
                Ok((party, row.get::<_, [u8; 16]>(3)?, row.get::<_, i64>(4)?))
            };
            match read() {
                Ok((party, sum, changed)) if party_checksum(&party.id.0, party.active, &party.snapshot) == sum => {
                    if self.parties.iter().all(|(_, known)| known.id != party.id) {
                        self.parties.push((changed, party));
                    }
                }
                Ok(_) | Err(_) => damaged += 1,
            }
        }
        Ok(damaged)
    }

    fn read_settings(&mut self, connection: &Connection, direction: &str) -> rusqlite::Result<u32> {
        let mut damaged = 0;
        let mut statement = connection
            .prepare(&format!("SELECT key, value, checksum FROM settings NOT INDEXED ORDER BY seq {direction}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let read = || -> rusqlite::Result<_> {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, [u8; 16]>(2)?))
            };
            match read() {
                Ok((key, value, sum)) if setting_checksum(&key, &value) == sum => {
                    if self.settings.iter().all(|(known, _)| *known != key) {
                        self.settings.push((key, value));
                    }
                }
                Ok(_) | Err(_) => damaged += 1,
            }
        }
        Ok(damaged)
    }

    fn into_contents(mut self, identity: Identity) -> Contents {
        self.parties.sort_by_key(|(changed, party)| std::cmp::Reverse((party.active, *changed)));
        Contents {
            identity,
            parties: self.parties.into_iter().map(|(_, party)| party).collect(),
            settings: self.settings,
        }
    }
}

fn create_new(dir: &Path, path: &Path) -> Result<(), OpenError> {
    let identity = Identity::generate().map_err(|problem| OpenError::Database { path: path.to_owned(), problem })?;
    let contents = Contents { identity, parties: Vec::new(), settings: Vec::new() };
    build(dir, path, &contents, path)
}

/// Put a database with `contents` in the place of the damaged one; returns where the damaged one went.
fn replace(dir: &Path, path: &Path, contents: &Contents) -> Result<PathBuf, OpenError> {
    let io = |source| OpenError::Folder { path: dir.to_owned(), source };
    build(dir, path, contents, &recovered(path))?;
    let aside = set_aside(dir, path, "damaged").map_err(io)?;
    finish_replacement(dir, path).map_err(io)?;
    Ok(aside)
}

/// A finished copy waits under this name until the damaged database is out of its place. Its presence is the journal of
/// the replacement: whoever finds it goes on with it.
fn recovered(path: &Path) -> PathBuf {
    with_suffix(path, ".recovered")
}

fn finish_replacement(dir: &Path, path: &Path) -> std::io::Result<bool> {
    if length(&recovered(path))? == 0 {
        return Ok(false);
    }
    set_aside(dir, path, "damaged")?;
    rename_if_there(&recovered(path), path)?;
    sync_dir(dir)?;
    Ok(true)
}

/// Write a database beside its place and rename it to `target`: it is there whole or not at all.
fn build(dir: &Path, path: &Path, contents: &Contents, target: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Folder { path: dir.to_owned(), source };
    let building = with_suffix(path, ".building");
    remove_if_there(&building).map_err(io)?;
    remove_if_there(&with_suffix(&building, "-journal")).map_err(io)?;
    open_private(&building).map_err(io)?;
    db::create(&building, contents).map_err(|error| database_error(path, &error))?;
    for suffix in ["-wal", "-shm", "-journal"] {
        if target == path {
            remove_if_there(&with_suffix(path, suffix)).map_err(io)?;
        }
    }
    std::fs::rename(&building, target).map_err(io)?;
    sync_dir(dir).map_err(io)
}

/// Rename the database and what belongs to it, the log first: a log without its database would spoil the next one.
fn set_aside(dir: &Path, path: &Path, label: &str) -> std::io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut name = with_suffix(path, &format!(".{label}-{seconds}"));
    for again in 2..100 {
        if !name.exists() {
            break;
        }
        name = with_suffix(path, &format!(".{label}-{seconds}-{again}"));
    }
    for suffix in ["-wal", "-shm", "-journal", ""] {
        rename_if_there(&with_suffix(path, suffix), &with_suffix(&name, suffix))?;
    }
    sync_dir(dir)?;
    Ok(name)
}

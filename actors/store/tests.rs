use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;

use super::db::FILE;
use super::messages::{LoadParties, PutSetting, SaveParty, StoredParty};
use super::*;
use crate::wire::PartyId;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let mut random = [0; 8];
        rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut random).unwrap();
        let path = std::env::temp_dir().join(format!("lanrage-store-{:016x}", u64::from_le_bytes(random)));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn db(&self) -> PathBuf {
        self.0.join(FILE)
    }

    /// A test beside this one that starts a process holds a copy of every lock between its fork and its exec.
    fn open(&self) -> Result<Opened, OpenError> {
        for _ in 0..500 {
            match Store::open(&self.0, IdentityPolicy::Keep) {
                Err(OpenError::Locked { .. }) => std::thread::sleep(Duration::from_millis(10)),
                other => return other,
            }
        }
        panic!("{} stays locked", self.0.display());
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Name, length and hash of every file that holds data: not the lock, nor the log index and empty log that SQLite
    /// leaves behind when it looks at a database.
    fn contents(&self) -> Vec<(String, usize, String)> {
        let names = self.names().into_iter().filter(|name| name != "lanrage.lock" && !name.ends_with("-shm"));
        names
            .map(|name| (fs::read(self.0.join(&name)).unwrap(), name))
            .filter(|(bytes, name)| !(bytes.is_empty() && name.ends_with("-wal")))
            .map(|(bytes, name)| (name, bytes.len(), blake3::hash(&bytes).to_string()))
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn party(number: u8, active: bool, snapshot: &[u8]) -> StoredParty {
    StoredParty { id: PartyId([number; 16]), active, snapshot: snapshot.to_vec() }
}

/// A database with parties of several pages and a setting; returns the identity.
fn filled(folder: &Folder) -> ([u8; 32], [u8; 32]) {
    let mut store = folder.open().unwrap().store;
    for number in 0..8 {
        store.save_party(&party(number, number == 5, &[number; 3000])).unwrap();
    }
    store.put_setting("listen-port", Some("41641")).unwrap();
    keys(&store)
}

fn keys(store: &Store) -> ([u8; 32], [u8; 32]) {
    let identity = store.identity().unwrap();
    (identity.signing, identity.wireguard)
}

#[test]
fn first_start_makes_an_identity_and_keeps_it() {
    let folder = Folder::new();
    let opened = folder.open().unwrap();
    assert!(opened.notices.is_empty(), "{:?}", opened.notices);
    let first = keys(&opened.store);
    assert_ne!(first.0, first.1);
    assert_ne!(first.0, [0; 32]);
    assert_eq!(format!("{:?}", opened.store.identity().unwrap()), "Identity(…)");
    drop(opened);
    assert_eq!(keys(&folder.open().unwrap().store), first);
    assert_ne!(keys(&Folder::new().open().unwrap().store), first);
}

#[test]
fn settings_are_safe_for_durability() {
    let folder = Folder::new();
    drop(folder.open().unwrap());
    let opened = folder.open().unwrap();
    let connection = opened.store.connection();
    let pragma =
        |name| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
    assert_eq!(pragma("synchronous"), 2.into());
    assert_eq!(pragma("foreign_keys"), 1.into());
    assert_eq!(pragma("busy_timeout"), 5000.into());
    assert_eq!(pragma("user_version"), 1.into());
}

#[test]
fn parties_come_active_first_then_last_changed() {
    let folder = Folder::new();
    let mut store = folder.open().unwrap().store;
    for (number, active) in [(1, true), (2, false), (3, true), (1, false)] {
        store.save_party(&party(number, active, &[number])).unwrap();
    }
    let order = |store: &Store| store.parties().unwrap().into_iter().map(|p| (p.id.0[0], p.active)).collect::<Vec<_>>();
    assert_eq!(order(&store), [(3, true), (1, false), (2, false)]);
    store.forget_party(PartyId([1; 16])).unwrap();
    store.forget_party(PartyId([9; 16])).unwrap();
    drop(store);
    let opened = folder.open().unwrap();
    assert!(opened.notices.is_empty(), "{:?}", opened.notices);
    assert_eq!(order(&opened.store), [(3, true), (2, false)]);
}

#[test]
fn parties_and_settings_are_bounded() {
    let folder = Folder::new();
    let mut store = folder.open().unwrap().store;
    store.save_party(&party(0, true, b"active")).unwrap();
    for number in 1..300u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        store.save_party(&StoredParty { id: PartyId(id), active: false, snapshot: Vec::new() }).unwrap();
    }
    let parties = store.parties().unwrap();
    assert_eq!(parties.len(), 256);
    assert_eq!(parties[0].snapshot, b"active");
    assert_eq!(parties[1].id.0[..4], 299u32.to_le_bytes());
    assert!(store.save_party(&party(7, false, &vec![0; 17 << 20])).is_err());
    assert!(store.put_setting(&"k".repeat(65), Some("v")).is_err());
    assert!(store.put_setting("", Some("v")).is_err());
    assert!(store.put_setting("k", Some(&"v".repeat(65 * 1024))).is_err());
    store.put_setting("k", Some("v")).unwrap();
    assert_eq!(store.setting("k").unwrap().as_deref(), Some("v"));
    store.put_setting("k", None).unwrap();
    assert_eq!(store.setting("k").unwrap(), None);
}

#[test]
fn only_the_owner_may_read() {
    let parent = Folder::new();
    let dir = parent.0.join("a/b");
    let opened = Store::open(&dir, IdentityPolicy::Keep).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for name in ["lanrage.db", "lanrage.db-wal", "lanrage.db-shm", "lanrage.lock"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    drop(opened);
    fs::set_permissions(dir.join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let opened = Store::open(&dir, IdentityPolicy::Keep).unwrap();
    assert_eq!(mode(&dir.join(FILE)), 0o600);
    assert!(opened.notices[0].contains("chmod 700"), "{:?}", opened.notices);
    let file = dir.join("token");
    for contents in [&b"one"[..], b"two"] {
        write_private(&file, contents).unwrap();
        assert_eq!((mode(&file), fs::read(&file).unwrap().as_slice()), (0o600, contents));
    }
}

#[test]
fn one_node_per_folder() {
    let folder = Folder::new();
    let first = folder.open().unwrap();
    let error = Store::open(&folder.0, IdentityPolicy::Keep).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains("--data-dir"), "{text}");
    drop(first);
    folder.open().unwrap();
}

#[test]
fn an_empty_file_is_a_crash_before_the_first_write() {
    let folder = Folder::new();
    fs::write(folder.db(), b"").unwrap();
    let opened = folder.open().unwrap();
    assert!(opened.notices.is_empty(), "{:?}", opened.notices);
    drop(opened);
    assert_eq!(folder.names(), ["lanrage.db", "lanrage.lock"]);
}

#[test]
fn a_log_without_its_database_is_not_thrown_away() {
    let folder = Folder::new();
    let opened = folder.open().unwrap();
    let mut store = opened.store;
    store.put_setting("k", Some("v")).unwrap();
    let log = fs::read(folder.0.join("lanrage.db-wal")).unwrap();
    drop(store);
    fs::write(folder.0.join("lanrage.db-wal"), log).unwrap();
    fs::write(folder.db(), b"").unwrap();
    refuses_and_changes_nothing(&folder);
}

fn refuses_and_changes_nothing(folder: &Folder) {
    let before = folder.contents();
    let text = folder.open().unwrap_err().to_string();
    for part in ["lanrage.db", "identity", "cannot be read", "othing was changed", "lanrage up --new-identity"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(folder.contents(), before);
}

#[test]
fn garbage_is_refused_and_set_aside_on_request_only() {
    for garbage in [b"x".to_vec(), vec![0; 10], vec![0; 8192], b"SQLite format 3\0".repeat(700)] {
        let folder = Folder::new();
        fs::write(folder.db(), &garbage).unwrap();
        refuses_and_changes_nothing(&folder);
        let opened = Store::open(&folder.0, IdentityPolicy::New).unwrap();
        assert!(opened.notices[0].contains("lanrage.db.damaged-"), "{:?}", opened.notices);
        let aside = folder.names().into_iter().find(|name| name.starts_with("lanrage.db.damaged-")).unwrap();
        assert_eq!(fs::read(folder.0.join(aside)).unwrap(), garbage);
    }
}

#[test]
fn a_new_identity_keeps_the_old_database_beside_it() {
    let folder = Folder::new();
    let old = filled(&folder);
    let opened = Store::open(&folder.0, IdentityPolicy::New).unwrap();
    assert_ne!(keys(&opened.store), old);
    assert!(opened.store.parties().unwrap().is_empty());
    let aside = folder.names().into_iter().find(|name| name.starts_with("lanrage.db.old-")).unwrap();
    let kept = Connection::open(folder.0.join(aside)).unwrap();
    let signing: [u8; 32] = kept.query_row("SELECT signing FROM identity", [], |row| row.get(0)).unwrap();
    assert_eq!(signing, old.0);
}

#[test]
fn another_programs_database_is_refused() {
    let folder = Folder::new();
    Connection::open(folder.db()).unwrap().execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1").unwrap();
    refuses_and_changes_nothing(&folder);
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let folder = Folder::new();
    filled(&folder);
    Connection::open(folder.db()).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let before = folder.contents();
    let text = folder.open().unwrap_err().to_string();
    assert!(text.contains("version 7") && text.contains("Update LANrage"), "{text}");
    assert_eq!(folder.contents(), before);
}

#[test]
fn migrations_run_once_each_and_in_order() {
    let mut connection = Connection::open_in_memory().unwrap();
    let steps = ["CREATE TABLE log (n)", "INSERT INTO log VALUES (2)", "INSERT INTO log VALUES (3)"];
    schema::migrate(&mut connection, &steps[..2]).unwrap();
    assert_eq!(schema::version(&connection).unwrap(), 2);
    schema::migrate(&mut connection, &steps).unwrap();
    schema::migrate(&mut connection, &steps).unwrap();
    let log: String = connection
        .query_row("SELECT group_concat(n) FROM (SELECT n FROM log ORDER BY rowid)", [], |row| row.get(0))
        .unwrap();
    assert_eq!((schema::version(&connection).unwrap(), log.as_str()), (3, "2,3"));
    let broken = ["", "", "", "INSERT INTO log VALUES (4); INSERT INTO nowhere VALUES (1)"];
    schema::migrate(&mut connection, &broken).unwrap_err();
    let rows: i64 = connection.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    assert_eq!((schema::version(&connection).unwrap(), rows), (3, 2));
}

/// Opens a folder after its database was hurt. Whatever happened: the identity is the old one, or the start is refused
/// and the bytes are as they were. Every party that comes back is one that was saved.
fn survives(folder: &Folder, identity: ([u8; 32], [u8; 32])) -> &'static str {
    let hurt = fs::read(folder.db()).unwrap();
    match folder.open() {
        Ok(opened) => {
            assert_eq!(keys(&opened.store), identity);
            let parties = opened.store.parties().unwrap();
            for party in &parties {
                assert_eq!(party.snapshot, [party.id.0[0]; 3000]);
                assert_eq!(party.active, party.id.0[0] == 5);
            }
            if opened.notices.is_empty() {
                assert_eq!(parties.len(), 8);
                return "whole";
            }
            let aside = folder.names().into_iter().find(|name| name.starts_with("lanrage.db.damaged-")).unwrap();
            assert!(opened.notices[0].contains(&aside), "{:?}", opened.notices);
            assert!(opened.notices[0].contains("identity of this machine was kept"), "{:?}", opened.notices);
            assert_eq!(fs::read(folder.0.join(aside)).unwrap(), hurt);
            drop(opened);
            let again = folder.open().unwrap();
            assert!(again.notices.is_empty(), "{:?}", again.notices);
            assert_eq!(again.store.parties().unwrap(), parties);
            if parties.is_empty() { "identity kept" } else { "parties kept" }
        }
        Err(OpenError::IdentityUnreadable { .. } | OpenError::NewerSchema { .. }) => {
            assert_eq!(fs::read(folder.db()).unwrap(), hurt);
            "refused"
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn truncated_databases_keep_what_is_left() {
    let origin = Folder::new();
    let identity = filled(&origin);
    let whole = fs::read(origin.db()).unwrap();
    let mut outcomes = std::collections::BTreeMap::new();
    for length in (1..whole.len()).step_by(997) {
        let folder = Folder::new();
        fs::write(folder.db(), &whole[..length]).unwrap();
        *outcomes.entry(survives(&folder, identity)).or_insert(0) += 1;
    }
    assert!(outcomes.contains_key("refused") && outcomes.contains_key("parties kept"), "{outcomes:?}");
    assert!(!outcomes.contains_key("whole"), "{outcomes:?}");
}

#[test]
fn flipped_bytes_are_seen() {
    let origin = Folder::new();
    let identity = filled(&origin);
    let whole = fs::read(origin.db()).unwrap();
    let mut outcomes = std::collections::BTreeMap::new();
    for offset in (0..whole.len()).step_by(211) {
        let folder = Folder::new();
        let mut hurt = whole.clone();
        hurt[offset] ^= 0x55;
        fs::write(folder.db(), hurt).unwrap();
        *outcomes.entry(survives(&folder, identity)).or_insert(0) += 1;
    }
    assert!(outcomes.contains_key("parties kept"), "{outcomes:?}");
}

#[test]
fn a_flipped_bit_in_the_key_is_not_a_new_identity() {
    let folder = Folder::new();
    let identity = filled(&folder);
    let mut bytes = fs::read(folder.db()).unwrap();
    let at = bytes.windows(32).position(|window| window == identity.0).unwrap();
    bytes[at + 7] ^= 1;
    fs::write(folder.db(), bytes).unwrap();
    refuses_and_changes_nothing(&folder);
}

#[test]
fn an_interrupted_replacement_is_finished() {
    let folder = Folder::new();
    let identity = filled(&folder);
    // As after a crash between setting the damaged database aside and renaming the recovered one.
    fs::rename(folder.db(), folder.0.join("lanrage.db.recovered")).unwrap();
    let opened = folder.open().unwrap();
    assert_eq!(keys(&opened.store), identity);
    assert_eq!(opened.store.parties().unwrap().len(), 8);
    assert!(opened.notices[0].contains("interrupted"), "{:?}", opened.notices);
}

const CHILD: &str = "LANRAGE_STORE_TEST_CHILD";

/// Not a test by itself: the process that `kill_9_loses_nothing_acknowledged` starts and kills.
#[test]
fn child_that_writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mut store = Store::open(Path::new(&dir), IdentityPolicy::Keep).unwrap().store;
    let start: u64 = store.setting("n").unwrap().map_or(0, |n| n.parse().unwrap());
    for n in start + 1.. {
        store.save_party(&party((n % 16) as u8, n % 3 == 0, n.to_string().repeat(200).as_bytes())).unwrap();
        println!("party {n}");
        store.put_setting("n", Some(&n.to_string())).unwrap();
        println!("setting {n}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn kill_9_loses_nothing_acknowledged() {
    let folder = Folder::new();
    let identity = keys(&folder.open().unwrap().store);
    let mut acknowledged = 0;
    for round in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_that_writes_until_killed", "--nocapture"])
            .env(CHILD, &folder.0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut party_seen, mut killed, wanted) = (acknowledged, false, acknowledged + 1 + round * 3);
        // Lines that were in the pipe when it died were acknowledged too: read to the end.
        for line in lines {
            let Ok(line) = line else { break };
            let number = |prefix| line.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
            if let Some(n) = number("party ") {
                party_seen = n;
            }
            if let Some(n) = number("setting ") {
                acknowledged = n;
            }
            if acknowledged >= wanted && !killed {
                std::thread::sleep(Duration::from_micros(round * 731 % 5000));
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        let opened = folder.open().unwrap();
        assert!(opened.notices.is_empty(), "{:?}", opened.notices);
        assert_eq!(keys(&opened.store), identity);
        let n: u64 = opened.store.setting("n").unwrap().unwrap().parse().unwrap();
        assert!(n >= acknowledged, "setting {n} < {acknowledged}");
        let parties = opened.store.parties().unwrap();
        let newest = parties
            .iter()
            .map(|party| String::from_utf8(party.snapshot.clone()).unwrap())
            .map(|text| text[..text.len() / 200].parse::<u64>().unwrap())
            .max()
            .unwrap();
        assert!(newest >= party_seen, "party {newest} < {party_seen}");
        assert!(parties.iter().filter(|party| party.active).count() <= 1);
        acknowledged = n;
    }
}

#[test]
fn the_actor_answers_when_it_is_written() {
    let folder = Folder::new();
    let store = folder.open().unwrap().store;
    let system = actix::System::new();
    system.block_on(async {
        let arbiter = actix::Arbiter::new();
        let actor = actix::Actor::start_in_arbiter(&arbiter.handle(), move |_| StoreActor::new(store));
        actor.send(SaveParty(party(1, true, b"one"))).await.unwrap().unwrap();
        actor.send(PutSetting { key: "k".into(), value: Some("v".into()) }).await.unwrap().unwrap();
        assert_eq!(actor.send(LoadParties).await.unwrap().unwrap(), [party(1, true, b"one")]);
        assert_eq!(actor.send(messages::GetSetting("k".into())).await.unwrap().unwrap().as_deref(), Some("v"));
        actor.send(messages::ForgetParty(PartyId([1; 16]))).await.unwrap().unwrap();
        assert_eq!(actor.send(LoadParties).await.unwrap().unwrap(), []);
        arbiter.stop();
    });
}

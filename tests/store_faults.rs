//! Power cuts and damaged files, against the real program.

mod lab;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Host, Lab, Node, NodeOptions, PATIENCE, runs, shown, until};

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    let rounds = u32::try_from(runs(10).max(5)).unwrap_or(10);
    let (mut acknowledged, mut cut) = (0, 0);
    let mut node = Node::start(&host, "alice", &NodeOptions::alone());
    let identity = node.peer_id();
    for round in 0..rounds {
        let create = node.cli_spawn(&["party", "create", "--name", &format!("round {round}"), "--json"]);
        // From before the request arrives to well after it is answered.
        std::thread::sleep(Duration::from_millis(u64::from(round * 600 / rounds)));
        node.kill9();
        let said = create.finish(PATIENCE);
        node.start_again();
        assert_eq!(node.peer_id(), identity, "round {round}: the identity is another");
        if said.ok() {
            let party: lab::Answer = serde_json::from_str(&said.stdout).expect("JSON");
            assert_eq!(node.party()["code"], party["code"], "round {round}: the party was acknowledged, and is gone");
            acknowledged += 1;
        } else {
            cut += 1;
        }
        if !node.party().is_null() {
            node.leave();
        }
    }
    // A party that is known to be written survives in any case.
    let (code, _) = node.create();
    node.kill9();
    node.start_again();
    assert_eq!(node.party()["code"], code.as_str());
    shown(format!(
        "{rounds} rounds of kill -9 around `party create`: {acknowledged} acknowledged and kept, {cut} cut off; always the same identity"
    ));
}

/// Kill -9 while it starts for the first time: the next start works, whatever was left.
#[test]
fn kill_9_during_the_first_start() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    for round in 0..8 {
        let mut node = Node::launch(&host, &format!("first{round}"), &NodeOptions::alone());
        std::thread::sleep(Duration::from_millis(round * 15));
        node.kill9();
        node.start_again();
        let identity = node.peer_id();
        node.kill9();
        node.start_again();
        assert_eq!(node.peer_id(), identity);
    }
    shown("8 first starts cut off by kill -9 within 0.1 s: the next start works");
}

#[test]
fn secrets_are_for_the_owner_alone() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    let node = Node::start(&host, "alice", &NodeOptions::alone());
    node.create();
    for path in files(node.data()) {
        let mode = fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
    shown(format!("{} files in the data folder, none for others to read", files(node.data()).len()));
}

#[test]
fn a_database_that_cannot_be_read_is_never_silently_replaced() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    let (mut node, identity) = stopped_node_with_party(&host, "overwritten");
    let database = database(node.data());
    let length = fs::metadata(&database).expect("the database").len();
    overwrite(&database, 0, usize::try_from(length).expect("small"));
    remove_log(&database);
    let damaged = fs::read(&database).expect("the database");

    node.launch_again();
    let ended = node.process().wait(PATIENCE);
    let said = node.said();
    assert!(!ended.success(), "{said}");
    for word in ["damaged", "--new-identity", database.file_name().and_then(|name| name.to_str()).expect("a name")] {
        assert!(said.contains(word), "no `{word}` in:\n{said}");
    }
    assert_eq!(fs::read(&database).expect("the database"), damaged, "not a byte may change");
    shown(said.lines().last().unwrap_or_default());

    // Only by asking for it.
    drop(node);
    let node = Node::start(&host, "overwritten", &NodeOptions::alone().with(&["--new-identity"]));
    assert_ne!(node.peer_id(), identity);
    let aside = files(node.data()).into_iter().any(|path| fs::read(path).is_ok_and(|bytes| bytes == damaged));
    assert!(aside, "the damaged database is set aside, not deleted");
}

/// Damage anywhere: the node either starts as the same machine or says what is wrong; it never becomes another one.
#[test]
fn a_damaged_database_never_makes_another_machine() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    let (mut kept, mut refused) = (0, 0);
    for page in 0..6_u64 {
        let (mut node, identity) = stopped_node_with_party(&host, &format!("page{page}"));
        let database = database(node.data());
        overwrite(&database, page * 4_096 + 100, 2_000);
        node.launch_again();
        let outcome = until("it answers or ends", PATIENCE, || {
            if node.process().ended().is_some() {
                return Ok(None);
            }
            let status = node.cli(&["status", "--json"]);
            if status.ok() { Ok(Some(node.peer_id())) } else { Err(status.all()) }
        });
        match outcome {
            Some(now) => {
                assert_eq!(now, identity, "page {page}:\n{}", node.said());
                kept += 1;
            }
            None => {
                assert!(node.said().contains("damaged"), "page {page}:\n{}", node.said());
                refused += 1;
            }
        }
    }
    shown(format!(
        "six damaged databases: {kept} times started with the same identity, {refused} times refused with a message"
    ));
}

/// A node that was in a party and is stopped, its write-ahead log folded into the database.
fn stopped_node_with_party(host: &Host, name: &str) -> (Node, String) {
    let mut node = Node::start(host, name, &NodeOptions::alone());
    let identity = node.peer_id();
    node.create();
    node.process().terminate(PATIENCE);
    (node, identity)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the data folder").flatten();
    entries.filter(|entry| entry.path().is_file()).map(|entry| entry.path()).collect()
}

fn database(folder: &Path) -> PathBuf {
    let is_database = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"));
    files(folder).into_iter().find(is_database).expect("a database in the data folder")
}

fn remove_log(database: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        // There is none after a clean stop.
        let _ = fs::remove_file(name);
    }
}

fn overwrite(path: &Path, from: u64, length: usize) {
    let size = fs::metadata(path).expect("the database").len();
    let length = length.min(usize::try_from(size.saturating_sub(from)).expect("small"));
    let file = fs::File::options().write(true).open(path).expect("the database");
    file.write_all_at(&vec![0xa5; length], from).expect("a write");
    file.sync_all().expect("a sync");
}

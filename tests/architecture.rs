//! Who may name what. The machines of the concerns are pure: they can be run without sockets, clocks or threads, which is
//! what the simulation stands on. These rules keep it so.

#![allow(clippy::print_stdout)]

mod source;

use std::path::Path;

use source::{Source, sources};

/// A path (`tokio`, `Instant::now`) that only some files may name.
struct Rule {
    names: &'static [&'static str],
    /// Paths from the root of the repository: a folder (ends in `/`), a file, or a file name in any concern (`*/actor.rs`).
    allowed: &'static [&'static str],
    reason: &'static str,
}

/// Files of a concern that run it: they hold the clock, the sockets and the threads.
const SHELLS: &[&str] = &[
    "*/actor.rs",
    "*/supervisor.rs",
    "*/linux.rs",
    "*/udp.rs",
    "*/portmap.rs",
    "*/swarm.rs",
    "*/streams.rs",
    "actors/store/",
    "src/",
];

const RULES: &[Rule] = &[
    Rule {
        names: &["actix"],
        allowed: &["*/actor.rs", "*/messages.rs", "*/supervisor.rs", "*/streams.rs", "src/"],
        reason: "state machines are driven by actors and do not know them; only the shells and the typed messages do",
    },
    Rule {
        names: &["actix_web"],
        allowed: &["src/api/", "src/api.rs", "src/daemon.rs"],
        reason: "HTTP belongs to the API",
    },
    Rule {
        names: &["tokio", "std::thread", "std::net::UdpSocket", "std::net::TcpStream", "std::net::TcpListener"],
        allowed: SHELLS,
        reason: "sockets, timers and threads belong to the shells: the simulation puts its own in their place",
    },
    Rule {
        names: &["libp2p", "libp2p_stream"],
        allowed: &["actors/discovery/"],
        reason: "a second rendezvous must be able to stand behind the messages of discovery",
    },
    Rule {
        names: &["sysinfo"],
        allowed: &["actors/game_watch/linux.rs"],
        reason: "what runs is the system's to say, behind a trait",
    },
    Rule { names: &["rusqlite"], allowed: &["actors/store/"], reason: "the others store by message" },
    Rule {
        names: &["boringtun"],
        allowed: &["actors/peer/", "actors/nat/"],
        reason: "WireGuard is the business of the peer, and of the demultiplexer that reads its headers",
    },
    Rule {
        names: &["Instant::now", "SystemTime::now", "tokio::time"],
        allowed: SHELLS,
        reason: "a machine is told what time it is: `now` is read once per event, in the shell",
    },
    Rule {
        names: &["rand::rng", "rand::random", "thread_rng", "ThreadRng"],
        allowed: SHELLS,
        reason: "a machine is given its randomness: the same seed must give the same trace",
    },
    Rule {
        names: &["unsafe"],
        allowed: &["*/linux.rs", "*/udp.rs"],
        reason: "unsafe code is for the system's own interfaces, in small files",
    },
    Rule {
        names: &["unbounded_channel", "mpsc::unbounded", "do_send"],
        allowed: &[],
        reason: "everything is bounded, and what is dropped is counted",
    },
];

const CONCERNS: &[&str] =
    &["tun", "peer", "nat", "broadcast", "browser", "game_watch", "party", "discovery", "relay", "store", "metrics"];

/// All that one concern may see of another.
const FACE: &str = "messages";

fn allows(pattern: &str, path: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(name) => path.ends_with(name),
        None if pattern.ends_with('/') => path.starts_with(pattern),
        None => path == pattern,
    }
}

fn broken_rules(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for rule in RULES {
        if rule.allowed.iter().any(|pattern| allows(pattern, &source.path)) {
            continue;
        }
        for name in rule.names {
            for line in source.lines_naming(name) {
                broken.push(format!("{}:{line}: names `{name}`. Why not: {}", source.path, rule.reason));
            }
        }
    }
    broken.extend(foreign_insides(source));
    broken
}

/// `crate::<other concern>::` followed by anything but its messages.
fn foreign_insides(source: &Source) -> Vec<String> {
    let Some((own, _)) = source.path.strip_prefix("actors/").and_then(|rest| rest.split_once('/')) else {
        return Vec::new();
    };
    let mut broken = Vec::new();
    for other in CONCERNS.iter().filter(|other| **other != own) {
        for (line, next) in source.segments_after(&format!("crate::{other}")) {
            if own == "wire" {
                broken.push(format!("{}:{line}: wire is the leaf: it knows no concern", source.path));
            } else if next != FACE {
                broken.push(format!(
                    "{}:{line}: reaches into `{other}::{next}`. Why not: the messages are a concern's whole public face",
                    source.path
                ));
            }
        }
    }
    broken
}

#[test]
fn the_import_rules_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(root, &["actors", "src"]);
    assert!(sources.len() > 10, "only {} files found: the rules check nothing", sources.len());
    let broken: Vec<_> = sources.iter().flat_map(broken_rules).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
    println!("  shown: {} rules hold in {} files", RULES.len() + 1, sources.len());
}

#[test]
fn the_checker_finds_what_is_forbidden() {
    let bad = [
        ("actors/peer/machine.rs", "use actix::Context;"),
        ("actors/peer/machine.rs", "fn f() { let now = std::time::Instant::now(); }"),
        ("actors/peer/machine.rs", "use std::time::{Duration, Instant};\nfn f() { Instant::now(); }"),
        ("actors/peer/machine.rs", "use {tokio::net::UdpSocket, std::io};"),
        ("actors/party/machine.rs", "use crate::store::db::Database;"),
        ("actors/party/machine.rs", "use crate::{store::db::Database, wire::NodeId};"),
        ("actors/party/machine.rs", "use crate::store::{messages::SaveParty, db};"),
        ("actors/party/machine.rs", "let x = rand::rng();"),
        ("actors/tun/machine.rs", "libp2p::swarm();"),
        ("actors/game_watch/machine.rs", "use sysinfo::System;"),
        ("actors/tun/actor.rs", "recipient.do_send(1);"),
        ("actors/tun/routes.rs", "unsafe { f() }"),
        ("actors/wire/ids.rs", "use crate::party::messages::PartyView;"),
        ("src/cli.rs", "use rusqlite::Connection;"),
    ];
    for (path, text) in bad {
        assert!(!broken_rules(&Source::new(path, text)).is_empty(), "not found in {path}: {text}");
    }
}

#[test]
fn the_checker_lets_pass_what_is_allowed() {
    let good = [
        ("actors/peer/actor.rs", "use actix::Context; use tokio::time; fn f() { Instant::now(); }"),
        ("actors/peer/machine.rs", "// never names tokio\n/* nor actix */ const WHY: &str = \"unsafe libp2p\";"),
        ("actors/peer/machine.rs", "const Q: char = '\"'; const T: &str = r#\"tokio \" \"#;"),
        (
            "actors/peer/machine.rs",
            "fn f<'a>(x: &'a str) -> &'a str { x }\n#[cfg(test)]\nmod tests { use tokio::time; }",
        ),
        ("actors/peer/machine.rs", "#[cfg(test)]\nuse std::thread;\nfn f() {}"),
        ("actors/party/machine.rs", "use crate::store::messages::SaveParty; use crate::wire::NodeId;"),
        ("actors/party/machine.rs", "use crate::store::messages::{GetSetting, SaveParty};"),
        ("actors/store/db.rs", "use rusqlite::Connection; SystemTime::now();"),
        ("actors/tun/linux.rs", "unsafe { ioctl() }"),
        ("actors/tun/machine.rs", "let my_tokio = 1; let actixes = 2; tun.unsafety();"),
    ];
    for (path, text) in good {
        assert_eq!(broken_rules(&Source::new(path, text)), Vec::<String>::new(), "{path}: {text}");
    }
}

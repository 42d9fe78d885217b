//! What LANrage says of the games that run.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Game, Search};
use crate::lab::{Answer, Host, Node, PATIENCE, shown, until};

/// File names of the programs that are games. Other tests' games run beside these: all namespaces share the processes.
const GAMES: [&str; 13] = [
    "armagetronad-dedicated.real",
    "bzfs",
    "chocolate-doom",
    "chocolate-server",
    "cube2_server",
    "DDNet-Server",
    "freeciv-server",
    "ioq3ded",
    "ioquake3",
    "murmurd",
    "openttd",
    "teeworlds-server",
    "chocolate-setup",
];

/// All that is taken for a running game.
fn running(node: &Node) -> Vec<Answer> {
    node.status()["games"]["running"].as_array().cloned().unwrap_or_default()
}

/// # Panics
/// When something is taken for a game that is none.
#[track_caller]
pub(crate) fn no_stranger(node: &Node) {
    for game in running(node) {
        // One that has ended meanwhile was there: its program cannot be asked for any more.
        let Ok(program) = fs::read_link(format!("/proc/{}/exe", game["pid"])) else { continue };
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(GAMES.contains(&name), "{} is taken for a game: {game}", program.display());
    }
}

/// Start its server, and see what it is taken for.
///
/// # Panics
/// When it is not noticed, or as something else.
#[track_caller]
pub(crate) fn server_is_noticed(game: &Game, host: &Host, node: &Node) {
    let servers = (game.serve)(host);
    let Some(profile) = game.profile else {
        // Two scans, and none of them takes it for something.
        std::thread::sleep(Duration::from_secs(5));
        for server in &servers {
            let taken = running(node).into_iter().find(|found| found["pid"] == server.pid());
            assert!(taken.is_none(), "{} is taken for a game: {taken:?}", game.name);
        }
        return shown(format!("{}: taken for no game", game.name));
    };
    let found = noticed(node, profile);
    assert_ne!(found["role"], "client", "{found}");
    shown(format!("{}: {profile}, {}, {}: {}", game.name, found["role"], found["confidence"], found["reason"]));
    let pids: Vec<_> = servers.iter().map(crate::lab::Process::pid).collect();
    drop(servers);
    until(&format!("{} is noticed to have ended", game.name), PATIENCE, || {
        let left = running(node).into_iter().find(|found| pids.iter().any(|pid| found["pid"] == *pid));
        left.map_or(Ok(()), |left| Err(left.to_string()))
    });
}

/// Run its client, which finds nobody, and see what it is taken for.
///
/// # Panics
/// When it is not noticed, or as a server.
#[track_caller]
pub(crate) fn client_is_noticed(game: &Game, host: &Host, node: &Node) {
    let Some(profile) = game.profile else { return };
    std::thread::scope(|scope| {
        let search = scope.spawn(|| (game.find)(&Search { on: host, patience: Duration::from_secs(10) }));
        let found = noticed(node, profile);
        shown(format!("{}: {profile}, {}, {}: {}", game.client, found["role"], found["confidence"], found["reason"]));
        assert!(search.join().is_ok_and(|found| found.is_err()), "{}: somebody answered in an empty LAN", game.name);
    });
}

fn noticed(node: &Node, profile: &str) -> Answer {
    until(&format!("{profile} is noticed"), PATIENCE, || {
        let all = running(node);
        let found = all.iter().find(|game| game["id"] == profile).cloned();
        let found = found.ok_or_else(|| format!("{all:?}"))?;
        assert!(Path::new(&format!("/proc/{}", found["pid"])).exists(), "a process that is not there: {found}");
        Ok(found)
    })
}

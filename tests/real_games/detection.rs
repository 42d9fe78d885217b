//! What LANrage says of the games that run: three hosts, each with its own node, and one of them never runs a game.
//!
//! All namespaces share one table of processes, with the games of other tests in it: what a node says is right only when
//! it tells those on its own host from all others.

use std::fs;
use std::time::Duration;

use super::place::lan;
use super::{Game, Search};
use crate::lab::{Answer, Host, Lab, Node, NodeOptions, PATIENCE, Process, shown, until};

/// Longer than a few looks at what runs, and as long as nothing is found it is all used.
const RUNS_FOR: Duration = Duration::from_secs(12);

#[derive(Debug)]
pub(crate) struct Watched {
    server: Node,
    client: Node,
    idle: Node,
}

impl Watched {
    pub(crate) fn new(lab: &Lab) -> Self {
        let hosts = lan(lab, ["server", "client", "idle"]);
        let [server, client, idle] = hosts.map(|host| Node::start(&host, host.name(), &NodeOptions::alone()));
        Self { server, client, idle }
    }

    /// # Panics
    /// When something is taken for a game, or is still.
    #[track_caller]
    pub(crate) fn expect_none(&self) {
        none_on(&[&self.server, &self.client, &self.idle], "no game runs");
        shown("no game runs: none is noticed");
    }

    /// # Panics
    /// When the third host's node has ever taken something for a game.
    #[track_caller]
    pub(crate) fn expect_idle(&self) {
        let started = |node: &Node| node.json(&["events"]).to_string().matches("game_started").count();
        assert_eq!(started(&self.idle), 0, "{}", self.idle.json(&["events"]));
        let (server, client) = (started(&self.server), started(&self.client));
        assert!(server > 0 && client > 0, "events do not tell of games");
        shown(format!("games noticed: {server} on the server's host, {client} on the client's, 0 on the third"));
    }

    /// Start its server, and see what it is taken for.
    ///
    /// # Panics
    /// When it is not noticed by the node of its host, or as something else, or by another node, or for ever.
    #[track_caller]
    pub(crate) fn server(&self, game: &Game) {
        let servers = (game.serve)(self.server.host());
        let Some(profile) = game.profile else {
            none_on(&[&self.server], &format!("{} is no game", game.name));
            return shown(format!("{}: taken for no game", game.name));
        };
        // With its port open it cannot be anything else.
        let found = until(&format!("the server of {} is noticed", game.name), PATIENCE, || {
            let all = running(&self.server);
            match &all[..] {
                [found] if found["id"] == profile.id && found["confidence"] == "certain" => Ok(found.clone()),
                _ => Err(format!("{all:?}")),
            }
        });
        let pid = servers.last().map(Process::pid);
        assert_eq!(
            (found["role"].as_str(), found["pid"].as_u64()),
            (Some(profile.server), pid.map(u64::from)),
            "{found}"
        );
        shown(format!("{}: the server is {}, {}: {}", game.name, profile.id, profile.server, found["reason"]));
        none_on(&[&self.client, &self.idle], &format!("{} runs on another host", game.name));
        drop(servers);
        ended(game, &self.server);
    }

    /// Run its real client, which finds nobody, and see what it is taken for.
    ///
    /// # Panics
    /// When it is not noticed by the node of its host, or as something else, or for ever.
    #[track_caller]
    pub(crate) fn client(&self, game: &Game) {
        let Some((profile, role)) = game.profile.and_then(|profile| Some((profile, profile.client?))) else { return };
        let host = self.client.host();
        let found = std::thread::scope(|scope| {
            let search = scope.spawn(|| (game.find)(&Search { on: host, patience: RUNS_FOR }));
            let mut found = None;
            while found.is_none() && !search.is_finished() {
                found = running(&self.client).into_iter().find(|found| runs_on(host, found));
            }
            let listing = search.join();
            assert!(listing.is_ok_and(|found| found.is_err()), "{}: somebody answered on an empty LAN", game.name);
            found
        });
        let found = found.unwrap_or_else(|| panic!("{}: {} was not noticed on its host", game.name, game.client));
        assert_eq!((found["id"].as_str(), found["role"].as_str()), (Some(profile.id), Some(role)), "{found}");
        shown(format!("{}: {} is {}, {role}: {}", game.name, game.client, profile.id, found["reason"]));
        ended(game, &self.client);
    }
}

/// All that is taken for a running game.
fn running(node: &Node) -> Vec<Answer> {
    let status = node.status();
    let Some(running) = status["games"]["running"].as_array() else { panic!("no running games in {status}") };
    running.clone()
}

/// # Panics
/// When one of them takes something for a game after it has looked twice: one look may have begun before.
#[track_caller]
fn none_on(nodes: &[&Node], why: &str) {
    let scans = |node: &&Node| node.status()["games"]["counters"]["scans"].as_u64().unwrap_or_default();
    let before: Vec<_> = nodes.iter().map(scans).collect();
    until("what runs is looked at", PATIENCE, || {
        let now: Vec<_> = nodes.iter().map(scans).collect();
        let looked = now.iter().zip(&before).all(|(now, before)| *now >= before + 2);
        if looked { Ok(()) } else { Err(format!("{before:?}, then {now:?}")) }
    });
    for node in nodes {
        let seen = running(node);
        assert!(seen.is_empty(), "{}: {why}, and noticed is {seen:?}", node.name());
    }
}

#[track_caller]
fn ended(game: &Game, node: &Node) {
    until(&format!("{} is noticed to have ended", game.name), PATIENCE, || {
        let left = running(node);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// Whether this process is in the host's network.
fn runs_on(host: &Host, game: &Answer) -> bool {
    let of = |path: &str| fs::read_link(path).ok();
    let here = host.enter(|| fs::read_link("/proc/thread-self/ns/net").ok());
    here.is_some() && of(&format!("/proc/{}/ns/net", game["pid"])) == here
}

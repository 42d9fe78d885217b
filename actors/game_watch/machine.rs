//! Which games run, from what the system shows; and what changes with each look.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hosted;
use super::matcher::{Match, Matcher};
use super::messages::{Confidence, ProfileProblem, ProfilesView, RunningGame, WatchCounters};
use super::process::ProcessFacts;
use super::profile::{Os, Profile, Role};
use super::source::{Changes, Process};
use super::tuning::{Playing, Wanted, wanted};
use crate::metrics::messages::Event;
use crate::wire::{Hosted, IpProtocol, MAX_HOSTED};

/// Processes of games that are kept in view; more are left out.
const MAX_CANDIDATES: usize = 64;
/// Games that the player has named; more are left out.
const MAX_PLAYED: usize = 16;
/// A game that has just started opens its ports within this time: they are looked at with each scan.
const PORTS_SETTLE: Duration = Duration::from_secs(30);
/// How often afterwards.
const PORTS_EVERY: Duration = Duration::from_secs(10);

/// A process that is a game.
#[derive(Debug)]
struct Candidate {
    found: Match,
    listening: Vec<(IpProtocol, SocketAddr)>,
    /// It runs in a network that is not the party's.
    elsewhere: bool,
    first_seen: Instant,
    since_unix_ms: u64,
    ports_due: Instant,
    /// In the order of their coming up.
    order: u64,
}

/// A game that runs because the player says so, whatever its program is called.
#[derive(Debug)]
struct PlayedGame {
    id: String,
    since_unix_ms: u64,
}

#[derive(Debug, Default)]
pub struct Watch {
    matcher: Matcher,
    problems: Vec<ProfileProblem>,
    candidates: BTreeMap<u32, Candidate>,
    /// Those that the player has named, by the process that was told of.
    played: BTreeMap<u32, PlayedGame>,
    orders: u64,
    running: Vec<RunningGame>,
    /// Every process of the games in `running`.
    told: BTreeSet<u32>,
    wanted: Wanted,
    pub counters: WatchCounters,
}

/// What one look has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    pub events: Vec<Event>,
    /// The list of running games, or something in it, is another.
    pub running: bool,
    /// `Watch::wanted` is another.
    pub tuning: bool,
}

impl Watch {
    /// Other profiles: the processes must be shown anew with the next look, all of them.
    pub fn set_profiles(&mut self, profiles: Vec<Arc<Profile>>, problems: Vec<ProfileProblem>) -> Vec<Event> {
        let news = problems.iter().filter(|problem| !self.problems.contains(problem)).map(|problem| {
            let ProfileProblem { file, line, reason } = problem.clone();
            Event::ProfileProblem { file, line, reason }
        });
        let events = news.collect();
        self.matcher = Matcher::new(profiles);
        self.problems = problems;
        events
    }

    #[must_use]
    pub fn profiles(&self) -> ProfilesView {
        ProfilesView { count: self.matcher.profiles().len(), problems: self.problems.clone() }
    }

    #[must_use]
    pub fn running(&self) -> &[RunningGame] {
        &self.running
    }

    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The player has started the game `id` in a namespace of its own, where `pid` is; `None`: it has ended. A game
    /// without a profile changes nothing.
    pub fn set_played(&mut self, unix_ms: u64, pid: u32, id: Option<String>) -> News {
        match id {
            Some(id) if self.played.len() < MAX_PLAYED || self.played.contains_key(&pid) => {
                self.played.insert(pid, PlayedGame { id, since_unix_ms: unix_ms });
            }
            Some(_) => self.counters.dropped_played += 1,
            None => drop(self.played.remove(&pid)),
        }
        self.settle()
    }

    /// Whether there is a profile of this id.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.matcher.profiles().iter().any(|profile| profile.id == id)
    }

    /// The servers among the running games, each once, those that came up first.
    #[must_use]
    pub fn hosted(&self, own: Option<Ipv4Addr>) -> Vec<Hosted> {
        let mut all: Vec<Hosted> = Vec::new();
        for (_, candidate) in self.here() {
            let Match { profile, role, .. } = &candidate.found;
            let of = hosted::Candidate { profile, role: *role, listening: &candidate.listening };
            if let Some(server) = hosted::server(&of, own).filter(|it| !all.iter().any(|other| other.is_same(it))) {
                all.push(server);
            }
        }
        all.truncate(MAX_HOSTED);
        all
    }

    /// What a scan has found; `all`: it shows every process, and what it does not show is gone. `ports` says what a
    /// process listens on, `None` where its network is not the party's; it is asked about games only.
    pub fn observe(
        &mut self,
        now: Instant,
        unix_ms: u64,
        changes: &Changes,
        all: bool,
        ports: &mut dyn FnMut(u32) -> Option<Vec<(IpProtocol, SocketAddr)>>,
    ) -> News {
        self.counters.scans += 1;
        self.counters.looked_at += changes.appeared.len() as u64;
        if all {
            self.candidates.retain(|pid, _| changes.appeared.iter().any(|process| process.pid == *pid));
        }
        for pid in &changes.gone {
            self.candidates.remove(pid);
        }
        for process in &changes.appeared {
            self.look_at(now, unix_ms, process);
        }
        for (&pid, candidate) in &mut self.candidates {
            if candidate.ports_due <= now {
                let found = ports(pid);
                candidate.elsewhere = found.is_none();
                candidate.listening = found.unwrap_or_default();
                let settling = now.saturating_duration_since(candidate.first_seen) < PORTS_SETTLE;
                candidate.ports_due = if settling { now } else { now + PORTS_EVERY };
            }
        }
        self.settle()
    }

    fn look_at(&mut self, now: Instant, unix_ms: u64, process: &Process) {
        let Process { pid, exe, name, cmd, .. } = process;
        let facts = ProcessFacts { host: Os::here(), exe: exe.as_deref(), name, cmd };
        let Some(found) = self.matcher.find(&facts) else {
            // It has become another program.
            self.candidates.remove(pid);
            return;
        };
        if let Some(known) = self.candidates.get_mut(pid).filter(|it| it.found.profile.id == found.profile.id) {
            known.found = found;
            return;
        }
        self.candidates.remove(pid);
        if self.candidates.len() >= MAX_CANDIDATES {
            return;
        }
        self.orders += 1;
        let candidate = Candidate {
            found,
            listening: Vec::new(),
            elsewhere: false,
            first_seen: now,
            since_unix_ms: unix_ms,
            ports_due: now,
            order: self.orders,
        };
        self.candidates.insert(*pid, candidate);
    }

    /// Compares what runs with what was told.
    fn settle(&mut self) -> News {
        let running = self.list();
        let mut news = News::default();
        if running == self.running {
            self.told = self.processes();
            return news;
        }
        news.running = true;
        // The same game with another first process is another run of it, unless that process was there before too.
        let processes = self.processes();
        let told = std::mem::replace(&mut self.told, processes);
        let goes_on = |old: &RunningGame, new: &RunningGame| old.id == new.id && told.contains(&new.pid);
        for old in self.running.iter().filter(|old| !running.iter().any(|new| goes_on(old, new))) {
            news.events.push(Event::GameStopped { game: old.id.clone(), name: old.name.clone(), pid: old.pid });
        }
        for new in running.iter().filter(|new| !self.running.iter().any(|old| goes_on(old, new))) {
            news.events.push(Event::GameStarted { game: new.id.clone(), name: new.name.clone(), pid: new.pid });
        }
        self.running = running;
        let wanted = self.wanted_now();
        if wanted != self.wanted {
            news.tuning = true;
            news.events.extend(changed(&self.wanted, &wanted));
            self.wanted = wanted;
        }
        news
    }

    /// All that games are known by.
    fn processes(&self) -> BTreeSet<u32> {
        self.candidates.keys().chain(self.played.keys()).copied().collect()
    }

    /// In the order of their coming up.
    fn here(&self) -> Vec<(&u32, &Candidate)> {
        let mut processes: Vec<(&u32, &Candidate)> =
            self.candidates.iter().filter(|(_, candidate)| !candidate.elsewhere).collect();
        processes.sort_by_key(|(_, candidate)| candidate.order);
        processes
    }

    /// Those that the player has named, each once.
    fn list_played(&self) -> Vec<RunningGame> {
        let mut games: Vec<RunningGame> = Vec::new();
        for (&pid, PlayedGame { id, since_unix_ms }) in &self.played {
            let Some(profile) = self.matcher.profiles().iter().find(|profile| profile.id == *id) else { continue };
            if games.iter().any(|game| game.id == *id) {
                continue;
            }
            // As which, its program says.
            let role = self.here().iter().find(|(_, it)| it.found.profile.id == *id).map(|(_, it)| it.found.role);
            games.push(RunningGame {
                id: id.clone(),
                name: profile.name.clone(),
                pid,
                role: role.unwrap_or(Role::Both),
                confidence: Confidence::Certain,
                reason: "started with lanrage play --game".into(),
                listening: Vec::new(),
                since_unix_ms: *since_unix_ms,
            });
        }
        games
    }

    /// One entry a game, in the order of their coming up: by its first process, with the ports of all.
    fn list(&self) -> Vec<RunningGame> {
        let mut games = self.list_played();
        for (&pid, candidate) in self.here() {
            let Match { profile, role, reason, .. } = &candidate.found;
            let game = match games.iter_mut().position(|game| game.id == profile.id) {
                Some(at) => &mut games[at],
                None => {
                    games.push(RunningGame {
                        id: profile.id.clone(),
                        name: profile.name.clone(),
                        pid,
                        role: *role,
                        confidence: Confidence::Likely,
                        reason: reason.clone(),
                        listening: Vec::new(),
                        since_unix_ms: candidate.since_unix_ms,
                    });
                    let last = games.len() - 1;
                    &mut games[last]
                }
            };
            if game.role != *role {
                game.role = Role::Both;
            }
            game.listening.extend(&candidate.listening);
            let known = candidate.listening.iter().find(|(protocol, addr)| {
                profile.ports.iter().any(|it| it.protocol == *protocol && it.port.contains(addr.port()))
            });
            if let Some((protocol, addr)) = known.filter(|_| game.confidence < Confidence::Certain) {
                game.confidence = Confidence::Certain;
                game.reason = format!("{}; listens on {protocol} {}", game.reason, addr.port());
            }
        }
        for game in &mut games {
            game.listening.sort_unstable();
            game.listening.dedup();
        }
        games
    }

    fn wanted_now(&self) -> Wanted {
        let profiles = self.matcher.profiles();
        let of = |game: &RunningGame| {
            let held = self.candidates.get(&game.pid).map(|candidate| &candidate.found.profile);
            held.or_else(|| profiles.iter().find(|profile| profile.id == game.id)).cloned()
        };
        let found: Vec<(Arc<Profile>, &RunningGame)> =
            self.running.iter().filter_map(|game| Some((of(game)?, game))).collect();
        let playing: Vec<Playing<'_>> =
            found.iter().map(|(profile, game)| Playing { profile, listening: &game.listening }).collect();
        wanted(&playing)
    }
}

/// The events between two states of what is applied.
fn changed(before: &Wanted, after: &Wanted) -> Vec<Event> {
    let undone = before.applied.iter().filter(|old| !after.applied.contains(old)).map(|old| {
        let same = |it: &&super::messages::Applied| it.what == old.what && it.games == old.games;
        let now = after.applied.iter().find(same).map_or_else(|| "as without a game".to_owned(), |it| it.value.clone());
        Event::TuningUndone { what: old.what.clone(), value: now, game: old.games.join(", ") }
    });
    let applied = after.applied.iter().filter(|new| !before.applied.contains(new)).map(|new| Event::TuningApplied {
        what: new.what.clone(),
        value: new.value.clone(),
        game: new.games.join(", "),
        reason: new.reason.clone(),
    });
    undone.chain(applied).collect()
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

//! Which server is asked when, and what is known about each.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::messages::{Announcement, BrowserCounters, GameFacts, Hosted, MINECRAFT_PORT, ServerView, ServersView};
use super::query::{self, Answer, Language};
use crate::party::messages::MemberHosts;

/// Between two questions to one server.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// After a question that was not answered.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Unanswered questions after which a server does not count as answering, and is asked as seldom as the others.
const SILENT_AFTER: u32 = 2;
/// Between any two questions of this node.
const PACE: Duration = Duration::from_millis(200);
/// Between two questions to one member, whatever it says it hosts.
const MEMBER_PACE: Duration = Duration::from_secs(1);
/// An announcement holds so long; games repeat theirs each 1.5 s.
const ANNOUNCED_FOR: Duration = Duration::from_secs(8);
/// Announced games of one member, and of all together.
const MAX_ANNOUNCED: usize = 4;
const MAX_ANNOUNCED_IN_ALL: usize = 64;
/// Servers in all: 255 members with two each.
const MAX_SERVERS: usize = 512;

const MINECRAFT: &str = "minecraft-java";

type Key = (Ipv4Addr, u16, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Silent,
    Garbage,
}

/// A question to be asked now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) key: Key,
    pub(super) language: Language,
    /// This machine's virtual IP: what is not sent from there would leave the tunnel.
    pub(super) from: Ipv4Addr,
    pub(super) port: u16,
}

#[derive(Debug)]
struct Server {
    member: String,
    own: bool,
    query_port: u16,
    next_at: Instant,
    in_flight: bool,
    failures: u32,
    /// Ever: then it is one that can be asked, and gone when it is silent.
    answered: bool,
    answer: Option<(Answer, Duration)>,
}

#[derive(Debug)]
struct Announced {
    name: String,
    until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct BrowserMachine {
    games: HashMap<String, GameFacts>,
    members: Vec<MemberHosts>,
    servers: BTreeMap<Key, Server>,
    announced: BTreeMap<(Ipv4Addr, u16), Announced>,
    asked_at: Option<Instant>,
    asked_members: HashMap<Ipv4Addr, Instant>,
    counters: BrowserCounters,
}

impl BrowserMachine {
    pub(super) fn set_games(&mut self, games: Vec<GameFacts>) {
        self.games = games.into_iter().map(|game| (game.id.clone(), game)).collect();
    }

    /// The members of the party, this machine among them, with what each hosts. Their addresses are those of the roster.
    pub(super) fn set_members(&mut self, now: Instant, members: Vec<MemberHosts>) {
        let mut before = std::mem::take(&mut self.servers);
        self.counters.left_out = 0;
        for member in &members {
            for hosted in &member.hosted {
                let key = (member.ip, hosted.port, hosted.game.clone());
                if self.servers.contains_key(&key) {
                    continue;
                }
                if self.servers.len() >= MAX_SERVERS {
                    self.counters.left_out += 1;
                    continue;
                }
                let query_port = self.query_port(hosted);
                let known = before.remove(&key).filter(|server| server.query_port == query_port);
                let fresh = || Server {
                    member: String::new(),
                    own: member.me,
                    query_port,
                    next_at: now,
                    in_flight: false,
                    failures: 0,
                    answered: false,
                    answer: None,
                };
                let server = Server { member: member.name.clone(), ..known.unwrap_or_else(fresh) };
                self.servers.insert(key, server);
            }
        }
        self.announced.retain(|(ip, _), _| members.iter().any(|member| member.ip == *ip));
        self.asked_members.retain(|ip, _| members.iter().any(|member| member.ip == *ip));
        self.members = members;
    }

    fn own_ip(&self) -> Option<Ipv4Addr> {
        self.members.iter().find(|member| member.me).map(|member| member.ip)
    }

    /// As its host says; else as the profile says, where that is not the port that players join at.
    fn query_port(&self, hosted: &Hosted) -> u16 {
        let elsewhere = self.games.get(&hosted.game).and_then(|game| game.query_ports.as_ref());
        let elsewhere = elsewhere.filter(|ports| !ports.contains(&hosted.port)).map(|ports| *ports.start());
        hosted.query_port.or(elsewhere).unwrap_or(hosted.port)
    }

    pub(super) fn heard(&mut self, now: Instant, announcement: &Announcement) {
        if announcement.destination_port != MINECRAFT_PORT {
            return;
        }
        let Some((name, port)) = query::announced(&announcement.payload) else { return };
        let member = announcement.member;
        self.announced.retain(|_, game| game.until > now);
        let of_member = self.announced.keys().filter(|(ip, _)| *ip == member).count();
        let full = of_member >= MAX_ANNOUNCED || self.announced.len() >= MAX_ANNOUNCED_IN_ALL;
        if full && !self.announced.contains_key(&(member, port)) {
            self.counters.left_out += 1;
            return;
        }
        self.announced.insert((member, port), Announced { name, until: now + ANNOUNCED_FOR });
    }

    /// When there may be a question, at the earliest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.own_ip()?;
        let due = self.servers.iter().filter(|(key, server)| !server.in_flight && self.language(key).is_some());
        let ready = |(key, server): (&Key, &Server)| {
            let member = self.asked_members.get(&key.0).map(|at| *at + MEMBER_PACE);
            member.map_or(server.next_at, |at| at.max(server.next_at))
        };
        let first = due.map(ready).min()?;
        Some(self.asked_at.map_or(first, |at| first.max(at + PACE)))
    }

    /// The server that has waited longest, if one is due.
    pub(super) fn poll_question(&mut self, now: Instant) -> Option<Question> {
        if self.poll_timeout()? > now {
            return None;
        }
        let from = self.own_ip()?;
        let free = |ip: &Ipv4Addr| self.asked_members.get(ip).is_none_or(|at| *at + MEMBER_PACE <= now);
        let due = self.servers.iter().filter(|(key, server)| {
            !server.in_flight && server.next_at <= now && free(&key.0) && self.language(key).is_some()
        });
        let key = due.min_by_key(|(_, server)| server.next_at)?.0.clone();
        let language = self.language(&key)?;
        let server = self.servers.get_mut(&key)?;
        server.in_flight = true;
        self.asked_at = Some(now);
        self.asked_members.insert(key.0, now);
        self.counters.asked += 1;
        Some(Question { port: server.query_port, from, key, language })
    }

    pub(super) fn answered(&mut self, now: Instant, key: &Key, outcome: Result<(Answer, Duration), Outcome>) {
        match &outcome {
            Ok(_) => self.counters.answered += 1,
            Err(Outcome::Silent) => self.counters.silent += 1,
            Err(Outcome::Garbage) => self.counters.garbage += 1,
        }
        // It may have gone meanwhile.
        let Some(server) = self.servers.get_mut(key) else { return };
        server.in_flight = false;
        server.next_at = now + ASK_EVERY;
        match outcome {
            Ok(answer) => {
                server.failures = 0;
                server.answered = true;
                server.answer = Some(answer);
            }
            Err(_) => {
                server.failures = server.failures.saturating_add(1);
                if server.failures < SILENT_AFTER {
                    server.next_at = now + ASK_AGAIN;
                } else {
                    server.answer = None;
                }
            }
        }
    }

    fn language(&self, key: &Key) -> Option<Language> {
        self.games.get(&key.2)?.language
    }

    pub(super) fn view(&self, now: Instant) -> ServersView {
        let mut servers: Vec<ServerView> =
            self.servers.iter().filter_map(|(key, server)| self.shown(key, server)).collect();
        for ((ip, port), game) in self.announced.iter().filter(|(_, game)| game.until > now) {
            let Some(member) = self.members.iter().find(|member| member.ip == *ip) else { continue };
            if servers.iter().any(|shown| (shown.ip, shown.port) == (*ip, *port)) {
                continue;
            }
            let answer = Answer { name: Some(game.name.clone()), ..Answer::default() };
            servers.push(self.row(MINECRAFT, &member.name, (*ip, *port), member.me, "announced", answer, None));
        }
        servers.sort_by(|a, b| (&a.game_name, &a.member, a.port).cmp(&(&b.game_name, &b.member, b.port)));
        ServersView { servers, counters: self.counters }
    }

    fn shown(&self, key: &Key, server: &Server) -> Option<ServerView> {
        let (ip, port, game) = key;
        let asked = self.language(key).is_some();
        let (state, answer, ping) = match &server.answer {
            Some((answer, ping)) => ("answers", answer.clone(), Some(*ping)),
            // Not asked yet, or gone.
            None if asked && (server.answered || server.failures < SILENT_AFTER) => return None,
            // It may be there all the same: a server can be set to answer no questions, or at a port that nobody knows.
            None => ("named", Answer::default(), None),
        };
        Some(self.row(game, &server.member, (*ip, *port), server.own, state, answer, ping))
    }

    fn row(
        &self,
        game: &str,
        member: &str,
        (ip, port): (Ipv4Addr, u16),
        own: bool,
        state: &'static str,
        answer: Answer,
        ping: Option<Duration>,
    ) -> ServerView {
        let facts = self.games.get(game);
        let fill = |text: &String| text.replace("{ip}", &ip.to_string()).replace("{port}", &port.to_string());
        ServerView {
            game: game.to_owned(),
            game_name: facts.map_or(game, |facts| &facts.name).to_owned(),
            member: member.to_owned(),
            ip,
            port,
            own,
            state,
            name: answer.name.filter(|name| !name.is_empty()),
            map: answer.map.filter(|map| !map.is_empty()),
            version: answer.version,
            players: answer.players,
            max_players: answer.max_players,
            ping_ms: ping.map(|ping| (ping.as_secs_f64() * 100_000.0).round() / 100.0),
            join_command: facts.and_then(|facts| facts.join_command.as_ref()).map(fill),
            join_address: facts
                .and_then(|facts| facts.join_address.as_ref())
                .map_or_else(|| format!("{ip}:{port}"), fill),
        }
    }
}

/// What is told to the others: servers that are seen and those that the player names, each once.
pub(super) fn merged(seen: &[Hosted], named: &[Hosted]) -> Vec<Hosted> {
    let mut all = named.to_vec();
    for server in seen {
        if !all.iter().any(|other| (&other.game, other.port) == (&server.game, server.port)) {
            all.push(server.clone());
        }
    }
    all.truncate(crate::wire::MAX_HOSTED);
    all
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

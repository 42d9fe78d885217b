//! NAT behaviour discovery over one address family.
//!
//! A round goes through stages, each of which ends when all its questions are answered or given up:
//! 1. all servers are asked at once for the mapped address;
//! 2. filtering (RFC 5780, section 4.4) and hairpinning: before the third, which opens the filter for what it asks;
//! 3. mappings towards other addresses of one server (RFC 5780, section 4.3), only where the servers left it open.
//!
//! After that one server is asked now and then, which keeps the mapping alive and shows when it changes.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::behaviour::{FamilyReport, MAX_SERVERS, Server, ServerReport};
use super::questions::{Ask, Question, Questions};
use super::stun::{Stun, Success};
use super::verdict::{self, Evidence, FilterTests, Test};
use crate::wire::{Dependence, NatBehaviour, usable_addr};

/// Between two questions that keep the mapping alive, less or more by a tenth. RFC 4787 lets a mapping end after two
/// minutes; real ones end from 30 seconds on.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Doubts may come from 255 members at once.
const DOUBT_EVERY: Duration = Duration::from_millis(400);
/// All servers are asked again. Renews what the ports of a counting NAT are predicted from.
const REFRESH: Duration = Duration::from_secs(300);
/// Servers that nobody vouches for that are asked at their other ports.
const MAX_STRANGERS: usize = 3;
/// Filters are tested against so many servers.
const MAX_FILTER_TESTS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    mapped: SocketAddr,
    other: Option<SocketAddr>,
    rtt: Option<Duration>,
    /// When its mapping was made, beside those of the others.
    order: u32,
}

#[derive(Debug)]
struct Known {
    server: Server,
    answer: Option<Answer>,
    filter: Option<FilterTests>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Mapped,
    Filter,
    Elsewhere,
    Done,
}

/// The machine of one family.
#[derive(Debug)]
pub(super) struct Family {
    servers: Vec<Known>,
    questions: Questions,
    stage: Stage,
    round_began: Instant,
    /// What others told: relays, and the servers' other addresses.
    told: Vec<(Evidence, Instant)>,
    /// All questions of a stage are answered.
    ready_at: Option<Instant>,
    keep_at: Option<Instant>,
    doubted_at: Option<Instant>,
    refresh_at: Instant,
    local: Vec<IpAddr>,
    local_port: u16,
    hairpin: Option<bool>,
    filtering: Dependence,
    /// The address that `filtering` belongs to: behind another NAT it is void.
    filtering_of: Option<IpAddr>,
    report: FamilyReport,
    /// Counts the changes of the report, round trips aside.
    version: u32,
}

impl Family {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            servers: Vec::new(),
            questions: Questions::default(),
            stage: Stage::Idle,
            round_began: now,
            told: Vec::new(),
            ready_at: None,
            keep_at: None,
            doubted_at: None,
            refresh_at: now,
            local: Vec::new(),
            local_port: 0,
            hairpin: None,
            filtering: Dependence::Unknown,
            filtering_of: None,
            report: FamilyReport::default(),
            version: 0,
        }
    }

    pub(super) fn report(&self) -> &FamilyReport {
        &self.report
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn set_local(&mut self, port: u16, addrs: Vec<IpAddr>) {
        if self.local != addrs || self.local_port != port {
            (self.local, self.local_port) = (addrs, port);
            self.conclude();
        }
    }

    pub(super) fn set_servers(&mut self, now: Instant, rng: &mut StdRng, servers: &[Server]) {
        let mut wanted: Vec<Server> = Vec::new();
        for server in servers.iter().filter(|server| usable_addr(&server.addr)) {
            if wanted.len() < MAX_SERVERS && wanted.iter().all(|it| it.addr != server.addr) {
                wanted.push(*server);
            }
        }
        self.servers.retain(|known| wanted.contains(&known.server));
        let kept: Vec<_> = self.servers.iter().map(|known| known.server.addr).collect();
        self.questions.retain(|it| !matches!(it.ask, Ask::Mapped) || kept.contains(&it.to));
        let new: Vec<_> = wanted.into_iter().filter(|server| !kept.contains(&server.addr)).collect();
        for server in &new {
            self.servers.push(Known { server: *server, answer: None, filter: None });
        }
        if self.servers.is_empty() {
            self.questions.clear();
            self.stage = Stage::Idle;
            self.keep_at = None;
        } else if !new.is_empty() {
            if matches!(self.stage, Stage::Idle | Stage::Done) {
                self.stage = Stage::Mapped;
            }
            for server in new {
                self.questions.start(now, rng, Ask::Mapped, server.addr, server.addr);
            }
        }
        self.settle(now, rng);
        self.conclude();
    }

    /// Forgets what was found and asks again: the network is another one, or may be.
    pub(super) fn restart(&mut self, now: Instant, rng: &mut StdRng) {
        for known in &mut self.servers {
            (known.answer, known.filter) = (None, None);
        }
        self.told.clear();
        self.hairpin = None;
        self.begin_round(now, rng);
        self.report = FamilyReport::default();
        self.version = self.version.wrapping_add(1);
        self.conclude();
    }

    /// The mapping may be another one now. Once for each round it is asked also in the later stages, which wait seconds for
    /// what does not come.
    pub(super) fn doubt(&mut self, now: Instant, rng: &mut StdRng) {
        if self.doubted_at.is_some_and(|at| now < at + DOUBT_EVERY) {
            return;
        }
        match self.stage {
            Stage::Idle | Stage::Mapped => {}
            Stage::Filter | Stage::Elsewhere if self.doubted_at.is_some_and(|at| at >= self.round_began) => {}
            Stage::Filter | Stage::Elsewhere => {
                self.doubted_at = Some(now);
                if let Some(server) = self.nearest() {
                    self.questions.start(now, rng, Ask::Mapped, server, server);
                }
            }
            Stage::Done => {
                self.doubted_at = Some(now);
                self.keep_at = self.keep_at.map(|at| at.min(now));
            }
        }
    }

    fn nearest(&self) -> Option<SocketAddr> {
        let answered = |known: &Known| Some((known.answer?.rtt.unwrap_or(Duration::MAX), known.server.addr));
        self.servers.iter().filter_map(answered).min().map(|(_, server)| server)
    }

    fn begin_round(&mut self, now: Instant, rng: &mut StdRng) {
        self.questions.clear();
        self.round_began = now;
        self.keep_at = None;
        if self.servers.is_empty() {
            self.stage = Stage::Idle;
            return;
        }
        self.stage = Stage::Mapped;
        let addrs: Vec<_> = self.servers.iter().map(|known| known.server.addr).collect();
        for addr in addrs {
            self.questions.start(now, rng, Ask::Mapped, addr, addr);
        }
    }

    pub(super) fn note_observed(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        server: SocketAddr,
        mapped: SocketAddr,
        trusted: bool,
    ) {
        if usable_addr(&mapped) && mapped.is_ipv4() == server.is_ipv4() {
            let said = self.told.iter().find(|(it, _)| it.asked == server).map(|(it, _)| it.mapped);
            if self.stage != Stage::Idle && said.is_some_and(|said| said != mapped) {
                // It may lie: the servers are asked, and theirs stand until they have answered. In the middle of a round
                // too: what has been answered is of before, what comes would be of after, and no NAT looks like that.
                self.begin_round(now, rng);
            }
            let before = self.told.iter().find(|(it, _)| it.asked == server && it.mapped == mapped);
            let order = before.map(|(it, _)| it.order);
            let order = order.unwrap_or_else(|| self.questions.next_order());
            let evidence = Evidence { asked: server, operator: server.ip(), mapped, trusted, order };
            self.tell(now, evidence);
            self.conclude();
        }
    }

    fn tell(&mut self, now: Instant, evidence: Evidence) {
        let known = self.told.iter().position(|(it, _)| it.asked == evidence.asked);
        if let Some(known) = known {
            self.told.remove(known);
        } else if self.told.len() >= MAX_SERVERS {
            self.told.remove(0);
        }
        self.told.push((evidence, now));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.questions.next_due().into_iter().chain(self.ready_at).chain(self.keep_at).min()
    }

    /// Sends what is due and goes on to the next stage where one has ended.
    pub(super) fn poll(&mut self, now: Instant, rng: &mut StdRng, send: &mut dyn FnMut(SocketAddr, &[u8])) {
        self.ready_at = None;
        if self.keep_at.is_some_and(|at| at <= now) {
            self.keep_alive(now, rng);
        }
        // Each turn sends or ends what is due; there are fewer stages than turns.
        for _ in 0..8 {
            self.questions.transmit(now, send);
            self.give_up(now, rng);
            let due = self.questions.next_due().is_some_and(|due| due <= now);
            if !due && (!self.questions.is_empty() || !self.next_stage(now, rng)) {
                break;
            }
        }
    }

    fn give_up(&mut self, now: Instant, rng: &mut StdRng) {
        while let Some(ended) = self.questions.given_up(now) {
            match ended.ask {
                Ask::Mapped => {
                    if let Some(known) = self.known(ended.to) {
                        known.answer = None;
                    }
                    if self.stage == Stage::Done {
                        // The server that kept the mapping is gone, or the network is.
                        self.begin_round(now, rng);
                        return;
                    }
                }
                Ask::OtherAddress => self.tested(ended.to, |tests| tests.other_address = Test::Blocked),
                Ask::OtherPort => self.tested(ended.to, |tests| tests.other_port = Test::Blocked),
                Ask::Hairpin => self.hairpin = Some(false),
                Ask::Elsewhere { .. } => {}
            }
            self.conclude();
        }
    }

    fn known(&mut self, addr: SocketAddr) -> Option<&mut Known> {
        self.servers.iter_mut().find(|known| known.server.addr == addr)
    }

    fn tested(&mut self, server: SocketAddr, note: impl FnOnce(&mut FilterTests)) {
        if let Some(known) = self.known(server) {
            note(known.filter.get_or_insert_default());
        }
    }

    /// Whether the datagram was an answer to a question of this machine, or the question itself come back.
    pub(super) fn handle(&mut self, now: Instant, rng: &mut StdRng, from: SocketAddr, message: &Stun) -> bool {
        let id = match message {
            Stun::Request(request) => request.id,
            Stun::Success(success) => success.id,
            Stun::Refused { id } => *id,
        };
        let Some(asked) = self.questions.find(id) else { return false };
        let Question { ask, to, .. } = asked;
        let test = match message {
            // Nobody but a NAT that hairpins sends a question back: the id was told to the own mapped address alone.
            Stun::Request(_) if ask == Ask::Hairpin => {
                self.hairpin = Some(true);
                Test::Passed
            }
            Stun::Success(success) if from == asked.expected && believable(to, success) => {
                self.answered(now, rng, &asked, success);
                Test::Passed
            }
            Stun::Refused { .. } if from == to => Test::Void,
            // Not from where it was asked to answer: it does not know CHANGE-REQUEST.
            Stun::Success(_) if from == to && to != asked.expected => Test::Void,
            Stun::Request(_) | Stun::Success(_) | Stun::Refused { .. } => return false,
        };
        match ask {
            Ask::OtherAddress => self.tested(to, |tests| tests.other_address = test),
            Ask::OtherPort => self.tested(to, |tests| tests.other_port = test),
            Ask::Mapped if test == Test::Void => {
                if let Some(known) = self.known(to) {
                    known.answer = None;
                }
            }
            Ask::Mapped | Ask::Hairpin | Ask::Elsewhere { .. } => {}
        }
        // A new round has dropped it already.
        self.questions.retain(|it| it.id != id);
        self.settle(now, rng);
        self.conclude();
        true
    }

    fn answered(&mut self, now: Instant, rng: &mut StdRng, asked: &Question, success: &Success) {
        let Question { ask, to, order, .. } = *asked;
        let done = self.stage == Stage::Done;
        match ask {
            Ask::Mapped => {
                let other = success.other.filter(|other| usable_addr(other) && other.is_ipv4() == to.is_ipv4());
                let answer = Answer { mapped: success.mapped, other, rtt: asked.rtt(now), order };
                let Some(known) = self.known(to) else { return };
                let before = known.answer.replace(answer);
                // Still the mapping of before.
                let same = before.filter(|before| before.mapped == answer.mapped);
                known.answer = Some(Answer {
                    rtt: answer.rtt.or_else(|| before?.rtt),
                    order: same.map_or(order, |before| before.order),
                    ..answer
                });
                if let Some(before) = before.filter(|before| before.mapped != answer.mapped) {
                    // The mapping ended, or another way out is used: what was known may not hold.
                    if self.stage == Stage::Mapped {
                        self.told.retain(|(_, at)| *at >= self.round_began);
                    } else {
                        self.told.clear();
                        for known in &mut self.servers {
                            known.answer.take_if(|it| it.mapped == before.mapped);
                        }
                        self.begin_round(now, rng);
                    }
                } else if done {
                    self.keep_at = Some(now + jittered(KEEPALIVE, rng));
                }
            }
            Ask::Elsewhere { operator } => {
                let trusted = self.servers.iter().any(|it| it.server.addr.ip() == operator && it.server.trusted);
                self.tell(now, Evidence { asked: to, operator, mapped: success.mapped, trusted, order });
            }
            Ask::OtherAddress | Ask::OtherPort | Ask::Hairpin => {}
        }
    }

    /// Sees to it that `poll` is called again.
    fn settle(&mut self, now: Instant, rng: &mut StdRng) {
        if self.questions.is_empty() {
            match self.stage {
                Stage::Idle => {}
                Stage::Mapped | Stage::Filter | Stage::Elsewhere => self.ready_at = Some(now),
                Stage::Done => self.keep_at = self.keep_at.or_else(|| Some(now + jittered(KEEPALIVE, rng))),
            }
        }
    }

    /// Starts the next stage; `false` when there is none.
    fn next_stage(&mut self, now: Instant, rng: &mut StdRng) -> bool {
        match self.stage {
            Stage::Idle | Stage::Done => return false,
            Stage::Mapped => {
                self.stage = Stage::Filter;
                if self.servers.iter().all(|known| known.answer.is_none()) {
                    self.told.retain(|(_, at)| *at >= self.round_began);
                }
                self.conclude();
                self.start_filter_tests(now, rng);
                let hairpin = self.report.mapped.filter(|_| self.report.public == Some(false));
                if let Some(mapped) = hairpin.filter(|_| !self.report.nat.mapping.is_symmetric()) {
                    self.questions.start(now, rng, Ask::Hairpin, mapped, mapped);
                }
            }
            Stage::Filter => {
                self.stage = Stage::Elsewhere;
                self.start_elsewhere(now, rng);
            }
            Stage::Elsewhere => {
                self.stage = Stage::Done;
                self.refresh_at = now + REFRESH;
                self.keep_at = Some(now + jittered(KEEPALIVE, rng));
            }
        }
        self.conclude();
        true
    }

    fn start_filter_tests(&mut self, now: Instant, rng: &mut StdRng) {
        let contacted = self.questions.contacted(now);
        let mut tests = Vec::new();
        for known in &self.servers {
            let server = known.server.addr;
            let Some(other) = known.answer.and_then(|answer| answer.other) else { continue };
            if tests.len() >= 2 * MAX_FILTER_TESTS {
                break;
            }
            if contacted.iter().all(|it| it.ip() != other.ip()) && other.port() != server.port() {
                tests.push((Ask::OtherAddress, server, other));
            }
            let other_port = SocketAddr::new(server.ip(), other.port());
            if !contacted.contains(&other_port) {
                tests.push((Ask::OtherPort, server, other_port));
            }
        }
        for (ask, to, expected) in tests {
            self.questions.start(now, rng, ask, to, expected);
        }
    }

    /// Asks servers' other addresses: all of them where it is the only one, its other port where the NAT is symmetric, to
    /// see of which kind. Of those that nobody vouches for only another port at their own address: they could name a
    /// victim.
    fn start_elsewhere(&mut self, now: Instant, rng: &mut StdRng) {
        let operators = self.evidence().iter().map(|it| it.operator).collect::<std::collections::BTreeSet<_>>().len();
        let symmetric = self.report.nat.mapping.is_symmetric();
        let offers: Vec<(Server, SocketAddr)> = self
            .servers
            .iter()
            .filter_map(|known| Some((known.server, known.answer?.other?)))
            .filter(|(server, other)| other.port() != server.addr.port())
            .collect();
        let Some(&(Server { addr, .. }, other)) = offers.iter().find(|(server, _)| server.trusted) else {
            if self.report.nat.mapping == Dependence::Unknown {
                for (Server { addr, .. }, other) in offers.into_iter().take(MAX_STRANGERS) {
                    let (operator, to) = (addr.ip(), SocketAddr::new(addr.ip(), other.port()));
                    self.questions.start(now, rng, Ask::Elsewhere { operator }, to, to);
                }
            }
            return;
        };
        let operator = addr.ip();
        let asked = match operators {
            1 => vec![
                SocketAddr::new(operator, other.port()),
                SocketAddr::new(other.ip(), addr.port()),
                SocketAddr::new(other.ip(), other.port()),
            ],
            _ if symmetric => vec![SocketAddr::new(operator, other.port())],
            _ => return,
        };
        let mut seen = vec![addr];
        for to in asked {
            if !seen.contains(&to) {
                seen.push(to);
                self.questions.start(now, rng, Ask::Elsewhere { operator }, to, to);
            }
        }
    }

    fn keep_alive(&mut self, now: Instant, rng: &mut StdRng) {
        self.keep_at = None;
        match self.nearest() {
            Some(server) if now < self.refresh_at => self.questions.start(now, rng, Ask::Mapped, server, server),
            _ => self.begin_round(now, rng),
        }
    }

    fn evidence(&self) -> Vec<Evidence> {
        let answers = self.servers.iter().filter_map(|known| {
            let (answer, asked) = (known.answer?, known.server.addr);
            let Answer { mapped, order, .. } = answer;
            Some(Evidence { asked, operator: asked.ip(), mapped, trusted: known.server.trusted, order })
        });
        let mut evidence: Vec<_> = answers.collect();
        for (told, _) in &self.told {
            if evidence.iter().all(|it| it.asked != told.asked) {
                evidence.push(*told);
            }
        }
        evidence
    }

    fn conclude(&mut self) {
        let evidence = self.evidence();
        let asking = matches!(self.stage, Stage::Mapped);
        let mapping = verdict::mapping(&evidence, self.local_port, !asking);
        let heard = !evidence.is_empty();
        if asking && self.report.complete {
            // A later round: what is known holds until all servers had their time.
            return;
        }
        let tests = verdict::filtering(self.servers.iter().filter_map(|known| known.filter));
        let ip = mapping.mapped.map(|addr| addr.ip());
        if tests != Dependence::Unknown && ip.is_some() {
            (self.filtering, self.filtering_of) = (tests, ip);
        }
        let servers = self.servers.iter().map(|known| ServerReport {
            server: known.server.addr,
            mapped: known.answer.map(|answer| answer.mapped),
            rtt_us: known
                .answer
                .and_then(|answer| answer.rtt)
                .map(|rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
        });
        let known_filter = ip.is_some() && ip == self.filtering_of;
        let public = |addr: SocketAddr| addr.port() == self.local_port && self.local.contains(&addr.ip());
        let report = FamilyReport {
            nat: NatBehaviour {
                mapping: mapping.kind,
                filtering: if known_filter { self.filtering } else { Dependence::Unknown },
                port_preserving: mapping.port_preserving,
                port_step: mapping.port_step,
                hairpin: self.hairpin,
                udp_blocked: !heard && !asking && !self.servers.is_empty() && !self.local.is_empty(),
            },
            mapped: mapping.mapped,
            public: mapping.mapped.map(public),
            complete: matches!(self.stage, Stage::Done),
            servers: servers.collect(),
        };
        let told = |report: &FamilyReport| (report.nat, report.mapped, report.public, report.complete);
        if told(&report) != told(&self.report) {
            self.version = self.version.wrapping_add(1);
        }
        self.report = report;
    }
}

fn jittered(pause: Duration, rng: &mut StdRng) -> Duration {
    pause.mul_f64(rng.random_range(0.9..=1.1))
}

fn believable(asked: SocketAddr, success: &Success) -> bool {
    usable_addr(&success.mapped) && success.mapped.is_ipv4() == asked.is_ipv4()
}

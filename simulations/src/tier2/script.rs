//! What is done to the nodes, and when the oracle looks.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::Actor as _;
use lanrage_actors::discovery::Links;
use lanrage_actors::party::messages::{CreateParty, GetParty, JoinParty, KickMember, LeaveParty, PartyView};
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use tokio::time::sleep;

use super::census::Census;
use super::discovery::SimDiscovery;
use super::hostile::{Attack, Hostile};
use super::nat::Kind;
use super::node::{Machine, Running, RunningRelay};
use super::settings::{Action, Settings, Step};
use super::streams::SILENT_DEATH;
use super::world::{self, World};
use super::{census, clock, discovery::Heard, liar, oracle, paths};
use crate::report::{Report, Table, spread};
use crate::tier::Job;

pub struct Script<'a> {
    job: &'a Job<'a>,
    pub settings: &'a Settings,
    pub report: &'a mut Report,
    pub machines: Vec<Machine>,
    pub running: BTreeMap<usize, Running>,
    /// Those that sleep.
    pub asleep: BTreeMap<usize, Running>,
    pub censuses: Vec<Census>,
    /// Those that run, by node.
    pub relays: BTreeMap<usize, RunningRelay>,
    /// Honest nodes are those below.
    pub peers: usize,
    /// Nodes that were removed: they may not come back.
    pub kicked: Vec<usize>,
    codes: Vec<String>,
    links: Vec<String>,
    rng: ChaCha12Rng,
    /// Virtual seconds of each join until its answer.
    join_times: Vec<f64>,
    connect_times: Vec<f64>,
    hostile: Vec<actix::Addr<SimDiscovery>>,
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

impl<'a> Script<'a> {
    pub fn new(
        job: &'a Job<'a>,
        settings: &'a Settings,
        report: &'a mut Report,
        machines: Vec<Machine>,
        peers: usize,
        seed: u64,
    ) -> Self {
        Self {
            job,
            settings,
            report,
            machines,
            running: BTreeMap::new(),
            asleep: BTreeMap::new(),
            censuses: Vec::new(),
            relays: BTreeMap::new(),
            peers,
            kicked: Vec::new(),
            codes: Vec::new(),
            links: Vec::new(),
            rng: ChaCha12Rng::seed_from_u64(seed),
            join_times: Vec::new(),
            connect_times: Vec::new(),
            hostile: Vec::new(),
        }
    }

    pub fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        world::with(|world| world.note(format_args!("FAILED {what}")));
        self.report.fail(clock::elapsed(), what);
    }

    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        world::with(|world| world.note(what));
    }

    async fn start(&mut self, node: usize) {
        match self.machines[node].clone().start().await {
            Ok(running) => {
                self.running.insert(node, running);
            }
            Err(error) => self.fail(format!("node {node} could not be started: {error}")),
        }
    }

    async fn start_relay(&mut self, node: usize) {
        match self.machines[node].clone().start_relay().await {
            Ok(running) => {
                self.relays.insert(node, running);
            }
            Err(error) => self.fail(format!("relay {node} could not be started: {error}")),
        }
    }

    pub async fn relay_view(&self, relay: usize) -> Option<lanrage_actors::relay::messages::RelayView> {
        self.relays.get(&relay)?.view().await
    }

    pub async fn run(&mut self) {
        for node in world::with(|world| world.relays.clone()) {
            self.start_relay(node).await;
        }
        for node in 0..self.peers {
            self.start(node).await;
        }
        for node in self.peers..self.peers + self.settings.hostile as usize {
            self.start_hostile(node).await;
        }
        let liars = world::with(|world| {
            world.game.relayed = !world.relays.is_empty();
            world.game.uncounted = world.liars.clone();
            world.liars.clone()
        });
        let watch = (self.settings.paths_s > 0.0).then(|| {
            let nodes = self.running.iter().map(|(node, running)| (*node, running.peers.clone())).collect();
            actix::spawn(paths::watch(nodes))
        });
        self.form_parties().await;
        for liar in liars {
            actix::spawn(liar::flood(liar, ChaCha12Rng::seed_from_u64(self.rng.random())));
        }
        let began = clock::elapsed();
        world::with(|world| world.seen.until = Some(began + secs(self.settings.paths_s)));
        let budget = secs(self.settings.connect_s);
        if let Some(times) = oracle::wait(self, budget).await {
            self.connect_times = times.into_iter().map(|at| (at - began.min(at)).as_secs_f64()).collect();
        } else {
            return;
        }
        world::with(|world| {
            world.game.counting = true;
            world.game.counting_since = clock::elapsed();
        });
        if let Some(watch) = watch {
            let _ = watch.await;
            paths::judge(self);
        }
        for _ in 0..self.settings.rounds {
            for step in self.settings.steps.clone() {
                if !self.step(&step).await {
                    return;
                }
            }
        }
        if let Some(factor) = self.settings.may_grow {
            census::judge(self, factor);
        }
        let end = secs(self.settings.seconds);
        let total = self.settings.seconds.max(1.0);
        while clock::elapsed() < end {
            self.job.progress.set(clock::elapsed().as_secs_f64() / total, "running");
            sleep((end - clock::elapsed()).min(secs((total / 50.0).max(5.0)))).await;
            world::with(|world| world.dht.expire(clock::elapsed()));
        }
        world::with(|world| world.game.counting = false);
        // Nothing has been done for a while: everything must be as it should.
        if !self.settings.steps.is_empty() {
            oracle::wait(self, Duration::from_secs(2)).await;
        }
        oracle::invariants(self, self.settings.min_delivery, self.settings.must_count.as_deref()).await;
    }

    async fn start_hostile(&mut self, node: usize) {
        let attacker = Hostile::new(node, self.rng.random()).start();
        world::with(|world| {
            world.net.sites[node].up = true;
            world.ports[node].run += 1;
        });
        let links = Links {
            opened: attacker.clone().recipient(),
            frame: attacker.clone().recipient(),
            closed: attacker.clone().recipient(),
            own_addrs: attacker.clone().recipient(),
        };
        let discovery = SimDiscovery::new(node, Some(links)).start();
        world::with(|world| world.ports[node].discovery = Some(discovery.clone()));
        if attacker.send(Attack(discovery.clone())).await.is_err() {
            self.fail("the attacker could not be started");
        }
        self.hostile.push(discovery);
    }

    async fn form_parties(&mut self) {
        let size = match self.settings.party_size as usize {
            0 => self.peers,
            size => size,
        };
        let mut parties: Vec<Vec<usize>> = Vec::new();
        for first in (0..self.peers).step_by(size) {
            parties.push((first..(first + size).min(self.peers)).collect());
        }
        for (index, members) in parties.iter().enumerate() {
            let Some(host) = self.running.get(&members[0]).cloned() else { continue };
            world::with(|world| world.game.members.push(Vec::new()));
            match host.party.send(CreateParty { name: Some(format!("party {index}")) }).await {
                Ok(Ok(view)) => {
                    self.codes.push(view.code);
                    self.links.push(view.link);
                    world::with(|world| {
                        world.game.enter(members[0], index);
                        world.joined.insert(members[0], clock::elapsed());
                    });
                }
                other => {
                    self.codes.push(String::new());
                    self.links.push(String::new());
                    self.fail(format!("party {index} could not be created: {:?}", other.err()));
                }
            }
        }
        let mut joins = Vec::new();
        for (index, members) in parties.iter().enumerate() {
            for &node in &members[1..] {
                let wait = secs(self.settings.join_spread_s * self.rng.random::<f64>());
                joins.push(self.join(node, index, wait));
            }
        }
        let answers = futures::future::join_all(joins).await;
        for answer in answers {
            match answer {
                Ok(took) => self.join_times.push(took),
                Err(why) => self.fail(why),
            }
        }
    }

    /// A join, and how long its answer took.
    fn join(&self, node: usize, party: usize, wait: Duration) -> impl Future<Output = Result<f64, String>> + use<> {
        let running = self.running.get(&node).cloned();
        let code_or_link = if self.settings.by_link { self.links[party].clone() } else { self.codes[party].clone() };
        let timeout = secs(self.settings.join_timeout_s);
        async move {
            sleep(wait).await;
            let began = clock::elapsed();
            let running = running.ok_or_else(|| format!("node {node} does not run"))?;
            // From the moment in which he is let in, and that is before his answer.
            world::with(|world| world.game.enter(node, party));
            match running.party.send(JoinParty { code_or_link, timeout }).await {
                Ok(Ok(_)) => {
                    let took = clock::elapsed().saturating_sub(began);
                    world::with(|world| {
                        world.joined.insert(node, clock::elapsed());
                        world.note(format_args!("node {node} joined in {took:?}"));
                    });
                    Ok(took.as_secs_f64())
                }
                Ok(Err(error)) => {
                    world::with(|world| world.game.leave(node));
                    Err(format!("node {node} could not join: {error}"))
                }
                Err(error) => Err(format!("node {node} could not join: {error}")),
            }
        }
    }

    /// Whether all came to be as it should.
    async fn step(&mut self, step: &Step) -> bool {
        sleep(secs(step.after_s)).await;
        for round in 0..step.times {
            if round > 0 {
                sleep(secs(step.every_s)).await;
            }
            self.note(format_args!("step {:?}", step.action));
            let done = clock::elapsed().as_secs_f64() / self.settings.seconds.max(1.0);
            self.job.progress.set(done.min(1.0), &format!("{:?}", step.action));
            if step.gap_s > 0.0 {
                world::with(|world| world.game.watch_gaps());
            }
            if step.action == Action::SetClock {
                self.set_clock(step.count as usize, step.clock_s);
            } else {
                self.act(step.action, step.count as usize).await;
            }
            if step.gap_s > 0.0 {
                sleep(secs(step.settle_s)).await;
                self.judge_gaps(step);
            }
            if step.settle_s > 0.0 && oracle::wait(self, secs(step.settle_s)).await.is_none() {
                self.fail(format!("after {:?} it did not settle within {} s", step.action, step.settle_s));
                return false;
            }
        }
        true
    }

    /// How long the pairs that are connected have heard nothing of each other.
    fn judge_gaps(&mut self, step: &Step) {
        let gaps = world::with(|world| world.game.take_gaps());
        let counted = |node: &usize| self.running.contains_key(node) && !world::with(|it| it.liars.contains(node));
        let mut gaps: Vec<_> = gaps.into_iter().filter(|((a, b), _)| counted(a) && counted(b)).collect();
        gaps.sort_by_key(|(_, gap)| *gap);
        let name = format!("{:?}", step.action);
        for (part, at) in [("median", gaps.len() / 2), ("greatest", gaps.len().saturating_sub(1))] {
            let gap = gaps.get(at).map_or(0.0, |(_, gap)| gap.as_secs_f64());
            self.report.figure(&format!("silence of a pair around {name}, {part}"), gap, "s");
        }
        let kind = |node: usize| world::with(|world| world.net.sites[node].kind);
        let long: Vec<String> = gaps
            .iter()
            .filter(|(_, gap)| gap.as_secs_f64() > step.gap_s)
            .map(|((a, b), gap)| {
                let (from, to) = (kind(*a), kind(*b));
                format!("around {name} {b} ({to:?}) heard nothing of {a} ({from:?}) for {:.2} s", gap.as_secs_f64())
            })
            .collect();
        let many = long.len();
        for what in long.into_iter().take(10) {
            self.fail(what);
        }
        if many > 10 {
            self.fail(format!("and {} more like that", many - 10));
        }
    }

    /// Some of the nodes that are up and in a party, drawn by the seed, in order.
    fn draw(&mut self, count: usize) -> Vec<usize> {
        let mut nodes: Vec<usize> = world::with(|world| {
            self.running.keys().copied().filter(|node| world.game.party_of[*node].is_some()).collect()
        });
        nodes.shuffle(&mut self.rng);
        nodes.truncate(count);
        nodes
    }

    async fn act(&mut self, action: Action, count: usize) {
        match action {
            Action::Wait | Action::SetClock => {}
            Action::Census => {
                let census = census::take(self).await;
                self.censuses.push(census);
            }
            Action::Sleep => {
                for node in self.draw(count) {
                    if let Some(running) = self.running.remove(&node) {
                        self.machines[node].sleep();
                        self.asleep.insert(node, running);
                    }
                }
                sleep(SILENT_DEATH + Duration::from_secs(1)).await;
            }
            Action::Wake => self.wake(),
            Action::Partition => self.partition(),
            Action::Heal => world::with(|world| world.net.sites.iter_mut().for_each(|site| site.group = 0)),
            Action::HostLeaves => {
                let parties = world::with(|world| world.game.members.clone());
                for members in parties {
                    if let Some(host) = self.host_of(&members).await {
                        self.leave(host).await;
                    }
                }
            }
            Action::Leave => {
                for node in self.draw(count) {
                    self.leave(node).await;
                }
            }
            Action::Kick => self.kick(count).await,
            Action::Crash => {
                for node in self.draw(count) {
                    if let Some(running) = self.running.remove(&node) {
                        self.machines[node].kill(running).await;
                    }
                }
                sleep(SILENT_DEATH + Duration::from_secs(1)).await;
            }
            Action::Restart => {
                let dead: Vec<usize> = (0..self.peers)
                    .filter(|node| !self.running.contains_key(node) && !self.asleep.contains_key(node))
                    .collect();
                for node in dead {
                    self.start(node).await;
                }
            }
            Action::Rejoin => self.rejoin().await,
            Action::Churn => {
                for _ in 0..count {
                    let action =
                        [Action::Leave, Action::Crash, Action::Restart, Action::Rejoin, Action::Move, Action::Restart];
                    let action = action[self.rng.random_range(0..action.len())];
                    self.note(format_args!("churn {action:?}"));
                    Box::pin(self.act(action, 1)).await;
                }
            }
            Action::Move => {
                for node in self.draw(count) {
                    self.move_node(node);
                }
            }
            Action::Roam => {
                for node in self.draw(count) {
                    let kind = world::with(|world| world.net.sites[node].kind);
                    self.move_to(node, if kind == Kind::CgnatSymmetric { Kind::Port } else { Kind::CgnatSymmetric });
                }
            }
            Action::ForgetMappings => {
                for node in self.draw(count) {
                    world::with(|world| world.net.forget_mappings(node));
                }
            }
            Action::Storm => world::with(super::beacons::storm),
            Action::RelayDies => self.kill_relay().await,
            Action::RelayLives => {
                for relay in world::with(|world| world.relays.clone()) {
                    if !self.relays.contains_key(&relay) {
                        self.start_relay(relay).await;
                    }
                }
            }
            Action::BootstrapDies => world::with(|world| world.dht.bootstrap = false),
            Action::BootstrapLives => world::with(|world| world.dht.bootstrap = true),
        }
    }

    fn wake(&mut self) {
        for (node, running) in std::mem::take(&mut self.asleep) {
            self.machines[node].wake();
            self.running.insert(node, running);
        }
    }

    fn set_clock(&mut self, count: usize, seconds: i64) {
        for node in self.draw(count) {
            world::with(|world| {
                world.ports[node].skew_s += seconds;
                world.note(format_args!("the clock of node {node} is moved by {seconds} s"));
            });
        }
    }

    fn partition(&mut self) {
        let groups: Vec<u8> = (0..self.machines.len()).map(|_| u8::from(self.rng.random_bool(0.5))).collect();
        let broken = world::with(|world| {
            for (site, group) in world.net.sites.iter_mut().zip(&groups) {
                site.group = *group;
            }
            world.streams.kill(|a, b| groups[a] != groups[b])
        });
        actix::spawn(async move {
            sleep(SILENT_DEATH).await;
            world::try_with(|world| broken.into_iter().for_each(|link| world.streams.close(link)));
        });
    }

    /// The relay that has forwarded most.
    async fn kill_relay(&mut self) {
        let mut most = None;
        for &relay in self.relays.keys() {
            let forwarded = self.relay_view(relay).await.map_or(0, |view| view.service.forwarded);
            if most.is_none_or(|(_, so_far)| forwarded > so_far) {
                most = Some((relay, forwarded));
            }
        }
        if let Some((relay, forwarded)) = most
            && let Some(running) = self.relays.remove(&relay)
        {
            self.note(format_args!("relay {relay} dies, which has forwarded {forwarded}"));
            #[allow(clippy::cast_precision_loss, reason = "figures for people")]
            self.report.figure("forwarded by the relay that died", forwarded as f64, "");
            if forwarded == 0 {
                self.fail("the relay that died had nothing to do");
            }
            self.machines[relay].kill_relay(running).await;
        }
    }

    fn move_node(&mut self, node: usize) {
        let kind = world::with(|world| world.net.sites[node].kind);
        self.move_to(node, kind);
    }

    fn move_to(&mut self, node: usize, kind: Kind) {
        let broken = world::with(|world| {
            world.note(format_args!("node {node} moves to {kind:?}"));
            world.net.move_site(node, kind);
            world.streams.kill(|a, b| a == node || b == node)
        });
        actix::spawn(async move {
            sleep(SILENT_DEATH).await;
            world::try_with(|world| broken.into_iter().for_each(|link| world.streams.close(link)));
        });
        if let Some(running) = self.running.get(&node) {
            let _ = running.discovery.try_send(Heard::Moved);
        }
    }

    pub async fn view(&self, node: usize) -> Option<PartyView> {
        self.running.get(&node)?.party.send(GetParty).await.ok().flatten()
    }

    async fn host_of(&self, members: &[usize]) -> Option<usize> {
        for &node in members {
            if let Some(view) = self.view(node).await {
                let host = view.members.iter().find(|member| member.host)?.node;
                let host = world::with(|world| world.by_id.get(&host).copied())?;
                return self.running.contains_key(&host).then_some(host);
            }
        }
        None
    }

    async fn leave(&mut self, node: usize) {
        let Some(running) = self.running.get(&node).cloned() else { return };
        // One whose streams are broken at this moment leaves unheard, and stays in the rosters of the others.
        for _ in 0..60 {
            if oracle::amiss(self, node).await.is_none() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        match running.party.send(LeaveParty).await {
            Ok(Ok(())) => {
                self.note(format_args!("node {node} leaves"));
                world::with(|world| world.game.leave(node));
            }
            other => self.fail(format!("node {node} could not leave: {other:?}")),
        }
    }

    async fn kick(&mut self, count: usize) {
        for _ in 0..count {
            let members = world::with(|world| world.game.members[0].clone());
            let Some(host) = self.host_of(&members).await else { return };
            let Some(&victim) = members.iter().rev().find(|node| **node != host) else { return };
            let Some(running) = self.running.get(&host).cloned() else { return };
            let member = self.machines[victim].id.to_string();
            match running.party.send(KickMember { member }).await {
                Ok(Ok(view)) => {
                    self.note(format_args!("node {victim} is removed"));
                    self.codes[0] = view.code;
                    self.links[0] = view.link;
                    self.kicked.push(victim);
                    world::with(|world| world.game.leave(victim));
                }
                other => self.fail(format!("node {victim} could not be removed: {:?}", other.map(|it| it.err()))),
            }
        }
    }

    async fn rejoin(&mut self) {
        let gone: Vec<usize> = world::with(|world| {
            self.running.keys().copied().filter(|node| world.game.party_of[*node].is_none()).collect()
        });
        let size = if self.settings.party_size == 0 { self.peers } else { self.settings.party_size as usize };
        for node in gone {
            if self.kicked.contains(&node) {
                continue;
            }
            let answer = self.join(node, node / size, Duration::ZERO).await;
            if let Err(why) = answer {
                self.fail(why);
            }
        }
    }

    /// Ends all nodes; whatever of them is left has leaked.
    pub async fn end(&mut self) {
        self.wake();
        for (node, running) in std::mem::take(&mut self.running) {
            self.machines[node].kill(running).await;
        }
        let broken = world::with(|world| world.streams.kill(|_, _| true));
        world::with(|world| broken.into_iter().for_each(|link| world.streams.close(link)));
        for (node, relay) in std::mem::take(&mut self.relays) {
            self.machines[node].kill_relay(relay).await;
        }
        for discovery in std::mem::take(&mut self.hostile) {
            let _ = discovery.send(Heard::Halt).await;
        }
        sleep(Duration::from_secs(30)).await;
        let (alive, streams) = world::with(|world| (world.alive, world.streams.len() + world.data_streams.len()));
        if alive != 0 || streams != 0 {
            self.fail(format!("{alive} parts of ended nodes and {streams} ends of streams are left"));
        }
        let columns = ["virtual seconds", "least", "median", "95 %", "greatest"];
        let mut table = Table::new("Times", &columns);
        for (name, values) in [("join answered", &self.join_times), ("all tunnels up, after that", &self.connect_times)]
        {
            table.row(std::iter::once(name.to_owned()).chain(spread(values)));
        }
        self.report.tables.push(table);
        let groups = [("join answered", &self.join_times[..]), ("all tunnels up, after that", &self.connect_times[..])];
        let title = "Share of the nodes by time";
        self.report.charts.push(crate::charts::Chart::distribution("join-times", title, "virtual s", &groups));
        for (name, times) in [("join", self.join_times.clone()), ("connect", self.connect_times.clone())] {
            if times.is_empty() {
                continue;
            }
            let mut sorted = times;
            sorted.sort_by(f64::total_cmp);
            let worst = sorted.last().copied().unwrap_or(0.0);
            self.report.figure(
                &format!("{name} time, median"),
                crate::report::percentile(&sorted, 0.5).unwrap_or(0.0),
                "s",
            );
            self.report.figure(&format!("{name} time, greatest"), worst, "s");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub fn figures(world: &World, report: &mut Report) {
    let counters = world.net.counters;
    let game = &world.game;
    for (name, value, unit) in [
        ("datagrams sent", counters.sent, ""),
        ("datagrams arrived", counters.arrived, ""),
        ("datagrams lost on lines", counters.lost_on_line, ""),
        ("datagrams refused by NATs", counters.refused_by_nat, ""),
        ("game packets sent once connected", game.sent, ""),
        ("game packets delivered", game.delivered, ""),
        ("party streams opened", world.streams.opened, ""),
        ("party frames", world.streams.frames, ""),
        ("party bytes", world.streams.bytes, "B"),
        ("party streams too slow to keep", world.streams.overflowed, ""),
        ("DHT look-ups", world.dht.lookups, ""),
        ("DHT look-ups without result", world.dht.empty_lookups, ""),
        ("DHT publications", world.dht.publications, ""),
        ("events waiting at most", world.deepest_queue() as u64, ""),
    ] {
        report.figure(name, value as f64, unit);
    }
    if game.sent > 0 {
        report.figure("game packets delivered", 100.0 * game.delivered as f64 / game.sent as f64, "%");
        report.figure("game latency one way, median", game.latency(0.5), "ms");
        report.figure("game latency one way, 99 %", game.latency(0.99), "ms");
    }
    report.notes.push(
        "Real WireGuard (boringtun) and real signatures; the party key derivation is a hash instead of Argon2id. \
         Timers of tokio, and so arrivals, are rounded up to a millisecond."
            .into(),
    );
}

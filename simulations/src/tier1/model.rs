//! The reference model, the operations, and the comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lanrage_actors::party::frame::Frame;
use lanrage_actors::party::messages::PartyError;
use lanrage_actors::party::record::virtual_ip;
use lanrage_actors::peer::messages::CandidateState;
use lanrage_actors::wire::{Ipv4Range, NodeId, ip};
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;

use super::Settings;
use super::net::Net;
use crate::report::Report;
use crate::tier::Job;

const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Small, so that addresses collide.
const RANGE: ([u8; 4], u8) = ([10, 66, 0, 0], 22);

/// What must be true, by what was done.
#[derive(Debug, Default)]
struct Model {
    /// Everybody who was ever let in, in the order of their standing.
    standing: Vec<usize>,
    members: BTreeSet<usize>,
    kicked: BTreeSet<usize>,
    /// Somebody was let in where not everybody could hear of it and clocks are wrong: who stands before whom is not known.
    doubtful: bool,
}

impl Model {
    fn host(&self) -> Option<usize> {
        self.standing.iter().copied().find(|node| self.members.contains(node))
    }

    fn enter(&mut self, node: usize) {
        if !self.standing.contains(&node) {
            self.standing.push(node);
        }
        self.members.insert(node);
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Join,
    Leave,
    Kick,
    Crash,
    Restart,
    Partition,
    Heal,
    ClockJump,
    Stranger,
    Traffic,
    TwinsApart,
}

struct Game<'a> {
    net: Net,
    model: Model,
    settings: &'a Settings,
    rng: ChaCha12Rng,
    code: String,
    parted: bool,
    /// Two nodes whose first choice of an address is the same.
    twins: Option<(usize, usize)>,
    counts: BTreeMap<String, u64>,
}

pub fn run(job: &Job<'_>, settings: &Settings, report: &mut Report) -> Duration {
    let mut rng = ChaCha12Rng::seed_from_u64(job.seed);
    let mut net = Net::new(rng.random());
    net.frame_loss = settings.frame_loss;
    net.datagram_loss = settings.datagram_loss;
    let range = Ipv4Range::new(Ipv4Addr::from(RANGE.0), RANGE.1).unwrap_or(Ipv4Range::DEFAULT);
    let nodes = (job.peers as usize).max(2);
    let mut game = Game {
        net,
        model: Model::default(),
        settings,
        rng,
        code: String::new(),
        parted: false,
        twins: None,
        counts: BTreeMap::new(),
    };
    game.found_party(nodes, range);
    for number in 0..settings.ops {
        job.progress.set(f64::from(number) / f64::from(settings.ops), "operations");
        let op = game.choose();
        game.net.note(format_args!("#{number} {op:?}"));
        *game.counts.entry(format!("operations: {op:?}")).or_default() += 1;
        game.perform(op);
        game.net.run(Duration::from_secs(settings.quiet_s));
        game.compare(range);
        if !game.net.failures.is_empty() {
            let failures = std::mem::take(&mut game.net.failures);
            report.trace = game.net.trace.clone();
            for failure in failures {
                report.fail(game.net.elapsed, format!("after operation #{number} ({op:?}): {failure}"));
            }
            return game.net.elapsed;
        }
    }
    report.trace = game.net.trace.clone();
    for (name, count) in &game.counts {
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        report.figure(name, *count as f64, "");
    }
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    for (name, count) in [("party frames", game.net.frames), ("datagrams", game.net.datagrams)] {
        report.figure(name, count as f64, "");
    }
    game.net.elapsed
}

impl Game<'_> {
    fn found_party(&mut self, nodes: usize, range: Ipv4Range) {
        let limit = self.settings.limit;
        let key = self.rng.random();
        let creator = self.net.add(key, range, limit);
        self.net.command(creator, |machine, _, request| machine.create(request, Some("Friday")));
        let Some(view) = self.net.nodes[creator].machine.view() else {
            self.net.failures.push("the party could not be created".into());
            return;
        };
        self.code = view.code;
        self.model.enter(creator);
        // The last two want the same address.
        while self.net.nodes.len() + 2 < nodes {
            let key = self.rng.random();
            self.net.add(key, range, limit);
        }
        if nodes > 3 {
            let first = |key: &[u8; 32]| {
                let id = NodeId(SigningKey::from_bytes(key).verifying_key().to_bytes());
                virtual_ip(view.id, id, 0, range)
            };
            let one: [u8; 32] = self.rng.random();
            let wanted = first(&one);
            let other = std::iter::repeat_with(|| self.rng.random::<[u8; 32]>()).find(|key| first(key) == wanted);
            let one = self.net.add(one, range, limit);
            if let Some(other) = other {
                self.twins = Some((one, self.net.add(other, range, limit)));
            }
        }
        self.net.run(Duration::from_secs(2));
    }

    fn up(&self) -> Vec<usize> {
        (0..self.net.nodes.len()).filter(|node| self.net.nodes[*node].up).collect()
    }

    fn members_up(&self) -> Vec<usize> {
        self.up().into_iter().filter(|node| self.model.members.contains(node)).collect()
    }

    fn choose(&mut self) -> Op {
        const OPS: [(Op, u32); 11] = [
            (Op::Join, 30),
            (Op::Leave, 8),
            (Op::Kick, 4),
            (Op::Crash, 10),
            (Op::Restart, 14),
            (Op::Partition, 8),
            (Op::Heal, 10),
            (Op::ClockJump, 6),
            (Op::Stranger, 6),
            (Op::Traffic, 8),
            (Op::TwinsApart, 4),
        ];
        let total = OPS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.random_range(0..total);
        for (op, weight) in OPS {
            if at < weight {
                return op;
            }
            at -= weight;
        }
        Op::Traffic
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Join => {
                let outside: Vec<usize> =
                    self.up().into_iter().filter(|node| !self.model.members.contains(node)).collect();
                if let Some(&node) = outside.choose(&mut self.rng) {
                    self.join(node);
                }
            }
            Op::Leave => {
                // One at least stays, or there would be nothing to compare with.
                let members = self.members_up();
                if members.len() > 2
                    && let Some(&node) = members.choose(&mut self.rng)
                {
                    self.net.command(node, |machine, now, request| machine.leave(now, request));
                    if !matches!(self.net.nodes[node].replies.as_slice(), [Ok(None)]) {
                        self.net.failures.push(format!("{node} could not leave"));
                    }
                    self.model.members.remove(&node);
                }
            }
            Op::Kick => self.kick(),
            Op::Crash => {
                let up = self.up();
                if self.members_up().len() > 2
                    && let Some(&node) = up.choose(&mut self.rng)
                {
                    self.net.crash(node);
                }
            }
            Op::Restart => {
                let down: Vec<usize> = (0..self.net.nodes.len()).filter(|node| !self.net.nodes[*node].up).collect();
                if let Some(&node) = down.choose(&mut self.rng) {
                    self.net.boot(node);
                }
            }
            Op::Partition => {
                let groups: Vec<u8> = self.net.nodes.iter().map(|_| u8::from(self.rng.random_bool(0.5))).collect();
                self.part(groups);
            }
            Op::Heal => self.heal(),
            Op::ClockJump => {
                if self.settings.clock_jumps
                    && let Some(&node) = self.up().choose(&mut self.rng)
                {
                    self.net.nodes[node].skew = self.rng.random_range(-3 * 3600..3 * 3600);
                }
            }
            Op::Stranger => self.stranger(),
            Op::Traffic => {
                if self.settings.deaf {
                    self.lost_news();
                }
                self.net.run(Duration::from_secs(self.settings.quiet_s));
                self.traffic();
            }
            Op::TwinsApart => self.twins_apart(),
        }
    }

    fn part(&mut self, groups: Vec<u8>) {
        self.net.group.clone_from(&groups);
        self.parted = true;
        self.net.cut(|a, b| match (groups.get(a), groups.get(b)) {
            (Some(one), Some(other)) => one != other,
            _ => true,
        });
    }

    fn heal(&mut self) {
        self.net.group.iter_mut().for_each(|group| *group = 0);
        self.parted = false;
    }

    fn join(&mut self, node: usize) {
        let code = self.code.clone();
        let group = self.net.group[node];
        let helpers = self.members_up().into_iter().filter(|member| self.net.group[*member] == group).count();
        // By what those know who may let it in.
        let known = |member: &usize| self.net.nodes[*member].machine.view().map_or(0, |view| view.members.len());
        let in_group = |member: &usize| self.net.group[*member] == group;
        let full =
            self.members_up().iter().filter(|it| in_group(it)).map(known).max().unwrap_or(0) >= self.settings.limit;
        self.net.command(node, |machine, now, request| machine.join(now, request, &code, JOIN_TIMEOUT));
        self.net.run(JOIN_TIMEOUT + Duration::from_secs(2));
        let reply = self.net.nodes[node].replies.first().cloned();
        let kicked = self.model.kicked.contains(&node);
        let was_in = self.model.standing.contains(&node);
        let replied = format!("{:?}", reply.as_ref().map(|reply| reply.as_ref().map(|_| "in")));
        let fits = match &reply {
            // One that was in goes back on its own when nobody answers in time; then it, or somebody else, is one too many.
            Some(Ok(_)) => !kicked && (was_in || (!full && helpers > 0)),
            Some(Err(PartyError::Kicked)) => kicked,
            Some(Err(PartyError::PartyFull(_))) => full,
            // One who was removed knows no code that counts, or meets nobody who knows that he was.
            Some(Err(PartyError::NoSuchParty(_))) => helpers == 0 || kicked || self.parted,
            Some(Err(_)) | None => false,
        };
        if !fits {
            let situation = format!("helpers {helpers}, full {full}, kicked {kicked}, member before {was_in}");
            self.net.failures.push(format!("{node} asked to join ({situation}) and was told {replied}"));
        }
        if matches!(reply, Some(Ok(_))) {
            self.model.enter(node);
            self.model.doubtful |= self.settings.clock_jumps && !self.all_hear();
        }
    }

    fn kick(&mut self) {
        // Across a partition two hosts may roll the code; what comes of that is the party's own tests' business.
        if self.parted {
            return;
        }
        let sees_itself = |node: &usize| self.net.nodes[*node].machine.view().is_some_and(|view| view.is_host);
        let certain = self.all_hear() && !self.model.doubtful;
        let host = if certain { self.model.host() } else { self.members_up().into_iter().find(sees_itself) };
        let Some(host) = host.filter(|host| self.net.nodes[*host].up) else { return };
        let view = self.net.nodes[host].machine.view();
        let known: Vec<NodeId> = view.iter().flat_map(|view| &view.members).map(|member| member.node).collect();
        let victims = self.model.members.iter().copied();
        let victims: Vec<usize> = victims.filter(|it| *it != host && known.contains(&self.net.nodes[*it].id)).collect();
        let Some(&victim) = victims.choose(&mut self.rng) else { return };
        let id = self.net.nodes[victim].id.to_string();
        self.net.command(host, |machine, _, request| machine.kick(request, &id));
        match self.net.nodes[host].replies.first() {
            Some(Ok(Some(view))) => {
                self.code.clone_from(&view.code);
                self.model.members.remove(&victim);
                self.model.kicked.insert(victim);
            }
            other => {
                let told = format!("{:?}", other.map(|it| it.as_ref().map(|_| "done")));
                self.net.failures.push(format!("the host {host} could not remove {victim}: {told}"));
            }
        }
    }

    /// Both of the twins join where they cannot see each other: the addresses collide when the network heals.
    fn twins_apart(&mut self) {
        let Some((one, other)) = self.twins else { return };
        let free = |node: usize| {
            self.net.nodes[node].up && !self.model.standing.contains(&node) && !self.model.kicked.contains(&node)
        };
        let members = self.members_up();
        if !free(one) || !free(other) || members.len() < 2 || self.model.members.len() + 2 > self.settings.limit {
            return;
        }
        let mut groups: Vec<u8> = vec![0; self.net.nodes.len()];
        groups[other] = 1;
        groups[members[1]] = 1;
        self.part(groups);
        self.net.run(Duration::from_secs(5));
        self.join(one);
        self.join(other);
        self.heal();
        *self.counts.entry("addresses that collided".into()).or_default() += 1;
    }

    /// Somebody who does not know the code: he is told nothing.
    fn stranger(&mut self) {
        let Some(&node) = self.up().choose(&mut self.rng) else { return };
        let id = NodeId(SigningKey::from_bytes(&self.rng.random()).verifying_key().to_bytes());
        self.net.told_stranger.clear();
        let link = self.net.stranger_opens(node, id);
        let hello = Frame::Hello { nonce: self.rng.random() };
        let proof = Frame::Proof { macs: (0..self.rng.random_range(1..=5)).map(|_| self.rng.random()).collect() };
        let garbage: Vec<u8> = (0..self.rng.random_range(0..200)).map(|_| self.rng.random()).collect();
        let mut frames: Vec<Vec<u8>> =
            [hello, proof, Frame::Seeking].iter().filter_map(|it| it.encode().ok()).collect();
        frames.insert(self.rng.random_range(1..=3), garbage);
        for frame in frames {
            self.net.stranger_sends(node, link, &frame);
            self.net.run(Duration::from_millis(100));
        }
        self.net.stranger_closes(node, link);
        for frame in std::mem::take(&mut self.net.told_stranger) {
            if !matches!(Frame::decode(&frame), Ok(Frame::Hello { .. } | Frame::Refusal)) {
                let told = format!("{:?}", Frame::decode(&frame)).chars().take(60).collect::<String>();
                self.net.failures.push(format!("{node} told a stranger {told}"));
            }
        }
    }

    /// A member says that its addresses have changed, and nobody hears it.
    fn lost_news(&mut self) {
        let Some(&node) = self.members_up().first() else { return };
        let loss = std::mem::replace(&mut self.net.frame_loss, 1.0);
        self.net.move_house(node);
        self.net.run(Duration::from_secs(1));
        self.net.frame_loss = loss;
        *self.counts.entry("news that were lost".into()).or_default() += 1;
    }

    /// A packet between any two that must be connected arrives, from the right one.
    fn traffic(&mut self) {
        let members = self.members_up();
        let taken: Vec<_> = self.net.nodes.iter().filter_map(|node| node.address).map(|it| it.ip).collect();
        let mut unused = (1..=254).map(|last| Ipv4Addr::new(10, 66, 3, last)).filter(|it| !taken.contains(it));
        let forged = unused.next().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut sent = BTreeSet::new();
        for node in &mut self.net.nodes {
            node.delivered.clear();
        }
        let loss = std::mem::replace(&mut self.net.datagram_loss, 0.0);
        for &from in &members {
            for &to in &members {
                let addresses = (self.net.nodes[from].address, self.net.nodes[to].address);
                let (Some(source), Some(target)) = addresses else { continue };
                if from == to || self.net.group[from] != self.net.group[to] {
                    continue;
                }
                let mut packet = vec![0; 64];
                let _ = ip::write_header(&mut packet, source.ip, target.ip, ip::UDP, 64);
                packet[40..48].copy_from_slice(&(from as u64).to_le_bytes());
                self.net.send_packet(from, to, &packet);
                sent.insert((from, to));
                // A source that is not his, and a target that is not the other's: neither may arrive.
                let _ = ip::write_header(&mut packet, forged, target.ip, ip::UDP, 64);
                self.net.send_packet(from, to, &packet);
                let _ = ip::write_header(&mut packet, source.ip, forged, ip::UDP, 64);
                self.net.send_packet(from, to, &packet);
            }
        }
        self.net.run(Duration::from_secs(2));
        self.net.datagram_loss = loss;
        let mut arrived = BTreeSet::new();
        for to in 0..self.net.nodes.len() {
            for (from, packet) in std::mem::take(&mut self.net.nodes[to].delivered) {
                let from = self.net.by_id.get(&from).copied().unwrap_or(usize::MAX);
                let says = packet.get(40..48).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
                let source = self.net.nodes.get(from).and_then(|node| node.address).map(|it| it.ip);
                if says != Some(from as u64) || source != ip::Ipv4Packet::parse(&packet).ok().map(|it| it.source()) {
                    self.net.failures.push(format!("{to} was given a forged packet by {from}"));
                }
                if !arrived.insert((from, to)) {
                    self.net.failures.push(format!("{to} was given a packet of {from} twice"));
                }
            }
        }
        for (from, to) in sent.symmetric_difference(&arrived) {
            self.net.failures.push(format!("the packet from {from} to {to} was lost, or came unasked"));
        }
    }

    /// Everybody against the model.
    fn compare(&mut self, range: Ipv4Range) {
        let mut failures = Vec::new();
        self.settle_surplus(&mut failures);
        for node in self.up() {
            let view = self.net.nodes[node].machine.view();
            // One who was removed while he was away, or apart, learns of it when he meets somebody.
            if self.model.kicked.contains(&node)
                && self.members_up().iter().any(|it| self.net.group[*it] == self.net.group[node])
                && view.is_some()
            {
                failures.push(format!("{node} was removed and is still in"));
            }
            if !self.model.members.contains(&node) && !self.model.kicked.contains(&node) && view.is_some() {
                failures.push(format!("{node} is in a party that it has left or never joined"));
            }
        }
        let mut groups: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for node in self.members_up() {
            groups.entry(self.net.group[node]).or_default().push(node);
        }
        for nodes in groups.values() {
            self.compare_group(nodes, range, &mut failures);
        }
        self.net.failures.extend(failures);
    }

    /// Where the halves of a party let in more than fit into the whole, the last go.
    fn settle_surplus(&mut self, failures: &mut Vec<String>) {
        for node in std::mem::take(&mut self.net.surplus) {
            let before = self.model.standing.iter().copied().take_while(|it| *it != node);
            let elders = before.filter(|it| self.model.members.contains(it)).count();
            let too_many = self.model.members.len() > self.settings.limit;
            if !too_many || (!self.model.doubtful && elders < self.settings.limit) {
                let members = self.model.members.len();
                failures.push(format!("{node} left as one too many of {members}, {elders} of longer standing"));
            }
            self.model.members.remove(&node);
            *self.counts.entry("members too many".into()).or_default() += 1;
        }
    }

    /// Everybody who was ever let in can hear of what the others do.
    fn all_hear(&self) -> bool {
        !self.parted && self.model.standing.iter().all(|it| self.net.nodes[*it].up)
    }

    fn compare_group(&self, nodes: &[usize], range: Ipv4Range, failures: &mut Vec<String>) {
        let digests: BTreeSet<_> = nodes.iter().map(|node| self.net.nodes[*node].machine.digest()).collect();
        if digests.len() > 1 {
            failures.push(format!("{} different rosters among {nodes:?}", digests.len()));
        }
        let mut taken: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
        for &node in nodes {
            let it = &self.net.nodes[node];
            let Some(view) = it.machine.view() else {
                failures.push(format!("{node} must be a member and is in no party"));
                continue;
            };
            let seen: BTreeSet<Option<usize>> =
                view.members.iter().map(|member| self.net.by_id.get(&member.node).copied()).collect();
            let want: BTreeSet<Option<usize>> = self.model.members.iter().copied().map(Some).collect();
            // In parted halves each learns of the other's changes when they meet again.
            // What only those know who are down, the others cannot: a join or leave on the other side of a partition.
            let all_hear = self.all_hear();
            let up_missing = nodes.iter().any(|it| !seen.contains(&Some(*it)));
            if up_missing || (all_hear && seen != want) {
                failures.push(format!("{node} sees the members {seen:?}, not {want:?}"));
            }
            let host = view.members.iter().find(|member| member.host).and_then(|it| self.net.by_id.get(&it.node));
            if all_hear && !self.model.doubtful && host.copied() != self.model.host() {
                failures.push(format!("{node} sees the host {host:?}, not {:?}", self.model.host()));
            }
            if let Some(other) = taken.insert(view.virtual_ip, node) {
                failures.push(format!("{node} and {other} both have {}", view.virtual_ip));
            }
            let first_choice = |node: usize| virtual_ip(view.id, self.net.nodes[node].id, 0, range);
            let contested =
                (0..self.net.nodes.len()).any(|other| other != node && first_choice(other) == first_choice(node));
            if !contested && view.virtual_ip != first_choice(node) {
                failures.push(format!("{node} has {} without need", view.virtual_ip));
            }
            if it.address.map(|address| address.ip) != Some(view.virtual_ip) {
                failures.push(format!("the device of {node} has {:?}, its record {}", it.address, view.virtual_ip));
            }
            for &other in nodes.iter().filter(|other| **other != node) {
                let id = self.net.nodes[other].id;
                if !view.members.iter().any(|member| member.node == id && member.online) {
                    failures.push(format!("{node} has no proved stream to {other}"));
                }
                let tunnel = it.tunnels.get(&id);
                if !tunnel.is_some_and(|tunnel| tunnel.view(self.net.mono(), 0).connected) {
                    let state = tunnel.map(|tunnel| {
                        let view = tunnel.view(self.net.mono(), 0);
                        let path = view.path.endpoint.is_some();
                        let live =
                            view.candidates.iter().filter(|candidate| candidate.state == CandidateState::Live).count();
                        format!("path {path}, {live} live candidates, handshake {:?} s ago", view.last_handshake_s)
                    });
                    failures.push(format!("{node} has no tunnel to {other}: {state:?}"));
                }
            }
            for id in it.tunnels.keys() {
                let member = self.net.by_id.get(id).is_some_and(|other| self.model.members.contains(other));
                if !member && all_hear {
                    failures.push(format!("{node} has a tunnel to somebody who is not a member"));
                }
            }
        }
    }
}

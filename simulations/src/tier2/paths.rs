//! The paths between all pairs of members: what must become of each, and what has.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::Addr;
use lanrage_actors::peer::PeerSupervisor;
use lanrage_actors::peer::messages::{GetPeers, PathKind};
use tokio::time::sleep;

use super::nat::Kind;
use super::net::Site;
use super::script::Script;
use super::{clock, world};
use crate::report::{Table, number, percentile};

/// The best that can become of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// On one LAN.
    Lan,
    /// Both learn their address from a third, both send: a plain hole punch.
    Punch,
    /// A symmetric NAT against one that filters by port: only many ports meet.
    ManyPorts,
    /// Symmetric on both sides.
    Relay,
    /// UDP does not get out on one side.
    Tcp,
}

impl Class {
    const fn name(self) -> &'static str {
        match self {
            Self::Lan => "on one LAN",
            Self::Punch => "plain punch",
            Self::ManyPorts => "many ports",
            Self::Relay => "symmetric on both sides",
            Self::Tcp => "UDP blocked on a side",
        }
    }

    /// What is to be expected between two nodes on different LANs.
    #[must_use]
    pub fn between(a: &Site, b: &Site) -> Self {
        if a.punches(b) {
            return Self::Punch;
        }
        if a.kind == Kind::UdpBlocked || b.kind == Kind::UdpBlocked {
            return Self::Tcp;
        }
        let symmetric = |site: &Site| matches!(site.kind, Kind::Symmetric | Kind::CgnatSymmetric);
        if symmetric(a) && symmetric(b) { Self::Relay } else { Self::ManyPorts }
    }
}

#[derive(Debug, Clone)]
pub struct Pair {
    class: Class,
    kinds: (Kind, Kind),
    /// When the later of the two was told that he had joined.
    since: Duration,
    connected: Option<Duration>,
    direct: Option<Duration>,
    /// The path at the last look.
    now: PathKind,
}

/// What the watch has seen, by pair.
#[derive(Debug, Default)]
pub struct Seen {
    pub pairs: BTreeMap<(usize, usize), Pair>,
    /// When it ends.
    pub until: Option<Duration>,
}

const fn rank(kind: PathKind) -> u8 {
    match kind {
        PathKind::None => 0,
        PathKind::Tcp => 1,
        PathKind::Relay => 2,
        PathKind::Direct => 3,
        PathKind::Lan => 4,
    }
}

/// Looks at all nodes again and again, until `Seen::until`.
pub async fn watch(nodes: Vec<(usize, Addr<PeerSupervisor>)>) {
    let pause = Duration::from_millis(if nodes.len() > 64 { 500 } else { 100 });
    loop {
        let mut views: BTreeMap<(usize, usize), PathKind> = BTreeMap::new();
        for (node, peers) in &nodes {
            for view in peers.send(GetPeers).await.unwrap_or_default() {
                let Some(other) = world::with(|world| world.by_id.get(&view.node).copied()) else { continue };
                views.insert((*node, other), if view.connected { view.path.kind } else { PathKind::None });
            }
        }
        let over = world::with(|world| {
            let now = clock::elapsed();
            for (&(a, b), &kind) in views.range(..).filter(|((a, b), _)| a < b) {
                let (Some(&one), Some(&other)) = (world.joined.get(&a), world.joined.get(&b)) else { continue };
                if world.liars.contains(&a) || world.liars.contains(&b) {
                    continue;
                }
                let back = views.get(&(b, a)).copied().unwrap_or(PathKind::None);
                let kind = if rank(back) < rank(kind) { back } else { kind };
                let sites = (&world.net.sites[a], &world.net.sites[b]);
                let near = world.net.same_lan(a, b);
                let pair = world.seen.pairs.entry((a, b)).or_insert_with(|| Pair {
                    class: if near { Class::Lan } else { Class::between(sites.0, sites.1) },
                    kinds: (sites.0.kind, sites.1.kind),
                    since: one.max(other),
                    connected: None,
                    direct: None,
                    now: kind,
                });
                pair.now = kind;
                if kind != PathKind::None {
                    pair.connected.get_or_insert(now);
                }
                if rank(kind) >= rank(PathKind::Direct) {
                    pair.direct.get_or_insert(now);
                }
            }
            world.seen.until.is_some_and(|until| now >= until)
        });
        if over {
            return;
        }
        sleep(pause).await;
    }
}

fn took(pair: &Pair, at: Option<Duration>) -> Option<f64> {
    Some(at?.saturating_sub(pair.since).as_secs_f64())
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn share(part: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { 100.0 * part as f64 / all as f64 }
}

fn seconds(mut values: Vec<f64>) -> [String; 2] {
    values.sort_by(f64::total_cmp);
    let cell = |p| percentile(&values, p).map_or_else(|| "–".to_owned(), number);
    [cell(0.5), cell(0.95)]
}

/// Shows what was seen, and says what should not be so.
pub fn judge(script: &mut Script<'_>) {
    let pairs: Vec<((usize, usize), Pair)> =
        world::with(|world| std::mem::take(&mut world.seen.pairs)).into_iter().collect();
    let (direct_s, birthday_share) = (script.settings.direct_s, script.settings.birthday_share);
    let all_connect = script.settings.relays > 0;
    for ((a, b), pair) in &pairs {
        let who = format!("{a} ({:?}) and {b} ({:?})", pair.kinds.0, pair.kinds.1);
        if pair.connected.is_none() && (all_connect || pair.class <= Class::Punch) {
            script.fail(format!("{who} never had a path"));
        } else if direct_s > 0.0 && pair.class <= Class::Punch {
            match took(pair, pair.direct) {
                Some(time) if time <= direct_s && rank(pair.now) >= rank(PathKind::Direct) => {}
                Some(time) if time <= direct_s => script.fail(format!("{who} were direct and are so no more")),
                Some(time) => script.fail(format!("{who} were direct after {time:.1} s only")),
                None => script.fail(format!("{who} never had a direct path")),
            }
        }
        if pair.class == Class::Lan && pair.now != PathKind::Lan {
            script.fail(format!("{who} are on one LAN and talk over {}", pair.now.name()));
        }
    }
    let is_direct = |pair: &Pair| rank(pair.now) >= rank(PathKind::Direct);
    let many: Vec<&Pair> = pairs.iter().map(|(_, pair)| pair).filter(|pair| pair.class == Class::ManyPorts).collect();
    let met = many.iter().filter(|pair| is_direct(pair)).count();
    if birthday_share > 0.0 && share(met, many.len()) < 100.0 * birthday_share {
        script.fail(format!("of {} pairs that need many ports {met} are direct", many.len()));
    }
    let columns = [
        "pairs",
        "all",
        "connected",
        "direct",
        "relayed",
        "TCP",
        "s to connect, median",
        "95 %",
        "s to direct, median",
        "95 %",
    ];
    let mut table = Table::new("Pairs by the best that can become of them", &columns);
    let mut row = |name: &str, pairs: &[&Pair]| {
        let count = |kind| pairs.iter().filter(|pair| pair.now == kind).count();
        let direct = pairs.iter().filter(|pair| is_direct(pair)).count();
        let connected = pairs.iter().filter(|pair| pair.connected.is_some()).count();
        let cells =
            [pairs.len(), connected, direct, count(PathKind::Relay), count(PathKind::Tcp)].map(|n| n.to_string());
        let to_connect = seconds(pairs.iter().filter_map(|pair| took(pair, pair.connected)).collect());
        let to_direct = seconds(pairs.iter().filter_map(|pair| took(pair, pair.direct)).collect());
        table.row(std::iter::once(name.to_owned()).chain(cells).chain(to_connect).chain(to_direct));
    };
    for class in [Class::Lan, Class::Punch, Class::ManyPorts, Class::Relay, Class::Tcp] {
        let of: Vec<&Pair> = pairs.iter().map(|(_, pair)| pair).filter(|pair| pair.class == class).collect();
        if !of.is_empty() {
            row(class.name(), &of);
        }
    }
    let all: Vec<&Pair> = pairs.iter().map(|(_, pair)| pair).collect();
    row("all", &all);
    let connected = all.iter().filter(|pair| pair.connected.is_some()).count();
    let direct = all.iter().filter(|pair| is_direct(pair)).count();
    let report = &mut script.report;
    report.tables.push(table);
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    report.figure("pairs", all.len() as f64, "");
    report.figure("pairs connected", share(connected, all.len()), "%");
    report.figure("pairs direct", share(direct, all.len()), "%");
    for (name, at) in [("connect", true), ("direct", false)] {
        let mut times: Vec<f64> =
            all.iter().filter_map(|pair| took(pair, if at { pair.connected } else { pair.direct })).collect();
        times.sort_by(f64::total_cmp);
        for (part, p) in [("median", 0.5), ("95 %", 0.95)] {
            report.figure(&format!("pair {name} time, {part}"), percentile(&times, p).unwrap_or(0.0), "s");
        }
    }
}

//! What must be true: who is in which party, who is connected, and what never happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lanrage_actors::broadcast::messages::GetBroadcast;
use lanrage_actors::nat::messages::GetNat;
use lanrage_actors::party::actor::Inspect;
use lanrage_actors::peer::messages::GetPeers;
use lanrage_actors::relay::messages::GetRelays;
use lanrage_actors::tun::messages::GetTun;
use lanrage_actors::wire::NodeId;
use tokio::time::sleep;

use super::script::Script;
use super::taps::CountPeers;
use super::{clock, world};

/// What a node that runs should see, by what the scenario has done.
struct Expected {
    /// In its roster: everybody who has joined and not left.
    members: BTreeSet<NodeId>,
    /// Of those, who must be linked by a party stream: they run, on this side of a partition.
    online: BTreeSet<NodeId>,
    /// Of those, to whom a tunnel must be up: no pair of NATs that only a relay helps.
    tunnels: BTreeSet<NodeId>,
    party: usize,
    group: u8,
}

fn expected(script: &Script<'_>, node: usize) -> Option<Expected> {
    world::with(|world| {
        let party = world.game.party_of[node]?;
        let all = &world.game.members[party];
        let group = world.net.sites[node].group;
        let others = || all.iter().copied().filter(|other| *other != node);
        let here = |other: &usize| {
            let up = script.running.contains_key(other) && !world.liars.contains(other);
            up && world.net.sites[*other].group == group
        };
        let punches = |other: &usize| {
            let near = world.game.relayed || world.net.same_lan(node, *other);
            near || world.net.sites[node].punches(&world.net.sites[*other])
        };
        Some(Expected {
            members: all.iter().map(|member| world.ids[*member]).collect(),
            online: others().filter(here).map(|other| world.ids[other]).collect(),
            tunnels: others().filter(here).filter(punches).map(|other| world.ids[other]).collect(),
            party,
            group,
        })
    })
}

/// What is not yet as it should be; `None` when all is.
pub async fn amiss(script: &Script<'_>, node: usize) -> Option<String> {
    if world::with(|world| world.liars.contains(&node)) {
        return None;
    }
    let running = script.running.get(&node)?;
    let Some(expected) = expected(script, node) else {
        let out = script.view(node).await.is_none();
        return (!out).then(|| format!("node {node} still sees a party"));
    };
    let Some(view) = script.view(node).await else { return Some(format!("node {node} is in no party")) };
    let members: BTreeSet<NodeId> = view.members.iter().map(|member| member.node).collect();
    if members != expected.members {
        let missing = expected.members.difference(&members).count();
        let surplus = members.difference(&expected.members).count();
        return Some(format!("the roster of node {node} lacks {missing} members and has {surplus} too many"));
    }
    let online = view.members.iter().filter(|member| member.online).map(|member| member.node).collect();
    let offline = expected.online.difference(&online).count();
    if offline > 0 {
        return Some(format!("node {node} has no proved stream to {offline} members"));
    }
    let Ok(peers) = running.peers.send(GetPeers).await else { return Some(format!("node {node} has no peers")) };
    let connected: BTreeSet<NodeId> = peers.iter().filter(|peer| peer.connected).map(|peer| peer.node).collect();
    let missing = expected.tunnels.difference(&connected).count();
    if missing > 0 {
        return Some(format!("node {node} has no tunnel to {missing} of {} members", expected.tunnels.len()));
    }
    if peers.iter().any(|peer| !expected.members.contains(&peer.node)) {
        return Some(format!("node {node} has a tunnel to somebody who is not a member"));
    }
    None
}

/// Rosters that are not the same within a party and side, and virtual IPs that two members have.
async fn disagreements(script: &Script<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut digests: BTreeMap<(usize, u8), BTreeSet<[u8; 32]>> = BTreeMap::new();
    let mut addresses: BTreeMap<(usize, std::net::Ipv4Addr), BTreeSet<usize>> = BTreeMap::new();
    let mut hosts: BTreeMap<(usize, u8), BTreeSet<String>> = BTreeMap::new();
    for (&node, running) in &script.running {
        if world::with(|world| world.liars.contains(&node)) {
            continue;
        }
        let Some(expected) = expected(script, node) else { continue };
        let place = (expected.party, expected.group);
        if let Ok(state) = running.party.send(Inspect).await {
            digests.entry(place).or_default().extend(state.digest);
        }
        if let Some(view) = script.view(node).await {
            addresses.entry((expected.party, view.virtual_ip)).or_default().insert(node);
            hosts.entry(place).or_default().insert(view.host);
            let device = world::with(|world| world.ports[node].virtual_ip);
            if device != Some(view.virtual_ip) {
                found.push(format!("the device of node {node} has {device:?} and its roster {}", view.virtual_ip));
            }
        }
    }
    for ((party, _), digests) in digests.iter().filter(|(_, digests)| digests.len() > 1) {
        found.push(format!("{} different rosters in party {party}", digests.len()));
    }
    for ((party, _), hosts) in hosts.iter().filter(|(_, hosts)| hosts.len() > 1) {
        found.push(format!("different hosts in party {party}: {hosts:?}"));
    }
    for ((party, ip), nodes) in addresses.iter().filter(|(_, nodes)| nodes.len() > 1) {
        found.push(format!("in party {party} the nodes {nodes:?} all have {ip}"));
    }
    found
}

/// Waits until all is as it should be. The times at which each node came to that; `None`, with the failures told, when it
/// takes longer than `budget`.
pub async fn wait(script: &mut Script<'_>, budget: Duration) -> Option<Vec<Duration>> {
    let deadline = clock::elapsed() + budget;
    let mut complete: BTreeMap<usize, Duration> = BTreeMap::new();
    let nodes: Vec<usize> = script.running.keys().copied().collect();
    // In large parties each look costs much.
    let largest = world::with(|world| world.game.members.iter().map(Vec::len).max().unwrap_or(0));
    let pause = Duration::from_millis(if largest > 64 { 1000 } else { 200 });
    let mut problems;
    loop {
        problems = Vec::new();
        for &node in nodes.iter() {
            if complete.contains_key(&node) {
                continue;
            }
            match amiss(script, node).await {
                Some(problem) => problems.push(problem),
                None => {
                    complete.insert(node, clock::elapsed());
                }
            }
        }
        if problems.is_empty() {
            problems = disagreements(script).await;
            // Once more, all at one time: what was complete may have come apart.
            if problems.is_empty() {
                for &node in &nodes {
                    if let Some(problem) = amiss(script, node).await {
                        complete.remove(&node);
                        problems.push(problem);
                    }
                }
            }
            if problems.is_empty() {
                script.note(format_args!("all is as it should be"));
                return Some(complete.into_values().collect());
            }
        }
        if clock::elapsed() >= deadline {
            break;
        }
        sleep(pause).await;
    }
    for problem in problems.iter().take(10) {
        script.fail(format!("after {:.0} s {problem}", budget.as_secs_f64()));
    }
    if problems.len() > 10 {
        script.fail(format!("and {} more like that", problems.len() - 10));
    }
    None
}

/// Each broadcast exactly once at each member. What came twice, back, or to strangers has been told when it came.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn broadcasts(script: &mut Script<'_>) {
    let (lost, figures, most, max) = world::with(|world| {
        let beacons = &world.beacons;
        let figures = [
            ("broadcasts that all members must get", beacons.count() as u64),
            ("copies of broadcasts at members", beacons.copies),
            ("broadcasts of the storm", beacons.storm_sent),
            ("copies of the storm at members", beacons.storm_got),
            ("copies of the storm at a member in its busiest second", beacons.storm_most),
        ];
        (beacons.lost(), figures, beacons.storm_most, beacons.settings.storm_max)
    });
    for (name, value) in figures {
        if value > 0 {
            script.report.figure(name, value as f64, "");
        }
    }
    for (from, number, missing) in lost.iter().take(5) {
        script.fail(format!("broadcast {number} of {from} did not come to {missing} members"));
    }
    if lost.len() > 5 {
        script.fail(format!("and {} more broadcasts like that", lost.len() - 5));
    }
    if max > 0 && most > max {
        script.fail(format!("a member was handed {most} broadcasts of the storm in a second, more than {max}"));
    }
}

/// What came to those who have nothing to do with it.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn bystanders(script: &mut Script<'_>) {
    let (flooded, seen) = world::with(|world| {
        let of = |it: &super::infra::Bystander| {
            (it.datagrams, it.bytes, it.most_in_a_second, it.senders.values().max().copied().unwrap_or(0))
        };
        (world.flooded, world.infra.bystanders.values().map(of).collect::<Vec<_>>())
    });
    let most = script.settings.bystander_max;
    for (datagrams, bytes, in_a_second, by_one) in seen {
        script.report.figure("datagrams to the bystander", datagrams as f64, "");
        script.report.figure("bytes to the bystander", bytes as f64, "B");
        script.report.figure("datagrams to the bystander in the busiest second", in_a_second as f64, "");
        script.report.figure("datagrams to the bystander from one address", by_one as f64, "");
        script.report.figure("datagrams with which liars flooded", flooded as f64, "");
        if most > 0 && datagrams > most {
            script.fail(format!("a bystander got {datagrams} datagrams, more than {most}"));
        }
    }
}

/// What must hold whatever the scenario has done.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub async fn invariants(script: &mut Script<'_>, min_delivery: f64, must_count: Option<&str>) {
    let violations = world::with(|world| world.game.violations.clone());
    for (at, what) in violations {
        script.fail(format!("at {:.3} s {what}", at.as_secs_f64()));
    }
    let (sent, delivered, full, overflow) = world::with(|world| {
        let overflow: u64 = world.ports.iter().map(|port| port.socket_overflow).sum();
        (world.game.sent, world.game.delivered, world.game.device_full, overflow)
    });
    if sent > 0 && (delivered as f64) < sent as f64 * min_delivery {
        script.fail(format!("of {sent} game packets {delivered} arrived, less than {min_delivery}"));
    }
    let mut totals: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut add = |name, value| *totals.entry(name).or_default() += value;
    add("dropped: simulated socket full", overflow);
    add("dropped: simulated device full", full);
    let (mut restarts, mut leaked) = (0, Vec::new());
    for (&node, running) in &script.running {
        let peers = running.peers.send(GetPeers).await.unwrap_or_default();
        for peer in &peers {
            let counters = peer.counters;
            restarts += peer.restarts;
            add("dropped: staged packets pushed out", counters.dropped_staged);
            add("dropped: staged packets grown old", counters.dropped_stale);
            add("dropped: shouts for members without a path", counters.dropped_away);
            add("dropped: spoofed source", counters.dropped_spoofed);
            add("dropped: misdirected", counters.dropped_misdirected);
            add("dropped: undecryptable", counters.dropped_undecryptable);
            add("dropped: probes that did not open", counters.dropped_probes);
            add("refused: probes to addresses that do not answer", counters.refused_probes);
            add("probes to many ports", counters.sent_punches);
            add("dropped: socket or device mailbox full", counters.dropped_busy);
        }
        if let Ok(view) = running.broadcast.send(GetBroadcast).await {
            let counters = view.counters;
            add("broadcasts carried", counters.sent);
            add("broadcasts delivered", counters.delivered);
            add("dropped: broadcasts over the limit", counters.dropped_limited);
            add("dropped: broadcasts seen twice", counters.dropped_duplicate);
            add("dropped: broadcasts of strangers", counters.dropped_stranger);
            add("dropped: broadcasts to nobody", counters.dropped_alone);
            add("dropped: broadcasts, mailbox full", counters.dropped_busy);
        }
        if let Ok(view) = running.nat.send(GetNat).await {
            let counters = view.counters;
            add("dropped: datagrams of strangers", counters.dropped_foreign);
            add("dropped: unknown datagrams", counters.dropped_unknown);
            add("dropped: handshakes over the rate limit", counters.dropped_rate_limited);
            add("dropped: peer mailbox full (inbound)", counters.dropped_peer_busy);
            add("dropped: relay mailbox full", counters.dropped_relay);
            add("dropped: data socket", counters.dropped_send_failed);
            add("STUN answers", counters.stun_answers);
            add("STUN served by members", counters.stun_served);
        }
        if let Ok(view) = running.relay.send(GetRelays).await {
            add("relayed by members", view.service.forwarded);
        }
        if let Ok(registered) = running.registry.send(CountPeers).await
            && registered > peers.len()
        {
            leaked.push(format!("node {node} runs {registered} PeerActors for {} peers", peers.len()));
        }
        if let Ok(state) = running.party.send(Inspect).await {
            add("party: garbage frames", state.counters.garbage);
            add("party: frames over the rate limit", state.counters.rate_limited);
            add("party: refused items", state.counters.refused_items);
            add("party: refused proofs", state.counters.refused_proofs);
            add("party: refused links", state.counters.refused_links);
            add("party: dropped outputs", state.counters.dropped_outputs);
            add("party: dropped sends", state.counters.dropped_sends);
        }
        if let Ok(tun) = running.tun.send(GetTun).await {
            add("dropped: no route", tun.counters.dropped_no_route);
            add("dropped: peer mailbox full (outbound)", tun.counters.dropped_peer_busy);
            add("dropped: device refused", tun.counters.dropped_write_failed);
        }
    }
    for &relay in script.relays.keys() {
        if let Some(view) = script.relay_view(relay).await {
            add("relayed by relays", view.service.forwarded);
        }
    }
    bystanders(script);
    broadcasts(script);
    for leak in leaked {
        script.fail(leak);
    }
    if restarts > 0 {
        script.fail(format!("PeerActors were restarted {restarts} times"));
    }
    if let Some(name) = must_count
        && totals.get(name).copied().unwrap_or(0) == 0
    {
        script.fail(format!("nothing was counted as `{name}`"));
    }
    for (name, value) in totals {
        if value > 0 {
            script.report.figure(name, value as f64, "");
        }
    }
}

//! Games that shout: discovery beacons of every node and a storm of one, and the check that each broadcast comes exactly
//! once to each member, to nobody else, and never back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use lanrage_actors::wire::Ipv4Range;
use serde::Deserialize;

use super::clock;
use super::game;
use super::world::{Event, World};

const MAGIC: [u8; 8] = *b"sim cast";
/// Magic, sender, number, whether it belongs to the storm, time.
const MIN_PAYLOAD: usize = 8 + 4 + 4 + 1 + 8;
/// Where games shout, in turn: everybody, the network, a multicast group (Minecraft's).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 2, 60);
const PORT: u16 = 4445;
const STORM_PORT: u16 = 6112;
/// A storm is sent in bursts of this.
const BURST: Duration = Duration::from_millis(10);
/// What was sent less than this ago may still be under way.
const UNDER_WAY: Duration = Duration::from_secs(3);

/// As in a scenario's `[run.beacon]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BeaconSettings {
    /// A broadcast from each node so often; 0: none.
    pub every_s: f64,
    /// Of the UDP payload.
    pub bytes: usize,
    /// The first node sends so many a second …
    pub storm_pps: f64,
    /// … for this long, once `do = "storm"` has begun it.
    pub storm_s: f64,
    /// Most broadcasts of the storm that a member may be handed in one second; 0: not looked at.
    pub storm_max: u64,
}

#[derive(Debug)]
struct Sent {
    at: Duration,
    /// Who must get it and has not yet.
    missing: BTreeSet<usize>,
}

/// What became of the broadcasts.
#[derive(Debug, Default)]
pub struct Beacons {
    pub settings: BeaconSettings,
    numbers: BTreeMap<usize, u32>,
    sent: BTreeMap<(usize, u32), Sent>,
    /// Receiver, sender, number: what has come.
    got: BTreeSet<(usize, usize, u32)>,
    pub copies: u64,
    pub storm_sent: u64,
    pub storm_got: u64,
    storm_until: Duration,
    /// By receiver: the second, and how many in it.
    storm_second: BTreeMap<usize, (u64, u64)>,
    pub storm_most: u64,
}

impl Beacons {
    #[must_use]
    pub fn new(settings: BeaconSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// How many were sent that had to arrive.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sent.len()
    }

    /// Broadcasts that somebody should have got: sender, number, and how many did not.
    #[must_use]
    pub fn lost(&self) -> Vec<(usize, u32, usize)> {
        let now = clock::elapsed();
        let late = self.sent.iter().filter(|(_, sent)| sent.at + UNDER_WAY < now && !sent.missing.is_empty());
        late.map(|((from, number), sent)| (*from, *number, sent.missing.len())).collect()
    }
}

/// Starts the beacons of a node that has just started.
pub fn start(world: &mut World, node: usize) {
    let every = world.beacons.settings.every_s;
    if every > 0.0 {
        // Not all in step.
        let share = f64::from(u32::try_from(node % 89).unwrap_or(0)) / 89.0;
        let run = world.ports[node].run;
        world.after(Duration::from_secs_f64(every * share), Event::Beacon(node, run));
    }
}

/// From now on the first node sends as fast as it is told.
pub fn storm(world: &mut World) {
    let settings = &world.beacons.settings;
    world.beacons.storm_until = clock::elapsed() + Duration::from_secs_f64(settings.storm_s);
    world.after(BURST, Event::Storm(0));
}

pub fn tick(world: &mut World, node: usize) {
    let every = Duration::from_secs_f64(world.beacons.settings.every_s);
    let run = world.ports[node].run;
    world.after(every, Event::Beacon(node, run));
    if world.ports[node].asleep {
        return;
    }
    let (Some(own), Some(party)) = (world.ports[node].virtual_ip, world.game.party_of[node]) else { return };
    let number = world.beacons.numbers.entry(node).or_default();
    *number += 1;
    let number = *number;
    let destination = [Ipv4Addr::BROADCAST, Ipv4Range::DEFAULT.broadcast(), GROUP][number as usize % 3];
    if world.game.counting {
        let reached = |other: &usize| *other != node && world.reached(node, *other);
        let missing = world.game.members[party].iter().copied().filter(reached).collect();
        world.beacons.sent.insert((node, number), Sent { at: clock::elapsed(), missing });
    }
    let payload = payload(node, number, false, world.beacons.settings.bytes);
    game::shout(world, node, game::datagram(own, destination, PORT, &payload));
}

pub fn burst(world: &mut World, node: usize) {
    if clock::elapsed() >= world.beacons.storm_until {
        return;
    }
    world.after(BURST, Event::Storm(node));
    let Some(own) = world.ports[node].virtual_ip else { return };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of a scenario")]
    let count = (world.beacons.settings.storm_pps * BURST.as_secs_f64()).round() as u32;
    for number in 0..count {
        let payload = payload(node, number, true, world.beacons.settings.bytes);
        game::shout(world, node, game::datagram(own, Ipv4Addr::BROADCAST, STORM_PORT, &payload));
        world.beacons.storm_sent += 1;
    }
}

fn payload(node: usize, number: u32, storm: bool, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes.max(MIN_PAYLOAD)];
    payload[..8].copy_from_slice(&MAGIC);
    payload[8..12].copy_from_slice(&u32::try_from(node).unwrap_or(u32::MAX).to_le_bytes());
    payload[12..16].copy_from_slice(&number.to_le_bytes());
    payload[16] = u8::from(storm);
    payload
}

/// A packet came out of a node's tunnel. `None`: it is no broadcast; else what is wrong with it, if anything is.
pub fn arrived(world: &mut World, node: usize, payload: &[u8]) -> Option<Option<String>> {
    let number = |at: usize| Some(u32::from_le_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    if payload.get(..8)? != MAGIC {
        return None;
    }
    let (sender, count, storm) = (number(8)? as usize, number(12)?, *payload.get(16)? == 1);
    if sender == node {
        return Some(Some(format!("a broadcast of {node} came back to it")));
    }
    if !world.game.together(sender, node) {
        return Some(Some(format!("a broadcast of {sender} came to {node}, which is not in its party")));
    }
    let beacons = &mut world.beacons;
    if storm {
        beacons.storm_got += 1;
        let second = clock::elapsed().as_secs();
        let seen = beacons.storm_second.entry(node).or_default();
        *seen = if seen.0 == second { (second, seen.1 + 1) } else { (second, 1) };
        beacons.storm_most = beacons.storm_most.max(seen.1);
        return Some(None);
    }
    if !beacons.got.insert((node, sender, count)) {
        return Some(Some(format!("broadcast {count} of {sender} came twice to {node}")));
    }
    beacons.copies += 1;
    if let Some(sent) = beacons.sent.get_mut(&(sender, count)) {
        sent.missing.remove(&node);
    }
    Some(None)
}

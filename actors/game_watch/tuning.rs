//! What the running games want, made one.
//!
//! Where several games run, each setting has its own rule, so that no game gets less than it asked for where that can
//! be: the shortest keepalive, the smallest MTU, redundancy when one wants it. A relay is refused only when all refuse
//! it, since a friend who is reached by a relay alone would be lost to the others.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::messages::Applied;
use super::profile::{Priority, Profile, Redundancy, RelayUse, Word};
use crate::broadcast::messages::{GameRules, PortRule};
use crate::peer::messages::{self as peer, PeerTuning, RelayPolicy};
use crate::tun::messages::ClassRule;
use crate::wire::{Class, IpProtocol, Urgency};

/// Ports and groups of all games; more are left out.
const MAX_PORTS: usize = 64;
const MAX_GROUPS: usize = 16;

/// All settings, and why they are what they are. The default is what holds without a game.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub peer: PeerTuning,
    pub mtu: Option<u16>,
    pub classes: Vec<ClassRule>,
    pub broadcast: GameRules,
    pub applied: Vec<Applied>,
}

/// A running game as far as tuning goes.
#[derive(Debug, Clone, Copy)]
pub struct Playing<'a> {
    pub profile: &'a Profile,
    pub listening: &'a [(IpProtocol, SocketAddr)],
}

#[must_use]
pub fn wanted(games: &[Playing<'_>]) -> Wanted {
    let mut wanted = Wanted::default();
    keepalive(games, &mut wanted);
    mtu(games, &mut wanted);
    priority(games, &mut wanted);
    redundancy(games, &mut wanted);
    relay(games, &mut wanted);
    broadcast(games, &mut wanted);
    wanted
}

fn note<'a>(
    wanted: &mut Wanted,
    what: &str,
    value: String,
    games: impl Iterator<Item = &'a Playing<'a>>,
    reason: impl Into<String>,
) {
    let mut games: Vec<String> = games.map(|game| game.profile.id.clone()).collect();
    games.dedup();
    wanted.applied.push(Applied { what: what.to_owned(), value, games, reason: reason.into() });
}

fn keepalive(games: &[Playing<'_>], wanted: &mut Wanted) {
    let Some(least) = games.iter().filter_map(|game| game.profile.tuning.keepalive_s).min() else { return };
    wanted.peer.keepalive = Some(Duration::from_secs(least.into()));
    let of = games.iter().filter(|game| game.profile.tuning.keepalive_s == Some(least));
    note(wanted, "keepalive", format!("{least} s"), of, "the shortest that a running game asks for");
}

fn mtu(games: &[Playing<'_>], wanted: &mut Wanted) {
    let Some(least) = games.iter().filter_map(|game| game.profile.tuning.mtu).min() else { return };
    wanted.mtu = Some(least);
    let of = games.iter().filter(|game| game.profile.tuning.mtu == Some(least));
    note(
        wanted,
        "mtu",
        format!("{least} bytes"),
        of,
        "the smallest that a running game asks for; the configured one where that is smaller",
    );
}

/// How packets of a game of this priority are treated.
#[must_use]
pub fn class(priority: Priority) -> Class {
    let urgency = match priority {
        Priority::Low => Urgency::Background,
        Priority::Normal | Priority::Game | Priority::Voice => Urgency::Expedited,
    };
    Class { urgency, dscp: priority.dscp().unwrap_or(0) }
}

fn priority(games: &[Playing<'_>], wanted: &mut Wanted) {
    let mut rules: Vec<ClassRule> = Vec::new();
    for game in games {
        let priority = game.profile.tuning.priority;
        let class = class(priority);
        let ports = ports(game);
        if ports.is_empty() {
            continue;
        }
        let own = ports.into_iter().map(|(protocol, ports)| ClassRule::new(protocol, ports, class));
        let own: Vec<ClassRule> = own.collect();
        let mark = if class.dscp == 0 { "not marked".to_owned() } else { format!("DSCP {}", class.dscp) };
        let value = format!("{} ({mark}) on {}", priority.word(), shown(&own));
        let reason = match class.urgency {
            Urgency::Background => "its packets can wait",
            Urgency::Expedited | Urgency::Bulk => "its packets go ahead of transfers",
        };
        note(wanted, "priority", value, std::iter::once(game), reason);
        rules.extend(own);
    }
    // The first rule that fits counts: where two games share a port, the more urgent has it.
    rules.sort_by_key(|rule| (rule.class.urgency, Reverse(rule.class.dscp)));
    rules.truncate(MAX_PORTS);
    wanted.classes = rules;
}

type Ports = (IpProtocol, RangeInclusive<u16>);

/// Those of the profile, and those that are open; none within another.
fn ports(game: &Playing<'_>) -> Vec<Ports> {
    let known = game.profile.ports.iter().map(|it| (it.protocol, RangeInclusive::from(it.port)));
    let open = game.listening.iter().map(|(protocol, addr)| (*protocol, addr.port()..=addr.port()));
    let all: Vec<Ports> = known.chain(open).collect();
    let within = |it: &Ports, by: &Ports| it.0 == by.0 && by.1.contains(it.1.start()) && by.1.contains(it.1.end());
    let mut kept: Vec<Ports> = Vec::new();
    for ports in &all {
        if !kept.iter().any(|by| within(ports, by)) && !all.iter().any(|by| by != ports && within(ports, by)) {
            kept.push(ports.clone());
        }
    }
    kept
}

fn shown(rules: &[ClassRule]) -> String {
    let ports: Vec<String> = rules
        .iter()
        .map(|rule| match (rule.ports.start(), rule.ports.end()) {
            (first, last) if first == last => format!("{} {first}", rule.protocol),
            (first, last) => format!("{} {first}-{last}", rule.protocol),
        })
        .collect();
    ports.join(", ")
}

fn redundancy(games: &[Playing<'_>], wanted: &mut Wanted) {
    let any = |of| games.iter().any(|game| game.profile.tuning.redundancy == of);
    let (mode, of, reason) = if any(Redundancy::On) {
        (peer::Redundancy::On, Redundancy::On, "small packets go out on two paths")
    } else if any(Redundancy::Off) {
        (peer::Redundancy::Off, Redundancy::Off, "no running game wants packets twice")
    } else {
        return;
    };
    wanted.peer.redundancy = mode;
    let games = games.iter().filter(|game| game.profile.tuning.redundancy == of);
    note(wanted, "redundancy", of.word().to_owned(), games, reason);
}

fn relay(games: &[Playing<'_>], wanted: &mut Wanted) {
    let uses = || games.iter().map(|game| game.profile.tuning.relay);
    let (policy, of, reason) = if !games.is_empty() && uses().all(|it| it == RelayUse::Never) {
        (RelayPolicy::Never, RelayUse::Never, "members who are not reached straight are not reached")
    } else if uses().any(|it| it != RelayUse::Auto) {
        (RelayPolicy::Avoid, RelayUse::Avoid, "a relay is used only while there is no other way")
    } else {
        return;
    };
    wanted.peer.relay = policy;
    let games = games.iter().filter(|game| game.profile.tuning.relay != RelayUse::Auto);
    note(wanted, "relay", of.word().to_owned(), games, reason);
}

fn broadcast(games: &[Playing<'_>], wanted: &mut Wanted) {
    let mut ports = BTreeSet::new();
    let mut groups = BTreeSet::new();
    let mut of = Vec::new();
    for game in games {
        let Some(discovery) = &game.profile.discovery else { continue };
        let before = (ports.len(), groups.len());
        ports.extend(discovery.ports.iter().map(|range| (range.first(), range.last())));
        groups.extend(discovery.groups.iter().filter_map(|group| match group {
            IpAddr::V4(group) => Some(*group),
            IpAddr::V6(_) => None,
        }));
        if before != (ports.len(), groups.len()) {
            of.push(game);
        }
    }
    if ports.is_empty() && groups.is_empty() {
        return;
    }
    let ports: Vec<_> = ports.into_iter().take(MAX_PORTS).map(|(first, last)| PortRule { first, last }).collect();
    let groups: Vec<_> = groups.into_iter().take(MAX_GROUPS).collect();
    let mut value: Vec<String> = ports
        .iter()
        .map(|it| if it.first == it.last { it.first.to_string() } else { format!("{}-{}", it.first, it.last) })
        .collect();
    value.extend(groups.iter().map(ToString::to_string));
    wanted.broadcast = GameRules { ports, groups };
    note(
        wanted,
        "discovery",
        value.join(", "),
        of.into_iter(),
        "the game's broadcasts and groups are carried between the members",
    );
}

#[cfg(test)]
#[path = "tuning_tests.rs"]
pub(super) mod tests;

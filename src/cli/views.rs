//! What the commands read from the node's answers, and how they show it.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

use super::print::{clean, table};

#[derive(Debug, Deserialize)]
pub(super) struct Status {
    peer_id: String,
    name: String,
    version: String,
    api: SocketAddr,
    party: Option<Party>,
    tun: Option<Tun>,
    #[serde(default)]
    broadcast: Option<Broadcast>,
    #[serde(default)]
    games: Option<Games>,
    notices: Vec<String>,
    problems: Vec<Trouble>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Tun {
    pub(super) name: String,
    pub(super) mtu: u16,
    pub(super) state: String,
    pub(super) problem: Option<String>,
    #[serde(default)]
    plays: Vec<Play>,
}

#[derive(Debug, Clone, Deserialize)]
struct Play {
    pid: u32,
    game: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Broadcast {
    carry: String,
    counters: BroadcastCounters,
    captures: Vec<Capture>,
}

#[derive(Debug, Deserialize)]
struct BroadcastCounters {
    sent: u64,
    delivered: u64,
    dropped_limited: u64,
}

#[derive(Debug, Deserialize)]
struct Capture {
    interface: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Games {
    running: Vec<RunningGame>,
    applied: Vec<Applied>,
}

#[derive(Debug, Deserialize)]
struct RunningGame {
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Applied {
    what: String,
    value: String,
    games: Vec<String>,
    reason: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Trouble {
    pub(super) message: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Party {
    pub(super) name: String,
    pub(super) code: String,
    pub(super) link: String,
    pub(super) virtual_ip: Ipv4Addr,
    pub(super) host: String,
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Member {
    name: String,
    virtual_ip: Ipv4Addr,
    host: bool,
    me: bool,
    online: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Remembered {
    name: String,
    code: Option<String>,
    members: usize,
    virtual_ip: Ipv4Addr,
    state: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Path {
    pub(super) kind: String,
    pub(super) endpoint: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Peer {
    name: String,
    virtual_ip: Ipv4Addr,
    connected: bool,
    path: Path,
    rtt_ms: Option<f64>,
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pong {
    pub(super) name: String,
    pub(super) virtual_ip: Ipv4Addr,
    pub(super) path: Path,
    pub(super) time_ms: f64,
}

pub(super) fn status(status: &Status) -> String {
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    let mut rows = vec![
        row("LANrage", format!("{}, API at {}", status.version, status.api)),
        row("you", format!("{} ({})", clean(&status.name), status.peer_id)),
    ];
    if let Some(party) = &status.party {
        rows.push(row("party", format!("{}, host {}", clean(&party.name), clean(&party.host))));
        rows.push(row("code", party.code.clone()));
        rows.push(row("virtual IP", party.virtual_ip.to_string()));
    } else {
        rows.push(row("party", "none; lanrage party create, or lanrage party join CODE".to_owned()));
    }
    if let Some(tun) = &status.tun {
        rows.push(row("device", format!("{}: {} (MTU {})", tun.name, device_state(&tun.state), tun.mtu)));
        for play in &tun.plays {
            let game = play.game.as_ref().map(|game| format!(" ({})", clean(game))).unwrap_or_default();
            rows.push(row("lanrage play", format!("process {}{game}", play.pid)));
        }
    }
    if let (Some(broadcast), Some(_)) = (&status.broadcast, &status.party) {
        rows.push(row("broadcasts", shouts(broadcast)));
    }
    let mut text = table(&rows);
    if let Some(party) = &status.party {
        text.push_str("\n\nmembers\n");
        text.push_str(&members(party));
    }
    if let Some(games) = status.games.as_ref().filter(|games| !games.running.is_empty()) {
        text.push_str("\n\ngames running here\n");
        let line = |game: &RunningGame| vec![format!("  {}", clean(&game.name)), clean(&game.reason)];
        text.push_str(&table(&games.running.iter().map(line).collect::<Vec<_>>()));
        if !games.applied.is_empty() {
            text.push_str("\n\nset for them\n");
            text.push_str(&table(&games.applied.iter().map(applied).collect::<Vec<_>>()));
        }
    }
    for notice in &status.notices {
        text.push_str(&format!("\n\nnote: {}", clean(notice)));
    }
    for problem in &status.problems {
        text.push_str(&format!("\n\nproblem: {}", clean(&problem.message)));
    }
    text
}

/// `on eth0 and the device; 12 sent, 34 received`
fn shouts(broadcast: &Broadcast) -> String {
    if broadcast.carry == "off" {
        return "off".to_owned();
    }
    let captured = broadcast.captures.iter().filter(|it| it.state == "running").map(|it| clean(&it.interface));
    let places: Vec<String> = captured.chain(["the device".to_owned()]).collect();
    let BroadcastCounters { sent, delivered, dropped_limited } = broadcast.counters;
    let limited = if dropped_limited > 0 { format!(", {dropped_limited} beyond the limits") } else { String::new() };
    format!("on {}; {sent} sent, {delivered} received{limited}", places.join(" and "))
}

fn applied(it: &Applied) -> Vec<String> {
    let why = format!("{} ({})", clean(&it.games.join(", ")), clean(&it.reason));
    vec![format!("  {}", clean(&it.what)), clean(&it.value), why]
}

fn device_state(state: &str) -> &str {
    match state {
        "idle" => "not needed without a party",
        "up" => "up",
        "no_permission" => "not allowed",
        "range_clash" => "address clash",
        other => other,
    }
}

pub(super) fn members(party: &Party) -> String {
    let rows: Vec<Vec<String>> = party.members.iter().map(member).collect();
    table(&rows)
}

fn member(member: &Member) -> Vec<String> {
    let marks = [(member.me, "you"), (member.host, "host"), (!member.online, "offline")];
    let marks: Vec<&str> = marks.into_iter().filter_map(|(holds, mark)| holds.then_some(mark)).collect();
    vec![format!("  {}", clean(&member.name)), member.virtual_ip.to_string(), marks.join(", ")]
}

/// What became of the network device, as far as a party needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DeviceIs<'a> {
    There,
    Coming,
    /// With the reason, and what to do.
    Missing(&'a str),
}

impl Status {
    pub(super) fn device(&self) -> DeviceIs<'_> {
        match &self.tun {
            None => DeviceIs::There,
            Some(Tun { problem: Some(problem), .. }) => DeviceIs::Missing(problem),
            Some(tun) if tun.state == "up" => DeviceIs::There,
            Some(_) => DeviceIs::Coming,
        }
    }
}

pub(super) fn created(party: &Party) -> String {
    format!(
        "The party \"{}\" is open. Your virtual IP is {}.\n\n  {}\n\nTell your friends this code; they type: lanrage party join {}\nOr send them this link, which finds you faster; they type: lanrage party join '{}'",
        clean(&party.name),
        party.virtual_ip,
        party.code,
        party.code,
        clean(&party.link)
    )
}

pub(super) fn joined(party: &Party) -> String {
    let alone = party.members.iter().all(|member| member.me || !member.online);
    let hint = if alone {
        "None of the others is here now. If they are playing, the party has a new code: ask them for it."
    } else {
        "In the game, join a member by virtual IP. See the connections with: lanrage peers"
    };
    format!(
        "You are in the party \"{}\" (host {}). Your virtual IP is {}.\n\n{}\n\n{hint}",
        clean(&party.name),
        clean(&party.host),
        party.virtual_ip,
        members(party)
    )
}

pub(super) fn kicked(party: &Party, who: &str) -> String {
    format!("{} is out. The party's new code is {}", clean(who), party.code)
}

pub(super) fn remembered(parties: &[Remembered]) -> String {
    if parties.is_empty() {
        return "No parties yet. Start one with: lanrage party create".to_owned();
    }
    let head = ["party", "code", "state", "members", "your virtual IP"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(parties.iter().map(|party| {
        vec![
            clean(&party.name),
            party.code.clone().unwrap_or_else(|| "-".to_owned()),
            party.state.clone(),
            party.members.to_string(),
            party.virtual_ip.to_string(),
        ]
    }));
    table(&rows)
}

pub(super) fn peers(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "Nobody else is here. Your friends join with the party's code; see: lanrage status".to_owned();
    }
    let head = ["name", "virtual IP", "connection", "ping", "received", "sent"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(peers.iter().map(|peer| {
        vec![
            clean(&peer.name),
            peer.virtual_ip.to_string(),
            if peer.connected { path(&peer.path) } else { "not connected".to_owned() },
            peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
            bytes(peer.rx_bytes),
            bytes(peer.tx_bytes),
        ]
    }));
    table(&rows)
}

pub(super) fn path(path: &Path) -> String {
    path.endpoint.map_or_else(|| path.kind.clone(), |endpoint| format!("{} {endpoint}", path.kind))
}

pub(super) fn pong(pong: &Pong, seq: u32) -> String {
    let Pong { name, virtual_ip, path: over, time_ms } = pong;
    format!("reply from {} ({virtual_ip}) via {}: seq={seq} time={time_ms:.2} ms", clean(name), path(over))
}

fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in units {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_reads_well() {
        let value = json!({
            "peer_id": "12D3KooWx", "name": "ann", "version": "0.1.0", "api": "127.0.0.1:8666",
            "tun": {"name": "lanrage0", "mtu": 1360, "state": "no_permission", "problem": "p"},
            "broadcast": {"carry": "all", "counters": {"sent": 12, "delivered": 34, "dropped_limited": 5},
                "captures": [{"interface": "eth0", "state": "running"}, {"interface": "wlan0", "state": "failed"}]},
            "party": {"id": "00", "name": "ann's", "code": "K7QM-2XPA-9DRK", "link": "lanrage://join/x", "virtual_ip": "10.66.0.1",
                "host": "ann", "members": [
                    {"name": "ann", "virtual_ip": "10.66.0.1", "host": true, "me": true, "online": true},
                    {"name": "b\u{1b}ob", "virtual_ip": "10.66.0.2", "host": false, "me": false, "online": false}]},
            "notices": ["old database set aside"], "problems": [{"part": "tun", "message": "run setcap"}],
        });
        let value: Status = serde_json::from_value(value).unwrap();
        assert_eq!(value.device(), DeviceIs::Missing("p"));
        let text = status(&value);
        for part in [
            "code        K7QM-2XPA-9DRK",
            "virtual IP  10.66.0.1",
            "lanrage0: not allowed (MTU 1360)",
            "broadcasts  on eth0 and the device; 12 sent, 34 received, 5 beyond the limits",
            "  ann   10.66.0.1  you, host",
            "  b?ob  10.66.0.2  offline",
            "note: old database",
            "problem: run setcap",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let alone = json!({"peer_id": "p", "name": "n", "version": "1", "api": "[::1]:1", "tun": null, "party": null, "notices": [], "problems": []});
        let mut party = value.party.unwrap();
        assert!(joined(&party).contains("None of the others is here"), "bob is away");
        party.members[1].online = true;
        assert!(joined(&party).ends_with("lanrage peers"));
        let alone: Status = serde_json::from_value(alone).unwrap();
        assert_eq!(alone.device(), DeviceIs::There);
        assert!(status(&alone).contains("lanrage party create"));
    }

    #[test]
    fn peers_and_pings_read_well() {
        let peer = json!({"name": "bob", "virtual_ip": "10.66.3.4", "connected": true, "rtt_ms": 0.84, "rx_bytes": 999, "tx_bytes": 1_234_567,
            "path": {"kind": "direct", "endpoint": "203.0.113.5:41641"}});
        let gone = json!({"name": "eve", "virtual_ip": "10.66.3.5", "connected": false, "rtt_ms": null, "rx_bytes": 0, "tx_bytes": 0,
            "path": {"kind": "none", "endpoint": null}});
        let text = peers(&serde_json::from_value::<Vec<Peer>>(json!([peer, gone])).unwrap());
        assert!(text.contains("bob   10.66.3.4   direct 203.0.113.5:41641  0.8 ms  999 B     1.2 MB"), "{text}");
        assert!(text.contains("eve   10.66.3.5   not connected"), "{text}");
        assert!(peers(&[]).contains("Nobody else"));
        let value = json!({"peer_id": "p", "name": "bob", "virtual_ip": "10.66.3.4", "path": {"kind": "direct", "endpoint": "203.0.113.5:41641"}, "time_ms": 0.8404});
        assert_eq!(
            pong(&serde_json::from_value(value).unwrap(), 1),
            "reply from bob (10.66.3.4) via direct 203.0.113.5:41641: seq=1 time=0.84 ms"
        );
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }
}

//! Players of one party find each other over the DHT and talk: the shipped `DiscoveryActor`, with a recorder in place of
//! the party.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use actix::prelude::*;
use lanrage_actors::discovery::messages::{
    GetDiscovery, LinkClosed, LinkFrame, LinkId, LinkOpened, NodeAddrs, OwnAddrs, Seek, SendFrame,
};
use lanrage_actors::discovery::{
    BindDiscovery, DiscoveryActor, DiscoveryConfig, Links, Network as Stack, Role, UPGRADE_TIMEOUT,
};
use lanrage_actors::wire::NodeId;
use libp2p::PeerId;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use tokio::time::Instant;

use super::dht::{Dht, ratio};
use super::net::{HostId, now};
use super::node::{DHT, PORT};
use super::settings::Party;
use super::transport;
use crate::charts::Chart;
use crate::report::{Report, Table, spread};
use crate::tier::Job;

/// Frames sent each way over a link once it is open.
const FRAMES: u32 = 10;
const FRAME_BYTES: usize = 512;
/// All players are in this one process.
const NO_LIMIT: usize = usize::MAX;

/// What a player's party would have seen.
#[derive(Debug, Default)]
struct Seen {
    /// When the first link to each node opened, and whether it went through a circuit.
    opened: BTreeMap<NodeId, (Instant, bool)>,
    links: BTreeMap<LinkId, NodeId>,
    closed: u32,
    /// When each ping came back, and what was heard that nobody had said.
    echoes: Vec<Duration>,
    strange: u32,
    unsent: u32,
}

/// Answers each ping; sends pings on the links that it opened.
struct Recorder {
    key: [u8; 32],
    seen: Rc<RefCell<Seen>>,
    discovery: Addr<DiscoveryActor>,
}

impl Recorder {
    fn send(&self, link: LinkId, frame: Vec<u8>) {
        if self.discovery.try_send(SendFrame { link, frame }).is_err() {
            self.seen.borrow_mut().unsent += 1;
        }
    }
}

impl Actor for Recorder {
    type Context = Context<Self>;
}

const PING: u8 = 1;
const PONG: u8 = 2;

fn frame(kind: u8, at: Instant, start: Instant) -> Vec<u8> {
    let mut frame = vec![kind; FRAME_BYTES];
    let nanos = u64::try_from(at.duration_since(start).as_nanos()).unwrap_or(u64::MAX);
    frame[1..9].copy_from_slice(&nanos.to_be_bytes());
    frame
}

impl Handler<LinkOpened> for Recorder {
    type Result = ();

    fn handle(&mut self, opened: LinkOpened, _: &mut Self::Context) {
        {
            let mut seen = self.seen.borrow_mut();
            seen.links.insert(opened.link, opened.node);
            seen.opened.entry(opened.node).or_insert_with(|| (now(), opened.remote_ip.is_none()));
        }
        // As the party does: whoever was found is kept, and the search becomes calm.
        let nodes = self.seen.borrow().opened.keys().map(|&node| NodeAddrs { node, addrs: Vec::new() }).collect();
        if self.discovery.try_send(Seek { keys: vec![self.key], nodes, eager: false }).is_err() {
            self.seen.borrow_mut().unsent += 1;
        }
        for _ in 0..FRAMES {
            // The time of sending is inside; the process starts at zero.
            self.send(opened.link, frame(PING, now(), epoch()));
        }
    }
}

impl Handler<LinkFrame> for Recorder {
    type Result = ();

    fn handle(&mut self, LinkFrame { link, mut frame }: LinkFrame, _: &mut Self::Context) {
        let sent = frame.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        match (frame.first(), sent) {
            (Some(&PING), Some(_)) if frame.len() == FRAME_BYTES => {
                frame[0] = PONG;
                self.send(link, frame);
            }
            (Some(&PONG), Some(nanos)) if frame.len() == FRAME_BYTES => {
                let sent = epoch() + Duration::from_nanos(nanos);
                self.seen.borrow_mut().echoes.push(now().duration_since(sent));
            }
            _ => self.seen.borrow_mut().strange += 1,
        }
    }
}

impl Handler<LinkClosed> for Recorder {
    type Result = ();

    fn handle(&mut self, LinkClosed(link): LinkClosed, _: &mut Self::Context) {
        let mut seen = self.seen.borrow_mut();
        seen.links.remove(&link);
        seen.closed += 1;
    }
}

impl Handler<OwnAddrs> for Recorder {
    type Result = ();

    fn handle(&mut self, _: OwnAddrs, _: &mut Self::Context) {}
}

thread_local! {
    static EPOCH: Instant = now();
}

fn epoch() -> Instant {
    EPOCH.with(|epoch| *epoch)
}

struct Player {
    node: NodeId,
    host: HostId,
    behind_nat: bool,
    party: usize,
    joined: Instant,
    discovery: Addr<DiscoveryActor>,
    seen: Rc<RefCell<Seen>>,
}

pub(super) async fn run(job: &Job<'_>, settings: &Party, report: &mut Report) -> io::Result<()> {
    let start = epoch();
    let mut rng = ChaCha12Rng::seed_from_u64(job.seed);
    let dht = Dht::form(&mut rng, job.peers as usize, 0, &settings.dht, job.progress).await?;
    let mut players = Vec::new();
    let (parties, members) = (settings.parties, settings.members);
    for party in 0..parties {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        for member in 0..members {
            // The first of each party is the creator; the others come when they have the code.
            let behind_nat = member < settings.behind_nat;
            players.push(join(&mut rng, &dht, party, behind_nat, key)?);
            tokio::time::sleep(Duration::from_secs_f64(settings.join_every)).await;
        }
        job.progress.set(0.5 + 0.4 * ratio(party, parties), "players join");
    }
    tokio::time::sleep(Duration::from_secs_f64(settings.linked_within)).await;
    job.progress.set(0.95, "what they saw");
    judge(&dht, &players, settings, start, report);
    ask(&players, start, report).await;
    report.finish(start.elapsed());
    Ok(())
}

fn join(rng: &mut ChaCha12Rng, dht: &Dht, party: usize, behind_nat: bool, key: [u8; 32]) -> io::Result<Player> {
    let host = dht.net.host(rng, behind_nat);
    let mut signing = [0; 32];
    rng.fill_bytes(&mut signing);
    let keys = libp2p::identity::Keypair::ed25519_from_bytes(signing).map_err(io::Error::other)?;
    let peer: PeerId = keys.public().to_peer_id();
    let node = NodeId::from_peer_id_bytes(&peer.to_bytes()).map_err(|error| io::Error::other(error.to_string()))?;
    let config = DiscoveryConfig {
        role: Role::Node,
        port: PORT,
        bootstrap: dht.contacts(rng).iter().map(|contact| contact.full_addr().to_string()).collect(),
        dht_protocol: DHT.to_owned(),
        mdns: false,
        public_ips: Vec::new(),
        extra_tcp_ports: Vec::new(),
    };
    let stack = Stack {
        transport: transport::secured(dht.net.clone(), host, &keys, UPGRADE_TIMEOUT)?,
        listen: vec![transport::tcp(dht.net.local(host), PORT)],
        memory_limit: NO_LIMIT,
    };
    let discovery = DiscoveryActor::with_network(config, signing, stack).map_err(io::Error::other)?.start();
    let seen = Rc::new(RefCell::new(Seen::default()));
    let recorder = Recorder { key, seen: seen.clone(), discovery: discovery.clone() }.start();
    let links = Links {
        opened: recorder.clone().recipient(),
        frame: recorder.clone().recipient(),
        closed: recorder.clone().recipient(),
        own_addrs: recorder.recipient(),
    };
    let refused = |error: String| io::Error::other(format!("a fresh actor takes no message: {error}"));
    discovery
        .try_send(BindDiscovery { links: Some(links), listening: None })
        .map_err(|error| refused(error.to_string()))?;
    let seek = Seek { keys: vec![key], nodes: Vec::new(), eager: true };
    discovery.try_send(seek).map_err(|error| refused(error.to_string()))?;
    Ok(Player { node, host, behind_nat, party, joined: now(), discovery, seen })
}

fn judge(dht: &Dht, players: &[Player], settings: &Party, start: Instant, report: &mut Report) {
    let (mut direct, mut circuit, mut missing) = (Vec::new(), Vec::new(), 0);
    let (mut echoes, mut kilobytes) = (Vec::new(), Vec::new());
    for (index, player) in players.iter().enumerate() {
        let seen = player.seen.borrow();
        for other in players.iter().filter(|other| other.party == player.party && other.node > player.node) {
            let both = player.joined.max(other.joined);
            let opened = seen.opened.get(&other.node);
            report.event(
                start.elapsed(),
                format_args!(
                    "party {} pair opened {:?}",
                    player.party,
                    opened.map(|(at, via)| (at.duration_since(start), via))
                ),
            );
            match opened {
                Some((at, via_circuit)) => {
                    let took = at.saturating_duration_since(both).as_secs_f64();
                    if *via_circuit {
                        circuit.push(took)
                    } else {
                        direct.push(took)
                    }
                    // Two players behind NATs have no other way here.
                    if player.behind_nat && other.behind_nat && !via_circuit {
                        report.fail(start.elapsed(), format!("party {}: direct through two NATs", player.party));
                    }
                }
                None => {
                    missing += 1;
                    let why = format!(
                        "party {}: no link between two members {:.0} s after both joined (behind NAT: {} and {})",
                        player.party,
                        both.elapsed().as_secs_f64(),
                        player.behind_nat,
                        other.behind_nat
                    );
                    report.fail(start.elapsed(), why);
                }
            }
        }
        let strangers = seen.opened.keys().filter(|node| !players.iter().any(|p| p.node == **node)).count();
        if strangers > 0 || seen.strange > 0 {
            let why = format!("player {index}: {strangers} links to strangers, {} frames nobody sent", seen.strange);
            report.fail(start.elapsed(), why);
        }
        if seen.unsent > 0 {
            report.fail(start.elapsed(), format!("player {index}: {} frames met a full mailbox", seen.unsent));
        }
        if seen.echoes.is_empty() && !seen.opened.is_empty() {
            report.fail(start.elapsed(), format!("player {index}: no frame came back"));
        }
        echoes.extend(seen.echoes.iter().map(|echo| echo.as_secs_f64() * 1000.0));
        let (sent, received) = dht.net.bytes(player.host);
        kilobytes.push((sent + received) as f64 / 1000.0);
    }
    tell(&direct, &circuit, missing, &echoes, &kilobytes, settings, report);
}

/// What discovery says of itself.
async fn ask(players: &[Player], start: Instant, report: &mut Report) {
    for (index, player) in players.iter().enumerate() {
        match player.discovery.send(GetDiscovery).await {
            Ok(view) => report.event(
                start.elapsed(),
                format_args!(
                    "player {index} lookups={} published={} reservations={}",
                    view.lookups, view.published, view.relay_reservations
                ),
            ),
            Err(error) => report.fail(start.elapsed(), format!("player {index}: discovery does not answer: {error}")),
        }
    }
}

fn tell(
    direct: &[f64],
    circuit: &[f64],
    missing: usize,
    echoes: &[f64],
    kilobytes: &[f64],
    settings: &Party,
    report: &mut Report,
) {
    let pairs = direct.len() + circuit.len() + missing;
    report.figure("pairs of members linked", 100.0 * ratio(pairs - missing, pairs), "%");
    report.figure("of these through a circuit", 100.0 * ratio(circuit.len(), pairs - missing), "%");
    let mut table = Table::new("From the moment both members are there", &["", "least", "median", "95 %", "most"]);
    for (name, values) in [
        ("link, direct, s", direct),
        ("link, through a circuit, s", circuit),
        ("a frame and its answer, ms", echoes),
        ("bytes of a player, all of it for finding, kB", kilobytes),
    ] {
        table.row(std::iter::once(name.to_owned()).chain(spread(values)));
    }
    report.tables.push(table);
    report.charts.push(Chart::distribution(
        "join",
        "Until two members are linked",
        "virtual seconds",
        &[("direct", direct), ("circuit", circuit)],
    ));
    report.charts.push(Chart::bars(
        "paths",
        "How pairs of members are linked",
        "pairs",
        vec![
            ("direct".to_owned(), as_f64(direct.len())),
            ("circuit".to_owned(), as_f64(circuit.len())),
            ("not".to_owned(), as_f64(missing)),
        ],
    ));
    report.charts.push(Chart::distribution("latency", "A frame and its answer", "ms", &[("party streams", echoes)]));
    report.charts.push(Chart::distribution("bytes", "Bytes per player", "kB", &[("sent and received", kilobytes)]));
    report.notes.push(format!(
        "{} of {} members of each party are behind a NAT that lets nobody in; holes are not punched here.",
        settings.behind_nat, settings.members
    ));
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
const fn as_f64(n: usize) -> f64 {
    n as f64
}

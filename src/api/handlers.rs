//! One function per route: ask the actors, shape the answer.

use std::net::Ipv4Addr;
use std::time::Duration;

use actix::{Message, Recipient};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Data, Json, Path, Query};
use lanrage_actors::broadcast::bridge::messages::{BridgeView, GetBridge};
use lanrage_actors::broadcast::messages::GetBroadcast;
use lanrage_actors::browser::messages::{GetServers, Hosted, NameHosted};
use lanrage_actors::discovery::messages::{BootstrapView, DiscoveryView, GetDiscovery};
use lanrage_actors::game_watch::messages::GetGames;
use lanrage_actors::metrics::messages::AwaitEvents;
use lanrage_actors::nat::messages::GetNat;
use lanrage_actors::party::messages::{
    CreateParty, GetParty, JoinParty, KickMember, LeaveParty, ListParties, PartyError,
};
use lanrage_actors::peer::messages::{GetPeers, PeerView, Ping, Redundancy, SetRedundancy};
use lanrage_actors::tun::messages::GetTun;
use lanrage_actors::wire::NodeId;
use serde::Deserialize;

use super::answers::{Doctor, Parts, Pong, RedundancySet, Status, Trouble};
use super::error::Problem;
use super::server::Shared;
use crate::system;

type Answer = Result<HttpResponse, Problem>;

/// How long a part may take for a question about its state.
const QUESTION: Duration = Duration::from_secs(2);
/// How long a party command may take that waits for the disk and Argon2id, but for nobody else.
const COMMAND: Duration = Duration::from_secs(30);
/// What a part gets on top of the time that it was told to take.
const GRACE: Duration = Duration::from_secs(5);
const DEFAULT_JOIN_S: u64 = 30;
const MAX_JOIN_S: u64 = 600;
const DEFAULT_PING_MS: u64 = 2000;
const MAX_PING_MS: u64 = 30_000;
/// As many as are remembered.
const MAX_EVENTS: u64 = 1024;
const MAX_WAIT_S: u64 = 30;
/// Finding the bootstrap peers takes some seconds; before that, missing them is no problem.
const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(20);

async fn ask<M>(part: &str, to: &Recipient<M>, message: M, patience: Duration) -> Result<M::Result, Problem>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    to.send(message).timeout(patience).await.map_err(|error| {
        let message = match error {
            actix::MailboxError::Closed => format!("the {part} part of LANrage has stopped; restart LANrage"),
            actix::MailboxError::Timeout => format!("the {part} part of LANrage did not answer in time; try again"),
        };
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    })
}

pub(super) async fn status(shared: Data<Shared>) -> Answer {
    let (facts, actors) = (&shared.state.facts, &shared.state.actors);
    let party = ask("party", &actors.get_party, GetParty, QUESTION).await?;
    let (parts, problems) = parts(&shared).await;
    Ok(HttpResponse::Ok().json(Status {
        peer_id: &facts.peer_id,
        name: &facts.name,
        version: facts.version,
        api: shared.address,
        data_dir: &facts.data_dir,
        uptime_s: facts.started.elapsed().as_secs(),
        party,
        parts,
        notices: &facts.notices,
        problems,
    }))
}

pub(super) async fn netcheck(shared: Data<Shared>) -> Answer {
    let nat = ask("socket", &shared.state.actors.get_nat, GetNat, QUESTION).await?;
    Ok(HttpResponse::Ok().json(nat.report))
}

pub(super) async fn doctor(shared: Data<Shared>) -> Answer {
    let facts = &shared.state.facts;
    let (parts, problems) = parts(&shared).await;
    Ok(HttpResponse::Ok().json(Doctor {
        version: facts.version,
        uptime_s: facts.started.elapsed().as_secs(),
        net_admin: system::has(system::Right::NetAdmin),
        net_raw: system::has(system::Right::NetRaw),
        executable: std::env::current_exe().ok(),
        mdns: facts.mdns,
        parts,
        notices: &facts.notices,
        problems,
    }))
}

/// A part that does not answer is a line among the problems: this is where one looks when something is broken.
async fn parts(shared: &Shared) -> (Parts, Vec<Trouble>) {
    let actors = &shared.state.actors;
    let mut problems = Vec::new();
    let (tun, nat, discovery, broadcast, bridge, games) = futures::join!(
        ask("network device", &actors.get_tun, GetTun, QUESTION),
        ask("socket", &actors.get_nat, GetNat, QUESTION),
        ask("discovery", &actors.get_discovery, GetDiscovery, QUESTION),
        ask("broadcast", &actors.get_broadcast, GetBroadcast, QUESTION),
        bridge_view(shared),
        ask("game watch", &actors.get_games, GetGames, QUESTION),
    );
    let mut note = |part, problem: &Problem| problems.push(Trouble { part, message: problem.message.clone() });
    let parts = Parts {
        tun: tun.inspect_err(|problem| note("tun", problem)).ok(),
        nat: nat.inspect_err(|problem| note("nat", problem)).ok(),
        discovery: discovery.inspect_err(|problem| note("discovery", problem)).ok(),
        broadcast: broadcast.inspect_err(|problem| note("broadcast", problem)).ok(),
        bridge: bridge.inspect_err(|problem| note("bridge", problem)).ok().flatten(),
        games: games.inspect_err(|problem| note("games", problem)).ok(),
    };
    if let Some(message) = parts.games.as_ref().and_then(|games| games.problem.clone()) {
        problems.push(Trouble { part: "games", message });
    }
    let lan = parts.broadcast.iter().flat_map(|view| &view.problems);
    problems.extend(lan.map(|message| Trouble { part: "broadcast", message: message.clone() }));
    let bridged = parts.bridge.iter().flat_map(|view| &view.networks).filter_map(|network| {
        network.problem.as_ref().map(|problem| format!("{} is not bridged: {problem}", network.interface))
    });
    problems.extend(bridged.map(|message| Trouble { part: "bridge", message }));
    if let Some(message) = parts.tun.as_ref().and_then(|tun| tun.problem.clone()) {
        problems.push(Trouble { part: "tun", message });
    }
    let patient = shared.state.facts.started.elapsed() < BOOTSTRAP_PATIENCE;
    if let Some(message) = parts.discovery.as_ref().filter(|_| !patient).and_then(unreached) {
        problems.push(Trouble { part: "discovery", message });
    }
    (parts, problems)
}

fn unreached(view: &DiscoveryView) -> Option<String> {
    if view.bootstrap.is_empty() || view.bootstrap.iter().any(|peer| peer.reached) || view.connected_nodes > 0 {
        return None;
    }
    let tried = |peer: &BootstrapView| peer.last_error.as_ref().map(|error| format!(" ({}: {error})", peer.addr));
    let error = view.bootstrap.iter().find_map(tried).unwrap_or_default();
    Some(format!(
        "none of the bootstrap peers could be reached{error}; friends on your local network are found all the same. Check your internet connection, or name other peers with --bootstrap"
    ))
}

pub(super) async fn games(shared: Data<Shared>) -> Answer {
    Ok(HttpResponse::Ok().json(ask("game watch", &shared.state.actors.get_games, GetGames, QUESTION).await?))
}

pub(super) async fn peers(shared: Data<Shared>) -> Answer {
    Ok(HttpResponse::Ok().json(ask("peer", &shared.state.actors.get_peers, GetPeers, QUESTION).await?))
}

pub(super) async fn broadcast(shared: Data<Shared>) -> Answer {
    Ok(HttpResponse::Ok().json(ask("broadcast", &shared.state.actors.get_broadcast, GetBroadcast, QUESTION).await?))
}

/// Null when nothing is bridged.
pub(super) async fn bridge(shared: Data<Shared>) -> Answer {
    Ok(HttpResponse::Ok().json(bridge_view(&shared).await?))
}

async fn bridge_view(shared: &Shared) -> Result<Option<BridgeView>, Problem> {
    match &shared.state.actors.get_bridge {
        Some(bridge) => ask("bridge", bridge, GetBridge, QUESTION).await.map(Some),
        None => Ok(None),
    }
}

pub(super) async fn servers(shared: Data<Shared>) -> Answer {
    Ok(HttpResponse::Ok().json(ask("browser", &shared.state.actors.get_servers, GetServers, QUESTION).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostedBody {
    servers: Vec<HostedServer>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostedServer {
    /// Id of the game's profile.
    game: String,
    port: u16,
    #[serde(default)]
    query_port: Option<u16>,
}

pub(super) async fn hosted(shared: Data<Shared>, body: Json<HostedBody>) -> Answer {
    let servers = body.into_inner().servers.into_iter();
    let servers = servers.map(|it| Hosted { game: it.game, port: it.port, query_port: it.query_port }).collect();
    ask("browser", &shared.state.actors.name_hosted, NameHosted(servers), QUESTION).await??;
    Ok(HttpResponse::Ok().json(serde_json::json!({})))
}

pub(super) async fn party(shared: Data<Shared>) -> Answer {
    Ok(HttpResponse::Ok().json(ask("party", &shared.state.actors.get_party, GetParty, QUESTION).await?))
}

pub(super) async fn parties(shared: Data<Shared>) -> Answer {
    Ok(HttpResponse::Ok().json(ask("party", &shared.state.actors.list_parties, ListParties, QUESTION).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    #[serde(default)]
    name: Option<String>,
}

pub(super) async fn create(shared: Data<Shared>, body: Json<CreateBody>) -> Answer {
    let message = CreateParty { name: body.into_inner().name };
    Ok(HttpResponse::Ok().json(ask("party", &shared.state.actors.create_party, message, COMMAND).await??))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinBody {
    /// A code or an invite link.
    code: String,
    #[serde(default)]
    timeout_s: Option<u64>,
}

pub(super) async fn join(shared: Data<Shared>, body: Json<JoinBody>) -> Answer {
    let JoinBody { code, timeout_s } = body.into_inner();
    let timeout = Duration::from_secs(within("timeout_s", timeout_s.unwrap_or(DEFAULT_JOIN_S), MAX_JOIN_S)?);
    let message = JoinParty { code_or_link: code, timeout };
    let patience = timeout + COMMAND;
    Ok(HttpResponse::Ok().json(ask("party", &shared.state.actors.join_party, message, patience).await??))
}

pub(super) async fn leave(shared: Data<Shared>) -> Answer {
    ask("party", &shared.state.actors.leave_party, LeaveParty, COMMAND).await??;
    Ok(HttpResponse::Ok().json(serde_json::json!({})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KickBody {
    /// A name, PeerId or virtual IP.
    member: String,
}

pub(super) async fn kick(shared: Data<Shared>, body: Json<KickBody>) -> Answer {
    let message = KickMember { member: body.into_inner().member };
    Ok(HttpResponse::Ok().json(ask("party", &shared.state.actors.kick_member, message, COMMAND).await??))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PingBody {
    /// A name, PeerId or virtual IP.
    peer: String,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

pub(super) async fn ping(shared: Data<Shared>, body: Json<PingBody>) -> Answer {
    let PingBody { peer, timeout_ms } = body.into_inner();
    let timeout = Duration::from_millis(within("timeout_ms", timeout_ms.unwrap_or(DEFAULT_PING_MS), MAX_PING_MS)?);
    let actors = &shared.state.actors;
    let found = member(&shared, &peer, "pinged").await?;
    let time = ask("peer", &actors.ping, Ping { node: found.node, timeout }, timeout + GRACE).await??;
    Ok(HttpResponse::Ok().json(Pong {
        peer_id: found.node.to_string(),
        name: found.name.clone(),
        virtual_ip: found.virtual_ip,
        path: found.path.clone(),
        time_ms: time.as_nanos() as f64 / 1e6,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedundancyBody {
    redundancy: Redundancy,
}

pub(super) async fn redundancy(shared: Data<Shared>, peer: Path<String>, body: Json<RedundancyBody>) -> Answer {
    let redundancy = body.into_inner().redundancy;
    let found = member(&shared, &peer, "tuned").await?;
    let message = SetRedundancy { node: found.node, redundancy };
    ask("peer", &shared.state.actors.set_redundancy, message, QUESTION).await?;
    let PeerView { name, virtual_ip, .. } = found;
    Ok(HttpResponse::Ok().json(RedundancySet { name, virtual_ip, redundancy }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    #[serde(default)]
    after: u64,
    limit: Option<u64>,
    /// How long to wait for an event when there is none yet.
    #[serde(default)]
    wait_s: u64,
}

pub(super) async fn events(shared: Data<Shared>, query: Query<EventsQuery>) -> Answer {
    let EventsQuery { after, limit, wait_s } = query.into_inner();
    let limit = usize::try_from(within("limit", limit.unwrap_or(MAX_EVENTS), MAX_EVENTS)?).unwrap_or(usize::MAX);
    if wait_s > MAX_WAIT_S {
        return Err(Problem::bad_request(format!("`wait_s` must be at most {MAX_WAIT_S}, not {wait_s}")));
    }
    let wait = Duration::from_secs(wait_s);
    let message = AwaitEvents { after, limit, wait };
    let events = ask("history", &shared.state.actors.await_events, message, wait + QUESTION).await?;
    Ok(HttpResponse::Ok().json(events))
}

/// The member that `text` names. `done`: what cannot be done with it otherwise.
async fn member(shared: &Shared, text: &str, done: &str) -> Result<PeerView, Problem> {
    let actors = &shared.state.actors;
    let peers = ask("peer", &actors.get_peers, GetPeers, QUESTION).await?;
    if let Some(found) = find(&peers, text) {
        return Ok(found.clone());
    }
    if ask("party", &actors.get_party, GetParty, QUESTION).await?.is_none() {
        let problem = Problem::from(PartyError::NotInParty);
        let message = format!("nobody called \"{text}\" can be {done}: {}", problem.message);
        return Err(Problem { message, ..problem });
    }
    let message = format!("there is nobody called \"{text}\" in the party; see: lanrage peers");
    Err(Problem::new(StatusCode::NOT_FOUND, "unknown_peer", message))
}

/// By virtual IP, PeerId, or name whatever its case.
fn find<'a>(peers: &'a [PeerView], text: &str) -> Option<&'a PeerView> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return peers.iter().find(|peer| peer.virtual_ip == ip);
    }
    if let Ok(node) = text.parse::<NodeId>() {
        return peers.iter().find(|peer| peer.node == node);
    }
    let same = |peer: &&PeerView| peer.name.to_lowercase() == text.to_lowercase();
    peers.iter().find(|peer| peer.name == text).or_else(|| peers.iter().find(same))
}

fn within(key: &str, value: u64, most: u64) -> Result<u64, Problem> {
    if value == 0 || value > most {
        return Err(Problem::bad_request(format!("`{key}` must be between 1 and {most}, not {value}")));
    }
    Ok(value)
}

//! The composition root: builds the actors, connects them, runs until told to stop.

mod games;
mod relay;
mod wiring;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix::System;
use lanrage_actors::broadcast::unwanted::Wanted;
use lanrage_actors::discovery::{DiscoveryConfig, Role};
use lanrage_actors::game_watch::actor::WatchConfig;
use lanrage_actors::nat::BoundSockets;
use lanrage_actors::party::messages::GetParty;
use lanrage_actors::store::{IdentityPolicy, Store};
use lanrage_actors::tun::messages::{GetTun, TunState};
use tokio::signal::unix::{SignalKind, signal};

use crate::api;
use crate::cli::print;
use crate::config::{Config, Places, RelayConfig};
use crate::play::Sessions;
use crate::system::{self, Right};
use wiring::{Data, NatData, Node};

/// How long the farewell to the party may take.
const GOODBYE: Duration = Duration::from_millis(600);
/// How often a node without rights looks whether it has been given them.
const RIGHTS_EVERY: Duration = Duration::from_secs(2);

/// Runs the node until it is told to stop.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    outcome(System::new().block_on(run_node(config)))
}

/// Runs a relay until it is told to stop.
#[must_use]
pub fn run_relay(config: RelayConfig) -> ExitCode {
    outcome(System::new().block_on(relay::run(config)))
}

fn outcome(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            print::error(&message);
            ExitCode::FAILURE
        }
    }
}

async fn run_node(config: Config) -> Result<(), String> {
    let policy = if config.new_identity { IdentityPolicy::New } else { IdentityPolicy::Keep };
    let opened = Store::open(&config.data_dir, policy).map_err(|error| error.to_string())?;
    let mut store = opened.store;
    let mut notices = opened.notices;
    let identity = store.identity().map_err(|error| error.to_string())?;
    let stored = store.parties().map_err(|error| error.to_string())?;
    // Every port is taken before anything is started, so that an occupied one is said at once.
    let api = api::bind(config.api).map_err(|error| error.to_string())?;
    let sockets = data_sockets(&mut store, config.listen_port, &[], &mut notices)?;
    let p2p_port = p2p_port(&mut store, config.p2p_port, &mut notices)?;
    for notice in &notices {
        print::notice(notice);
    }

    let profiles = games::load(&config.data_dir);
    let data = Data {
        known_games: games::known(&profiles),
        store,
        stored,
        sockets,
        discovery: DiscoveryConfig {
            role: Role::Node,
            port: p2p_port,
            bootstrap: config.bootstrap.clone(),
            dht_protocol: config.dht_protocol.clone(),
            mdns: config.mdns,
            public_ips: Vec::new(),
            extra_tcp_ports: Vec::new(),
        },
        name: config.name.clone(),
        range: config.range,
        tun: config.tun.clone(),
        mtu: config.mtu,
        bridge: config.bridge.clone(),
        wanted: Wanted { mdns: config.share_mdns, ssdp: config.share_ssdp },
        relay_servers: config.relay_servers.clone(),
        broadcasts: config.broadcasts,
        broadcast_except: config.broadcast_except.clone(),
        data_dir: config.data_dir.clone(),
        games: WatchConfig { detection: config.game_detection, tuning: config.game_tuning },
        nat: NatData {
            stun_servers: config.stun_servers.clone(),
            serve: config.serve,
            public_ips: Vec::new(),
            port_mapping: config.port_mapping,
            alternate: false,
        },
    };
    let node = Node::start(data, &identity).await?;
    drop(identity);
    games::keep_known(node.browser.clone(), profiles, &config.data_dir);

    let sessions = Sessions::start(&config.data_dir, node.play_actors());
    if let Err(error) = &sessions {
        notices.push(format!("`lanrage play` will not work: {error}"));
        print::notice(&format!("`lanrage play` will not work: {error}"));
    }

    let facts = api::Facts {
        peer_id: node.id.to_string(),
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        data_dir: config.data_dir.clone(),
        mdns: config.mdns,
        notices,
        started: Instant::now(),
    };
    let running = api
        .start(api::ApiState { facts, actors: node.api_actors() }, &config.data_dir)
        .map_err(|error| error.to_string())?;
    greet(&config, &node, running.address()).await;

    let end = tokio::select! {
        stop = wait_for_stop() => stop.map(|()| End::Stop)?,
        program = granted_rights(&node) => End::Restart(program),
    };
    print::line(match end {
        End::Stop => "stopping",
        End::Restart(_) => "LANrage has been given the rights that it lacked; restarting",
    });
    drop(sessions);
    running.stop().await;
    node.stop(GOODBYE).await;
    match end {
        End::Stop => Ok(()),
        End::Restart(program) => Err(restart(&program)),
    }
}

enum End {
    Stop,
    Restart(PathBuf),
}

/// Set in the environment of a restarted program: where a file's capabilities do not count (a `nosuid` mount), it would
/// restart for ever.
const RESTARTED: &str = "LANRAGE_RESTARTED_FOR_RIGHTS";

/// Ends when the program file has been given a capability that the device or the capture lacks. A running program cannot gain it.
async fn granted_rights(node: &Node) -> PathBuf {
    if std::env::var_os(RESTARTED).is_some() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(RIGHTS_EVERY).await;
        let device = node.tun.send(GetTun).await.is_ok_and(|view| view.state == TunState::NoPermission);
        let held = |right| system::has(right);
        let lacks = [
            (Right::NetAdmin, device && held(Right::NetAdmin) == Some(false)),
            (Right::NetRaw, held(Right::NetRaw) == Some(false)),
        ];
        // A restart for one right must not lose the other.
        let kept = |program: &Path| {
            [Right::NetAdmin, Right::NetRaw]
                .into_iter()
                .all(|right| held(right) != Some(true) || system::file_grants(program, right))
        };
        if lacks.iter().any(|(_, lacks)| *lacks)
            && let Ok(program) = std::env::current_exe()
            && lacks.iter().any(|&(right, lacks)| lacks && system::file_grants(&program, right))
            && kept(&program)
        {
            return program;
        }
    }
}

/// Becomes the program anew, with the same arguments; returns only when that failed.
fn restart(program: &Path) -> String {
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).env(RESTARTED, "1").exec();
    format!("LANrage could not restart itself ({error}); start it again")
}

/// What the player sees first: who and where this machine is, and what to do next.
async fn greet(config: &Config, node: &Node, api: std::net::SocketAddr) {
    print::line(&format!("LANrage {} is running. Your name here: {}", env!("CARGO_PKG_VERSION"), config.name));
    let party = node.party.send(GetParty).await.ok().flatten();
    match &party {
        Some(party) => {
            print::line(&format!("  party       {} (code {})", print::clean(&party.name), party.code));
            print::line(&format!("  virtual IP  {}", party.virtual_ip));
        }
        None => print::line("  virtual IP  none yet: you get one with a party"),
    }
    print::line(&format!("  API         http://{api}/api/v1"));
    if party.is_some()
        && let Some(problem) = settled_problem(node).await
    {
        print::line(&format!("  device      {problem}"));
    }
    let found = api.port() == 8666 && config.data_dir == Places::of_this_user().data;
    let with = if found { String::new() } else { format!(" --data-dir {}", config.data_dir.display()) };
    print::line("Next, in another terminal:");
    match party {
        Some(party) => {
            print::line(&format!("  your friends join with:   lanrage party join {}", party.code));
            print::line(&format!("  see who is there:         lanrage peers{with}"));
        }
        None => {
            print::line(&format!("  start a party:            lanrage party create{with}"));
            print::line(&format!("  or join a friend's:       lanrage party join CODE{with}"));
        }
    }
    print::line("Stop with Ctrl-C.");
    let _ = std::io::stdout().flush();
}

/// The device is opened in the background; its first attempt is over within moments.
async fn settled_problem(node: &Node) -> Option<String> {
    for _ in 0..20 {
        let view = node.tun.send(GetTun).await.ok()?;
        if view.state != TunState::Idle {
            return view.problem;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

async fn wait_for_stop() -> Result<(), String> {
    let failed = |error: std::io::Error| format!("signals cannot be waited for: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

const LISTEN_PORT: &str = "listen-port";
const P2P_PORT: &str = "p2p-port";

fn stored_port(store: &Store, key: &str) -> Result<Option<u16>, String> {
    let text = store.setting(key).map_err(|error| error.to_string())?;
    Ok(text.and_then(|text| text.parse().ok()).filter(|&port| port != 0))
}

fn keep_port(store: &mut Store, key: &str, port: u16) -> Result<(), String> {
    store.put_setting(key, Some(&port.to_string())).map_err(|error| error.to_string())
}

/// The port that was asked for; else the one of last time, so that forwarded ports and firewall rules stay right; else
/// any.
fn data_sockets(
    store: &mut Store,
    asked: Option<u16>,
    at: &[IpAddr],
    notices: &mut Vec<String>,
) -> Result<BoundSockets, String> {
    let v4 = at.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    let v6 = at.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
    let (v4, v6) = (v4.unwrap_or(Ipv4Addr::UNSPECIFIED), v6.unwrap_or(Ipv6Addr::UNSPECIFIED));
    let bind = |port| BoundSockets::bind_at(port, v4, v6);
    if let Some(port) = asked {
        return bind(port).map_err(|error| error.to_string());
    }
    if let Some(port) = stored_port(store, LISTEN_PORT)? {
        match bind(port) {
            Ok(sockets) => return Ok(sockets),
            Err(error) => notices.push(format!("{error}. Using another one this time.")),
        }
        return bind(0).map_err(|error| error.to_string());
    }
    let sockets = bind(0).map_err(|error| error.to_string())?;
    keep_port(store, LISTEN_PORT, sockets.port())?;
    Ok(sockets)
}

fn p2p_port(store: &mut Store, asked: Option<u16>, notices: &mut Vec<String>) -> Result<u16, String> {
    if let Some(port) = asked {
        return Ok(port);
    }
    if let Some(port) = stored_port(store, P2P_PORT)? {
        if is_free(port) {
            return Ok(port);
        }
        notices.push(format!("port {port} (TCP or UDP) is in use by another program. Using another one this time."));
        return Ok(0);
    }
    let port = free_port()?;
    keep_port(store, P2P_PORT, port)?;
    Ok(port)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// A port that is free for TCP and UDP alike.
fn free_port() -> Result<u16, String> {
    for _ in 0..64 {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
        let port =
            listener.and_then(|listener| listener.local_addr()).map_err(|error| format!("no free port: {error}"))?;
        if is_free(port.port()) {
            return Ok(port.port());
        }
    }
    Err("no port is free for both TCP and UDP; name one with --p2p-port".to_owned())
}

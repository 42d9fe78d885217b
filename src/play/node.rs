//! The node's end: takes devices from `lanrage play`, one thread a session.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Addr, MailboxError};
use futures::executor::block_on;
use lanrage_actors::game_watch::actor::GameWatchActor;
use lanrage_actors::game_watch::messages::Played;
use lanrage_actors::party::actor::PartyActor;
use lanrage_actors::party::messages::{GetParty, PartyView};
use lanrage_actors::tun::actor::TunActor;
use lanrage_actors::tun::messages::{AttachPlay, Attached, DetachPlay, GetTun, PlayPorts};
use rustix::process::geteuid;

use super::SOCKET_FILE;
use super::channel::{Channel, socket_path};
use super::messages::{Friend, FromNode, Network, ToNode, VERSION};

/// At a time, those included that have not said anything yet.
const MAX_SESSIONS: usize = 16;
/// For the first words of a session.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a session looks whether its device is still in use.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it looks who is in the party.
const FRIENDS_EVERY: Duration = Duration::from_secs(2);
const MAX_GAME_ID: usize = 64;

/// Removes the socket when it is dropped; sessions end with the process.
#[derive(Debug)]
pub(crate) struct Sessions {
    path: PathBuf,
}

/// Whom the sessions talk to.
#[derive(Clone)]
pub(crate) struct Actors {
    pub(crate) tun: Addr<TunActor>,
    pub(crate) party: Addr<PartyActor>,
    pub(crate) games: Addr<GameWatchActor>,
}

impl Sessions {
    /// Listens in the data folder, which belongs to this process alone.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn start(data_dir: &Path, actors: Actors) -> io::Result<Self> {
        let path = data_dir.join(SOCKET_FILE);
        // Of a process that was killed.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let (short, _held) = socket_path(data_dir, SOCKET_FILE)?;
        let listener = UnixListener::bind(short)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        std::thread::Builder::new().name("play".into()).spawn(move || accept(&listener, &actors))?;
        Ok(Self { path })
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, actors: &Actors) {
    let open = Arc::new(());
    for socket in listener.incoming() {
        let Ok(socket) = socket else {
            // Out of descriptors, mostly.
            std::thread::sleep(LOOK_EVERY);
            continue;
        };
        // One is this function's own.
        if !may_use(&socket) || Arc::strong_count(&open) > MAX_SESSIONS {
            continue;
        }
        let (actors, ticket) = (actors.clone(), Arc::clone(&open));
        let session = move || {
            serve(socket, &actors);
            drop(ticket);
        };
        if let Err(error) = std::thread::Builder::new().name("play session".into()).spawn(session) {
            tracing::warn!(%error, "a program that asked for a network is refused");
        }
    }
}

/// The user that the node runs as, or root.
fn may_use(socket: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(socket).is_ok_and(|peer| peer.uid.is_root() || peer.uid == geteuid())
}

fn serve(socket: UnixStream, actors: &Actors) {
    let mut channel = Channel::new(socket);
    let Err(why) = session(&mut channel, actors) else { return };
    tracing::debug!(%why, "a session of lanrage play is over");
    let _ = channel.send(&FromNode::Refused(why), None);
}

/// `Ok` when the other end hung up.
fn session(channel: &mut Channel, actors: &Actors) -> Result<(), String> {
    let gone = |error: io::Error| error.to_string();
    channel.socket().set_read_timeout(Some(PATIENCE)).map_err(gone)?;
    channel.socket().set_write_timeout(Some(PATIENCE)).map_err(gone)?;
    let Some((ToNode::Hello { version, pid, game }, _)) = channel.receive().map_err(gone)? else {
        return Err("LANrage expected a greeting".into());
    };
    if version != VERSION {
        return Err("this is another version than the LANrage that is running; restart LANrage".into());
    }
    let game = game
        .filter(|id| id.len() <= MAX_GAME_ID && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
    // First, so that the namespace gets the MTU that the game's profile wants.
    let _played = game.clone().map(|game| Playing::new(actors, pid, game));
    let (network, mut friends) = actors.network()?;
    channel.send(&FromNode::Welcome { network, friends: friends.clone() }, None).map_err(gone)?;

    let Some((ToNode::Device(network), Some(device))) = channel.receive().map_err(gone)? else {
        return Ok(());
    };
    let mut attached = Detach { attached: actors.attach(device, &network, pid, game)?, actors };
    channel.send(&FromNode::Attached, None).map_err(gone)?;
    tracing::info!(pid, "a program has a network of its own");

    channel.socket().set_read_timeout(Some(LOOK_EVERY)).map_err(gone)?;
    let mut next_friends = Instant::now() + FRIENDS_EVERY;
    loop {
        match channel.receive() {
            Ok(Some((ToNode::Ports { udp, tcp }, _))) => {
                // Lost when the mailbox is full; then the next change repairs it.
                let _ = actors.tun.try_send(PlayPorts { id: attached.attached.id, udp, tcp });
            }
            Ok(Some((ToNode::Hello { .. } | ToNode::Device(_), _))) => return Err("LANrage expected ports".into()),
            Ok(None) => return Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.to_string()),
        }
        if attached.attached.ended.try_recv().is_err() {
            return Err("the virtual network of this computer has changed".into());
        }
        let now = Instant::now();
        if now >= next_friends {
            next_friends = now + FRIENDS_EVERY;
            if let Ok((_, others)) = actors.network()
                && others != friends
            {
                friends = others;
                channel.send(&FromNode::Friends(friends.clone()), None).map_err(gone)?;
            }
        }
    }
}

/// The game's profile is in use as long as the session lasts.
struct Playing<'a> {
    actors: &'a Actors,
    pid: u32,
}

impl<'a> Playing<'a> {
    fn new(actors: &'a Actors, pid: u32, game: String) -> Self {
        let _ = block_on(actors.games.send(Played { pid, game: Some(game) }));
        Self { actors, pid }
    }
}

impl Drop for Playing<'_> {
    fn drop(&mut self) {
        let _ = block_on(self.actors.games.send(Played { pid: self.pid, game: None }));
    }
}

/// Gives the device back however the session ends.
struct Detach<'a> {
    attached: Attached,
    actors: &'a Actors,
}

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        let _ = block_on(self.actors.tun.send(DetachPlay(self.attached.id)));
    }
}

impl Actors {
    fn network(&self) -> Result<(Network, Vec<Friend>), String> {
        let stopping = |_: MailboxError| "LANrage is stopping".to_owned();
        let tun = block_on(self.tun.send(GetTun)).map_err(stopping)?;
        let party = block_on(self.party.send(GetParty)).map_err(stopping)?;
        let party = party.ok_or(
            "you are in no party yet, so there is no network for the game. Start one with: lanrage party create, or join one with: lanrage party join CODE",
        )?;
        let network = Network {
            device: tun.name,
            ip: party.virtual_ip,
            network: party.range.network(),
            prefix: party.range.prefix_len(),
            mtu: tun.mtu,
        };
        Ok((network, friends(&party)))
    }

    fn attach(&self, device: OwnedFd, network: &Network, pid: u32, game: Option<String>) -> Result<Attached, String> {
        let address = network.address().ok_or("that is no network of a party")?;
        let attached = block_on(self.tun.send(AttachPlay { device, address, pid, game }));
        attached.map_err(|_| "LANrage is stopping".to_owned())?.map_err(|error| error.to_string())
    }
}

fn friends(party: &PartyView) -> Vec<Friend> {
    let others = party.members.iter().filter(|member| !member.me);
    others.map(|member| Friend { name: member.name.clone(), ip: member.virtual_ip }).collect()
}

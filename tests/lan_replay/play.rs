//! One row of the table, played: a host shouts, the others answer.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::lab::Host;
use crate::table::{Answer, Cast, Game};

/// For all that has to come.
const PATIENCE: Duration = Duration::from_secs(8);
/// After it, for copies too many: what would come twice comes at once, by another way.
const SETTLE: Duration = Duration::from_millis(250);

/// A member's host.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) host: Host,
    /// In the party.
    pub(crate) ip: Ipv4Addr,
    sockets: HashMap<Ear, UdpSocket>,
}

/// What a socket listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ear {
    port: u16,
    group: Option<Ipv4Addr>,
    java: bool,
}

/// A datagram that came.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heard {
    /// Index of the player.
    at: usize,
    port: u16,
    from: SocketAddrV4,
    payload: Vec<u8>,
}

/// How a row went, in words for the table.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) shouts: String,
    pub(crate) answers: String,
    pub(crate) faults: Vec<String>,
}

impl Player {
    pub(crate) fn new(host: &Host, ip: Ipv4Addr) -> Self {
        Self { host: host.clone(), ip, sockets: HashMap::new() }
    }

    /// Has the game's sockets open, as a game's server has long before somebody asks.
    pub(crate) fn listen(&mut self, game: &Game) {
        for ear in ears(game) {
            let host = &self.host;
            self.sockets.entry(ear).or_insert_with(|| open(host, ear));
        }
    }

    fn lan(&self) -> Ipv4Addr {
        self.host.address()
    }

    /// Where a shout or an answer goes from here.
    fn target(&self, cast: Cast, unicast: Ipv4Addr, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(cast.address(self.lan()).unwrap_or(unicast), port)
    }
}

fn group_of(cast: Cast) -> Option<Ipv4Addr> {
    if let Cast::Group(group) = cast { Some(group) } else { None }
}

fn ears(game: &Game) -> impl Iterator<Item = Ear> {
    let group = group_of(game.shout.to);
    game.shout.ports.iter().map(move |port| Ear { port: *port, group, java: game.java })
}

fn open(host: &Host, ear: Ear) -> UdpSocket {
    let open = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        if ear.java {
            socket.set_multicast_all_v4(false)?;
        }
        socket.bind(&SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, ear.port)))?;
        if let Some(group) = ear.group {
            socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
        }
        Ok(socket.into())
    };
    host.enter(open).unwrap_or_else(|problem| panic!("{ear:?} on {}: {problem}", host.name()))
}

fn receive(socket: &UdpSocket) -> Option<(SocketAddrV4, Vec<u8>)> {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    if let SocketAddr::V4(from) = from { Some((from, buffer[..length].to_vec())) } else { None }
}

/// `players[0]` shouts; the others have listened to the game's ports for a while.
pub(crate) fn play(game: &Game, players: &[Player]) -> Outcome {
    let asker = &players[0];
    for player in &players[1..] {
        ears(game).for_each(|ear| while receive(&player.sockets[&ear]).is_some() {});
    }
    let shout = &game.shout;
    let own = Ear { port: shout.from, group: None, java: false };
    let asking = open(&asker.host, own);
    let source = asking.local_addr().unwrap().port();
    // Where the answer is heard when that is another port, or a group.
    let answered = game.answer.as_ref().map(|answer| Ear {
        port: if answer.port == 0 { source } else { answer.port },
        group: group_of(answer.how),
        java: false,
    });
    let listening = answered.filter(|ear| ear.port != source || ear.group.is_some()).map(|ear| open(&asker.host, ear));

    let mut sent = 0;
    let mut next = Instant::now();
    let mut heard = Vec::new();
    let start = Instant::now();
    let mut complete: Option<Instant> = None;
    loop {
        if sent < shout.copies && Instant::now() >= next {
            for port in &shout.ports {
                let to = asker.target(shout.to, Ipv4Addr::UNSPECIFIED, *port);
                asking.send_to(&shout.payload.0, to).unwrap_or_else(|problem| panic!("{to}: {problem}"));
            }
            sent += 1;
            next += Duration::from_millis(shout.gap_ms);
        }
        for (socket, port) in [(Some(&asking), source), (listening.as_ref(), answered.map_or(0, |ear| ear.port))] {
            while let Some((from, payload)) = socket.and_then(receive) {
                heard.push(Heard { at: 0, port, from, payload });
            }
        }
        for (at, player) in players.iter().enumerate().skip(1) {
            for ear in ears(game) {
                let socket = &player.sockets[&ear];
                while let Some((from, payload)) = receive(socket) {
                    if let Some(answer) = &game.answer
                        && payload == shout.payload.0
                        && ear.port == game.hears()
                    {
                        reply(player, socket, answer, from);
                    }
                    heard.push(Heard { at, port: ear.port, from, payload });
                }
            }
        }
        if complete.is_none() && sent == shout.copies && missing(game, players, source, &heard).is_empty() {
            complete = Some(Instant::now());
        }
        let over = complete.map_or_else(|| start.elapsed() > PATIENCE, |at| at.elapsed() > SETTLE);
        if over {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    judge(game, players, source, &heard)
}

fn reply(player: &Player, heard_on: &UdpSocket, answer: &Answer, from: SocketAddrV4) {
    let port = if answer.port == 0 { from.port() } else { answer.port };
    let to = player.target(answer.how, *from.ip(), port);
    let other = match answer.from {
        0 => None,
        1 => Some(open(&player.host, Ear { port: 0, group: None, java: false })),
        port => Some(open(&player.host, Ear { port, group: None, java: false })),
    };
    other.as_ref().unwrap_or(heard_on).send_to(&answer.payload.0, to).unwrap();
}

fn count(heard: &[Heard], at: usize, port: Option<u16>, payload: &[u8], from: impl Fn(SocketAddrV4) -> bool) -> usize {
    let wanted =
        |it: &&Heard| it.at == at && port.is_none_or(|port| it.port == port) && it.payload == payload && from(it.from);
    heard.iter().filter(wanted).count()
}

/// What has not come yet, or came too often: who, what, how often instead.
fn missing(game: &Game, players: &[Player], source: u16, heard: &[Heard]) -> Vec<String> {
    let (shout, copies) = (&game.shout, game.shout.copies);
    let asker = SocketAddrV4::new(players[0].ip, source);
    let mut wrong = Vec::new();
    for (at, player) in players.iter().enumerate().skip(1) {
        for port in &shout.ports {
            let times = count(heard, at, Some(*port), &shout.payload.0, |from| from == asker);
            if times != copies {
                wrong.push(format!("{} heard the shout on {port} {times} times from {asker}", player.host.name()));
            }
        }
        let Some(answer) = &game.answer else { continue };
        let port = match answer.from {
            0 => Some(game.hears()),
            1 => None,
            port => Some(port),
        };
        let right = |from: SocketAddrV4| *from.ip() == player.ip && port.is_none_or(|port| from.port() == port);
        let times = count(heard, 0, None, &answer.payload.0, right);
        if times != copies {
            wrong.push(format!("the answer of {} came {times} times from {}:{port:?}", player.host.name(), player.ip));
        }
    }
    wrong
}

fn judge(game: &Game, players: &[Player], source: u16, heard: &[Heard]) -> Outcome {
    let mut faults = missing(game, players, source, heard);
    for it in heard {
        let player = &players[it.at];
        if *it.from.ip() == player.ip {
            faults.push(format!("{} heard itself through the party on {}", player.host.name(), it.port));
        }
        // On its own LAN everybody hears his own broadcasts; of others there are none.
        let others: Vec<_> = players.iter().map(|other| other.ip).chain([player.lan()]).collect();
        if !others.contains(it.from.ip()) {
            faults.push(format!("{} heard {} from the unknown {}", player.host.name(), it.port, it.from));
        }
        let known = it.payload == game.shout.payload.0
            || game.answer.as_ref().is_some_and(|answer| answer.payload.0 == it.payload);
        if !known {
            faults.push(format!("{} got other bytes on {}: {:02x?}", player.host.name(), it.port, it.payload));
        }
    }
    // Answers that are broadcast reach the other hosts too, once each.
    for (at, player) in players.iter().enumerate().skip(1) {
        for (_, other) in players.iter().enumerate().skip(1).filter(|(other, _)| *other != at) {
            let Some(answer) = &game.answer else { continue };
            let times = count(heard, at, None, &answer.payload.0, |from| *from.ip() == other.ip);
            let wanted = usize::from(answer.how != Cast::Unicast && ears(game).any(|ear| ear.port == answer.port));
            if times > wanted * game.shout.copies {
                faults.push(format!("{} heard {}'s answer {times} times", player.host.name(), other.host.name()));
            }
        }
    }
    let shouted = count(heard, 1, None, &game.shout.payload.0, |from| *from.ip() == players[0].ip);
    let answered = game.answer.as_ref().map(|answer| {
        let times = (1..players.len())
            .map(|at| count(heard, 0, None, &answer.payload.0, |from| *from.ip() == players[at].ip).to_string());
        times.collect::<Vec<_>>().join(" + ")
    });
    Outcome {
        shouts: format!("{shouted} of {}", game.shout.copies * game.shout.ports.len()),
        answers: answered.unwrap_or_else(|| "-".into()),
        faults,
    }
}

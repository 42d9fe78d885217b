//! Games whose real server answers the exact query of their client.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::{Asks, Game, Listing, Profile, Search, servers};

/// How long a query waits for answers before it is sent again. Games do that when the list is opened again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) const TEEWORLDS: Game = Game {
    name: "Teeworlds",
    client: "its token request, then its info request",
    programs: &[("teeworlds-server", "teeworlds-server")],
    asks: Asks::Client(&[8303]),
    serve: |host| servers::start(host, 8303, &["/usr/games/teeworlds-server"]),
    find: teeworlds,
    node: &[],
    profile: Some(Profile { id: "teeworlds", server: "server", client: None }),
};

pub(crate) const DDNET: Game = Game {
    name: "DDNet",
    client: "its info request",
    programs: &[("DDNet-Server", "ddnet-server")],
    asks: Asks::Client(&[8303]),
    serve: |host| servers::start(host, 8303, &["/usr/games/DDNet-Server"]),
    find: |search| {
        // Extended header with two random bytes, then the request with a token of one byte.
        let query = [b"xe\x5a\x17\0\0", &[0xff; 4][..], b"gie3\x2a"].concat();
        ask(search, everybody(8303), &query, |answer| {
            let info = answer.get(10..)?.strip_prefix(b"iext")?;
            // Token, version, name, …: each ends with a zero.
            Some(text(info.split(|byte| *byte == 0).nth(2)?))
        })
    },
    node: &[],
    profile: Some(Profile { id: "ddnet", server: "server", client: None }),
};

pub(crate) const FREECIV: Game = Game {
    name: "Freeciv",
    client: "its multicast query",
    programs: &[("freeciv-server", "freeciv-server")],
    asks: Asks::Client(&[4555]),
    // Without metaserver; the identity is what it would tell of its host's name, which need not resolve at the client.
    serve: |host| servers::start(host, 4555, &["/usr/games/freeciv-server", "-p", "5556", "--identity", "none"]),
    find: freeciv,
    node: &[],
    profile: Some(Profile { id: "freeciv", server: "server", client: None }),
};

pub(crate) const SAUERBRATEN: Game = Game {
    name: "Sauerbraten",
    client: "its ping",
    programs: &[("cube2-server", "cube2-server")],
    asks: Asks::Client(&[28_784]),
    // No master server: looking its name up would keep it from answering.
    serve: |host| servers::start(host, 28_784, &["/usr/games/cube2-server", "-m"]),
    find: |search| {
        // The client's clock (10,000 ms as an integer of three bytes), which comes back in front of the answer.
        let query = [0x80, 0x10, 0x27];
        ask(search, everybody(28_784), &query, |answer| {
            let info = answer.strip_prefix(&query)?;
            Some(format!("{} players, {} attributes", info.first()?, info.get(1)?))
        })
    },
    node: &[],
    profile: Some(Profile { id: "sauerbraten", server: "server", client: None }),
};

pub(crate) const ARMAGETRON: Game = Game {
    name: "Armagetron Advanced",
    client: "its request for small server info",
    programs: &[("armagetronad-dedicated", "armagetronad-dedicated")],
    asks: Asks::Client(&[4534]),
    serve: |host| {
        let home = host.dir().join("home");
        let home = home.to_str().unwrap();
        let folders = ["--datadir", "/usr/share/games/armagetronad", "--configdir", "/etc/armagetronad"];
        let args = [&["/usr/games/armagetronad-dedicated.real"], &folders[..], &["--userdatadir", home]].concat();
        // As nobody plays, it closes its socket once and opens it again.
        servers::start_until_said(host, 4534, &args, "Bound socket to *.*.*.*:4534", 2)
    },
    find: |search| {
        // Descriptor 52, no message id, no data, no sender; the answer is descriptor 50.
        let query = [0, 52, 0, 0, 0, 0, 0, 0];
        ask(search, everybody(4534), &query, |answer| {
            let port = answer.strip_prefix(&[0, 50, 0, 0, 0, 5])?;
            Some(format!("a server on port {}", u16::from_be_bytes(port.get(..2)?.try_into().ok()?)))
        })
    },
    node: &[],
    profile: Some(Profile { id: "armagetronad", server: "server", client: None }),
};

pub(crate) const BZFLAG: Game = Game {
    name: "BZFlag",
    client: "its ping",
    programs: &[("bzfs", "bzflag-server")],
    asks: Asks::Client(&[5154]),
    serve: |host| servers::start(host, 5154, &["/usr/games/bzfs", "-p", "5154"]),
    find: |search| {
        // Two bytes of data, code 0x0404; the answer is code 0x0303 with the protocol's version.
        ask(search, everybody(5154), &[0, 2, 4, 4, 0, 0], |answer| {
            Some(text(answer.get(2..)?.strip_prefix(&[3, 3])?.get(..8)?))
        })
    },
    node: &[],
    profile: Some(Profile { id: "bzflag", server: "server", client: None }),
};

/// Send a query from a port of the system's choice, as an unbound game does, until there is an answer.
fn ask(
    search: &Search<'_>,
    to: SocketAddrV4,
    query: &[u8],
    read: impl Fn(&[u8]) -> Option<String> + Send,
) -> Result<Listing, String> {
    search.on.enter(|| {
        let socket = broadcaster()?;
        exchange(search, &socket, to, query, read).map(|(listing, _)| listing)
    })
}

/// Teeworlds 0.7: a server tells about itself only to whom it has given a token.
fn teeworlds(search: &Search<'_>) -> Result<Listing, String> {
    const TOKEN: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
    let control = |token: [u8; 4]| [&[4, 0, 0][..], &token, &[5]].concat();
    // Padded, so that the answer is not larger than what was asked with.
    let mut request = [&control([0xff; 4])[..], &TOKEN].concat();
    request.resize(520, 0);
    search.on.enter(|| {
        let socket = broadcaster()?;
        let granted = |answer: &[u8]| answer.starts_with(&control(TOKEN)).then(String::new);
        let (listing, answer) = exchange(search, &socket, everybody(8303), &request, granted)?;
        let theirs = answer.get(8..12).ok_or("a short token")?;
        let info = [&[0x21], theirs, &TOKEN, &[0xff; 4], b"gie3\x2a"].concat();
        let server = SocketAddrV4::new(listing.server, 8303);
        let read = |answer: &[u8]| {
            let info = answer.get(13..)?.strip_prefix(b"inf3")?;
            // A token of one byte, then texts that each end with a zero: version, name, …
            Some(info.get(1..)?.split(|byte| *byte == 0).take(2).map(text).collect::<Vec<_>>().join(", "))
        };
        exchange(search, &socket, server, &info, read).map(|(listing, _)| listing)
    })
}

/// Both the query and its answer go to a group. The client joins it where the system's routes lead.
fn freeciv(search: &Search<'_>) -> Result<Listing, String> {
    const GROUP: Ipv4Addr = Ipv4Addr::new(225, 1, 1, 1);
    search.on.enter(|| {
        let hears = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4556)).map_err(|problem| problem.to_string())?;
        hears.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED).map_err(|problem| problem.to_string())?;
        let asks = broadcaster()?;
        asks.set_multicast_ttl_v4(1).map_err(|problem| problem.to_string())?;
        let start = Instant::now();
        while start.elapsed() < search.patience {
            asks.send_to(&[2], (GROUP, 4555)).map_err(|problem| problem.to_string())?;
            let answer = wait(&hears, ASK_AGAIN, |answer| {
                // The protocol's version, then texts: host (the sender's when empty), port, version, state, …
                let texts: Vec<_> = answer.strip_prefix(&[2])?.split(|byte| *byte == 0).take(4).map(text).collect();
                Some(texts.join(", "))
            });
            if let Some((listing, _)) = answer {
                return Ok(listing);
            }
        }
        Err("no answer in the group".into())
    })
}

fn broadcaster() -> Result<UdpSocket, String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|problem| problem.to_string())?;
    socket.set_broadcast(true).map_err(|problem| problem.to_string())?;
    Ok(socket)
}

/// Send, and send again, until an answer can be read.
fn exchange(
    search: &Search<'_>,
    socket: &UdpSocket,
    to: SocketAddrV4,
    query: &[u8],
    read: impl Fn(&[u8]) -> Option<String>,
) -> Result<(Listing, Vec<u8>), String> {
    let start = Instant::now();
    while start.elapsed() < search.patience {
        socket.send_to(query, to).map_err(|problem| format!("cannot send to {to}: {problem}"))?;
        if let Some(answer) = wait(socket, ASK_AGAIN, &read) {
            return Ok(answer);
        }
    }
    Err(format!("no answer to what was sent to {to}"))
}

fn wait(socket: &UdpSocket, limit: Duration, read: impl Fn(&[u8]) -> Option<String>) -> Option<(Listing, Vec<u8>)> {
    let start = Instant::now();
    let mut buffer = [0; 2_048];
    while let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).ok()?;
        let Ok((length, SocketAddr::V4(from))) = socket.recv_from(&mut buffer) else { continue };
        let at = Instant::now();
        if let Some(text) = read(&buffer[..length]) {
            return Some((Listing { server: *from.ip(), text, at }, buffer[..length].to_vec()));
        }
    }
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn everybody(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::BROADCAST, port)
}

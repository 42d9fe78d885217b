//! Two players at two sites, a public node, and how they come together.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::sites::{Internet, Site, Wanted};
use super::stream::{Echo, EchoServer, Stream};
use super::watch::{Watch, Way};
use super::{Host, Lab, Node, NodeOptions, Relay};

/// The data port of public nodes, which STUN and relayed traffic use.
pub(crate) const RELAY_PORT: u16 = 41_641;

/// How often a game's datagram is sent.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// A pair without an answer for as long is not connected, however short a time it has to become direct.
const FIRST_WITHIN: Duration = Duration::from_secs(20);

/// A public node on a server of the internet, reachable at all its addresses, and at TCP 443.
pub(crate) fn public_node(internet: &Internet<'_>, server: usize, others: &[&Relay]) -> Relay {
    let server = &internet.servers[server];
    let addresses: [IpAddr; 2] = [server.v4[0].into(), server.v6[0].into()];
    let port = RELAY_PORT.to_string();
    let mut more = vec!["--listen-port", &port, "--tcp-port", "443"];
    for other in others {
        more.extend(["--bootstrap", other.address()]);
    }
    Relay::start_with(&server.host, &addresses, &more)
}

/// What a player's node is started with, so that it finds the party by these public nodes. Each node gets the same.
pub(crate) fn options(internet: &Internet<'_>, relays: &[&Relay]) -> NodeOptions {
    let (mut bootstrap, mut stun) = (Vec::new(), Vec::new());
    for (relay, server) in relays.iter().zip(&internet.servers) {
        let (v4, v6) = (server.v4[0].into(), server.v6[0].into());
        bootstrap.extend([(v4, 4001), (v4, 443), (v6, 4001)].map(|(ip, port)| relay.address_at(ip, port)));
        stun.extend([format!("{v4}:{RELAY_PORT}"), format!("[{v6}]:{RELAY_PORT}")]);
    }
    let options = NodeOptions { bootstrap, ..NodeOptions::default() };
    // As everybody has STUN servers that answer: the default ones are out of a lab's reach.
    options.with(&["--stun-servers", &stun.join(",")])
}

/// Two players who have not met yet.
#[derive(Debug)]
pub(crate) struct Meeting<'lab> {
    pub(crate) internet: Internet<'lab>,
    /// One site for each player, or one for both.
    pub(crate) sites: Vec<Site>,
    pub(crate) relays: Vec<Relay>,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) a_ip: Ipv4Addr,
    pub(crate) watch: Watch,
    code: String,
    _echo: EchoServer,
}

/// How it went, from the start of the join command on.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    /// When the join command returned.
    pub(crate) joined: Duration,
    /// First answered echo; none when there was none.
    pub(crate) first: Option<Duration>,
    /// The way of the first one, and the way at the end.
    pub(crate) ways: Option<[Way; 2]>,
    /// From then on straight.
    pub(crate) direct: Option<Duration>,
    /// Of the echoes after the first answer.
    pub(crate) answered_percent: f64,
    /// What the program says of its path at the end.
    pub(crate) said: String,
}

impl<'lab> Meeting<'lab> {
    /// Build it, start all programs, and have the first player create a party.
    pub(crate) fn prepare(lab: &'lab Lab, a: Wanted<'_>, b: Wanted<'_>, relays: usize, more: &[&str]) -> Self {
        let internet = Internet::new(lab);
        // Two of one LAN live at one site.
        let sites = if a.kind.name == "lan" && b.kind.name == "lan" {
            internet.sites(&[a.players(2)])
        } else {
            internet.sites(&[a, b])
        };
        let watch = Watch::on(internet.router());
        let mut running: Vec<Relay> = Vec::new();
        for server in 0..relays {
            let relay = public_node(&internet, server, &running.iter().collect::<Vec<_>>());
            running.push(relay);
        }
        let options = options(&internet, &running.iter().collect::<Vec<_>>()).with(more);
        let [a_host, b_host] = players(&sites);
        let mut a = Node::launch(a_host, "ann", &options);
        let mut b = Node::launch(b_host, "bob", &options);
        a.wait_for_api();
        b.wait_for_api();
        let (code, _) = a.create();
        let a_ip = a.virtual_ip();
        let echo = EchoServer::start(a_host);
        Self { internet, sites, relays: running, a, b, a_ip, watch, code, _echo: echo }
    }

    /// The second player joins, and sends echoes to the first until the way is straight, or for `patience`.
    pub(crate) fn join(&self, patience: Duration) -> Result<(Stream, Met), String> {
        let start = Instant::now();
        let stream = Stream::start(self.b.host(), self.a_ip, TICK);
        let joined = self.b.cli(&["party", "join", &self.code]);
        let took = start.elapsed();
        if !joined.ok() {
            return Err(joined.all().trim().to_string());
        }
        let first = loop {
            match stream.first_answer(start) {
                Some(first) => break Some(first),
                None if start.elapsed() > patience.max(FIRST_WITHIN) => break None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let (mut direct, mut ways) = (None, None);
        while let Some(first) = first {
            // Long enough to know whether it stays.
            std::thread::sleep(Duration::from_millis(300));
            let journeys = self.ways(&stream, start);
            direct = straight_since(&journeys);
            let settled = direct.is_some_and(|since: Instant| since.elapsed() > Duration::from_millis(1_000));
            if settled || start.elapsed() > patience.max(first - start + Duration::from_millis(2_000)) {
                ways = journeys.first().zip(journeys.last()).map(|(first, last)| [first.1, last.1]);
                break;
            }
        }
        let end = Instant::now();
        let answered_percent = first.map_or(0.0, |first| answered(&stream.echoes(), first, end));
        let met = Met {
            joined: took,
            first: first.map(|first| first - start),
            ways,
            direct: direct.map(|since| since.saturating_duration_since(start)),
            answered_percent,
            said: self.b.peer("ann").map_or_else(|| "no peer".into(), |peer| peer["path"].to_string()),
        };
        Ok((stream, met))
    }

    /// When the answer of each answered echo came, and which way both went. Those of which nothing was seen on the internet,
    /// as on a busy machine some pass unseen, are left out where they must have been there.
    pub(crate) fn ways(&self, stream: &Stream, since: Instant) -> Vec<(Instant, Way)> {
        let [a, b] = ends(&self.sites);
        let echoes = stream.echoes().into_iter().filter(|echo| echo.sent >= since);
        let times = echoes.filter_map(|echo| Some((echo.sent, echo.answered?)));
        let ways = times.map(|(sent, answered)| (answered, self.watch.way([&a, &b], sent, answered)));
        ways.filter(|(_, way)| *way != Way::Local || self.sites.len() == 1).collect()
    }

    /// The way of the last echoes.
    pub(crate) fn way_now(&self, stream: &Stream) -> Option<Way> {
        let recent = Instant::now().checked_sub(Duration::from_millis(300))?;
        let mut count: HashMap<Way, usize> = HashMap::new();
        for (_, way) in self.ways(stream, recent) {
            *count.entry(way).or_default() += 1;
        }
        count.into_iter().max_by_key(|(_, count)| *count).map(|(way, _)| way)
    }
}

pub(crate) fn players(sites: &[Site]) -> [&Host; 2] {
    match sites {
        [one] => [&one.players[0], &one.players[1]],
        [a, b, ..] => [a.player(), b.player()],
        [] => panic!("no site"),
    }
}

fn ends(sites: &[Site]) -> [Vec<IpAddr>; 2] {
    match sites {
        [one] => [one.outside.clone(), Vec::new()],
        [a, b, ..] => [a.outside.clone(), b.outside.clone()],
        [] => panic!("no site"),
    }
}

/// The first straight journey after which hardly any went another way.
fn straight_since(journeys: &[(Instant, Way)]) -> Option<Instant> {
    let (mut straight, mut found) = (0, None);
    for (count, (at, way)) in journeys.iter().rev().enumerate() {
        straight += usize::from(way.is_direct());
        if way.is_direct() && straight * 20 >= (count + 1) * 19 {
            found = Some(*at);
        }
    }
    // The last ones must be.
    let end = journeys.iter().rev().take(10).filter(|(_, way)| way.is_direct()).count();
    found.filter(|_| end >= 9)
}

fn answered(echoes: &[Echo], from: Instant, to: Instant) -> f64 {
    let to = to.checked_sub(Duration::from_millis(200)).unwrap();
    let span: Vec<_> = echoes.iter().filter(|echo| echo.sent >= from && echo.sent <= to).collect();
    let answered = span.iter().filter(|echo| echo.answered.is_some()).count();
    100.0 * answered as f64 / span.len().max(1) as f64
}

//! Real games: how each is started, how its client looks for servers, and what must be seen of that.
//!
//! A game is found when its client, which is told no address, lists the server's address. Where the two hosts are is
//! not the game's concern: `place` builds one plain switch, or two homes behind NATs with a party between them.

// As in `lab`: a problem here is the test's failure, and what it prints is the evidence.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod clients;
mod detection;
mod java;
mod mdns;
mod place;
mod queries;
mod screen;
mod servers;
mod wire;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

pub(crate) use clients::{CHOCOLATE_DOOM, OPENARENA, OPENTTD};
pub(crate) use detection::Watched;
pub(crate) use java::MINECRAFT_LIKE;
pub(crate) use mdns::MUMBLE;
pub(crate) use place::{Party, Place, Switch};
pub(crate) use queries::{ARMAGETRON, BZFLAG, DDNET, FREECIV, SAUERBRATEN, TEEWORLDS};
use wire::{Datagram, Wire};

use crate::lab::{Host, Process, shown};

/// For a client that finds something; the slowest one starts a 3D engine on the processor.
const FINDS_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Game {
    pub(crate) name: &'static str,
    /// What looks for the server.
    pub(crate) client: &'static str,
    /// Programs and the Debian packages that they are in.
    pub(crate) programs: &'static [(&'static str, &'static str)],
    pub(crate) asks: Asks,
    /// Start the server, and wait until it hears.
    pub(crate) serve: fn(&Host) -> Vec<Process>,
    /// Look for servers, whoever they are.
    pub(crate) find: fn(&Search<'_>) -> Result<Listing, String>,
    /// More arguments of `lanrage up`, on both sides.
    pub(crate) node: &'static [&'static str],
    /// What LANrage takes its programs for; none: for no game.
    pub(crate) profile: Option<Profile>,
}

/// By which profile a game is known, and the roles of its server and of its client, where a real one runs here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile {
    pub(crate) id: &'static str,
    pub(crate) server: &'static str,
    pub(crate) client: Option<&'static str>,
}

/// Who sends what the other side is to hear first, and to which ports.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asks {
    Client(&'static [u16]),
    /// Nobody asks: the server announces itself.
    Nobody(&'static [u16]),
}

#[derive(Debug)]
pub(crate) struct Search<'a> {
    pub(crate) on: &'a Host,
    pub(crate) patience: Duration,
}

/// What the client shows.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) server: Ipv4Addr,
    /// Its own words.
    pub(crate) text: String,
    pub(crate) at: Instant,
}

/// One search, from outside.
#[derive(Debug)]
struct Found {
    listing: Listing,
    ask: Datagram,
    /// The same datagram when it came to the other host.
    heard: Datagram,
    /// As it was sent, and as it came to the client's host; none where nobody answers.
    reply: Option<(Datagram, Datagram)>,
    /// How often it was sent, on all networks together, and how often heard.
    copies: (usize, usize),
}

impl Game {
    /// # Panics
    /// When the server is not found, or not by its address in this place, or the datagrams were not what they must be.
    #[track_caller]
    pub(crate) fn must_be_found(&self, place: &Place<'_>) {
        let _servers = (self.serve)(place.server);
        let runs: Vec<_> = (0..game_runs())
            .map(|_| {
                // New ones, which cannot be behind with what was sent before.
                let wires = [Wire::on(place.server), Wire::on(place.client)];
                let start = Instant::now();
                let listing = (self.find)(&Search { on: place.client, patience: FINDS_WITHIN });
                let listing = listing.unwrap_or_else(|said| panic!("{}: no server found:\n{said}", self.name));
                assert_eq!(listing.server, place.server_ip, "{}: found elsewhere: {}", self.name, listing.text);
                self.seen(place, start, &wires, listing)
            })
            .collect();
        self.report(place, &runs);
    }

    /// The client looks and lists nothing.
    ///
    /// # Panics
    /// When it lists something, or never asked.
    #[track_caller]
    pub(crate) fn must_not_be_found(&self, place: &Place<'_>) {
        let _servers = (self.serve)(place.server);
        let wires = [Wire::on(place.server), Wire::on(place.client)];
        let start = Instant::now();
        let listing = (self.find)(&Search { on: place.client, patience: Duration::from_secs(6) });
        let asked = wires[self.sender()].first(start, |datagram| self.is_ask(datagram));
        assert!(asked.is_some(), "{}: nothing was sent that could be carried", self.name);
        match listing {
            Err(said) => {
                let last = said.trim().lines().last().unwrap_or_default();
                shown(format!("{} {}: not found, as it must be ({last})", self.name, place.name));
            }
            Ok(listing) => panic!("{}: found where nothing carries its query: {}", self.name, listing.text),
        }
    }

    /// Index of the host that sends first: 0 the server, 1 the client.
    fn sender(&self) -> usize {
        match self.asks {
            Asks::Client(_) => 1,
            Asks::Nobody(_) => 0,
        }
    }

    fn is_ask(&self, datagram: &Datagram) -> bool {
        let (Asks::Client(ports) | Asks::Nobody(ports)) = self.asks;
        ports.contains(&datagram.to.port()) && datagram.is_for_many()
    }

    fn seen(&self, place: &Place<'_>, start: Instant, [server, client]: &[Wire; 2], listing: Listing) -> Found {
        let announced = self.sender() == 0;
        let (sender, receiver) = if announced { (server, client) } else { (client, server) };
        let source = if announced { place.server_ip } else { place.client_ip };
        let missing = |what: &str| -> ! { panic!("{}: {what} was not seen; listed: {}", self.name, listing.text) };
        let is_heard = |datagram: &Datagram| {
            let (Asks::Client(ports) | Asks::Nobody(ports)) = self.asks;
            *datagram.from.ip() == source && ports.contains(&datagram.to.port())
        };
        // The same ports on both hosts, so that what LANrage's server browser asks of its own is not taken for the game's.
        let as_sent = |ask: &Datagram, heard: &Datagram| {
            self.is_ask(ask)
                && (ask.to.port(), ask.from.port(), ask.size) == (heard.to.port(), heard.from.port(), heard.size)
        };
        let heard =
            receiver.first(start, |heard| is_heard(heard) && sender.count(start, |ask| as_sent(ask, heard)) > 0);
        let Some(heard) = heard else {
            missing(
                "a query at the other host, from the sender's address in this place and with the ports that it was sent with,",
            )
        };
        // Where it was sent to several networks, best the one with that destination.
        let same = |ask: &Datagram| as_sent(ask, &heard);
        let exact = sender.first(start, |datagram| same(datagram) && datagram.to == heard.to);
        let ask = exact.or_else(|| sender.first(start, same)).expect("as sent");
        // Counted in this order, as more may be under way.
        let alike = |datagram: &Datagram| {
            (datagram.to.port(), datagram.from.port(), datagram.size) == (ask.to.port(), ask.from.port(), ask.size)
        };
        let copies = receiver.count(start, |datagram| is_heard(datagram) && alike(datagram));
        let sent = sender.count(start, |datagram| self.is_ask(datagram) && alike(datagram));
        assert!(copies <= sent, "{}: sent {sent} times and heard {copies} times", self.name);
        let reply = (!announced).then(|| {
            let is_reply = |datagram: &Datagram| {
                *datagram.from.ip() == place.server_ip
                    && (*datagram.to.ip() == place.client_ip || datagram.is_for_many())
                    && datagram.from != ask.from
            };
            // Most answer the port that asked; it is the game's own, not one of the server browser.
            let reply = client
                .first(ask.at, |datagram| is_reply(datagram) && datagram.to.port() == ask.from.port())
                .or_else(|| client.first(ask.at, is_reply))
                .unwrap_or_else(|| missing("the reply at the client's host"));
            // A game may answer by the address of its LAN: by its port and size it is the same.
            let sent = server.first(heard.at, |datagram| {
                datagram.from.port() == reply.from.port()
                    && datagram.to.port() == reply.to.port()
                    && datagram.size == reply.size
            });
            (sent.unwrap_or(reply), reply)
        });
        Found { listing, ask, heard, reply, copies: (sent, copies) }
    }

    fn report(&self, place: &Place<'_>, runs: &[Found]) {
        let first = &runs[0];
        shown(format!("{} {}: {} lists: {}", self.name, place.name, self.client, first.listing.text.trim()));
        shown(format!(
            "  sent {} → {} ({} bytes, {} times), heard as {} → {} ({} times)",
            first.ask.from,
            first.ask.to,
            first.ask.size,
            first.copies.0,
            first.heard.from,
            first.heard.to,
            first.copies.1
        ));
        let reply = first.reply.map_or_else(
            || "none, an announcement".into(),
            |(sent, reply)| {
                let way = match sent.to.ip() {
                    group if group.is_multicast() => "multicast",
                    _ if sent.is_for_many() => "broadcast",
                    _ => "unicast",
                };
                let port = if reply.from.port() == first.heard.to.port() { "" } else { ", from another port" };
                let (sent, got) = ((sent.from, sent.to), (reply.from, reply.to));
                format!("{way} {} → {}, came as {} → {} ({} bytes){port}", sent.0, sent.1, got.0, got.1, reply.size)
            },
        );
        shown(format!("  reply: {reply}"));
        let spread = |of: fn(&Found) -> Duration| {
            let mut times: Vec<_> = runs.iter().map(of).collect();
            times.sort();
            let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
            let (low, median, high) = (times[0], times[times.len() / 2], times[times.len() - 1]);
            format!("{:.1} ms ({:.1} to {:.1})", ms(median), ms(low), ms(high))
        };
        shown(format!(
            "  {} runs: to the other host {}, to the reply {}, to the listing {}; ping {}",
            runs.len(),
            spread(|run| run.heard.at.saturating_duration_since(run.ask.at)),
            spread(|run| run.reply.map_or(run.heard, |reply| reply.1).at.saturating_duration_since(run.ask.at)),
            spread(|run| run.listing.at.saturating_duration_since(run.ask.at)),
            place.ping(),
        ));
    }
}

/// How often each game is searched: the clients take seconds to start, so `LANRAGE_GAME_RUNS` and not `LANRAGE_RUNS`.
fn game_runs() -> usize {
    std::env::var("LANRAGE_GAME_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1)
}

//! What LANrage adds to the round trip, on links with real delay: beside the plain path where it goes straight, beside the
//! sum of the legs where it goes by a relay. Prints figures; run by hand on a machine that does nothing else:
//! `cargo test --release --test nat_latency -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on ends")]

mod lab;

use std::time::{Duration, Instant};

use lab::meeting::{Meeting, TICK};
use lab::sites::Wanted;
use lab::stream::{EchoServer, Stream};
use lab::watch::Way;
use lab::{Lab, PATIENCE, Quality, shown, until};

const NFT: (&str, &str) = ("nft", "nftables");
const SPAN: Duration = Duration::from_secs(30);

#[test]
#[ignore = "measures for a minute"]
fn added_latency() {
    let Some(lab) = Lab::with_programs(&[NFT]) else { return };
    let delayed = |name, kind, ms| Wanted::new(name, kind).line(Quality::delay_ms(ms));

    // The plain path: without NAT on the way, so that a socket beside the tunnel reaches the other end too.
    let game = Meeting::prepare(&lab, delayed("first", "none", 10), delayed("second", "none", 15), 1, &[]);
    std::thread::sleep(Duration::from_secs(2));
    let (inside, met) = game.join(Duration::from_secs(10)).unwrap();
    assert!(met.direct.is_some(), "not direct: {}", met.said);
    let outside = Stream::start(game.b.host(), game.sites[0].outside(4).unwrap(), TICK);
    let start = Instant::now();
    std::thread::sleep(SPAN);
    let [tunnel, plain] = [&inside, &outside].map(|stream| Times::of(stream, start));
    shown(format!("direct: tunnel {tunnel}; plain {plain}; added p50 {:.2} ms", tunnel.p50 - plain.p50));
    drop((inside, outside, game));

    let Some(lab) = Lab::new() else { return };
    let game =
        Meeting::prepare(&lab, delayed("first", "symmetric", 10), delayed("second", "cgnat-symmetric", 15), 1, &[]);
    std::thread::sleep(Duration::from_secs(2));
    let (inside, met) = game.join(Duration::from_secs(10)).unwrap();
    assert!(met.first.is_some(), "no answer: {}", met.said);
    until("by the relay", PATIENCE, || match game.way_now(&inside) {
        Some(Way::Relayed) => Ok(()),
        way => Err(format!("{way:?}")),
    });
    let server = &game.internet.servers[0];
    let _echo = EchoServer::start(&server.host);
    let legs = [&game.a, &game.b].map(|node| Stream::start(node.host(), server.v4[0], TICK));
    let start = Instant::now();
    std::thread::sleep(SPAN);
    let [tunnel, a, b] = [&inside, &legs[0], &legs[1]].map(|stream| Times::of(stream, start));
    let added = tunnel.p50 - a.p50 - b.p50;
    shown(format!("relayed: tunnel {tunnel}; legs {a} and {b}; added p50 {added:.2} ms"));
}

/// Milliseconds.
struct Times {
    count: usize,
    p50: f64,
    p99: f64,
}

impl Times {
    fn of(stream: &Stream, since: Instant) -> Self {
        let echoes = stream.echoes();
        let mut times: Vec<_> =
            echoes.iter().filter(|echo| echo.sent >= since).filter_map(lab::stream::Echo::round_trip).collect();
        times.sort_unstable();
        let at =
            |percent: usize| times.get(times.len() * percent / 100).map_or(f64::NAN, |time| 1e3 * time.as_secs_f64());
        Self { count: times.len(), p50: at(50), p99: at(99) }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.2} ms, p99 {:.2} ms ({} echoes)", self.p50, self.p99, self.count)
    }
}

//! Routers of every kind, each proved by probing to be what the table (tests/lab/nat_kinds.toml) says of it, and lines
//! with delay, jitter, loss and a rate, proved by ping.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on ends")]

mod lab;

use std::time::{Duration, Instant};

use lab::nat_kinds::{Kind, Mapping};
use lab::probe::{self, Found, Servers};
use lab::sites::{Internet, Site, Wanted};
use lab::{Lab, Quality, shown};

const NFT: (&str, &str) = ("nft", "nftables");

fn one_of_each(internet: &Internet<'_>) -> Vec<Site> {
    let players = |kind: &Kind| if kind.name == "lan" { 2 } else { 1 };
    let wanted: Vec<_> =
        Kind::all().iter().map(|kind| Wanted::new(&kind.name, &kind.name).players(players(kind))).collect();
    internet.sites(&wanted)
}

#[test]
fn every_kind_is_what_the_table_says() {
    let Some(lab) = Lab::with_programs(&[NFT]) else { return };
    let start = Instant::now();
    let internet = Internet::new(&lab);
    let sites = one_of_each(&internet);
    shown(format!("{} sites built in {:.1} s", sites.len(), start.elapsed().as_secs_f64()));

    let servers = Servers::start(&internet);
    let start = Instant::now();
    let mut port = 40_000;
    let mut wrong = Vec::new();
    println!(
        "| kind | IPv | maps seen by s1:3478, s1:3479, s2:3478 | mapping | port kept | from other port | from other address | own address | TCP 443, 4001 |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for site in &sites {
        for (player, family) in
            site.players.iter().flat_map(|player| site.kind.family.iter().map(move |f| (player, *f)))
        {
            port += 10;
            let found = probe::explore(&servers, player, family, port);
            println!("{}", row(site, family, &found));
            let mut expected = Found::expected(site.kind, found.udp.as_ref().map(|udp| udp.maps));
            if family == 6
                && let Some(udp) = &mut expected.udp
            {
                // No IPv6 address is translated here, so one's own is one's own.
                udp.own_address = true;
            }
            if found != expected {
                wrong.push(format!("{}: found {found:?}, expected {expected:?}", site.name));
            }
            if site.kind.name == "symmetric-sequential" {
                let ports = found.udp.unwrap().maps.map(|seen| seen.port());
                // Two other sockets of the prober come in between.
                assert!(ports[1] == ports[0] + 1 && ports[2] == ports[1] + 1, "not one after another: {ports:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    shown(format!("all as named, probed in {:.1} s", start.elapsed().as_secs_f64()));
}

fn row(site: &Site, family: u8, found: &Found) -> String {
    let yes = |is: bool| if is { "yes" } else { "no" };
    let tcp = format!("{}, {}", yes(found.tcp443), yes(found.tcp_other));
    let Some(udp) = &found.udp else {
        return format!("| {} | {family} | - | no UDP | - | - | - | - | {tcp} |", site.name);
    };
    let mapping = match udp.mapping {
        Mapping::EndpointIndependent => "EIM",
        Mapping::AddressDependent => "ADM",
        Mapping::AddressAndPortDependent => "APDM",
    };
    let maps = udp.maps.map(|map| map.to_string()).join(", ");
    format!(
        "| {} | {family} | {maps} | {mapping} | {} | {} | {} | {} | {tcp} |",
        site.name,
        yes(udp.port_kept),
        yes(udp.other_port),
        yes(udp.other_address),
        yes(udp.own_address),
    )
}

#[test]
fn a_plain_hole_punch_reaches_what_the_table_implies() {
    let Some(lab) = Lab::with_programs(&[NFT]) else { return };
    let internet = Internet::new(&lab);
    let servers = Servers::start(&internet);
    let (first, second) = (one_of_each(&internet), {
        let names: Vec<_> = Kind::all().iter().map(|kind| format!("{}2", kind.name)).collect();
        let wanted: Vec<_> = names.iter().zip(Kind::all()).map(|(name, kind)| Wanted::new(name, &kind.name)).collect();
        internet.sites(&wanted)
    });
    let pairs: Vec<_> = first.iter().flat_map(|a| second.iter().map(move |b| (a, b))).collect();
    let punched = probe::punch(&servers, &pairs);
    let mut wrong = Vec::new();
    for ((a, b), punched) in pairs.iter().zip(&punched) {
        if a.kind.punches(b.kind) != *punched {
            wrong.push(format!("{} and {}: {punched}", a.name, b.name));
        }
    }
    assert!(wrong.is_empty(), "not as the table implies: {wrong:?}");
    let reached = punched.iter().filter(|punched| **punched).count();
    shown(format!("{} ordered pairs: {reached} by a plain punch, as the table implies", pairs.len()));
}

/// An early datagram of the peer must not take the place of the mapping that the host is about to make.
#[test]
fn a_router_keeps_nothing_of_what_it_drops() {
    let Some(lab) = Lab::with_programs(&[NFT]) else { return };
    let internet = Internet::new(&lab);
    let servers = Servers::start(&internet);
    let site = internet.site(Wanted::new("home", "port"));
    let outside = site.outside(4).unwrap();
    let (at, server) = servers.at(4, 0, 0, 0);
    for _ in 0..5 {
        server.send_to(b"too early", (outside, 41_000)).unwrap();
    }
    let socket = probe::socket(site.player(), 4, 41_000);
    let seen = servers.observed(&socket, servers.at(4, 0, 0, 0), Duration::from_secs(5)).unwrap();
    assert_eq!(seen, (outside, 41_000).into(), "the port is kept towards {at}, which had sent before");
}

#[test]
fn two_players_of_one_nat_meet_over_their_lan_addresses_only() {
    let Some(lab) = Lab::with_programs(&[NFT]) else { return };
    let internet = Internet::new(&lab);
    let servers = Servers::start(&internet);
    let site = internet.site(Wanted::new("home", "lan").players(2));
    let [a, b] = [0, 1].map(|player: u16| probe::socket(&site.players[usize::from(player)], 4, 42_000 + player));
    let by = servers.at(4, 0, 0, 0);
    let [_, b_outside] = [&a, &b].map(|socket| servers.observed(socket, by, Duration::from_secs(5)).unwrap());
    assert_eq!(Some(b_outside.ip()), site.outside(4));
    assert!(!probe::reaches(&a, &b, b_outside, by, b_outside), "no hairpin");
    let inside = (site.players[1].address(), 42_001).into();
    assert!(probe::reaches(&a, &b, inside, by, b_outside), "on the LAN");
}

#[test]
fn lines_delay_and_lose_as_they_are_told() {
    let Some(lab) = Lab::with_programs(&[NFT]) else { return };
    let internet = Internet::new(&lab);
    let sites = internet.sites(&[
        Wanted::new("far", "port").line(Quality::delay_ms(20)),
        Wanted::new("jittery", "none")
            .line(Quality { delay: Duration::from_millis(10), jitter: Duration::from_millis(4) }),
        Wanted::new("lossy", "none"),
    ]);
    let server = internet.servers[0].v4[0].to_string();
    let [far, jittery, lossy] = &sites[..] else { unreachable!("three were wanted") };
    let idle = ping(far, &server, 100, "0.02");
    shown(format!("20 ms each way: {idle:?}"));
    // Never sooner than told; how much later depends on the machine.
    assert!(idle.least >= 40.0 && idle.lost == 0.0, "{idle:?}");
    let shaken = ping(jittery, &server, 100, "0.02");
    shown(format!("10 ms and 0 to 4 ms more each way: {shaken:?}"));
    assert!(shaken.least >= 20.0 && shaken.most >= 22.0 && shaken.lost == 0.0, "{shaken:?}");
    far.line.as_ref().unwrap().set(Quality::delay_ms(5));
    let nearer = ping(far, &server, 50, "0.02");
    shown(format!("changed to 5 ms: {nearer:?}"));
    assert!(nearer.least >= 10.0 && nearer.least < 40.0, "{nearer:?}");

    internet.lose(lossy, 100);
    let losing = ping(lossy, &server, 1_000, "0.002");
    shown(format!("10 % loss each way: {losing:?}, expected 19 %"));
    // Six standard deviations of 1,000 tries.
    assert!((11.0..27.0).contains(&losing.lost), "{losing:?}");
}

#[derive(Debug)]
struct Pinged {
    /// Milliseconds.
    least: f64,
    #[allow(dead_code, reason = "shown")]
    mean: f64,
    most: f64,
    /// Percent.
    lost: f64,
}

fn ping(from: &Site, to: &str, count: u32, interval: &str) -> Pinged {
    // One first, for the link addresses.
    from.player().run(&["ping", "-n", "-c", "1", "-w", "10", to]).expect_ok();
    let said = from.player().run(&["ping", "-n", "-q", "-c", &count.to_string(), "-i", interval, "-W", "1", to]).stdout;
    let number = |text: &str| text.parse::<f64>().unwrap_or_else(|_| panic!("no number `{text}` in {said}"));
    let lost = said.split("% packet loss").next().and_then(|before| before.rsplit(' ').next()).map(number).unwrap();
    let times = said.split(" = ").nth(1).unwrap_or_else(|| panic!("no times in {said}"));
    let mut times = times.split([' ', '/']).take(3).map(number);
    let mut next = || times.next().unwrap();
    Pinged { least: next(), mean: next(), most: next(), lost }
}

//! What a player notices when the way in use dies in mid-match: the longest time without an answered datagram, in a
//! stream of one each 20 ms. The bar is 1 s (median); it is shown, and asserted with `LANRAGE_STRICT=1`: a busy machine must
//! not fail a test by its clock. That the stream comes back by itself, with the same programs, is asserted always.
//!
//! `LANRAGE_RUNS` says how often each (default 3).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on ends")]

mod lab;

use std::time::{Duration, Instant};

use lab::meeting::{Meeting, TICK};
use lab::sites::Wanted;
use lab::stream::Stream;
use lab::watch::Way;
use lab::{Lab, PATIENCE, runs, shown, until};

const PROGRAMS: &[(&str, &str)] = &[("nft", "nftables"), ("conntrack", "conntrack")];
const BAR: Duration = Duration::from_secs(1);
/// The data port of the players where a test's rules name it.
const DATA_PORT: &str = "51820";

/// A match under way: how it was before, and what became of it.
struct Match<'lab> {
    meeting: Meeting<'lab>,
    stream: Stream,
    gaps: Vec<Duration>,
}

impl<'lab> Match<'lab> {
    fn start(lab: &'lab Lab, a: &str, b: &str, relays: usize) -> Self {
        let (first, second) = (Wanted::new("first", a), Wanted::new("second", b));
        let meeting = Meeting::prepare(lab, first, second, relays, &["--listen-port", DATA_PORT]);
        std::thread::sleep(Duration::from_secs(2));
        let (stream, met) = meeting.join(Duration::from_secs(10)).unwrap_or_else(|said| panic!("{a} > {b}: {said}"));
        assert!(met.first.is_some(), "{a} > {b}: no answer; {}", met.said);
        Self { meeting, stream, gaps: Vec::new() }
    }

    /// Wait until the last echoes went by such a way, and all of them were answered.
    #[track_caller]
    fn steady(&self, what: &str, wanted: impl Fn(Way) -> bool) -> Way {
        let began = Instant::now();
        until(what, PATIENCE, || {
            let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            let recent: Vec<_> = self.stream.echoes().into_iter().filter(|echo| echo.sent >= start).collect();
            let late = recent.iter().rev().skip(5).filter(|echo| echo.answered.is_none()).count();
            match self.meeting.way_now(&self.stream) {
                Some(way) if wanted(way) && late == 0 && recent.len() > 20 => Ok(way),
                way if began.elapsed() < PATIENCE / 2 => Err(format!("{way:?}, {late} of {} unanswered", recent.len())),
                // What the programs think, for whoever has to find out why.
                way => {
                    let nodes = [&self.meeting.a, &self.meeting.b];
                    let thoughts = nodes.map(|node| format!("{}\n{}", node.json(&["peers"]), node.json(&["status"])));
                    Err(format!("{way:?}, {late} of {} unanswered\n{}", recent.len(), thoughts.join("\n")))
                }
            }
        })
    }

    /// Do something to the network, and measure until the stream runs again.
    #[track_caller]
    fn disturb(&mut self, what: &str, disturbance: impl FnOnce(&mut Meeting<'_>)) {
        let start = Instant::now();
        disturbance(&mut self.meeting);
        // On a busy machine it takes a while, and what was answered meanwhile says nothing.
        let done = Instant::now();
        until(&format!("{what}: the stream goes on"), PATIENCE, || {
            let recent = Instant::now().checked_sub(Duration::from_millis(500)).unwrap();
            match self.stream.answers_since(recent.max(done)) {
                // Of 25 that were sent; the last ones are still under way.
                15.. => Ok(()),
                few => Err(format!("{few} answers in 0.5 s; {}", self.meeting.b.json(&["peers"]))),
            }
        });
        let last = self.stream.echoes().iter().rev().find(|echo| echo.answered.is_some()).map(|echo| echo.sent);
        // From before the disturbance, so that the last answer before it counts.
        let from = start.checked_sub(10 * TICK).unwrap();
        self.gaps.push(self.stream.gap(from, last.unwrap()).expect("the last one was answered"));
    }

    fn done(mut self, what: &str) {
        for (node, other) in [(&mut self.meeting.a, "bob"), (&mut self.meeting.b, "ann")] {
            assert!(node.process().ended().is_none(), "{} ended", node.name());
            let peer = node.peer(other).expect("still a peer");
            assert_eq!(peer["connected"], true, "{peer}");
            assert_eq!(peer["restarts"], 0, "{peer}");
        }
        self.gaps.sort_unstable();
        let median = self.gaps[self.gaps.len() / 2];
        let all: Vec<_> = self.gaps.iter().map(|gap| format!("{:.2}", gap.as_secs_f64())).collect();
        shown(format!("{what}: gap {:.2} s (median of {}: {})", median.as_secs_f64(), all.len(), all.join(" ")));
        if std::env::var("LANRAGE_STRICT").is_ok_and(|set| set == "1") {
            assert!(median < BAR, "{what}: {median:?}, the bar is {BAR:?}");
        }
    }
}

#[test]
fn the_direct_path_is_cut() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let mut game = Match::start(&lab, "port", "port", 1);
    let mut back = Vec::new();
    for _ in 0..runs(3) {
        game.steady("direct at first", Way::is_direct);
        game.disturb("cut", |meeting| meeting.internet.cut(&meeting.sites[0], &meeting.sites[1]));
        assert!(game.meeting.way_now(&game.stream).is_some_and(|way| !way.is_direct()), "by the relay");
        game.meeting.internet.mend();
        let mended = Instant::now();
        game.steady("direct again", Way::is_direct);
        back.push(mended.elapsed());
    }
    shown(format!("mended: direct again after {back:.1?}"));
    game.done("direct path cut, relay takes over");
}

#[test]
fn the_relay_is_killed() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let mut game = Match::start(&lab, "symmetric", "cgnat-symmetric", 2);
    for _ in 0..runs(3) {
        game.steady("relayed at first", |way| way == Way::Relayed);
        // Time to have another one warm.
        std::thread::sleep(Duration::from_secs(3));
        let used = in_use(&game);
        game.disturb("relay killed", |meeting| meeting.relays[used].kill9());
        game.meeting.relays[used].launch_again();
    }
    game.done("relay killed, another takes over");
}

/// With no other relay, what is lost is the time that it is down: it knows nothing, so it forgets nothing.
#[test]
fn the_only_relay_is_restarted() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let mut game = Match::start(&lab, "symmetric", "cgnat-symmetric", 1);
    for _ in 0..runs(3) {
        game.steady("relayed at first", |way| way == Way::Relayed);
        game.disturb("relay restarted", |meeting| meeting.relays[0].launch_again());
    }
    game.done("the only relay killed and started at once");
}

/// The relay that carries the match, by what is seen on the way.
fn in_use(game: &Match<'_>) -> usize {
    let seen = game.meeting.watch.passed_since(Instant::now().checked_sub(Duration::from_millis(300)).unwrap());
    let servers = &game.meeting.internet.servers;
    let count = |which: usize| {
        let own = servers[which].v4;
        seen.iter().filter(|echo| own.iter().any(|address| echo.from == *address || echo.to == *address)).count()
    };
    usize::from(count(1) > count(0))
}

/// Another lease on the LAN: the player has another inside address from one moment to the next.
#[test]
fn the_address_of_a_player_changes() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let mut game = Match::start(&lab, "port", "port", 1);
    let mut last = [10, 77].into_iter().cycle();
    for _ in 0..runs(3) {
        game.steady("direct at first", Way::is_direct);
        let old = last.next().unwrap();
        let new = if old == 10 { 77 } else { 10 };
        game.disturb("another inside address", |meeting| {
            let host = meeting.sites[1].player();
            host.ip(&["addr", "del", &format!("192.168.1.{old}/24"), "dev", "eth0"]);
            host.ip(&["addr", "add", &format!("192.168.1.{new}/24"), "brd", "+", "dev", "eth0"]);
            host.ip(&["route", "replace", "default", "via", "192.168.1.1"]);
        });
    }
    game.steady("direct at last", Way::is_direct);
    game.done("another address on the LAN");
}

/// The provider gives the router another public address; its old mappings are gone.
#[test]
fn the_outside_address_changes() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let mut game = Match::start(&lab, "port", "port", 1);
    let mut old = 2;
    for _ in 0..runs(3) {
        game.steady("direct at first", Way::is_direct);
        let new = if old == 2 { 3 } else { 2 };
        game.disturb("another outside address", |meeting| {
            let router = &meeting.sites[1].routers[0];
            router.ip(&["addr", "del", &format!("198.18.2.{old}/24"), "dev", "wan0"]);
            router.ip(&["addr", "add", &format!("198.18.2.{new}/24"), "brd", "+", "dev", "wan0"]);
            router.ip(&["route", "replace", "default", "via", "198.18.2.1"]);
            router.run(&["conntrack", "-F"]).expect_ok();
            // What the watch takes for this player's side.
            meeting.sites[1].outside = vec![[198, 18, 2, new].into()];
        });
        old = new;
    }
    game.steady("direct at last", Way::is_direct);
    game.done("another outside address");
}

/// Both routers forget what they have translated.
#[test]
fn both_nats_forget_their_mappings() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let mut game = Match::start(&lab, "port", "port", 1);
    for _ in 0..runs(3) {
        game.steady("direct at first", Way::is_direct);
        game.disturb("flushed", |meeting| {
            for site in &meeting.sites {
                site.routers[0].run(&["conntrack", "-F"]).expect_ok();
            }
        });
    }
    game.steady("direct at last", Way::is_direct);
    game.done("both NATs flushed");
}

/// Both routers forget all, and give other ports afterwards, as after a restart.
#[test]
fn both_nats_forget_their_mappings_and_give_other_ports() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let mut game = Match::start(&lab, "port", "port", 1);
    for run in 0..runs(3) {
        game.steady("direct at first", Way::is_direct);
        game.disturb("flushed", |meeting| {
            for (side, site) in meeting.sites.iter().enumerate() {
                let port = 30_000 + 10 * run + side;
                site.routers[0].nft(&format!(
                    "flush chain inet nat_lab outwards\n\
                     add rule inet nat_lab outwards oifname \"wan0\" udp sport {DATA_PORT} masquerade to :{port}\n\
                     add rule inet nat_lab outwards oifname \"wan0\" masquerade\n"
                ));
                site.routers[0].run(&["conntrack", "-F"]).expect_ok();
            }
        });
    }
    game.steady("direct at last", Way::is_direct);
    game.done("both NATs flushed, with other ports afterwards");
}

/// The program is stopped, as a laptop whose lid is closed, and its router forgets it meanwhile; when it goes on, the router
/// gives it another port. (The router is made to forget: what the other player sends would keep its memory fresh.)
#[test]
fn a_player_sleeps_and_wakes() {
    const SLEEP: Duration = Duration::from_secs(8);
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let game = Match::start(&lab, "port", "port", 1);
    let router = &game.meeting.sites[1].routers[0];
    let mut first = Vec::new();
    for run in 0..runs(3) {
        game.steady("direct at first", Way::is_direct);
        let before = game.meeting.b.peer("ann").unwrap()["restarts"].clone();
        let pid = rustix::process::Pid::from_raw(i32::try_from(game.meeting.b.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        std::thread::sleep(SLEEP);
        let port = 40_000 + run;
        router.nft(&format!(
            "flush chain inet nat_lab outwards\n\
             add rule inet nat_lab outwards oifname \"wan0\" udp sport {DATA_PORT} masquerade to :{port}\n\
             add rule inet nat_lab outwards oifname \"wan0\" masquerade\n"
        ));
        router.run(&["conntrack", "-F"]).expect_ok();
        let woken = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        until("the stream goes on", PATIENCE, || match game.stream.answers_since(woken) {
            15.. => Ok(()),
            few => Err(format!("{few} answers; {}", game.meeting.b.json(&["peers"]))),
        });
        let echoes = game.stream.echoes();
        let answers = echoes.iter().filter(|echo| echo.sent >= woken).filter_map(|echo| echo.answered);
        first.push(answers.min().unwrap() - woken);
        assert_eq!(game.meeting.b.peer("ann").unwrap()["restarts"], before, "the same PeerActor");
    }
    game.steady("direct at last", Way::is_direct);
    first.sort_unstable();
    let all: Vec<_> = first.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
    let median = first[first.len() / 2].as_secs_f64();
    shown(format!(
        "woken after {SLEEP:?}: first answer after {median:.2} s (median of {}: {})",
        all.len(),
        all.join(" ")
    ));
}

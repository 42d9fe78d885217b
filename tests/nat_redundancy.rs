//! Redundant mode with the real program: one in twenty packets is lost by chance on each of two paths. What the application
//! sees with it off, on, and by itself, in echoes of 100 bytes each 5 ms; a path's loss counts there and back.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on ends")]

mod lab;

use std::time::{Duration, Instant};

use lab::meeting::Meeting;
use lab::sites::Wanted;
use lab::stream::Stream;
use lab::{Lab, PATIENCE, shown, until};

const NFT: (&str, &str) = ("nft", "nftables");
const PER_MILLE: u16 = 50;
/// For each of the three.
const SPAN: Duration = Duration::from_secs(25);
const TICK: Duration = Duration::from_millis(5);
/// Loss is measured by probes, one a second: it takes a minute until a figure means something.
const LEARN: Duration = Duration::from_secs(60);

#[test]
fn loss_on_two_paths_is_hidden() {
    let Some(lab) = Lab::with_programs(&[NFT]) else { return };
    let game = Meeting::prepare(&lab, Wanted::new("first", "port"), Wanted::new("second", "port"), 1, &[]);
    std::thread::sleep(Duration::from_secs(2));
    let (first, met) = game.join(Duration::from_secs(10)).unwrap();
    assert!(met.direct.is_some(), "not direct: {}", met.said);
    drop(first);
    let [a, b] = [&game.sites[0].port, &game.sites[1].port];
    // The straight path, and the leg to the relay of the other: once for each way and direction.
    for (from, to) in [(a, b), (b, a)] {
        game.internet.lose_between(from, to, PER_MILLE);
        game.internet.lose_between(from, "s1", PER_MILLE);
    }
    let stream = Stream::of_size(game.b.host(), game.a_ip, TICK, 100);
    let set = |mode: &str| {
        game.a.cli(&["redundancy", "bob", mode]).expect_ok();
        game.b.cli(&["redundancy", "ann", mode]).expect_ok();
    };
    let measure = |mode: &str| {
        let start = Instant::now();
        std::thread::sleep(SPAN);
        let end = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let span: Vec<_> = stream.echoes().into_iter().filter(|echo| echo.sent >= start && echo.sent <= end).collect();
        let lost = span.iter().filter(|echo| echo.answered.is_none()).count();
        let percent = 100.0 * lost as f64 / span.len() as f64;
        let peer = game.b.peer("ann").unwrap();
        let path = &peer["path"]["kind"];
        shown(format!(
            "{mode}: {lost} of {} echoes lost, {percent:.2} % (path {path}, redundant {})",
            span.len(),
            peer["redundant"]
        ));
        percent
    };
    set("off");
    let off = measure("off");
    set("on");
    let on = measure("on");
    set("auto");
    let learning = Instant::now();
    until("loss is noticed", LEARN + PATIENCE, || {
        let both = [game.a.peer("bob"), game.b.peer("ann")].map(|peer| peer.unwrap()["redundant"] == true);
        if both == [true, true] { Ok(()) } else { Err(format!("redundant: {both:?}")) }
    });
    shown(format!("auto: on at both ends after {:.0} s", learning.elapsed().as_secs_f64()));
    let auto = measure("auto");
    // By chance 9.75 % and 0.5 %; a tenth of a percent more or less for want of a million echoes.
    assert!(off > 6.0, "{off}");
    assert!(on < off / 4.0, "{on} of {off}");
    assert!(auto < off / 2.0, "{auto} of {off}");
}

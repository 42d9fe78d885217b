//! Every kind of access against every kind, with the real program: do they meet, how soon, and by which way.
//!
//! `telling_pairs_meet` tries a few pairs. `all_pairs` tries all and prints the table of docs/nat-traversal.md; it is run
//! by scripts/nat-matrix.sh, with
//! - `LANRAGE_PAIRS`: `all` (default), `FIRST>SECOND,…`, `FIRST>*` or `*>SECOND`;
//! - `LANRAGE_RUNS`: how often each (default 1);
//! - `LANRAGE_AT_ONCE`: pairs at a time (default 4);
//! - `LANRAGE_SETTLE_MS`: from the party's creation to the join command (default 3000);
//! - `LANRAGE_PATIENCE_S`: how long a pair may take to be direct (default 20); 4 s where it cannot be over UDP;
//! - `LANRAGE_RELAYS`: public nodes, 1 or 2 (default 1);
//! - `LANRAGE_MATRIX_OUT`: a file for the table.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on ends")]

mod lab;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::meeting::{Meeting, Met};
use lab::nat_kinds::Kind;
use lab::sites::Wanted;
use lab::{Lab, runs, shown};

const NFT: (&str, &str) = ("nft", "nftables");

type Pair = (&'static Kind, &'static Kind);

/// Each tells of something else: a plain punch, two of one household, no punch possible, no UDP, no common IP version.
#[test]
fn telling_pairs_meet() {
    if Lab::with_programs(&[NFT]).is_none() {
        return;
    }
    let pairs =
        [("port", "port"), ("lan", "lan"), ("symmetric", "cgnat-symmetric"), ("port", "tcp443"), ("ipv6-only", "port")];
    let pairs: Vec<_> = pairs.iter().map(|(a, b)| (Kind::named(a), Kind::named(b))).collect();
    let table =
        run(&pairs, &Settings { runs: 1, at_once: 2, patience: Duration::from_secs(15), ..Settings::from_env() });
    for (pair @ (a, b), results) in &table {
        shown(format!("{} > {}: {}", a.name, b.name, cell(results)));
        for result in results {
            let met = result.as_ref().unwrap_or_else(|said| panic!("{} > {}: {said}", a.name, b.name));
            assert!(met.first.is_some(), "{} > {}: no answer; {}", a.name, b.name, met.said);
            assert!(met.direct.is_some() || !straight(*pair), "{} > {}: not direct; {}", a.name, b.name, met.said);
        }
    }
}

#[test]
#[ignore = "takes ten minutes: scripts/nat-matrix.sh"]
fn all_pairs() {
    if Lab::with_programs(&[NFT]).is_none() {
        return;
    }
    let kinds: Vec<_> = Kind::all().iter().filter(|kind| kind.matrix).collect();
    let lan = Kind::named("lan");
    let all = kinds.iter().flat_map(|a| kinds.iter().map(move |b| (*a, *b))).chain([(lan, lan)]);
    let wanted = std::env::var("LANRAGE_PAIRS").unwrap_or_else(|_| "all".into());
    let pairs: Vec<Pair> = all.filter(|pair| wanted.split(',').any(|wanted| matches(wanted, pair))).collect();
    assert!(!pairs.is_empty(), "no pair is called {wanted}");

    let settings = Settings::from_env();
    let start = Instant::now();
    let table = run(&pairs, &settings);
    let text = markdown(&kinds, &table, &settings);
    println!("{text}\n({:.0} s in all)", start.elapsed().as_secs_f64());
    if let Ok(file) = std::env::var("LANRAGE_MATRIX_OUT") {
        std::fs::write(&file, &text).unwrap();
    }
}

fn matches(wanted: &str, (a, b): &Pair) -> bool {
    let fits = |wanted: &str, kind: &Kind| wanted == "*" || wanted == kind.name;
    wanted == "all" || wanted.split_once('>').is_some_and(|(first, second)| fits(first, a) && fits(second, b))
}

/// Must the way be straight? A plain punch is enough, or they share a LAN.
fn straight((a, b): Pair) -> bool {
    a.punches(b) || (a.name == "lan" && b.name == "lan")
}

/// Random ports on one side: what it takes is many of them.
fn symmetric(kind: &Kind) -> bool {
    kind.mapping.is_some() && !kind.port_kept
}

/// Can the way be straight, over UDP? Two symmetric NATs are left on the relay.
fn can_be_direct((a, b): Pair) -> bool {
    let family = a.family.iter().any(|family| b.has(*family));
    straight((a, b)) || (family && a.udp() && b.udp() && !(symmetric(a) && symmetric(b)))
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    runs: usize,
    at_once: usize,
    settle: Duration,
    patience: Duration,
    relays: usize,
}

impl Settings {
    fn from_env() -> Self {
        let number =
            |name: &str, default: u64| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
        let count = |name: &str, default| usize::try_from(number(name, default)).unwrap();
        Self {
            runs: runs(1),
            at_once: count("LANRAGE_AT_ONCE", 4),
            settle: Duration::from_millis(number("LANRAGE_SETTLE_MS", 3_000)),
            patience: Duration::from_secs(number("LANRAGE_PATIENCE_S", 20)),
            relays: count("LANRAGE_RELAYS", 1),
        }
    }
}

type Outcome = Result<Met, String>;

fn run(pairs: &[Pair], settings: &Settings) -> Vec<(Pair, Vec<Outcome>)> {
    // All pairs once, then all again: what disturbs the machine for a while does not hit all runs of one pair.
    let jobs: Vec<_> = (0..settings.runs).flat_map(|_| 0..pairs.len()).collect();
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<BTreeMap<usize, Vec<Outcome>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..settings.at_once.min(jobs.len()) {
            scope.spawn(|| {
                while let Some(index) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (a, b) = pairs[*index];
                    let outcome = catch_unwind(AssertUnwindSafe(|| meet((a, b), settings)));
                    let outcome = outcome.unwrap_or_else(|panic| {
                        let said = panic.downcast_ref::<String>().map_or("panicked", String::as_str);
                        Err(said.lines().next().unwrap_or_default().into())
                    });
                    println!("  {} > {}: {}", a.name, b.name, line(&outcome));
                    outcomes.lock().unwrap().entry(*index).or_default().push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    outcomes.into_iter().map(|(index, outcomes)| (pairs[index], outcomes)).collect()
}

/// A fresh internet with fresh sites and nodes that have never met anybody.
fn meet((a, b): Pair, settings: &Settings) -> Outcome {
    let lab = Lab::new().ok_or("no lab")?;
    let [first, second] = [("first", a), ("second", b)].map(|(name, kind)| Wanted::new(name, &kind.name));
    let meeting = Meeting::prepare(&lab, first, second, settings.relays, &[]);
    std::thread::sleep(settings.settle);
    let vain = Duration::from_secs(4).min(settings.patience);
    let patience = if can_be_direct((a, b)) { settings.patience } else { vain };
    meeting.join(patience).map(|(_, met)| met)
}

fn line(outcome: &Outcome) -> String {
    let met = match outcome {
        Ok(met) => met,
        Err(said) => return format!("FAILED: {said}"),
    };
    let seconds =
        |time: Option<Duration>| time.map_or_else(|| "-".into(), |time| format!("{:.2} s", time.as_secs_f64()));
    let ways = met.ways.map_or_else(|| "-".into(), |[first, last]| format!("{} … {}", first.name(), last.name()));
    format!(
        "joined {}, first {}, {ways}, direct {}, {:.0} % answered; {}",
        seconds(Some(met.joined)),
        seconds(met.first),
        seconds(met.direct),
        met.answered_percent,
        met.said
    )
}

fn median(times: impl Iterator<Item = Duration>) -> Option<f64> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).map(Duration::as_secs_f64)
}

/// A cell of the table, from all runs of a pair.
fn cell(outcomes: &[Outcome]) -> String {
    let runs = outcomes.len();
    let met: Vec<_> = outcomes.iter().flatten().filter(|met| met.first.is_some()).collect();
    let Some(first) = median(met.iter().filter_map(|met| met.first)) else { return "**no**".into() };
    let of = |count: usize| if count == runs { String::new() } else { format!(" ({count} of {runs})") };
    let direct: Vec<_> = met.iter().filter(|met| met.direct.is_some()).collect();
    let connected = of(met.len());
    let Some(since) = median(direct.iter().filter_map(|met| met.direct)) else {
        let way = met.iter().find_map(|met| met.ways).map_or("relayed", |[_, last]| last.name());
        return format!("{way} {first:.1} s{connected}");
    };
    let way = direct.iter().find_map(|met| met.ways).map_or("direct", |[_, last]| last.name());
    if direct.len() == met.len() && since - first < 0.05 {
        format!("{way} {first:.1} s{connected}")
    } else {
        format!("{first:.1} s relayed{connected}, {way} at {since:.1} s{}", of(direct.len()))
    }
}

fn markdown(kinds: &[&'static Kind], table: &[(Pair, Vec<Outcome>)], settings: &Settings) -> String {
    let mut text = String::new();
    let mut say = |line: String| text += &(line + "\n");
    let find = |a: &Kind, b: &Kind| table.iter().find(|((x, y), _)| x == &a && y == &b).map(|(_, outcomes)| outcomes);
    say(format!(
        "| first \\ second | {} |",
        kinds.iter().map(|kind| kind.name.as_str()).collect::<Vec<_>>().join(" | ")
    ));
    say(format!("|{}", " --- |".repeat(kinds.len() + 1)));
    for a in kinds {
        let cells: Vec<_> =
            kinds.iter().map(|b| find(a, b).map_or_else(String::new, |outcomes| cell(outcomes))).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            say(format!("| {} | {} |", a.name, cells.join(" | ")));
        }
    }
    let lan = Kind::named("lan");
    if let Some(outcomes) = find(lan, lan) {
        say(format!("\nTwo players behind one NAT without hairpin: {}.", cell(outcomes)));
    }

    let all = || table.iter().flat_map(|(pair, outcomes)| outcomes.iter().map(move |outcome| (*pair, outcome)));
    let met = || all().filter_map(|(pair, outcome)| Some((pair, outcome.as_ref().ok()?)));
    let connected = met().filter(|(_, met)| met.first.is_some()).count();
    let direct = met().filter(|(_, met)| met.direct.is_some()).count();
    let total = all().count();
    say(format!(
        "\n{} pairs, {} run(s) each: {connected} of {total} runs connected, {direct} direct at the end.",
        table.len(),
        settings.runs
    ));
    let shown = |time: Option<f64>| time.map_or_else(|| "-".into(), |time| format!("{time:.2} s"));
    say(format!(
        "First answer, median: {} after the start of the join command, {} after its return; the command itself {}.",
        shown(median(met().filter_map(|(_, met)| met.first))),
        shown(median(met().filter_map(|(_, met)| Some(met.first?.saturating_sub(met.joined))))),
        shown(median(met().map(|(_, met)| met.joined))),
    ));
    say(format!(
        "Slowest first answer: {} after the start.",
        shown(met().filter_map(|(_, met)| met.first).max().map(|time| time.as_secs_f64()))
    ));
    let plain = || met().filter(|(pair, _)| straight(*pair));
    let of = plain().count();
    let late = plain().filter(|(_, met)| met.direct.is_none_or(|time| time > Duration::from_secs(1))).count();
    say(format!(
        "Where a plain punch is enough ({of} runs): direct in {}, median {}, {} within 1 s.",
        plain().filter(|(_, met)| met.direct.is_some()).count(),
        shown(median(plain().filter_map(|(_, met)| met.direct))),
        of - late
    ));
    let hard = || {
        let udp = met().filter(|((a, b), _)| a.udp() && b.udp() && a.family.iter().any(|family| b.has(*family)));
        udp.filter(|(pair, _)| !straight(*pair))
    };
    for (name, both) in [("Symmetric against port-restricted", false), ("Symmetric against symmetric", true)] {
        let these = || hard().filter(|((a, b), _)| (symmetric(a) && symmetric(b)) == both);
        say(format!(
            "{name} ({} runs): direct in {}, median {}.",
            these().count(),
            these().filter(|(_, met)| met.direct.is_some()).count(),
            shown(median(these().filter_map(|(_, met)| met.direct)))
        ));
    }
    for ((a, b), outcome) in all() {
        match outcome {
            Err(said) => say(format!("- {} > {}: {said}", a.name, b.name)),
            Ok(met) if met.first.is_none() => say(format!("- {} > {}: no answer; {}", a.name, b.name, met.said)),
            Ok(met) if met.direct.is_none() && straight((a, b)) => {
                say(format!("- {} > {}: a punch is possible, but: {}", a.name, b.name, line(outcome)));
            }
            Ok(_) => {}
        }
    }
    text
}

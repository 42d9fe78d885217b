//! The command line.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what people read")]

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::str::FromStr;

use clap::{Parser, Subcommand};

use crate::charts::{Chart, Series, Shape};
use crate::corpus::{self, Entry};
use crate::progress::Progress;
use crate::report::{Report, Table};
use crate::scenario;
use crate::{run, tier};

/// Runs LANrage's machines and actors as virtual peers in virtual time. See docs/simulation.md.
#[derive(Debug, Parser)]
#[command(name = "simulate", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario (a name from `list`, or a path that ends in .toml)
    Run {
        /// Left out only with --smoke
        #[arg(required_unless_present = "smoke")]
        scenario: Option<String>,
        /// Where all randomness comes from [default: the scenario's]
        #[arg(long)]
        seed: Option<u64>,
        /// How many virtual peers [default: the scenario's]
        #[arg(long)]
        peers: Option<u32>,
        /// Write the report as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write report.txt, report.json and the charts (SVG) into this folder
        #[arg(long, value_name = "DIR")]
        report: Option<PathBuf>,
        /// Another value for a key of the scenario's [run], as in the file: --set 'punching = false'
        #[arg(long, value_name = "KEY = VALUE")]
        set: Vec<String>,
        /// Run every scenario that belongs to the smoke set, with its smoke_peers
        #[arg(long, conflicts_with_all = ["scenario", "seed", "peers", "json", "report", "set"])]
        smoke: bool,
    },
    /// Run every scenario that draws its NATs from a mix, with and without many ports, and print the table
    Mixes {
        #[arg(long)]
        seed: Option<u64>,
        #[arg(long)]
        peers: Option<u32>,
    },
    /// Show the scenarios
    List,
    /// Run a failure from the corpus again (without a file: all of them); succeeds when it no longer fails
    Replay { file: Option<PathBuf> },
    /// Run seed after seed until one fails; keep the failure in the corpus and say how to replay it
    Explore {
        scenario: String,
        /// First and last, as in 1..100
        #[arg(long)]
        seeds: Range,
        #[arg(long)]
        peers: Option<u32>,
        /// Where a failure is kept [default: simulations/corpus]
        #[arg(long, value_name = "DIR")]
        corpus: Option<PathBuf>,
    },
    /// Run one scenario with several numbers of peers and show how its figures grow
    Sweep {
        scenario: String,
        #[arg(long, value_delimiter = ',', required = true)]
        peers: Vec<u32>,
        #[arg(long)]
        seed: Option<u64>,
        /// Write growth.txt, growth.json and the charts (SVG) into this folder
        #[arg(long, value_name = "DIR")]
        report: Option<PathBuf>,
    },
}

/// `A..B`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once("..").and_then(|(first, last)| {
            let last = last.strip_prefix('=').unwrap_or(last);
            Some(Self { first: first.parse().ok()?, last: last.parse().ok()? })
        });
        parsed.filter(|range| range.first <= range.last).ok_or_else(|| format!("`{text}` is not like 1..100"))
    }
}

/// What went wrong, in words; all that `main` needs.
type Outcome = Result<bool, String>;

fn words(error: impl Display) -> String {
    error.to_string()
}

/// Success: everything passed. 1: a run failed. 2: it could not be run.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Run { smoke: true, .. } => smoke(),
        Command::Run { scenario, seed, peers, json, report, set, smoke: false } => {
            run_one(&scenario.unwrap_or_default(), seed, peers, &set, json.as_deref(), report.as_deref())
        }
        Command::Mixes { seed, peers } => mixes(seed, peers),
        Command::List => list(),
        Command::Replay { file: Some(file) } => replay(&file),
        Command::Replay { file: None } => replay_all(),
        Command::Explore { scenario, seeds, peers, corpus } => {
            explore(&scenario, seeds, peers, &corpus.unwrap_or_else(corpus::folder))
        }
        Command::Sweep { scenario, peers, seed, report } => sweep(&scenario, &peers, seed, report.as_deref()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("simulate: {error}");
            ExitCode::from(2)
        }
    }
}

fn run_one(
    name: &str,
    seed: Option<u64>,
    peers: Option<u32>,
    set: &[String],
    json: Option<&Path>,
    folder: Option<&Path>,
) -> Outcome {
    let mut scenario = scenario::find(name).map_err(words)?;
    for change in set {
        scenario.set(change).map_err(words)?;
    }
    let (seed, peers) = (seed.unwrap_or(scenario.seed), peers.unwrap_or(scenario.peers));
    let report = run::run(&scenario, seed, peers, &Progress::on_terminal()).map_err(words)?;
    print!("{}", report.text());
    if let Some(path) = json {
        write(path, &serde_json::to_string_pretty(&report).map_err(words)?)?;
    }
    if let Some(folder) = folder {
        save(folder, &report)?;
    }
    if !report.passed {
        println!("\nAgain: {}", command(name, seed, peers));
    }
    Ok(report.passed)
}

fn command(scenario: &str, seed: u64, peers: u32) -> String {
    format!("cargo run -- run {scenario} --seed {seed} --peers {peers}")
}

fn save(folder: &Path, report: &Report) -> Result<(), String> {
    write(&folder.join("report.txt"), &report.text())?;
    write(&folder.join("report.json"), &serde_json::to_string_pretty(report).map_err(words)?)?;
    for chart in &report.charts {
        write(&folder.join(format!("{}.svg", chart.name)), &chart.svg())?;
    }
    println!("\nWritten to {}", folder.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn list() -> Outcome {
    for scenario in scenario::all().map_err(words)? {
        let smoke = if scenario.smoke_peers.is_some() { ", smoke set" } else { "" };
        println!("{:<28} {}", scenario.name, scenario.summary);
        println!("{:<28} tier {}, {} peers, seed {}{smoke}", "", scenario.tier, scenario.peers, scenario.seed);
    }
    println!();
    for tier in tier::TIERS {
        println!("tier {}: {}", tier.number(), tier.about());
    }
    Ok(true)
}

/// A run in a process of its own: identifiers that libp2p and others count per process start from the same number each
/// time, so a run among others is the same as a run alone.
fn in_own_process(scenario: &str, seed: u64, peers: u32) -> Result<serde_json::Value, String> {
    in_own_process_with(scenario, seed, peers, &[])
}

fn in_own_process_with(scenario: &str, seed: u64, peers: u32, set: &[&str]) -> Result<serde_json::Value, String> {
    let unique = format!("lanrage-simulate-{}-{seed}-{peers}.json", std::process::id());
    let json = std::env::temp_dir().join(unique);
    let own = std::env::current_exe().map_err(words)?;
    let output = Process::new(own)
        .args(["run", scenario, "--seed", &seed.to_string(), "--peers", &peers.to_string(), "--json"])
        .arg(&json)
        .args(set.iter().flat_map(|change| ["--set", change]))
        .output()
        .map_err(words)?;
    let text = std::fs::read_to_string(&json);
    let _ = std::fs::remove_file(&json);
    match text {
        Ok(text) => serde_json::from_str(&text).map_err(words),
        Err(_) => Err(format!(
            "{scenario}, seed {seed}, {peers} peers: no report; it said: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

fn passed(report: &serde_json::Value) -> bool {
    report["passed"].as_bool().unwrap_or(false)
}

fn smoke() -> Outcome {
    let mut all = true;
    for scenario in scenario::all().map_err(words)? {
        let Some(peers) = scenario.smoke_peers else { continue };
        let report = in_own_process(&scenario.name, scenario.seed, peers)?;
        let verdict = if passed(&report) { "PASSED" } else { "FAILED" };
        let (wall, hash) = (report["cost"]["wall_seconds"].as_f64().unwrap_or(0.0), &report["trace_hash"]);
        println!("{verdict}  {:<28} {peers:>5} peers  {wall:>6.1} s  {}", scenario.name, hash.as_str().unwrap_or(""));
        if !passed(&report) {
            all = false;
            for failure in report["failures"].as_array().into_iter().flatten().take(5) {
                println!("        at {} s: {}", failure["at"], failure["what"].as_str().unwrap_or(""));
            }
            println!("        Again: {}", command(&scenario.name, scenario.seed, peers));
        }
    }
    Ok(all)
}

/// Markdown, for docs/nat-traversal.md.
fn mixes(seed: Option<u64>, peers: Option<u32>) -> Outcome {
    println!("| mix | many ports | pairs | connected | direct | first path, median / 95 % | direct, median / 95 % |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut all = true;
    for scenario in scenario::all().map_err(words)?.iter().filter(|scenario| scenario.has("mix")) {
        let (seed, peers) = (seed.unwrap_or(scenario.seed), peers.unwrap_or(scenario.peers));
        for (with, set) in [("no", &["punching = false", "birthday_share = 0.0"][..]), ("yes", &[])] {
            let report = in_own_process_with(&scenario.name, seed, peers, set)?;
            let figure = |name: &str| {
                let found = report["figures"].as_array()?.iter().find(|one| one["name"] == name)?;
                found["value"].as_f64()
            };
            let cell = |name: &str| figure(name).map_or_else(|| "–".to_owned(), crate::report::number);
            let times = |name: &str| {
                format!(
                    "{} / {} s",
                    cell(&format!("pair {name} time, median")),
                    cell(&format!("pair {name} time, 95 %"))
                )
            };
            println!(
                "| {} | {with} | {} | {} % | {} % | {} | {} |",
                scenario.name,
                cell("pairs"),
                cell("pairs connected"),
                cell("pairs direct"),
                times("connect"),
                times("direct")
            );
            if !passed(&report) {
                all = false;
                for failure in report["failures"].as_array().into_iter().flatten().take(5) {
                    eprintln!("at {} s: {}", failure["at"], failure["what"].as_str().unwrap_or(""));
                }
            }
        }
    }
    Ok(all)
}

fn replay(file: &Path) -> Outcome {
    let entry = Entry::load(file).map_err(words)?;
    let scenario = scenario::find(&entry.scenario).map_err(words)?;
    let report = run::run(&scenario, entry.seed, entry.peers, &Progress::on_terminal()).map_err(words)?;
    print!("{}", report.text());
    let same = report.trace_hash == entry.trace_hash;
    println!(
        "\n{}: {}",
        file.display(),
        match (report.passed, same) {
            (true, _) => "does not fail any more",
            (false, true) => "fails, event for event as when it was kept",
            (false, false) => "fails, but not event for event as when it was kept: the code has changed since",
        }
    );
    Ok(report.passed)
}

fn replay_all() -> Outcome {
    let mut all = true;
    for file in corpus::files().map_err(words)? {
        let entry = Entry::load(&file).map_err(words)?;
        let report = in_own_process(&entry.scenario, entry.seed, entry.peers)?;
        println!("{}  {}", if passed(&report) { "PASSED" } else { "FAILED" }, file.display());
        all &= passed(&report);
    }
    Ok(all)
}

fn explore(name: &str, seeds: Range, peers: Option<u32>, corpus: &Path) -> Outcome {
    let scenario = scenario::find(name).map_err(words)?;
    let peers = peers.unwrap_or(scenario.peers);
    let progress = Progress::on_terminal();
    let total = seeds.last - seeds.first + 1;
    for seed in seeds.first..=seeds.last {
        #[allow(clippy::cast_precision_loss, reason = "a progress bar")]
        progress.set((seed - seeds.first) as f64 / total as f64, &format!("{name}, seed {seed}"));
        let report = in_own_process(name, seed, peers)?;
        if passed(&report) {
            continue;
        }
        progress.done();
        let entry = entry(name, &report, seed, peers)?.save(corpus, &scenario.name).map_err(words)?;
        println!("seed {seed} of {name} fails with {peers} peers:");
        for failure in report["failures"].as_array().into_iter().flatten().take(10) {
            println!("  at {} s: {}", failure["at"], failure["what"].as_str().unwrap_or(""));
        }
        println!("\nAgain:  {}\nReplay: cargo run -- replay {}", command(name, seed, peers), entry.display());
        return Ok(false);
    }
    progress.done();
    println!("{name}: seeds {}..{} pass with {peers} peers", seeds.first, seeds.last);
    Ok(true)
}

fn entry(name: &str, report: &serde_json::Value, seed: u64, peers: u32) -> Result<Entry, String> {
    Ok(Entry {
        scenario: name.to_owned(),
        seed,
        peers,
        about: String::new(),
        trace_hash: report["trace_hash"].as_str().unwrap_or("").to_owned(),
        failures: serde_json::from_value(report["failures"].clone()).map_err(words)?,
        tail: serde_json::from_value(report["trace_tail"].clone()).map_err(words)?,
    })
}

fn sweep(name: &str, sizes: &[u32], seed: Option<u64>, folder: Option<&Path>) -> Outcome {
    let scenario = scenario::find(name).map_err(words)?;
    let seed = seed.unwrap_or(scenario.seed);
    let progress = Progress::on_terminal();
    let mut reports = Vec::new();
    for (index, &peers) in sizes.iter().enumerate() {
        #[allow(clippy::cast_precision_loss, reason = "a progress bar")]
        progress.set(index as f64 / sizes.len() as f64, &format!("{name}, {peers} peers"));
        reports.push((peers, in_own_process(name, seed, peers)?));
    }
    progress.done();
    let mut columns = vec!["figure".to_owned()];
    columns.extend(sizes.iter().map(|peers| format!("{peers} peers")));
    let mut table = Table { title: format!("{name}, seed {seed}"), columns, rows: Vec::new() };
    let mut charts = Vec::new();
    let row = |label: &str, values: &[Option<f64>]| {
        let cells = values.iter().map(|value| value.map_or_else(|| "–".to_owned(), crate::report::number));
        std::iter::once(label.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    let names = reports.iter().flat_map(|(_, report)| report["figures"].as_array().into_iter().flatten());
    let mut figures: Vec<(String, String)> = Vec::new();
    for figure in names {
        let name = figure["name"].as_str().unwrap_or("").to_owned();
        if !figures.iter().any(|(known, _)| *known == name) {
            figures.push((name, figure["unit"].as_str().unwrap_or("").to_owned()));
        }
    }
    for (figure, unit) in &figures {
        let value = |report: &serde_json::Value| {
            let found = report["figures"].as_array()?.iter().find(|one| one["name"] == figure.as_str())?;
            found["value"].as_f64()
        };
        let values: Vec<Option<f64>> = reports.iter().map(|(_, report)| value(report)).collect();
        table.rows.push(row(&format!("{figure} {unit}"), &values));
        let points = sizes.iter().zip(&values).filter_map(|(&peers, value)| Some((f64::from(peers), (*value)?)));
        charts.push(Chart {
            name: figure.replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
            title: format!("{name}: {figure}"),
            x: "peers".to_owned(),
            y: unit.clone(),
            log_x: true,
            shape: Shape::Lines(vec![Series { name: figure.clone(), points: points.collect() }]),
        });
    }
    for (label, key) in
        [("wall time s", "wall_seconds"), ("processor time s", "cpu_seconds"), ("peak memory MiB", "peak_mib")]
    {
        let values: Vec<_> = reports.iter().map(|(_, report)| report["cost"][key].as_f64()).collect();
        table.rows.push(row(label, &values));
    }
    let verdicts = reports.iter().map(|(_, report)| if passed(report) { "yes" } else { "NO" }.to_owned());
    table.rows.push(std::iter::once("passed".to_owned()).chain(verdicts).collect());
    print!("{}", table.text());
    if let Some(folder) = folder {
        write(&folder.join("growth.txt"), &table.text())?;
        let json: Vec<_> = reports.iter().map(|(_, report)| report).collect();
        write(&folder.join("growth.json"), &serde_json::to_string_pretty(&json).map_err(words)?)?;
        for chart in &charts {
            write(&folder.join(format!("{}.svg", chart.name)), &chart.svg())?;
        }
    }
    Ok(reports.iter().all(|(_, report)| passed(report)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["simulate", "run"]).is_err());
        assert!(Cli::try_parse_from(["simulate", "run", "--smoke"]).is_ok());
    }

    #[test]
    fn seeds_are_a_range() {
        assert_eq!("3..9".parse(), Ok(Range { first: 3, last: 9 }));
        assert_eq!("3..=9".parse(), Ok(Range { first: 3, last: 9 }));
        for bad in ["", "3", "9..3", "a..b", ".."] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }
}

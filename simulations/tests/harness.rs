//! The program as people and CI run it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + &String::from_utf8(output.stderr.clone()).unwrap()
}

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A scenario of the folder with some text replaced.
fn changed(scenario: &str, into: &Path, changes: &[(&str, &str)]) -> String {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{scenario}.toml"));
    let mut text = std::fs::read_to_string(own).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{scenario} has no `{from}`");
        text = text.replace(from, to);
    }
    let path = into.join("changed.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn report(arguments: &[&str], json: &Path) -> serde_json::Value {
    let mut arguments = arguments.to_vec();
    arguments.extend(["--json", json.to_str().unwrap()]);
    let output = simulate(&arguments);
    serde_json::from_str(&std::fs::read_to_string(json).unwrap_or_else(|_| panic!("{}", text(&output)))).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_trace_and_report_and_another_seed_another() {
    let folder = folder("same-seed");
    let run = |seed: &str, file: &str| {
        let mut report = report(&["run", "party-circuit", "--peers", "30", "--seed", seed], &folder.join(file));
        report["cost"] = serde_json::Value::Null;
        report
    };
    let (one, again, other) = (run("5", "1.json"), run("5", "2.json"), run("6", "3.json"));
    assert_eq!(one, again);
    assert_ne!(one["trace_hash"], other["trace_hash"]);
    assert_eq!(one["passed"], true, "{one}");
}

#[test]
fn members_behind_nats_are_not_linked_when_no_node_serves_circuits() {
    let folder = folder("no-relays");
    let scenario =
        changed("party-circuit", &folder, &[("relays = 0.3", "relays = 0.0"), ("parties = 5", "parties = 1")]);
    let report = report(&["run", &scenario, "--peers", "30"], &folder.join("report.json"));
    assert_eq!(report["passed"], false);
    assert!(report["failures"][0]["what"].as_str().unwrap().contains("no link between two members"), "{report}");
}

#[test]
fn a_dht_without_power_is_noticed() {
    let folder = folder("all-gone");
    let scenario = changed("dht-gone", &folder, &[("gone = 0.3", "gone = 0.97"), ("keys = 30", "keys = 3")]);
    let output = simulate(&["run", &scenario, "--peers", "60", "--report", folder.join("report").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("Again: cargo run -- run"), "{}", text(&output));
    for file in ["report.txt", "report.json", "times.svg", "requests.svg", "bytes.svg"] {
        let written = std::fs::read_to_string(folder.join("report").join(file)).unwrap();
        assert!(written.len() > 200, "{file}: {written}");
    }
}

#[test]
fn mistakes_are_named() {
    let folder = folder("mistakes");
    for (changes, named) in [
        (&[("members = 2", "members = 2\nmembres = 3")][..], "membres"),
        (&[("behind_nat = 2", "behind_nat = 3")], "behind_nat"),
        (&[("relays = 0.3", "relays = 3")], "relays"),
        (&[("kind = \"party\"", "kind = \"partie\"")], "partie"),
        (&[("tier = 3", "tier = 7")], "tier 7"),
    ] {
        let scenario = changed("party-circuit", &folder, changes);
        let output = simulate(&["run", &scenario]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output).contains(named) && text(&output).contains("changed.toml"), "{}", text(&output));
    }
    let output = simulate(&["run", "no-such-scenario"]);
    assert!(text(&output).contains("party-circuit"), "it names those that there are: {}", text(&output));
}

#[test]
fn exploring_passes_over_good_seeds() {
    let output = simulate(&["explore", "party-open", "--seeds", "1..2", "--peers", "30"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn exploring_keeps_the_first_failure_and_it_can_be_replayed_event_for_event() {
    let folder = folder("explore");
    let scenario =
        changed("party-circuit", &folder, &[("relays = 0.3", "relays = 0.0"), ("parties = 5", "parties = 1")]);
    let corpus = folder.join("corpus");
    let arguments = ["explore", &scenario, "--seeds", "7..9", "--peers", "30", "--corpus", corpus.to_str().unwrap()];
    let output = simulate(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let kept: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "it stops at the first failing seed");
    let file = kept[0].to_str().unwrap();
    assert!(file.ends_with("changed-30-7.toml") && text(&output).contains(file), "{}", text(&output));
    let replay = simulate(&["replay", file]);
    assert_eq!(replay.status.code(), Some(1));
    assert!(text(&replay).contains("event for event as when it was kept"), "{}", text(&replay));
}

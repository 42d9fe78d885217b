//! The virtual clock stays in here: boringtun's `mock-instant` and the shims must not reach the workspace that ships, and
//! must be in use in this one.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `cargo tree` with `arguments`, in `folder`. Uses the lock file as it is.
fn tree(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--edges", "normal,features"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn names(tree: &str, what: &str) -> bool {
    tree.lines().any(|line| line.contains(what))
}

#[test]
fn the_mock_clock_is_in_the_simulations_and_not_in_what_ships() {
    let ours = tree(&here(), &[]);
    assert!(names(&ours, "boringtun feature \"mock-instant\""), "the simulations run on the real clock");
    let shipped = tree(&here().join(".."), &["--workspace"]);
    assert!(names(&shipped, "boringtun v"), "boringtun is gone; this test looks for nothing");
    for mock in ["mock-instant", "mock_instant"] {
        assert!(!names(&shipped, mock), "{mock} has reached the workspace that ships");
    }
}

#[test]
fn the_shims_are_in_use_here_and_only_here_in_the_versions_that_ship() {
    for name in ["futures-timer", "web-time"] {
        let line =
            |tree: String| tree.lines().find(|line| line.starts_with(&format!("{name} v"))).map(str::to_owned).unwrap();
        let (ours, shipped) = (line(tree(&here(), &[])), line(tree(&here().join(".."), &["--workspace"])));
        assert!(ours.contains("shims"), "{ours}: Cargo has ignored the patch");
        assert!(!shipped.contains("shims"), "{shipped}");
        let version = |line: &str| line.split_whitespace().nth(1).unwrap().to_owned();
        assert_eq!(version(&ours), version(&shipped), "{name}: the shim stands in for another version");
    }
}

/// What both workspaces use is the same version, or the simulations would try something else than what ships.
#[test]
fn both_lock_files_agree() {
    let versions = |path: PathBuf| -> std::collections::BTreeSet<(String, String)> {
        let lock: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        let packages = lock["package"].as_array().unwrap().iter();
        packages.map(|p| (p["name"].as_str().unwrap().to_owned(), p["version"].as_str().unwrap().to_owned())).collect()
    };
    let (ours, shipped) = (versions(here().join("Cargo.lock")), versions(here().join("../Cargo.lock")));
    for critical in ["actix", "boringtun", "tokio", "yamux"]
        .map(str::to_owned)
        .into_iter()
        .chain(shipped.iter().map(|(name, _)| name.clone()).filter(|name| name.starts_with("libp2p")))
    {
        let of = |set: &std::collections::BTreeSet<(String, String)>| -> Vec<String> {
            set.iter().filter(|(name, _)| *name == critical).map(|(_, version)| version.clone()).collect()
        };
        assert_eq!(of(&ours), of(&shipped), "{critical}: run `cargo update -p {critical} --precise …` in simulations/");
    }
}

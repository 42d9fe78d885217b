//! What labs of dead processes left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::process::settle;

const SPACES: &str = "/run/netns";
const FOLDER: &str = "lanrage-lab-";

pub(crate) fn space_prefix(pid: u32) -> String {
    format!("lr{pid}-")
}

pub(crate) fn folder(pid: u32, lab: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{FOLDER}{pid}-{lab}"))
}

/// The process that a namespace or folder of a lab belongs to.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(FOLDER).or_else(|| name.strip_prefix("lr"))?;
    let (pid, _) = rest.split_once('-')?;
    pid.parse().ok()
}

fn alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// Remove what labs of dead processes left: their processes, namespaces and folders.
pub(crate) fn remove() {
    // Before this process has made its first lab, what carries its pid is from an earlier process with that pid.
    static OWN: Once = Once::new();
    OWN.call_once(|| remove_where(|pid| pid == std::process::id()));
    remove_where(|pid| !alive(pid));
}

fn remove_where(doomed: impl Fn(u32) -> bool) {
    for name in names_in(Path::new(SPACES)).filter(|name| owner(name).is_some_and(&doomed)) {
        remove_space(&name);
    }
    for name in names_in(&std::env::temp_dir()).filter(|name| name.starts_with(FOLDER)) {
        if owner(&name).is_some_and(&doomed) {
            // A folder of another user stays: removing fails, and nothing depends on it.
            drop(fs::remove_dir_all(std::env::temp_dir().join(name)));
        }
    }
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>().into_iter()
}

/// Processes inside a namespace.
fn pids(space: &str) -> Vec<Pid> {
    let Ok(found) = Command::new("ip").args(["netns", "pids", space]).output() else { return Vec::new() };
    String::from_utf8_lossy(&found.stdout).lines().filter_map(|pid| Pid::from_raw(pid.trim().parse().ok()?)).collect()
}

/// Kill what runs in a namespace that a lab made, and remove it. Gone already is as good.
pub(crate) fn remove_space(name: &str) {
    for pid in pids(name) {
        let _ = kill_process(pid, Signal::KILL);
    }
    settle(|| pids(name).is_empty());
    drop(Command::new("ip").args(["netns", "del", name]).output());
}

pub(crate) fn spaces_of(pid: u32) -> Vec<String> {
    names_in(Path::new(SPACES)).filter(|name| owner(name) == Some(pid)).collect()
}

//! A laboratory of network namespaces: hosts, routers and switches that a test builds for itself, with the real
//! program and other real programs inside.
//!
//! Every namespace is called `lr<pid>-<lab>-<name>` and every folder `lanrage-lab-<pid>-<lab>`: a lab removes what
//! it made when it is dropped, and first of all what labs left behind whose process is dead.

// Each test program uses a part of this module only; what it prints is the evidence that the tests are run for.
#![allow(dead_code, unused_imports, clippy::print_stdout, clippy::unwrap_used)]

mod leftovers;
mod line;
pub(crate) mod meeting;
pub(crate) mod nat_kinds;
mod nat_rules;
mod net;
mod node;
pub(crate) mod probe;
mod process;
mod requirements;
pub(crate) mod sites;
mod sniffer;
pub(crate) mod stream;
pub(crate) mod watch;

use std::time::{Duration, Instant};

pub(crate) use line::{Line, Quality};
pub(crate) use net::{Host, Lab};
pub(crate) use node::{Answer, DHT_PROTOCOL, Node, NodeOptions, Relay, binary, virtual_ip};
pub(crate) use process::{Output, Process};
pub(crate) use sniffer::Sniffer;

/// Long enough for anything that works at all, also on two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Ask `probe` again and again until it answers.
///
/// # Panics
/// After `limit`, with `what` and what the probe last said.
#[track_caller]
pub(crate) fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > limit => panic!("{what}: not within {limit:?}; at last: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// One line of evidence.
pub(crate) fn shown(text: impl AsRef<str>) {
    println!("  shown: {}", text.as_ref());
}

/// How often to repeat what is measured: `LANRAGE_RUNS`, else `default`.
pub(crate) fn runs(default: usize) -> usize {
    std::env::var("LANRAGE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(default)
}

//! One run: a fresh thread, seeded, with the log watched.

use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

use crate::entropy;
use crate::logs::Logs;
use crate::progress::Progress;
use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::tier::{self, Job};

/// A swarm of deep futures needs more than the default.
const STACK: usize = 64 << 20;

/// What a daemon with the settings that ship shows of its log: what it hides is hidden here, and nothing else.
fn daemon_log() -> String {
    let defaults: toml::Table = toml::from_str(include_str!("../../config/default.toml")).unwrap_or_default();
    defaults.get("log").and_then(toml::Value::as_str).unwrap_or("trace").to_owned()
}

/// Runs the scenario to its end.
///
/// # Errors
/// When it cannot be run at all; what it finds wrong is in the report.
pub fn run(scenario: &Scenario, seed: u64, peers: u32, progress: &Progress) -> Result<Report, ScenarioError> {
    let tier = tier::by_number(scenario.tier).ok_or_else(|| scenario.invalid("its tier is gone"))?;
    let logs = Logs::default();
    let started = Instant::now();
    let body = || {
        entropy::seed_this_thread(seed);
        let mut report = Report::new(&scenario.name, scenario.tier, seed, peers);
        let words = EnvFilter::try_from_default_env().ok();
        let words =
            words.map(|filter| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(filter));
        let watched = EnvFilter::new(daemon_log()).and(LevelFilter::WARN);
        let subscriber = tracing_subscriber::registry().with(logs.clone().with_filter(watched)).with(words);
        let job = Job { scenario, seed, peers, progress };
        tracing::subscriber::with_default(subscriber, || tier.run(&job, &mut report)).map(|()| report)
    };
    let mut report = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("simulation".into()).stack_size(STACK);
        let handle = thread.spawn_scoped(scope, body).map_err(|error| scenario.invalid(error.to_string()))?;
        match handle.join() {
            Ok(report) => report,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
                let mut report = Report::new(&scenario.name, scenario.tier, seed, peers);
                report.fail(Duration::ZERO, format!("panicked: {}", text.unwrap_or_default()));
                report.finish(Duration::ZERO);
                Ok(report)
            }
        }
    })?;
    progress.done();
    let (errors, warnings, texts) = logs.seen();
    if errors > 0 {
        let end = Duration::from_secs_f64(report.virtual_seconds);
        for text in texts {
            report.fail(end, format!("ERROR in the log: {text}"));
        }
        report.finish(end);
    }
    report.figure("warnings in the log", count(warnings), "");
    report.cost.wall_seconds = started.elapsed().as_secs_f64();
    report.cost.cpu_seconds = cpu_seconds();
    report.cost.peak_mib = peak_mib();
    Ok(report)
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
const fn count(n: u64) -> f64 {
    n as f64
}

/// User and system time of this process so far; runs have a process of their own, except in tests.
#[allow(unsafe_code, clippy::cast_precision_loss)]
fn cpu_seconds() -> f64 {
    // SAFETY: all zero is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0.0;
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// `VmHWM` of this process; 0 where there is no /proc.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_log_is_watched_as_the_daemon_shows_it() {
        assert!(super::daemon_log().contains("lanrage_actors=info"), "{}", super::daemon_log());
    }
}

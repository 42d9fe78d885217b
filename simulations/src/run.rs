//! One run: a fresh thread, seeded, with the log watched.

use std::time::{Duration, Instant};

use tracing_subscriber::layer::SubscriberExt as _;

use crate::entropy;
use crate::logs::Logs;
use crate::progress::Progress;
use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::tier::{self, Job};

/// A swarm of deep futures needs more than the default.
const STACK: usize = 64 << 20;

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
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().ok();
        let words = filter.map(|_| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,boringtun=off"));
        let subscriber = tracing_subscriber::registry().with(filter).with(logs.clone()).with(words);
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
    report.cost.peak_mib = peak_mib();
    Ok(report)
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
const fn count(n: u64) -> f64 {
    n as f64
}

/// `VmHWM` of this process; 0 where there is no /proc.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

//! What a run found: for people, as JSON, and as charts.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::charts::Chart;
use crate::trace::Trace;

/// Failures told in words; the rest are counted.
const MAX_FAILURES: usize = 100;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Failure {
    /// Virtual seconds since the start.
    pub at: f64,
    pub what: String,
}

/// A table with a caption. All cells are text, so that what people read is what the JSON says.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Table {
    pub title: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    #[must_use]
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self { title: title.to_owned(), columns: columns.iter().map(|&c| c.to_owned()).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = impl ToString>) {
        self.rows.push(cells.into_iter().map(|cell| cell.to_string()).collect());
    }

    /// For people: aligned columns.
    #[must_use]
    pub fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).chain(self.columns.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &[String]| {
            let mut text = String::from(" ");
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = if index == 0 { write!(text, " {cell:<width$}") } else { write!(text, "  {cell:>width$}") };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
            text
        };
        let mut out = format!("{}\n{}", self.title, line(&self.columns));
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out
    }
}

/// A number that sweeps and scripts read.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: String,
}

/// The machine's part: differs from run to run and is not in the trace.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cost {
    pub wall_seconds: f64,
    /// Processor time of the process, user and system: what is left of the wall time when others use the machine too.
    pub cpu_seconds: f64,
    /// Greatest resident memory of the process, MiB.
    pub peak_mib: f64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub scenario: String,
    pub tier: u8,
    pub seed: u64,
    pub peers: u32,
    /// Virtual time that the run covered.
    pub virtual_seconds: f64,
    pub trace_hash: String,
    pub trace_events: u64,
    pub passed: bool,
    pub failures: Vec<Failure>,
    /// Failures beyond those in `failures`.
    pub more_failures: u64,
    pub figures: Vec<Figure>,
    pub tables: Vec<Table>,
    pub charts: Vec<Chart>,
    /// What the reader must know to read the figures right (a null cipher, a model's limits).
    pub notes: Vec<String>,
    pub cost: Cost,
    /// The last events before the end, when it failed.
    pub trace_tail: Vec<String>,
    #[serde(skip)]
    pub trace: Trace,
}

impl Report {
    #[must_use]
    pub fn new(scenario: &str, tier: u8, seed: u64, peers: u32) -> Self {
        Self {
            scenario: scenario.to_owned(),
            tier,
            seed,
            peers,
            virtual_seconds: 0.0,
            trace_hash: String::new(),
            trace_events: 0,
            passed: true,
            failures: Vec::new(),
            more_failures: 0,
            figures: Vec::new(),
            tables: Vec::new(),
            charts: Vec::new(),
            notes: Vec::new(),
            cost: Cost::default(),
            trace_tail: Vec::new(),
            trace: Trace::default(),
        }
    }

    /// One event of the trace; `at` is virtual time since the start.
    pub fn event(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        self.trace.record(at, what);
    }

    /// A broken expectation or invariant.
    pub fn fail(&mut self, at: Duration, what: impl Into<String>) {
        let what = what.into();
        self.trace.record(at, format_args!("FAILED {what}"));
        self.passed = false;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(Failure { at: at.as_secs_f64(), what });
        } else {
            self.more_failures += 1;
        }
    }

    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        self.figures.push(Figure { name: name.to_owned(), value, unit: unit.to_owned() });
    }

    /// Closes the trace.
    pub fn finish(&mut self, virtual_time: Duration) {
        self.virtual_seconds = virtual_time.as_secs_f64();
        self.trace_hash = self.trace.hash();
        self.trace_events = self.trace.events();
        self.trace_tail = if self.passed { Vec::new() } else { self.trace.tail() };
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let verdict = if self.passed { "PASSED" } else { "FAILED" };
        let _ = writeln!(
            out,
            "{verdict}  {} (tier {}), seed {}, {} peers, {:.1} virtual seconds in {:.1} s ({:.1} s of processor), {:.0} MiB at most",
            self.scenario,
            self.tier,
            self.seed,
            self.peers,
            self.virtual_seconds,
            self.cost.wall_seconds,
            self.cost.cpu_seconds,
            self.cost.peak_mib
        );
        let _ = writeln!(out, "trace   {} over {} events", self.trace_hash, self.trace_events);
        for figure in &self.figures {
            let _ = writeln!(out, "  {:<44} {:>12} {}", figure.name, number(figure.value), figure.unit);
        }
        for table in &self.tables {
            let _ = write!(out, "\n{}", table.text());
        }
        for note in &self.notes {
            let _ = writeln!(out, "\nNote: {note}");
        }
        if !self.failures.is_empty() {
            let _ = writeln!(out, "\nWhat failed:");
            for failure in &self.failures {
                let _ = writeln!(out, "  at {:>10.3} s  {}", failure.at, failure.what);
            }
            if self.more_failures > 0 {
                let _ = writeln!(out, "  and {} more", self.more_failures);
            }
        }
        out
    }
}

/// At most three decimals, none for whole numbers.
#[must_use]
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The value below which a part `p` (0–1) of the sorted values lies; nearest rank.
#[must_use]
pub fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let rank = (p * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
}

/// Cells `least, median, 95 %, greatest`, or dashes.
#[must_use]
pub fn spread(values: &[f64]) -> [String; 4] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [0.0, 0.5, 0.95, 1.0].map(|p| percentile(&sorted, p).map_or_else(|| "–".to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<f64> = (1..=10).map(f64::from).collect();
        for (p, want) in [(0.0, 1.0), (0.5, 5.0), (0.95, 10.0), (1.0, 10.0)] {
            assert_eq!(percentile(&sorted, p), Some(want), "{p}");
        }
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(spread(&[]), ["–"; 4]);
    }

    #[test]
    fn a_failure_is_told_counted_and_traced() {
        let mut report = Report::new("x", 3, 1, 2);
        let before = report.trace.hash();
        for _ in 0..MAX_FAILURES + 5 {
            report.fail(Duration::from_secs(1), "node 7 found nobody");
        }
        report.finish(Duration::from_secs(2));
        assert!(!report.passed && report.failures.len() == MAX_FAILURES && report.more_failures == 5);
        assert_ne!(report.trace_hash, before);
        let text = report.text();
        assert!(text.starts_with("FAILED") && text.contains("node 7 found nobody") && text.contains("5 more"));
    }
}

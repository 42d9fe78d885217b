//! ERROR and WARN events of the code under test: an ERROR fails the run, warnings are counted.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

const KEPT: usize = 20;

#[derive(Debug, Default)]
struct Seen {
    errors: u64,
    warnings: u64,
    texts: Vec<String>,
}

/// Shared between the subscriber and whoever reads it at the end.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Seen>>);

impl Logs {
    /// `(errors, warnings, the first errors in words)`
    #[must_use]
    pub fn seen(&self) -> (u64, u64, Vec<String>) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.errors, seen.warnings, seen.texts.clone())
    }
}

impl<S: Subscriber> Layer<S> for Logs {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if level == Level::WARN {
            seen.warnings += 1;
            return;
        }
        seen.errors += 1;
        if seen.texts.len() < KEPT {
            let mut text = Text(format!("{}:", event.metadata().target()));
            event.record(&mut text);
            seen.texts.push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

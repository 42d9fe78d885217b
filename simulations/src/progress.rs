//! One line on stderr that says how far the run is; nothing when stderr is not a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};

const WIDTH: usize = 30;

/// Shown in tenths of a per cent; the run reports as often as it likes.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    last: AtomicU32,
}

impl Progress {
    #[must_use]
    pub fn on_terminal() -> Self {
        Self { shown: std::io::stderr().is_terminal(), last: AtomicU32::new(u32::MAX) }
    }

    #[must_use]
    pub const fn silent() -> Self {
        Self { shown: false, last: AtomicU32::new(u32::MAX) }
    }

    /// `part`: 0 to 1.
    pub fn set(&self, part: f64, what: &str) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let tenths = (part.clamp(0.0, 1.0) * 1000.0) as u32;
        if !self.shown || self.last.swap(tenths, Ordering::Relaxed) == tenths {
            return;
        }
        let full = WIDTH * tenths as usize / 1000;
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(WIDTH - full));
        let _ = write!(std::io::stderr(), "\r{bar} {:>5.1} %  {what}\x1b[K", f64::from(tenths) / 10.0);
    }

    pub fn done(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

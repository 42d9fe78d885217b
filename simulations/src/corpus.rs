//! Failing runs, kept as files: what to run again, and what was seen when it failed.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::report::Failure;
use crate::scenario;

/// One failing run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub scenario: String,
    pub seed: u64,
    pub peers: u32,
    /// What it is about; filled in by whoever keeps the file once it is understood.
    #[serde(default)]
    pub about: String,
    /// As seen when the file was written. The code moves on, so a replay that passes has another one.
    pub trace_hash: String,
    pub failures: Vec<Failure>,
    /// The last events before the end.
    pub tail: Vec<String>,
}

impl Entry {
    /// Writes it into `folder` under a name that says what it is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, folder: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}-{}-{}.toml", self.scenario, self.peers, self.seed));
        let text = toml::to_string_pretty(self).map_err(io::Error::other)?;
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// # Errors
    /// When the file cannot be read or is not an entry; the error names it.
    pub fn load(path: &Path) -> io::Result<Self> {
        let named = |error: String| io::Error::other(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        toml::from_str(&text).map_err(|error| named(error.to_string()))
    }
}

/// `simulations/corpus`
#[must_use]
pub fn folder() -> PathBuf {
    scenario::home().join("corpus")
}

/// All files of the corpus, by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn files() -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

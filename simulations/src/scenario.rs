//! Scenario files: one TOML file is one scenario.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::tier;

/// Why a scenario cannot be run. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("there is no scenario `{name}`; there are: {}", .known.join(", "))]
    Unknown { name: String, known: Vec<String> },
    #[error("{}: {why}", .path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{}: {why}", .path.display())]
    Invalid { path: PathBuf, why: String },
    #[error("{}: there is no tier {tier}; there are: {}", .path.display(), .known.join(", "))]
    NoSuchTier { path: PathBuf, tier: u8, known: Vec<String> },
}

/// The part that all tiers share. `[run]` belongs to the tier, which refuses keys that it does not know.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    summary: String,
    tier: u8,
    seed: u64,
    peers: u32,
    smoke_peers: Option<u32>,
    #[serde(default)]
    run: toml::Table,
}

#[derive(Debug, Clone)]
pub struct Scenario {
    /// The file's name without `.toml`.
    pub name: String,
    pub path: PathBuf,
    /// One line for `list`.
    pub summary: String,
    pub tier: u8,
    /// Used unless `--seed` says otherwise.
    pub seed: u64,
    /// Used unless `--peers` says otherwise. What a peer is, is the tier's business.
    pub peers: u32,
    /// Present: the scenario belongs to the smoke set, with this many peers.
    pub smoke_peers: Option<u32>,
    run: toml::Table,
}

impl Scenario {
    /// # Errors
    /// When the file cannot be read, is not TOML, has a key that nobody knows, or names a tier that does not exist.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ScenarioError::Unreadable { path: path.to_owned(), why: error.to_string() })?;
        Self::parse(path, &text)
    }

    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ScenarioError> {
        let file: File = toml::from_str(text).map_err(|error| invalid(path, error.to_string().trim_end()))?;
        if file.peers == 0 {
            return Err(invalid(path, "`peers` must be at least 1"));
        }
        let scenario = Self {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            path: path.to_owned(),
            summary: file.summary,
            tier: file.tier,
            seed: file.seed,
            peers: file.peers,
            smoke_peers: file.smoke_peers,
            run: file.run,
        };
        let tier = tier::by_number(scenario.tier).ok_or_else(|| ScenarioError::NoSuchTier {
            path: path.to_owned(),
            tier: scenario.tier,
            known: tier::TIERS.iter().map(|tier| tier.number().to_string()).collect(),
        })?;
        tier.check(&scenario)?;
        Ok(scenario)
    }

    /// The `[run]` table as the tier's own type, which must be `deny_unknown_fields`.
    ///
    /// # Errors
    /// When a key is unknown, missing or of the wrong type; the error names file and key.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, ScenarioError> {
        self.run.clone().try_into().map_err(|error: toml::de::Error| {
            invalid(&self.path, format!("in [run]: {}", error.to_string().trim_end()))
        })
    }

    /// Replaces a key of `[run]`; `change` is as in the file, `key = value`.
    ///
    /// # Errors
    /// When it is not TOML, or the tier does not know it.
    pub fn set(&mut self, change: &str) -> Result<(), ScenarioError> {
        let table: toml::Table = toml::from_str(change)
            .map_err(|error| self.invalid(format!("`{change}`: {}", error.to_string().trim_end())))?;
        self.run.extend(table);
        match tier::by_number(self.tier) {
            Some(tier) => tier.check(self),
            None => Ok(()),
        }
    }

    /// Whether `[run]` has this key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.run.contains_key(key)
    }

    /// An error in a value that the type alone does not show.
    #[must_use]
    pub fn invalid(&self, why: impl Into<String>) -> ScenarioError {
        invalid(&self.path, why)
    }
}

fn invalid(path: &Path, why: impl Into<String>) -> ScenarioError {
    ScenarioError::Invalid { path: path.to_owned(), why: why.into() }
}

/// `simulations/`, where scenarios and corpus are.
#[must_use]
pub fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All scenario files, by name.
///
/// # Errors
/// When the folder cannot be read or a file is not a scenario.
pub fn all() -> Result<Vec<Scenario>, ScenarioError> {
    paths()?.iter().map(|path| Scenario::load(path)).collect()
}

/// By name, or by path when `name` ends in `.toml`.
///
/// # Errors
/// When there is none, or it is not a scenario.
pub fn find(name: &str) -> Result<Scenario, ScenarioError> {
    if Path::new(name).extension().is_some_and(|extension| extension == "toml") {
        return Scenario::load(Path::new(name));
    }
    let paths = paths()?;
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match paths.iter().find(|path| stem(path) == name) {
        Some(path) => Scenario::load(path),
        None => Err(ScenarioError::Unknown { name: name.to_owned(), known: paths.iter().map(stem).collect() }),
    }
}

fn paths() -> Result<Vec<PathBuf>, ScenarioError> {
    let folder = home().join("scenarios");
    let unreadable = |error: std::io::Error| ScenarioError::Unreadable { path: folder.clone(), why: error.to_string() };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_in_the_folder_is_a_scenario() {
        let scenarios = all().unwrap();
        assert!(!scenarios.is_empty());
        assert!(scenarios.iter().any(|scenario| scenario.smoke_peers.is_some()), "the smoke set is empty");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file() {
        let good = std::fs::read_to_string(&paths().unwrap()[0]).unwrap();
        for (text, key) in
            [(format!("colour = 1\n{good}"), "colour"), (good.replace("[run]", "[run]\nflavour = 2"), "flavour")]
        {
            let error = Scenario::parse(Path::new("some/file.toml"), &text).unwrap_err().to_string();
            assert!(error.contains("some/file.toml") && error.contains(key), "{error}");
        }
    }

    #[test]
    fn an_unknown_tier_or_name_lists_what_there_is() {
        let text = "summary = \"x\"\ntier = 9\nseed = 1\npeers = 1\n";
        assert!(Scenario::parse(Path::new("x.toml"), text).unwrap_err().to_string().contains("no tier 9"));
        let error = find("no-such").unwrap_err().to_string();
        assert!(error.contains(&all().unwrap()[0].name), "{error}");
    }
}

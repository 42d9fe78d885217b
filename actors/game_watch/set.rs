//! The profiles in use: the built-in ones, and the player's own, which come before built-in ones of the same id.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use super::matcher::{Matcher, overlap};
use super::profile::{Problem, Profile, limits};

/// The profiles of `game_profiles/`: id and text, in the order of the ids.
pub const BUILTIN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/builtin_profiles.rs"));

/// Files of the player's own that are read; more are named as a problem and left alone.
pub const MAX_CUSTOM: usize = 256;
/// Entries of the folder that are looked at.
pub const MAX_ENTRIES: usize = 1_024;

/// Where the player's own profiles lie.
pub trait Folder {
    /// Its `*.toml` files, at most [`MAX_ENTRIES`]; none where the folder does not exist.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self) -> io::Result<Vec<Stamp>>;

    /// At most [`limits::FILE`] bytes and one more, by which a longer file is known.
    ///
    /// # Errors
    /// When it cannot be read, or is not text.
    fn read(&self, file: &str) -> io::Result<String>;

    /// The whole name, for messages.
    fn path(&self, file: &str) -> PathBuf;
}

/// What tells that a file has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Its name in the folder.
    pub file: String,
    pub modified: Option<SystemTime>,
    /// Bytes.
    pub size: u64,
}

/// A problem with the file that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProblem {
    pub file: PathBuf,
    #[serde(flatten)]
    pub problem: Problem,
}

/// Whose profile it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Builtin,
    Custom,
}

/// A process could be two games.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Counted from 1: which `[[process]]`.
    pub rule: usize,
    pub exe: String,
    pub other_id: String,
    pub other_name: String,
    pub other_origin: Origin,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.other_origin {
            Origin::Builtin => "built-in",
            Origin::Custom => "own",
        };
        let Self { rule, exe, other_id, other_name, .. } = self;
        write!(f, "process[{rule}] ({exe}) also fits the {origin} profile {other_id} ({other_name})")
    }
}

/// All profiles, the matcher made of them, and what is wrong with the player's files.
#[derive(Debug)]
pub struct ProfileSet {
    builtin: Vec<Arc<Profile>>,
    files: BTreeMap<String, Held>,
    /// About the folder and about built-in profiles.
    others: Vec<FileProblem>,
    matcher: Matcher,
    origins: Vec<Origin>,
}

/// A file of the folder.
#[derive(Debug)]
struct Held {
    stamp: Stamp,
    path: PathBuf,
    /// The last version that was right; stays in use while the file is wrong.
    profile: Option<Arc<Profile>>,
    problems: Vec<Problem>,
}

impl Default for ProfileSet {
    fn default() -> Self {
        Self::new()
    }
}

impl ProfileSet {
    /// The built-in profiles only.
    #[must_use]
    pub fn new() -> Self {
        let mut others = Vec::new();
        let mut builtin = Vec::new();
        for (id, text) in BUILTIN {
            match Profile::parse(text) {
                Ok(profile) => builtin.push(Arc::new(profile)),
                Err(problems) => others.extend(problems.into_iter().map(|problem| FileProblem {
                    file: PathBuf::from("game_profiles").join(format!("{id}.toml")),
                    problem,
                })),
            }
        }
        let mut set =
            Self { builtin, files: BTreeMap::new(), others, matcher: Matcher::default(), origins: Vec::new() };
        set.rebuild();
        set
    }

    /// The built-in profiles and those of the folder.
    #[must_use]
    pub fn load(folder: &dyn Folder) -> Self {
        let mut set = Self::new();
        set.reload(folder);
        set
    }

    /// Reads the files that have changed since; true when a profile or a problem has changed with them. Cheap when
    /// nothing has: one listing of the folder.
    pub fn reload(&mut self, folder: &dyn Folder) -> bool {
        let listed = folder.list();
        let mut others: Vec<FileProblem> = Vec::new();
        let mut stamps = match listed {
            Ok(stamps) => stamps,
            Err(error) => {
                // What was loaded stays: the folder may come back.
                others.push(FileProblem {
                    file: folder.path(""),
                    problem: Problem::of_file(format!("the folder cannot be read: {error}")),
                });
                return self.put_others(others);
            }
        };
        stamps.sort_by(|a, b| a.file.cmp(&b.file));
        for stamp in stamps.drain(stamps.len().min(MAX_CUSTOM)..) {
            others.push(FileProblem {
                file: folder.path(&stamp.file),
                problem: Problem::of_file(format!("is left out: at most {MAX_CUSTOM} profiles of your own are read")),
            });
            if others.len() >= MAX_CUSTOM {
                break;
            }
        }
        let mut changed = self.put_others(others);
        let before = self.files.len();
        self.files.retain(|file, _| stamps.binary_search_by(|stamp| stamp.file.as_str().cmp(file)).is_ok());
        let mut rebuild = self.files.len() != before;
        for stamp in stamps {
            if self.files.get(&stamp.file).is_none_or(|held| held.stamp != stamp) {
                rebuild = true;
                self.take(folder, stamp);
            }
        }
        if rebuild {
            self.rebuild();
            changed = true;
        }
        changed
    }

    /// Everything that is wrong, with the file that it is in.
    #[must_use]
    pub fn problems(&self) -> Vec<FileProblem> {
        let of_files = self.files.values().flat_map(|held| {
            held.problems.iter().map(|problem| FileProblem { file: held.path.clone(), problem: problem.clone() })
        });
        self.others.iter().cloned().chain(of_files).collect()
    }

    #[must_use]
    pub fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    /// The player's own first, each part in the order of the ids.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Profile>, Origin)> {
        self.matcher.profiles().iter().zip(self.origins.iter().copied())
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<(&Arc<Profile>, Origin)> {
        self.iter().find(|(profile, _)| profile.id == id)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// The profiles of other ids that a process of this one would match as well.
    #[must_use]
    pub fn conflicts(&self, profile: &Profile) -> Vec<Conflict> {
        let mut all = Vec::new();
        for (other, origin) in self.iter().filter(|(other, _)| other.id != profile.id) {
            for (i, rule) in profile.processes.iter().enumerate() {
                if other.processes.iter().any(|process| overlap(rule, process)) {
                    all.push(Conflict {
                        rule: i + 1,
                        exe: rule.exe.to_string(),
                        other_id: other.id.clone(),
                        other_name: other.name.clone(),
                        other_origin: origin,
                    });
                }
            }
        }
        all
    }

    /// Reads one file.
    fn take(&mut self, folder: &dyn Folder, stamp: Stamp) {
        let read = if stamp.size > limits::FILE as u64 {
            Err(vec![Problem::of_file(format!(
                "the file has {} bytes; at most {} are allowed",
                stamp.size,
                limits::FILE
            ))])
        } else {
            match folder.read(&stamp.file) {
                Ok(text) => named_as(&stamp.file, Profile::parse(&text)),
                Err(error) => Err(vec![Problem::of_file(format!("cannot be read: {error}"))]),
            }
        };
        let last_good = self.files.remove(&stamp.file).and_then(|held| held.profile);
        let (profile, problems) = match read {
            Ok(profile) => (Some(Arc::new(profile)), Vec::new()),
            Err(mut problems) => {
                if last_good.is_some() {
                    problems.push(Problem::of_file("its last version that was right stays in use"));
                }
                (last_good, problems)
            }
        };
        let path = folder.path(&stamp.file);
        self.files.insert(stamp.file.clone(), Held { stamp, path, profile, problems });
    }

    fn put_others(&mut self, mut others: Vec<FileProblem>) -> bool {
        let builtin = self.others.iter().filter(|it| it.file.starts_with("game_profiles")).cloned();
        others.splice(0..0, builtin);
        let changed = others != self.others;
        self.others = others;
        changed
    }

    fn rebuild(&mut self) {
        let custom: Vec<_> = self.files.values().filter_map(|held| held.profile.clone()).collect();
        let builtin = self.builtin.iter().filter(|profile| !custom.iter().any(|own| own.id == profile.id)).cloned();
        let builtin: Vec<_> = builtin.collect();
        self.origins = vec![Origin::Custom; custom.len()];
        self.origins.resize(custom.len() + builtin.len(), Origin::Builtin);
        // The player's own come first: of two that match as well, the first wins.
        self.matcher = Matcher::new(custom.into_iter().chain(builtin).collect());
    }
}

/// A profile must be in the file of its name, so that an id stands in one file only.
fn named_as(file: &str, parsed: Result<Profile, Vec<Problem>>) -> Result<Profile, Vec<Problem>> {
    let profile = parsed?;
    if file.strip_suffix(".toml") == Some(profile.id.as_str()) {
        return Ok(profile);
    }
    Err(vec![Problem {
        line: None,
        field: "id".to_owned(),
        reason: format!("the file of this profile must be called {}.toml", profile.id),
    }])
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;

//! What the watch asks of the system, and where its profiles come from. Each system has its own behind this, and so
//! have tests.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::messages::ProfileProblem;
use super::profile::Profile;
use super::set::{Folder, ProfileSet};
use crate::wire::IpProtocol;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// `None` where it may not be read.
    pub exe: Option<PathBuf>,
    pub name: OsString,
    /// The program's own name first.
    pub cmd: Vec<OsString>,
    /// Seconds since 1970.
    pub started: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New, or become another program.
    pub appeared: Vec<Process>,
    pub gone: Vec<u32>,
}

pub trait ProcessSource: Send {
    /// What has changed since the last call; all that runs with the first.
    ///
    /// # Errors
    /// When the system does not list its processes.
    fn scan(&mut self) -> io::Result<Changes>;

    /// Makes the next scan a first one.
    fn forget(&mut self);

    /// The ports that a process takes packets on. Empty where they may not be read; `None` when it has nothing to do with
    /// the party's network: it is in a network namespace that is neither this program's nor has the address `own`, as
    /// those of `lanrage play` have.
    fn listening(&self, pid: u32, own: Option<Ipv4Addr>) -> Option<Vec<(IpProtocol, SocketAddr)>>;
}

/// All profiles, and what is wrong with those that could not be read.
pub type Profiles = (Vec<Arc<Profile>>, Vec<ProfileProblem>);

pub trait ProfileSource: Send {
    /// When they are others than at the last call.
    fn changed(&mut self) -> Option<Profiles>;
}

/// Those that the program brings along, and the player's own, which are read again when they change.
pub struct LoadedProfiles {
    folder: Box<dyn Folder + Send>,
    set: Option<ProfileSet>,
}

impl std::fmt::Debug for LoadedProfiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedProfiles").field("set", &self.set).finish_non_exhaustive()
    }
}

impl LoadedProfiles {
    #[must_use]
    pub fn new(folder: Box<dyn Folder + Send>) -> Self {
        Self { folder, set: None }
    }
}

impl ProfileSource for LoadedProfiles {
    fn changed(&mut self) -> Option<Profiles> {
        let folder = &*self.folder;
        match &mut self.set {
            Some(set) => {
                if !set.reload(folder) {
                    return None;
                }
            }
            None => self.set = Some(ProfileSet::load(folder)),
        }
        let set = self.set.as_ref()?;
        let problem = |it: super::set::FileProblem| ProfileProblem {
            file: it.file.display().to_string(),
            line: it.problem.line.map(Into::into),
            reason: match it.problem.field.as_str() {
                "" => it.problem.reason,
                field => format!("{field}: {}", it.problem.reason),
            },
        };
        Some((set.matcher().profiles().to_vec(), set.problems().into_iter().map(problem).collect()))
    }
}

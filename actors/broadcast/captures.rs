//! The captures that run, those that cannot, and what the player should do about it.

use std::collections::BTreeMap;
use std::io;

use super::interfaces::{MAX_CAPTURES, Wanted};
use super::messages::{CaptureState, CaptureView};
use super::system::{Capture, CaptureError, System};

struct Entry {
    wanted: Wanted,
    generation: u64,
    /// `None`: it could not be started, or has ended; it is tried again with the next survey.
    capture: Option<Box<dyn Capture>>,
    state: CaptureState,
    problem: Option<String>,
    packets: u64,
}

/// By the number of the capture point, which stays while the capture lasts.
#[derive(Default)]
pub struct Captures {
    entries: BTreeMap<u8, Entry>,
    generations: u64,
    told: Option<String>,
}

impl std::fmt::Debug for Captures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.view()).finish()
    }
}

impl Captures {
    /// Makes the captures those that are wanted; gives the numbers of the ones begun.
    pub fn settle(&mut self, wanted: Vec<Wanted>, system: &mut dyn System) -> Vec<u8> {
        // An interface with other addresses is captured anew, because the kernel's filter has them.
        self.entries.retain(|_, entry| wanted.contains(&entry.wanted));
        let mut begun = Vec::new();
        for wanted in wanted {
            let known = self.entries.iter().find(|(_, entry)| entry.wanted == wanted);
            let number = match known {
                Some((_, entry)) if entry.capture.is_some() => continue,
                Some((&number, _)) => Some(number),
                None => (0..MAX_CAPTURES as u8).find(|number| !self.entries.contains_key(number)),
            };
            let Some(number) = number else { continue };
            let packets = self.entries.get(&number).map_or(0, |entry| entry.packets);
            let (capture, state, problem) = match system.capture(&wanted) {
                Ok(capture) => (Some(capture), CaptureState::Running, None),
                Err(error @ CaptureError::Permission) => (None, CaptureState::NoPermission, Some(error.to_string())),
                Err(error @ CaptureError::System { .. }) => (None, CaptureState::Failed, Some(error.to_string())),
            };
            if capture.is_some() {
                begun.push(number);
            }
            self.generations += 1;
            let entry = Entry { wanted, generation: self.generations, capture, state, problem, packets };
            self.entries.insert(number, entry);
        }
        begun
    }

    /// As if none were wanted.
    pub fn end_all(&mut self) {
        self.entries.clear();
    }

    /// Tells one capture from the next of the same number.
    #[must_use]
    pub fn generation(&self, number: u8) -> u64 {
        self.entries.get(&number).map_or(0, |entry| entry.generation)
    }

    pub fn get(&mut self, number: u8) -> Option<&mut dyn Capture> {
        match self.entries.get_mut(&number)?.capture.as_mut() {
            Some(capture) => Some(capture.as_mut()),
            None => None,
        }
    }

    pub fn count(&mut self, number: u8) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.packets += 1;
        }
    }

    /// A capture reports that it cannot go on.
    pub fn end(&mut self, number: u8, error: &io::Error) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.capture = None;
            entry.state = CaptureState::Failed;
            entry.problem = Some(error.to_string());
        }
    }

    /// Those that run.
    #[must_use]
    pub fn running(&self) -> BTreeMap<u8, Wanted> {
        let running = self.entries.iter().filter(|(_, entry)| entry.capture.is_some());
        running.map(|(&number, entry)| (number, entry.wanted.clone())).collect()
    }

    pub fn take_dropped(&mut self) -> u64 {
        self.entries.values_mut().filter_map(|entry| entry.capture.as_mut()).map(|capture| capture.take_dropped()).sum()
    }

    #[must_use]
    pub fn view(&self) -> Vec<CaptureView> {
        let view = |entry: &Entry| CaptureView {
            interface: entry.wanted.name.clone(),
            state: entry.state,
            problem: entry.problem.clone(),
            packets: entry.packets,
        };
        self.entries.values().map(view).collect()
    }

    /// What the player should do something about.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let entry = self.entries.values().find(|entry| entry.capture.is_none())?;
        Some(match entry.state {
            CaptureState::NoPermission => format!(
                "what games shout on your local networks does not reach your friends: LANrage may not listen there. Run this, and LANrage goes on by itself: sudo setcap cap_net_admin,cap_net_raw+ep {}",
                std::env::current_exe()
                    .map_or_else(|_| "lanrage".to_owned(), |path| quoted(&path.display().to_string()))
            ),
            CaptureState::Running | CaptureState::Failed => format!(
                "what games shout on {} does not reach your friends: {}; trying again",
                entry.wanted.name,
                entry.problem.as_deref().unwrap_or("the capture ended")
            ),
        })
    }

    /// The problem, once when it comes up.
    pub fn take_news(&mut self) -> Option<String> {
        let problem = self.problem();
        if problem == self.told {
            return None;
        }
        self.told.clone_from(&problem);
        problem
    }
}

/// For a shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
#[path = "captures_tests.rs"]
mod tests;

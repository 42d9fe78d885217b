//! What is known of one node.

use std::time::{Duration, Instant};

use super::{FOUND_REST, FOUND_TRIES, MAX_ADDRS};

const REDIAL_FIRST: Duration = Duration::from_millis(500);
const REDIAL_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Node {
    /// A member: never given up.
    pub(super) wanted: bool,
    /// Known only because it opened a stream to this node: forgotten with it.
    pub(super) visitor: bool,
    pub(super) addrs: Vec<String>,
    pub(super) connected: bool,
    pub(super) links: usize,
    pub(super) attempt_since: Option<Instant>,
    pub(super) failures: u32,
    pub(super) next_try: Instant,
}

impl Node {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            wanted: false,
            visitor: false,
            addrs: Vec::new(),
            connected: false,
            links: 0,
            attempt_since: None,
            failures: 0,
            next_try: now,
        }
    }

    pub(super) fn add_addrs(&mut self, addrs: Vec<String>) {
        for addr in addrs {
            if !self.addrs.contains(&addr) {
                self.addrs.insert(0, addr);
            }
        }
        self.addrs.truncate(MAX_ADDRS);
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.attempt_since = None;
        self.failures = self.failures.saturating_add(1);
        let wait = REDIAL_FIRST.saturating_mul(1 << (self.failures - 1).min(10)).min(REDIAL_MAX);
        self.next_try = now + if !self.wanted && self.failures >= FOUND_TRIES { FOUND_REST } else { wait };
    }
}

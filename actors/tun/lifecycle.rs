//! When the device is opened, closed and tried again, and what is said about it.

use std::time::{Duration, Instant};

use super::device::OpenError;
use super::messages::{Address, TunState};
use crate::wire::Ipv4Range;

use super::routes::{LocalRoute, clash_message};

/// How long to wait before the device is tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryAfter {
    /// The system refused it.
    pub(super) failure: Duration,
    /// Its range is taken.
    pub(super) clash: Duration,
    /// It went away while in use.
    pub(super) loss: Duration,
}

impl RetryAfter {
    pub(super) const DEFAULT: Self =
        Self { failure: Duration::from_secs(3), clash: Duration::from_secs(10), loss: Duration::from_secs(1) };
}

/// What the owner of the device does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Keep,
    Close,
    /// Close the device if there is one, then open it with this address.
    Open(Address),
}

/// Why the timer is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    RetryOpen,
}

#[derive(Debug)]
pub(super) struct Lifecycle {
    retry_after: RetryAfter,
    wanted: Option<Address>,
    state: TunState,
    problem: Option<String>,
    retry_at: Option<Instant>,
    unreported: bool,
}

impl Lifecycle {
    pub(super) fn new(retry_after: RetryAfter) -> Self {
        Self { retry_after, wanted: None, state: TunState::Idle, problem: None, retry_at: None, unreported: false }
    }

    pub(super) fn state(&self) -> TunState {
        self.state
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn address(&self) -> Option<Address> {
        self.wanted
    }

    pub(super) fn set_address(&mut self, address: Option<Address>) -> Step {
        if address == self.wanted {
            // Up, or a retry is under way already.
            return Step::Keep;
        }
        self.wanted = address;
        self.retry_at = None;
        match address {
            None => {
                self.state = TunState::Idle;
                self.problem = None;
                Step::Close
            }
            Some(address) => Step::Open(address),
        }
    }

    pub(super) fn opened(&mut self) {
        self.state = TunState::Up;
        self.problem = None;
        self.retry_at = None;
    }

    pub(super) fn clashed(&mut self, now: Instant, range: Ipv4Range, clash: &LocalRoute) {
        self.fail(TunState::RangeClash, clash_message(range, clash), now + self.retry_after.clash);
    }

    pub(super) fn refused(&mut self, now: Instant, name: &str, exe: &str, error: &OpenError) {
        let (state, problem) = describe(name, exe, error);
        self.fail(state, problem, now + self.retry_after.failure);
    }

    pub(super) fn lost(&mut self, now: Instant, name: &str, why: &std::io::Error) {
        let problem = format!("the network device {name} went away ({why}); it is opened again");
        self.fail(TunState::Failed, problem, now + self.retry_after.loss);
    }

    fn fail(&mut self, state: TunState, problem: String, retry_at: Instant) {
        self.state = state;
        self.unreported |= self.problem.as_ref() != Some(&problem);
        self.problem = Some(problem);
        self.retry_at = Some(retry_at);
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, Why)> {
        self.retry_at.map(|at| (at, Why::RetryOpen))
    }

    pub(super) fn on_timeout(&mut self, now: Instant) -> Step {
        match (self.retry_at, self.wanted) {
            (Some(at), Some(address)) if at <= now => {
                self.retry_at = None;
                Step::Open(address)
            }
            _ => Step::Keep,
        }
    }

    /// The problem, when it was not given out yet: the same one is told once, however often it is met again.
    pub(super) fn take_report(&mut self) -> Option<&str> {
        std::mem::take(&mut self.unreported).then_some(self.problem.as_deref()).flatten()
    }
}

/// State and one line that says what to do. `exe` is the path of the running program.
fn describe(name: &str, exe: &str, error: &OpenError) -> (TunState, String) {
    let setcap = format!("sudo setcap cap_net_admin,cap_net_raw+ep {}", shell_quoted(exe));
    match error {
        OpenError::Capability => (
            TunState::NoPermission,
            format!(
                "no permission to create the network device {name}; run this, and LANrage goes on by itself: {setcap}"
            ),
        ),
        OpenError::NodeForbidden(node) => (
            TunState::NoPermission,
            format!(
                "no permission to open {node}; run this, and LANrage goes on by itself: sudo chmod a+rw {node} && {setcap}"
            ),
        ),
        OpenError::NodeMissing(node) => {
            (TunState::NoPermission, format!("{node} does not exist; run: sudo modprobe tun"))
        }
        OpenError::NameBusy => (
            TunState::Failed,
            format!(
                "the network device {name} is in use already (by a second LANrage?); end that program, or give this one \
                 another device with `--tun NAME`"
            ),
        ),
        OpenError::BadName => (
            TunState::Failed,
            format!(
                "`{name}` cannot be the name of the network device: give `--tun NAME` with 1 to 15 letters, digits, `-`, \
                 `_` or `.`"
            ),
        ),
        OpenError::System { step, source } => {
            (TunState::Failed, format!("the network device {name} cannot be set up: {step}: {source}"))
        }
    }
}

/// The path as a shell takes it.
fn shell_quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const ADDRESS: Address = Address { ip: std::net::Ipv4Addr::new(10, 66, 0, 1), range: Ipv4Range::DEFAULT };

    fn machine() -> (Lifecycle, Instant) {
        let mut machine = Lifecycle::new(RetryAfter::DEFAULT);
        assert_eq!(machine.set_address(Some(ADDRESS)), Step::Open(ADDRESS));
        (machine, Instant::now())
    }

    #[test]
    fn a_missing_right_is_told_once_and_tried_every_three_seconds() {
        let (mut machine, start) = machine();
        for n in 0..3 {
            let now = start + n * Duration::from_secs(3);
            machine.refused(now, "lanrage0", "/opt/lan rage/bin", &OpenError::Capability);
            assert_eq!(machine.state(), TunState::NoPermission);
            assert!(
                machine.problem().unwrap().contains("sudo setcap cap_net_admin,cap_net_raw+ep '/opt/lan rage/bin'")
            );
            assert_eq!(machine.take_report().is_some(), n == 0);
            let due = now + Duration::from_secs(3);
            assert_eq!(machine.poll_timeout(), Some((due, Why::RetryOpen)));
            assert_eq!(machine.on_timeout(due - Duration::from_millis(1)), Step::Keep);
            assert_eq!(machine.on_timeout(due), Step::Open(ADDRESS));
        }
        machine.opened();
        assert_eq!((machine.state(), machine.problem(), machine.poll_timeout()), (TunState::Up, None, None));
        machine.refused(start, "lanrage0", "/x", &OpenError::Capability);
        assert!(machine.take_report().is_some(), "after it was up, the same problem is news");
    }

    #[test]
    fn another_problem_is_told_too() {
        let (mut machine, now) = machine();
        machine.refused(now, "lanrage0", "/x", &OpenError::NodeMissing("/dev/net/tun"));
        assert!(machine.take_report().unwrap().contains("sudo modprobe tun"));
        machine.refused(now, "lanrage0", "/x", &OpenError::NameBusy);
        assert!(machine.take_report().unwrap().contains("--tun NAME"));
        assert_eq!(machine.state(), TunState::Failed);
        machine.clashed(
            now,
            ADDRESS.range,
            &LocalRoute { device: "eth0".into(), network: [10, 66, 0, 0].into(), prefix_len: 16 },
        );
        assert_eq!(machine.state(), TunState::RangeClash);
        assert_eq!(machine.poll_timeout().unwrap().0, now + Duration::from_secs(10));
        machine.refused(now, "x/y", "/x", &OpenError::BadName);
        assert!(machine.take_report().unwrap().contains("x/y"));
        let source = io::Error::other("no luck");
        machine.refused(now, "lanrage0", "/x", &OpenError::System { step: "set the MTU", source });
        assert!(machine.take_report().unwrap().contains("set the MTU: no luck"));
    }

    #[test]
    fn addresses_open_reopen_and_close() {
        let (mut machine, now) = machine();
        machine.opened();
        assert_eq!(machine.set_address(Some(ADDRESS)), Step::Keep);
        let other = Address { ip: std::net::Ipv4Addr::new(10, 66, 0, 2), ..ADDRESS };
        assert_eq!(machine.set_address(Some(other)), Step::Open(other));
        machine.lost(now, "lanrage0", &io::Error::other("deleted"));
        assert_eq!(machine.on_timeout(now + Duration::from_secs(1)), Step::Open(other));
        machine.lost(now, "lanrage0", &io::Error::other("deleted"));
        assert_eq!(machine.set_address(None), Step::Close);
        assert_eq!((machine.state(), machine.problem(), machine.poll_timeout()), (TunState::Idle, None, None));
        assert_eq!(machine.on_timeout(now + Duration::from_secs(60)), Step::Keep);
    }
}

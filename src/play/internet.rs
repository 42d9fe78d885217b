//! The internet behind the party's network: by a program that is made for that, if asked.

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lanrage_actors::wire::Ipv4Range;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::linux::{self, Signals};

/// Comes after the party's device, so that a game that takes the first interface takes the party's.
const DEVICE: &str = "internet0";
const PATIENCE: Duration = Duration::from_secs(10);
/// What is kept of the helper's words, bytes.
const KEPT: usize = 4096;

/// What gives a namespace the internet without root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Helper {
    Slirp4netns(PathBuf),
    Pasta(PathBuf),
}

/// Networks for the link between the game and the helper.
const LINKS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 2, 0), Ipv4Addr::new(192, 168, 231, 0)];

/// The one that is installed.
///
/// # Errors
/// What to install.
pub(super) fn find() -> Result<Helper, String> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    if let Some(path) = find("slirp4netns") {
        return Ok(Helper::Slirp4netns(path));
    }
    find("pasta").map(Helper::Pasta).ok_or_else(|| {
        "--internet needs slirp4netns or pasta, and neither is installed; install one, on Debian or Ubuntu with: sudo apt install slirp4netns"
            .to_owned()
    })
}

/// The network of the link: not the party's.
fn link(party: Ipv4Range) -> Ipv4Addr {
    LINKS.into_iter().find(|network| !party.contains(*network)).unwrap_or(LINKS[0])
}

fn host(network: Ipv4Addr, last: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.to_bits() | u32::from(last))
}

impl Helper {
    /// The name server that the game is to ask.
    pub(super) fn name_server(&self, party: Ipv4Range) -> Ipv4Addr {
        host(link(party), 3)
    }

    /// `ready` and `end` are descriptors: written to when it is ready, and closed with this process.
    fn command(&self, party: Ipv4Range, pid: u32, ready: i32, end: i32) -> Command {
        let network = link(party);
        match self {
            Self::Slirp4netns(path) => {
                let mut command = Command::new(path);
                command.args(["--configure", "--mtu=65520", "--disable-host-loopback"]);
                command.arg(format!("--cidr={network}/24")).arg(format!("--ready-fd={ready}"));
                command.arg(format!("--exit-fd={end}"));
                command.arg(format!("--userns-path=/proc/{pid}/ns/user"));
                command.arg(pid.to_string()).arg(DEVICE);
                command
            }
            Self::Pasta(path) => {
                let mut command = Command::new(path);
                command.args(["--foreground", "--config-net", "--quiet", "--no-map-gw", "--ipv4-only"]);
                command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
                command.arg("--ns-ifname").arg(DEVICE);
                command.arg("--address").arg(host(network, 100).to_string()).arg("--netmask").arg("24");
                command.arg("--gateway").arg(host(network, 2).to_string());
                command.arg("--dns-forward").arg(host(network, 3).to_string());
                command.arg("--userns").arg(format!("/proc/{pid}/ns/user"));
                command.arg("--netns").arg(format!("/proc/{pid}/ns/net"));
                command
            }
        }
    }

    /// Starts it for the network namespace of `pid` and waits until the internet is there.
    ///
    /// # Errors
    /// What it said.
    pub(super) fn start(&self, party: Ipv4Range, pid: u32, signals: &Signals) -> Result<Running, String> {
        let failed = |error: io::Error| format!("the internet for the game cannot be set up: {error}");
        let (reader, writer) = io::pipe().map_err(failed)?;
        let (end_reader, end) = io::pipe().map_err(failed)?;
        let theirs = [OwnedFd::from(writer), OwnedFd::from(end_reader)];
        for fd in &theirs {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(|error| failed(error.into()))?;
        }
        let mut command = self.command(party, pid, theirs[0].as_raw_fd(), theirs[1].as_raw_fd());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        signals.shield(&mut command);
        linux::die_with_parent(&mut command);
        let mut child = command.spawn().map_err(failed)?;
        drop(theirs);
        let said = child.stderr.take().map(Said::hear);
        let mut running = Running { child, said, _end: end };
        let started = Instant::now();
        let there = match self {
            Self::Slirp4netns(_) => is_ready(reader),
            Self::Pasta(_) => running.wait_for_device(pid),
        };
        if there { Ok(running) } else { Err(running.complaint(started.elapsed() >= PATIENCE)) }
    }
}

/// slirp4netns writes a byte when it is ready, and closes the pipe when it ends.
fn is_ready(mut reader: io::PipeReader) -> bool {
    let limit = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    // The signals that are passed on are blocked: nothing interrupts this.
    let heard = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&limit));
    heard.is_ok_and(|count| count > 0) && matches!(reader.read(&mut [0]), Ok(1))
}

/// The last words of a program, read for as long as it runs: it would stop at a pipe that nobody reads.
#[derive(Debug)]
struct Said {
    text: Arc<Mutex<Vec<u8>>>,
    hearing: JoinHandle<()>,
}

impl Said {
    fn hear(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let hearing = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                let mut text = into.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&buffer[..len]);
                let over = text.len().saturating_sub(KEPT);
                text.drain(..over);
            }
        });
        Self { text, hearing }
    }

    /// To be called once the program has ended. What it started may hold the pipe for longer.
    fn last_line(&self) -> String {
        let end = Instant::now() + Duration::from_secs(1);
        while !self.hearing.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&text);
        crate::cli::print::clean(text.trim().lines().last().unwrap_or("it does not say why"))
    }
}

/// Ended with this.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    said: Option<Said>,
    /// Closed when this process ends, however it ends.
    _end: io::PipeWriter,
}

impl Running {
    fn wait_for_device(&mut self, pid: u32) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            let devices = std::fs::read_to_string(format!("/proc/{pid}/net/route")).unwrap_or_default();
            if devices.lines().any(|line| line.starts_with(DEVICE)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Why it runs no more, if so.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("its helper has ended ({status}): {}", self.last_line()))
    }

    fn complaint(&mut self, late: bool) -> String {
        let _ = self.child.kill();
        let why = if late { format!("it was not there after {} s: ", PATIENCE.as_secs()) } else { String::new() };
        format!("the internet for the game cannot be set up: {why}{}", self.last_line())
    }

    fn last_line(&self) -> String {
        self.said.as_ref().map_or_else(String::new, Said::last_line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_not_in_the_party() {
        let helper = Helper::Slirp4netns("slirp4netns".into());
        assert_eq!(helper.name_server(Ipv4Range::DEFAULT), Ipv4Addr::new(10, 0, 2, 3));
        let all = "10.0.0.0/8".parse().unwrap();
        assert_eq!(helper.name_server(all), Ipv4Addr::new(192, 168, 231, 3));
        let command = helper.command(all, 7, 9, 10);
        let arguments: Vec<_> = command.get_args().map(|it| it.to_string_lossy().into_owned()).collect();
        assert!(arguments.contains(&"--cidr=192.168.231.0/24".to_owned()) && arguments.contains(&"7".to_owned()));
    }
}

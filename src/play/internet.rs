//! The internet behind the party's network: by a program that is made for that, if asked.

use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lanrage_actors::wire::Ipv4Range;

use super::linux;

/// Comes after the party's device, so that a game that takes the first interface takes the party's.
const DEVICE: &str = "internet0";
const PATIENCE: Duration = Duration::from_secs(10);

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
    pub(super) fn start(&self, party: Ipv4Range, pid: u32) -> Result<Running, String> {
        let failed = |error: io::Error| format!("the internet for the game cannot be set up: {error}");
        let (reader, writer) = io::pipe().map_err(failed)?;
        let (end_reader, end) = io::pipe().map_err(failed)?;
        let theirs = [OwnedFd::from(writer), OwnedFd::from(end_reader)];
        for fd in &theirs {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(|error| failed(error.into()))?;
        }
        let mut command = self.command(party, pid, theirs[0].as_raw_fd(), theirs[1].as_raw_fd());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        linux::die_with_parent(&mut command);
        let child = command.spawn().map_err(failed)?;
        drop(theirs);
        let mut running = Running { child, _end: end };
        let there = match self {
            // It writes a byte when it is ready; it closes the pipe when it ends.
            Self::Slirp4netns(_) => {
                let mut byte = [0];
                let mut reader = reader;
                matches!(reader.read(&mut byte), Ok(1))
            }
            Self::Pasta(_) => running.wait_for_device(pid),
        };
        if there { Ok(running) } else { Err(running.complaint()) }
    }
}

/// Ended with this.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
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

    fn complaint(&mut self) -> String {
        let _ = self.child.kill();
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(4096).read_to_end(&mut said);
        }
        let said = crate::cli::print::clean(String::from_utf8_lossy(&said).trim());
        format!("the internet for the game cannot be set up: {said}")
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

//! `lanrage play` itself: between the node and the process inside.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::channel::{Channel, socket_path};
use super::inside::original_environment;
use super::internet::{self, Helper};
use super::linux::Signals;
use super::messages::{Friend, FromInside, FromNode, Network, Setup, ToInside, ToNode, VERSION};
use super::ports::{self, Ports};
use super::{SOCKET_FILE, hosts};
use crate::cli::print;
use crate::system;

/// How often the listening ports are looked at, and how long a server waits at most until it is reached.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a node that is gone is looked for.
const AGAIN_EVERY: Duration = Duration::from_secs(1);
/// For an answer of the node.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the player asked for.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) data_dir: PathBuf,
    pub(crate) game: Option<String>,
    pub(crate) internet: bool,
    pub(crate) name_is_address: bool,
    pub(crate) command: Vec<OsString>,
}

/// The exit code is the game's; 128 and its number when a signal ended it.
///
/// # Errors
/// Why the game was not started.
pub(crate) fn run(order: &Order) -> Result<ExitCode, String> {
    let helper = if order.internet { Some(internet::find()?) } else { None };
    let (mut node, network, friends) = greet(order)?;
    let signals = Signals::take().map_err(|error| format!("signals cannot be passed on: {error}"))?;
    let setup = setup(order, helper.as_ref(), network, friends)?;
    let mut inside = Inside::start(&order.command, &signals)?;
    inside.send(&ToInside::Make(setup.clone()))?;
    let device = inside.device()?;
    attach(&mut node, &setup.network, &device)?;
    // Only the node may hold it: the device goes when the node's copy goes.
    drop(device);
    let internet = match &helper {
        Some(helper) => Some(helper.start(range(&setup.network)?, inside.pid(), &signals)?),
        None => None,
    };
    inside.send(&ToInside::Go)?;
    let (ports, next_try) = (Ports::default(), Instant::now());
    let status = Watch { order, signals: &signals, internet, node: Some(node), setup, ports, next_try }
        .until_end(&mut inside.child)
        .map_err(|error| format!("the game cannot be watched: {error}"))?;
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

fn range(network: &Network) -> Result<lanrage_actors::wire::Ipv4Range, String> {
    network.address().map(|address| address.range).ok_or_else(|| "LANrage named a network that no party has".into())
}

fn setup(order: &Order, helper: Option<&Helper>, network: Network, friends: Vec<Friend>) -> Result<Setup, String> {
    let range = range(&network)?;
    Ok(Setup {
        supervisor: std::process::id(),
        internet: helper.map(|helper| helper.name_server(range)),
        name_is_address: order.name_is_address,
        network,
        friends,
    })
}

/// Connects to the running node.
fn greet(order: &Order) -> Result<(Channel, Network, Vec<Friend>), String> {
    let mut node = connect(&order.data_dir)?;
    let hello = ToNode::Hello { version: VERSION, pid: std::process::id(), game: order.game.clone() };
    node.send(&hello, None).map_err(|error| format!("LANrage does not listen: {error}"))?;
    match answer(&mut node)? {
        FromNode::Welcome { network, friends } => Ok((node, network, friends)),
        FromNode::Refused(why) => Err(why),
        FromNode::Attached | FromNode::Friends(_) => Err(UNEXPECTED.into()),
    }
}

fn connect(data_dir: &Path) -> Result<Channel, String> {
    let place = data_dir.join(SOCKET_FILE);
    let connected = socket_path(data_dir, SOCKET_FILE).and_then(|(path, _held)| UnixStream::connect(path));
    let place = place.display();
    let socket = connected.map_err(|error| {
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
            format!(
                "LANrage is not running ({place} is not answered). Start it with: lanrage   (or name its data folder with --data-dir)"
            )
        } else if error.kind() == ErrorKind::PermissionDenied {
            format!("{place} belongs to another user. Run the game as the user that LANrage runs as, or LANrage as you.")
        } else {
            format!("LANrage cannot be reached at {place}: {error}")
        }
    })?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    Ok(Channel::new(socket))
}

fn answer(node: &mut Channel) -> Result<FromNode, String> {
    match node.receive() {
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err("LANrage ended before it answered".into()),
        Err(error) => Err(format!("LANrage did not answer as expected: {error}. Are both of the same version?")),
    }
}

const UNEXPECTED: &str = "LANrage answered something unexpected. Are both of the same version?";

fn attach(node: &mut Channel, network: &Network, device: &OwnedFd) -> Result<(), String> {
    let sent = node.send(&ToNode::Device(network.clone()), Some(device.as_fd()));
    sent.map_err(|error| format!("LANrage does not listen: {error}"))?;
    loop {
        match answer(node)? {
            FromNode::Attached => return Ok(()),
            FromNode::Friends(_) => {}
            FromNode::Refused(why) => return Err(why),
            FromNode::Welcome { .. } => return Err(UNEXPECTED.into()),
        }
    }
}

/// The process that becomes the game.
struct Inside {
    child: Child,
    channel: Channel,
}

impl Inside {
    fn start(command: &[OsString], signals: &Signals) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the program cannot start itself: {error}");
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).map_err(|error| failed(error.into()))?;
        let mut program = Command::new("/proc/self/exe");
        program.arg0("lanrage").arg("play-inside").arg(theirs.as_raw_fd().to_string()).arg("--").args(command);
        if let Some(environment) = original_environment() {
            program.env_clear().envs(environment);
        }
        signals.give_back(&mut program);
        let child = program.spawn().map_err(failed)?;
        Ok(Self { child, channel: Channel::new(ours) })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn send(&self, message: &ToInside) -> Result<(), String> {
        self.channel.send(message, None).map_err(|error| format!("the process for the game is gone: {error}"))
    }

    fn device(&mut self) -> Result<OwnedFd, String> {
        match self.channel.receive() {
            Ok(Some((FromInside::Device, Some(device)))) => Ok(device),
            Ok(Some((FromInside::Failed(message), _))) => Err(message),
            Ok(Some((FromInside::Device, None)) | None) => Err("the process for the game ended too early".into()),
            Err(error) => Err(format!("the process for the game cannot be understood: {error}")),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// While the game runs.
struct Watch<'a> {
    order: &'a Order,
    signals: &'a Signals,
    /// `None` when it was not asked for, or has ended.
    internet: Option<internet::Running>,
    /// `None` while the node is gone.
    node: Option<Channel>,
    setup: Setup,
    /// As told to the node.
    ports: Ports,
    next_try: Instant,
}

impl Watch<'_> {
    fn until_end(mut self, child: &mut Child) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(child);
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        if let Some(node) = &self.node {
            node.socket().set_nonblocking(true)?;
        }
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            while let Some(arrived) = self.signals.next() {
                // What the terminal sends to the whole group has reached the game too.
                if arrived.by_process
                    && let Some(signal) = Signal::from_named_raw(arrived.signal)
                {
                    let _ = kill_process(pid, signal);
                }
            }
            if let Some(why) = self.internet.as_mut().and_then(internet::Running::ended) {
                print::notice(&format!("the game has no internet any more, only the party: {why}"));
                self.internet = None;
            }
            self.hear(child.id());
            self.tell_ports(child.id());
            if self.node.is_none() && Instant::now() >= self.next_try {
                self.again(child.id());
            }
            let mut waits = vec![PollFd::new(&ended, PollFlags::IN), PollFd::new(self.signals.fd(), PollFlags::IN)];
            if let Some(node) = &self.node {
                waits.push(PollFd::new(node.socket(), PollFlags::IN));
            }
            let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_EVERY.subsec_nanos()) };
            match poll(&mut waits, Some(&limit)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn hear(&mut self, pid: u32) {
        while let Some(node) = &mut self.node {
            match node.receive::<FromNode>() {
                Ok(Some((FromNode::Friends(friends), _))) => {
                    self.setup.friends = friends;
                    self.write_hosts(pid);
                }
                Ok(Some((FromNode::Attached | FromNode::Welcome { .. }, _))) => {}
                Ok(Some((FromNode::Refused(why), _))) => self.lost(&why),
                Ok(None) => self.lost("LANrage has ended"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.lost(&format!("LANrage cannot be heard any more: {error}")),
            }
        }
    }

    fn lost(&mut self, why: &str) {
        print::notice(&format!("{}; the game has no network until LANrage is in a party again", print::clean(why)));
        self.node = None;
        self.next_try = Instant::now() + AGAIN_EVERY;
    }

    fn tell_ports(&mut self, pid: u32) {
        let Some(node) = &self.node else { return };
        let Some(found) = ports::of(pid) else { return };
        if found != self.ports {
            let told = node.send(&ToNode::Ports { udp: found.udp.clone(), tcp: found.tcp.clone() }, None);
            if told.is_ok() {
                self.ports = found;
            }
        }
    }

    /// The node is back, or this machine has another address: a new device for the namespace that is there.
    fn again(&mut self, pid: u32) {
        self.next_try = Instant::now() + AGAIN_EVERY;
        let again = || -> Result<(Channel, Network, Vec<Friend>), String> {
            let (mut node, network, friends) = greet(self.order)?;
            let setup = Setup { network, friends, ..self.setup.clone() };
            let mut helper = Inside::start(&[OsString::from("true")], self.signals)?;
            helper.send(&ToInside::Again { pid, setup: setup.clone() })?;
            let device = helper.device()?;
            attach(&mut node, &setup.network, &device)?;
            node.socket().set_nonblocking(true).map_err(|error| error.to_string())?;
            Ok((node, setup.network, setup.friends))
        };
        match again() {
            Ok((node, network, friends)) => {
                self.node = Some(node);
                (self.setup.network, self.setup.friends) = (network, friends);
                self.ports = Ports::default();
                self.write_hosts(pid);
                print::notice("the game has its network again");
            }
            Err(error) => tracing::debug!(%error, "no network yet"),
        }
    }

    /// The file is of this user and of memory, and only the namespace sees it.
    fn write_hosts(&self, pid: u32) {
        let own_name = system::host_name().filter(|_| !self.setup.name_is_address);
        let written = fs::read_to_string("/etc/hosts").and_then(|system| {
            let text = hosts::hosts(&system, own_name.as_deref(), self.setup.network.ip, &self.setup.friends);
            existing_in(Path::new(&format!("/proc/{pid}/root")), "etc/hosts")?.write_all(text.as_bytes())
        });
        if let Err(error) = written {
            print::notice(&format!("the game does not learn the names of new friends: {error}"));
        }
    }
}

/// An emptied file below `root`, where symbolic links stay: an absolute one must not lead to the system's own file.
fn existing_in(root: &Path, path: &str) -> io::Result<File> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    Ok(File::from(openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_passed_on() {
        let text = |status: ExitStatus| format!("{:?}", exit_code(status));
        assert_eq!(text(ExitStatus::from_raw(7 << 8)), format!("{:?}", ExitCode::from(7)));
        assert_eq!(text(ExitStatus::from_raw(15)), format!("{:?}", ExitCode::from(143)));
    }

    #[test]
    fn links_lead_to_files_of_the_namespace() {
        let root = std::env::temp_dir().join(format!("lanrage-root-{}", std::process::id()));
        for folder in ["etc", "lanrage-static"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let inner = root.join("lanrage-static/hosts");
        fs::write(&inner, "a much longer text before").unwrap();
        std::os::unix::fs::symlink("/lanrage-static/hosts", root.join("etc/hosts")).unwrap();
        existing_in(&root, "etc/hosts").unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&inner).unwrap(), "new");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_node_that_is_not_there_is_said() {
        let folder = std::env::temp_dir().join(format!("lanrage-no-node-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let said = connect(&folder).unwrap_err();
        assert!(said.contains("not running") && said.contains("--data-dir"), "{said}");
        fs::remove_dir_all(&folder).unwrap();
    }
}

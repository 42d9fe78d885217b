//! The process inside: makes the namespaces and the device, then becomes the game.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use lanrage_actors::tun::device::{OpenError, OpenRequest};
use lanrage_actors::tun::namespace::linux::{Beside, make_device, prepare};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change};
use rustix::process::{
    DumpableBehavior, Pid, Signal, dumpable_behavior, getegid, geteuid, getppid, set_dumpable_behavior,
    set_parent_process_death_signal,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::channel::Channel;
use super::messages::{FromInside, Setup, ToInside};
use super::{hosts, linux};
use crate::cli::print;
use crate::system;

/// As of `env` and the shells: the program was not found, or cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

/// Where a file system of our own is laid over for a moment, in a mount namespace that nobody else sees.
const SCRATCH: &str = "/tmp";

/// `control` is the descriptor of the socket to the supervisor.
pub(crate) fn run(control: RawFd, command: &[OsString]) -> ExitCode {
    let channel = linux::inherited(control).map(UnixStream::from).map(Channel::new);
    let outcome = channel.map_err(|error| format!("the supervisor is not there: {error}")).and_then(|mut channel| {
        let made = make(&mut channel);
        if let Err(message) = &made {
            // Said by the supervisor; where that is gone, there is nobody to hear it.
            let _ = channel.send(&FromInside::Failed(message.clone()), None);
        }
        made
    });
    match outcome {
        Ok(true) => become_game(command),
        Ok(false) => ExitCode::SUCCESS,
        Err(_said) => ExitCode::FAILURE,
    }
}

/// Whether to become the game now.
fn make(channel: &mut Channel) -> Result<bool, String> {
    match receive(channel)? {
        ToInside::Make(setup) => {
            enter_new_namespaces(&setup)?;
            let device = device(&setup)?;
            hand_over(channel, device)?;
            if receive(channel)? != ToInside::Go {
                return Err("the supervisor said something unexpected".into());
            }
            lay_over_files(&setup).map_err(|error| format!("the hosts file cannot be put in place: {error}"))?;
            Ok(true)
        }
        ToInside::Again { pid, setup } => {
            for (name, kind) in [("user", LinkNameSpaceType::User), ("net", LinkNameSpaceType::Network)] {
                let space = fs::File::open(format!("/proc/{pid}/ns/{name}"));
                let entered = space.and_then(|space| Ok(move_into_link_name_space(space.as_fd(), Some(kind))?));
                entered.map_err(|error| format!("the network of the game cannot be entered: {error}"))?;
            }
            hand_over(channel, device(&setup)?)?;
            Ok(false)
        }
        ToInside::Go => Err("the supervisor said something unexpected".into()),
    }
}

fn receive(channel: &mut Channel) -> Result<ToInside, String> {
    match channel.receive() {
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err("the supervisor has ended".into()),
        Err(error) => Err(format!("the supervisor cannot be understood: {error}")),
    }
}

fn hand_over(channel: &Channel, device: OwnedFd) -> Result<(), String> {
    channel.send(&FromInside::Device, Some(device.as_fd())).map_err(|error| format!("the supervisor is gone: {error}"))
}

fn enter_new_namespaces(setup: &Setup) -> Result<(), String> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    // A program with file capabilities is not dumpable, and then its files in /proc are root's.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    let mut kinds = UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if setup.name_is_address {
        kinds |= UnshareFlags::NEWUTS;
    }
    linux::unshare(kinds).map_err(|error| no_namespaces(&error))?;
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    die_with(setup.supervisor)?;
    // The game keeps the caller's user and group; with more than these two an ordinary user is refused.
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{user} {user} 1")),
        ("gid_map", format!("{group} {group} 1")),
    ];
    for (file, text) in maps {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| no_namespaces(&error))?;
    }
    prepare(group).map_err(|error| refused(&error))?;
    if setup.name_is_address {
        rustix::system::sethostname(setup.network.ip.to_string().as_bytes())
            .map_err(|error| format!("the name of the computer cannot be set inside: {error}"))?;
    }
    Ok(())
}

/// The game ends with its supervisor, however that ends.
fn die_with(supervisor: u32) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    let parent = getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs());
    if parent == Some(supervisor) { Ok(()) } else { Err("the supervisor has ended".into()) }
}

fn device(setup: &Setup) -> Result<OwnedFd, String> {
    let network = &setup.network;
    let address = network.address().ok_or("LANrage named a network that no party has")?;
    let beside = if setup.internet.is_some() { Beside::Internet } else { Beside::Nothing };
    let request = OpenRequest { name: &network.device, mtu: network.mtu, address };
    make_device(&request, beside).map_err(|error| refused(&error))
}

/// Why a device could not be made in a namespace of our own, where rights of the file do not matter.
fn refused(error: &OpenError) -> String {
    match error {
        OpenError::NodeForbidden(node) => format!(
            "this user may not open {node}; allow it with: sudo chmod 0666 {node}   (harmless: making devices in the system's own network stays forbidden)"
        ),
        OpenError::NodeMissing(node) => format!("{node} does not exist; load the driver with: sudo modprobe tun"),
        OpenError::Capability => no_namespaces(&io::Error::from_raw_os_error(1)),
        OpenError::System { source, .. } if source.kind() == ErrorKind::PermissionDenied => no_namespaces(source),
        OpenError::NameBusy | OpenError::BadName | OpenError::System { .. } => {
            format!("the network device inside cannot be made: {error}")
        }
    }
}

/// Which of the known switches forbids user namespaces, and how to turn it.
fn no_namespaces(error: &io::Error) -> String {
    why_no_namespaces(error, |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned()))
}

fn why_no_namespaces(error: &io::Error, read: impl Fn(&str) -> Option<String>) -> String {
    let is = |path: &str, value: &str| read(path).as_deref() == Some(value);
    let (cause, cure) = if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        ("the system is set to refuse them", "sudo sysctl -w kernel.unprivileged_userns_clone=1")
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        ("the system allows none", "sudo sysctl -w user.max_user_namespaces=10000")
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        ("AppArmor restricts them", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    } else {
        return format!(
            "this system does not let programs have a network of their own (user namespaces): {error}. In a container, start it with the right to make user namespaces."
        );
    };
    format!(
        "this system does not let programs have a network of their own (user namespaces): {cause}. Allow it with: {cure}"
    )
}

/// Puts the game's hosts file over the system's, for this mount namespace only. It is of memory: nothing stays behind.
fn lay_over_files(setup: &Setup) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let own_name = system::host_name().filter(|_| !setup.name_is_address);
    let hosts = hosts::hosts(&fs::read_to_string("/etc/hosts")?, own_name.as_deref(), setup.network.ip, &setup.friends);
    let mut files = vec![("/etc/hosts", hosts)];
    if let Some(text) = fs::read_to_string("/etc/nsswitch.conf").ok().and_then(|system| hosts::name_service(&system)) {
        files.push(("/etc/nsswitch.conf", text));
    }
    if let Some(server) = setup.internet {
        files.push(("/etc/resolv.conf", format!("nameserver {server}\n")));
    }
    // Answers of the name cache would be those of the system.
    if Path::new("/run/nscd").is_dir() {
        mount("none", "/run/nscd", "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, None)?;
    }
    mount("none", SCRATCH, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, None)?;
    let laid = files.iter().try_for_each(|(place, text)| {
        let file = Path::new(SCRATCH).join(place.rsplit('/').next().unwrap_or("file"));
        fs::write(&file, text)?;
        Ok(mount_bind(&file, *place)?)
    });
    rustix::mount::unmount(SCRATCH, UnmountFlags::DETACH)?;
    laid
}

/// Returns only when it failed.
fn become_game(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else { return ExitCode::from(NOT_FOUND) };
    let mut game = Command::new(program);
    game.args(arguments);
    // A program with file capabilities has lost variables such as LD_LIBRARY_PATH on its way here; the game has no
    // capabilities and may have them.
    if let Some(environment) = original_environment() {
        game.env_clear().envs(environment);
    }
    let error = game.exec();
    let program = program.to_string_lossy();
    print::error(&format!("{} cannot be started: {error}", print::clean(&program)));
    ExitCode::from(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE })
}

/// The environment as it was given to this process.
pub(super) fn original_environment() -> Option<Vec<(OsString, OsString)>> {
    // The file of a program with file capabilities is root's. Dumpable for no longer than that: other processes of the
    // user may not trace it meanwhile, as it has capabilities that they have not, but a crash would leave a core.
    let hidden = !matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
    if hidden {
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    }
    let bytes = fs::read("/proc/self/environ");
    if hidden {
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    Some(parse_environment(&bytes.ok()?))
}

fn parse_environment(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let pair = |entry: &[u8]| {
        let at = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        Some((OsString::from_vec(entry[..at].to_vec()), OsString::from_vec(entry[at + 1..].to_vec())))
    };
    bytes.split(|byte| *byte == 0).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_switch_is_named_with_its_cure() {
        let error = io::Error::from_raw_os_error(1);
        for (path, value, cure) in [
            ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
            ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged_userns=0"),
        ] {
            let text = why_no_namespaces(&error, |asked| (asked == path).then(|| value.to_owned()));
            assert!(text.contains(cure) && text.contains("user namespaces"), "{text}");
        }
        assert!(why_no_namespaces(&error, |_| None).contains("container"));
    }

    #[test]
    fn the_environment_is_read_as_it_was_given() {
        let pairs = parse_environment(b"A=1\0LD_LIBRARY_PATH=/x=y\0\0=odd\0bare\0B=\0");
        let text: Vec<_> =
            pairs.iter().map(|(k, v)| format!("{}>{}", k.to_string_lossy(), v.to_string_lossy())).collect();
        assert_eq!(text, ["A>1", "LD_LIBRARY_PATH>/x=y", "B>"]);
    }
}

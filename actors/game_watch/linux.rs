//! The processes of a Linux machine: what they are by `sysinfo`, their sockets and namespaces from `/proc`.
//!
//! A scan lists the folder and asks `sysinfo` only about what is new, and now and then about the rest: it has no listing
//! that does not read the state of each process. What that costs is in decision 12.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

use super::sockets::{self, Listening};
use super::source::{Changes, Process, ProcessSource};
use crate::wire::IpProtocol;
use std::net::{Ipv4Addr, SocketAddr};

/// A young process may still become another program (`exec`): it is looked at in each of so many scans.
const YOUNG_SCANS: u32 = 5;
/// An old one in one scan of so many.
const RECHECK_EVERY: u32 = 16;
/// Processes beyond are not looked at.
const MAX_PROCESSES: usize = 32_768;
const MAX_DESCRIPTORS: usize = 4096;
const MAX_TABLE: u64 = 4 << 20;

#[derive(Debug, Default)]
struct Known {
    scans: u32,
    /// Hash of what it was told as; `None`: not told yet.
    told: Option<u64>,
    /// Of the scan that saw it last.
    seen: u64,
}

#[derive(Debug)]
pub struct ProcFs {
    root: PathBuf,
    known: BTreeMap<u32, Known>,
    scan: u64,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self { root: "/proc".into(), known: BTreeMap::new(), scan: 0 }
    }
}

impl ProcFs {
    /// Takes note of all that runs, and says what is to be looked at.
    fn due(&mut self) -> io::Result<Vec<Pid>> {
        let mut due = Vec::new();
        for entry in fs::read_dir(&self.root)?.take(MAX_PROCESSES) {
            let Ok(entry) = entry else { continue };
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let known = self.known.entry(pid).or_default();
            known.seen = self.scan;
            known.scans = known.scans.saturating_add(1);
            if known.scans <= YOUNG_SCANS || known.scans.wrapping_add(pid) % RECHECK_EVERY == 0 {
                due.push(Pid::from_u32(pid));
            }
        }
        Ok(due)
    }
}

impl ProcessSource for ProcFs {
    fn scan(&mut self) -> io::Result<Changes> {
        self.scan += 1;
        let mut changes = Changes::default();
        for process in read(&self.due()?) {
            let Some(known) = self.known.get_mut(&process.pid) else { continue };
            // Of the start as well: an id may have gone to another process of the same program.
            let mut hash = DefaultHasher::new();
            (&process.exe, &process.cmd, process.started).hash(&mut hash);
            let told = Some(hash.finish());
            if known.told != told {
                known.told = told;
                changes.appeared.push(process);
            }
        }
        let scan = self.scan;
        self.known.retain(|&pid, known| {
            let here = known.seen == scan;
            if !here {
                changes.gone.push(pid);
            }
            here
        });
        Ok(changes)
    }

    fn forget(&mut self) {
        self.known.clear();
    }

    fn listening(&self, pid: u32, own: Option<Ipv4Addr>) -> Option<Vec<(IpProtocol, SocketAddr)>> {
        let folder = self.root.join(pid.to_string());
        if is_elsewhere(&folder, own) {
            return None;
        }
        let inodes = socket_inodes(&folder);
        if inodes.is_empty() {
            return Some(Vec::new());
        }
        // Of the process's own network namespace, which need not be this one's.
        let table = |name: &str, protocol| -> Vec<Listening> {
            let text = read_limited(&folder.join("net").join(name), MAX_TABLE).unwrap_or_default();
            sockets::parse(&String::from_utf8_lossy(&text), protocol).collect()
        };
        let all = [
            table("udp", IpProtocol::Udp),
            table("udp6", IpProtocol::Udp),
            table("tcp", IpProtocol::Tcp),
            table("tcp6", IpProtocol::Tcp),
        ];
        Some(sockets::of_process(all.into_iter().flatten(), &inodes))
    }
}

/// A container, say, or ended. A namespace that may not be looked at counts as this one.
fn is_elsewhere(folder: &Path, own: Option<Ipv4Addr>) -> bool {
    // Of this thread: that of the program's first one may be another. A kernel without namespaces has none.
    let Ok(here) = fs::read_link("/proc/thread-self/ns/net") else { return !folder.exists() };
    let there = match fs::read_link(folder.join("ns/net")) {
        Ok(there) => there,
        // A process that has ended, or is a zombie, has no namespace any more: where it was cannot be told.
        Err(error) => return !unreadable(&error),
    };
    let has_address = |own: Ipv4Addr| {
        let addresses = read_limited(&folder.join("net/fib_trie"), MAX_TABLE).unwrap_or_default();
        let own = own.to_string();
        String::from_utf8_lossy(&addresses).split_ascii_whitespace().any(|word| word == own)
    };
    here != there && !own.is_some_and(has_address)
}

/// Forbidden, rather than gone.
fn unreadable(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What these processes are now. Kernel threads are left out, and what has ended.
fn read(due: &[Pid]) -> Vec<Process> {
    // Always: what a process was at the last look it need not be any more. Threads are of no interest, and cost most.
    let what = ProcessRefreshKind::nothing().with_exe(UpdateKind::Always).with_cmd(UpdateKind::Always).without_tasks();
    // A new one each time, since it would keep all that it has read, and a descriptor for each process.
    let mut system = System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(due), true, what);
    let programs = system.processes().values().filter(|it| it.exe().is_some() || !it.cmd().is_empty());
    let process = |it: &sysinfo::Process| Process {
        pid: it.pid().as_u32(),
        exe: it.exe().map(Path::to_path_buf),
        name: it.name().to_owned(),
        cmd: it.cmd().to_vec(),
        started: it.start_time(),
    };
    let mut all: Vec<Process> = programs.map(process).collect();
    all.sort_unstable_by_key(|it| it.pid);
    all
}

fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn socket_inodes(folder: &Path) -> BTreeSet<u64> {
    let Ok(descriptors) = fs::read_dir(folder.join("fd")) else { return BTreeSet::new() };
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    descriptors
        .take(MAX_DESCRIPTORS)
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(inode)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn wait_for(source: &mut ProcFs, pid: u32, done: impl Fn(&Process) -> bool) {
        for _ in 0..2000 {
            let changes = source.scan().unwrap();
            if changes.appeared.iter().any(|process| process.pid == pid && done(process)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("never seen");
    }

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn processes_appear_become_others_and_go() {
        let mut source = ProcFs::default();
        let before = source.scan().unwrap();
        assert!(before.appeared.iter().any(|process| process.pid == std::process::id()));
        // A shell that becomes the program when it is told to.
        let mut child = Command::new("sh")
            .args(["-c", "read go; exec sleep 1000"])
            .stdin(Stdio::piped())
            .spawn()
            .map(Ended)
            .unwrap();
        let pid = child.0.id();
        wait_for(&mut source, pid, |process| process.cmd.iter().any(|word| word == "-c"));
        drop(child.0.stdin.take());
        let exe = |process: &Process| process.exe.as_ref().and_then(|exe| exe.file_name()).map(ToOwned::to_owned);
        wait_for(&mut source, pid, |process| process.cmd == ["sleep", "1000"] && exe(process).is_some());
        drop(child);
        let gone = (0..2000).any(|_| source.scan().unwrap().gone.contains(&pid));
        assert!(gone);
        assert!(!source.scan().unwrap().appeared.iter().any(|it| it.pid == std::process::id()), "told once");
        source.forget();
        assert!(source.scan().unwrap().appeared.iter().any(|it| it.pid == std::process::id()), "and again when asked");
    }

    #[test]
    fn the_ports_of_this_process_are_found() {
        let source = ProcFs::default();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let found = source.listening(std::process::id(), None).unwrap();
        assert!(found.contains(&(IpProtocol::Udp, udp.local_addr().unwrap())), "{found:?}");
        assert!(found.contains(&(IpProtocol::Tcp, tcp.local_addr().unwrap())), "{found:?}");
        let addr = udp.local_addr().unwrap();
        drop(udp);
        assert!(!source.listening(std::process::id(), None).unwrap().contains(&(IpProtocol::Udp, addr)));
    }

    #[test]
    fn a_process_that_has_ended_is_not_of_this_network() {
        let source = ProcFs::default();
        assert_eq!(source.listening(u32::MAX, None), None, "there is none");
        // Nobody has asked for its end yet, so that it is still listed.
        let mut child = Command::new("true").spawn().map(Ended).unwrap();
        let pid = child.0.id();
        let zombie = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ");
        for _ in 0..2000 {
            if zombie() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(zombie());
        assert_eq!(source.listening(pid, None), None);
        child.0.wait().unwrap();
        assert_eq!(source.listening(pid, None), None);
    }

    /// What may not be read is no reason to miss a game: LANrage has fewer rights than some.
    #[test]
    fn a_namespace_that_may_not_be_read_counts_as_this_one() {
        let folder = std::env::temp_dir().join(format!("lanrage-procfs-{}", std::process::id()));
        fs::create_dir_all(folder.join("7/ns")).unwrap();
        let here = fs::read_link("/proc/thread-self/ns/net").unwrap();
        std::os::unix::fs::symlink(here, folder.join("7/ns/net")).unwrap();
        let source = ProcFs { root: folder.clone(), ..ProcFs::default() };
        assert_eq!(source.listening(7, None), Some(Vec::new()), "the same one");
        fs::remove_file(folder.join("7/ns/net")).unwrap();
        std::os::unix::fs::symlink("net:[1]", folder.join("7/ns/net")).unwrap();
        assert_eq!(source.listening(7, None), None, "another one");
        assert!(!unreadable(&io::ErrorKind::NotFound.into()) && unreadable(&io::ErrorKind::PermissionDenied.into()));
        fs::remove_dir_all(folder).unwrap();
    }
}

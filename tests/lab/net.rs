//! Hosts, routers, switches and the wires between them.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::leftovers;
use super::process::{self, Output, Process};
use super::requirements;

/// Networks that look public to programs, and are reserved for documentation and benchmarks (RFC 5737, RFC 2544).
fn public_network(index: u8) -> [u8; 3] {
    match index {
        0 => [203, 0, 113],
        1 => [198, 51, 100],
        2 => [192, 0, 2],
        more => [198, 18, more],
    }
}

/// The namespaces of one test.
#[derive(Debug)]
pub(crate) struct Lab {
    id: u32,
    dir: PathBuf,
    public_networks: Cell<u8>,
    private_networks: Cell<u8>,
}

/// A network namespace: a host, a router or a switch. Copies name the same one.
#[derive(Debug, Clone)]
pub(crate) struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    space: String,
    name: String,
    dir: PathBuf,
    interfaces: AtomicU32,
    logs: AtomicU32,
    /// The first address it got, as bits; 0 before.
    address: AtomicU32,
}

impl Lab {
    /// A new, empty lab; none, with the reason printed, on a machine that cannot have one.
    ///
    /// # Panics
    /// Instead of skipping, where the tests must run (`CI=true`, `LANRAGE_REQUIRE_LAB=1`).
    pub(crate) fn new() -> Option<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if let Some(reason) = requirements::missing() {
            requirements::skip(&reason);
            return None;
        }
        leftovers::remove();
        let id = LABS.fetch_add(1, Ordering::Relaxed);
        let dir = leftovers::folder(std::process::id(), id);
        fs::create_dir(&dir).unwrap_or_else(|problem| panic!("cannot create {}: {problem}", dir.display()));
        Some(Self { id, dir, public_networks: Cell::new(0), private_networks: Cell::new(0) })
    }

    /// As `new`, for a test that also needs these programs: `(program, Debian package)`.
    pub(crate) fn with_programs(programs: &[(&str, &str)]) -> Option<Self> {
        let lab = Self::new()?;
        for (program, package) in programs {
            if !requirements::installed(program) {
                requirements::skip(&format!("`{program}` is not installed (Debian package {package})"));
                return None;
            }
        }
        Some(lab)
    }

    /// A folder of this lab, removed with it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A namespace with nothing but a loopback interface. Names are unique within a lab.
    pub(crate) fn host(&self, name: &str) -> Host {
        let host = self.spaces(&[name]).remove(0);
        host.ip(&["link", "set", "lo", "up"]);
        host
    }

    /// Many namespaces at once, their loopback interfaces still down.
    pub(super) fn spaces(&self, names: &[&str]) -> Vec<Host> {
        let own = format!("{}{}", leftovers::space_prefix(std::process::id()), self.id);
        let mut batch = String::new();
        let hosts = names.iter().map(|name| {
            let (space, dir) = (format!("{own}-{name}"), self.dir.join(name));
            batch += &format!("netns add {space}\n");
            fs::create_dir(&dir).unwrap();
            Host(Arc::new(Inner {
                space,
                name: (*name).into(),
                dir,
                interfaces: AtomicU32::new(0),
                logs: AtomicU32::new(0),
                address: AtomicU32::new(0),
            }))
        });
        let hosts = hosts.collect();
        ip_batch(&batch);
        hosts
    }

    /// A namespace that forwards IPv4 between its interfaces.
    pub(crate) fn router(&self, name: &str) -> Host {
        let router = self.host(name);
        // Which namespace this file speaks of is decided by the thread that opens it.
        router.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
        router
    }

    /// A namespace with a bridge `br0`; `plug` puts hosts on it.
    pub(crate) fn switch(&self, name: &str) -> Host {
        let switch = self.host(name);
        // Without snooping it floods multicast, like the switch in a home router.
        switch.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        switch.ip(&["link", "set", "br0", "up"]);
        switch
    }

    /// A wire (veth pair) between two namespaces; gives the interface names at both ends.
    pub(crate) fn wire(&self, a: &Host, b: &Host) -> (String, String) {
        let (a_end, b_end) = (a.next_interface(), b.next_interface());
        ip(&["link", "add", &a_end, "netns", a.space(), "type", "veth", "peer", "name", &b_end, "netns", b.space()]);
        a.ip(&["link", "set", &a_end, "up"]);
        b.ip(&["link", "set", &b_end, "up"]);
        (a_end, b_end)
    }

    /// Wire a host to a switch and give it `address/24` there.
    pub(crate) fn plug(&self, switch: &Host, host: &Host, address: Ipv4Addr) {
        let (switch_end, host_end) = self.wire(switch, host);
        switch.ip(&["link", "set", &switch_end, "master", "br0"]);
        host.address_on(&host_end, address);
    }

    /// Wire a host to a router on a public /24 of its own: the router is `.1` and the default route, the host `.10`.
    pub(crate) fn attach(&self, router: &Host, host: &Host) -> Ipv4Addr {
        let index = self.public_networks.get();
        self.public_networks.set(index + 1);
        let [a, b, c] = public_network(index);
        let (gateway, address) = (Ipv4Addr::new(a, b, c, 1), Ipv4Addr::new(a, b, c, 10));
        let (router_end, host_end) = self.wire(router, host);
        router.address_on(&router_end, gateway);
        host.address_on(&host_end, address);
        host.ip(&["route", "add", "default", "via", &gateway.to_string()]);
        address
    }

    /// Hosts on one switch, with private addresses and no way out.
    pub(crate) fn lan<const N: usize>(&self, names: [&str; N]) -> [Host; N] {
        let index = self.private_networks.get();
        self.private_networks.set(index + 1);
        let switch = self.switch(&format!("switch{index}"));
        let mut last = 9;
        names.map(|name| {
            last += 1;
            let host = self.host(name);
            self.plug(&switch, &host, Ipv4Addr::new(192, 168, 70 + index, last));
            host
        })
    }

    /// Hosts that each have a public network of their own, with one router in the middle.
    pub(crate) fn routed<const N: usize>(&self, names: [&str; N]) -> [Host; N] {
        let router = self.router("internet");
        names.map(|name| {
            let host = self.host(name);
            self.attach(&router, &host);
            host
        })
    }

    /// The namespaces that exist of this process' labs.
    pub(crate) fn spaces_of_this_process() -> Vec<String> {
        leftovers::spaces_of(std::process::id())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let own = format!("{}{}-", leftovers::space_prefix(std::process::id()), self.id);
        for space in leftovers::spaces_of(std::process::id()).iter().filter(|space| space.starts_with(&own)) {
            leftovers::remove_space(space);
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

impl Host {
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Name of the namespace.
    pub(crate) fn space(&self) -> &str {
        &self.0.space
    }

    /// A folder of this host, removed with the lab.
    pub(crate) fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The first address that it was given.
    ///
    /// # Panics
    /// Before it has one.
    #[track_caller]
    pub(crate) fn address(&self) -> Ipv4Addr {
        let bits = self.0.address.load(Ordering::Relaxed);
        assert_ne!(bits, 0, "{} has no address yet", self.name());
        Ipv4Addr::from_bits(bits)
    }

    /// Give an interface `address/24`.
    pub(crate) fn address_on(&self, interface: &str, address: Ipv4Addr) {
        self.ip(&["addr", "add", &format!("{address}/24"), "brd", "+", "dev", interface]);
        self.remember_address(address);
    }

    pub(super) fn remember_address(&self, address: Ipv4Addr) {
        let first = &self.0.address;
        let _ = first.compare_exchange(0, address.to_bits(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// `ip` inside the namespace.
    #[track_caller]
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", self.space()], args].concat())
    }

    /// Load nftables rules.
    #[track_caller]
    pub(crate) fn nft(&self, rules: &str) {
        self.enter(|| fed("nft", &["-f", "-"], rules));
    }

    /// Run a program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        process::run(self, args)
    }

    /// Start a program in the background.
    pub(crate) fn spawn(&self, args: &[&str]) -> Process {
        let number = self.0.logs.fetch_add(1, Ordering::Relaxed);
        let program = args.iter().find_map(|arg| Path::new(arg).file_name()).unwrap_or_default();
        Process::spawn(self, args, &self.dir().join(format!("{number:03}-{}", program.to_string_lossy())))
    }

    /// Run a program to its end as an ordinary user, with a home folder of its own and no screen or sound.
    pub(crate) fn run_as_player(&self, args: &[&str]) -> Output {
        self.run(&as_strs(&self.player(args)))
    }

    /// Start a program in the background as an ordinary user.
    pub(crate) fn spawn_as_player(&self, args: &[&str]) -> Process {
        self.spawn(&as_strs(&self.player(args)))
    }

    fn player(&self, args: &[&str]) -> Vec<String> {
        let home = self.dir().join("home");
        fs::create_dir_all(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
        let user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env"].map(String::from);
        let screen = ["SDL_VIDEODRIVER=dummy", "SDL_AUDIODRIVER=dummy"].map(String::from);
        let home = format!("HOME={}", home.display());
        user.into_iter().chain([home]).chain(screen).chain(args.iter().copied().map(String::from)).collect()
    }

    /// Run a function on a thread of its own inside the namespace: its sockets are the host's.
    pub(crate) fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let space = File::open(Path::new("/run/netns").join(self.space())).unwrap();
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                inside()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Wait for the first answered ping of `to`, sending one each 50 ms.
    pub(crate) fn first_ping(&self, to: Ipv4Addr, limit: Duration) -> Result<Duration, String> {
        let seconds = limit.as_secs().max(1).to_string();
        let start = std::time::Instant::now();
        let pinged = self.run(&["ping", "-n", "-i", "0.05", "-c", "1", "-w", &seconds, &to.to_string()]);
        if pinged.ok() { Ok(start.elapsed()) } else { Err(pinged.all()) }
    }

    /// # Panics
    /// When `to` answers no ping within `PATIENCE`.
    #[track_caller]
    pub(crate) fn expect_ping(&self, to: Ipv4Addr) -> Duration {
        self.first_ping(to, super::PATIENCE).unwrap_or_else(|said| panic!("{} cannot ping {to}:\n{said}", self.name()))
    }

    /// # Panics
    /// When `to` answers one of ten pings.
    #[track_caller]
    pub(crate) fn expect_no_ping(&self, to: Ipv4Addr) {
        let pinged = self.run(&["ping", "-n", "-i", "0.1", "-c", "10", "-W", "1", &to.to_string()]);
        assert!(!pinged.ok(), "{} should not be able to ping {to}:\n{}", self.name(), pinged.all());
    }

    fn next_interface(&self) -> String {
        format!("eth{}", self.0.interfaces.fetch_add(1, Ordering::Relaxed))
    }
}

fn as_strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[track_caller]
fn ip(args: &[&str]) -> String {
    let done = Command::new("ip").args(args).output().unwrap();
    assert!(done.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Many `ip` commands, one a line, in the namespace of this thread.
#[track_caller]
pub(super) fn ip_batch(commands: &str) {
    if !commands.is_empty() {
        fed("ip", &["-batch", "-"], commands);
    }
}

/// Run a program that reads `input`, in the namespace of this thread.
#[track_caller]
fn fed(program: &str, args: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{program}: {}\n{input}", String::from_utf8_lossy(&done.stderr));
}

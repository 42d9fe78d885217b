//! Linux: interfaces by getifaddrs and /sys, capture by AF_PACKET, sockets and groups by /proc/net.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pnet_datalink::{Channel, DataLinkReceiver, NetworkInterface};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::filter::{self, Instruction};
use super::interfaces::{Interface, Kind, Wanted};
use super::local::Local;
use super::system::{Capture, CaptureError, System};

/// The longest IP packet, bytes: the kernel may hand over one before the card has cut it.
const READ_BUFFER: usize = 65_536;
/// The kernel lets one socket join 20 groups (net.ipv4.igmp_max_memberships).
const GROUPS_PER_SOCKET: usize = 16;
const SYS: &str = "/sys/class/net";

/// The machine that this runs on.
#[derive(Debug, Default)]
pub struct LinuxSystem {
    /// The device and its index at the time when the groups were joined: another is a new device.
    joined_on: Option<u32>,
    /// Groups by the socket that joined them.
    sockets: Vec<(Socket, Vec<Ipv4Addr>)>,
}

impl System for LinuxSystem {
    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        listed(&pnet_datalink::interfaces())
    }

    fn capture(&mut self, wanted: &Wanted) -> Result<Box<dyn Capture>, CaptureError> {
        Ok(Box::new(LinuxCapture::open(wanted)?))
    }

    fn local(&mut self) -> io::Result<Local> {
        let mut local = Local::default();
        local.add_udp(&proc_net("udp")?);
        // Absent where IPv6 is switched off.
        if let Ok(text) = proc_net("udp6") {
            local.add_udp6(&text);
        }
        local.add_igmp(&proc_net("igmp")?);
        Ok(local)
    }

    fn join(&mut self, device: &str, _: Ipv4Addr, groups: &[Ipv4Addr]) -> Vec<(Ipv4Addr, io::Error)> {
        let index =
            fs::read_to_string(format!("{SYS}/{device}/ifindex")).ok().and_then(|text| text.trim().parse().ok());
        if self.joined_on != index {
            // With the device its memberships are gone.
            self.sockets.clear();
            self.joined_on = index;
        }
        let Some(index) = index.and_then(NonZeroU32::new) else { return Vec::new() };
        let interface = InterfaceIndexOrAddress::Index(index.get());
        for (socket, held) in &mut self.sockets {
            held.retain(|group| groups.contains(group) || socket.leave_multicast_v4_n(group, &interface).is_err());
        }
        self.sockets.retain(|(_, held)| !held.is_empty());
        let mut failed = Vec::new();
        for group in groups {
            if self.sockets.iter().any(|(_, held)| held.contains(group)) {
                continue;
            }
            if let Err(error) = self.join_one(*group, &interface) {
                failed.push((*group, error));
            }
        }
        failed
    }
}

impl LinuxSystem {
    fn join_one(&mut self, group: Ipv4Addr, interface: &InterfaceIndexOrAddress) -> io::Result<()> {
        if self.sockets.last().is_none_or(|(_, held)| held.len() >= GROUPS_PER_SOCKET) {
            // Never bound: it hears nothing itself.
            self.sockets.push((Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?, Vec::new()));
        }
        if let Some((socket, held)) = self.sockets.last_mut() {
            socket.join_multicast_v4_n(&group, interface)?;
            held.push(group);
        }
        Ok(())
    }
}

/// Of this thread, because /proc/net is the network namespace of the process's first thread.
fn proc_net(name: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/thread-self/net/{name}"))
        .or_else(|_| fs::read_to_string(format!("/proc/net/{name}")))
}

/// None at all is how a failure shows: a machine has at least its loopback.
fn listed(interfaces: &[NetworkInterface]) -> io::Result<Vec<Interface>> {
    if interfaces.is_empty() {
        return Err(io::Error::other("the system lists no network interface"));
    }
    Ok(interfaces.iter().map(interface).collect())
}

fn interface(it: &NetworkInterface) -> Interface {
    let addresses = it.ips.iter().filter_map(|network| match (network.ip(), network.broadcast()) {
        (IpAddr::V4(ip), IpAddr::V4(broadcast)) if network.prefix() < 31 => Some((ip, broadcast)),
        (_, _) => None,
    });
    Interface {
        name: it.name.clone(),
        index: it.index,
        up: it.is_up(),
        broadcast: it.is_broadcast() && !it.is_loopback() && !it.is_point_to_point(),
        kind: kind(&Path::new(SYS).join(&it.name)),
        addresses: addresses.collect(),
    }
}

/// By what /sys tells; an interface that it does not know is an ordinary one.
fn kind(sys: &Path) -> Kind {
    let uevent = fs::read_to_string(sys.join("uevent")).unwrap_or_default();
    if sys.join("tun_flags").exists() || uevent.lines().any(|line| line == "DEVTYPE=wireguard") {
        return Kind::Tunnel;
    }
    if sys.join("master").exists() {
        return Kind::Port;
    }
    if !sys.join("bridge").exists() {
        return Kind::Ordinary;
    }
    let mut ports = fs::read_dir(sys.join("brif")).into_iter().flatten().flatten();
    // Only what stands for hardware has a device; a VLAN or bond stands on one.
    let outside = |port: fs::DirEntry| {
        let port = sys.with_file_name(port.file_name());
        port.join("device").exists()
            || fs::read_to_string(port.join("uevent"))
                .is_ok_and(|it| it.contains("DEVTYPE=vlan") || it.contains("DEVTYPE=bond"))
    };
    if ports.any(outside) { Kind::Bridge } else { Kind::Inner }
}

/// An AF_PACKET socket on one interface.
struct LinuxCapture {
    /// A second descriptor of the same socket: pnet owns the first.
    descriptor: Arc<OwnedFd>,
    /// `None` at rest: the runtime is not told of packets then.
    readable: Option<AsyncFd<Arc<OwnedFd>>>,
    receiver: Box<dyn DataLinkReceiver>,
}

fn watch(descriptor: &Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is owned, always the same one, and never taken out of the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(Arc::clone(descriptor), Interest::READABLE | Interest::ERROR) }?)
}

impl LinuxCapture {
    fn open(wanted: &Wanted) -> Result<Self, CaptureError> {
        let at = |step: &'static str| move |source: io::Error| refused(step, source);
        // Packets without their link header, and none at all (protocol 0) before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None).map_err(at("open a packet socket"))?;
        attach(&socket, &filter::own_shouts(&wanted.broadcasts)).map_err(at("attach the filter"))?;
        let second = OwnedFd::from(socket.try_clone().map_err(at("copy the descriptor"))?);
        let config = pnet_datalink::Config {
            read_buffer_size: READ_BUFFER,
            write_buffer_size: 0,
            // The runtime waits; a read never does.
            read_timeout: Some(Duration::ZERO),
            promiscuous: false,
            // Also on failure, pnet closes it.
            socket_fd: Some(OwnedFd::from(socket).into_raw_fd()),
            ..pnet_datalink::Config::default()
        };
        let interface = NetworkInterface {
            name: wanted.name.clone(),
            description: String::new(),
            index: wanted.index,
            mac: None,
            ips: Vec::new(),
            flags: 0,
        };
        let channel = pnet_datalink::channel(&interface, config).map_err(at("bind to the interface"))?;
        let Channel::Ethernet(_, receiver) = channel else {
            return Err(refused("bind to the interface", io::ErrorKind::Unsupported.into()));
        };
        let descriptor = Arc::new(second);
        let readable = watch(&descriptor).map_err(at("watch the socket"))?;
        Ok(Self { descriptor, readable: Some(readable), receiver })
    }
}

impl Capture for LinuxCapture {
    fn poll_packet(&mut self, cx: &mut Context<'_>, sink: &mut dyn FnMut(&[u8])) -> Poll<io::Result<()>> {
        // An interface that went down may come back.
        let again = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut, io::ErrorKind::NetworkDown];
        let readable = match &mut self.readable {
            Some(readable) => readable,
            at_rest @ None => at_rest.insert(watch(&self.descriptor)?),
        };
        loop {
            let mut guard = ready!(readable.poll_read_ready(cx))?;
            match self.receiver.next() {
                Ok(packet) => {
                    sink(packet);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if again.contains(&error.kind()) => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn rest(&mut self) {
        self.readable = None;
    }

    fn take_dropped(&mut self) -> u64 {
        /// linux/if_packet.h
        const PACKET_STATISTICS: libc::c_int = 6;
        #[repr(C)]
        struct Statistics {
            packets: u32,
            drops: u32,
        }
        let mut statistics = Statistics { packets: 0, drops: 0 };
        let mut len = u32::try_from(size_of::<Statistics>()).unwrap_or(8);
        // SAFETY: the kernel writes at most `len` bytes, which is the size of the struct, and `len` itself; both are valid
        // for the call.
        let result = unsafe {
            libc::getsockopt(
                self.descriptor.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        };
        let _ = statistics.packets;
        if result == 0 { u64::from(statistics.drops) } else { 0 }
    }
}

fn attach(socket: &Socket, program: &[Instruction]) -> io::Result<()> {
    let program: Vec<SockFilter> =
        program.iter().map(|it| SockFilter::new(it.code, it.jump_true, it.jump_false, it.k)).collect();
    socket.attach_filter(&program)
}

fn refused(step: &'static str, source: io::Error) -> CaptureError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => CaptureError::Permission,
        _ => CaptureError::System { step, source },
    }
}

impl std::fmt::Debug for LinuxCapture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinuxCapture").field("fd", &self.descriptor.as_raw_fd()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn this_machine_tells_its_sockets_and_interfaces() {
        let mut system = LinuxSystem::default();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let local = system.local().unwrap();
        assert!(local.ports[&port].addresses.contains(&Ipv4Addr::LOCALHOST));
        let interfaces = system.interfaces().unwrap();
        let loopback = interfaces.iter().find(|it| it.name == "lo").unwrap();
        assert!(!loopback.broadcast);
    }

    #[test]
    fn no_interfaces_are_a_failure_and_not_a_reason_to_end_the_captures() {
        assert!(listed(&[]).is_err());
    }

    #[test]
    fn kinds_are_told_by_sys() {
        let dir = std::env::temp_dir().join(format!("lanrage-sys-{}", std::process::id()));
        let make = |path: &str, text: Option<&str>| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text {
                Some(text) => fs::write(path, text).unwrap(),
                None => fs::create_dir_all(path).unwrap(),
            }
        };
        make("eth0/device", None);
        make("tap0/tun_flags", Some("0x1002\n"));
        make("wg0/uevent", Some("DEVTYPE=wireguard\nINTERFACE=wg0\n"));
        make("eth1/device", None);
        make("eth1/master", None);
        make("veth1/master", None);
        make("br0/bridge", None);
        make("br0/brif/eth1", None);
        make("br1/bridge", None);
        make("br1/brif/veth1", None);
        let kinds: BTreeMap<&str, Kind> = ["eth0", "tap0", "wg0", "eth1", "veth1", "br0", "br1", "gone"]
            .map(|name| (name, kind(&dir.join(name))))
            .into();
        fs::remove_dir_all(&dir).unwrap();
        let expected = [
            ("eth0", Kind::Ordinary),
            ("tap0", Kind::Tunnel),
            ("wg0", Kind::Tunnel),
            ("eth1", Kind::Port),
            ("veth1", Kind::Port),
            ("br0", Kind::Bridge),
            ("br1", Kind::Inner),
            ("gone", Kind::Ordinary),
        ];
        assert_eq!(kinds, expected.into());
    }
}

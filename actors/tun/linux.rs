//! The Linux device: a TAP without ARP.
//!
//! Not a TUN, because a TUN never has IFF_BROADCAST and programs that look for broadcast-capable interfaces skip it. With
//! IFF_NOARP the kernel never asks for a link address, so that there is no Ethernet to emulate: 14 bytes are stripped on
//! read and put in front on write.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::tun::{AbstractDevice, Configuration, Layer};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::coalesce::{Coalescing, Run, RunKind, WritePlan};
use super::device::{Device, DeviceFactory, OpenError, OpenRequest, ReadError, WriteReport};
use super::namespace;
use super::offload::{ETHERNET_LEN, Incoming, MAX_FRAME, VIRTIO_LEN};
use super::routes::{LocalRoute, parse_proc_net_route};
use crate::wire::{MAX_BATCH_PACKETS, PacketBatch};

const NODE: &str = "/dev/net/tun";

/// The sender in the Ethernet headers of what is written: locally administered, and not the device's own, because a
/// frame with the own source address looks outgoing to whoever captures on the device.
const PEER_MAC: [u8; 6] = [0x02, 0x6c, 0x61, 0x6e, 0x00, 0x01];

/// Opens the kernel's TUN/TAP driver.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxFactory;

impl DeviceFactory for LinuxFactory {
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn Device>, OpenError> {
        Ok(Box::new(LinuxDevice::open(request)?))
    }

    fn adopt(&self, device: OwnedFd) -> Result<Box<dyn Device>, OpenError> {
        let made = namespace::linux::inspect(device)?;
        Ok(Box::new(LinuxDevice::watch(made)?))
    }

    fn local_routes(&self) -> io::Result<Vec<LocalRoute>> {
        // Of this thread, because /proc/net is the network namespace of the process's first thread.
        let text =
            fs::read_to_string("/proc/thread-self/net/route").or_else(|_| fs::read_to_string("/proc/net/route"))?;
        Ok(parse_proc_net_route(&text))
    }
}

/// A device that is up and that nobody reads yet. The kernel removes it when this is dropped.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) fd: OwnedFd,
    pub(super) mac: [u8; 6],
    /// Whether UDP segmentation can be tried.
    pub(super) uso: bool,
}

impl Made {
    /// In the network namespace of this thread.
    pub(super) fn new(request: &OpenRequest<'_>) -> Result<Self, OpenError> {
        let OpenRequest { name, mtu, address } = *request;
        if !usable_name(name) {
            return Err(OpenError::BadName);
        }
        let mut config = Configuration::default();
        config.tun_name(name).layer(Layer::L2).platform_config(|platform| {
            // Its order of setting up is not ours: nothing may be sent before ARP and IPv6 are off.
            platform.vnet_hdr(true).ensure_root_privileges(false);
        });
        let mut device = ::tun::create(&config).map_err(|error| refused(error.into()))?;
        let fd = device.as_raw_fd();
        let offloads = set_up_offloads(fd)?;

        let at = |step: &'static str| move |error: ::tun::Error| OpenError::System { step, source: error.into() };
        write_sysctl("ipv6", name, "disable_ipv6", "1");
        write_sysctl("ipv4", name, "rp_filter", reverse_path_filter());
        device.set_mtu(mtu).map_err(at("set the MTU"))?;
        device.set_address(address.ip.into()).map_err(at("set the address"))?;
        device.set_netmask(address.range.netmask().into()).map_err(at("set the netmask"))?;
        device.set_broadcast(address.range.broadcast().into()).map_err(at("set the broadcast address"))?;
        let interface = Interface::new(name).map_err(|source| OpenError::System { step: "open a socket", source })?;
        let mac = interface.mac().map_err(|source| OpenError::System { step: "read the link address", source })?;
        interface.bring_up().map_err(|source| OpenError::System { step: "bring it up", source })?;
        device.set_nonblock().map_err(|source| OpenError::System { step: "make it non-blocking", source })?;
        // SAFETY: `into_raw_fd` gives up the ownership of an open descriptor, which is taken here once.
        let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
        Ok(Self { fd, mac, uso: offloads & libc::TUN_F_USO4 != 0 })
    }
}

/// Whether the kernel takes UDP runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UdpRuns {
    Untried,
    Work,
    Refused,
}

/// An open TAP. The kernel removes it when this is dropped.
pub struct LinuxDevice {
    file: Arc<AsyncFd<File>>,
    /// Ends when the descriptor reports an error. The driver does that, and only that, when the device is deleted.
    gone: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    frame: Box<[u8]>,
    ethernet: [u8; ETHERNET_LEN],
    plan: WritePlan,
    udp_runs: UdpRuns,
    /// `None`: it is in another network namespace, out of reach.
    interface: Option<Interface>,
}

impl std::fmt::Debug for LinuxDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinuxDevice").field("fd", &self.file.as_raw_fd()).finish_non_exhaustive()
    }
}

impl LinuxDevice {
    /// Creates the device, sets it up and brings it up. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is left behind.
    pub fn open(request: &OpenRequest<'_>) -> Result<Self, OpenError> {
        let mut device = Self::watch(Made::new(request)?)?;
        device.interface = Interface::new(request.name).ok();
        Ok(device)
    }

    fn watch(made: Made) -> Result<Self, OpenError> {
        let Made { fd, mac, uso } = made;
        let file = File::from(fd);
        // SAFETY: the file owns its descriptor, gives out the same one always, and is never taken out of the `AsyncFd`.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE | Interest::ERROR) }
            .map_err(|error| OpenError::System { step: "watch it", source: error.into() })?;
        let file = Arc::new(file);
        let watched = Arc::clone(&file);
        let mut ethernet = [0; ETHERNET_LEN];
        ethernet[..6].copy_from_slice(&mac);
        ethernet[6..12].copy_from_slice(&PEER_MAC);
        ethernet[12..].copy_from_slice(&[0x08, 0x00]);
        Ok(Self {
            file,
            gone: Box::pin(async move { watched.ready(Interest::ERROR).await.map(|_| ()) }),
            frame: vec![0; MAX_FRAME].into_boxed_slice(),
            ethernet,
            plan: WritePlan::default(),
            // A kernel that knows USO on the way out takes it on the way in as well (both came with Linux 6.2).
            udp_runs: if uso { UdpRuns::Untried } else { UdpRuns::Refused },
            interface: None,
        })
    }
}

impl Device for LinuxDevice {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming<'_>, ReadError>> {
        let len = loop {
            let Poll::Ready(guard) = self.file.poll_read_ready(cx) else {
                let end = ready!(self.gone.as_mut().poll(cx));
                // A fused end: the next call would poll a future that is done.
                self.gone = Box::pin(std::future::pending());
                let error = end.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EBADFD));
                return Poll::Ready(Err(ReadError::Gone(error)));
            };
            let mut guard = guard.map_err(ReadError::Gone)?;
            match guard.try_io(|file| file.get_ref().read(&mut self.frame)) {
                Ok(Ok(len)) => break len,
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(ReadError::Gone(error))),
                // Not readable any more; the next round registers the waker.
                Err(_would_block) => {}
            }
        };
        Poll::Ready(Incoming::from_frame(&self.frame[..len]).ok_or(ReadError::Malformed))
    }

    fn write_batch(&mut self, batch: &PacketBatch) -> WriteReport {
        let coalescing = Coalescing { tcp: true, udp: self.udp_runs != UdpRuns::Refused };
        self.plan.build(batch, &self.ethernet, coalescing);
        let mut report = WriteReport { malformed: self.plan.malformed(), ..WriteReport::default() };
        // One header and the payloads of a run.
        let mut slices = [IoSlice::new(&[]); MAX_BATCH_PACKETS + 1];
        for run in self.plan.runs() {
            slices[0] = IoSlice::new(self.plan.header(run));
            let mut filled = 1;
            for (slot, payload) in slices[1..].iter_mut().zip(run.payloads(batch)) {
                *slot = IoSlice::new(payload);
                filled += 1;
            }
            match write_frame(self.file.get_ref(), &slices[..filled]) {
                Ok(()) => {
                    report.packets += run.packets.len() as u64;
                    report.bytes += run.bytes;
                    if run.kind == RunKind::Udp {
                        self.udp_runs = UdpRuns::Work;
                    }
                }
                Err(error) if run.kind != RunKind::Single && error.raw_os_error() == Some(libc::EINVAL) => {
                    // Remembered only while none was ever taken, so that no peer can switch it off for the others.
                    if run.kind == RunKind::Udp && self.udp_runs == UdpRuns::Untried {
                        self.udp_runs = UdpRuns::Refused;
                    }
                    write_singly(self.file.get_ref(), self.plan.single_header(), run, batch, &mut report);
                }
                Err(error) => note(error, &mut report),
            }
            if report.gone.is_some() {
                break;
            }
        }
        report
    }

    fn set_mtu(&mut self, mtu: u16) -> io::Result<()> {
        self.interface.as_ref().map_or_else(|| Err(ErrorKind::Unsupported.into()), |it| it.set_mtu(mtu))
    }
}

/// The driver takes a frame whole or not at all.
fn write_frame(mut file: &File, slices: &[IoSlice<'_>]) -> io::Result<()> {
    let whole = slices.iter().map(|slice| slice.len()).sum::<usize>();
    if file.write_vectored(slices)? == whole { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

fn write_singly(file: &File, header: &[u8], run: &Run, batch: &PacketBatch, report: &mut WriteReport) {
    for packet in run.packets.clone().map(|index| batch.get(index)) {
        match write_frame(file, &[IoSlice::new(header), IoSlice::new(packet)]) {
            Ok(()) => {
                report.packets += 1;
                report.bytes += packet.len() as u64;
            }
            Err(error) => note(error, report),
        }
    }
}

fn note(error: io::Error, report: &mut WriteReport) {
    // EIO: the device is down. EBADFD and ENODEV: it is deleted.
    if matches!(error.raw_os_error(), Some(libc::EIO | libc::EBADFD | libc::ENODEV | libc::EBADF)) {
        report.gone = Some(error);
    }
}

/// What the kernel takes as a name, less what it would expand (`%d`) or what /proc/sys would see as a path.
fn usable_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !matches!(name, "." | ".." | "all" | "default")
}

fn refused(error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::EPERM) => OpenError::Capability,
        Some(libc::EACCES) => OpenError::NodeForbidden(NODE),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => OpenError::NodeMissing(NODE),
        // EINVAL: the name belongs to an interface of another kind.
        Some(libc::EBUSY | libc::EINVAL) => OpenError::NameBusy,
        _ => OpenError::System { step: "create it", source: error },
    }
}

/// Sets the length of the virtio-net header and the offloads, and returns the flags that the kernel took.
fn set_up_offloads(fd: RawFd) -> Result<u32, OpenError> {
    let at = |step: &'static str| move |source: io::Error| OpenError::System { step, source };
    let mut len: libc::c_int = 0;
    // SAFETY: the kernel writes one int through the pointer, which is valid for the call.
    check(unsafe { libc::ioctl(fd, libc::TUNGETVNETHDRSZ, &raw mut len) }).map_err(at("ask for the header length"))?;
    if usize::try_from(len) != Ok(VIRTIO_LEN) {
        len = libc::c_int::try_from(VIRTIO_LEN).unwrap_or(10);
        // SAFETY: the kernel reads one int through the pointer, which is valid for the call.
        check(unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const len) })
            .map_err(at("set the header length"))?;
    }
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for flags in [tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6, tcp, libc::TUN_F_CSUM, 0] {
        // SAFETY: this request takes its argument by value.
        match check(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) }) {
            Ok(()) => return Ok(flags),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(at("set the offloads")(error)),
        }
    }
    Err(at("set the offloads")(last))
}

/// Best effort: where /proc/sys is read-only (containers), the device works with what is set there.
fn write_sysctl(family: &str, name: &str, key: &str, value: &str) {
    let path = format!("/proc/sys/net/{family}/conf/{name}/{key}");
    if let Err(error) = fs::write(&path, value) {
        tracing::debug!(%path, %error, "not set");
    }
}

/// Off where that works; the kernel takes the stricter of this and `all`, but loose (2) counts as more than strict (1).
fn reverse_path_filter() -> &'static str {
    let all = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter");
    if all.is_ok_and(|text| text.trim() == "0") { "0" } else { "2" }
}

pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket to ask the kernel about the interface.
pub(super) struct Interface {
    pub(super) socket: socket2::Socket,
    request: libc::ifreq,
}

impl Interface {
    /// `name` must be a usable one.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        // SAFETY: an `ifreq` is plain data for which all zeros are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero.
        for (slot, byte) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
            *slot = byte.cast_signed() as libc::c_char;
        }
        Ok(Self { socket, request })
    }

    fn call(&self, request: &mut libc::ifreq, code: libc::Ioctl) -> io::Result<()> {
        // SAFETY: all the requests used here read and write one `ifreq`, which is valid for the call.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), code, std::ptr::from_mut(request)) })
    }

    fn mac(&self) -> io::Result<[u8; 6]> {
        let mut request = self.request;
        self.call(&mut request, libc::SIOCGIFHWADDR)?;
        // SAFETY: SIOCGIFHWADDR fills `ifru_hwaddr`.
        let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(data) {
            *to = from.to_ne_bytes()[0];
        }
        Ok(mac)
    }

    /// TCP connections that are open follow: the kernel looks at the route's MTU before it cuts each segment.
    fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = self.request;
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.call(&mut request, libc::SIOCSIFMTU)
    }

    fn bring_up(&self) -> io::Result<()> {
        // ARP goes first: with one call for both, the kernel could ask for a neighbour in between.
        self.add_flags(libc::IFF_NOARP | libc::IFF_MULTICAST)?;
        self.add_flags(libc::IFF_UP)
    }

    pub(super) fn add_flags(&self, more: libc::c_int) -> io::Result<()> {
        let mut request = self.request;
        self.call(&mut request, libc::SIOCGIFFLAGS)?;
        // SAFETY: SIOCGIFFLAGS fills `ifru_flags`.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        request.ifr_ifru.ifru_flags = (flags | more) as libc::c_short;
        self.call(&mut request, libc::SIOCSIFFLAGS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_change_or_refuse_are_told() {
        for good in ["lanrage0", "l", "a-b_c.d", "abcdefghijklmno"] {
            assert!(usable_name(good), "{good}");
        }
        for bad in ["", "abcdefghijklmnop", "lan%d", "a/b", "a b", "..", ".", "all", "a:b", "lä"] {
            assert!(!usable_name(bad), "{bad}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |code| refused(io::Error::from_raw_os_error(code));
        assert!(matches!(of(libc::EPERM), OpenError::Capability));
        assert!(matches!(of(libc::EACCES), OpenError::NodeForbidden(_)));
        assert!(matches!(of(libc::ENOENT), OpenError::NodeMissing(_)));
        assert!(matches!(of(libc::EBUSY), OpenError::NameBusy));
        assert!(matches!(of(libc::EINVAL), OpenError::NameBusy));
        assert!(matches!(of(libc::ENOMEM), OpenError::System { .. }));
    }

    #[test]
    fn routes_of_this_machine_are_readable() {
        LinuxFactory.local_routes().unwrap();
    }
}

//! A bridged network on Linux: a packet socket that sees what others shout there and puts frames on it, and the UDP
//! sockets of the NAT.
#![allow(unsafe_code)]

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use if_addrs::{IfAddr, get_if_addrs};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

use super::neighbours::Network;

/// `ETH_P_IP` as the system's calls want it, in network order.
const IPV4: u16 = (libc::ETH_P_IP as u16).to_be();
/// Below are those of well-known services (RFC 6335).
const FIRST_FREE_PORT: u16 = 1024;
/// For a storm that is dropped anyway.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// What the bridge needs to know of this machine's interfaces.
#[derive(Debug)]
pub struct Seen {
    /// The network and index of each that was asked for, or what is wrong with it in words for the user.
    pub lans: Vec<Result<(Network, u32), String>>,
    /// Index of the virtual device.
    pub device: Option<u32>,
}

/// Takes its time: the system is asked.
#[must_use]
pub fn look(names: &[String], device: &str) -> Seen {
    let index = |name: &str| index_of(name).ok().and_then(|index| u32::try_from(index).ok());
    let lan = |name: &String| {
        let network = network_of(name)?;
        Ok((network, index(name).ok_or_else(|| format!("there is no interface {name} any more"))?))
    };
    Seen { lans: names.iter().map(lan).collect(), device: index(device) }
}

/// The IPv4 network of the interface `name`.
fn network_of(name: &str) -> Result<Network, String> {
    let interfaces = get_if_addrs().map_err(|error| format!("the network interfaces cannot be listed: {error}"))?;
    let found = interfaces.iter().filter(|it| it.name == name).find_map(|it| match &it.addr {
        IfAddr::V4(v4) => Some(Network { ip: v4.ip, prefix: v4.prefixlen }),
        IfAddr::V6(_) => None,
    });
    match found {
        Some(network) if (8..=30).contains(&network.prefix) => Ok(network),
        Some(network) => Err(format!("{name} has {}/{}, which is no network to bridge", network.ip, network.prefix)),
        None => {
            let mut names: Vec<_> = interfaces
                .iter()
                .filter(|it| matches!(it.ip(), IpAddr::V4(ip) if !ip.is_loopback()))
                .map(|it| it.name.as_str())
                .collect();
            names.dedup();
            Err(format!("there is no interface {name} with an IPv4 address; there are: {}", names.join(", ")))
        }
    }
}

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Lan {
    socket: AsyncFd<Socket>,
    index: i32,
}

impl Lan {
    /// To be called inside a tokio runtime.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_RAW.
    pub fn open(name: &str) -> io::Result<Self> {
        let index = index_of(name)?;
        // Without a protocol it hears nothing until it is bound: nothing of other interfaces gets in.
        let socket = Socket::new_raw(Domain::PACKET, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&shouts_only())?;
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        let all_groups = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set(&socket, libc::PACKET_ADD_MEMBERSHIP, &all_groups)?;
        // Past the other packet sockets: what is put on the network here is not captured as a local program's.
        set(&socket, libc::PACKET_QDISC_BYPASS, &1_i32)?;
        socket.bind(&link_address(index, None))?;
        // The kernel puts fragments together. Older ones than Linux 4.10 choose no group number by themselves.
        let flags = libc::PACKET_FANOUT_FLAG_DEFRAG | libc::PACKET_FANOUT_FLAG_UNIQUEID;
        let fanout = (libc::PACKET_FANOUT_HASH | flags) << 16;
        if let Err(error) = set(&socket, libc::PACKET_FANOUT, &fanout) {
            tracing::debug!(%error, "fragments on the bridged network are not put together");
        }
        // SAFETY: the socket owns its descriptor, gives out the same one always, and is never taken out of the `AsyncFd`.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, index })
    }

    /// The next packet that another machine shouted: bytes written to `buffer`.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            // SAFETY: initialised bytes are valid as bytes that may be uninitialised, and `recv` writes none that are not.
            let slot = unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [MaybeUninit<u8>]) };
            match guard.try_io(|socket| socket.get_ref().recv(slot)) {
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    /// Puts a packet on the network, to all or to a group.
    ///
    /// # Errors
    /// When the system refuses; nothing is queued here.
    pub fn shout(&self, packet: &[u8], destination: Ipv4Addr) -> io::Result<()> {
        let mac = match destination.octets() {
            // RFC 1112, section 6.4.
            [_, b, c, d] if destination.is_multicast() => [0x01, 0x00, 0x5e, b & 0x7f, c, d],
            _ => [0xff; 6],
        };
        self.socket.get_ref().send_to(packet, &link_address(self.index, Some(mac))).map(drop)
    }
}

/// A UDP socket on `ip`, with this port or another where it is taken; what comes by another interface is not heard.
///
/// # Errors
/// When the system has none.
pub fn udp(ip: Ipv4Addr, port: u16, interface: &str) -> io::Result<UdpSocket> {
    let bind = |port| -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(ip, port).into())?;
        Ok(socket)
    };
    // Which port is taken here is said from outside: not one that a service of this machine may want.
    let port = if port < FIRST_FREE_PORT { 0 } else { port };
    let taken = |error: &io::Error| error.kind() == ErrorKind::AddrInUse;
    let socket = bind(port).or_else(|error| if taken(&error) { bind(0) } else { Err(error) })?;
    UdpSocket::from_std(socket.into())
}

/// Sends at once or not at all. Past tokio, which believes a socket that was just opened to be not ready.
///
/// # Errors
/// When the system does not take it.
pub fn send(socket: &UdpSocket, payload: &[u8], to: SocketAddrV4) -> io::Result<()> {
    SockRef::from(socket).send_to(payload, &to.into()).map(drop)
}

/// IPv4 and UDP, and broadcast or multicast by another machine (the kernel's type of packet).
fn shouts_only() -> [SockFilter; 7] {
    const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    let load = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(load, 0, 0, PACKET_TYPE),
        SockFilter::new(equal, 1, 0, libc::PACKET_BROADCAST.into()),
        SockFilter::new(equal, 0, 2, libc::PACKET_MULTICAST.into()),
        // The protocol in the IP header, where the data of such a socket begins.
        SockFilter::new(load, 0, 0, 9),
        SockFilter::new(equal, 1, 0, u32::from(crate::wire::ip::UDP)),
        SockFilter::new(ret, 0, 0, 0),
        SockFilter::new(ret, 0, 0, u32::MAX),
    ]
}

fn index_of(name: &str) -> io::Result<i32> {
    let name = std::ffi::CString::new(name).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    // SAFETY: the pointer is to a string that ends with zero and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { i32::try_from(index).map_err(|_| ErrorKind::Other.into()) }
}

fn link_address(index: i32, mac: Option<[u8; 6]>) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address, for which the storage has room and alignment; all zeros are valid.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = IPV4;
    address.sll_ifindex = index;
    if let Some(mac) = mac {
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&mac);
    }
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds an address of this length, filled in above.
    unsafe { SockAddr::new(storage, len) }
}

fn set<T>(socket: &Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes through the pointer, which is valid for the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, std::ptr::from_ref(value).cast(), len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

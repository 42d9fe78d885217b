//! The UDP sockets of the data path: one per address family on one port, and more for a while to punch with.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll, ready};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::addrs::{self, InterfaceAddr};
use super::sockets::{DataSockets, Receive, Sent};
use crate::wire::LocalSocket;

/// Receive calls that one poll takes in, each up to 64 KiB of coalesced datagrams.
pub const RECEIVE_SLOTS: usize = 8;
const SLOT_BYTES: usize = 64 * 1024;
/// Asked of the system; it gives what its limit allows. A bulk transfer fills whatever receive buffer there is when this
/// machine is the bottleneck, and a game's packet waits behind it: at 3 Gbit/s, 4 MiB cost 5 ms of ping and 208 KiB
/// 0.8 ms, for the same throughput.
const RECEIVE_BUFFER: usize = 256 * 1024;
/// Bursts of segmented sends; drained at the speed of the link.
const SEND_BUFFER: usize = 1024 * 1024;

/// Why the data port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("UDP port {0} is in use by another program; choose another with --listen-port, or end that program")]
    InUse(u16),
    #[error("UDP port {0} could not be opened: {1}")]
    Other(u16, io::Error),
}

/// Bound sockets that have not yet met a runtime.
#[derive(Debug)]
pub struct BoundSockets {
    v4: Socket,
    v6: Option<Socket>,
    port: u16,
}

impl BoundSockets {
    /// Binds `port` for IPv4 and, where the system has it, IPv6; 0 lets the system choose.
    ///
    /// # Errors
    /// When the port is taken or the system refuses.
    pub fn bind(port: u16) -> Result<Self, BindError> {
        Self::bind_at(port, Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
    }

    /// As [`Self::bind`], at these addresses where they are this machine's own. A relay must answer from the address that
    /// it was asked at, and with several of one family the system would choose.
    ///
    /// # Errors
    /// When the port is taken or the system refuses.
    pub fn bind_at(port: u16, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self, BindError> {
        let failed = |port, error: io::Error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                BindError::InUse(port)
            } else {
                BindError::Other(port, error)
            }
        };
        let v4 = bind_own(v4.into(), Ipv4Addr::UNSPECIFIED.into(), port).map_err(|error| failed(port, error))?;
        let port = local_port(&v4).map_err(|error| failed(port, error))?;
        let v6 = match bind_own(v6.into(), Ipv6Addr::UNSPECIFIED.into(), port) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(failed(port, error)),
            Err(error) => {
                tracing::debug!(%error, "no IPv6 for the data port");
                None
            }
        };
        Ok(Self { v4, v6, port })
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// At `ip`, or at `any` when the machine has no such address: behind a router that forwards, it is the router's.
fn bind_own(ip: IpAddr, any: IpAddr, port: u16) -> io::Result<Socket> {
    match bind((ip, port).into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => bind((any, port).into()),
        bound => bound,
    }
}

fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Best effort: a smaller buffer still works.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn local_port(socket: &Socket) -> io::Result<u16> {
    Ok(socket.local_addr()?.as_socket().map_or(0, |addr| addr.port()))
}

/// One socket with what the system can do for it (GSO, GRO).
#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Port {
    fn new(socket: Socket) -> io::Result<Self> {
        let socket = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { socket, state })
    }
}

/// Ready to send and receive.
#[derive(Debug)]
pub struct Sockets {
    v4: Port,
    v6: Option<Port>,
    /// IPv4: NATs that need more than one socket stand there.
    extra: BTreeMap<LocalSocket, Port>,
    buffers: Vec<u8>,
    metas: [RecvMeta; RECEIVE_SLOTS],
}

impl Sockets {
    /// # Errors
    /// When the runtime or the system refuses the sockets.
    pub fn new(bound: BoundSockets) -> io::Result<Self> {
        Ok(Self {
            v4: Port::new(bound.v4)?,
            v6: bound.v6.map(Port::new).transpose()?,
            extra: BTreeMap::new(),
            buffers: vec![0; RECEIVE_SLOTS * SLOT_BYTES],
            metas: [RecvMeta::default(); RECEIVE_SLOTS],
        })
    }

    fn port_for(&self, local: LocalSocket, destination: SocketAddr) -> Option<&Port> {
        match (local, destination) {
            (LocalSocket::MAIN, SocketAddr::V4(_)) => Some(&self.v4),
            (LocalSocket::MAIN, SocketAddr::V6(_)) => self.v6.as_ref(),
            (_, SocketAddr::V4(_)) => self.extra.get(&local),
            (_, SocketAddr::V6(_)) => None,
        }
    }
}

impl DataSockets for Sockets {
    fn open(&mut self, local: LocalSocket, port: u16) -> io::Result<u16> {
        let socket = bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        let port = local_port(&socket)?;
        self.extra.insert(local, Port::new(socket)?);
        Ok(port)
    }

    fn close(&mut self, local: LocalSocket) {
        self.extra.remove(&local);
    }

    fn send(&self, local: LocalSocket, destination: SocketAddr, contents: &[u8], segment_size: usize) -> Sent {
        let Some(port) = self.port_for(local, destination) else { return Sent::Failed };
        let at_once = segment_size.max(1) * port.state.max_gso_segments().max(1);
        for (index, part) in contents.chunks(at_once).enumerate() {
            let transmit = Transmit {
                destination,
                ecn: None,
                contents: part,
                segment_size: (part.len() > segment_size).then_some(segment_size),
                src_ip: None,
            };
            let result = port
                .socket
                .try_io(Interest::WRITABLE, || port.state.try_send(UdpSockRef::from(&port.socket), &transmit));
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Sent::Blocked { sent_bytes: index * at_once };
                }
                Err(error) => {
                    tracing::trace!(%destination, %error, "send failed");
                    return Sent::Failed;
                }
            }
        }
        Sent::Done
    }

    /// Not through quinn-udp: it states the whole TOS byte (traffic class, with IPv6) with each call, of which it knows the
    /// ECN bits only, so that a code point set on the socket never gets out. What it states of ECN for these datagrams is
    /// "not capable", and so does this.
    fn send_marked(
        &self,
        local: LocalSocket,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: usize,
        dscp: u8,
    ) -> Sent {
        let Some(port) = self.port_for(local, destination) else { return Sent::Failed };
        let segment_size = segment_size.max(1);
        let mut out = 0;
        while out < contents.len() {
            let left = &contents[out..];
            let at_once = segment_size * port.state.max_gso_segments().max(1);
            let part = &left[..left.len().min(at_once)];
            match send_part(port, destination, part, segment_size, dscp) {
                Ok(()) => out += part.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Blocked { sent_bytes: out },
                // No segmentation on this interface: one by one.
                Err(_) if part.len() > segment_size => {
                    let first = &part[..segment_size];
                    match send_part(port, destination, first, segment_size, dscp) {
                        Ok(()) => out += first.len(),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Sent::Blocked { sent_bytes: out };
                        }
                        Err(_) => return Sent::Failed,
                    }
                }
                Err(error) => {
                    tracing::trace!(%destination, %error, "send failed");
                    return Sent::Failed;
                }
            }
        }
        Sent::Done
    }

    fn poll_writable(&self, cx: &mut Context<'_>, local: LocalSocket, destination: SocketAddr) -> Poll<()> {
        match self.port_for(local, destination) {
            Some(port) => port.socket.poll_send_ready(cx).map(|_| ()),
            None => Poll::Ready(()),
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, each: &mut Receive<'_>) -> Poll<io::Result<()>> {
        let Self { v4, v6, extra, buffers, metas } = self;
        let main = &mut |from, data: &[u8], stride| each(LocalSocket::MAIN, from, data, stride);
        let mut first = receive(v4, cx, buffers, metas, main);
        if let Some(v6) = v6 {
            let second = receive(v6, cx, buffers, metas, main);
            if first.is_pending() || matches!(second, Poll::Ready(Err(_))) {
                first = second;
            }
        }
        for (&local, port) in extra {
            // One that fails is not worth the data socket.
            let more = receive(port, cx, buffers, metas, &mut |from, data, stride| each(local, from, data, stride));
            if first.is_pending() && matches!(more, Poll::Ready(Ok(()))) {
                first = more;
            }
        }
        first
    }

    fn interfaces(&self) -> Option<Vec<InterfaceAddr>> {
        addrs::system_addrs()
    }
}

/// One call, with the code point in the control message.
fn send_part(port: &Port, to: SocketAddr, contents: &[u8], segment_size: usize, dscp: u8) -> io::Result<()> {
    let mut control = Control::default();
    let (level, kind) =
        if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
    control.push(level, kind, &libc::c_int::from(dscp << 2).to_ne_bytes());
    if contents.len() > segment_size
        && let Ok(size) = u16::try_from(segment_size)
    {
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }
    let to = SockAddr::from(to);
    let buffers = [IoSlice::new(contents)];
    let message = MsgHdr::new().with_addr(&to).with_buffers(&buffers).with_control(control.bytes());
    port.socket
        .try_io(Interest::WRITABLE, || SockRef::from(&port.socket).sendmsg(&message, libc::MSG_DONTWAIT))
        .map(|_| ())
}

/// Control messages as cmsg(3) lays them out: length, level, type, data, each message aligned to a word.
struct Control {
    buffer: [u8; 64],
    len: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self { buffer: [0; 64], len: 0 }
    }
}

impl Control {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = (size_of::<libc::cmsghdr>()).next_multiple_of(Self::WORD);

    /// At most 4 bytes of `data`; two fit.
    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let len = Self::HEADER + data.len();
        let slot = &mut self.buffer[self.len..self.len + len];
        slot[..Self::WORD].copy_from_slice(&len.to_ne_bytes());
        slot[Self::WORD..Self::WORD + 4].copy_from_slice(&level.to_ne_bytes());
        slot[Self::WORD + 4..Self::WORD + 8].copy_from_slice(&kind.to_ne_bytes());
        slot[Self::HEADER..].copy_from_slice(data);
        self.len += len.next_multiple_of(Self::WORD);
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

fn receive(
    port: &Port,
    cx: &mut Context<'_>,
    buffers: &mut [u8],
    metas: &mut [RecvMeta; RECEIVE_SLOTS],
    each: &mut dyn FnMut(SocketAddr, &[u8], usize),
) -> Poll<io::Result<()>> {
    loop {
        ready!(port.socket.poll_recv_ready(cx))?;
        let mut chunks = buffers.chunks_mut(SLOT_BYTES);
        let mut slots: [IoSliceMut<'_>; RECEIVE_SLOTS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let received = port
            .socket
            .try_io(Interest::READABLE, || port.state.recv(UdpSockRef::from(&port.socket), &mut slots, metas));
        match received {
            Ok(count) => {
                for (meta, slot) in metas.iter().zip(&slots).take(count) {
                    if let Some(data) = slot.get(..meta.len) {
                        each(canonical(meta.addr), data, meta.stride);
                    }
                }
                return Poll::Ready(Ok(()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An ICMP error for an earlier datagram; it says nothing about the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn segments_arrive_whole() {
        let mut receiver = Sockets::new(BoundSockets::bind(0).unwrap()).unwrap();
        let to = receiver.v4.socket.local_addr().unwrap().port();
        let sender = Sockets::new(BoundSockets::bind(0).unwrap()).unwrap();
        let contents: Vec<u8> = (0..2_500u32).map(|n| (n / 1000) as u8).collect();
        let destination = SocketAddr::from((Ipv4Addr::LOCALHOST, to));
        sender.v4.socket.writable().await.unwrap();
        assert_eq!(sender.send(LocalSocket::MAIN, destination, &contents, 1000), Sent::Done);
        let mut got: Vec<Vec<u8>> = Vec::new();
        while got.len() < 3 {
            std::future::poll_fn(|cx| {
                receiver.poll_receive(cx, &mut |_, _, data, stride| got.extend(data.chunks(stride).map(<[u8]>::to_vec)))
            })
            .await
            .unwrap();
        }
        assert_eq!(got, [vec![0; 1000], vec![1; 1000], vec![2; 500]]);
    }

    /// The kernel says with each datagram what its header had.
    #[tokio::test]
    async fn marks_get_out_and_only_where_they_are_asked_for() {
        for (any, host) in [
            (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::LOCALHOST)),
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
        ] {
            let bound = BoundSockets::bind(0).unwrap();
            if host.is_ipv6() && bound.v6.is_none() {
                continue;
            }
            let sender = Sockets::new(bound).unwrap();
            let receiver = bind((any, 0).into()).unwrap();
            let set = if host.is_ipv4() { receiver.set_recv_tos_v4(true) } else { receiver.set_recv_tclass_v6(true) };
            set.unwrap();
            receiver.set_nonblocking(false).unwrap();
            let to = SocketAddr::new(host, local_port(&receiver).unwrap());
            std::future::poll_fn(|cx| sender.poll_writable(cx, LocalSocket::MAIN, to)).await;
            assert_eq!(sender.send_marked(LocalSocket::MAIN, to, &[7; 250], 100, 46), Sent::Done);
            assert_eq!(sender.send(LocalSocket::MAIN, to, &[7; 100], 100), Sent::Done);
            let got: Vec<(usize, u8)> = (0..4).map(|_| receive_with_tos(&receiver)).collect();
            assert_eq!(got, [(100, 46 << 2), (100, 46 << 2), (50, 46 << 2), (100, 0)], "{host}");
        }
    }

    fn receive_with_tos(socket: &Socket) -> (usize, u8) {
        let mut data = [std::mem::MaybeUninit::uninit(); 1500];
        let mut control = [std::mem::MaybeUninit::uninit(); 64];
        let mut buffers = [socket2::MaybeUninitSlice::new(&mut data)];
        let mut message = socket2::MsgHdrMut::new().with_buffers(&mut buffers).with_control(&mut control);
        let len = socket.recvmsg(&mut message, 0).unwrap();
        assert!(message.control_len() > Control::HEADER);
        // SAFETY: the kernel has filled that many bytes of control messages, of which the first is longer than a header.
        (len, unsafe { control[Control::HEADER].assume_init() })
    }

    #[test]
    fn an_address_of_others_is_none_to_bind() {
        let bound = BoundSockets::bind_at(0, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST).unwrap();
        assert_eq!(bound.v4.local_addr().unwrap().as_socket().unwrap().ip(), Ipv4Addr::LOCALHOST);
        let bound = BoundSockets::bind_at(0, Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::LOCALHOST).unwrap();
        assert_eq!(bound.v4.local_addr().unwrap().as_socket().unwrap().ip(), Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = BoundSockets::bind(0).unwrap();
        let message = BoundSockets::bind(first.port()).unwrap_err().to_string();
        assert!(message.contains(&first.port().to_string()) && message.contains("--listen-port"), "{message}");
    }
}

//! Every UDP datagram that leaves or enters a host, with the time: what a game really sent, and what came back.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket};

use crate::lab::Host;

/// More than any test here sends; what comes on top is not noted.
const MOST: usize = 50_000;

/// One datagram on one interface of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    pub(crate) at: Instant,
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    /// Bytes of payload.
    pub(crate) size: usize,
}

impl Datagram {
    /// To more than one host, as far as its destination tells (all networks here are /24 or wider).
    pub(crate) fn is_for_many(&self) -> bool {
        self.to.ip().is_multicast() || self.to.ip().octets()[3] == 255
    }
}

/// Notes datagrams until dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    seen: Arc<Mutex<Vec<Datagram>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    pub(crate) fn on(host: &Host) -> Self {
        let open = || -> io::Result<OwnedFd> {
            // Only a socket for all protocols is shown what the host itself sends.
            let socket = socket(AddressFamily::PACKET, SocketType::DGRAM, Some(eth::ALL))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100)))?;
            set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
            Ok(socket)
        };
        let socket = host.enter(open).unwrap();
        let (seen, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (seen, ended) = (Arc::clone(&seen), Arc::clone(&ended));
            move || {
                let mut buffer = [MaybeUninit::<u8>::uninit(); 65_535];
                while !ended.load(Ordering::Relaxed) {
                    let Ok(((packet, _), _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) else { continue };
                    let Some(datagram) = read(packet) else { continue };
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    if seen.len() < MOST {
                        seen.push(datagram);
                    }
                }
            }
        });
        Self { seen, ended, thread: Some(thread) }
    }

    pub(crate) fn count(&self, since: Instant, fits: impl Fn(&Datagram) -> bool) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|datagram| datagram.at >= since && fits(datagram)).count()
    }

    /// The first one since then that `fits`. A program may be faster with its datagram than the thread that notes it.
    pub(crate) fn first(&self, since: Instant, fits: impl Fn(&Datagram) -> bool) -> Option<Datagram> {
        let start = Instant::now();
        loop {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let found = seen.iter().find(|datagram| datagram.at >= since && fits(datagram)).copied();
            drop(seen);
            if found.is_some() || start.elapsed() > Duration::from_secs(1) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn read(packet: &[u8]) -> Option<Datagram> {
    const UDP: u8 = 17;
    let at = Instant::now();
    let first_fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x1fff == 0;
    if packet[0] >> 4 != 4 || *packet.get(9)? != UDP || !first_fragment {
        return None;
    }
    let udp = packet.get(usize::from(packet[0] & 0x0f) * 4..)?;
    let end = |ip: usize, port: usize| -> Option<SocketAddrV4> {
        let ip: [u8; 4] = packet.get(ip..ip + 4)?.try_into().ok()?;
        let port = u16::from_be_bytes(udp.get(port..port + 2)?.try_into().ok()?);
        Some(SocketAddrV4::new(Ipv4Addr::from(ip), port))
    };
    let size = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?)).checked_sub(8)?;
    Some(Datagram { at, from: end(12, 0)?, to: end(16, 2)?, size })
}

//! Which way the echoes of a `Stream` went, seen in the middle of the internet: not what the program says of it.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket};

use super::Host;

/// IP packets that hold an echo: 928 bytes of it, WireGuard's 32, UDP's and IP's 28 or 48, a relay's 52, or TCP's more.
const ECHO_PACKETS: RangeInclusive<usize> = 980..=1_180;

/// How an echo travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Direct,
    /// Straight, in a TCP stream.
    DirectTcp,
    Relayed,
    /// By a server, on one leg or both in TCP.
    RelayedTcp,
    /// Not by the internet.
    Local,
}

impl Way {
    pub(crate) fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectTcp | Self::Local)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectTcp => "direct (TCP)",
            Self::Relayed => "relayed",
            Self::RelayedTcp => "relayed (TCP)",
            Self::Local => "LAN",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) at: Instant,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) tcp: bool,
}

/// Notes each packet with an echo that comes into a namespace, until dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    passed: Arc<Mutex<Vec<Passed>>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn on(router: &Host) -> Self {
        let (passed, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let threads = [eth::IP, eth::IPV6].map(|protocol| {
            let open = || -> io::Result<OwnedFd> {
                let socket = socket(AddressFamily::PACKET, SocketType::DGRAM, Some(protocol))?;
                set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100)))?;
                set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
                Ok(socket)
            };
            let socket = router.enter(open).unwrap();
            let (passed, ended) = (Arc::clone(&passed), Arc::clone(&ended));
            std::thread::spawn(move || {
                let mut buffer = [MaybeUninit::<u8>::uninit(); 65_535];
                while !ended.load(Ordering::Relaxed) {
                    let Ok(((packet, _), _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) else { continue };
                    if let Some(echo) = read(packet) {
                        passed.lock().unwrap_or_else(PoisonError::into_inner).push(echo);
                    }
                }
            })
        });
        Self { passed, ended, threads: threads.into() }
    }

    pub(crate) fn passed_since(&self, start: Instant) -> Vec<Passed> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.iter().filter(|echo| echo.at >= start).copied().collect()
    }

    /// By which way went what was seen between two times, when there are `ends` on both sides.
    pub(crate) fn way(&self, ends: [&[IpAddr]; 2], from: Instant, to: Instant) -> Way {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        // In order of time but for the two families' threads; a little margin, and no search of all.
        let start = passed.partition_point(|echo| echo.at + Duration::from_millis(50) < from);
        let there = passed.iter().skip(start).take_while(|echo| echo.at <= to + Duration::from_millis(50));
        way(there.filter(|echo| echo.at >= from && echo.at <= to), ends)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn way<'a>(passed: impl Iterator<Item = &'a Passed>, ends: [&[IpAddr]; 2]) -> Way {
    let (mut direct, mut relayed) = ([false; 2], [false; 2]);
    for echo in passed {
        let side = |address| ends.iter().position(|end| end.contains(&address));
        match (side(echo.from), side(echo.to)) {
            (Some(a), Some(b)) if a != b => direct[usize::from(echo.tcp)] = true,
            (None, None) => {}
            _ => relayed[usize::from(echo.tcp)] = true,
        }
    }
    // What is in TCP may be something else of that size: it counts where UDP does not tell all.
    match (direct, relayed) {
        (_, [true, true]) => Way::RelayedTcp,
        (_, [true, false]) => Way::Relayed,
        ([true, _], _) => Way::Direct,
        (_, [_, true]) => Way::RelayedTcp,
        ([_, true], _) => Way::DirectTcp,
        ([false, false], [false, false]) => Way::Local,
    }
}

fn read(packet: &[u8]) -> Option<Passed> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let at = Instant::now();
    let (from, to, protocol): (IpAddr, IpAddr, u8) = match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok().map(Ipv4Addr::from);
            (address(12)?.into(), address(16)?.into(), *packet.get(9)?)
        }
        6 => {
            let address = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok().map(Ipv6Addr::from);
            (address(8)?.into(), address(24)?.into(), *packet.get(6)?)
        }
        _ => return None,
    };
    let fits = match protocol {
        UDP => ECHO_PACKETS.contains(&packet.len()),
        // A stream may put two into one.
        TCP => packet.len() >= *ECHO_PACKETS.start(),
        _ => false,
    };
    fits.then_some(Passed { at, from, to, tcp: protocol == TCP })
}

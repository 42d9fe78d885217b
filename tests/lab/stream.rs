//! Echoes over UDP: what a game notices. One host sends a datagram every so often, the other sends it back.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Host;

/// Where echoes are answered.
pub(crate) const ECHO_PORT: u16 = 7_777;

/// Bytes of a datagram: unlike what LANrage sends of its own, so that a `Watch` can tell which way it went.
pub(crate) const ECHO_BYTES: usize = 900;

/// Answers echoes on all addresses of a host, until dropped.
#[derive(Debug)]
pub(crate) struct EchoServer(Worker);

/// A thread that ends with its guard.
#[derive(Debug)]
struct Worker {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl EchoServer {
    pub(crate) fn start(host: &Host) -> Self {
        // Two sockets: an answer leaves with the address that the echo came to only as long as it is the one that routing
        // picks, which holds for each family by itself.
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let ended = Arc::new(AtomicBool::new(false));
        let threads = any.into_iter().filter_map(|any| {
            let socket = host.enter(|| bound(any, ECHO_PORT)).ok()?;
            let ended = Arc::clone(&ended);
            Some(std::thread::spawn(move || {
                let mut buffer = [0; 2_048];
                while !ended.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
            }))
        });
        let threads = threads.collect();
        Self(Worker { ended, threads })
    }
}

/// A UDP socket that does not wait longer than 100 ms; an IPv6 one takes no IPv4.
fn bound(address: IpAddr, port: u16) -> std::io::Result<UdpSocket> {
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::DGRAM, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, port))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// One datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Echo {
    pub(crate) sent: Instant,
    pub(crate) answered: Option<Instant>,
}

impl Echo {
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.answered.map(|answered| answered - self.sent)
    }
}

/// Sends echoes until dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    echoes: Arc<Mutex<Vec<Echo>>>,
    _worker: Worker,
}

impl Stream {
    /// Also before there is a way: what cannot be sent is lost.
    pub(crate) fn start(from: &Host, to: impl Into<IpAddr>, interval: Duration) -> Self {
        Self::of_size(from, to, interval, ECHO_BYTES)
    }

    /// Datagrams of so many bytes, 4 to 2,048.
    pub(crate) fn of_size(from: &Host, to: impl Into<IpAddr>, interval: Duration, bytes: usize) -> Self {
        let to = SocketAddr::new(to.into(), ECHO_PORT);
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = Arc::new(from.enter(|| bound(any, 0)).unwrap());
        let (ended, echoes) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::<Echo>::new())));
        let sender = {
            let (ended, echoes, socket) = (Arc::clone(&ended), Arc::clone(&echoes), Arc::clone(&socket));
            std::thread::spawn(move || {
                let mut payload = vec![0; bytes];
                let mut next = Instant::now();
                while !ended.load(Ordering::Relaxed) {
                    let number = {
                        let mut echoes = echoes.lock().unwrap_or_else(PoisonError::into_inner);
                        echoes.push(Echo { sent: Instant::now(), answered: None });
                        u32::try_from(echoes.len() - 1).unwrap()
                    };
                    payload[..4].copy_from_slice(&number.to_le_bytes());
                    let _ = socket.send_to(&payload, to);
                    next += interval;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            })
        };
        let receiver = {
            let (ended, echoes) = (Arc::clone(&ended), Arc::clone(&echoes));
            std::thread::spawn(move || {
                let mut buffer = [0; 2_048];
                while !ended.load(Ordering::Relaxed) {
                    match socket.recv_from(&mut buffer) {
                        Ok((length, _)) if length == bytes => {
                            let now = Instant::now();
                            let number = u32::from_le_bytes(buffer[..4].try_into().unwrap());
                            let mut echoes = echoes.lock().unwrap_or_else(PoisonError::into_inner);
                            if let Some(echo) = echoes.get_mut(usize::try_from(number).unwrap()) {
                                echo.answered.get_or_insert(now);
                            }
                        }
                        Err(problem) if matches!(problem.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                        // A port that is not open yet.
                        Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            })
        };
        Self { echoes, _worker: Worker { ended, threads: vec![sender, receiver] } }
    }

    /// All until now.
    pub(crate) fn echoes(&self) -> Vec<Echo> {
        self.echoes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first answer that was received after `start`.
    pub(crate) fn first_answer(&self, start: Instant) -> Option<Instant> {
        let echoes = self.echoes();
        echoes.iter().filter_map(|echo| echo.answered).filter(|answered| *answered >= start).min()
    }

    /// Answers since `start`.
    pub(crate) fn answers_since(&self, start: Instant) -> usize {
        self.echoes().iter().filter(|echo| echo.sent >= start && echo.answered.is_some()).count()
    }

    /// The longest time without an echo that was answered: from the sending of one to the sending of the next. The
    /// interval of the stream when nothing was lost. None when the last ones of the span were not answered either.
    pub(crate) fn gap(&self, from: Instant, to: Instant) -> Option<Duration> {
        let echoes = self.echoes();
        let span: Vec<_> = echoes.iter().filter(|echo| echo.sent >= from && echo.sent <= to).collect();
        span.last()?.answered?;
        let answered: Vec<_> = span.iter().filter(|echo| echo.answered.is_some()).map(|echo| echo.sent).collect();
        let before = answered.first().map(|first| *first - from);
        answered.windows(2).map(|two| two[1] - two[0]).chain(before).max()
    }
}

//! libp2p's transport over the virtual network: `/ip4/…/tcp/…`, so that the shipped address rules apply unchanged.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Ready, ready};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::upgrade;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport, noise, yamux};

use super::net::{HostId, Network};
use super::pipe::Connection;

/// An unanswered SYN; the limit above is shorter, as it is in the shipped program.
const SYN_TIMEOUT: Duration = Duration::from_secs(130);

/// One host's stack.
#[derive(Debug)]
pub struct VirtualTcp {
    net: Network,
    host: HostId,
    listeners: Vec<(ListenerId, u16)>,
    told: VecDeque<(ListenerId, Multiaddr)>,
}

impl VirtualTcp {
    #[must_use]
    pub const fn new(net: Network, host: HostId) -> Self {
        Self { net, host, listeners: Vec::new(), told: VecDeque::new() }
    }
}

/// With noise and yamux on top; `timeout` is for a connection and its handshake.
///
/// # Errors
/// When the noise keys cannot be made.
pub fn secured(
    net: Network,
    host: HostId,
    keys: &Keypair,
    timeout: Duration,
) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let noise = noise::Config::new(keys).map_err(io::Error::other)?;
    Ok(VirtualTcp::new(net, host)
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(timeout)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed())
}

#[must_use]
pub fn tcp(ip: Ipv4Addr, port: u16) -> Multiaddr {
    Multiaddr::from(ip).with(Protocol::Tcp(port))
}

fn parse(addr: &Multiaddr) -> Option<(Ipv4Addr, u16)> {
    let mut parts = addr.iter();
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port)), None | Some(Protocol::P2p(_)), None) => Some((ip, port)),
        _ => None,
    }
}

impl Transport for VirtualTcp {
    type Output = Connection;
    type Error = io::Error;
    type ListenerUpgrade = Ready<io::Result<Connection>>;
    type Dial = BoxFuture<'static, io::Result<Connection>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let (_, port) = parse(&addr).ok_or(TransportError::MultiaddrNotSupported(addr))?;
        if !self.net.listen(self.host, port) {
            return Err(TransportError::Other(io::ErrorKind::AddrInUse.into()));
        }
        self.listeners.push((id, port));
        self.told.push_back((id, tcp(self.net.local(self.host), port)));
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let Some(index) = self.listeners.iter().position(|(listener, _)| *listener == id) else { return false };
        let (_, port) = self.listeners.remove(index);
        self.net.unlisten(self.host, port);
        true
    }

    fn dial(&mut self, addr: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let (ip, port) = parse(&addr).ok_or(TransportError::MultiaddrNotSupported(addr))?;
        let (net, host) = (self.net.clone(), self.host);
        Ok(Box::pin(async move {
            let silence = || async {
                tokio::time::sleep(SYN_TIMEOUT).await;
                Err(io::ErrorKind::TimedOut.into())
            };
            let Some(to) = net.reach(ip).filter(|_| net.is_up(host)) else { return silence().await };
            let delay = net.delay(host, to);
            tokio::time::sleep(delay).await;
            if !net.is_up(to) {
                return silence().await;
            }
            let connection = net.connect(host, to, port);
            tokio::time::sleep(delay).await;
            connection.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
        }))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        if let Some((listener_id, listen_addr)) = self.told.pop_front() {
            return Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr });
        }
        for &(listener_id, port) in &self.listeners {
            if let Some(incoming) = self.net.accept(self.host, port, cx.waker()) {
                return Poll::Ready(TransportEvent::Incoming {
                    listener_id,
                    upgrade: ready(Ok(incoming.connection)),
                    local_addr: tcp(self.net.local(self.host), port),
                    send_back_addr: tcp(incoming.from.0, incoming.from.1),
                });
            }
        }
        Poll::Pending
    }
}

impl Drop for VirtualTcp {
    fn drop(&mut self) {
        for &(_, port) in &self.listeners {
            self.net.unlisten(self.host, port);
        }
    }
}

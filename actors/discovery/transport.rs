//! The transports (TCP, QUIC, DNS, circuit relay) behind the dial policy.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::upgrade;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport, noise, quic, relay, tcp, yamux};

use super::filter::DialPolicy;

/// Long enough for a handshake over a bad line with a lost SYN, short enough that a dead address does not hold up the
/// next one.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that are secured and multiplexed.
pub type Secured = Boxed<(PeerId, StreamMuxerBox)>;

/// Another network in place of the system's: the simulation's. Dial policy, circuits and everything above stay.
#[allow(missing_debug_implementations, reason = "a boxed transport has none")]
pub struct Network {
    pub transport: Secured,
    pub listen: Vec<Multiaddr>,
    /// Memory of the whole process, in bytes, beyond which new connections are refused. A process that holds many nodes
    /// cannot go by the limit for one.
    pub memory_limit: usize,
}

/// Builds the transport and the circuit relay client that belongs to it.
///
/// # Errors
/// When the noise keys cannot be made.
pub(super) fn build(
    keypair: &Keypair,
    policy: &DialPolicy,
    substitute: Option<Secured>,
) -> io::Result<(Secured, relay::client::Behaviour)> {
    let direct = match substitute {
        Some(inner) => Filtered { policy: policy.clone(), inner }.boxed(),
        None => system(keypair, policy)?,
    };
    let noise = noise::Config::new(keypair).map_err(io::Error::other)?;
    let (circuits, client) = relay::client::new(keypair.public().to_peer_id());
    let circuits = circuits
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(UPGRADE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok((circuits.or_transport(direct).map(|either, _| either.into_inner()).boxed(), client))
}

/// TCP, QUIC and DNS of the system.
fn system(keypair: &Keypair, policy: &DialPolicy) -> io::Result<Secured> {
    let direct = || -> io::Result<Filtered<Boxed<_>>> {
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(upgrade::Version::V1Lazy)
            .authenticate(noise::Config::new(keypair).map_err(io::Error::other)?)
            .multiplex(yamux::Config::default())
            .timeout(UPGRADE_TIMEOUT)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        let quic = quic::tokio::Transport::new(quic::Config::new(keypair))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        let inner = quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed();
        Ok(Filtered { policy: policy.clone(), inner })
    };
    match libp2p::dns::tokio::Transport::system(direct()?) {
        Ok(transport) => Ok(transport.boxed()),
        Err(error) => {
            tracing::warn!(%error, "the system's DNS settings could not be read; bootstrap peers given by name are not found");
            Ok(direct()?.boxed())
        }
    }
}

/// Refuses to dial what the policy does not allow, whoever proposed the address.
struct Filtered<T> {
    policy: DialPolicy,
    inner: T,
}

impl<T> Transport for Filtered<T>
where
    T: Transport + Unpin,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        if !self.policy.allows(&addr) {
            tracing::debug!(%addr, "not dialled: the address leads nowhere from here");
            return Err(TransportError::MultiaddrNotSupported(addr));
        }
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

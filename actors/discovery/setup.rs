//! Bootstrap addresses and ports to listen on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::core::transport::TransportError;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Swarm};

use super::DiscoveryConfig;
use super::swarm::Behaviour;

/// Why discovery cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("port {0} (TCP or UDP) is in use by another program; choose another with --p2p-port, or end that program")]
    PortInUse(u16),
    #[error("TCP port {0} is in use by another program; end that program, or do not ask for this port")]
    ExtraPortInUse(u16),
    #[error(
        "listening on TCP port {0} is not allowed: start the relay with the right to do so (`setcap \
         cap_net_bind_service+ep` on the program, or AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit), or do not \
         ask for this port"
    )]
    ExtraPortDenied(u16),
    #[error("`{0}` is not a bootstrap address ({1}); it looks like /ip4/203.0.113.5/tcp/4001/p2p/12D3KooW…")]
    BadBootstrap(String, String),
    #[error("discovery could not start: {0}")]
    Other(#[from] io::Error),
}

pub(super) struct Bootstrap {
    pub(super) text: String,
    pub(super) peer: PeerId,
    pub(super) addr: Multiaddr,
    pub(super) reached: bool,
    pub(super) last_error: Option<String>,
}

pub(super) fn parse_bootstrap(text: &str) -> Result<Bootstrap, DiscoveryError> {
    let bad = |why: &str| DiscoveryError::BadBootstrap(text.to_owned(), why.to_owned());
    let mut addr: Multiaddr = text.parse().map_err(|error: libp2p::multiaddr::Error| bad(&error.to_string()))?;
    match addr.pop() {
        Some(Protocol::P2p(peer)) => {
            Ok(Bootstrap { text: text.to_owned(), peer, addr, reached: false, last_error: None })
        }
        Some(_) | None => Err(bad("it does not end in /p2p/ and a PeerId")),
    }
}

/// Listens as configured, and makes the addresses known under which the node is reachable.
pub(super) fn listen(swarm: &mut Swarm<Behaviour>, config: &DiscoveryConfig) -> Result<(), DiscoveryError> {
    listen_main(swarm, config.port)?;
    for &port in &config.extra_tcp_ports {
        listen_extra(swarm, port)?;
    }
    for &ip in &config.public_ips {
        let extra = config.extra_tcp_ports.iter().map(|&port| tcp(ip, port));
        for addr in both(ip, config.port).into_iter().chain(extra) {
            swarm.add_external_address(addr);
        }
    }
    Ok(())
}

fn tcp(ip: IpAddr, port: u16) -> Multiaddr {
    Multiaddr::from(ip).with(Protocol::Tcp(port))
}

fn both(ip: IpAddr, port: u16) -> [Multiaddr; 2] {
    [Multiaddr::from(ip).with(Protocol::Udp(port)).with(Protocol::QuicV1), tcp(ip, port)]
}

fn listen_main(swarm: &mut Swarm<Behaviour>, port: u16) -> Result<(), DiscoveryError> {
    for addr in both(Ipv4Addr::UNSPECIFIED.into(), port) {
        if let Err(error) = swarm.listen_on(addr) {
            return Err(if in_use(&error) { DiscoveryError::PortInUse(port) } else { other(&error) });
        }
    }
    for addr in both(Ipv6Addr::UNSPECIFIED.into(), port) {
        if let Err(error) = swarm.listen_on(addr) {
            tracing::debug!(%error, "no IPv6 for discovery");
        }
    }
    Ok(())
}

fn listen_extra(swarm: &mut Swarm<Behaviour>, port: u16) -> Result<(), DiscoveryError> {
    for ip in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
        match swarm.listen_on(tcp(ip, port)) {
            Ok(_) => {}
            Err(error) if in_use(&error) => return Err(DiscoveryError::ExtraPortInUse(port)),
            Err(error) if denied(&error) => return Err(DiscoveryError::ExtraPortDenied(port)),
            Err(error) if ip.is_ipv4() => return Err(other(&error)),
            Err(error) => tracing::debug!(%error, port, "no IPv6 for discovery"),
        }
    }
    Ok(())
}

fn in_use(error: &TransportError<io::Error>) -> bool {
    is(error, io::ErrorKind::AddrInUse, "in use")
}

fn denied(error: &TransportError<io::Error>) -> bool {
    is(error, io::ErrorKind::PermissionDenied, "ermission denied")
}

/// Some layers only format what is inside them.
fn is(error: &TransportError<io::Error>, kind: io::ErrorKind, text: &str) -> bool {
    match error {
        TransportError::Other(error) => error.kind() == kind || error.to_string().contains(text),
        TransportError::MultiaddrNotSupported(_) => false,
    }
}

fn other(error: &TransportError<io::Error>) -> DiscoveryError {
    DiscoveryError::Other(io::Error::other(error.to_string()))
}

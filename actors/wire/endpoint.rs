use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Which of this machine's UDP sockets: 0 is the data socket, others are opened for a while to punch through a NAT that
/// gives each destination another port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalSocket(pub u16);

impl LocalSocket {
    /// The data socket.
    pub const MAIN: Self = Self(0);
}

/// Where a datagram came from, or how one gets to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The peer's address, or the relay's.
    pub addr: SocketAddr,
    pub local: LocalSocket,
    /// `addr` is a relay's, and the datagram was or is forwarded by it.
    pub relayed: bool,
}

impl Endpoint {
    /// `addr` as seen from the data socket.
    #[must_use]
    pub fn direct(addr: SocketAddr) -> Self {
        Self { addr, local: LocalSocket::MAIN, relayed: false }
    }

    #[must_use]
    pub fn relayed(relay: SocketAddr) -> Self {
        Self { addr: relay, local: LocalSocket::MAIN, relayed: true }
    }
}

/// Prefix of the addresses that stand for streams: RFC 6666's discard prefix, which is never routed.
const STREAM_PREFIX: u128 = 0x0100 << 112;
/// Any port but 0; it says nothing.
const STREAM_PORT: u16 = 1;

/// The address that stands for a stream which carries datagrams where UDP is blocked. `id` is never reused in one run
/// of the program.
#[must_use]
pub fn stream_addr(id: u64) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(STREAM_PREFIX | u128::from(id)).into(), STREAM_PORT)
}

/// The `id` that [`stream_addr`] was made of; `None` for every real address.
#[must_use]
pub fn stream_id(addr: SocketAddr) -> Option<u64> {
    let IpAddr::V6(ip) = addr.ip() else { return None };
    let bits = u128::from(ip);
    (bits >> 64 == STREAM_PREFIX >> 64 && addr.port() == STREAM_PORT)
        .then(|| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0))
}

/// Whether an address was told by somebody else and still stands for one of this machine's streams: never believe it.
#[must_use]
pub fn is_stream(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if u128::from(ip) >> 64 == STREAM_PREFIX >> 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_addresses_of_their_own() {
        for id in [0, 1, u64::MAX] {
            assert_eq!(stream_id(stream_addr(id)), Some(id));
            assert!(is_stream(stream_addr(id).ip()));
        }
        for real in ["192.0.2.1:1", "[2001:db8::1]:1", "[101::1]:1", "[100::1]:2"] {
            assert_eq!(stream_id(real.parse().unwrap()), None, "{real}");
        }
    }
}

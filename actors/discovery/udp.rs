//! One question to the local network.
//!
//! The mDNS behaviour asks at its start and then every five minutes, and cannot be told to ask. Who starts to look for a
//! party does not want to wait: the same question goes out from here, and the behaviour hears the answers, which are
//! multicast.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// RFC 6762.
const MDNS: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
/// The service of libp2p's mDNS specification.
const SERVICE: [&str; 3] = ["_p2p", "_udp", "local"];

/// Asks on the network of each of these interface addresses. Best effort: the behaviour's own questions go on.
pub(super) fn ask_local_network(interfaces: impl Iterator<Item = IpAddr>) {
    let addresses: BTreeSet<Ipv4Addr> = interfaces
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
        .collect();
    for address in addresses {
        let asked = UdpSocket::bind((address, 0)).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(&query(), MDNS)
        });
        if let Err(error) = asked {
            tracing::debug!(%address, %error, "the local network could not be asked");
        }
    }
}

/// A DNS query (RFC 1035, section 4.1) with one question: PTR of the service, class IN.
fn query() -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in SERVICE {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 12, 0, 1]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_that_of_the_specification() {
        assert_eq!(query(), b"\0\0\0\0\0\x01\0\0\0\0\0\0\x04_p2p\x04_udp\x05local\0\0\x0c\0\x01");
    }
}

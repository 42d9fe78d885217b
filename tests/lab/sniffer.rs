//! Reading along on a router: what a stranger on the way sees.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket};

use super::Host;

/// Sees every IPv4 packet that comes into a namespace.
#[derive(Debug)]
pub(crate) struct Sniffer(OwnedFd);

impl Sniffer {
    pub(crate) fn on(host: &Host) -> Self {
        let open = || -> io::Result<OwnedFd> {
            let socket = socket(AddressFamily::PACKET, SocketType::DGRAM, Some(eth::IP))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(200)))?;
            set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
            Ok(socket)
        };
        Self(host.enter(open).unwrap())
    }

    /// Payloads of the UDP datagrams to `port` that were seen until now, at most `limit`.
    pub(crate) fn datagrams_to(&self, port: u16, limit: usize) -> Vec<Vec<u8>> {
        self.packets(limit, |packet| udp_payload_to(packet, port))
    }

    /// Code points (DSCP) of the same.
    pub(crate) fn marks_to(&self, port: u16, limit: usize) -> Vec<u8> {
        self.packets(limit, |packet| udp_payload_to(packet, port).and_then(|_| packet.get(1)).map(|tos| tos >> 2))
    }

    fn packets<T>(&self, limit: usize, each: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
        let mut found = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 65_535];
        // What is queued takes no time to read; traffic that never ends must not keep us here.
        let start = Instant::now();
        while found.len() < limit && start.elapsed() < Duration::from_secs(2) {
            let Ok(((packet, _), _)) = recv(&self.0, &mut buffer[..], RecvFlags::empty()) else { break };
            // What a host sends to itself is on no way.
            if packet.get(12..16) != packet.get(16..20) {
                found.extend(each(packet));
            }
        }
        found
    }
}

fn udp_payload_to(packet: &[u8], port: u16) -> Option<Vec<u8>> {
    const UDP: u8 = 17;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let udp = packet.get(header..)?;
    let to_port = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    let length = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?));
    (packet.get(9)? == &UDP && to_port == port).then(|| udp.get(8..length).map(<[u8]>::to_vec)).flatten()
}

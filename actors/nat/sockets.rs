//! What the data socket stands on: the system's sockets, or in their place a network that is simulated.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::addrs::InterfaceAddr;
use crate::wire::LocalSocket;

/// What happened to a send.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    Done,
    /// The socket is full: call again once it is writable, without the bytes that are out.
    Blocked {
        sent_bytes: usize,
    },
    Failed,
}

/// Takes what a receive call gave: the socket, the sender, the datagrams and the length of each (the last may be shorter).
pub type Receive<'a> = dyn FnMut(LocalSocket, SocketAddr, &[u8], usize) + 'a;

/// The UDP sockets of the data path, and the addresses that they are at.
pub trait DataSockets {
    /// Opens another IPv4 socket, on `port` or any (0), under the name `local`. Returns its port.
    ///
    /// # Errors
    /// When the system refuses; the others stay as they are.
    fn open(&mut self, local: LocalSocket, port: u16) -> io::Result<u16>;

    fn close(&mut self, local: LocalSocket);

    /// Sends `contents` as datagrams of `segment_size` bytes, in one call where the system can.
    fn send(&self, local: LocalSocket, destination: SocketAddr, contents: &[u8], segment_size: usize) -> Sent;

    /// As [`Self::send`], with a code point (RFC 2474) in the IP header, where the system can.
    fn send_marked(
        &self,
        local: LocalSocket,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: usize,
        _dscp: u8,
    ) -> Sent {
        self.send(local, destination, contents, segment_size)
    }

    /// Ready when a socket that was full may take more.
    fn poll_writable(&self, cx: &mut Context<'_>, local: LocalSocket, destination: SocketAddr) -> Poll<()>;

    /// Receives what is there.
    ///
    /// # Errors
    /// When a socket failed for good.
    fn poll_receive(&mut self, cx: &mut Context<'_>, each: &mut Receive<'_>) -> Poll<io::Result<()>>;

    /// The addresses of this machine's interfaces; `None` when the system does not say.
    fn interfaces(&self) -> Option<Vec<InterfaceAddr>>;
}

//! What BroadcastActor needs of the system. Each has its own behind this, and so has the simulation.

use std::io;
use std::net::Ipv4Addr;
use std::task::{Context, Poll};

use super::interfaces::{Interface, Wanted};
use super::local::Local;

/// The networks and sockets of this machine.
pub trait System: Send {
    /// `interfaces` and `local` take no time: they need no other thread.
    fn is_quick(&self) -> bool {
        false
    }

    /// # Errors
    /// When the system does not tell them.
    fn interfaces(&mut self) -> io::Result<Vec<Interface>>;

    /// Starts to capture what local programs shout on an interface.
    ///
    /// # Errors
    /// See [`CaptureError`].
    fn capture(&mut self, wanted: &Wanted) -> Result<Box<dyn Capture>, CaptureError>;

    /// Sockets and groups of the local programs.
    ///
    /// # Errors
    /// When the system does not tell them.
    fn local(&mut self) -> io::Result<Local>;

    /// Joins these groups on the interface `device`, whose address is `address`, and leaves those joined before that are
    /// not among them. Gives the ones that could not be joined.
    fn join(&mut self, device: &str, address: Ipv4Addr, groups: &[Ipv4Addr]) -> Vec<(Ipv4Addr, io::Error)>;
}

/// A capture that runs until it is dropped.
pub trait Capture {
    /// Hands the next packet, from its IP header on, to `sink`. `Pending` registers the waker of `cx`.
    ///
    /// # Errors
    /// When it cannot go on: the interface is gone.
    fn poll_packet(&mut self, cx: &mut Context<'_>, sink: &mut dyn FnMut(&[u8])) -> Poll<io::Result<()>>;

    /// Wakes nobody until it is polled again; what comes is kept as long as there is room.
    fn rest(&mut self) {}

    /// Packets that the system dropped because they were not taken fast enough, since this was last asked.
    fn take_dropped(&mut self) -> u64;
}

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// CAP_NET_RAW is missing.
    #[error("no permission to capture")]
    Permission,
    #[error("{step}: {source}")]
    System { step: &'static str, source: io::Error },
}

/// A machine without physical networks, whose sockets are not known: broadcasts are delivered as they were sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSystem;

impl System for NoSystem {
    fn is_quick(&self) -> bool {
        true
    }

    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        Ok(Vec::new())
    }

    fn capture(&mut self, _: &Wanted) -> Result<Box<dyn Capture>, CaptureError> {
        Err(CaptureError::System { step: "find the interface", source: io::ErrorKind::Unsupported.into() })
    }

    fn local(&mut self) -> io::Result<Local> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn join(&mut self, _: &str, _: Ipv4Addr, _: &[Ipv4Addr]) -> Vec<(Ipv4Addr, io::Error)> {
        Vec::new()
    }
}

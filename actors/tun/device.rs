//! What the actor needs of a virtual network device. Each system has its own behind these traits, and so has the
//! simulation.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use super::messages::Address;
use super::offload::Incoming;
use super::routes::LocalRoute;
use crate::wire::PacketBatch;

/// An open device. It lasts until it is dropped.
pub trait Device {
    /// The next packet that the local stack sends. `Pending` registers the waker of `cx`, also for the device's end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming<'_>, ReadError>>;

    /// Hands all packets of `batch` to the local stack, without waiting.
    fn write_batch(&mut self, batch: &PacketBatch) -> WriteReport;

    /// Makes this the longest packet, bytes, that the local stack sends. What it has queued already may be longer.
    ///
    /// # Errors
    /// When the system refuses, or there is no way to do that; the device goes on as it was.
    fn set_mtu(&mut self, _mtu: u16) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Opens devices of one system.
pub trait DeviceFactory: Send {
    /// # Errors
    /// See [`OpenError`].
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn Device>, OpenError>;

    /// Takes a device that another process made in another network namespace.
    ///
    /// # Errors
    /// When it is none, or this system has no such thing.
    fn adopt(&self, device: OwnedFd) -> Result<Box<dyn Device>, OpenError> {
        drop(device);
        Err(OpenError::System { step: "take it over", source: io::ErrorKind::Unsupported.into() })
    }

    /// The IPv4 routes of this machine, for the check whether the party's range is free.
    ///
    /// # Errors
    /// When the system does not give them.
    fn local_routes(&self) -> io::Result<Vec<LocalRoute>>;
}

#[derive(Debug, Clone, Copy)]
pub struct OpenRequest<'a> {
    pub name: &'a str,
    /// Of the IP packets, bytes.
    pub mtu: u16,
    pub address: Address,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// One frame is dropped; the device goes on.
    #[error("not a usable frame")]
    Malformed,
    /// The device was deleted or refuses to go on: it must be opened anew.
    #[error("the device is gone: {0}")]
    Gone(#[source] io::Error),
}

/// What became of a batch. The packets that are counted nowhere were refused by the device.
#[derive(Debug, Default)]
pub struct WriteReport {
    pub packets: u64,
    pub bytes: u64,
    /// Not IPv4, or shorter than they say.
    pub malformed: u64,
    /// The device was deleted or is down: it must be opened anew.
    pub gone: Option<io::Error>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// CAP_NET_ADMIN is missing.
    #[error("no permission to create a network device")]
    Capability,
    /// The device node may not be opened.
    #[error("no permission to open {0}")]
    NodeForbidden(&'static str),
    /// There is no device node, or no driver behind it.
    #[error("{0} does not exist")]
    NodeMissing(&'static str),
    #[error("the name is in use")]
    NameBusy,
    #[error("not usable as the name of a network device")]
    BadName,
    #[error("{step}: {source}")]
    System { step: &'static str, source: io::Error },
}

//! The virtual network: hosts with a place, links with latency, TCP-like connections between them.
//!
//! Modelled: one-way delay per pair of hosts, the handshake's round trip, hosts that are gone (silence, no reset), NAT as
//! seen from libp2p (nobody from outside gets in; the outside sees another address). Not modelled: loss, rate, hole
//! punching. Bytes are counted per host.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::RngCore as _;
use tokio::time::Instant;

use super::pipe::{self, Connection};

/// From one corner of the map to the next one, ms one way; the diagonal is 85.
const ACROSS: f64 = 60.0;
/// What a host's own access line adds, ms one way.
const ACCESS: (f64, f64) = (2.0, 15.0);
/// Connections that wait to be accepted.
const BACKLOG: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(usize);

/// What other hosts see of one.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) up: AtomicBool,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

#[derive(Debug)]
struct Host {
    local: Ipv4Addr,
    /// Differs from `local` behind a NAT.
    public: Ipv4Addr,
    place: (f64, f64),
    access: f64,
    line: Arc<Line>,
    next_port: u16,
}

/// A connection on its way to a listener.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) connection: Connection,
    pub(super) from: (Ipv4Addr, u16),
}

#[derive(Debug, Default)]
struct Listener {
    queue: VecDeque<Incoming>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Inner {
    hosts: Vec<Host>,
    by_public: BTreeMap<Ipv4Addr, HostId>,
    listeners: BTreeMap<(HostId, u16), Listener>,
    refused: u64,
}

/// Shared by all hosts. `Send` only because libp2p asks for it; everything runs on one thread.
#[derive(Debug, Clone, Default)]
pub struct Network(Arc<Mutex<Inner>>);

impl Network {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host somewhere on the map.
    pub fn host(&self, rng: &mut ChaCha12Rng, behind_nat: bool) -> HostId {
        let mut inner = self.inner();
        let index = u32::try_from(inner.hosts.len()).unwrap_or(u32::MAX);
        let id = HostId(inner.hosts.len());
        let public = Ipv4Addr::from(u32::from(Ipv4Addr::new(20, 0, 0, 1)) + index);
        let local = if behind_nat { Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 168, 0, 1)) + index) } else { public };
        let line = Line { up: AtomicBool::new(true), sent: AtomicU64::new(0), received: AtomicU64::new(0) };
        inner.hosts.push(Host {
            local,
            public,
            place: (unit(rng), unit(rng)),
            access: ACCESS.0 + unit(rng) * (ACCESS.1 - ACCESS.0),
            line: Arc::new(line),
            next_port: 49_152,
        });
        inner.by_public.insert(public, id);
        id
    }

    /// The address that the host itself knows.
    #[must_use]
    pub fn local(&self, host: HostId) -> Ipv4Addr {
        self.inner().hosts[host.0].local
    }

    /// The power goes out: nothing leaves or enters any more, and nobody is told.
    pub fn gone(&self, host: HostId) {
        self.inner().hosts[host.0].line.up.store(false, Ordering::Relaxed);
    }

    /// Bytes sent and received since the start.
    #[must_use]
    pub fn bytes(&self, host: HostId) -> (u64, u64) {
        let line = self.inner().hosts[host.0].line.clone();
        (line.sent.load(Ordering::Relaxed), line.received.load(Ordering::Relaxed))
    }

    /// Bytes sent by all hosts.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.inner().hosts.iter().map(|host| host.line.sent.load(Ordering::Relaxed)).sum()
    }

    /// Connections that a full backlog turned away.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.inner().refused
    }

    /// One way.
    #[must_use]
    pub fn delay(&self, a: HostId, b: HostId) -> Duration {
        let inner = self.inner();
        let (a, b) = (&inner.hosts[a.0], &inner.hosts[b.0]);
        let (dx, dy) = (a.place.0 - b.place.0, a.place.1 - b.place.1);
        let ms = a.access + b.access + ACROSS * dx.hypot(dy);
        // Whole milliseconds: tokio's timers know no finer ones.
        Duration::from_millis(whole(ms))
    }

    pub(super) fn listen(&self, host: HostId, port: u16) -> bool {
        let mut inner = self.inner();
        match inner.listeners.entry((host, port)) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Listener::default());
                true
            }
        }
    }

    pub(super) fn unlisten(&self, host: HostId, port: u16) {
        self.inner().listeners.remove(&(host, port));
    }

    pub(super) fn accept(&self, host: HostId, port: u16, waker: &Waker) -> Option<Incoming> {
        let mut inner = self.inner();
        let listener = inner.listeners.get_mut(&(host, port))?;
        let found = listener.queue.pop_front();
        if found.is_none() {
            listener.waker = Some(waker.clone());
        }
        found
    }

    /// Who answers under a public address: nobody when it is taken by no host, or by a NAT.
    pub(super) fn reach(&self, address: Ipv4Addr) -> Option<HostId> {
        let inner = self.inner();
        let id = *inner.by_public.get(&address)?;
        let host = &inner.hosts[id.0];
        (host.local == host.public && host.line.up.load(Ordering::Relaxed)).then_some(id)
    }

    pub(super) fn is_up(&self, host: HostId) -> bool {
        self.inner().hosts[host.0].line.up.load(Ordering::Relaxed)
    }

    /// The SYN has arrived: both ends of a new connection, or `None` when nobody listens there.
    pub(super) fn connect(&self, from: HostId, to: HostId, port: u16) -> Option<Connection> {
        let delay = self.delay(from, to);
        let mut inner = self.inner();
        let (near, far) = (inner.hosts[from.0].line.clone(), inner.hosts[to.0].line.clone());
        let source = {
            let host = &mut inner.hosts[from.0];
            host.next_port = host.next_port.checked_add(1).unwrap_or(49_152);
            (host.public, host.next_port)
        };
        let listener = inner.listeners.get_mut(&(to, port))?;
        if listener.queue.len() >= BACKLOG {
            inner.refused += 1;
            return None;
        }
        let (here, there) = pipe::pair(delay, near, far);
        listener.queue.push_back(Incoming { connection: there, from: source });
        if let Some(waker) = listener.waker.take() {
            waker.wake();
        }
        Some(here)
    }
}

/// 0 to 1.
fn unit(rng: &mut ChaCha12Rng) -> f64 {
    f64::from(rng.next_u32()) / f64::from(u32::MAX)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn whole(ms: f64) -> u64 {
    ms.round().max(1.0) as u64
}

pub(super) fn now() -> Instant {
    Instant::now()
}

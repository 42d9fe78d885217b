//! What MetricsActor accepts and answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use actix::Message;
use serde::Serialize;

use crate::peer::messages::PathKind;

/// Something has happened that a person who looks at the node later may want to know. With `try_send`; who cannot send
/// it counts that.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Happened(pub Event);

/// Texts are of the node's own making or cleaned by whoever shows them; no secret belongs in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    PeerConnected {
        peer: String,
        virtual_ip: Ipv4Addr,
        path: PathKind,
        endpoint: SocketAddr,
    },
    PathChanged {
        peer: String,
        virtual_ip: Ipv4Addr,
        path: PathKind,
        endpoint: SocketAddr,
        /// Why this path and not the one before.
        reason: String,
    },
    PeerDisconnected {
        peer: String,
        virtual_ip: Ipv4Addr,
        reason: String,
    },
    GameStarted {
        /// The id of its profile.
        game: String,
        name: String,
        pid: u32,
    },
    GameStopped {
        game: String,
        name: String,
        pid: u32,
    },
    TuningApplied {
        /// Such as `mtu`.
        what: String,
        value: String,
        /// The id of the game's profile.
        game: String,
        reason: String,
    },
    TuningUndone {
        what: String,
        /// What holds now.
        value: String,
        game: String,
    },
    ProfileProblem {
        file: String,
        line: Option<u32>,
        reason: String,
    },
}

/// An event with its number, which grows by one from 1 on while the program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recorded {
    pub seq: u64,
    /// Milliseconds since 1970 by this machine's wall clock, which may jump; `seq` does not.
    pub unix_ms: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// The oldest events with a higher number than `after`, at most `limit` of them.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "EventsView")]
pub struct GetEvents {
    pub after: u64,
    pub limit: usize,
}

/// The same, but when there is none yet the answer waits for one, `wait` at most. A number from before a restart is
/// answered at once.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "EventsView")]
pub struct AwaitEvents {
    pub after: u64,
    pub limit: usize,
    pub wait: Duration,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EventsView {
    pub events: Vec<Recorded>,
    /// To be given as `after` next time. Lower than the `after` that was given: the node has restarted, and this starts
    /// anew.
    pub next: u64,
    /// Events after `after` that newer ones have pushed out.
    pub lost: u64,
}

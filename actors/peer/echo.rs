//! Pings of the command line: ICMP echo through the tunnel to the other machine's own network stack and back, so that
//! what is measured is what a game gets.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::messages::PingError;
use crate::wire::icmp;

/// At most this many pings to one peer are under way.
const MAX_WAITING: usize = 32;
/// Payload bytes, as ping(8) sends by default.
const PAYLOAD: usize = 56;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PingId(u16);

#[derive(Debug)]
pub struct Echoes {
    /// ICMP identifier: tells our replies from those to a ping of the local system.
    ident: u16,
    next: u16,
    waiting: Vec<Waiting>,
    done: Vec<(PingId, Result<Duration, PingError>)>,
}

#[derive(Debug)]
struct Waiting {
    id: PingId,
    from: Ipv4Addr,
    sent: Instant,
    timeout: Duration,
}

impl Echoes {
    #[must_use]
    pub fn new(ident: u16) -> Self {
        Self { ident, next: 0, waiting: Vec::new(), done: Vec::new() }
    }

    /// The echo request to send, or `None` when too many are under way.
    pub fn start(
        &mut self,
        now: Instant,
        timeout: Duration,
        own: Ipv4Addr,
        peer: Ipv4Addr,
    ) -> Option<(PingId, Vec<u8>)> {
        if self.waiting.len() >= MAX_WAITING {
            return None;
        }
        let id = PingId(self.next);
        let mut request = vec![0; 28 + PAYLOAD];
        let len = icmp::icmp_echo_request(own, peer, self.ident, id.0, PAYLOAD, &mut request)?;
        request.truncate(len);
        self.next = self.next.wrapping_add(1);
        self.waiting.push(Waiting { id, from: peer, sent: now, timeout });
        Some((id, request))
    }

    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether `packet` answers one of ours, and so is not for the virtual device.
    pub fn on_packet(&mut self, now: Instant, packet: &[u8]) -> bool {
        let Some(reply) = icmp::parse_icmp_echo_reply(packet).filter(|reply| reply.ident == self.ident) else {
            return false;
        };
        let found = self.waiting.iter().position(|waiting| waiting.id.0 == reply.seq && waiting.from == reply.src);
        if let Some(found) = found {
            let waiting = self.waiting.swap_remove(found);
            self.done.push((waiting.id, Ok(now.saturating_duration_since(waiting.sent))));
        }
        found.is_some()
    }

    /// Moves the finished ones, answered or out of time, to `out`.
    pub fn drain(&mut self, now: Instant, out: &mut Vec<(PingId, Result<Duration, PingError>)>) {
        self.waiting.retain(|waiting| {
            let late = now.saturating_duration_since(waiting.sent) >= waiting.timeout;
            if late {
                out.push((waiting.id, Err(PingError::Timeout(waiting.timeout))));
            }
            !late
        });
        out.append(&mut self.done);
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.waiting.iter().map(|waiting| waiting.sent + waiting.timeout).min().map(|at| (at, "ping"))
    }
}

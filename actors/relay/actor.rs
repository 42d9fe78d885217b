#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::client::{Outputs, RelayClient};
use super::messages::{
    ASK, BindRelay, DoubtTickets, FORWARD, GetRelays, KnowRelay, MemberRelays, NetworkChanged, RelayCounters,
    RelayDatagrams, RelayView, SetServing, TICKET, Tickets,
};
use super::server::RelayServer;
use crate::nat::messages::Transmit;
use crate::wire::TransmitBatch;

/// Batches waiting in the mailbox; beyond that NatActor counts a drop.
const MAILBOX: usize = 256;
/// Tickets that did not get into a full mailbox are sent again after this.
const RETRY: Duration = Duration::from_millis(50);

/// End, as when the program is killed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Halt;

/// This machine's tickets of relays, and its service as one. Lives on the data arbiter.
pub struct RelayActor {
    identity_secret: [u8; 32],
    client: RelayClient,
    server: Option<RelayServer>,
    /// Of services that have ended, and of what came while there was none.
    past: RelayCounters,
    links: Option<BindRelay>,
    outputs: Outputs,
    forwarded: Vec<TransmitBatch>,
    /// Version of the client's tickets that was told.
    told: u64,
    timer: Option<(Instant, SpawnHandle)>,
    rng: StdRng,
    unix: fn() -> u64,
}

impl RelayActor {
    /// `identity_secret`: tokens are sealed under a key derived from it. `seed` must be random and new at each start.
    #[must_use]
    pub fn new(identity_secret: [u8; 32], seed: [u8; 32]) -> Self {
        Self::with_clock(identity_secret, seed, system_unix)
    }

    /// As [`Self::new`], with another clock for the unix time, seconds.
    #[must_use]
    pub fn with_clock(identity_secret: [u8; 32], seed: [u8; 32], unix: fn() -> u64) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            identity_secret,
            client: RelayClient::new(now(), rng.random()),
            server: None,
            past: RelayCounters::default(),
            links: None,
            outputs: Outputs::default(),
            forwarded: Vec::new(),
            told: 0,
            timer: None,
            rng,
            unix,
        }
    }

    fn received(&mut self, now: Instant, RelayDatagrams(batch): &RelayDatagrams) {
        let from = batch.from().addr;
        let is = |datagram: &[u8], kind| datagram.first() == Some(&kind);
        for ticket in batch.iter().filter(|it| is(it, TICKET)) {
            self.client.handle_ticket(now, from, ticket, &mut self.outputs);
        }
        let Some(server) = &mut self.server else {
            self.past.dropped_not_serving += batch.iter().filter(|it| !is(it, TICKET)).count() as u64;
            return;
        };
        let unix = (self.unix)();
        let mut answers = TransmitBatch::new(from);
        for ask in batch.iter().filter(|it| is(it, ASK)) {
            let Some(answer) = server.handle_ask(now, unix, from, ask) else { continue };
            if !push(&mut answers, &answer) {
                self.forwarded.push(std::mem::replace(&mut answers, TransmitBatch::new(from)));
                push(&mut answers, &answer);
            }
        }
        if !answers.is_empty() {
            self.forwarded.push(answers);
        }
        let forwards = batch.iter().filter(|it| is(it, FORWARD));
        server.handle_forward(now, unix, from, forwards, &mut self.forwarded);
    }

    fn flush(&mut self, ctx: &mut Context<Self>) {
        let transmit = self.links.as_ref().map(|links| &links.transmit);
        let send = |batch| transmit.is_some_and(|transmit| transmit.try_send(Transmit(batch)).is_ok());
        for batch in self.forwarded.drain(..) {
            let datagrams = batch.segments() as u64;
            if !send(batch)
                && let Some(server) = &mut self.server
            {
                server.count_busy(datagrams);
            }
        }
        for (to, ask) in self.outputs.asks.drain(..) {
            let mut batch = TransmitBatch::new(to);
            push(&mut batch, &ask);
            // An Ask that is lost here is as one that is lost on the way: it is sent again.
            let _ = send(batch);
        }
        let version = self.client.version();
        if self.told != version
            && let Some(links) = &self.links
        {
            let tickets =
                Tickets { tickets: self.client.tickets().to_vec(), observed: self.client.observed().to_vec() };
            if links.tickets.try_send(tickets).is_ok() {
                self.told = version;
            }
        }
        self.arm(ctx);
    }

    /// One timer, moved only when the machine wants to be called earlier than it would fire.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let retry = (self.links.is_some() && self.told != self.client.version()).then(|| now() + RETRY);
        let asking = self.client.poll_timeout().map(|(due, _reason)| due);
        let Some(due) = [retry, asking].into_iter().flatten().min() else { return };
        if let Some((armed, handle)) = self.timer {
            if armed <= due {
                return;
            }
            ctx.cancel_future(handle);
        }
        let delay = due.saturating_duration_since(now());
        let handle = ctx.run_later(delay, |actor, ctx| {
            actor.timer = None;
            actor.run_due_timer(now());
            actor.flush(ctx);
        });
        self.timer = Some((due, handle));
    }

    /// A mailbox that is never empty must not starve the timer.
    fn run_due_timer(&mut self, now: Instant) {
        if self.client.poll_timeout().is_some_and(|(due, _)| due <= now) {
            self.client.handle_timeout(now, &mut self.outputs);
        }
    }

    fn counters(&self) -> RelayCounters {
        let now = self.server.as_ref().map(RelayServer::counters).unwrap_or_default();
        now.plus(self.past)
    }
}

fn push(batch: &mut TransmitBatch, datagram: &[u8]) -> bool {
    batch.push_with(datagram.len(), datagram.len(), |slot| {
        slot.copy_from_slice(datagram);
        Some(datagram.len())
    })
}

/// tokio's clock, so that a paused one moves the actor as well.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn system_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Actor for RelayActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<RelayDatagrams> for RelayActor {
    type Result = ();

    fn handle(&mut self, datagrams: RelayDatagrams, ctx: &mut Self::Context) {
        let now = now();
        self.run_due_timer(now);
        self.received(now, &datagrams);
        self.flush(ctx);
    }
}

impl Handler<BindRelay> for RelayActor {
    type Result = ();

    fn handle(&mut self, links: BindRelay, ctx: &mut Self::Context) {
        self.links = Some(links);
        self.flush(ctx);
    }
}

impl Handler<KnowRelay> for RelayActor {
    type Result = ();

    fn handle(&mut self, KnowRelay { addr, stream, source }: KnowRelay, ctx: &mut Self::Context) {
        self.client.know(now(), addr, stream.unwrap_or(addr), source, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<MemberRelays> for RelayActor {
    type Result = ();

    fn handle(&mut self, MemberRelays { serving, legs }: MemberRelays, ctx: &mut Self::Context) {
        self.client.set_member_relays(now(), &serving, &legs, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<NetworkChanged> for RelayActor {
    type Result = ();

    fn handle(&mut self, _: NetworkChanged, ctx: &mut Self::Context) {
        self.client.restart(now(), &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<DoubtTickets> for RelayActor {
    type Result = ();

    fn handle(&mut self, _: DoubtTickets, ctx: &mut Self::Context) {
        self.client.doubt(now(), &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<SetServing> for RelayActor {
    type Result = ();

    fn handle(&mut self, SetServing(limits): SetServing, _: &mut Self::Context) {
        match (limits, &mut self.server) {
            (Some(limits), Some(server)) => server.set_limits(limits),
            (Some(limits), None) => {
                let seed = self.rng.random();
                self.server = Some(RelayServer::new(now(), &self.identity_secret, limits, seed));
            }
            (None, _) => {
                self.past = self.counters();
                self.server = None;
            }
        }
    }
}

impl Handler<Halt> for RelayActor {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<GetRelays> for RelayActor {
    type Result = MessageResult<GetRelays>;

    fn handle(&mut self, _: GetRelays, _: &mut Self::Context) -> Self::Result {
        MessageResult(RelayView {
            relays: self.client.view(),
            client: self.client.counters(),
            serving: self.server.as_ref().map(RelayServer::limits),
            service: self.counters(),
        })
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;

#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::time::{Duration, Instant};

use actix::prelude::*;
use futures::channel::oneshot;

use super::machine::{Outputs, PeerEvent, PeerMachine};
use super::messages::{Inbound, Outbound, PeerSpec, Ping, PingError, Punch, PunchSockets, SetRedundancy, SetTuning};
use super::supervisor::{Died, PeerState, ReportState, Stop, Update};
use crate::broadcast::messages::FromMember;
use crate::metrics::messages::{Event, Happened};
use crate::nat::messages::{Doubt, Networks, OwnContact, Transmit};
use crate::relay::messages::NetworkChanged;
use crate::tun::messages::Deliver;

/// Batches, not packets.
const MAILBOX: usize = 64;

/// Where a peer's packets go.
#[derive(Clone)]
pub(super) struct PeerLinks {
    pub(super) nat: Recipient<Transmit>,
    pub(super) tun: Recipient<Deliver>,
    /// Who takes the member's broadcasts; without it they are dropped.
    pub(super) broadcast: Option<Recipient<FromMember>>,
    pub(super) punch: Option<Recipient<Punch>>,
    pub(super) events: Option<Recipient<Happened>>,
    pub(super) doubt: Option<Recipient<Doubt>>,
    /// Upper 24 bits of the WireGuard receiver index.
    pub(super) index: u32,
}

/// Translates between the mailbox and one `PeerMachine`.
pub(super) struct PeerActor {
    machine: PeerMachine,
    links: PeerLinks,
    outputs: Outputs,
    waiting: Vec<(super::echo::PingId, oneshot::Sender<Result<Duration, PingError>>)>,
    timer: Option<(Instant, SpawnHandle)>,
    restarts: u32,
    _tell: TellDeath,
}

/// Tells the supervisor when the actor is gone, also when it unwinds from a panic.
struct TellDeath {
    supervisor: Recipient<Died>,
    died: Died,
}

impl Drop for TellDeath {
    fn drop(&mut self) {
        // The supervisor's mailbox holds one such message per peer; should it be full all the same, its sweep finds the
        // closed mailbox.
        let _ = self.supervisor.try_send(self.died);
    }
}

impl PeerActor {
    pub(super) fn new(
        machine: PeerMachine,
        links: PeerLinks,
        supervisor: Recipient<Died>,
        died: Died,
        restarts: u32,
    ) -> Self {
        Self {
            machine,
            links,
            outputs: Outputs::default(),
            waiting: Vec::new(),
            timer: None,
            restarts,
            _tell: TellDeath { supervisor, died },
        }
    }

    fn flush(&mut self, ctx: &mut Context<Self>) {
        for batch in self.outputs.transmits.drain(..) {
            if self.links.nat.try_send(Transmit(batch)).is_err() {
                self.machine.count_busy();
            }
        }
        if let Some(batch) = self.outputs.deliver.take_if(|batch| !batch.is_empty())
            && self.links.tun.try_send(Deliver(batch)).is_err()
        {
            self.machine.count_busy();
        }
        if let Some(batch) = self.outputs.broadcast.take_if(|batch| !batch.is_empty()) {
            let from = FromMember { ip: self.machine.spec().virtual_ip, batch };
            if self.links.broadcast.as_ref().is_none_or(|to| to.try_send(from).is_err()) {
                self.machine.count_busy();
            }
        }
        for (id, outcome) in self.outputs.pings.drain(..) {
            if let Some(found) = self.waiting.iter().position(|(waiting, _)| *waiting == id) {
                let _ = self.waiting.swap_remove(found).1.send(outcome);
            }
        }
        for request in self.outputs.punch.drain(..) {
            // A mailbox that is full makes this attempt fail: punching is tried again, and idle sockets end by
            // themselves.
            let message = Punch { index: self.links.index, request, answer: ctx.address().recipient() };
            if self.links.punch.as_ref().is_none_or(|nat| nat.try_send(message).is_err()) {
                tracing::debug!(?request, "no sockets to punch with");
            }
        }
        if std::mem::take(&mut self.outputs.doubt)
            && let Some(doubt) = &self.links.doubt
        {
            // With a full mailbox nothing is received either: it will be doubted again.
            let _ = doubt.try_send(Doubt);
        }
        for event in std::mem::take(&mut self.outputs.events) {
            self.tell(event);
        }
        self.arm(ctx);
    }

    fn tell(&mut self, event: PeerEvent) {
        let spec = self.machine.spec();
        let (peer, virtual_ip) = (spec.name.clone(), spec.virtual_ip);
        let event = match event {
            PeerEvent::Connected { path, endpoint } => {
                tracing::info!(%peer, ip = %virtual_ip, ?path, %endpoint, "connected");
                Event::PeerConnected { peer, virtual_ip, path, endpoint }
            }
            PeerEvent::PathChanged { path, endpoint, reason } => {
                tracing::info!(%peer, ?path, %endpoint, "moved to another path");
                let reason = reason.map(|reason| reason.to_string()).unwrap_or_default();
                Event::PathChanged { peer, virtual_ip, path, endpoint, reason }
            }
            PeerEvent::Disconnected { why } => {
                tracing::info!(%peer, %why, "connection lost; trying again");
                Event::PeerDisconnected { peer, virtual_ip, reason: why.to_string() }
            }
        };
        self.happened(event);
    }

    fn happened(&mut self, event: Event) {
        if self.links.events.as_ref().is_some_and(|events| events.try_send(Happened(event)).is_err()) {
            self.machine.count_lost_event();
        }
    }

    /// One timer, moved only when the machine wants to be called earlier than it would fire.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let (due, _reason) = self.machine.poll_timeout();
        if let Some((armed, handle)) = self.timer {
            if armed <= due {
                return;
            }
            ctx.cancel_future(handle);
        }
        let delay = due.saturating_duration_since(now());
        let handle = ctx.run_later(delay, |actor, ctx| {
            actor.timer = None;
            actor.on_timer(ctx);
        });
        self.timer = Some((due, handle));
    }

    fn on_timer(&mut self, ctx: &mut Context<Self>) {
        let now = now();
        if self.machine.poll_timeout().0 <= now {
            self.machine.handle_timeout(now, &mut self.outputs);
        }
        self.flush(ctx);
    }

    /// A mailbox that is never empty must not starve the timer.
    fn run_due_timer(&mut self, now: Instant) {
        if self.machine.poll_timeout().0 <= now {
            self.machine.handle_timeout(now, &mut self.outputs);
        }
    }
}

/// tokio's clock, so that a paused one moves the actor as well.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Actor for PeerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.machine.handle_timeout(now(), &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<Outbound> for PeerActor {
    type Result = ();

    fn handle(&mut self, Outbound(batch): Outbound, ctx: &mut Self::Context) {
        let now = now();
        self.run_due_timer(now);
        self.machine.handle_outbound(now, &batch, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<Inbound> for PeerActor {
    type Result = ();

    fn handle(&mut self, Inbound(batch): Inbound, ctx: &mut Self::Context) {
        let now = now();
        self.run_due_timer(now);
        self.machine.handle_inbound(now, &batch, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<Update> for PeerActor {
    type Result = ();

    fn handle(&mut self, update: Update, ctx: &mut Self::Context) {
        self.machine.set_range(update.range);
        self.machine.update(now(), update.own_ip, update.spec, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<Networks> for PeerActor {
    type Result = ();

    fn handle(&mut self, Networks(networks): Networks, ctx: &mut Self::Context) {
        self.machine.set_networks(now(), networks, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<NetworkChanged> for PeerActor {
    type Result = ();

    fn handle(&mut self, _: NetworkChanged, ctx: &mut Self::Context) {
        self.machine.network_changed(now(), &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<OwnContact> for PeerActor {
    type Result = ();

    fn handle(&mut self, OwnContact(contact): OwnContact, ctx: &mut Self::Context) {
        self.machine.set_contact(now(), contact, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<SetRedundancy> for PeerActor {
    type Result = ();

    fn handle(&mut self, set: SetRedundancy, _: &mut Self::Context) {
        self.machine.set_redundancy(set.redundancy);
    }
}

impl Handler<SetTuning> for PeerActor {
    type Result = ();

    fn handle(&mut self, SetTuning(tuning): SetTuning, ctx: &mut Self::Context) {
        self.machine.set_tuning(now(), &tuning, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<PunchSockets> for PeerActor {
    type Result = ();

    fn handle(&mut self, sockets: PunchSockets, ctx: &mut Self::Context) {
        self.machine.punch_sockets(now(), sockets, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<ReportState> for PeerActor {
    type Result = MessageResult<ReportState>;

    fn handle(&mut self, _: ReportState, _: &mut Self::Context) -> Self::Result {
        MessageResult(PeerState { view: self.machine.view(now(), self.restarts) })
    }
}

impl Handler<Stop> for PeerActor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        if self.machine.is_connected() {
            let PeerSpec { name, virtual_ip, .. } = self.machine.spec();
            let (peer, virtual_ip) = (name.clone(), *virtual_ip);
            let reason = "one of the two has left the party".to_owned();
            self.happened(Event::PeerDisconnected { peer, virtual_ip, reason });
        }
        ctx.stop();
    }
}

impl Handler<Ping> for PeerActor {
    type Result = ResponseFuture<Result<Duration, PingError>>;

    fn handle(&mut self, ping: Ping, ctx: &mut Self::Context) -> Self::Result {
        let started = self.machine.ping(now(), ping.timeout, &mut self.outputs);
        let (sender, receiver) = oneshot::channel();
        let outcome = started.map(|id| self.waiting.push((id, sender)));
        self.flush(ctx);
        Box::pin(async move {
            outcome?;
            receiver.await.unwrap_or(Err(PingError::NotConnected))
        })
    }
}

#[cfg(test)]
pub(super) mod fault {
    //! A message that makes the actor panic, to show what its supervisor does.

    #[derive(actix::Message)]
    #[rtype(result = "()")]
    pub(in super::super) struct Panic;

    impl actix::Handler<Panic> for super::PeerActor {
        type Result = ();

        fn handle(&mut self, _: Panic, _: &mut Self::Context) {
            panic!("on purpose, by a test");
        }
    }
}

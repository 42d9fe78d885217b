#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use boringtun::x25519;

use super::addrs::{self, InterfaceAddr};
use super::demux::{Class, Routes, runs};
use super::handshake::{Gatekeeper, MAX_COOKIE, Verdict};
use super::messages::{GetNat, NatCounters, NatView, Networks, OwnContact, Register, Transmit, Unregister};
use super::udp::{Sent, Sockets};
use crate::peer::messages::Inbound;
use crate::tun::messages::SetAddress;
use crate::wire::{Contact, DatagramBatch, Endpoint, Ipv4Range, TransmitBatch};

/// Batches waiting in the mailbox; beyond that the sender counts a drop.
const MAILBOX: usize = 256;
/// Batches kept while the socket is full.
const SEND_QUEUE: usize = 64;
/// Receive rounds before other actors get their turn.
const RECEIVE_ROUNDS: usize = 2;
/// How often the interfaces are looked at for changes.
const WATCH_INTERFACES: Duration = Duration::from_secs(2);

/// The data socket: sends what peers give it, hands them what comes in.
pub struct NatActor {
    sockets: Option<Sockets>,
    listen_port: u16,
    gatekeeper: Gatekeeper,
    routes: Routes<Recipient<Inbound>>,
    /// What the socket did not take yet, each with the bytes that are out already.
    queue: VecDeque<(TransmitBatch, usize)>,
    device: String,
    party: Option<Ipv4Range>,
    interfaces: Vec<InterfaceAddr>,
    /// Everybody knows `interfaces`.
    told: bool,
    contact: Recipient<OwnContact>,
    networks: Vec<Recipient<Networks>>,
    counters: NatCounters,
}

impl NatActor {
    /// `wg_secret` is this machine's X25519 secret, `device` the name of the virtual device, whose addresses are no
    /// candidates.
    #[must_use]
    pub fn new(
        sockets: Sockets,
        listen_port: u16,
        wg_secret: [u8; 32],
        device: String,
        contact: Recipient<OwnContact>,
        networks: Vec<Recipient<Networks>>,
    ) -> Self {
        Self {
            sockets: Some(sockets),
            listen_port,
            gatekeeper: Gatekeeper::new(x25519::StaticSecret::from(wg_secret)),
            routes: Routes::default(),
            queue: VecDeque::new(),
            device,
            party: None,
            interfaces: Vec::new(),
            told: false,
            contact,
            networks,
            counters: NatCounters::default(),
        }
    }

    fn send(&mut self, batch: TransmitBatch) {
        if self.queue.is_empty() {
            if let Sent::Blocked { sent_bytes } = self.send_now(&batch, 0) {
                self.queue.push_back((batch, sent_bytes));
            }
        } else if self.queue.len() < SEND_QUEUE {
            self.queue.push_back((batch, 0));
        } else {
            self.counters.dropped_send_failed += batch.segments() as u64;
        }
    }

    /// Sends what waited; returns with the queue empty, or woken up once the socket takes more.
    fn flush(&mut self, cx: &mut TaskContext<'_>) {
        while let Some((batch, out)) = self.queue.pop_front() {
            let ready =
                self.sockets.as_ref().is_some_and(|sockets| sockets.poll_writable(cx, batch.destination()).is_ready());
            if !ready {
                self.queue.push_front((batch, out));
                return;
            }
            // A socket that is full after all has cleared its readiness: the next round registers for the wake-up.
            if let Sent::Blocked { sent_bytes } = self.send_now(&batch, out) {
                self.queue.push_front((batch, out + sent_bytes));
            }
        }
    }

    /// Sends what follows the first `out` bytes, which end with a segment.
    fn send_now(&mut self, batch: &TransmitBatch, out: usize) -> Sent {
        let Some(sockets) = &self.sockets else { return Sent::Failed };
        let rest = batch.contents().get(out..).unwrap_or_default();
        let segments = rest.len().div_ceil(batch.segment_size().max(1)) as u64;
        let sent = sockets.send(batch.destination(), rest, batch.segment_size());
        match sent {
            Sent::Done => self.counters.sent += segments,
            Sent::Failed => self.counters.dropped_send_failed += segments,
            Sent::Blocked { sent_bytes } => self.counters.sent += (sent_bytes / batch.segment_size().max(1)) as u64,
        }
        sent
    }

    fn received(&mut self, from: SocketAddr, data: &[u8], stride: usize) {
        for (class, run) in runs(data, stride) {
            let datagrams = run.len().div_ceil(stride.max(1)) as u64;
            self.counters.received += datagrams;
            let target = match class {
                Class::HandshakeInit => {
                    let mut reply = [0; MAX_COOKIE];
                    match self.gatekeeper.judge(from.ip(), run, &mut reply) {
                        Verdict::From(key) => self.routes.find_key(key),
                        Verdict::Cookie(len) => {
                            self.counters.dropped_rate_limited += 1;
                            self.reply(from, &reply[..len]);
                            continue;
                        }
                        Verdict::Foreign => None,
                    }
                }
                Class::Unknown => {
                    self.counters.dropped_unknown += datagrams;
                    continue;
                }
                Class::Session { .. } | Class::Probe { .. } => self.routes.find(class),
            };
            match target {
                None => self.counters.dropped_foreign += datagrams,
                Some(peer) => {
                    if peer.try_send(Inbound(DatagramBatch::copied(run, Endpoint::direct(from), stride))).is_err() {
                        self.counters.dropped_peer_busy += datagrams;
                    }
                }
            }
        }
    }

    fn reply(&mut self, to: SocketAddr, message: &[u8]) {
        let mut batch = TransmitBatch::new(to);
        batch.push_with(message.len(), message.len(), |slot| {
            slot.copy_from_slice(message);
            Some(message.len())
        });
        // Goes out with the flush that follows every receive.
        if self.queue.len() < SEND_QUEUE {
            self.queue.push_back((batch, 0));
        }
    }

    fn watch_interfaces(&mut self) {
        // A question that the system did not answer is no news.
        let Some(found) = addrs::system_addrs() else { return };
        if found != self.interfaces || !self.told {
            self.interfaces = found;
            self.announce();
        }
    }

    fn announce(&mut self) {
        let networks = addrs::local_networks(&self.interfaces, &self.device, self.party);
        let contact = self.own_contact();
        tracing::debug!(?contact, "addresses of the data socket");
        // A mailbox that was full is tried again with the next look, in two seconds.
        self.told = self.contact.try_send(OwnContact(contact)).is_ok();
        for listener in &self.networks {
            self.told &= listener.try_send(Networks(networks.clone())).is_ok();
        }
    }

    fn own_contact(&self) -> Contact {
        Contact::of_hosts(addrs::candidates(&self.interfaces, self.listen_port, &self.device, self.party)).bounded()
    }
}

impl Actor for NatActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.watch_interfaces();
        ctx.run_interval(WATCH_INTERFACES, |actor, _| actor.watch_interfaces());
        ctx.run_interval(Duration::from_secs(1), |actor, _| actor.gatekeeper.reset());
        ctx.spawn(SocketLoop);
    }
}

/// Moves datagrams between the sockets and the actor without a message in between.
struct SocketLoop;

impl ActorFuture<NatActor> for SocketLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut NatActor,
        _: &mut Context<NatActor>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let Some(mut sockets) = actor.sockets.take() else { return Poll::Ready(()) };
        for round in 0..RECEIVE_ROUNDS {
            match sockets.poll_receive(cx, &mut |from, data, stride| actor.received(from, data, stride)) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if round + 1 == RECEIVE_ROUNDS => cx.waker().wake_by_ref(),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "the data socket could not be read; trying again");
                    let waker = cx.waker().clone();
                    actix::spawn(async move {
                        actix::clock::sleep(Duration::from_millis(100)).await;
                        waker.wake();
                    });
                    break;
                }
            }
        }
        actor.sockets = Some(sockets);
        actor.flush(cx);
        Poll::Pending
    }
}

impl Handler<Transmit> for NatActor {
    type Result = ();

    fn handle(&mut self, Transmit(batch): Transmit, _: &mut Self::Context) {
        self.send(batch);
    }
}

impl Handler<Register> for NatActor {
    type Result = ();

    fn handle(&mut self, Register { route, inbound }: Register, _: &mut Self::Context) {
        self.routes.insert(&route, &inbound);
    }
}

impl Handler<Unregister> for NatActor {
    type Result = ();

    fn handle(&mut self, Unregister { route }: Unregister, _: &mut Self::Context) {
        self.routes.remove(&route);
    }
}

/// Addresses inside the party's range lead into the tunnel itself and are no candidates.
impl Handler<SetAddress> for NatActor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, _: &mut Self::Context) {
        let range = address.map(|address| address.range);
        if range != self.party {
            self.party = range;
            self.announce();
        }
    }
}

impl Handler<GetNat> for NatActor {
    type Result = MessageResult<GetNat>;

    fn handle(&mut self, _: GetNat, _: &mut Self::Context) -> Self::Result {
        MessageResult(NatView { listen_port: self.listen_port, contact: self.own_contact(), counters: self.counters })
    }
}

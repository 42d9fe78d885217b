#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::fut::ActorFuture;
use actix::prelude::*;

use super::fallback::{Fallback, Reachable, Wish};
use super::machine::{NatMachine, NatOutputs, NatSettings};
use super::messages::{Doubt, GetNat, NatView, Networks, OwnContact, Register, ReleasePorts, Transmit, Unregister};
use super::portmap::{PortMapSettings, PortMapper};
use super::queue::SendQueue;
use super::sleep::SleepWatch;
use super::sockets::{DataSockets, Sent};
use super::stun;
use crate::discovery::messages::{
    CloseDataStream, DataStreamClosed, DataStreamOpened, FindRelays, OpenDataStream, RelayFound, SendOnStream,
    SetServing as ServePort, StreamDatagrams,
};
use crate::peer::messages::{Inbound, Punch, PunchRequest, PunchSockets};
use crate::relay::messages::{
    DoubtTickets, KnowRelay, Limits, NetworkChanged, RelayDatagrams, RelaySource, SetServing, Tickets,
};
use crate::tun::messages::SetAddress;
use crate::wire::{LocalSocket, TransmitBatch, stream_id};

/// Batches waiting in the mailbox; beyond that the sender counts a drop.
const MAILBOX: usize = 256;
/// Receive rounds before other actors get their turn.
const RECEIVE_ROUNDS: usize = 2;
/// How often the interfaces are looked at for changes: a player who goes from cable to radio waits for it.
const WATCH_INTERFACES: Duration = Duration::from_millis(500);
/// How often a machine without a relay asks for one; discovery looks in the DHT every ten minutes at most.
const SEEK_RELAYS: Duration = Duration::from_secs(3);
/// How often the names of STUN servers are looked up.
const RESOLVE_EVERY: Duration = Duration::from_secs(600);
const RESOLVE_AGAIN: Duration = Duration::from_secs(5);
/// After the data socket and the one that `NatSettings::alternate` names.
const FIRST_EXTRA: u16 = 2;
/// How long the router may take to forget a forwarded port.
const RELEASE_WITHIN: Duration = Duration::from_millis(500);
/// Sockets for punching that may be open at a time: for two members.
const MAX_EXTRA_SOCKETS: usize = 512;

/// Whom the data socket talks to.
#[derive(Clone)]
pub struct NatLinks {
    pub contact: Vec<Recipient<OwnContact>>,
    pub networks: Vec<Recipient<Networks>>,
    /// Who has something to do when what worked may work no more.
    pub changed: Vec<Recipient<NetworkChanged>>,
    pub relay: RelayLinks,
    pub streams: StreamLinks,
}

/// The RelayActor.
#[derive(Clone)]
pub struct RelayLinks {
    pub datagrams: Recipient<RelayDatagrams>,
    pub know: Recipient<KnowRelay>,
    pub serve: Recipient<SetServing>,
    pub network_changed: Recipient<NetworkChanged>,
    pub doubt: Recipient<DoubtTickets>,
    /// What this node gives when it relays.
    pub limits: Limits,
}

/// The DiscoveryActor's streams.
#[derive(Clone)]
pub struct StreamLinks {
    pub open: Recipient<OpenDataStream>,
    pub close: Recipient<CloseDataStream>,
    pub send: Recipient<SendOnStream>,
    pub serve: Recipient<ServePort>,
    pub find_relays: Recipient<FindRelays>,
}

/// Handed over once all actors exist.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BindNat(pub NatLinks);

/// End, as when the program is killed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Halt;

/// The data socket: sends what peers give it, hands them what comes in.
pub struct NatActor {
    sockets: Option<Box<dyn DataSockets>>,
    machine: NatMachine<Recipient<Inbound>>,
    outputs: NatOutputs<Recipient<Inbound>>,
    listen_port: u16,
    /// `HOST:PORT` of STUN servers, as configured.
    servers: Vec<String>,
    /// What the socket did not take yet.
    queue: SendQueue,
    links: Option<NatLinks>,
    /// Everybody knows the machine's contact and networks.
    told: bool,
    /// Sockets for punching, and the route that each is for.
    extra: BTreeMap<LocalSocket, u32>,
    next_extra: u16,
    timer: Option<(Instant, SpawnHandle)>,
    fallback: Fallback,
    /// Whether there is an IPv4 address, and an IPv6 one, that lead out.
    families: (bool, bool),
    mapper: Option<PortMapper>,
    clock: SleepWatch,
    /// What a router that speaks PCP knows this machine by; `None`: the router is not asked.
    mapping_nonce: Option<[u32; 3]>,
}

impl NatActor {
    /// `wg_secret` is this machine's X25519 secret, `servers` STUN servers as `HOST:PORT`, `seed` unpredictable;
    /// `mapping_nonce` secret and always the same, or `None`: the router is not asked to forward the port.
    #[must_use]
    pub fn new(
        sockets: impl DataSockets + 'static,
        settings: NatSettings,
        servers: Vec<String>,
        wg_secret: [u8; 32],
        seed: [u8; 32],
        mapping_nonce: Option<[u32; 3]>,
    ) -> Self {
        Self {
            sockets: Some(Box::new(sockets)),
            listen_port: settings.listen_port,
            machine: NatMachine::new(now(), settings, wg_secret, seed),
            outputs: NatOutputs::default(),
            servers,
            queue: SendQueue::default(),
            links: None,
            told: false,
            extra: BTreeMap::new(),
            next_extra: FIRST_EXTRA,
            timer: None,
            fallback: Fallback::default(),
            families: (true, true),
            mapper: None,
            clock: SleepWatch::default(),
            mapping_nonce,
        }
    }

    /// What peers and relays send: over the socket, or a stream where one leads there.
    fn route(&mut self, mut batch: TransmitBatch) {
        let to = batch.destination();
        let reachable = if to.is_ipv4() { self.families.0 } else { self.families.1 };
        if !reachable && let Some(alias) = self.fallback.alias_of(to) {
            batch.redirect(alias);
        }
        if !self.fallback.is_idle()
            && let Some(stream) = self.fallback.stream_to(batch.destination())
        {
            let datagrams = batch.segments() as u64;
            let send = self.links.as_ref().map(|links| &links.streams.send);
            if send.is_none_or(|send| send.try_send(SendOnStream { stream, datagrams: batch }).is_err()) {
                self.machine.counters_mut().dropped_send_failed += datagrams;
            }
            return;
        }
        self.send(batch);
    }

    fn send(&mut self, batch: TransmitBatch) {
        // Behind what waits, if only for the order of its own flow.
        let out = if self.queue.is_empty() {
            let Sent::Blocked { sent_bytes } = self.send_now(&batch, 0) else { return };
            sent_bytes
        } else {
            0
        };
        self.enqueue(batch, out);
    }

    fn enqueue(&mut self, batch: TransmitBatch, out: usize) {
        let dropped = self.queue.push(batch, out);
        self.machine.counters_mut().dropped_queue_full += dropped;
    }

    /// Sends what waited; returns with the queue empty, or woken up once the socket takes more.
    fn flush_queue(&mut self, cx: &mut TaskContext<'_>) {
        while let Some(next) = self.queue.pop() {
            let batch = &next.batch;
            let ready = self
                .sockets
                .as_ref()
                .is_some_and(|sockets| sockets.poll_writable(cx, batch.local(), batch.destination()).is_ready());
            if !ready {
                self.queue.put_back(next, 0);
                return;
            }
            // A socket that is full after all has cleared its readiness: the next round registers for the wake-up.
            if let Sent::Blocked { sent_bytes } = self.send_now(batch, next.out) {
                self.queue.put_back(next, sent_bytes);
            }
        }
    }

    /// Sends what follows the first `out` bytes, which end with a segment.
    fn send_now(&mut self, batch: &TransmitBatch, out: usize) -> Sent {
        let Some(sockets) = &self.sockets else { return Sent::Failed };
        let rest = batch.contents().get(out..).unwrap_or_default();
        let segments = rest.len().div_ceil(batch.segment_size().max(1)) as u64;
        let (to, size) = (batch.destination(), batch.segment_size());
        let sent = match batch.class().dscp {
            0 => sockets.send(batch.local(), to, rest, size),
            dscp => sockets.send_marked(batch.local(), to, rest, size, dscp),
        };
        let counters = self.machine.counters_mut();
        match sent {
            Sent::Done => counters.sent += segments,
            Sent::Failed => counters.dropped_send_failed += segments,
            Sent::Blocked { sent_bytes } => counters.sent += (sent_bytes / batch.segment_size().max(1)) as u64,
        }
        sent
    }

    /// Does what the machine wants done. What it wants sent while the sockets are being read goes out right after.
    fn act(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs);
        for (peer, batch) in outputs.inbound.drain(..) {
            let datagrams = batch.iter().count() as u64;
            if peer.try_send(Inbound(batch)).is_err() {
                self.machine.counters_mut().dropped_peer_busy += datagrams;
            }
        }
        for batch in outputs.relay.drain(..) {
            let datagrams = batch.iter().count() as u64;
            let sent =
                self.links.as_ref().is_some_and(|links| links.relay.datagrams.try_send(RelayDatagrams(batch)).is_ok());
            if !sent {
                self.machine.counters_mut().dropped_relay += datagrams;
            }
        }
        for batch in outputs.transmits.drain(..) {
            // STUN asks about UDP and must not take a detour; only what answers a stream goes back on it.
            if stream_id(batch.destination()).is_some() {
                self.route(batch);
            } else if self.sockets.is_some() {
                self.send(batch);
            } else {
                self.enqueue(batch, 0);
            }
        }
        if std::mem::take(&mut outputs.contact_changed) | std::mem::take(&mut outputs.networks_changed) {
            self.announce();
        }
        self.outputs = outputs;
    }

    fn settle(&mut self, ctx: &mut Context<Self>) {
        self.act();
        let (at, _) = self.machine.poll_timeout();
        match self.timer {
            Some((armed, _)) if armed <= at => {}
            _ => {
                if let Some((_, handle)) = self.timer.take() {
                    ctx.cancel_future(handle);
                }
                let wait = at.saturating_duration_since(now());
                let handle = ctx.run_later(wait, |actor, ctx| {
                    actor.timer = None;
                    actor.machine.handle_timeout(now(), &mut actor.outputs);
                    actor.settle(ctx);
                });
                self.timer = Some((at, handle));
            }
        }
    }

    fn watch_interfaces(&mut self, ctx: &mut Context<Self>) {
        // A question that the system did not answer is no news.
        let Some(found) = self.sockets.as_ref().and_then(|sockets| sockets.interfaces()) else { return };
        let slept = self.clock.look(now(), unix_ms());
        if let Some(slept) = slept {
            tracing::info!(?slept, "this machine was asleep; everything is looked at anew");
            self.machine.restart(now(), &mut self.outputs);
        }
        if self.machine.set_interfaces(now(), found, &mut self.outputs) || slept.is_some() {
            self.tell_relays();
            self.tell_changed();
            if let Some(mapper) = &self.mapper {
                mapper.restart();
            }
        }
        if !self.told {
            self.announce();
        }
        self.settle(ctx);
    }

    fn announce(&mut self) {
        self.families = self.machine.families();
        let Some(links) = &self.links else { return };
        let contact = self.machine.contact();
        tracing::debug!(?contact, "how this machine can be reached");
        // A mailbox that was full is tried again with the next look at the interfaces.
        self.told = true;
        for listener in &links.contact {
            self.told &= listener.try_send(OwnContact(contact.clone())).is_ok();
        }
        for listener in &links.networks {
            self.told &= listener.try_send(Networks(self.machine.networks().clone())).is_ok();
        }
        let serves = contact.serves.is_some();
        self.told &= links.relay.serve.try_send(SetServing(serves.then_some(links.relay.limits))).is_ok();
        self.told &= links.streams.serve.try_send(ServePort(contact.serves.map(|it| it.port()))).is_ok();
        let wishes = self.fallback.set_blocked(contact.nat.udp_blocked);
        self.wish(wishes);
    }

    fn wish(&self, wishes: Vec<Wish>) {
        let Some(StreamLinks { open, close, .. }) = self.links.as_ref().map(|links| &links.streams) else { return };
        for wish in wishes {
            // Few and rare: the mailbox of discovery has room for them, or nothing goes any more.
            let sent = match wish {
                Wish::Open(Reachable { node, addr, tcp_addrs }) => {
                    open.try_send(OpenDataStream { node, addrs: tcp_addrs, relay: Some(addr) }).is_ok()
                }
                Wish::Close(node) => close.try_send(CloseDataStream(node)).is_ok(),
            };
            if !sent {
                tracing::warn!("discovery did not take a wish for a stream");
            }
        }
    }

    /// Without a relay of its own or of its friends a machine looks for those that serve everybody. So it does when nothing
    /// answers over UDP: it may be that the only relay it knows does not.
    fn seek_relays(&self) {
        let contact = self.machine.contact();
        if let Some(links) = &self.links
            && (contact.tickets.is_empty() || contact.nat.udp_blocked)
            && contact.serves.is_none()
        {
            let _ = links.streams.find_relays.try_send(FindRelays);
        }
    }

    fn tell_relays(&self) {
        if let Some(links) = &self.links {
            let _ = links.relay.network_changed.try_send(NetworkChanged);
        }
    }

    /// A mailbox that is full belongs to somebody who notices by himself a moment later.
    fn tell_changed(&self) {
        for listener in self.links.iter().flat_map(|links| &links.changed) {
            let _ = listener.try_send(NetworkChanged);
        }
    }

    /// Looks up the STUN servers' names.
    fn resolve(&mut self, ctx: &mut Context<Self>) {
        if self.servers.is_empty() {
            return;
        }
        let servers = self.servers.clone();
        let lookup = async move {
            let all = servers.iter().map(|server| tokio::net::lookup_host(server.as_str()));
            let mut found = Vec::new();
            for (server, addrs) in servers.iter().zip(futures::future::join_all(all).await) {
                match addrs {
                    Ok(addrs) => {
                        let addrs: Vec<SocketAddr> = addrs.collect();
                        // One of each family: a name with ten addresses is one server.
                        found.extend(addrs.iter().find(|it| it.is_ipv4()));
                        found.extend(addrs.iter().find(|it| it.is_ipv6()));
                    }
                    Err(error) => tracing::debug!(%server, %error, "the STUN server's name was not found"),
                }
            }
            found
        };
        ctx.spawn(lookup.into_actor(self).map(|found, actor, ctx| {
            let again = if found.is_empty() { RESOLVE_AGAIN } else { RESOLVE_EVERY };
            if !found.is_empty() {
                actor.machine.set_servers(now(), found, &mut actor.outputs);
                actor.settle(ctx);
            }
            ctx.run_later(again, Self::resolve);
        }));
    }

    /// Has the router forward the data port, and hears of it.
    fn map_port(&mut self, ctx: &mut Context<Self>) {
        let Some(nonce) = self.mapping_nonce else { return };
        let mapper = PortMapper::start(PortMapSettings::default(), nonce);
        mapper.map(self.listen_port);
        let views = futures::stream::unfold(mapper.watch(), |mut views| async move {
            views.changed().await.ok()?;
            let view = views.borrow_and_update().clone();
            Some((view, views))
        });
        let heard = views.into_actor(self).map(|view, actor, ctx| {
            actor.machine.set_port_mapping(now(), view, &mut actor.outputs);
            actor.settle(ctx);
        });
        ctx.spawn(heard.finish());
        self.mapper = Some(mapper);
    }

    /// As many of `count` as there is room for.
    fn open_sockets(&mut self, index: u32, count: usize) -> PunchSockets {
        let count = count.min(MAX_EXTRA_SOCKETS.saturating_sub(self.extra.len()));
        // Names are not used again soon: a datagram to one that is closed must not leave from another.
        if self.next_extra.checked_add(u16::try_from(count).unwrap_or(u16::MAX)).is_none() {
            self.next_extra = FIRST_EXTRA;
        }
        let first = LocalSocket(self.next_extra);
        let mut opened = 0;
        if let Some(sockets) = &mut self.sockets {
            for _ in 0..count {
                let local = LocalSocket(self.next_extra);
                if self.extra.contains_key(&local) {
                    break;
                }
                if let Err(error) = sockets.open(local, 0) {
                    tracing::debug!(%error, opened, "no more sockets to punch with");
                    break;
                }
                self.extra.insert(local, index);
                self.next_extra += 1;
                opened += 1;
            }
        }
        PunchSockets { first, count: opened }
    }

    fn close_sockets(&mut self, index: u32, keep: Option<LocalSocket>) {
        let Self { extra, sockets, .. } = self;
        extra.retain(|&local, &mut owner| {
            let stays = owner != index || Some(local) == keep;
            if !stays && let Some(sockets) = sockets {
                sockets.close(local);
            }
            stays
        });
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Actor for NatActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.watch_interfaces(ctx);
        self.resolve(ctx);
        self.map_port(ctx);
        ctx.run_interval(WATCH_INTERFACES, Self::watch_interfaces);
        ctx.run_interval(SEEK_RELAYS, |actor, _| actor.seek_relays());
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
        ctx: &mut Context<NatActor>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let Some(mut sockets) = actor.sockets.take() else { return Poll::Ready(()) };
        for round in 0..RECEIVE_ROUNDS {
            let received = sockets.poll_receive(cx, &mut |local, from, data, stride| {
                actor.machine.handle_datagrams(now(), local, from, data, stride, &mut actor.outputs);
                actor.act();
            });
            match received {
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
        actor.settle(ctx);
        actor.flush_queue(cx);
        Poll::Pending
    }
}

impl Handler<BindNat> for NatActor {
    type Result = ();

    fn handle(&mut self, BindNat(links): BindNat, ctx: &mut Self::Context) {
        self.links = Some(links);
        self.announce();
        self.settle(ctx);
    }
}

impl Handler<Transmit> for NatActor {
    type Result = ();

    fn handle(&mut self, Transmit(batch): Transmit, _: &mut Self::Context) {
        self.route(batch);
    }
}

impl Handler<Register> for NatActor {
    type Result = ();

    fn handle(&mut self, Register { route, inbound }: Register, _: &mut Self::Context) {
        self.machine.register(&route, &inbound);
    }
}

impl Handler<Unregister> for NatActor {
    type Result = ();

    fn handle(&mut self, Unregister { route }: Unregister, _: &mut Self::Context) {
        self.machine.unregister(&route);
        self.close_sockets(route.index, None);
    }
}

impl Handler<Punch> for NatActor {
    type Result = ();

    fn handle(&mut self, Punch { index, request, answer }: Punch, _: &mut Self::Context) {
        match request {
            PunchRequest::Open { count } => {
                self.close_sockets(index, None);
                let sockets = self.open_sockets(index, usize::from(count));
                if answer.try_send(sockets).is_err() {
                    self.close_sockets(index, None);
                }
            }
            PunchRequest::Close { keep } => self.close_sockets(index, keep),
        }
    }
}

impl Handler<Tickets> for NatActor {
    type Result = ();

    fn handle(&mut self, news: Tickets, ctx: &mut Self::Context) {
        if self.machine.set_relays(now(), news, &mut self.outputs) {
            tracing::info!("a relay sees this machine at another address; all paths are looked at");
            self.tell_changed();
        }
        self.settle(ctx);
    }
}

impl Handler<Doubt> for NatActor {
    type Result = ();

    fn handle(&mut self, _: Doubt, ctx: &mut Self::Context) {
        if let Some(links) = &self.links {
            // One that is full has asked a moment ago, or is asked by the next doubt.
            let _ = links.relay.doubt.try_send(DoubtTickets);
        }
        self.machine.doubt(now(), &mut self.outputs);
        self.settle(ctx);
    }
}

impl Handler<ReleasePorts> for NatActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: ReleasePorts, _: &mut Self::Context) -> Self::Result {
        let mapper = self.mapper.take();
        Box::pin(async move {
            if let Some(mapper) = mapper {
                mapper.release(RELEASE_WITHIN).await;
            }
        })
    }
}

impl Handler<RelayFound> for NatActor {
    type Result = ();

    fn handle(&mut self, RelayFound { node, addr, tcp_addrs, aliases }: RelayFound, ctx: &mut Self::Context) {
        if let Some(links) = &self.links {
            let know = KnowRelay { addr, stream: None, source: RelaySource::Identify };
            if links.relay.know.try_send(know).is_err() {
                self.machine.counters_mut().dropped_relay += 1;
            }
        }
        self.fallback.also_at(addr, &aliases);
        let wishes = self.fallback.relay_found(Reachable { node, addr, tcp_addrs });
        self.wish(wishes);
        self.machine.relay_found(now(), addr, &mut self.outputs);
        self.settle(ctx);
    }
}

impl Handler<DataStreamOpened> for NatActor {
    type Result = ();

    fn handle(&mut self, opened: DataStreamOpened, _: &mut Self::Context) {
        tracing::debug!(?opened, "a stream carries datagrams");
        self.fallback.opened(opened.stream, opened.relay.filter(|_| !opened.inbound));
        // What could not be asked over UDP can be now.
        self.tell_relays();
    }
}

impl Handler<DataStreamClosed> for NatActor {
    type Result = ();

    fn handle(&mut self, DataStreamClosed { stream }: DataStreamClosed, _: &mut Self::Context) {
        self.fallback.closed(stream);
    }
}

impl Handler<StreamDatagrams> for NatActor {
    type Result = ();

    fn handle(&mut self, StreamDatagrams { stream, batch }: StreamDatagrams, ctx: &mut Self::Context) {
        let Some(from) = self.fallback.source(stream) else {
            self.machine.counters_mut().dropped_foreign += batch.len() as u64;
            return;
        };
        // A STUN answer over TCP would say that UDP works.
        for datagram in batch.iter().filter(|datagram| !stun::is_stun(datagram)) {
            let out = &mut self.outputs;
            self.machine.handle_datagrams(now(), LocalSocket::MAIN, from, datagram, datagram.len(), out);
        }
        self.settle(ctx);
    }
}

impl Handler<SetAddress> for NatActor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, ctx: &mut Self::Context) {
        self.machine.set_party(now(), address.map(|address| address.range), &mut self.outputs);
        self.settle(ctx);
    }
}

impl Handler<Halt> for NatActor {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<GetNat> for NatActor {
    type Result = MessageResult<GetNat>;

    fn handle(&mut self, _: GetNat, _: &mut Self::Context) -> Self::Result {
        MessageResult(NatView {
            listen_port: self.listen_port,
            contact: self.machine.contact().clone(),
            report: self.machine.report(),
            counters: self.machine.counters(),
        })
    }
}

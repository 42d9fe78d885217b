//! TunActor: the device's shell. It shares the arbiter of the data path with the peers.
#![allow(missing_debug_implementations)]

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use actix::dev::SendError;
use actix::{Actor, ActorFuture, AsyncContext, Context, Handler, MessageResult, Recipient, SpawnHandle};

use super::classify::Classifier;
use super::device::{Device, DeviceFactory, OpenRequest, ReadError};
use super::lifecycle::{Lifecycle, RetryAfter, Step, Why};
use super::messages::{
    AddRoute, Address, BindTun, Deliver, GetTun, RemoveRoute, SetAddress, SetClasses, SetMtu, TunCounters, TunView,
};
use super::offload::Incoming;
use super::play::{Side, Sides};
use super::routes::{LocalRoute, covering_message, overlaps};
use super::segment::Segments;
use super::table::{Lane, RouteTable};
use crate::broadcast::messages::FromDevice;
use crate::peer::messages::Outbound;
use crate::wire::ip::is_broadcast_or_multicast;
use crate::wire::{MAX_BATCH_BYTES, PacketBatch, Urgency};

/// The interface name unless another is configured.
pub const DEFAULT_NAME: &str = "lanrage0";
/// Fits PPPoE and IPv6 outside, WireGuard and the relay header, bytes.
pub const DEFAULT_MTU: u16 = 1360;

/// The least that IPv4 may be given (RFC 791).
pub const MIN_MTU: u16 = 576;

const MAILBOX: usize = 64;
/// Reads of the device before the other actors of the arbiter get their turn.
const READS_PER_POLL: usize = 32;
/// Bytes before they do: what is beyond waits in the device, where the stack feels it, and not in the peers' mailboxes,
/// where it would be dropped.
const BYTES_PER_POLL: usize = 2 * MAX_BATCH_BYTES;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    pub name: String,
    /// Of the IP packets inside, bytes.
    pub mtu: u16,
}

impl Default for TunConfig {
    fn default() -> Self {
        Self { name: DEFAULT_NAME.to_owned(), mtu: DEFAULT_MTU }
    }
}

pub struct TunActor {
    config: TunConfig,
    pub(super) factory: Box<dyn DeviceFactory>,
    pub(super) lifecycle: Lifecycle,
    device: Option<Box<dyn Device>>,
    /// Counts the devices opened, so that the read loop of one that is closed ends.
    generation: u64,
    timer: Option<SpawnHandle>,
    /// Routes wider than the range that have been told.
    covering: Vec<LocalRoute>,
    routes: RouteTable<Recipient<Outbound>>,
    broadcast: Lane<Recipient<FromDevice>>,
    classifier: Classifier,
    /// The MTU that a game wants.
    wanted_mtu: Option<u16>,
    /// The one that the device has.
    mtu: u16,
    counters: TunCounters,
    pub(super) sides: Sides,
}

impl TunActor {
    #[must_use]
    pub fn new(config: TunConfig, factory: Box<dyn DeviceFactory>) -> Self {
        Self::with_retry(config, factory, RetryAfter::DEFAULT)
    }

    fn with_retry(config: TunConfig, factory: Box<dyn DeviceFactory>, retry_after: RetryAfter) -> Self {
        Self {
            mtu: config.mtu,
            wanted_mtu: None,
            classifier: Classifier::default(),
            config,
            factory,
            lifecycle: Lifecycle::new(retry_after),
            device: None,
            generation: 0,
            timer: None,
            covering: Vec::new(),
            routes: RouteTable::default(),
            broadcast: Lane::default(),
            counters: TunCounters::default(),
            sides: Sides::default(),
        }
    }

    fn apply(&mut self, step: Step, ctx: &mut Context<Self>) {
        match step {
            Step::Keep => {}
            Step::Close => self.device = None,
            Step::Open(address) => {
                // First, because the kernel has one device of a name.
                self.device = None;
                self.open(address, ctx);
            }
        }
        self.settle(ctx);
    }

    fn open(&mut self, address: Address, ctx: &mut Context<Self>) {
        let mtu = self.tuned_mtu();
        let name = &self.config.name;
        match self.factory.local_routes() {
            Ok(routes) => {
                let found = overlaps(address.range, name, &routes);
                if let Some(clash) = found.clashes.first() {
                    self.lifecycle.clashed(now(), address.range, clash);
                    return;
                }
                // Once, not at each attempt.
                for route in found.covering.iter().filter(|route| !self.covering.contains(route)) {
                    tracing::warn!("{}", covering_message(address.range, route));
                }
                self.covering = found.covering;
            }
            Err(error) => tracing::debug!(%error, "the routes of this machine cannot be read"),
        }
        match self.factory.open(&OpenRequest { name, mtu, address }) {
            Ok(device) => {
                tracing::info!(%name, ip = %address.ip, range = %address.range, "network device is up");
                self.device = Some(device);
                self.mtu = mtu;
                self.generation += 1;
                self.lifecycle.opened();
                ctx.spawn(ReadLoop { generation: self.generation });
            }
            Err(error) => {
                let exe =
                    std::env::current_exe().map_or_else(|_| "lanrage".to_owned(), |path| path.display().to_string());
                self.lifecycle.refused(now(), name, &exe, &error);
            }
        }
    }

    /// Writes to the system's device.
    pub(super) fn write(&mut self, batch: &PacketBatch, ctx: &mut Context<Self>) {
        let Some(device) = &mut self.device else {
            self.counters.dropped_write_failed += batch.len() as u64;
            return;
        };
        let report = device.write_batch(batch);
        self.counters.written_packets += report.packets;
        self.counters.written_bytes += report.bytes;
        self.counters.dropped_malformed += report.malformed;
        // What comes after the end of the device is refused as well.
        self.counters.dropped_write_failed += (batch.len() as u64).saturating_sub(report.packets + report.malformed);
        if let Some(why) = report.gone {
            self.lose(&why, ctx);
        }
    }

    fn tuned_mtu(&self) -> u16 {
        let configured = self.config.mtu;
        self.wanted_mtu.map_or(configured, |mtu| mtu.clamp(MIN_MTU.min(configured), configured))
    }

    fn apply_mtu(&mut self) {
        let mtu = self.tuned_mtu();
        if let Some(device) = self.device.as_mut().filter(|_| mtu != self.mtu) {
            if let Err(error) = device.set_mtu(mtu) {
                tracing::warn!(%error, mtu, "the MTU of the network device stays as it is");
                return;
            }
            tracing::info!(mtu, "the network device has another MTU");
        }
        self.mtu = mtu;
    }

    fn lose(&mut self, why: &std::io::Error, ctx: &mut Context<Self>) {
        self.device = None;
        self.lifecycle.lost(now(), &self.config.name, why);
        self.settle(ctx);
    }

    /// Says what is new and arms the one timer.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        if let Some(problem) = self.lifecycle.take_report() {
            tracing::warn!("{problem}");
        }
        if let Some(handle) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        self.timer = self.lifecycle.poll_timeout().map(|(at, Why::RetryOpen)| {
            ctx.run_later(at.saturating_duration_since(now()), |this, ctx| {
                this.timer = None;
                let step = this.lifecycle.on_timeout(now());
                this.apply(step, ctx);
            })
        });
    }

    /// Reads until the device of `side` has nothing more or the others must have their turn. `Ready` when it is gone.
    pub(super) fn drain(&mut self, side: Side, ctx: &mut Context<Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Self { device, routes, broadcast, classifier, counters, lifecycle, sides, .. } = self;
        let Sides { plays, owners, .. } = sides;
        // Who sends what is of interest only while there is more than one.
        let mut learn = (!plays.is_empty()).then(|| (owners, now()));
        let play = plays.iter_mut().find(|play| Side::Play(play.id) == side);
        let (device, play_counters) = match play {
            Some(play) => (Some(&mut play.device), Some(&mut play.counters)),
            None if side == Side::System => (device.as_mut(), None),
            None => (None, None),
        };
        let (Some(device), Some(address)) = (device, lifecycle.address()) else { return Poll::Ready(()) };
        let packets = counters.read_packets;
        let start = counters.read_bytes;
        classifier.begin(now());
        let mut lost = None;
        let mut exhausted = true;
        for _ in 0..READS_PER_POLL {
            match device.poll_read(cx) {
                Poll::Ready(Ok(incoming)) => {
                    if let Some((owners, now)) = &mut learn {
                        owners.sent(&incoming.packet, side, *now);
                    }
                    forward(incoming, address, routes, broadcast, classifier, counters);
                }
                Poll::Ready(Err(ReadError::Malformed)) => counters.dropped_malformed += 1,
                Poll::Ready(Err(ReadError::Gone(error))) => {
                    lost = Some(error);
                    break;
                }
                Poll::Pending => {
                    exhausted = false;
                    break;
                }
            }
            if counters.read_bytes - start >= BYTES_PER_POLL as u64 {
                break;
            }
        }
        routes.flush(|peer, batch| send(peer, batch, &mut counters.dropped_no_route, &mut counters.dropped_peer_busy));
        broadcast.flush(|to, batch| shout(to, batch, &mut counters.dropped_broadcast));
        if let Some(of_play) = play_counters {
            of_play.read_packets += counters.read_packets - packets;
        }
        if let Some(error) = lost {
            match side {
                Side::Play(id) => self.lose_play(id, &error),
                Side::System | Side::All => self.lose(&error, ctx),
            }
            return Poll::Ready(());
        }
        if exhausted {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The clock of the runtime, which a simulation may have stopped.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn forward(
    incoming: Incoming<'_>,
    own: Address,
    routes: &mut RouteTable<Recipient<Outbound>>,
    broadcast: &mut Lane<Recipient<FromDevice>>,
    classifier: &mut Classifier,
    counters: &mut TunCounters,
) {
    let destination = incoming.packet.destination();
    let Some(segments) = Segments::new(incoming) else {
        counters.dropped_malformed += 1;
        return;
    };
    let packets = segments.count() as u64;
    counters.read_packets += packets;
    counters.read_bytes += segments.bytes() as u64;
    if is_broadcast_or_multicast(destination, own.range) {
        if !broadcast.push(segments, |to, batch| shout(to, batch, &mut counters.dropped_broadcast)) {
            counters.dropped_broadcast += packets;
        }
        return;
    }
    let class = classifier.classify(segments.packet(), packets > 1);
    if class.urgency == Urgency::Expedited {
        counters.read_expedited += packets;
    }
    let TunCounters { dropped_no_route, dropped_peer_busy, .. } = counters;
    let routed = destination != own.ip
        && routes.push(segments, class, |peer, batch| send(peer, batch, dropped_no_route, dropped_peer_busy));
    if !routed {
        *dropped_no_route += packets;
    }
}

fn send(peer: &Recipient<Outbound>, batch: PacketBatch, no_route: &mut u64, busy: &mut u64) {
    match peer.try_send(Outbound(batch)) {
        Ok(()) => {}
        Err(SendError::Full(Outbound(batch))) => *busy += batch.len() as u64,
        Err(SendError::Closed(Outbound(batch))) => *no_route += batch.len() as u64,
    }
}

fn shout(to: &Recipient<FromDevice>, batch: PacketBatch, dropped: &mut u64) {
    if let Err(SendError::Full(FromDevice(batch)) | SendError::Closed(FromDevice(batch))) =
        to.try_send(FromDevice(batch))
    {
        *dropped += batch.len() as u64;
    }
}

/// Polls the device with the actor at hand, so that a packet makes no hop between them.
struct ReadLoop {
    generation: u64,
}

impl ActorFuture<TunActor> for ReadLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut TunActor,
        ctx: &mut Context<TunActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if self.generation == actor.generation { actor.drain(Side::System, ctx, task) } else { Poll::Ready(()) }
    }
}

impl Actor for TunActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.device = None;
        self.sides.clear();
    }
}

impl Handler<Deliver> for TunActor {
    type Result = ();

    fn handle(&mut self, Deliver(batch): Deliver, ctx: &mut Self::Context) {
        if self.sides.is_empty() {
            self.write(&batch, ctx);
        } else {
            self.deliver_to_sides(&batch, now(), ctx);
        }
    }
}

impl Handler<SetAddress> for TunActor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, ctx: &mut Self::Context) {
        if self.lifecycle.address() != address {
            // Their devices have the old one.
            self.sides.clear();
        }
        let step = self.lifecycle.set_address(address);
        self.apply(step, ctx);
    }
}

impl Handler<BindTun> for TunActor {
    type Result = ();

    fn handle(&mut self, BindTun { broadcast }: BindTun, _ctx: &mut Self::Context) {
        self.broadcast.bind(broadcast);
    }
}

impl Handler<AddRoute> for TunActor {
    type Result = ();

    fn handle(&mut self, AddRoute { ip, peer }: AddRoute, _ctx: &mut Self::Context) {
        if !self.routes.insert(ip, peer) {
            tracing::warn!(%ip, "too many routes; this one is left out");
        }
    }
}

impl Handler<RemoveRoute> for TunActor {
    type Result = ();

    fn handle(&mut self, RemoveRoute { ip }: RemoveRoute, _ctx: &mut Self::Context) {
        self.routes.remove(ip);
    }
}

impl Handler<SetMtu> for TunActor {
    type Result = ();

    fn handle(&mut self, SetMtu(mtu): SetMtu, _ctx: &mut Self::Context) {
        self.wanted_mtu = mtu;
        self.apply_mtu();
    }
}

impl Handler<SetClasses> for TunActor {
    type Result = ();

    fn handle(&mut self, SetClasses(rules): SetClasses, _ctx: &mut Self::Context) {
        self.classifier.set_rules(rules);
    }
}

impl Handler<GetTun> for TunActor {
    type Result = MessageResult<GetTun>;

    fn handle(&mut self, _: GetTun, _ctx: &mut Self::Context) -> Self::Result {
        MessageResult(TunView {
            name: self.config.name.clone(),
            mtu: self.mtu,
            state: self.lifecycle.state(),
            problem: self.lifecycle.problem().map(str::to_owned),
            counters: self.counters,
            plays: self.sides.view(),
        })
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;

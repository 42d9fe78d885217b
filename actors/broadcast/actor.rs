#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use actix::dev::SendError;
use actix::fut::wrap_future;
use actix::prelude::*;

use super::bridge::messages::{FromBridge, GuestPorts, ReadAlong};
use super::captures::Captures;
use super::interfaces::Interface;
use super::local::Local;
use super::machine::{BroadcastMachine, Outputs, Settings};
use super::messages::{BindBroadcast, FromDevice, FromMember, GetBroadcast, SetGameRules};
use super::system::System;
use crate::browser::messages::{Announcement, MINECRAFT_PORT};
use crate::peer::messages::Outbound;
use crate::tun::messages::{AddRoute, Deliver, RemoveRoute, SetAddress, SetMtu};
use crate::wire::PacketBatch;

/// Batches, not packets.
const MAILBOX: usize = 64;
/// More than the members of any party (255).
const MAX_MEMBERS: usize = 1024;
/// Captured packets before the other actors of the arbiter get their turn.
const PACKETS_PER_POLL: u64 = 64;
/// How long packets are left to gather while most of them are beyond the limits: to wake up for each of a storm's costs
/// far more than to look at it. The kernel holds some hundred meanwhile, and announcements beside it are that late.
const STORM_PAUSE: Duration = Duration::from_millis(2);

/// Batches of members that wait while the sockets are looked at.
const MAX_WAITING: usize = 64;

/// End, as when the program is killed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Halt;

/// Translates between the mailbox and one `BroadcastMachine`.
pub struct BroadcastActor {
    machine: BroadcastMachine,
    outputs: Outputs,
    /// Absent while another thread has it, to look at this machine.
    system: Option<Box<dyn System>>,
    /// A look at everything was wanted meanwhile.
    look_again: bool,
    /// What came out of tunnels meanwhile, or since what is known had grown old.
    waiting: VecDeque<FromMember>,
    captures: Captures,
    device: String,
    /// As configured.
    mtu: u16,
    links: Option<BindBroadcast>,
    members: BTreeMap<Ipv4Addr, Recipient<Outbound>>,
    timer: Option<(Instant, SpawnHandle)>,
    /// Bridge mode's, when it is on.
    bridge: Option<Recipient<Announcement>>,
    /// Members that do not get what is in the outputs now.
    except: Vec<Ipv4Addr>,
}

impl BroadcastActor {
    #[must_use]
    pub fn new(settings: Settings, system: Box<dyn System>) -> Self {
        Self {
            device: settings.device.clone(),
            mtu: settings.mtu,
            machine: BroadcastMachine::new(settings),
            outputs: Outputs::default(),
            system: Some(system),
            look_again: false,
            waiting: VecDeque::new(),
            captures: Captures::default(),
            links: None,
            members: BTreeMap::new(),
            timer: None,
            bridge: None,
            except: Vec::new(),
        }
    }

    fn flush(&mut self, ctx: &mut Context<Self>) {
        if std::mem::take(&mut self.outputs.survey) {
            self.look(true, ctx);
        }
        let Self { machine, outputs, links, members, bridge, except, .. } = self;
        for batch in outputs.send.drain() {
            for member in members.iter().filter(|(ip, _)| !except.contains(ip)).map(|(_, member)| member) {
                let packets = batch.len() as u64;
                match member.try_send(Outbound(copy(&batch))) {
                    Ok(()) => machine.count_copies(packets),
                    Err(SendError::Full(_) | SendError::Closed(_)) => machine.count_busy(packets),
                }
            }
        }
        for batch in outputs.deliver.drain() {
            let packets = batch.len() as u64;
            if links.as_ref().is_none_or(|links| links.deliver.try_send(Deliver(batch)).is_err()) {
                machine.count_busy(packets);
            }
        }
        let heard = links.as_ref().and_then(|links| links.heard.as_ref());
        for it in outputs.heard.drain(..) {
            let announcement = Announcement {
                member: it.member,
                source_port: it.source_port,
                destination: it.destination,
                destination_port: it.destination_port,
                payload: it.payload,
            };
            // Who wants to read along and has no room misses one: the next comes soon.
            let listed = heard.filter(|_| announcement.destination_port == MINECRAFT_PORT);
            let by_browser = listed.is_some_and(|heard| heard.try_send(announcement.clone()).is_err());
            let by_bridge = bridge.as_ref().is_some_and(|bridge| bridge.try_send(announcement).is_err());
            machine.count_unread(by_bridge, by_browser);
        }
        self.arm(ctx);
    }

    /// Looks at this machine's sockets and groups, and at its interfaces too if `all`: on another thread, because it may
    /// take milliseconds, which no packet should wait.
    fn look(&mut self, all: bool, ctx: &mut Context<Self>) {
        let Some(system) = self.system.take() else {
            self.look_again |= all;
            return;
        };
        if system.is_quick() {
            let (system, seen) = seen(system, all);
            self.on_seen(system, seen, ctx);
            return;
        }
        let looked = tokio::task::spawn_blocking(move || seen(system, all));
        ctx.spawn(wrap_future::<_, Self>(looked).map(|looked, this, ctx| match looked {
            Ok((system, seen)) => {
                this.on_seen(system, seen, ctx);
                if std::mem::take(&mut this.look_again) {
                    this.look(true, ctx);
                }
                let now = now();
                for FromMember { ip, batch } in std::mem::take(&mut this.waiting) {
                    this.machine.on_member(now, ip, &batch, &mut this.outputs);
                }
                this.flush(ctx);
            }
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }));
    }

    fn on_seen(&mut self, mut system: Box<dyn System>, seen: Seen, ctx: &mut Context<Self>) {
        if let Some(interfaces) = seen.interfaces {
            self.on_interfaces(interfaces, system.as_mut(), ctx);
        }
        self.on_local(seen.local, system.as_mut());
        self.system = Some(system);
    }

    fn on_interfaces(
        &mut self,
        interfaces: io::Result<Vec<Interface>>,
        system: &mut dyn System,
        ctx: &mut Context<Self>,
    ) {
        match interfaces {
            Ok(interfaces) => {
                let wanted = self.machine.wanted_captures(&interfaces);
                for number in self.captures.settle(wanted, system) {
                    let generation = self.captures.generation(number);
                    ctx.spawn(CaptureLoop { number, generation, pause: None });
                }
                self.machine.set_captured(self.captures.running());
            }
            Err(error) => tracing::debug!(%error, "the interfaces of this machine cannot be read"),
        }
        self.machine.count_capture_overflow(self.captures.take_dropped());
        if let Some(problem) = self.captures.take_news() {
            tracing::warn!("{problem}");
        }
    }

    fn on_local(&mut self, local: io::Result<Local>, system: &mut dyn System) {
        match local {
            Ok(local) => self.machine.set_local(local),
            Err(error) => tracing::debug!(%error, "the sockets of this machine cannot be read"),
        }
        let groups = self.machine.wanted_groups();
        let list: Vec<Ipv4Addr> = groups.iter().copied().collect();
        let address = self.machine.own().map_or(Ipv4Addr::UNSPECIFIED, |own| own.ip);
        let mut held = groups;
        for (group, error) in system.join(&self.device, address, &list) {
            tracing::debug!(%group, %error, "the virtual device cannot join this group");
            held.remove(&group);
        }
        self.machine.set_held(held);
    }

    /// One timer, moved only when the machine wants to be called earlier than it would fire.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some((due, _reason)) = self.machine.poll_timeout() else { return };
        if let Some((armed, handle)) = self.timer {
            if armed <= due {
                return;
            }
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(due.saturating_duration_since(now()), |actor, ctx| {
            actor.timer = None;
            actor.run_due_timer(now());
            actor.flush(ctx);
        });
        self.timer = Some((due, handle));
    }

    /// A mailbox that is never empty must not starve the timer.
    fn run_due_timer(&mut self, now: Instant) {
        if self.machine.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.machine.handle_timeout(now, &mut self.outputs);
        }
    }

    /// Reads a capture until it has nothing more or the others must have their turn.
    fn drain(&mut self, number: u8, ctx: &mut Context<Self>, cx: &mut TaskContext<'_>) -> Drained {
        let now = now();
        let Self { machine, outputs, captures, .. } = self;
        let (mut read, refused) = (0, machine.limited_so_far());
        let end = loop {
            let Some(capture) = captures.get(number) else { break Drained::End };
            match capture.poll_packet(cx, &mut |packet| machine.on_captured(now, number, packet, outputs)) {
                Poll::Ready(Ok(())) => captures.count(number),
                Poll::Ready(Err(error)) => {
                    captures.end(number, &error);
                    break Drained::End;
                }
                Poll::Pending if 2 * (machine.limited_so_far() - refused) > read => break Drained::Storm,
                Poll::Pending => break Drained::Empty,
            }
            read += 1;
            if read == PACKETS_PER_POLL {
                cx.waker().wake_by_ref();
                break Drained::Empty;
            }
        };
        self.flush(ctx);
        end
    }
}

/// How reading a capture stopped.
enum Drained {
    /// There is no more, for now, or the turn is up.
    Empty,
    /// There is no more for now, and most was beyond the limits.
    Storm,
    End,
}

/// What the system told.
struct Seen {
    interfaces: Option<io::Result<Vec<Interface>>>,
    local: io::Result<Local>,
}

fn seen(mut system: Box<dyn System>, all: bool) -> (Box<dyn System>, Seen) {
    let seen = Seen { interfaces: all.then(|| system.interfaces()), local: system.local() };
    (system, seen)
}

/// Polls a capture with the actor at hand, so that a packet makes no hop between them.
struct CaptureLoop {
    number: u8,
    generation: u64,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl ActorFuture<BroadcastActor> for CaptureLoop {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut BroadcastActor,
        ctx: &mut Context<BroadcastActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        loop {
            // Another capture may have taken the number.
            if self.generation != actor.captures.generation(self.number) {
                return Poll::Ready(());
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(task));
                self.pause = None;
            }
            match actor.drain(self.number, ctx, task) {
                Drained::Empty => return Poll::Pending,
                Drained::Storm => {
                    if let Some(capture) = actor.captures.get(self.number) {
                        capture.rest();
                    }
                    self.pause = Some(Box::pin(tokio::time::sleep(STORM_PAUSE)));
                }
                Drained::End => return Poll::Ready(()),
            }
        }
    }
}

fn copy(batch: &PacketBatch) -> PacketBatch {
    let mut copy = PacketBatch::new();
    for packet in batch.iter() {
        // As much room as the first has.
        let _ = copy.push(packet);
    }
    copy
}

/// tokio's clock, so that a paused one moves the actor as well.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Actor for BroadcastActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<BindBroadcast> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, links: BindBroadcast, _: &mut Self::Context) {
        self.links = Some(links);
    }
}

impl Handler<FromDevice> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, FromDevice(batch): FromDevice, ctx: &mut Self::Context) {
        let now = now();
        self.run_due_timer(now);
        self.machine.on_device(now, &batch, &mut self.outputs);
        self.flush(ctx);
    }
}

impl Handler<ReadAlong> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, ReadAlong(bridge): ReadAlong, _: &mut Self::Context) {
        self.bridge = Some(bridge);
        self.machine.read_along();
    }
}

impl Handler<GuestPorts> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, GuestPorts(ports): GuestPorts, _: &mut Self::Context) {
        self.machine.set_guests(ports);
    }
}

impl Handler<FromBridge> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, FromBridge { batch, except }: FromBridge, ctx: &mut Self::Context) {
        let now = now();
        self.run_due_timer(now);
        self.machine.on_device(now, &batch, &mut self.outputs);
        self.except = except;
        self.flush(ctx);
        self.except.clear();
    }
}

impl Handler<FromMember> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, message: FromMember, ctx: &mut Self::Context) {
        let now = now();
        self.run_due_timer(now);
        if self.machine.wants_local(now, &message.batch) {
            self.look(false, ctx);
        }
        if self.system.is_some() {
            self.machine.on_member(now, message.ip, &message.batch, &mut self.outputs);
        } else if self.waiting.len() < MAX_WAITING {
            // Which sockets there are will be known in a moment.
            self.waiting.push_back(message);
        } else {
            self.machine.count_busy(message.batch.len() as u64);
        }
        self.flush(ctx);
    }
}

impl Handler<SetAddress> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, ctx: &mut Self::Context) {
        let now = now();
        self.machine.set_address(now, address);
        if address.is_none() {
            // Captures and groups end at once, not with the next survey.
            self.captures.end_all();
            self.machine.set_captured(self.captures.running());
            self.look(true, ctx);
        }
        self.run_due_timer(now);
        self.flush(ctx);
    }
}

impl Handler<AddRoute> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, AddRoute { ip, peer }: AddRoute, _: &mut Self::Context) {
        if self.members.len() < MAX_MEMBERS || self.members.contains_key(&ip) {
            self.members.insert(ip, peer);
            self.machine.add_member(ip);
        }
    }
}

impl Handler<RemoveRoute> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, RemoveRoute { ip }: RemoveRoute, _: &mut Self::Context) {
        self.members.remove(&ip);
        self.machine.remove_member(ip);
    }
}

/// Fragments are as long as the packets of the device, which a running game may want shorter.
impl Handler<SetMtu> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, SetMtu(wanted): SetMtu, _: &mut Self::Context) {
        self.machine.set_mtu(wanted.map_or(self.mtu, |wanted| wanted.min(self.mtu)));
    }
}

impl Handler<SetGameRules> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, SetGameRules(rules): SetGameRules, ctx: &mut Self::Context) {
        let now = now();
        self.machine.set_rules(now, rules);
        self.run_due_timer(now);
        self.flush(ctx);
    }
}

impl Handler<Halt> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<GetBroadcast> for BroadcastActor {
    type Result = MessageResult<GetBroadcast>;

    fn handle(&mut self, _: GetBroadcast, _: &mut Self::Context) -> Self::Result {
        let mut view = self.machine.view();
        view.captures = self.captures.view();
        view.problems.extend(self.captures.problem());
        MessageResult(view)
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;

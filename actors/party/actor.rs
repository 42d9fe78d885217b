//! The thin actix shell of the party machine: it reads the clocks once per message, feeds the machine, and sends what the
//! machine puts out.
#![allow(missing_debug_implementations)]

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, Recipient,
    ResponseFuture, SpawnHandle, WrapFuture,
};
use tokio::sync::oneshot;

use super::code::PartyCode;
use super::keys::PartySecret;
use super::machine::{Counters, Event, Now, Output, PartyConfig, PartyMachine, RequestId};
use super::messages::{
    CreateParty, GetHosts, GetParty, JoinParty, KickMember, LeaveParty, ListParties, MemberHosts, PartyError, SetHosted,
};
use super::messages::{PartySummary, PartyView};
use crate::discovery::messages::{
    CloseLink, DiscoveryView, GetDiscovery, LinkClosed, LinkFrame, LinkOpened, OwnAddrs, Seek, SendFrame,
};
use crate::nat::messages::OwnContact;
use crate::peer::messages::SetPeers;
use crate::store::messages::{SaveParty, StoreError, StoredParty};
use crate::tun::messages::SetAddress;

const MAILBOX: usize = 64;
/// A mailbox that must not lose a message was full: try again after this time.
const RETRY: Duration = Duration::from_millis(50);

/// Whom the party talks to. Comes once, before `Start`.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Bind {
    pub seek: Recipient<Seek>,
    pub send_frame: Recipient<SendFrame>,
    pub close_link: Recipient<CloseLink>,
    pub set_peers: Recipient<SetPeers>,
    /// Everybody who must know the virtual IP and the party's range.
    pub set_address: Vec<Recipient<SetAddress>>,
    pub save_party: Recipient<SaveParty>,
    pub get_discovery: Recipient<GetDiscovery>,
}

/// Take up the party that was active when the program ended.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Start;

/// End without a word to anybody, as when the program is killed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Halt;

/// Ask what members must agree on, and what was refused and lost.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "PartyState")]
pub struct Inspect;

#[derive(Debug, Clone, Copy)]
pub struct PartyState {
    /// See `PartyMachine::digest`.
    pub digest: Option<[u8; 32]>,
    pub counters: Counters,
}

/// How a party code becomes its secret.
#[derive(Clone, Copy)]
pub enum Derive {
    /// Argon2id on a thread that may be slow: it takes 64 MiB and the better part of a second on a small machine.
    OffThread,
    /// At once: for a simulation, whose clock cannot see other threads.
    AtOnce(fn(&PartyCode) -> PartySecret),
}

type Answer = Result<Option<PartyView>, PartyError>;

struct Waiting {
    answer: oneshot::Sender<Answer>,
    /// It entered a party: if that cannot be saved, it is left again.
    enters: bool,
}

/// An answer that must not go out before everything up to this save is on disk.
struct Held {
    after: u64,
    request: RequestId,
    answer: Answer,
}

pub struct PartyActor {
    machine: PartyMachine,
    ports: Option<Bind>,
    derive: Derive,
    timer: Option<(Instant, SpawnHandle)>,
    waiting: HashMap<RequestId, Waiting>,
    next_request: u64,
    saves_begun: u64,
    saves_ended: u64,
    held: VecDeque<Held>,
    /// What could not be delivered yet, the newest of each kind.
    late_seek: Option<Seek>,
    late_peers: Option<SetPeers>,
    late_address: Option<SetAddress>,
    retrying: bool,
}

impl PartyActor {
    /// `active` and `others`: the parties as the store gave them.
    #[must_use]
    pub fn new(config: PartyConfig, active: Option<StoredParty>, others: Vec<StoredParty>) -> Self {
        let stored: Vec<StoredParty> = active.into_iter().chain(others).collect();
        Self {
            machine: PartyMachine::new(config, &stored),
            ports: None,
            derive: Derive::OffThread,
            timer: None,
            waiting: HashMap::new(),
            next_request: 0,
            saves_begun: 0,
            saves_ended: 0,
            held: VecDeque::new(),
            late_seek: None,
            late_peers: None,
            late_address: None,
            retrying: false,
        }
    }

    #[must_use]
    pub fn with_derive(mut self, derive: Derive) -> Self {
        self.derive = derive;
        self
    }

    fn now() -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Now { mono: mono(), unix }
    }

    fn feed(&mut self, ctx: &mut Context<Self>, input: impl FnOnce(&mut PartyMachine, Now)) {
        let now = Self::now();
        input(&mut self.machine, now);
        self.drain(ctx);
    }

    fn drain(&mut self, ctx: &mut Context<Self>) {
        if self.ports.is_none() {
            return;
        }
        while let Some(output) = self.machine.poll_output() {
            self.carry_out(ctx, output);
        }
        self.deliver_late(ctx);
        self.arm(ctx);
    }

    fn carry_out(&mut self, ctx: &mut Context<Self>, output: Output) {
        let Some(ports) = &self.ports else { return };
        match output {
            Output::Send { link, frame } => {
                if ports.send_frame.try_send(SendFrame { link, frame }).is_err() {
                    self.machine.count_dropped_send();
                }
            }
            Output::Close(link) => {
                if ports.close_link.try_send(CloseLink(link)).is_err() {
                    self.machine.count_dropped_send();
                }
            }
            Output::Seek(seek) => self.late_seek = Some(seek),
            Output::Peers(peers) => self.late_peers = Some(peers),
            Output::Address(address) => self.late_address = Some(SetAddress(address)),
            Output::Persist(party) => self.save(ctx, party),
            Output::Derive(code) => self.derive(ctx, code),
            Output::Reply(request, answer) => self.held_or_answer(ctx, request, answer),
            Output::Event(event) => log(&event),
        }
    }

    /// State that replaces what was sent before must arrive in the end, but only the newest.
    fn deliver_late(&mut self, ctx: &mut Context<Self>) {
        let Some(ports) = &self.ports else { return };
        if let Some(address) = self.late_address
            && ports.set_address.iter().all(|port| port.try_send(address).is_ok())
        {
            self.late_address = None;
        }
        if let Some(peers) = &self.late_peers
            && ports.set_peers.try_send(peers.clone()).is_ok()
        {
            self.late_peers = None;
        }
        if let Some(seek) = &self.late_seek
            && ports.seek.try_send(seek.clone()).is_ok()
        {
            self.late_seek = None;
        }
        let late = self.late_address.is_some() || self.late_peers.is_some() || self.late_seek.is_some();
        if late && !self.retrying {
            self.retrying = true;
            ctx.run_later(RETRY, |actor, ctx| {
                actor.retrying = false;
                actor.deliver_late(ctx);
            });
        }
    }

    fn save(&mut self, ctx: &mut Context<Self>, party: StoredParty) {
        let Some(ports) = &self.ports else { return };
        self.saves_begun += 1;
        // `send` waits for room in the mailbox and keeps the order; an error means that the store is gone.
        let saving = ports.save_party.send(SaveParty(party));
        let ended = saving.into_actor(self).map(|result, actor, ctx| {
            let result = result.unwrap_or_else(|gone| Err(StoreError(gone.to_string())));
            actor.saved(ctx, result.map_err(|error| error.0));
        });
        ctx.spawn(ended);
    }

    fn saved(&mut self, ctx: &mut Context<Self>, result: Result<(), String>) {
        self.saves_ended += 1;
        if let Err(problem) = &result {
            tracing::error!(%problem, "the party could not be saved");
        }
        while let Some(held) = self.held.pop_front_if(|held| held.after <= self.saves_ended) {
            match (&result, held.answer) {
                (Err(problem), Ok(_)) => {
                    let enters = self.waiting.get(&held.request).is_some_and(|it| it.enters);
                    self.answer(ctx, held.request, Err(PartyError::Store(problem.clone())));
                    if enters {
                        self.feed(ctx, |machine, now| machine.abandon(now));
                    }
                }
                (_, answer) => self.answer(ctx, held.request, answer),
            }
        }
    }

    fn held_or_answer(&mut self, ctx: &mut Context<Self>, request: RequestId, answer: Answer) {
        if self.saves_ended < self.saves_begun {
            self.held.push_back(Held { after: self.saves_begun, request, answer });
        } else {
            self.answer(ctx, request, answer);
        }
    }

    fn answer(&mut self, ctx: &mut Context<Self>, request: RequestId, answer: Answer) {
        let Some(waiting) = self.waiting.remove(&request) else { return };
        let (Err(PartyError::NoSuchParty(waited)), Some(ports)) = (&answer, &self.ports) else {
            // The asker may have gone away.
            let _ = waiting.answer.send(answer);
            return;
        };
        let waited = *waited;
        let asking = ports.get_discovery.send(GetDiscovery).into_actor(self).map(move |view, _, _| {
            let error = view.ok().and_then(|view| unreachable_bootstrap(&view, waited));
            let _ = waiting.answer.send(Err(error.unwrap_or(PartyError::NoSuchParty(waited))));
        });
        ctx.spawn(asking);
    }

    fn derive(&mut self, ctx: &mut Context<Self>, code: PartyCode) {
        if let Derive::AtOnce(derive) = self.derive {
            self.machine.handle_derived(Self::now(), &code, Some(derive(&code)));
            return;
        }
        let deriving = async move {
            let of = code.clone();
            let secret = tokio::task::spawn_blocking(move || PartySecret::derive(&of)).await;
            (code, secret.ok().and_then(Result::ok))
        };
        ctx.spawn(deriving.into_actor(self).map(|(code, secret), actor, ctx| {
            actor.feed(ctx, |machine, now| machine.handle_derived(now, &code, secret));
        }));
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        let next = self.machine.poll_timeout();
        match (next, &self.timer) {
            (Some((at, _)), Some((armed, _))) if at == *armed => return,
            _ => {}
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        if let Some((at, reason)) = next {
            let wait = at.saturating_duration_since(mono());
            let handle = ctx.run_later(wait, move |actor, ctx| {
                tracing::trace!(reason, "party timer");
                actor.timer = None;
                actor.feed(ctx, PartyMachine::handle_timeout);
            });
            self.timer = Some((at, handle));
        }
    }

    fn command(
        &mut self,
        ctx: &mut Context<Self>,
        enters: bool,
        command: impl FnOnce(&mut PartyMachine, Now, RequestId),
    ) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(request, Waiting { answer, enters });
        self.feed(ctx, |machine, now| command(machine, now, request));
        receiver
    }
}

/// tokio's clock, so that a paused one moves the actor as well.
fn mono() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn unreachable_bootstrap(view: &DiscoveryView, waited: Duration) -> Option<PartyError> {
    if view.bootstrap.is_empty() || view.bootstrap.iter().any(|peer| peer.reached) || view.dht_nodes > 0 {
        return None;
    }
    let problem = view.bootstrap.iter().find_map(|peer| peer.last_error.clone());
    Some(PartyError::NoBootstrap { waited, problem: problem.unwrap_or_else(|| "no answer".into()) })
}

async fn party_answer(receiver: oneshot::Receiver<Answer>) -> Result<PartyView, PartyError> {
    let gone = || PartyError::Internal("the party actor gave no answer".into());
    receiver.await.map_err(|_| gone())??.ok_or_else(gone)
}

fn log(event: &Event) {
    match event {
        Event::Entered(party) => tracing::info!(%party, "in the party"),
        Event::Left(party) => tracing::info!(%party, "left the party"),
        Event::Removed(party) => tracing::warn!(%party, "the host has removed this machine from the party"),
        Event::Surplus(party) => tracing::warn!(%party, "the party has too many members; this machine came last"),
        Event::MemberJoined(name) => tracing::info!(%name, "member joined"),
        Event::MemberGone(name) => tracing::info!(%name, "member gone"),
        Event::HostIs(name) => tracing::info!(%name, "new host"),
        Event::Renamed(name) => tracing::warn!(%name, "somebody in the party has this machine's name; using another"),
        Event::NoVirtualIp => tracing::error!("no virtual IP is free for this machine"),
        Event::CodeRolled(generation) => tracing::info!(generation, "the party has a new code"),
        Event::SnapshotUnreadable(problem) => tracing::error!(%problem, "a stored party cannot be read"),
    }
}

impl Actor for PartyActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Bind> for PartyActor {
    type Result = ();

    fn handle(&mut self, ports: Bind, _: &mut Self::Context) {
        self.ports = Some(ports);
    }
}

impl Handler<Start> for PartyActor {
    type Result = ();

    fn handle(&mut self, _: Start, ctx: &mut Self::Context) {
        self.feed(ctx, PartyMachine::start);
    }
}

impl Handler<Halt> for PartyActor {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Inspect> for PartyActor {
    type Result = MessageResult<Inspect>;

    fn handle(&mut self, _: Inspect, _: &mut Self::Context) -> Self::Result {
        MessageResult(PartyState { digest: self.machine.digest(), counters: self.machine.counters() })
    }
}

impl Handler<CreateParty> for PartyActor {
    type Result = ResponseFuture<Result<PartyView, PartyError>>;

    fn handle(&mut self, message: CreateParty, ctx: &mut Self::Context) -> Self::Result {
        let name = message.name;
        let create = |machine: &mut PartyMachine, _, request| machine.create(request, name.as_deref());
        Box::pin(party_answer(self.command(ctx, true, create)))
    }
}

impl Handler<JoinParty> for PartyActor {
    type Result = ResponseFuture<Result<PartyView, PartyError>>;

    fn handle(&mut self, message: JoinParty, ctx: &mut Self::Context) -> Self::Result {
        let join = |machine: &mut PartyMachine, now, request| {
            machine.join(now, request, &message.code_or_link, message.timeout);
        };
        Box::pin(party_answer(self.command(ctx, true, join)))
    }
}

impl Handler<LeaveParty> for PartyActor {
    type Result = ResponseFuture<Result<(), PartyError>>;

    fn handle(&mut self, _: LeaveParty, ctx: &mut Self::Context) -> Self::Result {
        let receiver = self.command(ctx, false, |machine, now, request| machine.leave(now, request));
        Box::pin(async {
            let gone = |_| PartyError::Internal("the party actor gave no answer".into());
            receiver.await.map_err(gone)?.map(drop)
        })
    }
}

impl Handler<KickMember> for PartyActor {
    type Result = ResponseFuture<Result<PartyView, PartyError>>;

    fn handle(&mut self, message: KickMember, ctx: &mut Self::Context) -> Self::Result {
        let kick = |machine: &mut PartyMachine, _, request| machine.kick(request, &message.member);
        Box::pin(party_answer(self.command(ctx, false, kick)))
    }
}

impl Handler<GetParty> for PartyActor {
    type Result = Option<PartyView>;

    fn handle(&mut self, _: GetParty, _: &mut Self::Context) -> Self::Result {
        self.machine.view()
    }
}

impl Handler<GetHosts> for PartyActor {
    type Result = Vec<MemberHosts>;

    fn handle(&mut self, _: GetHosts, _: &mut Self::Context) -> Self::Result {
        self.machine.hosts()
    }
}

impl Handler<SetHosted> for PartyActor {
    type Result = ();

    fn handle(&mut self, SetHosted(servers): SetHosted, ctx: &mut Self::Context) {
        self.feed(ctx, |machine, now| machine.set_hosted(now, &servers));
    }
}

impl Handler<ListParties> for PartyActor {
    type Result = Vec<PartySummary>;

    fn handle(&mut self, _: ListParties, _: &mut Self::Context) -> Self::Result {
        self.machine.summaries()
    }
}

impl Handler<LinkOpened> for PartyActor {
    type Result = ();

    fn handle(&mut self, it: LinkOpened, ctx: &mut Self::Context) {
        self.feed(ctx, |machine, now| machine.handle_link_opened(now, it.link, it.node, it.outbound));
    }
}

impl Handler<LinkFrame> for PartyActor {
    type Result = ();

    fn handle(&mut self, it: LinkFrame, ctx: &mut Self::Context) {
        self.feed(ctx, |machine, now| machine.handle_frame(now, it.link, &it.frame));
    }
}

impl Handler<LinkClosed> for PartyActor {
    type Result = ();

    fn handle(&mut self, it: LinkClosed, ctx: &mut Self::Context) {
        self.feed(ctx, |machine, now| machine.handle_link_closed(now, it.0));
    }
}

impl Handler<OwnAddrs> for PartyActor {
    type Result = ();

    fn handle(&mut self, it: OwnAddrs, ctx: &mut Self::Context) {
        self.feed(ctx, |machine, now| machine.set_own_addrs(now, &it.0));
    }
}

impl Handler<OwnContact> for PartyActor {
    type Result = ();

    fn handle(&mut self, it: OwnContact, ctx: &mut Self::Context) {
        self.feed(ctx, |machine, now| machine.set_contact(now, it.0));
    }
}

#[cfg(test)]
mod tests;

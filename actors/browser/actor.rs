//! BrowserActor: the shell around the machine.
#![allow(missing_debug_implementations)]

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, MessageResult, SpawnHandle, WrapFuture};

use super::machine::{BrowserMachine, merged};
use super::messages::{
    Announcement, BindBrowser, GameFacts, GetServers, Hosted, HostedError, KnownGames, NameHosted, SeenHosted,
};
use super::udp;
use crate::party::messages::{GetHosts, SetHosted};
use crate::wire::MAX_HOSTED;

const MAILBOX: usize = 64;
/// How often the party is asked who hosts what; it costs it a walk over its roster.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub struct BrowserActor {
    machine: BrowserMachine,
    links: Option<BindBrowser>,
    seen: Vec<Hosted>,
    named: Vec<Hosted>,
    /// As the party took it.
    told: Vec<Hosted>,
    timer: Option<SpawnHandle>,
}

impl BrowserActor {
    #[must_use]
    pub fn new(games: Vec<GameFacts>) -> Self {
        let mut machine = BrowserMachine::default();
        machine.set_games(games);
        Self { machine, links: None, seen: Vec::new(), named: Vec::new(), told: Vec::new(), timer: None }
    }

    /// Asks who is there, and tells what is hosted here if the party does not know it yet.
    fn look(&mut self, ctx: &mut Context<Self>) {
        self.tell();
        let Some(links) = &self.links else { return };
        let asking = links.hosts.send(GetHosts).into_actor(self).map(|hosts, actor, ctx| {
            if let Ok(hosts) = hosts {
                actor.machine.set_members(now(), hosts);
                actor.advance(ctx);
            }
        });
        ctx.spawn(asking);
    }

    fn tell(&mut self) {
        let hosted = merged(&self.seen, &self.named);
        if let Some(links) = &self.links
            && hosted != self.told
            && links.publish.try_send(SetHosted(hosted.clone())).is_ok()
        {
            self.told = hosted;
        }
    }

    fn advance(&mut self, ctx: &mut Context<Self>) {
        while let Some(question) = self.machine.poll_question(now()) {
            let to = SocketAddrV4::new(question.key.0, question.port);
            let asking =
                udp::ask(question.language, question.from, to).into_actor(self).map(move |outcome, actor, ctx| {
                    actor.machine.answered(now(), &question.key, outcome);
                    actor.advance(ctx);
                });
            ctx.spawn(asking);
        }
        if let Some(handle) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        self.timer = self.machine.poll_timeout().map(|at| {
            ctx.run_later(at.saturating_duration_since(now()), |actor, ctx| {
                actor.timer = None;
                actor.advance(ctx);
            })
        });
    }
}

/// tokio's clock, so that a paused one moves the actor as well.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Actor for BrowserActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(LOOK_EVERY, Self::look);
    }
}

impl Handler<BindBrowser> for BrowserActor {
    type Result = ();

    fn handle(&mut self, links: BindBrowser, _: &mut Self::Context) {
        self.links = Some(links);
    }
}

impl Handler<KnownGames> for BrowserActor {
    type Result = ();

    fn handle(&mut self, KnownGames(games): KnownGames, ctx: &mut Self::Context) {
        self.machine.set_games(games);
        self.advance(ctx);
    }
}

impl Handler<Announcement> for BrowserActor {
    type Result = ();

    fn handle(&mut self, announcement: Announcement, _: &mut Self::Context) {
        self.machine.heard(now(), &announcement);
    }
}

impl Handler<SeenHosted> for BrowserActor {
    type Result = ();

    fn handle(&mut self, SeenHosted(servers): SeenHosted, _: &mut Self::Context) {
        self.seen = servers;
        self.tell();
    }
}

impl Handler<NameHosted> for BrowserActor {
    type Result = Result<(), HostedError>;

    fn handle(&mut self, NameHosted(servers): NameHosted, _: &mut Self::Context) -> Self::Result {
        if servers.len() > MAX_HOSTED {
            return Err(HostedError::TooMany);
        }
        for (at, server) in servers.iter().enumerate() {
            if servers[..at].iter().any(|other| other.is_same(server)) {
                return Err(HostedError::Twice(server.game.clone(), server.port));
            }
            if server.port == 0 || server.query_port == Some(0) {
                return Err(HostedError::BadPort);
            }
            if !server.is_sound() {
                return Err(HostedError::BadGame(server.game.clone()));
            }
        }
        self.named = servers;
        self.tell();
        Ok(())
    }
}

impl Handler<GetServers> for BrowserActor {
    type Result = MessageResult<GetServers>;

    fn handle(&mut self, _: GetServers, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.machine.view(now()))
    }
}

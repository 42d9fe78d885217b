#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;

use super::machine::{News, Watch};
use super::messages::{BindWatch, GamesView, GetGames, Played, WatchLinks};
use super::source::{ProcessSource, ProfileSource};
use super::tuning::Wanted;
use crate::broadcast::messages::SetGameRules;
use crate::browser::messages::SeenHosted;
use crate::metrics::messages::{Event, Happened};
use crate::peer::messages::SetTuning;
use crate::tun::messages::{SetAddress, SetClasses, SetMtu};
use crate::wire::Hosted;

const MAILBOX: usize = 64;
/// How soon a game is noticed that has started or ended.
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// Settings that did not get into a full mailbox are sent again after this.
const RETRY: Duration = Duration::from_millis(100);

/// What the watch may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchConfig {
    /// Look for games.
    pub detection: bool,
    /// Do what they want.
    pub tuning: bool,
}

/// What each actor was told last.
#[derive(Default)]
struct Told {
    wanted: Wanted,
    hosted: Vec<Hosted>,
}

/// Looks for games and has the others treat their packets as their profiles say.
pub struct GameWatchActor {
    config: WatchConfig,
    source: Box<dyn ProcessSource>,
    profiles: Box<dyn ProfileSource>,
    watch: Watch,
    /// This machine's virtual IP.
    own: Option<Ipv4Addr>,
    links: Option<WatchLinks>,
    /// The servers among the running games.
    hosted: Vec<Hosted>,
    told: Told,
    /// The next scan shows all.
    first: bool,
    problem: Option<String>,
    retry: Option<SpawnHandle>,
}

impl GameWatchActor {
    #[must_use]
    pub fn new(config: WatchConfig, source: Box<dyn ProcessSource>, profiles: Box<dyn ProfileSource>) -> Self {
        Self {
            config,
            source,
            profiles,
            watch: Watch::default(),
            own: None,
            links: None,
            hosted: Vec::new(),
            told: Told::default(),
            first: true,
            problem: None,
            retry: None,
        }
    }

    fn scan(&mut self, ctx: &mut Context<Self>) {
        let began = now();
        self.look_at_profiles();
        match self.source.scan() {
            Ok(changes) => {
                self.problem = None;
                let (source, own, all) = (&self.source, self.own, std::mem::take(&mut self.first));
                let news = self.watch.observe(began, unix_ms(), &changes, all, &mut |pid| source.listening(pid, own));
                self.hosted = self.watch.hosted(own);
                self.act(news, ctx);
            }
            Err(error) => {
                self.watch.counters.failed_scans += 1;
                let problem = format!("the running programs cannot be listed ({error}); no game is noticed");
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}");
                }
                self.problem = Some(problem);
            }
        }
        let busy = now().saturating_duration_since(began);
        self.watch.counters.busy_us += u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
    }

    fn look_at_profiles(&mut self) {
        let Some((profiles, problems)) = self.profiles.changed() else { return };
        for event in self.watch.set_profiles(profiles, problems) {
            self.happened(event);
        }
        self.source.forget();
        self.first = true;
    }

    fn act(&mut self, news: News, ctx: &mut Context<Self>) {
        for event in news.events {
            if let Event::GameStarted { name, pid, .. } = &event {
                tracing::info!(%name, pid, "a game is running");
            }
            if let Event::GameStopped { name, pid, .. } = &event {
                tracing::info!(%name, pid, "a game has ended");
            }
            let of_tuning = matches!(event, Event::TuningApplied { .. } | Event::TuningUndone { .. });
            if of_tuning && !self.config.tuning {
                continue;
            }
            self.happened(event);
        }
        if news.tuning || self.told.hosted != self.hosted {
            self.tell(ctx);
        }
    }

    fn happened(&mut self, event: Event) {
        let events = self.links.as_ref().and_then(|links| links.events.as_ref());
        if events.is_some_and(|events| events.try_send(Happened(event)).is_err()) {
            self.watch.counters.dropped_events += 1;
        }
    }

    /// Tells each actor what it does not know yet; whole states, so that one message more does no harm.
    fn tell(&mut self, ctx: &mut Context<Self>) {
        let Some(links) = &self.links else { return };
        let nothing = Wanted::default();
        let wanted = if self.config.tuning { self.watch.wanted() } else { &nothing };
        let Told { wanted: known, hosted } = &mut self.told;
        let mut busy = 0;
        if known.peer != wanted.peer {
            match links.tuning.try_send(SetTuning(wanted.peer)) {
                Ok(()) => known.peer = wanted.peer,
                Err(_) => busy += 1,
            }
        }
        if known.mtu != wanted.mtu {
            // Who has heard it already hears it again.
            match links.mtu.iter().filter(|it| it.try_send(SetMtu(wanted.mtu)).is_err()).count() {
                0 => known.mtu = wanted.mtu,
                full => busy += full as u64,
            }
        }
        if known.classes != wanted.classes {
            match links.classes.try_send(SetClasses(wanted.classes.clone())) {
                Ok(()) => known.classes.clone_from(&wanted.classes),
                Err(_) => busy += 1,
            }
        }
        if known.broadcast != wanted.broadcast {
            match links.broadcast.as_ref().map(|it| it.try_send(SetGameRules(wanted.broadcast.clone()))) {
                Some(Ok(())) | None => known.broadcast.clone_from(&wanted.broadcast),
                Some(Err(_)) => busy += 1,
            }
        }
        if *hosted != self.hosted {
            match links.hosted.try_send(SeenHosted(self.hosted.clone())) {
                Ok(()) => hosted.clone_from(&self.hosted),
                Err(_) => busy += 1,
            }
        }
        self.watch.counters.retried += busy;
        if busy > 0 && self.retry.is_none() {
            self.retry = Some(ctx.run_later(RETRY, |actor, ctx| {
                actor.retry = None;
                actor.tell(ctx);
            }));
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Actor for GameWatchActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        if self.config.detection {
            ctx.run_interval(SCAN_EVERY, |actor, ctx| {
                if actor.links.is_some() {
                    actor.scan(ctx);
                }
            });
        }
    }
}

impl Handler<BindWatch> for GameWatchActor {
    type Result = ();

    fn handle(&mut self, BindWatch(links): BindWatch, ctx: &mut Self::Context) {
        self.links = Some(links);
        self.tell(ctx);
    }
}

impl Handler<SetAddress> for GameWatchActor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, _: &mut Self::Context) {
        self.own = address.map(|address| address.ip);
    }
}

impl Handler<Played> for GameWatchActor {
    type Result = ();

    fn handle(&mut self, Played { pid, game }: Played, ctx: &mut Self::Context) {
        self.look_at_profiles();
        if let Some(id) = game.as_ref().filter(|id| !self.watch.knows(id)) {
            tracing::warn!(%id, "no profile has this id, so nothing is set for the game: lanrage profile list shows all");
        }
        let news = self.watch.set_played(unix_ms(), pid, game);
        self.act(news, ctx);
    }
}

impl Handler<GetGames> for GameWatchActor {
    type Result = MessageResult<GetGames>;

    fn handle(&mut self, _: GetGames, _: &mut Self::Context) -> Self::Result {
        let applied = if self.config.tuning { self.watch.wanted().applied.clone() } else { Vec::new() };
        MessageResult(GamesView {
            detection: self.config.detection,
            tuning: self.config.tuning,
            running: self.watch.running().to_vec(),
            applied,
            profiles: self.watch.profiles(),
            counters: self.watch.counters,
            problem: self.problem.clone(),
        })
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;

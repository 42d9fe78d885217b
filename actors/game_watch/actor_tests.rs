//! GameWatchActor with processes of the test's own making, and actors that record what they are told.

// The mocks are tests too, which the clippy settings for test functions do not see.
#![allow(clippy::unwrap_in_result)]

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::super::profile::Profile;
use super::super::source::{Changes, Process, Profiles};
use super::super::tuning::tests::profile;
use super::*;
use crate::wire::IpProtocol;

/// One profile, from the first look on.
struct Once(Option<Profile>);

impl ProfileSource for Once {
    fn changed(&mut self) -> Option<Profiles> {
        self.0.take().map(|profile| (vec![Arc::new(profile)], Vec::new()))
    }
}

/// What the next scans show.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<VecDeque<io::Result<Changes>>>>);

impl ProcessSource for Script {
    fn scan(&mut self) -> io::Result<Changes> {
        self.0.lock().unwrap().pop_front().unwrap_or_else(|| Ok(Changes::default()))
    }

    fn forget(&mut self) {}

    fn listening(&self, _: u32, _: Option<Ipv4Addr>) -> Option<Vec<(IpProtocol, SocketAddr)>> {
        Some(vec![(IpProtocol::Udp, SocketAddr::from(([0, 0, 0, 0], 2342)))])
    }
}

impl Script {
    fn show(&self, scan: io::Result<Changes>) {
        self.0.lock().unwrap().push_back(scan);
    }
}

/// Writes down what it is told, and is busy for a while after the first MTU.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Actor for Recorder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1);
    }
}

macro_rules! records {
    ($($message:ty),+) => { $(
        impl Handler<$message> for Recorder {
            type Result = ();

            fn handle(&mut self, message: $message, _: &mut Self::Context) {
                self.0.lock().unwrap().push(format!("{message:?}"));
            }
        }
    )+ };
}

records!(SetTuning, SetClasses, SetGameRules, SeenHosted);

impl Handler<SetMtu> for Recorder {
    type Result = ();

    fn handle(&mut self, message: SetMtu, ctx: &mut Self::Context) {
        let mut said = self.0.lock().unwrap();
        if !said.iter().any(|it| it.contains("SetMtu")) {
            ctx.wait(fut::wrap_future(tokio::time::sleep(3 * SCAN_EVERY)));
        }
        said.push(format!("{message:?}"));
    }
}

struct Bench {
    script: Script,
    said: Recorder,
    watch: Addr<GameWatchActor>,
}

impl Bench {
    async fn new(tuning: bool) -> Self {
        let (script, said) = (Script::default(), Recorder::default());
        let config = WatchConfig { detection: true, tuning };
        let doom = profile(
            "doom",
            "role = \"server\"\n[[port]]\nport = 2342\nprotocol = \"udp\"",
            "mtu = 1200\nredundancy = \"on\"",
            "",
        );
        let watch = GameWatchActor::new(config, Box::new(script.clone()), Box::new(Once(Some(doom)))).start();
        let recorder = said.clone().start();
        let links = WatchLinks {
            tuning: recorder.clone().recipient(),
            mtu: vec![recorder.clone().recipient()],
            classes: recorder.clone().recipient(),
            broadcast: Some(recorder.clone().recipient()),
            hosted: recorder.recipient(),
            events: None,
        };
        watch.send(BindWatch(links)).await.unwrap();
        Self { script, said, watch }
    }

    async fn view(&self) -> GamesView {
        self.watch.send(GetGames).await.unwrap()
    }

    async fn view_when(&self, done: impl Fn(&GamesView) -> bool) -> GamesView {
        for _ in 0..2000 {
            let view = self.view().await;
            if done(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came: {:?}", self.view().await);
    }

    async fn said(&self, what: &str) {
        for _ in 0..2000 {
            if self.said.0.lock().unwrap().iter().any(|it| it.contains(what)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} was never said: {:?}", self.said.0.lock().unwrap());
    }
}

fn doom() -> Changes {
    let process =
        Process { pid: 9, exe: Some("/x/doom".into()), name: "doom".into(), cmd: vec!["doom".into()], started: 1 };
    Changes { appeared: vec![process], gone: Vec::new() }
}

#[actix::test]
async fn everybody_hears_of_a_game_and_of_its_end_though_they_are_busy() {
    let bench = Bench::new(true).await;
    let gone = || Changes { gone: vec![9], ..Changes::default() };
    for scan in [doom(), gone(), doom(), gone(), doom()] {
        bench.script.show(Ok(scan));
    }
    let view = bench.view_when(|view| view.counters.scans >= 5).await;
    assert_eq!((view.running.len(), view.applied.len()), (1, 3), "{view:?}");
    for what in [
        "SetMtu(Some(1200))",
        "redundancy: On",
        "ports: 2342..=2342",
        "SeenHosted([Hosted { game: \"doom\", port: 2342, query_port: None }])",
    ] {
        bench.said(what).await;
    }
    assert!(bench.view().await.counters.retried > 0, "a mailbox of one was full");
    bench.said.0.lock().unwrap().clear();
    bench.script.show(Ok(gone()));
    let view = bench.view_when(|view| view.running.is_empty()).await;
    assert!(view.applied.is_empty());
    for what in ["SetMtu(None)", "redundancy: Auto", "SetClasses([])", "SeenHosted([])"] {
        bench.said(what).await;
    }
}

#[actix::test]
async fn a_game_that_the_player_names_needs_no_look_at_what_runs() {
    let bench = Bench::new(true).await;
    bench.watch.send(Played { pid: 70, game: Some("doom".into()) }).await.unwrap();
    let view = bench.view().await;
    assert_eq!((view.running.len(), view.applied.len()), (1, 3), "{view:?}");
    bench.said("SetMtu(Some(1200))").await;
    bench.watch.send(Played { pid: 70, game: None }).await.unwrap();
    assert!(bench.view().await.applied.is_empty());
    bench.said("SetMtu(None)").await;
}

#[actix::test]
async fn without_tuning_a_game_is_only_noticed() {
    let bench = Bench::new(false).await;
    bench.script.show(Ok(doom()));
    let view = bench.view_when(|view| !view.running.is_empty()).await;
    assert!(view.applied.is_empty() && !view.tuning);
    bench.said("SeenHosted([Hosted").await;
    assert!(!bench.said.0.lock().unwrap().iter().any(|it| it.contains("Set")), "{:?}", bench.said.0);
}

#[actix::test]
async fn a_scan_that_fails_is_a_problem_until_one_works() {
    let bench = Bench::new(true).await;
    bench.script.show(Err(io::Error::other("no /proc")));
    let view = bench.view_when(|view| view.counters.failed_scans == 1).await;
    assert!(view.problem.unwrap().contains("no /proc"));
    bench.view_when(|view| view.problem.is_none()).await;
}

//! Games that start and end, with processes of the test's own making.

use super::super::tuning::tests::profile;
use super::*;

/// A process in another network.
const ELSEWHERE: u32 = 4000;

struct Bench {
    watch: Watch,
    now: Instant,
    ports: Vec<(u32, u16)>,
}

fn process(pid: u32, exe: &str, cmd: &[&str]) -> Process {
    let cmd = std::iter::once(exe).chain(cmd.iter().copied()).map(Into::into).collect();
    Process { pid, exe: Some(format!("/usr/games/{exe}").into()), name: exe.into(), cmd, started: 1 }
}

impl Bench {
    fn new() -> Self {
        let doom = "[[port]]\nport = 2342\nprotocol = \"udp\"";
        let profiles =
            [profile("doom", doom, "priority = \"voice\"\nmtu = 1200", ""), profile("chess", "", "mtu = 1300", "")];
        let mut watch = Watch::default();
        watch.set_profiles(profiles.into_iter().map(Arc::new).collect(), Vec::new());
        Self { watch, now: Instant::now(), ports: Vec::new() }
    }

    fn look(&mut self, appeared: Vec<Process>, gone: &[u32]) -> News {
        self.now += Duration::from_secs(2);
        let ports = &self.ports;
        let changes = Changes { appeared, gone: gone.to_vec() };
        self.watch.observe(self.now, 0, &changes, false, &mut |pid| {
            let of = ports.iter().filter(|(owner, _)| *owner == pid);
            let open = of.map(|(_, port)| (IpProtocol::Udp, SocketAddr::from(([0, 0, 0, 0], *port)))).collect();
            (pid != ELSEWHERE).then_some(open)
        })
    }
}

fn kinds(news: &News) -> Vec<String> {
    let text = |event: &Event| match event {
        Event::GameStarted { game, pid, .. } => format!("start {game} {pid}"),
        Event::GameStopped { game, pid, .. } => format!("stop {game} {pid}"),
        Event::TuningApplied { what, game, .. } => format!("+{what} {game}"),
        Event::TuningUndone { what, game, .. } => format!("-{what} {game}"),
        Event::PeerConnected { .. }
        | Event::PathChanged { .. }
        | Event::PeerDisconnected { .. }
        | Event::ProfileProblem { .. } => format!("{event:?}"),
    };
    news.events.iter().map(text).collect()
}

#[test]
fn a_game_starts_opens_its_port_and_ends() {
    let mut bench = Bench::new();
    assert_eq!(bench.look(vec![process(7, "bash", &[]), process(8, "sleep", &["9"])], &[]), News::default());
    let news = bench.look(vec![process(9, "doom", &["-server"])], &[]);
    assert_eq!(kinds(&news), ["start doom 9", "+mtu doom", "+priority doom"]);
    assert!(news.running && news.tuning);
    let game = &bench.watch.running()[0];
    assert_eq!((game.pid, game.confidence, game.reason.as_str()), (9, Confidence::Likely, "program doom"));
    bench.ports.push((9, 2342));
    let news = bench.look(Vec::new(), &[]);
    assert!(news.running && !news.tuning && news.events.is_empty(), "{news:?}");
    let game = &bench.watch.running()[0];
    assert_eq!((game.confidence, game.reason.as_str()), (Confidence::Certain, "program doom; listens on UDP 2342"));
    assert_eq!(bench.look(Vec::new(), &[]), News::default());
    let news = bench.look(Vec::new(), &[7, 9]);
    assert_eq!(kinds(&news), ["stop doom 9", "-mtu doom", "-priority doom"]);
    assert!(bench.watch.running().is_empty());
    assert_eq!(*bench.watch.wanted(), Wanted::default());
}

#[test]
fn a_quick_restart_is_one_stop_and_one_start() {
    let mut bench = Bench::new();
    bench.look(vec![process(9, "doom", &[])], &[]);
    let news = bench.look(vec![process(10, "doom", &[])], &[9]);
    assert_eq!(kinds(&news), ["stop doom 9", "start doom 10"]);
    assert!(!news.tuning, "what it wants is the same");
    // A second process of the same game is no second game, and goes on where the first ends.
    assert_eq!(bench.look(vec![process(11, "doom", &[])], &[]), News::default());
    let news = bench.look(Vec::new(), &[10]);
    assert!(news.running && news.events.is_empty(), "{news:?}");
    assert_eq!(bench.watch.running()[0].pid, 11);
    assert_eq!(kinds(&bench.look(Vec::new(), &[11])).first().map(String::as_str), Some("stop doom 11"));
}

#[test]
fn two_games_share_and_the_last_restores_the_defaults() {
    let mut bench = Bench::new();
    bench.look(vec![process(1, "chess", &[])], &[]);
    assert_eq!(bench.watch.wanted().mtu, Some(1300));
    let news = bench.look(vec![process(2, "doom", &[])], &[]);
    assert_eq!(kinds(&news), ["start doom 2", "-mtu chess", "+mtu doom", "+priority doom"]);
    assert_eq!(bench.watch.wanted().mtu, Some(1200));
    bench.look(Vec::new(), &[2]);
    assert_eq!(bench.watch.wanted().mtu, Some(1300));
    bench.look(Vec::new(), &[1]);
    assert_eq!(*bench.watch.wanted(), Wanted::default());
}

#[test]
fn servers_are_told_once_each_while_they_run() {
    let mut bench = Bench::new();
    let doom = "role = \"server\"\n[[port]]\nport = \"2342-2350\"\nprotocol = \"udp\"";
    bench.watch.set_profiles(vec![Arc::new(profile("doom", doom, "", ""))], Vec::new());
    let told = |bench: &Bench| bench.watch.hosted(None).iter().map(|it| it.port).collect::<Vec<_>>();
    bench.look((1..=3).map(|pid| process(pid, "doom", &[])).collect(), &[]);
    assert!(told(&bench).is_empty(), "no port is open");
    // Two processes share a socket, as a server and what it has forked do.
    bench.ports = vec![(1, 2343), (2, 2342), (3, 2343)];
    bench.look(vec![process(ELSEWHERE, "doom", &[])], &[]);
    assert_eq!(told(&bench), [2343, 2342]);
    bench.look(Vec::new(), &[1, 3]);
    assert_eq!(told(&bench), [2342]);
    bench.look(Vec::new(), &[2]);
    assert!(told(&bench).is_empty());
    bench.ports = (1..=40).map(|pid| (pid, 2342 + (pid % 9) as u16)).collect();
    bench.look((1..=40).map(|pid| process(pid, "doom", &[])).collect(), &[]);
    assert_eq!(told(&bench).len(), MAX_HOSTED, "more than a record holds are left out");
}

#[test]
fn a_game_in_a_container_is_none_of_ours() {
    let mut bench = Bench::new();
    let news = bench.look(vec![process(ELSEWHERE, "doom", &[])], &[]);
    assert_eq!(news, News::default());
    assert!(bench.watch.running().is_empty());
}

#[test]
fn a_process_that_becomes_another_program_is_another() {
    let mut bench = Bench::new();
    assert_eq!(bench.look(vec![process(5, "bash", &["doom"])], &[]), News::default());
    assert_eq!(kinds(&bench.look(vec![process(5, "doom", &[])], &[])).first().unwrap(), "start doom 5");
    assert_eq!(kinds(&bench.look(vec![process(5, "bash", &[])], &[])).first().unwrap(), "stop doom 5");
}

#[test]
fn a_game_that_the_player_names_is_tuned_for_whatever_its_program_is_called() {
    let mut bench = Bench::new();
    let named = |bench: &mut Bench, pid, id: Option<&str>| bench.watch.set_played(7, pid, id.map(Into::into));
    assert_eq!(named(&mut bench, 40, Some("no-such-game")), News::default());
    assert!(!bench.watch.knows("no-such-game") && bench.watch.knows("doom"));
    let news = named(&mut bench, 50, Some("doom"));
    assert_eq!(kinds(&news), ["start doom 50", "+mtu doom", "+priority doom"]);
    assert_eq!(bench.watch.running()[0].confidence, Confidence::Certain);
    // Looks at what runs change nothing, and its program is no second game.
    assert_eq!(bench.look(Vec::new(), &[]), News::default());
    let changes = Changes { appeared: vec![process(8, "sleep", &[])], gone: Vec::new() };
    assert_eq!(bench.watch.observe(bench.now, 0, &changes, true, &mut |_| None), News::default());
    bench.ports.push((51, 2342));
    let news = bench.look(vec![process(51, "doom", &[])], &[]);
    assert!(news.running && news.events.is_empty(), "{news:?}");
    assert_eq!((bench.watch.running().len(), bench.watch.running()[0].listening.len()), (1, 1));
    // Another one of the same game goes on.
    assert!(named(&mut bench, 60, Some("doom")).events.is_empty());
    assert!(named(&mut bench, 50, None).events.is_empty());
    bench.look(Vec::new(), &[51]);
    let news = named(&mut bench, 60, None);
    assert_eq!(kinds(&news), ["stop doom 60", "-mtu doom", "-priority doom"]);
    assert_eq!(*bench.watch.wanted(), Wanted::default());
    for pid in 0..1000 {
        named(&mut bench, pid, Some("doom"));
    }
    assert_eq!(bench.watch.played.len(), MAX_PLAYED);
    assert!(bench.watch.counters.dropped_played > 0, "and that is counted");
}

#[test]
fn other_profiles_are_applied_to_what_runs() {
    let mut bench = Bench::new();
    bench.look(vec![process(5, "doom", &[])], &[]);
    let problem = ProfileProblem { file: "x.toml".into(), line: Some(3), reason: "no".into() };
    let events = bench.watch.set_profiles(Vec::new(), vec![problem.clone()]);
    assert_eq!(events, [Event::ProfileProblem { file: "x.toml".into(), line: Some(3), reason: "no".into() }]);
    assert!(bench.watch.set_profiles(Vec::new(), vec![problem]).is_empty(), "told once");
    let changes = Changes { appeared: vec![process(5, "doom", &[])], gone: Vec::new() };
    let news = bench.watch.observe(bench.now, 0, &changes, true, &mut |_| Some(Vec::new()));
    assert_eq!(kinds(&news).first().unwrap(), "stop doom 5");
    assert_eq!(*bench.watch.wanted(), Wanted::default());
}

#[test]
fn more_processes_than_can_be_kept_are_left_out() {
    let mut bench = Bench::new();
    let many = (0..1000).map(|pid| process(pid, "doom", &[])).collect();
    bench.look(many, &[]);
    assert_eq!(bench.watch.candidates.len(), MAX_CANDIDATES);
    assert_eq!(bench.watch.running().len(), 1);
}

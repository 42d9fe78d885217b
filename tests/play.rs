//! `lanrage play` as an ordinary user: a real game that others cannot join without it, and what it leaves behind.

#![allow(clippy::unwrap_used)]

mod lab;

use std::fs;
use std::path::Path;

use lab::{Host, Lab, Node, NodeOptions, PATIENCE, Process, shown, until};
use rustix::process::{Pid, Signal, kill_process};

const PROGRAMS: &[(&str, &str)] = &[("setpriv", "util-linux"), ("unshare", "util-linux"), ("socat", "socat")];
const FREECIV: &[(&str, &str)] =
    &[("setpriv", "util-linux"), ("unshare", "util-linux"), ("socat", "socat"), ("freeciv-server", "freeciv-server")];
const SLIRP: &[(&str, &str)] =
    &[("setpriv", "util-linux"), ("unshare", "util-linux"), ("socat", "socat"), ("slirp4netns", "slirp4netns")];

/// The command as an ordinary user, on a machine that is called `name` and lets users open the TAP driver, as desktops do.
/// Each runs in a mount namespace of its own, so the machine of the test is not changed.
fn as_user<'a>(name: &'a str, caps: &'a str) -> Vec<&'a str> {
    const SCRIPT: &str = "mount -t tmpfs none /run/lock && mknod -m 666 /run/lock/tun c 10 200 && \
        mount --bind /run/lock/tun /dev/net/tun && hostname \"$1\" && caps=$2 && shift 2 && \
        exec setpriv --reuid=nobody --regid=nogroup --clear-groups $caps env HOME=/nonexistent \"$@\"";
    vec!["unshare", "--uts", "sh", "-c", SCRIPT, "sh", name, caps]
}

/// A node that may make its device and nothing else, so that `lanrage play` of the same user can talk to it.
fn node(host: &Host, name: &str) -> Node {
    let data = host.dir().join(format!("data-{name}"));
    fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(65534), Some(65534)).unwrap();
    let caps = "--inh-caps=+net_admin,+net_raw --ambient-caps=+net_admin,+net_raw";
    Node::start(host, name, &NodeOptions::alone().wrapped(&as_user(name, caps)))
}

fn party<const N: usize>(nodes: [&Node; N]) {
    let (code, _) = nodes[0].create();
    for node in &nodes[1..] {
        node.join(&code);
        node.expect_ping(nodes[0]);
    }
}

fn play(node: &Node, args: &[&str]) -> Vec<String> {
    let binary = lab::binary();
    let data = node.data().to_str().unwrap().to_owned();
    let mut all: Vec<String> = as_user(node.name(), "").into_iter().map(String::from).collect();
    all.extend([binary, "play".into(), "--data-dir".into(), data]);
    all.extend(args.iter().copied().map(String::from));
    all
}

/// `lanrage play` by another file than the program under test, and with something put before it.
fn play_by(program: &str, before: &[&str], node: &Node, args: &[&str]) -> Vec<String> {
    let mut all = play(node, args);
    let at = as_user("", "").len();
    all[at] = program.into();
    all.splice(at..at, before.iter().copied().map(String::from));
    all
}

fn strs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

fn run(node: &Node, args: &[&str]) -> lab::Output {
    node.host().run(&play(node, args).iter().map(String::as_str).collect::<Vec<_>>())
}

fn spawn(node: &Node, args: &[&str]) -> Process {
    node.host().spawn(&play(node, args).iter().map(String::as_str).collect::<Vec<_>>())
}

/// Programs with a network of their own, by the node's account.
fn plays(node: &Node) -> usize {
    node.status()["tun"]["plays"].as_array().expect("a list of plays").len()
}

fn wait_plays(node: &Node, count: usize) {
    until(&format!("{} has {count} programs with a network", node.name()), PATIENCE, || {
        let found = plays(node);
        if found == count { Ok(()) } else { Err(format!("{found}")) }
    });
}

fn child_of(pid: u32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().next().expect("a child").parse().unwrap()
}

fn network_space(pid: u32) -> Option<String> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok().map(|link| link.display().to_string())
}

/// Does any process hold this network namespace?
fn space_lives(space: &str) -> bool {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().any(|pid: u32| network_space(pid).as_deref() == Some(space))
}

/// One TCP connection, in the words of socat.
fn dial(host: &Host, to: &str) -> lab::Output {
    host.run(&["socat", "-u", "-T1", "/dev/null", &format!("TCP4:{to},connect-timeout=5")])
}

#[test]
fn a_game_that_tells_its_computers_name_can_be_joined() {
    let Some(lab) = Lab::with_programs(FREECIV) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let (a, b) = (node(&a_host, "anns-pc"), node(&b_host, "bobs-pc"));
    party([&a, &b]);
    // A router on the physical LAN: where the server joins its multicast group, and where names could be looked up.
    a_host.ip(&["route", "add", "default", "dev", "eth0"]);
    let server = ["/usr/games/freeciv-server", "-p", "5556", "-q", "600"];

    // Without: the server tells "anns-pc", which nobody but Ann's computer can look up.
    let plain: Vec<&str> = as_user("anns-pc", "").into_iter().chain(server).collect();
    let mut without = a_host.spawn(&plain);
    let told = until("freeciv answers on its own machine", PATIENCE, || told_name(&a_host));
    assert_eq!(told, "anns-pc");
    let refused = dial(&b_host, &format!("{told}:5556"));
    assert!(!refused.ok(), "a friend should not be able to look up {told}");
    shown(format!(
        "without: the server tells the name {told:?}; a friend: {}",
        refused.stderr.lines().last().unwrap_or("")
    ));
    without.kill9();

    // With, on the server's side: it tells its virtual IP, and every friend can join.
    let with = spawn(&a, &[&["--game", "freeciv", "--name-is-address", "--"][..], &server].concat());
    wait_plays(&a, 1);
    let game = child_of(with.pid());
    let told = until("freeciv answers in its namespace", PATIENCE, || told_name_in(game));
    assert_eq!(told, a.virtual_ip().to_string());
    until("a friend joins", PATIENCE, || {
        let dialled = dial(&b_host, &format!("{told}:5556"));
        if dialled.ok() { Ok(()) } else { Err(dialled.all()) }
    });
    shown(format!("with it on the server's side: it tells {told}, and a friend's connection to it stands"));

    // With, on the friend's side: there the names of the party's computers are known.
    let dialled = run(&b, &["--", "socat", "-u", "-T1", "/dev/null", "TCP4:anns-pc:5556,connect-timeout=5"]);
    dialled.expect_ok();
    shown("with it on the friend's side: the name anns-pc leads to Ann's virtual IP");
}

/// The host name in freeciv's answer to a query on its multicast group, asked and heard on `host`.
fn told_name(host: &Host) -> Result<String, String> {
    parse_told(&host.run(&["sh", "-c", ASK]))
}

fn told_name_in(pid: u32) -> Result<String, String> {
    let target = format!("--target={pid}");
    let mut ask = std::process::Command::new("nsenter");
    parse_told(&said_of(ask.args([&target, "--user", "--net", "--preserve-credentials", "sh", "-c", ASK])))
}

fn said_of(command: &mut std::process::Command) -> lab::Output {
    let done = command.output().unwrap();
    lab::Output {
        command: String::new(),
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// The query `02` to 225.1.1.1:4555; the answer comes by multicast to port 4556. A host without a default route needs the
/// device named.
const ASK: &str = "dev=$(ip -o -4 addr | awk '$2 != \"lo\" {sub(\"/.*\",\"\",$4); print $4; exit}'); \
    (socat -u -T2 UDP4-RECV:4556,ip-add-membership=225.1.1.1:$dev,reuseaddr - & \
     sleep 0.3; printf '\\002' | socat -u - UDP4-DATAGRAM:225.1.1.1:4555,ip-multicast-if=$dev; wait) | tr -c '[:print:]' '\\n'";

/// The answer is a version byte and then texts: version, server status, port and so on, the host's name among them.
fn parse_told(said: &lab::Output) -> Result<String, String> {
    let mut lines = said.stdout.lines().filter(|line| !line.is_empty());
    let name = lines.find(|line| *line == "anns-pc" || line.parse::<std::net::Ipv4Addr>().is_ok());
    name.map(str::to_owned).ok_or_else(|| said.all())
}

#[test]
fn the_game_is_the_callers_own() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let (a, b) = (node(&a_host, "anns-pc"), node(&b_host, "bobs-pc"));
    party([&a, &b]);

    let script = "id -u; id -g; grep -c . /proc/self/net/dev; cat /proc/net/route; echo $GREETING; read line; echo $line; \
        grep CapEff /proc/self/status; getent hosts anns-pc bobs-pc; exit 7";
    let command = play(&a, &["--", "sh", "-c", script]);
    let mut all = vec!["sh", "-c", "echo typed | GREETING=hello \"$@\"", "sh"];
    all.extend(command.iter().map(String::as_str));
    let said = a_host.run(&all);
    assert_eq!(said.code, Some(7), "{}", said.all());
    for part in ["65534", "hello", "typed", "CapEff:\t0000000000000000"] {
        assert!(said.stdout.contains(part), "{part} in {}", said.all());
    }
    // Two lines of heading, the loopback device and the party's.
    assert_eq!(said.stdout.lines().nth(2), Some("4"), "{}", said.all());
    assert!(!said.stdout.contains("eth0"), "no other network: {}", said.all());
    for (ip, name) in [(a.virtual_ip(), "anns-pc"), (b.virtual_ip(), "bobs-pc")] {
        let known = said.stdout.lines().any(|line| line.split_whitespace().eq([ip.to_string().as_str(), name]));
        assert!(known, "{name} is {ip}: {}", said.all());
    }
    assert!(!fs::read_to_string("/etc/hosts").unwrap().contains("lanrage play"), "the system's file is as it was");
    shown("user, group, environment, input, output and exit code are the caller's; no rights; one network");

    // A signal that only `lanrage play` gets reaches the game.
    let mut waits = spawn(&a, &["--", "sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"]);
    until("the game runs", PATIENCE, || if waits.stdout().contains("ready") { Ok(()) } else { Err(waits.all()) });
    assert_eq!(waits.terminate(PATIENCE).code(), Some(42));
    assert_eq!(run(&a, &["--", "sh", "-c", "kill -9 $$"]).code, Some(128 + 9));
    run(&a, &["--", "/nonexistent/game"]).expect_failure(&["/nonexistent/game", "cannot be started"]);
    wait_plays(&a, 0);
    shown("SIGTERM reaches the game (exit code 42); a game that is killed gives 137");
}

#[test]
fn the_game_begins_as_the_caller_began() {
    let Some(lab) = Lab::with_programs(&[PROGRAMS, &[("setcap", "libcap2-bin")]].concat()) else { return };
    let [a_host] = lab.lan(["a"]);
    let a = node(&a_host, "anns-pc");
    a.create();

    // Not by way of a shell: that sets its signals itself.
    let blocked = ["--", "grep", "SigBlk", "/proc/self/status"];
    assert_eq!(run(&a, &blocked).expect_ok().stdout, "SigBlk:\t0000000000000000\n");
    let caller = play_by(&lab::binary(), &["env", "--block-signal=USR1"], &a, &blocked);
    assert_eq!(a_host.run(&strs(&caller)).expect_ok().stdout, "SigBlk:\t0000000000000200\n");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::USR1, 138)] {
        let mut sleeps = spawn(&a, &["--", "sleep", "600"]);
        let game = until("the game runs", PATIENCE, || {
            let child = fs::read_to_string(format!("/proc/{0}/task/{0}/children", sleeps.pid())).unwrap_or_default();
            let child: u32 = child.trim().parse().map_err(|_| "no child yet".to_owned())?;
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.trim() == "sleep" { Ok(child) } else { Err(name) }
        });
        kill_process(Pid::from_raw(i32::try_from(sleeps.pid()).unwrap()).unwrap(), signal).unwrap();
        assert_eq!(sleeps.wait(PATIENCE).code(), Some(code), "{signal:?} to the game {game}");
    }
    shown("no signal is blocked that was not; INT, TERM, HUP and USR1 end a game that does not handle them");

    // As installed: with rights of the file. The loader takes such variables out of the program's own environment.
    let program = a_host.dir().join("lanrage-with-rights");
    fs::copy(lab::binary(), &program).unwrap();
    let program = program.to_str().unwrap();
    a_host.run(&["setcap", "cap_net_admin,cap_net_raw+ep", program]).expect_ok();
    let given = ["env", "LD_LIBRARY_PATH=/games/lib", "TMPDIR=/games/tmp", "PLAIN=3"];
    let show = ["--", "sh", "-c", "echo $LD_LIBRARY_PATH $TMPDIR $PLAIN; grep CapEff /proc/self/status"];
    let said = a_host.run(&strs(&play_by(program, &given, &a, &show))).expect_ok();
    assert_eq!(said.stdout, "/games/lib /games/tmp 3\nCapEff:\t0000000000000000\n", "{}", said.all());
    shown("by a program with file capabilities the game has LD_LIBRARY_PATH and TMPDIR, and no capability");
}

#[test]
fn a_running_game_learns_of_new_friends() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let a = node(&a_host, "anns-pc");
    let (code, _) = a.create();
    let game = spawn(&a, &["--", "sh", "-c", "until getent hosts bobs-pc; do sleep 0.1; done"]);
    wait_plays(&a, 1);
    let b = node(&b_host, "bobs-pc");
    b.join(&code);
    let said = game.finish(PATIENCE).expect_ok();
    assert!(said.stdout.starts_with(&b.virtual_ip().to_string()) && said.stderr.is_empty(), "{}", said.all());
    shown("a friend that joins while the game runs is known to it by name");
}

#[test]
fn both_sides_of_a_machine_have_their_ports() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let (a, b) = (node(&a_host, "anns-pc"), node(&b_host, "bobs-pc"));
    party([&a, &b]);
    let server = |text: &str, port: &str| {
        ["socat".into(), format!("TCP4-LISTEN:{port},fork,reuseaddr"), format!("SYSTEM:echo {text}")]
    };
    let outside = server("outside", "7001");
    let _outside = a_host.spawn(&outside.iter().map(String::as_str).collect::<Vec<_>>());
    let inside = server("inside", "7002");
    let mut args = vec!["--"];
    args.extend(inside.iter().map(String::as_str));
    let _inside = spawn(&a, &args);
    wait_plays(&a, 1);
    let hear = |port: u16, text: &str| {
        until(&format!("port {port} says {text}"), PATIENCE, || {
            let said =
                b_host.run(&["socat", "-u", "-T2", &format!("TCP4:{}:{port},connect-timeout=2", a.virtual_ip()), "-"]);
            if said.stdout.trim() == text { Ok(()) } else { Err(said.all()) }
        });
    };
    hear(7002, "inside");
    hear(7001, "outside");
    // UDP from inside, answered from another port than was asked.
    let echo = "UDP4-RECVFROM:7003,fork,reuseaddr";
    let answer = "SYSTEM:printf pong | socat -u - UDP4-DATAGRAM\\:$SOCAT_PEERADDR\\:$SOCAT_PEERPORT";
    let _echo = b_host.spawn(&["socat", echo, answer]);
    let ask = format!(
        "for i in 1 2 3 4 5 6 7 8; do (printf ping; sleep 1) | socat -T1 - UDP4-DATAGRAM:{}:7003,bind=:7004; done | head -c 4",
        b.virtual_ip()
    );
    let said = run(&a, &["--", "sh", "-c", &ask]);
    assert_eq!(said.stdout, "pong", "{}", said.all());
    shown("servers inside and outside answer on one virtual IP; an answer from another port arrives inside");
}

/// A profile whose program is never found by its name.
const NAMED: &str = r#"
id = "my-game"
name = "My Game"
sources = ["https://example.org/"]

[[process]]
exe = "no-program-has-this-name"

[[port]]
port = 7100
protocol = "udp"

[tuning]
keepalive_s = 5
mtu = 1200
priority = "voice"
"#;

/// Waits until the node says that this game runs, and returns what it says.
fn wait_running(node: &Node, game: &str) -> lab::Answer {
    until(&format!("{game} is noticed"), PATIENCE, || {
        let games = node.status()["games"].clone();
        let found = games["running"].as_array().and_then(|all| all.iter().find(|it| it["id"] == game).cloned());
        found.filter(|it| it["confidence"] == "certain").ok_or_else(|| games.to_string())
    })
}

fn applied(node: &Node) -> Vec<(String, String)> {
    let games = node.status()["games"].clone();
    let text = |value: &lab::Answer| value.as_str().unwrap().to_owned();
    games["applied"].as_array().unwrap().iter().map(|it| (text(&it["what"]), text(&it["value"]))).collect()
}

fn wait_undone(node: &Node) {
    until("all is as without a game", PATIENCE, || {
        let status = node.status();
        let none = |what: &str| status["games"][what].as_array().is_some_and(Vec::is_empty);
        if none("running") && none("applied") && status["tun"]["mtu"] == 1360 {
            Ok(())
        } else {
            Err(format!("{} {}", status["games"], status["tun"]))
        }
    });
}

#[test]
fn a_game_inside_is_noticed_and_tuned_for() {
    let Some(lab) = Lab::with_programs(&[PROGRAMS, &[("chocolate-server", "chocolate-doom")]].concat()) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let (a, b) = (node(&a_host, "anns-pc"), node(&b_host, "bobs-pc"));
    party([&a, &b]);
    wait_undone(&a);

    // By its program, as a game outside would be; friends see the server.
    let mut server = spawn(&a, &["--", "/usr/games/chocolate-server", "-privateserver"]);
    let running = wait_running(&a, "chocolate-doom");
    assert_eq!((&running["role"], running["pid"].as_u64()), (&"server".into(), Some(child_of(server.pid()).into())));
    let set = applied(&a);
    assert!(set.iter().any(|(what, value)| what == "priority" && value.contains("UDP 2342")), "{set:?}");
    let listed = until("a friend lists the server", PATIENCE, || {
        let all = b.json(&["games"])["servers"].clone();
        let found = all.as_array().and_then(|all| all.iter().find(|it| it["game"] == "chocolate-doom").cloned());
        found.ok_or_else(|| all.to_string())
    });
    assert_eq!((&listed["state"], &listed["ip"]), (&"answers".into(), &a.virtual_ip().to_string().into()));
    // One in a namespace is on no other machine, though all share one table of processes here.
    assert_eq!(b.status()["games"]["running"].as_array().map(Vec::len), Some(0));
    shown(format!("inside, noticed by its program: {}; set: {set:?}; a friend lists it", running["reason"]));
    // It takes no notice of SIGTERM.
    server.kill9();
    wait_undone(&a);

    // By the player's word, where no program tells. The namespace is made with the game's MTU.
    let profiles = a.data().join("profiles");
    fs::create_dir_all(&profiles).unwrap();
    fs::write(profiles.join("my-game.toml"), NAMED).unwrap();
    let mut game = spawn(&a, &["--game", "my-game", "--", "sh", "-c", "ip -o link show lanrage0; exec sleep 600"]);
    let running = wait_running(&a, "my-game");
    assert_eq!(running["pid"].as_u64(), Some(game.pid().into()), "{running}");
    let set = applied(&a);
    for expected in [("keepalive", "5 s"), ("mtu", "1200 bytes"), ("priority", "voice (DSCP 46) on UDP 7100")] {
        assert!(set.iter().any(|(what, value)| (what.as_str(), value.as_str()) == expected), "{expected:?} in {set:?}");
    }
    until("the device inside has the game's MTU", PATIENCE, || {
        if game.stdout().contains(" mtu 1200 ") { Ok(()) } else { Err(game.all()) }
    });
    until("and the one outside", PATIENCE, || {
        let link = a_host.ip(&["-o", "link", "show", "lanrage0"]);
        if link.contains(" mtu 1200 ") { Ok(()) } else { Err(link) }
    });
    let peer = until("keepalive is in use", PATIENCE, || {
        let peer = a.peer("bobs-pc").ok_or("no bob")?;
        if peer["keepalive_s"] == 5 { Ok(peer) } else { Err(peer.to_string()) }
    });
    shown(format!("inside, by --game: set: {set:?}; keepalive {} s; MTU 1200 inside and outside", peer["keepalive_s"]));
    game.kill9();
    wait_undone(&a);
    until("the device has its own MTU", PATIENCE, || {
        let link = a_host.ip(&["-o", "link", "show", "lanrage0"]);
        if link.contains(" mtu 1360 ") { Ok(()) } else { Err(link) }
    });
    shown("undone when it ends, also by kill -9");
}

/// By broadcast with a listener on either side, and by multicast to a group that only the game inside has joined.
#[test]
fn a_shout_of_a_friend_is_heard_inside_exactly_once() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let (a, b) = (node(&a_host, "anns-pc"), node(&b_host, "bobs-pc"));
    party([&a, &b]);
    let by_broadcast = "UDP4-RECV:7200,reuseaddr";
    let by_multicast = format!("UDP4-RECV:7201,reuseaddr,ip-add-membership=239.1.2.3:{}", a.virtual_ip());
    let outside = a_host.spawn(&["socat", "-u", by_broadcast, "-"]);
    let inside = spawn(&a, &["--", "socat", "-u", by_broadcast, "-"]);
    let group = spawn(&a, &["--", "socat", "-u", &by_multicast, "-"]);
    wait_plays(&a, 2);
    let say = |text: &str| {
        let broadcast = "UDP4-DATAGRAM:10.66.255.255:7200,broadcast".to_owned();
        let multicast = format!("UDP4-DATAGRAM:239.1.2.3:7201,ip-multicast-if={}", b.virtual_ip());
        for (kind, to) in [("broadcast", broadcast), ("multicast", multicast)] {
            let say = format!("echo '{kind} {text}.' | socat -u - {to}");
            b_host.run(&["sh", "-c", &say]).expect_ok();
        }
    };
    let sides = || [("broadcast", inside.stdout()), ("multicast", group.stdout()), ("broadcast", outside.stdout())];
    let count = |heard: &str, kind: &str, text: &str| heard.matches(&format!("{kind} {text}.")).count();
    until("all listen", PATIENCE, || {
        say("are you there");
        let sides = sides();
        let all = sides.iter().all(|(kind, heard)| count(heard, kind, "are you there") > 0);
        if all { Ok(()) } else { Err(format!("{sides:?}")) }
    });
    // What comes twice comes before the next.
    for number in 0..20 {
        say(&number.to_string());
    }
    until("the last is heard", PATIENCE, || {
        let sides = sides();
        let all = sides.iter().all(|(kind, heard)| count(heard, kind, "19") > 0);
        if all { Ok(()) } else { Err(format!("{sides:?}")) }
    });
    for (kind, heard) in sides() {
        for number in 0..20 {
            assert_eq!(count(&heard, kind, &number.to_string()), 1, "{kind} {number} in {heard:?}");
        }
    }
    shown("20 broadcasts and 20 multicasts of a friend: each heard once inside, the broadcasts once outside as well");
}

#[test]
fn nothing_stays_after_a_crash() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let (mut a, b) = (node(&a_host, "anns-pc"), node(&b_host, "bobs-pc"));
    party([&a, &b]);
    let kill9 = |pid: u32| {
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    };
    let running =
        |node: &Node| {
            let process = spawn(node, &["--", "sh", "-c", "echo ready; exec sleep 600"]);
            until("the game runs", PATIENCE, || {
                if process.stdout().contains("ready") { Ok(()) } else { Err(process.all()) }
            });
            wait_plays(node, 1);
            let game = child_of(process.pid());
            let space = network_space(game).expect("a namespace");
            (process, game, space)
        };
    let wait_gone =
        |space: &str| {
            until("the namespace is gone", PATIENCE, || {
                if space_lives(space) { Err("still there".into()) } else { Ok(()) }
            });
        };

    let (mut process, game, space) = running(&a);
    process.kill9();
    until("the game ends", PATIENCE, || {
        let state = fs::read_to_string(format!("/proc/{game}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") { Ok(()) } else { Err(state) }
    });
    wait_gone(&space);
    wait_plays(&a, 0);
    shown("kill -9 of lanrage play: game, namespace and device are gone");

    let (mut process, game, space) = running(&a);
    kill9(game);
    assert_eq!(process.wait(PATIENCE).code(), Some(137));
    wait_gone(&space);
    wait_plays(&a, 0);
    shown("kill -9 of the game: lanrage play ends with 137, namespace and device are gone");

    // The node dies under the game: its network comes back with the node.
    let pings = format!("while :; do ping -n -c1 -W1 {} >/dev/null && echo answered; sleep 0.2; done", b.virtual_ip());
    let process = spawn(&a, &["--", "sh", "-c", &pings]);
    let answered = || process.stdout().lines().count();
    until("the game reaches its friend", PATIENCE, || if answered() > 0 { Ok(()) } else { Err(process.all()) });
    a.kill9();
    until("it is said", PATIENCE, || if process.stderr().contains("no network") { Ok(()) } else { Err(process.all()) });
    let before = answered();
    a.start_again();
    wait_plays(&a, 1);
    until("the game reaches its friend again", PATIENCE, || {
        if answered() > before + 1 { Ok(()) } else { Err(process.all()) }
    });
    shown("kill -9 of the node: after its restart the running game has its network again");
    assert!(Path::new(&a.data().join("play.sock")).exists());
}

#[test]
fn what_is_missing_is_said() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let [a_host] = lab.lan(["a"]);
    let a = node(&a_host, "anns-pc");
    run(&a, &["--", "true"]).expect_failure(&["no party", "lanrage party create"]);
    a.create();
    run(&a, &["--", "true"]).expect_ok();

    // No user namespaces: forbidden in a namespace around it, so that the machine is not changed.
    let mut command: Vec<String> = as_user("anns-pc", "").into_iter().map(String::from).collect();
    let inner = play(&a, &["--", "true"]);
    let inner = &inner[as_user("", "").len()..];
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
    command.extend(["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"].map(String::from));
    command.extend(inner.iter().cloned());
    let refused = a_host.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = refused.expect_failure(&["user namespaces", "max_user_namespaces="]);
    shown(format!("user namespaces off: {}", refused.stderr.trim()));

    let mut command: Vec<String> = as_user("anns-pc", "").into_iter().map(String::from).collect();
    command.extend(["env".to_owned(), "PATH=/nonexistent".into()]);
    command.extend(play(&a, &["--internet", "--", "true"])[as_user("", "").len()..].iter().cloned());
    a_host.run(&command.iter().map(String::as_str).collect::<Vec<_>>()).expect_failure(&["slirp4netns", "apt install"]);

    // Another user may not.
    let other: Vec<String> =
        play(&a, &["--", "true"]).into_iter().map(|arg| arg.replace("--reuid=nobody", "--reuid=daemon")).collect();
    a_host.run(&other.iter().map(String::as_str).collect::<Vec<_>>()).expect_failure(&["another user"]);
}

#[test]
fn the_internet_is_behind_the_party_when_asked() {
    let Some(lab) = Lab::with_programs(SLIRP) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let (a, b) = (node(&a_host, "anns-pc"), node(&b_host, "bobs-pc"));
    party([&a, &b]);
    // Stands for the internet: an address that is in no party.
    let _far = b_host.spawn(&["socat", "TCP4-LISTEN:7010,fork,reuseaddr", "SYSTEM:echo far"]);
    let script = format!(
        "ls /sys/class/net >/dev/null; awk 'NR > 2 {{print $1}}' /proc/net/dev; socat -u -T3 TCP4:{}:7010,connect-timeout=3 -; \
         socat -u -T3 TCP4:{}:7010,connect-timeout=3 -",
        b_host.address(),
        b.virtual_ip()
    );
    let with = run(&a, &["--internet", "--", "sh", "-c", &script]);
    let lines: Vec<&str> = with.stdout.lines().map(str::trim).collect();
    assert_eq!(lines, ["lo:", "lanrage0:", "internet0:", "far", "far"], "{}", with.all());
    let without = run(&a, &["--", "sh", "-c", &script]);
    let lines: Vec<&str> = without.stdout.lines().map(str::trim).collect();
    assert_eq!(lines, ["lo:", "lanrage0:", "far"], "{}", without.all());
    shown("with --internet the far address answers too, and the party's device comes first; without, the party only");
    let left = a_host.run(&["sh", "-c", "ip netns pids $(ip netns identify $$) | xargs -r ps -o args= -p"]);
    assert!(!left.stdout.contains("slirp4netns"), "the helper ends with the game: {}", left.all());
}

/// Programs that stand in place of slirp4netns.
#[test]
fn a_helper_that_fails_is_told_of() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let [a_host] = lab.lan(["a"]);
    let a = node(&a_host, "anns-pc");
    a.create();
    let stand_in = |script: &str| {
        let folder = a_host.dir().join("stand-in");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("slirp4netns");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        a_host.run(&["chmod", "755", file.to_str().unwrap()]).expect_ok();
        let path = format!("PATH={}:{}", folder.display(), std::env::var("PATH").unwrap());
        play_by(&lab::binary(), &["env", &path], &a, &["--internet", "--", "sleep", "600"])
    };
    let ready = "for it; do case $it in --ready-fd=*) printf 1 > /proc/self/fd/${it#*=};; esac; done";

    // More than a pipe holds, and then it ends.
    let ends = format!("{ready}\nhead -c 300000 /dev/zero | tr '\\0' x >&2\necho >&2; echo out of luck >&2; exit 3");
    let process = a_host.spawn(&strs(&stand_in(&ends)));
    until("its end is said", PATIENCE, || {
        let said = process.stderr();
        if said.contains("no internet any more") && said.contains("out of luck") { Ok(()) } else { Err(said) }
    });
    assert_eq!(plays(&a), 1, "the game has the party still");
    drop(process);

    // It is never ready.
    let process = a_host.spawn(&strs(&stand_in("exec sleep 600")));
    let said = process.finish(PATIENCE).expect_failure(&["internet for the game", "not there after 10 s"]);
    shown(said.stderr.trim());
}

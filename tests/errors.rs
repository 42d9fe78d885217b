//! Whatever goes wrong, the program says what it was and what to do, and ends with an exit code that is not 0.

mod lab;

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use lab::{Host, Lab, Node, NodeOptions, PATIENCE, Relay, binary, shown, until};

/// Somebody's PeerId; nobody in the lab has it.
const UNKNOWN_PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

/// A node that must end by itself, with these words.
fn refuses_to_start(host: &Host, options: &NodeOptions, words: &[&str]) {
    let mut node = Node::launch(host, "refused", options);
    let ended = node.process().wait(PATIENCE);
    let said = node.said();
    assert!(ended.code().is_some_and(|code| code != 0), "it ended with {ended}:\n{said}");
    assert!(!said.contains("panicked at"), "{said}");
    for word in words {
        assert!(said.to_lowercase().contains(&word.to_lowercase()), "no `{word}` in:\n{said}");
    }
    shown(said.lines().last().unwrap_or_default());
}

#[test]
fn codes_links_and_names() {
    let Some(lab) = Lab::new() else { return };
    let [relay_host, a_host, b_host] = lab.routed(["relay", "a", "b"]);
    let relay = Relay::start(&relay_host);
    let a = Node::start(&a_host, "alice", &NodeOptions::bootstrap(&relay));
    let b = Node::start(&b_host, "Alice", &NodeOptions::bootstrap(&relay));
    let fails = |node: &Node, args: &[&str], words: &[&str]| {
        let said = node.cli(args).expect_failure(words);
        shown(format!("{}: {}", args.join(" "), said.stderr.trim()));
    };
    let (code, _) = a.create();

    // One symbol wrong: caught by the check symbols, without asking anybody.
    let last = if code.ends_with('0') { "1" } else { "0" };
    let mistyped = format!("{}{last}", &code[..code.len() - 1]);
    fails(&b, &["party", "join", &mistyped], &[&mistyped, "not a party code"]);
    fails(&b, &["party", "join", "hello"], &["not a party code"]);
    fails(&b, &["party", "join", "lanrage://join/nonsense"], &["not"]);
    fails(&b, &["party", "leave"], &["not in a party"]);
    fails(&b, &["party", "kick", "alice"], &["not in a party"]);
    fails(&b, &["ping", "alice"], &["alice"]);
    fails(&a, &["party", "create"], &["already in the party", "party leave"]);
    fails(&a, &["party", "join", &code], &["already in the party"]);
    fails(&a, &["party", "kick", "alice"], &["yourself"]);
    fails(&b, &["party", "join", &code], &["already called", "--name"]);
    assert!(b.party().is_null());
    assert_eq!(a.members(), ["alice"]);

    // Forgiven: case, spaces, no dashes.
    drop(b);
    let b = Node::start(&b_host, "bob", &NodeOptions::bootstrap(&relay));
    b.join(&code.to_lowercase().replace('-', " "));
    b.expect_ping(&a);
}

#[test]
fn one_node_per_data_folder_and_port() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    let node = Node::start(&host, "alice", &NodeOptions::alone());
    let mut second = Node::launch_in(&host, "again", node.data(), &NodeOptions::alone());
    let ended = second.process().wait(PATIENCE);
    let said = second.said();
    assert!(!ended.success() && said.contains("already running") && said.contains("--data-dir"), "{said}");
    shown(said.trim());
    node.status();
    drop((second, node));

    let tcp = host.enter(|| TcpListener::bind("127.0.0.1:8666")).expect("a free port");
    refuses_to_start(&host, &NodeOptions::alone(), &["8666", "--api"]);
    drop(tcp);
    let udp = host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 50_001))).expect("a free port");
    refuses_to_start(&host, &NodeOptions::alone().with(&["--listen-port", "50001"]), &["50001", "--listen-port"]);
    drop(udp);
    let p2p = host.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4_101))).expect("a free port");
    refuses_to_start(&host, &NodeOptions::alone().with(&["--p2p-port", "4101"]), &["4101", "--p2p-port"]);
    drop(p2p);
    Node::start(&host, "refused", &NodeOptions::alone());
}

#[test]
fn bootstrap_peers() {
    let Some(lab) = Lab::new() else { return };
    let [a_host, b_host] = lab.routed(["a", "b"]);
    let nowhere = format!("/ip4/198.18.200.200/tcp/4001/p2p/{UNKNOWN_PEER}");
    let unreachable = NodeOptions { bootstrap: vec![nowhere], ..NodeOptions::default() };
    let a = Node::start(&a_host, "alice", &unreachable);
    let b = Node::start(&b_host, "bob", &unreachable);
    let (code, link) = a.create();
    let said = b.cli(&["party", "join", &code]).expect_failure(&["bootstrap", "--bootstrap"]);
    shown(said.stderr.trim());
    b.join(&link);
    b.expect_ping(&a);
    shown("with no bootstrap peer in reach an invite link is enough");
    drop((a, b));

    let options = NodeOptions { bootstrap: vec!["203.0.113.1:4001".into()], ..NodeOptions::default() };
    refuses_to_start(&a_host, &options, &["203.0.113.1:4001", "multiaddr"]);
}

#[test]
fn queries_without_a_node() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    let data = host.dir().join("none");
    let data = data.to_str().expect("UTF-8");
    let queries: [&[&str]; 5] =
        [&["status"], &["peers", "--json"], &["party", "create"], &["party", "list"], &["ping", "bob"]];
    for query in queries {
        let said = host.run(&[&[binary().as_str()], query, &["--data-dir", data]].concat());
        let said = said.expect_failure(&["running", "lanrage"]);
        shown(format!("{}: {}", query.join(" "), said.stderr.trim()));
    }
    assert!(!std::path::Path::new(data).exists(), "a query makes no data folder");
    host.run(&[&binary(), "up", "--no-such-flag"]).expect_failure(&["--no-such-flag", "--help"]);
}

#[test]
fn configuration_file() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    let file = host.dir().join("mine.toml");
    let path = file.to_str().expect("UTF-8");
    let with_file = NodeOptions::alone().with(&["--config", path]);
    refuses_to_start(&host, &with_file, &["mine.toml"]);
    for (text, word) in [("name = ", "mine.toml"), ("nmae = \"alice\"", "nmae"), ("api = 5", "api")] {
        std::fs::write(&file, text).expect("a file");
        refuses_to_start(&host, &with_file, &["mine.toml", word]);
    }
}

#[test]
fn a_range_that_clashes_with_a_network_here_is_said() {
    let Some(lab) = Lab::new() else { return };
    let [host, other] = lab.lan(["a", "b"]);
    host.ip(&["addr", "add", "10.66.5.1/24", "dev", "eth0"]);
    let node = Node::start(&host, "alice", &NodeOptions::alone());
    // A party may be refused outright; whatever it does, it must say it.
    let created = node.cli(&["party", "create", "--json"]);
    let problem = until("the node says that the range clashes", PATIENCE, || {
        let said = format!("{}{}{}", node.said(), node.status(), created.all());
        let said_it = said.contains("10.66.5.0/24") && said.contains("range");
        if said_it { Ok(node.status()["tun"].clone()) } else { Err(said) }
    });
    shown(format!("a machine in 10.66.5.0/24: {problem}"));
    // The machine's own network is left alone.
    host.expect_ping(other.address());
    let route = host.ip(&["route", "get", "10.66.5.9"]);
    assert!(route.contains("eth0"), "{route}");
}

#[test]
fn without_the_right_to_make_a_device() {
    let Some(lab) = Lab::with_programs(&[("setpriv", "util-linux")]) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let unprivileged = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    let a = Node::start(&a_host, "alice", &NodeOptions::alone().wrapped(&unprivileged));
    let b = Node::start(&b_host, "bob", &NodeOptions::alone());
    let (code, _) = a.create();
    b.join(&code);
    a.wait_members(&["alice", "bob"]);
    let tun = until("the node says what is missing", PATIENCE, || {
        let tun = a.status()["tun"].clone();
        let said = format!("{}{tun}", a.said()).to_lowercase();
        let clear = said.contains("cap_net_admin") && said.contains("setcap") && tun["state"] == "no_permission";
        if clear { Ok(tun) } else { Err(said) }
    });
    shown(format!("API and discovery work without CAP_NET_ADMIN; {}", tun["problem"]));
}

/// Udev opens `/dev/net/tun` to everybody; where it does not run, the node names a `chmod`, which is undone here.
struct DeviceMode(std::fs::Permissions);

impl DeviceMode {
    const PATH: &str = "/dev/net/tun";

    fn kept() -> Self {
        Self(std::fs::metadata(Self::PATH).expect("the lab has required it").permissions())
    }
}

impl Drop for DeviceMode {
    fn drop(&mut self) {
        std::fs::set_permissions(Self::PATH, self.0.clone()).expect("root may");
    }
}

#[test]
fn a_player_without_rights_is_given_them() {
    let Some(lab) = Lab::with_programs(&[("setpriv", "util-linux"), ("setcap", "libcap2-bin")]) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    // A copy, so that the program under test does not keep the capability.
    let program = a_host.dir().join("lanrage");
    std::fs::copy(binary(), &program).expect("room for a copy");
    let (program, data) = (program.to_str().unwrap(), a_host.dir().join("players-data"));
    std::fs::create_dir(&data).unwrap();
    a_host.run(&["chown", "nobody", data.to_str().unwrap()]).expect_ok();
    let options = NodeOptions { program: Some(program.into()), ..NodeOptions::alone() };
    let home = format!("HOME={}", data.display());
    let user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", &home];
    let mut a = Node::launch_in(&a_host, "alice", &data, &options.wrapped(&user));
    a.wait_for_api();
    let b = Node::start(&b_host, "bob", &NodeOptions::alone());
    let (code, _) = a.create();
    b.join(&code);
    let state = |expected: &'static str| {
        until(expected, PATIENCE, || {
            let status = a.cli(&["status", "--json"]);
            if status.all().contains(&format!("\"state\": \"{expected}\"")) { Ok(()) } else { Err(status.all()) }
        });
    };
    state("no_permission");
    // What the node says is what helps: a player would paste it.
    let problem = a.status()["tun"]["problem"].to_string();
    let (_, command) = problem.trim_matches('"').split_once("sudo ").expect("a command with sudo");
    let device = DeviceMode::kept();
    a_host.run(&["sh", "-c", &command.replace("sudo ", "")]).expect_ok();
    state("up");
    drop(device);
    b.expect_ping(&a);
    shown("an ordinary user without rights: setcap, and the device is up without a further command");
}

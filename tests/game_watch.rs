//! A running game is noticed and its packets are treated as its profile says; when it ends, all is as before.

mod lab;

use std::fs;

use lab::{Answer, Host, Lab, Node, NodeOptions, PATIENCE, Relay, Sniffer, shown, until};

const PROGRAMS: [(&str, &str); 2] = [("chocolate-server", "chocolate-doom"), ("chocolate-doom", "chocolate-doom")];
const SERVER: &str = "/usr/games/chocolate-server";
const CLIENT: &str = "/usr/games/chocolate-doom";
const EXPEDITED_FORWARDING: u8 = 46;

/// A player's own profile, which goes before the one that LANrage brings along.
const PROFILE: &str = r#"
id = "chocolate-doom"
name = "Chocolate Doom"
sources = ["https://www.chocolate-doom.org/"]

[[process]]
exe = "chocolate-server"
role = "server"

[[process]]
exe = "chocolate-doom"
role = "client"

[[port]]
port = 2342
protocol = "udp"

[tuning]
keepalive_s = 5
mtu = 1200
priority = "voice"
redundancy = "on"
relay = "avoid"
"#;

fn write_profile(host: &Host, node: &str) {
    let folder = host.dir().join(format!("data-{node}/profiles"));
    fs::create_dir_all(&folder).expect("a folder for profiles");
    fs::write(folder.join("chocolate-doom.toml"), PROFILE).expect("a profile of the player's own");
}

fn games(node: &Node) -> Answer {
    node.status()["games"].clone()
}

fn device_mtu_is(host: &Host, mtu: &str) {
    let shown = host.ip(&["-o", "link", "show", "lanrage0"]);
    assert!(shown.contains(&format!(" mtu {mtu} ")), "{shown}");
}

/// Code points of the data datagrams that pass the router while `act` is done, by their number.
fn marks(sniffer: &Sniffer, port: u16, act: impl FnOnce()) -> std::collections::BTreeMap<u8, usize> {
    let _ = sniffer.marks_to(port, usize::MAX);
    act();
    let mut found = std::collections::BTreeMap::new();
    for mark in sniffer.marks_to(port, 10_000) {
        *found.entry(mark).or_default() += 1;
    }
    found
}

#[test]
fn a_running_game_is_noticed_tuned_for_and_undone() {
    let Some(lab) = Lab::with_programs(&PROGRAMS) else { return };
    let [relay_host, a_host, b_host] = lab.routed(["relay", "a", "b"]);
    let relay = Relay::start(&relay_host);
    for (host, node) in [(&a_host, "alice"), (&b_host, "bob")] {
        write_profile(host, node);
    }
    let ports = |port: &str| NodeOptions::bootstrap(&relay).with(&["--listen-port", port]);
    let a = Node::start(&a_host, "alice", &ports("41001"));
    let b = Node::start(&b_host, "bob", &ports("41002"));
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);

    // Nothing runs: nothing is found, and nothing is done.
    std::thread::sleep(std::time::Duration::from_secs(5));
    for node in [&a, &b] {
        let games = games(node);
        assert_eq!(
            (games["running"].as_array().map(Vec::len), games["applied"].as_array().map(Vec::len)),
            (Some(0), Some(0)),
            "{games}"
        );
    }
    device_mtu_is(&a_host, "1360");
    let sniffer = Sniffer::on(&b_host);
    let server_ip = a.virtual_ip().to_string();
    let query = || {
        let _ = b_host.run_as_player(&[CLIENT, "-query", &server_ip]);
    };
    let before = marks(&sniffer, 41_002, || {
        a_host.run(&["ping", "-c", "5", "-i", "0.2", &b.virtual_ip().to_string()]).expect_ok();
    });
    assert_eq!(before.keys().copied().collect::<Vec<_>>(), [0], "{before:?}");

    let mut server = a_host.spawn_as_player(&[SERVER, "-privateserver"]);
    let running = until("the game is noticed", PATIENCE, || {
        let games = games(&a);
        let game = games["running"][0].clone();
        if game["confidence"] == "certain" { Ok(game) } else { Err(games.to_string()) }
    });
    assert_eq!((&running["id"], &running["role"]), (&"chocolate-doom".into(), &"server".into()), "{running}");
    shown(format!("the running server is noticed: {}", running["reason"]));
    let applied = games(&a)["applied"].clone();
    let value = |what: &str| {
        let found = applied.as_array().unwrap().iter().find(|it| it["what"] == what);
        found.unwrap_or_else(|| panic!("no {what} in {applied}"))["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(value("mtu"), "1200 bytes");
    assert!(value("priority").starts_with("voice (DSCP 46) on UDP 2342"), "{applied}");
    for what in ["keepalive", "priority", "mtu", "redundancy", "relay"] {
        shown(format!("applied: {what} {}", value(what)));
    }
    until("the device has the game's MTU", PATIENCE, || {
        let link = a_host.ip(&["-o", "link", "show", "lanrage0"]);
        if link.contains(" mtu 1200 ") { Ok(()) } else { Err(link) }
    });
    let peer = until("redundancy and keepalive are in use", PATIENCE, || {
        let peer = a.peer("bob").ok_or("no bob")?;
        if peer["redundancy"] == "on" && peer["keepalive_s"] == 5 { Ok(peer) } else { Err(peer.to_string()) }
    });
    shown(format!("towards bob: redundancy {}, keepalive {} s", peer["redundancy"], peer["keepalive_s"]));
    let during = marks(&sniffer, 41_002, || {
        query();
        a_host.run(&["ping", "-c", "5", "-i", "0.2", &b.virtual_ip().to_string()]).expect_ok();
    });
    assert!(during.get(&EXPEDITED_FORWARDING).is_some_and(|count| *count > 0), "{during:?}");
    assert!(during.get(&0).is_some_and(|count| *count > 0), "other packets are not marked: {during:?}");
    shown(format!("seen on the way, code point → datagrams: before {before:?}, while the game runs {during:?}"));

    server.kill9();
    until("the game's end is noticed", PATIENCE, || {
        let games = games(&a);
        let gone = |what: &str| games[what].as_array().is_some_and(Vec::is_empty);
        if gone("running") && gone("applied") { Ok(()) } else { Err(games.to_string()) }
    });
    until("the device has its own MTU", PATIENCE, || {
        let link = a_host.ip(&["-o", "link", "show", "lanrage0"]);
        if link.contains(" mtu 1360 ") { Ok(()) } else { Err(link) }
    });
    until("redundancy and keepalive are as before", PATIENCE, || {
        let peer = a.peer("bob").ok_or("no bob")?;
        if peer["redundancy"] == "auto" && peer["keepalive_s"] == 15 { Ok(()) } else { Err(peer.to_string()) }
    });
    let after = marks(&sniffer, 41_002, || {
        query();
        a_host.run(&["ping", "-c", "5", "-i", "0.2", &b.virtual_ip().to_string()]).expect_ok();
    });
    assert_eq!(after.keys().copied().collect::<Vec<_>>(), [0], "{after:?}");
    let events = a.json(&["events"]).to_string();
    for kind in ["game_started", "tuning_applied", "game_stopped", "tuning_undone"] {
        assert!(events.contains(kind), "{kind}: {events}");
    }
    shown(format!("when it has ended: MTU 1360, redundancy auto, keepalive 15 s, code points {after:?}, events told"));
}

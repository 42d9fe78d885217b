//! Real game servers of members, listed on another member's machine.

#![allow(clippy::unwrap_used)]

mod lab;

use std::time::Duration;

use lab::{Answer, Lab, Node, NodeOptions, PATIENCE, shown, until};

const PROGRAMS: &[(&str, &str)] = &[
    ("chocolate-server", "chocolate-doom"),
    ("openttd", "openttd"),
    ("openttd", "openttd-opengfx"),
    ("openarena-server", "openarena-server"),
    ("teeworlds-server", "teeworlds-server"),
];

fn games(node: &Node) -> Vec<Answer> {
    node.json(&["games"])["servers"].as_array().expect("a list of servers").clone()
}

/// Waits until `node` lists the game, with what its server says of itself.
#[track_caller]
fn wait_game(node: &Node, game: &str) -> Answer {
    until(&format!("{} lists {game}", node.name()), PATIENCE, || {
        let all = games(node);
        let found = all.iter().find(|server| server["game"] == game).cloned();
        found.ok_or_else(|| format!("{all:?}"))
    })
}

#[test]
fn games_of_two_members_are_listed_on_the_third() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let hosts @ [a_host, b_host, c_host] = &lab.lan(["a", "b", "c"]);
    let [a, b, c] = [("ann", a_host), ("bob", b_host), ("cleo", c_host)]
        .map(|(name, host)| Node::start(host, name, &NodeOptions::alone()));
    let (code, _) = a.create();
    for node in [&b, &c] {
        node.join(&code);
        node.expect_ping(&a);
    }
    c.expect_ping(&b);
    assert!(hosts.len() == 3 && games(&c).is_empty());

    let mut doom = a_host.spawn_as_player(&["/usr/games/chocolate-server", "-privateserver"]);
    let _openttd = a_host.spawn_as_player(&["/usr/games/openttd", "-D", "-g"]);
    let _arena = b_host.spawn_as_player(&["/usr/games/openarena-server", "+set", "dedicated", "1", "+map", "oa_dm1"]);
    let _tee = b_host.spawn_as_player(&["/usr/games/teeworlds-server"]);
    a.cli(&["games", "--host", "chocolate-doom:2342", "--host", "openttd:3979"]).expect_ok();
    b.cli(&["games", "--host", "openarena:27960", "--host", "teeworlds:8303", "--host", "minetest:30000"]).expect_ok();

    for (game, host, map, max) in [
        ("chocolate-doom", &a, None, None),
        ("openttd", &a, Some("256x256"), Some(25)),
        ("openarena", &b, Some("oa_dm1"), Some(8)),
        ("teeworlds", &b, Some("dm1"), Some(8)),
    ] {
        let server = wait_game(&c, game);
        assert_eq!(server["state"], "answers", "{server}");
        assert_eq!((&server["member"], &server["ip"]), (&host.name().into(), &host.virtual_ip().to_string().into()));
        assert_eq!(server["players"], 0, "{server}");
        assert!(server["ping_ms"].as_f64().is_some_and(|ping| ping > 0.0), "{server}");
        assert!(server["version"].as_str().is_some_and(|version| !version.is_empty()), "{server}");
        if let Some(map) = map {
            assert!(server["map"].as_str().is_some_and(|found| found.contains(map)), "{server}");
        }
        if let Some(max) = max {
            assert_eq!(server["max_players"], max, "{server}");
        }
        let command = server["join_command"].as_str().expect("a command to join");
        assert!(command.contains(&format!("{}:{}", host.virtual_ip(), server["port"])), "{server}");
        shown(format!(
            "{game}: {} on {}, players {}/{}, version {}, {} ms: {command}",
            server["name"],
            server["map"],
            server["players"],
            server["max_players"],
            server["version"],
            server["ping_ms"]
        ));
    }
    let named = wait_game(&c, "minetest");
    assert_eq!(
        (&named["state"], &named["join_address"]),
        (&"named".into(), &format!("{}:30000", b.virtual_ip()).into())
    );
    // The host sees its own too, and the table is for people.
    wait_game(&a, "openttd");
    let table = c.cli(&["games"]).expect_ok();
    assert!(table.stdout.contains("OpenArena") && table.stdout.contains("join with"), "{}", table.stdout);

    doom.kill9();
    until("the dead server is not listed any more", Duration::from_secs(60), || {
        if games(&c).iter().all(|server| server["game"] != "chocolate-doom") { Ok(()) } else { Err("listed".into()) }
    });
    b.cli(&["games", "--no-host"]).expect_ok();
    until("what was named only is not listed any more", PATIENCE, || {
        let left: Vec<_> = games(&c).iter().map(|server| server["game"].to_string()).collect();
        if left.iter().all(|game| !game.contains("minetest")) { Ok(()) } else { Err(format!("{left:?}")) }
    });
    wait_game(&c, "teeworlds");
    shown("gone after the server died, and after its host took it back; what runs is still listed");

    for bad in ["openttd", "OpenTTD:3979", "openttd:0", "a:1:0"] {
        a.cli(&["games", "--host", bad]).expect_failure(&["openttd"]);
    }
    let twice = ["games", "--host", "openttd:3979", "--host", "openttd:3979:3980"];
    a.cli(&twice).expect_failure(&["openttd:3979 is there twice"]);
}

/// Nobody says what is hosted: the node sees the servers, and friends list them while they run.
#[test]
fn servers_are_listed_by_themselves_while_they_run() {
    let Some(lab) = Lab::with_programs(PROGRAMS) else { return };
    let [a_host, b_host] = &lab.lan(["a", "b"]);
    let [a, b] = [("ann", a_host), ("bob", b_host)].map(|(name, host)| Node::start(host, name, &NodeOptions::alone()));
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);
    assert!(games(&a).is_empty() && games(&b).is_empty());
    b.cli(&["games", "--host", "minetest:30000"]).expect_ok();

    let mut servers = [
        ("chocolate-doom", 2342, a_host.spawn_as_player(&["/usr/games/chocolate-server", "-privateserver"])),
        ("openttd", 3979, a_host.spawn_as_player(&["/usr/games/openttd", "-D", "-g"])),
        ("teeworlds", 8303, a_host.spawn_as_player(&["/usr/games/teeworlds-server"])),
    ];
    for (game, port, _) in &servers {
        let server = wait_game(&b, game);
        assert_eq!(
            (&server["state"], &server["member"], &server["own"]),
            (&"answers".into(), &"ann".into(), &false.into())
        );
        assert_eq!((&server["ip"], &server["port"]), (&a.virtual_ip().to_string().into(), &(*port).into()), "{server}");
        assert_eq!(wait_game(&a, game)["own"], true);
        shown(format!("{game} is listed without a word: {} at {}:{}", server["name"], server["ip"], server["port"]));
    }
    // Each once, and what a player has named stays beside what is seen.
    wait_game(&a, "minetest");
    assert_eq!(games(&b).len(), 4, "{:?}", games(&b));
    a.cli(&["games", "--host", "minetest:30001"]).expect_ok();
    until("the named one is listed too", PATIENCE, || {
        let ports: Vec<_> = games(&b).iter().map(|server| server["port"].to_string()).collect();
        if ports.len() == 5 && ports.contains(&"30001".into()) { Ok(()) } else { Err(format!("{ports:?}")) }
    });
    for (game, _, server) in &mut servers {
        server.kill9();
        until(&format!("{game} is not listed any more"), PATIENCE, || {
            let left: Vec<_> = games(&b).iter().map(|server| server["game"].to_string()).collect();
            if left.iter().all(|it| it.trim_matches('"') != *game) { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
    let left: Vec<_> = games(&b).iter().map(|server| server["port"].to_string()).collect();
    assert_eq!(left.len(), 2, "what was named is still there: {left:?}");
    shown("each is gone when its server has ended; what was named stays");
}

/// What Minecraft's own LAN announcement says is enough.
#[test]
fn an_announced_world_is_listed_while_it_is_announced() {
    let Some(lab) = Lab::with_programs(&[("socat", "socat")]) else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let [a, b] =
        [("ann", &a_host), ("bob", &b_host)].map(|(name, host)| Node::start(host, name, &NodeOptions::alone()));
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);
    let say = format!(
        "for i in $(seq 6); do printf '[MOTD]Ann\\033[31m world[/MOTD][AD]54321[/AD]' | \
         socat -u - UDP4-DATAGRAM:224.0.2.60:4445,ip-multicast-if={}; sleep 1; done",
        a.virtual_ip()
    );
    let mut announcing = a_host.spawn(&["sh", "-c", &say]);
    let server = wait_game(&b, "minecraft-java");
    assert_eq!((&server["state"], &server["name"]), (&"announced".into(), &"Ann[31m world".into()), "{server}");
    assert_eq!(server["join_address"], format!("{}:54321", a.virtual_ip()));
    announcing.wait(PATIENCE);
    until("it is not listed any more", PATIENCE, || if games(&b).is_empty() { Ok(()) } else { Err("listed".into()) });
    shown("a Minecraft world is listed by its announcement, cleaned for the terminal, and gone when that ends");
}

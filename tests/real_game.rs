//! A real game that nobody here wrote: Chocolate Doom's server and its real client, across a party.

mod lab;

use lab::{Lab, Node, NodeOptions, PATIENCE, Relay, shown, until};

const PROGRAMS: [(&str, &str); 2] = [("chocolate-server", "chocolate-doom"), ("chocolate-doom", "chocolate-doom")];
const SERVER: &str = "/usr/games/chocolate-server";
const CLIENT: &str = "/usr/games/chocolate-doom";

#[test]
fn a_game_server_in_the_party_answers_the_games_client() {
    let Some(lab) = Lab::with_programs(&PROGRAMS) else { return };
    let [relay_host, a_host, b_host] = lab.routed(["relay", "a", "b"]);
    let relay = Relay::start(&relay_host);
    let a = Node::start(&a_host, "alice", &NodeOptions::bootstrap(&relay));
    let b = Node::start(&b_host, "bob", &NodeOptions::bootstrap(&relay));
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);

    let mut server = a_host.spawn_as_player(&[SERVER, "-privateserver"]);
    until("the game's server has its port", PATIENCE, || {
        if let Some(status) = server.ended() {
            panic!("the game's server ended ({status}):\n{}", server.all());
        }
        let sockets = a_host.run(&["ss", "-Huln", "sport = :2342"]).stdout;
        if sockets.is_empty() { Err("no socket on 2342".into()) } else { Ok(()) }
    });

    let server_ip = a.virtual_ip().to_string();
    let query = b_host.run_as_player(&[CLIENT, "-query", &server_ip]).expect_ok();
    let line = query.stdout.lines().find(|line| line.contains(&server_ip) && line.contains("0/8"));
    let line = line.unwrap_or_else(|| panic!("the client lists no server:\n{}", query.all()));
    shown(format!("chocolate-doom -query {server_ip} prints: {line}"));

    // The same question to an address without a server fails: the answer above came from the game.
    let nobody = b.virtual_ip().to_string();
    let nothing = b_host.run_as_player(&[CLIENT, "-query", &nobody]);
    nothing.expect_failure(&["No response"]);
    shown(format!("the same query to {nobody}, where no server runs: No response"));
}

/// What the test above takes for granted of the two programs, on a plain network.
#[test]
fn the_game_works_without_lanrage() {
    let Some(lab) = Lab::with_programs(&PROGRAMS) else { return };
    let [a, b] = lab.routed(["a", "b"]);
    let _server = a.spawn_as_player(&[SERVER, "-privateserver"]);
    until("the plain client lists the server", PATIENCE, || {
        let query = b.run_as_player(&[CLIENT, "-query", &a.address().to_string()]);
        if query.ok() && query.stdout.contains("0/8") { Ok(()) } else { Err(query.all()) }
    });
}

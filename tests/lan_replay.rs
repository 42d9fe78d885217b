//! LAN discovery of games that cannot be run here, replayed through a party: the bytes and the ways of their datagrams,
//! from sources named in `lan_replay/games.toml`. Each member has a physical LAN as its default route beside the party.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod lab;
#[path = "lan_replay/play.rs"]
mod play;
#[path = "lan_replay/table.rs"]
mod table;

use lab::{Lab, Node, NodeOptions, Relay, shown};
use play::Player;
use table::{Checked, Table};

#[test]
fn every_games_shout_arrives_once_and_its_answer_comes_back() {
    let table = Table::load();
    let Some(lab) = Lab::new() else { return };
    let [relay_host, a_host, b_host, c_host] = lab.routed(["relay", "a", "b", "c"]);
    let relay = Relay::start(&relay_host);
    let nodes = [(&a_host, "ann"), (&b_host, "bob"), (&c_host, "cid")]
        .map(|(host, name)| Node::start(host, name, &NodeOptions::bootstrap(&relay)));
    let (code, _) = nodes[0].create();
    nodes[1].join(&code);
    nodes[2].join(&code);
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        nodes[from].expect_ping(&nodes[to]);
    }

    let mut players = nodes.each_ref().map(|node| Player::new(node.host(), node.virtual_ip()));
    for game in &table.game {
        players[1..].iter_mut().for_each(|player| player.listen(game));
    }
    // As long as a game's server stands before a player looks for it.
    std::thread::sleep(std::time::Duration::from_secs(3));

    println!(
        "  {:<48} {:>5} {:<11} {:<9} {:>8}  {:<11} {:>7}",
        "game", "from", "to", "port", "heard", "answer", "came"
    );
    let mut failed = Vec::new();
    for game in &table.game {
        let outcome = play::play(game, &players);
        let shout = &game.shout;
        let port = if shout.ports.len() > 1 {
            format!("{}+{}", shout.ports[0], shout.ports.len() - 1)
        } else {
            shout.ports[0].to_string()
        };
        let from = if shout.from == 0 { "any".into() } else { shout.from.to_string() };
        let answer = game.answer.as_ref().map_or_else(|| "-".into(), |answer| answer.how.to_string());
        println!(
            "  {:<48} {from:>5} {:<11} {port:<9} {:>8}  {answer:<11} {:>7}{}",
            format!("{}{}", game.name, if game.opaque { " *" } else { "" }),
            shout.to.to_string(),
            outcome.shouts,
            outcome.answers,
            if outcome.faults.is_empty() { "" } else { "  WRONG" },
        );
        failed.extend(outcome.faults.into_iter().map(|fault| format!("{}: {fault}", game.name)));
    }
    println!("  * bytes of the game are not known: others stand for them");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let count = |checked| table.game.iter().filter(|game| game.checked == checked).count();
    shown(format!(
        "{} discovery patterns, each once at both others, each answer once at who asked; {} compared with a source whole, {} in part, {} not",
        table.game.len(),
        count(Checked::All),
        count(Checked::Part),
        count(Checked::No)
    ));
}

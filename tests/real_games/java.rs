//! Minecraft's LAN worlds without Minecraft: a real Java that makes the same calls.

use std::fs;
use std::time::{Duration, Instant};

use super::{Asks, Game, Listing, Search};
use crate::lab::{Host, PATIENCE, Process, until};

const WORLD: &str = "A world of ours";

pub(crate) const MINECRAFT_LIKE: Game = Game {
    name: "Java on Minecraft's group",
    client: "Java's MulticastSocket",
    programs: &[("java", "openjdk-17-jre-headless")],
    asks: Asks::Nobody(&[4445]),
    serve: |host| vec![java(host, &["announce", WORLD])],
    find,
    node: &[],
    profile: None,
};

/// Java compiles the file by itself.
fn java(host: &Host, args: &[&str]) -> Process {
    let file = host.dir().join("LanWorld.java");
    fs::write(&file, include_str!("LanWorld.java")).unwrap();
    host.spawn_as_player(&[&["java", file.to_str().unwrap()], args].concat())
}

fn find(search: &Search<'_>) -> Result<Listing, String> {
    let mut client = java(search.on, &["list"]);
    until("Java listens", PATIENCE, || {
        assert!(client.ended().is_none(), "Java ended:\n{}", client.all());
        if client.stdout().contains("listening") { Ok(()) } else { Err(client.all()) }
    });
    let start = Instant::now();
    while start.elapsed() < search.patience {
        let said = client.stdout();
        let heard = said.lines().find_map(|line| {
            let (server, text) = line.strip_prefix("heard ")?.split_once(' ')?;
            text.contains(WORLD).then(|| (server.parse().ok(), line.to_string()))
        });
        if let Some((Some(server), text)) = heard {
            return Ok(Listing { server, text, at: Instant::now() });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(format!("nothing heard:\n{}", client.all()))
}

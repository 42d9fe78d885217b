//! `lanrage games`: which games can be joined in the party, and how.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use super::args::GamesArgs;
use super::client::{Client, read};
use super::commands::pretty;
use super::print::{self, clean, table};
use crate::config::Places;

#[derive(Debug, Deserialize)]
struct Servers {
    servers: Vec<Server>,
}

#[derive(Debug, Deserialize)]
struct Server {
    game_name: String,
    member: String,
    own: bool,
    name: Option<String>,
    map: Option<String>,
    version: Option<String>,
    players: Option<u32>,
    max_players: Option<u32>,
    ping_ms: Option<f64>,
    join_command: Option<String>,
    join_address: String,
}

pub(super) fn run(args: &GamesArgs, places: &Places) -> Result<ExitCode, String> {
    let client = Client::new(&args.ask.node, places)?;
    if args.no_host || !args.host.is_empty() {
        let servers = args.host.iter().map(|text| hosted(text)).collect::<Result<Vec<_>, _>>()?;
        client.put("/servers/hosted", &json!({ "servers": servers }))?;
        if !args.ask.json {
            let said = if servers.is_empty() { "taken back" } else { "your friends see it within seconds" };
            print::line(&format!("{said}\n"));
        }
    }
    let value = client.get("/servers")?;
    let text = if args.ask.json { pretty(&value) } else { show(&read::<Servers>(value)?.servers) };
    print::line(&text);
    Ok(ExitCode::SUCCESS)
}

/// `GAME:PORT` or `GAME:PORT:QUERY-PORT`.
fn hosted(text: &str) -> Result<Value, String> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let mut parts = text.split(':');
    let (game, at, query) = (parts.next().unwrap_or(""), parts.next().and_then(port), parts.next());
    let query_port = query.map(port);
    match (at, query_port) {
        (Some(at), None | Some(Some(_))) if parts.next().is_none() => {
            Ok(json!({ "game": game, "port": at, "query_port": query_port.flatten() }))
        }
        _ => Err(format!("`{text}` does not say which game at which port; write it like openttd:3979")),
    }
}

fn show(servers: &[Server]) -> String {
    if servers.is_empty() {
        return "no game can be joined now\n\nA friend's game is shown when it answers or announces itself. To show one that LANrage does not see by itself, its host says: lanrage games --host GAME:PORT".into();
    }
    let heading = ["game", "host", "name", "map", "players", "version", "ping", "join with"].map(String::from).to_vec();
    let text = |value: &Option<String>| value.as_deref().map(clean).unwrap_or_default();
    let row = |server: &Server| {
        let players = match (server.players, server.max_players) {
            (Some(players), Some(max)) => format!("{players}/{max}"),
            (Some(players), None) => players.to_string(),
            (None, _) => String::new(),
        };
        let mut member = clean(&server.member);
        if server.own {
            member.push_str(" (you)");
        }
        vec![
            clean(&server.game_name),
            member,
            text(&server.name),
            text(&server.map),
            players,
            text(&server.version),
            server.ping_ms.map(|ping| format!("{ping:.1} ms")).unwrap_or_default(),
            clean(server.join_command.as_ref().unwrap_or(&server.join_address)),
        ]
    };
    let rows: Vec<Vec<String>> = [heading].into_iter().chain(servers.iter().map(row)).collect();
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_game_and_port() {
        assert_eq!(hosted("openttd:3979").unwrap(), json!({ "game": "openttd", "port": 3979, "query_port": null }));
        assert_eq!(hosted("valheim:2456:2457").unwrap()["query_port"], 2457);
        for bad in ["openttd", "openttd:", "openttd:0", "openttd:x", "openttd:70000", "a:1:x", "a:1:0", "a:1:2:3"] {
            assert!(hosted(bad).unwrap_err().contains("openttd:3979"), "{bad}");
        }
    }

    #[test]
    fn games_are_a_table() {
        let server = |value: Value| serde_json::from_value::<Server>(value).unwrap();
        let asked = server(json!({
            "game_name": "OpenTTD", "member": "bob", "own": false, "name": "Bob\u{1b}[2J's", "map": "256x256", "version": "13.0",
            "players": 2, "max_players": 25, "ping_ms": 12.34, "join_command": "openttd -n 10.66.0.2:3979", "join_address": "x",
        }));
        let named = server(json!({
            "game_name": "0 A.D.", "member": "ann", "own": true, "name": null, "map": null, "version": null, "players": null,
            "max_players": null, "ping_ms": null, "join_command": null, "join_address": "10.66.0.1:20595",
        }));
        let text = show(&[asked, named]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("OpenTTD  bob"), "{text}");
        for part in ["Bob?[2J's", "2/25", "12.3 ms", "openttd -n 10.66.0.2:3979"] {
            assert!(lines[1].contains(part), "{part} in {text}");
        }
        assert!(lines[2].contains("ann (you)") && lines[2].ends_with("10.66.0.1:20595"), "{text}");
        assert!(show(&[]).contains("--host"));
    }
}

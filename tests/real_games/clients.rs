//! Games with their real clients.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::screen::Screen;
use super::{Asks, Game, Listing, Profile, Search, servers};
use crate::lab::Process;

/// Clicks in OpenTTD 13 on 640×480: Multiplayer, close the notice on the relay service, Search LAN.
const SEARCH_LAN: [(u16, u16); 3] = [(398, 187), (188, 211), (192, 463)];

pub(crate) const CHOCOLATE_DOOM: Game = Game {
    name: "Chocolate Doom",
    client: "chocolate-doom -localsearch",
    programs: &[("chocolate-doom", "chocolate-doom"), ("chocolate-server", "chocolate-doom")],
    asks: Asks::Client(&[2342]),
    serve: |host| servers::start(host, 2342, &["/usr/games/chocolate-server", "-privateserver"]),
    find: |search| {
        let said = search.on.run_as_player(&["/usr/games/chocolate-doom", "-localsearch"]).stdout;
        let at = Instant::now();
        // The table's lines: number or ping in ms, address, players, description.
        let listed = said.lines().find_map(|line| {
            let server = line.split([':', ' ']).find_map(|word| word.parse().ok())?;
            Some(Listing { server, text: line.split_whitespace().collect::<Vec<_>>().join(" "), at })
        });
        listed.ok_or(said)
    },
    node: &[],
    profile: Some(Profile { id: "chocolate-doom", server: "server", client: Some("both") }),
};

pub(crate) const OPENTTD: Game = Game {
    name: "OpenTTD",
    client: "openttd, Search LAN",
    programs: &[("openttd", "openttd + openttd-opengfx"), ("Xvfb", "xvfb"), ("xdotool", "xdotool")],
    asks: Asks::Client(&[3979]),
    serve: |host| servers::start(host, 3979, &["/usr/games/openttd", "-D", "-g", "-d", "net=4"]),
    find: openttd,
    node: &[],
    profile: Some(Profile { id: "openttd", server: "both", client: Some("both") }),
};

pub(crate) const OPENARENA: Game = Game {
    name: "OpenArena",
    client: "openarena +localservers",
    programs: &[("openarena", "openarena"), ("openarena-server", "openarena-server"), ("Xvfb", "xvfb")],
    asks: Asks::Client(&[27960, 27961, 27962, 27963]),
    serve: |host| {
        let args = ["/usr/games/openarena-server", "+set", "dedicated", "1", "+map", "oa_dm1"];
        servers::start(host, 27960, &args)
    },
    find: openarena,
    node: &[],
    profile: Some(Profile { id: "openarena", server: "server", client: Some("both") }),
};

fn openttd(search: &Search<'_>) -> Result<Listing, String> {
    let screen = Screen::on(search.on);
    let args = ["/usr/games/openttd", "-r", "640x480", "-s", "null", "-m", "null", "-d", "net=4"];
    let mut client = screen.spawn(&args);
    // Clicks before the menu is there are lost, and further ones in the dialog do no harm.
    let clicked = Instant::now();
    while !client.all().contains("Searching server") {
        if clicked.elapsed() > super::FINDS_WITHIN {
            return Err(format!("the client never searched:\n{}", client.all()));
        }
        for (x, y) in SEARCH_LAN {
            screen.click(x, y);
        }
    }
    // The list shows a server when it has answered over UDP and then told its details over TCP.
    said(&mut client, search.patience, |line| {
        let server = line.split("Server response from ").nth(1)?.split(':').next()?.parse().ok()?;
        Some((server, line.trim().into()))
    })
}

fn openarena(search: &Search<'_>) -> Result<Listing, String> {
    let screen = Screen::on(search.on);
    let set =
        ["+set", "r_fullscreen", "0", "+set", "r_mode", "3", "+set", "s_initsound", "0", "+set", "developer", "1"];
    let mut client = screen.spawn(&[&["/usr/games/openarena"], &set[..], &["+localservers"]].concat());
    let start = Instant::now();
    while !client.all().contains("Scanning for servers") {
        if start.elapsed() > super::FINDS_WITHIN {
            return Err(format!("the client never searched:\n{}", client.all()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    said(&mut client, search.patience, |line| {
        let (server, what) = line.strip_prefix("CL packet ")?.split_once(':')?;
        let server = server.parse().ok()?;
        what.contains("infoResponse").then(|| (server, line.trim().into()))
    })
}

/// Wait until the program prints such a line.
fn said(
    client: &mut Process,
    patience: Duration,
    read: impl Fn(&str) -> Option<(Ipv4Addr, String)>,
) -> Result<Listing, String> {
    let start = Instant::now();
    loop {
        let all = client.all();
        if let Some((server, text)) = all.lines().find_map(&read) {
            return Ok(Listing { server, text, at: Instant::now() });
        }
        if client.ended().is_some() || start.elapsed() > patience {
            let lines: Vec<_> = all.lines().collect();
            return Err(lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

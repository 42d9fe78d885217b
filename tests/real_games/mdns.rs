//! Mumble, which its clients find by mDNS: a real server, and Avahi on both hosts as on a desktop.

use std::fs;
use std::time::{Duration, Instant};

use super::{Asks, Game, Listing, Profile, Search, servers};
use crate::lab::{Host, PATIENCE, Process, until};

/// A bus of the host's own, open to all its users.
const BUS: &str = r#"<busconfig>
  <type>system</type>
  <listen>ADDRESS</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

const AVAHI: &str = "[server]
host-name=NAME
use-ipv4=yes
use-ipv6=no
enable-dbus=yes
[publish]
publish-hinfo=no
publish-workstation=no
";

pub(crate) const MUMBLE: Game = Game {
    name: "Mumble",
    client: "avahi-browse",
    programs: &[
        ("murmurd", "mumble-server"),
        ("avahi-daemon", "avahi-daemon"),
        ("avahi-browse", "avahi-utils"),
        ("dbus-daemon", "dbus-daemon"),
    ],
    asks: Asks::Client(&[5353]),
    serve: |host| {
        let (mut running, bus) = avahi(host);
        let (dir, home) = (host.dir().display(), host.dir().join("home"));
        let settings =
            format!("bonjour=true\nice=\nport=64738\nregisterName=lab\ndatabase={}/m.sqlite\n", home.display());
        let file = format!("{dir}/murmur.ini");
        fs::write(&file, settings).unwrap();
        let args = ["env", &bus, "/usr/sbin/murmurd", "-fg", "-ini", &file];
        running.push(servers::wait(host, 64_738, host.spawn_as_player(&args)));
        running
    },
    find,
    node: &["--share-mdns"],
    profile: Some(Profile { id: "mumble", server: "server", client: None }),
};

/// A bus and Avahi on it; gives them, and the environment variable by which programs find the bus.
fn avahi(host: &Host) -> (Vec<Process>, String) {
    let (dir, at) = (host.dir().display(), format!("unix:path={}/bus", host.dir().display()));
    let (bus, avahi) = (format!("{dir}/bus.conf"), format!("{dir}/avahi.conf"));
    fs::write(&bus, BUS.replace("ADDRESS", &at)).unwrap();
    fs::write(&avahi, AVAHI.replace("NAME", &format!("lab-{}", host.name()))).unwrap();
    let daemon = host.spawn(&["dbus-daemon", "--nofork", "--nopidfile", &format!("--config-file={bus}")]);
    until("the bus is there", PATIENCE, || if host.dir().join("bus").exists() { Ok(()) } else { Err(daemon.all()) });
    let variable = format!("DBUS_SYSTEM_BUS_ADDRESS={at}");
    // It keeps its pid in /run, and there are two of it: each gets a /run that nobody else sees.
    let start = format!("mount -t tmpfs none /run && exec avahi-daemon --no-rlimits --no-chroot -f {avahi}");
    let responder = host.spawn(&["env", &variable, "sh", "-c", &start]);
    until("Avahi is on the bus", PATIENCE, || {
        let said = responder.all();
        if said.contains("Server startup complete") { Ok(()) } else { Err(said) }
    });
    (vec![daemon, responder], variable)
}

fn find(search: &Search<'_>) -> Result<Listing, String> {
    let (_running, bus) = avahi(search.on);
    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < search.patience {
        // It ends when it has waited about a second for more.
        let args = ["env", &bus, "avahi-browse", "--resolve", "--parsable", "--terminate", "_mumble._tcp"];
        last = search.on.run_as_player(&args).all();
        let at = Instant::now();
        // =;interface;IPv4;name;type;domain;host;address;port;text
        let found = last.lines().find_map(|line| {
            let fields: Vec<_> = line.strip_prefix("=;")?.split(';').collect();
            Some((fields.get(6)?.parse().ok()?, line.to_string()))
        });
        if let Some((server, text)) = found {
            return Ok(Listing { server, text, at });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("no service found\n{last}"))
}

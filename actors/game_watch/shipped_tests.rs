//! The shipped profiles as a whole.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::matcher::{Matcher, overlap};
use super::process::ProcessFacts;
use super::profile::{Os, ProcessRule, Profile};
use super::set::{BUILTIN, Origin, ProfileSet};

/// A process just as a rule describes it, on the system `os`.
fn process(rule: &ProcessRule, os: Os, filler: &str) -> (Option<String>, Vec<OsString>) {
    let args = rule.args.iter().map(|glob| glob.sample(filler));
    let exe = rule.exe.sample(filler);
    // Windows programs as Wine shows them on Linux.
    let (file, first) = match os {
        Os::Windows => ("/usr/lib/wine/wine64-preloader".to_owned(), format!("C:\\Games\\{exe}.exe")),
        Os::Linux | Os::Macos => (format!("/usr/games/{exe}"), exe),
    };
    (Some(file), std::iter::once(first).chain(args).map(OsString::from).collect())
}

fn systems(rule: &ProcessRule) -> Vec<Os> {
    if rule.os.is_empty() { vec![Os::Linux, Os::Windows, Os::Macos] } else { rule.os.clone() }
}

fn ids(matcher: &Matcher, host: Os, exe: Option<&str>, cmd: &[OsString]) -> Vec<String> {
    let facts = ProcessFacts { host, exe: exe.map(Path::new), name: OsStr::new("x"), cmd };
    matcher.find_all(&facts).iter().map(|profile| profile.id.clone()).collect()
}

#[test]
fn every_shipped_profile_is_right_and_has_a_source() {
    for (id, text) in BUILTIN {
        let profile = Profile::parse(text).unwrap_or_else(|problems| panic!("{id}: {problems:#?}"));
        assert_eq!(profile.id, *id, "the file is named as the profile");
        assert!(!profile.sources.is_empty(), "{id} has no source");
    }
    assert!(BUILTIN.len() >= 60, "{}", BUILTIN.len());
    assert_eq!(ProfileSet::new().problems(), []);
    assert!(ProfileSet::new().iter().all(|(_, origin)| origin == Origin::Builtin));
}

#[test]
fn every_process_of_a_profile_matches_it_and_no_other() {
    let set = ProfileSet::new();
    let mut tried = 0;
    for (profile, _) in set.iter() {
        for rule in &profile.processes {
            for os in systems(rule) {
                for filler in ["", "a", "64", ".x86_64"] {
                    let (exe, cmd) = process(rule, os, filler);
                    let host = if os == Os::Macos { Os::Macos } else { Os::Linux };
                    let found = ids(set.matcher(), host, exe.as_deref(), &cmd);
                    assert_eq!(found, [profile.id.as_str()], "{exe:?} {cmd:?}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn no_two_profiles_overlap() {
    let set = ProfileSet::new();
    let profiles: Vec<_> = set.iter().map(|(profile, _)| profile).collect();
    for (i, a) in profiles.iter().enumerate() {
        for b in &profiles[i + 1..] {
            for (x, y) in a.processes.iter().flat_map(|x| b.processes.iter().map(move |y| (x, y))) {
                assert!(!overlap(x, y), "{} and {}: {x:?} {y:?}", a.id, b.id);
            }
        }
    }
}

#[test]
fn what_is_no_game_matches_nothing() {
    let set = ProfileSet::new();
    let processes: &[&[&str]] = &[
        &["/usr/bin/bash"],
        &["/usr/bin/bash", "-c", "openttd -D"],
        &["/usr/bin/dash", "/usr/games/openarena"],
        &["/usr/bin/java", "-jar", "server.jar"],
        &["/usr/bin/java", "-cp", "lib/*", "org.elasticsearch.bootstrap.Elasticsearch"],
        &["/opt/jdk/bin/javaw", "com.intellij.idea.Main"],
        &["/usr/bin/java", "-jar", "minecraft-launcher.jar"],
        &["/usr/bin/python3.11", "-m", "http.server"],
        &["/usr/bin/python3.11", "/opt/proton/proton", "waitforexitandrun", "C:\\Games\\war3.exe"],
        &["/usr/lib/firefox/firefox"],
        &["/opt/google/chrome/chrome", "--type=renderer"],
        &["/home/a/.steam/ubuntu12_32/steam", "-srt-logger-opened"],
        &["/home/a/.steam/ubuntu12_64/steamwebhelper"],
        &["/usr/sbin/sshd", "-D"],
        &["/usr/bin/ssh", "host", "hlds_linux"],
        &["/usr/lib/systemd/systemd"],
        &["/usr/bin/dotnet", "build.dll"],
        &["/usr/bin/mono", "Tomboy.exe"],
        &["/usr/bin/vim", "terraria.toml"],
        &["/usr/bin/gdb", "--args", "openttd"],
        &["/usr/bin/node", "server.js"],
        &["/usr/sbin/mariadbd"],
        &["/usr/bin/etserver"],
        &["/usr/bin/et", "host"],
        &["/usr/bin/daemon", "--name", "x"],
        &["/usr/bin/Xorg", ":0"],
        &["/usr/bin/gnome-shell"],
        &["/usr/lib/wine/wineserver64"],
        &["/usr/lib/wine/wine64-preloader", "C:\\windows\\system32\\explorer.exe", "/desktop"],
        &["/usr/lib/wine/wine64-preloader", "C:\\windows\\system32\\services.exe"],
        &["/usr/lib/wine/wine64-preloader", "C:\\windows\\system32\\start.exe", "/exec", "C:\\Games\\war3.exe"],
        &["/usr/lib/wine/wine64-preloader", "C:\\Program Files\\Steam\\steam.exe"],
        &["/usr/games/chocolate-setup"],
        &["/usr/games/megaglest_editor"],
        &["/usr/bin/discord"],
        &["/usr/games/hl", "-game", "mystery"],
        &["/usr/bin/lanrage", "up"],
    ];
    for cmd in processes {
        let exe = cmd[0];
        let cmd: Vec<OsString> = cmd.iter().map(OsString::from).collect();
        assert_eq!(ids(set.matcher(), Os::Linux, Some(exe), &cmd), [""; 0], "{cmd:?}");
    }
    for name in
        ["svchost.exe", "explorer.exe", "javaw.exe", "steam.exe", "chrome.exe", "game.exe", "hl2.exe", "python.exe"]
    {
        assert_eq!(ids(set.matcher(), Os::Windows, Some(name), &[name.into()]), [""; 0], "{name}");
    }
}

/// How the games of Debian 12 look while they run.
#[test]
fn games_of_debian_match() {
    let set = ProfileSet::new();
    let processes: &[(&[&str], &str)] = &[
        (&["/usr/games/chocolate-server", "-privateserver"], "chocolate-doom"),
        (&["/usr/games/openttd", "-D", "-g"], "openttd"),
        (&["/usr/lib/ioquake3/ioq3ded", "+set", "com_basegame", "baseoa", "+set", "dedicated", "1"], "openarena"),
        (&["/usr/lib/ioquake3/ioquake3", "+set", "com_basegame", "baseoa"], "openarena"),
        (&["/usr/lib/ioquake3/ioquake3", "+set", "fs_basepath", "/usr/lib/quake3"], "quake3"),
        (&["/usr/games/teeworlds-server"], "teeworlds"),
        (&["/usr/games/DDNet-Server"], "ddnet"),
        (&["/usr/games/freeciv-server", "-p", "5556"], "freeciv"),
        (&["/usr/games/freeciv-gtk3.22"], "freeciv"),
        (&["/usr/sbin/murmurd", "-fg", "-ini", "x"], "mumble"),
        (&["/usr/lib/hedgewars/bin/hedgewars"], "hedgewars"),
        (&["/usr/games/widelands"], "widelands"),
        (&["/usr/games/quakespasm"], "quake"),
        (&["/usr/games/darkplaces", "-nexuiz", "-basedir", "/usr/share/games/nexuiz"], "nexuiz"),
        (&["/usr/games/darkplaces"], "quake"),
        (&["/usr/games/megaglest"], "megaglest"),
        (&["/usr/lib/minetest/minetestserver", "--config", "x"], "luanti"),
        (&["/usr/games/wesnothd-1.16"], "wesnoth"),
        (&["/usr/games/pyrogenesis"], "0ad"),
        (&["/usr/games/armagetronad-dedicated.real"], "armagetronad"),
        (&["/usr/lib/cube2/cube2_server"], "sauerbraten"),
        (&["/usr/bin/java", "-Xmx2G", "-jar", "/srv/minecraft_server.1.20.4.jar", "nogui"], "minecraft-java"),
        (&["/opt/jdk/bin/java", "-cp", "a:b", "net.minecraft.client.main.Main", "--username", "a"], "minecraft-java"),
    ];
    for (cmd, id) in processes {
        let exe = cmd[0];
        let cmd: Vec<OsString> = cmd.iter().map(OsString::from).collect();
        assert_eq!(ids(set.matcher(), Os::Linux, Some(exe), &cmd), [*id], "{cmd:?}");
    }
}

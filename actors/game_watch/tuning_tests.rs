//! Several games at once.

use super::*;
use crate::game_watch::profile::Profile;

/// A profile of these lines under `[tuning]`, with these ports.
pub(crate) fn profile(id: &str, ports: &str, tuning: &str, discovery: &str) -> Profile {
    let text = format!(
        "id = \"{id}\"\nname = \"The {id}\"\nsources = [\"https://example.org/{id}\"]\n\
         [[process]]\nexe = \"{id}\"\n{ports}\n[tuning]\n{tuning}\n{discovery}\n"
    );
    Profile::parse(&text).unwrap_or_else(|problems| panic!("{text}\n{problems:?}"))
}

fn port(port: &str, protocol: &str) -> String {
    format!("[[port]]\nport = {port}\nprotocol = \"{protocol}\"\n")
}

fn of(profiles: &[Profile]) -> Wanted {
    let playing: Vec<_> = profiles.iter().map(|profile| Playing { profile, listening: &[] }).collect();
    wanted(&playing)
}

fn values(wanted: &Wanted) -> Vec<(&str, &str, String)> {
    wanted.applied.iter().map(|it| (it.what.as_str(), it.value.as_str(), it.games.join(" "))).collect()
}

#[test]
fn nothing_running_is_the_default() {
    assert_eq!(of(&[]), Wanted::default());
    assert_eq!(of(&[profile("plain", "", "", "")]), Wanted::default(), "and so is a game that asks for nothing");
}

#[test]
fn one_game_gets_what_it_asks_for() {
    let game = profile(
        "doom",
        &port("2342", "udp"),
        "keepalive_s = 10\nmtu = 1200\npriority = \"voice\"\nredundancy = \"on\"\nrelay = \"avoid\"",
        "[discovery]\nmethod = [\"limited-broadcast\", \"multicast\"]\nports = [2342]\ngroup = \"239.1.2.3\"\n",
    );
    let wanted = of(std::slice::from_ref(&game));
    assert_eq!(
        wanted.peer,
        PeerTuning {
            keepalive: Some(Duration::from_secs(10)),
            redundancy: peer::Redundancy::On,
            relay: RelayPolicy::Avoid
        }
    );
    assert_eq!(wanted.mtu, Some(1200));
    let class = Class { urgency: Urgency::Expedited, dscp: 46 };
    assert_eq!(wanted.classes, [ClassRule::new(IpProtocol::Udp, 2342..=2342, class)]);
    assert_eq!(
        wanted.broadcast,
        GameRules { ports: vec![PortRule { first: 2342, last: 2342 }], groups: vec![[239, 1, 2, 3].into()] }
    );
    let doom = || "doom".to_owned();
    assert_eq!(
        values(&wanted),
        [
            ("keepalive", "10 s", doom()),
            ("mtu", "1200 bytes", doom()),
            ("priority", "voice (DSCP 46) on UDP 2342", doom()),
            ("redundancy", "on", doom()),
            ("relay", "avoid", doom()),
            ("discovery", "2342, 239.1.2.3", doom()),
        ]
    );
    assert!(wanted.applied.iter().all(|it| !it.reason.is_empty()));
}

#[test]
fn of_several_games_each_setting_has_its_rule() {
    let a = profile(
        "aa",
        &port("\"5000-5010\"", "udp"),
        "keepalive_s = 20\nmtu = 1300\npriority = \"game\"\nrelay = \"never\"",
        "",
    );
    let b = profile(
        "bb",
        &port("5005", "udp"),
        "keepalive_s = 5\npriority = \"voice\"\nredundancy = \"off\"\nrelay = \"never\"",
        "",
    );
    let c = profile("cc", &port("5001", "tcp"), "mtu = 1200\npriority = \"low\"\nredundancy = \"on\"", "");
    let wanted = of(&[a.clone(), b.clone(), c.clone()]);
    assert_eq!(wanted.peer.keepalive, Some(Duration::from_secs(5)));
    assert_eq!(wanted.mtu, Some(1200));
    assert_eq!(wanted.peer.redundancy, peer::Redundancy::On);
    assert_eq!(wanted.peer.relay, RelayPolicy::Avoid, "one of the three does not mind");
    let dscps: Vec<_> = wanted.classes.iter().map(|rule| (rule.class.dscp, *rule.ports.start())).collect();
    assert_eq!(dscps, [(46, 5005), (32, 5000), (8, 5001)], "the more urgent has the port that two share");
    let both = of(&[a.clone(), b]);
    assert_eq!((both.peer.relay, both.peer.redundancy), (RelayPolicy::Never, peer::Redundancy::Off));
    // One after the other ends.
    let one = of(std::slice::from_ref(&a));
    assert_eq!((one.peer.keepalive, one.mtu), (Some(Duration::from_secs(20)), Some(1300)));
    assert_eq!(
        of(&[c, a]).classes,
        wanted.classes.iter().filter(|rule| rule.class.dscp != 46).cloned().collect::<Vec<_>>()
    );
}

#[test]
fn open_ports_count_besides_those_of_the_profile() {
    let game = profile("game", &port("\"100-200\"", "udp"), "priority = \"game\"", "");
    let open = |port: u16| (IpProtocol::Udp, SocketAddr::from(([0, 0, 0, 0], port)));
    let listening = [open(150), open(40_000), (IpProtocol::Tcp, open(150).1), open(40_000)];
    let wanted = wanted(&[Playing { profile: &game, listening: &listening }]);
    let ports: Vec<_> = wanted.classes.iter().map(|rule| (rule.protocol, rule.ports.clone())).collect();
    assert_eq!(ports, [(IpProtocol::Udp, 100..=200), (IpProtocol::Udp, 40_000..=40_000), (IpProtocol::Tcp, 150..=150)]);
    assert!(values(&wanted)[0].1.ends_with("on UDP 100-200, UDP 40000, TCP 150"), "{:?}", values(&wanted));
}

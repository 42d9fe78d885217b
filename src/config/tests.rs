use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn places() -> Places {
    Places { data: "/home/u/data".into(), config: "/nowhere/config.toml".into(), host_name: Some("deck.lan".into()) }
}

/// A configuration file that goes away with the test.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn file(text: &str) -> File {
    let name = format!("lanrage-config-{}-{:?}.toml", std::process::id(), std::thread::current().id());
    let file = File(std::env::temp_dir().join(name));
    std::fs::write(&file.0, text).unwrap();
    file
}

fn load(text: &str, flags: Layer) -> Result<Config, ConfigError> {
    Config::load(Some(&file(text).0), flags, false, &places())
}

#[test]
fn the_default_file_has_every_key_and_no_other() {
    let defaults = Layer::defaults().unwrap();
    let serde_json::Value::Object(keys) = serde_json::to_value(&defaults).unwrap() else { panic!() };
    let missing: Vec<_> = keys.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key).collect();
    assert!(missing.is_empty(), "config/default.toml lacks {missing:?}");
    let written: toml::Table = toml::from_str(DEFAULTS).unwrap();
    assert_eq!(
        written.keys().collect::<Vec<_>>(),
        toml::Table::try_from(&defaults).unwrap().keys().collect::<Vec<_>>()
    );
    // Each key has a comment above it.
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    for key in keys.keys() {
        let at = lines.iter().position(|line| line.starts_with(&format!("{key} = "))).unwrap();
        assert!(lines[at - 1].starts_with("# "), "{key} is not explained");
    }
}

#[test]
fn every_key_is_a_flag_and_a_variable() {
    let command = Layer::augment_args(clap::Command::new("test"));
    let serde_json::Value::Object(keys) = serde_json::to_value(Layer::defaults().unwrap()).unwrap() else { panic!() };
    for key in keys.keys().filter(|key| *key != "default-bootstrap") {
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(key)).expect(key);
        let variable = format!("LANRAGE_{}", key.to_uppercase().replace('-', "_"));
        assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        assert!(argument.get_help().is_some(), "{key}");
    }
}

#[test]
fn defaults() {
    let config = Config::load(None, Layer::default(), false, &places()).unwrap();
    assert_eq!(config.data_dir, Path::new("/home/u/data"));
    assert_eq!(config.name, "deck");
    assert_eq!(config.api, "127.0.0.1:8666".parse().unwrap());
    assert_eq!(config.bootstrap.len(), 7);
    assert_eq!(config.dht_protocol, "/ipfs/kad/1.0.0");
    assert_eq!((config.listen_port, config.p2p_port), (None, None));
    assert_eq!((config.tun.as_str(), config.mtu, config.mdns), ("lanrage0", 1360, true));
    assert_eq!(config.range, Ipv4Range::DEFAULT);
    assert_eq!(config.file, None);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() {
    let mine = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8";
    let text =
        format!("mtu = 1280\nname = \"file\"\nlisten-port = 7000\nrange = \"172.20.0.0/20\"\nbootstrap = [\"{mine}\"]");
    let flags = Layer { name: Some("flag".parse().unwrap()), no_default_bootstrap: Some(true), ..Layer::default() };
    let config = load(&text, flags).unwrap();
    assert_eq!((config.mtu, config.name.as_str(), config.listen_port), (1280, "flag", Some(7000)));
    assert_eq!(config.range.network(), Ipv4Addr::new(172, 20, 0, 0));
    assert_eq!(config.bootstrap, [mine]);
    assert_eq!(load(&text, Layer::default()).unwrap().bootstrap.len(), 8);
    let twice = format!("bootstrap = [\"{mine}\", \"{mine}\"]");
    assert_eq!(load(&twice, Layer::default()).unwrap().bootstrap.len(), 8);
}

#[test]
fn mistakes_in_a_file_name_file_line_and_key() {
    for (text, line, key, part) in [
        ("mtu = 1280\n\nmut = 3\n", 3, "mut", "unknown key"),
        ("mtu = \"big\"\n", 1, "mtu", "expected u16"),
        ("# x\nmtu = 100\n", 2, "mtu", "between 576 and 1420"),
        ("listen-port = 70000\n", 1, "listen-port", "70000"),
        ("no-mdns = 1\n", 1, "no-mdns", "expected a boolean"),
        ("range = \"10.66.0.1/16\"\n", 1, "range", "10.66.0.0/16"),
        ("name = \"x\"\napi = \"0.0.0.0:8666\"\n", 2, "api", "127.0.0.1:8666"),
        ("bootstrap = [\n  \"/ip4/1.2.3.4/tcp/1\",\n]\n", 1, "bootstrap", "PeerId"),
        ("tun = \"a/b\"\n", 1, "tun", "lanrage0"),
        ("dht-protocol = \"kad\"\n", 1, "dht-protocol", "/lanrage/kad/1.0.0"),
        ("mtu = = 3\n", 1, "mtu", ""),
    ] {
        let error = load(text, Layer::default()).unwrap_err().0;
        for part in ["lanrage-config-", &format!("line {line}"), &format!("key `{key}`"), part] {
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
    let error = Config::load(Some(Path::new("/nowhere/x.toml")), Layer::default(), false, &places()).unwrap_err().0;
    assert!(error.contains("/nowhere/x.toml"), "{error}");
}

#[test]
fn the_api_stays_on_this_computer() {
    for good in ["127.0.0.1:1", "127.8.8.8:8666", "[::1]:0"] {
        assert!(good.parse::<ApiAddr>().is_ok(), "{good}");
    }
    for bad in ["0.0.0.0:8666", "192.168.1.2:8666", "[::]:8666", "10.66.0.1:80", "8666", "localhost", ""] {
        assert!(bad.parse::<ApiAddr>().is_err(), "{bad}");
    }
}

#[test]
fn names() {
    for good in ["a", "Ann-Marie the 2nd", "日本", "", &"x".repeat(32)] {
        assert!(good.parse::<NodeName>().is_ok(), "{good}");
    }
    for bad in [" a", "a ", "a\nb", "\u{7f}", &"x".repeat(33)] {
        assert!(bad.parse::<NodeName>().is_err(), "{bad}");
    }
    assert_eq!(values::name_from_host("deck.example.org").as_deref(), Some("deck"));
    assert_eq!(values::name_from_host(&"é".repeat(40)).unwrap().chars().count(), 32);
    assert_eq!(values::name_from_host(".x"), None);
    let nameless = Places { host_name: None, ..places() };
    assert_eq!(Config::load(None, Layer::default(), false, &nameless).unwrap().name, "player");
}

#[test]
fn folders_of_users() {
    let none = |_| None;
    assert_eq!(Places::new(true, &none, None).data, Path::new("/var/lib/lanrage"));
    let home = |name| (name == "HOME").then(|| PathBuf::from("/home/u"));
    assert_eq!(Places::new(false, &home, None).data, Path::new("/home/u/.local/share/lanrage"));
    assert_eq!(Places::new(false, &home, None).config, Path::new("/home/u/.config/lanrage/config.toml"));
    let xdg = |name| match name {
        "HOME" => Some(PathBuf::from("/home/u")),
        "XDG_DATA_HOME" => Some(PathBuf::from("/data")),
        _ => Some(PathBuf::from("relative")),
    };
    assert_eq!(Places::new(false, &xdg, None).data, Path::new("/data/lanrage"));
    assert_eq!(Places::new(false, &xdg, None).config, Path::new("/home/u/.config/lanrage/config.toml"));
}

#[test]
fn a_relay_has_a_folder_of_its_own() {
    let relay = RelayConfig::load(None, RelayFlags::default(), &places()).unwrap();
    assert_eq!((relay.data_dir.to_str(), relay.p2p_port), (Some("/home/u/lanrage-relay"), 4001));
    let flags = RelayFlags { data_dir: Some("/r".into()), p2p_port: Some(0), ..RelayFlags::default() };
    let relay = RelayConfig::load(None, flags, &places()).unwrap();
    assert_eq!((relay.data_dir.to_str(), relay.p2p_port), (Some("/r"), 0));
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused_by_name(text in "[a-z\\-]{0,8}( = |\n|\"|\\[|é){0,3}.{0,40}(\n.{0,20}){0,3}") {
        if let Err(error) = Layer::parse(&text, Path::new("x.toml")) {
            prop_assert!(error.0.starts_with("x.toml") && !error.0.contains('\n'), "{}", error.0);
        }
    }

    #[test]
    fn what_is_accepted_is_within_the_limits(text in "\\PC{0,48}") {
        if let Ok(NodeName(name)) = text.parse() {
            prop_assert!(name.chars().count() <= 32 && !name.chars().any(char::is_control));
        }
        if let Ok(TunName(name)) = text.parse() {
            prop_assert!((1..=15).contains(&name.len()) && !name.contains(['/', ' ']));
        }
        if let Some(name) = values::name_from_host(&text) {
            prop_assert!(!name.is_empty() && name.parse::<NodeName>().is_ok());
        }
    }

    #[test]
    fn only_loopback_addresses_are_accepted(octets: [u8; 4], port: u16) {
        let text = format!("{}:{port}", Ipv4Addr::from(octets));
        prop_assert_eq!(text.parse::<ApiAddr>().is_ok(), octets[0] == 127);
    }
}

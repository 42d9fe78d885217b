use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
id = "test-game"
name = "Test Game"
notes = """
Two
lines."""
sources = ["https://example.org/a"]

[[process]]
os = ["linux", "macos"]
exe = "Test*"
args = ["-game", "cs*"]
not_args = ["-dedicated"]
role = "client"

[[process]]
exe = "testd"

[[port]]
port = "27960-27963"
protocol = "udp"

[[port]]
port = 27964
protocol = "tcp"
role = "query"

[discovery]
method = ["limited-broadcast", "multicast"]
ports = [27960, "27970-27971"]
group = "224.0.2.60"
reply = "broadcast"
embeds_address = true

[query]
protocol = "quake3"
port = 27960

[tuning]
keepalive_s = 10
mtu = 1200
priority = "game"
redundancy = "on"
relay = "avoid"

[join]
command = "test +connect {ip}:{port}"
address = "{ip}"
"#;

fn ports(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).unwrap()
}

#[test]
fn every_key_is_read() {
    let profile = Profile::parse(WHOLE).unwrap();
    assert_eq!((profile.id.as_str(), profile.name.as_str()), ("test-game", "Test Game"));
    assert_eq!(profile.notes.as_deref(), Some("Two\nlines."));
    assert_eq!(profile.sources, ["https://example.org/a"]);
    let [client, server] = &profile.processes[..] else { panic!("{:?}", profile.processes) };
    assert_eq!(
        (client.exe.as_str(), &client.os[..], client.role),
        ("test*", &[Os::Linux, Os::Macos][..], Role::Client)
    );
    assert_eq!((client.args.len(), client.not_args.len()), (2, 1));
    assert_eq!((server.os.len(), server.args.len(), server.role), (0, 0, Role::Both));
    assert_eq!(
        profile.ports,
        [
            PortUse { port: ports(27_960, 27_963), protocol: IpProtocol::Udp, role: PortRole::Game },
            PortUse { port: ports(27_964, 27_964), protocol: IpProtocol::Tcp, role: PortRole::Query },
        ]
    );
    assert_eq!(
        profile.discovery,
        Some(Discovery {
            methods: vec![DiscoveryMethod::LimitedBroadcast, DiscoveryMethod::Multicast],
            ports: vec![ports(27_960, 27_960), ports(27_970, 27_971)],
            groups: vec!["224.0.2.60".parse().unwrap()],
            reply: Reply::Broadcast,
            embeds_address: true,
        })
    );
    assert_eq!(profile.query, Some(Query { protocol: QueryProtocol::Quake3, port: ports(27_960, 27_960) }));
    let tuning = Tuning {
        keepalive_s: Some(10),
        mtu: Some(1200),
        priority: Priority::Game,
        redundancy: Redundancy::On,
        relay: RelayUse::Avoid,
    };
    assert_eq!(profile.tuning, tuning);
    let command = profile.join.command.as_deref().unwrap();
    assert_eq!(Join::fill(command, "10.66.0.2".parse().unwrap(), 27_960), "test +connect 10.66.0.2:27960");
    assert_eq!(profile.join.address.as_deref(), Some("{ip}"));
}

#[test]
fn little_is_needed() {
    let profile = Profile::parse("id = \"a\"\nname = \"A\"\nprocess = [{ exe = \"agame\" }]").unwrap();
    assert_eq!(profile.tuning, Tuning::default());
    assert_eq!((profile.discovery, profile.query, profile.join), (None, None, Join::default()));
}

/// The 1-based line of `WHOLE` that holds `text`.
fn line_of(text: &str) -> u32 {
    let at = WHOLE.find(text).unwrap_or_else(|| panic!("no {text}"));
    u32::try_from(WHOLE[..at].matches('\n').count()).unwrap() + 1
}

/// Every field wrong in turn: old text, new text, field, words of the reason.
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("id = \"test-game\"", "id = 5", "id", "text in quotes"),
    ("id = \"test-game\"", "id = \"\"", "id", "empty"),
    ("id = \"test-game\"", "id = \"Test Game\"", "id", "small letters"),
    ("id = \"test-game\"", "id = \"../etc\"", "id", "small letters"),
    ("name = \"Test Game\"", "name = [\"x\"]", "name", "a list"),
    ("name = \"Test Game\"", "name = \" x\"", "name", "space"),
    ("name = \"Test Game\"", "name = \"a\\nb\"", "name", "one line"),
    ("name = \"Test Game\"", "nmae = \"Test Game\"", "nmae", "known here: id, name"),
    ("sources = [\"https://example.org/a\"]", "sources = \"https://example.org/a\"", "sources", "a list"),
    ("sources = [\"https://example.org/a\"]", "sources = [\"example\"]", "sources[1]", "web address"),
    ("sources = [\"https://example.org/a\"]", "sources = [4]", "sources[1]", "text in quotes"),
    ("os = [\"linux\", \"macos\"]", "os = [\"linux\", \"beos\"]", "process[1].os[2]", "linux, windows, macos"),
    ("os = [\"linux\", \"macos\"]", "os = true", "process[1].os", "linux, windows, macos"),
    ("exe = \"Test*\"", "exe = 1", "process[1].exe", "text in quotes"),
    ("exe = \"Test*\"", "exe = \"t*\"", "process[1].exe", "too many programs"),
    ("exe = \"Test*\"", "exe = \"bin/test\"", "process[1].exe", "without folders"),
    ("exe = \"Test*\"", "exe = \"test.EXE\"", "process[1].exe", "without .exe"),
    ("exe = \"testd\"", "exe = \"java*\"", "process[2].exe", "`args`"),
    ("exe = \"testd\"", "role = \"server\"", "process[2].exe", "missing"),
    ("args = [\"-game\", \"cs*\"]", "args = \"cs*\"", "process[1].args", "a list"),
    ("args = [\"-game\", \"cs*\"]", "args = [\"*\"]", "process[1].args[1]", "every argument"),
    ("not_args = [\"-dedicated\"]", "not_args = [7]", "process[1].not_args[1]", "text in quotes"),
    ("role = \"client\"", "role = \"player\"", "process[1].role", "client, server, both"),
    ("port = \"27960-27963\"", "port = 0", "port[1].port", "1 to 65535"),
    ("port = \"27960-27963\"", "port = 70000", "port[1].port", "70000"),
    ("port = \"27960-27963\"", "port = \"20-10\"", "port[1].port", "backwards"),
    ("port = \"27960-27963\"", "port = \"+1\"", "port[1].port", "no port"),
    ("port = \"27960-27963\"", "port = 1.5", "port[1].port", "with a point"),
    ("protocol = \"udp\"", "protocol = \"sctp\"", "port[1].protocol", "udp, tcp"),
    ("protocol = \"tcp\"", "", "port[2].protocol", "missing"),
    ("role = \"query\"", "role = 3", "port[2].role", "game, discovery, query"),
    ("[[port]]\nport = 27964", "[[prot]]\nport = 27964", "prot", "not a key"),
    (
        "method = [\"limited-broadcast\", \"multicast\"]",
        "method = \"shouting\"",
        "discovery.method",
        "limited-broadcast",
    ),
    ("method = [\"limited-broadcast\", \"multicast\"]", "method = []", "discovery.method", "a method"),
    ("method = [\"limited-broadcast\", \"multicast\"]", "", "discovery.method", "missing"),
    (
        "method = [\"limited-broadcast\", \"multicast\"]",
        "method = \"limited-broadcast\"",
        "discovery.group",
        "multicast",
    ),
    ("method = [\"limited-broadcast\", \"multicast\"]", "method = \"none\"", "discovery.ports", "none"),
    (
        "method = [\"limited-broadcast\", \"multicast\"]",
        "method = [\"none\", \"multicast\"]",
        "discovery.method",
        "alone",
    ),
    ("ports = [27960, \"27970-27971\"]", "ports = 27960", "discovery.ports", "a list"),
    ("ports = [27960, \"27970-27971\"]", "ports = [\"x\"]", "discovery.ports[1]", "no port"),
    ("ports = [27960, \"27970-27971\"]", "ports = [\"1-1000\"]", "discovery.ports", "1000 in all"),
    ("ports = [27960, \"27970-27971\"]", "", "discovery", "`ports`"),
    ("group = \"224.0.2.60\"", "group = \"10.0.0.1\"", "discovery.group", "224.0.2.60"),
    ("group = \"224.0.2.60\"", "", "discovery", "`group`"),
    ("reply = \"broadcast\"", "reply = \"loud\"", "discovery.reply", "unicast, broadcast"),
    ("embeds_address = true", "embeds_address = \"yes\"", "discovery.embeds_address", "true or false"),
    ("protocol = \"quake3\"", "protocol = \"telepathy\"", "query.protocol", "quake3"),
    (
        "[query]\nprotocol = \"quake3\"\nport = 27960",
        "[query]\nprotocol = \"quake3\"\nport = -1",
        "query.port",
        "1 to 65535",
    ),
    ("[query]\nprotocol = \"quake3\"\nport = 27960", "query = 5", "discovery.query", "not a key"),
    ("keepalive_s = 10", "keepalive_s = 0", "tuning.keepalive_s", "5 to 60"),
    ("keepalive_s = 10", "keepalive_s = \"10\"", "tuning.keepalive_s", "whole number"),
    ("mtu = 1200", "mtu = 9000", "tuning.mtu", "576 to 1420"),
    ("mtu = 1200", "mtu = 99999999999999999999", "tuning.mtu", "576 to 1420"),
    ("priority = \"game\"", "priority = \"highest\"", "tuning.priority", "low, normal, game, voice"),
    ("redundancy = \"on\"", "redundancy = true", "tuning.redundancy", "off, on, auto"),
    ("relay = \"avoid\"", "relay = \"maybe\"", "tuning.relay", "auto, avoid, never"),
    ("command = \"test +connect {ip}:{port}\"", "command = \"test\"", "join.command", "{ip}"),
    ("command = \"test +connect {ip}:{port}\"", "command = \"test {ip} {host}\"", "join.command", "placeholders"),
    ("address = \"{ip}\"", "address = 7", "join.address", "text in quotes"),
    ("address = \"{ip}\"", "adress = \"{ip}\"", "join.adress", "known here: command, address"),
];

#[test]
fn every_field_wrong_in_turn() {
    for (good, bad, field, words) in WRONG {
        let line = line_of(good);
        let text = WHOLE.replacen(good, bad, 1);
        let problems = Profile::parse(&text).expect_err(bad);
        let found = problems.iter().find(|problem| problem.field == *field);
        let found = found.unwrap_or_else(|| panic!("{bad}: no {field} in {problems:?}"));
        assert!(found.reason.contains(words), "{bad}: {found}");
        let said = found.line.unwrap().get();
        // What is missing or does not fit together is said at the table, above the line.
        assert!(said == line || (said < line + 3 && said + 6 > line), "{bad}: {found}, expected line {line}");
    }
}

#[test]
fn all_problems_are_said_at_once_in_the_order_of_lines() {
    let text = WHOLE.replace("id = \"test-game\"", "id = 5").replace("\"udp\"", "\"x\"").replace("1200", "1");
    let problems = Profile::parse(&text).unwrap_err();
    let said: Vec<_> = problems.iter().map(|problem| (problem.field.as_str(), problem.line.unwrap().get())).collect();
    assert_eq!(
        said,
        [("id", 2), ("port[1].protocol", line_of("\"udp\"")), ("tuning.mtu", line_of("mtu = "))],
        "{problems:?}"
    );
}

#[test]
fn what_is_missing_is_said_at_its_table() {
    let text = "id = \"a\"\nname = \"A\"\n[[process]]\nexe = \"agame\"\n\n[[process]]\nrole = \"both\"\n";
    let problems = Profile::parse(text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].to_string(), "line 6: process[2].exe: is missing");
    let problems = Profile::parse("").unwrap_err();
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["id", "name", "process"]);
}

#[test]
fn broken_toml_is_named_with_its_line() {
    for (text, line) in [("id = \"a\"\nname = ", 2), ("id = \"a\"\n[[process]\n", 2), ("id = 1\nid = 2\n", 2)] {
        let problems = Profile::parse(text).unwrap_err();
        assert!(problems[0].reason.contains("not TOML"), "{problems:?}");
        assert_eq!(problems[0].line.unwrap().get(), line, "{problems:?}");
    }
}

#[test]
fn everything_is_bounded() {
    let long = |what: &str, count: usize| what.repeat(count);
    let base = "id = \"a\"\nname = \"A\"\n";
    for text in [
        format!("{base}[[process]]\nexe = \"agame\"\n#{}", long("x", limits::FILE)),
        format!("id = \"{}\"\nname = \"A\"\n[[process]]\nexe = \"agame\"", long("a", limits::ID + 1)),
        format!("id = \"a\"\nname = \"{}\"\n[[process]]\nexe = \"agame\"", long("a", limits::NAME + 1)),
        format!("{base}notes = \"{}\"\n[[process]]\nexe = \"agame\"", long("a", limits::NOTES + 1)),
        format!("{base}{}", long("[[process]]\nexe = \"agame\"\n", limits::PROCESSES + 1)),
        format!("{base}[[process]]\nexe = \"{}\"", long("a", limits::GLOB + 1)),
        format!("{base}[[process]]\nexe = \"agame\"\nargs = [{}]", long("\"a\",", limits::ARGS + 1)),
        format!(
            "{base}[[process]]\nexe = \"agame\"\n{}",
            long("[[port]]\nport=1\nprotocol=\"udp\"\n", limits::PORTS + 1)
        ),
        format!("{base}sources = [{}]\n[[process]]\nexe = \"agame\"", long("\"http://a\",", limits::SOURCES + 1)),
    ] {
        let problems = Profile::parse(&text).unwrap_err();
        assert!(problems[0].reason.contains("at most"), "{problems:?}");
    }
    let text = format!("{base}{}", (0..1000).map(|i| format!("k{i} = 1\n")).collect::<String>());
    assert_eq!(Profile::parse(&text).unwrap_err().len(), fields::MAX_PROBLEMS);
}

proptest! {
    #[test]
    fn any_text_is_a_profile_or_has_problems(text in "(?s).{0,400}") {
        if let Err(problems) = Profile::parse(&text) {
            prop_assert!(!problems.is_empty());
        }
    }

    /// Pieces of a good profile in disorder reach further than noise does.
    #[test]
    fn a_shuffled_profile_never_panics(
        cuts in prop::collection::vec((0..WHOLE.len(), 0..40_usize, "[\\[\\]{}=\"'\\\\a0.#\n-]{0,3}"), 1..8)
    ) {
        let mut text = WHOLE.to_owned();
        for (at, length, put) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.replace_range(at..end, &put);
        }
        if let Err(problems) = Profile::parse(&text) {
            prop_assert!(!problems.is_empty());
        }
    }
}

//! The text of a profile file becomes a [`Profile`].

use std::net::IpAddr;

use toml::de::DeTable;

use super::fields::{Field, Fields, Findings, MAX_PROBLEMS, shortened};
use super::glob::Glob;
use super::words::Word;
use super::{Discovery, DiscoveryMethod, Join, PortRange, PortUse, Problem, ProcessRule, Profile, Query, Tuning};
use crate::wire::IpProtocol;

/// How much a profile may hold. Lengths of texts are in characters.
pub mod limits {
    use std::ops::RangeInclusive;

    /// Bytes of a file.
    pub const FILE: usize = 32 * 1024;
    pub const ID: usize = 48;
    pub const NAME: usize = 64;
    pub const NOTES: usize = 2_000;
    pub const SOURCES: usize = 16;
    pub const SOURCE: usize = 300;
    pub const PROCESSES: usize = 48;
    pub const GLOB: usize = 128;
    pub const ARGS: usize = 16;
    pub const PORTS: usize = 32;
    pub const GROUPS: usize = 4;
    /// Ports of a discovery, counted one by one: each costs a rule on the packet path.
    pub const DISCOVERY_PORTS: u32 = 128;
    pub const TEMPLATE: usize = 300;
    /// Seconds.
    pub const KEEPALIVE_S: RangeInclusive<u16> = 5..=60;
    /// Bytes; the most is what the virtual device can carry.
    pub const MTU: RangeInclusive<u16> = 576..=1420;
}

/// Programs that run others: they tell nothing without their arguments.
const RUNNERS: &[&str] = &[
    "java",
    "javaw",
    "python",
    "python3",
    "python3.11",
    "mono",
    "dotnet",
    "node",
    "electron",
    "perl",
    "ruby",
    "lua",
    "sh",
    "bash",
    "dash",
    "zsh",
    "cmd",
    "powershell",
    "wine",
    "wine64",
    "wine-preloader",
    "wine64-preloader",
    "proton",
    "steam",
    "sudo",
    "env",
    "ssh",
    "sshd",
    "systemd",
    "explorer",
    "svchost",
    "firefox",
    "chrome",
    "hl",
    "hl2",
];

impl Word for IpProtocol {
    const WORDS: &'static [(&'static str, Self)] = &[("udp", Self::Udp), ("tcp", Self::Tcp)];
}

pub(super) fn profile(text: &str) -> Result<Profile, Vec<Problem>> {
    if text.len() > limits::FILE {
        let reason = format!("the file has {} bytes; at most {} are allowed", text.len(), limits::FILE);
        return Err(vec![Problem::of_file(reason)]);
    }
    let findings = Findings::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What a broken text seems to say would only add false problems.
        for error in errors.iter().take(MAX_PROBLEMS) {
            let at = error.span().map_or(0, |span| span.start);
            let reason = error.message().lines().collect::<Vec<_>>().join("; ");
            findings.add(at, "", format!("this is not TOML: {}", shortened(&reason)));
        }
        return Err(findings.into_problems());
    }
    let profile = read(&Fields::root(&findings, root.get_ref()), &findings);
    match profile {
        Some(profile) if findings.is_empty() => Ok(profile),
        _ => Err(findings.into_problems()),
    }
}

/// `None` only where something was found wrong.
fn read(top: &Fields<'_, '_>, findings: &Findings<'_>) -> Option<Profile> {
    let id = top.need("id").and_then(|field| id(&field));
    let name = top.need("name").and_then(|field| trimmed(&field, limits::NAME));
    let notes = top.get("notes").and_then(|field| field.lines(0..=limits::NOTES)).map(str::to_owned);
    let sources = top.get("sources").map(|field| sources(&field)).unwrap_or_default();
    let processes = top.need("process").map(|field| tables(&field, limits::PROCESSES, process)).unwrap_or_default();
    let ports = top.get("port").map(|field| tables(&field, limits::PORTS, port)).unwrap_or_default();
    let discovery = top.get("discovery").and_then(|field| discovery(&field));
    let query = top.get("query").and_then(|field| query(&field));
    let tuning = top.get("tuning").and_then(|field| tuning(&field)).unwrap_or_default();
    let join = top.get("join").and_then(|field| join(&field)).unwrap_or_default();
    top.finish();
    if processes.is_empty() && findings.is_empty() {
        top.wrong("needs a [[process]]: without one the game cannot be recognised");
    }
    Some(Profile { id: id?, name: name?, notes, sources, processes, ports, discovery, query, tuning, join })
}

/// The tables that are right; the others have been found wrong.
fn tables<T>(field: &Field<'_, '_>, most: usize, one: impl Fn(&Fields<'_, '_>) -> Option<T>) -> Vec<T> {
    let mut all = Vec::new();
    for table in field.tables(most) {
        all.extend(one(&table));
        table.finish();
    }
    all
}

/// Whether a text can be the id of a profile, and so the name of its file.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=limits::ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn id(field: &Field<'_, '_>) -> Option<String> {
    let text = field.text(1..=limits::ID)?;
    if !is_id(text) {
        field.wrong(format!("`{}` must be of small letters, digits and dashes, like openttd", shortened(text)));
        return None;
    }
    Some(text.to_owned())
}

fn trimmed(field: &Field<'_, '_>, most: usize) -> Option<String> {
    let text = field.text(1..=most)?;
    if text.trim() != text {
        field.wrong("must not start or end with a space");
        return None;
    }
    Some(text.to_owned())
}

fn sources(field: &Field<'_, '_>) -> Vec<String> {
    let mut all = Vec::new();
    for part in field.strict_list(limits::SOURCES) {
        let Some(text) = part.text(1..=limits::SOURCE) else { continue };
        if !(text.starts_with("https://") || text.starts_with("http://")) || text.contains(char::is_whitespace) {
            part.wrong("must be a web address like https://example.org/page");
            continue;
        }
        all.push(text.to_owned());
    }
    all
}

fn process(table: &Fields<'_, '_>) -> Option<ProcessRule> {
    let os = table.get("os").map(|field| field.list(3).iter().filter_map(Field::word).collect()).unwrap_or_default();
    let exe_field = table.need("exe");
    let exe = exe_field.as_ref().and_then(exe);
    let args = table.get("args").map(|field| globs(&field)).unwrap_or_default();
    let not_args = table.get("not_args").map(|field| globs(&field)).unwrap_or_default();
    let role = table.get("role").map_or_else(|| Some(super::Role::default()), |field| field.word());
    let (exe, field) = (exe?, exe_field?);
    if args.is_empty()
        && not_args.is_empty()
        && let Some(runner) = RUNNERS.iter().find(|runner| exe.matches(runner))
    {
        field.wrong(format!("`{exe}` fits `{runner}`, which runs many programs; say with `args` which is meant"));
        return None;
    }
    Some(ProcessRule { os, exe, args, not_args, role: role? })
}

fn exe(field: &Field<'_, '_>) -> Option<Glob> {
    let text = trimmed(field, limits::GLOB)?;
    if text.contains(['/', '\\']) {
        field.wrong("must be a file name only, without folders");
        return None;
    }
    let exe = Glob::new(&text);
    if exe.as_str().ends_with(".exe") {
        field.wrong("is written without .exe");
        return None;
    }
    if exe.literals() < 2 {
        field.wrong(format!("`{exe}` fits too many programs; at least two characters must be no placeholders"));
        return None;
    }
    Some(exe)
}

fn globs(field: &Field<'_, '_>) -> Vec<Glob> {
    let mut all = Vec::new();
    for part in field.strict_list(limits::ARGS) {
        let Some(text) = part.text(1..=limits::GLOB) else { continue };
        let glob = Glob::new(text);
        if glob.literals() == 0 {
            part.wrong("fits every argument");
            continue;
        }
        all.push(glob);
    }
    all
}

fn port(table: &Fields<'_, '_>) -> Option<PortUse> {
    let port = table.need("port").and_then(|field| field.ports());
    let protocol = table.need("protocol").and_then(|field| field.word());
    let role = table.get("role").map_or_else(|| Some(super::PortRole::default()), |field| field.word());
    Some(PortUse { port: port?, protocol: protocol?, role: role? })
}

fn discovery(field: &Field<'_, '_>) -> Option<Discovery> {
    let table = field.table()?;
    let method = table.need("method");
    let methods: Vec<DiscoveryMethod> =
        method.as_ref().map(|field| field.list(4).iter().filter_map(Field::word).collect()).unwrap_or_default();
    let ports_field = table.get("ports");
    let ports: Vec<PortRange> = ports_field
        .as_ref()
        .map(|field| field.strict_list(limits::PORTS).iter().filter_map(Field::ports).collect())
        .unwrap_or_default();
    let group_field = table.get("group");
    let groups: Vec<IpAddr> = group_field
        .as_ref()
        .map(|field| field.list(limits::GROUPS).iter().filter_map(group).collect())
        .unwrap_or_default();
    let reply = table.get("reply").map_or_else(|| Some(super::Reply::default()), |field| field.word());
    let embeds_address = table.get("embeds_address").map_or(Some(false), |field| field.truth());
    table.finish();
    let method = method?;
    let none = methods.contains(&DiscoveryMethod::None);
    let multicast = methods.contains(&DiscoveryMethod::Multicast);
    if methods.is_empty() {
        method.wrong("must name a method; \"none\" where there is no discovery");
    }
    if none && methods.len() > 1 {
        method.wrong("`none` stands alone");
    }
    if !none && !methods.is_empty() && ports_field.is_none() {
        field.wrong("needs `ports`: where queries and announcements go");
    }
    for extra in [&ports_field, &group_field].into_iter().flatten().filter(|_| none) {
        extra.wrong("has no meaning with the method `none`");
    }
    if multicast && group_field.is_none() {
        field.wrong("needs `group`: the method is multicast");
    }
    if let Some(extra) = group_field.as_ref().filter(|_| !multicast && !none && !methods.is_empty()) {
        extra.wrong("has a meaning only with the method `multicast`");
    }
    if let Some(ports_field) = ports_field.as_ref() {
        let count: u32 = ports.iter().map(|range| range.count()).sum();
        if count > limits::DISCOVERY_PORTS {
            ports_field.wrong(format!("are {count} in all; at most {} are allowed", limits::DISCOVERY_PORTS));
        }
    }
    Some(Discovery { methods, ports, groups, reply: reply?, embeds_address: embeds_address? })
}

fn group(field: &Field<'_, '_>) -> Option<IpAddr> {
    let text = field.text(1..=45)?;
    let address = text.parse().ok().filter(IpAddr::is_multicast);
    if address.is_none() {
        field.wrong(format!("`{}` is no multicast group; write it like 224.0.2.60", shortened(text)));
    }
    address
}

fn query(field: &Field<'_, '_>) -> Option<Query> {
    let table = field.table()?;
    let protocol = table.need("protocol").and_then(|field| field.word());
    let port = table.need("port").and_then(|field| field.ports());
    table.finish();
    Some(Query { protocol: protocol?, port: port? })
}

fn tuning(field: &Field<'_, '_>) -> Option<Tuning> {
    let table = field.table()?;
    let mut tuning = Tuning {
        keepalive_s: table.get("keepalive_s").and_then(|field| field.number(limits::KEEPALIVE_S, "seconds")),
        mtu: table.get("mtu").and_then(|field| field.number(limits::MTU, "bytes")),
        ..Tuning::default()
    };
    tuning.priority = word_or_default(&table, "priority");
    tuning.redundancy = word_or_default(&table, "redundancy");
    tuning.relay = word_or_default(&table, "relay");
    table.finish();
    Some(tuning)
}

fn word_or_default<W: Word + Default>(table: &Fields<'_, '_>, key: &'static str) -> W {
    table.get(key).and_then(|field| field.word()).unwrap_or_default()
}

fn join(field: &Field<'_, '_>) -> Option<Join> {
    let table = field.table()?;
    let join = Join {
        command: table.get("command").and_then(|field| template(&field)),
        address: table.get("address").and_then(|field| template(&field)),
    };
    table.finish();
    Some(join)
}

fn template(field: &Field<'_, '_>) -> Option<String> {
    let text = trimmed(field, limits::TEMPLATE)?;
    let rest = text.replace("{ip}", "").replace("{port}", "");
    if rest.contains(['{', '}']) {
        field.wrong("knows {ip} and {port} as placeholders, nothing else in braces");
        return None;
    }
    if !text.contains("{ip}") {
        field.wrong("must hold {ip}, where the address of the host goes");
        return None;
    }
    Some(text)
}

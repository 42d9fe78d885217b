use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::*;

fn profile(id: &str, processes: &str) -> Arc<Profile> {
    Arc::new(Profile::parse(&format!("id = \"{id}\"\nname = \"{id}\"\n{processes}")).unwrap())
}

fn matcher() -> Matcher {
    Matcher::new(vec![
        profile(
            "half-life",
            "[[process]]\nexe = \"hl\"\nos = [\"windows\"]\nnot_args = [\"cstrike\"]\nrole = \"client\"",
        ),
        profile("counter-strike", "[[process]]\nexe = \"hl\"\nargs = [\"-game\", \"cstrike\"]\nrole = \"client\""),
        profile("quake", "[[process]]\nexe = \"quake*\"\n[[process]]\nexe = \"quakespasm\""),
        profile("java-game", "[[process]]\nexe = \"java*\"\nargs = [\"*.Main\"]"),
    ])
}

fn found(matcher: &Matcher, host: Os, exe: &str, args: &[&str]) -> Vec<String> {
    let cmd: Vec<OsString> = std::iter::once(&exe).chain(args).map(OsString::from).collect();
    let facts = ProcessFacts { host, exe: Some(Path::new(exe)), name: OsStr::new("x"), cmd: &cmd };
    let best = matcher.find(&facts);
    let all: Vec<_> = matcher.find_all(&facts).iter().map(|profile| profile.id.clone()).collect();
    assert_eq!(best.is_some(), !all.is_empty());
    assert!(best.is_none_or(|best| all.contains(&best.profile.id) && best.reason.starts_with("program ")));
    all
}

#[test]
fn arguments_tell_games_of_one_program_apart() {
    let matcher = matcher();
    assert_eq!(found(&matcher, Os::Windows, "hl.exe", &["-game", "cstrike"]), ["counter-strike"]);
    assert_eq!(found(&matcher, Os::Windows, "hl.exe", &[]), ["half-life"]);
    assert_eq!(found(&matcher, Os::Linux, "hl", &[]), [""; 0]);
    assert_eq!(found(&matcher, Os::Linux, "/usr/bin/java", &["-cp", "a.jar", "org.Main"]), ["java-game"]);
    assert_eq!(found(&matcher, Os::Linux, "/usr/bin/java", &["org.Other"]), [""; 0]);
    assert_eq!(found(&matcher, Os::Linux, "quakespasm", &[]), ["quake"]);
}

#[test]
fn the_best_match_is_the_one_that_asks_for_most() {
    let first = profile("any", "[[process]]\nexe = \"ga*\"");
    let second = profile("named", "[[process]]\nexe = \"game\"");
    let third = profile("args", "[[process]]\nexe = \"g?me\"\nargs = [\"x\"]");
    let matcher = Matcher::new(vec![first, second, third]);
    let best = |args: &[&str]| {
        let cmd: Vec<OsString> = std::iter::once(&"game").chain(args).map(OsString::from).collect();
        let facts = ProcessFacts { host: Os::here(), exe: None, name: OsStr::new("game"), cmd: &cmd };
        matcher.find(&facts).map(|it| (it.profile.id.clone(), it.reason, it.by_args))
    };
    assert_eq!(best(&["x"]), Some(("args".into(), "program game with x".into(), true)));
    assert_eq!(best(&[]), Some(("named".into(), "program game".into(), false)));
    let twice =
        Matcher::new(vec![profile("a", "[[process]]\nexe = \"game\""), profile("b", "[[process]]\nexe = \"game\"")]);
    let facts = ProcessFacts { host: Os::here(), exe: None, name: OsStr::new("game"), cmd: &[] };
    assert_eq!(twice.find(&facts).map(|it| it.profile.id.clone()).as_deref(), Some("a"));
}

#[test]
fn overlaps_are_seen_without_a_process() {
    let rule = |text: &str| profile("x", &format!("[[process]]\n{text}")).processes[0].clone();
    for (a, b) in [
        ("exe = \"game\"", "exe = \"ga*\""),
        ("exe = \"game\"", "exe = \"game\"\nargs = [\"-d\"]"),
        ("exe = \"game\"\nargs = [\"-d*\"]", "exe = \"game\"\nargs = [\"-dedicated\", \"x\"]"),
        ("exe = \"game\"\nos = [\"linux\"]", "exe = \"game\"\nos = [\"linux\", \"windows\"]"),
    ] {
        assert!(overlap(&rule(a), &rule(b)) && overlap(&rule(b), &rule(a)), "{a} / {b}");
    }
    for (a, b) in [
        ("exe = \"game\"", "exe = \"gamer\""),
        ("exe = \"game\"\nargs = [\"x\"]", "exe = \"game\"\nargs = [\"y\"]"),
        ("exe = \"game\"\nnot_args = [\"x\"]", "exe = \"game\"\nargs = [\"x\"]"),
        ("exe = \"game\"\nos = [\"linux\"]", "exe = \"game\"\nos = [\"windows\"]"),
    ] {
        assert!(!overlap(&rule(a), &rule(b)) && !overlap(&rule(b), &rule(a)), "{a} / {b}");
    }
}

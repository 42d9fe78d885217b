//! `lanrage profile`: works without a running node.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use lanrage_actors::game_watch::folder::DiskFolder;
use lanrage_actors::game_watch::profile::{DiscoveryMethod, Problem, Profile, Word as _, limits};
use lanrage_actors::game_watch::set::{Conflict, Origin, ProfileSet};
use serde_json::json;

use super::args::{ProfileCommand, ProfileListArgs};
use super::print;
use crate::config::{Config, Layer, Places};

pub(super) fn run(command: ProfileCommand, places: &Places) -> Result<ExitCode, String> {
    match command {
        ProfileCommand::Check { files } => check(&files),
        ProfileCommand::List(args) => list(&args, places),
    }
}

fn check(files: &[std::path::PathBuf]) -> Result<ExitCode, String> {
    let known = ProfileSet::new();
    let mut wrong = 0;
    for file in files {
        match read(file) {
            Ok(profile) => {
                print::line(&format!("{}: ok: {}", file.display(), summary(&profile)));
                for warning in warnings(file, &profile, &known) {
                    print::notice(&format!("{}: {warning}", file.display()));
                }
            }
            Err(problems) => {
                wrong += 1;
                for problem in problems {
                    print::error(&at(file, &problem));
                }
            }
        }
    }
    match (wrong, files.len()) {
        (0, _) => Ok(ExitCode::SUCCESS),
        (_, 1) => {
            Err("the profile is wrong; game_profiles/TEMPLATE.toml and docs/game-profiles.md explain every key".into())
        }
        (wrong, all) => Err(format!("{wrong} of {all} profiles are wrong; docs/game-profiles.md explains every key")),
    }
}

fn read(file: &Path) -> Result<Profile, Vec<Problem>> {
    let unreadable = |error: std::io::Error| vec![Problem::of_file(format!("cannot be read: {error}"))];
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let mut text = String::new();
    opened.take(limits::FILE as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    Profile::parse(&text)
}

/// `FILE:3: mtu: …`, which editors can jump to.
fn at(file: &Path, problem: &Problem) -> String {
    let mut place = file.display().to_string();
    if let Some(line) = problem.line {
        place.push_str(&format!(":{line}"));
    }
    if !problem.field.is_empty() {
        place.push_str(&format!(": {}", print::clean(&problem.field)));
    }
    format!("{place}: {}", print::clean(&problem.reason))
}

fn warnings(file: &Path, profile: &Profile, known: &ProfileSet) -> Vec<String> {
    let mut all: Vec<_> = known.conflicts(profile).iter().map(Conflict::to_string).collect();
    if file.file_stem().and_then(|stem| stem.to_str()) != Some(profile.id.as_str()) {
        all.push(format!("must be called {}.toml among your own profiles, after its id", profile.id));
    }
    if known.get(&profile.id).is_some() {
        all.push(format!("among your own profiles it takes the place of the built-in profile {}", profile.id));
    }
    all
}

fn summary(profile: &Profile) -> String {
    let ports: Vec<_> = profile.ports.iter().map(|it| format!("{} {}", it.protocol, it.port)).collect();
    let rules = profile.processes.len();
    let mut text = format!(
        "{} ({}), {rules} process rule{}",
        print::clean(&profile.name),
        profile.id,
        if rules == 1 { "" } else { "s" }
    );
    if !ports.is_empty() {
        text.push_str(&format!(", ports {}", ports.join(", ")));
    }
    text.push_str(&format!(", discovery: {}", discovery(profile)));
    text
}

fn discovery(profile: &Profile) -> String {
    let Some(discovery) = &profile.discovery else { return "unknown".to_owned() };
    let methods: Vec<_> = discovery.methods.iter().map(|method| DiscoveryMethod::word(*method)).collect();
    methods.join(" and ")
}

fn list(args: &ProfileListArgs, places: &Places) -> Result<ExitCode, String> {
    let flags = Layer { data_dir: args.data_dir.clone(), ..Layer::default() };
    let config = Config::load(args.config.as_deref(), flags, false, places).map_err(|error| error.0)?;
    let set = ProfileSet::load(&DiskFolder::of_data(&config.data_dir));
    let problems = set.problems();
    if args.json {
        let profiles: Vec<_> = set
            .iter()
            .map(|(profile, origin)| {
                let mut value = json!(profile.as_ref());
                value["origin"] = json!(origin);
                value
            })
            .collect();
        let all = json!({ "profiles": profiles, "problems": problems });
        print::line(&serde_json::to_string_pretty(&all).map_err(|error| error.to_string())?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["ID", "NAME", "DISCOVERY", ""].map(str::to_owned).to_vec()];
    rows.extend(set.iter().map(|(profile, origin)| {
        let own = if origin == Origin::Custom { "your own" } else { "" };
        vec![profile.id.clone(), print::clean(&profile.name), discovery(profile), own.to_owned()]
    }));
    print::line(&print::table(&rows));
    for problem in problems {
        print::notice(&at(&problem.file, &problem.problem));
    }
    Ok(ExitCode::SUCCESS)
}

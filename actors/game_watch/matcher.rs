//! Finds the profile of a process: made once for a set of profiles, cheap for each process.

use std::collections::HashMap;
use std::sync::Arc;

use super::process::{ProcessFacts, Program};
use super::profile::glob::Glob;
use super::profile::{Os, ProcessRule, Profile, Role, Word};

/// A process is a game.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub profile: Arc<Profile>,
    pub role: Role,
    /// Whether arguments had their say, besides the name.
    pub by_args: bool,
    /// Why, for people: `program openttd, argument -d*`.
    pub reason: String,
}

/// All process rules of all profiles.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    profiles: Vec<Arc<Profile>>,
    rules: Vec<Place>,
    /// Rules whose program has one name only, by that name.
    named: HashMap<String, Vec<usize>>,
    /// The others.
    patterns: Vec<usize>,
}

/// A process rule by its place.
#[derive(Debug, Clone, Copy)]
struct Place {
    profile: usize,
    rule: usize,
}

impl Matcher {
    /// Earlier profiles come first where several match equally well.
    #[must_use]
    pub fn new(profiles: Vec<Arc<Profile>>) -> Self {
        let mut matcher = Self { profiles, ..Self::default() };
        for (profile, held) in matcher.profiles.iter().enumerate() {
            for (rule, process) in held.processes.iter().enumerate() {
                let place = matcher.rules.len();
                matcher.rules.push(Place { profile, rule });
                if process.exe.is_literal() {
                    matcher.named.entry(process.exe.as_str().to_owned()).or_default().push(place);
                } else {
                    matcher.patterns.push(place);
                }
            }
        }
        matcher
    }

    #[must_use]
    pub fn profiles(&self) -> &[Arc<Profile>] {
        &self.profiles
    }

    /// The profile that says most about this process; `None`: not a known game.
    #[must_use]
    pub fn find(&self, facts: &ProcessFacts<'_>) -> Option<Match> {
        let program = Program::of(facts)?;
        let matching = self.matching(&program, facts);
        // The first of those that say most.
        let best = matching.into_iter().rev().max_by_key(|place| weight(self.rule(*place)))?;
        let rule = self.rule(best);
        Some(Match {
            profile: Arc::clone(&self.profiles[best.profile]),
            role: rule.role,
            by_args: !rule.args.is_empty(),
            reason: reason(&program, rule),
        })
    }

    /// Every profile that matches; more than one is a mistake in the profiles.
    #[must_use]
    pub fn find_all(&self, facts: &ProcessFacts<'_>) -> Vec<Arc<Profile>> {
        let Some(program) = Program::of(facts) else { return Vec::new() };
        let mut profiles: Vec<usize> = self.matching(&program, facts).iter().map(|place| place.profile).collect();
        profiles.dedup();
        profiles.into_iter().map(|profile| Arc::clone(&self.profiles[profile])).collect()
    }

    fn rule(&self, place: Place) -> &ProcessRule {
        &self.profiles[place.profile].processes[place.rule]
    }

    /// In the order of the profiles.
    fn matching(&self, program: &Program, facts: &ProcessFacts<'_>) -> Vec<Place> {
        let named = self.named.get(&program.name).map(Vec::as_slice).unwrap_or_default();
        let patterns = self.patterns.iter().filter(|place| self.rule(self.rules[**place]).exe.matches(&program.name));
        let mut places: Vec<usize> = named.iter().chain(patterns).copied().collect();
        if places.is_empty() {
            return Vec::new();
        }
        places.sort_unstable();
        // The arguments are read only for programs whose name fits.
        let mut args: Option<Vec<String>> = None;
        let places = places.into_iter().map(|place| self.rules[place]);
        places
            .filter(|place| {
                let rule = self.rule(*place);
                let os = rule.os.is_empty() || rule.os.contains(&program.os);
                os && ((rule.args.is_empty() && rule.not_args.is_empty())
                    || fits(rule, args.get_or_insert_with(|| program.args(facts).collect())))
            })
            .collect()
    }
}

fn fits(rule: &ProcessRule, args: &[String]) -> bool {
    let given = |glob: &Glob| args.iter().any(|argument| glob.matches(argument));
    rule.args.iter().all(given) && !rule.not_args.iter().any(given)
}

/// How much a rule asks for.
fn weight(rule: &ProcessRule) -> (usize, usize) {
    (rule.args.iter().map(Glob::literals).sum(), rule.exe.literals())
}

fn reason(program: &Program, rule: &ProcessRule) -> String {
    let mut reason = format!("program {}", program.name);
    if program.os != Os::here() {
        reason.push_str(&format!(" ({})", program.os.word()));
    }
    if !rule.args.is_empty() {
        let args: Vec<_> = rule.args.iter().map(Glob::as_str).collect();
        reason.push_str(&format!(" with {}", args.join(" ")));
    }
    reason
}

/// Whether one process could be both. Exact for names; for arguments: whether a process that is started just as one rule
/// describes it satisfies the other, as nobody starts a program as two games at once.
#[must_use]
pub fn overlap(a: &ProcessRule, b: &ProcessRule) -> bool {
    let os = a.os.is_empty() || b.os.is_empty() || a.os.iter().any(|os| b.os.contains(os));
    os && a.exe.overlaps(&b.exe) && (asks_for_less(a, b) || asks_for_less(b, a))
}

fn asks_for_less(less: &ProcessRule, more: &ProcessRule) -> bool {
    let given =
        |glob: &Glob| more.args.iter().any(|other| glob.matches(&other.sample("")) || glob.matches(&other.sample("x")));
    less.args.iter().all(given) && !less.not_args.iter().any(given)
}

#[cfg(test)]
#[path = "matcher_tests.rs"]
mod tests;

//! Reads the values of a TOML table one by one, and gathers all that is wrong with them.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::ops::{Range, RangeInclusive};

use toml::de::{DeInteger, DeTable, DeValue};

use super::words::Word;
use super::{PortRange, Problem};

/// Problems of one file that are said; more would hide the first ones.
pub(super) const MAX_PROBLEMS: usize = 50;

/// What is wrong so far.
#[derive(Debug)]
pub(super) struct Findings<'t> {
    text: &'t str,
    found: RefCell<Vec<(usize, Problem)>>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: RefCell::default() }
    }

    /// `at`: byte of the text.
    pub(super) fn add(&self, at: usize, field: impl Into<String>, reason: impl Into<String>) {
        let mut found = self.found.borrow_mut();
        if found.len() >= MAX_PROBLEMS {
            return;
        }
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        let line = u32::try_from(lines).ok().and_then(|lines| NonZeroU32::MIN.checked_add(lines));
        found.push((at, Problem { line, field: field.into(), reason: reason.into() }));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// In the order of the lines.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, problem)| problem).collect()
    }
}

/// A value with where it stands and what it is called.
#[derive(Debug, Clone)]
pub(super) struct Field<'a, 't> {
    findings: &'a Findings<'t>,
    pub(super) path: String,
    value: &'a DeValue<'t>,
    at: usize,
}

impl<'a, 't> Field<'a, 't> {
    pub(super) fn wrong(&self, reason: impl Into<String>) {
        self.findings.add(self.at, self.path.clone(), reason);
    }

    fn needs(&self, what: &str) {
        self.wrong(format!("must be {what}, not {}", called(self.value)));
    }

    /// One line of text; `length` in characters.
    pub(super) fn text(&self, length: RangeInclusive<usize>) -> Option<&'a str> {
        self.lines(length).filter(|text| {
            let shown = !text.chars().any(char::is_control);
            if !shown {
                self.wrong("must be one line, without characters that cannot be shown");
            }
            shown
        })
    }

    /// Text that may have several lines.
    pub(super) fn lines(&self, length: RangeInclusive<usize>) -> Option<&'a str> {
        let DeValue::String(text) = self.value else {
            self.needs("a text in quotes");
            return None;
        };
        let characters = text.chars().count();
        if !length.contains(&characters) {
            self.wrong(match characters {
                0 => "must not be empty".to_owned(),
                _ => format!("has {characters} characters; at most {} are allowed", length.end()),
            });
            return None;
        }
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            self.wrong("has characters that cannot be shown");
            return None;
        }
        Some(text)
    }

    pub(super) fn number(&self, range: RangeInclusive<u16>, unit: &str) -> Option<u16> {
        let DeValue::Integer(number) = self.value else {
            self.needs("a whole number");
            return None;
        };
        let number = integer(number).and_then(|number| u16::try_from(number).ok()).filter(|it| range.contains(it));
        if number.is_none() {
            self.wrong(format!("must be from {} to {} {unit}", range.start(), range.end()));
        }
        number
    }

    pub(super) fn truth(&self) -> Option<bool> {
        let DeValue::Boolean(truth) = self.value else {
            self.needs("true or false");
            return None;
        };
        Some(*truth)
    }

    pub(super) fn word<W: Word>(&self) -> Option<W> {
        let known = || W::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let DeValue::String(word) = self.value else {
            self.needs(&format!("one of {}", known()));
            return None;
        };
        let value = W::from_word(word);
        if value.is_none() {
            self.wrong(format!("`{}` is none of {}", shortened(word), known()));
        }
        value
    }

    /// `27960` or `"27960-27963"`.
    pub(super) fn ports(&self) -> Option<PortRange> {
        let parsed = match self.value {
            DeValue::Integer(number) => integer(number)
                .and_then(|number| u16::try_from(number).ok())
                .and_then(|port| PortRange::new(port, port))
                .ok_or_else(|| format!("{} is no port; ports go from 1 to 65535", shortened(number.as_str()))),
            DeValue::String(text) if text.len() <= 11 => text.parse(),
            DeValue::String(text) => Err(format!("`{}` is no port", shortened(text))),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.needs("a port like 27960 or \"27960-27963\"");
                return None;
            }
        };
        parsed.map_err(|reason| self.wrong(reason)).ok()
    }

    /// The parts of a list, or of a value that stands for a list of one.
    pub(super) fn list(&self, most: usize) -> Vec<Self> {
        let DeValue::Array(list) = self.value else { return vec![self.clone()] };
        if list.len() > most {
            self.wrong(format!("has {} values; at most {most} are allowed", list.len()));
            return Vec::new();
        }
        list.iter()
            .enumerate()
            .map(|(i, value)| Self {
                findings: self.findings,
                path: format!("{}[{}]", self.path, i + 1),
                value: value.get_ref(),
                at: value.span().start,
            })
            .collect()
    }

    /// The parts of a list, where a single value is a mistake.
    pub(super) fn strict_list(&self, most: usize) -> Vec<Self> {
        if !self.value.is_array() {
            self.needs("a list like [\"a\", \"b\"]");
            return Vec::new();
        }
        self.list(most)
    }

    pub(super) fn table(&self) -> Option<Fields<'a, 't>> {
        let DeValue::Table(table) = self.value else {
            self.needs("a table");
            return None;
        };
        Some(Fields { findings: self.findings, path: self.path.clone(), table, at: self.at, asked: RefCell::default() })
    }

    /// The tables of `[[path]]`.
    pub(super) fn tables(&self, most: usize) -> Vec<Fields<'a, 't>> {
        if !self.value.is_array() {
            self.wrong(format!("is written with two brackets: [[{}]]", self.path));
            return Vec::new();
        }
        self.list(most).iter().filter_map(Self::table).collect()
    }
}

/// The keys of a table.
#[derive(Debug)]
pub(super) struct Fields<'a, 't> {
    findings: &'a Findings<'t>,
    path: String,
    table: &'a DeTable<'t>,
    at: usize,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a, 't> Fields<'a, 't> {
    pub(super) fn root(findings: &'a Findings<'t>, table: &'a DeTable<'t>) -> Self {
        Self { findings, path: String::new(), table, at: 0, asked: RefCell::default() }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Field<'a, 't>> {
        self.asked.borrow_mut().push(key);
        let (name, value) = self.table.get_key_value(key)?;
        // Tables of a `[[list]]` have no useful span of their own; the key's is the first header.
        let Range { start, .. } = if value.get_ref().is_table() { name.span() } else { value.span() };
        Some(Field { findings: self.findings, path: self.path_of(key), value: value.get_ref(), at: start })
    }

    pub(super) fn need(&self, key: &'static str) -> Option<Field<'a, 't>> {
        let field = self.get(key);
        if field.is_none() {
            self.findings.add(self.at, self.path_of(key), "is missing");
        }
        field
    }

    pub(super) fn wrong(&self, reason: impl Into<String>) {
        self.findings.add(self.at, self.path.clone(), reason);
    }

    /// Says which keys nobody asked for: mistyped ones, mostly.
    pub(super) fn finish(&self) {
        let asked = self.asked.borrow();
        for (name, _) in self.table.iter().filter(|(name, _)| !asked.contains(&name.get_ref().as_ref())) {
            let path = if self.path.is_empty() { String::new() } else { format!("{}.", self.path) };
            let path = format!("{path}{}", shortened(name.get_ref()));
            self.findings.add(name.span().start, path, format!("is not a key; known here: {}", asked.join(", ")));
        }
    }
}

fn called(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// What somebody wrote, short enough for a message and without control characters.
pub(super) fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(40).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(40).is_some() {
        shown.push('…');
    }
    shown
}

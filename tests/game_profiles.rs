//! The profile files, their schema, and `lanrage profile`, which needs no node.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lanrage_actors::game_watch::profile::{
    DiscoveryMethod, Os, PortRole, Priority, Profile, QueryProtocol, Redundancy, RelayUse, Reply, Role, Word,
};
use proptest::prelude::*;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("game_profiles")
}

fn template() -> String {
    std::fs::read_to_string(folder().join("TEMPLATE.toml")).unwrap()
}

fn schema_value() -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join("schema.json")).unwrap()).unwrap()
}

/// The schema, checked with as much of JSON Schema as it uses; a keyword beyond that is an error.
struct Schema(Value);

impl Schema {
    fn new() -> Self {
        Self(schema_value())
    }

    fn check(&self, text: &str) -> Result<(), String> {
        let value: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let value = serde_json::to_value(value).map_err(|error| error.to_string())?;
        self.fits(&value, &self.0, "")
    }

    fn fits(&self, value: &Value, schema: &Value, at: &str) -> Result<(), String> {
        for (keyword, wanted) in schema.as_object().expect("an object") {
            let count = wanted.as_u64().unwrap_or_default() as usize;
            let alternatives = || wanted.as_array().expect(keyword).iter();
            // Keywords that mean another kind of value are fulfilled by it.
            let fits = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" => true,
                "$ref" => {
                    let place = &wanted.as_str().expect(keyword)[1..];
                    return self.fits(value, self.0.pointer(place).expect(place), at);
                }
                "oneOf" => alternatives().filter(|it| self.fits(value, it, at).is_ok()).count() == 1,
                "allOf" => alternatives().all(|it| self.fits(value, it, at).is_ok()),
                "enum" => alternatives().any(|it| it == value),
                "type" => match wanted.as_str().expect(keyword) {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    other => panic!("type {other}"),
                },
                "minimum" => value.as_i64().is_none_or(|it| it >= wanted.as_i64().expect(keyword)),
                "maximum" => value.as_i64().is_none_or(|it| it <= wanted.as_i64().expect(keyword)),
                "minLength" => value.as_str().is_none_or(|it| it.chars().count() >= count),
                "maxLength" => value.as_str().is_none_or(|it| it.chars().count() <= count),
                "minItems" => value.as_array().is_none_or(|it| it.len() >= count),
                "maxItems" => value.as_array().is_none_or(|it| it.len() <= count),
                "pattern" => value.as_str().is_none_or(|it| matches(wanted.as_str().expect(keyword), it)),
                "required" => value
                    .as_object()
                    .is_none_or(|it| alternatives().all(|key| it.contains_key(key.as_str().expect(keyword)))),
                "additionalProperties" => {
                    assert_eq!(wanted, &Value::Bool(false));
                    let known = schema["properties"].as_object().expect("properties");
                    value.as_object().is_none_or(|it| it.keys().all(|key| known.contains_key(key)))
                }
                "properties" => {
                    for (key, inner) in wanted.as_object().expect(keyword) {
                        if let Some(value) = value.get(key) {
                            self.fits(value, inner, &format!("{at}.{key}"))?;
                        }
                    }
                    true
                }
                "items" => {
                    for value in value.as_array().into_iter().flatten() {
                        self.fits(value, wanted, &format!("{at}[]"))?;
                    }
                    true
                }
                other => panic!("the schema uses {other}"),
            };
            if !fits {
                return Err(format!("{at}: {value} breaks {keyword} {wanted}"));
            }
        }
        Ok(())
    }
}

/// The regular expressions of the schema, by hand.
fn matches(pattern: &str, text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match pattern {
        "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" => {
            let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !text.is_empty() && text.bytes().all(known) && !text.starts_with('-') && !text.ends_with('-')
        }
        "^https?://\\S*$" => text.starts_with("http") && text.contains("://") && !text.contains(char::is_whitespace),
        "[^*?]" => text.chars().any(|c| c != '*' && c != '?'),
        "^[0-9]+(-[0-9]+)?$" => text.split_once('-').map_or_else(|| digits(text), |(a, b)| digits(a) && digits(b)),
        "\\{ip\\}" => text.contains("{ip}"),
        "^[^/\\\\]*$" => !text.contains(['/', '\\']),
        other => panic!("the schema uses the pattern {other}"),
    }
}

fn lanrage(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lanrage")).args(args).output().unwrap()
}

/// A folder that is gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("lanrage-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_file_fits_the_schema_and_passes_the_check() {
    let schema = Schema::new();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            schema.check(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            files.push(path.to_str().unwrap().to_owned());
        }
    }
    assert!(files.len() > 60, "{}", files.len());
    let said = lanrage(&[&["profile", "check"], &files.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(String::from_utf8_lossy(&said.stdout).lines().count(), files.len());
    assert!(!String::from_utf8_lossy(&said.stderr).contains("also fits"), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn the_schema_knows_the_same_words() {
    fn words<W: Word>(schema: &Value, place: &str) {
        let known: Vec<_> = schema.pointer(place).and_then(Value::as_array).expect(place).iter().collect();
        let expected: Vec<_> = W::WORDS.iter().map(|(word, _)| *word).collect();
        assert_eq!(known, expected, "{place}");
    }
    let schema = schema_value();
    words::<Os>(&schema, "/$defs/os/enum");
    words::<Role>(&schema, "/$defs/role/enum");
    words::<DiscoveryMethod>(&schema, "/$defs/method/enum");
    words::<PortRole>(&schema, "/$defs/port/properties/role/enum");
    words::<Reply>(&schema, "/$defs/discovery/properties/reply/enum");
    words::<QueryProtocol>(&schema, "/$defs/query/properties/protocol/enum");
    words::<Priority>(&schema, "/$defs/tuning/properties/priority/enum");
    words::<Redundancy>(&schema, "/$defs/tuning/properties/redundancy/enum");
    words::<RelayUse>(&schema, "/$defs/tuning/properties/relay/enum");
}

/// The keys of the template: line (counted from 1), path as in messages, key.
fn keys(template: &str) -> Vec<(usize, String, String)> {
    let mut table = String::new();
    let mut all = Vec::new();
    for (i, line) in template.lines().enumerate() {
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            table = format!("{name}[1].");
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            all.push((i + 1, format!("{table}{key}"), key.to_owned()));
        }
    }
    all
}

#[test]
fn the_template_has_every_key_of_the_schema() {
    let schema = schema_value();
    let mut expected: Vec<String> = Vec::new();
    for (key, about) in schema["properties"].as_object().unwrap() {
        let inner = about["$ref"].as_str().or_else(|| about["items"]["$ref"].as_str());
        let Some(inner) = inner else {
            expected.push(key.clone());
            continue;
        };
        let list = if about["items"].is_object() { "[1]" } else { "" };
        let keys = schema.pointer(&inner[1..]).unwrap()["properties"].as_object().unwrap();
        expected.extend(keys.keys().map(|inner| format!("{key}{list}.{inner}")));
    }
    let mut found: Vec<String> = keys(&template()).into_iter().map(|(_, path, _)| path).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

/// Each key of the template in turn with values of every wrong kind: the schema refuses it, and `lanrage profile check`
/// names the file, the line and the field, and ends with an exit code that is not 0.
#[test]
fn every_field_wrong_in_turn() {
    let (schema, scratch, template) = (Schema::new(), Scratch::new("wrong-profiles"), template());
    let mut tried = 0;
    for (line, path, key) in keys(&template) {
        // A date and a table are right nowhere; a list of dates is wrong inside.
        for value in ["1979-05-27", "{ a = 1 }", "[1979-05-27]", "-1", "\"\\u0007\"", "1.5"] {
            let bad: Vec<String> = template
                .lines()
                .enumerate()
                .map(|(i, text)| if i + 1 == line { format!("{key} = {value}") } else { text.to_owned() })
                .collect();
            let bad = bad.join("\n");
            if value != "\"\\u0007\"" {
                assert!(schema.check(&bad).is_err(), "the schema takes {path} = {value}");
            }
            let file = scratch.file("bad.toml", &bad);
            let said = lanrage(&["profile", "check", &file]);
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            assert_eq!(said.status.code(), Some(1), "{path} = {value}: {text}");
            assert!(said.stdout.is_empty() && !text.contains("panicked"), "{path} = {value}: {text}");
            let place = format!("error: {file}:{line}: {path}");
            assert!(text.lines().any(|it| it.starts_with(&place)), "{path} = {value}, expected {place}:\n{text}");
            tried += 1;
        }
        let typo = template.replacen(&format!("\n{key} = "), &format!("\n{key}x = "), 1);
        let file = scratch.file("bad.toml", &typo);
        let said = lanrage(&["profile", "check", &file]);
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && text.contains(&format!("{key}x: is not a key; known here: ")), "{text}");
        assert!(schema.check(&typo).is_err(), "the schema takes {key}x");
    }
    assert!(tried > 150, "{tried}");
}

#[test]
fn the_check_warns_and_sums_up() {
    let scratch = Scratch::new("check-profiles");
    let good =
        "id = \"mine\"\nname = \"Mine\"\n[[process]]\nexe = \"openttd\"\n[[port]]\nport = 5000\nprotocol = \"tcp\"\n";
    let file = scratch.file("other.toml", good);
    let said = lanrage(&["profile", "check", &file]);
    assert!(said.status.success());
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(out.contains(": ok: Mine (mine), 1 process rule, ports TCP 5000, discovery: unknown"), "{out}");
    assert!(err.contains("process[1] (openttd) also fits the built-in profile openttd (OpenTTD)"), "{err}");
    assert!(err.contains("must be called mine.toml"), "{err}");
    let bad = scratch.file("bad.toml", "id = \"bad\"\n");
    let said = lanrage(&["profile", "check", &file, &bad, "/nowhere.toml"]);
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && err.contains("2 of 3 profiles are wrong"), "{err}");
    assert!(err.contains("bad.toml:1: process: is missing") && err.contains("/nowhere.toml: cannot be read"), "{err}");
}

#[test]
fn the_list_has_built_in_profiles_and_own_ones() {
    let scratch = Scratch::new("list-profiles");
    let data = scratch.0.to_str().unwrap();
    std::fs::create_dir(scratch.0.join("profiles")).unwrap();
    scratch.file("profiles/mine.toml", "id = \"mine\"\nname = \"Mine\"\n[[process]]\nexe = \"minegame\"\n");
    scratch.file("profiles/bad.toml", "id = \"bad\"\nname = 5\n[[process]]\nexe = \"badgame\"\n");
    let said = lanrage(&["profile", "list", "--data-dir", data, "--json"]);
    let all: Value = serde_json::from_slice(&said.stdout).unwrap();
    let origin = |id: &str| {
        let profiles = all["profiles"].as_array().unwrap();
        profiles.iter().find(|it| it["id"] == id).map(|it| it["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!((origin("mine").as_deref(), origin("openttd").as_deref()), (Some("custom"), Some("builtin")));
    assert_eq!(all["problems"][0]["line"], 2);
    let said = lanrage(&["profile", "list", "--data-dir", data]);
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(out.contains("your own") && out.contains("OpenTTD"), "{out}");
    assert!(err.contains("bad.toml:2: name: must be a text in quotes"), "{err}");
}

proptest! {
    /// The schema never refuses what the program takes.
    #[test]
    fn what_the_program_takes_fits_the_schema(
        line in 0..200_usize,
        value in prop_oneof![
            Just(String::new()), "[0-9]{1,5}", "\"[a-z0-9-]{0,12}\"", "\\[\"[a-z]{1,4}\", [0-9]{1,4}\\]",
            Just("true".to_owned()), Just("\"none\"".to_owned()), Just("[]".to_owned()), Just("\"{ip}\"".to_owned()),
        ],
    ) {
        let template = template();
        let keys = keys(&template);
        let (line, _, key) = &keys[line % keys.len()];
        let changed: Vec<String> = template
            .lines()
            .enumerate()
            .map(|(i, text)| match (i + 1 == *line, value.is_empty()) {
                (true, true) => String::new(),
                (true, false) => format!("{key} = {value}"),
                (false, _) => text.to_owned(),
            })
            .collect();
        let changed = changed.join("\n");
        if Profile::parse(&changed).is_ok() {
            prop_assert_eq!(Schema::new().check(&changed), Ok(()), "{}", changed);
        }
    }
}

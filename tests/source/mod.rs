//! Enough reading of Rust source to see which paths it names: comments, texts and test code left out, `use` trees
//! unfolded.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A path as written: `["crate", "store", "db"]`, and the line where it ends.
type Named = (usize, Vec<String>);

#[derive(Debug)]
pub(crate) struct Source {
    /// From the root of the repository.
    pub(crate) path: String,
    named: Vec<Named>,
    /// Files of modules that exist for tests only, as seen from this file's folder.
    test_files: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    /// `::`
    Path,
    Mark(char),
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut tokens = tokens(text);
        let test_files = remove_test_items(&mut tokens);
        let mut named = Vec::new();
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            rest = read_path(rest, &[], &mut named);
        }
        Self { path: path.into(), named, test_files }
    }

    /// Lines that name `path` (`tokio`, `Instant::now`): at the start of a path or, with more segments, anywhere in it.
    pub(crate) fn lines_naming(&self, path: &str) -> BTreeSet<usize> {
        let wanted: Vec<_> = path.split("::").collect();
        let is_it = |named: &[String]| match wanted[..] {
            // A crate or keyword stands first; a method or function stands anywhere.
            [one] => named.first().is_some_and(|first| first == one) || named.last().is_some_and(|last| last == one),
            _ => named.windows(wanted.len()).any(|part| part == wanted),
        };
        self.named.iter().filter(|(_, named)| is_it(named)).map(|(line, _)| *line).collect()
    }

    /// For each path that begins with `prefix` and goes on: the line, and the segment that follows.
    pub(crate) fn segments_after(&self, prefix: &str) -> Vec<(usize, &str)> {
        let prefix: Vec<_> = prefix.split("::").collect();
        let found = self.named.iter().filter(|(_, named)| starts_with(named, &prefix));
        found.filter_map(|(line, named)| Some((*line, named.get(prefix.len())?.as_str()))).collect()
    }
}

fn starts_with(path: &[String], words: &[&str]) -> bool {
    path.len() >= words.len() && path.iter().zip(words).all(|(a, b)| a == b)
}

/// Every Rust file below these folders, without modules that exist for tests only.
pub(crate) fn sources(root: &Path, folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        collect(root, &root.join(folder), &mut found);
    }
    let mut tests = BTreeSet::new();
    for source in &found {
        let folder = Path::new(&source.path).parent().unwrap_or_else(|| Path::new(""));
        for file in &source.test_files {
            tests.insert(folder.join(file));
            // `foo.rs` declares modules in `foo/`.
            tests.insert(Path::new(&source.path).with_extension("").join(file));
        }
    }
    found.retain(|source| !tests.contains(Path::new(&source.path)));
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder).expect("a folder of the repository").flatten().collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            // Integration tests and test modules run the shells on purpose.
            if entry.file_name() == "tests" {
                continue;
            }
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8");
            found.push(Source::new(name, &fs::read_to_string(&path).expect("a source file")));
        }
    }
}

/// Words, texts and marks with their lines; comments, characters, raw and byte texts left out.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let from = at;
        let rest = &chars[at..];
        match rest {
            ['/', '/', ..] => at += length(rest, |c| c != '\n'),
            ['/', '*', ..] => at += block_comment(rest),
            ['"', ..] => {
                let end = quoted(rest, 0).min(rest.len());
                tokens.push((line, Token::Text(rest[1..end.max(2) - 1].iter().collect())));
                at += end;
            }
            ['b', '"', ..] => at += quoted(rest, 1),
            ['r', '"' | '#', ..] | ['b', 'r', '"' | '#', ..] => at += raw_text(rest),
            ['\'', '\\', ..] => at += 2 + 1 + length(&rest[3..], |c| c != '\'') + 1,
            ['\'', _, '\'', ..] => at += 3,
            [':', ':', ..] => {
                tokens.push((line, Token::Path));
                at += 2;
            }
            [first, ..] if is_word(*first) => {
                let word = length(rest, is_word);
                tokens.push((line, Token::Word(rest[..word].iter().collect())));
                at += word;
            }
            [first, ..] => {
                if !first.is_whitespace() {
                    tokens.push((line, Token::Mark(*first)));
                }
                at += 1;
            }
            [] => {}
        }
        at = at.min(chars.len());
        line += chars[from..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn length(chars: &[char], goes_on: impl Fn(char) -> bool) -> usize {
    chars.iter().position(|c| !goes_on(*c)).unwrap_or(chars.len())
}

fn block_comment(chars: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < chars.len() {
        match &chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// A text with escapes whose quote stands at `open`.
fn quoted(chars: &[char], open: usize) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// A raw text, or a raw word (`r#type`).
fn raw_text(chars: &[char]) -> usize {
    let prefix = length(chars, |c| c == 'b' || c == 'r');
    let hashes = length(&chars[prefix..], |c| c == '#');
    let body = prefix + hashes;
    if chars.get(body) != Some(&'"') {
        return body.max(1);
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let found = chars[body + 1..].windows(end.len()).position(|part| part == end);
    found.map_or(chars.len(), |position| body + 1 + position + end.len())
}

/// Cut out every item under `#[cfg(test)]`; gives the files of the modules that such an item declares without a body.
fn remove_test_items(tokens: &mut Vec<(usize, Token)>) -> Vec<String> {
    let attribute: Vec<Token> = {
        let word = |text: &str| Token::Word(text.into());
        vec![
            Token::Mark('#'),
            Token::Mark('['),
            word("cfg"),
            Token::Mark('('),
            word("test"),
            Token::Mark(')'),
            Token::Mark(']'),
        ]
    };
    let mut files = Vec::new();
    let starts = |tokens: &[(usize, Token)]| {
        tokens.windows(attribute.len()).position(|part| part.iter().map(|(_, token)| token).eq(&attribute))
    };
    while let Some(start) = starts(tokens) {
        let item = &tokens[start + attribute.len()..];
        let mut depth = 0_usize;
        let mut length = item.len();
        for (index, (_, token)) in item.iter().enumerate() {
            match token {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth = depth.saturating_sub(1),
                Token::Mark(_) | Token::Word(_) | Token::Text(_) | Token::Path => {}
            }
            // An item ends with its body, or with a semicolon outside of any braces.
            if depth == 0 && matches!(token, Token::Mark('}' | ';')) {
                length = index + 1;
                break;
            }
        }
        let body: Vec<&Token> = item[..length].iter().map(|(_, token)| token).collect();
        match body[..] {
            [.., Token::Word(keyword), Token::Word(name), Token::Mark(';')] if keyword == "mod" => {
                // `#[path = "…"]` before it names the file.
                let path = body.windows(3).find_map(|part| match part {
                    [Token::Word(path), Token::Mark('='), Token::Text(file)] if path == "path" => Some(file.clone()),
                    _ => None,
                });
                files.extend(
                    path.map_or_else(|| vec![format!("{name}.rs"), format!("{name}/mod.rs")], |file| vec![file]),
                );
            }
            _ => {}
        }
        tokens.drain(start..start + attribute.len() + length);
    }
    files
}

/// Read one path, or the tree of paths of a `use`, from the front; gives what follows it.
fn read_path<'a>(tokens: &'a [(usize, Token)], before: &[String], named: &mut Vec<Named>) -> &'a [(usize, Token)] {
    match tokens {
        [(line, Token::Word(word)), rest @ ..] => {
            let path: Vec<_> = before.iter().cloned().chain([word.clone()]).collect();
            match rest {
                [(_, Token::Path), (_, Token::Mark('{')), tree @ ..] => read_tree(tree, &path, named),
                [(_, Token::Path), (_, Token::Word(_)), ..] => read_path(&rest[1..], &path, named),
                rest => {
                    named.push((*line, path));
                    rest
                }
            }
        }
        [_, rest @ ..] => rest,
        [] => tokens,
    }
}

/// The inside of `prefix::{…}`, up to and with its closing brace.
fn read_tree<'a>(mut tokens: &'a [(usize, Token)], prefix: &[String], named: &mut Vec<Named>) -> &'a [(usize, Token)] {
    loop {
        match tokens {
            [(_, Token::Mark('}')), rest @ ..] => return rest,
            [] => return tokens,
            [(_, Token::Word(_)), ..] => tokens = read_path(tokens, prefix, named),
            [_, rest @ ..] => tokens = rest,
        }
    }
}

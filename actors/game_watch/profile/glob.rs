//! Patterns of process names and arguments: `*` stands for any characters, `?` for one; case does not count.

use std::fmt;

use serde::{Serialize, Serializer};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Glob(String);

impl Glob {
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_lowercase())
    }

    /// In small letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Stands for one text only.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Characters that are no placeholders: the more, the more is known.
    #[must_use]
    pub fn literals(&self) -> usize {
        self.0.chars().filter(|c| !matches!(c, '*' | '?')).count()
    }

    /// A text that it matches, with `filler` where anything may stand.
    #[must_use]
    pub fn sample(&self, filler: &str) -> String {
        self.0.replace('*', filler).replace('?', "x")
    }

    /// `text` must be in small letters.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // Where to resume when what follows the last `*` does not fit: no recursion, time at most the product of both.
        let mut retry = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    retry = Some((p, t));
                    p += 1;
                }
                Some(b'?') => {
                    p += 1;
                    t += width(text, t);
                }
                Some(byte) if *byte == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((star, from)) = retry else { return false };
                    let from = from + width(text, from);
                    retry = Some((star, from));
                    (p, t) = (star + 1, from);
                }
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }

    /// Whether some text matches both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b): (Vec<char>, Vec<char>) = (self.0.chars().collect(), other.0.chars().collect());
        // reach[j]: some text matches the first i characters of `a` and the first j of `b`.
        let mut reach = vec![false; b.len() + 1];
        for i in 0..=a.len() {
            let mut diagonal = false;
            for j in 0..=b.len() {
                let above = reach[j];
                let left = j > 0 && reach[j - 1];
                let (x, y) = (i.checked_sub(1).map(|i| a[i]), j.checked_sub(1).map(|j| b[j]));
                reach[j] = match (x, y) {
                    (None, None) => true,
                    _ if x == Some('*') && (above || (left && y.is_some())) => true,
                    _ if y == Some('*') && (left || (above && x.is_some())) => true,
                    (Some(x), Some(y)) => diagonal && x != '*' && y != '*' && (x == y || x == '?' || y == '?'),
                    _ => false,
                };
                diagonal = above;
            }
        }
        reach[b.len()]
    }
}

/// Bytes of the character that starts at `at`.
fn width(text: &[u8], at: usize) -> usize {
    1 + text[at + 1..].iter().take_while(|byte| **byte & 0xc0 == 0x80).count()
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::new(pattern)
    }

    #[test]
    fn matches() {
        for (pattern, text) in [
            ("openttd", "openttd"),
            ("OpenTTD", "openttd"),
            ("quake*", "quakespasm"),
            ("*-server", "teeworlds-server"),
            ("*a*b*", "xxaxxbxx"),
            ("?", "ü"),
            ("b*", "b"),
            ("", ""),
            ("*.jar", "paper-1.20.jar"),
        ] {
            assert!(glob(pattern).matches(text), "{pattern} {text}");
        }
        for (pattern, text) in [("openttd", "openttd2"), ("?", ""), ("*a*b", "ab c"), ("?", "ab"), ("", "a")] {
            assert!(!glob(pattern).matches(text), "{pattern} {text}");
        }
    }

    #[test]
    fn overlaps() {
        for (a, b) in [("a*", "*b"), ("*", "x"), ("java*", "javaw"), ("a?c", "abc"), ("**", ""), ("*x*", "*y*")] {
            assert!(glob(a).overlaps(&glob(b)) && glob(b).overlaps(&glob(a)), "{a} {b}");
        }
        for (a, b) in [("a", "b"), ("a*", "b*"), ("*a", "*b"), ("a?", "a"), ("", "?")] {
            assert!(!glob(a).overlaps(&glob(b)) && !glob(b).overlaps(&glob(a)), "{a} {b}");
        }
    }

    proptest! {
        /// What one text shows (both match it), `overlaps` must say.
        #[test]
        fn a_common_text_is_an_overlap(a in "[ab*?]{0,6}", b in "[ab*?]{0,6}", text in "[ab]{0,6}") {
            let (a, b) = (glob(&a), glob(&b));
            if a.matches(&text) && b.matches(&text) {
                prop_assert!(a.overlaps(&b));
            }
            prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
        }

        /// A literal overlaps exactly what matches it.
        #[test]
        fn a_literal_overlaps_what_matches_it(pattern in "[ab*?]{0,6}", text in "[ab]{0,6}") {
            prop_assert_eq!(glob(&pattern).overlaps(&glob(&text)), glob(&pattern).matches(&text));
        }

        #[test]
        fn a_sample_matches(pattern in "[abü*?]{0,6}", filler in "[abü]{0,3}") {
            let glob = glob(&pattern);
            prop_assert!(glob.matches(&glob.sample(&filler)));
        }

        #[test]
        fn never_panics(pattern in ".{0,20}", text in ".{0,40}") {
            let _ = glob(&pattern).matches(&text.to_lowercase());
            let _ = glob(&pattern).overlaps(&glob(&text));
        }
    }
}

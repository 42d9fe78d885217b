//! Reading what servers send, a piece at a time.

/// Longest text that is kept, characters.
pub(super) const MAX_TEXT: usize = 64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        (self.take(bytes.len())? == bytes).then_some(())
    }

    /// Up to a zero byte, which is taken too.
    pub(super) fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = tidy(self.take(end)?);
        self.take(1)?;
        Some(text)
    }
}

/// Text from another machine: no control, invisible or direction marks, no Quake colours, at most 64 characters.
#[must_use]
pub fn tidy(bytes: &[u8]) -> String {
    let whole = String::from_utf8_lossy(&bytes[..bytes.len().min(16 * MAX_TEXT)]);
    let mut out = String::new();
    let mut chars = whole.chars().peekable();
    let mut count = 0;
    while let Some(c) = chars.next() {
        let colour = match c {
            '^' => chars.peek().is_some_and(char::is_ascii_digit),
            '\u{a7}' => chars.peek().is_some_and(char::is_ascii_alphanumeric),
            _ => false,
        };
        if colour {
            chars.next();
            continue;
        }
        let hidden = c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if !hidden && count < MAX_TEXT {
            out.push(c);
            count += 1;
        }
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_fit_to_print() {
        assert_eq!(tidy(b"^1Red ^7and \xc2\xa7awhite\x1b[31m\n"), "Red and white[31m");
        assert_eq!(tidy("a\u{202e}b\u{200b}c".as_bytes()), "abc");
        assert_eq!(tidy(&[b'x'; 5000]).len(), MAX_TEXT);
        assert_eq!(tidy(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(tidy(b"2^8 = 256"), "2 = 256");
    }

    #[test]
    fn pieces_end_where_the_bytes_end() {
        let mut reader = Reader::new(b"ab\0c");
        assert_eq!(reader.text().as_deref(), Some("ab"));
        assert_eq!(reader.text(), None);
        assert_eq!((reader.take(2), reader.byte(), reader.byte()), (None, Some(b'c'), None));
    }
}

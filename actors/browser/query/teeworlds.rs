//! Teeworlds 0.7: a token first, then the information (its source, network.cpp, server.cpp).

use super::reader::Reader;
use super::{Answer, Step, done};

const CONTROL: u8 = 0x04;
const TOKEN: u8 = 5;
/// The flag "connectionless" and version 1.
const CONNECTIONLESS: u8 = 0x21;
/// Shorter requests get no answer, so that nobody can be flooded by way of a server.
const REQUEST_LEN: usize = 520;

pub(super) fn ask_token(own: [u8; 4]) -> Vec<u8> {
    let mut out = vec![CONTROL, 0, 0, 0xff, 0xff, 0xff, 0xff, TOKEN];
    out.extend(own);
    out.resize(REQUEST_LEN, 0);
    out
}

fn ask_information(server: &[u8], own: [u8; 4]) -> Vec<u8> {
    let mut out = vec![CONNECTIONLESS];
    out.extend_from_slice(server);
    out.extend(own);
    out.extend_from_slice(b"\xff\xff\xff\xffgie3\0");
    out
}

pub(super) fn heard(bytes: &[u8], own: [u8; 4]) -> Step {
    match bytes {
        [CONTROL, _, _, a, b, c, d, TOKEN, server @ ..] if [*a, *b, *c, *d] == own => match server.get(..4) {
            Some(server) => Step::Ask(ask_information(server, own)),
            None => Step::Garbage,
        },
        [CONNECTIONLESS, rest @ ..] if rest.starts_with(&own) => done(rest.get(8..).and_then(read)),
        _ => Step::Garbage,
    }
}

fn read(information: &[u8]) -> Option<Answer> {
    let mut reader = Reader::new(information);
    reader.expect(b"\xff\xff\xff\xffinf3")?;
    let _token = number(&mut reader)?;
    let (version, name, _host, map, _kind) =
        (reader.text()?, reader.text()?, reader.text()?, reader.text()?, reader.text()?);
    let _flags_and_level = reader.take(2)?;
    let _playing = (number(&mut reader)?, number(&mut reader)?);
    let (players, max) = (number(&mut reader)?, number(&mut reader)?);
    Some(Answer {
        name: Some(name),
        map: Some(map),
        version: Some(version),
        players: Some(players),
        max_players: Some(max),
    })
}

/// A sign and six bits, then seven bits a byte; five bytes at most. Negative ones count as 0.
fn number(reader: &mut Reader<'_>) -> Option<u32> {
    let first = reader.byte()?;
    let mut value = u32::from(first & 0x3f);
    let mut more = first & 0x80 != 0;
    for shift in [6, 13, 20, 27] {
        if !more {
            break;
        }
        let byte = reader.byte()?;
        value |= u32::from(byte & 0x7f).wrapping_shl(shift);
        more = byte & 0x80 != 0;
    }
    Some(if first & 0x40 == 0 { value } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_and_the_information_read() {
        let own = [1, 2, 3, 4];
        assert_eq!(ask_token(own).len(), 520);
        let step = heard(&[4, 0, 0, 1, 2, 3, 4, 5, 9, 8, 7, 6], own);
        assert_eq!(step, Step::Ask(b"\x21\x09\x08\x07\x06\x01\x02\x03\x04\xff\xff\xff\xffgie3\0".to_vec()));
        assert_eq!(heard(&[4, 0, 0, 9, 9, 9, 9, 5, 9, 8, 7, 6], own), Step::Garbage, "somebody else's");
        let said = b"\x21\x01\x02\x03\x04\x09\x08\x07\x06\xff\xff\xff\xffinf3\x000.7.5\0Ann's\0host\0dm1\0DM\0\0\x01\x01\x08\x02\x10";
        let Step::Done(answer) = heard(said, own) else { panic!("not read") };
        assert_eq!((answer.name.as_deref(), answer.map.as_deref()), (Some("Ann's"), Some("dm1")));
        assert_eq!((answer.players, answer.max_players, answer.version.as_deref()), (Some(2), Some(16), Some("0.7.5")));
        assert_eq!(heard(said, [0; 4]), Step::Garbage);
    }

    #[test]
    fn numbers_are_read() {
        for (bytes, value) in [(&[0x3f][..], 63), (&[0x80, 1], 64), (&[0x40], 0), (&[0xbf, 0x7f], 8191)] {
            assert_eq!(number(&mut Reader::new(bytes)), Some(value));
        }
        assert_eq!(number(&mut Reader::new(&[0x80])), None);
    }
}

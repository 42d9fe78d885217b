//! Source and GoldSrc servers: A2S_INFO (developer.valvesoftware.com/wiki/Server_queries).

use super::reader::Reader;
use super::{Answer, Step, done};

const SINGLE: [u8; 4] = [0xff; 4];

pub(super) fn ask(challenge: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = SINGLE.to_vec();
    out.extend_from_slice(b"TSource Engine Query\0");
    out.extend(challenge.into_iter().flatten());
    out
}

pub(super) fn heard(bytes: &[u8]) -> Step {
    let Some(rest) = bytes.strip_prefix(&SINGLE) else { return Step::Garbage };
    match rest {
        [b'A', a, b, c, d, ..] => Step::Ask(ask(Some([*a, *b, *c, *d]))),
        [b'I', info @ ..] => done(read(info)),
        _ => Step::Garbage,
    }
}

fn read(info: &[u8]) -> Option<Answer> {
    let mut reader = Reader::new(info);
    let _protocol = reader.byte()?;
    let (name, map, _folder, _game) = (reader.text()?, reader.text()?, reader.text()?, reader.text()?);
    let _application = reader.take(2)?;
    let (players, max) = (reader.byte()?, reader.byte()?);
    // Bots, kind, system, password, VAC; The Ship's three bytes more would read as the version, which is then empty.
    let version = reader.take(5).and_then(|_| reader.text());
    Some(Answer {
        name: Some(name),
        map: Some(map),
        version: version.filter(|text| !text.is_empty()),
        players: Some(u32::from(players)),
        max_players: Some(u32::from(max)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_and_the_information_read() {
        assert_eq!(ask(None), b"\xff\xff\xff\xffTSource Engine Query\0");
        assert_eq!(heard(b"\xff\xff\xff\xffA\x4b\xa1\xd5\x22"), Step::Ask(ask(Some([0x4b, 0xa1, 0xd5, 0x22]))));
        // The example of the documentation (Counter-Strike: Source).
        let info =
            b"\xff\xff\xff\xffI\x02game2xs.com Counter-Strike Source #1\0de_dust\0cstrike\0Counter-Strike: Source\0\
            \xf0\x00\x05\x10\x04dl\x00\x001.0.0.22\0";
        let Step::Done(answer) = heard(info) else { panic!("not read") };
        assert_eq!(answer.name.as_deref(), Some("game2xs.com Counter-Strike Source #1"));
        assert_eq!((answer.map.as_deref(), answer.version.as_deref()), (Some("de_dust"), Some("1.0.0.22")));
        assert_eq!((answer.players, answer.max_players), (Some(5), Some(16)));
        for bad in [&b""[..], b"\xff\xff\xff\xff", b"\xfe\xff\xff\xffI", b"\xff\xff\xff\xffA\x01", &info[..40]] {
            assert_eq!(heard(bad), Step::Garbage);
        }
    }
}

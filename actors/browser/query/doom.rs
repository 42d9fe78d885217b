//! Chocolate Doom: packet 13 asks, 14 answers (its source, net_defs.h, net_query.c).

use super::reader::Reader;
use super::{Answer, Step, done};

pub(super) fn ask() -> Vec<u8> {
    vec![0, 13]
}

pub(super) fn heard(bytes: &[u8]) -> Step {
    done(read(bytes))
}

fn read(bytes: &[u8]) -> Option<Answer> {
    let mut reader = Reader::new(bytes);
    reader.expect(&[0, 14])?;
    let version = reader.text()?;
    let _state = reader.byte()?;
    let (players, max) = (reader.byte()?, reader.byte()?);
    let _mode_and_mission = reader.take(2)?;
    let name = reader.text()?;
    Some(Answer {
        name: Some(name),
        map: None,
        version: Some(version),
        players: Some(u32::from(players)),
        max_players: Some(u32::from(max)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let Step::Done(answer) = heard(b"\0\x0eChocolate Doom 3.0.1\0\0\x01\x04\x02\0Unnamed server\0\x01") else {
            panic!("not read")
        };
        assert_eq!(
            (answer.name.as_deref(), answer.players, answer.max_players),
            (Some("Unnamed server"), Some(1), Some(4))
        );
        assert_eq!(heard(b"\0\x0ex"), Step::Garbage);
    }
}

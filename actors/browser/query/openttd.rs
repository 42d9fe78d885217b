//! OpenTTD 12 and later: the game information over TCP (its source, network_game_info.cpp).

use super::reader::Reader;
use super::{Answer, Step, done};

const SERVER_GAME_INFO: u8 = 6;
const CLIENT_GAME_INFO: u8 = 7;

pub(super) fn ask() -> Vec<u8> {
    vec![3, 0, CLIENT_GAME_INFO]
}

pub(super) fn heard(bytes: &[u8]) -> Step {
    let Some((&[low, high, kind], rest)) = bytes.split_first_chunk::<3>() else { return Step::Wait };
    let Some(len) = usize::from(u16::from_le_bytes([low, high])).checked_sub(3) else { return Step::Garbage };
    if kind != SERVER_GAME_INFO {
        return Step::Garbage;
    }
    rest.get(..len).map_or(Step::Wait, |info| done(read(info)))
}

/// Newer versions put their fields in front of those of older ones.
fn read(info: &[u8]) -> Option<Answer> {
    let mut reader = Reader::new(info);
    let version = reader.byte()?;
    if !(4..=7).contains(&version) {
        return None;
    }
    if version >= 7 {
        let _ticks = reader.take(8)?;
    }
    let names = if version >= 6 { reader.byte()? } else { 0 };
    if version >= 5 {
        let _script = (reader.take(4)?, reader.text()?);
    }
    for _ in 0..reader.byte()? {
        // An identifier and an MD5 sum, and a name where they come with names.
        let _grf = reader.take(20)?;
        if names == 1 {
            reader.text()?;
        }
    }
    let _dates = reader.take(8)?;
    let _companies_and_spectators = reader.take(3)?;
    let (name, version) = (reader.text()?, reader.text()?);
    let _password = reader.byte()?;
    let (max, players) = (reader.byte()?, reader.byte()?);
    let _spectators = reader.byte()?;
    let size = reader.take(4)?;
    let landscape = ["temperate", "arctic", "tropic", "toyland"].get(usize::from(reader.byte()?));
    let side = |at: usize| u16::from_le_bytes([size[at], size[at + 1]]);
    let map = format!("{}x{} {}", side(0), side(2), landscape.unwrap_or(&"")).trim_end().to_owned();
    Some(Answer {
        name: Some(name),
        map: Some(map),
        version: Some(version),
        players: Some(u32::from(players)),
        max_players: Some(u32::from(max)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_is_read_when_it_is_whole() {
        let mut info = vec![6, 0, 0, 0, 0, 0, 0, 1];
        info.extend([7; 20]);
        info.extend([0; 8]);
        info.extend([15, 1, 0]);
        info.extend(b"Ann's trains\x0013.0\0");
        info.extend([0, 25, 2, 1, 0, 1, 0x80, 0, 1, 1]);
        let mut packet = vec![info.len() as u8 + 3, 0, SERVER_GAME_INFO];
        packet.extend(&info);
        for len in 0..packet.len() {
            assert_eq!(heard(&packet[..len]), Step::Wait, "{len}");
        }
        let Step::Done(answer) = heard(&packet) else { panic!("not read") };
        assert_eq!((answer.name.as_deref(), answer.map.as_deref()), (Some("Ann's trains"), Some("256x128 arctic")));
        assert_eq!((answer.players, answer.max_players, answer.version.as_deref()), (Some(2), Some(25), Some("13.0")));
        assert_eq!(heard(&[3, 0, 0]), Step::Garbage, "the server is full");
        assert_eq!(heard(&[1, 0, 6]), Step::Garbage);
        packet[3] = 99;
        assert_eq!(heard(&packet), Step::Garbage);
    }
}

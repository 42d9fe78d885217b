//! Quake III and its kin: `getstatus`.

use super::reader::tidy;
use super::{Answer, Step, done};

const OUT_OF_BAND: [u8; 4] = [0xff; 4];

pub(super) fn ask() -> Vec<u8> {
    [&OUT_OF_BAND[..], b"getstatus"].concat()
}

pub(super) fn heard(bytes: &[u8]) -> Step {
    done(read(bytes))
}

/// `statusResponse`, a line of `\key\value` pairs, and a line for each player.
fn read(bytes: &[u8]) -> Option<Answer> {
    let text = bytes.strip_prefix(&OUT_OF_BAND)?.strip_prefix(b"statusResponse\n")?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let pairs = lines.next()?.strip_prefix(b"\\")?;
    let players = lines.filter(|line| !line.is_empty()).count();
    let mut answer = Answer { players: u32::try_from(players).ok(), ..Answer::default() };
    let mut words = pairs.split(|byte| *byte == b'\\');
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        let value = tidy(value);
        match key {
            b"sv_hostname" => answer.name = Some(value),
            b"mapname" => answer.map = Some(value),
            b"version" => answer.version = Some(value),
            b"sv_maxclients" => answer.max_players = value.parse().ok(),
            _ => {}
        }
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let said = b"\xff\xff\xff\xffstatusResponse\n\\version\\ioq3 1.36\\sv_maxclients\\8\\mapname\\oa_dm1\\sv_hostname\\^1Ann's\n3 48 \"Bob\"\n0 0 \"bot\"\n";
        let Step::Done(answer) = heard(said) else { panic!("not read") };
        assert_eq!(answer.name.as_deref(), Some("Ann's"));
        assert_eq!((answer.map.as_deref(), answer.version.as_deref()), (Some("oa_dm1"), Some("ioq3 1.36")));
        assert_eq!((answer.players, answer.max_players), (Some(2), Some(8)));
        assert_eq!(heard(b"\xff\xff\xff\xffdisconnect"), Step::Garbage);
    }
}

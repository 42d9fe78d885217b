//! Minecraft, Java edition: the server list ping (minecraft.wiki/w/Java_Edition_protocol/Server_List_Ping).

use serde_json::Value;

use super::reader::{Reader, tidy};
use super::{Answer, MAX_ANSWER, Step, done};

/// The handshake for a status, with a version that says "none in particular", and the request.
pub(super) fn ask(port: u16) -> Vec<u8> {
    let address = b"lan";
    let mut handshake = vec![0, 0xff, 0xff, 0xff, 0xff, 0x0f, address.len() as u8];
    handshake.extend_from_slice(address);
    handshake.extend_from_slice(&port.to_be_bytes());
    handshake.push(1);
    let mut out = vec![handshake.len() as u8];
    out.extend(handshake);
    out.extend([1, 0]);
    out
}

pub(super) fn heard(bytes: &[u8]) -> Step {
    let mut reader = Reader::new(bytes);
    let Some(len) = varint(&mut reader) else {
        return if bytes.len() < 5 { Step::Wait } else { Step::Garbage };
    };
    if len > MAX_ANSWER {
        return Step::Garbage;
    }
    let Some(packet) = reader.take(len) else { return Step::Wait };
    done(read(packet))
}

fn read(packet: &[u8]) -> Option<Answer> {
    let mut reader = Reader::new(packet);
    reader.expect(&[0])?;
    let len = varint(&mut reader)?;
    let status: Value = serde_json::from_slice(reader.take(len)?).ok()?;
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let mut name = String::new();
    flatten(&status["description"], &mut name, 0);
    Some(Answer {
        name: Some(tidy(name.as_bytes())),
        map: None,
        version: status["version"]["name"].as_str().map(|text| tidy(text.as_bytes())),
        players: number(&status["players"]["online"]),
        max_players: number(&status["players"]["max"]),
    })
}

/// The text of a chat component.
fn flatten(component: &Value, out: &mut String, depth: usize) {
    if depth > 4 || out.len() > 256 {
        return;
    }
    if let Some(text) = component.as_str().or_else(|| component["text"].as_str()) {
        out.push_str(text);
    }
    let more = component["extra"].as_array().or_else(|| component.as_array());
    more.into_iter().flatten().for_each(|part| flatten(part, out, depth + 1));
}

/// Seven bits a byte, the lowest first, five bytes at most.
fn varint(reader: &mut Reader<'_>) -> Option<usize> {
    let mut value = 0_usize;
    for shift in (0..35).step_by(7) {
        let byte = reader.byte()?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What a game that is open to the LAN announces: `[MOTD]name[/MOTD][AD]port[/AD]`.
#[must_use]
pub fn announced(payload: &[u8]) -> Option<(String, u16)> {
    let text = std::str::from_utf8(payload).ok()?;
    let between = |open: &str, close: &str| text.split_once(open)?.1.split_once(close).map(|(inner, _)| inner);
    let port = between("[AD]", "[/AD]")?.parse().ok().filter(|port| *port != 0)?;
    Some((tidy(between("[MOTD]", "[/MOTD]")?.as_bytes()), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_is_read_when_it_is_whole() {
        let json = br#"{"version":{"name":"1.20.4"},"players":{"max":20,"online":3},"description":{"text":"A ","extra":[{"text":"\u00a7aworld"}]}}"#;
        let mut packet = vec![0, 0x80 | (json.len() as u8 & 0x7f), (json.len() >> 7) as u8];
        packet.extend_from_slice(json);
        let mut bytes = vec![0x80 | (packet.len() as u8 & 0x7f), (packet.len() >> 7) as u8];
        bytes.extend(packet);
        for len in 0..bytes.len() {
            assert_eq!(heard(&bytes[..len]), Step::Wait, "{len}");
        }
        let Step::Done(answer) = heard(&bytes) else { panic!("not read") };
        assert_eq!((answer.name.as_deref(), answer.version.as_deref()), (Some("A world"), Some("1.20.4")));
        assert_eq!((answer.players, answer.max_players), (Some(3), Some(20)));
        assert_eq!(heard(&[0xff; 6]), Step::Garbage);
        assert_eq!(heard(&[0xff, 0xff, 0xff, 0x7f]), Step::Garbage, "too long");
        assert_eq!(ask(25565), b"\x0d\x00\xff\xff\xff\xff\x0f\x03lan\x63\xdd\x01\x01\x00");
    }

    #[test]
    fn announcements_are_read() {
        assert_eq!(announced(b"[MOTD]Ann - World[/MOTD][AD]54321[/AD]"), Some(("Ann - World".into(), 54321)));
        for bad in ["[MOTD]x[/MOTD]", "[MOTD]x[/MOTD][AD]0[/AD]", "[MOTD]x[/MOTD][AD]1.2.3.4:5[/AD]", ""] {
            assert_eq!(announced(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn random_announcements_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), text in "(\\[/?(MOTD|AD)\\]|[a-z0-9]){0,9}") {
            let _ = (announced(&bytes), announced(text.as_bytes()));
        }
    }
}

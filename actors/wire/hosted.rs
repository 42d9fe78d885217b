//! The games that a member hosts, as it says in its record: the contents of extension 1.
//!
//! A version byte (1), the number of servers, and of each: length and bytes of the game's id, the port that players join at,
//! and the port that answers queries (0: the same), both big-endian.

/// Kind of the extension of a member record.
pub const HOSTED_EXTENSION: u16 = 1;
/// Servers of one member; more are no games of a player.
pub const MAX_HOSTED: usize = 8;
/// Longest id, bytes.
pub const MAX_GAME_ID: usize = 32;

const VERSION: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hosted {
    /// The id of its profile: small letters, digits and dashes.
    pub game: String,
    /// Never 0.
    pub port: u16,
    /// Where queries are answered, if elsewhere.
    pub query_port: Option<u16>,
}

impl Hosted {
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=MAX_GAME_ID).contains(&self.game.len())
            && self.game.bytes().all(allowed)
            && self.port != 0
            && self.query_port != Some(0)
    }

    /// What players join is the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.game, self.port) == (&other.game, other.port)
    }
}

/// Those that are not sound, those that are there twice, and those beyond the limit are left out.
#[must_use]
pub fn encode_hosted(servers: &[Hosted]) -> Vec<u8> {
    let first = |(at, server): &(usize, &Hosted)| !servers[..*at].iter().any(|other| other.is_same(server));
    let each = servers.iter().enumerate().filter(|(_, server)| server.is_sound()).filter(first);
    let sound: Vec<&Hosted> = each.take(MAX_HOSTED).map(|(_, server)| server).collect();
    // Both lengths are below 256 by the limits above.
    let mut out = vec![VERSION, sound.len() as u8];
    for server in sound {
        out.push(server.game.len() as u8);
        out.extend_from_slice(server.game.as_bytes());
        out.extend_from_slice(&server.port.to_be_bytes());
        out.extend_from_slice(&server.query_port.unwrap_or(0).to_be_bytes());
    }
    out
}

/// What another member said; `None` when it is of another version or not what a member may say.
#[must_use]
pub fn decode_hosted(bytes: &[u8]) -> Option<Vec<Hosted>> {
    let (&[version, count], mut rest) = bytes.split_first_chunk::<2>()?;
    if version != VERSION || usize::from(count) > MAX_HOSTED {
        return None;
    }
    let mut servers: Vec<Hosted> = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (len, after) = rest.split_first()?;
        let (game, after) = after.split_at_checked(usize::from(*len))?;
        let (&[a, b, c, d], after) = after.split_first_chunk::<4>()?;
        let query_port = Some(u16::from_be_bytes([c, d])).filter(|port| *port != 0);
        let game = std::str::from_utf8(game).ok()?.to_owned();
        let server = Hosted { game, port: u16::from_be_bytes([a, b]), query_port };
        if !server.is_sound() || servers.iter().any(|other| other.is_same(&server)) {
            return None;
        }
        servers.push(server);
        rest = after;
    }
    rest.is_empty().then_some(servers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosted(game: &str, port: u16, query_port: Option<u16>) -> Hosted {
        Hosted { game: game.into(), port, query_port }
    }

    /// docs/protocol.md has it too.
    #[test]
    fn the_vector_stands() {
        let servers = [hosted("openttd", 3979, None), hosted("valheim", 2456, Some(2457))];
        let bytes = encode_hosted(&servers);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0102076f70656e7474640f8b00000776616c6865696d09980999");
        assert_eq!(decode_hosted(&bytes).unwrap(), servers);
    }

    #[test]
    fn what_no_member_may_say_is_refused() {
        let good = encode_hosted(&[hosted("quake", 26000, None)]);
        for len in 0..good.len() {
            assert_eq!(decode_hosted(&good[..len]), None, "{len}");
        }
        let change = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            decode_hosted(&bytes)
        };
        for (at, byte) in [(0, 2), (1, 0), (1, 2), (1, 255), (2, 0), (2, 4), (2, 255), (3, b'Q'), (3, 0xff), (3, b'/')]
        {
            assert_eq!(change(at, byte), None, "byte {at} is {byte}");
        }
        assert_eq!(decode_hosted(&[&good[..], &[0]].concat()), None, "more than it says");
        assert_eq!(decode_hosted(&[1, 1, 1, b'q', 0, 0, 0, 0]), None, "port 0");
        let twice = [good.as_slice(), &good[2..]].concat();
        let twice = [&[1, 2], &twice[2..]].concat();
        assert_eq!(decode_hosted(&twice), None, "the same server twice");
        assert_eq!(encode_hosted(&[hosted("quake", 26000, None), hosted("quake", 26000, Some(5))]), good);
        let many: Vec<Hosted> = (1..100).map(|port| hosted("x", port, None)).collect();
        assert_eq!(decode_hosted(&encode_hosted(&many)).unwrap().len(), MAX_HOSTED);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(servers in prop::collection::vec(("[a-z0-9-]{1,32}", 1u16.., 0u16..), 0..=MAX_HOSTED)) {
            let servers: Vec<Hosted> =
                servers.iter().map(|(game, port, query)| hosted(game, *port, Some(*query).filter(|q| *q != 0))).collect();
            let twice = |(at, server): (usize, &Hosted)| servers[..at].iter().any(|other| other.is_same(server));
            prop_assume!(!servers.iter().enumerate().any(twice));
            let bytes = encode_hosted(&servers);
            prop_assert!(bytes.len() <= 512);
            prop_assert_eq!(decode_hosted(&bytes), Some(servers));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Some(servers) = decode_hosted(&bytes) {
                prop_assert_eq!(encode_hosted(&servers), bytes);
            }
        }
    }
}

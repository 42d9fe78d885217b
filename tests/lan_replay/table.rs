//! The table of games: `games.toml`.

use std::net::Ipv4Addr;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) game: Vec<Game>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Game {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) checked: Checked,
    #[serde(default)]
    pub(crate) opaque: bool,
    #[serde(default)]
    pub(crate) java: bool,
    pub(crate) shout: Shout,
    pub(crate) answer: Option<Answer>,
    /// The port on which the host answers; the first one unless named.
    hears: Option<u16>,
}

/// How much of a row was compared with its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Checked {
    All,
    Part,
    No,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shout {
    pub(crate) from: u16,
    pub(crate) to: Cast,
    pub(crate) ports: Vec<u16>,
    #[serde(default = "one")]
    pub(crate) copies: usize,
    #[serde(default)]
    pub(crate) gap_ms: u64,
    pub(crate) payload: Payload,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) how: Cast,
    pub(crate) port: u16,
    pub(crate) from: u16,
    pub(crate) payload: Payload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Cast {
    Unicast,
    Limited,
    Subnet,
    Group(Ipv4Addr),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Payload(pub(crate) Vec<u8>);

fn one() -> usize {
    1
}

impl Table {
    pub(crate) fn load() -> Self {
        toml::from_str(include_str!("games.toml")).unwrap_or_else(|problem| panic!("games.toml: {problem}"))
    }
}

impl Game {
    pub(crate) fn hears(&self) -> u16 {
        self.hears.unwrap_or(self.shout.ports[0])
    }
}

impl Cast {
    /// Where it goes from a host with the address `own/24`, unless it is unicast.
    pub(crate) fn address(self, own: Ipv4Addr) -> Option<Ipv4Addr> {
        match self {
            Self::Unicast => None,
            Self::Limited => Some(Ipv4Addr::BROADCAST),
            Self::Subnet => {
                let [a, b, c, _] = own.octets();
                Some(Ipv4Addr::new(a, b, c, 255))
            }
            Self::Group(group) => Some(group),
        }
    }
}

impl std::fmt::Display for Cast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unicast => f.write_str("unicast"),
            Self::Limited => f.write_str("limited"),
            Self::Subnet => f.write_str("subnet"),
            Self::Group(group) => write!(f, "{group}"),
        }
    }
}

impl TryFrom<String> for Cast {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "unicast" => Ok(Self::Unicast),
            "limited" => Ok(Self::Limited),
            "subnet" => Ok(Self::Subnet),
            other => match other.parse::<Ipv4Addr>() {
                Ok(group) if group.is_multicast() => Ok(Self::Group(group)),
                _ => Err(format!("`{other}` is neither unicast, limited, subnet nor a multicast group")),
            },
        }
    }
}

impl TryFrom<String> for Payload {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let mut rest = text.as_str().trim_start();
        while !rest.is_empty() {
            let word;
            if let Some(quoted) = rest.strip_prefix('\'') {
                let (inside, after) = quoted.split_once('\'').ok_or("a quote is not closed")?;
                bytes.extend_from_slice(inside.as_bytes());
                rest = after.trim_start();
                continue;
            }
            (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = rest.trim_start();
            let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
            let byte = u8::from_str_radix(digits, 16).map_err(|_| format!("`{word}` is not a byte"))?;
            let times: usize = times.parse().map_err(|_| format!("`{word}` is not a count"))?;
            bytes.extend(std::iter::repeat_n(byte, times));
        }
        Ok(Self(bytes))
    }
}

#[test]
fn payloads_are_read_as_they_are_written() {
    let read = |text: &str| Payload::try_from(text.to_owned()).map(|payload| payload.0);
    assert_eq!(read("ff*2 'get info' 00 1a"), Ok(b"\xff\xffget info\0\x1a".to_vec()));
    for bad in ["fff", "'open", "0x1", "00*x", "g0"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_table_is_sound() {
    let table = Table::load();
    assert!(table.game.len() >= 25);
    for game in &table.game {
        assert!(!game.source.is_empty() && !game.shout.payload.0.is_empty(), "{}", game.name);
        assert_ne!(game.shout.to, Cast::Unicast, "{}: a shout goes to many", game.name);
        assert!(game.shout.ports.contains(&game.hears()), "{}: hears a port that nobody sends to", game.name);
        assert!(game.answer.as_ref().is_none_or(|answer| answer.payload != game.shout.payload), "{}", game.name);
    }
}

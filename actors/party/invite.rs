//! Invite links: `lanrage://join/<code>?via=<multiaddr>…`. The addresses let a friend join before the DHT has answered.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use super::code::PartyCode;
use crate::discovery::messages::NodeAddrs;
use crate::wire::NodeId;

const SCHEME: &str = "lanrage://join/";
/// Most addresses in a link.
pub const MAX_VIAS: usize = 8;
/// Longest address in a link, bytes after decoding.
pub const MAX_VIA_LEN: usize = 256;
/// Longest link, bytes.
pub const MAX_LINK: usize = 2048;

/// A party code and where members of the party may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    pub code: PartyCode,
    /// One entry per node; addresses without their `/p2p/<PeerId>` end.
    pub vias: Vec<NodeAddrs>,
}

/// Why a text is not an invite link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    #[error("it does not begin with {SCHEME}")]
    Scheme,
    #[error("it is {0} bytes long, the limit is {MAX_LINK}")]
    TooLong(usize),
    #[error("its code is wrong: {0}")]
    Code(#[from] super::code::CodeError),
    #[error("it has more than {MAX_VIAS} addresses")]
    TooManyVias,
    #[error("address {0} is longer than {MAX_VIA_LEN} bytes")]
    ViaTooLong(usize),
    #[error("address {0} is damaged (bad percent sign or not plain text)")]
    Encoding(usize),
    #[error("address {0} is not a multiaddr that ends in /p2p/<PeerId>")]
    NotAnAddress(usize),
}

impl Invite {
    /// An invite by way of this node. Addresses that do not fit into the bounds of a link are left out.
    #[must_use]
    pub fn new(code: PartyCode, node: NodeId, addrs: &[String]) -> Self {
        let mut invite = Self { code, vias: vec![NodeAddrs { node, addrs: Vec::new() }] };
        for addr in addrs.iter().take(MAX_VIAS).filter(|addr| usable(addr)) {
            invite.vias[0].addrs.push(addr.clone());
            if format!("{addr}/p2p/{node}").len() > MAX_VIA_LEN || invite.to_string().len() > MAX_LINK {
                invite.vias[0].addrs.pop();
            }
        }
        invite.vias.retain(|via| !via.addrs.is_empty());
        invite
    }

    /// Whether a text is meant as a link rather than a bare code.
    #[must_use]
    pub fn looks_like_one(text: &str) -> bool {
        text.contains("://")
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.code)?;
        let mut separator = '?';
        for via in &self.vias {
            for addr in &via.addrs {
                write!(f, "{separator}via=")?;
                percent_encode(f, &format!("{addr}/p2p/{}", via.node))?;
                separator = '&';
            }
        }
        Ok(())
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Unknown parameters are skipped, so that later versions may add some.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = text.trim();
        if text.len() > MAX_LINK {
            return Err(InviteError::TooLong(text.len()));
        }
        let head = text.get(..SCHEME.len()).ok_or(InviteError::Scheme)?;
        if !head.eq_ignore_ascii_case(SCHEME) {
            return Err(InviteError::Scheme);
        }
        let rest = &text[SCHEME.len()..];
        let (code, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut invite = Self { code: code.trim_end_matches('/').parse()?, vias: Vec::new() };
        let vias = query.split('&').filter_map(|parameter| parameter.strip_prefix("via="));
        for (index, via) in vias.enumerate() {
            if index == MAX_VIAS {
                return Err(InviteError::TooManyVias);
            }
            let (node, addr) = parse_via(via, index + 1)?;
            match invite.vias.iter_mut().find(|known| known.node == node) {
                Some(known) => known.addrs.push(addr),
                None => invite.vias.push(NodeAddrs { node, addrs: vec![addr] }),
            }
        }
        Ok(invite)
    }
}

fn parse_via(text: &str, number: usize) -> Result<(NodeId, String), InviteError> {
    let via = percent_decode(text).ok_or(InviteError::Encoding(number))?;
    if via.len() > MAX_VIA_LEN {
        return Err(InviteError::ViaTooLong(number));
    }
    let (addr, node) = via.rsplit_once("/p2p/").ok_or(InviteError::NotAnAddress(number))?;
    let node = node.parse().map_err(|_| InviteError::NotAnAddress(number))?;
    if !usable(addr) {
        return Err(InviteError::NotAnAddress(number));
    }
    Ok((node, addr.to_owned()))
}

/// Only the shape: whether it can be dialled is discovery's to say.
fn usable(addr: &str) -> bool {
    addr.len() > 1 && addr.starts_with('/') && addr.bytes().all(|byte| byte.is_ascii_graphic())
}

/// RFC 3986: unreserved characters, and "/" and ":" which a query may hold, stay.
fn percent_encode(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            if !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODE: NodeId = NodeId([7; 32]);

    fn code() -> PartyCode {
        PartyCode::try_from(0x12_3456_789a_bcde).unwrap()
    }

    #[test]
    fn links_round_trip_and_group_by_node() {
        let invite =
            Invite::new(code(), NODE, &["/ip4/192.0.2.1/tcp/4001".into(), "/dns4/a.example/udp/1/quic-v1".into()]);
        let text = invite.to_string();
        assert_eq!(
            text,
            format!(
                "lanrage://join/4HMA-SW9N-F6YV?via=/ip4/192.0.2.1/tcp/4001/p2p/{NODE}&via=/dns4/a.example/udp/1/quic-v1/p2p/{NODE}"
            )
        );
        assert_eq!(text.parse(), Ok(invite.clone()));
        assert_eq!(text.replace('/', "%2f").replacen("%2f%2fjoin%2f", "//join/", 1).parse(), Ok(invite));
        let bare: Invite = "LANRAGE://join/4hmasw9nf6yv".parse().unwrap();
        assert!(bare.vias.is_empty());
        let circuit = format!(
            "lanrage://join/4HMA-SW9N-F6YV?x=1&via=/ip4/1.2.3.4/tcp/1/p2p/{}/p2p-circuit/p2p/{NODE}",
            NodeId([9; 32])
        );
        let circuit: Invite = circuit.parse().unwrap();
        assert_eq!(circuit.vias[0].node, NODE);
        assert!(circuit.vias[0].addrs[0].ends_with("/p2p-circuit"));
    }

    #[test]
    fn bounds_hold_and_errors_are_told_apart() {
        let link = |query: &str| format!("lanrage://join/4HMA-SW9N-F6YV?{query}").parse::<Invite>();
        assert_eq!("http://x".parse::<Invite>(), Err(InviteError::Scheme));
        assert_eq!(link("via=%zz"), Err(InviteError::Encoding(1)));
        assert_eq!(link("via=%+1"), Err(InviteError::Encoding(1)));
        assert_eq!(link("via=/ip4/1.2.3.4"), Err(InviteError::NotAnAddress(1)));
        assert_eq!(link(&format!("via={}/p2p/{NODE}", "/a".repeat(128))), Err(InviteError::ViaTooLong(1)));
        let via = format!("via=/ip4/1.2.3.4/p2p/{NODE}&");
        assert_eq!(link(&via.repeat(8)).unwrap().vias[0].addrs.len(), 8);
        assert_eq!(link(&via.repeat(9)), Err(InviteError::TooManyVias));
        assert_eq!(link(&"x".repeat(2048)), Err(InviteError::TooLong(2048 + 30)));
        assert!(matches!("lanrage://join/x".parse::<Invite>(), Err(InviteError::Code(_))));
        let long = vec![format!("/{}", "a".repeat(190)); 20];
        let invite = Invite::new(code(), NODE, &long);
        assert!(invite.to_string().len() <= MAX_LINK);
        assert_eq!(invite.to_string().parse(), Ok(invite));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,200}") {
            let _ = text.parse::<Invite>();
            let _ = format!("lanrage://join/4HMA-SW9N-F6YV?via={text}").parse::<Invite>();
        }

        #[test]
        fn what_is_parsed_is_written_and_parsed_alike(addrs in prop::collection::vec("/[!-~]{1,60}", 0..8)) {
            let invite = Invite::new(code(), NODE, &addrs);
            prop_assert_eq!(invite.to_string().parse(), Ok(invite));
        }
    }
}

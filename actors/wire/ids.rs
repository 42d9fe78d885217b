use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The multihash prefix of an Ed25519 libp2p PeerId: identity hash (0x00), 36 bytes, then the protobuf of the key
/// (field 1 = type Ed25519, field 2 = 32 bytes).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A node's identity: its Ed25519 public key. `Display` gives the libp2p PeerId (`12D3KooW…`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

/// A WireGuard (X25519) public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WgPublicKey(pub [u8; 32]);

/// A party: 16 random bytes made by its creator. Stays the same when the code is rolled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartyId(pub [u8; 16]);

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("not base58 text")]
    Encoding,
    #[error("not the PeerId of an Ed25519 key")]
    NotEd25519,
}

impl NodeId {
    /// The bytes of the PeerId as libp2p writes them (a multihash).
    #[must_use]
    pub fn to_peer_id_bytes(self) -> [u8; 38] {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        bytes
    }

    /// # Errors
    /// `NotEd25519` for PeerIds of other key kinds: LANrage makes Ed25519 keys only.
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or(IdError::NotEd25519)?;
        Ok(Self(key.try_into().map_err(|_| IdError::NotEd25519)?))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_peer_id_bytes()).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = bs58::decode(text).into_vec().map_err(|_| IdError::Encoding)?;
        Self::from_peer_id_bytes(&bytes)
    }
}

impl fmt::Debug for WgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE64.encode(&self.0))
    }
}

impl fmt::Display for PartyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PartyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv4 range such as `10.66.0.0/16`; the host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ipv4Range {
    network: Ipv4Addr,
    prefix_len: u8,
}

/// Why a text is not a range that a party can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("`{0}` is not a range; write it like 10.66.0.0/16")]
    Syntax(String),
    #[error("`{0}` has host bits set; did you mean {1}?")]
    HostBits(String, Ipv4Range),
    #[error(
        "`{0}` is not usable: a party needs a /8 to /22 inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10"
    )]
    NotPrivate(String),
}

impl Ipv4Range {
    /// The range of a party unless its creator configured another.
    pub const DEFAULT: Self = Self { network: Ipv4Addr::new(10, 66, 0, 0), prefix_len: 16 };

    /// # Errors
    /// When host bits are set, or the range is not private or not between /8 and /22.
    pub fn new(network: Ipv4Addr, prefix_len: u8) -> Result<Self, RangeError> {
        let text = || format!("{network}/{prefix_len}");
        if prefix_len > 32 {
            return Err(RangeError::Syntax(text()));
        }
        let range = Self { network: Ipv4Addr::from(u32::from(network) & mask(prefix_len)), prefix_len };
        if range.network != network {
            return Err(RangeError::HostBits(text(), range));
        }
        let parents = [(10, 0, 8), (172, 16, 12), (192, 168, 16), (100, 64, 10)];
        let private = parents.iter().any(|&(a, b, len)| {
            prefix_len >= len && Self { network: Ipv4Addr::new(a, b, 0, 0), prefix_len: len }.contains(network)
        });
        if !private || prefix_len > 22 {
            return Err(RangeError::NotPrivate(text()));
        }
        Ok(range)
    }

    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    #[must_use]
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix_len))
    }

    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | !mask(self.prefix_len))
    }

    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix_len) == u32::from(self.network)
    }

    /// How many addresses the range has.
    #[must_use]
    pub fn size(self) -> u32 {
        1 << (32 - self.prefix_len)
    }
}

fn mask(prefix_len: u8) -> u32 {
    if prefix_len == 0 { 0 } else { u32::MAX << (32 - prefix_len) }
}

impl FromStr for Ipv4Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let syntax = || RangeError::Syntax(text.to_owned());
        let (network, prefix_len) = text.split_once('/').ok_or_else(syntax)?;
        Self::new(network.parse().map_err(|_| syntax())?, prefix_len.parse().map_err(|_| syntax())?)
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

impl fmt::Debug for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_id_text_round_trips() {
        let id = NodeId([7; 32]);
        let text = id.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse::<NodeId>(), Ok(id));
        assert_eq!("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse::<NodeId>(), Err(IdError::NotEd25519));
        assert_eq!("0OIl".parse::<NodeId>(), Err(IdError::Encoding));
    }

    #[test]
    fn ranges_are_checked() {
        assert_eq!("10.66.0.0/16".parse(), Ok(Ipv4Range::DEFAULT));
        assert!("10.66.0.1/16".parse::<Ipv4Range>().unwrap_err().to_string().contains("10.66.0.0/16"));
        for bad in ["8.8.0.0/16", "10.66.0.0", "10.66.0.0/33", "10.66.0.0/24", "0.0.0.0/0", "x/16"] {
            assert!(bad.parse::<Ipv4Range>().is_err(), "{bad}");
        }
        let range: Ipv4Range = "172.20.0.0/20".parse().unwrap();
        assert_eq!(range.broadcast(), Ipv4Addr::new(172, 20, 15, 255));
        assert_eq!(range.size(), 4096);
        assert!(!range.contains(Ipv4Addr::new(172, 20, 16, 0)));
    }
}

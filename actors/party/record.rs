//! What the members of a party tell each other about themselves and the party, each item signed by who says it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::code::PartyCode;
use super::signed::{Body, MAX_BODY, Verified};
use crate::wire::{Contact, Ipv4Range, NodeId, PartyId, WgPublicKey};

/// Longest name of a member or a party, characters.
pub const MAX_NAME: usize = 32;
pub const MAX_ADDRS: usize = 8;
/// Longest multiaddr, bytes.
pub const MAX_ADDR_LEN: usize = 256;
/// How often a member may move on to its next virtual IP.
pub const MAX_ATTEMPT: u8 = 63;
/// Most members that a code roll can carry over.
pub const MAX_STAY: usize = 255;
const MAX_EXTENSIONS: usize = 16;
/// Extensions altogether, bytes.
const MAX_EXTENSION_BYTES: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    Active,
    Left,
}

/// A member, in its own words. The record that is greatest by (`joined_at`, `seq`, bytes) stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    pub party: PartyId,
    pub node: NodeId,
    pub wg_key: WgPublicKey,
    pub name: String,
    /// Must be `virtual_ip(party, node, attempt, range)`.
    pub virtual_ip: Ipv4Addr,
    pub attempt: u8,
    /// How the data socket may be reached.
    pub contact: Contact,
    /// Multiaddrs to dial for a party stream, without `/p2p`.
    pub addrs: Vec<String>,
    /// Unix seconds, by the clock of the member that let this one in. Kept for good, also when it leaves and comes back.
    pub joined_at: u64,
    /// How often it has left.
    pub departures: u32,
    /// Unix seconds, by its own clock.
    pub issued_at: u64,
    pub seq: u64,
    pub state: MemberState,
    /// For later versions: (kind, contents), in ascending order of kinds.
    pub extensions: Vec<(u16, Vec<u8>)>,
}

/// What a party is. Its id is the hash of this, so nobody can pass off another party, range or creator under the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyInfo {
    pub salt: [u8; 16],
    pub name: String,
    pub range: Ipv4Range,
    pub creator: NodeId,
    /// Unix seconds.
    pub created_at: u64,
}

/// `member` is out for good. Counts when `by` had the right to it: see `View`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kick {
    pub party: PartyId,
    pub member: NodeId,
    pub by: NodeId,
    /// Unix seconds.
    pub at: u64,
}

/// The party's code from this generation on; generation 0 is the code that the party was created with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekey {
    pub party: PartyId,
    pub generation: u32,
    pub code: PartyCode,
    /// Members who may come back with an older code and be told this one. Nobody else.
    pub stay: Vec<NodeId>,
    pub by: NodeId,
    /// Unix seconds.
    pub at: u64,
}

impl PartyInfo {
    /// The id of the party that these very bytes describe.
    #[must_use]
    pub fn id(info: &Verified<Self>) -> PartyId {
        let hash = blake3::derive_key("lanrage v1 party id", info.signed().body());
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        PartyId(id)
    }
}

impl Body for MemberRecord {
    const DOMAIN: &'static str = "lanrage v1 member record";
    const MAX: usize = 6 * 1024;

    fn signer(&self) -> NodeId {
        self.node
    }

    fn check(&self) -> Result<(), &'static str> {
        if check_name(&self.name).is_err() {
            Err("the name is not usable")
        } else if self.attempt > MAX_ATTEMPT {
            Err("too many virtual IPs tried")
        } else if !self.contact.is_sound() {
            Err("too many or unusable candidates")
        } else if self.addrs.len() > MAX_ADDRS || self.addrs.iter().any(|addr| !usable_addr(addr)) {
            Err("too many or unusable addresses")
        } else if self.extensions.len() > MAX_EXTENSIONS
            || self.extensions.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > MAX_EXTENSION_BYTES
        {
            Err("too many extensions")
        } else if !self.extensions.is_sorted_by(|one, next| one.0 < next.0) {
            Err("extensions out of order")
        } else {
            Ok(())
        }
    }
}

impl Body for PartyInfo {
    const DOMAIN: &'static str = "lanrage v1 party info";
    const MAX: usize = 512;

    fn signer(&self) -> NodeId {
        self.creator
    }

    fn check(&self) -> Result<(), &'static str> {
        if Ipv4Range::new(self.range.network(), self.range.prefix_len()).is_err() {
            return Err("the range is not usable");
        }
        check_name(&self.name).map_err(|_| "the name is not usable")
    }
}

impl Body for Kick {
    const DOMAIN: &'static str = "lanrage v1 kick";
    const MAX: usize = 256;

    fn signer(&self) -> NodeId {
        self.by
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.member == self.by { Err("nobody can remove himself") } else { Ok(()) }
    }
}

impl Body for Rekey {
    const DOMAIN: &'static str = "lanrage v1 rekey";
    const MAX: usize = MAX_BODY;

    fn signer(&self) -> NodeId {
        self.by
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.stay.len() > MAX_STAY { Err("too many members") } else { Ok(()) }
    }
}

/// A name as typed, trimmed.
///
/// # Errors
/// What is wrong with it, for the player.
pub fn clean_name(text: &str) -> Result<String, &'static str> {
    let name = text.trim();
    check_name(name).map(|()| name.to_owned())
}

/// Names are shown next to those of others, so nothing invisible and nothing that turns the writing direction.
fn check_name(name: &str) -> Result<(), &'static str> {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    // Four bytes a character: no need to count the characters of something huge.
    if name.is_empty() {
        Err("it is empty")
    } else if name.len() > MAX_NAME * 4 || name.chars().count() > MAX_NAME {
        Err("it is longer than 32 characters")
    } else if name.trim() != name {
        Err("it begins or ends with a space")
    } else if name.chars().any(invisible) {
        Err("it has control or invisible characters")
    } else {
        Ok(())
    }
}

/// Whether a text has the shape of a multiaddr.
#[must_use]
pub fn usable_addr(addr: &str) -> bool {
    addr.len() <= MAX_ADDR_LEN && addr.starts_with('/') && addr.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The address of a member at its `attempt`-th try. Never one that ends in 0 or 255: those are network and broadcast
/// addresses to many a program, whatever the netmask.
#[must_use]
pub fn virtual_ip(party: PartyId, node: NodeId, attempt: u8, range: Ipv4Range) -> Ipv4Addr {
    let mut hasher = blake3::Hasher::new_derive_key("lanrage v1 virtual ip");
    hasher.update(&party.0).update(&node.0).update(&[attempt]);
    let mut bytes = [0; 4];
    let mut stream = hasher.finalize_xof();
    stream.fill(&mut bytes);
    let host = u32::from_le_bytes(bytes) & (range.size() - 1);
    // The sizes of ranges are powers of two of at least 1,024, so a last octet out of 1–254 stays inside.
    stream.fill(&mut bytes);
    let last = 1 + u32::from_le_bytes(bytes) % 254;
    Ipv4Addr::from(u32::from(range.network()) | (host & !0xff) | last)
}

#[cfg(test)]
pub(crate) mod tests {
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    use super::super::signed::{Signed, SignedError};
    use super::*;

    pub(crate) fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    pub(crate) fn node(seed: u8) -> NodeId {
        NodeId(key(seed).verifying_key().to_bytes())
    }

    pub(crate) fn contact(hosts: &[&str]) -> Contact {
        Contact::of_hosts(hosts.iter().map(|addr| addr.parse().unwrap()))
    }

    pub(crate) fn record(party: PartyId, seed: u8, name: &str) -> MemberRecord {
        MemberRecord {
            party,
            node: node(seed),
            wg_key: WgPublicKey([seed; 32]),
            name: name.into(),
            virtual_ip: virtual_ip(party, node(seed), 0, Ipv4Range::DEFAULT),
            attempt: 0,
            contact: contact(&["192.0.2.1:7", "[2001:db8::1]:9"]),
            addrs: vec!["/ip4/192.0.2.1/tcp/4001".into()],
            joined_at: 1000,
            departures: 0,
            issued_at: 1000,
            seq: 1,
            state: MemberState::Active,
            extensions: vec![(7, vec![1, 2, 3])],
        }
    }

    #[test]
    fn signed_records_verify_and_nothing_else_does() {
        let signed = Verified::sign(record(PartyId([1; 16]), 1, "Ann"), &key(1)).unwrap().signed().clone();
        assert_eq!(signed.verify::<MemberRecord>().unwrap().get().name, "Ann");
        assert_eq!(signed.verify::<Kick>().unwrap_err(), SignedError::TooLong.max_of(&signed));
        let encoded = bincode::serde::encode_to_vec(&signed, bincode::config::standard()).unwrap();
        for at in 0..encoded.len() {
            for bit in [1, 0x80] {
                let mut bytes = encoded.clone();
                bytes[at] ^= bit;
                if let Ok((damaged, _)) =
                    bincode::serde::decode_from_slice::<Signed, _>(&bytes, bincode::config::standard())
                {
                    assert!(damaged.verify::<MemberRecord>().is_err(), "byte {at}");
                }
            }
        }
    }

    impl SignedError {
        /// A record is longer than a kick may be, or malformed as one.
        fn max_of(self, signed: &Signed) -> Self {
            if signed.body().len() > Kick::MAX { self } else { Self::Malformed }
        }
    }

    #[test]
    fn contents_are_checked() {
        let party = PartyId([1; 16]);
        let good = record(party, 1, "Ann");
        let bad: [fn(&mut MemberRecord); 9] = [
            |it| it.name = " Ann".into(),
            |it| it.name = String::new(),
            |it| it.name = "A\u{202e}nn".into(),
            |it| it.name = "n".repeat(33),
            |it| it.contact = contact(&["1.2.3.4:0"]),
            |it| it.contact = contact(&["1.2.3.4:5"; 17]),
            |it| it.addrs = vec!["/".repeat(257)],
            |it| it.extensions = vec![(1, vec![]), (1, vec![])],
            |it| it.extensions = vec![(1, vec![0; 1025])],
        ];
        for change in bad {
            let mut record = good.clone();
            change(&mut record);
            assert!(Verified::sign(record, &key(1)).is_err());
        }
        assert_eq!(clean_name("  Ünal 🎮 "), Ok("Ünal 🎮".into()));
    }

    proptest! {
        #[test]
        fn virtual_ips_are_usable(party: [u8; 16], id: [u8; 32], attempt: u8, prefix in 8_u8..=22) {
            let range = Ipv4Range::new(Ipv4Addr::new(10, 0, 0, 0), prefix).unwrap();
            let ip = virtual_ip(PartyId(party), NodeId(id), attempt, range);
            prop_assert!(range.contains(ip));
            prop_assert!(!matches!(ip.octets()[3], 0 | 255));
        }

        #[test]
        fn random_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok((signed, _)) = bincode::serde::decode_from_slice::<Signed, _>(&bytes, bincode::config::standard()) {
                prop_assert!(signed.verify::<MemberRecord>().is_err());
                prop_assert!(signed.verify::<Rekey>().is_err());
                prop_assert!(signed.verify::<PartyInfo>().is_err());
            }
        }
    }
}

//! The mutual proof of membership: MACs by the membership key over who speaks to whom and a nonce of each side.
//!
//! The side that opened the stream proves first; the other answers with its own proof only when the first was right, so
//! that a stranger who knocks gets nothing that he could try codes against.

use rand::RngCore;

use crate::wire::NodeId;

const LABEL: &[u8] = b"lanrage/party/1 membership proof";
/// MACs in the opener's proof, always: how many codes a party has had is nobody's business.
pub const PROOF_MACS: usize = 5;

/// Which side of a party stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It opened the stream.
    Opener,
    Acceptor,
}

/// What both sides of one stream agree on before the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript {
    pub opener: NodeId,
    pub acceptor: NodeId,
    pub opener_nonce: [u8; 32],
    pub acceptor_nonce: [u8; 32],
}

impl Transcript {
    /// The proof of one side. The PeerIds are those that the encrypted connection has authenticated.
    #[must_use]
    pub fn mac(&self, role: Role, membership_key: &[u8; 32]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(membership_key);
        hasher.update(LABEL);
        hasher.update(&[match role {
            Role::Opener => 1,
            Role::Acceptor => 2,
        }]);
        hasher.update(&self.opener.0).update(&self.acceptor.0);
        hasher.update(&self.opener_nonce).update(&self.acceptor_nonce);
        hasher.finalize()
    }

    /// The opener's proof: one MAC per key that it knows, the rest noise.
    pub fn opener_macs(&self, keys: impl Iterator<Item = [u8; 32]>, rng: &mut impl RngCore) -> [[u8; 32]; PROOF_MACS] {
        let mut macs = [[0; 32]; PROOF_MACS];
        for mac in &mut macs {
            rng.fill_bytes(mac);
        }
        for (mac, key) in macs.iter_mut().zip(keys) {
            *mac = *self.mac(Role::Opener, &key).as_bytes();
        }
        macs
    }

    /// Whether one of `macs` proves `membership_key`. Compares in constant time.
    #[must_use]
    pub fn proves(&self, role: Role, membership_key: &[u8; 32], macs: &[[u8; 32]]) -> bool {
        let expected = self.mac(role, membership_key);
        // `blake3::Hash` compares in constant time; no early exit, so that the place of the match does not show either.
        macs.iter().fold(false, |found, mac| found | (expected == blake3::Hash::from_bytes(*mac)))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_proof_holds_for_its_stream_role_and_key_only() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let stream = Transcript { opener: a, acceptor: b, opener_nonce: [3; 32], acceptor_nonce: [4; 32] };
        let mut rng = StdRng::seed_from_u64(1);
        let macs = stream.opener_macs([[9; 32], [8; 32]].into_iter(), &mut rng);
        assert!(stream.proves(Role::Opener, &[8; 32], &macs));
        assert!(stream.proves(Role::Opener, &[9; 32], &macs));
        assert!(!stream.proves(Role::Opener, &[7; 32], &macs));
        assert!(!stream.proves(Role::Acceptor, &[9; 32], &macs));
        let others = [
            Transcript { opener: b, acceptor: a, ..stream },
            Transcript { opener_nonce: [5; 32], ..stream },
            Transcript { acceptor_nonce: [5; 32], ..stream },
        ];
        for other in others {
            assert!(!other.proves(Role::Opener, &[9; 32], &macs));
        }
    }
}

//! What is derived from a party code. Every output has a label of its own, so that none tells anything of another.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroize;

use super::code::PartyCode;
use crate::wire::NodeId;

/// Argon2id memory, KiB.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// Fixed: there is nothing that two members who know only the code could agree on otherwise.
const SALT: &[u8] = b"lanrage v1 party code";

const RENDEZVOUS: &str = "lanrage v1 rendezvous";
const MEMBERSHIP: &str = "lanrage v1 membership";
const PAIR_PSK: &str = "lanrage v1 pair preshared key";

/// How long one rendezvous key lasts, seconds.
pub const EPOCH_SECS: u64 = 24 * 60 * 60;
/// This long before an epoch ends the next one's key is in use too, seconds: clocks differ.
const EPOCH_OVERLAP_SECS: u64 = 60 * 60;

/// The 32 bytes that stand for a party code. Wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PartySecret([u8; 32]);

impl PartySecret {
    /// Argon2id over the code: about 0.1–0.2 s and 64 MiB, so run it where nobody waits for the thread.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn derive(code: &PartyCode) -> Result<Self, argon2::Error> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(32))?;
        let mut secret = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
            &code.symbols(),
            SALT,
            &mut secret,
        )?;
        Ok(Self(secret))
    }

    /// A secret that was derived before.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For writing it down only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key that members publish under and look up in one epoch.
    #[must_use]
    pub fn rendezvous_key(&self, epoch: u64) -> [u8; 32] {
        self.expand(RENDEZVOUS, &[&epoch.to_le_bytes()])
    }

    /// The keys to publish under and look up at a time (unix seconds): of the current epoch, the one before, and
    /// shortly before the end the next.
    #[must_use]
    pub fn rendezvous_keys(&self, unix: u64) -> Vec<[u8; 32]> {
        let epoch = unix / EPOCH_SECS;
        let mut keys = vec![self.rendezvous_key(epoch), self.rendezvous_key(epoch.saturating_sub(1))];
        if unix % EPOCH_SECS >= EPOCH_SECS - EPOCH_OVERLAP_SECS {
            keys.push(self.rendezvous_key(epoch + 1));
        }
        keys
    }

    /// The key whose knowledge makes a member.
    #[must_use]
    pub fn membership_key(&self) -> [u8; 32] {
        self.expand(MEMBERSHIP, &[])
    }

    /// The WireGuard preshared key of a pair, the same from both sides.
    #[must_use]
    pub fn pair_psk(&self, one: NodeId, other: NodeId) -> [u8; 32] {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        self.expand(PAIR_PSK, &[&low.0, &high.0])
    }

    fn expand(&self, label: &str, inputs: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(label);
        hasher.update(&self.0);
        for input in inputs {
            hasher.update(input);
        }
        *hasher.finalize().as_bytes()
    }
}

/// When the set of `rendezvous_keys` changes next, unix seconds.
#[must_use]
pub fn next_key_change(unix: u64) -> u64 {
    let start = unix - unix % EPOCH_SECS;
    let overlap = start + EPOCH_SECS - EPOCH_OVERLAP_SECS;
    if unix < overlap { overlap } else { start + EPOCH_SECS }
}

impl Drop for PartySecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PartySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PartySecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_label_epoch_and_pair() {
        let secret = PartySecret::from_bytes([1; 32]);
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        assert_eq!(secret.pair_psk(a, b), secret.pair_psk(b, a));
        let all = [
            secret.pair_psk(a, b),
            secret.pair_psk(a, a),
            secret.membership_key(),
            secret.rendezvous_key(0),
            secret.rendezvous_key(1),
            PartySecret::from_bytes([2; 32]).membership_key(),
        ];
        for (index, key) in all.iter().enumerate() {
            assert!(!all[..index].contains(key));
        }
    }

    #[test]
    fn epochs_overlap() {
        let secret = PartySecret::from_bytes([1; 32]);
        let day = 20_000 * EPOCH_SECS;
        assert_eq!(secret.rendezvous_keys(day), [secret.rendezvous_key(20_000), secret.rendezvous_key(19_999)]);
        assert_eq!(next_key_change(day), day + 23 * 3600);
        let late = day + 23 * 3600;
        assert_eq!(secret.rendezvous_keys(late)[2], secret.rendezvous_key(20_001));
        assert_eq!(next_key_change(late), day + EPOCH_SECS);
        assert_eq!(secret.rendezvous_keys(0).len(), 2);
    }
}

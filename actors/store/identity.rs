use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use zeroize::Zeroize;

/// The two secrets that make this machine itself. Wiped from memory on drop; `Debug` does not show them.
#[derive(PartialEq, Eq)]
pub struct Identity {
    /// Ed25519 seed (RFC 8032): the libp2p PeerId and the signatures.
    pub signing: [u8; 32],
    /// X25519 secret (RFC 7748): the WireGuard key.
    pub wireguard: [u8; 32],
}

impl Identity {
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn generate() -> Result<Self, String> {
        let mut identity = Self { signing: [0; 32], wireguard: [0; 32] };
        OsRng
            .try_fill_bytes(&mut identity.signing)
            .and_then(|()| OsRng.try_fill_bytes(&mut identity.wireguard))
            .map_err(|error| format!("the system gave no random bytes: {error}"))?;
        Ok(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.signing.zeroize();
        self.wireguard.zeroize();
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

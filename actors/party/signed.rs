//! What members sign: a body (a version byte, then bincode) and an Ed25519 signature over a domain label and the body.
//! The bytes are kept as they came, so that fields which this version does not know are passed on untouched.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::wire::NodeId;

/// Version of the bodies.
const BODY_VERSION: u8 = 1;
/// Longest body of any kind, bytes.
pub const MAX_BODY: usize = 12 * 1024;

/// Something that can be signed.
pub trait Body: Serialize + DeserializeOwned {
    /// Put before the body when signing: a signature on one kind is none on another.
    const DOMAIN: &'static str;
    /// Longest body, bytes; at most `MAX_BODY`.
    const MAX: usize;

    /// Who must have signed it.
    fn signer(&self) -> NodeId;

    /// Whether all that can be told without further knowledge is in order.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&self) -> Result<(), &'static str>;
}

/// A body and its signature as they travel and are stored; nothing is checked yet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signed {
    body: Vec<u8>,
    signature: [[u8; 32]; 2],
}

/// A body whose signature and contents were checked, or which this machine signed itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    signed: Signed,
}

/// Why signed bytes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    #[error("longer than its kind may be")]
    TooLong,
    #[error("of a body version that this program does not know")]
    Version,
    #[error("not well-formed")]
    Malformed,
    #[error("{0}")]
    Invalid(&'static str),
    #[error("the signature does not match")]
    Signature,
}

impl Signed {
    /// The body without looking at the signature: to see whether verifying is worth while.
    ///
    /// # Errors
    /// When it is too long, malformed or its contents are not in order.
    pub fn peek<T: Body>(&self) -> Result<T, SignedError> {
        if self.body.len() > T::MAX {
            return Err(SignedError::TooLong);
        }
        let (&version, rest) = self.body.split_first().ok_or(SignedError::Malformed)?;
        if version != BODY_VERSION {
            return Err(SignedError::Version);
        }
        let config = bincode::config::standard().with_limit::<{ MAX_BODY }>();
        let (value, used): (T, usize) =
            bincode::serde::decode_from_slice(rest, config).map_err(|_| SignedError::Malformed)?;
        if used != rest.len() {
            return Err(SignedError::Malformed);
        }
        value.check().map_err(SignedError::Invalid)?;
        Ok(value)
    }

    /// # Errors
    /// As `peek`, and when the signature does not match.
    pub fn verify<T: Body>(&self) -> Result<Verified<T>, SignedError> {
        let value: T = self.peek()?;
        let key = VerifyingKey::from_bytes(&value.signer().0).map_err(|_| SignedError::Signature)?;
        let signature = Signature::from_components(self.signature[0], self.signature[1]);
        key.verify_strict(&message::<T>(&self.body), &signature).map_err(|_| SignedError::Signature)?;
        Ok(Verified { value, signed: self.clone() })
    }

    /// Stands for these exact bytes in digests.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("lanrage v1 signed item");
        hasher.update(&self.signature[0]).update(&self.signature[1]).update(&self.body);
        *hasher.finalize().as_bytes()
    }

    /// Bytes that it takes in a frame, at most.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.body.len() + 64 + 8
    }

    /// The signed bytes, version byte first.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// R and S.
    #[must_use]
    pub fn signature(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.signature[0]);
        bytes[32..].copy_from_slice(&self.signature[1]);
        bytes
    }
}

impl<T: Body> Verified<T> {
    /// Signs with `key`, which must be the key of `value.signer()`.
    ///
    /// # Errors
    /// When the contents are not in order, or longer than their kind may be.
    pub fn sign(value: T, key: &SigningKey) -> Result<Self, SignedError> {
        debug_assert_eq!(value.signer().0, key.verifying_key().to_bytes());
        value.check().map_err(SignedError::Invalid)?;
        let mut body = vec![BODY_VERSION];
        let encoded = bincode::serde::encode_to_vec(&value, bincode::config::standard());
        body.extend(encoded.map_err(|_| SignedError::Malformed)?);
        if body.len() > T::MAX {
            return Err(SignedError::TooLong);
        }
        let signature = key.sign(&message::<T>(&body));
        let signed = Signed { body, signature: [*signature.r_bytes(), *signature.s_bytes()] };
        Ok(Self { value, signed })
    }
}

impl<T> Verified<T> {
    #[must_use]
    pub fn get(&self) -> &T {
        &self.value
    }

    #[must_use]
    pub fn signed(&self) -> &Signed {
        &self.signed
    }
}

fn message<T: Body>(body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(T::DOMAIN.len() + 1 + body.len());
    message.extend_from_slice(T::DOMAIN.as_bytes());
    message.push(0);
    message.extend_from_slice(body);
    message
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({} bytes)", self.body.len())
    }
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verified").field(&self.value).finish()
    }
}

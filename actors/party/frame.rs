//! The frames of the party stream `/lanrage/party/1`: a version (u16, little-endian) that stays where it is in every
//! version to come, then one `Frame` in bincode.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::proof::PROOF_MACS;
use super::roster::{MAX_KICKS, MAX_RECORDS, MAX_REKEYS};
use super::signed::Signed;
use crate::discovery::messages::MAX_FRAME;
use crate::wire::NodeId;

/// Version of the party protocol.
pub const PROTOCOL_VERSION: u16 = 1;
/// Longest frame that a node which has not proved anything may send, bytes.
pub const MAX_UNPROVED_FRAME: usize = 256;
/// `Items` are cut so that a frame stays below the limit with room to spare, bytes.
const ITEMS_PER_FRAME: usize = 48 * 1024;
const MAX_ITEMS: usize = 1024;
const MAX_TAKEN: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// First frame of both sides.
    Hello { nonce: [u8; 32] },
    /// The opener's has `PROOF_MACS` MACs, the acceptor's one.
    Proof { macs: Vec<[u8; 32]> },
    /// No. The same for a wrong proof, a member of another party, and a node that is in no party.
    Refusal,
    /// From a member to a proved node that is not in its roster as an active member.
    Party(Welcome),
    /// From a proved node that is not in the party (any more) to a member that took it for one: send `Party`.
    Seeking,
    /// Let me in.
    Join { record: Signed },
    /// You are in; what there is to know about the party came before this in `Items`.
    Admitted,
    /// You are not let in.
    Refused(Reason),
    /// News. Each item is signed by who says it.
    Items(Vec<Item>),
    /// Hash over all that the sender holds.
    Digest([u8; 32]),
    /// What the sender holds, in short.
    Summary(Summary),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub info: Signed,
    /// The member's clock, for `joined_at`.
    pub unix: u64,
    /// What the party still has of the joining node, so that its new record outranks that.
    pub known: Option<Known>,
    /// Virtual IPs in use.
    pub taken: Vec<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub joined_at: u64,
    pub departures: u32,
    pub seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    PartyFull {
        limit: u16,
    },
    NameTaken,
    /// With the proof of it.
    Kicked {
        kick: Signed,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    Record(Signed),
    Kick(Signed),
    Rekey(Signed),
}

impl Item {
    #[must_use]
    pub fn signed(&self) -> &Signed {
        match self {
            Self::Record(signed) | Self::Kick(signed) | Self::Rekey(signed) => signed,
        }
    }
}

/// First bytes of an item's hash.
pub type Tag = [u8; 8];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub records: Vec<RecordTag>,
    pub kicks: Vec<Tag>,
    pub rekeys: Vec<Tag>,
    /// Send me yours if you lack something of this.
    pub reply: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordTag {
    pub node: NodeId,
    pub tag: Tag,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("{0} bytes are more than a frame may have")]
    TooLong(usize),
    #[error("cut short")]
    TooShort,
    #[error("party protocol {0}, this is {PROTOCOL_VERSION}")]
    Version(u16),
    #[error("not well-formed")]
    Malformed,
    #[error("more entries than a frame may have")]
    TooMany,
}

impl Frame {
    /// # Errors
    /// `TooLong` when it would not fit into `MAX_FRAME`.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut bytes = PROTOCOL_VERSION.to_le_bytes().to_vec();
        let body = bincode::serde::encode_to_vec(self, bincode::config::standard());
        bytes.extend(body.map_err(|_| FrameError::Malformed)?);
        if bytes.len() > MAX_FRAME { Err(FrameError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// # Errors
    /// What is wrong with the bytes; `Version` before anything behind it is looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLong(bytes.len()));
        }
        let (version, body) = bytes.split_first_chunk::<2>().ok_or(FrameError::TooShort)?;
        let version = u16::from_le_bytes(*version);
        if version != PROTOCOL_VERSION {
            return Err(FrameError::Version(version));
        }
        let config = bincode::config::standard().with_limit::<{ 2 * MAX_FRAME }>();
        let (frame, used): (Self, usize) =
            bincode::serde::decode_from_slice(body, config).map_err(|_| FrameError::Malformed)?;
        if used != body.len() {
            return Err(FrameError::Malformed);
        }
        if frame.within_bounds() { Ok(frame) } else { Err(FrameError::TooMany) }
    }

    fn within_bounds(&self) -> bool {
        match self {
            Self::Hello { .. }
            | Self::Refusal
            | Self::Seeking
            | Self::Join { .. }
            | Self::Admitted
            | Self::Refused(_)
            | Self::Digest(_) => true,
            Self::Proof { macs } => macs.len() <= PROOF_MACS,
            Self::Party(welcome) => welcome.taken.len() <= MAX_TAKEN,
            Self::Items(items) => items.len() <= MAX_ITEMS,
            Self::Summary(summary) => {
                summary.records.len() <= MAX_RECORDS
                    && summary.kicks.len() <= MAX_KICKS
                    && summary.rekeys.len() <= MAX_REKEYS
            }
        }
    }

    /// `items` in as few frames as hold them.
    #[must_use]
    pub fn items(items: Vec<Item>) -> Vec<Self> {
        let mut frames = Vec::new();
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for item in items {
            let len = item.signed().wire_len();
            if !chunk.is_empty() && (bytes + len > ITEMS_PER_FRAME || chunk.len() == MAX_ITEMS) {
                frames.push(Self::Items(std::mem::take(&mut chunk)));
                bytes = 0;
            }
            bytes += len;
            chunk.push(item);
        }
        if !chunk.is_empty() {
            frames.push(Self::Items(chunk));
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_told_apart_first() {
        let mut bytes = Frame::Hello { nonce: [1; 32] }.encode().unwrap();
        assert_eq!(Frame::decode(&bytes), Ok(Frame::Hello { nonce: [1; 32] }));
        bytes[0] = 2;
        bytes.truncate(5);
        assert_eq!(Frame::decode(&bytes), Err(FrameError::Version(2)));
        assert_eq!(Frame::decode(&[1]), Err(FrameError::TooShort));
        assert_eq!(Frame::decode(&vec![0; MAX_FRAME + 1]), Err(FrameError::TooLong(MAX_FRAME + 1)));
        assert_eq!(Frame::decode(&[1, 0, 2, 0]), Err(FrameError::Malformed), "bytes after the frame");
    }

    #[test]
    fn what_an_unproved_node_may_send_fits_its_limit() {
        let proof = Frame::Proof { macs: vec![[0xff; 32]; PROOF_MACS] }.encode().unwrap();
        assert!(proof.len() <= MAX_UNPROVED_FRAME);
        assert_eq!(Frame::decode(&Frame::Proof { macs: vec![[0; 32]; 6] }.encode().unwrap()), Err(FrameError::TooMany));
    }

    #[test]
    fn the_longest_summary_fits() {
        let summary = Summary {
            records: vec![RecordTag { node: NodeId([0xff; 32]), tag: [0xff; 8] }; MAX_RECORDS],
            kicks: vec![[0xff; 8]; MAX_KICKS],
            rekeys: vec![[0xff; 8]; MAX_REKEYS],
            reply: true,
        };
        let frame = Frame::Summary(summary);
        assert_eq!(Frame::decode(&frame.encode().unwrap()), Ok(frame));
    }

    proptest! {
        #[test]
        fn random_and_damaged_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_u8..12) {
            let _ = Frame::decode(&bytes);
            bytes.splice(0..0, [1, 0, kind]);
            if let Ok(frame) = Frame::decode(&bytes) {
                let again = frame.encode().unwrap();
                prop_assert_eq!(Frame::decode(&again), Ok(frame));
            }
        }
    }
}

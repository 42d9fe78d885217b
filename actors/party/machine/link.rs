//! One party stream as the machine sees it.

use std::time::{Duration, Instant};

use super::super::code::PartyCode;
use super::super::proof::{Role, Transcript};
use crate::wire::NodeId;

/// A node that has not proved membership by then is cut off.
pub(super) const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// Links that have not proved anything, altogether.
pub(super) const MAX_UNPROVED: usize = 64;
/// Both sides may open one at the same moment, and after a power cut two more are dead and only not known to be.
pub(super) const MAX_LINKS_PER_NODE: usize = 4;
/// Frames that a link may bring at once: a whole roster of the largest kind is some 110.
const BURST: f64 = 256.0;
const FRAMES_PER_SEC: f64 = 32.0;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) outbound: bool,
    pub(super) opened: Instant,
    pub(super) nonce: [u8; 32],
    pub(super) stage: Stage,
    /// The code that the other side proved.
    pub(super) code: Option<PartyCode>,
    /// While this machine joins: this link has sent `Party` of the party that is being joined.
    pub(super) welcomed: bool,
    tokens: f64,
    refilled: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    AwaitHello,
    AwaitProof(Transcript),
    Proved,
}

impl Link {
    pub(super) fn new(node: NodeId, outbound: bool, nonce: [u8; 32], now: Instant) -> Self {
        Self {
            node,
            outbound,
            opened: now,
            nonce,
            stage: Stage::AwaitHello,
            code: None,
            welcomed: false,
            tokens: BURST,
            refilled: now,
        }
    }

    pub(super) fn proved(&self) -> bool {
        self.stage == Stage::Proved
    }

    /// The role of the node at the other end.
    pub(super) fn their_role(&self) -> Role {
        if self.outbound { Role::Acceptor } else { Role::Opener }
    }

    pub(super) fn own_role(&self) -> Role {
        if self.outbound { Role::Opener } else { Role::Acceptor }
    }

    pub(super) fn transcript(&self, own: NodeId, their_nonce: [u8; 32]) -> Transcript {
        if self.outbound {
            Transcript { opener: own, acceptor: self.node, opener_nonce: self.nonce, acceptor_nonce: their_nonce }
        } else {
            Transcript { opener: self.node, acceptor: own, opener_nonce: their_nonce, acceptor_nonce: self.nonce }
        }
    }

    /// Token bucket: whether one more frame may come.
    pub(super) fn take_token(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + passed * FRAMES_PER_SEC).min(BURST);
        self.refilled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

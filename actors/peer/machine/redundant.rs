//! Redundant mode: small packets go out on two paths at once; WireGuard's replay window drops the second copy.

use std::time::Instant;

use super::{Outputs, PeerMachine};
use crate::peer::messages::{PeerTuning, Redundancy};
use crate::peer::tunnel::OVERHEAD;
use crate::peer::way::{Way, append_copy};
use crate::wire::TransmitBatch;

/// Larger packets, bytes, are downloads rather than a game's state: twice of those would choke the link.
const MAX_PACKET: usize = 512;
/// Percent of probes lost on the path in use: above the first, copies are sent; below the second, no longer.
const ON_ABOVE: f32 = 2.0;
const OFF_BELOW: f32 = 0.5;

#[derive(Debug, Default)]
pub(super) struct Redundant {
    /// By hand.
    pub(super) mode: Redundancy,
    /// Of the running games.
    pub(super) wished: Redundancy,
    /// Loss was measured.
    lossy: bool,
    /// What goes out second, while a batch is worked on.
    pub(super) copies: Vec<TransmitBatch>,
}

impl Redundant {
    /// Of the path in use; one that is too new to say leaves things as they are.
    pub(super) fn judge(&mut self, loss: Option<f32>) {
        if let Some(loss) = loss {
            self.lossy = if self.lossy { loss >= OFF_BELOW } else { loss > ON_ABOVE };
        }
    }

    /// What was set by hand goes before what a game wants.
    pub(super) fn effective(&self) -> Redundancy {
        if self.mode == Redundancy::Auto { self.wished } else { self.mode }
    }

    pub(super) fn is_on(&self) -> bool {
        match self.effective() {
            Redundancy::Off => false,
            Redundancy::On => true,
            Redundancy::Auto => self.lossy,
        }
    }
}

/// The second way, and the longest packet that takes it.
pub(super) struct Spare {
    way: Way,
    max: usize,
}

impl PeerMachine {
    pub fn set_redundancy(&mut self, mode: Redundancy) {
        self.redundant.mode = mode;
    }

    /// What running games want, whole.
    pub fn set_tuning(&mut self, now: Instant, tuning: &PeerTuning, out: &mut Outputs) {
        self.redundant.wished = tuning.redundancy;
        self.paths.set_tuning(now, tuning);
        self.reselect(now, out);
        self.handle_timeout(now, out);
    }

    /// While the path in use is doubted everything goes out twice: until the doubt is settled, nothing is lost.
    pub(super) fn spare(&self) -> Option<Spare> {
        let doubt = self.paths.in_doubt();
        if !doubt && !self.redundant.is_on() {
            return None;
        }
        let max = if doubt { usize::MAX } else { MAX_PACKET };
        self.paths.spare().map(|way| Spare { way, max })
    }

    /// Sends the datagram that was added last, of a packet of `len` bytes, a second time.
    pub(super) fn copy_last(&mut self, spare: &Spare, len: usize, out: &Outputs) {
        if len > spare.max {
            return;
        }
        let Some(last) = out.transmits.last() else { return };
        let contents = last.contents();
        if let Some((_, sealed)) = contents.split_at_checked(contents.len().saturating_sub(len + OVERHEAD)) {
            append_copy(&mut self.redundant.copies, &spare.way, last.class(), sealed);
            self.counters.sent_twice += 1;
        }
    }
}

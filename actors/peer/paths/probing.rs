//! How often each path is asked, and how often a silent address may be.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::bucket::Bucket;
use super::path::Path;

/// Packets out within this time make the probe rate that of a game.
pub(super) const ACTIVE_FOR: Duration = Duration::from_secs(3);
pub(super) const PROBE_ACTIVE: Duration = Duration::from_secs(1);
/// Live, not in use and not kept warm, while traffic flows.
pub(super) const PROBE_BESIDE: Duration = Duration::from_secs(5);
/// Well under the 30 s that the shortest-lived NAT mappings in homes last.
pub(super) const PROBE_IDLE: Duration = Duration::from_secs(15);
/// What a game may make of it: beyond this, home routers forget the mapping.
pub(super) const PROBE_IDLE_MAX: Duration = Duration::from_secs(25);
/// Packets went out and nothing authentic came back for this long: ask.
pub(super) const QUIET_BEFORE_SUSPECT: Duration = Duration::from_millis(250);
pub(super) const PROBE_SUSPECT: Duration = Duration::from_millis(100);
/// How often it is asked whether this machine is still where others were told.
pub(super) const DOUBT_EVERY: Duration = Duration::from_millis(500);
/// At that pace; after them each pause is twice the one before. A member who is away cannot be told from a NAT that forgot,
/// and what the doubts bring up goes to the whole party.
pub(super) const DOUBTS_IN_A_ROW: u32 = 8;
/// Until the pause is 32 s.
pub(super) const DOUBT_DOUBLINGS: u32 = 6;
/// So many of those unanswered, and a path that does answer is used instead. One that has none must wait for death.
pub(super) const FAILING_AFTER: u32 = 2;
/// First retry towards a candidate that has not answered; doubles up to `PROBE_SILENT_MAX`.
const PROBE_FIRST: Duration = Duration::from_millis(100);
const PROBE_SILENT_MAX: Duration = Duration::from_secs(5);
/// Doublings until the longest interval, which then holds until the candidate is given up as offline.
pub(super) const SILENT_LONG_AFTER: u32 = 20;
const PROBE_OFFLINE: Duration = Duration::from_secs(30);

/// Probes to addresses that do not answer, for one peer: at once, and then one each so long.
const SILENT_BURST: u32 = 96;
const SILENT_EACH: Duration = Duration::from_millis(50);
/// The same to one IP address (all ports): 40 at once, then 30 a minute.
const ADDRESS_BURST: u32 = 40;
const ADDRESS_EACH: Duration = Duration::from_secs(2);
/// Of those, so many are for paths that have not been asked `FRESH_PROBES` times yet: where a member was must not use up
/// what is needed to find where it is.
const ADDRESS_FOR_FRESH: u32 = 12;
pub(super) const FRESH_PROBES: u32 = 6;
/// An address where something answers has its 40 anew, this often: nobody is there who has not agreed, and a NAT that gives
/// another port is no reason to look for it slowly.
const ADDRESS_ANEW: Duration = Duration::from_secs(5);
/// Addresses remembered; with more the one that was asked longest ago is forgotten, and the peer's bound holds alone.
const ADDRESSES: usize = 64;

/// Interval to the next probe of a path that does not answer.
pub(super) fn silent_interval(sent: u32) -> Duration {
    if sent >= SILENT_LONG_AFTER {
        PROBE_OFFLINE
    } else {
        PROBE_FIRST.saturating_mul(1 << sent.min(6)).min(PROBE_SILENT_MAX)
    }
}

/// What keeps a member from making this machine flood somebody who has not agreed to it (RFC 8445, section 19.5.1): no
/// list of candidates, however often it changes, gets more probes to silent addresses than this lets through.
#[derive(Debug)]
pub(super) struct Allowance {
    total: Bucket,
    addresses: Vec<Address>,
    pub(super) refused: u64,
}

#[derive(Debug)]
struct Address {
    ip: IpAddr,
    asked: Instant,
    bucket: Bucket,
    anew_at: Option<Instant>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { total: Bucket::new(SILENT_BURST, SILENT_EACH), addresses: Vec::new(), refused: 0 }
    }
}

impl Allowance {
    pub(super) fn take(&mut self, now: Instant, path: &Path) -> bool {
        if path.live() {
            return true;
        }
        let ip = path.addr().ip();
        self.address(now, ip).asked = now;
        let reserve = if path.asked < FRESH_PROBES { 0 } else { ADDRESS_FOR_FRESH };
        let allowed = self.total.free_at(now) <= now
            && self.address(now, ip).bucket.take_above(now, reserve)
            && self.total.take(now);
        self.refused += u64::from(!allowed);
        allowed
    }

    /// Something there has answered a probe.
    pub(super) fn answered(&mut self, now: Instant, ip: IpAddr) {
        let address = self.address(now, ip);
        if address.anew_at.is_none_or(|at| now >= at + ADDRESS_ANEW) {
            (address.anew_at, address.bucket) = (Some(now), Bucket::new(ADDRESS_BURST, ADDRESS_EACH));
        }
    }

    fn address(&mut self, now: Instant, ip: IpAddr) -> &mut Address {
        let found = self.addresses.iter().position(|known| known.ip == ip).unwrap_or_else(|| {
            if self.addresses.len() >= ADDRESSES
                && let Some(oldest) = (0..self.addresses.len()).min_by_key(|at| self.addresses[*at].asked)
            {
                self.addresses.swap_remove(oldest);
            }
            let bucket = Bucket::new(ADDRESS_BURST, ADDRESS_EACH);
            self.addresses.push(Address { ip, asked: now, bucket, anew_at: None });
            self.addresses.len() - 1
        });
        &mut self.addresses[found]
    }
}

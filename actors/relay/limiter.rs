//! Token buckets in constant memory.
//!
//! A bucket is one number, the time at which it will be full again (the "generic cell rate algorithm" of ITU-T I.371).
//! Buckets of hosts lie in tables of fixed size, found by a keyed hash that nobody outside can compute. Each host has one
//! in each of two rows and is refused only when both are empty: somebody who empties many buckets hurts a host only where
//! both of its are among them.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::wire::is_stream;

/// Buckets per row. A table of three limits takes 393,216 bytes.
const SLOTS: usize = 8192;
const ROWS: usize = 2;
/// A bucket holds at least this many units, so that with a small limit a datagram still fits.
const LEAST_BURST: u64 = 3_000;

/// Nanoseconds since the start of the table.
pub type Nanos = u64;

/// So many units a second, and how many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Nanoseconds per unit, times 2^16.
    cost: u64,
    burst: Nanos,
}

impl Rate {
    /// `burst`: as much as comes in this time may come at once.
    #[must_use]
    pub fn per_second(units: u64, burst: Duration) -> Self {
        let mut rate = Self { cost: (1_000_000_000 << 16) / units.max(1), burst: 0 };
        rate.burst = u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX >> 8);
        rate
    }

    /// As [`Self::per_second`], of bytes: at least one datagram fits.
    #[must_use]
    pub fn bytes_per_second(bytes: u64, burst: Duration) -> Self {
        let mut rate = Self::per_second(bytes, burst);
        rate.burst = rate.burst.max(rate.nanos(LEAST_BURST));
        rate
    }

    fn nanos(self, units: u64) -> Nanos {
        units.saturating_mul(self.cost) >> 16
    }

    /// Whether `units` can be taken from a bucket and leave one in `keep` parts of it (0: it may become empty).
    #[must_use]
    pub fn fits(self, full_at: Nanos, now: Nanos, units: u64, keep: u64) -> bool {
        let kept = self.burst.checked_div(keep).unwrap_or(0);
        full_at.max(now) + self.nanos(units) <= now + self.burst - kept
    }

    /// Takes them; a bucket never owes more than it holds.
    pub fn take(self, full_at: &mut Nanos, now: Nanos, units: u64) {
        *full_at = (*full_at).max(now).saturating_add(self.nanos(units)).min(now + self.burst);
    }
}

/// Where a host's buckets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots([usize; ROWS]);

/// `N` limits for each of any number of hosts.
pub struct Table<const N: usize> {
    rates: [Rate; N],
    cells: Box<[[Nanos; N]]>,
    key: (u64, u64),
}

impl<const N: usize> std::fmt::Debug for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("rates", &self.rates).finish_non_exhaustive()
    }
}

impl<const N: usize> Table<N> {
    #[must_use]
    pub fn new(rates: [Rate; N], key: (u64, u64)) -> Self {
        Self { rates, cells: vec![[0; N]; ROWS * SLOTS].into_boxed_slice(), key }
    }

    pub fn set_rates(&mut self, rates: [Rate; N]) {
        self.rates = rates;
    }

    #[must_use]
    pub fn slots(&self, host: Host) -> Slots {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(&host.0.to_ne_bytes());
        let hash = hasher.finish();
        let part = |shift: u32| usize::try_from(hash >> shift & (SLOTS as u64 - 1)).unwrap_or(0);
        Slots([part(0), SLOTS + part(32)])
    }

    /// Whether limit `which` has `units` left for the host.
    #[must_use]
    pub fn fits(&self, slots: Slots, which: usize, now: Nanos, units: u64) -> bool {
        slots.0.iter().any(|&slot| self.rates[which].fits(self.cells[slot][which], now, units, 0))
    }

    pub fn take(&mut self, slots: Slots, which: usize, now: Nanos, units: u64) {
        for slot in slots.0 {
            self.rates[which].take(&mut self.cells[slot][which], now, units);
        }
    }

    /// Bytes of memory; never changes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.cells)
    }
}

/// Who shares one set of limits: an IPv4 address (all its ports: they are free to take), an IPv6 /64 (one customer has
/// all of it), or one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(u128);

impl Host {
    #[must_use]
    pub fn of(addr: SocketAddr) -> Self {
        Self(match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) if is_stream(addr.ip()) => ip.to_bits(),
            IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stream_addr;
    use proptest::prelude::*;

    const SECOND: Nanos = 1_000_000_000;

    fn host(n: u32) -> Host {
        Host::of((std::net::Ipv4Addr::from(0x0a00_0000 | n), 1).into())
    }

    fn hosts(table: &mut Table<1>, range: std::ops::Range<u32>, now: Nanos, units: u64) -> usize {
        range
            .filter(|&n| {
                let slots = table.slots(host(n));
                let fits = table.fits(slots, 0, now, units);
                if fits {
                    table.take(slots, 0, now, units);
                }
                fits
            })
            .count()
    }

    #[test]
    fn who_is_one_host() {
        let of = |addr: &str| Host::of(addr.parse().unwrap());
        assert_eq!(of("192.0.2.1:1"), of("192.0.2.1:2"));
        assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_ne!(Host::of(stream_addr(1)), Host::of(stream_addr(2)));
    }

    #[test]
    fn one_who_empties_his_own_buckets_hurts_nobody_else() {
        let mut table = Table::new([Rate::per_second(100, Duration::from_secs(1))], (1, 2));
        assert_eq!(hosts(&mut table, 0..1, 0, 100), 1);
        assert_eq!(hosts(&mut table, 0..1, 0, 1), 0);
        assert_eq!(hosts(&mut table, 1..1000, 0, 1), 999);
    }

    #[test]
    fn a_thousand_who_do_hurt_few() {
        let mut table = Table::new([Rate::per_second(100, Duration::from_secs(1))], (1, 2));
        assert!(hosts(&mut table, 0..1_000, 0, 100) > 950);
        // Both buckets of a host must be among the emptied ones: (1,000 / 8,192)² = 1.5 %.
        let refused = 10_000 - hosts(&mut table, 1_000_000..1_010_000, 0, 1);
        assert!(refused < 400, "{refused}");
    }

    #[test]
    fn a_small_limit_still_lets_a_datagram_pass() {
        let rate = Rate::bytes_per_second(1_000, Duration::from_millis(1));
        assert!(rate.fits(0, 0, 1_500, 0) && !rate.fits(0, 0, 5_000, 0));
    }

    proptest! {
        #[test]
        fn no_more_than_rate_and_burst_ever_pass(
            steps in proptest::collection::vec((0u64..SECOND / 10, 1u64..3_000), 1..400),
            rate in 1_000u64..1_000_000,
        ) {
            let limit = Rate::bytes_per_second(rate, Duration::from_millis(250));
            let (mut now, mut full_at, mut passed) = (0, 0, 0);
            for (gap, units) in steps {
                now += gap;
                if limit.fits(full_at, now, units, 0) {
                    limit.take(&mut full_at, now, units);
                    passed += units;
                }
                let most = (rate / 4).max(LEAST_BURST) as u128 + u128::from(rate) * u128::from(now) / u128::from(SECOND);
                // The cost of a unit is rounded down.
                prop_assert!(u128::from(passed) <= most + most / 1000 + 2, "{} of {}", passed, most);
            }
        }

        #[test]
        fn the_rate_is_reached(rate in 1_000u64..100_000_000) {
            let limit = Rate::per_second(rate, Duration::from_millis(250));
            let (mut full_at, mut passed) = (0, 0u64);
            for step in 0..1_000 {
                let now = step * SECOND / 1_000;
                while limit.fits(full_at, now, rate / 1_000, 0) {
                    limit.take(&mut full_at, now, rate / 1_000);
                    passed += rate / 1_000;
                }
            }
            prop_assert!(passed >= rate, "{} of {}", passed, rate);
        }
    }
}

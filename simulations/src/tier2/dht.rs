//! The DHT as it is seen from outside: provider records with a lifetime, and how long publishing and looking up take.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom as _;
use rand_chacha::ChaCha12Rng;
use serde::Deserialize;

/// A look-up gives at most this many providers.
const MAX_PROVIDERS: usize = 20;

/// As in a scenario's `[run.dht]`. The defaults are the figures of the public IPFS DHT.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DhtSettings {
    /// Half of the publications take less.
    pub publish_median_s: f64,
    /// Half of the look-ups take less; four in five less than twice as long.
    pub lookup_median_s: f64,
    pub record_s: u64,
    /// Share of look-ups that hostile nodes leave without an answer, and of publications that they swallow.
    pub drop: f64,
    /// Made-up providers that hostile nodes put into each answer.
    pub lies: usize,
    pub bootstrap: bool,
}

impl Default for DhtSettings {
    fn default() -> Self {
        Self { publish_median_s: 7.0, lookup_median_s: 0.25, record_s: 48 * 3600, drop: 0.0, lies: 0, bootstrap: true }
    }
}

#[derive(Debug)]
pub struct Dht {
    settings: DhtSettings,
    /// Key → provider → until when.
    records: BTreeMap<[u8; 32], BTreeMap<usize, Duration>>,
    pub bootstrap: bool,
    pub lookups: u64,
    pub empty_lookups: u64,
    pub publications: u64,
}

/// Log-normal around a median: `spread` is the standard deviation of the logarithm.
fn around(rng: &mut ChaCha12Rng, median: f64, spread: f64) -> Duration {
    // Sum of uniforms: close enough to a normal, and the same on any machine.
    let normal: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    Duration::from_secs_f64((median * (normal * spread).exp()).clamp(0.001, 180.0))
}

impl Dht {
    #[must_use]
    pub fn new(settings: DhtSettings) -> Self {
        let bootstrap = settings.bootstrap;
        Self { settings, records: BTreeMap::new(), bootstrap, lookups: 0, empty_lookups: 0, publications: 0 }
    }

    pub fn publish_takes(&self, rng: &mut ChaCha12Rng) -> Duration {
        // 95 % below 2 min, as was measured, needs a spread of 1.7.
        around(rng, self.settings.publish_median_s, 1.2)
    }

    pub fn lookup_takes(&self, rng: &mut ChaCha12Rng) -> Duration {
        around(rng, self.settings.lookup_median_s, 0.8)
    }

    pub fn published(&mut self, now: Duration, key: [u8; 32], node: usize, rng: &mut ChaCha12Rng) {
        self.publications += 1;
        if !rng.random_bool(self.settings.drop) {
            let until = now + Duration::from_secs(self.settings.record_s);
            self.records.entry(key).or_default().insert(node, until);
        }
    }

    /// A node of the DHT that has seen every key puts itself under each.
    pub fn publish_everywhere(&mut self, now: Duration, node: usize) {
        let until = now + Duration::from_secs(self.settings.record_s);
        for records in self.records.values_mut() {
            records.insert(node, until);
        }
    }

    /// Providers, and how many made-up ones come with them.
    pub fn lookup(&mut self, now: Duration, key: &[u8; 32], rng: &mut ChaCha12Rng) -> (Vec<usize>, usize) {
        self.lookups += 1;
        if rng.random_bool(self.settings.drop) {
            self.empty_lookups += 1;
            return (Vec::new(), self.settings.lies);
        }
        let mut providers = Vec::new();
        if let Some(records) = self.records.get_mut(key) {
            records.retain(|_, until| *until > now);
            providers = records.keys().copied().choose_multiple(rng, MAX_PROVIDERS);
            providers.sort_unstable();
        }
        self.empty_lookups += u64::from(providers.is_empty());
        (providers, self.settings.lies)
    }

    /// For the soak: it must not grow.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.records.len()
    }

    pub fn expire(&mut self, now: Duration) {
        self.records.retain(|_, records| {
            records.retain(|_, until| *until > now);
            !records.is_empty()
        });
    }
}

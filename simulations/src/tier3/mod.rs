//! Tier 3: real libp2p swarms (noise, yamux, Kademlia, circuit relay) in virtual time on a virtual network.
//!
//! - `net`, `pipe`, `transport`: the network under the swarms.
//! - `node`, `hostile`, `kadwire`, `hops`: DHT nodes.
//! - `dht`: puts a DHT together; `lookup` measures it; `party` lets the shipped `DiscoveryActor` use it.

pub mod dht;
pub mod hops;
pub mod hostile;
pub mod kadwire;
mod lookup;
pub mod net;
pub mod node;
mod party;
pub mod pipe;
mod settings;
pub mod transport;

use std::future::Future;
use std::io;

use libp2p::identity::Keypair;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::RngCore as _;

use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::tier::{Job, Tier};
use settings::Settings;

/// See the module.
#[derive(Debug)]
pub struct Tier3;

impl Tier for Tier3 {
    fn number(&self) -> u8 {
        3
    }

    fn about(&self) -> &'static str {
        "real libp2p swarms (noise, yamux, Kademlia, circuit relay) on a virtual network; a peer is a DHT node"
    }

    fn check(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        Settings::of(scenario).map(|_| ())
    }

    fn run(&self, job: &Job<'_>, report: &mut Report) -> Result<(), ScenarioError> {
        let broken = |error: io::Error| job.scenario.invalid(error.to_string());
        match Settings::of(job.scenario)? {
            Settings::Lookup(settings) => in_virtual_time(lookup::run(job, &settings, report)).map_err(broken),
            Settings::Party(settings) => in_virtual_time(party::run(job, &settings, report)).map_err(broken),
        }
    }
}

/// One thread, the clock stands still while there is work and jumps to the next timer when there is none.
fn in_virtual_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = || {
        // The builder's errors are those of the system's poll; without it there is no run.
        #[allow(clippy::expect_used, reason = "see above")]
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .enable_io()
            .start_paused(true)
            .build()
            .expect("a runtime")
    };
    actix::System::with_tokio_rt(runtime).block_on(work)
}

/// An identity from the seed.
fn keys(rng: &mut ChaCha12Rng) -> Keypair {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    // Any 32 bytes are an Ed25519 seed.
    Keypair::ed25519_from_bytes(seed).unwrap_or_else(|_| Keypair::generate_ed25519())
}

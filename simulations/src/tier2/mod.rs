//! Tier 2: the real actors in virtual time on one arbiter, on a simulated network.
//!
//! Per node: a real PartyActor, PeerSupervisor with its PeerActors, TunActor, NatActor and RelayActor, on a simulated
//! socket and device. In the places of DiscoveryActor and StoreActor stand thin actors around what ships of them (planner).
#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

pub mod beacons;
pub mod census;
pub mod clock;
pub mod data_streams;
pub mod device;
pub mod dht;
pub mod discovery;
pub mod game;
pub mod hostile;
pub mod infra;
pub mod liar;
pub mod link;
pub mod nat;
pub mod net;
pub mod node;
pub mod oracle;
pub mod paths;
pub mod script;
pub mod settings;
pub mod sockets;
pub mod store;
pub mod streams;
pub mod taps;
pub mod world;

use std::time::Duration;

use actix::System;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;

use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::tier::{Job, Tier};
use settings::Settings;

/// See the module.
#[derive(Debug)]
pub struct Tier2;

impl Tier for Tier2 {
    fn number(&self) -> u8 {
        2
    }

    fn about(&self) -> &'static str {
        "the real actors with real WireGuard, on a simulated network (NATs, lines, DHT, streams)"
    }

    fn check(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        let settings = scenario.settings::<Settings>()?;
        if settings.nat.is_empty() || settings.ip.is_empty() {
            return Err(scenario.invalid("in [run]: `nat` and `ip` must name at least one kind each"));
        }
        if settings.mix.iter().any(|(_, weight)| *weight < 0.0) {
            return Err(scenario.invalid("in [run]: the weights of `mix` must not be negative"));
        }
        Ok(())
    }

    fn run(&self, job: &Job<'_>, report: &mut Report) -> Result<(), ScenarioError> {
        let settings = job.scenario.settings::<Settings>()?;
        let system = System::with_tokio_rt(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .on_thread_unpark(clock::follow)
                .build()
                .expect("a runtime without I/O needs nothing of the system")
        });
        let spent = system.block_on(async {
            clock::start();
            let spent = simulate(job, &settings, report).await;
            clock::end();
            spent
        });
        report.finish(spent);
        Ok(())
    }
}

async fn simulate(job: &Job<'_>, settings: &Settings, report: &mut Report) -> Duration {
    let mut rng = ChaCha12Rng::seed_from_u64(job.seed);
    let peers = job.peers as usize;
    let all = peers + settings.hostile as usize;
    let mut net = net::Net::new(settings.link.clone(), rng.random());
    for node in 0..all {
        let honest = node < peers;
        let kind = if honest { settings.kind(node, &mut rng) } else { nat::Kind::None };
        net.attach(kind, if honest { settings.ip[node % settings.ip.len()] } else { net::Family::Dual });
    }
    // Relays are nodes as well; STUN servers and the bystander are not.
    let nodes = all + settings.relays as usize;
    let stun = if settings.stun { infra::STUN_SERVERS } else { 0 };
    for _ in 0..settings.relays as usize + stun + usize::from(settings.liars > 0) {
        let place = net.attach_by(infra::server_line(), nat::Kind::None, net::Family::Dual);
        net.sites[place].group = net::EVERYWHERE;
    }
    let dht = dht::Dht::new(settings.dht.clone());
    let game = game::Game::new(settings.game.clone(), nodes);
    let mut world = world::World::new(net, ChaCha12Rng::seed_from_u64(rng.random()), dht, game);
    let mut machines: Vec<node::Machine> = (0..nodes).map(|node| node::Machine::new(node, &mut rng)).collect();
    world.beacons = beacons::Beacons::new(settings.beacon.clone());
    world.ports.resize_with(world.net.sites.len(), Default::default);
    for node in nodes..nodes + stun {
        world.net.sites[node].up = true;
        world.infra.add_stun(node, &world.net.sites[node]);
    }
    world.stun_servers = world.infra.stun_servers(&world.net);
    world.relays = (all..nodes).collect();
    world.punching = settings.punching;
    if settings.liars > 0 {
        let victim = nodes + stun;
        world.net.sites[victim].up = true;
        world.infra.bystanders.insert(victim, infra::Bystander::default());
        for machine in &mut machines[peers.saturating_sub(settings.liars as usize)..peers] {
            machine.forge = Some(liar::forge);
            world.liars.insert(machine.node);
        }
    }
    world.ids = machines.iter().map(|machine| machine.id).collect();
    world.by_id = machines.iter().map(|machine| (machine.id, machine.node)).collect();
    world.honest = peers;
    world.capture = settings.hostile > 0;
    world.at(Duration::from_secs(1), world::Event::Summary);
    world::install(world);
    store::clear();
    let driver = actix::spawn(world::run());

    let mut script = script::Script::new(job, settings, report, machines, peers, rng.random());
    script.run().await;
    script.end().await;
    let spent = clock::elapsed();
    driver.abort();
    let _ = driver.await;
    if let Some(world) = world::take() {
        script::figures(&world, report);
        report.trace = world.trace;
        for failure in report.failures.clone() {
            report.trace.record(Duration::from_secs_f64(failure.at), format_args!("FAILED {}", failure.what));
        }
    }
    spent
}

#[cfg(test)]
mod tests;

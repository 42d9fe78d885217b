//! `lanrage relay`: a headless public node that serves the DHT and circuit relays.

use std::io::Write as _;

use actix::prelude::*;
use lanrage_actors::discovery::messages::Listening;
use lanrage_actors::discovery::{BindDiscovery, DiscoveryActor, DiscoveryConfig, Role};
use lanrage_actors::nat::messages::Serve;
use lanrage_actors::nat::{BindNat, NatLinks};
use lanrage_actors::relay::messages::Limits;
use lanrage_actors::store::{IdentityPolicy, Store};

use super::{data_sockets, wait_for_stop, wiring};
use crate::cli::print;
use crate::config::RelayConfig;

/// Addresses that may come up at once, before the printer gets to them.
const MAX_ADDRESSES: usize = 1024;

/// Prints each address as soon as the node listens on it: scripts wait for these lines.
struct Printer;

impl Actor for Printer {
    type Context = Context<Self>;
}

impl Handler<Listening> for Printer {
    type Result = ();

    fn handle(&mut self, Listening(addr): Listening, _: &mut Self::Context) {
        print::line(&addr);
        let _ = std::io::stdout().flush();
    }
}

pub(super) async fn run(config: RelayConfig) -> Result<(), String> {
    let opened = Store::open(&config.data_dir, IdentityPolicy::Keep).map_err(|error| error.to_string())?;
    let mut store = opened.store;
    let mut notices = opened.notices;
    let identity = store.identity().map_err(|error| error.to_string())?;
    let sockets = data_sockets(&mut store, config.listen_port, &config.public_ips, &mut notices)?;
    for notice in &notices {
        print::notice(notice);
    }
    let control = Arbiter::new();
    let discovery_config = DiscoveryConfig {
        role: Role::Relay,
        port: config.p2p_port,
        bootstrap: config.bootstrap,
        dht_protocol: config.dht_protocol,
        mdns: false,
        public_ips: config.public_ips.clone(),
        extra_tcp_ports: config.tcp_ports,
    };
    let signing = identity.signing;
    let discovery = wiring::on(&control, move || async move {
        let actor = DiscoveryActor::new(discovery_config, signing).map_err(|error| error.to_string())?;
        Ok(actor.start())
    })
    .await?;
    // As an actor starts, its mailbox has room for 16; a machine with a few interfaces has more addresses than that at once.
    let printer = Printer::create(|ctx| {
        ctx.set_mailbox_capacity(MAX_ADDRESSES);
        Printer
    });
    discovery
        .send(BindDiscovery { links: None, listening: Some(printer.recipient()) })
        .await
        .map_err(|error| format!("the relay could not be started: {error}"))?;
    let data_port = sockets.port();
    let data_path = Arbiter::new();
    let data = wiring::NatData {
        stun_servers: Vec::new(),
        serve: Serve::Always,
        public_ips: config.public_ips,
        port_mapping: false,
        alternate: true,
    };
    let nat = wiring::data_socket(&data_path, sockets, String::new(), data, identity.wireguard).await?;
    let relay = wiring::relay(&data_path, &identity)?;
    let connect = async {
        wiring::bind_data_streams(&discovery, &nat).await?;
        wiring::bind_relay(&relay, &nat).await?;
        nat.send(BindNat(NatLinks {
            contact: Vec::new(),
            networks: vec![discovery.clone().recipient()],
            changed: vec![discovery.clone().recipient()],
            relay: wiring::relay_links(&relay, Limits::DEDICATED),
            streams: wiring::stream_links(&discovery),
        }))
        .await
    };
    connect.await.map_err(|error| format!("the parts of the relay could not be connected: {error}"))?;
    tracing::info!(data_port, "relay running");
    wait_for_stop().await?;
    control.stop();
    data_path.stop();
    Ok(())
}

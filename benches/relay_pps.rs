//! How many packets a second one core forwards, in `RelayServer` alone: without the socket, which costs more.
//!
//! `cargo run --release --example relay_pps`

#![allow(clippy::print_stdout)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lanrage_actors::relay::frame::{Ask, Forward, TicketFrame};
use lanrage_actors::relay::server::{Limits, RelayServer};

const UNIX: u64 = 1_800_000_000;
const UNLIMITED: u64 = 1 << 40;
const LIMITS: Limits = Limits {
    total_bits_per_s: UNLIMITED,
    total_packets_per_s: UNLIMITED,
    host_bits_per_s: UNLIMITED,
    host_packets_per_s: UNLIMITED,
    total_asks_per_s: UNLIMITED,
    host_asks_per_s: UNLIMITED,
};

/// What this thread has computed so far: on a machine that does other things as well, the clock on the wall says nothing.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default())
}

fn client(n: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0a00_0000 + n), 4000).into()
}

/// Sends `batch` datagrams at a time to each of `clients` in turn; says how many were forwarded, and in what time of the core.
fn measure(clients: u32, batch: usize, payload: usize) -> (u64, Duration, usize) {
    let start = Instant::now();
    let mut server = RelayServer::new(start, &[1; 32], LIMITS, [2; 32]);
    let mut bytes = vec![0; payload];
    bytes[0] = 4;
    let datagrams: Vec<Vec<u8>> = (0..clients)
        .filter_map(|n| server.handle_ask(start, UNIX, client(n), &Ask { id: 1 }.encode()))
        .filter_map(|answer| TicketFrame::parse(&answer))
        .map(|ticket| [&Forward::header(&ticket.token)[..], &bytes].concat().repeat(batch))
        .collect();
    let stride = datagrams.first().map_or(1, |run| run.len() / batch);
    let mut out = Vec::new();
    let (measured, computed) = (Instant::now(), cpu_time());
    for (turn, run) in (0u32..).zip(datagrams.iter().cycle()) {
        // The clock is read for each call, as the actor does.
        let now = Instant::now();
        if turn % 64 == 0 && now - measured > Duration::from_secs(1) {
            break;
        }
        server.handle_forward(now, UNIX, client(turn % clients), run.chunks(stride), &mut out);
        out.clear();
    }
    (server.counters().forwarded, cpu_time() - computed, server.memory())
}

fn main() {
    println!("| clients | datagrams a call | payload, bytes | packets/s of one core | ns a packet | tables, KiB |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for clients in [1, 1_000, 10_000] {
        for (batch, payload) in [(1, 128), (1, 1392), (16, 1392)] {
            let (packets, elapsed, memory) = measure(clients, batch, payload);
            let rate = packets as f64 / elapsed.as_secs_f64();
            println!("| {clients} | {batch} | {payload} | {rate:.0} | {:.0} | {} |", 1e9 / rate, memory / 1024);
        }
    }
}

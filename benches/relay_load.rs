//! Load for a relay over real sockets, LANrage's or a TURN server: `benches/relay-coturn.sh` runs it.
//!
//! `relay_load lanrage|turn RELAY:PORT CLIENTS PACKETS_PER_S SECONDS NETWORK PID`
//!
//! Each client has an address of its own in NETWORK (`10.9.0.0`, a /16 that is all local), two sockets there, and sends from
//! one through the relay to the other: one datagram in, one out. The costs are those of process PID: its processor time for
//! what arrived, and its memory before and after the clients came. Prints one row of a table.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lanrage_actors::relay::frame::{Ask, Forward, TicketFrame};

/// As a game's state: with WireGuard's first byte, which the relay looks at.
const PAYLOAD: usize = 128;
/// Datagrams that may be under way before they are looked for.
const WINDOW: usize = 32;

struct Client {
    out: UdpSocket,
    sink: UdpSocket,
    datagram: Vec<u8>,
}

fn socket(network: Ipv4Addr, client: u32, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::from(u32::from(network) + 1 + client), port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

/// Asks until it is answered as `read` wants it.
fn ask<T>(socket: &UdpSocket, relay: SocketAddr, question: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let mut buffer = [0; 2048];
    for _ in 0..10 {
        socket.send_to(question, relay).unwrap();
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            if let Some(found) = read(&buffer[..length]) {
                return Some(found);
            }
        }
    }
    None
}

fn lanrage(relay: SocketAddr, sink: &UdpSocket) -> Option<Vec<u8>> {
    let ticket = ask(sink, relay, &Ask { id: 1 }.encode(), TicketFrame::parse)?;
    Some(Forward::header(&ticket.token).to_vec())
}

/// RFC 8656 without authentication: an allocation, and a channel to the sink.
fn turn(relay: SocketAddr, out: &UdpSocket, sink: SocketAddr, client: u32) -> Option<Vec<u8>> {
    const COOKIE: u32 = 0x2112_a442;
    let message = |kind: u16, attributes: &[(u16, Vec<u8>)]| {
        let body: Vec<u8> = attributes
            .iter()
            .flat_map(|(kind, value)| {
                [&kind.to_be_bytes()[..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
            })
            .collect();
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let id = [&[0; 6][..], &kind.to_be_bytes(), &client.to_be_bytes()].concat();
        [&kind.to_be_bytes()[..], &length, &COOKIE.to_be_bytes(), &id, &body].concat()
    };
    let succeeded = |kind: u16| move |answer: &[u8]| answer.starts_with(&(kind | 0x0100).to_be_bytes()).then_some(());
    let udp = vec![17, 0, 0, 0];
    ask(out, relay, &message(0x0003, &[(0x0019, udp)]), succeeded(0x0003))?;
    let SocketAddr::V4(sink) = sink else { return None };
    let port = (sink.port() ^ 0x2112).to_be_bytes();
    let peer = [&[0, 1][..], &port, &(u32::from(*sink.ip()) ^ COOKIE).to_be_bytes()].concat();
    ask(out, relay, &message(0x0009, &[(0x000c, vec![0x40, 0, 0, 0]), (0x0012, peer)]), succeeded(0x0009))?;
    Some([&[0x40, 0][..], &u16::try_from(PAYLOAD).unwrap().to_be_bytes()].concat())
}

/// Ticks of 10 ms, user and system.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, kind, relay, clients, rate, seconds, network, pid] = &args[..] else { panic!("see the top of the file") };
    let relay: SocketAddr = relay.parse().unwrap();
    let (clients, rate, seconds): (u32, u32, u32) =
        (clients.parse().unwrap(), rate.parse().unwrap(), seconds.parse().unwrap());
    let (network, pid): (Ipv4Addr, u32) = (network.parse().unwrap(), pid.parse().unwrap());
    let memory_before = memory_kib(pid);
    let mut all = Vec::new();
    for client in 0..clients {
        let (out, sink) = (socket(network, client, 4000), socket(network, client, 4001));
        let header = match kind.as_str() {
            "lanrage" => lanrage(relay, &sink),
            _ => turn(relay, &out, sink.local_addr().unwrap(), client),
        };
        let mut payload = vec![0; PAYLOAD];
        payload[0] = 4;
        let Some(header) = header else { continue };
        for socket in [&out, &sink] {
            socket.set_nonblocking(true).unwrap();
        }
        all.push(Client { out, sink, datagram: [header, payload].concat() });
    }
    let memory = memory_kib(pid);
    assert!(!all.is_empty(), "the relay takes nobody");

    let (start, ticks) = (Instant::now(), cpu_ticks(pid));
    let (mut sent, mut arrived, mut buffer) = (0_u32, 0_u32, [0; 2048]);
    let mut drain = |client: &Client, arrived: &mut u32| {
        while client.sink.recv(&mut buffer).is_ok() {
            *arrived += 1;
        }
    };
    let total = rate * seconds;
    while sent < total {
        let now = start + Duration::from_secs_f64(f64::from(sent) / f64::from(rate));
        std::thread::sleep(now.saturating_duration_since(Instant::now()));
        // In small bursts: a sleep for each datagram would be all that is measured.
        for _ in 0..16 {
            let at = usize::try_from(sent).unwrap();
            let client = &all[at % all.len()];
            let _ = client.out.send_to(&client.datagram, relay);
            sent += 1;
            drain(&all[(at + all.len() - WINDOW % all.len()) % all.len()], &mut arrived);
        }
    }
    let took = start.elapsed();
    std::thread::sleep(Duration::from_millis(300));
    all.iter().for_each(|client| drain(client, &mut arrived));
    let cpu = (cpu_ticks(pid) - ticks) as f64 / 100.0;
    println!(
        "| {kind} | {} of {clients} | {:.0} | {:.2} % | {:.1} | {:.0} | {} → {} ({:+.2} a client) |",
        all.len(),
        f64::from(sent) / took.as_secs_f64(),
        100.0 * (1.0 - f64::from(arrived) / f64::from(sent)),
        1e6 * cpu / f64::from(arrived.max(1)),
        f64::from(arrived) / cpu.max(0.01),
        memory_before,
        memory,
        (memory as f64 - memory_before as f64) / f64::from(clients),
    );
}

//! What somebody on the way, or a member who lies, can make this machine send.

use super::super::way::RELAY_HEADER;
use super::tests::Net;
use super::*;

const VICTIM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66)), 53);

/// A ping of the first machine that has not arrived yet.
fn ping_on_its_way(net: &mut Net) -> Vec<u8> {
    net.with(0, |machine, now, out| machine.handle_timeout(now, out));
    let ping = net.flying.iter().find(|(_, to, _)| *to == 1).and_then(|(.., batch)| batch.iter().next());
    let ping = ping.expect("it asks at once").to_vec();
    assert_eq!(ping[0], PROBE_MAGIC);
    ping
}

/// The second machine gets it from there; what it sends to the victim, datagrams and bytes.
fn arrives(net: &mut Net, datagram: &[u8], from: SocketAddr) -> (usize, usize) {
    let batch = DatagramBatch::copied(datagram, Endpoint::direct(from), datagram.len());
    let mut out = Outputs::default();
    net.ends[1].machine.handle_inbound(net.now, &batch, &mut out);
    to_victim(&out)
}

fn to_victim(out: &Outputs) -> (usize, usize) {
    let sent = out.transmits.iter().filter(|batch| batch.destination() == VICTIM);
    sent.fold((0, 0), |(count, bytes), batch| (count + batch.segments(), bytes + batch.contents().len()))
}

fn knows_victim(net: &Net) -> bool {
    net.ends[1].machine.view(net.now, 0).candidates.iter().any(|it| it.endpoint == VICTIM)
}

#[test]
fn a_replayed_ping_is_neither_answered_nor_followed() {
    let mut net = Net::new(7, true);
    let ping = ping_on_its_way(&mut net);
    net.run(Duration::from_millis(200));
    let before = net.ends[1].machine.counters.dropped_probes;
    for _ in 0..1_000 {
        assert_eq!(arrives(&mut net, &ping, VICTIM), (0, 0));
    }
    assert_eq!(net.ends[1].machine.counters.dropped_probes, before + 1_000);
    assert!(!knows_victim(&net));
}

/// Somebody on the way sends it on with another source: one answer, a few probes, and no more.
#[test]
fn a_misdirected_ping_costs_its_victim_little() {
    let mut net = Net::new(7, true);
    let ping = ping_on_its_way(&mut net);
    net.flying.clear();
    let (mut count, mut bytes) = arrives(&mut net, &ping, VICTIM);
    assert!(knows_victim(&net) && count >= 1, "it may be the member, moved");
    let until = net.now + Duration::from_secs(600);
    while net.now < until {
        net.now = net.ends[1].machine.poll_timeout().0.max(net.now + Duration::from_millis(1));
        let mut out = Outputs::default();
        net.ends[1].machine.handle_timeout(net.now, &mut out);
        let (more, of) = to_victim(&out);
        (count, bytes) = (count + more, bytes + of);
    }
    assert!((2..=6).contains(&count) && bytes <= 6 * 76, "{count} datagrams, {bytes} bytes");
    assert!(!knows_victim(&net));
}

#[test]
fn forged_probes_are_dropped_and_counted() {
    let mut net = Net::new(7, true);
    let ping = ping_on_its_way(&mut net);
    net.flying.clear();
    let bits = (ping.len() - 1) * 8;
    for bit in 0..bits {
        let mut forged = ping.clone();
        forged[1 + bit / 8] ^= 1 << (bit % 8);
        assert_eq!(arrives(&mut net, &forged, VICTIM), (0, 0), "bit {bit}");
    }
    for len in 1..ping.len() {
        assert_eq!(arrives(&mut net, &ping[..len], VICTIM), (0, 0), "cut to {len}");
    }
    let dropped = net.ends[1].machine.counters.dropped_probes;
    assert_eq!(dropped, (bits + ping.len() - 1) as u64);
    assert!(!knows_victim(&net));
    // The true one still counts after them.
    let (answers, _) = arrives(&mut net, &ping, VICTIM);
    assert!(answers >= 1);
}

/// A member may say that a victim is a relay at which it has a ticket: that is within the same bounds.
#[test]
fn a_relay_that_is_none_gets_few_datagrams() {
    let mut net = Net::new(7, true);
    let spec = net.ends[1].machine.spec().clone();
    let ip = net.ends[1].ip;
    let (mut count, mut bytes) = (0, 0);
    let until = net.now + Duration::from_secs(60);
    let mut fill = 0;
    while net.now < until {
        fill += 1;
        let ticket = crate::wire::Ticket {
            relay: VICTIM,
            token: crate::wire::RelayToken::new([fill; 50]),
            expires: u32::from(fill),
            rtt: 0,
        };
        let contact = Contact { tickets: vec![ticket], ..Contact::default() };
        let mut out = Outputs::default();
        net.ends[1].machine.update(net.now, ip, PeerSpec { contact, ..spec.clone() }, &mut out);
        let (more, of) = to_victim(&out);
        (count, bytes) = (count + more, bytes + of);
        net.now += Duration::from_millis(250);
        fill %= 200;
    }
    assert!((20..=70).contains(&count) && bytes <= 70 * (76 + RELAY_HEADER), "{count} datagrams, {bytes} bytes");
}

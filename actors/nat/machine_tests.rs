use super::*;
use crate::nat::stun;
use crate::relay::messages::Observed;
use crate::wire::{RelayToken, Ticket, stream_addr};

const PORT: u16 = 5000;

fn machine(serve: Serve) -> (NatMachine<&'static str>, NatOutputs<&'static str>, Instant) {
    let now = Instant::now();
    let settings =
        NatSettings { listen_port: PORT, device: "lanrage0".into(), serve, alternate: None, public_ips: vec![] };
    (NatMachine::new(now, settings, [1; 32], [2; 32]), NatOutputs::default(), now)
}

fn interface(ip: &str) -> Vec<InterfaceAddr> {
    vec![InterfaceAddr { interface: "eth0".into(), ip: ip.parse().unwrap(), prefix_len: 24 }]
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Answers every STUN request as a server that sees the machine at `seen`.
fn answer(
    machine: &mut NatMachine<&'static str>,
    now: Instant,
    out: &mut NatOutputs<&'static str>,
    seen: impl Fn(SocketAddr) -> SocketAddr,
) {
    for batch in std::mem::take(&mut out.transmits) {
        let server = batch.destination();
        if let Some(stun::Stun::Request(request)) = stun::parse(batch.contents())
            && request.change == stun::Change::NONE
        {
            let reply = stun::success(request.id, seen(server), Some(server), None, 200);
            machine.handle_datagrams(now, LocalSocket::MAIN, server, &reply, reply.len(), out);
        }
    }
}

#[test]
fn what_stun_servers_see_becomes_a_candidate() {
    let (mut machine, mut out, now) = machine(Serve::Auto);
    machine.set_interfaces(now, interface("192.168.1.5"), &mut out);
    assert!(out.contact_changed && out.networks_changed);
    machine.set_servers(now, vec![addr("203.0.113.1:3478"), addr("203.0.113.2:3478")], &mut out);
    answer(&mut machine, now, &mut out, |_| addr("198.51.100.7:7777"));
    let contact = machine.contact();
    let kinds: Vec<_> = contact.candidates.iter().map(|it| (it.kind, it.addr)).collect();
    assert_eq!(
        kinds,
        [(CandidateKind::Host, addr("192.168.1.5:5000")), (CandidateKind::ServerReflexive, addr("198.51.100.7:7777"))]
    );
    assert_eq!(contact.nat.mapping, Dependence::EndpointIndependent);
    assert_eq!(contact.serves, None, "behind a NAT nobody is served");
}

#[test]
fn who_is_public_serves_and_answers() {
    let (mut machine, mut out, now) = machine(Serve::Auto);
    machine.set_interfaces(now, interface("198.51.100.7"), &mut out);
    let request = stun::request(stun::TransactionId(7), stun::Change::NONE, addr("198.51.100.7:5000"));
    machine.handle_datagrams(now, LocalSocket::MAIN, addr("192.0.2.9:1"), &request, request.len(), &mut out);
    assert!(out.transmits.is_empty(), "not before it is known to be public");
    machine.set_servers(now, vec![addr("203.0.113.1:3478")], &mut out);
    answer(&mut machine, now, &mut out, |_| addr("198.51.100.7:5000"));
    assert_eq!(machine.contact().serves, Some(addr("198.51.100.7:5000")));
    out.transmits.clear();
    machine.handle_datagrams(now, LocalSocket::MAIN, addr("192.0.2.9:1"), &request, request.len(), &mut out);
    let [reply] = &out.transmits[..] else { panic!("one answer, not {}", out.transmits.len()) };
    let Some(stun::Stun::Success(success)) = stun::parse(reply.contents()) else { panic!("no success") };
    assert_eq!((reply.destination(), success.mapped), (addr("192.0.2.9:1"), addr("192.0.2.9:1")));
}

/// One whose servers have a second port, but no second address, is not taken for filtered because of that.
#[test]
fn who_is_public_serves_also_when_only_other_ports_could_be_tried() {
    for (passes, serves) in [(true, Some(addr("198.51.100.7:5000"))), (false, None)] {
        let (mut machine, mut out, mut now) = machine(Serve::Auto);
        machine.set_interfaces(now, interface("198.51.100.7"), &mut out);
        machine.set_servers(now, vec![addr("203.0.113.1:3478")], &mut out);
        for _ in 0..200 {
            for batch in std::mem::take(&mut out.transmits) {
                let Some(stun::Stun::Request(request)) = stun::parse(batch.contents()) else { continue };
                let (server, other) = (batch.destination(), addr("203.0.113.1:3479"));
                let from = if request.change == stun::Change::NONE { server } else { other };
                if from == server || (passes && request.change == stun::Change::PORT) {
                    let reply = stun::success(request.id, addr("198.51.100.7:5000"), Some(from), Some(other), 200);
                    machine.handle_datagrams(now, LocalSocket::MAIN, from, &reply, reply.len(), &mut out);
                }
            }
            now += Duration::from_millis(50);
            machine.handle_timeout(now, &mut out);
        }
        assert_ne!(machine.contact().nat.filtering, Dependence::Unknown, "it was tried");
        assert_eq!(machine.contact().serves, serves, "other ports get in: {passes}");
    }
}

#[test]
fn tickets_and_what_relays_see_are_told() {
    let (mut machine, mut out, now) = machine(Serve::Never);
    machine.set_interfaces(now, interface("192.168.1.5"), &mut out);
    out.contact_changed = false;
    let ticket = Ticket { relay: addr("203.0.113.5:9"), token: RelayToken::new([3; 50]), expires: 9, rtt: 1 };
    let seen = |addr| Observed { relay: ticket.relay, addr };
    let observed = vec![seen(addr("198.51.100.7:7777"))];
    machine.set_relays(now, Tickets { tickets: vec![ticket], observed }, &mut out);
    assert!(out.contact_changed);
    assert_eq!(machine.contact().tickets, [ticket]);
    assert!(machine.contact().candidates.iter().any(|it| it.addr == addr("198.51.100.7:7777")));
    let observed = vec![seen(stream_addr(4))];
    machine.set_relays(now, Tickets { tickets: vec![ticket], observed }, &mut out);
    assert!(!machine.contact().candidates.iter().any(|it| it.addr == stream_addr(4)));
}

#[test]
fn a_crowd_of_interfaces_does_not_hide_the_outside() {
    let (mut machine, mut out, now) = machine(Serve::Never);
    let crowd = (0..40).flat_map(|n| interface(&format!("192.168.{n}.1"))).collect();
    machine.set_interfaces(now, crowd, &mut out);
    let external = Some(addr("198.51.100.7:5000"));
    machine.set_port_mapping(now, PortMapView { external, ..PortMapView::default() }, &mut out);
    let contact = machine.contact();
    assert_eq!(contact.candidates.len(), crate::wire::MAX_CANDIDATES);
    assert!(contact.candidates.iter().any(|it| it.kind == CandidateKind::Mapped));
}

#[test]
fn relayed_datagrams_lose_their_mark_and_nothing_else() {
    let (mut machine, mut out, now) = machine(Serve::Never);
    let route = PeerRoute { index: 7, probe_tag: [1; 8], wg_key: crate::wire::WgPublicKey([2; 32]) };
    machine.register(&route, &"peer");
    let mut packet = vec![0; 40];
    packet[0] = 4;
    packet[4..8].copy_from_slice(&(7_u32 << 8).to_le_bytes());
    let forwarded = [vec![0x94], packet.clone()].concat();
    let relay = addr("203.0.113.5:9");
    machine.handle_datagrams(now, LocalSocket::MAIN, relay, &forwarded.repeat(2), 41, &mut out);
    machine.handle_datagrams(now, LocalSocket(3), relay, &packet, 40, &mut out);
    let got: Vec<_> = out.inbound.iter().map(|(_, batch)| (batch.from(), batch.iter().collect::<Vec<_>>())).collect();
    assert_eq!(
        got,
        [
            (Endpoint::relayed(relay), vec![&packet[..], &packet[..]]),
            (Endpoint { addr: relay, local: LocalSocket(3), relayed: false }, vec![&packet[..]]),
        ]
    );
}

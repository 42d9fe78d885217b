//! The simulated NATs, proved by the probes that prove those of the namespace lab, against the same table.

use super::*;

const S1A: ([u8; 4], u16) = ([198, 19, 0, 1], 3478);
const S1B: ([u8; 4], u16) = ([198, 19, 0, 1], 3479);
const S2: ([u8; 4], u16) = ([198, 19, 0, 2], 3478);

fn server((ip, port): ([u8; 4], u16)) -> SocketAddr {
    SocketAddr::new(IpAddr::from(ip), port)
}

fn net() -> Net {
    Net::new(LinkSettings::default(), 7)
}

/// The columns of the lab's table that the simulation knows; its own text says what they mean.
#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    name: toml::Value,
    simulated: bool,
    /// Left out where UDP is blocked.
    mapping: Option<String>,
    port_kept: Option<bool>,
    other_port: Option<bool>,
    other_address: Option<bool>,
    own_address: Option<bool>,
}

fn table() -> Vec<(Kind, Row)> {
    let mut rows: toml::Table = toml::from_str(include_str!("../../../tests/lab/nat_kinds.toml")).unwrap();
    let rows: Vec<Row> = rows.remove("kind").unwrap().try_into().unwrap();
    let simulated = rows.into_iter().filter(|row| row.simulated);
    simulated.map(|row| (row.name.clone().try_into().unwrap(), row)).collect()
}

#[test]
fn each_kind_behaves_as_the_table_of_the_lab_says() {
    let now = Duration::ZERO;
    let table = table();
    for kind in Kind::ALL {
        assert!(table.iter().any(|(row, _)| *row == kind), "{kind:?} is not in the table");
    }
    for (kind, expected) in table {
        let mut net = net();
        let node = net.attach(kind, Family::V4);
        net.sites[node].up = true;
        let first = net.observed(now, node, server(S1A));
        let Some(mapping) = expected.mapping else {
            assert_eq!(first, None, "{kind:?}");
            continue;
        };
        let first = first.unwrap();
        assert_eq!(Some(first.port() == DATA_PORT), expected.port_kept, "{kind:?}: port kept");
        // Filtering, before anything else is sent: the order of the probes matters.
        assert!(net.admits(now, server(S1A), first, node), "{kind:?}: the answer");
        let admits = |net: &mut Net, from| Some(net.admits(now, server(from), first, node));
        assert_eq!(admits(&mut net, S1B), expected.other_port, "{kind:?}: from another port");
        assert_eq!(admits(&mut net, S2), expected.other_address, "{kind:?}: from another address");
        let others = [S1B, S2].map(|to| net.observed(now, node, server(to)).unwrap());
        let seen = if others == [first, first] { "EIM" } else { "APDM" };
        assert_eq!(seen, mapping, "{kind:?}");
        let hairpin = net.send(now, node, DATA_PORT, SocketAddr::new(first.ip(), first.port()), vec![0]);
        let got = hairpin.and_then(|(at, flight)| net.arrive(at, &flight)).map(|(node, _, _)| node);
        assert_eq!(Some(got == Some(node)), expected.own_address, "{kind:?}: own public address");
    }
}

#[test]
fn neighbours_meet_over_their_lan_addresses_only() {
    let mut net = net();
    let (a, b) = (net.attach(Kind::Lan, Family::V4), net.attach(Kind::Lan, Family::V4));
    net.sites.iter_mut().for_each(|site| site.up = true);
    let outside = net.observed(Duration::ZERO, b, server(S1A)).unwrap();
    assert_eq!(net.observed(Duration::ZERO, a, server(S1A)).unwrap().ip(), outside.ip());
    assert!(net.send(Duration::ZERO, a, DATA_PORT, outside, vec![0]).is_none(), "no hairpin");
    let local = |net: &Net, node: usize| SocketAddr::new(net.sites[node].homes[0].ip, DATA_PORT);
    let inside = local(&net, b);
    let (at, flight) = net.send(Duration::ZERO, a, DATA_PORT, inside, vec![0]).unwrap();
    assert_eq!(net.arrive(at, &flight), Some((b, DATA_PORT, local(&net, a))));
    net.set_behaviour(a, true, Ports::Preserve);
    let (at, flight) = net.send(Duration::ZERO, a, DATA_PORT, outside, vec![0]).unwrap();
    // b has to let a's outside address in first.
    assert_eq!(net.arrive(at, &flight), None);
}

#[test]
fn mappings_expire_and_sequential_ports_follow_one_another() {
    let mut net = net();
    let node = net.attach(Kind::Symmetric, Family::V4);
    net.set_behaviour(node, false, Ports::Sequential);
    let ports = [S1A, S1B, S2].map(|to| net.observed(Duration::ZERO, node, server(to)).unwrap().port());
    assert_eq!([ports[1] - ports[0], ports[2] - ports[1]], [1, 1]);
    let outside = net.observed(Duration::ZERO, node, server(S1A)).unwrap();
    assert!(net.admits(Duration::from_secs(29), server(S1A), outside, node));
    assert!(!net.admits(Duration::from_secs(31), server(S1A), outside, node));
    assert_ne!(net.observed(Duration::from_secs(31), node, server(S1A)), Some(outside));
}

/// Both learn their mapping from one server, then send to each other 10 times at 100 ms.
fn punch(from: Kind, to: Kind) -> bool {
    let mut net = net();
    let nodes = [net.attach(from, Family::V4), net.attach(to, Family::V4)];
    net.sites.iter_mut().for_each(|site| site.up = true);
    let learnt = nodes.map(|node| net.observed(Duration::ZERO, node, server(S1A)));
    let [Some(a), Some(b)] = learnt else { return false };
    let mut targets = [b, a];
    let mut heard = [false; 2];
    for round in 0..10 {
        let now = Duration::from_millis(100 * round);
        for side in 0..2 {
            let flight = net.send(now, nodes[side], DATA_PORT, targets[side], vec![0]);
            if let Some((node, _, source)) = flight.and_then(|(_, flight)| net.arrive(now, &flight)) {
                let other = 1 - side;
                assert_eq!(node, nodes[other]);
                heard[other] = true;
                // Answers go to where it came from.
                targets[other] = source;
            }
        }
    }
    heard == [true, true]
}

#[test]
fn a_plain_hole_punch_reaches_what_the_lab_reached() {
    for from in Kind::ALL {
        for to in Kind::ALL {
            // Two of the same LAN are tried above.
            if (from, to) != (Kind::Lan, Kind::Lan) {
                assert_eq!(punch(from, to), from.punches(to), "{from:?} to {to:?}");
            }
        }
    }
    // The rows of the lab's table that bound everything else.
    for (a, b, reaches) in [
        (Kind::Symmetric, Kind::Port, false),
        (Kind::Symmetric, Kind::Firewall, false),
        (Kind::Symmetric, Kind::Symmetric, false),
        (Kind::Symmetric, Kind::Addr, true),
        (Kind::Symmetric, Kind::FullCone, true),
        (Kind::Cgnat, Kind::Port, true),
        (Kind::Cgnat, Kind::CgnatSymmetric, false),
        (Kind::Port, Kind::Port, true),
        (Kind::None, Kind::Symmetric, true),
    ] {
        assert_eq!(a.punches(b), reaches, "{a:?} to {b:?}");
    }
}

#[test]
fn ipv6_has_no_nat_but_a_stateful_firewall() {
    let servers =
        [1, 2].map(|host| SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2600, 0xffff, 0, 0, 0, 0, 0, host)), 3478));
    let now = Duration::ZERO;
    for kind in Kind::ALL {
        let mut net = net();
        let node = net.attach(kind, Family::V6);
        let open = kind == Kind::None;
        let own = SocketAddr::new(net.sites[node].homes[0].ip, DATA_PORT);
        assert!(own.is_ipv6());
        assert_eq!(net.observed(now, node, server(S1A)), None, "{kind:?} has no IPv4");
        assert_eq!(net.admits(now, servers[1], own, node), open, "{kind:?}: unasked");
        let seen = net.observed(now, node, servers[0]);
        assert_eq!(seen, (kind != Kind::UdpBlocked).then_some(own), "{kind:?}: no translation");
        if kind != Kind::UdpBlocked {
            assert!(net.admits(now, servers[0], own, node), "{kind:?}: the answer");
            assert_eq!(net.admits(now, servers[1], own, node), open, "{kind:?}: from another address");
        }
    }
}

#[test]
fn versions_of_ip_meet_only_their_like() {
    let mut net = net();
    let nodes = [Family::V4, Family::V6, Family::Dual].map(|family| net.attach(Kind::Symmetric, family));
    net.sites.iter_mut().for_each(|site| site.up = true);
    let punches = |a: usize, b: usize| net.sites[nodes[a]].punches(&net.sites[nodes[b]]);
    // Two symmetric NATs keep IPv4 apart.
    assert_eq!([punches(0, 1), punches(0, 2), punches(1, 2)], [false, false, true]);
    assert_eq!(net.sites[nodes[0]].seen_by(&net.sites[nodes[1]]), None);
    assert!(net.sites[nodes[1]].seen_by(&net.sites[nodes[2]]).is_some_and(|ip| ip.is_ipv6()));
    let to = SocketAddr::new(net.sites[nodes[1]].homes[0].ip, DATA_PORT);
    assert!(net.send(Duration::ZERO, nodes[0], DATA_PORT, to, vec![0]).is_none());
    assert!(net.send(Duration::ZERO, nodes[2], DATA_PORT, to, vec![0]).is_some());
}

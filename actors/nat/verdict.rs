//! What the answers of several servers say about a NAT, though one of them may lie. Pure functions.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::wire::Dependence;

/// A NAT that counts leaves at most this between two mappings in a row; other traffic behind it takes some in between.
const MAX_STEP: u16 = 16;
/// How far to either side of the expected port to look: other traffic behind the NAT takes ports too.
pub const PREDICTION_WINDOW: u16 = 15;

/// One answer: asked there, the request was seen to come from `mapped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    pub asked: SocketAddr,
    /// Who answers for it: the address of the server that named `asked` as its other address, else `asked`'s own.
    pub operator: IpAddr,
    pub mapped: SocketAddr,
    /// The user configured this server. Others are members and relays: one of them may lie.
    pub trusted: bool,
    /// The order in which the first requests went out.
    pub order: u32,
}

/// What follows about mappings (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mapping {
    pub kind: Dependence,
    /// Where others may reach the socket. Of a symmetric NAT only the IP address holds for others; the port is that of
    /// the last mapping.
    pub mapped: Option<SocketAddr>,
    pub port_preserving: Option<bool>,
    /// A symmetric NAT that counts: distance between the ports of two mappings made in a row.
    pub port_step: Option<i16>,
}

/// `complete` when no more answers are to be expected: before, nothing is called symmetric.
///
/// Each operator has one vote. Two operators that agree show an endpoint-independent mapping, also against fewer others.
/// All different is a symmetric NAT when there are three of them, or two that are both trusted, or when each of them sees
/// two of its own ports differ: with two of which one may lie nothing else follows.
#[must_use]
pub fn mapping(evidence: &[Evidence], local_port: u16, complete: bool) -> Mapping {
    let trusted: Vec<_> = evidence.iter().copied().filter(|it| it.trusted).collect();
    let trust = operators(&trusted).len() >= 2 || (operators(&trusted).len() == 1 && operators(evidence).len() == 1);
    let heard = if trust { &trusted[..] } else { evidence };
    let votes = operators(heard);
    let (winner, supporters) = majority(votes.values().map(|vote| vote.mapped));
    let kind = if votes.len() >= 2 && supporters * 2 > votes.len() {
        Dependence::EndpointIndependent
    } else if votes.len() == 1 {
        let kind = by_one_server(heard);
        // A relay that nobody vouches for, and nothing against it: if it calls the NAT symmetric and lies, some probes are
        // wasted.
        let believed = complete && (trust || kind == Dependence::AddressAndPortDependent);
        if believed { kind } else { Dependence::Unknown }
    } else if complete && supporters == 1 && (trust || votes.len() >= 3 || each_sees_ports_differ(heard, &votes)) {
        ports_of_one_address(heard)
    } else {
        Dependence::Unknown
    };
    let last = votes.values().max_by_key(|vote| vote.order).map(|vote| vote.mapped);
    // How ports are given out several operators tell together. A single one is asked at its other ports, too.
    let in_order: Vec<Evidence> = if votes.len() == 1 { heard.to_vec() } else { votes.values().copied().collect() };
    let cluster = if kind.is_symmetric() { cluster(&in_order) } else { Vec::new() };
    let mapped = if kind.is_symmetric() { cluster.last().copied().or(last) } else { winner };
    let preserving = votes.values().filter(|vote| vote.mapped.port() == local_port).count();
    Mapping {
        kind,
        mapped,
        port_preserving: (!votes.is_empty()).then_some(preserving * 2 > votes.len()),
        port_step: step(&cluster),
    }
}

/// The first answer for each operator.
fn operators(evidence: &[Evidence]) -> BTreeMap<IpAddr, Evidence> {
    let mut votes: BTreeMap<IpAddr, Evidence> = BTreeMap::new();
    for it in evidence {
        let vote = votes.entry(it.operator).or_insert(*it);
        // The server itself, before its other addresses.
        if vote.asked.ip() != it.operator && it.asked.ip() == it.operator {
            *vote = *it;
        }
    }
    votes
}

fn majority(addrs: impl Iterator<Item = SocketAddr>) -> (Option<SocketAddr>, usize) {
    let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for addr in addrs {
        *counts.entry(addr).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map_or((None, 0), |(addr, count)| (Some(addr), count))
}

/// RFC 5780, section 4.3: one server with two addresses.
fn by_one_server(evidence: &[Evidence]) -> Dependence {
    let ips: BTreeMap<IpAddr, SocketAddr> = evidence.iter().rev().map(|it| (it.asked.ip(), it.mapped)).collect();
    if ips.len() < 2 {
        // Other ports of one address: whatever they say, it does not follow for other addresses.
        let differs = ports_of_one_address(evidence) == Dependence::AddressAndPortDependent && evidence.len() >= 2;
        return if differs { Dependence::AddressAndPortDependent } else { Dependence::Unknown };
    }
    match majority(ips.values().copied()) {
        (_, count) if count == ips.len() => Dependence::EndpointIndependent,
        _ => ports_of_one_address(evidence),
    }
}

/// Whether every operator, by itself, was shown different mappings by two ports of one address. A liar cannot make the
/// honest ones see that.
fn each_sees_ports_differ(evidence: &[Evidence], votes: &BTreeMap<IpAddr, Evidence>) -> bool {
    votes.keys().all(|operator| {
        let of_it: Vec<_> = evidence.iter().filter(|it| it.operator == *operator).collect();
        of_it.iter().any(|a| of_it.iter().any(|b| a.asked.ip() == b.asked.ip() && a.mapped != b.mapped))
    })
}

/// Which kind of symmetric: by two ports of the same address. The worse one when none were asked.
fn ports_of_one_address(evidence: &[Evidence]) -> Dependence {
    let pairs = evidence
        .iter()
        .flat_map(|a| evidence.iter().map(move |b| (a, b)))
        .filter(|(a, b)| a.asked.ip() == b.asked.ip() && a.asked.port() < b.asked.port());
    let (mut same, mut different) = (0, 0);
    for (a, b) in pairs {
        if a.mapped == b.mapped { same += 1 } else { different += 1 }
    }
    if same > different { Dependence::AddressDependent } else { Dependence::AddressAndPortDependent }
}

/// The mappings near each other, in the order in which they were made. All but at most one must be: the one may be a lie,
/// or a mapping of long ago.
fn cluster(votes: &[Evidence]) -> Vec<SocketAddr> {
    let mut by_order: Vec<_> = votes.iter().collect();
    by_order.sort_by_key(|vote| vote.order);
    let near = |a: SocketAddr, b: SocketAddr| {
        let width = MAX_STEP.saturating_mul(u16::try_from(votes.len()).unwrap_or(u16::MAX));
        a.ip() == b.ip() && a.port().abs_diff(b.port()) <= width
    };
    let found = by_order
        .iter()
        .map(|middle| by_order.iter().map(|vote| vote.mapped).filter(|it| near(*it, middle.mapped)).collect::<Vec<_>>())
        .max_by_key(Vec::len)
        .unwrap_or_default();
    if found.len() >= 2 && found.len() + 1 >= by_order.len() { found } else { Vec::new() }
}

/// Smallest distance, in the direction in which the ports went.
fn step(cluster: &[SocketAddr]) -> Option<i16> {
    let pairs = || cluster.iter().zip(cluster.iter().skip(1)).map(|(a, b)| (a.port(), b.port()));
    let up = pairs().filter(|(a, b)| a < b).count();
    let down = pairs().count() - up;
    let mut ports: Vec<_> = cluster.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    let smallest = ports.iter().zip(ports.iter().skip(1)).map(|(a, b)| b - a).min()?;
    let smallest = i16::try_from(smallest).ok().filter(|step| (1..=MAX_STEP.cast_signed()).contains(step))?;
    Some(if up >= down { smallest } else { -smallest })
}

/// Where a NAT that counts by `step` maps next, after a mapping to `last`: the expected address first, then away from it
/// to both sides, 2 × [`PREDICTION_WINDOW`] + 1 in all.
pub fn predict(last: SocketAddr, step: i16) -> impl Iterator<Item = SocketAddr> {
    let next = i32::from(last.port()) + i32::from(step);
    let window = i32::from(PREDICTION_WINDOW);
    let ahead = i32::from(step.signum());
    (0..=window)
        .flat_map(move |away| {
            [next + away * ahead, next - away * ahead].into_iter().take(if away == 0 { 1 } else { 2 })
        })
        .filter_map(move |port| {
            let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
            Some(SocketAddr::new(last.ip(), port))
        })
}

/// How one question about filtering (RFC 5780, section 4.4) ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Test {
    /// Could not be asked, or the server did not do what it was asked for.
    #[default]
    Void,
    Passed,
    /// No answer.
    Blocked,
}

/// What one server's tests showed: answers from its other address and port, and from its other port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterTests {
    pub other_address: Test,
    pub other_port: Test,
}

/// What follows about filtering (RFC 4787, section 5). What passed cannot be a lie, as it came through the NAT; that
/// nothing passed may be the server's fault: so the most open result holds.
#[must_use]
pub fn filtering(tests: impl Iterator<Item = FilterTests>) -> Dependence {
    let openness = |kind: Dependence| match kind {
        Dependence::EndpointIndependent => 3,
        Dependence::AddressDependent => 2,
        Dependence::AddressAndPortDependent => 1,
        Dependence::Unknown => 0,
    };
    let one = |tests: FilterTests| match (tests.other_address, tests.other_port) {
        (Test::Passed, _) => Dependence::EndpointIndependent,
        // Not known to be more open than this.
        (_, Test::Passed) => Dependence::AddressDependent,
        (_, Test::Blocked) => Dependence::AddressAndPortDependent,
        (_, Test::Void) => Dependence::Unknown,
    };
    tests.map(one).max_by_key(|kind| openness(*kind)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u16 = 5000;

    /// `(address of the server, port asked, port mapped, trusted)`, in the order of the first requests.
    fn evidence(rows: &[(u8, u16, u16, bool)]) -> Vec<Evidence> {
        rows.iter()
            .enumerate()
            .map(|(order, (server, port, mapped, trusted))| Evidence {
                asked: SocketAddr::from(([192, 0, 2, *server], *port)),
                operator: IpAddr::from([192, 0, 2, *server]),
                mapped: SocketAddr::from(([198, 51, 100, 1], *mapped)),
                trusted: *trusted,
                order: u32::try_from(order).unwrap(),
            })
            .collect()
    }

    #[test]
    fn mappings_by_votes() {
        use Dependence::{
            AddressAndPortDependent as Both, AddressDependent, EndpointIndependent as Independent, Unknown,
        };
        let (t, u) = (true, false);
        let table: &[(&str, &[(u8, u16, u16, bool)], Dependence)] = &[
            ("nobody", &[], Unknown),
            ("one is too few", &[(1, 1, 700, t)], Unknown),
            ("two agree", &[(1, 1, 700, u), (2, 1, 700, u)], Independent),
            ("two trusted differ", &[(1, 1, 700, t), (2, 1, 800, t)], Both),
            ("two differ, one may lie", &[(1, 1, 700, t), (2, 1, 800, u)], Unknown),
            ("three all differ", &[(1, 1, 700, u), (2, 1, 800, u), (3, 1, 950, u)], Both),
            ("a liar among three", &[(1, 1, 700, u), (2, 1, 9, u), (3, 1, 700, u)], Independent),
            ("a liar among three trusted", &[(1, 1, 700, t), (2, 1, 9, t), (3, 1, 700, t)], Independent),
            ("two against two", &[(1, 1, 7, u), (2, 1, 7, u), (3, 1, 8, u), (4, 1, 8, u)], Unknown),
            ("strangers against trusted", &[(1, 1, 7, t), (2, 1, 7, t), (3, 1, 8, u), (4, 1, 9, u)], Independent),
            ("one stranger, many ports", &[(1, 1, 7, u), (1, 2, 8, u), (1, 3, 9, u)], Both),
            ("one stranger, one mapping", &[(1, 1, 7, u), (1, 2, 7, u)], Unknown),
            (
                "two strangers, each sees ports differ",
                &[(1, 1, 7, u), (1, 2, 8, u), (2, 1, 90, u), (2, 2, 91, u)],
                Both,
            ),
            ("a liar beside an honest one", &[(1, 1, 7, u), (1, 2, 7, u), (2, 1, 90, u), (2, 2, 91, u)], Unknown),
            ("by address", &[(1, 1, 7, t), (1, 2, 7, t), (2, 1, 90, t)], AddressDependent),
            ("by address and port", &[(1, 1, 7, t), (1, 2, 8, t), (2, 1, 90, t)], Both),
        ];
        for (name, rows, expected) in table {
            assert_eq!(mapping(&evidence(rows), OWN, true).kind, *expected, "{name}");
        }
    }

    #[test]
    fn nothing_is_called_symmetric_early() {
        let two = evidence(&[(1, 1, 700, true), (2, 1, 800, true)]);
        assert_eq!(mapping(&two, OWN, false).kind, Dependence::Unknown);
    }

    #[test]
    fn one_trusted_server_with_two_addresses_is_enough() {
        let mut rows = evidence(&[(1, 1, 700, true), (2, 1, 700, true), (2, 2, 700, true)]);
        rows.iter_mut().for_each(|it| it.operator = IpAddr::from([192, 0, 2, 1]));
        assert_eq!(mapping(&rows, OWN, true).kind, Dependence::EndpointIndependent);
        rows[1].mapped.set_port(701);
        rows[2].mapped.set_port(701);
        assert_eq!(mapping(&rows, OWN, true).kind, Dependence::AddressDependent);
        rows[2].mapped.set_port(702);
        assert_eq!(mapping(&rows, OWN, true).kind, Dependence::AddressAndPortDependent);
        rows[2].mapped.set_port(701);
        rows.iter_mut().for_each(|it| it.trusted = false);
        assert_eq!(mapping(&rows, OWN, true).kind, Dependence::Unknown);
    }

    #[test]
    fn steps() {
        let table: &[(&str, &[u16], Option<i16>)] = &[
            ("by one", &[700, 701, 702], Some(1)),
            ("by two, with a gap", &[700, 702, 706], Some(2)),
            ("down", &[700, 699, 698], Some(-1)),
            ("random", &[700, 50_000, 9000], None),
            ("the second came late", &[700, 702, 701, 703], Some(1)),
            ("one lies", &[700, 31_000, 702, 703], Some(1)),
            ("one of long ago", &[20, 700, 701, 702], Some(1)),
            ("too wide", &[700, 740, 780], None),
        ];
        for (name, ports, expected) in table {
            let rows: Vec<_> = (1..).zip(*ports).map(|(server, port)| (server, 1, *port, true)).collect();
            let got = mapping(&evidence(&rows), OWN, true);
            assert_eq!((got.kind.is_symmetric(), got.port_step), (true, *expected), "{name}");
        }
    }

    #[test]
    fn preserved_ports() {
        let same = evidence(&[(1, 1, OWN, true), (2, 1, OWN, true), (3, 1, 9, true)]);
        assert_eq!(mapping(&same, OWN, true).port_preserving, Some(true));
        assert_eq!(mapping(&same, OWN + 1, true).port_preserving, Some(false));
        assert_eq!(mapping(&[], OWN, true).port_preserving, None);
    }

    #[test]
    fn predictions_go_outwards_and_stay_in_range() {
        let ports = |last, step| {
            predict(SocketAddr::from(([192, 0, 2, 1], last)), step).map(|addr| addr.port()).collect::<Vec<_>>()
        };
        assert_eq!(ports(700, 1)[..5], [701, 702, 700, 703, 699]);
        assert_eq!(ports(700, -2)[..3], [698, 697, 699]);
        assert_eq!(ports(700, 1).len(), 31);
        assert!(ports(3, -1).iter().all(|port| *port > 0) && ports(3, -1).len() < 31);
        assert_eq!(ports(65_535, 1).len(), 15);
    }

    #[test]
    fn filters_by_what_passed() {
        use Test::{Blocked, Passed, Void};
        let table = [
            (Passed, Passed, Dependence::EndpointIndependent),
            (Passed, Void, Dependence::EndpointIndependent),
            (Blocked, Passed, Dependence::AddressDependent),
            (Void, Passed, Dependence::AddressDependent),
            (Blocked, Blocked, Dependence::AddressAndPortDependent),
            (Blocked, Void, Dependence::Unknown),
            (Void, Void, Dependence::Unknown),
        ];
        for (other_address, other_port, expected) in table {
            let one = FilterTests { other_address, other_port };
            assert_eq!(filtering([one].into_iter()), expected, "{one:?}");
            let deaf = FilterTests { other_address: Blocked, other_port: Blocked };
            let with_deaf = filtering([deaf, one].into_iter());
            let worst = if expected == Dependence::Unknown { Dependence::AddressAndPortDependent } else { expected };
            assert_eq!(with_deaf, worst, "{one:?}");
        }
        assert_eq!(filtering(std::iter::empty()), Dependence::Unknown);
    }
}

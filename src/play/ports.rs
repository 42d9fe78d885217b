//! Listening ports out of `/proc/PID/net/{udp,tcp,udp6,tcp6}`.

use std::collections::BTreeSet;
use std::fs;

/// Ports of one protocol; more are left out.
const MAX_PORTS: usize = 1024;

/// The state of a listening TCP socket (TCP_LISTEN).
const LISTEN: &str = "0A";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) udp: Vec<u16>,
    pub(super) tcp: Vec<u16>,
}

/// In the network namespace of `pid`; `None` when it has ended.
pub(super) fn of(pid: u32) -> Option<Ports> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).ok();
    let (udp, tcp) = (read("udp")?, read("tcp")?);
    Some(Ports {
        udp: ports(&[&udp, &read("udp6").unwrap_or_default()], None),
        tcp: ports(&[&tcp, &read("tcp6").unwrap_or_default()], Some(LISTEN)),
    })
}

/// Local ports of the sockets that have this state, sorted, without those on a loopback address.
fn ports(tables: &[&str], state: Option<&str>) -> Vec<u16> {
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let found = rows.filter_map(|row| {
        let mut words = row.split_whitespace().skip(1);
        let (address, port) = words.next()?.rsplit_once(':')?;
        let found = words.nth(1)?;
        // 127.0.0.1 in the machine's byte order: its last byte as written on a little-endian machine, else its first.
        let loopback = address.len() == 8 && (address.ends_with("7F") || address.starts_with("7F0000"));
        let wanted = state.is_none_or(|state| state == found) && !loopback;
        wanted.then(|| u16::from_str_radix(port, 16).ok())?.filter(|port| *port != 0)
    });
    let sorted: BTreeSet<u16> = found.collect();
    sorted.into_iter().take(MAX_PORTS).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn own_sockets_are_found() {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().map(|at| at.port());
        let kept = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let hidden = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listener = TcpListener::bind("[::]:0").unwrap();
        let ports = of(std::process::id()).unwrap();
        assert!(ports.udp.contains(&kept.local_addr().unwrap().port()), "{ports:?} {udp:?}");
        assert!(!ports.udp.contains(&hidden.local_addr().unwrap().port()));
        assert!(ports.tcp.contains(&listener.local_addr().unwrap().port()));
        assert_eq!(of(u32::MAX), None);
    }

    #[test]
    fn only_listening_tcp_sockets_count() {
        let table = "  sl  local_address rem_address   st\n   0: 00000000:15B4 00000000:0000 0A 0\n   1: 0100420A:D431 0200420A:15B4 01 0\n";
        assert_eq!(ports(&[table], Some(LISTEN)), [5556]);
        assert_eq!(ports(&[table], None), [5556, 54321]);
    }

    proptest! {
        #[test]
        fn random_text_never_panics(text in "\\PC{0,200}|[0-9A-F: \\n]{0,300}") {
            let _ = ports(&[&text], None);
        }
    }
}

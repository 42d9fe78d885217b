//! Which ports a process listens on: the tables of `/proc/net`, which name sockets by inode.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::IpProtocol;

/// Lines that are looked at; a machine with more has other worries.
const MAX_LINES: usize = 16_384;
/// Ports of one process that are kept.
const MAX_LISTENING: usize = 64;

/// A socket that takes packets from anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listening {
    pub(super) inode: u64,
    pub(super) protocol: IpProtocol,
    pub(super) addr: SocketAddr,
}

/// The listening sockets in the text of `/proc/net/{udp,udp6,tcp,tcp6}`: TCP in state LISTEN, UDP that is bound and not
/// connected. What is not understood is left out.
pub(super) fn parse(text: &str, protocol: IpProtocol) -> impl Iterator<Item = Listening> {
    text.lines().skip(1).take(MAX_LINES).filter_map(move |line| entry(line, protocol))
}

fn entry(line: &str, protocol: IpProtocol) -> Option<Listening> {
    let mut words = line.split_ascii_whitespace();
    let (local, remote, state) = (words.nth(1)?, words.next()?, words.next()?);
    let inode = words.nth(5)?.parse().ok()?;
    let addr = address(local)?;
    let open = match protocol {
        IpProtocol::Tcp => state == "0A",
        IpProtocol::Udp => address(remote)?.port() == 0,
    };
    (open && addr.port() != 0).then_some(Listening { inode, protocol, addr })
}

/// `0100007F:1F90`: 32-bit words in the machine's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Of the process that has these sockets open; sorted, each once.
#[must_use]
pub(super) fn of_process(
    all: impl Iterator<Item = Listening>,
    inodes: &BTreeSet<u64>,
) -> Vec<(IpProtocol, SocketAddr)> {
    let found: BTreeSet<_> =
        all.filter(|it| inodes.contains(&it.inode)).map(|it| (it.protocol, it.addr)).take(MAX_LISTENING).collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  101: 00000000:0926 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4242 2 0000000000000000 0
  102: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0000000000000000 0
  103: 0A00000A:D431 08080808:0035 01 00000000:00000000 00:00000000 00000000     0        0 78 2 0000000000000000 0
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:63DD 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 99 1 0000000000000000 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:63DD 0000000000000000FFFF00000100007F:8000 01 00000000:00000000 00:00000000 00000000  1000        0 98 1 0000000000000000 100 0 0 10 0
";

    #[test]
    fn listening_sockets_are_found_by_their_process() {
        let udp: Vec<_> = parse(UDP, IpProtocol::Udp).collect();
        assert_eq!(udp.len(), 2, "the connected one is none: {udp:?}");
        assert_eq!(udp[0].addr, SocketAddr::from(([0, 0, 0, 0], 2342)));
        assert_eq!(udp[1].addr.ip().is_loopback(), cfg!(target_endian = "little"));
        let tcp: Vec<_> = parse(TCP6, IpProtocol::Tcp).collect();
        assert_eq!(tcp.len(), 1);
        assert_eq!((tcp[0].inode, tcp[0].addr.port()), (99, 25_565));
        let of = of_process(udp.into_iter().chain(tcp), &BTreeSet::from([4242, 99]));
        assert_eq!(
            of.iter().map(|(it, addr)| (*it, addr.port())).collect::<Vec<_>>(),
            [(IpProtocol::Tcp, 25_565), (IpProtocol::Udp, 2342)]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([0-9A-F: ]{0,60}\n){0,6}", tcp in any::<bool>()) {
            let protocol = if tcp { IpProtocol::Tcp } else { IpProtocol::Udp };
            for found in parse(&text, protocol) {
                prop_assert!(found.addr.port() != 0);
            }
        }
    }
}

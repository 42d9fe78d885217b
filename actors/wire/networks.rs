use std::net::IpAddr;

/// The networks that this machine's own interfaces are on: an address inside is on the same LAN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalNetworks(Vec<(IpAddr, u8)>);

impl LocalNetworks {
    /// From interface addresses and prefix lengths. Loopback and host routes tell nothing and are left out.
    #[must_use]
    pub fn new(interfaces: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        let keep = |(ip, prefix): &(IpAddr, u8)| {
            let host = if ip.is_ipv4() { 32 } else { 128 };
            !ip.is_loopback() && *prefix > 0 && *prefix < host
        };
        let mut networks: Vec<_> = interfaces.into_iter().filter(keep).take(64).collect();
        networks.sort_unstable();
        networks.dedup();
        Self(networks)
    }

    #[must_use]
    pub fn contain(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|&(network, prefix)| match (network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                (u32::from(network) ^ u32::from(ip)) >> (32 - u32::from(prefix)) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                (u128::from(network) ^ u128::from(ip)) >> (128 - u32::from(prefix)) == 0
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_network_only() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let networks = LocalNetworks::new([
            (ip("192.168.1.20"), 24),
            (ip("fd00::1"), 64),
            (ip("127.0.0.1"), 8),
            (ip("10.8.0.2"), 32),
            (ip("100.1.1.1"), 0),
        ]);
        for (address, inside) in [
            ("192.168.1.77", true),
            ("192.168.2.77", false),
            ("fd00::77", true),
            ("fd01::77", false),
            ("127.0.0.1", false),
            ("10.8.0.2", false),
        ] {
            assert_eq!(networks.contain(ip(address)), inside, "{address}");
        }
    }
}

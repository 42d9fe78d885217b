//! The values that keys, variables and flags take, checked as they are read.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use lanrage_actors::broadcast::machine::Carry;
use lanrage_actors::nat::messages::Serve;
use lanrage_actors::wire::Ipv4Range;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

const MAX_NAME: usize = 32;
const MAX_MULTIADDR: usize = 512;
const MAX_PROTOCOL: usize = 128;
/// RFC 1035, section 2.3.4.
const MAX_HOST: usize = 253;
/// IFNAMSIZ without its terminating zero.
const MAX_DEVICE_NAME: usize = 15;
/// RFC 791: every host takes 576 bytes.
const MIN_MTU: u16 = 576;
/// 1500 less IPv6 (40), UDP (8) and WireGuard (32).
const MAX_MTU: u16 = 1420;

macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $parse:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

text_value!(
    /// A loopback address and port.
    ApiAddr,
    SocketAddr,
    api_addr
);
text_value!(
    /// 1 to 32 characters, or empty for the default.
    NodeName,
    String,
    node_name
);
text_value!(
    /// A multiaddr that ends in `/p2p/…`. Discovery parses it in full; here it is only looked at.
    BootstrapAddr,
    String,
    bootstrap_addr
);
text_value!(
    /// A libp2p protocol name.
    DhtProtocol,
    String,
    dht_protocol
);
text_value!(
    /// A name that Linux takes for a network device.
    TunName,
    String,
    tun_name
);
text_value!(
    /// A range that a party can use.
    Range,
    Ipv4Range,
    range
);

text_value!(
    /// A host name or address with a port, for UDP.
    HostPort,
    String,
    host_port
);
text_value!(
    /// Whether this node relays for others.
    Relaying,
    String,
    relaying
);

impl Relaying {
    #[must_use]
    pub fn serve(&self) -> Serve {
        match self.0.as_str() {
            "always" => Serve::Always,
            "never" => Serve::Never,
            _ => Serve::Auto,
        }
    }
}

text_value!(
    /// Which broadcasts of local programs the members get.
    Broadcasts,
    String,
    broadcasts
);

impl Broadcasts {
    #[must_use]
    pub fn carry(&self) -> Carry {
        match self.0.as_str() {
            "device" => Carry::Device,
            "off" => Carry::Off,
            _ => Carry::All,
        }
    }
}

text_value!(
    /// UDP ports: `1900` or `137-139`.
    Ports,
    String,
    ports
);

impl Ports {
    /// First and last.
    #[must_use]
    pub fn range(&self) -> (u16, u16) {
        port_range(&self.0).unwrap_or_default()
    }
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

fn ports(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not a UDP port or a range of them; write it like 1900 or 137-139");
    port_range(text).map(|_| text.to_owned()).ok_or_else(wrong)
}

fn broadcasts(text: &str) -> Result<String, String> {
    match text {
        "all" | "device" | "off" => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is none of all, device and off")),
    }
}

fn host_port(text: &str) -> Result<String, String> {
    let example = "write it like stun.example.org:3478, 203.0.113.5:3478 or [2001:db8::5]:3478";
    let wrong = || format!("`{text}` is not a host with a port; {example}");
    if text.parse::<SocketAddr>().is_ok_and(|addr| addr.port() != 0) {
        return Ok(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let named = !host.is_empty()
        && host.len() <= MAX_HOST
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !named || !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

fn relaying(text: &str) -> Result<String, String> {
    match text {
        "auto" | "always" | "never" => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is none of auto, always and never")),
    }
}

fn api_addr(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("`{text}` is not an address with a port; write it like 127.0.0.1:8666 or [::1]:8666"))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "`{text}` could be reached from other computers, and whoever reaches the API controls this node; use an address of this computer only: 127.0.0.1:{0} or [::1]:{0}",
            address.port()
        ));
    }
    Ok(address)
}

fn node_name(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if length > MAX_NAME {
        return Err(format!("the name `{text}` has {length} characters; at most {MAX_NAME} are allowed"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("the name {text:?} has characters that cannot be shown"));
    }
    if text.trim() != text {
        return Err(format!("the name `{text}` starts or ends with a space"));
    }
    Ok(text.to_owned())
}

fn bootstrap_addr(text: &str) -> Result<String, String> {
    let example = "write it like /ip4/203.0.113.5/tcp/4001/p2p/12D3KooW…";
    if text.len() > MAX_MULTIADDR {
        return Err(format!("a bootstrap address of {} bytes is too long; {example}", text.len()));
    }
    if !text.starts_with('/') || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("`{text}` is not a multiaddr; {example}"));
    }
    let peer = text.rsplit_once("/p2p/").map_or("", |(_, peer)| peer);
    if peer.is_empty() || !peer.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(format!("`{text}` does not end in the PeerId of the bootstrap peer; {example}"));
    }
    Ok(text.to_owned())
}

fn dht_protocol(text: &str) -> Result<String, String> {
    let usable = text.len() > 1 && text.len() <= MAX_PROTOCOL && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !usable || !text.starts_with('/') {
        return Err(format!("`{text}` is not a protocol name; write it like /lanrage/kad/1.0.0"));
    }
    Ok(text.to_owned())
}

fn tun_name(text: &str) -> Result<String, String> {
    let usable = !text.is_empty()
        && text.len() <= MAX_DEVICE_NAME
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text != "."
        && text != "..";
    if !usable {
        return Err(format!(
            "`{text}` is not a device name; use 1 to {MAX_DEVICE_NAME} letters and digits, like lanrage0"
        ));
    }
    Ok(text.to_owned())
}

fn range(text: &str) -> Result<Ipv4Range, String> {
    text.parse().map_err(|error: lanrage_actors::wire::RangeError| error.to_string())
}

/// Bytes of an IP packet on the virtual device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mtu(pub u16);

impl Mtu {
    fn new(mtu: u16) -> Result<Self, String> {
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(format!("an MTU of {mtu} does not work; it must be between {MIN_MTU} and {MAX_MTU}"));
        }
        Ok(Self(mtu))
    }
}

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(
            text.parse()
                .map_err(|_| format!("an MTU is a number of bytes between {MIN_MTU} and {MAX_MTU}, not `{text}`"))?,
        )
    }
}

impl<'de> Deserialize<'de> for Mtu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u16::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The first label of a host name, cut to what a name may be.
#[must_use]
pub fn name_from_host(host: &str) -> Option<String> {
    let label = host.split('.').next().unwrap_or_default();
    let name: String = label.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let name = name.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

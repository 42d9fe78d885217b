//! What the three processes tell each other, one JSON object a line.

use std::net::Ipv4Addr;

use lanrage_actors::tun::messages::Address;
use lanrage_actors::wire::Ipv4Range;
use serde::{Deserialize, Serialize};

/// Changes with the messages; both ends are normally the same program file.
pub(super) const VERSION: u32 = 1;

/// From the supervisor to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToNode {
    Hello {
        version: u32,
        pid: u32,
        game: Option<String>,
    },
    /// The descriptor comes with it.
    Device(Network),
    /// The ports that are listened on in the namespace.
    Ports {
        udp: Vec<u16>,
        tcp: Vec<u16>,
    },
}

/// From the node to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromNode {
    Welcome {
        network: Network,
        friends: Vec<Friend>,
    },
    Attached,
    Friends(Vec<Friend>),
    /// No network (any more); the text is for the player.
    Refused(String),
}

/// What the device is set up with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    pub(super) device: String,
    pub(super) ip: Ipv4Addr,
    pub(super) network: Ipv4Addr,
    pub(super) prefix: u8,
    /// Bytes.
    pub(super) mtu: u16,
}

impl Network {
    /// `None` when the range is not one that a party may have.
    pub(super) fn address(&self) -> Option<Address> {
        Some(Address { ip: self.ip, range: Ipv4Range::new(self.network, self.prefix).ok()? })
    }
}

/// Another member. The name is what that member chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Friend {
    pub(super) name: String,
    pub(super) ip: Ipv4Addr,
}

/// From the supervisor to the process inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToInside {
    /// Make the namespaces and the device.
    Make(Setup),
    /// Make the device once more in the namespaces of a process: the node lost the first one.
    Again { pid: u32, setup: Setup },
    /// All is ready: become the game.
    Go,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) supervisor: u32,
    pub(super) network: Network,
    pub(super) friends: Vec<Friend>,
    /// The address of the name server, where the internet is behind the party's network.
    pub(super) internet: Option<Ipv4Addr>,
    /// Inside, the machine is called as its address.
    pub(super) name_is_address: bool,
}

/// From the process inside to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromInside {
    /// The descriptor comes with it.
    Device,
    Failed(String),
}

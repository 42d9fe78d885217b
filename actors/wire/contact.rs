//! How a machine can be reached, in its own words: what its member record and its offers carry.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::endpoint::is_stream;

pub const MAX_CANDIDATES: usize = 16;
pub const MAX_TICKETS: usize = 4;

/// RFC 8445's kinds, and two more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateKind {
    /// An address of one of its interfaces.
    Host,
    /// A port that its router forwards (PCP, NAT-PMP, UPnP IGD).
    Mapped,
    /// As a STUN server or relay saw it.
    ServerReflexive,
    /// As a peer saw it.
    PeerReflexive,
    /// Where a NAT that counts its ports up is expected to map next.
    Predicted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Candidate {
    pub kind: CandidateKind,
    pub addr: SocketAddr,
}

/// RFC 4787, sections 4.1 and 5: on what a mapping or a filter depends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependence {
    #[default]
    Unknown,
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

impl Dependence {
    /// A mapping that others can be told of.
    #[must_use]
    pub fn is_endpoint_independent(self) -> bool {
        self == Self::EndpointIndependent
    }

    /// Each destination gets another port ("symmetric").
    #[must_use]
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::AddressDependent | Self::AddressAndPortDependent)
    }
}

/// What the NAT in front of the data socket does (IPv4, or IPv6 where there is no IPv4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NatBehaviour {
    pub mapping: Dependence,
    pub filtering: Dependence,
    /// The port outside is the one inside.
    pub port_preserving: Option<bool>,
    /// A symmetric NAT that counts: distance between the ports of two mappings made in a row.
    pub port_step: Option<i16>,
    /// Reaches its own outside address from inside.
    pub hairpin: Option<bool>,
    /// No answer came over UDP although the network is up.
    pub udp_blocked: bool,
}

/// What a relay sealed for itself: where to forward, until when. Opaque to all others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RelayToken([u8; 32], [u8; 18]);

impl RelayToken {
    pub const LEN: usize = 50;

    #[must_use]
    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        let mut token = Self([0; 32], [0; 18]);
        token.0.copy_from_slice(&bytes[..32]);
        token.1.copy_from_slice(&bytes[32..]);
        token
    }

    #[must_use]
    pub fn bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..].copy_from_slice(&self.1);
        bytes
    }
}

impl std::fmt::Debug for RelayToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RelayToken({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// Leave to send to a member through a relay: the member asked the relay for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ticket {
    pub relay: SocketAddr,
    pub token: RelayToken,
    /// Unix seconds, by the relay's clock.
    pub expires: u32,
    /// The member's own round trip to the relay, in 100 µs.
    pub rtt: u16,
}

/// How a machine can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Best guess first, at most [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    pub nat: NatBehaviour,
    /// At most [`MAX_TICKETS`].
    pub tickets: Vec<Ticket>,
    /// Anybody can reach it here, and it answers STUN and relays.
    pub serves: Option<SocketAddr>,
}

impl Contact {
    /// Nothing but interface addresses, in this order.
    #[must_use]
    pub fn of_hosts(addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        let candidates = addrs.into_iter().map(|addr| Candidate { kind: CandidateKind::Host, addr }).collect();
        Self { candidates, ..Self::default() }
    }

    /// Whether those who know `before` may send to where this machine no longer is: a relay of both has given it another
    /// token.
    #[must_use]
    pub fn replaces_tickets_of(&self, before: &Self) -> bool {
        before.tickets.iter().any(|old| self.tickets.iter().any(|it| it.relay == old.relay && it.token != old.token))
    }

    /// Whether the data socket of the machine that says this is there.
    #[must_use]
    pub fn is_at(&self, addr: &SocketAddr) -> bool {
        self.serves == Some(*addr) || self.candidates.iter().any(|it| it.addr == *addr)
    }

    /// With what cannot be sent to left out, and no more of anything than is allowed.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let mut seen = std::collections::BTreeSet::new();
        self.candidates.retain(|it| usable_addr(&it.addr) && seen.insert(it.addr));
        self.candidates.truncate(MAX_CANDIDATES);
        self.tickets.retain(|it| usable_addr(&it.relay));
        self.tickets.truncate(MAX_TICKETS);
        self.serves = self.serves.filter(usable_addr);
        self
    }

    /// Whether it keeps to the limits and names only what can be sent to: for contacts of others.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.candidates.len() <= MAX_CANDIDATES
            && self.tickets.len() <= MAX_TICKETS
            && self.candidates.iter().all(|it| usable_addr(&it.addr))
            && self.tickets.iter().all(|it| usable_addr(&it.relay))
            && self.serves.is_none_or(|it| usable_addr(&it))
    }
}

/// Whether packets could be sent there at all. Addresses that stand for streams mean something to their own machine
/// only.
#[must_use]
pub fn usable_addr(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast && !is_stream(ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stream_addr;

    fn candidate(addr: &str) -> Candidate {
        Candidate { kind: CandidateKind::Host, addr: addr.parse().unwrap() }
    }

    #[test]
    fn what_cannot_be_sent_to_is_left_out() {
        let ticket = Ticket { relay: stream_addr(3), token: RelayToken::new([7; 50]), expires: 1, rtt: 1 };
        let contact = Contact {
            candidates: [
                "192.0.2.1:7",
                "192.0.2.1:7",
                "0.0.0.0:7",
                "192.0.2.1:0",
                "224.0.0.1:5",
                "255.255.255.255:5",
                "[100::3]:1",
            ]
            .map(candidate)
            .to_vec(),
            tickets: vec![ticket],
            serves: Some("0.0.0.0:5".parse().unwrap()),
            ..Contact::default()
        };
        assert!(!contact.is_sound());
        let bounded = contact.bounded();
        assert_eq!(bounded.candidates, [candidate("192.0.2.1:7")]);
        assert!(bounded.tickets.is_empty() && bounded.serves.is_none() && bounded.is_sound());
    }

    #[test]
    fn lists_are_bounded() {
        let many = (1..100).map(|n| candidate(&format!("192.0.2.{n}:7"))).collect();
        let contact = Contact { candidates: many, ..Contact::default() };
        assert!(!contact.is_sound());
        assert_eq!(contact.bounded().candidates.len(), MAX_CANDIDATES);
    }

    #[test]
    fn tokens_survive_encoding() {
        let token = RelayToken::new(std::array::from_fn(|n| u8::try_from(n).unwrap()));
        let bytes = bincode::serde::encode_to_vec(token, bincode::config::standard()).unwrap();
        assert_eq!(bytes.len(), 50);
        let (back, _): (RelayToken, _) =
            bincode::serde::decode_from_slice(&bytes, bincode::config::standard()).unwrap();
        assert_eq!(back.bytes(), token.bytes());
    }
}

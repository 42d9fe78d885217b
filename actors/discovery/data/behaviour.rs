//! Opens and accepts data streams, on TCP connections only; offers the relay to whoever asks what this node speaks.
//!
//! `libp2p-stream` takes any connection to a node and does not say which: QUIC is UDP, and a circuit has a data limit and
//! somebody else's bandwidth.

#![allow(clippy::wildcard_enum_match_arm, reason = "libp2p's events are many, and more come with each version")]

use std::array;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter::Flatten;
use std::task::{Context, Poll, Waker};

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, InboundUpgrade, UpgradeInfo};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent, DialUpgradeError, FullyNegotiatedInbound,
    FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, Stream,
    SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/lanrage/data/1");
/// A node that lists this name, with its UDP port at the end, is a relay. No stream is ever opened for it.
const RELAY_PREFIX: &str = "/lanrage/relay/1/udp/";
/// Streams of one connection that the actor has not taken yet.
const MAX_PENDING: usize = 8;

/// The UDP port in a relay's protocol name.
pub(in crate::discovery) fn relay_port(protocol: &StreamProtocol) -> Option<u16> {
    let port = protocol.as_ref().strip_prefix(RELAY_PREFIX)?;
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten().filter(|port| *port != 0)
}

pub(in crate::discovery) fn is_tcp(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Tcp(_))) && !addr.iter().any(|part| part == Protocol::P2pCircuit)
}

/// One connection, as far as it matters here.
#[derive(Debug)]
pub(in crate::discovery) struct Connection {
    peer: PeerId,
    pub(in crate::discovery) remote: Multiaddr,
    /// This node dialled `remote`; else its port is a passing one.
    pub(in crate::discovery) dialled: bool,
    pub(in crate::discovery) circuit: bool,
    tcp: bool,
}

#[derive(Debug)]
pub(in crate::discovery) enum Event {
    Opened { id: u64, peer: PeerId, connection: ConnectionId, stream: Stream },
    Failed { id: u64, peer: PeerId, why: String },
    Inbound { peer: PeerId, connection: ConnectionId, stream: Stream },
}

#[derive(Default)]
pub(in crate::discovery) struct Behaviour {
    connections: BTreeMap<ConnectionId, Connection>,
    /// Streams asked for and not answered.
    asked: BTreeMap<u64, (ConnectionId, PeerId)>,
    offer: Option<StreamProtocol>,
    events: VecDeque<ToSwarm<Event, Command>>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Asks for a stream on the newest TCP connection to `peer`; an event with `id` is to follow.
    pub(in crate::discovery) fn open(&mut self, peer: PeerId, id: u64) {
        let Some(connection) = self.newest_by_tcp(peer) else {
            self.emit(ToSwarm::GenerateEvent(Event::Failed { id, peer, why: "no TCP connection".into() }));
            return;
        };
        self.asked.insert(id, (connection, peer));
        let handler = NotifyHandler::One(connection);
        self.emit(ToSwarm::NotifyHandler { peer_id: peer, handler, event: Command::Open(id) });
    }

    pub(in crate::discovery) fn by_tcp(&self, peer: PeerId) -> bool {
        self.newest_by_tcp(peer).is_some()
    }

    fn newest_by_tcp(&self, peer: PeerId) -> Option<ConnectionId> {
        let mut newest = self.connections.iter().rev();
        newest.find(|(_, connection)| connection.tcp && connection.peer == peer).map(|(&id, _)| id)
    }

    pub(in crate::discovery) fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// All connections to a node.
    pub(in crate::discovery) fn connections(&self, peer: PeerId) -> impl Iterator<Item = &Connection> {
        self.connections.values().filter(move |connection| connection.peer == peer)
    }

    /// The UDP port of this node's relay, or none. Nodes that are connected are told.
    pub(in crate::discovery) fn offer_relay(&mut self, port: Option<u16>) {
        let offer = port.and_then(|port| StreamProtocol::try_from_owned(format!("{RELAY_PREFIX}{port}")).ok());
        if offer == self.offer {
            return;
        }
        self.offer = offer;
        let tell: Vec<_> = self.connections.iter().map(|(&id, connection)| (id, connection.peer)).collect();
        for (id, peer_id) in tell {
            let event = Command::Offer(self.offer.clone());
            self.emit(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(id), event });
        }
    }

    fn emit(&mut self, event: ToSwarm<Event, Command>) {
        self.events.push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn add(&mut self, id: ConnectionId, peer: PeerId, local: Option<&Multiaddr>, remote: &Multiaddr) -> Handler {
        let circuit = |addr: &Multiaddr| addr.iter().any(|part| part == Protocol::P2pCircuit);
        let circuit = circuit(remote) || local.is_some_and(circuit);
        let tcp = !circuit && is_tcp(remote);
        let connection = Connection { peer, remote: remote.clone(), dialled: local.is_none(), circuit, tcp };
        self.connections.insert(id, connection);
        Handler { tcp, offer: self.offer.clone(), asked: VecDeque::new(), events: VecDeque::new() }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.add(connection, peer, Some(local), remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.add(connection, peer, None, remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let gone = match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => connection_id,
            // Another behaviour refused it after this one had given a handler.
            FromSwarm::DialFailure(failure) => failure.connection_id,
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            _ => return,
        };
        self.connections.remove(&gone);
        while let Some((&id, &(_, peer))) = self.asked.iter().find(|(_, (connection, _))| *connection == gone) {
            self.asked.remove(&id);
            self.emit(ToSwarm::GenerateEvent(Event::Failed { id, peer, why: "the connection closed".into() }));
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            FromHandler::Inbound(stream) => {
                self.emit(ToSwarm::GenerateEvent(Event::Inbound { peer, connection, stream }))
            }
            FromHandler::Opened(id, stream) => {
                if self.asked.remove(&id).is_some() {
                    self.emit(ToSwarm::GenerateEvent(Event::Opened { id, peer, connection, stream }));
                }
            }
            FromHandler::Failed(id, why) => {
                if self.asked.remove(&id).is_some() {
                    self.emit(ToSwarm::GenerateEvent(Event::Failed { id, peer, why }));
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[derive(Debug)]
pub(in crate::discovery) enum Command {
    Open(u64),
    Offer(Option<StreamProtocol>),
}

#[derive(Debug)]
pub(in crate::discovery) enum FromHandler {
    Opened(u64, Stream),
    Failed(u64, String),
    Inbound(Stream),
}

/// One connection's part.
pub(in crate::discovery) struct Handler {
    tcp: bool,
    offer: Option<StreamProtocol>,
    asked: VecDeque<u64>,
    events: VecDeque<FromHandler>,
}

/// Names of what this node speaks on one connection.
pub(in crate::discovery) struct Names([Option<StreamProtocol>; 2]);

impl UpgradeInfo for Names {
    type Info = StreamProtocol;
    type InfoIter = Flatten<array::IntoIter<Option<StreamProtocol>, 2>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter().flatten()
    }
}

impl InboundUpgrade<Stream> for Names {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = FromHandler;
    type InboundProtocol = Names;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = u64;

    fn listen_protocol(&self) -> SubstreamProtocol<Names> {
        SubstreamProtocol::new(Names([self.tcp.then_some(PROTOCOL), self.offer.clone()]), ())
    }

    fn on_behaviour_event(&mut self, command: Command) {
        match command {
            Command::Open(id) => self.asked.push_back(id),
            Command::Offer(offer) => self.offer = offer,
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, u64, FromHandler>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if let Some(id) = self.asked.pop_front() {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), id);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), u64>,
    ) {
        match event {
            // What does not fit, and what is no data stream, is closed by being dropped.
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, name), .. })
                if name == PROTOCOL && self.events.len() < MAX_PENDING =>
            {
                self.events.push_back(FromHandler::Inbound(stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: id }) => {
                self.events.push_back(FromHandler::Opened(id, stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: id, error }) => {
                self.events.push_back(FromHandler::Failed(id, error.to_string()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_s_port_is_read_from_its_protocol_name() {
        let port = |text: &str| relay_port(&StreamProtocol::try_from_owned(text.to_owned()).unwrap());
        assert_eq!(port("/lanrage/relay/1/udp/51820"), Some(51_820));
        for bad in ["0", "+5", "", "65536", "1/2", " 1", "99999999999999999999"] {
            assert_eq!(port(&format!("{RELAY_PREFIX}{bad}")), None, "{bad}");
        }
        assert_eq!(port("/lanrage/relay/2/udp/1"), None);
    }

    #[test]
    fn only_tcp_to_the_node_itself_is_tcp() {
        let tcp = |text: &str| is_tcp(&text.parse().unwrap());
        assert!(tcp("/ip4/203.0.113.1/tcp/443") && tcp("/dns4/relay.example/tcp/443"));
        assert!(!tcp("/ip4/203.0.113.1/udp/443/quic-v1"));
        let relay = "12D3KooWD3bfmNbuuuVCYwkjnFt3ukm3qaB3hDED3peHHXawvRAi";
        assert!(!tcp(&format!("/ip4/203.0.113.1/tcp/443/p2p/{relay}/p2p-circuit")));
    }
}

//! DiscoveryActor's part in data streams, and in serving as a relay.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Instant;

use actix::prelude::*;
use libp2p::PeerId;
use libp2p::swarm::{ConnectionId, Stream};

use super::super::Role;
use super::super::actor::{DiscoveryActor, node_id, now, peer_id};
use super::super::filter;
use super::super::messages::{
    CloseDataStream, DataStreamClosed, DataStreamOpened, DataStreamsView, FindRelays, OpenDataStream, RelayFound,
    SendOnStream, SetServing, StreamDatagrams,
};
use super::behaviour::Event;
use super::plan::{Action, Limits, Opened, Plan};
use super::streams::{self, Channel, Listener, Opening};
use crate::wire::NodeId;

/// A dedicated relay has no members.
const RELAY: Limits = Limits { inbound: 4096, strangers: 4096, strangers_per_host: 64 };
const NODE: Limits = Limits { inbound: 64, strangers: 48, strangers_per_host: 8 };

/// Whom data streams and relays are reported to. Until this has come no stream is accepted or opened.
#[derive(Message)]
#[rtype(result = "()")]
#[allow(missing_debug_implementations, reason = "actix recipients have none")]
pub struct BindDataStreams {
    pub opened: Recipient<DataStreamOpened>,
    pub closed: Recipient<DataStreamClosed>,
    pub datagrams: Recipient<StreamDatagrams>,
    pub relay_found: Option<Recipient<RelayFound>>,
}

struct OpenStream {
    channel: Rc<Channel>,
    inbound: bool,
    connection: ConnectionId,
}

#[derive(Default)]
pub(in crate::discovery) struct DataStreams {
    pub(in crate::discovery) plan: Plan,
    pub(in crate::discovery) serving: Option<u16>,
    pub(in crate::discovery) relay_found: Option<Recipient<RelayFound>>,
    listener: Option<Listener>,
    open: BTreeMap<u64, OpenStream>,
    /// Dials that were made for a data stream.
    pub(in crate::discovery) dials: HashMap<ConnectionId, NodeId>,
    refused: u64,
    dropped_gone: u64,
    /// By streams that are over.
    dropped_oldest: u64,
}

impl DataStreams {
    /// `first_id`: see `Plan::starting_at`.
    pub(in crate::discovery) fn starting_at(first_id: u64) -> Self {
        Self { plan: Plan::starting_at(first_id), ..Self::default() }
    }

    pub(in crate::discovery) fn view(&self) -> DataStreamsView {
        DataStreamsView {
            open: self.open.len(),
            inbound: self.open.values().filter(|stream| stream.inbound).count(),
            refused: self.refused,
            dropped_oldest: self.dropped_oldest + self.open.values().map(|it| it.channel.dropped()).sum::<u64>(),
            dropped_gone: self.dropped_gone,
        }
    }

    /// Closing a connection whose other end is gone takes as long as TCP likes.
    pub(in crate::discovery) fn connection_lost(&self, connection: ConnectionId) {
        for stream in self.open.values().filter(|stream| stream.connection == connection) {
            stream.channel.abort();
        }
    }

    fn close(&self, id: u64) {
        if let Some(stream) = self.open.get(&id) {
            stream.channel.close();
        }
    }
}

impl DiscoveryActor {
    pub(in crate::discovery) fn drive_data(&mut self, now: Instant) {
        if self.data.listener.is_none() {
            return;
        }
        let behaviour = &self.swarm.behaviour().data;
        let actions = self.data.plan.tick(now, |node| peer_id(node).is_some_and(|peer| behaviour.by_tcp(peer)));
        for action in actions {
            match action {
                Action::Dial { node, addrs } => self.dial_tcp(node, &addrs),
                Action::Open { node, id } => {
                    if let Some(peer) = peer_id(node) {
                        self.swarm.behaviour_mut().data.open(peer, id);
                    }
                }
            }
        }
    }

    /// Whether it was a dial for a data stream.
    pub(in crate::discovery) fn data_dial_failed(&mut self, dial: ConnectionId) -> bool {
        let Some(node) = self.data.dials.remove(&dial) else { return false };
        self.data.plan.dial_failed(now(), node);
        true
    }

    pub(in crate::discovery) fn on_data(&mut self, event: Event) {
        match event {
            Event::Opened { id, peer, connection, stream } => {
                if let Some(node) = node_id(&peer) {
                    self.add_data_stream(id, node, false, connection, stream);
                }
            }
            Event::Failed { id, peer, why } => {
                tracing::debug!(%peer, id, why, "no data stream");
                if let Some(node) = node_id(&peer) {
                    self.data.plan.ended(now(), node, id);
                }
            }
            Event::Inbound { peer, connection, stream } => self.accept_data_stream(peer, connection, stream),
        }
    }

    /// A relay serves anybody; other nodes only those that the party wants a stream to.
    fn accept_data_stream(&mut self, peer: PeerId, connection: ConnectionId, stream: Stream) {
        let Some(node) = node_id(&peer) else { return };
        let stranger = !self.planner.is_wanted(node);
        let limits = if self.config.role == Role::Relay { RELAY } else { NODE };
        let from = self.swarm.behaviour().data.connection(connection).and_then(|it| filter::ip_of(&it.remote));
        let welcome = self.data.listener.is_some() && (!stranger || self.data.serving.is_some());
        let Some((id, replaced)) = welcome.then(|| self.data.plan.accept(node, from, stranger, limits)).flatten()
        else {
            self.data.refused += 1;
            tracing::debug!(%node, "data stream refused");
            return;
        };
        if let Some(replaced) = replaced {
            self.data.close(replaced);
        }
        self.add_data_stream(id, node, true, connection, stream);
    }

    fn add_data_stream(&mut self, id: u64, node: NodeId, inbound: bool, connection: ConnectionId, stream: Stream) {
        let (Some(listener), Some(own)) = (self.data.listener.clone(), self.own_address.clone()) else { return };
        let channel = Channel::new();
        self.data.open.insert(id, OpenStream { channel: Rc::clone(&channel), inbound, connection });
        actix::spawn(async move {
            let confirmed = async || own.send(Confirmed { id, node }).await.ok().flatten();
            streams::run(stream, Opening { id, node, inbound }, channel, listener, confirmed).await;
            let _ = own.send(Ended { id, node }).await;
        });
    }
}

/// The other side accepts a stream that this node opened. Answered with what it stands for, or `None` when it is not
/// wanted any more.
#[derive(Message)]
#[rtype(result = "Option<Opened>")]
struct Confirmed {
    id: u64,
    node: NodeId,
}

/// A stream's task is over.
#[derive(Message)]
#[rtype(result = "()")]
struct Ended {
    id: u64,
    node: NodeId,
}

impl Handler<Confirmed> for DiscoveryActor {
    type Result = MessageResult<Confirmed>;

    fn handle(&mut self, Confirmed { id, node }: Confirmed, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.data.plan.opened(now(), node, id))
    }
}

impl Handler<Ended> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, Ended { id, node }: Ended, ctx: &mut Self::Context) {
        if let Some(stream) = self.data.open.remove(&id) {
            self.data.dropped_oldest += stream.channel.dropped();
        }
        self.data.plan.ended(now(), node, id);
        self.drive(ctx);
    }
}

impl Handler<BindDataStreams> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, bind: BindDataStreams, ctx: &mut Self::Context) {
        self.data.listener = Some(Listener { opened: bind.opened, closed: bind.closed, datagrams: bind.datagrams });
        self.data.relay_found = bind.relay_found;
        self.drive(ctx);
    }
}

impl Handler<OpenDataStream> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, open: OpenDataStream, ctx: &mut Self::Context) {
        if node_id(self.swarm.local_peer_id()) == Some(open.node) {
            return;
        }
        if !self.data.plan.want(now(), open.node, open.addrs, open.relay) {
            tracing::warn!(node = %open.node, "too many data streams: this one is not opened");
        }
        self.drive(ctx);
    }
}

impl Handler<CloseDataStream> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, CloseDataStream(node): CloseDataStream, _: &mut Self::Context) {
        if let Some(id) = self.data.plan.unwant(node) {
            self.data.close(id);
        }
    }
}

impl Handler<SendOnStream> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, SendOnStream { stream, datagrams }: SendOnStream, _: &mut Self::Context) {
        match self.data.open.get(&stream) {
            Some(open) => open.channel.push(datagrams.contents().chunks(datagrams.segment_size().max(1))),
            None => self.data.dropped_gone += datagrams.segments() as u64,
        }
    }
}

impl Handler<SetServing> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, SetServing(port): SetServing, ctx: &mut Self::Context) {
        let port = port.filter(|&port| port != 0);
        self.data.serving = port;
        self.swarm.behaviour_mut().data.offer_relay(port);
        self.relays.set_serving(port.is_some());
        self.drive(ctx);
    }
}

impl Handler<FindRelays> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, _: FindRelays, ctx: &mut Self::Context) {
        for found in self.relays.find() {
            self.tell_relay(found);
        }
        self.drive(ctx);
    }
}

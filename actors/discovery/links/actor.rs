//! DiscoveryActor's part in party streams.

use std::task::{Context as TaskContext, Poll};

use actix::prelude::*;
use futures::StreamExt;
use libp2p_stream::OpenStreamError;
use tokio::sync::mpsc;

use super::super::actor::{DiscoveryActor, node_id, now, peer_id};
use super::super::messages::{CloseLink, LinkId, LinkOpened, SendFrame};
use super::super::swarm::PARTY_PROTOCOL;
use super::streams::{self, LinkListener, SEND_QUEUE};
use crate::wire::NodeId;

/// Links at once, proved or not: twice a full party.
const MAX_LINKS: usize = 600;

impl DiscoveryActor {
    pub(in crate::discovery) fn open_stream(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let Some(peer) = peer_id(node) else { return };
        let mut control = self.swarm.behaviour().streams.new_control();
        let open = async move { control.open_stream(peer, PARTY_PROTOCOL).await };
        ctx.spawn(open.into_actor(self).map(move |opened, actor, ctx| {
            match opened {
                Ok(stream) => actor.add_link(node, stream, true),
                Err(error) => {
                    tracing::debug!(%node, %error, "no party stream");
                    let unsupported = matches!(error, OpenStreamError::UnsupportedProtocol(_));
                    actor.planner.stream_failed(now(), node, unsupported);
                }
            }
            actor.drive(ctx);
        }));
    }

    pub(in crate::discovery) fn add_link(&mut self, node: NodeId, stream: libp2p::Stream, outbound: bool) {
        let Some(links) = self.links.clone().filter(|_| self.open.len() < MAX_LINKS) else {
            self.planner.stream_failed(now(), node, false);
            return;
        };
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let (sender, receiver) = mpsc::channel(SEND_QUEUE);
        self.open.insert(link, sender);
        self.planner.link_opened(now(), node);
        let opened = LinkOpened { link, node, outbound, remote_ip: self.remote_ip(node) };
        let listener = LinkListener { opened: links.opened, frame: links.frame, closed: links.closed };
        let own = self.own_address.clone();
        actix::spawn(async move {
            streams::run(stream, opened, receiver, listener).await;
            if let Some(own) = own {
                let _ = own.send(LinkEnded { link, node }).await;
            }
        });
    }

    pub(in crate::discovery) fn poll_incoming(&mut self, cx: &mut TaskContext<'_>) {
        while let Some(Poll::Ready(Some((peer, stream)))) =
            self.incoming.as_mut().map(|incoming| incoming.poll_next_unpin(cx))
        {
            if let Some(node) = node_id(&peer) {
                self.add_link(node, stream, false);
            }
        }
    }
}

/// A link's task is over.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LinkEnded {
    link: LinkId,
    node: NodeId,
}

impl Handler<SendFrame> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, SendFrame { link, frame }: SendFrame, _: &mut Self::Context) {
        let Some(sender) = self.open.get(&link) else { return };
        if sender.try_send(frame).is_err() {
            // Too slow to keep up, or gone: without one frame the rest would make no sense.
            self.dropped_frames += 1;
            self.open.remove(&link);
        }
    }
}

impl Handler<CloseLink> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, CloseLink(link): CloseLink, _: &mut Self::Context) {
        self.open.remove(&link);
    }
}

impl Handler<LinkEnded> for DiscoveryActor {
    type Result = ();

    fn handle(&mut self, ended: LinkEnded, ctx: &mut Self::Context) {
        self.open.remove(&ended.link);
        self.planner.link_closed(now(), ended.node);
        self.drive(ctx);
    }
}

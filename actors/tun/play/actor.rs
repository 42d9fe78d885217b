//! TunActor's part for namespaces.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use actix::{ActorFuture, AsyncContext, Context, Handler};
use futures::channel::oneshot;

use super::super::actor::TunActor;
use super::super::messages::{AttachError, AttachPlay, Attached, DetachPlay, PlayCounters, PlayId, PlayPorts};
use super::sides::Play;
use super::{Side, Split};
use crate::wire::PacketBatch;

/// Reads the device of a namespace, as the actor's own loop reads the system's.
struct PlayLoop(PlayId);

impl ActorFuture<TunActor> for PlayLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut TunActor,
        ctx: &mut Context<TunActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        actor.drain(Side::Play(self.0), ctx, task)
    }
}

impl TunActor {
    /// Writes each packet to the side that it is for. Only called while there are namespaces.
    pub(in crate::tun) fn deliver_to_sides(&mut self, batch: &PacketBatch, now: Instant, ctx: &mut Context<Self>) {
        let Some(address) = self.lifecycle.address() else { return };
        match self.sides.split(batch, address.ip, now) {
            Split::Whole(Side::System) => self.write(batch, ctx),
            Split::Whole(Side::Play(id)) => self.write_to_play(id, batch),
            Split::Whole(Side::All) => {
                self.write(batch, ctx);
                self.deliver_to_plays(batch);
            }
            Split::Parts(parts) => {
                let Some((system, parts)) = parts.split_first() else { return };
                let ids: Vec<PlayId> = self.sides.plays.iter().map(|play| play.id).collect();
                for (id, part) in ids.into_iter().zip(parts) {
                    self.write_to_play(id, part);
                }
                self.write(system, ctx);
            }
        }
    }

    /// Writes all packets to each namespace.
    pub(in crate::tun) fn deliver_to_plays(&mut self, batch: &PacketBatch) {
        let ids: Vec<PlayId> = self.sides.plays.iter().map(|play| play.id).collect();
        for id in ids {
            self.write_to_play(id, batch);
        }
    }

    fn write_to_play(&mut self, id: PlayId, batch: &PacketBatch) {
        let Some(play) = self.sides.find(id) else { return };
        if batch.is_empty() {
            return;
        }
        let report = play.device.write_batch(batch);
        play.counters.written_packets += report.packets;
        play.counters.dropped += (batch.len() as u64).saturating_sub(report.packets);
        if let Some(why) = report.gone {
            self.lose_play(id, &why);
        }
    }

    pub(in crate::tun) fn lose_play(&mut self, id: PlayId, why: &std::io::Error) {
        if let Some(play) = self.sides.remove(id) {
            tracing::info!(pid = play.pid, %why, "the network of a program ended");
        }
    }
}

impl Handler<AttachPlay> for TunActor {
    type Result = Result<Attached, AttachError>;

    fn handle(&mut self, attach: AttachPlay, ctx: &mut Context<Self>) -> Self::Result {
        if self.lifecycle.address() != Some(attach.address) {
            return Err(AttachError::Moved);
        }
        if self.sides.is_full() {
            return Err(AttachError::TooMany);
        }
        let device = self.factory.adopt(attach.device).map_err(|error| AttachError::Refused(error.to_string()))?;
        let (sender, ended) = oneshot::channel();
        let id = self.sides.next_id();
        self.sides.plays.push(Play {
            id,
            device,
            pid: attach.pid,
            game: attach.game,
            counters: PlayCounters::default(),
            _ended: sender,
        });
        ctx.spawn(PlayLoop(id));
        Ok(Attached { id, ended })
    }
}

impl Handler<DetachPlay> for TunActor {
    type Result = ();

    fn handle(&mut self, DetachPlay(id): DetachPlay, _ctx: &mut Context<Self>) {
        drop(self.sides.remove(id));
    }
}

impl Handler<PlayPorts> for TunActor {
    type Result = ();

    fn handle(&mut self, ports: PlayPorts, _ctx: &mut Context<Self>) {
        if self.sides.find(ports.id).is_some() {
            self.sides.owners.listens(ports.id, &ports.udp, &ports.tcp);
        }
    }
}

#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use actix::dev::SendError;
use actix::prelude::*;

use super::machine::{BroadcastMachine, Outputs, Settings};
use super::messages::{BindBroadcast, FromDevice, FromMember, GetBroadcast, SetGameRules};
use crate::browser::messages::Announcement;
use crate::peer::messages::Outbound;
use crate::tun::messages::{AddRoute, Deliver, RemoveRoute, SetAddress};
use crate::wire::PacketBatch;

/// Batches, not packets.
const MAILBOX: usize = 64;
/// More than the members of any party (255).
const MAX_MEMBERS: usize = 1024;

/// Translates between the mailbox and one `BroadcastMachine`.
pub struct BroadcastActor {
    machine: BroadcastMachine,
    outputs: Outputs,
    links: Option<BindBroadcast>,
    members: BTreeMap<Ipv4Addr, Recipient<Outbound>>,
}

impl BroadcastActor {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            machine: BroadcastMachine::new(settings),
            outputs: Outputs::default(),
            links: None,
            members: BTreeMap::new(),
        }
    }

    fn flush(&mut self) {
        let Self { machine, outputs, links, members } = self;
        for batch in outputs.send.drain() {
            for member in members.values() {
                let packets = batch.len() as u64;
                match member.try_send(Outbound(copy(&batch))) {
                    Ok(()) => machine.count_copies(packets),
                    Err(SendError::Full(_) | SendError::Closed(_)) => machine.count_busy(packets),
                }
            }
        }
        for batch in outputs.deliver.drain() {
            let packets = batch.len() as u64;
            if links.as_ref().is_none_or(|links| links.deliver.try_send(Deliver(batch)).is_err()) {
                machine.count_busy(packets);
            }
        }
        let heard = links.as_ref().and_then(|links| links.heard.as_ref());
        for it in outputs.heard.drain(..) {
            let announcement = Announcement {
                member: it.member,
                source_port: it.source_port,
                destination: it.destination,
                destination_port: it.destination_port,
                payload: it.payload,
            };
            // Who wants to read along and has no room misses one: the next comes soon.
            let _ = heard.map(|heard| heard.try_send(announcement));
        }
    }
}

fn copy(batch: &PacketBatch) -> PacketBatch {
    let mut copy = PacketBatch::new();
    for packet in batch.iter() {
        // As much room as the first has.
        let _ = copy.push(packet);
    }
    copy
}

/// tokio's clock, so that a paused one moves the actor as well.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Actor for BroadcastActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<BindBroadcast> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, links: BindBroadcast, _: &mut Self::Context) {
        self.links = Some(links);
    }
}

impl Handler<FromDevice> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, FromDevice(batch): FromDevice, _: &mut Self::Context) {
        self.machine.on_device(now(), &batch, &mut self.outputs);
        self.flush();
    }
}

impl Handler<FromMember> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, FromMember { ip, batch }: FromMember, _: &mut Self::Context) {
        self.machine.on_member(now(), ip, &batch, &mut self.outputs);
        self.flush();
    }
}

impl Handler<SetAddress> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, _: &mut Self::Context) {
        self.machine.set_address(address);
    }
}

impl Handler<AddRoute> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, AddRoute { ip, peer }: AddRoute, _: &mut Self::Context) {
        if self.members.len() < MAX_MEMBERS || self.members.contains_key(&ip) {
            self.members.insert(ip, peer);
            self.machine.add_member(ip);
        }
    }
}

impl Handler<RemoveRoute> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, RemoveRoute { ip }: RemoveRoute, _: &mut Self::Context) {
        self.members.remove(&ip);
        self.machine.remove_member(ip);
    }
}

impl Handler<SetGameRules> for BroadcastActor {
    type Result = ();

    fn handle(&mut self, SetGameRules(rules): SetGameRules, _: &mut Self::Context) {
        self.machine.set_rules(rules);
    }
}

impl Handler<GetBroadcast> for BroadcastActor {
    type Result = MessageResult<GetBroadcast>;

    fn handle(&mut self, _: GetBroadcast, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.machine.view())
    }
}

//! Small actors between two shipped ones: one counts, the other makes a node lie about itself.
#![allow(missing_debug_implementations)]

use actix::prelude::*;
use lanrage_actors::nat::NatActor;
use lanrage_actors::nat::messages::{OwnContact, Register, Unregister};
use lanrage_actors::peer::messages::Inbound;
use lanrage_actors::wire::Contact;

use super::world;

const MAILBOX: usize = 512;

/// Between the peers and the data socket: keeps everybody who was ever registered, as all must be gone when the node is.
pub struct Registry {
    nat: Addr<NatActor>,
    registered: Vec<Recipient<Inbound>>,
}

impl Registry {
    #[must_use]
    pub fn new(nat: Addr<NatActor>) -> Self {
        world::with(|world| world.alive += 1);
        Self { nat, registered: Vec::new() }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        world::try_with(|world| world.alive -= 1);
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Register> for Registry {
    type Result = ();

    fn handle(&mut self, register: Register, ctx: &mut Self::Context) {
        self.registered.retain(Recipient::connected);
        // The supervisor registers again when the route of the device did not get through.
        if !self.registered.contains(&register.inbound) {
            self.registered.push(register.inbound.clone());
        }
        // In order, and however full its mailbox is.
        ctx.wait(self.nat.send(register).into_actor(self).map(|_, _, _| ()));
    }
}

impl Handler<Unregister> for Registry {
    type Result = ();

    fn handle(&mut self, unregister: Unregister, ctx: &mut Self::Context) {
        ctx.wait(self.nat.send(unregister).into_actor(self).map(|_, _, _| ()));
    }
}

/// How many PeerActors run.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct CountPeers;

impl Handler<CountPeers> for Registry {
    type Result = usize;

    fn handle(&mut self, _: CountPeers, _: &mut Self::Context) -> usize {
        self.registered.iter().filter(|peer| peer.connected()).count()
    }
}

#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct HaltTap;

impl Handler<HaltTap> for Registry {
    type Result = ();

    fn handle(&mut self, _: HaltTap, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// Between the data socket and those who are told of it: what they are told is made up.
pub struct Liar {
    forge: Box<dyn Fn(&mut Contact)>,
    listeners: Vec<Recipient<OwnContact>>,
}

impl Liar {
    #[must_use]
    pub fn new(forge: Box<dyn Fn(&mut Contact)>, listeners: Vec<Recipient<OwnContact>>) -> Self {
        world::with(|world| world.alive += 1);
        Self { forge, listeners }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        world::try_with(|world| world.alive -= 1);
    }
}

impl Actor for Liar {
    type Context = Context<Self>;
}

impl Handler<OwnContact> for Liar {
    type Result = ();

    fn handle(&mut self, OwnContact(mut contact): OwnContact, ctx: &mut Self::Context) {
        (self.forge)(&mut contact);
        for listener in &self.listeners {
            ctx.wait(listener.send(OwnContact(contact.clone())).into_actor(self).map(|_, _, _| ()));
        }
    }
}

impl Handler<HaltTap> for Liar {
    type Result = ();

    fn handle(&mut self, _: HaltTap, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

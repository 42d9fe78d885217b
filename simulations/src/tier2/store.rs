//! In StoreActor's place: a memory that outlives the node's program.
#![allow(missing_debug_implementations)]

use std::cell::RefCell;
use std::collections::BTreeMap;

use actix::{Actor, Context, Handler};
use lanrage_actors::store::messages::{SaveParty, StoreError, StoredParty};

thread_local! {
    /// By node, the last changed first.
    static DISKS: RefCell<BTreeMap<usize, Vec<StoredParty>>> = const { RefCell::new(BTreeMap::new()) };
}

pub fn clear() {
    DISKS.with_borrow_mut(BTreeMap::clear);
}

/// What a starting program finds: the active party, and the others.
#[must_use]
pub fn load(node: usize) -> (Option<StoredParty>, Vec<StoredParty>) {
    let stored = DISKS.with_borrow(|disks| disks.get(&node).cloned().unwrap_or_default());
    let (mut active, others): (Vec<_>, Vec<_>) = stored.into_iter().partition(|party| party.active);
    (active.pop(), others)
}

pub struct SimStore {
    pub node: usize,
}

impl Actor for SimStore {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(64);
    }
}

impl Handler<SaveParty> for SimStore {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, SaveParty(party): SaveParty, _: &mut Self::Context) -> Self::Result {
        DISKS.with_borrow_mut(|disks| {
            let disk = disks.entry(self.node).or_default();
            disk.retain(|other| other.id != party.id);
            if party.active {
                disk.iter_mut().for_each(|other| other.active = false);
            }
            disk.insert(0, party);
        });
        Ok(())
    }
}

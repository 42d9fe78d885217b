#![allow(missing_debug_implementations)]

use actix::{Actor, Context, Handler};

use super::db::Store;
use super::messages::{ForgetParty, GetSetting, LoadParties, PutSetting, SaveParty, StoreError, StoredParty};

/// Commands wait on the disk, so a deep queue would only hide a disk that does not keep up.
const MAILBOX: usize = 64;

/// Owns the database. Every command blocks its thread until the disk has it: start it on an arbiter of its own.
pub struct StoreActor {
    store: Store,
}

impl StoreActor {
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Actor for StoreActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<SaveParty> for StoreActor {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, SaveParty(party): SaveParty, _: &mut Self::Context) -> Self::Result {
        self.store.save_party(&party)
    }
}

impl Handler<LoadParties> for StoreActor {
    type Result = Result<Vec<StoredParty>, StoreError>;

    fn handle(&mut self, LoadParties: LoadParties, _: &mut Self::Context) -> Self::Result {
        self.store.parties()
    }
}

impl Handler<ForgetParty> for StoreActor {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, ForgetParty(id): ForgetParty, _: &mut Self::Context) -> Self::Result {
        self.store.forget_party(id)
    }
}

impl Handler<PutSetting> for StoreActor {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, PutSetting { key, value }: PutSetting, _: &mut Self::Context) -> Self::Result {
        self.store.put_setting(&key, value.as_deref())
    }
}

impl Handler<GetSetting> for StoreActor {
    type Result = Result<Option<String>, StoreError>;

    fn handle(&mut self, GetSetting(key): GetSetting, _: &mut Self::Context) -> Self::Result {
        self.store.setting(&key)
    }
}

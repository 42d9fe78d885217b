//! What must survive: identity, parties, settings. SQLite in WAL mode, owned by one actor on a thread of its own.
//!
//! An answer means synced to disk. A damaged database is set aside, never replaced while it holds the only copy of the
//! identity; `damage.rs` has the rules.

mod actor;
mod damage;
mod db;
mod error;
mod identity;
mod lock;
pub mod messages;
mod private;
mod schema;

pub use actor::StoreActor;
pub use db::{IdentityPolicy, Opened, Store};
pub use error::OpenError;
pub use identity::Identity;
pub use private::{create_private_dir, write_private};

#[cfg(test)]
mod tests;

//! Relays: this machine's tickets of relays, and its own service as one.
//!
//! A relay keeps nothing about its clients. Who wants to be reached through it asks it, and is answered with a token: his
//! address as the relay sees it and an expiry, sealed under the relay's own key. Whoever puts that token before a
//! datagram has it forwarded there. `docs/protocol.md`, "Relay frames", has the bytes.

mod actor;
pub mod client;
pub mod frame;
mod known;
pub mod limiter;
pub mod messages;
pub mod server;
pub mod token;

pub use actor::{Halt, RelayActor};

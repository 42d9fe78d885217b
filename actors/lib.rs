//! LANrage's actors, one folder per concern.
//!
//! Inside a concern, `messages.rs` is the public face for the others, `actor.rs` the thin actix shell, and the rest
//! sans-IO machines and pure functions that take `now` and return outputs. `docs/ARCHITECTURE.md` has the map.

pub mod broadcast;
pub mod browser;
pub mod discovery;
pub mod game_watch;
pub mod metrics;
pub mod nat;
pub mod party;
pub mod peer;
pub mod relay;
pub mod store;
pub mod tun;
pub mod wire;

//! `lanrage play`: a program in a network namespace that has only the party's network. docs/decisions/ says why so.
//!
//! Three processes take part. The supervisor (`lanrage play`) stays in the system's namespaces: it talks to the node,
//! passes signals and the exit code on. The one inside makes the namespaces and the device, then becomes the game. The node
//! reads and writes the device, whose descriptor it is handed.

mod channel;
mod hosts;
mod inside;
mod internet;
mod linux;
mod messages;
mod node;
mod ports;
mod supervisor;

pub(crate) use inside::run as run_inside;
pub(crate) use node::{Actors as PlayActors, Sessions};
pub(crate) use supervisor::{Order, run};

#[cfg(fuzzing)]
pub use channel::read_all;

/// In the data folder.
const SOCKET_FILE: &str = "play.sock";

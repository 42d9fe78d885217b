//! Games: what is known about each (profiles), which of them run, and what is done about it.

pub mod actor;
pub mod folder;
pub mod hosted;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod machine;
pub mod matcher;
pub mod messages;
pub mod process;
pub mod profile;
pub mod set;
mod sockets;
pub mod source;
pub mod tuning;

#[cfg(test)]
mod shipped_tests;

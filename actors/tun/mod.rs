//! The virtual network device and the virtual IP → peer table.

pub mod actor;
mod classify;
pub mod coalesce;
pub mod device;
mod lifecycle;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod messages;
#[cfg(target_os = "linux")]
pub mod namespace;
pub mod offload;
mod play;
pub mod routes;
pub mod segment;
mod table;
#[cfg(test)]
mod testing;

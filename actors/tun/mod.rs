//! The virtual network device and the virtual IP → peer table.

pub mod coalesce;
pub mod device;
pub mod messages;
pub mod offload;
pub mod routes;
pub mod segment;
mod table;
#[cfg(test)]
mod testing;

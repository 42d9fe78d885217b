//! The virtual network device and the virtual IP → peer table.

pub mod messages;

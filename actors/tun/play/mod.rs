//! Programs in network namespaces of their own (`lanrage play`): each has a device that shares the virtual IP of this
//! machine. What they send goes the ordinary way; what comes in goes to the side that owns the local port.

mod actor;
mod owners;
mod sides;

pub(super) use owners::{Owners, Side};
pub(super) use sides::{Sides, Split};

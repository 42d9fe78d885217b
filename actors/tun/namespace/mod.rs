//! The device of a network namespace: made there by one process, used by the node.

pub mod linux;

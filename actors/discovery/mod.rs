//! Finding the other members: the libp2p swarm and the party streams.

pub mod messages;

//! What must survive: identity, parties, known peers, settings.

pub mod messages;

//! The public interface of web-time 1.1 with `Instant` on tokio's clock. `SystemTime` stays the system's: what uses it
//! here (record and reservation expiry on the wire) is compared with nothing of the virtual clock.

pub use std::time::{Duration, SystemTime, SystemTimeError, TryFromFloatSecsError, UNIX_EPOCH};

pub use tokio::time::Instant;

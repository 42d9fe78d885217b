//! The games that a member says it hosts: an extension of its signed record, so what any member may write.

#![no_main]

use lanrage_actors::wire::{MAX_HOSTED, decode_hosted, encode_hosted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(servers) = decode_hosted(bytes) {
        assert!(servers.len() <= MAX_HOSTED && servers.iter().all(|server| server.is_sound()));
        assert_eq!(encode_hosted(&servers), bytes, "there is one way to say it");
    }
});

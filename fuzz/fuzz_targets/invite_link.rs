#![no_main]

use lanrage_actors::party::invite::{Invite, MAX_VIAS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(invite) = text.parse::<Invite>() {
        assert!(invite.vias.iter().map(|via| via.addrs.len()).sum::<usize>() <= MAX_VIAS);
    }
});

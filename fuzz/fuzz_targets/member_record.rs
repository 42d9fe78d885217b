#![no_main]

use lanrage_actors::party::record::{Kick, MemberRecord, PartyInfo, Rekey};
use lanrage_actors::party::signed::Signed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let config = bincode::config::standard().with_limit::<65_536>();
    if let Ok((signed, _)) = bincode::serde::decode_from_slice::<Signed, _>(bytes, config) {
        // The contents are looked at before the signature is.
        let _ = signed.peek::<MemberRecord>();
        let _ = signed.peek::<PartyInfo>();
        let _ = signed.peek::<Kick>();
        let _ = signed.peek::<Rekey>();
        let _ = signed.verify::<MemberRecord>();
    }
});

#![no_main]

use lanrage_actors::party::code::PartyCode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(code) = text.parse::<PartyCode>() {
        assert_eq!(code.to_string().parse(), Ok(code));
    }
});

#![no_main]

use lanrage_actors::party::frame::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::decode(bytes)
        && let Ok(again) = frame.encode()
    {
        assert_eq!(Frame::decode(&again), Ok(frame));
    }
});

//! What comes over a data stream, cut anywhere: frames whose lengths lie.

#![no_main]

use lanrage_actors::discovery::data::queue::{Decoder, Frame, MAX_DATAGRAM};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (piece, bytes) = input;
    let mut decoder = Decoder::default();
    let mut taken = 0;
    for part in bytes.chunks(usize::from(piece) * 7 + 1) {
        let spare = decoder.spare();
        spare[..part.len()].copy_from_slice(part);
        decoder.filled(part.len());
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Datagram(datagram))) => {
                    assert!((1..=MAX_DATAGRAM).contains(&datagram.len()));
                    assert_eq!(datagram, &bytes[taken + 2..taken + 2 + datagram.len()]);
                    taken += 2 + datagram.len();
                }
                Ok(Some(Frame::Count(_))) => taken += 6,
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(bytes.len() - taken < 2 + MAX_DATAGRAM, "what is whole is given");
});

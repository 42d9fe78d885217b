//! What `lanrage play`, its helper in the namespace and the node tell each other over a socket of the user's own folder.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lanrage::fuzzing::play_lines(bytes));

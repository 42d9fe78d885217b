#![no_main]

use lanrage_actors::game_watch::profile::Profile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Profile::parse(text) {
        Ok(profile) => assert!(!profile.processes.is_empty()),
        Err(problems) => assert!(!problems.is_empty()),
    }
});

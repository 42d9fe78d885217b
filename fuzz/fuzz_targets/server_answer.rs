//! What game servers answer to the questions of the server browser, and what games announce on a LAN: anybody may be at
//! the other end.

#![no_main]

use lanrage_actors::browser::query::{Answer, Conversation, Language, MAX_ANSWER, Step, announced, tidy};
use libfuzzer_sys::fuzz_target;

const NONCE: [u8; 4] = [1, 2, 3, 4];
const LANGUAGES: [(Language, &[u8]); 6] = [
    (Language::Source, b"\xff\xff\xff\xffI\x11"),
    (Language::Quake3, b"\xff\xff\xff\xffstatusResponse\n\\"),
    (Language::Minecraft, b"\x30\x00\x2e{\""),
    (Language::Teeworlds, b"\x21\x01\x02\x03\x04\x01\x02\x03\x04\xff\xff\xff\xffinf3"),
    (Language::Openttd, b"\x40\x00\x06\x06"),
    (Language::ChocolateDoom, b"\x00\x0e"),
];

fn assert_fit_to_print(text: &str) {
    assert!(text.chars().count() <= 64 && !text.chars().any(char::is_control), "{text:?}");
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (which, rest) = input;
    let (language, opening) = LANGUAGES[usize::from(which) % LANGUAGES.len()];
    // Half of them begin as they should.
    let mut bytes = if which & 0x80 == 0 { opening.to_vec() } else { Vec::new() };
    bytes.extend_from_slice(&rest);
    bytes.truncate(MAX_ANSWER);
    let conversation = Conversation::new(language, NONCE, 27015);
    match conversation.heard(&bytes) {
        Step::Done(Answer { name, map, version, .. }) => {
            [name, map, version].iter().flatten().for_each(|text| assert_fit_to_print(text));
        }
        Step::Ask(question) => assert!(question.len() < 600),
        Step::Wait | Step::Garbage => {}
    }
    assert_fit_to_print(&tidy(&rest));
    if let Some((name, port)) = announced(&rest) {
        assert_fit_to_print(&name);
        assert_ne!(port, 0);
    }
});

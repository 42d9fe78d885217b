//! Asking game servers about themselves, without I/O: what to send, what came, what it means. Everything that comes is
//! hostile.

mod a2s;
mod doom;
mod minecraft;
mod openttd;
mod quake3;
mod reader;
mod teeworlds;

pub use minecraft::announced;
pub use reader::tidy;

/// Bytes that one conversation may bring in; more end it.
pub const MAX_ANSWER: usize = 64 * 1024;
/// Questions of one conversation, repeats not counted.
pub const MAX_QUESTIONS: usize = 4;

/// The protocols that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// Source and GoldSrc: A2S_INFO.
    Source,
    Quake3,
    /// Java edition's server list ping.
    Minecraft,
    /// 0.7, DDNet's 0.7 side included.
    Teeworlds,
    /// 12 and later.
    Openttd,
    ChocolateDoom,
}

/// How it is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Udp,
    Tcp,
}

/// What a server says of itself; texts are fit to print, and short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub name: Option<String>,
    pub map: Option<String>,
    pub version: Option<String>,
    pub players: Option<u32>,
    pub max_players: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Not all has come yet.
    Wait,
    /// Ask this next.
    Ask(Vec<u8>),
    Done(Answer),
    /// Not an answer in this language.
    Garbage,
}

/// One conversation with one server.
#[derive(Debug)]
pub struct Conversation {
    language: Language,
    /// Of our own, so that an answer cannot come from somebody who has not seen the question.
    nonce: [u8; 4],
    port: u16,
}

impl Language {
    #[must_use]
    pub fn carrier(self) -> Carrier {
        match self {
            Self::Source | Self::Quake3 | Self::Teeworlds | Self::ChocolateDoom => Carrier::Udp,
            Self::Minecraft | Self::Openttd => Carrier::Tcp,
        }
    }
}

impl Conversation {
    #[must_use]
    pub fn new(language: Language, nonce: [u8; 4], port: u16) -> Self {
        Self { language, nonce, port }
    }

    /// The first question.
    #[must_use]
    pub fn open(&self) -> Vec<u8> {
        match self.language {
            Language::Source => a2s::ask(None),
            Language::Quake3 => quake3::ask(),
            Language::Minecraft => minecraft::ask(self.port),
            Language::Teeworlds => teeworlds::ask_token(self.nonce),
            Language::Openttd => openttd::ask(),
            Language::ChocolateDoom => doom::ask(),
        }
    }

    /// A datagram, or all that has come over the stream so far.
    #[must_use]
    pub fn heard(&self, bytes: &[u8]) -> Step {
        match self.language {
            Language::Source => a2s::heard(bytes),
            Language::Quake3 => quake3::heard(bytes),
            Language::Minecraft => minecraft::heard(bytes),
            Language::Teeworlds => teeworlds::heard(bytes, self.nonce),
            Language::Openttd => openttd::heard(bytes),
            Language::ChocolateDoom => doom::heard(bytes),
        }
    }
}

/// An answer, or garbage where there is none.
fn done(answer: Option<Answer>) -> Step {
    answer.map_or(Step::Garbage, Step::Done)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Language; 6] = [
        Language::Source,
        Language::Quake3,
        Language::Minecraft,
        Language::Teeworlds,
        Language::Openttd,
        Language::ChocolateDoom,
    ];

    fn opening(language: Language) -> &'static [u8] {
        match language {
            Language::Source => b"\xff\xff\xff\xffI\x11",
            Language::Quake3 => b"\xff\xff\xff\xffstatusResponse\n\\",
            Language::Minecraft => b"\x30\x00\x2e{\"",
            Language::Teeworlds => b"\x21\x01\x02\x03\x04\x01\x02\x03\x04\xff\xff\xff\xffinf3",
            Language::Openttd => b"\x40\x00\x06\x06",
            Language::ChocolateDoom => b"\x00\x0e",
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded(
            which in 0usize..6, known: bool, bytes in prop::collection::vec(any::<u8>(), 0..300), end in 0usize..320,
        ) {
            let language = ALL[which];
            let mut all = if known { opening(language).to_vec() } else { Vec::new() };
            all.extend_from_slice(&bytes);
            all.truncate(end);
            let conversation = Conversation::new(language, [1, 2, 3, 4], 7);
            match conversation.heard(&all) {
                Step::Done(answer) => {
                    for text in [answer.name, answer.map, answer.version].into_iter().flatten() {
                        prop_assert!(text.chars().count() <= reader::MAX_TEXT && !text.chars().any(char::is_control));
                    }
                }
                Step::Ask(question) => prop_assert!(question.len() < 600),
                Step::Wait | Step::Garbage => {}
            }
        }
    }
}

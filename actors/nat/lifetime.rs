//! How long the NAT keeps a mapping that nothing goes through (RFC 4787, section 4.3).
//!
//! A socket for each time to be tried asks a relay for a ticket, which makes a mapping, and then is silent for that long.
//! Then the main socket has the relay forward something with that socket's token: it arrives if the mapping still lives.
//! What did not arrive counts only if the relay still answers that socket afterwards.
//!
//! The mapping has seen one packet each way. Many NATs keep one that is used more for longer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::wire::{LocalSocket, RelayToken};

/// Seconds of silence that are tried.
pub const WAITS: [u16; 6] = [20, 30, 60, 90, 120, 180];
/// For somebody in a hurry.
pub const QUICK_WAITS: [u16; 3] = [20, 30, 60];
/// More sockets are not opened.
pub const MAX_WAITS: usize = 16;

const RETRY: Duration = Duration::from_millis(300);
const TRIES: u32 = 4;
/// A datagram that may be forwarded: it opens like a sealed probe.
const PAYLOAD: usize = 76;
const PAYLOAD_MAGIC: u8 = 0x90;

/// The relay's frames, as far as they are used here.
pub trait Frames {
    fn ask(&self, id: u64) -> Vec<u8>;
    fn ticket(&self, datagram: &[u8]) -> Option<(u64, RelayToken)>;
    fn forward(&self, token: &RelayToken, payload: &[u8]) -> Vec<u8>;
    /// The payload of something forwarded.
    fn forwarded<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]>;
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingLifetime {
    /// A mapping was still there after so many seconds.
    pub alive_s: Option<u16>,
    /// It was gone after so many.
    pub gone_s: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asking,
    Silent(RelayToken),
    Probing(RelayToken),
    /// Nothing arrived: does the relay still answer?
    Checking,
    Alive,
    Gone,
    /// The relay did not answer.
    Void,
}

#[derive(Debug)]
struct Attempt {
    local: LocalSocket,
    wait: u16,
    state: State,
    tries: u32,
    due: Instant,
    /// In questions and payloads: what arrives late from elsewhere is not taken for an answer.
    id: u64,
}

#[derive(Debug)]
pub struct LifetimeTest {
    relay: SocketAddr,
    attempts: Vec<Attempt>,
}

impl LifetimeTest {
    /// `waits` in seconds, one local socket for each, from `LocalSocket(1)` on. `random` makes the ids.
    pub fn new(now: Instant, relay: SocketAddr, waits: &[u16], mut random: impl FnMut() -> u64) -> Self {
        let attempt = |(local, wait): (u16, &u16)| Attempt {
            local: LocalSocket(local),
            wait: *wait,
            state: State::Asking,
            tries: 0,
            due: now,
            id: random(),
        };
        Self { relay, attempts: (1..).zip(waits.iter().take(MAX_WAITS)).map(attempt).collect() }
    }

    /// How many sockets besides the main one are needed.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.attempts.len()
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.attempts.iter().filter(|it| !it.ended()).map(|it| it.due).min()
    }

    /// Sends what is due.
    pub fn poll(&mut self, now: Instant, frames: &impl Frames, send: &mut dyn FnMut(LocalSocket, SocketAddr, &[u8])) {
        for it in self.attempts.iter_mut().filter(|it| it.due <= now) {
            if let State::Silent(token) = it.state {
                it.enter(now, State::Probing(token));
            }
            if it.tries >= TRIES {
                match it.state {
                    State::Probing(_) => it.enter(now, State::Checking),
                    State::Asking | State::Checking => it.state = State::Void,
                    State::Silent(_) | State::Alive | State::Gone | State::Void => {}
                }
            }
            match it.state {
                State::Asking | State::Checking => send(it.local, self.relay, &frames.ask(it.id)),
                State::Probing(token) => {
                    send(LocalSocket::MAIN, self.relay, &frames.forward(&token, &it.payload()));
                }
                State::Silent(_) | State::Alive | State::Gone | State::Void => continue,
            }
            it.tries += 1;
            it.due = now + RETRY;
        }
    }

    /// Takes a datagram that came in on `on`; `false` when it is not for this machine.
    pub fn handle(
        &mut self,
        now: Instant,
        frames: &impl Frames,
        on: LocalSocket,
        from: SocketAddr,
        datagram: &[u8],
    ) -> bool {
        let Some(it) = self.attempts.iter_mut().find(|it| it.local == on && from == self.relay) else { return false };
        if let Some((id, token)) = frames.ticket(datagram) {
            match it.state {
                State::Asking if id == it.id => {
                    it.enter(now, State::Silent(token));
                    it.due = now + Duration::from_secs(it.wait.into());
                }
                State::Checking if id == it.id => it.state = State::Gone,
                State::Asking
                | State::Silent(_)
                | State::Probing(_)
                | State::Checking
                | State::Alive
                | State::Gone
                | State::Void => {}
            }
            return true;
        }
        let arrived = frames.forwarded(datagram) == Some(&it.payload()[..]);
        // Late is as good, until the question after it has opened the mapping again.
        if arrived && matches!(it.state, State::Probing(_)) {
            it.state = State::Alive;
        }
        arrived
    }

    /// `None` until all are done. Where the results contradict each other, the shorter time counts.
    #[must_use]
    pub fn result(&self) -> Option<MappingLifetime> {
        let all = |wanted: State| self.attempts.iter().filter(move |it| it.state == wanted).map(|it| it.wait);
        let gone_s = all(State::Gone).min();
        let alive_s = all(State::Alive).filter(|wait| gone_s.is_none_or(|gone| *wait < gone)).max();
        self.attempts.iter().all(Attempt::ended).then_some(MappingLifetime { alive_s, gone_s })
    }
}

impl Attempt {
    fn ended(&self) -> bool {
        matches!(self.state, State::Alive | State::Gone | State::Void)
    }

    fn enter(&mut self, now: Instant, state: State) {
        (self.state, self.tries, self.due) = (state, 0, now);
    }

    fn payload(&self) -> [u8; PAYLOAD] {
        let mut payload = [0; PAYLOAD];
        payload[0] = PAYLOAD_MAGIC;
        payload[1..9].copy_from_slice(&self.id.to_le_bytes());
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of two bytes and what they carry.
    struct Plain;

    impl Frames for Plain {
        fn ask(&self, id: u64) -> Vec<u8> {
            [&[0x91, 1][..], &id.to_le_bytes()].concat()
        }

        fn ticket(&self, datagram: &[u8]) -> Option<(u64, RelayToken)> {
            let rest = datagram.strip_prefix(&[0x92, 1])?;
            Some((
                u64::from_le_bytes(rest.get(..8)?.try_into().ok()?),
                RelayToken::new(rest.get(8..)?.try_into().ok()?),
            ))
        }

        fn forward(&self, token: &RelayToken, payload: &[u8]) -> Vec<u8> {
            [&[0x93, 1][..], &token.bytes(), payload].concat()
        }

        fn forwarded<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
            datagram.strip_prefix(&[0x94])
        }
    }

    fn relay() -> SocketAddr {
        "192.0.2.1:5000".parse().unwrap()
    }

    /// A NAT that forgets mappings after `lifetime` seconds, a relay that ends after `relay_ends`, every third datagram
    /// lost.
    fn measured(waits: &[u16], lifetime: u64, relay_ends: u64, loss: bool) -> MappingLifetime {
        let start = Instant::now();
        let mut ids = 0;
        let mut test = LifetimeTest::new(start, relay(), waits, || {
            ids += 1;
            ids
        });
        let mut used: Vec<Option<Instant>> = vec![None; test.sockets() + 1];
        let (mut now, mut sent) = (start, 0);
        for _ in 0..1000 {
            let mut out = Vec::new();
            test.poll(now, &Plain, &mut |local, to, bytes| out.push((local, to, bytes.to_vec())));
            for (local, to, bytes) in out {
                assert_eq!(to, relay());
                sent += 1;
                let lost = (loss && sent % 3 == 0) || now >= start + Duration::from_secs(relay_ends);
                match bytes[0] {
                    0x91 => {
                        used[usize::from(local.0)] = Some(now);
                        if !lost {
                            let mut token = [0; 50];
                            token[0] = u8::try_from(local.0).unwrap();
                            let ticket = [&[0x92, 1][..], &bytes[2..10], &token].concat();
                            assert!(test.handle(now, &Plain, local, relay(), &ticket));
                        }
                    }
                    0x93 => {
                        assert_eq!(local, LocalSocket::MAIN);
                        let to = usize::from(bytes[2]);
                        let lives = used[to].is_some_and(|at| now < at + Duration::from_secs(lifetime));
                        if lives && !lost {
                            let inside = [&[0x94][..], &bytes[52..]].concat();
                            let to = LocalSocket(u16::try_from(to).unwrap());
                            assert!(test.handle(now, &Plain, to, relay(), &inside));
                        }
                    }
                    other => panic!("{other}"),
                }
            }
            match test.poll_timeout() {
                Some(next) => now = next,
                None => break,
            }
        }
        test.result().unwrap()
    }

    #[test]
    fn the_time_is_found_between_two_tries() {
        let table = [
            (10, None, Some(20)),
            (25, Some(20), Some(30)),
            (65, Some(60), Some(90)),
            (150, Some(120), Some(180)),
            (1000, Some(180), None),
        ];
        for (lifetime, alive_s, gone_s) in table {
            for loss in [false, true] {
                assert_eq!(measured(&WAITS, lifetime, 9999, loss), MappingLifetime { alive_s, gone_s }, "{lifetime}");
            }
        }
    }

    #[test]
    fn a_relay_that_ends_proves_nothing() {
        assert_eq!(measured(&WAITS, 1000, 0, false), MappingLifetime::default());
        assert_eq!(measured(&WAITS, 1000, 70, false), MappingLifetime { alive_s: Some(60), gone_s: None });
    }

    #[test]
    fn strangers_and_old_answers_count_for_nothing() {
        let now = Instant::now();
        let mut test = LifetimeTest::new(now, relay(), &[20], || 7);
        test.poll(now, &Plain, &mut |_, _, _| {});
        let ticket = |id: u64| [&[0x92, 1][..], &id.to_le_bytes(), &[0; 50]].concat();
        let (one, other) = (LocalSocket(1), "192.0.2.2:5000".parse().unwrap());
        assert!(!test.handle(now, &Plain, one, other, &ticket(7)));
        assert!(!test.handle(now, &Plain, LocalSocket(2), relay(), &ticket(7)));
        test.handle(now, &Plain, one, relay(), &ticket(8));
        assert!(matches!(test.attempts[0].state, State::Asking));
        assert!(!test.handle(now, &Plain, one, relay(), &[]));
        test.handle(now, &Plain, one, relay(), &ticket(7));
        assert_eq!(test.poll_timeout(), Some(now + Duration::from_secs(20)));
    }

    #[test]
    fn the_number_of_sockets_is_bounded() {
        assert_eq!(LifetimeTest::new(Instant::now(), relay(), &[1; 500], || 1).sockets(), MAX_WAITS);
    }
}

//! What a stranger can send to a relay, and to a client of one.

#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lanrage_actors::relay::client::{Outputs, RelayClient};
use lanrage_actors::relay::frame::{Ask, FORWARD_HEADER, Forward, Forwarded, TicketFrame, may_be_relayed};
use lanrage_actors::relay::messages::RelaySource;
use lanrage_actors::relay::server::{Limits, RelayServer};
use libfuzzer_sys::fuzz_target;

const UNIX: u64 = 1_800_000_000;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fuzz_target!(|input: (u8, u8, u8, Vec<u8>)| {
    let (kind, stride, later, mut bytes) = input;
    let now = *START + Duration::from_secs(later.into());
    let (own, other) = (([198, 51, 100, 1], 1).into(), ([198, 51, 100, 2], 2).into());
    let mut server = RelayServer::new(*START, &[1; 32], Limits::MEMBER, [2; 32]);
    let answer = server.handle_ask(now, UNIX, own, &Ask { id: 7 }.encode());
    let token = answer.and_then(|answer| TicketFrame::parse(&answer)).expect("the first is answered").token;
    // Random bytes are of no known kind and have no good token; help them.
    let header = Forward::header(&token);
    match kind % 5 {
        0 => bytes.splice(0..0, header).for_each(drop),
        1 => bytes.splice(0..0, header.into_iter().chain([4, 0, 0, 0])).for_each(drop),
        n => {
            if let Some(first) = bytes.get_mut(..2) {
                first.copy_from_slice(&[0x8f + n, 1]);
            }
            bytes.resize(82, 0);
        }
    }
    if let Some(ask) = Ask::parse(&bytes) {
        assert_eq!(ask.encode()[..], bytes[..]);
    }
    if let Some(ticket) = TicketFrame::parse(&bytes) {
        assert_eq!(ticket.encode()[..], bytes[..]);
    }
    assert!(Forwarded::parse(&bytes).is_none_or(|it| may_be_relayed(it.payload)));
    assert!(server.handle_ask(now, UNIX, other, &bytes).is_none_or(|answer| answer.len() <= bytes.len()));

    let stride = usize::from(stride) + FORWARD_HEADER;
    let mut out = Vec::new();
    server.handle_forward(now, UNIX + u64::from(later) * 4, other, bytes.chunks(stride), &mut out);
    assert!(out.iter().map(|batch| batch.segments()).sum::<usize>() <= bytes.chunks(stride).count());
    assert!(out.iter().all(|batch| batch.destination() == own));
    assert!(out.iter().map(|batch| batch.contents().len()).sum::<usize>() < bytes.len().max(1));

    let mut client = RelayClient::new(*START, [3; 32]);
    let mut asks = Outputs::default();
    client.know(*START, other, other, RelaySource::Dht, &mut asks);
    client.handle_ticket(now, other, &bytes, &mut asks);
    assert!(client.tickets().is_empty(), "the id cannot be guessed");
});

//! The actor between two recorders: one for the data socket, one for who is told of tickets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::super::frame::{Ask, FORWARDED, Forward, TicketFrame};
use super::super::messages::{Limits, RelaySource};
use super::*;
use crate::wire::{DatagramBatch, Endpoint};

#[derive(Clone, Default)]
struct Seen {
    sent: Arc<Mutex<Vec<(SocketAddr, Vec<u8>)>>>,
    told: Arc<Mutex<Vec<Tickets>>>,
}

struct Recorder(Seen);

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<Transmit> for Recorder {
    type Result = ();
    fn handle(&mut self, Transmit(batch): Transmit, _: &mut Self::Context) {
        let datagrams = batch.contents().chunks(batch.segment_size()).map(|it| (batch.destination(), it.to_vec()));
        self.0.sent.lock().unwrap().extend(datagrams);
    }
}

impl Handler<Tickets> for Recorder {
    type Result = ();
    fn handle(&mut self, tickets: Tickets, _: &mut Self::Context) {
        self.0.told.lock().unwrap().push(tickets);
    }
}

async fn start() -> (Addr<RelayActor>, Seen) {
    let seen = Seen::default();
    let recorder = Recorder(seen.clone()).start();
    let relay = RelayActor::with_clock([1; 32], [2; 32], || 1_800_000_000).start();
    let links = BindRelay { transmit: recorder.clone().recipient(), tickets: recorder.recipient() };
    relay.send(links).await.unwrap();
    (relay, seen)
}

fn datagrams(from: SocketAddr, datagrams: &[&[u8]]) -> RelayDatagrams {
    let stride = datagrams.first().map_or(1, |first| first.len());
    RelayDatagrams(DatagramBatch::copied(&datagrams.concat(), Endpoint::direct(from), stride))
}

impl Seen {
    /// What was sent since the last look, once the recorder has had its turn.
    async fn sent(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

#[actix::test]
async fn it_serves_when_told_to() {
    let (relay, seen) = start().await;
    let (receiver, sender): (SocketAddr, SocketAddr) = (([203, 0, 113, 1], 1).into(), ([203, 0, 113, 2], 2).into());
    let ask = Ask { id: 5 }.encode();
    relay.send(datagrams(receiver, &[&ask])).await.unwrap();
    assert!(seen.sent().await.is_empty());

    relay.send(SetServing(Some(Limits::MEMBER))).await.unwrap();
    relay.send(datagrams(receiver, &[&ask, &ask])).await.unwrap();
    let answers = seen.sent().await;
    assert_eq!(answers.len(), 2);
    let ticket = TicketFrame::parse(&answers[0].1).unwrap();
    assert_eq!((answers[0].0, ticket.observed, ticket.expires), (receiver, receiver, 1_800_000_600));

    let datagram = [&Forward::header(&ticket.token)[..], &[4, 0, 0, 0], &[7; 60]].concat();
    relay.send(datagrams(sender, &[&datagram, &datagram])).await.unwrap();
    let expected = (receiver, [&[FORWARDED, 4, 0, 0, 0][..], &[7; 60]].concat());
    assert_eq!(seen.sent().await, [expected.clone(), expected]);

    relay.send(SetServing(None)).await.unwrap();
    relay.send(datagrams(sender, &[&datagram])).await.unwrap();
    assert!(seen.sent().await.is_empty());
    let view = relay.send(GetRelays).await.unwrap();
    assert_eq!(view.serving, None);
    let expected = RelayCounters {
        asks_answered: 2,
        forwarded: 2,
        forwarded_bytes: 130,
        dropped_not_serving: 2,
        ..RelayCounters::default()
    };
    assert_eq!(view.service, expected);
}

#[actix::test]
async fn it_asks_and_tells() {
    let (relay, seen) = start().await;
    let addr: SocketAddr = ([198, 51, 100, 1], 3478).into();
    relay.send(MemberRelays { serving: vec![addr], legs: Vec::new() }).await.unwrap();
    let asks = seen.sent().await;
    let (to, ask) = asks.first().unwrap();
    assert_eq!(*to, addr);
    let token = crate::wire::RelayToken::new([9; 50]);
    let observed = ([203, 0, 113, 1], 1).into();
    let id = Ask::parse(ask).unwrap().id;
    let answer = TicketFrame { id, observed, expires: 1_800_000_600, token }.encode();
    relay.send(datagrams(([198, 51, 100, 2], 3478).into(), &[&answer])).await.unwrap();
    seen.sent().await;
    assert!(seen.told.lock().unwrap().is_empty(), "it was not asked");
    relay.send(datagrams(addr, &[&answer])).await.unwrap();
    seen.sent().await;
    {
        let told = seen.told.lock().unwrap();
        assert_eq!((told.len(), told[0].tickets[0].token, told[0].observed[0].addr), (1, token, observed));
    }
    let view = relay.send(GetRelays).await.unwrap();
    assert!(view.relays[0].held && view.relays[0].answers);
    relay.send(MemberRelays::default()).await.unwrap();
    seen.sent().await;
    assert!(seen.told.lock().unwrap().last().unwrap().tickets.is_empty());
}

#[actix::test]
async fn an_unanswered_question_is_asked_again_by_the_timer() {
    let (relay, seen) = start().await;
    let addr: SocketAddr = ([198, 51, 100, 1], 3478).into();
    relay.send(KnowRelay { addr, stream: None, source: RelaySource::Configured }).await.unwrap();
    let mut asked = 0;
    while asked < 3 {
        actix::clock::sleep(Duration::from_millis(20)).await;
        asked += seen.sent().await.len();
    }
}

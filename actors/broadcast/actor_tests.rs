//! The actor with recorders in place of the device and the tunnels, and a system that takes its time.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::datagram::{Batches, Datagram};
use super::super::interfaces::Wanted;
use super::super::messages::BroadcastView;
use super::super::system::{Capture, CaptureError};
use super::*;
use crate::tun::messages::Address;
use crate::wire::Ipv4Range;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
/// Beyond it something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

type Log = Arc<Mutex<Vec<String>>>;

struct Recorder(Log);

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<Outbound> for Recorder {
    type Result = ();
    fn handle(&mut self, Outbound(batch): Outbound, _: &mut Self::Context) {
        self.0.lock().unwrap().push(format!("out {}", batch.len()));
    }
}

impl Handler<Deliver> for Recorder {
    type Result = ();
    fn handle(&mut self, Deliver(batch): Deliver, _: &mut Self::Context) {
        self.0.lock().unwrap().extend(batch.iter().map(|packet| format!("in {}", packet[28])));
    }
}

/// Tells its sockets when it is let.
struct Slow {
    asked: SyncSender<()>,
    let_go: Receiver<()>,
}

impl System for Slow {
    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        Ok(Vec::new())
    }

    fn capture(&mut self, _: &Wanted) -> Result<Box<dyn Capture>, CaptureError> {
        Err(CaptureError::Permission)
    }

    fn local(&mut self) -> io::Result<Local> {
        let _ = self.asked.try_send(());
        self.let_go.recv_timeout(PATIENCE).map_err(io::Error::other)?;
        Ok(Local::default())
    }

    fn join(&mut self, _: &str, _: Ipv4Addr, _: &[Ipv4Addr]) -> Vec<(Ipv4Addr, io::Error)> {
        Vec::new()
    }
}

fn shout(source: Ipv4Addr, payload: u8) -> PacketBatch {
    let mut batches = Batches::default();
    let payload = &[payload];
    let destination = Ipv4Addr::BROADCAST;
    Datagram { source, destination, source_port: 6112, destination_port: 6112, ttl: 64, payload }.write(
        u16::MAX,
        1,
        &mut batches,
    );
    batches.drain().next().unwrap()
}

async fn logged(log: &Log, count: usize) -> Vec<String> {
    let start = Instant::now();
    while log.lock().unwrap().len() < count && start.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    log.lock().unwrap().clone()
}

#[actix::test]
async fn packets_do_not_wait_while_the_system_is_asked_and_those_that_must_keep_their_order() {
    let log = Log::default();
    let recorder = Recorder(log.clone()).start();
    let ((asked, was_asked), (let_go, may_go)) = (sync_channel(8), sync_channel(8));
    let actor = BroadcastActor::new(Settings::default(), Box::new(Slow { asked, let_go: may_go })).start();
    actor.send(BindBroadcast { deliver: recorder.clone().recipient(), heard: None }).await.unwrap();
    actor.send(AddRoute { ip: MEMBER, peer: recorder.recipient() }).await.unwrap();
    actor.send(SetAddress(Some(Address { ip: OWN, range: Ipv4Range::DEFAULT }))).await.unwrap();
    // Blocks this thread, which is the actor's too: the look is made on another.
    was_asked.recv_timeout(PATIENCE).unwrap();

    actor.send(FromDevice(shout(OWN, 1))).await.unwrap();
    assert_eq!(logged(&log, 1).await, ["out 1"]);
    let more = 5;
    for number in 0..MAX_WAITING + more {
        actor.send(FromMember { ip: MEMBER, batch: shout(MEMBER, number as u8) }).await.unwrap();
    }
    let view: BroadcastView = actor.send(GetBroadcast).await.unwrap();
    assert_eq!((view.counters.delivered, view.counters.dropped_busy), (0, more as u64));

    let_go.send(()).unwrap();
    let delivered: Vec<String> = (0..MAX_WAITING).map(|number| format!("in {number}")).collect();
    assert_eq!(logged(&log, 1 + MAX_WAITING).await[1..], delivered);
}

#![allow(missing_debug_implementations)]

use std::time::SystemTime;

use actix::prelude::*;
use futures::channel::oneshot;

use super::messages::{AwaitEvents, EventsView, GetEvents, Happened};
use super::ring::EventRing;

/// A party of 255 that connects at once fits in.
const MAILBOX: usize = 512;
/// Questions that wait for an event at a time; more are answered at once.
const WAITING: usize = 32;

struct Waiting {
    question: AwaitEvents,
    answer: oneshot::Sender<EventsView>,
}

/// Remembers what happened, and tells those who ask.
#[derive(Default)]
pub struct MetricsActor {
    ring: EventRing,
    waiting: Vec<Waiting>,
}

impl MetricsActor {
    fn answer_waiting(&mut self) {
        for Waiting { question, answer } in self.waiting.drain(..) {
            let _ = answer.send(self.ring.after(question.after, question.limit));
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Actor for MetricsActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Happened> for MetricsActor {
    type Result = ();

    fn handle(&mut self, Happened(event): Happened, _: &mut Self::Context) {
        self.ring.push(unix_ms(), event);
        self.answer_waiting();
    }
}

impl Handler<GetEvents> for MetricsActor {
    type Result = MessageResult<GetEvents>;

    fn handle(&mut self, question: GetEvents, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.ring.after(question.after, question.limit))
    }
}

impl Handler<AwaitEvents> for MetricsActor {
    type Result = ResponseFuture<EventsView>;

    fn handle(&mut self, question: AwaitEvents, _: &mut Self::Context) -> Self::Result {
        let now = self.ring.after(question.after, question.limit);
        self.waiting.retain(|it| !it.answer.is_canceled());
        if self.ring.has_news(question.after) || question.wait.is_zero() || self.waiting.len() >= WAITING {
            return Box::pin(async { now });
        }
        let (answer, told) = oneshot::channel();
        self.waiting.push(Waiting { question, answer });
        let patience = question.wait;
        Box::pin(async move {
            match actix::clock::timeout(patience, told).await {
                Ok(Ok(view)) => view,
                Ok(Err(_)) | Err(_) => now,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::messages::Event;
    use super::*;

    fn happened(pid: u32) -> Happened {
        Happened(Event::GameStarted { game: "doom".into(), name: "Doom".into(), pid })
    }

    #[actix::test]
    async fn a_question_waits_for_the_next_event() {
        let actor = MetricsActor::default().start();
        actor.send(happened(1)).await.unwrap();
        let at_once = actor.send(GetEvents { after: 0, limit: 10 }).await.unwrap();
        assert_eq!((at_once.events.len(), at_once.next), (1, 1));
        let hour = Duration::from_secs(3600);
        let waiting = actix::spawn(actor.send(AwaitEvents { after: 1, limit: 10, wait: hour }));
        // Handled in the order of their coming; nobody has answered the first.
        actor.send(GetEvents { after: 0, limit: 1 }).await.unwrap();
        assert!(!waiting.is_finished());
        actor.send(happened(2)).await.unwrap();
        let view = waiting.await.unwrap().unwrap();
        assert_eq!((view.events.len(), view.events[0].seq, view.next), (1, 2, 2));
        // Old news and numbers of an earlier run do not wait.
        for after in [1, 77] {
            let view = actor.send(AwaitEvents { after, limit: 1, wait: hour }).await.unwrap();
            assert_eq!(view.events.len(), 1);
        }
    }

    #[actix::test]
    async fn waiting_ends_and_is_bounded() {
        let actor = MetricsActor::default().start();
        let soon = AwaitEvents { after: 0, limit: 1, wait: Duration::from_millis(20) };
        assert_eq!(actor.send(soon).await.unwrap(), EventsView::default());
        let hour = AwaitEvents { wait: Duration::from_secs(3600), ..soon };
        let held: Vec<_> = (0..WAITING).map(|_| actix::spawn(actor.send(hour))).collect();
        actor.send(GetEvents { after: 0, limit: 1 }).await.unwrap();
        assert_eq!(actor.send(hour).await.unwrap(), EventsView::default(), "one too many is answered at once");
        actor.send(happened(1)).await.unwrap();
        for question in held {
            assert_eq!(question.await.unwrap().unwrap().next, 1);
        }
    }
}

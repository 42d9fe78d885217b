//! Party streams: reliable, ordered, with latency and the writer's bound of the shipped ones; they break when a node dies
//! or the network parts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Recipient};
use lanrage_actors::discovery::messages::{LinkClosed, LinkFrame, LinkId, LinkOpened};
use tokio::sync::{Notify, mpsc};

use super::clock;
use super::discovery::{Heard, SimDiscovery};
use super::world::{self, World};

/// As in `discovery/streams.rs`: frames that wait to be written; beyond that the link is too slow to keep.
const SEND_QUEUE: usize = 256;
/// Frames that are under way: the window of the transport.
const WINDOW: usize = 1024;
/// A peer that is gone without a word is noticed after this time: QUIC's idle timeout.
pub const SILENT_DEATH: Duration = Duration::from_secs(10);
/// Upstream for streams, bytes a second.
const RATE: f64 = 1_250_000.0;

struct End {
    node: usize,
    peer_node: usize,
    outgoing: Option<mpsc::Sender<(Duration, Vec<u8>)>>,
    cut: Arc<Notify>,
    /// Nothing arrives any more, and nobody knows yet.
    dead: bool,
    free_at: Duration,
    last_due: Duration,
    departures: VecDeque<Duration>,
}

#[derive(Default)]
pub struct Streams {
    ends: BTreeMap<LinkId, End>,
    /// Ends by (node, node at the other end).
    pairs: BTreeMap<(usize, usize), u32>,
    next: u64,
    pub opened: u64,
    pub frames: u64,
    pub bytes: u64,
    pub overflowed: u64,
}

/// The receiving half of an end, for its task.
pub struct Incoming {
    pub link: LinkId,
    frames: mpsc::Receiver<(Duration, Vec<u8>)>,
    cut: Arc<Notify>,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Streams {
    /// A stream between two nodes; the opener's end comes first.
    pub fn open(&mut self, opener: usize, acceptor: usize) -> (Incoming, Incoming) {
        self.opened += 1;
        let links = (LinkId(self.next), LinkId(self.next + 1));
        self.next += 2;
        let (to_acceptor, at_acceptor) = mpsc::channel(WINDOW);
        let (to_opener, at_opener) = mpsc::channel(WINDOW);
        let mut add = |link, node, peer_node, outgoing| {
            let cut = Arc::new(Notify::new());
            let end = End {
                node,
                peer_node,
                outgoing: Some(outgoing),
                cut: cut.clone(),
                dead: false,
                free_at: Duration::ZERO,
                last_due: Duration::ZERO,
                departures: VecDeque::new(),
            };
            self.ends.insert(link, end);
            *self.pairs.entry((node, peer_node)).or_default() += 1;
            cut
        };
        let opener_cut = add(links.0, opener, acceptor, to_acceptor);
        let acceptor_cut = add(links.1, acceptor, opener, to_opener);
        (
            Incoming { link: links.0, frames: at_opener, cut: opener_cut },
            Incoming { link: links.1, frames: at_acceptor, cut: acceptor_cut },
        )
    }

    /// Whether any stream between the two is left.
    #[must_use]
    pub fn between(&self, a: usize, b: usize) -> bool {
        self.pairs.contains_key(&(a, b))
    }

    /// Those to whom a node has a stream.
    #[must_use]
    pub fn neighbours(&self, node: usize) -> Vec<usize> {
        self.pairs.range((node, 0)..(node + 1, 0)).map(|((_, other), _)| *other).collect()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn close(&mut self, link: LinkId) {
        if let Some(end) = self.ends.get_mut(&link) {
            end.outgoing = None;
            end.cut.notify_one();
        }
    }

    fn remove(&mut self, link: LinkId) {
        if let Some(end) = self.ends.remove(&link) {
            let pair = (end.node, end.peer_node);
            if let Some(count) = self.pairs.get_mut(&pair) {
                *count -= 1;
                if *count == 0 {
                    self.pairs.remove(&pair);
                }
            }
        }
    }

    fn is_dead(&self, link: LinkId) -> bool {
        self.ends.get(&link).is_none_or(|end| end.dead)
    }

    #[must_use]
    pub fn ends_between(&self, which: impl Fn(usize, usize) -> bool) -> Vec<LinkId> {
        self.ends.iter().filter(|(_, end)| which(end.node, end.peer_node)).map(|(link, _)| *link).collect()
    }

    /// From now on nothing passes on these streams. Returns them, to be cut once it is noticed.
    pub fn kill(&mut self, which: impl Fn(usize, usize) -> bool) -> Vec<LinkId> {
        let killed = |(link, end): (&LinkId, &mut End)| {
            end.dead |= which(end.node, end.peer_node);
            which(end.node, end.peer_node).then_some(*link)
        };
        self.ends.iter_mut().filter_map(killed).collect()
    }
}

impl World {
    pub fn send_frame(&mut self, link: LinkId, frame: Vec<u8>) {
        let now = clock::elapsed();
        let Some(end) = self.streams.ends.get_mut(&link) else { return };
        let Some(outgoing) = &end.outgoing else { return };
        #[allow(clippy::cast_precision_loss, reason = "a frame's length")]
        let takes = Duration::from_secs_f64(frame.len() as f64 / RATE);
        end.free_at = end.free_at.max(now) + takes;
        while end.departures.front().is_some_and(|at| *at <= now) {
            end.departures.pop_front();
        }
        end.departures.push_back(end.free_at);
        let due = (end.free_at + self.net.latency(end.node, end.peer_node)).max(end.last_due);
        end.last_due = due;
        self.streams.frames += 1;
        self.streams.bytes += frame.len() as u64;
        if end.departures.len() > SEND_QUEUE || outgoing.try_send((due, frame)).is_err() {
            self.streams.overflowed += 1;
            self.streams.close(link);
        }
    }
}

/// Where the task of an end tells what happens.
pub struct Listener {
    pub opened: Recipient<LinkOpened>,
    pub frame: Recipient<LinkFrame>,
    pub closed: Recipient<LinkClosed>,
    pub discovery: Addr<SimDiscovery>,
}

/// As `discovery/streams.rs` runs one: `LinkOpened` first, `LinkClosed` last, and it waits while a mailbox is full.
pub async fn run(mut incoming: Incoming, opened: LinkOpened, listener: Listener) {
    let (link, node) = (opened.link, opened.node);
    if listener.opened.send(opened).await.is_ok() {
        carry(&mut incoming, &listener).await;
    }
    world::try_with(|world| world.streams.remove(link));
    let _ = listener.closed.send(LinkClosed(link)).await;
    let _ = listener.discovery.send(Heard::LinkEnded { link, node }).await;
}

/// Nobody listens.
pub fn refuse(incoming: Incoming) {
    world::try_with(|world| {
        world.streams.close(incoming.link);
        world.streams.remove(incoming.link);
    });
}

async fn carry(incoming: &mut Incoming, listener: &Listener) {
    loop {
        let next = tokio::select! {
            biased;
            () = incoming.cut.notified() => return,
            next = incoming.frames.recv() => next,
        };
        let Some((due, frame)) = next else { return };
        tokio::select! {
            biased;
            () = incoming.cut.notified() => return,
            () = tokio::time::sleep_until(clock::instant(due)) => {}
        }
        let link = incoming.link;
        if world::with(|world| world.streams.is_dead(link)) {
            continue;
        }
        if listener.frame.send(LinkFrame { link, frame }).await.is_err() {
            return;
        }
    }
}

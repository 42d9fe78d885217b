//! DHT nodes: libp2p's Kademlia with LANrage's settings, as server or client; and hostile ones that speak its protocol.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::io;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use lanrage_actors::discovery::UPGRADE_TIMEOUT;
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, RecordStore as _};
use libp2p::kad::{self, QueryId, QueryResult, QueryStats};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, identify, ping, relay, swarm};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::hops::Hops;
use super::hostile::Conduct;
use super::kadwire::{self, MAX_MESSAGE, Request};
use super::net::{HostId, Network, now};
use super::transport;

/// A DHT of its own name, so that the shipped rules for private DHTs apply.
pub const DHT: &str = "/lanrage/kad/1.0.0";
pub const PORT: u16 = 4_001;
/// libp2p's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: Toggle<kad::Behaviour<MemoryStore>>,
    streams: libp2p_stream::Behaviour,
    relay: Toggle<relay::Behaviour>,
}

/// What a client does otherwise than what ships, to see what it would be worth. Times are virtual seconds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// Requests at once.
    parallelism: Option<NonZeroUsize>,
    /// For a connection and its handshake.
    dial_timeout: Option<f64>,
    /// For an answer.
    answer_timeout: Option<f64>,
}

impl Tuning {
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, seconds) in [("dial_timeout", self.dial_timeout), ("answer_timeout", self.answer_timeout)] {
            if let Some(seconds) = seconds.filter(|seconds| !(0.1..=600.0).contains(seconds)) {
                return Err(format!("`{key}` is {seconds}; it is 0.1 to 600 seconds"));
            }
        }
        Ok(())
    }
}

/// What a node is there for.
#[derive(Debug, Clone)]
pub enum Duty {
    Server {
        /// Serves circuits.
        relay: bool,
        /// Its table is filled from outside: it must not go and fill it itself.
        filled: bool,
    },
    /// Looks up and publishes; nobody asks it.
    Client(Tuning),
    Hostile(Conduct),
}

/// The end of a query.
#[derive(Debug, Clone)]
pub struct Finished {
    pub ok: bool,
    pub found: BTreeSet<PeerId>,
    pub stats: QueryStats,
}

#[derive(Default)]
struct Queries {
    /// Providers named so far, with the time of each.
    found: RefCell<HashMap<QueryId, Vec<(Instant, PeerId)>>>,
    finished: RefCell<HashMap<QueryId, Finished>>,
    notify: Notify,
}

/// A running node.
#[allow(missing_debug_implementations, reason = "swarms have none")]
pub struct Node {
    pub peer: PeerId,
    pub host: HostId,
    pub addr: Multiaddr,
    pub hostile: bool,
    swarm: Rc<RefCell<Swarm<Behaviour>>>,
    waker: Rc<RefCell<Option<Waker>>>,
    queries: Rc<Queries>,
    tasks: Vec<JoinHandle<()>>,
    gone: Cell<bool>,
}

impl Node {
    /// # Errors
    /// When libp2p refuses, which means that the harness is wrong.
    pub fn start(net: &Network, host: HostId, keys: &Keypair, duty: Duty, hops: &Hops) -> io::Result<Self> {
        let peer = keys.public().to_peer_id();
        let protocol = StreamProtocol::new(DHT);
        let (mode, tuning) = match &duty {
            Duty::Server { .. } | Duty::Hostile(_) => (kad::Mode::Server, Tuning::default()),
            Duty::Client(tuning) => (kad::Mode::Client, *tuning),
        };
        let (relays, filled) = match &duty {
            Duty::Server { relay, filled } => (*relay, *filled),
            Duty::Client(_) | Duty::Hostile(_) => (false, false),
        };
        let mut settings = lanrage_actors::discovery::kademlia(protocol.clone());
        if filled {
            settings.set_periodic_bootstrap_interval(None);
        }
        if let Some(parallelism) = tuning.parallelism {
            settings.set_parallelism(parallelism);
        }
        if let Some(seconds) = tuning.answer_timeout {
            settings.set_substreams_timeout(Duration::from_secs_f64(seconds));
        }
        let dial_timeout = tuning.dial_timeout.map_or(UPGRADE_TIMEOUT, Duration::from_secs_f64);
        let kad = (!matches!(duty, Duty::Hostile(_))).then(|| {
            let mut kad = kad::Behaviour::with_config(peer, MemoryStore::new(peer), settings);
            kad.set_mode(Some(mode));
            kad
        });
        let behaviour = Behaviour {
            identify: identify::Behaviour::new(identify::Config::new("/ipfs/0.1.0".to_owned(), keys.public())),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(3_600))),
            kad: kad.into(),
            streams: libp2p_stream::Behaviour::new(),
            relay: relays.then(|| relay::Behaviour::new(peer, relay::Config::default())).into(),
        };
        let settings = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
        let mut swarm =
            Swarm::new(transport::secured(net.clone(), host, keys, dial_timeout)?, behaviour, peer, settings);
        let addr = transport::tcp(net.local(host), PORT);
        swarm.listen_on(addr.clone()).map_err(io::Error::other)?;
        swarm.add_external_address(addr.clone());
        let incoming = match &duty {
            Duty::Hostile(conduct) => {
                let accepted = swarm.behaviour().streams.new_control().accept(protocol);
                Some((accepted.map_err(io::Error::other)?, conduct.clone()))
            }
            Duty::Server { .. } | Duty::Client(_) => None,
        };
        let swarm = Rc::new(RefCell::new(swarm));
        let (waker, queries) = (Rc::new(RefCell::new(None)), Rc::new(Queries::default()));
        let mut tasks = vec![actix::spawn(drive(swarm.clone(), waker.clone(), queries.clone(), hops.clone(), filled))];
        let hostile = incoming.is_some();
        if let Some((mut incoming, conduct)) = incoming {
            tasks.push(actix::spawn(async move {
                while let Some((_, stream)) = incoming.next().await {
                    actix::spawn(misbehave(stream, conduct.clone()));
                }
            }));
        }
        Ok(Self { peer, host, addr, hostile, swarm, waker, queries, tasks, gone: Cell::new(false) })
    }

    /// Kademlia of this node; its task is woken afterwards.
    pub fn kad<T>(&self, act: impl FnOnce(&mut kad::Behaviour<MemoryStore>) -> T) -> Option<T> {
        let result = self.swarm.borrow_mut().behaviour_mut().kad.as_mut().map(act);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        result
    }

    /// Puts many nodes into the table at once, as they would be there after long service, and keeps Kademlia from going
    /// to look for more.
    pub fn fill<'a>(&self, nodes: impl Iterator<Item = (&'a PeerId, &'a Multiaddr)>) {
        self.kad(|kad| {
            for (peer, addr) in nodes {
                kad.add_address(peer, addr.clone());
            }
            finish_bootstrap(kad);
        });
    }

    /// Starts to look for the providers of a key.
    #[must_use]
    pub fn look_up(&self, key: &kad::RecordKey) -> Option<QueryId> {
        self.kad(|kad| kad.get_providers(key.clone()))
    }

    /// Starts to publish.
    #[must_use]
    pub fn provide(&self, key: &kad::RecordKey) -> Option<QueryId> {
        self.kad(|kad| kad.start_providing(key.clone()).ok()).flatten()
    }

    /// Waits for the end of a query.
    pub async fn end_of(&self, query: QueryId) -> Finished {
        loop {
            if let Some(finished) = self.queries.finished.borrow_mut().remove(&query) {
                return finished;
            }
            self.queries.notify.notified().await;
        }
    }

    /// When a look-up first named `peer`.
    #[must_use]
    pub fn named_at(&self, query: QueryId, peer: PeerId) -> Option<Instant> {
        let found = self.queries.found.borrow();
        found.get(&query)?.iter().find(|(_, named)| *named == peer).map(|(at, _)| *at)
    }

    /// Holds a record that says that `provider` provides `key`.
    #[must_use]
    pub fn holds(&self, key: &kad::RecordKey, provider: PeerId) -> bool {
        self.kad(|kad| kad.store_mut().providers(key).iter().any(|record| record.provider == provider)).unwrap_or(false)
    }

    #[must_use]
    pub fn table_size(&self) -> usize {
        self.kad(|kad| kad.kbuckets().map(|bucket| bucket.num_entries()).sum()).unwrap_or(0)
    }

    /// The machine loses power.
    pub fn vanish(&self, net: &Network) {
        net.gone(self.host);
        self.gone.set(true);
        for task in &self.tasks {
            task.abort();
        }
    }

    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// With `/p2p`, as a bootstrap list has it.
    #[must_use]
    pub fn full_addr(&self) -> Multiaddr {
        self.addr.clone().with(Protocol::P2p(self.peer))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Kademlia looks for more nodes whenever its table is small, and cannot be told not to; a look-up that is ended before
/// it has asked anybody counts as done.
fn finish_bootstrap(kad: &mut kad::Behaviour<MemoryStore>) {
    if let Ok(query) = kad.bootstrap()
        && let Some(mut query) = kad.query_mut(&query)
    {
        query.finish();
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "libp2p's events are many, and more come with each version")]
async fn drive(
    swarm: Rc<RefCell<Swarm<Behaviour>>>,
    waker: Rc<RefCell<Option<Waker>>>,
    queries: Rc<Queries>,
    hops: Hops,
    filled: bool,
) {
    poll_fn(move |cx| {
        *waker.borrow_mut() = Some(cx.waker().clone());
        let mut swarm = swarm.borrow_mut();
        while let Poll::Ready(Some(event)) = swarm.poll_next_unpin(cx) {
            match event {
                SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => {
                    on_kad(&mut swarm, event, &queries, &hops, filled);
                }
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id, info, ..
                })) if !filled => {
                    on_identify(&mut swarm, peer_id, &info);
                }
                _ => {}
            }
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Kademlia itself takes up only those that it has dialled; servers that dialled it are known by what they say of
/// themselves.
fn on_identify(swarm: &mut Swarm<Behaviour>, peer: PeerId, info: &identify::Info) {
    let Some(kad) = swarm.behaviour_mut().kad.as_mut() else { return };
    if kad.protocol_names().iter().any(|name| info.protocols.contains(name)) {
        for addr in &info.listen_addrs {
            kad.add_address(&peer, addr.clone());
        }
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "libp2p's events are many, and more come with each version")]
fn on_kad(swarm: &mut Swarm<Behaviour>, event: kad::Event, queries: &Queries, hops: &Hops, filled: bool) {
    let local = *swarm.local_peer_id();
    let Some(kad) = swarm.behaviour_mut().kad.as_mut() else { return };
    match event {
        kad::Event::InboundRequest { request: kad::InboundRequest::GetProvider { num_provider_peers, .. } } => {
            hops.answered(local, num_provider_peers > 0, |target| kad.get_closest_local_peers(target).collect());
        }
        kad::Event::OutboundQueryProgressed { id, result, stats, step } => {
            let ok = match result {
                QueryResult::Bootstrap(_) => {
                    if filled && let Some(mut query) = kad.query_mut(&id) {
                        query.finish();
                    }
                    return;
                }
                QueryResult::GetProviders(Ok(found)) => {
                    if let kad::GetProvidersOk::FoundProviders { providers, .. } = found {
                        let mut named: Vec<PeerId> = providers.into_iter().collect();
                        named.sort();
                        let mut all = queries.found.borrow_mut();
                        all.entry(id).or_default().extend(named.into_iter().map(|peer| (now(), peer)));
                    }
                    true
                }
                QueryResult::StartProviding(Ok(_)) => true,
                _ => false,
            };
            if step.last {
                let named = queries.found.borrow();
                let found = named.get(&id).into_iter().flatten().map(|(_, peer)| *peer).collect();
                drop(named);
                queries.finished.borrow_mut().insert(id, Finished { ok, found, stats });
                queries.notify.notify_waiters();
            }
        }
        _ => {}
    }
}

/// Answers, or does not, as told.
async fn misbehave(mut stream: libp2p::Stream, conduct: Conduct) {
    while let Some(request) = read_request(&mut stream).await {
        match conduct.answer(&request) {
            Some(answer) => {
                if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            // Silence keeps the asker waiting longest.
            None => tokio::time::sleep(Duration::from_secs(60)).await,
        }
    }
}

async fn read_request(stream: &mut libp2p::Stream) -> Option<Request> {
    let mut prefix = Vec::new();
    while prefix.last().is_none_or(|byte| byte & 0x80 != 0) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        prefix.push(byte[0]);
        if prefix.len() > 9 {
            return None;
        }
    }
    let length = usize::try_from(kadwire::varint(&mut &prefix[..])?).ok().filter(|length| *length <= MAX_MESSAGE)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Request::decode(&body)
}

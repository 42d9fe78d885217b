//! Real swarms over loopback sockets, in real time: datagrams over TCP, and relays that are found.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use lanrage_actors::discovery::messages::{
    CloseDataStream, DataStreamClosed, DataStreamOpened, DataStreamsView, FindRelays, GetDiscovery, Listening,
    NodeAddrs, OpenDataStream, RelayFound, Seek, SendOnStream, SetServing, StreamDatagrams,
};
use lanrage_actors::discovery::{
    BindDataStreams, BindDiscovery, DiscoveryActor, DiscoveryConfig, DiscoveryError, Role,
};
use lanrage_actors::wire::{NodeId, TransmitBatch, stream_addr};
use libp2p::{PeerId, StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use tokio::sync::{Semaphore, mpsc};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Event {
    Opened(DataStreamOpened),
    Closed(u64),
    /// Stream, and the number at the start of each datagram with its length.
    Datagrams(u64, Vec<(u32, usize)>),
    Relay(RelayFound),
    Listening(String),
}

/// Takes datagrams only as far as `reads` has permits.
struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    reads: Arc<Semaphore>,
    mailbox: usize,
}

impl Actor for Recorder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox);
    }
}

macro_rules! record {
    ($message:ty, $value:ident => $event:expr) => {
        impl Handler<$message> for Recorder {
            type Result = ();
            fn handle(&mut self, $value: $message, _: &mut Self::Context) {
                let _ = self.events.send($event);
            }
        }
    };
}

record!(DataStreamOpened, m => Event::Opened(m));
record!(DataStreamClosed, m => Event::Closed(m.stream));
record!(RelayFound, m => Event::Relay(m));
record!(Listening, m => Event::Listening(m.0));

impl Handler<StreamDatagrams> for Recorder {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, m: StreamDatagrams, _: &mut Self::Context) -> Self::Result {
        let reads = Arc::clone(&self.reads);
        let wait = async move { reads.acquire().await.unwrap().forget() };
        let number = |datagram: &[u8]| datagram.first_chunk().map_or(u32::MAX, |four| u32::from_be_bytes(*four));
        AtomicResponse::new(Box::pin(wait.into_actor(self).map(move |(), recorder: &mut Self, _| {
            let all = m.batch.iter().map(|datagram| (number(datagram), datagram.len())).collect();
            let _ = recorder.events.send(Event::Datagrams(m.stream, all));
        })))
    }
}

struct Node {
    addr: Addr<DiscoveryActor>,
    events: mpsc::UnboundedReceiver<Event>,
    reads: Arc<Semaphore>,
    id: NodeId,
    /// Loopback multiaddrs with `/p2p`.
    tcp: String,
    quic: String,
}

fn config(role: Role, bootstrap: &[&str]) -> DiscoveryConfig {
    DiscoveryConfig {
        role,
        port: 0,
        bootstrap: bootstrap.iter().map(ToString::to_string).collect(),
        dht_protocol: "/lanrage-test/kad/1.0.0".into(),
        mdns: false,
        public_ips: vec![],
        extra_tcp_ports: vec![],
    }
}

fn node_id(peer: &PeerId) -> NodeId {
    NodeId::from_peer_id_bytes(&peer.to_bytes()).unwrap()
}

fn peer_of(addr: &str) -> PeerId {
    addr.rsplit('/').next().unwrap().parse().unwrap()
}

#[allow(clippy::disallowed_methods, reason = "what a test hears is bounded by what it does")]
async fn node(role: Role, seed: u8, bootstrap: &[&str]) -> Node {
    let (sender, events) = mpsc::unbounded_channel();
    let reads = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let (listening, mut heard) = mpsc::unbounded_channel();
    let recorder = |events: &mpsc::UnboundedSender<Event>, mailbox| {
        Recorder { events: events.clone(), reads: Arc::clone(&reads), mailbox }.start()
    };
    // One message at a time: where datagrams pile up is to be seen.
    let streams = recorder(&sender, 1);
    let addr = DiscoveryActor::new(config(role, bootstrap), [seed; 32]).unwrap().start();
    addr.try_send(BindDiscovery { links: None, listening: Some(recorder(&listening, 64).recipient()) }).unwrap();
    addr.try_send(BindDataStreams {
        opened: streams.clone().recipient(),
        closed: streams.clone().recipient(),
        datagrams: streams.recipient(),
        relay_found: Some(recorder(&sender, 64).recipient()),
    })
    .unwrap();
    let (mut tcp, mut quic) = (None, None);
    while tcp.is_none() || quic.is_none() {
        let event = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
        let Event::Listening(addr) = event else { continue };
        if addr.starts_with("/ip4/127.0.0.1/tcp") {
            tcp = Some(addr);
        } else if addr.starts_with("/ip4/127.0.0.1/udp") {
            quic = Some(addr);
        }
    }
    let (tcp, quic) = (tcp.unwrap(), quic.unwrap());
    Node { addr, events, reads, id: node_id(&peer_of(&tcp)), tcp, quic }
}

impl Node {
    async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = pick(self.events.recv().await.expect("the recorder lives")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
    }

    async fn opened(&mut self) -> DataStreamOpened {
        self.wait("stream", |event| match event {
            Event::Opened(opened) => Some(opened),
            _ => None,
        })
        .await
    }

    async fn closed(&mut self, stream: u64) {
        self.wait("end of the stream", |event| matches!(event, Event::Closed(it) if it == stream).then_some(())).await;
    }

    async fn relay(&mut self) -> RelayFound {
        self.wait("relay", |event| match event {
            Event::Relay(found) => Some(found),
            _ => None,
        })
        .await
    }

    async fn streams(&self) -> DataStreamsView {
        self.addr.send(GetDiscovery).await.unwrap().data_streams
    }

    /// Waits until the view is as it should be.
    async fn until(&self, what: &str, is: impl Fn(DataStreamsView) -> bool) {
        let wait = async {
            while !is(self.streams().await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
    }

    fn open_to(&self, other: &Self, addrs: &[&String]) {
        let addrs = addrs.iter().map(ToString::to_string).collect();
        self.addr.try_send(OpenDataStream { node: other.id, addrs, relay: None }).unwrap();
    }

    async fn send(&self, stream: u64, numbers: std::ops::Range<u32>, length: impl Fn(u32) -> usize) {
        for number in numbers {
            let length = length(number);
            let mut datagrams = TransmitBatch::new(stream_addr(stream));
            assert!(datagrams.push_with(length, length, |slot| {
                slot[..4].copy_from_slice(&number.to_be_bytes());
                Some(length)
            }));
            self.addr.send(SendOnStream { stream, datagrams }).await.unwrap();
        }
    }
}

#[actix::test]
async fn ten_thousand_datagrams_arrive_whole_and_in_order() {
    let mut relay = node(Role::Relay, 1, &[]).await;
    relay.addr.try_send(SetServing(Some(4242))).unwrap();
    let mut a = node(Role::Node, 2, &[&relay.tcp]).await;
    let udp: SocketAddr = "127.0.0.1:4242".parse().unwrap();
    a.addr.try_send(OpenDataStream { node: relay.id, addrs: vec![], relay: Some(udp) }).unwrap();
    let (at_a, at_relay) = (a.opened().await, relay.opened().await);
    assert_eq!((at_a.node, at_a.inbound, at_a.relay), (relay.id, false, Some(udp)));
    assert_eq!((at_relay.node, at_relay.inbound, at_relay.relay), (a.id, true, None));
    let length = |number: u32| 4 + (number as usize * 97) % 1497;
    let mut next = 0;
    while next < 10_000 {
        // Never more than may wait.
        a.send(at_a.stream, next..next + 40, length).await;
        next += 40;
        let mut got = next - 40;
        while got < next {
            relay
                .wait("datagrams", |event| match event {
                    Event::Datagrams(stream, datagrams) => {
                        assert_eq!(stream, at_relay.stream);
                        for datagram in datagrams {
                            assert_eq!(datagram, (got, length(got)));
                            got += 1;
                        }
                        Some(())
                    }
                    _ => None,
                })
                .await;
        }
    }
    relay.send(at_relay.stream, 7..8, |_| 1500).await;
    let back = a.wait("answer", |event| match event {
        Event::Datagrams(stream, datagrams) => Some((stream, datagrams)),
        _ => None,
    });
    assert_eq!(back.await, (at_a.stream, vec![(7, 1500)]));
    assert_eq!(a.streams().await, DataStreamsView { open: 1, ..DataStreamsView::default() });

    a.addr.try_send(CloseDataStream(relay.id)).unwrap();
    a.closed(at_a.stream).await;
    relay.closed(at_relay.stream).await;
    a.send(at_a.stream, 0..3, |_| 10).await;
    assert_eq!(a.streams().await.dropped_gone, 3);
    a.addr.try_send(OpenDataStream { node: relay.id, addrs: vec![], relay: None }).unwrap();
    assert!(a.opened().await.stream > at_a.stream, "an id is never used again");
}

#[actix::test]
async fn a_slow_reader_gets_the_newest() {
    const SENT: u32 = 10_000;
    let mut relay = node(Role::Relay, 3, &[]).await;
    relay.addr.try_send(SetServing(Some(4242))).unwrap();
    let mut a = node(Role::Node, 4, &[&relay.tcp]).await;
    a.open_to(&relay, &[]);
    let stream = a.opened().await.stream;
    relay.opened().await;
    relay.reads.forget_permits(Semaphore::MAX_PERMITS);
    a.send(stream, 0..SENT, |_| 1400).await;
    let dropped = a.streams().await.dropped_oldest;
    assert!(dropped > 9_000, "14 MB into 64 KiB: only {dropped} dropped");
    relay.reads.add_permits(Semaphore::MAX_PERMITS);
    let mut got: Vec<u32> = Vec::new();
    while got.last() != Some(&(SENT - 1)) {
        got.extend(
            relay
                .wait("datagrams", |event| match event {
                    Event::Datagrams(_, datagrams) => Some(datagrams.into_iter().map(|(number, _)| number)),
                    _ => None,
                })
                .await,
        );
    }
    assert!(got.is_sorted(), "in order");
    assert_eq!(got.len() as u64 + dropped, u64::from(SENT), "each is either delivered or counted");
    // What was under way when the reader stopped, and what waited: nowhere else does anything pile up.
    assert!(got.len() * 1402 < 256 * 1024, "{} kB were on their way", got.len() * 1402 / 1024);
}

#[actix::test]
async fn strangers_are_refused_until_the_node_serves() {
    let bystander = node(Role::Relay, 5, &[]).await;
    let mut b = node(Role::Node, 6, &[&bystander.tcp]).await;
    let mut a = node(Role::Node, 7, &[&bystander.tcp]).await;
    a.open_to(&b, &[&b.tcp]);
    b.until("refusals", |view| view.refused >= 2).await;
    assert_eq!((a.streams().await.open, b.streams().await.inbound), (0, 0));
    assert!(a.events.try_recv().is_err() && b.events.try_recv().is_err(), "nobody hears of it");
    b.addr.try_send(SetServing(Some(9))).unwrap();
    let (at_a, at_b) = (a.opened().await, b.opened().await);

    // Serving no more, it keeps members only.
    b.addr.try_send(SetServing(None)).unwrap();
    a.addr.try_send(CloseDataStream(b.id)).unwrap();
    a.closed(at_a.stream).await;
    b.closed(at_b.stream).await;
    let refused = b.streams().await.refused;
    a.open_to(&b, &[&b.tcp]);
    b.until("refusal", |view| view.refused > refused).await;
    let member = NodeAddrs { node: a.id, addrs: vec![] };
    b.addr.try_send(Seek { keys: vec![], nodes: vec![member], eager: false }).unwrap();
    assert_eq!(b.opened().await.node, a.id);
}

#[actix::test]
async fn quic_is_not_used_and_tcp_is_dialled_beside_it() {
    let mut relay = node(Role::Relay, 8, &[]).await;
    relay.addr.try_send(SetServing(Some(4242))).unwrap();
    let mut a = node(Role::Node, 9, &[&relay.quic]).await;
    assert_eq!(a.relay().await.node, relay.id, "connected, by QUIC");
    a.open_to(&relay, &[&relay.quic]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((a.streams().await.open, relay.streams().await.refused), (0, 0), "no stream was even tried");
    a.open_to(&relay, &[&relay.quic, &relay.tcp]);
    a.opened().await;
    assert_eq!(relay.opened().await.node, a.id);
}

#[actix::test]
async fn a_relay_is_known_by_whoever_connects() {
    let relay = node(Role::Relay, 10, &[]).await;
    let mut a = node(Role::Node, 11, &[&relay.tcp]).await;
    let tcp = relay.tcp.rsplit_once("/p2p/").unwrap().0;
    for port in [4242, 4243] {
        relay.addr.try_send(SetServing(Some(port))).unwrap();
        let found = a.relay().await;
        assert_eq!((found.node, found.addr), (relay.id, SocketAddr::from(([127, 0, 0, 1], port))));
        assert!(found.tcp_addrs.iter().any(|addr| addr == tcp), "{found:?}");
    }
}

#[actix::test]
async fn a_relay_is_found_through_the_dht() {
    let bootstrap = node(Role::Relay, 12, &[]).await;
    let relay = node(Role::Relay, 13, &[&bootstrap.tcp]).await;
    relay.addr.try_send(SetServing(Some(4242))).unwrap();
    let published = async {
        while relay.addr.send(GetDiscovery).await.unwrap().relay_published == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, published).await.expect("not published");
    let mut a = node(Role::Node, 14, &[&bootstrap.tcp]).await;
    a.addr.try_send(FindRelays).unwrap();
    let found = a.relay().await;
    assert_eq!((found.node, found.addr.port()), (relay.id, 4242));
    // What is known is told again to whoever asks.
    a.addr.try_send(FindRelays).unwrap();
    assert_eq!(a.relay().await, found);
}

/// A node with a stack of its own; without an answer to a ping it would be hung up on.
#[derive(libp2p::swarm::NetworkBehaviour)]
struct Hostile {
    streams: libp2p_stream::Behaviour,
    ping: libp2p::ping::Behaviour,
}

#[actix::test]
async fn a_frame_that_is_too_long_ends_the_stream() {
    let mut relay = node(Role::Relay, 15, &[]).await;
    relay.addr.try_send(SetServing(Some(4242))).unwrap();
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| Hostile {
            streams: libp2p_stream::Behaviour::new(),
            ping: libp2p::ping::Behaviour::default(),
        })
        .unwrap()
        .build();
    let mut control = swarm.behaviour().streams.new_control();
    let own = node_id(swarm.local_peer_id());
    swarm.dial(relay.tcp.parse::<libp2p::Multiaddr>().unwrap()).unwrap();
    while !swarm.is_connected(&peer_of(&relay.tcp)) {
        swarm.select_next_some().await;
    }
    actix::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let attack = async {
        for bad in [&[0xFF, 0xFF, 1][..], &[0x05, 0xDD], &[0, 0, 1, 0, 0, 0]] {
            let mut stream =
                control.open_stream(peer_of(&relay.tcp), StreamProtocol::new("/lanrage/data/1")).await.unwrap();
            stream.write_all(&[0, 2, 8, 9]).await.unwrap();
            stream.flush().await.unwrap();
            let opened = relay.opened().await;
            assert_eq!((opened.node, opened.inbound), (own, true));
            let datagram = |event| matches!(event, Event::Datagrams(_, it) if it[0].1 == 2).then_some(());
            relay.wait("datagram", datagram).await;
            let mut greeting = [1; 6];
            stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(greeting, [0; 6]);
            stream.write_all(bad).await.unwrap();
            stream.flush().await.unwrap();
            relay.closed(opened.stream).await;
            assert!(matches!(stream.read(&mut greeting).await, Ok(0) | Err(_)), "nothing but the end");
        }
    };
    tokio::time::timeout(PATIENCE, attack).await.unwrap();
    assert_eq!(relay.streams().await.open, 0);
}

#[actix::test]
async fn more_tcp_ports_are_listened_on_or_it_is_said_why_not() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let with_port = DiscoveryConfig { extra_tcp_ports: vec![port], ..config(Role::Relay, &[]) };
    let error = DiscoveryActor::new(with_port.clone(), [16; 32]).err().unwrap();
    assert!(matches!(error, DiscoveryError::ExtraPortInUse(it) if it == port), "{error}");
    assert!(error.to_string().contains("end that program"), "{error}");
    drop(taken);
    let relay = DiscoveryActor::new(with_port, [16; 32]).unwrap().start();
    let listens = async {
        let suffix = format!("/ip4/127.0.0.1/tcp/{port}/p2p/");
        while !relay.send(GetDiscovery).await.unwrap().listen_addrs.iter().any(|addr| addr.starts_with(&suffix)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listens).await.unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

//! Real swarms over loopback sockets, in real time: two nodes that share a rendezvous key find each other through a
//! third that serves the DHT, and exchange frames over a party stream.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test")]

use std::time::Duration;

use actix::prelude::*;
use lanrage_actors::discovery::messages::{
    CloseLink, GetDiscovery, LinkClosed, LinkFrame, LinkId, LinkOpened, Listening, MAX_FRAME, OwnAddrs, Seek, SendFrame,
};
use lanrage_actors::discovery::{BindDiscovery, DiscoveryActor, DiscoveryConfig, DiscoveryError, Links, Role};
use tokio::sync::mpsc;

#[derive(Debug)]
enum Event {
    Opened(LinkOpened),
    Frame(LinkFrame),
    Closed(LinkId),
    Listening(String),
}

struct Recorder(mpsc::Sender<Event>);

impl Actor for Recorder {
    type Context = Context<Self>;
}

macro_rules! record {
    ($message:ty, $value:ident => $event:expr) => {
        impl Handler<$message> for Recorder {
            type Result = ();
            fn handle(&mut self, $value: $message, _: &mut Self::Context) {
                self.0.try_send($event).unwrap();
            }
        }
    };
}

record!(LinkOpened, m => Event::Opened(m));
record!(LinkFrame, m => Event::Frame(m));
record!(LinkClosed, m => Event::Closed(m.0));
record!(Listening, m => Event::Listening(m.0));

impl Handler<OwnAddrs> for Recorder {
    type Result = ();
    fn handle(&mut self, _: OwnAddrs, _: &mut Self::Context) {}
}

struct Node {
    addr: Addr<DiscoveryActor>,
    events: mpsc::Receiver<Event>,
}

fn node(role: Role, seed: u8, bootstrap: &[String]) -> Node {
    let config = DiscoveryConfig {
        role,
        port: 0,
        bootstrap: bootstrap.to_vec(),
        dht_protocol: "/lanrage-test/kad/1.0.0".into(),
        mdns: false,
        public_ips: vec![],
        extra_tcp_ports: vec![],
    };
    let (sender, events) = mpsc::channel(1_000);
    let recorder = Recorder(sender).start();
    let addr = DiscoveryActor::new(config, [seed; 32]).unwrap().start();
    let links = Links {
        opened: recorder.clone().recipient(),
        frame: recorder.clone().recipient(),
        closed: recorder.clone().recipient(),
        own_addrs: recorder.clone().recipient(),
    };
    addr.try_send(BindDiscovery {
        links: (role == Role::Node).then_some(links),
        listening: Some(recorder.recipient()),
    })
    .unwrap();
    Node { addr, events }
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
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{what}: not within 30 s"))
    }

    async fn link(&mut self) -> LinkId {
        self.wait("link", |event| match event {
            Event::Opened(opened) => Some(opened.link),
            _ => None,
        })
        .await
    }

    async fn frame(&mut self) -> Vec<u8> {
        self.wait("frame", |event| match event {
            Event::Frame(frame) => Some(frame.frame),
            _ => None,
        })
        .await
    }
}

#[actix::test]
async fn two_nodes_find_each_other_by_key_and_talk() {
    let mut relay = node(Role::Relay, 1, &[]);
    let bootstrap = relay
        .wait("loopback address", |event| match event {
            Event::Listening(addr) if addr.starts_with("/ip4/127.0.0.1/tcp") => Some(addr),
            _ => None,
        })
        .await;
    let (mut a, mut b) =
        (node(Role::Node, 2, std::slice::from_ref(&bootstrap)), node(Role::Node, 3, std::slice::from_ref(&bootstrap)));
    let seek = Seek { keys: vec![[7; 32]], nodes: vec![], eager: true };
    a.addr.try_send(seek.clone()).unwrap();
    b.addr.try_send(Seek { keys: vec![[8; 32]], nodes: vec![], eager: true }).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(b.events.try_recv().is_ok_and(|event| matches!(event, Event::Listening(_))));
    while let Ok(event) = b.events.try_recv() {
        assert!(matches!(event, Event::Listening(_)), "another key finds nobody, but: {event:?}");
    }

    b.addr.try_send(seek).unwrap();
    let (link_a, link_b) = (a.link().await, b.link().await);
    a.addr.try_send(SendFrame { link: link_a, frame: vec![1; MAX_FRAME] }).unwrap();
    assert_eq!(b.frame().await, vec![1; MAX_FRAME]);
    b.addr.try_send(SendFrame { link: link_b, frame: b"back".to_vec() }).unwrap();
    assert_eq!(a.frame().await, b"back");
    let view = a.addr.send(GetDiscovery).await.unwrap();
    assert!(view.dht_nodes == 1 && view.published >= 1 && view.bootstrap[0].reached, "{view:?}");

    a.addr.try_send(SendFrame { link: link_a, frame: b"last words".to_vec() }).unwrap();
    a.addr.try_send(CloseLink(link_a)).unwrap();
    assert_eq!(b.frame().await, b"last words", "what was sent before the end arrives");
    b.wait("end of the link", |event| matches!(event, Event::Closed(link) if link == link_b).then_some(())).await;
}

#[actix::test]
async fn bad_settings_are_named() {
    let config = |bootstrap: &str, port| DiscoveryConfig {
        role: Role::Node,
        port,
        bootstrap: vec![bootstrap.into()],
        dht_protocol: "/lanrage-test/kad/1.0.0".into(),
        mdns: false,
        public_ips: vec![],
        extra_tcp_ports: vec![],
    };
    for bad in ["", "nonsense", "/ip4/203.0.113.5/tcp/4001"] {
        let error = DiscoveryActor::new(config(bad, 0), [1; 32]).err().unwrap();
        assert!(matches!(error, DiscoveryError::BadBootstrap(..)), "{error}");
        assert!(error.to_string().contains("/p2p/"), "{error}");
    }
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let peer = "/ip4/203.0.113.5/tcp/4001/p2p/12D3KooWD3bfmNbuuuVCYwkjnFt3ukm3qaB3hDED3peHHXawvRAi";
    let error = DiscoveryActor::new(config(peer, port), [1; 32]).err().unwrap();
    assert!(error.to_string().contains("--p2p-port"), "{error}");
}

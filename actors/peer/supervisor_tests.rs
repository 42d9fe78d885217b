//! The supervisor with recorders in place of the device and the socket.

use std::sync::{Arc, Mutex};

use boringtun::x25519;

use super::*;
use crate::peer::actor::fault::Panic;
use crate::peer::messages::Secret;
use crate::wire::{Contact, NodeId, WgPublicKey};

type Log = Arc<Mutex<Vec<String>>>;

/// Stands where the device and the socket are, and writes down what they are told.
struct Recorder(Log);

impl Actor for Recorder {
    type Context = Context<Self>;
}

macro_rules! record {
    ($message:ty, $value:ident => $text:expr) => {
        impl Handler<$message> for Recorder {
            type Result = ();
            fn handle(&mut self, $value: $message, _: &mut Self::Context) {
                self.0.lock().unwrap().push($text);
            }
        }
    };
}

record!(Transmit, m => format!("transmit to {}", m.0.destination()));
record!(Deliver, m => format!("deliver {}", m.0.len()));
record!(Register, m => format!("register {:?}", m.route.wg_key));
record!(Unregister, m => format!("unregister {:?}", m.route.wg_key));
record!(AddRoute, m => format!("route {}", m.ip));
record!(RemoveRoute, m => format!("unroute {}", m.ip));

fn spec(n: u8) -> PeerSpec {
    let secret = x25519::StaticSecret::from([n; 32]);
    PeerSpec {
        node: NodeId([n; 32]),
        name: format!("node{n}"),
        wg_key: WgPublicKey(x25519::PublicKey::from(&secret).to_bytes()),
        virtual_ip: Ipv4Addr::new(10, 66, 0, n),
        psk: Secret([7; 32]),
        contact: Contact::of_hosts([([203, 0, 113, n], 1000).into()]),
    }
}

fn start() -> (Addr<PeerSupervisor>, Log) {
    let log = Log::default();
    let recorder = Recorder(log.clone()).start();
    let own = OwnIdentity { node: NodeId([1; 32]), wg_secret: x25519::StaticSecret::from([1; 32]) };
    let supervisor = PeerSupervisor::new(own, [9; 32]).start();
    let links = Links {
        transmit: recorder.clone().recipient(),
        register: recorder.clone().recipient(),
        unregister: recorder.clone().recipient(),
        deliver: recorder.clone().recipient(),
        add_route: recorder.clone().recipient(),
        remove_route: recorder.recipient(),
        broadcast: None,
        relays: None,
        events: None,
        doubt: None,
    };
    supervisor.try_send(BindPeers(links)).unwrap();
    (supervisor, log)
}

fn set(peers: &[u8]) -> SetPeers {
    SetPeers { own_ip: Some(Ipv4Addr::new(10, 66, 0, 1)), peers: peers.iter().map(|&n| spec(n)).collect() }
}

async fn wait_until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        actix::clock::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 5 s");
}

#[derive(Message)]
#[rtype(result = "Option<Addr<PeerActor>>")]
struct AddrOf(NodeId);

impl Handler<AddrOf> for PeerSupervisor {
    type Result = Option<Addr<PeerActor>>;

    fn handle(&mut self, AddrOf(node): AddrOf, _: &mut Self::Context) -> Self::Result {
        self.peers.get(&node).and_then(|peer| peer.addr.clone())
    }
}

#[actix::test]
async fn a_panic_in_one_peer_restarts_that_peer_only() {
    let (supervisor, log) = start();
    supervisor.send(set(&[2, 3])).await.unwrap();
    let addr_of = |n| supervisor.send(AddrOf(NodeId([n; 32])));
    let (broken, healthy) = (addr_of(2).await.unwrap().unwrap(), addr_of(3).await.unwrap().unwrap());
    log.lock().unwrap().clear();

    broken.try_send(Panic).unwrap();
    wait_until("the broken one is restarted", async || {
        supervisor.send(GetPeers).await.unwrap().iter().any(|view| view.name == "node2" && view.restarts == 1)
    })
    .await;
    assert!(!broken.connected(), "the old actor is gone");
    assert!(healthy.connected(), "the other one is the one that was there before");
    let views = supervisor.send(GetPeers).await.unwrap();
    assert_eq!(views.iter().map(|view| view.restarts).collect::<Vec<_>>(), [1, 0]);
    wait_until("device and socket know the new actor", async || {
        let log = log.lock().unwrap();
        let key = format!("{:?}", spec(2).wg_key);
        let has = |text: String| log.contains(&text);
        has(format!("unregister {key}"))
            && has(format!("register {key}"))
            && has("unroute 10.66.0.2".into())
            && has("route 10.66.0.2".into())
            && has("transmit to 203.0.113.2:1000".into())
    })
    .await;
    assert!(!log.lock().unwrap().iter().any(|line| line.contains("unroute 10.66.0.3")));
}

#[actix::test]
async fn peers_follow_the_roster() {
    let (supervisor, log) = start();
    supervisor.send(set(&[2, 3])).await.unwrap();
    let gone = supervisor.send(AddrOf(NodeId([2; 32]))).await.unwrap().unwrap();
    supervisor.send(set(&[3, 4])).await.unwrap();
    let names: Vec<_> = supervisor.send(GetPeers).await.unwrap().into_iter().map(|view| view.name).collect();
    assert_eq!(names, ["node3", "node4"]);
    wait_until("the actor of the one that left ends", async || !gone.connected()).await;
    assert!(log.lock().unwrap().contains(&"unroute 10.66.0.2".to_owned()));

    let before = supervisor.send(AddrOf(NodeId([3; 32]))).await.unwrap().unwrap();
    let mut rekeyed = set(&[3, 4]);
    rekeyed.peers[0].psk = Secret([8; 32]);
    supervisor.send(rekeyed).await.unwrap();
    let after = supervisor.send(AddrOf(NodeId([3; 32]))).await.unwrap().unwrap();
    assert_ne!(before, after, "a new preshared key means a new tunnel");

    supervisor.send(SetPeers { own_ip: None, peers: vec![] }).await.unwrap();
    assert!(supervisor.send(GetPeers).await.unwrap().is_empty());
    let answer = supervisor.send(Ping { node: NodeId([3; 32]), timeout: Duration::from_secs(1) }).await.unwrap();
    assert_eq!(answer, Err(PingError::UnknownPeer));
}

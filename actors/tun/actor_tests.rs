//! TunActor with a device of channels.
// The mocks are tests too, which the clippy settings for test functions do not see.
#![allow(clippy::unwrap_in_result)]

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Addr;
use tokio::sync::mpsc;

use super::super::device::{OpenError, WriteReport};
use super::super::messages::{ClassRule, TunState};
use super::super::offload::Offload;
use super::super::testing::PacketSpec;
use super::*;
use crate::wire::ip::Ipv4Packet;
use crate::wire::{Class, IpProtocol, Ipv4Range};

const OWN: Address = Address { ip: Ipv4Addr::new(10, 66, 0, 1), range: Ipv4Range::DEFAULT };

enum Read {
    Packet(Vec<u8>, Offload),
    Malformed,
    Gone,
}

/// What tests see of, and do to, the mock system.
#[derive(Default)]
struct World {
    /// Answers to the next attempts to open; when there is none left, opening works.
    refusals: VecDeque<OpenError>,
    routes: Vec<LocalRoute>,
    opened: Vec<Address>,
    /// The way into the device that is open.
    input: Option<mpsc::Sender<Read>>,
    written: Vec<Vec<u8>>,
    fail_write: bool,
    mtus: Vec<u16>,
}

type Shared = Arc<Mutex<World>>;

struct MockFactory(Shared);

impl DeviceFactory for MockFactory {
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn Device>, OpenError> {
        let mut world = self.0.lock().unwrap();
        assert_eq!(request.name, "lanrage0");
        if let Some(error) = world.refusals.pop_front() {
            return Err(error);
        }
        let (input, reads) = mpsc::channel(256);
        world.opened.push(request.address);
        world.mtus.push(request.mtu);
        world.input = Some(input);
        Ok(Box::new(MockDevice { reads, world: Arc::clone(&self.0), packet: Vec::new() }))
    }

    fn local_routes(&self) -> io::Result<Vec<LocalRoute>> {
        Ok(self.0.lock().unwrap().routes.clone())
    }
}

struct MockDevice {
    reads: mpsc::Receiver<Read>,
    world: Shared,
    packet: Vec<u8>,
}

impl Device for MockDevice {
    fn poll_read(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Incoming<'_>, ReadError>> {
        match self.reads.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None | Some(Read::Gone)) => Poll::Ready(Err(ReadError::Gone(io::Error::other("deleted")))),
            Poll::Ready(Some(Read::Malformed)) => Poll::Ready(Err(ReadError::Malformed)),
            Poll::Ready(Some(Read::Packet(packet, offload))) => {
                self.packet = packet;
                Poll::Ready(Ok(Incoming { packet: Ipv4Packet::parse(&self.packet).unwrap(), offload }))
            }
        }
    }

    fn write_batch(&mut self, batch: &PacketBatch) -> WriteReport {
        let mut world = self.world.lock().unwrap();
        if world.fail_write {
            world.fail_write = false;
            return WriteReport { gone: Some(io::Error::other("down")), ..WriteReport::default() };
        }
        world.written.extend(batch.iter().map(<[u8]>::to_vec));
        WriteReport { packets: batch.len() as u64, bytes: batch.bytes() as u64, ..WriteReport::default() }
    }

    fn set_mtu(&mut self, mtu: u16) -> io::Result<()> {
        self.world.lock().unwrap().mtus.push(mtu);
        Ok(())
    }
}

/// A peer that keeps what it gets, one entry a message.
struct Peer {
    got: Arc<Mutex<Vec<Vec<Vec<u8>>>>>,
    mailbox: usize,
}

impl Actor for Peer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox);
    }
}

impl Handler<Outbound> for Peer {
    type Result = ();

    fn handle(&mut self, Outbound(batch): Outbound, _ctx: &mut Self::Context) {
        self.got.lock().unwrap().push(batch.iter().map(<[u8]>::to_vec).collect());
    }
}

struct Bench {
    world: Shared,
    tun: Addr<TunActor>,
}

impl Bench {
    fn new(world: World) -> Self {
        let world = Arc::new(Mutex::new(world));
        let moment = Duration::from_millis(5);
        let retry = RetryAfter { failure: moment, clash: moment, loss: moment };
        let tun = TunActor::with_retry(TunConfig::default(), Box::new(MockFactory(Arc::clone(&world))), retry).start();
        Self { world, tun }
    }

    async fn up() -> Self {
        let bench = Self::new(World::default());
        bench.tun.send(SetAddress(Some(OWN))).await.unwrap();
        bench
    }

    async fn view(&self) -> TunView {
        self.tun.send(GetTun).await.unwrap()
    }

    /// The view, once `done` holds of it.
    async fn view_when(&self, done: impl Fn(&TunView) -> bool) -> TunView {
        for _ in 0..2000 {
            let view = self.view().await;
            if done(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it never came: {:?}", self.view().await);
    }

    async fn peer(&self, ip: [u8; 4], mailbox: usize) -> Arc<Mutex<Vec<Vec<Vec<u8>>>>> {
        let got = Arc::default();
        let peer = Peer { got: Arc::clone(&got), mailbox }.start().recipient();
        self.tun.send(AddRoute { ip: ip.into(), peer }).await.unwrap();
        got
    }

    fn input(&self) -> mpsc::Sender<Read> {
        self.world.lock().unwrap().input.clone().unwrap()
    }

    fn read(&self, reads: impl IntoIterator<Item = Read>) {
        let input = self.input();
        for read in reads {
            assert!(input.try_send(read).is_ok());
        }
    }
}

fn to(destination: [u8; 4], payload: usize) -> Vec<u8> {
    PacketSpec { destination: destination.into(), ..PacketSpec::udp(payload) }.build()
}

fn batch(packets: &[Vec<u8>]) -> PacketBatch {
    let mut batch = PacketBatch::new();
    assert!(packets.iter().all(|packet| batch.push(packet)));
    batch
}

#[actix::test]
async fn one_drain_is_one_batch_a_peer_and_the_rest_is_counted() {
    let bench = Bench::up().await;
    let two = bench.peer([10, 66, 0, 2], 16).await;
    let three = bench.peer([10, 66, 0, 3], 16).await;
    let plain = |ip, len| Read::Packet(to(ip, len), Offload::None);
    bench.read([
        plain([10, 66, 0, 2], 1),
        plain([10, 66, 0, 3], 2),
        Read::Malformed,
        plain([10, 66, 0, 2], 3),
        plain([10, 66, 0, 1], 4),
        plain([10, 66, 0, 9], 5),
        plain([255; 4], 6),
        plain([10, 66, 255, 255], 7),
        plain([224, 0, 0, 251], 8),
        Read::Packet(to([10, 66, 0, 3], 25), Offload::Udp { segment: 10 }),
        Read::Packet(to([10, 66, 0, 3], 25), Offload::Tcp { segment: 10 }),
    ]);
    let view = bench.view_when(|view| view.counters.dropped_malformed == 2).await;
    tokio::task::yield_now().await;
    assert_eq!(*two.lock().unwrap(), [[to([10, 66, 0, 2], 1), to([10, 66, 0, 2], 3)]]);
    let three = three.lock().unwrap();
    let lengths: Vec<Vec<usize>> = three.iter().map(|it| it.iter().map(|p| p.len() - 28).collect()).collect();
    assert_eq!(lengths, [vec![2], vec![10, 10, 5]], "a burst goes behind what is small");
    let counters = view.counters;
    assert_eq!((counters.dropped_no_route, counters.dropped_broadcast, counters.dropped_peer_busy), (2, 3, 0));
    assert_eq!((counters.read_packets, counters.read_bytes), (11, 61 + 11 * 28));
}

#[actix::test]
async fn more_than_one_turn_of_reads_arrives_whole_and_in_order() {
    let bench = Bench::up().await;
    let got = bench.peer([10, 66, 0, 2], 16).await;
    // A rule makes all of one class.
    let rule = ClassRule::new(IpProtocol::Udp, 0..=u16::MAX, Class::default());
    bench.tun.send(SetClasses(vec![rule])).await.unwrap();
    bench.read((0..200).map(|n| Read::Packet(to([10, 66, 0, 2], n), Offload::None)));
    bench.view_when(|view| view.counters.read_packets == 200).await;
    tokio::task::yield_now().await;
    let got = got.lock().unwrap();
    let lengths: Vec<usize> = got.iter().flatten().map(|p| p.len() - 28).collect();
    assert_eq!(lengths, (0..200).collect::<Vec<_>>());
    assert_eq!(got.len(), 200usize.div_ceil(READS_PER_POLL));
}

#[actix::test]
async fn a_busy_peer_loses_packets_and_they_are_counted() {
    let bench = Bench::up().await;
    let got = bench.peer([10, 66, 0, 2], 1).await;
    bench.read([Read::Packet(to([10, 66, 0, 2], 60_000), Offload::Udp { segment: 100 })]);
    let view = bench.view_when(|view| view.counters.read_packets == 600).await;
    tokio::task::yield_now().await;
    let arrived = got.lock().unwrap().iter().map(Vec::len).sum::<usize>() as u64;
    assert!(view.counters.dropped_peer_busy > 0 && arrived > 0);
    assert_eq!(arrived + view.counters.dropped_peer_busy, 600);
}

#[actix::test]
async fn removed_routes_are_no_route() {
    let bench = Bench::up().await;
    let got = bench.peer([10, 66, 0, 2], 16).await;
    bench.tun.send(RemoveRoute { ip: [10, 66, 0, 2].into() }).await.unwrap();
    bench.read([Read::Packet(to([10, 66, 0, 2], 1), Offload::None)]);
    bench.view_when(|view| view.counters.dropped_no_route == 1).await;
    assert!(got.lock().unwrap().is_empty());
}

#[actix::test]
async fn deliver_writes_and_without_a_device_counts() {
    let bench = Bench::new(World::default());
    let packets = [to([10, 66, 0, 1], 3), to([10, 66, 0, 1], 4)];
    bench.tun.send(Deliver(batch(&packets))).await.unwrap();
    assert_eq!(bench.view().await.counters.dropped_write_failed, 2);
    bench.tun.send(SetAddress(Some(OWN))).await.unwrap();
    bench.tun.send(Deliver(batch(&packets))).await.unwrap();
    let view = bench.view().await;
    assert_eq!((view.counters.written_packets, view.counters.written_bytes), (2, 63));
    assert_eq!(bench.world.lock().unwrap().written, packets);
}

#[actix::test]
async fn a_missing_right_is_said_and_the_device_comes_up_when_it_is_there() {
    let refusals =
        VecDeque::from([OpenError::Capability, OpenError::Capability, OpenError::NodeMissing("/dev/net/tun")]);
    let bench = Bench::new(World { refusals, ..World::default() });
    assert_eq!(bench.view().await.state, TunState::Idle);
    bench.tun.send(SetAddress(Some(OWN))).await.unwrap();
    let view = bench.view().await;
    assert_eq!(view.state, TunState::NoPermission);
    let exe = std::env::current_exe().unwrap();
    let problem = view.problem.unwrap();
    assert!(problem.contains(&format!("sudo setcap cap_net_admin,cap_net_raw+ep {}", exe.display())), "{problem}");
    let view = bench.view_when(|view| view.state == TunState::Up).await;
    assert_eq!(view.problem, None);
    assert_eq!(bench.world.lock().unwrap().opened, [OWN]);
}

#[actix::test]
async fn a_clash_keeps_the_device_closed_until_it_is_gone() {
    let clash = LocalRoute { device: "eth0".into(), network: [10, 66, 4, 0].into(), prefix_len: 24 };
    let bench = Bench::new(World { routes: vec![clash], ..World::default() });
    bench.tun.send(SetAddress(Some(OWN))).await.unwrap();
    let view = bench.view().await;
    assert_eq!(view.state, TunState::RangeClash);
    assert!(view.problem.unwrap().contains("10.66.4.0/24 on eth0"));
    assert!(bench.world.lock().unwrap().opened.is_empty());
    bench.world.lock().unwrap().routes.clear();
    bench.view_when(|view| view.state == TunState::Up).await;
}

#[actix::test]
async fn a_device_that_goes_away_is_opened_again() {
    let bench = Bench::up().await;
    let got = bench.peer([10, 66, 0, 2], 16).await;
    bench.read([Read::Packet(to([10, 66, 0, 2], 1), Offload::None), Read::Gone]);
    bench.view_when(|_| bench.world.lock().unwrap().opened.len() == 2).await;
    bench.world.lock().unwrap().fail_write = true;
    bench.tun.send(Deliver(batch(&[to([10, 66, 0, 1], 1)]))).await.unwrap();
    let view = bench.view_when(|view| view.counters.dropped_write_failed == 1).await;
    assert!(matches!(view.state, TunState::Failed | TunState::Up));
    bench.view_when(|_| bench.world.lock().unwrap().opened.len() == 3).await;
    bench.read([Read::Packet(to([10, 66, 0, 2], 2), Offload::None)]);
    bench.view_when(|view| view.counters.read_packets == 2).await;
    tokio::task::yield_now().await;
    assert_eq!(got.lock().unwrap().len(), 2, "the packet before the end was not lost, and the new device is read");
}

#[actix::test]
async fn a_games_mtu_is_set_survives_a_new_device_and_is_undone() {
    let bench = Bench::up().await;
    for (asked, mtu) in [(Some(1200), 1200), (Some(100), 576), (Some(9000), 1360), (Some(1200), 1200)] {
        bench.tun.send(SetMtu(asked)).await.unwrap();
        assert_eq!(bench.view().await.mtu, mtu);
    }
    bench.read([Read::Gone]);
    bench.view_when(|_| bench.world.lock().unwrap().opened.len() == 2).await;
    bench.tun.send(SetMtu(Some(1200))).await.unwrap();
    bench.tun.send(SetMtu(None)).await.unwrap();
    assert_eq!(bench.view().await.mtu, 1360);
    assert_eq!(bench.world.lock().unwrap().mtus, [1360, 1200, 576, 1360, 1200, 1200, 1360]);
}

#[actix::test]
async fn a_ping_goes_before_the_transfer_that_came_first() {
    let bench = Bench::up().await;
    let got = bench.peer([10, 66, 0, 2], 16).await;
    let ports = |ports| PacketSpec { ports, ..PacketSpec::udp(600) }.build();
    let rule = ClassRule::new(IpProtocol::Udp, 2342..=2342, Class { urgency: Urgency::Expedited, dscp: 46 });
    bench.tun.send(SetClasses(vec![rule])).await.unwrap();
    let packets = [ports((1, 2)), to([10, 66, 0, 2], 20), ports((1, 2342))];
    bench.read(packets.iter().cloned().map(|packet| Read::Packet(packet, Offload::None)));
    let view = bench.view_when(|view| view.counters.read_packets == 3).await;
    tokio::task::yield_now().await;
    let [transfer, ping, game] = packets;
    assert_eq!(*got.lock().unwrap(), [vec![ping], vec![game], vec![transfer]]);
    assert_eq!(view.counters.read_expedited, 2);
}

#[actix::test]
async fn another_address_reopens_and_none_closes() {
    let bench = Bench::up().await;
    let first = bench.input();
    bench.tun.send(SetAddress(Some(OWN))).await.unwrap();
    assert!(!first.is_closed(), "the same address changes nothing");
    let other = Address { ip: [10, 66, 0, 7].into(), ..OWN };
    bench.tun.send(SetAddress(Some(other))).await.unwrap();
    assert!(first.is_closed());
    assert_eq!(bench.world.lock().unwrap().opened, [OWN, other]);
    let second = bench.input();
    bench.read([Read::Packet(to([10, 66, 0, 1], 1), Offload::None)]);
    bench.view_when(|view| view.counters.read_packets == 1).await;
    bench.tun.send(SetAddress(None)).await.unwrap();
    assert!(second.is_closed());
    assert_eq!(bench.view().await.state, TunState::Idle);
}

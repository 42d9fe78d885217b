//! The Linux device against the real kernel, in network namespaces that last as long as the threads of the test.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]
// A test file is all test, its helpers too, which the clippy settings for test functions do not see.
#![allow(clippy::unwrap_used, clippy::unwrap_in_result, clippy::print_stdout)]

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use actix::Actor as _;
use lanrage_actors::peer::messages::Outbound;
use lanrage_actors::tun::actor::{TunActor, TunConfig};
use lanrage_actors::tun::device::{Device, DeviceFactory, OpenError, OpenRequest, ReadError};
use lanrage_actors::tun::linux::LinuxFactory;
use lanrage_actors::tun::messages::{AddRoute, Address, Deliver, GetTun, SetAddress, TunState};
use lanrage_actors::tun::offload::Offload;
use lanrage_actors::tun::segment::Segments;
use lanrage_actors::wire::ip::{self, Ipv4Packet};
use lanrage_actors::wire::{Ipv4Range, PacketBatch, icmp};
use tokio::runtime::Runtime;

const NAME: &str = "lanrage0";
const HERE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// For what must come; what does not come within it never will.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
}

/// Runs `test` on a thread of its own in a new network namespace; false (and a line) when that is not possible here.
fn in_namespace(test: impl FnOnce() + Send + 'static) -> Option<std::thread::JoinHandle<()>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    let effective = u64::from_str_radix(effective, 16).unwrap();
    if [CAP_NET_ADMIN, CAP_SYS_ADMIN].iter().any(|&cap| effective >> cap & 1 == 0) {
        println!("skipped: needs CAP_NET_ADMIN (and CAP_SYS_ADMIN for a network namespace)");
        return None;
    }
    Some(std::thread::spawn(move || {
        // SAFETY: takes no pointers; it moves this thread only.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        RUNTIME.with(|runtime| {
            let _guard = runtime.enter();
            test();
        });
    }))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

fn run(test: impl FnOnce() + Send + 'static) {
    if let Some(thread) = in_namespace(test)
        && let Err(panic) = thread.join()
    {
        std::panic::resume_unwind(panic);
    }
}

fn request(ip: Ipv4Addr) -> OpenRequest<'static> {
    OpenRequest { name: NAME, mtu: 1360, address: Address { ip, range: Ipv4Range::DEFAULT } }
}

fn open(ip: Ipv4Addr) -> Box<dyn Device> {
    LinuxFactory.open(&request(ip)).unwrap()
}

/// The next read as the packets that go to peers, and whether it was segmented; `None` when nothing comes in time.
fn read(device: &mut dyn Device, patience: Duration) -> Option<Result<(Vec<Vec<u8>>, Offload), ReadError>> {
    let next = poll_fn(|cx| {
        device.poll_read(cx).map(|read| {
            read.map(|incoming| {
                let offload = incoming.offload;
                let mut segments = Segments::new(incoming).expect("the kernel's offloads are consistent");
                let mut packets = Vec::new();
                loop {
                    let mut batch = PacketBatch::new();
                    let done = segments.fill(&mut batch);
                    packets.extend(batch.iter().map(<[u8]>::to_vec));
                    if done {
                        return (packets, offload);
                    }
                }
            })
        })
    });
    block_on(async { tokio::time::timeout(patience, next).await.ok() })
}

fn next(device: &mut dyn Device) -> (Vec<Vec<u8>>, Offload) {
    read(device, PATIENCE).expect("nothing came").expect("neither ARP nor IPv6 nor an end")
}

fn udp_packet(id: u16, payload: &[u8]) -> Vec<u8> {
    let total = 28 + payload.len();
    let mut packet = vec![0; total];
    ip::write_header(&mut packet, THERE, HERE, ip::UDP, total).unwrap();
    packet[4..8].copy_from_slice(&[(id >> 8) as u8, id as u8, 0, 0]);
    ip::write_header_checksum(&mut packet[..20]);
    packet[20..22].copy_from_slice(&4000u16.to_be_bytes());
    packet[22..24].copy_from_slice(&5000u16.to_be_bytes());
    packet[24..26].copy_from_slice(&((total - 20) as u16).to_be_bytes());
    packet[28..].copy_from_slice(payload);
    let checksum = ip::transport_checksum(THERE, HERE, ip::UDP, &packet[20..]);
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn batch<'a>(packets: impl IntoIterator<Item = &'a Vec<u8>>) -> PacketBatch {
    let mut batch = PacketBatch::new();
    assert!(packets.into_iter().all(|packet| batch.push(packet)));
    batch
}

fn ip_link(arguments: &[&str]) {
    assert!(Command::new("ip").arg("link").args(arguments).status().unwrap().success());
}

fn interface_flags() -> i32 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: an `ifreq` is plain data for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *slot = byte as libc::c_char;
    }
    // SAFETY: the request is valid for the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    assert_eq!(result, 0);
    // SAFETY: SIOCGIFFLAGS filled this field.
    i32::from(unsafe { request.ifr_ifru.ifru_flags })
}

#[test]
fn the_interface_is_what_games_look_for() {
    run(|| {
        let mut device = open(HERE);
        let flags = interface_flags();
        for (name, flag) in [
            ("BROADCAST", libc::IFF_BROADCAST),
            ("MULTICAST", libc::IFF_MULTICAST),
            ("NOARP", libc::IFF_NOARP),
            ("UP", libc::IFF_UP),
        ] {
            assert_ne!(flags & flag, 0, "{name}");
        }
        let sysctl = |path: &str| std::fs::read_to_string(format!("/proc/sys/net/{path}")).map(|t| t.trim().to_owned());
        if let Ok(disabled) = sysctl("ipv6/conf/lanrage0/disable_ipv6") {
            assert_eq!(disabled, "1");
        }
        assert_ne!(sysctl("ipv4/conf/lanrage0/rp_filter").unwrap(), "1");
        let routes = LinuxFactory.local_routes().unwrap();
        assert_eq!(routes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.66.0.0/16 on lanrage0"]);
        assert!(read(&mut *device, Duration::from_millis(300)).is_none(), "a new interface says nothing by itself");
        drop(device);
        assert!(LinuxFactory.local_routes().unwrap().is_empty(), "nothing is left behind");
    });
}

#[test]
fn what_local_programs_send_is_read_and_no_arp() {
    run(|| {
        let mut device = open(HERE);
        let socket = UdpSocket::bind((HERE, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        for to in ["10.66.0.2", "10.66.77.88", "10.66.255.255", "224.0.0.251", "255.255.255.255"] {
            let to: Ipv4Addr = to.parse().unwrap();
            // The limited broadcast has no route in a namespace without a default route, unless the device is named.
            if to.is_broadcast() {
                Command::new("ip").args(["route", "add", "255.255.255.255", "dev", NAME]).status().unwrap();
            }
            socket.send_to(b"hello", (to, 5000)).unwrap();
            let (packets, _) = next(&mut *device);
            assert_eq!(packets.len(), 1);
            let packet = Ipv4Packet::parse(&packets[0]).unwrap();
            assert_eq!((packet.source(), packet.destination(), packet.protocol()), (HERE, to, ip::UDP));
            assert_eq!(&packet.payload()[8..], b"hello");
            assert!(packet.header_checksum_ok());
            assert_eq!(packet.transport_checksum_ok(), Some(true));
        }
        assert!(read(&mut *device, Duration::from_millis(300)).is_none());
    });
}

#[test]
fn udp_segmentation_of_a_program_is_split() {
    run(|| {
        let mut device = open(HERE);
        let socket = UdpSocket::bind((HERE, 0)).unwrap();
        let size: libc::c_int = 1000;
        // SAFETY: the option value is an int of the given length, valid for the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let sent: Vec<u8> = (0..10_500u32).map(|n| (n % 251) as u8).collect();
        socket.send_to(&sent, (THERE, 5000)).unwrap();
        let (mut got, mut count, mut segmented) = (Vec::new(), 0, false);
        while got.len() < sent.len() {
            let (packets, offload) = next(&mut *device);
            segmented |= matches!(offload, Offload::Udp { segment: 1000 });
            for packet in &packets {
                let packet = Ipv4Packet::parse(packet).unwrap();
                assert!(packet.header_checksum_ok());
                assert_eq!(packet.transport_checksum_ok(), Some(true));
                got.extend_from_slice(&packet.payload()[8..]);
                count += 1;
            }
        }
        assert_eq!((count, got == sent), (11, true));
        println!("the kernel left the segmentation to the device: {segmented}");
    });
}

#[test]
fn the_kernel_answers_an_echo_request() {
    run(|| {
        let mut device = open(HERE);
        let mut packet = vec![0; 200];
        let len = icmp::icmp_echo_request(THERE, HERE, 77, 3, 56, &mut packet).unwrap();
        packet.truncate(len);
        let report = device.write_batch(&batch([&packet]));
        assert_eq!((report.packets, report.bytes, report.malformed), (1, len as u64, 0));
        assert!(report.gone.is_none());
        let (packets, _) = next(&mut *device);
        let reply = icmp::parse_icmp_echo_reply(&packets[0]).unwrap();
        assert_eq!((reply.src, reply.dst, reply.ident, reply.seq), (HERE, THERE, 77, 3));
    });
}

#[test]
fn coalesced_datagrams_all_arrive_in_order() {
    run(|| {
        let mut device = open(HERE);
        let socket = UdpSocket::bind(("0.0.0.0", 5000)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // Two runs with a shorter tail each, a lone one, one without payload, and a run again.
        let sizes = [vec![900; 20], vec![300], vec![1200; 30], vec![7], vec![0], vec![1200; 5]].concat();
        let packets: Vec<_> =
            sizes.iter().enumerate().map(|(n, &size)| udp_packet(n as u16, &vec![n as u8; size])).collect();
        let report = device.write_batch(&batch(&packets));
        assert_eq!(report.packets, packets.len() as u64);
        assert_eq!(report.bytes, packets.iter().map(|packet| packet.len() as u64).sum::<u64>());
        let mut buf = [0; 2000];
        for (n, &size) in sizes.iter().enumerate() {
            let (len, from) = socket.recv_from(&mut buf).unwrap();
            assert_eq!((len, from), (size, (THERE, 4000).into()));
            assert!(buf[..len].iter().all(|&byte| byte == n as u8));
        }
        let mut damaged = udp_packet(0, b"damaged");
        damaged[30] ^= 1;
        device.write_batch(&batch([&damaged, &udp_packet(1, b"good")]));
        let (len, _) = socket.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"good", "the stack still drops what is damaged");
    });
}

#[test]
fn injected_broadcasts_reach_a_socket_with_their_sender() {
    run(|| {
        let mut device = open(HERE);
        let socket = UdpSocket::bind(("0.0.0.0", 5000)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for to in [Ipv4Addr::BROADCAST, Ipv4Range::DEFAULT.broadcast()] {
            let mut packet = udp_packet(1, b"who is there");
            packet[16..20].copy_from_slice(&to.octets());
            packet[26..28].fill(0);
            ip::write_header_checksum(&mut packet[..20]);
            device.write_batch(&batch([&packet]));
            let mut buf = [0; 100];
            let (len, from) = socket.recv_from(&mut buf).unwrap();
            assert_eq!((&buf[..len], from), (&b"who is there"[..], (THERE, 4000).into()));
        }
    });
}

#[test]
fn the_end_of_the_device_is_noticed() {
    run(|| {
        let mut device = open(HERE);
        ip_link(&["set", NAME, "down"]);
        let report = device.write_batch(&batch([&udp_packet(0, b"x")]));
        assert!(report.gone.is_some(), "down");
        ip_link(&["set", NAME, "up"]);
        assert!(device.write_batch(&batch([&udp_packet(0, b"x")])).gone.is_none());
        // The kernel answers the datagrams with "port unreachable".
        while read(&mut *device, Duration::from_millis(200)).is_some_and(|read| read.is_ok()) {}
        let deleter = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            ip_link(&["delete", NAME]);
        });
        assert!(matches!(read(&mut *device, PATIENCE), Some(Err(ReadError::Gone(_)))), "deleted while waiting");
        deleter.join().unwrap();
        assert!(device.write_batch(&batch([&udp_packet(0, b"x")])).gone.is_some());
        let _again = open(HERE);
    });
}

#[test]
fn refusals_say_what_they_are() {
    run(|| {
        let _device = open(HERE);
        assert!(matches!(LinuxFactory.open(&request(THERE)), Err(OpenError::NameBusy)));
        assert!(matches!(LinuxFactory.open(&OpenRequest { name: "lo", ..request(THERE) }), Err(OpenError::NameBusy)));
        assert!(matches!(
            LinuxFactory.open(&OpenRequest { name: "too-long-for-linux", ..request(THERE) }),
            Err(OpenError::BadName)
        ));
        drop_net_admin();
        assert!(matches!(
            LinuxFactory.open(&OpenRequest { name: "lanrage1", ..request(THERE) }),
            Err(OpenError::Capability)
        ));
    });
}

/// Gives up CAP_NET_ADMIN, for this thread.
fn drop_net_admin() {
    // linux/capability.h: the header (version 3, thread 0 = this one), then effective, permitted, inheritable, twice.
    let mut header = [0x2008_0522u32, 0];
    let mut sets = [0u32; 6];
    // SAFETY: header and sets have the layout of version 3 and are valid for both calls.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()), 0);
        sets[0] &= !(1 << CAP_NET_ADMIN);
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()), 0);
    }
}

/// A peer that hands on what it gets.
struct Peer(tokio::sync::mpsc::Sender<PacketBatch>);

impl actix::Actor for Peer {
    type Context = actix::Context<Self>;
}

impl actix::Handler<Outbound> for Peer {
    type Result = ();

    fn handle(&mut self, Outbound(batch): Outbound, _ctx: &mut Self::Context) {
        self.0.try_send(batch).expect("the test reads along");
    }
}

#[test]
fn the_actor_serves_a_real_device_and_brings_it_back() {
    run(|| {
        actix::System::new().block_on(async {
            let tun = TunActor::new(TunConfig::default(), Box::new(LinuxFactory)).start();
            let (sender, mut got) = tokio::sync::mpsc::channel(64);
            tun.send(AddRoute { ip: THERE, peer: Peer(sender).start().recipient() }).await.unwrap();
            for round in 0..2u16 {
                tun.send(SetAddress(Some(request(HERE).address))).await.unwrap();
                let deadline = Instant::now() + PATIENCE;
                while tun.send(GetTun).await.unwrap().state != TunState::Up {
                    assert!(Instant::now() < deadline, "{:?}", tun.send(GetTun).await.unwrap());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let mut packet = vec![0; 200];
                let len = icmp::icmp_echo_request(THERE, HERE, 5, round, 56, &mut packet).unwrap();
                packet.truncate(len);
                tun.send(Deliver(batch([&packet]))).await.unwrap();
                let answer = tokio::time::timeout(PATIENCE, got.recv()).await.unwrap().unwrap();
                assert_eq!(icmp::parse_icmp_echo_reply(answer.get(0)).unwrap().seq, round);
                if round == 0 {
                    ip_link(&["delete", NAME]);
                    // Noticed without any traffic.
                    while tun.send(GetTun).await.unwrap().state == TunState::Up {
                        assert!(Instant::now() < deadline);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            let view = tun.send(GetTun).await.unwrap();
            assert_eq!((view.counters.read_packets, view.counters.written_packets, view.problem), (2, 2, None));
        });
    });
}

/// Two hosts whose devices are joined by channels of batches: TCP with its offloads, both ways.
#[test]
fn tcp_runs_through_split_and_coalescing() {
    const BYTES: usize = 64 << 20;
    let pattern = |at: usize| (at.wrapping_mul(2_654_435_761) >> 16) as u8;
    let (to_b, from_a) = tokio::sync::mpsc::channel(64);
    let (to_a, from_b) = tokio::sync::mpsc::channel(64);
    let (ready, wait_ready) = std::sync::mpsc::sync_channel(1);
    let (done, mut wait_done) = tokio::sync::watch::channel(false);
    let mut wait_done_b = wait_done.clone();

    let server = in_namespace(move || {
        let device = open(THERE);
        let worker = std::thread::spawn(move || {
            let listener = TcpListener::bind((THERE, 7000)).unwrap();
            ready.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut buf = vec![0; 256 << 10];
            let mut total = 0;
            while total < BYTES {
                let len = stream.read(&mut buf).unwrap();
                assert!(len > 0 && buf[..len].iter().enumerate().all(|(n, &byte)| byte == pattern(total + n)));
                total += len;
            }
            stream.write_all(b"all").unwrap();
            stream.read(&mut buf).unwrap()
        });
        join(device, to_a, from_a, &mut wait_done_b);
        assert_eq!(worker.join().unwrap(), 0);
    });
    let Some(server) = server else { return };
    let client = in_namespace(move || {
        let device = open(HERE);
        let worker = std::thread::spawn(move || {
            wait_ready.recv().unwrap();
            let mut stream = TcpStream::connect((THERE, 7000)).unwrap();
            stream.set_read_timeout(Some(6 * PATIENCE)).unwrap();
            let data: Vec<u8> = (0..BYTES).map(pattern).collect();
            let start = Instant::now();
            stream.write_all(&data).unwrap();
            let mut answer = [0; 3];
            stream.read_exact(&mut answer).unwrap();
            let rate = (BYTES * 8) as f64 / start.elapsed().as_secs_f64() / 1e9;
            println!("TCP between two devices: {rate:.2} Gbit/s");
            drop(stream);
            // So that the FIN passes.
            std::thread::sleep(Duration::from_millis(200));
            done.send(true).unwrap();
            answer
        });
        let segmented = join(device, to_b, from_b, &mut wait_done);
        assert_eq!(&worker.join().unwrap(), b"all");
        assert!(segmented > 0, "the kernel leaves TCP segmentation to the device");
    })
    .unwrap();
    client.join().unwrap();
    server.join().unwrap();
}

/// Carries packets between a device and its peer until told to stop; returns how many segmented packets were read.
fn join(
    mut device: Box<dyn Device>,
    to: tokio::sync::mpsc::Sender<PacketBatch>,
    mut from: tokio::sync::mpsc::Receiver<PacketBatch>,
    stop: &mut tokio::sync::watch::Receiver<bool>,
) -> usize {
    let mut segmented = 0;
    block_on(async {
        loop {
            let mut out = Vec::new();
            tokio::select! {
                _ = stop.changed() => return,
                Some(batch) = from.recv() => {
                    let report = device.write_batch(&batch);
                    assert_eq!(report.packets, batch.len() as u64);
                }
                () = poll_fn(|cx| device.poll_read(cx).map(|read| {
                    let incoming = read.expect("neither ARP nor IPv6 nor an end");
                    segmented += usize::from(matches!(incoming.offload, Offload::Tcp { .. }));
                    let mut segments = Segments::new(incoming).unwrap();
                    loop {
                        let mut batch = PacketBatch::new();
                        let done = segments.fill(&mut batch);
                        out.push(batch);
                        if done {
                            break;
                        }
                    }
                })) => {
                    for batch in out {
                        // The other end may be gone after the end of the stream.
                        let _ = to.send(batch).await;
                    }
                }
            }
        }
    });
    segmented
}

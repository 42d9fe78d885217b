//! BridgeActor: sockets, captures and the clock around one `BridgeMachine`.
#![allow(missing_debug_implementations, reason = "actix addresses have no Debug")]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use actix::fut::wrap_future;
use actix::prelude::*;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use super::hello;
use super::linux::{self, Lan, Seen};
use super::machine::{BridgeMachine, Carried, MARK, OnLan, Shout, Side, SocketId, Sockets};
use super::messages::{BindBridge, BridgeView, FromBridge, GetBridge, GuestPorts};
use super::neighbours::{Member, Network};
use crate::broadcast::datagram::{Batches, Checksum, Datagram};
use crate::browser::messages::Announcement;
use crate::peer::messages::{CandidateState, CandidateView, GetPeers, Origin, PeerView};
use crate::tun::messages::{Address, SetAddress};
use crate::wire::ip::{self, Ipv4Packet, MIN_HEADER_LEN};

const MAILBOX: usize = 64;
/// Datagrams of one socket before the other actors of the arbiter get their turn.
const READS_PER_POLL: usize = 32;
const MAX_DATAGRAM: usize = 65_535;
const ASK_PEERS_EVERY: Duration = Duration::from_secs(1);
const LOOK_AT_INTERFACES_EVERY: Duration = Duration::from_secs(5);
/// Of what is put on a network: it is not to be routed on.
const LAN_TTL: u8 = 1;

/// Which interfaces, and the name of the virtual device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    pub interfaces: Vec<String>,
    pub device: String,
}

pub struct BridgeActor {
    machine: BridgeMachine,
    own: Option<Address>,
    links: Option<BindBridge>,
    udp: UdpSockets,
    lans: Vec<LanState>,
    timer: Option<SpawnHandle>,
    /// A look at the interfaces is under way.
    looking: bool,
    buffer: Box<[u8]>,
    /// Problems that have been told.
    told: Vec<Option<String>>,
}

#[derive(Default)]
struct LanState {
    open: Option<Rc<Lan>>,
    /// With the interface's index.
    network: Option<(Network, u32)>,
    reader: Option<SpawnHandle>,
}

/// The sockets of the NAT.
struct UdpSockets {
    device: String,
    party: Option<Address>,
    /// Names and networks, by number.
    lans: Vec<(String, Option<Network>)>,
    open: HashMap<SocketId, (Rc<UdpSocket>, Option<SpawnHandle>)>,
    /// Since the readers were last seen to.
    opened: Vec<SocketId>,
    closed: Vec<SpawnHandle>,
    /// Since BroadcastActor was told.
    changed: bool,
}

impl Sockets for UdpSockets {
    fn open(&mut self, id: SocketId, side: Side, port: u16) -> Option<u16> {
        let (ip, interface) = match side {
            Side::Party => (self.party?.ip, self.device.as_str()),
            Side::Lan(number) => {
                let (name, network) = self.lans.get(number)?;
                (network.as_ref()?.ip, name.as_str())
            }
        };
        let opened = linux::udp(ip, port, interface).and_then(|socket| Ok((socket.local_addr()?.port(), socket)));
        match opened {
            Ok((port, socket)) => {
                self.open.insert(id, (Rc::new(socket), None));
                self.opened.push(id);
                self.changed = true;
                Some(port)
            }
            Err(error) => {
                tracing::debug!(%ip, port, interface, %error, "no socket for the bridge");
                None
            }
        }
    }

    fn close(&mut self, id: SocketId) {
        if let Some((_, reader)) = self.open.remove(&id) {
            self.changed = true;
            self.closed.extend(reader);
        }
    }
}

impl BridgeActor {
    #[must_use]
    pub fn new(config: BridgeConfig) -> Self {
        let machine = BridgeMachine::new(config.interfaces);
        let names: Vec<_> = machine.interfaces().map(str::to_owned).collect();
        for name in &names {
            tracing::warn!(
                "bridging {name}: every machine on that network can talk to the members of your party, and they to it, \
                 by UDP; whatever it broadcasts is sent to them"
            );
        }
        Self {
            machine,
            own: None,
            links: None,
            lans: names.iter().map(|_| LanState::default()).collect(),
            told: vec![None; names.len()],
            udp: UdpSockets {
                device: config.device,
                party: None,
                lans: names.into_iter().map(|name| (name, None)).collect(),
                open: HashMap::new(),
                opened: Vec::new(),
                closed: Vec::new(),
                changed: false,
            },
            timer: None,
            looking: false,
            buffer: vec![0; MAX_DATAGRAM].into_boxed_slice(),
        }
    }

    /// Readers for new sockets, none for closed ones, and the one timer.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        for reader in self.udp.closed.drain(..) {
            ctx.cancel_future(reader);
        }
        self.tell_guests();
        for id in std::mem::take(&mut self.udp.opened) {
            if let Some((socket, reader)) = self.udp.open.get_mut(&id) {
                *reader = Some(ctx.spawn(ReadSocket { id, socket: Rc::clone(socket) }));
            }
        }
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = self.machine.poll_timeout().map(|(at, _why)| {
            ctx.run_later(at.saturating_duration_since(now()), |this, ctx| {
                this.timer = None;
                this.on_timeout();
                this.settle(ctx);
            })
        });
    }

    /// At once: BroadcastActor would take the sockets for programs that want to hear what members shout. What does not get
    /// through is told with the next change or timer.
    fn tell_guests(&mut self) {
        if self.udp.changed
            && let Some(links) = &self.links
        {
            self.udp.changed = links.guests.try_send(GuestPorts(self.machine.guest_ports())).is_err();
        }
    }

    fn on_timeout(&mut self) {
        if let Some(payload) = self.machine.on_timeout(now(), &mut self.udp) {
            let carried = Carried { source_port: hello::PORT, destination: hello::GROUP, except: Vec::new() };
            self.carry(carried, hello::PORT, &payload);
        }
    }

    fn names(&self) -> Vec<String> {
        self.udp.lans.iter().map(|(name, _)| name.clone()).collect()
    }

    /// On another thread: packets do not wait for it.
    fn look_at_interfaces(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (names, device) = (self.names(), self.udp.device.clone());
        let looked = tokio::task::spawn_blocking(move || linux::look(&names, &device));
        ctx.spawn(wrap_future::<_, Self>(looked).map(|seen, this, ctx| {
            this.looking = false;
            if let Ok(seen) = seen {
                this.on_seen(seen, ctx);
                this.settle(ctx);
            }
        }));
    }

    fn on_seen(&mut self, seen: Seen, ctx: &mut Context<Self>) {
        let Self { machine, udp, .. } = self;
        machine.set_index(now(), Side::Party, seen.device, udp);
        for (number, found) in seen.lans.into_iter().enumerate().take(self.lans.len()) {
            let name = self.udp.lans[number].0.clone();
            let found = found.and_then(|(network, index)| Ok((self.machine.once(number, network)?, index)));
            if let Ok((_, index)) = found {
                self.machine.set_index(now(), Side::Lan(number), Some(index), &mut self.udp);
            }
            let found = found.and_then(|found| self.open_lan(number, &name, found, ctx));
            if let Err(problem) = &found
                && self.told[number].as_ref() != Some(problem)
            {
                tracing::warn!("{name} is not bridged: {problem}");
            }
            self.told[number] = found.as_ref().err().cloned();
            if found.is_err() {
                let lan = &mut self.lans[number];
                lan.open = None;
                lan.network = None;
                if let Some(reader) = lan.reader.take() {
                    ctx.cancel_future(reader);
                }
            }
            self.udp.lans[number].1 = found.as_ref().ok().copied();
            self.machine.set_network(now(), number, found, &mut self.udp);
        }
    }

    fn open_lan(
        &mut self,
        number: usize,
        name: &str,
        found: (Network, u32),
        ctx: &mut Context<Self>,
    ) -> Result<Network, String> {
        let lan = &mut self.lans[number];
        if lan.open.is_some() && lan.network == Some(found) {
            return Ok(found.0);
        }
        if name == self.udp.device {
            return Err("it is LANrage's own device; name the one of your local network".to_owned());
        }
        if let Some(reader) = lan.reader.take() {
            ctx.cancel_future(reader);
        }
        let open = Lan::open(name).map_err(|error| {
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                "LANrage lacks the right to read along there (CAP_NET_RAW); `lanrage doctor` says how to give it"
                    .to_owned()
            } else {
                format!("the system refuses: {error}")
            }
        })?;
        let open = Rc::new(open);
        lan.reader = Some(ctx.spawn(ReadLan { number, lan: Rc::clone(&open) }));
        lan.open = Some(open);
        lan.network = Some(found);
        Ok(found.0)
    }

    fn ask_peers(&self, ctx: &mut Context<Self>) {
        let (Some(links), Some(_)) = (&self.links, self.own) else { return };
        let asked = links.peers.send(GetPeers);
        ctx.spawn(wrap_future::<_, Self>(asked).map(|peers, this, ctx| {
            if let Ok(peers) = peers {
                this.machine.set_members(now(), peers.iter().map(member).collect());
                this.on_timeout();
                this.settle(ctx);
            }
        }));
    }

    /// A packet that another machine shouted on a bridged network.
    fn on_lan_packet(&mut self, number: usize, bytes: &[u8]) {
        // A card, or another namespace of this machine, may leave the sum to the receiver.
        let read = Ipv4Packet::parse(bytes)
            .ok()
            .filter(|packet| !packet.is_fragment())
            .and_then(|packet| Datagram::parse(&packet, Checksum::MaybeUnfilled).ok());
        let Some(datagram) = read else {
            self.machine.count_malformed();
            return;
        };
        let shout = Shout {
            source: SocketAddrV4::new(datagram.source, datagram.source_port),
            destination: SocketAddrV4::new(datagram.destination, datagram.destination_port),
            type_of_service: bytes[1],
        };
        let carried = self.machine.on_lan_shout(now(), number, shout, datagram.payload, &mut self.udp);
        if let Some(carried) = carried {
            self.carry(carried, datagram.destination_port, datagram.payload);
        }
    }

    fn carry(&mut self, carried: Carried, destination_port: u16, payload: &[u8]) {
        let (Some(own), Some(links)) = (self.own, &self.links) else { return };
        let datagram = Datagram {
            source: own.ip,
            destination: carried.destination,
            source_port: carried.source_port,
            destination_port,
            ttl: LAN_TTL,
            payload,
        };
        let mut batches = Batches::default();
        datagram.write(u16::MAX, 0, &mut batches);
        for batch in batches.drain() {
            let message = FromBridge { batch, except: carried.except.clone() };
            if links.carry.try_send(message).is_err() {
                self.machine.count_unsent();
            }
        }
    }

    fn shout(&mut self, it: OnLan, payload: &[u8]) {
        let datagram = Datagram {
            source: *it.source.ip(),
            destination: *it.destination.ip(),
            source_port: it.source.port(),
            destination_port: it.destination.port(),
            ttl: LAN_TTL,
            payload,
        };
        let mut batches = Batches::default();
        datagram.write(u16::MAX, 0, &mut batches);
        let lan = self.lans.get(it.network).and_then(|lan| lan.open.clone());
        for batch in batches.drain() {
            for packet in batch.iter() {
                let mut packet = packet.to_vec();
                packet[1] = MARK;
                ip::write_header_checksum(&mut packet[..MIN_HEADER_LEN]);
                let sent = lan.as_ref().map(|lan| lan.shout(&packet, *it.destination.ip()));
                if !matches!(sent, Some(Ok(()))) {
                    self.machine.count_unsent();
                }
            }
        }
    }

    fn on_datagram(&mut self, id: SocketId, from: SocketAddr, payload: &[u8]) {
        let SocketAddr::V4(from) = from else { return };
        let Some(forward) = self.machine.on_socket(now(), id, from, &mut self.udp) else { return };
        let socket = self.udp.open.get(&forward.socket);
        if socket.is_none_or(|(socket, _)| linux::send(socket, payload, forward.to).is_err()) {
            self.machine.count_unsent();
        }
    }
}

/// tokio's clock, so that a paused one moves the actor as well.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn member(peer: &PeerView) -> Member {
    let of = |wanted: fn(&CandidateView) -> bool| {
        let addresses = peer.candidates.iter().filter(|it| wanted(it)).filter_map(|it| match it.endpoint.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        addresses.collect()
    };
    Member {
        ip: peer.virtual_ip,
        connected: peer.connected,
        live: of(|it| it.state == CandidateState::Live && matches!(it.origin, Origin::Host | Origin::PeerReflexive)),
        named: of(|it| it.origin == Origin::Host),
    }
}

/// Reads one socket of the NAT, with the actor at hand.
struct ReadSocket {
    id: SocketId,
    socket: Rc<UdpSocket>,
}

impl ActorFuture<BridgeActor> for ReadSocket {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut BridgeActor,
        ctx: &mut Context<BridgeActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let mut buffer = std::mem::take(&mut actor.buffer);
        let mut more = true;
        for _ in 0..READS_PER_POLL {
            let mut read = ReadBuf::new(&mut buffer);
            match self.socket.poll_recv_from(task, &mut read) {
                Poll::Ready(Ok(from)) => actor.on_datagram(self.id, from, read.filled()),
                // Of an earlier datagram that nobody took.
                Poll::Ready(Err(_)) => {}
                Poll::Pending => {
                    more = false;
                    break;
                }
            }
        }
        actor.buffer = buffer;
        actor.settle_new(ctx);
        if more {
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Reads a bridged network.
struct ReadLan {
    number: usize,
    lan: Rc<Lan>,
}

impl ActorFuture<BridgeActor> for ReadLan {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut BridgeActor,
        ctx: &mut Context<BridgeActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let mut buffer = std::mem::take(&mut actor.buffer);
        let mut more = true;
        for _ in 0..READS_PER_POLL {
            match self.lan.poll_read(task, &mut buffer) {
                Poll::Ready(Ok(length)) => actor.on_lan_packet(self.number, &buffer[..length]),
                // The interface went down: the next look at it opens it again.
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "the bridged network cannot be read");
                    if let Some(lan) = actor.lans.get_mut(self.number) {
                        lan.open = None;
                    }
                    actor.buffer = buffer;
                    return Poll::Ready(());
                }
                Poll::Pending => {
                    more = false;
                    break;
                }
            }
        }
        actor.buffer = buffer;
        actor.settle_new(ctx);
        if more {
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl BridgeActor {
    /// Most datagrams change no socket.
    fn settle_new(&mut self, ctx: &mut Context<Self>) {
        if !self.udp.opened.is_empty() || !self.udp.closed.is_empty() {
            self.settle(ctx);
        }
    }
}

impl Actor for BridgeActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        // There is no packet yet that could wait.
        let seen = linux::look(&self.names(), &self.udp.device);
        self.on_seen(seen, ctx);
        ctx.run_interval(LOOK_AT_INTERFACES_EVERY, |this, ctx| this.look_at_interfaces(ctx));
        ctx.run_interval(ASK_PEERS_EVERY, |this, ctx| this.ask_peers(ctx));
    }
}

impl Handler<BindBridge> for BridgeActor {
    type Result = ();

    fn handle(&mut self, links: BindBridge, _: &mut Self::Context) {
        self.links = Some(links);
    }
}

impl Handler<SetAddress> for BridgeActor {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, ctx: &mut Self::Context) {
        self.own = address;
        self.udp.party = address;
        self.machine.set_address(now(), address, &mut self.udp);
        self.ask_peers(ctx);
        self.settle(ctx);
    }
}

impl Handler<Announcement> for BridgeActor {
    type Result = ();

    fn handle(&mut self, it: Announcement, ctx: &mut Self::Context) {
        let source = SocketAddrV4::new(it.member, it.source_port);
        let destination = SocketAddrV4::new(it.destination, it.destination_port);
        for shout in self.machine.on_party_shout(now(), source, destination, &it.payload, &mut self.udp) {
            self.shout(shout, &it.payload);
        }
        self.settle(ctx);
    }
}

impl Handler<GetBridge> for BridgeActor {
    type Result = MessageResult<GetBridge>;

    fn handle(&mut self, _: GetBridge, _: &mut Self::Context) -> Self::Result {
        let view: BridgeView = self.machine.view(now());
        MessageResult(view)
    }
}

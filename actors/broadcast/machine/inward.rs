//! From the members to the local programs.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::{BroadcastMachine, Heard, Outputs, destination_port};
use crate::broadcast::datagram::{Checksum, Datagram};
use crate::broadcast::delivery::{self, Plan};
use crate::broadcast::reassembly::{Outcome, Whole};
use crate::broadcast::tally::Fate;
use crate::browser::messages::{MAX_ANNOUNCEMENT, MINECRAFT_PORT};
use crate::wire::PacketBatch;
use crate::wire::ip::{Ipv4Packet, UDP};

/// Reassembly knows members by their addresses.
const WAY: u32 = 0;

impl BroadcastMachine {
    /// Out of the tunnel of the member `ip`.
    pub fn on_member(&mut self, now: Instant, ip: Ipv4Addr, batch: &PacketBatch, out: &mut Outputs) {
        if !self.members.contains_key(&ip) {
            self.counters.dropped_stranger += batch.len() as u64;
            return;
        }
        for bytes in batch.iter() {
            self.on_member_packet(now, ip, bytes, out);
        }
    }

    fn on_member_packet(&mut self, now: Instant, ip: Ipv4Addr, bytes: &[u8], out: &mut Outputs) {
        let Some(own) = self.own else {
            self.counters.dropped_unwanted += 1;
            return;
        };
        let Ok(packet) = Ipv4Packet::parse(bytes) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        let to = packet.destination();
        if packet.source() != ip || !(to.is_broadcast() || to.is_multicast() || to == own.range.broadcast()) {
            self.counters.dropped_misdirected += 1;
            return;
        }
        if packet.protocol() != UDP {
            self.counters.dropped_unwanted += 1;
            return;
        }
        if packet.is_fragment() {
            self.on_member_fragment(now, ip, &packet, out);
            return;
        }
        let Some(port) = destination_port(packet.payload()) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        if !self.accepts(now, ip, port, bytes.len()) {
            return;
        }
        match Datagram::parse(&packet, Checksum::Final) {
            Ok(datagram) => self.deliver(now, &datagram, out),
            Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    fn on_member_fragment(&mut self, now: Instant, ip: Ipv4Addr, packet: &Ipv4Packet<'_>, out: &mut Outputs) {
        let limits = self.members.get_mut(&ip);
        if !limits.is_some_and(|limits| limits.take_fragment(now, packet.bytes().len())) {
            self.counters.dropped_limited += 1;
            return;
        }
        let outcome = self.reassembly.on_fragment(now, WAY, packet);
        self.count_given_up();
        match outcome {
            Outcome::Kept => {}
            Outcome::Refused => self.counters.dropped_fragments += 1,
            Outcome::Whole(Whole { source, destination, ttl, payload, .. }) => {
                match Datagram::from_segment(source, destination, ttl, &payload, Checksum::Final) {
                    Ok(datagram) if !self.accepts(now, ip, datagram.destination_port, payload.len()) => {}
                    Ok(datagram) => self.deliver(now, &datagram, out),
                    Err(_) => self.counters.dropped_malformed += 1,
                }
            }
        }
    }

    /// Whether the member may send so much to that port now.
    fn accepts(&mut self, now: Instant, ip: Ipv4Addr, port: u16, bytes: usize) -> bool {
        if self.is_unwanted(port) {
            self.counters.dropped_unwanted += 1;
            return false;
        }
        let rate = self.rate(port);
        let limits = self.members.get_mut(&ip);
        if !limits.is_some_and(|limits| limits.take_datagram(now, port, rate, bytes)) {
            self.limited(now, port);
            return false;
        }
        true
    }

    /// Hands one datagram of a member to the local programs.
    fn deliver(&mut self, now: Instant, datagram: &Datagram<'_>, out: &mut Outputs) {
        let Some(own) = self.own else { return };
        if self.is_unwanted_service(datagram) {
            return;
        }
        // Those who read along are told also of what no game here listens to: they list what others host.
        let read = self.read_along || datagram.destination_port == MINECRAFT_PORT;
        if read && datagram.payload.len() <= MAX_ANNOUNCEMENT {
            out.heard.push(Heard::of(datagram));
        }
        let listeners = self.local.as_ref().and_then(|local| local.ports.get(&datagram.destination_port));
        let Plan { shouts, unicast } = if datagram.destination.is_multicast() {
            if self.local.is_none() || self.joined.contains(&datagram.destination) {
                delivery::multicast(datagram.destination, own, listeners)
            } else {
                // The kernel drops it, but a program in a namespace of its own (`lanrage play`) may have joined.
                self.counters.unheard += 1;
                Plan { shouts: vec![datagram.destination], unicast: false }
            }
        } else {
            let networks: Vec<Ipv4Addr> = self.captured.values().flat_map(|it| it.broadcasts.iter().copied()).collect();
            delivery::broadcast(datagram.destination, own, listeners, &networks)
        };
        let ident = self.next_ident();
        for destination in shouts {
            Datagram { destination, ..*datagram }.write(u16::MAX, ident, &mut out.deliver);
        }
        if unicast {
            Datagram { destination: own.ip, ..*datagram }.write(u16::MAX, ident, &mut out.deliver);
            self.counters.delivered_unicast += 1;
        }
        self.counters.delivered += 1;
        self.tally.count(now, datagram.destination_port, Fate::Delivered);
    }
}

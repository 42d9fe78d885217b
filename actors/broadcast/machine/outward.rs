//! From the local programs to the members.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::{BroadcastMachine, Outputs, destination_port};
use crate::broadcast::datagram::{Checksum, Datagram};
use crate::broadcast::dedup::Point;
use crate::broadcast::limits::Rate;
use crate::broadcast::mdns;
use crate::broadcast::reassembly::{Outcome, Whole};
use crate::broadcast::tally::Fate;
use crate::broadcast::unwanted::MDNS;
use crate::wire::PacketBatch;
use crate::wire::ip::{Ipv4Packet, UDP};

impl BroadcastMachine {
    /// What local programs sent on the virtual device.
    pub fn on_device(&mut self, now: Instant, batch: &PacketBatch, out: &mut Outputs) {
        for bytes in batch.iter() {
            self.on_local(now, Point::Device, bytes, out);
        }
    }

    /// What local programs sent on a captured interface: a packet from its IP header on.
    pub fn on_captured(&mut self, now: Instant, number: u8, bytes: &[u8], out: &mut Outputs) {
        self.on_local(now, Point::Interface(number), bytes, out);
    }

    fn on_local(&mut self, now: Instant, point: Point, bytes: &[u8], out: &mut Outputs) {
        let Ok(packet) = Ipv4Packet::parse(bytes) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        // The kernel's own reports of joined groups (IGMP) are none of our business.
        if packet.protocol() != UDP {
            self.counters.dropped_unwanted += 1;
            return;
        }
        if self.own.is_none() || self.members.is_empty() {
            self.counters.dropped_alone += 1;
            return;
        }
        if self.carried_destination(point, packet.source(), packet.destination()).is_none() {
            self.counters.dropped_misdirected += 1;
            return;
        }
        if packet.is_fragment() {
            self.on_local_fragment(now, point, &packet, out);
            return;
        }
        let Some(port) = destination_port(packet.payload()) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        if !self.passes(now, port, bytes.len()) {
            return;
        }
        // Before the network card has filled it, the checksum is that of the pseudo header alone.
        match Datagram::parse(&packet, Checksum::MaybeUnfilled) {
            Ok(datagram) => self.carry(now, point, &datagram, out),
            Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    fn on_local_fragment(&mut self, now: Instant, point: Point, packet: &Ipv4Packet<'_>, out: &mut Outputs) {
        if !self.limits.take_fragment(now, packet.bytes().len()) {
            self.counters.dropped_limited += 1;
            return;
        }
        let way = match point {
            Point::Device => 1,
            Point::Interface(number) => 2 + u32::from(number),
        };
        let outcome = self.reassembly.on_fragment(now, way, packet);
        self.count_given_up();
        match outcome {
            Outcome::Kept => {}
            Outcome::Refused => self.counters.dropped_fragments += 1,
            Outcome::Whole(Whole { source, destination, ttl, payload, .. }) => {
                match Datagram::from_segment(source, destination, ttl, &payload, Checksum::Final) {
                    Ok(datagram) if !self.passes(now, datagram.destination_port, payload.len()) => {}
                    Ok(datagram) => self.carry(now, point, &datagram, out),
                    Err(_) => self.counters.dropped_malformed += 1,
                }
            }
        }
    }

    /// Whether this machine may send so much to that port now.
    fn passes(&mut self, now: Instant, port: u16, bytes: usize) -> bool {
        if self.is_unwanted(port) {
            self.counters.dropped_unwanted += 1;
            return false;
        }
        let rate = self.rate(port);
        if !self.limits.take_datagram(now, port, rate, bytes) {
            self.limited(now, port);
            return false;
        }
        true
    }

    /// Sends one datagram of a local program to all members.
    fn carry(&mut self, now: Instant, point: Point, datagram: &Datagram<'_>, out: &mut Outputs) {
        let (Some(own), Some(destination)) =
            (self.own, self.carried_destination(point, datagram.source, datagram.destination))
        else {
            return;
        };
        if self.is_unwanted_service(datagram) {
            return;
        }
        let readdressed = self.readdressed(point, datagram);
        let datagram = &Datagram { payload: readdressed.as_deref().unwrap_or(datagram.payload), ..*datagram };
        if self.dedup.is_copy(now, point, datagram) {
            self.counters.dropped_duplicate += 1;
            return;
        }
        let members = self.members.len();
        let packets = datagram.packet_len().div_ceil(usize::from(self.settings.mtu).max(1)) * members;
        let bytes = datagram.packet_len() * members;
        if !self.copies.take(now, Rate::COPIES, u32::try_from(packets).unwrap_or(u32::MAX), bytes) {
            self.limited(now, datagram.destination_port);
            return;
        }
        let ident = self.next_ident();
        Datagram { source: own.ip, destination, ..*datagram }.write(self.settings.mtu, ident, &mut out.send);
        self.counters.sent += 1;
        self.tally.count(now, datagram.destination_port, Fate::Sent);
    }

    /// What mDNS says on another network of this machine's address there is said of its virtual IP.
    fn readdressed(&self, point: Point, datagram: &Datagram<'_>) -> Option<Vec<u8>> {
        let (Point::Interface(number), true) = (point, datagram.destination == *MDNS.ip()) else { return None };
        mdns::readdressed(datagram.payload, &self.captured.get(&number)?.sources, self.own?.ip)
    }

    /// The destination inside the tunnel; `None` for what is no broadcast or multicast of this machine there.
    fn carried_destination(&self, point: Point, source: Ipv4Addr, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        let own = self.own?;
        let everywhere = destination.is_broadcast() || destination.is_multicast();
        match point {
            Point::Device => {
                // A program may be bound to another address of this machine. What came from a member never goes out again.
                let foreign = source != own.ip && own.range.contains(source);
                (!foreign && (everywhere || destination == own.range.broadcast())).then_some(destination)
            }
            Point::Interface(number) => {
                let captured = self.captured.get(&number)?;
                if !captured.sources.contains(&source) {
                    return None;
                }
                let subnet = captured.broadcasts.contains(&destination);
                if everywhere { Some(destination) } else { subnet.then(|| own.range.broadcast()) }
            }
        }
    }
}

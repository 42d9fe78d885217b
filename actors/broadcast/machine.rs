//! What is carried to the members, and what of theirs is handed to the local programs.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use super::datagram::{Batches, Checksum, Datagram};
use super::messages::{BroadcastCounters, BroadcastView, GameRules};
use crate::tun::messages::Address;
use crate::wire::PacketBatch;
use crate::wire::ip::{Ipv4Packet, UDP};

/// What never changes while the node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Of the tunnel, bytes of an IP packet.
    pub mtu: u16,
}

/// What the machine wants done.
#[derive(Debug, Default)]
pub struct Outputs {
    /// One copy to each member.
    pub send: Batches,
    /// For the virtual device.
    pub deliver: Batches,
    pub heard: Vec<Heard>,
}

/// A datagram of a member that was handed to the local programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub member: Ipv4Addr,
    pub source_port: u16,
    pub destination: Ipv4Addr,
    pub destination_port: u16,
    pub payload: Vec<u8>,
}

/// Carries broadcasts and multicasts between the local programs and the members.
#[derive(Debug)]
pub struct BroadcastMachine {
    settings: Settings,
    own: Option<Address>,
    members: BTreeSet<Ipv4Addr>,
    rules: GameRules,
    /// Tells the fragments of one datagram from those of another.
    ident: u16,
    counters: BroadcastCounters,
}

impl BroadcastMachine {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            own: None,
            members: BTreeSet::new(),
            rules: GameRules::default(),
            ident: 0,
            counters: BroadcastCounters::default(),
        }
    }

    pub fn set_address(&mut self, address: Option<Address>) {
        self.own = address;
    }

    pub fn add_member(&mut self, ip: Ipv4Addr) {
        self.members.insert(ip);
    }

    pub fn remove_member(&mut self, ip: Ipv4Addr) {
        self.members.remove(&ip);
    }

    pub fn set_rules(&mut self, rules: GameRules) {
        self.rules = rules;
    }

    /// What local programs sent on the virtual device.
    pub fn on_device(&mut self, now: Instant, batch: &PacketBatch, out: &mut Outputs) {
        for bytes in batch.iter() {
            let Ok(packet) = Ipv4Packet::parse(bytes) else {
                self.counters.dropped_malformed += 1;
                continue;
            };
            // The kernel's own reports of joined groups (IGMP) are none of our business.
            if packet.protocol() != UDP {
                self.counters.dropped_unwanted += 1;
                continue;
            }
            match Datagram::parse(&packet, Checksum::MaybeUnfilled) {
                Ok(datagram) => self.carry(now, &datagram, out),
                Err(_) => self.counters.dropped_malformed += 1,
            }
        }
    }

    /// Out of the tunnel of the member `ip`.
    pub fn on_member(&mut self, now: Instant, ip: Ipv4Addr, batch: &PacketBatch, out: &mut Outputs) {
        if !self.members.contains(&ip) {
            self.counters.dropped_stranger += batch.len() as u64;
            return;
        }
        for bytes in batch.iter() {
            let Ok(packet) = Ipv4Packet::parse(bytes) else {
                self.counters.dropped_malformed += 1;
                continue;
            };
            match Datagram::parse(&packet, Checksum::Final) {
                Ok(datagram) if datagram.source == ip => self.deliver(now, &datagram, out),
                Ok(_) => self.counters.dropped_misdirected += 1,
                Err(_) => self.counters.dropped_malformed += 1,
            }
        }
    }

    /// Sends one datagram of a local program to all members.
    fn carry(&mut self, _now: Instant, datagram: &Datagram<'_>, out: &mut Outputs) {
        let Some(own) = self.own else {
            self.counters.dropped_alone += 1;
            return;
        };
        let Some(destination) = carried_destination(datagram.destination, own) else {
            self.counters.dropped_misdirected += 1;
            return;
        };
        // What came from a member never goes out again.
        if datagram.source != own.ip && own.range.contains(datagram.source) {
            self.counters.dropped_misdirected += 1;
            return;
        }
        if self.members.is_empty() {
            self.counters.dropped_alone += 1;
            return;
        }
        self.ident = self.ident.wrapping_add(1);
        Datagram { source: own.ip, destination, ..*datagram }.write(self.settings.mtu, self.ident, &mut out.send);
        self.counters.sent += 1;
    }

    /// Hands one datagram of a member to the local programs.
    fn deliver(&mut self, _now: Instant, datagram: &Datagram<'_>, out: &mut Outputs) {
        let Some(own) = self.own else { return };
        if carried_destination(datagram.destination, own).is_none() {
            self.counters.dropped_misdirected += 1;
            return;
        }
        self.ident = self.ident.wrapping_add(1);
        datagram.write(u16::MAX, self.ident, &mut out.deliver);
        self.counters.delivered += 1;
        if datagram.payload.len() <= crate::browser::messages::MAX_ANNOUNCEMENT {
            out.heard.push(Heard {
                member: datagram.source,
                source_port: datagram.source_port,
                destination: datagram.destination,
                destination_port: datagram.destination_port,
                payload: datagram.payload.to_vec(),
            });
        }
    }

    pub fn members(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.members.iter().copied()
    }

    pub fn count_copies(&mut self, packets: u64) {
        self.counters.sent_copies += packets;
    }

    pub fn count_busy(&mut self, packets: u64) {
        self.counters.dropped_busy += packets;
    }

    #[must_use]
    pub fn view(&self) -> BroadcastView {
        BroadcastView { members: self.members.len(), counters: self.counters, ..BroadcastView::default() }
    }
}

/// The destination inside the tunnel; `None` for what is neither broadcast nor multicast here.
fn carried_destination(destination: Ipv4Addr, own: Address) -> Option<Ipv4Addr> {
    (destination.is_broadcast() || destination.is_multicast() || destination == own.range.broadcast())
        .then_some(destination)
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

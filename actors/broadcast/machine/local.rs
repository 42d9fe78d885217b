//! What is known of the local programs' sockets and groups, and when to look again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{BroadcastMachine, destination_port};
use crate::broadcast::local::Local;
use crate::broadcast::unwanted;
use crate::wire::PacketBatch;
use crate::wire::ip::Ipv4Packet;

/// A program that joins a group waits at most so long until the virtual device has it too.
pub(super) const SURVEY_EVERY: Duration = Duration::from_secs(2);
/// What is known of sockets is not asked again sooner, although a datagram comes for one that is not known.
const NOT_BEFORE: Duration = Duration::from_millis(100);
/// What is known of sockets is asked again when it is older and a datagram comes.
const FRESH: Duration = Duration::from_secs(1);
/// Destinations without a listener that were asked for since. What is shouted all the time where nobody listens must not
/// have all sockets read each time.
const MAX_ASKED: usize = 64;
/// Groups joined on the virtual device.
const MAX_GROUPS: usize = 64;
/// Every interface is in it without anybody having joined.
const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const LLMNR: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 252);

impl BroadcastMachine {
    /// Whether to look at the sockets before `batch` of a member is delivered.
    pub fn wants_local(&mut self, now: Instant, batch: &PacketBatch) -> bool {
        if self.own.is_none() {
            return false;
        }
        let age = self.surveyed.map(|at| now.saturating_duration_since(at));
        let ask = match age {
            Some(age) if age < NOT_BEFORE => false,
            Some(age) if age < FRESH => self.has_new_unknown(batch),
            Some(_) | None => {
                self.asked.clear();
                self.has_new_unknown(batch);
                true
            }
        };
        if ask {
            self.surveyed = Some(now);
        }
        ask
    }

    /// Whether something in `batch` is for a socket that is not known, and that was not asked for yet.
    fn has_new_unknown(&mut self, batch: &PacketBatch) -> bool {
        let mut new = false;
        for bytes in batch.iter() {
            if let Some(unknown) = self.unknown(bytes)
                && self.asked.len() < MAX_ASKED
            {
                new |= self.asked.insert(unknown);
            }
        }
        new
    }

    fn unknown(&self, bytes: &[u8]) -> Option<(Ipv4Addr, u16)> {
        let (Some(local), Ok(packet)) = (&self.local, Ipv4Packet::parse(bytes)) else { return None };
        let group = packet.destination();
        let port = destination_port(packet.payload()).filter(|_| packet.fragment_offset() == 0)?;
        let known = local.ports.contains_key(&port) && (!group.is_multicast() || self.joined.contains(&group));
        (!known).then_some((group, port))
    }

    /// What the local programs listen on now.
    pub fn set_local(&mut self, local: Local) {
        let device = &self.settings.device;
        let by_others = local.groups.iter().filter(|it| {
            let own = u32::from(it.interface == *device && self.held.contains(&it.group));
            it.users > own && it.interface != "lo"
        });
        self.joined = by_others.map(|it| it.group).chain(self.rules.groups.iter().copied()).collect();
        let unwanted::Wanted { mdns, ssdp } = self.settings.wanted;
        self.joined.retain(|group| {
            let left_out =
                *group == LLMNR || (group == unwanted::MDNS.ip() && !mdns) || (group == unwanted::SSDP.ip() && !ssdp);
            group.is_multicast() && !left_out
        });
        self.local = Some(local);
        self.leave_out_guests();
    }

    /// The ports of the bridge's own sockets on the virtual IP: no programs that would hear a broadcast.
    pub fn set_guests(&mut self, ports: BTreeSet<u16>) {
        self.guests = ports;
        self.leave_out_guests();
    }

    fn leave_out_guests(&mut self) {
        let (Some(local), Some(own)) = (&mut self.local, self.own) else { return };
        for port in &self.guests {
            if let Some(listeners) = local.ports.get_mut(port) {
                listeners.addresses.remove(&own.ip);
            }
        }
    }

    /// Groups that the virtual device is to be in, for the local programs that joined them on other interfaces.
    #[must_use]
    pub fn wanted_groups(&self) -> BTreeSet<Ipv4Addr> {
        if self.own.is_none() {
            return BTreeSet::new();
        }
        self.joined.iter().copied().filter(|group| *group != ALL_SYSTEMS).take(MAX_GROUPS).collect()
    }

    /// Groups that it is in.
    pub fn set_held(&mut self, groups: BTreeSet<Ipv4Addr>) {
        self.held = groups;
    }
}

//! What is carried to the members, and what of theirs is handed to the local programs.

mod inward;
mod local;
mod outward;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use super::datagram::{Batches, Datagram};
use super::dedup::Dedup;
use super::interfaces::{self, Interface, Wanted};
use super::limits::{Meter, Rate, SenderLimits};
use super::local::Local;
use super::messages::{BroadcastCounters, BroadcastView, GameRules};
use super::reassembly::Reassembly;
use super::tally::{Fate, Tally};
use super::unwanted;
use crate::tun::messages::Address;

/// What never changes while the node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of the virtual device.
    pub device: String,
    /// Of the tunnel, bytes of an IP packet.
    pub mtu: u16,
    pub carry: Carry,
    /// UDP ports, both ends included, that are neither sent nor delivered.
    pub except: Vec<(u16, u16)>,
    pub wanted: unwanted::Wanted,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            device: "lanrage0".to_owned(),
            mtu: 1360,
            carry: Carry::All,
            except: Vec::new(),
            wanted: unwanted::Wanted::default(),
        }
    }
}

/// Which broadcasts of local programs the members get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carry {
    /// Those on the physical networks as well.
    All,
    /// Those that programs send on the virtual device.
    Device,
    /// None; and none of the members' are delivered.
    Off,
}

/// What the machine wants done.
#[derive(Debug, Default)]
pub struct Outputs {
    /// One copy to each member.
    pub send: Batches,
    /// For the virtual device.
    pub deliver: Batches,
    /// For those who read along: what lists games; all, when a bridge is there.
    pub heard: Vec<Heard>,
    /// Look at the interfaces, sockets and groups of this machine, and tell.
    pub survey: bool,
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

/// Why the machine wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Survey,
    /// Fragments that have waited for the others long enough.
    GiveUpFragments,
}

/// Carries broadcasts and multicasts between the local programs and the members.
#[derive(Debug)]
pub struct BroadcastMachine {
    settings: Settings,
    own: Option<Address>,
    members: BTreeMap<Ipv4Addr, SenderLimits>,
    rules: GameRules,
    /// Interfaces that are captured on, by the number of their capture point.
    captured: BTreeMap<u8, Wanted>,
    limits: SenderLimits,
    copies: Meter,
    dedup: Dedup,
    reassembly: Reassembly,
    local: Option<Local>,
    /// When it was asked for last.
    surveyed: Option<Instant>,
    next_survey: Option<Instant>,
    /// Destinations without a listener for which the sockets were looked at since.
    asked: BTreeSet<(Ipv4Addr, u16)>,
    /// Groups that local programs joined.
    joined: BTreeSet<Ipv4Addr>,
    /// Groups that are joined on the virtual device on their behalf.
    held: BTreeSet<Ipv4Addr>,
    /// Tells the fragments of one datagram from those of another.
    ident: u16,
    counters: BroadcastCounters,
    tally: Tally,
    /// Somebody wants all that members shout, not only what lists games.
    read_along: bool,
    /// Ports of the bridge's own sockets on the virtual IP.
    guests: BTreeSet<u16>,
}

impl BroadcastMachine {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            own: None,
            members: BTreeMap::new(),
            rules: GameRules::default(),
            captured: BTreeMap::new(),
            limits: SenderLimits::default(),
            copies: Meter::default(),
            dedup: Dedup::default(),
            reassembly: Reassembly::default(),
            local: None,
            surveyed: None,
            next_survey: None,
            asked: BTreeSet::new(),
            joined: BTreeSet::new(),
            held: BTreeSet::new(),
            ident: 0,
            counters: BroadcastCounters::default(),
            tally: Tally::default(),
            read_along: false,
            guests: BTreeSet::new(),
        }
    }

    pub fn set_address(&mut self, now: Instant, address: Option<Address>) {
        self.own = address.filter(|_| self.settings.carry != Carry::Off);
        self.next_survey = self.own.map(|_| now);
    }

    /// A new MTU of the tunnel, bytes.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.settings.mtu = mtu;
    }

    /// From now on all that members shout is told to those who read along.
    pub fn read_along(&mut self) {
        self.read_along = true;
    }

    pub fn add_member(&mut self, ip: Ipv4Addr) {
        self.members.entry(ip).or_default();
    }

    pub fn remove_member(&mut self, ip: Ipv4Addr) {
        self.members.remove(&ip);
    }

    pub fn set_rules(&mut self, now: Instant, rules: GameRules) {
        if self.rules != rules {
            self.rules = rules;
            // Its groups are to be joined.
            self.next_survey = self.own.map(|_| now);
        }
    }

    #[must_use]
    pub fn own(&self) -> Option<Address> {
        self.own
    }

    /// Interfaces that are to be captured on.
    #[must_use]
    pub fn wanted_captures(&self, interfaces: &[Interface]) -> Vec<Wanted> {
        match self.own {
            Some(own) if self.settings.carry == Carry::All => {
                interfaces::wanted(interfaces, &self.settings.device, Some(own.range))
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Those that are, by the number of their capture point (below 31).
    pub fn set_captured(&mut self, captured: BTreeMap<u8, Wanted>) {
        self.captured = captured;
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Why)> {
        let survey = self.next_survey.map(|at| (at, Why::Survey));
        let give_up = self.reassembly.poll_timeout().map(|at| (at, Why::GiveUpFragments));
        survey.into_iter().chain(give_up).min_by_key(|(at, _)| *at)
    }

    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outputs) {
        self.reassembly.handle_timeout(now);
        self.count_given_up();
        if self.next_survey.is_some_and(|at| at <= now) {
            self.next_survey = Some(now + local::SURVEY_EVERY);
            self.surveyed = Some(now);
            out.survey = true;
        }
    }

    /// Whether a port is left out, unless a running game needs it.
    fn is_unwanted(&self, port: u16) -> bool {
        let unwanted::Wanted { mdns, ssdp } = self.settings.wanted;
        // Every machine is full of them, and they tell much about it.
        if (port == unwanted::MDNS.port() && !mdns) || (port == unwanted::SSDP.port() && !ssdp) {
            return true;
        }
        let within = |&(first, last): &(u16, u16)| (first..=last).contains(&port);
        self.settings.except.iter().any(within) && !self.is_game_port(port)
    }

    /// Counts what is left out of mDNS and SSDP.
    fn is_unwanted_service(&mut self, datagram: &Datagram<'_>) -> bool {
        let destination = SocketAddrV4::new(datagram.destination, datagram.destination_port);
        let carried = unwanted::is_carried(destination, datagram.source_port, datagram.payload, self.settings.wanted);
        self.counters.dropped_unwanted += u64::from(!carried);
        !carried
    }

    fn is_game_port(&self, port: u16) -> bool {
        self.rules.ports.iter().any(|rule| (rule.first..=rule.last).contains(&port))
    }

    fn rate(&self, port: u16) -> Rate {
        if self.is_game_port(port) { Rate::GAME_PORT } else { Rate::PORT }
    }

    fn count_given_up(&mut self) {
        self.counters.dropped_fragments += self.reassembly.take_given_up();
    }

    fn limited(&mut self, now: Instant, port: u16) {
        self.counters.dropped_limited += 1;
        self.tally.count(now, port, Fate::Limited);
    }

    fn next_ident(&mut self) -> u16 {
        self.ident = self.ident.wrapping_add(1);
        self.ident
    }

    /// Datagrams and fragments beyond the limits so far.
    #[must_use]
    pub fn limited_so_far(&self) -> u64 {
        self.counters.dropped_limited
    }

    pub fn count_copies(&mut self, packets: u64) {
        self.counters.sent_copies += packets;
    }

    pub fn count_busy(&mut self, packets: u64) {
        self.counters.dropped_busy += packets;
    }

    /// What could not be read along.
    pub fn count_unread(&mut self, bridge: bool, browser: bool) {
        self.counters.unread_bridge += u64::from(bridge);
        self.counters.unread_browser += u64::from(browser);
    }

    /// What the system dropped because captures were not read fast enough.
    pub fn count_capture_overflow(&mut self, packets: u64) {
        self.counters.dropped_capture += packets;
    }

    #[must_use]
    pub fn view(&self) -> BroadcastView {
        BroadcastView {
            carry: match self.settings.carry {
                Carry::All => "all",
                Carry::Device => "device",
                Carry::Off => "off",
            },
            members: self.members.len(),
            counters: self.counters,
            ports: self.tally.view(),
            groups: self.held.iter().copied().collect(),
            ..BroadcastView::default()
        }
    }
}

/// Destination port of a packet that is no fragment, or the first one.
fn destination_port(payload: &[u8]) -> Option<u16> {
    let &[_, _, high, low, ..] = payload else { return None };
    Some(u16::from_be_bytes([high, low]))
}

impl Heard {
    fn of(datagram: &Datagram<'_>) -> Self {
        Self {
            member: datagram.source,
            source_port: datagram.source_port,
            destination: datagram.destination,
            destination_port: datagram.destination_port,
            payload: datagram.payload.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests;

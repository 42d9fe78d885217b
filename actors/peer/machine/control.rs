//! Probes and offers: what the machines of a pair say to each other about their paths.

use std::time::Instant;

use rand::Rng;

use super::{Outputs, PeerMachine};
use crate::peer::messages::{PunchRequest, PunchSockets};
use crate::peer::offer::Verdict;
use crate::peer::probe::Probe;
use crate::peer::way::{Way, append_message};
use crate::wire::{Contact, Endpoint};

impl PeerMachine {
    pub(super) fn handle_probe(&mut self, now: Instant, from: Endpoint, datagram: &[u8], out: &mut Outputs) {
        match self.keys.open(datagram) {
            // A repeated ping would make this node answer, and probe, wherever it was replayed from.
            Some(Probe::Ping { id }) if !self.pings_seen.accept(id) => self.counters.dropped_probes += 1,
            Some(Probe::Ping { id }) => {
                self.paths.on_ping(now, from, &self.networks);
                self.answer(from, Probe::Pong { id, observed: from.addr }, out);
                self.handle_timeout(now, out);
            }
            Some(Probe::Pong { id, .. }) => {
                let had_none = self.paths.selected().is_none();
                self.paths.on_pong(now, from, id);
                self.reselect(now, out);
                // First contact through a relay: now is the time to punch, for both.
                if had_none && self.paths.selected().is_some_and(|(way, _)| way.to().relayed) {
                    self.offers.request(now);
                    self.handle_timeout(now, out);
                }
            }
            Some(Probe::OfferHeard { seq }) => self.offers.on_ack(seq),
            None => self.handle_offer(now, from, datagram, out),
        }
    }

    fn answer(&mut self, from: Endpoint, probe: Probe, out: &mut Outputs) {
        match self.paths.answer_to(from) {
            Some(way) => self.send_probe(&way, probe, out),
            None => self.counters.dropped_no_ticket += 1,
        }
    }

    pub(super) fn send_probe(&mut self, way: &Way, probe: Probe, out: &mut Outputs) {
        let sealed = self.keys.seal(probe, self.rng.random());
        append_message(&mut out.transmits, way, &sealed);
    }

    fn handle_offer(&mut self, now: Instant, from: Endpoint, datagram: &[u8], out: &mut Outputs) {
        let Some((seq, contact)) = self.keys.open_offer(datagram) else {
            self.counters.dropped_probes += 1;
            return;
        };
        match self.offers.on_offer(now, seq, contact) {
            Verdict::New => {
                self.contact_changed(now);
                // First, since through a relay it may need a ticket that came with the offer.
                self.answer(from, Probe::OfferHeard { seq }, out);
                self.handle_timeout(now, out);
            }
            Verdict::Again => self.answer(from, Probe::OfferHeard { seq }, out),
            Verdict::Refused => self.counters.dropped_probes += 1,
        }
    }

    /// What is known of how the member can be reached has changed: all that does not answer is tried again.
    pub(super) fn contact_changed(&mut self, now: Instant) {
        let contact = self.offers.merged(&self.spec.contact);
        self.paths.set_networks(&self.networks, self.own_contact.nat.udp_blocked || contact.nat.udp_blocked);
        self.paths.set_contact(now, &contact, &self.own_contact, &self.networks);
        self.paths.restart_probing(now);
        self.peer_contact = contact;
        self.birthday.set_contacts(&self.own_contact, &self.peer_contact, &mut self.punch_requests);
    }

    /// The sockets that were asked for in `Outputs::punch`.
    pub fn punch_sockets(&mut self, now: Instant, sockets: PunchSockets, out: &mut Outputs) {
        self.birthday.on_sockets(now, sockets, &mut out.punch);
        self.handle_timeout(now, out);
    }

    pub(super) fn punch(&mut self, now: Instant, out: &mut Outputs) {
        out.punch.append(&mut self.punch_requests);
        let rng = &mut self.rng;
        let before = out.punch.len();
        let mut pings = std::mem::take(&mut self.punches);
        self.birthday.tick(now, self.paths.straight(), || rng.random(), &mut pings, &mut out.punch);
        for request in out.punch.get(before..).unwrap_or_default() {
            if let PunchRequest::Close { keep } = request {
                self.paths.forget_sockets(*keep);
            }
        }
        for endpoint in pings.drain(..) {
            // Nobody waits for the pong: whom it reaches pings back, and makes the path known.
            let id = self.paths.next_id();
            self.send_probe(&Way::straight(endpoint), Probe::Ping { id }, out);
            self.counters.sent_punches += 1;
        }
        self.punches = pings;
    }

    /// How this machine can be reached has changed: the member is told at once, and asked on all paths.
    pub fn set_contact(&mut self, now: Instant, contact: Contact, out: &mut Outputs) {
        if contact != self.own_contact {
            self.own_contact = contact;
            self.offers.request(now);
            self.contact_changed(now);
            self.handle_timeout(now, out);
        }
    }

    pub(super) fn send_offers(&mut self, now: Instant, out: &mut Outputs) {
        let reachable = self.paths.offer_ways().next().is_some();
        let Some(seq) = self.offers.due(now, reachable) else { return };
        let Some(sealed) = self.keys.seal_offer(seq, &self.own_contact, self.rng.random()) else { return };
        for way in self.paths.offer_ways() {
            append_message(&mut out.transmits, &way, &sealed);
        }
    }
}

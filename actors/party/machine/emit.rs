//! What the other concerns are told: whom to look for, whom to have tunnels to, which address to have. Only changes go
//! out.

use std::time::Duration;

use super::super::keys::{PartySecret, next_key_change};
use super::super::view::OLD_CODES;
use super::{Now, Output, PartyMachine, Phase};
use crate::discovery::messages::{NodeAddrs, Seek};
use crate::peer::messages::{PeerSpec, Secret, SetPeers};
use crate::tun::messages::Address;

/// Members that were away when the code was rolled find the party under its older keys for this long, seconds.
const OLD_KEYS_KEPT_SECS: u64 = 7 * 24 * 60 * 60;

impl PartyMachine {
    pub(super) fn emit(&mut self, now: Now) {
        self.emit_address();
        self.emit_peers();
        self.emit_seek(now);
    }

    fn emit_address(&mut self) {
        let address = self
            .session()
            .map(|session| Address { ip: session.own.virtual_ip, range: session.roster.info().get().range });
        if address != self.sent_address {
            self.sent_address = address;
            self.out.push(Output::Address(address));
        }
    }

    fn emit_peers(&mut self) {
        let me = self.profile.node;
        let peers = match self.session() {
            None => SetPeers { own_ip: None, peers: Vec::new() },
            Some(session) => {
                let view = session.roster.view();
                let others = session.roster.members().filter(|it| it.node != me && view.has_tunnel(it.node));
                let spec = |secret: &PartySecret| {
                    others
                        .filter(|it| it.virtual_ip != session.own.virtual_ip)
                        .map(|it| PeerSpec {
                            node: it.node,
                            name: it.name.clone(),
                            wg_key: it.wg_key,
                            virtual_ip: it.virtual_ip,
                            psk: Secret(secret.pair_psk(me, it.node)),
                            contact: it.contact.clone(),
                        })
                        .collect()
                };
                let peers = session.newest_secret().map_or_else(Vec::new, spec);
                SetPeers { own_ip: Some(session.own.virtual_ip), peers }
            }
        };
        if peers != self.sent_peers {
            self.sent_peers = peers.clone();
            self.out.push(Output::Peers(peers));
        }
    }

    pub(super) fn emit_seek(&mut self, now: Now) {
        let seek = self.seek(now);
        let until_change = Duration::from_secs(next_key_change(now.unix).saturating_sub(now.unix).max(1));
        self.keys_at = (!seek.keys.is_empty()).then(|| now.mono + until_change);
        if seek != self.sent_seek {
            self.sent_seek = seek.clone();
            self.out.push(Output::Seek(seek));
        }
    }

    fn seek(&self, now: Now) -> Seek {
        match &self.phase {
            Phase::Idle => self.farewell_seek(now),
            Phase::Joining(joining) => match &joining.secret {
                None => Seek::default(),
                Some(secret) => {
                    let keys = secret.rendezvous_keys(now.unix);
                    Seek { keys, nodes: joining.vias.clone(), eager: true }
                }
            },
            Phase::Member(session) => {
                let me = self.profile.node;
                let mut keys = Vec::new();
                let rolled_lately = |at: u64| at.saturating_add(OLD_KEYS_KEPT_SECS) > now.unix;
                // A code is old since the next one came.
                let mut in_use = true;
                for rekey in session.roster.codes().take(1 + OLD_CODES) {
                    if let Some(secret) = session.secret(&rekey.code).filter(|_| in_use) {
                        keys.extend(secret.rendezvous_keys(now.unix));
                    }
                    in_use = in_use && rolled_lately(rekey.at);
                }
                let others = session.roster.members().filter(|it| it.node != me);
                let nodes: Vec<NodeAddrs> =
                    others.map(|it| NodeAddrs { node: it.node, addrs: it.addrs.clone() }).collect();
                let alone = !nodes.iter().any(|it| self.is_linked(it.node));
                Seek { keys, nodes, eager: alone }
            }
        }
    }
}

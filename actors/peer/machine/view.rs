//! What the API and the command line show of a peer.

use std::time::Instant;

use super::PeerMachine;
use crate::peer::messages::{PathKind, PathView, PeerCounters, PeerView};
use crate::peer::paths::millis;

impl PeerMachine {
    #[must_use]
    pub fn view(&self, now: Instant, restarts: u32) -> PeerView {
        let selected = self.paths.selected();
        let (path_changes, last_change) = self.paths.changes();
        PeerView {
            node: self.spec.node,
            name: self.spec.name.clone(),
            virtual_ip: self.spec.virtual_ip,
            connected: self.sendable(),
            path: PathView {
                kind: selected.map_or(PathKind::None, |(_, kind)| kind),
                endpoint: selected.map(|(way, _)| way.to().addr),
                reason: self.paths.reason(),
            },
            rtt_ms: self.paths.rtt().map(millis),
            jitter_ms: self.paths.jitter().map(millis),
            loss_percent: self.paths.loss(),
            path_changes,
            last_path_change_s: last_change.map(|at| now.saturating_duration_since(at).as_secs()),
            redundancy: self.redundant.effective(),
            keepalive_s: self.paths.idle_interval().as_secs(),
            redundant: self.redundant.is_on() && self.paths.spare().is_some(),
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            last_handshake_s: self.tunnel.since_handshake(now).map(|age| age.as_secs()),
            candidates: self.paths.candidates(),
            counters: PeerCounters { refused_probes: self.paths.refused_probes(), ..self.counters },
            restarts,
        }
    }
}

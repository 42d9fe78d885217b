//! What the program holds at some moments of a long run: none of it may grow.

use lanrage_actors::peer::messages::GetPeers;

use super::script::Script;
use super::taps::CountPeers;
use super::{clock, world};
use crate::heap;
use crate::report::Table;

/// The second census is the measure: by then all caches are warm.
const MEASURE: usize = 1;
/// Less than this is the chance of the moment: a rekey, a datagram under way.
const SLACK: f64 = 20.0;
const SLACK_KIB: f64 = 64.0;

#[derive(Debug)]
pub struct Census {
    hours: f64,
    held: Vec<(&'static str, f64)>,
    /// Blocks of memory by size.
    classes: Vec<usize>,
}

/// Call it when all is as it should be and nothing is going on.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub async fn take(script: &Script<'_>) -> Census {
    let (mut peers, mut registered) = (0, 0);
    for running in script.running.values() {
        peers += running.peers.send(GetPeers).await.map_or(0, |peers| peers.len());
        registered += running.registry.send(CountPeers).await.unwrap_or(0);
    }
    // The pool of buffers for packets is bounded, and its buffers grow to what busy moments need: it is not counted.
    let ((bytes, blocks), idle) = (heap::held(), lanrage_actors::wire::idle_bytes());
    let mut held = vec![
        ("memory, KiB", (bytes.saturating_sub(idle)) as f64 / 1024.0),
        ("memory, blocks", blocks as f64),
        ("nodes", script.running.len() as f64),
        ("peers", peers as f64),
        ("PeerActors", registered as f64),
    ];
    world::with(|world| {
        world.dht.expire(clock::elapsed());
        held.extend([
            ("parts of nodes", world.alive as f64),
            ("ends of streams", (world.streams.len() + world.data_streams.len()) as f64),
            ("events waiting", world.waiting() as f64),
            ("NAT mappings", world.net.mappings(clock::elapsed()) as f64),
            ("DHT keys", world.dht.keys() as f64),
        ]);
    });
    Census { hours: clock::elapsed().as_secs_f64() / 3600.0, held, classes: heap::classes() }
}

/// Shows the censuses and says what has grown.
pub fn judge(script: &mut Script<'_>, factor: f64) {
    let mut columns = vec!["hours"];
    columns.extend(script.censuses.first().into_iter().flat_map(|census| census.held.iter().map(|(name, _)| *name)));
    let mut table = Table::new("What is held", &columns);
    for census in &script.censuses {
        let cells = census.held.iter().map(|(_, value)| format!("{value:.0}"));
        table.row(std::iter::once(format!("{:.1}", census.hours)).chain(cells));
    }
    script.report.tables.push(table);
    if let Some(table) = by_size(&script.censuses) {
        script.report.tables.push(table);
    }
    if script.censuses.len() < MEASURE + 2 {
        script.fail("`may_grow` needs three censuses at least");
        return;
    }
    let grown = grown(&script.censuses, factor);
    for what in grown {
        script.fail(what);
    }
}

/// Where memory went: blocks by size, of the sizes whose number changed.
fn by_size(censuses: &[Census]) -> Option<Table> {
    let (measure, last) = (censuses.get(MEASURE)?, censuses.last()?);
    let mut table = Table::new("Blocks of memory by size", &["below, bytes", "second census", "last census"]);
    for (class, (before, after)) in measure.classes.iter().zip(&last.classes).enumerate() {
        if before != after {
            table.row([format!("{}", 1u128 << class), before.to_string(), after.to_string()]);
        }
    }
    Some(table)
}

fn grown(censuses: &[Census], factor: f64) -> Vec<String> {
    let (Some(measure), Some(last)) = (censuses.get(MEASURE), censuses.last()) else { return Vec::new() };
    let pairs = measure.held.iter().zip(&last.held);
    let more = pairs.filter(|((name, before), (_, after))| {
        let slack = if *name == "memory, KiB" { SLACK_KIB } else { SLACK };
        *after > before * factor + slack
    });
    more.map(|((name, before), (_, after))| {
        format!("{name}: {before:.0} after {:.0} h, {after:.0} after {:.0} h", measure.hours, last.hours)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_between_the_second_census_and_the_last_is_told() {
        let census = |hours, kib| Census { hours, held: vec![("memory, KiB", kib), ("peers", 12.0)], classes: vec![] };
        let taken = [census(24.0, 100.0), census(48.0, 1000.0), census(72.0, 5000.0), census(96.0, 1100.0)];
        assert!(grown(&taken, 1.1).is_empty());
        let found = grown(&taken[..3], 1.1);
        assert!(found.len() == 1 && found[0].contains("memory") && found[0].contains("5000"), "{found:?}");
    }
}

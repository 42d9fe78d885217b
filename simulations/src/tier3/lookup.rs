//! Publish and look up, key after key, and measure.

use std::io;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::time::Instant;

use super::dht::{Dht, ratio};
use super::net::now;
use super::node::{Duty, Node, Tuning};
use super::settings::Lookup;
use crate::charts::Chart;
use crate::report::{Report, Table, percentile, spread};
use crate::tier::Job;

/// For a client to fill its table before the next one starts.
const WARM_UP: Duration = Duration::from_secs(20);
/// Between two look-ups: connections of the one before are closed.
const PAUSE: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
struct Measured {
    provide_seconds: Vec<f64>,
    provide_requests: Vec<f64>,
    provide_failed: Vec<f64>,
    holders: Vec<f64>,
    find_seconds: Vec<f64>,
    end_seconds: Vec<f64>,
    find_requests: Vec<f64>,
    find_failed: Vec<f64>,
    hops: Vec<f64>,
    kilobytes: Vec<f64>,
    published: usize,
    said_published: usize,
    found: usize,
    lies: usize,
}

pub(super) async fn run(job: &Job<'_>, settings: &Lookup, report: &mut Report) -> io::Result<()> {
    let start = now();
    let mut rng = ChaCha12Rng::seed_from_u64(job.seed);
    let dht = Dht::form(&mut rng, job.peers as usize, settings.keys, &settings.dht, job.progress).await?;
    let clients = clients(&mut rng, &dht, settings.clients, settings.tuning).await?;
    let mut measured = Measured::default();
    for index in 0..dht.keys.len() {
        job.progress.set(0.5 + 0.5 * ratio(index, dht.keys.len()), "publish and look up");
        let provider = &clients[index % clients.len()];
        // Another one each round, so that all pairs occur.
        let step = 1 + index / clients.len() % (clients.len() - 1);
        let seeker = &clients[(index + step) % clients.len()];
        one(&dht, index, provider, seeker, start, &mut measured, report).await;
        tokio::time::sleep(PAUSE).await;
    }
    judge(&measured, settings, start, report);
    tell(&dht, &measured, report);
    report.finish(start.elapsed());
    Ok(())
}

async fn clients(rng: &mut ChaCha12Rng, dht: &Dht, count: usize, tuning: Tuning) -> io::Result<Vec<Node>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let (host, keys) = (dht.net.host(rng, false), super::keys(rng));
        let client = Node::start(&dht.net, host, &keys, Duty::Client(tuning), &dht.hops)?;
        for contact in dht.contacts(rng) {
            client.kad(|kad| kad.add_address(&contact.peer, contact.addr.clone()));
        }
        clients.push(client);
        // One by one: all at once would hold thousands of connections in memory.
        tokio::time::sleep(WARM_UP).await;
    }
    Ok(clients)
}

async fn one(
    dht: &Dht,
    index: usize,
    provider: &Node,
    seeker: &Node,
    start: Instant,
    measured: &mut Measured,
    report: &mut Report,
) {
    let key = &dht.keys[index];
    let begun = now();
    let Some(query) = provider.provide(key) else {
        report.fail(start.elapsed(), format!("key {index}: publishing did not start"));
        return;
    };
    let end = provider.end_of(query).await;
    measured.provide_seconds.push(begun.elapsed().as_secs_f64());
    // The last records are still under way when the query ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let holders = dht.healthy().filter(|node| node.holds(key, provider.peer)).count();
    measured.provide_requests.push(end.stats.num_requests().into());
    measured.provide_failed.push(end.stats.num_failures().into());
    measured.holders.push(count(holders));
    measured.published += usize::from(holders > 0);
    measured.said_published += usize::from(end.ok);
    report.event(
        start.elapsed(),
        format_args!("key {index} published ok={} holders={holders} requests={}", end.ok, end.stats.num_requests()),
    );

    let known = seeker.kad(|kad| {
        kad.kbuckets().flat_map(|b| b.iter().map(|e| *e.node.key.preimage()).collect::<Vec<_>>()).collect::<Vec<_>>()
    });
    dht.hops.start(key, known.unwrap_or_default());
    let (begun, before) = (now(), dht.net.bytes(seeker.host));
    let Some(query) = seeker.look_up(key) else { return };
    let end = seeker.end_of(query).await;
    let hops = dht.hops.end();
    let after = dht.net.bytes(seeker.host);
    measured.kilobytes.push(((after.0 - before.0) + (after.1 - before.1)) as f64 / 1000.0);
    measured.end_seconds.push(begun.elapsed().as_secs_f64());
    measured.find_requests.push(end.stats.num_requests().into());
    measured.find_failed.push(end.stats.num_failures().into());
    if let Some(at) = seeker.named_at(query, provider.peer) {
        measured.found += 1;
        measured.find_seconds.push(at.duration_since(begun).as_secs_f64());
        if let Some(to_provider) = hops.and_then(|seen| seen.to_provider) {
            measured.hops.push(to_provider.into());
        }
    }
    let lies = end.found.iter().filter(|peer| **peer != provider.peer).count();
    measured.lies += lies;
    report.event(
        start.elapsed(),
        format_args!(
            "key {index} looked up found={} lies={lies} requests={} hops={hops:?}",
            end.found.contains(&provider.peer),
            end.stats.num_requests()
        ),
    );
}

fn judge(measured: &Measured, settings: &Lookup, start: Instant, report: &mut Report) {
    let expect = &settings.expect;
    for (what, got, want) in
        [("published", measured.published, expect.published), ("found", measured.found, expect.found)]
    {
        let got = ratio(got, settings.keys);
        if got < want {
            report.fail(
                start.elapsed(),
                format!("{:.0} % of the keys were {what}; {:.0} % expected", got * 100.0, want * 100.0),
            );
        }
    }
    let mut times = measured.find_seconds.clone();
    times.sort_by(f64::total_cmp);
    if let Some(late) = percentile(&times, 0.95).filter(|late| *late > expect.found_within) {
        let why = format!("95 % of the look-ups took up to {late:.3} s; {} s expected", expect.found_within);
        report.fail(start.elapsed(), why);
    }
}

fn tell(dht: &Dht, measured: &Measured, report: &mut Report) {
    let keys = dht.keys.len();
    let percent = |n: usize| 100.0 * ratio(n, keys);
    report.figure("keys that an honest node holds", percent(measured.published), "%");
    report.figure("publications that ended well by Kademlia's word", percent(measured.said_published), "%");
    report.figure("look-ups that named the provider", percent(measured.found), "%");
    report.figure("invented providers named, per look-up", ratio(measured.lies, keys), "");
    let median = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        percentile(&sorted, 0.5)
    };
    for (name, values, unit) in [
        ("publish, median", &measured.provide_seconds, "s"),
        ("find, median", &measured.find_seconds, "s"),
        ("hops to the provider, median", &measured.hops, ""),
        ("requests per look-up, median", &measured.find_requests, ""),
        ("bytes per look-up, median", &measured.kilobytes, "kB"),
    ] {
        if let Some(value) = median(values) {
            report.figure(name, value, unit);
        }
    }
    if !measured.hops.is_empty() {
        report.figure("hops to the provider, mean", measured.hops.iter().sum::<f64>() / count(measured.hops.len()), "");
    }
    let tables: Vec<f64> = dht.healthy().map(|node| count(node.table_size())).collect();
    let mut table = Table::new("Per key", &["", "least", "median", "95 %", "most"]);
    for (name, values) in [
        ("publish: until the end, s", &measured.provide_seconds),
        ("publish: requests", &measured.provide_requests),
        ("publish: requests without answer", &measured.provide_failed),
        ("publish: honest nodes that hold it", &measured.holders),
        ("find: until the provider is named, s", &measured.find_seconds),
        ("find: until the query ends, s", &measured.end_seconds),
        ("find: requests", &measured.find_requests),
        ("find: requests without answer", &measured.find_failed),
        ("find: hops to the provider", &measured.hops),
        ("find: bytes of the seeker, kB", &measured.kilobytes),
        ("nodes in a healthy node's table", &tables),
    ] {
        table.row(std::iter::once(name.to_owned()).chain(spread(values)));
    }
    report.tables.push(table);
    if dht.ground > 0 {
        report.notes.push(format!("{} identities were made to find the Sybils'.", dht.ground));
    }
    if dht.net.refused() > 0 {
        report.notes.push(format!("{} connections met a full backlog.", dht.net.refused()));
    }
    report.charts.push(Chart::distribution(
        "times",
        "Publish and find",
        "virtual seconds",
        &[
            ("publish", &measured.provide_seconds),
            ("find: named", &measured.find_seconds),
            ("find: query ends", &measured.end_seconds),
        ],
    ));
    report.charts.push(Chart::distribution(
        "requests",
        "Requests",
        "requests",
        &[("publish", &measured.provide_requests), ("find", &measured.find_requests)],
    ));
    report.charts.push(Chart::distribution("bytes", "Bytes per look-up", "kB", &[("seeker", &measured.kilobytes)]));
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
const fn count(n: usize) -> f64 {
    n as f64
}

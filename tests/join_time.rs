//! How long from the end of the join command to the first answered ping. In a file of its own, so that no other
//! test runs beside it. The times are printed, not asserted: only that it works within half a minute is.

mod lab;

use std::time::{Duration, Instant};

use lab::{Lab, Node, NodeOptions, PATIENCE, Relay, runs, shown};

#[test]
fn time_from_join_to_first_ping() {
    let Some(lab) = Lab::new() else { return };
    let hosts = lab.routed(["relay", "a", "b", "c"]);
    let relay = Relay::start(&hosts[0]);
    let mut pings: [Vec<Duration>; 3] = Default::default();
    let mut joins = Vec::new();
    for run in 0..runs(3) {
        // Names give the data folders: each run is by nodes that have never met.
        let [a, b, c] = [("a", 1), ("b", 2), ("c", 3)]
            .map(|(name, host)| Node::start(&hosts[host], &format!("{name}{run}"), &NodeOptions::bootstrap(&relay)));
        let (code, _) = a.create();
        let join = |node: &Node| {
            let start = Instant::now();
            let party = node.join(&code);
            (start.elapsed(), Instant::now(), lab::virtual_ip(&party))
        };

        // The virtual IPs are known before the clock starts, so that only the network is measured.
        let a_ip = a.virtual_ip();
        let (b_took, b_joined, b_ip) = join(&b);
        b.host().first_ping(a_ip, PATIENCE).expect("b pings a");
        pings[0].push(b_joined.elapsed());
        let (c_took, c_joined, _) = join(&c);
        std::thread::scope(|scope| {
            let ping = |to| {
                c.host().first_ping(to, PATIENCE).expect("c pings");
                c_joined.elapsed()
            };
            let (to_a, to_b) = (scope.spawn(move || ping(a_ip)), ping(b_ip));
            pings[1].push(to_a.join().expect("c pings a"));
            pings[2].push(to_b);
        });
        joins.extend([b_took, c_took]);
    }
    for (pair, times) in ["b-a", "c-a", "c-b"].iter().zip(&mut pings) {
        shown(format!("{pair}: first ping after the join command's return: {}", summary(times)));
    }
    let mut all: Vec<_> = pings.into_iter().flatten().collect();
    shown(format!("all three pairs: {}", summary(&mut all)));
    shown(format!("the join command itself: {}", summary(&mut joins)));
}

fn summary(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |index: usize| times.get(index).map_or(f64::NAN, Duration::as_secs_f64);
    format!(
        "median {:.3} s, least {:.3} s, most {:.3} s ({} runs)",
        at(times.len() / 2),
        at(0),
        at(times.len().saturating_sub(1)),
        times.len()
    )
}

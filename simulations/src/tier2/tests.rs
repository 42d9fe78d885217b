use std::path::Path;

use crate::progress::Progress;
use crate::run;
use crate::scenario::Scenario;

const SMALL: &str = r#"
summary = "x"
tier = 2
seed = 1
peers = 6
[run]
seconds = 90
nat = ["none", "port"]
stun = true
[[run.step]]
do = "partition"
settle_s = 40
[[run.step]]
do = "heal"
settle_s = 90
[[run.step]]
do = "host-leaves"
"#;

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let scenario = Scenario::parse(Path::new("small.toml"), SMALL).unwrap();
    let hash = |seed| {
        let report = run::run(&scenario, seed, 6, &Progress::on_terminal()).unwrap();
        assert!(report.passed, "{}", report.text());
        report.trace_hash
    };
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

//! Two machines on one switch and no way out: no bootstrap peer, no DHT, no default route.

mod lab;

use lab::{Lab, Node, NodeOptions, shown};

#[test]
fn two_hosts_on_one_switch_find_each_other_without_any_bootstrap() {
    let Some(lab) = Lab::new() else { return };
    let [a_host, b_host] = lab.lan(["a", "b"]);
    let a = Node::start(&a_host, "alice", &NodeOptions::alone());
    let b = Node::start(&b_host, "bob", &NodeOptions::alone());
    let (code, _) = a.create();
    b.join(&code);
    b.expect_ping(&a);
    a.expect_ping(&b);
    for (node, other, address) in [(&a, "bob", b_host.address()), (&b, "alice", a_host.address())] {
        let peer = node.wait_connected(other);
        assert_eq!(peer["path"]["kind"], "lan", "{peer}");
        let endpoint = peer["path"]["endpoint"].as_str().expect("an endpoint");
        assert!(endpoint.starts_with(&format!("{address}:")), "the path goes over the switch, not {endpoint}");
    }
    shown(format!("found by mDNS; {} and {} ping each other, path kind `lan`", a.virtual_ip(), b.virtual_ip()));
}

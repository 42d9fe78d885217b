//! The whole journey: a party found through the DHT becomes a LAN, and lives on without whoever helped to find it.

mod lab;

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lab::{Host, Lab, Node, NodeOptions, PATIENCE, Relay, shown, until, virtual_ip};

const FILE_MB: usize = 200;

#[test]
fn a_party_found_through_the_dht_is_a_lan() {
    let Some(lab) = Lab::with_programs(&[("socat", "socat"), ("sha256sum", "coreutils")]) else { return };
    let [relay_host, a_host, b_host, c_host] = lab.routed(["relay", "a", "b", "c"]);
    let mut relay = Relay::start(&relay_host);
    shown(format!("the relay listens on {}", relay.addresses().join(" ")));

    let options = NodeOptions::bootstrap(&relay);
    let a = Node::start(&a_host, "alice", &options);
    let b = Node::start(&b_host, "bob", &options);
    let mut c = Node::start(&c_host, "carol", &options);

    let (code, link) = a.create();
    assert!(link.contains("lanrage://join/") && link.contains("via="), "an invite link names addresses: {link}");
    b.join(&code);
    a_host.expect_ping(b.virtual_ip());
    c.join(&link);
    let ip = |node: &Node| node.virtual_ip();
    for (from, to) in [(&a, &b), (&b, &a), (&b, &c), (&c, &b), (&a, &c), (&c, &a)] {
        from.expect_ping(to);
    }
    for node in [&a, &b, &c] {
        node.wait_members(&["alice", "bob", "carol"]);
        assert!(node.virtual_ip().octets().starts_with(&[10, 66]), "{}", node.virtual_ip());
    }
    for (node, other) in [(&a, "bob"), (&a, "carol"), (&b, "carol")] {
        let peer = node.wait_connected(other);
        assert_eq!(peer["path"]["kind"], "direct", "{peer}");
    }
    shown(format!("joined by code and by link; {}, {} and {} ping each other", ip(&a), ip(&b), ip(&c)));

    copy_file(&a_host, &b_host, b.virtual_ip());

    // The party needs nobody outside it.
    relay.kill9();
    let after_death = Instant::now();
    a.expect_ping(&b);
    c.kill9();
    let carols_ip = {
        let members = a.party()["members"].as_array().cloned().unwrap_or_default();
        let carol = members.iter().find(|member| member["name"] == "carol").expect("carol is still a member");
        virtual_ip(carol)
    };
    c.launch_again();
    a_host.expect_ping(carols_ip);
    b_host.expect_ping(carols_ip);
    c.wait_for_api();
    assert_eq!(c.virtual_ip(), carols_ip, "the virtual IP is stable over a restart");
    for (node, other) in [(&a, "bob"), (&a, "carol"), (&b, "alice"), (&b, "carol"), (&c, "alice"), (&c, "bob")] {
        node.wait_connected(other);
    }
    shown(format!(
        "bootstrap killed: the party goes on; a member killed -9 is back by itself as {carols_ip} ({:.1} s after)",
        after_death.elapsed().as_secs_f64()
    ));
}

/// What needs no bootstrap peer once a link is at hand, and how members come to leave.
#[test]
fn late_joiner_leave_kick_and_hand_over() {
    let Some(lab) = Lab::new() else { return };
    let [relay_host, a_host, b_host, c_host, d_host] = lab.routed(["relay", "a", "b", "c", "d"]);
    let mut relay = Relay::start(&relay_host);
    let options = NodeOptions::bootstrap(&relay);
    let a = Node::start(&a_host, "alice", &options);
    let b = Node::start(&b_host, "bob", &options);
    let c = Node::start(&c_host, "carol", &options);
    let (code, _) = a.create();
    b.join(&code);
    c.join(&code);
    a.wait_members(&["alice", "bob", "carol"]);

    relay.kill9();
    let link = a.party()["link"].as_str().expect("status has the invite link").to_string();
    let d = Node::start(&d_host, "dave", &options);
    d.join(&link);
    for other in [&a, &b, &c] {
        d.expect_ping(other);
    }
    shown("a fourth joins by link after the only bootstrap peer has died, and reaches all three");

    // Leave.
    let (daves_ip, everybody_else) = (d.virtual_ip(), ["alice", "bob", "carol"]);
    d.leave();
    assert!(d.party().is_null(), "dave is in no party: {}", d.party());
    for node in [&a, &b, &c] {
        node.wait_members(&everybody_else);
    }
    a_host.expect_no_ping(daves_ip);
    d.cli(&["party", "leave"]).expect_failure(&["not in a party"]);
    shown("who leaves is gone from every member's list and answers no more");

    // Kick: by the host only; the code is rolled for those who stay.
    let carols_ip = c.virtual_ip();
    b.cli(&["party", "kick", "carol"]).expect_failure(&["only the host", "alice"]);
    a.cli(&["party", "kick", "zoe"]).expect_failure(&["no member", "zoe"]);
    a.cli(&["party", "kick", "carol"]).expect_ok();
    for node in [&a, &b] {
        node.wait_members(&["alice", "bob"]);
    }
    let new_code = until("bob has the new code", PATIENCE, || {
        let (alices, bobs) = (a.party()["code"].clone(), b.party()["code"].clone());
        if alices == bobs { Ok(alices) } else { Err(format!("alice {alices}, bob {bobs}")) }
    });
    assert_ne!(new_code, code.as_str(), "the code was rolled");
    until("carol knows that she was removed", PATIENCE, || {
        if c.party().is_null() { Ok(()) } else { Err(c.party().to_string()) }
    });
    for ip in [a.virtual_ip(), b.virtual_ip()] {
        c_host.expect_no_ping(ip);
    }
    a_host.expect_no_ping(carols_ip);
    c.cli(&["party", "join", &code]).expect_failure(&[]);
    a.expect_ping(&b);
    b.expect_ping(&a);
    shown("who is kicked reaches nobody, the old code opens nothing, the rest have a new code and ping each other");

    // Hand-over.
    assert_eq!(b.party()["host"], "alice");
    let with_new_code = new_code.as_str().expect("a code").to_string();
    d.join(&a.party()["link"].as_str().map_or(with_new_code, Into::into));
    d.expect_ping(&b);
    a.leave();
    for node in [&b, &d] {
        node.wait_members(&["bob", "dave"]);
        until("the longest-standing member is host", PATIENCE, || {
            let host = node.party()["host"].clone();
            if host == "bob" { Ok(()) } else { Err(host.to_string()) }
        });
    }
    assert_eq!(b.party()["is_host"], true);
    d.expect_ping(&b);
    b.cli(&["party", "kick", "dave"]).expect_ok();
    b.wait_members(&["bob"]);
    shown("the host leaves: the longest-standing member is host, and may remove others");
}

/// A file over TCP through the tunnel, with programs that know nothing of it.
fn copy_file(from: &Host, to: &Host, address: Ipv4Addr) {
    let (source, copy) = (from.dir().join("file"), to.dir().join("copy"));
    write_noise(&mut File::create(&source).expect("a file"));
    let (source, copy) = (source.to_str().expect("UTF-8"), copy.to_str().expect("UTF-8"));

    let receiver = to.spawn(&["socat", "-u", &format!("TCP-LISTEN:7000,bind={address}"), &format!("CREATE:{copy}")]);
    let listening = || to.run(&["ss", "-Hltn", "sport = :7000"]).stdout;
    until("the receiver listens", PATIENCE, || if listening().is_empty() { Err(String::new()) } else { Ok(()) });
    let start = Instant::now();
    from.run(&["socat", "-u", &format!("FILE:{source}"), &format!("TCP:{address}:7000")]).expect_ok();
    receiver.finish(Duration::from_secs(120)).expect_ok();
    let took = start.elapsed().as_secs_f64();

    let sum = |host: &Host, path: &str| {
        let said = host.run(&["sha256sum", path]).expect_ok().stdout;
        said.split_whitespace().next().map(String::from).expect("a checksum")
    };
    let (sent, received) = (sum(from, source), sum(to, copy));
    assert_eq!(sent, received, "the copy differs");
    let rate = FILE_MB as f64 * 8.0 / took;
    shown(format!("{FILE_MB} MB copied over TCP in {took:.1} s ({rate:.0} Mbit/s), sha256 {sent} at both ends"));
}

/// Bytes that no compression and no zero page can make smaller (xorshift64).
fn write_noise(file: &mut File) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; 1_000_000];
    for _ in 0..FILE_MB {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).expect("room for the file");
    }
}

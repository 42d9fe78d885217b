//! The laboratory, with plain programs: what the other system tests stand on.

mod lab;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use lab::{Lab, PATIENCE, Sniffer, shown, until};

#[test]
fn routed_hosts_reach_each_other_through_their_router() {
    let Some(lab) = Lab::new() else { return };
    let [a, b, c] = lab.routed(["a", "b", "c"]);
    for (from, to) in [(&a, &b), (&b, &c), (&c, &a)] {
        from.expect_ping(to.address());
    }
    assert_ne!(a.address().octets()[..3], b.address().octets()[..3], "each host has a network of its own");
    shown(format!("{}, {} and {} ping each other over a router", a.address(), b.address(), c.address()));
}

#[test]
fn hosts_on_a_switch_reach_each_other_and_nobody_else() {
    let Some(lab) = Lab::new() else { return };
    let [a, b] = lab.lan(["a", "b"]);
    let [other, _] = lab.lan(["other", "more"]);
    a.expect_ping(b.address());
    a.expect_no_ping(other.address());
    shown("two switches are two networks");
}

#[test]
fn entering_a_namespace_gives_its_sockets() {
    let Some(lab) = Lab::new() else { return };
    let [a, b] = lab.routed(["a", "b"]);
    let receiver = b.enter(|| UdpSocket::bind((b.address(), 5000))).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    a.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"hello", (b.address(), 5000))).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"hello"[..], a.address().into()));
}

#[test]
fn a_sniffer_on_the_router_sees_what_passes() {
    let Some(lab) = Lab::new() else { return };
    let router = lab.router("internet");
    let [a, b] = ["a", "b"].map(|name| {
        let host = lab.host(name);
        lab.attach(&router, &host);
        host
    });
    let sniffer = Sniffer::on(&router);
    let socket = a.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    for (datagram, port) in [(&b"one"[..], 5000), (b"other port", 5001), (b"", 5000), (b"two", 5000)] {
        socket.send_to(datagram, (b.address(), port)).unwrap();
    }
    assert_eq!(sniffer.datagrams_to(5000, 10), [&b"one"[..], b"", b"two"]);
}

#[test]
fn programs_are_killed_with_their_guard_and_their_output_is_kept() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("a");
    let talker = host.spawn(&["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]);
    until("it has talked", PATIENCE, || if talker.all() == "out\nerr\n" { Ok(()) } else { Err(talker.all()) });
    let pid = talker.pid();
    assert!(lab_process_runs(pid));
    drop(talker);
    assert!(!lab_process_runs(pid));

    let mut polite = host.spawn(&["sleep", "1000"]);
    assert!(!polite.terminate(PATIENCE).success());
    let failing = host.spawn(&["sh", "-c", "echo no such thing; exit 3"]).finish(PATIENCE);
    failing.expect_failure(&["No such"]);
    let player = host.run_as_player(&["sh", "-c", "id -un; touch $HOME/it && echo written"]).expect_ok();
    assert_eq!(player.stdout, "nobody\nwritten\n");
}

/// A lab that was not dropped (a crash, kill -9) is removed by the next one, and only then.
#[test]
fn leftovers_of_a_dead_process_are_removed_and_those_of_a_living_one_are_not() {
    let Some(_lab) = Lab::new() else { return };
    let mut owner = Command::new("sleep").arg("1000").spawn().unwrap();
    let space = format!("lr{}-0-crashed", owner.id());
    let folder = std::env::temp_dir().join(format!("lanrage-lab-{}-0", owner.id()));
    assert!(Command::new("ip").args(["netns", "add", &space]).status().unwrap().success());
    std::fs::create_dir(&folder).unwrap();
    let mut inside = Command::new("ip").args(["netns", "exec", &space, "sleep", "1000"]).spawn().unwrap();
    let exists = || std::path::Path::new("/run/netns").join(&space).exists();

    drop(Lab::new());
    assert!(exists() && folder.exists(), "its owner lives");

    owner.kill().unwrap();
    owner.wait().unwrap();
    drop(Lab::new());
    assert!(!exists() && !folder.exists(), "its owner is dead");
    // Reaped here, as this test is its parent; killed by the lab.
    let ended = until("what ran in it was killed", Duration::from_secs(5), || {
        inside.try_wait().unwrap().ok_or_else(|| "it runs on".to_string())
    });
    assert!(!ended.success());
    shown("namespaces, processes and folders of a crashed lab are removed by the next lab");
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let host = lab.host("leaves-nothing");
    let space = host.space().to_string();
    let dir = lab.dir().to_path_buf();
    assert!(Lab::spaces_of_this_process().contains(&space) && dir.exists());
    drop(lab);
    assert!(!Lab::spaces_of_this_process().contains(&space) && !dir.exists());
}

fn lab_process_runs(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

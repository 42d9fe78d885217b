//! Port mapping against a real router daemon: miniupnpd, with nftables.

#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use lab::{Host, Lab, PATIENCE, Process, binary, shown, until};
use lanrage_actors::nat::portmap::{MapProtocol, PortMapSettings, PortMapView, PortMapper};

/// A router only hands out ports of an address that is not reserved; nothing leaves the namespaces.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(45, 66, 77, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(45, 66, 77, 1);
const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const PLAYER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
const PORT: u16 = 50_123;
const NONCE: [u32; 3] = [1, 2, 3];

/// A home router with its LAN, and somebody on the internet.
struct Home {
    router: Host,
    player: Host,
    server: Host,
    wan: String,
    lan: String,
}

impl Home {
    fn new(lab: &Lab) -> Self {
        let (router, player, server) = (lab.router("router"), lab.host("player"), lab.host("server"));
        let (wan, server_end) = lab.wire(&router, &server);
        router.address_on(&wan, OUTSIDE);
        server.address_on(&server_end, SERVER);
        let (lan, player_end) = lab.wire(&router, &player);
        router.address_on(&lan, INSIDE);
        player.address_on(&player_end, PLAYER);
        player.ip(&["route", "add", "default", "via", &INSIDE.to_string()]);
        // The chains are those that miniupnpd fills. Unsolicited packets are dropped before they are tracked.
        let rules = format!(
            "table inet filter {{
                chain input {{
                    type filter hook input priority 0; policy accept;
                    iifname {wan} ct state new drop
                }}
                chain forward {{
                    type filter hook forward priority 0; policy drop;
                    ct state established,related accept
                    iifname {lan} accept
                    jump miniupnpd
                }}
                chain miniupnpd {{ }}
                chain prerouting {{
                    type nat hook prerouting priority -100;
                    jump prerouting_miniupnpd
                }}
                chain postrouting {{
                    type nat hook postrouting priority 100;
                    jump postrouting_miniupnpd
                    oifname {wan} masquerade
                }}
                chain prerouting_miniupnpd {{ }}
                chain postrouting_miniupnpd {{ }}
            }}"
        );
        let file = router.dir().join("rules.nft");
        std::fs::write(&file, rules).unwrap();
        router.run(&["nft", "-f", file.to_str().unwrap()]).expect_ok();
        Self { router, player, server, wan, lan }
    }

    fn miniupnpd(&self, upnp: bool, pmp: bool) -> Process {
        let yes = |it: bool| if it { "yes" } else { "no" };
        let config = format!(
            "ext_ifname={}\nlistening_ip={}\nenable_upnp={}\nenable_natpmp={}\nsecure_mode=yes\nhttp_port=0\n\
             upnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             uuid=5b2c6f4e-0b6a-4c7e-9d5d-1f2e3d4c5b6a\nallow 1024-65535 192.168.77.0/24 1024-65535\n",
            self.wan,
            self.lan,
            yes(upnp),
            yes(pmp)
        );
        let (file, pid) = (self.router.dir().join("miniupnpd.conf"), self.router.dir().join("miniupnpd.pid"));
        std::fs::write(&file, config).unwrap();
        drop(std::fs::remove_file(&pid));
        let daemon = self.router.spawn(&["miniupnpd", "-d", "-f", file.to_str().unwrap(), "-P", pid.to_str().unwrap()]);
        until("miniupnpd runs", PATIENCE, || {
            let said = daemon.all();
            let ready = (!upnp || said.contains("HTTP listening")) && (!pmp || said.contains("Listening for NAT-PMP"));
            if ready { Ok(()) } else { Err(said) }
        });
        daemon
    }

    /// As a reboot does; its rules outlive miniupnpd.
    fn forget(&self) {
        for chain in ["miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"] {
            self.router.run(&["nft", "flush", "chain", "inet", "filter", chain]).expect_ok();
        }
    }

    fn rules(&self) -> String {
        self.router.run(&["nft", "list", "ruleset"]).expect_ok().stdout
    }

    /// Whether a datagram from the internet to `external` arrives at the player's socket.
    fn lets_in(&self, external: SocketAddr, socket: &UdpSocket) -> bool {
        let sender = self.server.enter(|| UdpSocket::bind((SERVER, 0))).unwrap();
        let word = format!("{:?}", std::time::Instant::now());
        let mut buffer = [0; 200];
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        for _ in 0..3 {
            sender.send_to(word.as_bytes(), external).unwrap();
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                if &buffer[..length] == word.as_bytes() {
                    return true;
                }
            }
        }
        false
    }

    fn player_socket(&self) -> UdpSocket {
        self.player.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap()
    }

    /// Runs `inside` with a mapper in the player's namespace.
    fn map<T: Send>(&self, settings: PortMapSettings, inside: impl AsyncFnOnce(PortMapper) -> T + Send) -> T {
        self.player.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mapper = PortMapper::start(settings, NONCE);
                mapper.map(PORT);
                inside(mapper).await
            })
        })
    }
}

fn lab() -> Option<Lab> {
    Lab::with_programs(&[("miniupnpd", "miniupnpd-nftables"), ("nft", "nftables")])
}

async fn tried(mapper: &PortMapper) -> PortMapView {
    let mut view = mapper.watch();
    let tried = tokio::time::timeout(PATIENCE, view.wait_for(|view| view.tried)).await;
    tried.expect("an attempt ends").unwrap().clone()
}

const NONE: PortMapSettings = PortMapSettings { pcp: false, nat_pmp: false, upnp: false };

#[test]
fn each_protocol_maps_renews_and_gives_back() {
    let table = [
        (MapProtocol::Upnp, PortMapSettings { upnp: true, ..NONE }, true, false),
        (MapProtocol::NatPmp, PortMapSettings { nat_pmp: true, ..NONE }, false, true),
        (MapProtocol::Pcp, PortMapSettings { pcp: true, ..NONE }, false, true),
        // All on both sides: one mapping, by the newest protocol.
        (MapProtocol::Pcp, PortMapSettings::default(), true, true),
        // All here, only UPnP there.
        (MapProtocol::Upnp, PortMapSettings::default(), true, false),
    ];
    for (protocol, settings, upnp, pmp) in table {
        let Some(lab) = lab() else { return };
        let home = Home::new(&lab);
        let socket = home.player_socket();
        let expected = SocketAddr::from((OUTSIDE, PORT));
        assert!(!home.lets_in(expected, &socket), "the router lets everything in");
        let daemon = home.miniupnpd(upnp, pmp);
        home.map(settings, async |mapper| {
            let view = tried(&mapper).await;
            assert_eq!((view.protocol, view.external), (Some(protocol), Some(expected)), "{view:?}\n{}", daemon.all());
            assert!(!view.behind_another_nat());
            assert!(home.lets_in(expected, &socket), "{}", home.rules());
            let mapped = home.rules().matches(&format!("dport {PORT}")).count();

            // The router starts anew and has forgotten; a look at the network brings the mapping back.
            let mut daemon = daemon;
            daemon.kill9();
            home.forget();
            assert!(!home.lets_in(expected, &socket), "{}", home.rules());
            let again = home.miniupnpd(upnp, pmp);
            mapper.restart();
            let start = std::time::Instant::now();
            while !home.lets_in(expected, &socket) {
                assert!(start.elapsed() < PATIENCE, "{:?}\n{}", mapper.watch().borrow(), again.all());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(home.rules().matches(&format!("dport {PORT}")).count(), mapped, "{}", home.rules());

            mapper.release(PATIENCE).await;
            assert!(!home.lets_in(expected, &socket), "{}", home.rules());
            shown(format!("{protocol:?}: mapped, brought back after a restart of the router, given back"));
        });
    }
}

#[test]
fn without_such_a_router_it_ends_soon_and_says_why() {
    let Some(lab) = lab() else { return };
    let home = Home::new(&lab);
    home.map(PortMapSettings::default(), async |mapper| {
        let view = tried(&mapper).await;
        assert!(view.external.is_none() && view.found.is_empty() && view.problem.is_some(), "{view:?}");
        shown(format!("without a daemon: {:?}", view.problem));
        mapper.release(Duration::from_secs(5)).await;
    });
}

#[test]
fn giving_back_waits_no_longer_than_it_may() {
    let Some(lab) = lab() else { return };
    let home = Home::new(&lab);
    let mut daemon = home.miniupnpd(false, true);
    home.map(PortMapSettings::default(), async |mapper| {
        assert!(tried(&mapper).await.external.is_some());
        // The router is silent from now on: giving back would be tried for 1.75 s.
        daemon.kill9();
        home.router.run(&["nft", "add", "rule", "inet", "filter", "input", "udp", "dport", "5351", "drop"]).expect_ok();
        let limit = Duration::from_millis(200);
        let released = tokio::time::timeout(Duration::from_millis(1500), mapper.release(limit)).await;
        assert!(released.is_ok(), "it went on after its limit");
    });
}

#[test]
fn a_port_that_another_computer_has_is_not_taken_away() {
    let Some(lab) = lab() else { return };
    let home = Home::new(&lab);
    let _daemon = home.miniupnpd(true, true);
    // The same computer with another address: for the router, another computer.
    home.player.ip(&["addr", "add", "192.168.77.11/24", "dev", &home.player_interface()]);
    home.map(PortMapSettings { nat_pmp: true, ..NONE }, async |first| {
        assert_eq!(tried(&first).await.external, Some(SocketAddr::from((OUTSIDE, PORT))));
        home.player.ip(&["route", "replace", "default", "via", "192.168.77.1", "src", "192.168.77.11"]);
        home.player.ip(&[
            "route",
            "replace",
            "192.168.77.0/24",
            "dev",
            &home.player_interface(),
            "src",
            "192.168.77.11",
        ]);
        let second = PortMapper::start(PortMapSettings { upnp: true, ..NONE }, NONCE);
        second.map(PORT);
        let view = tried(&second).await;
        assert!(view.external.is_some_and(|addr| addr.port() != PORT), "{view:?}");
        shown(format!("the port was taken: {:?} instead", view.external));
        second.release(PATIENCE).await;
        first.release(PATIENCE).await;
    });
}

#[test]
fn netcheck_shows_the_mapping_and_leaves_none() {
    let Some(lab) = lab() else { return };
    let home = Home::new(&lab);
    let _daemon = home.miniupnpd(true, false);
    let port = PORT.to_string();
    let said = home.player.run(&[&binary(), "netcheck", "--json", "--port", &port, "--server", "45.66.77.1:3478"]);
    let said: serde_json::Value = serde_json::from_str(&said.expect_ok().stdout).unwrap();
    assert_eq!(said["report"]["port_mapping"]["external"], format!("{OUTSIDE}:{PORT}"), "{said:#}");
    assert_eq!(said["report"]["port_mapping"]["protocol"], "upnp");
    assert!(!home.rules().contains(&format!("dport {PORT}")), "{}", home.rules());
}

impl Home {
    fn player_interface(&self) -> String {
        let routes = self.player.ip(&["-o", "route", "get", &INSIDE.to_string()]);
        let mut words = routes.split_whitespace().skip_while(|word| *word != "dev");
        words.nth(1).unwrap().to_owned()
    }
}

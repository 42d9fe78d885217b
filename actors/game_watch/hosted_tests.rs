//! Programs with open ports, and what friends are told of them.

use super::super::tuning::tests::profile;
use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 2);

fn game(query: &str) -> Profile {
    let ports = "[[port]]\nport = \"7000-7009\"\nprotocol = \"udp\"\n[[port]]\nport = 7000\nprotocol = \"tcp\"\n\
                 [[port]]\nport = 7100\nprotocol = \"udp\"\nrole = \"query\"\n\
                 [[port]]\nport = 7200\nprotocol = \"udp\"\nrole = \"discovery\"";
    profile("game", ports, "", query)
}

fn open(ports: &[&str]) -> Vec<(IpProtocol, SocketAddr)> {
    let one = |text: &&str| {
        let (protocol, addr) = text.split_once(' ').unwrap();
        (if protocol == "tcp" { IpProtocol::Tcp } else { IpProtocol::Udp }, addr.parse().unwrap())
    };
    ports.iter().map(one).collect()
}

fn told(profile: &Profile, role: Role, ports: &[&str]) -> Option<(u16, Option<u16>)> {
    let found = server(&Candidate { profile, role, listening: &open(ports) }, Some(OWN));
    if let Some(found) = &found {
        assert_eq!(found.game, profile.id);
    }
    found.map(|it| (it.port, it.query_port))
}

#[test]
fn a_server_is_told_by_the_port_that_the_game_is_known_to_use() {
    let plain = game("");
    assert_eq!(told(&plain, Role::Server, &[]), None, "not ready");
    assert_eq!(told(&plain, Role::Server, &["udp 0.0.0.0:9", "udp 0.0.0.0:7003"]), Some((7003, None)));
    assert_eq!(told(&plain, Role::Server, &["udp [::]:7003"]), Some((7003, None)));
    assert_eq!(told(&plain, Role::Server, &["udp 10.66.1.2:7003"]), Some((7003, None)));
    assert_eq!(told(&plain, Role::Server, &["udp 0.0.0.0:7100", "udp 0.0.0.0:7200"]), None, "neither is to join at");
    assert_eq!(told(&plain, Role::Server, &["tcp 0.0.0.0:7003"]), None, "the wrong protocol");
}

#[test]
fn what_friends_cannot_reach_is_not_told() {
    for port in ["udp 127.0.0.1:7003", "udp 192.168.1.5:7003", "udp [::1]:7003", "udp [fe80::1]:7003"] {
        assert_eq!(told(&game(""), Role::Server, &[port]), None, "{port}");
    }
    let (profile, listening) = (game(""), open(&["udp 10.66.1.2:7003"]));
    let candidate = Candidate { profile: &profile, role: Role::Server, listening: &listening };
    assert_eq!(server(&candidate, None), None, "no party");
}

#[test]
fn a_client_is_no_server_though_it_binds_the_same_port() {
    let query = |protocol: &str| game(&format!("[query]\nprotocol = \"{protocol}\"\nport = \"7000-7009\""));
    let (plain, asked) = (game(""), query("teeworlds"));
    let udp: &[&str] = &["udp 0.0.0.0:7000"];
    for profile in [&plain, &asked] {
        assert_eq!(told(profile, Role::Client, &["udp 0.0.0.0:7000", "tcp 0.0.0.0:7000"]), None);
    }
    assert_eq!(told(&plain, Role::Both, udp), None, "it may be a client");
    assert_eq!(told(&asked, Role::Both, udp), Some((7000, None)), "it can be asked");
    assert_eq!(told(&query("quake3"), Role::Both, udp), None, "its clients have that port open too");
    assert_eq!(told(&plain, Role::Both, &["tcp 0.0.0.0:7000"]), Some((7000, None)), "clients listen on no TCP port");
    let unspoken = query("quake2");
    assert_eq!(told(&unspoken, Role::Both, udp), None, "nobody asks it");
    assert_eq!(told(&unspoken, Role::Server, udp), Some((7000, None)));
}

#[test]
fn queries_go_where_the_server_answers_them() {
    let asked = game("[query]\nprotocol = \"source\"\nport = 7100");
    assert_eq!(told(&asked, Role::Server, &["udp 0.0.0.0:7000"]), Some((7000, None)));
    assert_eq!(told(&asked, Role::Server, &["udp 0.0.0.0:7000", "udp 0.0.0.0:7100"]), Some((7000, Some(7100))));
    assert_eq!(told(&asked, Role::Server, &["udp 0.0.0.0:7000", "udp 127.0.0.1:7100"]), Some((7000, None)));
}

#[test]
fn a_port_of_the_players_choice_is_told_where_the_server_can_be_asked() {
    let asked = game("[query]\nprotocol = \"minecraft\"\nport = \"7000-7009\"");
    assert_eq!(told(&asked, Role::Server, &["udp 0.0.0.0:9000"]), Some((9000, None)));
    assert_eq!(told(&asked, Role::Both, &["udp 0.0.0.0:9000"]), None, "every client has such a port");
    assert_eq!(told(&asked, Role::Both, &["tcp 0.0.0.0:9000"]), Some((9000, None)));
    assert_eq!(told(&game(""), Role::Server, &["udp 0.0.0.0:9000"]), None, "it could be anything");
    assert_eq!(told(&asked, Role::Server, &["udp 0.0.0.0:9000", "udp [::]:9000"]), Some((9000, None)));
    assert_eq!(told(&asked, Role::Server, &["udp 0.0.0.0:9000", "udp 0.0.0.0:9001"]), None, "which of them?");
}

//! Where a game's two hosts are.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::meeting::{options, public_node};
use crate::lab::sites::{Internet, Site, Wanted};
use crate::lab::{Host, Lab, Node, Relay};

/// Two hosts, and the addresses by which they are to see each other.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// For people: `on a switch`.
    pub(crate) name: &'static str,
    pub(crate) server: &'a Host,
    pub(crate) client: &'a Host,
    pub(crate) server_ip: Ipv4Addr,
    pub(crate) client_ip: Ipv4Addr,
}

impl Place<'_> {
    /// Round trip of a plain ping, the lowest, middle and highest of ten.
    pub(crate) fn ping(&self) -> String {
        let to = self.server_ip.to_string();
        let said = self.client.run(&["ping", "-n", "-q", "-i", "0.05", "-c", "10", &to]).expect_ok().stdout;
        let line = said.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
        let values = line.unwrap_or_default().split(['/', ' ']).collect::<Vec<_>>();
        format!("{} ms ({} to {})", values[1], values[0], values[2])
    }
}

/// Hosts on one plain switch.
pub(super) fn lan<const N: usize>(lab: &Lab, names: [&str; N]) -> [Host; N] {
    let hosts = lab.lan(names);
    for host in &hosts {
        // Where broadcasts go that no interface is named for. Nobody is there.
        let [a, b, c, _] = host.address().octets();
        host.ip(&["route", "add", "default", "via", &format!("{a}.{b}.{c}.1")]);
    }
    hosts
}

/// The two hosts on one plain switch: what the games are made for.
#[derive(Debug)]
pub(crate) struct Switch([Host; 2]);

impl Switch {
    pub(crate) fn new(lab: &Lab) -> Self {
        Self(lan(lab, ["server", "client"]))
    }

    pub(crate) fn place(&self) -> Place<'_> {
        let [server, client] = &self.0;
        let (server_ip, client_ip) = (server.address(), client.address());
        Place { name: "on a switch", server, client, server_ip, client_ip }
    }
}

/// Two homes, each with a LAN behind its router's NAT, and one public node. The LAN is the default route of both
/// hosts, and both have the same address there, as in most homes.
#[derive(Debug)]
pub(crate) struct Party {
    server: Node,
    client: Node,
    _relay: Relay,
    _sites: Vec<Site>,
}

impl Party {
    /// With more arguments of `lanrage up` for both.
    pub(crate) fn new(lab: &Lab, more: &[&str]) -> Self {
        let internet = Internet::new(lab);
        let sites = internet.sites(&[Wanted::new("a", "port").players(2), Wanted::new("b", "port").players(2)]);
        let relay = public_node(&internet, 0, &[]);
        let options = options(&internet, &[&relay]).with(more);
        let mut server = Node::launch(sites[0].player(), "ann", &options);
        let mut client = Node::launch(sites[1].player(), "bob", &options);
        server.wait_for_api();
        client.wait_for_api();
        let (code, _) = server.create();
        client.join(&code);
        client.wait_connected("ann");
        server.wait_connected("bob");
        client.expect_ping(&server);
        // A path that is still to change would be in the figures.
        std::thread::sleep(Duration::from_secs(1));
        Self { server, client, _relay: relay, _sites: sites }
    }

    pub(crate) fn place(&self) -> Place<'_> {
        let (server_ip, client_ip) = (self.server.virtual_ip(), self.client.virtual_ip());
        let (server, client) = (self.server.host(), self.client.host());
        Place { name: "in a party", server, client, server_ip, client_ip }
    }
}

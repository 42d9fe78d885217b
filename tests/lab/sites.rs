//! An internet with two public servers, and sites of players behind routers of every kind of the table.
//!
//! | what | addresses |
//! | --- | --- |
//! | server 1 | 203.0.113.10, .11; 2001:db8:ffff:1::10, ::11 |
//! | server 2 | 198.51.100.20, .21; 2001:db8:ffff:2::20, ::21 |
//! | site I | outside 198.18.I.2 and 2001:db8:I:1::2; with public hosts 198.19.I.0/24; IPv6 hosts 2001:db8:I:2::/64 |
//! | players | 192.168.1.10, .11 at every site, as two homes in one town have them |
//! | carriers | 100.64.1.0/24 between their NAT and the home's |

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::line::{Line, Quality};
use super::nat_kinds::Kind;
use super::nat_rules::Router;
use super::net::ip_batch;
use super::{Host, Lab};

/// What no provider carries. Dropped without a word, as they do it.
const PRIVATE: &str = "{ 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 }";

/// Ways of the data that tests close and count.
const INTERNET_RULES: &str = "table inet internet {
    chain private { type filter hook prerouting priority raw; policy accept;
        ip saddr PRIVATE drop
        ip daddr PRIVATE drop
    }
    chain cut { type filter hook forward priority filter; policy accept; }
    chain loss { type filter hook forward priority filter + 1; policy accept; }
}
";

#[derive(Debug)]
pub(crate) struct Internet<'lab> {
    lab: &'lab Lab,
    router: Host,
    pub(crate) servers: [Server; 2],
    next_site: Cell<u8>,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) host: Host,
    /// Two addresses of each family.
    pub(crate) v4: [Ipv4Addr; 2],
    pub(crate) v6: [Ipv6Addr; 2],
}

/// What is to be built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: &'static Kind,
    pub(crate) players: u8,
    /// A line with delay to the internet, in place of a wire.
    pub(crate) line: Option<Quality>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(name: &'a str, kind: &str) -> Self {
        Self { name, kind: Kind::named(kind), players: 1, line: None }
    }

    pub(crate) fn players(self, players: u8) -> Self {
        Self { players, ..self }
    }

    pub(crate) fn line(self, quality: Quality) -> Self {
        Self { line: Some(quality), ..self }
    }
}

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) kind: &'static Kind,
    pub(crate) players: Vec<Host>,
    /// The innermost first.
    pub(crate) routers: Vec<Host>,
    /// Addresses that the internet sees, of each family that the site has.
    pub(crate) outside: Vec<IpAddr>,
    /// The interface of the internet's router towards it.
    pub(crate) port: String,
    pub(crate) line: Option<Line>,
}

impl Site {
    /// The only or first player.
    pub(crate) fn player(&self) -> &Host {
        &self.players[0]
    }

    /// Its outside address of that IP version.
    pub(crate) fn outside(&self, family: u8) -> Option<IpAddr> {
        self.outside.iter().copied().find(|address| address.is_ipv4() == (family == 4))
    }
}

impl<'lab> Internet<'lab> {
    pub(crate) fn new(lab: &'lab Lab) -> Self {
        let mut hosts = lab.spaces(&["internet", "s1", "s2"]).into_iter();
        let mut next = || hosts.next().unwrap();
        let (router, s1, s2) = (next(), next(), next());
        let v6 = |net: u16, host: u16| Ipv6Addr::new(0x2001, 0xdb8, 0xffff, net, 0, 0, 0, host);
        let server = |host: &Host, net: [u8; 3], index: u16, first: u8| Server {
            host: host.clone(),
            v4: [first, first + 1].map(|last| Ipv4Addr::new(net[0], net[1], net[2], last)),
            v6: [0, 1].map(|more| v6(index, 0x10 * index + more)),
        };
        let servers = [server(&s1, [203, 0, 113], 1, 10), server(&s2, [198, 51, 100], 2, 20)];

        let mut plan = Plan::default();
        let middle = plan.node(&router);
        plan.forward(middle);
        plan.nodes[middle].nft += &INTERNET_RULES.replace("PRIVATE", PRIVATE);
        for (index, server) in servers.iter().enumerate() {
            let node = plan.node(&server.host);
            let port = format!("s{}", index + 1);
            plan.wire((middle, &port), (node, "eth0"));
            let [a, b, c, _] = server.v4[0].octets();
            let gateway = [format!("{a}.{b}.{c}.1"), v6(u16::try_from(index).unwrap() + 1, 1).to_string()];
            plan.address(middle, &port, &gateway[0], 24);
            plan.address(middle, &port, &gateway[1], 64);
            for which in 0..2 {
                plan.address(node, "eth0", &server.v4[which].to_string(), 24);
                plan.address(node, "eth0", &server.v6[which].to_string(), 64);
            }
            plan.default_by(node, &gateway[0]);
            plan.default_by(node, &gateway[1]);
        }
        plan.build();
        Self { lab, router, servers, next_site: Cell::new(1) }
    }

    /// The router in the middle: all that goes from site to site or to a server passes it.
    pub(crate) fn router(&self) -> &Host {
        &self.router
    }

    pub(crate) fn site(&self, wanted: Wanted<'_>) -> Site {
        self.sites(&[wanted]).remove(0)
    }

    /// Build sites, all at once: a dozen takes about a second.
    pub(crate) fn sites(&self, wanted: &[Wanted<'_>]) -> Vec<Site> {
        // Names first, so that the namespaces are made in one go.
        let shapes: Vec<_> = wanted.iter().map(|site| Shape::of(&site.kind.name)).collect();
        let mut names = Vec::new();
        for (site, shape) in wanted.iter().zip(&shapes) {
            names.extend((0..shape.routers.len()).map(|depth| format!("{}-r{depth}", site.name)));
            names.extend((0..site.players).map(|player| format!("{}-{player}", site.name)));
            names.extend((site.players > 1).then(|| format!("{}-sw", site.name)));
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut spaces = self.lab.spaces(&names).into_iter();

        let mut plan = Plan::default();
        let internet = plan.node(&self.router);
        let mut sites = Vec::new();
        for (site, shape) in wanted.iter().zip(&shapes) {
            let index = self.next_site.replace(self.next_site.get() + 1);
            let routers: Vec<_> = spaces.by_ref().take(shape.routers.len()).collect();
            let players: Vec<_> = spaces.by_ref().take(usize::from(site.players)).collect();
            let switch = (site.players > 1).then(|| spaces.next().unwrap());
            sites.push(plan.site(internet, index, site, shape, routers, players, switch.as_ref()));
        }
        plan.build();
        sites
    }

    /// Nothing passes between these two any more, by whatever protocol. What goes to servers does.
    pub(crate) fn cut(&self, a: &Site, b: &Site) {
        for (from, to) in [(a, b), (b, a)] {
            self.router
                .nft(&format!("add rule inet internet cut iifname \"{}\" oifname \"{}\" drop\n", from.port, to.port));
        }
    }

    pub(crate) fn mend(&self) {
        self.router.nft("flush chain inet internet cut\n");
    }

    /// Drop this share of what comes from a site and of what goes to it, each packet by chance.
    pub(crate) fn lose(&self, site: &Site, per_mille: u16) {
        for side in ["iifname", "oifname"] {
            let rule = format!("{side} \"{}\" numgen random mod 1000 < {per_mille} drop", site.port);
            self.router.nft(&format!("add rule inet internet loss {rule}\n"));
        }
    }

    /// Drop this share of what goes from one interface of the internet's router to another, each packet by chance.
    pub(crate) fn lose_between(&self, from: &str, to: &str, per_mille: u16) {
        let rule = format!("iifname \"{from}\" oifname \"{to}\" numgen random mod 1000 < {per_mille} drop");
        self.router.nft(&format!("add rule inet internet loss {rule}\n"));
    }

    /// Limit what goes to a site.
    pub(crate) fn limit(&self, site: &Site, mbit: u32) {
        let rate = format!("{mbit}mbit");
        let args = ["tc", "qdisc", "replace", "dev", &site.port, "root", "tbf", "rate", &rate];
        self.router.run(&[&args[..], &["burst", "32kb", "latency", "50ms"]].concat()).expect_ok();
    }
}

/// The routers between a player and the internet, the player's own first.
struct Shape {
    routers: Vec<Router>,
    /// Players have public IPv4 addresses.
    public: bool,
    v4: bool,
    v6: bool,
}

impl Shape {
    fn of(kind: &str) -> Self {
        let nat = |routers: &[Router]| Self { routers: routers.to_vec(), public: false, v4: true, v6: false };
        match kind {
            "none" => Self { public: true, ..nat(&[]) },
            "firewall" => Self { public: true, ..nat(&[Router::Firewall]) },
            "full-cone" => nat(&[Router::FullCone]),
            "addr" => nat(&[Router::AddressRestricted]),
            "port" | "lan" => nat(&[Router::PortRestricted]),
            "symmetric" => nat(&[Router::Symmetric]),
            "symmetric-sequential" => nat(&[Router::SymmetricSequential]),
            "cgnat" => nat(&[Router::PortRestricted, Router::PortRestricted]),
            "cgnat-symmetric" => nat(&[Router::PortRestricted, Router::Symmetric]),
            "udp-blocked" => nat(&[Router::UdpBlocked]),
            "tcp443" => nat(&[Router::OnlyTcp(443)]),
            "ipv6-only" => Self { v4: false, v6: true, ..nat(&[Router::Firewall]) },
            "dual-stack" => Self { v6: true, ..nat(&[Router::PortRestricted]) },
            other => panic!("nothing known of how to build `{other}`"),
        }
    }
}

/// All that is to be done inside a namespace.
struct Node {
    host: Host,
    ip: String,
    nft: String,
    forward: bool,
}

/// Collects commands, so that each namespace is entered once and each program started once for it.
#[derive(Default)]
struct Plan {
    nodes: Vec<Node>,
    wires: String,
}

impl Plan {
    fn node(&mut self, host: &Host) -> usize {
        let ip = "link set lo up\n".into();
        self.nodes.push(Node { host: host.clone(), ip, nft: String::new(), forward: false });
        self.nodes.len() - 1
    }

    fn forward(&mut self, node: usize) {
        self.nodes[node].forward = true;
    }

    fn wire(&mut self, (a, a_end): (usize, &str), (b, b_end): (usize, &str)) {
        let (a_space, b_space) = (self.nodes[a].host.space(), self.nodes[b].host.space());
        self.wires += &format!("link add {a_end} netns {a_space} type veth peer name {b_end} netns {b_space}\n");
        self.up(a, a_end);
        self.up(b, b_end);
    }

    fn up(&mut self, node: usize, interface: &str) {
        self.nodes[node].ip += &format!("link set {interface} up\n");
    }

    fn address(&mut self, node: usize, interface: &str, address: &str, bits: u8) {
        // Duplicate address detection would keep IPv6 addresses unusable for a second.
        let more = if address.contains(':') { "nodad" } else { "brd +" };
        self.nodes[node].ip += &format!("addr add {address}/{bits} {more} dev {interface}\n");
        if let Ok(address) = address.parse() {
            self.nodes[node].host.remember_address(address);
        }
    }

    fn route(&mut self, node: usize, to: &str, by: &str) {
        self.nodes[node].ip += &format!("route add {to} via {by}\n");
    }

    fn default_by(&mut self, node: usize, by: &str) {
        self.route(node, if by.contains(':') { "::/0" } else { "0.0.0.0/0" }, by);
    }

    fn site(
        &mut self,
        internet: usize,
        index: u8,
        wanted: &Wanted<'_>,
        shape: &Shape,
        routers: Vec<Host>,
        players: Vec<Host>,
        switch: Option<&Host>,
    ) -> Site {
        let port = format!("p{index}");
        let v6 = |net: u8, host: u8| format!("2001:db8:{index:x}:{net}::{host:x}");
        let chain: Vec<_> = routers.iter().map(|router| self.node(router)).collect();
        let inside: Vec<_> = players.iter().map(|player| self.node(player)).collect();

        // From the internet inwards: who is next on the line, and by which address.
        let outermost = *chain.last().unwrap_or(&inside[0]);
        let line = wanted.line.map(|quality| {
            let line =
                Line::between((&self.nodes[internet].host, &port), (&self.nodes[outermost].host, "wan0"), quality);
            self.up(internet, &port);
            self.up(outermost, "wan0");
            line
        });
        if line.is_none() {
            self.wire((internet, &port), (outermost, "wan0"));
        }
        let mut outside = Vec::new();
        let mut gateway = (format!("198.18.{index}.1"), format!("198.18.{index}.2"));
        if shape.v4 {
            self.address(internet, &port, &gateway.0, 24);
            outside.push(Ipv4Addr::new(198, 18, index, 2).into());
        }
        if shape.v6 {
            self.address(internet, &port, &v6(1, 1), 64);
            self.route(internet, &format!("{}/64", v6(2, 0)), &v6(1, 2));
            outside.push(v6(2, 0x10).parse().unwrap());
        }
        for (depth, (router, node)) in shape.routers.iter().zip(&chain).enumerate().rev() {
            self.forward(*node);
            self.nodes[*node].nft += &router.rules(&gateway.1);
            if shape.v4 {
                self.address(*node, "wan0", &gateway.1, 24);
                self.default_by(*node, &gateway.0);
            }
            if shape.v6 {
                self.address(*node, "wan0", &v6(1, 2), 64);
                self.default_by(*node, &v6(1, 1));
            }
            gateway = match (depth, shape.public) {
                (0, true) => (format!("198.19.{index}.1"), format!("198.19.{index}.10")),
                (0, false) => ("192.168.1.1".into(), "192.168.1.10".into()),
                (more, _) => (format!("100.64.{more}.1"), format!("100.64.{more}.2")),
            };
            if depth > 0 {
                self.wire((*node, "lan0"), (chain[depth - 1], "wan0"));
                self.address(*node, "lan0", &gateway.0, 24);
            }
        }
        if let Some(own) = chain.first() {
            self.home(*own, &inside, switch);
            if shape.v4 {
                self.address(*own, "lan0", &gateway.0, 24);
            }
            if shape.v6 {
                self.address(*own, "lan0", &v6(2, 1), 64);
            }
        }
        let end = if chain.is_empty() { "wan0" } else { "eth0" };
        let (net, _) = gateway.1.rsplit_once('.').unwrap();
        for (player, node) in inside.iter().enumerate() {
            let last = gateway.1.rsplit('.').next().unwrap().parse::<usize>().unwrap() + player;
            if shape.v4 {
                self.address(*node, end, &format!("{net}.{last}"), 24);
                self.default_by(*node, &gateway.0);
            }
            if shape.v6 {
                self.address(*node, end, &v6(2, 0x10 + u8::try_from(player).unwrap()), 64);
                self.default_by(*node, &v6(2, 1));
            }
        }
        if shape.public && !chain.is_empty() {
            self.route(internet, &format!("198.19.{index}.0/24"), &format!("198.18.{index}.2"));
            outside = vec![Ipv4Addr::new(198, 19, index, 10).into()];
        }
        Site { name: wanted.name.into(), kind: wanted.kind, players, routers, outside, port, line }
    }

    /// The inside of the own router: one wire, or a switch with several.
    fn home(&mut self, router: usize, players: &[usize], switch: Option<&Host>) {
        let Some(switch) = switch else { return self.wire((router, "lan0"), (players[0], "eth0")) };
        let switch = self.node(switch);
        self.nodes[switch].ip += "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n";
        let plugged: Vec<_> = [(router, "lan0")].into_iter().chain(players.iter().map(|one| (*one, "eth0"))).collect();
        for (number, end) in plugged.into_iter().enumerate() {
            let port = format!("port{number}");
            self.wire((switch, &port), end);
            self.nodes[switch].ip += &format!("link set {port} master br0\n");
        }
    }

    fn build(self) {
        ip_batch(&self.wires);
        // Two at a time: they are short programs, and there may be but two processors.
        for pair in self.nodes.chunks(2) {
            std::thread::scope(|scope| pair.iter().for_each(|node| drop(scope.spawn(|| node.build()))));
        }
    }
}

impl Node {
    fn build(&self) {
        self.host.enter(|| {
            if self.forward {
                // Which namespace these files speak of is decided by the thread that opens them.
                fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
                fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            }
            ip_batch(&self.ip);
        });
        if !self.nft.is_empty() {
            self.host.nft(&self.nft);
        }
    }
}

//! The real program: nodes and relays.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::process::{Output, Process};
use super::{Host, PATIENCE, until};

/// Keeps the lab's nodes apart from the public DHT.
pub(crate) const DHT_PROTOCOL: &str = "/lanrage/kad/1.0.0";

const API: &str = "127.0.0.1:8666";

/// What a query answers with `--json`.
pub(crate) type Answer = Value;

/// The program under test: `LANRAGE_BIN`, else the one that cargo built for these tests.
///
/// # Panics
/// When `LANRAGE_BIN` does not name a file.
pub(crate) fn binary() -> String {
    let path = std::env::var("LANRAGE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_lanrage").into());
    // Absolute, as a node may be started from another folder.
    let path = std::fs::canonicalize(&path).unwrap_or_else(|problem| panic!("LANRAGE_BIN {path}: {problem}"));
    path.to_str().unwrap().into()
}

#[derive(Debug, Clone, Default)]
pub(crate) struct NodeOptions {
    /// Multiaddrs with `/p2p`.
    pub(crate) bootstrap: Vec<String>,
    /// More arguments of `lanrage up`.
    pub(crate) more: Vec<String>,
    /// A command that runs the node (`setpriv …`), put in front.
    pub(crate) wrapper: Vec<String>,
    /// Another file than the program under test, such as a copy of it.
    pub(crate) program: Option<String>,
}

impl NodeOptions {
    pub(crate) fn bootstrap(relay: &Relay) -> Self {
        Self { bootstrap: vec![relay.address().into()], ..Self::default() }
    }

    /// No bootstrap peer: mDNS and invite links only.
    pub(crate) fn alone() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().copied().map(String::from));
        self
    }

    pub(crate) fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper.extend(wrapper.iter().copied().map(String::from));
        self
    }
}

/// `lanrage up` on a host.
#[derive(Debug)]
pub(crate) struct Node {
    host: Host,
    name: String,
    data: PathBuf,
    options: NodeOptions,
    process: Process,
}

impl Node {
    /// Start a node whose data folder is called as its name, and wait until its API answers.
    pub(crate) fn start(host: &Host, name: &str, options: &NodeOptions) -> Self {
        let mut node = Self::launch(host, name, options);
        node.wait_for_api();
        node
    }

    /// Start a node without waiting for anything: for those that are to fail.
    pub(crate) fn launch(host: &Host, name: &str, options: &NodeOptions) -> Self {
        Self::launch_in(host, name, &host.dir().join(format!("data-{name}")), options)
    }

    pub(crate) fn launch_in(host: &Host, name: &str, data: &Path, options: &NodeOptions) -> Self {
        let process = spawn(host, name, data, options);
        Self { host: host.clone(), name: name.into(), data: data.into(), options: options.clone(), process }
    }

    /// # Panics
    /// When the node ends, or its API does not answer in time.
    #[track_caller]
    pub(crate) fn wait_for_api(&mut self) {
        let what = format!("the API of {} answers", self.name);
        until(&what, PATIENCE, || {
            if let Some(status) = self.process.ended() {
                panic!("{} ended by itself ({status}):\n{}", self.name, self.process.all());
            }
            let status = self.cli(&["status", "--json"]);
            if status.ok() { Ok(()) } else { Err(status.all()) }
        });
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What the node printed since its last start.
    pub(crate) fn said(&self) -> String {
        self.process.all()
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Start it again as it was started, after it was killed.
    pub(crate) fn start_again(&mut self) {
        self.launch_again();
        self.wait_for_api();
    }

    pub(crate) fn launch_again(&mut self) {
        self.process.kill9();
        self.process = spawn(&self.host, &self.name, &self.data, &self.options);
    }

    /// `lanrage ARGS` against this node.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        self.host.run(&self.cli_args(args).iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same in the background.
    pub(crate) fn cli_spawn(&self, args: &[&str]) -> Process {
        self.host.spawn(&self.cli_args(args).iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn cli_args(&self, args: &[&str]) -> Vec<String> {
        let to_node = ["--api".into(), API.into(), "--data-dir".into(), self.data.to_str().unwrap().into()];
        [binary()].into_iter().chain(args.iter().copied().map(String::from)).chain(to_node).collect()
    }

    /// A query that must work, parsed.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Answer {
        let said = self.cli(&[args, &["--json"]].concat()).expect_ok();
        // Not in a closure, so that a failure names the line of the test.
        match serde_json::from_str(&said.stdout) {
            Ok(answer) => answer,
            Err(problem) => panic!("`{}` is not JSON ({problem}):\n{}", said.command, said.stdout),
        }
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Answer {
        self.json(&["status"])
    }

    #[track_caller]
    pub(crate) fn peers(&self) -> Vec<Answer> {
        let peers = self.json(&["peers"]);
        let Some(list) = peers.as_array() else { panic!("`peers --json` is no list: {peers}") };
        list.clone()
    }

    /// One peer by its name.
    #[track_caller]
    pub(crate) fn peer(&self, name: &str) -> Option<Answer> {
        self.peers().into_iter().find(|peer| peer["name"] == name)
    }

    /// Wait until it says that the tunnel to `name` is up.
    #[track_caller]
    pub(crate) fn wait_connected(&self, name: &str) -> Answer {
        until(&format!("{} is connected to {name}", self.name), PATIENCE, || {
            let peers = self.peers();
            let peer = peers.iter().find(|peer| peer["name"] == name && peer["connected"] == true);
            peer.cloned().ok_or_else(|| format!("{peers:?}"))
        })
    }

    /// Create a party; gives its code and its invite link.
    #[track_caller]
    pub(crate) fn create(&self) -> (String, String) {
        let party = self.json(&["party", "create"]);
        (text(&party, "code"), text(&party, "link"))
    }

    /// Join by code or link.
    #[track_caller]
    pub(crate) fn join(&self, code_or_link: &str) -> Answer {
        self.json(&["party", "join", code_or_link])
    }

    #[track_caller]
    pub(crate) fn leave(&self) {
        self.cli(&["party", "leave"]).expect_ok();
    }

    /// The party of `status`, null when it is in none.
    #[track_caller]
    pub(crate) fn party(&self) -> Answer {
        self.status()["party"].clone()
    }

    /// Names of the members by this node's account, sorted.
    #[track_caller]
    pub(crate) fn members(&self) -> Vec<String> {
        let party = self.party();
        let members = party["members"].as_array().into_iter().flatten();
        let mut names: Vec<_> = members.map(|member| text(member, "name")).collect();
        names.sort();
        names
    }

    /// Wait until this node says that these are the members.
    #[track_caller]
    pub(crate) fn wait_members(&self, names: &[&str]) {
        let mut wanted = names.to_vec();
        wanted.sort_unstable();
        until(&format!("{} sees the members {wanted:?}", self.name), PATIENCE, || {
            let members = self.members();
            if members == wanted { Ok(()) } else { Err(format!("{members:?}")) }
        });
    }

    #[track_caller]
    pub(crate) fn virtual_ip(&self) -> Ipv4Addr {
        virtual_ip(&self.party())
    }

    #[track_caller]
    pub(crate) fn peer_id(&self) -> String {
        text(&self.status(), "peer_id")
    }

    /// # Panics
    /// When `other`'s virtual IP answers no ping from here.
    #[track_caller]
    pub(crate) fn expect_ping(&self, other: &Self) -> Duration {
        self.host.expect_ping(other.virtual_ip())
    }
}

/// The `virtual_ip` of a party, member or peer.
///
/// # Panics
/// When there is none.
#[track_caller]
pub(crate) fn virtual_ip(answer: &Answer) -> Ipv4Addr {
    text(answer, "virtual_ip").parse().unwrap()
}

#[track_caller]
fn text(answer: &Answer, key: &str) -> String {
    let Some(text) = answer[key].as_str() else { panic!("no text `{key}` in {answer}") };
    text.into()
}

fn spawn(host: &Host, name: &str, data: &Path, options: &NodeOptions) -> Process {
    let binary = options.program.clone().unwrap_or_else(binary);
    let data = data.to_str().unwrap();
    let mut args: Vec<&str> = options.wrapper.iter().map(String::as_str).collect();
    args.extend([&binary, "up", "--data-dir", data, "--name", name, "--api", API, "--no-default-bootstrap"]);
    args.extend(["--dht-protocol", DHT_PROTOCOL]);
    for address in &options.bootstrap {
        args.extend(["--bootstrap", address]);
    }
    args.extend(options.more.iter().map(String::as_str));
    host.spawn(&args)
}

/// `lanrage relay` on a host: the public node that the others find each other through.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Process,
    addresses: Vec<String>,
    host: Host,
    args: Vec<String>,
    /// Its peer id.
    id: String,
}

impl Relay {
    pub(crate) fn start(host: &Host) -> Self {
        Self::start_with(host, &[host.address().into()], &[])
    }

    /// At several addresses, the first of which is an IPv4 one, and with more arguments.
    pub(crate) fn start_with(host: &Host, addresses: &[IpAddr], more: &[&str]) -> Self {
        let (binary, data, public) = (binary(), host.dir().join("relay"), addresses[0]);
        let mut args = vec![&binary, "relay", "--data-dir", data.to_str().unwrap(), "--p2p-port", "4001"];
        let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        for address in &addresses {
            args.extend(["--public-ip", address]);
        }
        args.extend(["--dht-protocol", DHT_PROTOCOL]);
        args.extend(more);
        let args: Vec<String> = args.into_iter().map(String::from).collect();
        let mut process = host.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let printed = until("the relay prints its addresses", PATIENCE, || {
            if let Some(status) = process.ended() {
                panic!("the relay ended by itself ({status}):\n{}", process.all());
            }
            // Whole lines only: the last one may still be on its way.
            let said = process.stdout();
            let lines = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let words = lines.flat_map(str::split_whitespace);
            let found: Vec<_> = words.filter(|word| word.contains("/p2p/")).map(String::from).collect();
            if found.is_empty() { Err(said) } else { Ok(found) }
        });
        let id = printed[0].rsplit('/').next().unwrap().to_string();
        let mut relay = Self { process, addresses: Vec::new(), host: host.clone(), args, id };
        let first = relay.address_at(public, 4001);
        relay.addresses = printed;
        relay.addresses.retain(|address| *address != first);
        relay.addresses.insert(0, first);
        until("the relay listens", PATIENCE, || {
            let limit = Duration::from_secs(1);
            let dialled = host.enter(|| TcpStream::connect_timeout(&(public, 4001).into(), limit));
            dialled.map(drop).map_err(|problem| problem.to_string())
        });
        relay
    }

    /// Its TCP multiaddr, with `/p2p`.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Its multiaddr at this address and TCP port.
    pub(crate) fn address_at(&self, ip: IpAddr, port: u16) -> String {
        format!("/{}/{ip}/tcp/{port}/p2p/{}", if ip.is_ipv4() { "ip4" } else { "ip6" }, self.id)
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Start it again as it was started, after it was killed.
    pub(crate) fn launch_again(&mut self) {
        self.process.kill9();
        self.process = self.host.spawn(&self.args.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

//! What the program is told: defaults, then a file, then environment variables, then flags.
//!
//! `config/default.toml` is the single place of the defaults and of what each key means.

pub mod values;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use lanrage_actors::broadcast::machine::Carry;
use lanrage_actors::discovery::DiscoveryConfig;
use lanrage_actors::nat::messages::Serve;
use lanrage_actors::wire::Ipv4Range;
use serde::{Deserialize, Serialize};

use crate::system;
use values::{
    ApiAddr, BootstrapAddr, Broadcasts, DhtProtocol, HostPort, Mtu, NodeName, Ports, Range, Relaying, TunName,
};

/// Every key with its explanation and default.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// A relay is dialled by address, so its port must be known before it starts.
pub const RELAY_P2P_PORT: u16 = 4001;
/// STUN servers or relays that a user may name; more are left out.
const MAX_SERVERS: usize = 16;
/// Port ranges that broadcasts may be left out of; more are ignored.
const MAX_EXCEPT: usize = 64;
/// Interfaces that a user may bridge; more are left out.
const MAX_BRIDGED: usize = 8;

/// Why the configuration cannot be used; says where and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// What `lanrage up` runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    /// 1 to 32 characters.
    pub name: String,
    /// Loopback; port 0 takes any.
    pub api: SocketAddr,
    /// Multiaddrs that end in `/p2p/…`: the default ones unless switched off, and the user's.
    pub bootstrap: Vec<String>,
    pub dht_protocol: String,
    /// UDP port of the data socket; `None`: the one in the store, else any, then kept in the store.
    pub listen_port: Option<u16>,
    /// TCP and QUIC port of discovery; `None` as with `listen_port`.
    pub p2p_port: Option<u16>,
    pub tun: String,
    /// For parties created here.
    pub range: Ipv4Range,
    /// Bytes of an IP packet on the virtual device.
    pub mtu: u16,
    pub mdns: bool,
    /// STUN servers, as `HOST:PORT`.
    pub stun_servers: Vec<String>,
    /// UDP relays to use besides those that are found, as `HOST:PORT`.
    pub relay_servers: Vec<String>,
    pub serve: Serve,
    pub port_mapping: bool,
    /// Which broadcasts of local programs the members get.
    pub broadcasts: Carry,
    /// UDP ports whose broadcasts are not carried, both ends included.
    pub broadcast_except: Vec<(u16, u16)>,
    /// Names of interfaces whose networks are bridged into the party.
    pub bridge: Vec<String>,
    /// Carry mDNS and SSDP between members.
    pub share_mdns: bool,
    pub share_ssdp: bool,
    /// Look for running games.
    pub game_detection: bool,
    /// Do what their profiles ask for.
    pub game_tuning: bool,
    /// Set the identity in the data folder aside and make a new one.
    pub new_identity: bool,
    /// A `tracing` filter.
    pub log: String,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// What `lanrage relay` runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayConfig {
    pub data_dir: PathBuf,
    /// TCP and QUIC.
    pub p2p_port: u16,
    /// UDP port of the data relay; `None`: the one in the store, else any, then kept in the store.
    pub listen_port: Option<u16>,
    /// Addresses to announce; empty: found out.
    pub public_ips: Vec<IpAddr>,
    /// Listened on for TCP besides `p2p_port`.
    pub tcp_ports: Vec<u16>,
    pub bootstrap: Vec<String>,
    pub dht_protocol: String,
    pub log: String,
}

/// One source of settings; what it leaves out comes from the source below it. Flags, variables and keys share the names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Layer {
    /// Folder for this machine's identity and parties [default: ~/.local/share/lanrage; root: /var/lib/lanrage]
    #[arg(long, env = "LANRAGE_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// What your friends see, 1 to 32 characters [default: the name of this computer]
    #[arg(long, env = "LANRAGE_NAME", value_name = "NAME")]
    pub name: Option<NodeName>,
    /// Where the other commands reach this node; only this computer's own addresses [default: 127.0.0.1:8666]
    #[arg(long, env = "LANRAGE_API", value_name = "ADDR:PORT")]
    pub api: Option<ApiAddr>,
    /// Another peer to start the search for friends from, like /ip4/203.0.113.5/tcp/4001/p2p/12D3Koo…; may be repeated
    #[arg(long, env = "LANRAGE_BOOTSTRAP", value_name = "MULTIADDR", value_delimiter = ',')]
    pub bootstrap: Option<Vec<BootstrapAddr>>,
    /// Start the search only from the --bootstrap peers, not from the public ones
    #[arg(long, env = "LANRAGE_NO_DEFAULT_BOOTSTRAP", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub no_default_bootstrap: Option<bool>,
    #[arg(skip)]
    pub default_bootstrap: Option<Vec<BootstrapAddr>>,
    /// Protocol name of the DHT; the same for everybody in a party [default: /ipfs/kad/1.0.0]
    #[arg(long, env = "LANRAGE_DHT_PROTOCOL", value_name = "NAME")]
    pub dht_protocol: Option<DhtProtocol>,
    /// UDP port for the game traffic [default: picked at the first start, then kept]
    #[arg(long, env = "LANRAGE_LISTEN_PORT", value_name = "PORT")]
    pub listen_port: Option<u16>,
    /// TCP and UDP port for finding the others [default: picked at the first start, then kept]
    #[arg(long, env = "LANRAGE_P2P_PORT", value_name = "PORT")]
    pub p2p_port: Option<u16>,
    /// Name of the virtual network device [default: lanrage0]
    #[arg(long, env = "LANRAGE_TUN", value_name = "NAME")]
    pub tun: Option<TunName>,
    /// Addresses of the parties that you create [default: 10.66.0.0/16]
    #[arg(long, env = "LANRAGE_RANGE", value_name = "RANGE")]
    pub range: Option<Range>,
    /// Largest packet inside the tunnel, 576 to 1420 bytes [default: 1360]
    #[arg(long, env = "LANRAGE_MTU", value_name = "BYTES")]
    pub mtu: Option<Mtu>,
    /// Do not look for friends on the local network by multicast DNS
    #[arg(long, env = "LANRAGE_NO_MDNS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub no_mdns: Option<bool>,
    /// STUN server that tells how this machine looks from outside, like stun.example.org:3478; may be repeated
    #[arg(long, env = "LANRAGE_STUN_SERVERS", value_name = "HOST:PORT", value_delimiter = ',')]
    pub stun_servers: Option<Vec<HostPort>>,
    /// UDP relay to use besides those that are found, like relay.example.org:41641; may be repeated
    #[arg(long, env = "LANRAGE_RELAY_SERVERS", value_name = "HOST:PORT", value_delimiter = ',')]
    pub relay_servers: Option<Vec<HostPort>>,
    /// Forward sealed packets for others: auto (when anybody can reach this machine), always or never [default: auto]
    #[arg(long, env = "LANRAGE_RELAYING", value_name = "WHEN")]
    pub relaying: Option<Relaying>,
    /// Do not ask the router to forward the data port (PCP, NAT-PMP, UPnP)
    #[arg(long, env = "LANRAGE_NO_PORT_MAPPING", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub no_port_mapping: Option<bool>,
    /// Which broadcasts of games and other programs your friends get: all, device (only those sent on the virtual device) or off [default: all]
    #[arg(long, env = "LANRAGE_BROADCASTS", value_name = "WHICH")]
    pub broadcasts: Option<Broadcasts>,
    /// UDP port or range (137-139) whose broadcasts are not carried; may be repeated
    #[arg(long, env = "LANRAGE_BROADCAST_EXCEPT", value_name = "PORTS", value_delimiter = ',')]
    pub broadcast_except: Option<Vec<Ports>>,
    /// Let the machines on this local network (a console, a computer without LANrage) play along, like eth0; may be repeated
    #[arg(long, env = "LANRAGE_BRIDGE", value_name = "INTERFACE", value_delimiter = ',')]
    pub bridge: Option<Vec<TunName>>,
    /// Carry mDNS between you and your friends, for programs that find each other by it
    #[arg(long, env = "LANRAGE_SHARE_MDNS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub share_mdns: Option<bool>,
    /// Carry SSDP (UPnP, DLNA) between you and your friends
    #[arg(long, env = "LANRAGE_SHARE_SSDP", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub share_ssdp: Option<bool>,
    /// Do not look which games run
    #[arg(long, env = "LANRAGE_NO_GAME_DETECTION", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub no_game_detection: Option<bool>,
    /// Notice running games, but treat their packets like any others
    #[arg(long, env = "LANRAGE_NO_GAME_TUNING", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub no_game_tuning: Option<bool>,
    /// What to write to the error output: error, warn, info, debug, trace
    #[arg(long, env = "LANRAGE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// What only `relay` takes, or takes with another default; the rest comes from the `Layer`s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayFlags {
    pub data_dir: Option<PathBuf>,
    pub p2p_port: Option<u16>,
    pub listen_port: Option<u16>,
    pub public_ips: Vec<IpAddr>,
    pub tcp_ports: Vec<u16>,
    pub shared: Layer,
}

/// Where files live for this user on this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub data: PathBuf,
    pub config: PathBuf,
    pub host_name: Option<String>,
}

impl Layer {
    /// The defaults.
    ///
    /// # Errors
    /// Never in a program that passes its tests.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::parse(DEFAULTS, Path::new("config/default.toml"))
    }

    /// # Errors
    /// Names the file, the line and the key.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError(explain(text, file, &error)))
    }

    /// `self` where it says something, else `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            name: self.name.or(below.name),
            api: self.api.or(below.api),
            bootstrap: self.bootstrap.or(below.bootstrap),
            no_default_bootstrap: self.no_default_bootstrap.or(below.no_default_bootstrap),
            default_bootstrap: self.default_bootstrap.or(below.default_bootstrap),
            dht_protocol: self.dht_protocol.or(below.dht_protocol),
            listen_port: self.listen_port.or(below.listen_port),
            p2p_port: self.p2p_port.or(below.p2p_port),
            tun: self.tun.or(below.tun),
            range: self.range.or(below.range),
            mtu: self.mtu.or(below.mtu),
            no_mdns: self.no_mdns.or(below.no_mdns),
            stun_servers: self.stun_servers.or(below.stun_servers),
            relay_servers: self.relay_servers.or(below.relay_servers),
            relaying: self.relaying.or(below.relaying),
            no_port_mapping: self.no_port_mapping.or(below.no_port_mapping),
            broadcasts: self.broadcasts.or(below.broadcasts),
            broadcast_except: self.broadcast_except.or(below.broadcast_except),
            bridge: self.bridge.or(below.bridge),
            share_mdns: self.share_mdns.or(below.share_mdns),
            share_ssdp: self.share_ssdp.or(below.share_ssdp),
            no_game_detection: self.no_game_detection.or(below.no_game_detection),
            no_game_tuning: self.no_game_tuning.or(below.no_game_tuning),
            log: self.log.or(below.log),
        }
    }

    fn bootstrap_list(&self) -> Result<Vec<String>, ConfigError> {
        let mut list = Vec::new();
        // The default peers speak the protocol of the public DHT only.
        let public =
            self.dht_protocol.as_ref().is_none_or(|protocol| protocol.to_string() == DiscoveryConfig::PUBLIC_DHT);
        if public && !taken(self.no_default_bootstrap, "no-default-bootstrap")? {
            list.extend(self.default_bootstrap.iter().flatten().map(ToString::to_string));
        }
        list.extend(self.bootstrap.iter().flatten().map(ToString::to_string));
        let mut seen = std::collections::BTreeSet::new();
        list.retain(|address| seen.insert(address.clone()));
        Ok(list)
    }
}

impl Places {
    #[must_use]
    pub fn of_this_user() -> Self {
        let root = system::effective_uid() == Some(0);
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self::new(root, &variable, system::host_name())
    }

    fn new(root: bool, variable: &dyn Fn(&'static str) -> Option<PathBuf>, host_name: Option<String>) -> Self {
        if root {
            return Self { data: "/var/lib/lanrage".into(), config: "/etc/lanrage/config.toml".into(), host_name };
        }
        let home = variable("HOME").unwrap_or_else(|| PathBuf::from("."));
        // The XDG base directory specification: relative paths are to be ignored.
        let folder =
            |name, default| variable(name).filter(|path| path.is_absolute()).unwrap_or_else(|| home.join(default));
        Self {
            data: folder("XDG_DATA_HOME", ".local/share").join("lanrage"),
            config: folder("XDG_CONFIG_HOME", ".config").join("lanrage/config.toml"),
            host_name,
        }
    }
}

impl Config {
    /// # Errors
    /// When the file cannot be read or holds something unusable.
    pub fn load(file: Option<&Path>, flags: Layer, new_identity: bool, places: &Places) -> Result<Self, ConfigError> {
        let (layer, file) = layers(file, flags, places)?;
        let bootstrap = layer.bootstrap_list()?;
        let port = |port: Option<u16>, key| Ok(Some(taken(port, key)?).filter(|port| *port != 0));
        Ok(Self {
            data_dir: folder(layer.data_dir, || places.data.clone()),
            name: name(layer.name, places),
            api: taken(layer.api, "api")?.0,
            bootstrap,
            dht_protocol: taken(layer.dht_protocol, "dht-protocol")?.0,
            listen_port: port(layer.listen_port, "listen-port")?,
            p2p_port: port(layer.p2p_port, "p2p-port")?,
            tun: taken(layer.tun, "tun")?.0,
            range: taken(layer.range, "range")?.0,
            mtu: taken(layer.mtu, "mtu")?.0,
            mdns: !taken(layer.no_mdns, "no-mdns")?,
            stun_servers: hosts(layer.stun_servers),
            relay_servers: hosts(layer.relay_servers),
            serve: taken(layer.relaying, "relaying")?.serve(),
            port_mapping: !taken(layer.no_port_mapping, "no-port-mapping")?,
            broadcasts: taken(layer.broadcasts, "broadcasts")?.carry(),
            broadcast_except: layer.broadcast_except.iter().flatten().map(Ports::range).take(MAX_EXCEPT).collect(),
            bridge: layer.bridge.into_iter().flatten().map(|name| name.0).take(MAX_BRIDGED).collect(),
            share_mdns: taken(layer.share_mdns, "share-mdns")?,
            share_ssdp: taken(layer.share_ssdp, "share-ssdp")?,
            game_detection: !taken(layer.no_game_detection, "no-game-detection")?,
            game_tuning: !taken(layer.no_game_tuning, "no-game-tuning")?,
            new_identity,
            log: taken(layer.log, "log")?,
            file,
        })
    }
}

impl RelayConfig {
    /// Folder and ports come from flags and variables only: those in the file are the node's of the same user.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(file: Option<&Path>, flags: RelayFlags, places: &Places) -> Result<Self, ConfigError> {
        let (layer, _) = layers(file, flags.shared, places)?;
        Ok(Self {
            bootstrap: layer.bootstrap_list()?,
            // A folder of its own, so that a node and a relay can run side by side.
            data_dir: folder(flags.data_dir, || places.data.with_file_name("lanrage-relay")),
            p2p_port: flags.p2p_port.unwrap_or(RELAY_P2P_PORT),
            listen_port: flags.listen_port.filter(|port| *port != 0),
            public_ips: flags.public_ips,
            tcp_ports: flags.tcp_ports,
            dht_protocol: taken(layer.dht_protocol, "dht-protocol")?.0,
            log: taken(layer.log, "log")?,
        })
    }
}

/// Flags (which hold the variables already) over the file over the defaults; and the file that was read.
fn layers(file: Option<&Path>, flags: Layer, places: &Places) -> Result<(Layer, Option<PathBuf>), ConfigError> {
    let defaults = Layer::defaults()?;
    let path = file.unwrap_or(&places.config);
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((flags.over(Layer::parse(&text, path)?).over(defaults), Some(path.to_owned()))),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok((flags.over(defaults), None))
        }
        Err(error) => Err(ConfigError(format!("the configuration file {} cannot be read: {error}", path.display()))),
    }
}

fn hosts(given: Option<Vec<HostPort>>) -> Vec<String> {
    given.into_iter().flatten().map(|it| it.0).take(MAX_SERVERS).collect()
}

fn folder(given: Option<PathBuf>, automatic: impl FnOnce() -> PathBuf) -> PathBuf {
    given.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(automatic)
}

fn name(given: Option<NodeName>, places: &Places) -> String {
    given
        .map(|name| name.0)
        .filter(|name| !name.is_empty())
        .or_else(|| places.host_name.as_deref().and_then(values::name_from_host))
        .unwrap_or_else(|| "player".to_owned())
}

/// Every key has a default, so nothing is missing.
fn taken<T>(value: Option<T>, key: &str) -> Result<T, ConfigError> {
    value.ok_or_else(|| ConfigError(format!("config/default.toml lacks the key `{key}`")))
}

/// `FILE, line 3, key mtu: …`
fn explain(text: &str, file: &Path, error: &toml::de::Error) -> String {
    let mut place = file.display().to_string();
    if let Some(before) = error.span().and_then(|span| text.get(..span.start)) {
        let line = before.matches('\n').count();
        let _ = write!(place, ", line {}", line + 1);
        // The value may stand lines below its key, in a list.
        let lines: Vec<&str> = text.lines().take(line + 1).collect();
        let key = lines.iter().rev().find_map(|line| {
            let (key, _) = line.split_once('=')?;
            let key = key.trim().trim_matches(['"', '\'']);
            let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            bare.then_some(key)
        });
        if let Some(key) = key {
            let _ = write!(place, ", key `{key}`");
        }
    }
    let message = error.message().replace("unknown field", "unknown key").replace('\n', " ");
    format!("{place}: {message}")
}

#[cfg(test)]
mod tests;

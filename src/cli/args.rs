//! Commands and flags, with the help that players read.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::values::{ApiAddr, BootstrapAddr, DhtProtocol};
use crate::config::{Layer, RelayFlags};

const EXAMPLES: &str = "\
Your first party:
  lanrage                            start LANrage and leave it running
  lanrage party create               (in another terminal) get a code for your friends
  lanrage party join K7QM-2XPA-9DRK  what your friends type
  lanrage peers                      who is there, and how far away
Then start the game and join the host by virtual IP (lanrage peers shows it).

If something does not work: lanrage doctor";

/// Play LAN games with friends over the internet: start it, share a party code, be on one LAN.
#[derive(Debug, Parser)]
#[command(name = "lanrage", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) up: UpArgs,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of them in a run")]
pub(super) enum Command {
    /// Start LANrage in this terminal (the same as just `lanrage`); stop it with Ctrl+C
    #[command(
        after_help = "Examples:\n  lanrage up\n  lanrage up --name Ann\n  lanrage up --data-dir ./second --api 127.0.0.1:8667   a second node on this computer"
    )]
    Up(UpArgs),
    /// Create, join, leave and manage parties
    #[command(subcommand)]
    Party(PartyCommand),
    /// Show whether LANrage runs, your party, your address in it, and what is wrong
    Status(AskArgs),
    /// Show the others in the party: address, connection, ping
    Peers(AskArgs),
    /// Measure the time to a friend's computer and back
    #[command(after_help = "Examples:\n  lanrage ping bob\n  lanrage ping 10.66.3.4 -c 20")]
    Ping(PingArgs),
    /// Show what happened: who connected, over which path and why, what was tuned
    #[command(
        after_help = "Examples:\n  lanrage events\n  lanrage events --follow\n  lanrage events --follow --json   one object a line, for programs"
    )]
    Events(EventsArgs),
    /// Send small packets to a friend on two paths at once, against loss
    #[command(
        after_help = "Examples:\n  lanrage redundancy bob on     always\n  lanrage redundancy bob auto   when packets are being lost (as at the start)\nIt holds until LANrage ends."
    )]
    Redundancy(RedundancyArgs),
    /// Check and list game profiles: how games are recognised, and what is done for them
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Show the games that can be joined in the party, and how; say what you host
    #[command(
        after_help = "Examples:\n  lanrage games\n  lanrage games --host openttd:3979      show your friends a server that LANrage does not see by itself\n  lanrage games --host minetest:30000    games that are not known are shown with the address to join\n  lanrage games --no-host                take back what --host said"
    )]
    Games(GamesArgs),
    /// Run a game in a network of its own that has only the party in it (Linux)
    #[command(
        after_help = "For games that tell others their own address or name, or that take the first network they find.\nNeeds no root. It all goes away when the game ends, and its exit code is passed on.\nOther programs of this computer are not reached from inside: start server and game together, like: lanrage play -- sh -c 'server & game'\n\nExamples:\n  lanrage play -- quakespasm -listen 8\n  lanrage play --name-is-address -- freeciv-server\n  lanrage play --internet -- steam"
    )]
    Play(PlayArgs),
    #[command(hide = true)]
    /// The second half of `play`, which starts it
    PlayInside {
        /// Descriptor of the socket to the first half
        control: i32,
        /// The game and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a public helper node without a party, on a server that everybody can reach
    #[command(
        after_help = "Example:\n  lanrage relay --public-ip 203.0.113.5\nIt prints its addresses; players use one with: lanrage up --bootstrap ADDRESS"
    )]
    Relay(RelayArgs),
    /// Look for what keeps LANrage from working, and say how to fix it
    Doctor(AskArgs),
    /// Show what your router does to connections, and what to do about it
    #[command(
        after_help = "Examples:\n  lanrage netcheck\n  lanrage netcheck --server stun.example.org:3478   ask other servers"
    )]
    Netcheck(NetcheckArgs),
}

#[derive(Debug, Args)]
pub(super) struct GamesArgs {
    /// A server on this computer, as GAME:PORT or GAME:PORT:QUERY-PORT; may be repeated, replaces what was said before
    #[arg(long, value_name = "GAME:PORT")]
    pub(super) host: Vec<String>,
    /// Take back the servers that --host named
    #[arg(long, conflicts_with = "host")]
    pub(super) no_host: bool,
    #[command(flatten)]
    pub(super) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(super) struct PlayArgs {
    /// Id of the game's profile, for games that are not recognised by their program
    #[arg(long, value_name = "ID")]
    pub(super) game: Option<String>,
    /// Let the game reach the internet as well; needs slirp4netns or pasta
    #[arg(long)]
    pub(super) internet: bool,
    /// Inside, the name of this computer is its virtual IP: for games that tell others that name (freeciv)
    #[arg(long)]
    pub(super) name_is_address: bool,
    /// Data folder of the running LANrage
    #[arg(long, env = "LANRAGE_DATA_DIR", value_name = "FOLDER")]
    pub(super) data_dir: Option<PathBuf>,
    /// Configuration file of the running LANrage
    #[arg(long, env = "LANRAGE_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The game and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct NetcheckArgs {
    /// UDP port to look from, instead of asking the running LANrage
    #[arg(long, value_name = "PORT")]
    pub(super) port: Option<u16>,
    /// STUN server to ask instead of the running LANrage; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(super) server: Vec<String>,
    /// Do not ask the router to forward a port
    #[arg(long)]
    pub(super) no_port_mapping: bool,
    /// Measure how long the router keeps an unused mapping; takes three minutes
    #[arg(long)]
    pub(super) lifetime: bool,
    /// Measure up to one minute only
    #[arg(long, requires = "lifetime")]
    pub(super) quick: bool,
    /// UDP relay that helps to measure it [default: the configured ones]
    #[arg(long, value_name = "HOST:PORT", requires = "lifetime")]
    pub(super) relay: Option<String>,
    #[command(flatten)]
    pub(super) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    pub(super) layer: Layer,
    /// Configuration file [default: ~/.config/lanrage/config.toml; root: /etc/lanrage/config.toml]
    #[arg(long, env = "LANRAGE_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    // No variable and no key: it would give a new identity at every start.
    /// Set the stored identity aside and start with a new one (your friends see a new computer)
    #[arg(long)]
    pub(super) new_identity: bool,
}

/// Which running node is meant.
#[derive(Debug, Clone, Args)]
pub(super) struct NodeArgs {
    /// Address of the running LANrage [default: the one it wrote to its data folder]
    #[arg(long, env = "LANRAGE_API", value_name = "ADDR:PORT")]
    pub(super) api: Option<ApiAddr>,
    /// Data folder of the running LANrage
    #[arg(long, env = "LANRAGE_DATA_DIR", value_name = "FOLDER")]
    pub(super) data_dir: Option<PathBuf>,
    /// Configuration file of the running LANrage
    #[arg(long, env = "LANRAGE_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct AskArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum PartyCommand {
    /// Start a party and get its code
    #[command(after_help = "Example:\n  lanrage party create --name \"Friday night\"")]
    Create {
        /// What the party is called [default: your name's party]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Join a friend's party
    #[command(
        after_help = "Examples:\n  lanrage party join K7QM-2XPA-9DRK\n  lanrage party join k7qm2xpa9drk                  (spelling is forgiven)\n  lanrage party join 'lanrage://join/K7QM…?via=…'  (an invite link finds the party faster)"
    )]
    Join {
        /// The party's code, or an invite link
        #[arg(value_name = "CODE|LINK")]
        code: String,
        /// How long to look for the party
        #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
        wait: u64,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Leave the party; its code stays good for coming back
    Leave {
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List the parties that this computer remembers
    List(AskArgs),
    /// Remove somebody from your party (host only); the party gets a new code
    Kick {
        /// Name, virtual IP or PeerId
        name: String,
        #[command(flatten)]
        ask: AskArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// Say what is wrong with profile files, line by line; needs no running LANrage
    #[command(
        after_help = "Example:\n  lanrage profile check mygame.toml\nA profile of your own goes into the folder `profiles` of the data folder; a running LANrage takes it at once."
    )]
    Check {
        /// Profile files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// List the built-in profiles and your own
    List(ProfileListArgs),
}

#[derive(Debug, Args)]
pub(super) struct ProfileListArgs {
    /// Print JSON, for programs: everything that the profiles say
    #[arg(long)]
    pub(super) json: bool,
    /// Data folder, where your own profiles are
    #[arg(long, env = "LANRAGE_DATA_DIR", value_name = "FOLDER")]
    pub(super) data_dir: Option<PathBuf>,
    /// Configuration file, which may name the data folder
    #[arg(long, env = "LANRAGE_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PingArgs {
    /// Name, virtual IP or PeerId
    #[arg(value_name = "PEER")]
    pub(super) peer: String,
    /// How often
    #[arg(short = 'c', long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) count: u32,
    #[command(flatten)]
    pub(super) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Go on and show each event as it comes; end with Ctrl+C
    #[arg(short, long)]
    pub(super) follow: bool,
    #[command(flatten)]
    pub(super) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(super) struct RedundancyArgs {
    /// Name, virtual IP or PeerId
    #[arg(value_name = "PEER")]
    pub(super) peer: String,
    /// When
    #[arg(value_name = "WHEN")]
    pub(super) when: When,
    #[command(flatten)]
    pub(super) ask: AskArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum When {
    Off,
    On,
    Auto,
}

impl When {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Auto => "auto",
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RelayArgs {
    /// Folder for the relay's identity [default: ~/.local/share/lanrage-relay; root: /var/lib/lanrage-relay]
    #[arg(long, env = "LANRAGE_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// TCP and UDP port that others reach it at [default: 4001]
    #[arg(long, env = "LANRAGE_P2P_PORT", value_name = "PORT")]
    p2p_port: Option<u16>,
    /// UDP port for relayed game traffic [default: picked at the first start, then kept]
    #[arg(long, env = "LANRAGE_LISTEN_PORT", value_name = "PORT")]
    listen_port: Option<u16>,
    /// Address under which it is reached from the internet; may be repeated [default: found out]
    #[arg(long, env = "LANRAGE_PUBLIC_IP", value_name = "IP", value_delimiter = ',')]
    public_ip: Vec<IpAddr>,
    /// Another TCP port to be reached at, like 443 for players whose network lets nothing else out; may be repeated
    #[arg(long, env = "LANRAGE_TCP_PORT", value_name = "PORT", value_delimiter = ',')]
    tcp_port: Vec<u16>,
    /// Protocol name of the DHT; the same for everybody in a party [default: /ipfs/kad/1.0.0]
    #[arg(long, env = "LANRAGE_DHT_PROTOCOL", value_name = "NAME")]
    dht_protocol: Option<DhtProtocol>,
    /// Another peer of the DHT to start from; may be repeated
    #[arg(long, env = "LANRAGE_BOOTSTRAP", value_name = "MULTIADDR", value_delimiter = ',')]
    bootstrap: Option<Vec<BootstrapAddr>>,
    /// Do not connect to the public bootstrap peers
    #[arg(long, env = "LANRAGE_NO_DEFAULT_BOOTSTRAP", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    no_default_bootstrap: Option<bool>,
    /// What to write to the error output: error, warn, info, debug, trace
    #[arg(long, env = "LANRAGE_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Configuration file, for the DHT's protocol, bootstrap peers and the log
    #[arg(long, env = "LANRAGE_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

impl RelayArgs {
    pub(super) fn into_flags(self) -> RelayFlags {
        RelayFlags {
            tcp_ports: self.tcp_port,
            data_dir: self.data_dir,
            p2p_port: self.p2p_port,
            listen_port: self.listen_port,
            public_ips: self.public_ip,
            shared: Layer {
                bootstrap: self.bootstrap,
                no_default_bootstrap: self.no_default_bootstrap,
                dht_protocol: self.dht_protocol,
                log: self.log,
                ..Layer::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_is_the_default() {
        let cli = parse("lanrage --name ann --no-mdns --no-default-bootstrap --listen-port 7 --new-identity");
        assert!(cli.command.is_none());
        assert_eq!(cli.up.layer.name.map(|name| name.0).as_deref(), Some("ann"));
        assert_eq!((cli.up.layer.no_mdns, cli.up.layer.no_default_bootstrap), (Some(true), Some(true)));
        assert_eq!((cli.up.layer.listen_port, cli.up.new_identity), (Some(7), true));
        let Some(Command::Up(up)) =
            parse("lanrage up --bootstrap /ip4/1.2.3.4/tcp/1/p2p/Qa --bootstrap /dns/a/p2p/Qb --no-mdns=false").command
        else {
            panic!("not up")
        };
        assert_eq!(up.layer.bootstrap.map(|list| list.len()), Some(2));
        assert_eq!(up.layer.no_mdns, Some(false));
        assert!(parse("lanrage").up.layer.mtu.is_none());
    }

    #[test]
    fn commands() {
        let Some(Command::Party(PartyCommand::Join { code, wait, ask })) =
            parse("lanrage party join K7QM-2XPA-9DRK --wait 5 --json --data-dir /d").command
        else {
            panic!("not join")
        };
        assert_eq!((code.as_str(), wait, ask.json), ("K7QM-2XPA-9DRK", 5, true));
        assert_eq!(ask.node.data_dir, Some("/d".into()));
        let Some(Command::Ping(ping)) = parse("lanrage ping bob -c 9").command else { panic!("not ping") };
        assert_eq!((ping.peer.as_str(), ping.count), ("bob", 9));
        let Some(Command::Relay(relay)) =
            parse("lanrage relay --public-ip 203.0.113.5 --public-ip 2001:db8::1 --p2p-port 0 --dht-protocol /x/1")
                .command
        else {
            panic!("not relay")
        };
        let flags = relay.into_flags();
        assert_eq!((flags.public_ips.len(), flags.p2p_port), (2, Some(0)));
        for line in [
            "party create --name x",
            "party leave",
            "profile check a.toml b.toml",
            "profile list --json --data-dir /d",
            "party list --json",
            "party kick bob",
            "status --json",
            "games --json",
            "games --host openttd:3979 --host valheim:2456:2457",
            "games --no-host",
            "play -- game -x --json",
            "play --game quake --internet --name-is-address --data-dir /d -- game",
            "peers",
            "doctor --api [::1]:9",
            "netcheck --json --port 5000 --server a:1,b:2 --no-port-mapping --lifetime --quick --relay c:3",
        ] {
            parse(&format!("lanrage {line}"));
        }
        for bad in [
            "up --api 0.0.0.0:1",
            "status --api 10.0.0.1:1",
            "up --mtu 9000",
            "party join",
            "ping",
            "play",
            "games --host a:1 --no-host",
            "play game",
            "party join x --wait 0",
            "profile check",
            "--bogus",
        ] {
            assert!(Cli::try_parse_from(format!("lanrage {bad}").split(' ')).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_and_flag_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}

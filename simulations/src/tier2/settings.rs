//! A scenario's `[run]` table.

use rand::Rng as _;
use rand_chacha::ChaCha12Rng;
use serde::Deserialize;

use super::beacons::BeaconSettings;
use super::dht::DhtSettings;
use super::game::GameSettings;
use super::link::LinkSettings;
use super::nat::Kind;
use super::net::Family;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Virtual seconds, teardown not counted.
    pub seconds: f64,
    /// Members of a party; 0: all nodes are one party.
    #[serde(default)]
    pub party_size: u32,
    /// Joins are spread over this time.
    #[serde(default = "one")]
    pub join_spread_s: f64,
    /// A join that takes longer has failed.
    #[serde(default = "two_minutes")]
    pub join_timeout_s: f64,
    /// From the last join's answer: everybody who must be connected is.
    #[serde(default = "half_a_minute")]
    pub connect_s: f64,
    /// Joiners have the invite link, and not only the code.
    #[serde(default)]
    pub by_link: bool,
    /// Nodes know STUN servers on the internet.
    #[serde(default)]
    pub stun: bool,
    /// Public nodes that relay for everybody, and by which the DHT is entered.
    #[serde(default)]
    pub relays: u32,
    /// Many ports are tried where a symmetric NAT meets one that filters by port.
    #[serde(default = "yes")]
    pub punching: bool,
    /// Instead of `nat`: kinds with their weights; each node's is drawn by the seed.
    #[serde(default)]
    pub mix: Vec<(Kind, f64)>,
    /// The last so many of the peers are members who lie about themselves and flood the others.
    #[serde(default)]
    pub liars: u32,
    /// What all members' liars together may make a bystander get, datagrams; 0: not looked at.
    #[serde(default)]
    pub bystander_max: u64,
    /// How long the paths of all pairs are watched from the last join on; 0: not.
    #[serde(default)]
    pub paths_s: f64,
    /// Pairs that a plain hole punch joins have a direct path so long after both have joined; 0: not looked at.
    #[serde(default)]
    pub direct_s: f64,
    /// Least part of the pairs that only many ports join which have a direct path by `paths_s`.
    #[serde(default)]
    pub birthday_share: f64,
    /// How the nodes are attached, in turn.
    #[serde(default = "all_public")]
    pub nat: Vec<Kind>,
    /// Which versions of IP the nodes have, in turn: "v4", "v6", "dual". IPv6 has no NAT: where `nat` is not "none", a
    /// stateful firewall.
    #[serde(default = "all_v4")]
    pub ip: Vec<Family>,
    /// Strangers who attack, besides the peers.
    #[serde(default)]
    pub hostile: u32,
    /// Least share of the games' packets that must arrive once everybody is connected.
    #[serde(default)]
    pub min_delivery: f64,
    /// A counter of the report that must not be 0: the scenario is about what it counts.
    pub must_count: Option<String>,
    /// The steps are done this many times over.
    #[serde(default = "one_node")]
    pub rounds: u32,
    /// From the second census on, nothing that is held may be more than this times as much as in the second.
    #[serde(default)]
    pub may_grow: Option<f64>,
    #[serde(default)]
    pub link: LinkSettings,
    #[serde(default)]
    pub game: GameSettings,
    #[serde(default)]
    pub beacon: BeaconSettings,
    #[serde(default)]
    pub dht: DhtSettings,
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
}

/// Something that is done to the nodes once everybody is connected. Afterwards all must be as it should within
/// `settle_s`, unless that is 0: then the next step follows without a look.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(rename = "do")]
    pub action: Action,
    /// After the step before.
    #[serde(default)]
    pub after_s: f64,
    #[serde(default = "a_minute")]
    pub settle_s: f64,
    /// How many nodes, for the actions that take some; drawn by the seed.
    #[serde(default = "one_node")]
    pub count: u32,
    /// How often in all, `every_s` apart; each time `settle_s` must be kept.
    #[serde(default = "one_node")]
    pub times: u32,
    #[serde(default)]
    pub every_s: f64,
    /// For `set-clock`: seconds, forward or back.
    #[serde(default)]
    pub clock_s: i64,
    /// No pair that is connected may hear nothing of each other for longer than this from the step on, over `settle_s`; 0:
    /// not looked at. The game must send more often than that.
    #[serde(default)]
    pub gap_s: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The network falls into two halves.
    Partition,
    Heal,
    /// The host of each party leaves it.
    HostLeaves,
    Leave,
    /// The host of the first party removes members.
    Kick,
    /// Programs die without a word.
    Crash,
    /// Those that died start again.
    Restart,
    /// Machines sleep: their programs stand still and the world goes on, until `wake`.
    Sleep,
    /// Those that sleep wake up.
    Wake,
    /// The wall clock of nodes is moved by `clock_s`.
    SetClock,
    /// Counts what the program holds (`[run] may_grow`).
    Census,
    /// Those that left come back.
    Rejoin,
    /// Some of leave, crash, restart, rejoin, move.
    Churn,
    /// The first node shouts as fast as `[run.beacon]` says.
    Storm,
    /// New addresses.
    Move,
    /// Phones change between Wi-Fi at home and a carrier's NAT.
    Roam,
    /// Routers restart: they have forgotten all mappings.
    ForgetMappings,
    /// A relay dies: the one that carries most.
    RelayDies,
    /// All relays that died start again.
    RelayLives,
    BootstrapDies,
    BootstrapLives,
    /// Nothing, for a while.
    Wait,
}

impl Settings {
    /// How the node is attached.
    pub fn kind(&self, node: usize, rng: &mut ChaCha12Rng) -> Kind {
        let total: f64 = self.mix.iter().map(|(_, weight)| weight).sum();
        let mut at = if self.mix.is_empty() { 0.0 } else { rng.random::<f64>() * total };
        let drawn = self.mix.iter().find(|(_, weight)| {
            at -= weight;
            at < 0.0
        });
        drawn.or_else(|| self.mix.last()).map_or(self.nat[node % self.nat.len()], |(kind, _)| *kind)
    }
}

const fn yes() -> bool {
    true
}
const fn one() -> f64 {
    1.0
}
const fn one_node() -> u32 {
    1
}
const fn half_a_minute() -> f64 {
    30.0
}
const fn a_minute() -> f64 {
    60.0
}
const fn two_minutes() -> f64 {
    120.0
}
fn all_v4() -> Vec<Family> {
    vec![Family::V4]
}
fn all_public() -> Vec<Kind> {
    vec![Kind::None]
}

//! Asks the router to forward the data port: PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP IGD, the first of them that it
//! can do. IPv4 only: that is where the NATs are.
//!
//! A task of its own does the asking. The mapping is renewed long before it ends, asked for again after a change of the
//! network, and given back at the end; if that cannot be done, the router drops it after [`LIFETIME`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::Tokio;
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::wire::usable_addr;

/// Asked of the router. Some know only mappings that never end; those get one.
pub const LIFETIME: Duration = Duration::from_secs(3600);
/// A router that was started anew has forgotten; no protocol tells reliably.
const RENEW: Duration = Duration::from_secs(300);
/// After a failure, doubled each time.
const RETRY: Duration = Duration::from_secs(30);
const MAX_RETRY: Duration = Duration::from_secs(960);
/// Of PCP and NAT-PMP: 0.25 + 0.5 + 1 s. The RFCs' patience is for those who do not mind waiting.
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };
const UPNP_SEARCH: Duration = Duration::from_secs(2);
/// For one attempt in all, whatever the router does.
const ATTEMPT: Duration = Duration::from_secs(15);
const DESCRIPTION: &str = "LANrage";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapProtocol {
    Pcp,
    NatPmp,
    Upnp,
}

/// Which protocols to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapSettings {
    pub pcp: bool,
    pub nat_pmp: bool,
    pub upnp: bool,
}

impl Default for PortMapSettings {
    fn default() -> Self {
        Self { pcp: true, nat_pmp: true, upnp: true }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapView {
    /// The first attempt has ended.
    pub tried: bool,
    /// Where the data port can be reached, as the router says. Behind a second NAT the router has a private address
    /// itself: see [`Self::behind_another_nat`].
    pub external: Option<SocketAddr>,
    pub protocol: Option<MapProtocol>,
    /// What the router answered to.
    pub found: Vec<MapProtocol>,
    /// Why there is no mapping, of the last protocol that was tried.
    pub problem: Option<String>,
}

impl PortMapView {
    /// The router's outside address is one that others on the internet cannot reach.
    #[must_use]
    pub fn behind_another_nat(&self) -> bool {
        let Some(IpAddr::V4(ip)) = self.external.map(|addr| addr.ip()) else { return false };
        // RFC 6598: between a carrier's NAT and its customers.
        let shared = u32::from(ip) >> 22 == u32::from(Ipv4Addr::new(100, 64, 0, 0)) >> 22;
        ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared
    }
}

/// What may be asked of the task.
enum Command {
    Map(NonZeroU16),
    Restart,
}

/// Holds the mapping. Dropped without [`PortMapper::release`] it gives the mapping back only if the runtime goes on.
#[derive(Debug)]
pub struct PortMapper {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<PortMapView>,
    task: JoinHandle<()>,
}

impl PortMapper {
    /// Must be called in a tokio runtime. `nonce` is what a router that speaks PCP knows this machine by: secret, and the
    /// same after a restart, as it refuses to change the mapping for another one.
    #[must_use]
    pub fn start(settings: PortMapSettings, nonce: [u32; 3]) -> Self {
        let (commands, inbox) = mpsc::channel(4);
        let (told, view) = watch::channel(PortMapView::default());
        let task = tokio::spawn(
            Task { settings, nonce, inbox, told, port: None, network: None, held: None, failures: 0 }.run(),
        );
        Self { commands, view, task }
    }

    /// Map this port of this machine from now on. With a full queue the same thing is under way already.
    pub fn map(&self, port: u16) {
        if let Some(port) = NonZeroU16::new(port) {
            let _ = self.commands.try_send(Command::Map(port));
        }
    }

    /// The network changed: the mapping was another router's.
    pub fn restart(&self) {
        let _ = self.commands.try_send(Command::Restart);
    }

    #[must_use]
    pub fn watch(&self) -> watch::Receiver<PortMapView> {
        self.view.clone()
    }

    /// Gives the mapping back; waits for the router no longer than `limit`.
    pub async fn release(self, limit: Duration) {
        let Self { commands, mut task, .. } = self;
        drop(commands);
        if timeout(limit, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// A mapping that the router made.
enum Held {
    Crab(PortMapping),
    Upnp { gateway: Gateway<Tokio>, local: SocketAddrV4, external_port: u16, lease: u32 },
}

struct Task {
    settings: PortMapSettings,
    nonce: [u32; 3],
    inbox: mpsc::Receiver<Command>,
    told: watch::Sender<PortMapView>,
    port: Option<NonZeroU16>,
    /// The router and the own address that `held` belongs to.
    network: Option<(Ipv4Addr, Ipv4Addr)>,
    held: Option<Held>,
    failures: u32,
}

impl Task {
    async fn run(mut self) {
        let mut next: Option<Instant> = None;
        loop {
            let command = tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => Some(command),
                    None => break,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => None,
            };
            match command {
                Some(Command::Map(port)) if self.port == Some(port) => continue,
                Some(Command::Map(port)) => {
                    self.release().await;
                    self.port = Some(port);
                }
                Some(Command::Restart) => self.look_at_network().await,
                None => {}
            }
            if let Some(port) = self.port {
                next = Some(Instant::now() + self.renew_or_map(port).await);
            }
        }
        self.release().await;
    }

    /// A mapping of another network is nothing to be given back: its router is not there any more.
    async fn look_at_network(&mut self) {
        self.failures = 0;
        if network().await != self.network {
            self.held = None;
            self.told.send_if_modified(|view| view.external.take().is_some());
        }
    }

    /// Says when to come back.
    async fn renew_or_map(&mut self, port: NonZeroU16) -> Duration {
        // Not within the condition: the guard would live as long as the block, which writes.
        let before = self.told.borrow().external;
        if let Some(held) = &mut self.held
            && timeout(ATTEMPT, held.renew()).await.unwrap_or(false)
            && let Some(external) = held.external(before)
        {
            self.told.send_if_modified(|view| view.external.replace(external) != Some(external));
            return RENEW;
        }
        self.held = None;
        self.network = network().await;
        let (view, held) = match timeout(ATTEMPT, attempt(self.settings, self.nonce, self.network, port)).await {
            Ok(done) => done,
            Err(_) => {
                let problem = Some("the router takes too long".to_owned());
                (PortMapView { tried: true, problem, ..PortMapView::default() }, None)
            }
        };
        tracing::debug!(?view, "port mapping");
        let mapped = held.is_some();
        self.held = held;
        self.told.send_if_modified(|told| std::mem::replace(told, view.clone()) != view);
        if mapped {
            self.failures = 0;
            return RENEW;
        }
        self.failures += 1;
        RETRY.saturating_mul(1 << (self.failures - 1).min(10)).min(MAX_RETRY)
    }

    async fn release(&mut self) {
        if let Some(held) = self.held.take() {
            held.release().await;
        }
        self.told.send_if_modified(|view| view.external.take().is_some());
    }
}

impl Held {
    async fn renew(&mut self) -> bool {
        match self {
            Self::Crab(mapping) => mapping.renew().await.is_ok(),
            Self::Upnp { gateway, local, external_port, lease } => gateway
                .add_port(PortMappingProtocol::UDP, *external_port, (*local).into(), *lease, DESCRIPTION)
                .await
                .is_ok(),
        }
    }

    /// What is mapped now; `before` for what the protocol does not say again.
    fn external(&self, before: Option<SocketAddr>) -> Option<SocketAddr> {
        match self {
            Self::Crab(mapping) => {
                let ip = match mapping.mapping_type() {
                    PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
                    PortMappingType::NatPmp => before?.ip(),
                };
                Some(SocketAddr::new(ip, mapping.external_port().get()))
            }
            Self::Upnp { .. } => before,
        }
    }

    async fn release(self) {
        let released = match self {
            Self::Crab(mapping) => mapping.try_drop().await.map_err(|(error, _)| error.to_string()),
            Self::Upnp { gateway, external_port, .. } => {
                let removed = gateway.remove_port(PortMappingProtocol::UDP, external_port).await;
                removed.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = released {
            tracing::debug!(error, "the router did not take the port mapping back");
        }
    }
}

/// All protocols are looked for at once, and then the best of those that answered is used: a router that knows several
/// would else make several mappings.
async fn attempt(
    settings: PortMapSettings,
    nonce: [u32; 3],
    network: Option<(Ipv4Addr, Ipv4Addr)>,
    port: NonZeroU16,
) -> (PortMapView, Option<Held>) {
    let local = network.map(|(_, local)| local);
    let mut view = PortMapView { tried: true, ..PortMapView::default() };
    let pcp_or_pmp = async {
        let Some((router, local)) = network else { return Err("no default route".to_owned()) };
        by_pcp_or_pmp(settings, nonce, router, local, port).await
    };
    let upnp_search = async {
        if !settings.upnp {
            return None;
        }
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::from((local.unwrap_or(Ipv4Addr::UNSPECIFIED), 0));
        options.timeout = Some(UPNP_SEARCH);
        options.single_search_timeout = Some(UPNP_SEARCH);
        igd_next::aio::tokio::search_gateway(options).await.ok()
    };
    let (mapped, gateway) = tokio::join!(pcp_or_pmp, upnp_search);
    let mut held = None;
    match mapped {
        Ok(found) => {
            view.found.push(found.protocol);
            (view.external, view.protocol, held) = (Some(found.external), Some(found.protocol), Some(found.held));
        }
        Err(problem) => view.problem = Some(problem),
    }
    if let Some(gateway) = gateway {
        view.found.push(MapProtocol::Upnp);
        if held.is_none() {
            match by_upnp(gateway, local, port).await {
                Ok(found) => {
                    view.problem = None;
                    (view.external, view.protocol) = (Some(found.external), Some(found.protocol));
                    held = Some(found.held);
                }
                Err(problem) => view.problem = Some(problem),
            }
        }
    }
    (view, held)
}

struct Found {
    external: SocketAddr,
    protocol: MapProtocol,
    held: Held,
}

fn options(port: NonZeroU16) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
        timeout_config: Some(PATIENCE),
    }
}

async fn by_pcp_or_pmp(
    settings: PortMapSettings,
    nonce: [u32; 3],
    router: Ipv4Addr,
    local: Ipv4Addr,
    port: NonZeroU16,
) -> Result<Found, String> {
    let gateway = GatewayAddress::from(router);
    let by_pcp = async {
        if !settings.pcp {
            return Err("PCP is switched off".to_owned());
        }
        let base = pcp::BaseMapRequest::new(gateway, local.into(), InternetProtocol::Udp, port);
        pcp::port_mapping(base, Some(nonce), None, options(port)).await.map_err(|error| format!("PCP: {error}"))
    };
    // Only a question, so that a router with both makes one mapping.
    let pmp_address = async {
        if !settings.nat_pmp {
            return Err("NAT-PMP is switched off".to_owned());
        }
        natpmp::external_address(gateway, Some(PATIENCE)).await.map_err(|error| format!("NAT-PMP: {error}"))
    };
    let (mapping, address) = tokio::join!(by_pcp, pmp_address);
    let found = |mapping: PortMapping, ip: IpAddr, protocol| {
        let external = SocketAddr::new(ip.to_canonical(), mapping.external_port().get());
        if !usable_addr(&external) {
            return Err(format!("the router says that its address is {ip}: it has no connection"));
        }
        Ok(Found { external, protocol, held: Held::Crab(mapping) })
    };
    if let Ok(mapping) = mapping
        && let PortMappingType::Pcp { external_ip, .. } = mapping.mapping_type()
    {
        return found(mapping, external_ip, MapProtocol::Pcp);
    }
    let address = address?;
    let mapping = natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options(port)).await;
    found(mapping.map_err(|error| format!("NAT-PMP: {error}"))?, IpAddr::from(address), MapProtocol::NatPmp)
}

async fn by_upnp(gateway: Gateway<Tokio>, local: Option<Ipv4Addr>, port: NonZeroU16) -> Result<Found, String> {
    let fail = |what: &dyn std::fmt::Display| format!("UPnP: {what}");
    let IpAddr::V4(router) = gateway.addr.ip() else { return Err(fail(&"the router answers over IPv6 only")) };
    let local = match local {
        Some(local) => local,
        None => own_address_towards(router).await.ok_or_else(|| fail(&"no way to the router"))?,
    };
    let local = SocketAddrV4::new(local, port.get());
    let ip = gateway.get_external_ip().await.map_err(|error| fail(&error))?;
    let mut lease = u32::try_from(LIFETIME.as_secs()).unwrap_or(0);
    let add = |lease| gateway.add_port(PortMappingProtocol::UDP, port.get(), local.into(), lease, DESCRIPTION);
    let mut added = add(lease).await;
    if matches!(added, Err(AddPortError::OnlyPermanentLeasesSupported)) {
        lease = 0;
        added = add(lease).await;
    }
    let external_port = match added {
        Ok(()) => port.get(),
        Err(AddPortError::PortInUse) => {
            let any = gateway.add_any_port(PortMappingProtocol::UDP, local.into(), lease, DESCRIPTION).await;
            any.map_err(|error| fail(&error))?
        }
        Err(error) => return Err(fail(&error)),
    };
    let external = SocketAddr::new(ip, external_port);
    if !usable_addr(&external) {
        return Err(fail(&format!("the router says that its address is {ip}: it has no connection")));
    }
    Ok(Found { external, protocol: MapProtocol::Upnp, held: Held::Upnp { gateway, local, external_port, lease } })
}

/// The address that packets to `router` leave from. Nothing is sent.
async fn own_address_towards(router: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
    socket.connect((router, crab_nat::GATEWAY_PORT)).await.ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// The router, and the own address towards it.
async fn network() -> Option<(Ipv4Addr, Ipv4Addr)> {
    let router = default_gateway()?;
    Some((router, own_address_towards(router).await?))
}

/// The next hop of the default route; none where the system is not asked yet. UPnP finds the router without it.
fn default_gateway() -> Option<Ipv4Addr> {
    // Of the thread, not of the process: it may have a network namespace of its own.
    gateway_of(&std::fs::read_to_string("/proc/thread-self/net/route").ok()?)
}

/// Reads Linux' `/proc/net/route`: of the routes to 0.0.0.0/0 through a gateway, the one with the least metric.
fn gateway_of(routes: &str) -> Option<Ipv4Addr> {
    /// `RTF_UP | RTF_GATEWAY`.
    const WANTED: u32 = 0x3;
    let routes = routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let mut hex = || u32::from_str_radix(fields.next()?, 16).ok();
        let (destination, gateway, flags) = (hex()?, hex()?, hex()?);
        let metric: u32 = fields.nth(2)?.parse().ok()?;
        let mask = u32::from_str_radix(fields.next()?, 16).ok()?;
        // Addresses stand there in network order, printed as numbers of this machine.
        let gateway = Ipv4Addr::from(gateway.to_ne_bytes());
        (destination == 0 && mask == 0 && flags & WANTED == WANTED).then_some((metric, gateway))
    });
    routes.min().map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_best_default_route_counts() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
            wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(gateway_of(routes), Some(Ipv4Addr::new(192, 168, 0, 1)));
        for nonsense in ["", "Iface\n", "Iface\nx", "Iface\neth0\t00000000\tzz\t0003\t0\t0\t0\t00000000\n"] {
            assert_eq!(gateway_of(nonsense), None);
        }
    }

    #[test]
    fn private_addresses_outside_are_a_second_nat() {
        for (ip, another) in [
            ("192.168.0.7", true),
            ("10.1.2.3", true),
            ("100.64.0.1", true),
            ("100.127.255.1", true),
            ("100.128.0.1", false),
            ("203.0.113.5", false),
        ] {
            let external = Some(SocketAddr::new(ip.parse().unwrap(), 5));
            assert_eq!(PortMapView { external, ..PortMapView::default() }.behind_another_nat(), another, "{ip}");
        }
    }
}

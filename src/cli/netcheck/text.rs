//! The report in plain words.

use std::net::SocketAddr;

use lanrage_actors::nat::messages::{FamilyReport, MapProtocol, MappingLifetime, NatReport, PortMapView};
use lanrage_actors::wire::Dependence;

use crate::cli::print;

pub(super) fn shown(report: &NatReport, by: &str, advice: &[String]) -> String {
    let by = if by == "node" { "The running LANrage" } else { "This command" };
    let mut parts = vec![format!("{by} found, on UDP port {}:", report.listen_port)];
    parts.push(family("IPv4", &report.v4));
    parts.push(family("IPv6", &report.v6));
    parts.push(format!(
        "Port mapping\n  {}",
        report.port_mapping.as_ref().map_or_else(|| "off".to_owned(), port_mapping)
    ));
    if let Some(lifetime) = &report.lifetime {
        parts.push(format!("An unused mapping\n  {}", mapping_lifetime(lifetime)));
    }
    parts.push(advice.iter().map(|line| format!("* {line}")).collect::<Vec<_>>().join("\n"));
    parts.join("\n\n")
}

fn family(name: &str, report: &FamilyReport) -> String {
    if report.servers.iter().all(|server| server.mapped.is_none()) && report.mapped.is_none() {
        let why = match (report.servers.len(), report.nat.udp_blocked) {
            (0, _) => "no server to ask",
            (_, true) => "no answer: UDP is blocked",
            (_, false) => "no answer, and no network",
        };
        return format!("{name}\n  {why}");
    }
    let nat = &report.nat;
    let yes_no = |it: Option<bool>| it.map_or("not known", |it| if it { "yes" } else { "no" }).to_owned();
    let mapped = report.mapped.map_or_else(|| "not known".to_owned(), |addr| addr.to_string());
    let mut rows = vec![vec!["seen as".to_owned(), mapped]];
    if report.public == Some(true) {
        rows.push(vec!["NAT".into(), "none".into()]);
    } else {
        let step = nat.port_step.map(|step| format!(", counting by {step}")).unwrap_or_default();
        rows.push(vec!["mapping".into(), format!("{}{step}", dependence(nat.mapping))]);
        rows.push(vec!["keeps the port".into(), yes_no(nat.port_preserving)]);
        rows.push(vec!["hairpinning".into(), yes_no(nat.hairpin)]);
    }
    rows.push(vec!["filtering".into(), dependence(nat.filtering).to_owned()]);
    for server in &report.servers {
        let rtt = server.rtt_us.map(|us| format!(" in {:.1} ms", f64::from(us) / 1000.0)).unwrap_or_default();
        let said = server.mapped.map_or_else(|| "no answer".to_owned(), |mapped| format!("saw {mapped}{rtt}"));
        rows.push(vec![server.server.to_string(), said]);
    }
    let table = print::table(&rows);
    format!("{name}\n{}", table.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))
}

fn dependence(it: Dependence) -> &'static str {
    match it {
        Dependence::Unknown => "not known",
        Dependence::EndpointIndependent => "endpoint-independent",
        Dependence::AddressDependent => "address-dependent",
        Dependence::AddressAndPortDependent => "address- and port-dependent",
    }
}

fn protocol(it: MapProtocol) -> &'static str {
    match it {
        MapProtocol::Pcp => "PCP",
        MapProtocol::NatPmp => "NAT-PMP",
        MapProtocol::Upnp => "UPnP",
    }
}

fn port_mapping(view: &PortMapView) -> String {
    match (view.external, view.protocol) {
        (Some(external), Some(by)) => format!("{external}, by {}", protocol(by)),
        _ => view.problem.clone().unwrap_or_else(|| "none".to_owned()),
    }
}

fn mapping_lifetime(it: &MappingLifetime) -> String {
    match (it.alive_s, it.gone_s) {
        (Some(alive), Some(gone)) => format!("ends between {alive} and {gone} s"),
        (None, Some(gone)) => format!("ends within {gone} s"),
        (Some(alive), None) => format!("lives for more than {alive} s"),
        (None, None) => "could not be measured: the relay did not answer".to_owned(),
    }
}

/// What it means for playing together, and what to do.
pub(super) fn advice(report: &NatReport) -> Vec<String> {
    let port = report.listen_port;
    let mut advice = vec![of_ipv4(&report.v4, port)];
    if report.v6.mapped.is_some() {
        advice.push("IPv6 works: friends who have it too need no NAT in between.".to_owned());
    }
    let natted = report.v4.public == Some(false);
    match &report.port_mapping {
        Some(view) if view.external.is_some() => advice.extend(mapped(view, &report.v4)),
        Some(view) if natted && view.found.is_empty() => advice.push(format!(
            "Your router forwards no ports by itself. Turn on UPnP (or NAT-PMP, PCP) in its settings, or forward UDP port \
             {port} to this computer: then everybody reaches you directly."
        )),
        Some(view) if natted => advice.push(format!(
            "Your router knows {}, but refused: {}",
            view.found.iter().map(|it| protocol(*it)).collect::<Vec<_>>().join(" and "),
            view.problem.as_deref().unwrap_or("no reason given")
        )),
        Some(_) | None => {}
    }
    if report.lifetime.is_some_and(|it| it.gone_s.is_some_and(|gone| gone <= 20)) {
        advice.push(
            "Your router forgets idle connections sooner than LANrage renews them: connections may drop in \
            pauses. Look for a `UDP timeout` in its settings, and set it to 60 seconds or more."
                .to_owned(),
        );
    }
    advice
}

fn of_ipv4(report: &FamilyReport, port: u16) -> String {
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent, Unknown};
    let nat = &report.nat;
    if report.mapped.is_none() {
        return if nat.udp_blocked {
            "No answer came over UDP: this network seems to block it. LANrage then goes over TCP through a relay, which \
             is slower. If you can, use another network, or have UDP allowed."
                .to_owned()
        } else {
            "No server answered over IPv4. Is this computer online?".to_owned()
        };
    }
    match (report.public, nat.mapping, nat.filtering) {
        (Some(true), _, EndpointIndependent) => {
            "No NAT and no firewall: everybody reaches you directly, and you can relay for friends.".to_owned()
        }
        (Some(true), ..) => format!(
            "No NAT. A firewall may hold back what you did not ask for: friends still reach you directly. Open UDP port \
             {port} in it, and you can relay for them too."
        ),
        (_, AddressDependent | AddressAndPortDependent, _) => match nat.port_step {
            Some(step) => format!(
                "Symmetric NAT: your router gives each friend another port, but counts by {step}: LANrage predicts the \
                 next one. Friends with ordinary routers are mostly reached directly, others through a relay."
            ),
            None => {
                "Symmetric NAT: your router gives each friend another port, at random. Friends with open routers are \
                reached directly; those whose filter depends on address and port need many tries (LANrage makes them), \
                and friends who have a symmetric NAT too need a relay."
                    .to_owned()
            }
        },
        (_, EndpointIndependent, EndpointIndependent) => {
            "Open NAT: everybody who knows your address reaches you directly.".to_owned()
        }
        (_, EndpointIndependent, _) => "Ordinary NAT: friends are reached directly; only those behind a symmetric NAT \
            need many tries or a relay."
            .to_owned(),
        (_, Unknown, _) => "Too few servers answered to tell what your NAT does. Name more with --server.".to_owned(),
    }
}

fn mapped(view: &PortMapView, report: &FamilyReport) -> Option<String> {
    let external = view.external?;
    let seen = report.mapped.map(|addr| addr.ip());
    if view.behind_another_nat() || seen.is_some_and(|ip| ip != external.ip()) {
        return Some(second_nat(external, seen.map(|ip| ip.to_string())));
    }
    Some(format!("Your router forwards {external} to this computer: everybody reaches you directly there."))
}

fn second_nat(external: SocketAddr, seen: Option<String>) -> String {
    let seen = seen.map(|ip| format!(", the internet sees {ip}")).unwrap_or_default();
    format!(
        "Your router forwards a port, but is itself behind another NAT (its address is {}{seen}). If the other router is \
         yours, set one of them to bridge mode; if it is your provider's, ask for a public IPv4 address, or use IPv6.",
        external.ip()
    )
}

#[cfg(test)]
mod tests {
    use lanrage_actors::nat::messages::ServerReport;
    use lanrage_actors::wire::NatBehaviour;

    use super::*;

    fn report(mapping: Dependence, filtering: Dependence) -> NatReport {
        let mapped = Some("203.0.113.5:40000".parse().unwrap());
        let v4 = FamilyReport {
            nat: NatBehaviour { mapping, filtering, hairpin: Some(false), ..NatBehaviour::default() },
            mapped,
            public: Some(false),
            complete: true,
            servers: vec![ServerReport { server: "192.0.2.1:3478".parse().unwrap(), mapped, rtt_us: Some(12_345) }],
        };
        NatReport { listen_port: 5000, v4, ..NatReport::default() }
    }

    fn told(report: &NatReport) -> String {
        advice(report).join("\n")
    }

    #[test]
    fn advice_fits_the_nat() {
        use Dependence::{AddressAndPortDependent as Symmetric, EndpointIndependent as Open, Unknown};
        let mut symmetric = report(Symmetric, Symmetric);
        assert!(told(&symmetric).contains("Symmetric NAT") && told(&symmetric).contains("random"));
        symmetric.v4.nat.port_step = Some(2);
        assert!(told(&symmetric).contains("counts by 2"));
        assert!(told(&report(Open, Symmetric)).contains("Ordinary NAT"));
        assert!(told(&report(Open, Open)).contains("Open NAT"));
        assert!(told(&report(Unknown, Unknown)).contains("--server"));
        let mut public = report(Open, Symmetric);
        public.v4.public = Some(true);
        assert!(told(&public).contains("Open UDP port 5000"));
        let mut blocked = NatReport::default();
        blocked.v4.nat.udp_blocked = true;
        assert!(told(&blocked).contains("TCP"));
        assert!(told(&NatReport::default()).contains("online"));
    }

    #[test]
    fn advice_fits_the_router() {
        let with = |view: PortMapView| {
            let open = report(Dependence::EndpointIndependent, Dependence::AddressDependent);
            told(&NatReport { port_mapping: Some(view), ..open })
        };
        let found = vec![MapProtocol::Upnp];
        assert!(with(PortMapView::default()).contains("forward UDP port 5000"));
        let problem = Some("not allowed".to_owned());
        assert!(with(PortMapView { found: found.clone(), problem, ..PortMapView::default() }).contains("not allowed"));
        let mapped = |ip: &str| PortMapView {
            tried: true,
            external: Some(format!("{ip}:5000").parse().unwrap()),
            protocol: Some(MapProtocol::Upnp),
            found: found.clone(),
            problem: None,
        };
        assert!(with(mapped("203.0.113.5")).contains("directly there"));
        assert!(with(mapped("100.64.3.4")).contains("another NAT"));
        assert!(with(mapped("203.0.113.77")).contains("the internet sees 203.0.113.5"));
    }

    #[test]
    fn everything_is_shown() {
        let mut all = report(Dependence::EndpointIndependent, Dependence::AddressDependent);
        all.lifetime = Some(MappingLifetime { alive_s: Some(60), gone_s: Some(90) });
        let text = shown(&all, "node", &advice(&all));
        for word in [
            "203.0.113.5:40000",
            "endpoint-independent",
            "address-dependent",
            "12.3 ms",
            "192.0.2.1:3478",
            "no server to ask",
            "between 60 and 90 s",
            "port 5000",
        ] {
            assert!(text.contains(word), "no `{word}` in:\n{text}");
        }
    }
}

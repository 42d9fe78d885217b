//! Which servers of games run here: what the server browser tells the friends without being asked to.
//!
//! A game is a server where its program is one, or has a TCP port of the game open: clients listen on none. The UDP ports
//! of a program that is both say less, since some clients bind the same: all of Quake III's family do. They are told where
//! friends can ask the server, of other families.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::profile::{PortRole, Profile, QueryProtocol, Role};
use crate::browser::messages::{Hosted, Language};
use crate::wire::IpProtocol;

/// A program of a game.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub profile: &'a Profile,
    pub role: Role,
    pub listening: &'a [(IpProtocol, SocketAddr)],
}

/// The server that this program is, if friends can reach it at `own`, this machine's virtual IP.
#[must_use]
pub fn server(of: &Candidate<'_>, own: Option<Ipv4Addr>) -> Option<Hosted> {
    let Candidate { profile, role, listening } = *of;
    let spoken = profile.query.and_then(|query| language(query.protocol));
    let tells = |protocol: IpProtocol| match role {
        Role::Client => false,
        Role::Server => true,
        Role::Both => protocol == IpProtocol::Tcp || spoken.is_some_and(|it| it != Language::Quake3),
    };
    let open: Vec<(IpProtocol, u16)> =
        listening.iter().filter(|(_, addr)| reachable(*addr, own)).map(|(it, addr)| (*it, addr.port())).collect();
    let game = || profile.ports.iter().filter(|it| it.role == PortRole::Game);
    let known = game().filter(|it| tells(it.protocol)).find_map(|it| {
        open.iter().find(|(protocol, port)| *protocol == it.protocol && it.port.contains(*port)).map(|(_, port)| *port)
    });
    // On a port of the player's choice, if it can be no other.
    let chosen = || {
        let sure = |protocol| role == Role::Server || (role == Role::Both && protocol == IpProtocol::Tcp);
        let fits = |protocol| spoken.is_some() && sure(protocol) && game().any(|it| it.protocol == protocol);
        let all: BTreeSet<u16> = open.iter().filter(|(protocol, _)| fits(*protocol)).map(|(_, port)| *port).collect();
        all.first().copied().filter(|_| all.len() == 1)
    };
    let port = known.or_else(chosen)?;
    let asked_at = profile.query.and_then(|query| {
        let mut at = open.iter().map(|(_, port)| *port).filter(|at| query.port.contains(*at));
        // Where one port serves both, that is the one.
        if query.port.contains(port) { None } else { at.next() }
    });
    let server = Hosted { game: profile.id.clone(), port, query_port: asked_at };
    server.is_sound().then_some(server)
}

/// Packets to the virtual IP get there.
fn reachable(addr: SocketAddr, own: Option<Ipv4Addr>) -> bool {
    match addr.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || Some(ip) == own,
        IpAddr::V6(ip) => ip.is_unspecified(),
    }
}

/// The query protocols that the browser speaks; servers of the others are an address to join.
#[must_use]
pub fn language(protocol: QueryProtocol) -> Option<Language> {
    Some(match protocol {
        QueryProtocol::Source => Language::Source,
        QueryProtocol::Quake3 => Language::Quake3,
        QueryProtocol::Minecraft => Language::Minecraft,
        QueryProtocol::Teeworlds => Language::Teeworlds,
        QueryProtocol::Openttd => Language::Openttd,
        QueryProtocol::ChocolateDoom => Language::ChocolateDoom,
        QueryProtocol::Quake2
        | QueryProtocol::Quake1
        | QueryProtocol::MinecraftBedrock
        | QueryProtocol::Openrct2
        | QueryProtocol::Freeciv
        | QueryProtocol::Zandronum
        | QueryProtocol::Hedgewars
        | QueryProtocol::Widelands
        | QueryProtocol::Unreal
        | QueryProtocol::Unreal2
        | QueryProtocol::Doom3
        | QueryProtocol::Cube
        | QueryProtocol::Mumble
        | QueryProtocol::Mindustry => return None,
    })
}

#[cfg(test)]
#[path = "hosted_tests.rs"]
mod tests;

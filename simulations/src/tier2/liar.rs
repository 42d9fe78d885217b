//! A member who has the code and means harm: what he says of himself points at a bystander, and he floods the others.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lanrage_actors::wire::{
    Candidate, CandidateKind, Contact, Dependence, MAX_CANDIDATES, MAX_TICKETS, NatBehaviour, RelayToken, Ticket,
};
use rand::Rng as _;
use rand_chacha::ChaCha12Rng;

use super::net::DATA_PORT;
use super::{clock, world};

/// He sends so often …
const EVERY: Duration = Duration::from_millis(20);
/// … so many datagrams to each member: 500 a second.
const AT_ONCE: usize = 10;
/// Frames of rubbish on each of his party streams, each time.
const FRAMES: usize = 2;

fn victim() -> Option<IpAddr> {
    world::with(|world| {
        let &victim = world.infra.bystanders.keys().next()?;
        world.net.sites[victim].homes.iter().map(|home| home.ip).find(IpAddr::is_ipv4)
    })
}

/// As many addresses of the bystander as a record may hold; that he is a relay and a STUN server; that there are tickets of
/// him; and that he is behind a NAT that only many ports get through.
pub fn forge(contact: &mut Contact) {
    let Some(victim) = victim() else { return };
    let at = |port: u16| SocketAddr::new(victim, port);
    let kinds = [CandidateKind::ServerReflexive, CandidateKind::Mapped, CandidateKind::Predicted];
    let count = u16::try_from(MAX_CANDIDATES).unwrap_or(0);
    contact.candidates =
        (0..count).map(|n| Candidate { kind: kinds[usize::from(n) % kinds.len()], addr: at(2000 + n) }).collect();
    contact.nat = NatBehaviour {
        mapping: Dependence::AddressAndPortDependent,
        filtering: Dependence::AddressAndPortDependent,
        port_step: Some(1),
        ..NatBehaviour::default()
    };
    let expires = u32::try_from(clock::UNIX_START + 86_400).unwrap_or(u32::MAX);
    let ticket = |n| Ticket { relay: at(3000 + n), token: RelayToken::new([7; RelayToken::LEN]), expires, rtt: 1 };
    contact.tickets = (0..u16::try_from(MAX_TICKETS).unwrap_or(0)).map(ticket).collect();
    contact.serves = Some(at(DATA_PORT));
}

/// Something that looks like what the members say to each other.
fn rubbish(rng: &mut ChaCha12Rng) -> Vec<u8> {
    let len = match rng.random_range(0..5) {
        // WireGuard: a handshake, its answer, a packet.
        0 => 148,
        1 => 92,
        _ => rng.random_range(20..300),
    };
    let mut bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
    bytes[..4].copy_from_slice(&match len {
        148 => [1, 0, 0, 0],
        92 => [2, 0, 0, 0],
        _ if rng.random_bool(0.5) => [4, 0, 0, 0],
        _ => rng.random(),
    });
    bytes
}

/// Until the member's program has ended.
pub async fn flood(liar: usize, mut rng: ChaCha12Rng) {
    loop {
        tokio::time::sleep(EVERY).await;
        let on = world::with(|world| {
            if !world.net.sites[liar].up {
                return false;
            }
            let Some(own) = world.net.sites[liar].homes.first().map(|home| SocketAddr::new(home.ip, DATA_PORT)) else {
                return false;
            };
            for target in (0..world.honest).filter(|target| !world.liars.contains(target)).collect::<Vec<_>>() {
                // Where the target's own probes have told him that it is.
                let Some(to) = world.net.observed(clock::elapsed(), target, own) else { continue };
                for _ in 0..AT_ONCE {
                    world.send(liar, DATA_PORT, to, rubbish(&mut rng));
                    world.flooded += 1;
                }
            }
            for link in world.streams.ends_between(|node, _| node == liar) {
                for _ in 0..FRAMES {
                    world.send_frame(link, rubbish(&mut rng));
                }
            }
            true
        });
        if !on {
            return;
        }
    }
}

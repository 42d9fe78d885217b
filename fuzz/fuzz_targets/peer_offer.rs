//! A member that holds the keys and says whatever it likes: contacts and probes, rightly sealed.

#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use boringtun::x25519::StaticSecret;
use lanrage_actors::peer::machine::{Outputs, OwnIdentity, PeerMachine};
use lanrage_actors::peer::messages::{PeerSpec, Secret};
use lanrage_actors::peer::probe::{Probe, ProbeKeys};
use lanrage_actors::wire::{Contact, DatagramBatch, Endpoint, LocalNetworks, NodeId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<(u8, u64, u16)>, Vec<u8>)| {
    let (probes, bytes) = input;
    let from: SocketAddr = ([198, 51, 100, 1], 1).into();
    let own = OwnIdentity::new(NodeId([1; 32]), [1; 32]);
    let other = OwnIdentity::new(NodeId([2; 32]), [2; 32]);
    let psk = || Secret([3; 32]);
    let keys = ProbeKeys::new(&StaticSecret::from([2; 32]), own.wg_key(), &psk());
    let spec = PeerSpec {
        node: other.node,
        name: "fuzz".into(),
        wg_key: other.wg_key(),
        virtual_ip: Ipv4Addr::new(10, 66, 0, 2),
        psk: psk(),
        contact: Contact::of_hosts([from]),
    };
    let mut now = Instant::now();
    let own_ip = Ipv4Addr::new(10, 66, 0, 1);
    let mut machine = PeerMachine::new(now, &own, own_ip, spec, LocalNetworks::default(), 7, 1, [4; 32]);
    let mut out = Outputs::default();
    let mut nonce = [0; 24];
    let mut hear = |machine: &mut PeerMachine, now: Instant, datagram: &[u8]| {
        let batch = DatagramBatch::copied(datagram, Endpoint::direct(from), datagram.len());
        machine.handle_inbound(now, &batch, &mut out);
        machine.handle_timeout(now, &mut out);
        out = Outputs::default();
    };
    let config = bincode::config::standard().with_limit::<1100>();
    let mut rest = &bytes[..];
    for seq in 1..16 {
        let Ok((contact, len)) = bincode::serde::decode_from_slice::<Contact, _>(rest, config) else { break };
        rest = &rest[len..];
        nonce[0] += 1;
        if let Some(offer) = keys.seal_offer(seq, &contact, nonce) {
            hear(&mut machine, now, &offer);
        }
    }
    for (kind, id, port) in probes.into_iter().take(32) {
        now += Duration::from_millis(u64::from(port));
        nonce[0] += 1;
        let observed = SocketAddr::new(from.ip(), port);
        let probe = match kind % 3 {
            0 => Probe::Ping { id },
            1 => Probe::Pong { id, observed },
            _ => Probe::OfferHeard { seq: id },
        };
        hear(&mut machine, now, &keys.seal(probe, nonce));
    }
});

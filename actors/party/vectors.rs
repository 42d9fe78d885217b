//! The test vectors of docs/protocol.md, checked against the code and against the document.

use std::net::Ipv4Addr;

use super::code::PartyCode;
use super::frame::Frame;
use super::keys::PartySecret;
use super::proof::{Role, Transcript};
use super::record::tests::{key, node, record};
use super::record::{PartyInfo, virtual_ip};
use super::signed::Verified;
use crate::wire::{Ipv4Range, NodeId, PartyId};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The value of the row that begins with | `name` |.
fn vector(name: &str) -> &'static str {
    let row = DOCUMENT.lines().find_map(|line| line.strip_prefix(&format!("| `{name}` | `")));
    row.and_then(|rest| rest.split('`').next()).unwrap_or_else(|| panic!("docs/protocol.md has no vector `{name}`"))
}

fn assert_vector(name: &str, value: &str) {
    assert_eq!(vector(name), value, "vector `{name}`");
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[test]
fn codes_and_keys_are_as_documented() {
    let code = PartyCode::try_from(0x12_3456_789a_bcde).unwrap();
    assert_vector("code", &code.to_string());
    let secret = PartySecret::derive(&code).unwrap();
    assert_vector("secret", &hex(secret.as_bytes()));
    assert_vector("rendezvous-20000", &hex(&secret.rendezvous_key(20_000)));
    assert_vector("membership", &hex(&secret.membership_key()));
    assert_vector("pair-psk", &hex(&secret.pair_psk(NodeId([1; 32]), NodeId([2; 32]))));
    let stream = Transcript {
        opener: NodeId([1; 32]),
        acceptor: NodeId([2; 32]),
        opener_nonce: [3; 32],
        acceptor_nonce: [4; 32],
    };
    assert_vector("proof-opener", &hex(stream.mac(Role::Opener, &secret.membership_key()).as_bytes()));
    assert_vector("proof-acceptor", &hex(stream.mac(Role::Acceptor, &secret.membership_key()).as_bytes()));
}

#[test]
fn frames_and_records_are_as_documented() {
    assert_vector("frame-hello", &hex(&Frame::Hello { nonce: [1; 32] }.encode().unwrap()));
    assert_vector("frame-proof", &hex(&Frame::Proof { macs: vec![[2; 32]] }.encode().unwrap()));
    assert_vector("frame-refusal", &hex(&Frame::Refusal.encode().unwrap()));
    assert_vector("frame-digest", &hex(&Frame::Digest([3; 32]).encode().unwrap()));
    let party = PartyId([1; 16]);
    let record = Verified::sign(record(party, 1, "Ann"), &key(1)).unwrap();
    assert_vector("record-body", &hex(record.signed().body()));
    assert_vector("record-signature", &hex(&record.signed().signature()));
    assert_vector("frame-join", &hex(&Frame::Join { record: record.signed().clone() }.encode().unwrap()));
    let info = PartyInfo {
        salt: [5; 16],
        name: "Friday".into(),
        range: Ipv4Range::DEFAULT,
        creator: node(1),
        created_at: 1000,
    };
    let info = Verified::sign(info, &key(1)).unwrap();
    assert_vector("party-info-body", &hex(info.signed().body()));
    assert_vector("party-id", &PartyInfo::id(&info).to_string());
    let ip: Ipv4Addr = virtual_ip(party, node(1), 0, Ipv4Range::DEFAULT);
    assert_vector("virtual-ip", &ip.to_string());
}

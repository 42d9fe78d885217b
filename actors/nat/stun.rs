//! STUN messages (RFC 8489) with the attributes of NAT behaviour discovery (RFC 5780), as far as LANrage asks and
//! answers them: Binding without credentials.
//!
//! Bytes are read and written by `stun-types`. Its `Message::from_bytes` is not used, because it logs warnings about
//! whatever strangers send; header and attributes are read one by one instead.

use std::net::SocketAddr;

use stun_types::attribute::{
    Attribute, AttributeExt, AttributeFromRaw, AttributeStaticType, AttributeType, AttributeWrite, ErrorCode,
    MappedSocketAddr, RawAttribute, Software, UnknownAttributes, XorMappedAddress,
};
use stun_types::message::{
    BINDING, MAGIC_COOKIE, MessageClass, MessageHeader, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec,
};

/// 96 random bits that tie an answer to its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub u128);

/// Bytes of a header.
pub const HEADER_LEN: usize = MessageHeader::LENGTH;
/// Longer datagrams are not looked at: a Binding message without credentials is far shorter.
pub const MAX_LEN: usize = 1280;
/// Bytes of the longest success to a client of each family: header, XOR-MAPPED-ADDRESS, RESPONSE-ORIGIN, OTHER-ADDRESS.
pub const FULL_V4: usize = HEADER_LEN + 3 * 12;
/// As [`FULL_V4`].
pub const FULL_V6: usize = HEADER_LEN + 3 * 24;

const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);
const RESPONSE_ORIGIN: AttributeType = AttributeType::new(0x802b);
/// Comprehension-required attributes that a server without credentials may pass over: MAPPED-ADDRESS, USERNAME,
/// MESSAGE-INTEGRITY, REALM, NONCE, XOR-MAPPED-ADDRESS, PRIORITY and USE-CANDIDATE (RFC 8445), PADDING (RFC 5780).
const PASSED_OVER: [u16; 9] = [0x0001, 0x0006, 0x0008, 0x0014, 0x0015, 0x0020, 0x0024, 0x0025, 0x0026];
/// Unknown attributes that an error names at most.
const MAX_NAMED: usize = 4;
/// Attributes of one message that are looked at.
const MAX_ATTRIBUTES: usize = 32;

const CHANGE_IP: u32 = 4;
const CHANGE_PORT: u32 = 2;

/// CHANGE-REQUEST (RFC 5780, section 7.2): from where the answer is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    pub ip: bool,
    pub port: bool,
}

impl Change {
    pub const NONE: Self = Self { ip: false, port: false };
    pub const PORT: Self = Self { ip: false, port: true };
    pub const BOTH: Self = Self { ip: true, port: true };
}

/// What a datagram says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stun {
    Request(Request),
    Success(Success),
    /// An error response.
    Refused {
        id: TransactionId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: TransactionId,
    pub change: Change,
    /// Attributes that the server would have to understand and does not, the first few.
    pub unknown: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Success {
    pub id: TransactionId,
    /// XOR-MAPPED-ADDRESS: where the request came from, as the server saw it.
    pub mapped: SocketAddr,
    /// OTHER-ADDRESS: from where a server with two addresses also answers.
    pub other: Option<SocketAddr>,
}

/// Whether a datagram opens like STUN: two zero bits, the magic cookie, and a length that is the datagram's own.
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    let Some((header, body)) = datagram.split_at_checked(HEADER_LEN) else { return false };
    matches!(header, [kind, _, high, low, cookie @ ..]
        if kind & 0xc0 == 0
            && usize::from(u16::from_be_bytes([*high, *low])) == body.len()
            && body.len().is_multiple_of(4)
            && cookie.starts_with(&MAGIC_COOKIE.to_be_bytes()))
}

/// `None` for what is no well-formed Binding request or response. Nothing is authenticated: whether an answer belongs to
/// a question, the asker knows by id and sender.
#[must_use]
pub fn parse(datagram: &[u8]) -> Option<Stun> {
    if datagram.len() > MAX_LEN || !is_stun(datagram) {
        return None;
    }
    let header = MessageHeader::from_bytes(datagram).ok()?;
    if header.get_type().method() != BINDING {
        return None;
    }
    let id = TransactionId(header.transaction_id().into());
    let mut body = datagram.get(HEADER_LEN..)?;
    let (mut change, mut unknown) = (Change::NONE, Vec::new());
    let (mut mapped, mut other) = (None, None);
    for _ in 0..MAX_ATTRIBUTES {
        if body.is_empty() {
            break;
        }
        let attribute = RawAttribute::from_bytes(body).ok()?;
        let kind = attribute.get_type();
        if kind == CHANGE_REQUEST {
            let flags = u32::from_be_bytes(attribute.value.get(..4)?.try_into().ok()?);
            change = Change { ip: flags & CHANGE_IP != 0, port: flags & CHANGE_PORT != 0 };
        } else if kind == XorMappedAddress::TYPE {
            mapped = Some(XorMappedAddress::from_raw_ref(&attribute).ok()?.addr(id.0.into()));
        } else if kind == OTHER_ADDRESS {
            other = Some(MappedSocketAddr::from_raw(&attribute).ok()?.addr());
        } else if kind.comprehension_required() && !PASSED_OVER.contains(&kind.value()) && unknown.len() < MAX_NAMED {
            unknown.push(kind.value());
        }
        body = body.get(attribute.padded_len()..)?;
    }
    match header.get_type().class() {
        MessageClass::Request => Some(Stun::Request(Request { id, change, unknown })),
        MessageClass::Success => Some(Stun::Success(Success { id, mapped: mapped?, other })),
        MessageClass::Error => Some(Stun::Refused { id }),
        MessageClass::Indication => None,
    }
}

fn message(class: MessageClass, id: TransactionId) -> MessageWriteVec {
    let kind = MessageType::from_class_method(class, BINDING);
    let mut message = MessageWriteVec::with_capacity(FULL_V6);
    message.push_data(&kind.to_bytes());
    message.push_data(&[0, 0]);
    message.push_data(&MAGIC_COOKIE.to_be_bytes());
    message.push_data(&id.0.to_be_bytes()[4..]);
    message
}

/// `attribute` is none of those that have to be last, the only ones that cannot be added.
fn add(message: &mut MessageWriteVec, attribute: &dyn AttributeWrite) {
    let added = message.add_attribute(attribute);
    debug_assert!(added.is_ok());
}

/// A Binding request to `to`, as long as the longest answer: servers that never answer with more than they got (LANrage
/// nodes) can say everything. The filling is a SOFTWARE attribute, which every server passes over.
#[must_use]
pub fn request(id: TransactionId, change: Change, to: SocketAddr) -> Vec<u8> {
    /// A multiple of four bytes that fills the longer of both up.
    const FILLING: &str = "LANrage                                                                         ";
    let mut message = message(MessageClass::Request, id);
    if change != Change::NONE {
        let flags = if change.ip { CHANGE_IP } else { 0 } | if change.port { CHANGE_PORT } else { 0 };
        add(&mut message, &RawAttribute::new(CHANGE_REQUEST, &flags.to_be_bytes()));
    }
    let full = if to.is_ipv4() { FULL_V4 } else { FULL_V6 };
    let filling = FILLING.get(..full - message.len() - 4).unwrap_or(FILLING);
    if let Ok(filling) = Software::new(filling) {
        add(&mut message, &filling);
    }
    message.finish()
}

/// The answer to `id` from `client`. `origin` and `other` are left out where the answer would become longer than `room`,
/// XOR-MAPPED-ADDRESS never is.
#[must_use]
pub fn success(
    id: TransactionId,
    client: SocketAddr,
    origin: Option<SocketAddr>,
    other: Option<SocketAddr>,
    room: usize,
) -> Vec<u8> {
    let mut message = message(MessageClass::Success, id);
    add(&mut message, &XorMappedAddress::new(client, id.0.into()));
    for (kind, addr) in [(OTHER_ADDRESS, other), (RESPONSE_ORIGIN, origin)] {
        let Some(addr) = addr else { continue };
        let addr = MappedSocketAddr::new(addr);
        let attribute = addr.to_raw(kind);
        if message.len() + attribute.padded_len() <= room {
            add(&mut message, &attribute);
        }
    }
    message.finish()
}

/// 420 (Unknown Attribute), without words.
#[must_use]
pub fn unknown_attributes(id: TransactionId, unknown: &[u16]) -> Vec<u8> {
    let mut message = message(MessageClass::Error, id);
    if let Ok(code) = ErrorCode::new(ErrorCode::UNKNOWN_ATTRIBUTE, "") {
        add(&mut message, &code);
    }
    let kinds: Vec<_> = unknown.iter().take(MAX_NAMED).map(|kind| AttributeType::new(*kind)).collect();
    add(&mut message, &UnknownAttributes::new(&kinds));
    message.finish()
}

/// As [`unknown_attributes`], of a server that cannot answer from where it is asked to.
#[must_use]
pub fn cannot_change(id: TransactionId) -> Vec<u8> {
    unknown_attributes(id, &[CHANGE_REQUEST.value()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: TransactionId = TransactionId(0x0102_0304_0506_0708_090a_0b0c);

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// RFC 5769, section 2.2: a response with SOFTWARE, XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY and FINGERPRINT.
    const RFC_5769_IPV4: [u8; 80] = [
        0x01, 0x01, 0x00, 0x3c, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87,
        0xdf, 0xae, 0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74, 0x20, 0x76, 0x65, 0x63, 0x74, 0x6f, 0x72, 0x20,
        0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43, 0x00, 0x08, 0x00, 0x14, 0x2b, 0x91,
        0xf5, 0x99, 0xfd, 0x9e, 0x90, 0xc3, 0x8c, 0x74, 0x89, 0xf9, 0x2a, 0xf9, 0xba, 0x53, 0xf0, 0x6b, 0xe7, 0xd7,
        0x80, 0x28, 0x00, 0x04, 0xc0, 0x7d, 0x4c, 0x96,
    ];

    #[test]
    fn reads_the_test_vector_of_the_rfc() {
        let id = TransactionId(0xb7e7_a701_bc34_d686_fa87_dfae);
        let expected = Success { id, mapped: addr("192.0.2.1:32853"), other: None };
        assert_eq!(parse(&RFC_5769_IPV4), Some(Stun::Success(expected)));
    }

    #[test]
    fn requests_say_what_they_want_and_fill_up() {
        for (to, len) in [("192.0.2.1:3478", FULL_V4), ("[2001:db8::1]:3478", FULL_V6)] {
            for change in [Change::NONE, Change::PORT, Change::BOTH] {
                let bytes = request(ID, change, addr(to));
                assert_eq!(bytes.len(), len);
                assert_eq!(parse(&bytes), Some(Stun::Request(Request { id: ID, change, unknown: vec![] })));
            }
        }
    }

    #[test]
    fn answers_fit_the_room_they_have() {
        let (origin, other) = (addr("192.0.2.9:5"), addr("192.0.2.10:6"));
        for (client, bare, full) in
            [("198.51.100.7:40000", 32, FULL_V4), ("[2001:db8::7]:40000", 44, HEADER_LEN + 24 + 12 + 12)]
        {
            let client = addr(client);
            let long = success(ID, client, Some(origin), Some(other), FULL_V6);
            assert_eq!(long.len(), full);
            assert_eq!(parse(&long), Some(Stun::Success(Success { id: ID, mapped: client, other: Some(other) })));
            let short = success(ID, client, Some(origin), Some(other), HEADER_LEN);
            assert_eq!(short.len(), bare);
            assert_eq!(parse(&short), Some(Stun::Success(Success { id: ID, mapped: client, other: None })));
        }
    }

    #[test]
    fn errors_are_short_and_read() {
        let bytes = cannot_change(ID);
        assert!(bytes.len() <= 36, "{}", bytes.len());
        assert_eq!(parse(&bytes), Some(Stun::Refused { id: ID }));
        assert!(unknown_attributes(ID, &[9; 99]).len() <= 40);
    }

    #[test]
    fn what_a_server_must_understand_is_named() {
        // RESPONSE-PORT (RFC 5780, section 7.5): would let a request be answered to somebody else.
        let mut bytes = message(MessageClass::Request, ID);
        add(&mut bytes, &RawAttribute::new(AttributeType::new(0x0027), &[0, 53, 0, 0]));
        let Some(Stun::Request(request)) = parse(&bytes.finish()) else { panic!() };
        assert_eq!(request.unknown, [0x0027]);
    }

    #[test]
    fn wireguard_and_probes_are_not_stun() {
        for kind in [1, 2, 3, 4, 0x90, 0x91, 0x94] {
            let mut bytes = request(ID, Change::NONE, addr("192.0.2.1:1"));
            bytes[0] = kind;
            bytes[1..4].fill(0);
            assert!(!is_stun(&bytes));
        }
        let other_method = [&[0x00, 0x03, 0, 0][..], &MAGIC_COOKIE.to_be_bytes(), &[7; 12]].concat();
        assert!(is_stun(&other_method) && parse(&other_method).is_none());
    }

    /// Bytes that get past the first checks: a good header and attributes with any types, lengths and contents.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![
            Just(0x0001u16),
            Just(0x0003),
            Just(0x0008),
            Just(0x0009),
            Just(0x0020),
            Just(0x802b),
            Just(0x802c),
            Just(0x8028),
            any::<u16>()
        ];
        let attribute = (kind, 0..40u16, proptest::collection::vec(any::<u8>(), 0..10));
        let class = prop_oneof![Just([0x00, 0x01]), Just([0x01, 0x01]), Just([0x01, 0x11]), any::<[u8; 2]>()];
        (class, proptest::collection::vec(attribute, 0..40)).prop_map(|(class, attributes)| {
            let mut body = Vec::new();
            for (kind, len, value) in attributes {
                body.extend(kind.to_be_bytes());
                body.extend(len.to_be_bytes());
                body.extend(value);
                body.resize(body.len().next_multiple_of(4), 0);
            }
            let len = u16::try_from(body.len()).unwrap().to_be_bytes();
            [&class[..], &len, &MAGIC_COOKIE.to_be_bytes(), &[3; 12], &body].concat()
        })
    }

    proptest! {
        #[test]
        fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(parse(&bytes).is_none() || is_stun(&bytes));
        }

        #[test]
        fn hostile_attributes_do_no_harm(bytes in hostile()) {
            if let Some(Stun::Request(request)) = parse(&bytes) {
                prop_assert!(request.unknown.len() <= MAX_NAMED);
            }
        }

        #[test]
        fn damaged_messages_do_no_harm(at in 0..80usize, to: u8, cut in 0..80usize) {
            let mut bytes = RFC_5769_IPV4.to_vec();
            bytes[at] = to;
            bytes.truncate(80 - cut);
            let _ = parse(&bytes);
        }

        #[test]
        fn addresses_survive(id in any::<u128>(), ip: std::net::IpAddr, port: u16) {
            let (id, client) = (TransactionId(id >> 32), SocketAddr::new(ip, port));
            let Some(Stun::Success(got)) = parse(&success(id, client, Some(client), Some(client), 200)) else { panic!() };
            prop_assert_eq!(got, Success { id, mapped: client, other: Some(client) });
        }
    }
}

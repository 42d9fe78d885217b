//! Addresses in mDNS messages (RFC 6762). A program announces the address of the network that it announces on: what it
//! says on the local network is of no use to members, who have a machine of their own at that address more often than
//! not.

use std::net::Ipv4Addr;

const HEADER: usize = 12;
/// Type, class, time to live and length of a record, after its name.
const RECORD: usize = 10;
const TYPE_A: u16 = 1;
/// The upper bit says that the record replaces others.
const CLASS_IN: u16 = 1;

/// The message with `to` in place of the addresses `from` in its address records; `None`: as it is, for nothing in it is
/// to be replaced, or it is not well formed.
#[must_use]
pub fn readdressed(message: &[u8], from: &[Ipv4Addr], to: Ipv4Addr) -> Option<Vec<u8>> {
    let mut changed: Option<Vec<u8>> = None;
    let count = |at: usize| word(message, at).map(usize::from);
    let questions = count(4)?;
    let records = count(6)? + count(8)? + count(10)?;
    let mut at = HEADER;
    for _ in 0..questions {
        at = after_name(message, at)? + 4;
    }
    for _ in 0..records {
        let fields = after_name(message, at)?;
        let (kind, class, length) = (word(message, fields)?, word(message, fields + 2)?, word(message, fields + 8)?);
        let data = fields + RECORD;
        at = data + usize::from(length);
        let bytes = message.get(data..at)?;
        if let (TYPE_A, CLASS_IN, &[a, b, c, d]) = (kind, class & 0x7fff, bytes)
            && from.contains(&Ipv4Addr::new(a, b, c, d))
        {
            changed.get_or_insert_with(|| message.to_vec())[data..at].copy_from_slice(&to.octets());
        }
    }
    changed
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Where a name ends that begins at `at`. What it refers to is not followed.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            64..=191 => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);

    /// One question; a text and an address of the same name, which the second record refers to.
    fn response(address: Ipv4Addr) -> Vec<u8> {
        let head = b"\0\0\x84\0\0\x01\0\x01\0\0\0\x01\x04host\x05local\0\0\xff\0\x01";
        let text = b"\xc0\x0c\0\x10\x80\x01\0\0\x11\x94\0\x04\xc0\xa8\x01\x0a";
        let name = b"\xc0\x0c\0\x01\x80\x01\0\0\0\x78\0\x04";
        [&head[..], text, name, &address.octets()].concat()
    }

    #[test]
    fn only_address_records_with_these_addresses_are_changed() {
        assert_eq!(readdressed(&response(LAN), &[LAN], OWN), Some(response(OWN)));
        assert_eq!(readdressed(&response(OWN), &[LAN], OWN), None);
        assert_eq!(readdressed(&response(LAN), &[], OWN), None);
        let whole = response(LAN);
        for end in 0..whole.len() {
            assert_eq!(readdressed(&whole[..end], &[LAN], OWN), None, "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_keep_their_length(
            mut message in proptest::collection::vec(any::<u8>(), 0..80),
            counts in proptest::array::uniform4(0_u8..4),
        ) {
            for (index, count) in counts.into_iter().enumerate() {
                for (at, byte) in [(4 + 2 * index, 0), (5 + 2 * index, count)] {
                    if let Some(place) = message.get_mut(at) {
                        *place = byte;
                    }
                }
            }
            if let Some(changed) = readdressed(&message, &[Ipv4Addr::UNSPECIFIED, LAN], OWN) {
                prop_assert_eq!(changed.len(), message.len());
            }
        }
    }
}

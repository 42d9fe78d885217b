//! What a bridging member tells the others, so that two on one network do not both carry: a small datagram to a group of
//! ours, which goes the way of all multicasts in the party and so says truly who sent it.
//!
//! ```text
//! "LRBR"  version 1  count  count × IPv4 address of a bridged network's interface
//! ```

use std::net::Ipv4Addr;

/// Of the organisation-local scope (RFC 2365).
pub const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 76, 82);
pub const PORT: u16 = 19_482;
const MAGIC: [u8; 4] = *b"LRBR";
const VERSION: u8 = 1;
/// Networks of one member; more are not read.
pub const MAX_NETWORKS: usize = 8;

/// The addresses are cut to the first [`MAX_NETWORKS`].
#[must_use]
pub fn write(addresses: &[Ipv4Addr]) -> Vec<u8> {
    let addresses = &addresses[..addresses.len().min(MAX_NETWORKS)];
    let mut bytes = MAGIC.to_vec();
    bytes.extend([VERSION, u8::try_from(addresses.len()).unwrap_or(0)]);
    bytes.extend(addresses.iter().flat_map(|address| address.octets()));
    bytes
}

/// `None` for anything but a whole one of this version.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (&[version, count], rest) = rest.split_first_chunk()?;
    let (addresses, odd) = rest.as_chunks::<4>();
    let whole = version == VERSION && addresses.len() == usize::from(count) && odd.is_empty();
    (whole && addresses.len() <= MAX_NETWORKS).then(|| addresses.iter().map(|octets| (*octets).into()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_as_documented() {
        let bytes = write(&[Ipv4Addr::new(192, 168, 1, 2)]);
        assert_eq!(bytes, [b'L', b'R', b'B', b'R', 1, 1, 192, 168, 1, 2]);
        assert_eq!(read(b"LRBR\x01\x00"), Some(vec![]));
        for bad in [&b"LRBR\x02\x00"[..], b"LRBR\x01\x01", b"LRBR\x01\x00\x00", b"LRBX\x01\x00", b"LRBR\x01", b""] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(read(&[b"LRBR\x01\x09".as_slice(), &[1; 36]].concat()), None, "too many");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(addresses in proptest::collection::vec(any::<[u8; 4]>(), 0..12)) {
            let addresses: Vec<Ipv4Addr> = addresses.into_iter().map(Into::into).collect();
            let read = read(&write(&addresses)).unwrap();
            prop_assert_eq!(&read[..], &addresses[..addresses.len().min(MAX_NETWORKS)]);
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), head: bool) {
            if head && bytes.len() > 5 {
                bytes[..5].copy_from_slice(b"LRBR\x01");
            }
            if let Some(addresses) = read(&bytes) {
                prop_assert_eq!(write(&addresses), bytes);
            }
        }
    }
}

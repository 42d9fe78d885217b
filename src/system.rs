//! What Linux says about this process and this machine. Read from `/proc`, so that no foreign calls are needed.

use std::fs;
use std::path::Path;

/// `CAP_NET_ADMIN` in linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;

/// `None` where there is no `/proc`.
#[must_use]
pub fn effective_uid() -> Option<u32> {
    parse_effective_uid(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Whether this process may set up network devices. `None` where there is no `/proc`.
#[must_use]
pub fn has_net_admin() -> Option<bool> {
    parse_net_admin(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Whether starting the program at `path` would grant it `CAP_NET_ADMIN` (`setcap cap_net_admin+ep`).
#[must_use]
pub fn file_grants_net_admin(path: &Path) -> bool {
    let mut value = [0; 64];
    match rustix::fs::getxattr(path, "security.capability", &mut value) {
        Ok(len) => grants_net_admin(value.get(..len).unwrap_or_default()),
        Err(_) => false,
    }
}

/// `struct vfs_cap_data` of linux/capability.h, revisions 2 and 3: a word with revision and flags, then pairs of words
/// (permitted, inheritable), all little-endian.
fn grants_net_admin(data: &[u8]) -> bool {
    const EFFECTIVE: u32 = 1;
    let word = |index: usize| {
        let bytes = data.get(4 * index..4 * index + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let (Some(magic), Some(permitted)) = (word(0), word(1)) else { return false };
    matches!(magic >> 24, 2 | 3) && magic & EFFECTIVE != 0 && permitted & (1 << CAP_NET_ADMIN) != 0
}

#[must_use]
pub fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim();
    (!name.is_empty() && name != "(none)" && name != "localhost").then(|| name.to_owned())
}

/// A number in a file of `/proc/sys`.
#[must_use]
pub fn kernel_setting(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// `Uid:` real, effective, saved, file system.
fn parse_effective_uid(status: &str) -> Option<u32> {
    field(status, "Uid")?.split_whitespace().nth(1)?.parse().ok()
}

fn parse_net_admin(status: &str) -> Option<bool> {
    let capabilities = u64::from_str_radix(field(status, "CapEff")?, 16).ok()?;
    Some(capabilities & (1 << CAP_NET_ADMIN) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_capabilities_are_read() {
        let data = |magic: u32, permitted: u32| [magic, permitted, 0, 0, 0].map(u32::to_le_bytes).concat();
        assert!(grants_net_admin(&data(0x0200_0001, 1 << 12)));
        assert!(grants_net_admin(&data(0x0300_0001, u32::MAX)));
        assert!(!grants_net_admin(&data(0x0200_0000, 1 << 12)), "permitted, but not effective at once");
        assert!(!grants_net_admin(&data(0x0200_0001, 1 << 13)));
        assert!(!grants_net_admin(&data(0x0900_0001, 1 << 12)));
        assert!(!grants_net_admin(&[1, 0, 0, 2, 0]) && !grants_net_admin(&[]));
        assert!(!file_grants_net_admin(Path::new("/nonexistent")));
    }

    #[test]
    fn status_is_read() {
        let status = "Name:\tlanrage\nUid:\t1000\t0\t0\t0\nCapPrm:\t0\nCapEff:\t0000000000001000\n";
        assert_eq!(parse_effective_uid(status), Some(0));
        assert_eq!(parse_net_admin(status), Some(true));
        assert_eq!(parse_net_admin("CapEff:\t0000000000000fff\n"), Some(false));
        for bad in ["", "Uid:\t1000\nCapEff:\tx\n", "Uid\nCapEff"] {
            assert_eq!((parse_effective_uid(bad), parse_net_admin(bad)), (None, None));
        }
        assert!(effective_uid().is_some());
    }
}

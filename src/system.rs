//! What Linux says about this process and this machine. Read from `/proc`, so that no foreign calls are needed.

use std::fs;
use std::path::Path;

/// What a process needs to be allowed; the numbers are those of linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To set up network devices.
    NetAdmin = 12,
    /// To capture broadcasts.
    NetRaw = 13,
}

/// `None` where there is no `/proc`.
#[must_use]
pub fn effective_uid() -> Option<u32> {
    parse_effective_uid(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Whether this process has a right. `None` where there is no `/proc`.
#[must_use]
pub fn has(right: Right) -> Option<bool> {
    parse_right(&fs::read_to_string("/proc/self/status").ok()?, right)
}

/// Whether starting the program at `path` would grant it a right (`setcap cap_net_admin,cap_net_raw+ep`).
#[must_use]
pub fn file_grants(path: &Path, right: Right) -> bool {
    let mut value = [0; 64];
    match rustix::fs::getxattr(path, "security.capability", &mut value) {
        Ok(len) => grants(value.get(..len).unwrap_or_default(), right),
        Err(_) => false,
    }
}

/// `struct vfs_cap_data` of linux/capability.h, revisions 2 and 3: a word with revision and flags, then pairs of words
/// (permitted, inheritable), all little-endian.
fn grants(data: &[u8], right: Right) -> bool {
    const EFFECTIVE: u32 = 1;
    let word = |index: usize| {
        let bytes = data.get(4 * index..4 * index + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let (Some(magic), Some(permitted)) = (word(0), word(1)) else { return false };
    matches!(magic >> 24, 2 | 3) && magic & EFFECTIVE != 0 && permitted & (1 << right as u32) != 0
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

fn parse_right(status: &str, right: Right) -> Option<bool> {
    let capabilities = u64::from_str_radix(field(status, "CapEff")?, 16).ok()?;
    Some(capabilities & (1 << right as u32) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_capabilities_are_read() {
        let data = |magic: u32, permitted: u32| [magic, permitted, 0, 0, 0].map(u32::to_le_bytes).concat();
        let grants_net_admin = |data: &[u8]| grants(data, Right::NetAdmin);
        assert!(grants_net_admin(&data(0x0200_0001, 1 << 12)));
        assert!(grants_net_admin(&data(0x0300_0001, u32::MAX)));
        assert!(grants(&data(0x0200_0001, 1 << 13), Right::NetRaw));
        assert!(!grants(&data(0x0200_0001, 1 << 12), Right::NetRaw));
        assert!(!grants_net_admin(&data(0x0200_0000, 1 << 12)), "permitted, but not effective at once");
        assert!(!grants_net_admin(&data(0x0200_0001, 1 << 13)));
        assert!(!grants_net_admin(&data(0x0900_0001, 1 << 12)));
        assert!(!grants_net_admin(&[1, 0, 0, 2, 0]) && !grants_net_admin(&[]));
        assert!(!file_grants(Path::new("/nonexistent"), Right::NetAdmin));
    }

    #[test]
    fn status_is_read() {
        let status = "Name:\tlanrage\nUid:\t1000\t0\t0\t0\nCapPrm:\t0\nCapEff:\t0000000000001000\n";
        let parse_net_admin = |status| parse_right(status, Right::NetAdmin);
        assert_eq!(parse_right(status, Right::NetRaw), Some(false));
        assert_eq!(parse_effective_uid(status), Some(0));
        assert_eq!(parse_net_admin(status), Some(true));
        assert_eq!(parse_net_admin("CapEff:\t0000000000000fff\n"), Some(false));
        for bad in ["", "Uid:\t1000\nCapEff:\tx\n", "Uid\nCapEff"] {
            assert_eq!((parse_effective_uid(bad), parse_net_admin(bad)), (None, None));
        }
        assert!(effective_uid().is_some());
    }
}

//! What Linux says about this process and this machine. Read from `/proc`, so that no foreign calls are needed.

use std::fs;

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

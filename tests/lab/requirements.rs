use std::path::Path;

/// What this machine lacks for a lab, or nothing.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root (scripts/test.sh uses sudo)".into());
    }
    for (program, package) in [("ip", "iproute2"), ("ping", "iputils-ping")] {
        if !installed(program) {
            return Some(format!("`{program}` is not installed (Debian package {package})"));
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("/dev/net/tun is missing (modprobe tun)".into());
    }
    None
}

/// Is `program` in one of the folders where Debian puts programs?
pub(crate) fn installed(program: &str) -> bool {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/games", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

/// A test that cannot run is skipped on a developer's machine, and a failure where tests must run.
///
/// # Panics
/// With `CI=true` or `LANRAGE_REQUIRE_LAB=1`.
pub(crate) fn skip(reason: &str) {
    let set = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    let must_run = set("CI", "true") || set("LANRAGE_REQUIRE_LAB", "1");
    assert!(!must_run, "this test must run here, but: {reason}");
    println!("SKIPPED: {reason}");
}

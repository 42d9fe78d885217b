//! `simulate`: see `simulate --help` and `docs/simulation.md`.

use std::process::ExitCode;

use clap::Parser as _;
use lanrage_simulations::cli;

fn main() -> ExitCode {
    in_large_pages();
    cli::run(cli::Cli::parse())
}

/// Thousands of nodes take up more memory than the processor can translate addresses of at a time, 4 KiB each. With pages of
/// 2 MiB a run of 2,000 nodes took an eighth less time. glibc reads once, at its start, that it may ask for them: so the
/// program begins anew. One arena, because it asks for them in the first only. A setting that is there already is left alone.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn in_large_pages() {
    use std::os::unix::process::CommandExt as _;

    const TUNABLES: &str = "GLIBC_TUNABLES";
    if std::env::var_os(TUNABLES).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    if let (Some(name), Ok(own)) = (arguments.next(), std::env::current_exe()) {
        let mut anew = std::process::Command::new(own);
        anew.arg0(name).args(arguments).env(TUNABLES, "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1");
        // It returns only when it cannot be done; then everything takes a little longer.
        let _ = anew.exec();
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
const fn in_large_pages() {}

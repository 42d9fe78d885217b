//! One virtual time for everything on the thread of a run: tokio's paused clock leads, boringtun's mock clock and the
//! system's wall clock follow.
//!
//! boringtun stamps handshakes with `SystemTime::now`, and a stamp that is older than the last one is refused as a
//! replay; PartyActor dates records with it. Both end in `clock_gettime`, which this binary defines, so that on a thread
//! that runs a simulation the wall clock is virtual and on any other the kernel's.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

use mock_instant::MockClock;
use tokio::time::Instant;

/// Where the wall clock of a run starts, seconds since 1970: an hour into a day, so that the rendezvous keys change in a
/// long run only.
pub const UNIX_START: u64 = 20_000 * 86_400 + 3600;

thread_local! {
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    static ELAPSED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// From here on this thread's time is virtual. Call it inside the runtime whose clock is paused.
pub fn start() {
    START.set(Some(Instant::now()));
    follow();
}

/// Brings the followers up to tokio's clock: after every advance, before any task runs.
pub fn follow() {
    if let Some(start) = START.get() {
        let elapsed = Instant::now() - start;
        ELAPSED.set(Some(elapsed));
        MockClock::set_time(elapsed);
    }
}

/// For a run without a runtime: the time is `elapsed`.
pub fn set(elapsed: Duration) {
    ELAPSED.set(Some(elapsed));
    MockClock::set_time(elapsed);
}

/// The thread belongs to the system's clock again.
pub fn end() {
    START.set(None);
    ELAPSED.set(None);
}

/// Virtual time since the start of the run.
#[must_use]
pub fn elapsed() -> Duration {
    ELAPSED.get().unwrap_or_default()
}

/// The runtime's instant at `at` of virtual time.
#[must_use]
pub fn instant(at: Duration) -> Instant {
    START.get().map_or_else(Instant::now, |start| start + at)
}

/// The system's interface, see `clock_gettime(2)`.
///
/// # Safety
/// `time` must be writable.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let virtual_now = if clock == libc::CLOCK_REALTIME { ELAPSED.try_with(Cell::get).ok().flatten() } else { None };
    if let Some(elapsed) = virtual_now {
        let unix = Duration::from_secs(UNIX_START) + elapsed;
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(unix.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(unix.subsec_nanos()),
        };
        // SAFETY: the caller promises that `time` is writable.
        unsafe { time.write(value) };
        return 0;
    }
    // SAFETY: the same arguments as the caller's; the kernel checks them.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    libc::c_int::try_from(result).unwrap_or(-1)
}

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

/// The world's summary is due each second, so the clock never has to go further at once: a longer leap means that a timer
/// was reached for want of any event, and that something waits on what virtual time cannot see.
const LONGEST_LEAP: Duration = Duration::from_millis(1100);

thread_local! {
    /// By how much the wall clock of the node that runs now is wrong, seconds.
    static SKEW: Cell<i64> = const { Cell::new(0) };
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    static ELAPSED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// From here on this thread's time is virtual. Call it inside the runtime whose clock is paused.
pub fn start() {
    START.set(Some(Instant::now()));
    follow();
}

/// Brings the followers up to tokio's clock: after every advance, before any task runs.
///
/// # Panics
/// When virtual time has leapt although nothing was due.
pub fn follow() {
    if let Some(start) = START.get() {
        let elapsed = Instant::now() - start;
        let before = ELAPSED.get().unwrap_or_default();
        if elapsed.saturating_sub(before) > LONGEST_LEAP {
            // Once: what unwinds must not leap again.
            START.set(None);
            panic!("virtual time leapt from {before:?} to {elapsed:?} with nothing scheduled in between");
        }
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
    SKEW.set(0);
}

/// From here on the wall clock that is read is wrong by this many seconds; returns what it was wrong by.
pub fn skew(seconds: i64) -> i64 {
    SKEW.replace(seconds)
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
        let skew = SKEW.try_with(Cell::get).unwrap_or(0);
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(unix.as_secs()).unwrap_or(libc::time_t::MAX).saturating_add(skew),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether waiting this long, with nothing else due, ends well.
    fn waits(time: Duration) -> bool {
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .on_thread_unpark(follow)
                .build()
                .unwrap();
            runtime.block_on(async {
                start();
                tokio::time::sleep(time).await;
                end();
            });
        });
        thread.join().is_ok()
    }

    #[test]
    fn a_leap_with_nothing_scheduled_ends_the_run() {
        assert!(waits(Duration::from_secs(1)));
        assert!(!waits(Duration::from_secs(3600)));
    }
}

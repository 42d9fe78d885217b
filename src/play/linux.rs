//! What needs the system's own interfaces: namespaces and signals.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::thread::UnshareFlags;

/// Signals that are passed on to the game.
const PASSED_ON: [libc::c_int; 6] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// Moves this process, which must have one thread, into new namespaces of these kinds.
pub(super) fn unshare(kinds: UnshareFlags) -> io::Result<()> {
    debug_assert!(!kinds.contains(UnshareFlags::FILES));
    // SAFETY: only FILES is unsafe, and never asked for here.
    Ok(unsafe { rustix::thread::unshare_unsafe(kinds) }?)
}

/// The descriptor that the supervisor left open for this process, which must be a socket.
pub(super) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asking about a number that is no open descriptor fails with EBADF; nothing is owned here yet.
    let open = unsafe { rustix::fd::BorrowedFd::borrow_raw(fd.max(3)) };
    rustix::net::sockopt::socket_type(open)?;
    rustix::io::fcntl_setfd(open, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open, above the standard streams, and this is called once, before anything else opened one.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The program gets SIGTERM when the thread that starts it ends.
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?));
    }
}

fn begin_with(command: &mut Command, mask: libc::sigset_t) {
    let set = move || {
        // SAFETY: the set is a valid one of this closure's own.
        let done = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only `sigprocmask` is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(set);
    }
}

/// A signal as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) signal: i32,
    /// A process sent it, to this one only. One from the terminal has reached the game as well.
    pub(super) by_process: bool,
}

/// The signals that are to be passed on, to be read instead of handled.
pub(super) struct Signals {
    fd: OwnedFd,
    /// What was blocked before. Programs begin with what is blocked in the thread that starts them.
    before: libc::sigset_t,
}

impl Signals {
    /// To be called while there is one thread.
    pub(super) fn take() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set before anything reads it, and `sigprocmask` fills `before` when it
        // returns 0; the calls get valid pointers and numbers.
        let (fd, before) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in PASSED_ON {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            (libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK), before.assume_init())
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, before })
    }

    /// The program begins with what this one began with: it gets the signals.
    pub(super) fn give_back(&self, command: &mut Command) {
        begin_with(command, self.before);
    }

    /// The program can be ended, but not from the terminal: that is for the game.
    pub(super) fn shield(&self, command: &mut Command) {
        let mut mask = self.before;
        // SAFETY: the set was filled by the system.
        unsafe {
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                libc::sigaddset(&raw mut mask, signal);
            }
        }
        begin_with(command, mask);
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The next signal, `None` when there is none now.
    pub(super) fn next(&self) -> Option<Arrived> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let len = rustix::io::read(&self.fd, &mut info).ok()?;
        // `ssi_signo`, `ssi_errno`, `ssi_code`, 32 bits each.
        (len == info.len()).then(|| Arrived { signal: word(&info, 0), by_process: word(&info, 8) <= 0 })
    }
}

fn word(bytes: &[u8], at: usize) -> i32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, i32::from_ne_bytes)
}

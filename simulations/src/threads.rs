//! No threads inside a simulation: what another thread does is outside virtual time, and its messages would come in an order
//! that no seed repeats. On a seeded thread `pthread_create`, which this program defines itself, answers EAGAIN, so that
//! an `Arbiter::new`, a `SyncArbiter` or a `spawn_blocking` in the code under test fails the run instead of leaking out.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use crate::entropy;

type Body = extern "C" fn(*mut libc::c_void) -> *mut libc::c_void;
type Create =
    unsafe extern "C" fn(*mut libc::pthread_t, *const libc::pthread_attr_t, Body, *mut libc::c_void) -> libc::c_int;

static SYSTEM: OnceLock<Option<Create>> = OnceLock::new();

fn system() -> Option<Create> {
    *SYSTEM.get_or_init(|| {
        // SAFETY: the name ends in a zero.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr()) };
        // SAFETY: the C library's function of this name has this type.
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut libc::c_void, Create>(found) })
    })
}

/// The system's interface, see `pthread_create(3)`.
///
/// # Safety
/// As there.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    body: Body,
    argument: *mut libc::c_void,
) -> libc::c_int {
    match system() {
        // SAFETY: the caller's arguments.
        Some(create) if !entropy::is_seeded() => unsafe { create(thread, attributes, body, argument) },
        Some(_) | None => libc::EAGAIN,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_simulation_starts_no_threads_and_others_do() {
        let outer = std::thread::spawn(|| {
            let before = std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().is_ok());
            crate::entropy::seed_this_thread(1);
            (before.unwrap_or(false), std::thread::Builder::new().spawn(|| ()).is_err())
        });
        assert_eq!(outer.join().unwrap(), (true, true));
    }
}

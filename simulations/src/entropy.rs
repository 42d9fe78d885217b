//! Seeded randomness for everything on a thread, dependencies included.
//!
//! libp2p draws from the thread's generator (query targets, ephemeral keys) and the standard library seeds its hash maps
//! from the system. Both end in `getrandom`; this binary defines that symbol itself, so that on a thread with a seed the
//! answer comes from the seed and on any other thread from the kernel.
#![allow(unsafe_code)]

use std::cell::RefCell;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

thread_local! {
    static SEEDED: RefCell<Option<ChaCha12Rng>> = const { RefCell::new(None) };
}

/// From here on this thread's randomness comes from `seed`. Call it first thing on a fresh thread: generators that are
/// thread-local keep what they were seeded with.
pub fn seed_this_thread(seed: u64) {
    SEEDED.with(|seeded| *seeded.borrow_mut() = Some(ChaCha12Rng::seed_from_u64(seed)));
}

/// Whether a simulation runs on this thread.
pub fn is_seeded() -> bool {
    SEEDED.try_with(|seeded| seeded.try_borrow().map_or(true, |seeded| seeded.is_some())).unwrap_or(false)
}

/// The system's interface, see getrandom(2).
///
/// # Safety
/// `buffer` must be writable for `length` bytes.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    let seeded = SEEDED.try_with(|seeded| {
        let mut seeded = seeded.try_borrow_mut().ok()?;
        let rng = seeded.as_mut()?;
        if length > 0 {
            // SAFETY: the caller promises `length` writable bytes, and they are not zero, so the pointer is not null.
            let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
            rng.fill_bytes(bytes);
        }
        libc::ssize_t::try_from(length).ok()
    });
    if let Ok(Some(written)) = seeded {
        return written;
    }
    // SAFETY: the same arguments as the caller's; the kernel checks them.
    let written = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
    libc::ssize_t::try_from(written).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    fn draw(seed: Option<u64>) -> (u64, Vec<u32>) {
        let thread = std::thread::spawn(move || {
            if let Some(seed) = seed {
                super::seed_this_thread(seed);
            }
            let order = (0..100).collect::<HashSet<u32>>().into_iter().collect();
            (rand::random(), order)
        });
        thread.join().unwrap()
    }

    #[test]
    fn generators_and_hash_maps_follow_the_seed_and_only_on_seeded_threads() {
        assert_eq!(draw(Some(1)), draw(Some(1)));
        assert_ne!(draw(Some(1)).0, draw(Some(2)).0);
        assert_ne!(draw(Some(1)).1, draw(Some(2)).1, "hash maps do not follow the seed");
        assert_ne!(draw(None), draw(None));
    }
}

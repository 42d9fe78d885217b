//! What the program holds: bytes and blocks that were allocated and not freed. The leak check of a long run reads it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

static BYTES: AtomicIsize = AtomicIsize::new(0);
static BLOCKS: AtomicIsize = AtomicIsize::new(0);
/// Blocks by the power of two that their size is below.
static CLASSES: [AtomicIsize; 65] = [const { AtomicIsize::new(0) }; 65];

/// The system's allocator, with the two counts.
#[derive(Debug)]
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize, blocks: isize) {
    // A layout never exceeds isize::MAX.
    #[allow(clippy::cast_possible_wrap)]
    BYTES.fetch_add(if blocks < 0 { -(bytes as isize) } else { bytes as isize }, Relaxed);
    BLOCKS.fetch_add(blocks, Relaxed);
    if let Some(class) = CLASSES.get((usize::BITS - bytes.leading_zeros()) as usize) {
        class.fetch_add(blocks, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator with what the caller promised about it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            count(layout.size(), 1);
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            count(layout.size(), 1);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
        count(layout.size(), -1);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        let moved = unsafe { System.realloc(block, layout, size) };
        if !moved.is_null() {
            count(layout.size(), -1);
            count(size, 1);
        }
        moved
    }
}

/// Blocks by size: those of the class `n` have less than 2ⁿ bytes, and not less than half of that.
#[must_use]
pub fn classes() -> Vec<usize> {
    CLASSES.iter().map(|class| usize::try_from(class.load(Relaxed)).unwrap_or(0)).collect()
}

/// `(bytes, blocks)` of the whole process.
#[must_use]
pub fn held() -> (usize, usize) {
    let read = |count: &AtomicIsize| usize::try_from(count.load(Relaxed)).unwrap_or(0);
    (read(&BYTES), read(&BLOCKS))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_is_counted_until_it_is_dropped() {
        // Other tests allocate at the same time, but not this much.
        const MUCH: usize = 1 << 30;
        let before = super::held().0;
        let kept = vec![0u8; MUCH];
        assert!(super::held().0 > before + MUCH / 2);
        drop(kept);
        assert!(super::held().0 < before + MUCH / 2);
    }
}

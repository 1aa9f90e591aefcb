//! An allocator with a reserve for what is small.
//!
//! Work that needs much memory asks first whether the process can have it. Under a limit of the
//! address space this may change at once: glibc gives a new thread a heap of 64 MB of addresses.
//! Where a few bytes are then refused, Rust would end the process; with the reserve, the work goes
//! on to the next place that asks, and fails there with an error.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::{null_mut, NonNull};
use std::sync::{Mutex, PoisonError};

/// Bytes of the reserve. A process that is never refused memory does not touch its pages.
const RESERVE: usize = 1 << 20;

/// Allocates from the system and, if that refuses, from its own reserve.
#[derive(Debug)]
pub struct WithReserve<A = System> {
    system: A,
    reserve: UnsafeCell<Bytes>,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
#[repr(align(4096))]
struct Bytes(MaybeUninit<[u8; RESERVE]>);

/// Allocations from the reserve, which starts anew when all of them were freed.
#[derive(Debug)]
struct Taken {
    bytes: usize,
    allocations: usize,
}

// SAFETY: the reserve's bytes are handed out one allocation at a time, under the lock.
unsafe impl<A: Sync> Sync for WithReserve<A> {}

impl WithReserve {
    /// Creates the allocator before the system's.
    #[must_use]
    pub const fn new() -> Self {
        Self::before(System)
    }
}

impl Default for WithReserve {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> WithReserve<A> {
    const fn before(system: A) -> Self {
        Self {
            system,
            reserve: UnsafeCell::new(Bytes(MaybeUninit::uninit())),
            taken: Mutex::new(Taken {
                bytes: 0,
                allocations: 0,
            }),
        }
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: the place of the bytes, which are not read.
        unsafe { (&raw mut (*self.reserve.get()).0).cast() }
    }

    fn holds(&self, pointer: *mut u8) -> bool {
        (pointer.addr().wrapping_sub(self.start().addr())) < RESERVE
    }

    /// Allocates from the reserve. Returns null if its rest is too small.
    #[cold]
    fn take(&self, layout: Layout) -> *mut u8 {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let place = taken.bytes.checked_next_multiple_of(layout.align());
        let end = place.and_then(|place| place.checked_add(layout.size()));
        let (Some(place), Some(end)) = (place, end) else {
            return null_mut();
        };
        if end > RESERVE || layout.align() > align_of::<Bytes>() {
            return null_mut();
        }
        taken.bytes = end;
        taken.allocations += 1;
        self.start().wrapping_add(place)
    }

    /// Frees an allocation of the reserve.
    #[cold]
    fn give_back(&self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.allocations -= 1;
        if taken.allocations == 0 {
            taken.bytes = 0;
        }
    }
}

// SAFETY: what the system allocated goes back to it with the caller's own arguments; what it
// refused is a part of the reserve that no other allocation has.
unsafe impl<A: GlobalAlloc> GlobalAlloc for WithReserve<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `alloc`'s contract.
        let found = unsafe { self.system.alloc(layout) };
        NonNull::new(found).map_or_else(|| self.take(layout), NonNull::as_ptr)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        let found = unsafe { self.system.alloc_zeroed(layout) };
        if !found.is_null() {
            return found;
        }
        let found = self.take(layout);
        if !found.is_null() {
            // SAFETY: the reserve gave this many bytes.
            unsafe { found.write_bytes(0, layout.size()) };
        }
        found
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.holds(pointer) {
            // SAFETY: the caller keeps `realloc`'s contract, and the system has the pointer.
            let found = unsafe { self.system.realloc(pointer, layout, size) };
            if !found.is_null() {
                return found;
            }
        }
        // SAFETY: the caller keeps `realloc`'s contract, by which the new layout is valid, too.
        unsafe {
            let found = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !found.is_null() {
                found.copy_from_nonoverlapping(pointer, size.min(layout.size()));
                self.dealloc(pointer, layout);
            }
            found
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.holds(pointer) {
            self.give_back();
        } else {
            // SAFETY: the caller keeps `dealloc`'s contract, and the system has the pointer.
            unsafe { self.system.dealloc(pointer, layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_raw_parts;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// The system's allocator, which refuses when it is told to.
    struct Refusing(AtomicBool);

    impl Refusing {
        fn or(&self, allocate: impl Fn() -> *mut u8) -> *mut u8 {
            if self.0.load(Ordering::Relaxed) {
                return null_mut();
            }
            allocate()
        }
    }

    // SAFETY: every call is refused or the system allocator's, with the caller's own arguments.
    unsafe impl GlobalAlloc for Refusing {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller keeps `alloc`'s contract.
            self.or(|| unsafe { System.alloc(layout) })
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: the caller keeps `dealloc`'s contract, and the system allocated the pointer.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    static ALLOCATOR: WithReserve<Refusing> = WithReserve::before(Refusing(AtomicBool::new(false)));

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    // One test: the reserve is shared.
    #[test]
    fn what_the_system_refuses_comes_from_the_reserve() {
        let refuse = |refuses| ALLOCATOR.system.0.store(refuses, Ordering::Relaxed);
        // SAFETY: the layouts have a size, each pointer is freed once with its own, and bytes are
        // read where they were written.
        unsafe {
            let first = ALLOCATOR.alloc(layout(64, 8));
            assert!(!ALLOCATOR.holds(first));
            first.write_bytes(7, 64);

            refuse(true);
            let grown = ALLOCATOR.realloc(first, layout(64, 8), 100);
            assert!(ALLOCATOR.holds(grown));
            assert_eq!(from_raw_parts(grown, 64), [7; 64]);
            let other = ALLOCATOR.alloc_zeroed(layout(3, 64));
            assert_eq!(other.addr() % 64, 0);
            assert!(other.addr() >= grown.addr() + 100);
            assert_eq!(from_raw_parts(other, 3), [0; 3]);
            for (size, align) in [(RESERVE, 1), (1, 2 * align_of::<Bytes>())] {
                assert!(ALLOCATOR.alloc(layout(size, align)).is_null());
                assert!(ALLOCATOR.alloc_zeroed(layout(size, align)).is_null());
            }
            assert!(ALLOCATOR.realloc(grown, layout(100, 8), RESERVE).is_null());
            assert_eq!(from_raw_parts(grown, 64), [7; 64]);

            refuse(false);
            let shrunk = ALLOCATOR.realloc(grown, layout(100, 8), 10);
            assert!(!ALLOCATOR.holds(shrunk));
            assert_eq!(from_raw_parts(shrunk, 10), [7; 10]);
            ALLOCATOR.dealloc(shrunk, layout(10, 8));
            other.write_bytes(9, 3);
            ALLOCATOR.dealloc(other, layout(3, 64));

            refuse(true);
            let all = ALLOCATOR.alloc_zeroed(layout(RESERVE, 4096));
            assert_eq!(all, ALLOCATOR.start(), "everything was freed");
            assert!(from_raw_parts(all, RESERVE).iter().all(|byte| *byte == 0));
            ALLOCATOR.dealloc(all, layout(RESERVE, 4096));
        }
    }
}

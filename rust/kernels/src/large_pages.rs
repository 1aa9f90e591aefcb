//! Memory on large pages, where the system has them.

use std::alloc::{alloc, dealloc, handle_alloc_error, Layout};
use std::ptr::NonNull;

/// The size of a large page where the others have 4 KB.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// Bytes that start at a large page.
#[derive(Debug)]
pub(crate) struct LargePages {
    start: NonNull<u8>,
    size: usize,
    layout: Layout,
}

// SAFETY: it owns its bytes, as a vector does.
unsafe impl Send for LargePages {}
// SAFETY: as above.
unsafe impl Sync for LargePages {}

impl LargePages {
    /// Allocates `size` zeros, and the rest of the last large page.
    pub(crate) fn new(size: usize) -> Self {
        assert!(size > 0, "there are bytes");
        let layout = Layout::from_size_align(size.next_multiple_of(LARGE_PAGE), LARGE_PAGE)
            .expect("the bytes fit the memory");
        // SAFETY: the layout has a size.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        // Before the first byte is written, which decides about its page.
        advise(start, layout.size());
        // SAFETY: the memory has at least this size.
        unsafe { start.write_bytes(0, size) };
        Self {
            start,
            size,
            layout,
        }
    }

    /// Returns the first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory has this size and was written.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    /// Returns the bytes, to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }
}

impl Drop for LargePages {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Asks the system for large pages. It may refuse, which costs speed alone.
#[cfg(target_os = "linux")]
fn advise(start: NonNull<u8>, size: usize) {
    use std::ffi::{c_int, c_void};

    /// Of Linux, on every architecture.
    const MADV_HUGEPAGE: c_int = 14;
    /// The same; memory that was used before may have small pages, which would stay.
    const MADV_DONTNEED: c_int = 4;
    // Of the C library, which std links.
    extern "C" {
        fn madvise(start: *mut c_void, size: usize, advice: c_int) -> c_int;
    }
    let start = start.as_ptr().cast();
    // SAFETY: the memory is ours, and holds nothing yet that its pages could lose.
    unsafe {
        madvise(start, size, MADV_DONTNEED);
        madvise(start, size, MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_start: NonNull<u8>, _size: usize) {}

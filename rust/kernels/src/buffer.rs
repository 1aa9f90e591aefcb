//! Memory aligned to a cache line, grown but never shrunk.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A type without padding of which any bit pattern is a value.
///
/// # Safety
/// Only for primitive integers of at most 64 bytes' alignment.
pub unsafe trait Plain: Copy + Default {}
// SAFETY: primitive integers.
unsafe impl Plain for i8 {}
// SAFETY: primitive integers.
unsafe impl Plain for u8 {}
// SAFETY: primitive integers.
unsafe impl Plain for i16 {}
// SAFETY: primitive integers.
unsafe impl Plain for i32 {}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zero-initialised bytes, aligned to 64, viewed as integers of any width.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// Makes room for `len` values of `T`; the contents stay.
    pub(crate) fn grow<T: Plain>(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; 64]));
        }
    }

    /// Makes room for `len` values and returns the first `len`.
    pub(crate) fn take<T: Plain>(&mut self, len: usize) -> &mut [T] {
        self.grow::<T>(len);
        // SAFETY: the lines hold at least len values, are aligned to 64, and any bytes are a T.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    /// Makes room for `len` more values at the end, from a cache line on, and returns them.
    pub(crate) fn extend<T: Plain>(&mut self, len: usize) -> &mut [T] {
        let before = self.bytes();
        let lines = (len * size_of::<T>()).div_ceil(64);
        self.lines.resize(self.lines.len() + lines, Line([0; 64]));
        &mut self.take(before / size_of::<T>() + len)[before / size_of::<T>()..]
    }

    /// Frees memory beyond its size.
    pub(crate) fn shrink(&mut self) {
        self.lines.shrink_to_fit();
    }

    /// Returns its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        64 * self.lines.len()
    }

    /// Views everything as values of `T`.
    pub(crate) fn as_slice<T: Plain>(&self) -> &[T] {
        // SAFETY: the lines hold that many values, are aligned to 64, and any bytes are a T.
        unsafe {
            std::slice::from_raw_parts(
                self.lines.as_ptr().cast(),
                self.lines.len() * 64 / size_of::<T>(),
            )
        }
    }
}

/// Views whole cache lines of a buffer as values of `T`.
pub(crate) fn cast<T: Plain>(lines: &[u8]) -> &[T] {
    assert!(
        lines.as_ptr().addr().is_multiple_of(align_of::<T>()),
        "values are aligned"
    );
    // SAFETY: the slice holds that many values, is aligned as T needs, and any bytes are a T.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() / size_of::<T>()) }
}

/// A fixed number of values from a cache line on, where kernels read and write them fastest.
#[derive(Clone, Debug)]
pub struct Aligned<T> {
    buffer: Buffer,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    /// Creates `len` zeros.
    pub fn new(len: usize) -> Self {
        let mut buffer = Buffer::default();
        buffer.grow::<T>(len);
        Self {
            buffer,
            len,
            values: PhantomData,
        }
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.buffer.as_slice()[..self.len]
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.buffer.take(self.len)
    }
}

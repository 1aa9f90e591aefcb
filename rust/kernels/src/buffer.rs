//! Memory aligned to a cache line, grown but never shrunk.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::large_pages::LargePages;

/// Bytes from which on large pages are worth it: with fewer, most of one would lie idle.
const JOINED_SIZE: usize = 256 << 10;

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
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    lines: Lines,
}

#[derive(Debug)]
enum Lines {
    Own(Vec<Line>),
    Joined(Joined),
}

impl Default for Lines {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

/// Lines of memory that several buffers have been moved to. No two of them have the same ones.
#[derive(Debug)]
struct Joined {
    first: NonNull<Line>,
    len: usize,
    _memory: Arc<LargePages>,
}

// SAFETY: it is the only owner of its lines, as a vector is.
unsafe impl Send for Joined {}
// SAFETY: as above.
unsafe impl Sync for Joined {}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self {
            lines: Lines::Own(self.lines().to_vec()),
        }
    }
}

impl Buffer {
    fn lines(&self) -> &[Line] {
        match &self.lines {
            Lines::Own(lines) => lines,
            // SAFETY: `join` gave it these lines, which were written, and nobody else has them.
            Lines::Joined(lines) => unsafe {
                std::slice::from_raw_parts(lines.first.as_ptr(), lines.len)
            },
        }
    }

    fn lines_mut(&mut self) -> &mut [Line] {
        match &mut self.lines {
            Lines::Own(lines) => lines,
            // SAFETY: as above.
            Lines::Joined(lines) => unsafe {
                std::slice::from_raw_parts_mut(lines.first.as_ptr(), lines.len)
            },
        }
    }

    /// Returns memory of its own, which can grow; the contents stay.
    fn own(&mut self) -> &mut Vec<Line> {
        if let Lines::Joined(_) = self.lines {
            self.lines = Lines::Own(self.lines().to_vec());
        }
        match &mut self.lines {
            Lines::Own(lines) => lines,
            Lines::Joined(_) => unreachable!("the lines were moved"),
        }
    }

    /// Makes room for `len` values of `T`; the contents stay.
    pub(crate) fn grow<T: Plain>(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if lines > self.lines().len() {
            self.own().resize(lines, Line([0; 64]));
        }
    }

    /// Makes room for `len` values and returns the first `len`.
    pub(crate) fn take<T: Plain>(&mut self, len: usize) -> &mut [T] {
        self.grow::<T>(len);
        let lines = self.lines_mut().as_mut_ptr();
        // SAFETY: the lines hold at least len values, are aligned to 64, and any bytes are a T.
        unsafe { std::slice::from_raw_parts_mut(lines.cast(), len) }
    }

    /// Makes room for `len` more values at the end, from a cache line on, and returns them.
    pub(crate) fn extend<T: Plain>(&mut self, len: usize) -> &mut [T] {
        let before = self.bytes();
        let lines = (len * size_of::<T>()).div_ceil(64) + self.lines().len();
        self.own().resize(lines, Line([0; 64]));
        &mut self.take(before / size_of::<T>() + len)[before / size_of::<T>()..]
    }

    /// Frees memory beyond its size.
    pub(crate) fn shrink(&mut self) {
        self.own().shrink_to_fit();
    }

    /// Returns its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        64 * self.lines().len()
    }

    /// Views everything as values of `T`.
    pub(crate) fn as_slice<T: Plain>(&self) -> &[T] {
        let lines = self.lines();
        // SAFETY: the lines hold that many values, are aligned to 64, and any bytes are a T.
        unsafe {
            std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines) / size_of::<T>())
        }
    }

    /// Moves buffers next to each other, with their contents. From [`JOINED_SIZE`] bytes on they
    /// are on large pages where the system has them; fewer stay where they are.
    pub(crate) fn join<'a>(buffers: impl IntoIterator<Item = &'a mut Self>) {
        let mut buffers: Vec<_> = buffers.into_iter().collect();
        let size = buffers.iter().map(|buffer| buffer.bytes()).sum();
        if size < JOINED_SIZE {
            return;
        }
        let memory = Arc::new(LargePages::new(size));
        let mut first = memory.start().cast::<Line>();
        for buffer in &mut buffers {
            let lines = buffer.lines();
            let len = lines.len();
            // SAFETY: the memory holds the lines of all buffers, one after the other.
            unsafe {
                first.copy_from_nonoverlapping(NonNull::from(lines).cast(), len);
                buffer.lines = Lines::Joined(Joined {
                    first,
                    len,
                    _memory: Arc::clone(&memory),
                });
                first = first.add(len);
            }
        }
    }
}

/// The buffers of a part of a working memory, for [`join`].
#[derive(Debug)]
pub struct Buffers<'a>(pub(crate) Vec<&'a mut Buffer>);

/// Moves working memory next to each other, with its contents: onto large pages where the system
/// has them, so that few accesses wait for an address to be translated. Little memory stays where
/// it is. A part that grows later leaves.
pub fn join<'a>(parts: impl IntoIterator<Item = Buffers<'a>>) {
    Buffer::join(parts.into_iter().flat_map(|part| part.0));
}

/// Views whole cache lines of a buffer as values of `T`.
pub(crate) fn cast<T: Plain>(lines: &[impl Plain]) -> &[T] {
    assert!(
        lines.as_ptr().addr().is_multiple_of(align_of::<T>()),
        "values are aligned"
    );
    // SAFETY: the slice holds that many values, is aligned as T needs, and any bytes are a T.
    unsafe {
        std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines) / size_of::<T>())
    }
}

impl<'a, T> From<&'a mut Aligned<T>> for Buffers<'a> {
    fn from(values: &'a mut Aligned<T>) -> Self {
        Self(vec![&mut values.buffer])
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers of different sizes with other contents each, 256 KB in all.
    fn buffers() -> Vec<Buffer> {
        let buffer = |(i, size): (usize, usize)| {
            let mut buffer = Buffer::default();
            buffer.take::<i32>(size).fill(i as i32);
            buffer
        };
        (0..).zip([16, 40_000, 0, 7, 25_600]).map(buffer).collect()
    }

    fn address(buffer: &Buffer) -> usize {
        buffer.as_slice::<u8>().as_ptr().addr()
    }

    #[test]
    fn joined_buffers_follow_each_other_with_their_contents() {
        let before = buffers();
        let mut joined = buffers();
        Buffer::join(&mut joined);
        for (joined, before) in joined.iter().zip(&before) {
            assert_eq!(joined.as_slice::<i32>(), before.as_slice::<i32>());
        }
        for pair in joined.windows(2) {
            assert_eq!(address(&pair[1]), address(&pair[0]) + pair[0].bytes());
        }
    }

    #[test]
    fn few_bytes_are_not_joined() {
        let mut few: Vec<_> = buffers().into_iter().filter(|b| b.bytes() < 1000).collect();
        let before: Vec<_> = few.iter().map(address).collect();
        Buffer::join(&mut few);
        assert_eq!(few.iter().map(address).collect::<Vec<_>>(), before);
    }

    #[test]
    fn a_joined_buffer_can_be_written_copied_kept_and_grown_alone() {
        let mut joined = buffers();
        Buffer::join(&mut joined);
        joined[1].take::<i32>(40_000).fill(-1);
        let copy = joined[1].clone();
        let mut kept = joined.remove(1);
        assert!(joined[0].as_slice().iter().all(|&value: &i32| value == 0));
        assert!(joined[2].as_slice::<i32>()[..7].iter().all(|&v| v == 3));
        let place = address(&kept);
        drop(joined);
        assert_ne!(address(&copy), place);
        assert_eq!(copy.as_slice::<i32>(), kept.as_slice::<i32>());
        assert_eq!(kept.take::<i32>(40_001)[39_999..], [-1, 0]);
        assert_ne!(address(&kept), place);
    }
}

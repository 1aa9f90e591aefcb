//! Copies into and out of DMA buffers that are mapped into this process.
//!
//! Depends on [`crate::host::transport`] and `uncached`.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use quasar_core::error::{Error, Result};

use crate::host::transport::Buffer;
use crate::host::uncached;

/// The caching of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caching {
    /// Cached like ordinary memory.
    Cached,
    /// Not cached.
    Uncached,
}

/// The mappings of a transport's buffers, by [`Buffer::index`].
#[derive(Debug, Default)]
pub(crate) struct HostMemory {
    /// Start, size and caching of each.
    mappings: Vec<(NonNull<u8>, usize, Caching)>,
}

// SAFETY: the mappings belong to no thread, and no reference to them exists.
unsafe impl Send for HostMemory {}

impl HostMemory {
    /// Adds the mapping of the next buffer.
    ///
    /// # Safety
    /// `bytes` bytes from `start` on can be read and written until the last use of `self`, and no
    /// reference to them exists. The device may write to them at any time.
    pub(crate) unsafe fn add(&mut self, start: NonNull<u8>, bytes: usize, caching: Caching) {
        self.mappings.push((start, bytes, caching));
    }

    /// Returns the index of the next buffer.
    pub(crate) fn next_index(&self) -> usize {
        self.mappings.len()
    }

    /// Copies `data` into a buffer.
    pub(crate) fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
        let (to, caching) = self.part(buffer, offset, data.len())?;
        // SAFETY: `to` has as many bytes (`part`), and `data` cannot overlap them: no reference to
        // them exists.
        unsafe {
            match caching {
                Caching::Cached => to.copy_from_nonoverlapping(data.as_ptr(), data.len()),
                Caching::Uncached => uncached::copy_in(to, data),
            }
        }
        Ok(())
    }

    /// Copies a part of a buffer to `out`. Bytes that the device writes meanwhile may be old or
    /// new; the output's check detects a mixture.
    pub(crate) fn copy_out(&self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
        let (from, caching) = self.part(buffer, offset, out.len())?;
        // SAFETY: as in `copy_in`.
        unsafe {
            match caching {
                Caching::Cached => from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()),
                Caching::Uncached => uncached::copy_out(from, out),
            }
        }
        Ok(())
    }

    fn part(&self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<(*mut u8, Caching)> {
        let range = buffer.range(offset, bytes)?;
        let Some(&(start, size, caching)) = self.mappings.get(buffer.index) else {
            return Err(Error::InvalidValue("a buffer of another device".into()));
        };
        assert!(range.end <= size, "a buffer is as large as its mapping");
        // SAFETY: the range lies within the mapping.
        Ok((unsafe { start.as_ptr().add(range.start) }, caching))
    }
}

//! DMA buffers as they are mapped into this process: the copies into and out of them.
//!
//! Depends on [`crate::transport`].
#![allow(unsafe_code)]

use std::ptr::NonNull;

use quasar_core::error::{Error, Result};

use crate::transport::Buffer;

/// The mappings of a transport's buffers, by [`Buffer::index`].
#[derive(Debug, Default)]
pub(crate) struct HostMemory {
    /// Start and size of each.
    mappings: Vec<(NonNull<u8>, usize)>,
}

// SAFETY: the mappings belong to no thread, and no reference to them exists.
unsafe impl Send for HostMemory {}

impl HostMemory {
    /// Adds the mapping of the next buffer.
    ///
    /// # Safety
    /// `bytes` bytes from `start` on can be read and written until the last use of `self`, and no
    /// reference to them exists. The device may write to them at any time.
    pub(crate) unsafe fn add(&mut self, start: NonNull<u8>, bytes: usize) {
        self.mappings.push((start, bytes));
    }

    /// Returns the index of the next buffer.
    pub(crate) fn next_index(&self) -> usize {
        self.mappings.len()
    }

    /// Copies `data` into a buffer.
    pub(crate) fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
        let to = self.part(buffer, offset, data.len())?;
        // SAFETY: `to` has as many bytes (`part`), and `data` cannot overlap them: no reference to
        // them exists.
        unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) }
        Ok(())
    }

    /// Copies a part of a buffer to `out`. Bytes that the device is writing meanwhile may be old or
    /// new: the output's check detects that.
    pub(crate) fn copy_out(&self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
        let from = self.part(buffer, offset, out.len())?;
        // SAFETY: as in `copy_in`.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) }
        Ok(())
    }

    fn part(&self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<*mut u8> {
        let range = buffer.range(offset, bytes)?;
        let Some(&(start, size)) = self.mappings.get(buffer.index) else {
            return Err(Error::InvalidValue("a buffer of another device".into()));
        };
        assert!(range.end <= size, "a buffer is as large as its mapping");
        // SAFETY: the range lies within the mapping.
        Ok(unsafe { start.as_ptr().add(range.start) })
    }
}

//! Asks for memory before it is needed.
//!
//! Where a small allocation fails, Rust ends the process. Work that needs memory in proportion to a
//! subnet therefore asks first whether the process can have all of it, and some more for what is
//! small. Limits of the address space (`ulimit -v`) and of committed memory are noticed like this;
//! nothing is written, so a machine that promises more memory than it has still does so.
//!
//! Depends on [`crate::error`].

use memmap2::MmapOptions;
#[cfg(unix)]
use rustix::process::{getrlimit, Resource};

use crate::error::{Error, Result};

/// Bytes for everything that is small, and for the allocator's own needs.
const SLACK: usize = 4 << 20;
/// Bytes of a thread's stack with glibc, if its size has no limit.
const STACK: u64 = 2 << 20;
/// Bytes that are asked for at a time: Linux refuses more than the machine has.
const PIECE: usize = 256 << 20;

/// Checks that the process can have `bytes` more bytes of memory.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn check(what: &'static str, bytes: usize) -> Result<()> {
    let bytes = bytes.saturating_add(SLACK);
    // Not by the allocator, which would keep what it has once had.
    let piece = |start: usize| MmapOptions::new().len(PIECE.min(bytes - start)).map_anon();
    let pieces: Result<Vec<_>, _> = (0..bytes).step_by(PIECE).map(piece).collect();
    pieces.map(drop).map_err(|_| Error::OutOfMemory {
        what,
        bytes: bytes as u64,
    })
}

/// Checks that the process can have memory for what is small, if its address space is limited:
/// threads' own memory may have taken the rest since a subnet was loaded.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn check_limited(what: &'static str) -> Result<()> {
    if limit_of(Resource::As).is_some() {
        check(what, 0)?;
    }
    Ok(())
}

/// Checks that the process can have memory for another thread of Python, if its address space is
/// limited. Python would wait for ever for a thread that finds no memory when it begins.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn check_thread() -> Result<()> {
    if limit_of(Resource::As).is_some() {
        let stack = limit_of(Resource::Stack).unwrap_or(STACK);
        check("a thread", usize::try_from(stack).unwrap_or(usize::MAX))?;
    }
    Ok(())
}

/// Returns the limit of a resource in bytes, if it has one.
#[cfg(unix)]
fn limit_of(resource: Resource) -> Option<u64> {
    getrlimit(resource).current
}

/// The limits that other systems do not have.
#[cfg(not(unix))]
#[derive(Clone, Copy)]
enum Resource {
    As,
    Stack,
}

#[cfg(not(unix))]
fn limit_of(_resource: Resource) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_than_there_are_addresses_is_refused() {
        check("little", 1 << 20).unwrap();
        for bytes in [usize::MAX, usize::MAX / 2, 1 << (usize::BITS - 4)] {
            let error = check("a lot", bytes).unwrap_err();
            assert_eq!(error.kind(), "OutOfMemory");
            assert!(error.to_string().starts_with("a lot needs "), "{error}");
        }
    }
}

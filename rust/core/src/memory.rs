//! Asks for memory before it is needed.
//!
//! Rust ends the process where a small allocation fails. Work that needs memory in proportion to a
//! subnet therefore asks first whether the process can have all of it, and some more for what is
//! small. Limits of the address space (`ulimit -v`) and of committed memory are noticed like this;
//! nothing is written, so a machine that promises more memory than it has still does so.
//!
//! A race remains: glibc gives a new thread a heap of 64 MB of addresses, which may take what a
//! check has just found free. Of 7,600 limits near the edge, 3 ended the process (measured). A
//! global allocator with a reserve made this 0 of 3,765 (commit 7a970412); it cost 240 lines.
//!
//! Depends on [`crate::error`].

use memmap2::MmapOptions;

use crate::error::{Error, Result};

/// Bytes for everything that is small, and for the allocator's own needs.
const SLACK: usize = 4 << 20;
/// Bytes of a thread's stack with glibc, if its size has no limit.
#[cfg(unix)]
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
    stack_if_limited().map_or(Ok(()), |_| check(what, 0))
}

/// Checks that the process can have memory for another thread of Python, if its address space is
/// limited. Python would wait for ever for a thread that finds no memory when it begins.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn check_thread() -> Result<()> {
    stack_if_limited().map_or(Ok(()), |stack| check("a thread", stack))
}

/// Returns the bytes of a thread's stack if the address space is limited.
fn stack_if_limited() -> Option<usize> {
    #[cfg(unix)]
    {
        use rustix::process::{getrlimit, Resource};

        getrlimit(Resource::As).current?;
        let stack = getrlimit(Resource::Stack).current.unwrap_or(STACK);
        Some(usize::try_from(stack).unwrap_or(usize::MAX))
    }
    #[cfg(not(unix))]
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

//! Threads that survive a fork.
//!
//! A forked process has its parent's memory but none of its threads, so a pool that the parent built would wait for ever. State
//! that depends on threads, and every lock beside it, is therefore kept by process: a child builds its own and never touches (nor
//! frees) its parent's. No thread of this crate runs in rayon's global pool. Depends on [`crate::error`] and the kernels' team.

use std::process;
use std::sync::OnceLock;

use quasar_kernels::Team;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Threads of one pool, at most.
pub const MAX_THREADS: usize = quasar_kernels::MAX_TEAM;

/// As many threads as the machine has, within the limit.
pub fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
}

/// A pool of `threads` threads.
///
/// # Errors
/// [`Error::InvalidValue`] for 0 or more than [`MAX_THREADS`], [`Error::Threads`] where they cannot be started.
pub(crate) fn build(threads: usize) -> Result<ThreadPool> {
    check_threads(threads)?;
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("quasar-rows-{i}"))
        .build()
        .map_err(|e| Error::Threads {
            threads,
            problem: e.to_string(),
        })
}

/// A team of `threads` threads, the caller among them.
///
/// # Errors
/// As [`build`].
pub(crate) fn team(threads: usize) -> Result<Team> {
    check_threads(threads)?;
    Team::new(threads).map_err(|e| Error::Threads {
        threads,
        problem: e.to_string(),
    })
}

/// Refuses a number of threads that no pool has.
pub(crate) fn check_threads(threads: usize) -> Result<()> {
    if (1..=MAX_THREADS).contains(&threads) {
        Ok(())
    } else {
        Err(Error::InvalidValue(format!(
            "threads is {threads}; it must be within [1, {MAX_THREADS}]"
        )))
    }
}

/// A value for each process that asks for it: the one that made this and the children that were forked since.
#[derive(Debug)]
pub struct PerProcess<T>(OnceLock<Box<Node<T>>>);

#[derive(Debug)]
struct Node<T> {
    process: u32,
    /// `None` only while it is dropped.
    value: Option<T>,
    /// The value of a process forked from this one.
    next: PerProcess<T>,
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> PerProcess<T> {
    /// Without a value yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// This process's value; the first call makes it. Takes no lock but that of a pointer's first setting.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        let process = process::id();
        let end = match self.find(process) {
            Ok(value) => return Ok(value),
            Err(end) => end,
        };
        // Made before it is set: making is slow, and a fork meanwhile must not find the cell half set.
        let node = Box::new(Node {
            process,
            value: Some(make()?),
            next: Self::new(),
        });
        // Another thread may have been faster; its value is as good.
        let _ = end.0.set(node);
        match self.find(process) {
            Ok(value) => Ok(value),
            Err(_) => unreachable!("this process's value is set"),
        }
    }

    /// The process's value, or the cell where it belongs.
    fn find(&self, process: u32) -> Result<&T, &Self> {
        let mut end = self;
        while let Some(node) = end.0.get() {
            match &node.value {
                Some(value) if node.process == process => return Ok(value),
                _ => end = &node.next,
            }
        }
        Err(end)
    }
}

impl<T> Drop for Node<T> {
    fn drop(&mut self) {
        if self.process != process::id() {
            // Its threads are not here, its locks may be held by them for ever.
            std::mem::forget(self.value.take());
        }
    }
}

/// Runs `work` on every item and its `chunk` of `rows`, in threads where there is a team.
pub(crate) fn for_each<A: Send, B: Send>(
    team: Option<&Team>,
    items: &mut [A],
    rows: &mut [B],
    chunk: usize,
    work: impl Fn(usize, &mut A, &mut [B]) + Sync,
) {
    if let Some(team) = team {
        team.for_each(items, rows, chunk, work);
    } else {
        let mut rows = rows.chunks_mut(chunk);
        for (i, item) in items.iter_mut().enumerate() {
            work(i, item, rows.next().unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_makes_its_value_once() {
        let values = PerProcess::new();
        assert_eq!(*values.get(|| Ok(1)).unwrap(), 1);
        assert_eq!(*values.get(|| Ok(2)).unwrap(), 1);
    }

    #[test]
    fn a_failure_is_tried_again() {
        let values = PerProcess::new();
        assert!(values.get(|| build(0).map(|_| 1)).is_err());
        assert_eq!(*values.get(|| Ok(2)).unwrap(), 2);
    }

    #[test]
    fn another_processs_value_is_left_alone() {
        struct Loud;
        impl Drop for Loud {
            fn drop(&mut self) {
                panic!("dropped in another process");
            }
        }
        let parents = PerProcess::new();
        let node = Node {
            process: process::id() + 1,
            value: Some((1, Some(Loud))),
            next: PerProcess::new(),
        };
        assert!(parents.0.set(Box::new(node)).is_ok());
        assert_eq!(parents.get(|| Ok((2, None))).unwrap().0, 2);
        drop(parents);
    }
}

//! Teams of threads, idle working memory, and both after a fork.
//!
//! A forked process has its parent's memory but none of its threads, so it would wait for ever for
//! a team of its parent's. State that depends on threads, with every lock near it, is therefore
//! kept by process: a child builds its own and never touches (nor frees) its parent's.
//!
//! Depends on [`crate::error`], [`crate::memory`] and the kernels' team.

use std::process;
use std::sync::{Mutex, OnceLock, PoisonError};

use quasar_kernels::Team;

use crate::error::{Error, Result};
use crate::memory;

/// The largest number of threads of one team.
pub const MAX_THREADS: usize = quasar_kernels::MAX_TEAM;

/// Bytes of a thread: its stack, and what the system needs for it.
const THREAD_BYTES: usize = (2 << 20) + (256 << 10);

/// Returns the number of threads of the machine, within the limit.
pub fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
}

/// Starts a team of `threads` threads, the caller among them.
///
/// # Errors
/// [`Error::InvalidValue`] for 0 or more than [`MAX_THREADS`], [`Error::Threads`] if they cannot be
/// started, [`Error::OutOfMemory`].
pub(crate) fn team(threads: usize) -> Result<Team> {
    check_threads(threads)?;
    memory::check("the threads", threads * THREAD_BYTES)?;
    Team::new(threads).map_err(|e| Error::Threads {
        threads,
        problem: e.to_string(),
    })
}

/// Refuses a number of threads that no team has.
pub(crate) fn check_threads(threads: usize) -> Result<()> {
    if (1..=MAX_THREADS).contains(&threads) {
        Ok(())
    } else {
        Err(Error::InvalidValue(format!(
            "threads is {threads}; it must be within [1, {MAX_THREADS}]"
        )))
    }
}

/// A value for each process that asks for it: the process that created this, and children forked
/// since.
#[derive(Debug)]
pub struct PerProcess<T>(OnceLock<Box<Node<T>>>);

#[derive(Debug)]
struct Node<T> {
    process: u32,
    /// `None` only while the node is dropped.
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
    /// Creates the cell without a value.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Returns this process's value; the first call makes it. Takes no lock, but for the first
    /// setting of a pointer.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        let process = process::id();
        let end = match self.find(process) {
            Ok(value) => return Ok(value),
            Err(end) => end,
        };
        // The value is made before the cell is set: a fork meanwhile must not find the cell half
        // set.
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

    /// Returns this process's value if it was made.
    pub fn existing(&self) -> Option<&T> {
        self.find(process::id()).ok()
    }

    /// Returns the process's value, or the cell for it.
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
            // Its threads are not in this process, and may hold its locks for ever.
            std::mem::forget(self.value.take());
        }
    }
}

/// Values that one caller at a time uses: working memory, taken for a frame and given back after
/// it.
#[derive(Debug)]
pub struct IdlePool<T> {
    idle: Mutex<Vec<T>>,
    most: usize,
}

impl<T> IdlePool<T> {
    /// Creates a pool that keeps at most `most` idle values. (More callers at once than the machine
    /// has cores do not come back for their memory.)
    pub const fn new(most: usize) -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
            most,
        }
    }

    /// Returns the number of idle values.
    pub(crate) fn idle(&self) -> usize {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.len()
    }

    /// Calls `run` with an idle value, or with a new one from `make`.
    ///
    /// # Errors
    /// Those of `make` and of `run`.
    pub fn with<R>(
        &self,
        make: impl FnOnce() -> Result<T>,
        run: impl FnOnce(&mut T) -> Result<R>,
    ) -> Result<R> {
        let lock = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lock().pop();
        let mut value = match taken {
            Some(value) => value,
            None => make()?,
        };
        let result = run(&mut value);
        let mut idle = lock();
        if idle.len() < self.most {
            idle.push(value);
        }
        result
    }
}

/// Runs `work` on every item and its `chunk` of `rows`, on the threads of the team if there is one.
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
        assert!(values.get(|| team(0).map(|_| 1)).is_err());
        assert_eq!(*values.get(|| Ok(2)).unwrap(), 2);
    }

    #[test]
    fn a_crowd_of_callers_leaves_few_idle_values() {
        fn nest(pool: &IdlePool<u32>, depth: u32) {
            if depth > 0 {
                let run = |_: &mut u32| {
                    nest(pool, depth - 1);
                    Ok(())
                };
                pool.with(|| Ok(depth), run).unwrap();
            }
        }
        let pool = IdlePool::new(3);
        nest(&pool, 8);
        assert_eq!(pool.idle.lock().unwrap().len(), 3);
        nest(&pool, 2);
        assert_eq!(pool.idle.lock().unwrap().len(), 3);
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

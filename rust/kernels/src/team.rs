//! A team of threads for work that forks and joins a hundred times a frame.
//!
//! A join of a general thread pool costs microseconds: queues, locks, sleeping threads. Here the caller writes one job and counts a
//! turn up; members that have just worked still watch the turn, and the last one to end counts the caller's wait down. Nothing is
//! allocated and no lock is taken. A member that has had nothing to do for a while sleeps until it is woken, so an idle team
//! costs no CPU time.
//!
//! Lives in this crate because a job is borrowed from its caller, which safe Rust cannot lend to a thread that outlives the call.

use std::cell::UnsafeCell;
use std::fmt;
use std::hint;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread that waits watches before it sleeps: longer than the parts of a frame between two joins, and than what a
/// caller does between two frames.
const WATCH: Duration = Duration::from_micros(50);

/// Work of the caller's, called with each member's number.
type Work = dyn Fn(usize) + Sync;

struct Job {
    work: *const Work,
    caller: Thread,
}

struct Shared {
    /// Jobs so far.
    turn: AtomicUsize,
    /// Written by the team's one caller while no member works, read by members between a turn and their end of it.
    job: UnsafeCell<Option<Job>>,
    /// Members that have not ended the job.
    working: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is only touched as its comment says, ordered by `turn` (released by the caller, acquired by members) and `working`
// (the other way round); its pointer is to a `Sync` closure that lives until `working` is 0.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// Threads that wait for work; the caller of the work is one more.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
    busy: AtomicBool,
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

/// Watches for `WATCH`, then sleeps until somebody unparks this thread, until it is `ready`.
fn wait_until(ready: impl Fn() -> bool) {
    loop {
        let mut start = None;
        loop {
            for _ in 0..32 {
                if ready() {
                    return;
                }
                hint::spin_loop();
            }
            if start.get_or_insert_with(Instant::now).elapsed() > WATCH {
                break;
            }
        }
        thread::park();
    }
}

impl Shared {
    fn serve(&self, member: usize) {
        let mut turn = 0;
        loop {
            wait_until(|| self.turn.load(Ordering::Acquire) != turn);
            turn = turn.wrapping_add(1);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: the turn was counted up after the job was written, and the caller waits for this member before it writes again.
            let job = unsafe { &*self.job.get() };
            let Some(Job { work, caller }) = job else {
                unreachable!("a turn has a job")
            };
            // The job is gone once this member has been counted.
            let caller = caller.clone();
            // SAFETY: the closure lives until this member has been counted.
            let work = AssertUnwindSafe(|| unsafe { (**work)(member) });
            if catch_unwind(work).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            if self.working.fetch_sub(1, Ordering::AcqRel) == 1 {
                caller.unpark();
            }
        }
    }
}

/// Ends a job, also where the caller's own part panics.
struct Join<'a>(&'a Team);

impl Drop for Join<'_> {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        wait_until(|| shared.working.load(Ordering::Acquire) == 0);
        self.0.busy.store(false, Ordering::Release);
    }
}

impl Team {
    /// A team of `threads`, the caller among them, so `threads - 1` are started. They are named `quasar-1` and so on.
    ///
    /// # Errors
    /// The system's, where a thread cannot be started.
    ///
    /// # Panics
    /// When `threads` is 0.
    pub fn new(threads: usize) -> io::Result<Self> {
        assert!(threads > 0, "a team has at least its caller");
        let mut team = Self {
            shared: Arc::new(Shared {
                turn: AtomicUsize::new(0),
                job: UnsafeCell::new(None),
                working: AtomicUsize::new(0),
                panicked: AtomicBool::new(false),
                stop: AtomicBool::new(false),
            }),
            members: Vec::with_capacity(threads - 1),
            busy: AtomicBool::new(false),
        };
        for member in 1..threads {
            let shared = Arc::clone(&team.shared);
            let builder = thread::Builder::new().name(format!("quasar-{member}"));
            // Where one cannot be started, dropping the team ends the others.
            team.members
                .push(builder.spawn(move || shared.serve(member))?);
        }
        Ok(team)
    }

    /// Members and caller.
    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Wakes sleeping members ahead of work that comes within microseconds.
    pub fn wake(&self) {
        for member in &self.members {
            member.thread().unpark();
        }
    }

    /// Calls `work(i)` for every i below [`Self::threads`], each in a thread of its own, 0 in the caller's. While another caller has the
    /// team, the caller does all of it.
    ///
    /// # Panics
    /// When `work` does, after all have ended.
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        if self.members.is_empty() || self.busy.swap(true, Ordering::Acquire) {
            (0..self.threads()).for_each(work);
            return;
        }
        let shared = &self.shared;
        // SAFETY: only the lifetime changes; `Join` keeps this call from ending before every member has ended the work.
        let lent = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work)
        };
        // SAFETY: this caller has the team to itself, and no member reads the job before the next turn.
        unsafe {
            *shared.job.get() = Some(Job {
                work: lent,
                caller: thread::current(),
            });
        }
        shared.working.store(self.members.len(), Ordering::Relaxed);
        shared.turn.fetch_add(1, Ordering::Release);
        let join = Join(self);
        self.wake();
        work(0);
        drop(join);
        assert!(
            !shared.panicked.swap(false, Ordering::Relaxed),
            "a thread of the team panicked"
        );
    }

    /// Calls `work(i, &mut items[i], rows)` for every item, with the item's `chunk` of `rows` (the last one may be shorter; none where they
    /// have run out). The first item of each thread is the one of its number, so that an item stays in one core's cache
    /// from call to call; threads that are done take what is left.
    ///
    /// # Panics
    /// When `work` does, or `chunk` is 0.
    pub fn for_each<A: Send, B: Send>(
        &self,
        items: &mut [A],
        rows: &mut [B],
        chunk: usize,
        work: impl Fn(usize, &mut A, &mut [B]) + Sync,
    ) {
        assert!(chunk > 0, "a chunk has at least one row");
        let next = AtomicUsize::new(self.threads());
        let (items, rows) = (Shares::new(items), Shares::new(rows));
        self.run(&|thread| {
            let mut i = thread;
            while i < items.len {
                // SAFETY: every i is taken once: those below the number of threads by their thread, the others from the counter.
                let (item, rows) = unsafe { (items.share(i, 1), rows.share(i, chunk)) };
                work(i, &mut item[0], rows);
                i = next.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.turn.fetch_add(1, Ordering::Release);
        self.wake();
        for member in self.members.drain(..) {
            // Members catch panics.
            let _ = member.join();
        }
    }
}

/// A slice that threads share out among them.
struct Shares<'a, T> {
    first: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out disjoint parts of a slice of `Send` values.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Self {
            first: slice.as_mut_ptr(),
            len: slice.len(),
            slice: std::marker::PhantomData,
        }
    }

    /// The values from `i * chunk`, `chunk` of them or as many as there are.
    ///
    /// # Safety
    /// No two calls with one `i` or different `chunk`s.
    #[allow(clippy::mut_from_ref)] // what it hands out is disjoint
    unsafe fn share(&self, i: usize, chunk: usize) -> &mut [T] {
        let start = i.saturating_mul(chunk).min(self.len);
        // SAFETY: within the slice that `self` borrows mutably, and disjoint from other shares by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.first.add(start), chunk.min(self.len - start))
        }
    }
}

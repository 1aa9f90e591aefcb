//! A team of threads for work that forks and joins a hundred times a frame.
//!
//! A general thread pool needs microseconds to join: queues, locks, sleeping threads. Here the
//! caller writes one job and opens it. Members that have just worked still watch for a job; each
//! takes the share of its own number, and then the shares that nobody has begun. The caller waits
//! only for members that entered the job, so a member that sleeps delays nobody. One that is
//! preempted in the middle of its work gets the caller's core (Linux): see `preempted`. Nothing is
//! allocated and no lock is taken. A member without work sleeps after a while until it
//! is woken: an idle team costs no CPU time.
//!
//! The module is in this crate because a job is borrowed from its caller, which safe Rust cannot
//! lend to a thread that outlives the call.

#[cfg_attr(any(loom, not(target_os = "linux")), path = "no_cores.rs")]
mod cores;
#[cfg(all(loom, test))]
mod model;
mod preempted;
mod progress;
mod steps;
mod sync;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};

use preempted::{Awaited, Seat};
use progress::Progress;
use sync::{
    thread, wait_at_end, wait_for, Arc, AtomicBool, AtomicU64, AtomicUsize, JoinHandle, Ordering,
    Others, Thread, UnsafeCell,
};

pub use steps::for_each_step;

/// The largest number of threads of a team.
pub const MAX_TEAM: usize = if cfg!(loom) { 4 } else { 256 };

/// The caller's work, called with the number of each member that enters.
type Work = dyn Fn(usize) + Sync;

struct Job {
    work: *const Work,
    caller: Thread,
}

/// Mask of `Shared::state`: the number of members inside the job.
const INSIDE: u64 = (1 << 32) - 1;
/// Bit of `Shared::state`: members may enter.
const OPEN: u64 = 1 << 32;
/// Increment of `Shared::state`: one more job.
const TURN: u64 = 1 << 33;

struct Shared {
    /// The number of jobs so far, the latest job's openness, and the members inside it.
    state: AtomicU64,
    /// Written by the team's one caller while nobody is inside, read by members inside.
    job: UnsafeCell<Option<Job>>,
    /// Members that have started.
    started: AtomicUsize,
    /// Of the members, from the first one on.
    seats: Vec<Seat>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is only touched as its comment says, and `state` orders that; its pointer is to a
// `Sync` closure that lives until nobody is inside.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    /// Returns the turn of the job if it is open and not that of `turn`.
    fn opened_since(&self, turn: u64) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        (state & OPEN != 0 && state / TURN != turn).then_some(state / TURN)
    }

    /// Enters the job of that turn, unless the job is closed already.
    fn enter(&self, turn: u64) -> bool {
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & OPEN != 0 && state / TURN == turn).then_some(state + 1)
            })
            .is_ok()
    }

    fn serve(&self, member: usize) {
        let seat = &self.seats[member - 1];
        seat.take();
        self.started.fetch_add(1, Ordering::Release);
        let mut turn = 0;
        loop {
            turn = wait_for(|| self.opened_since(turn));
            if !self.enter(turn) {
                continue;
            }
            seat.enter();
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: this member is inside, so the caller does not write.
            let (work, caller) = self.job.with(|job| match unsafe { &*job } {
                // A clone: the job may be gone once this member has left.
                Some(Job { work, caller }) => (*work, caller.clone()),
                None => unreachable!("an open job is there"),
            });
            // SAFETY: the closure lives while somebody is inside.
            let work = AssertUnwindSafe(|| unsafe { (*work)(member) });
            if let Err(payload) = catch_unwind(work) {
                // Not dropped: that could panic, too.
                std::mem::forget(payload);
                self.panicked.store(true, Ordering::Relaxed);
            }
            seat.leave();
            if self.state.fetch_sub(1, Ordering::AcqRel) & (OPEN | INSIDE) == 1 {
                caller.unpark();
            }
            if seat.is_moved() {
                // The caller sends it back. Then it enters again: it may have left early.
                while seat.is_moved() {
                    thread::park();
                }
                turn -= 1;
            }
        }
    }
}

/// The members, as a thread sees them that waits for them.
struct AwaitedMembers<'a> {
    team: &'a Team,
    /// `None` for a thread that may not move them, a member.
    awaited: Option<Awaited>,
}

impl Others for AwaitedMembers<'_> {
    fn note_times(&self) {
        if self.awaited.is_some() {
            self.team.shared.seats.iter().for_each(Seat::note_time);
        }
    }

    fn fetch_preempted(&self) -> bool {
        self.awaited.is_some_and(|awaited| {
            let seats = self.team.shared.seats.iter();
            seats.fold(false, |any, seat| seat.fetch_if_preempted(awaited) | any)
        })
    }

    fn send_back(&self) {
        if self.awaited.is_some() {
            self.team.send_back();
        }
    }
}

/// Ends a job, also if the caller's own part panics, and reports whether a member panicked.
struct Join<'a>(&'a Team, &'a Cell<bool>);

impl Drop for Join<'_> {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        wait_at_end(
            || shared.state.load(Ordering::Acquire) & INSIDE == 0,
            &AwaitedMembers {
                team: self.0,
                awaited: Some(Awaited::Job),
            },
        );
        // Those moved in this wait, or before a panic in the middle of another one.
        self.0.send_back();
        // Before the next caller's job can set it.
        self.1.set(shared.panicked.swap(false, Ordering::Relaxed));
        self.0.busy.store(false, Ordering::Release);
    }
}

/// Threads that wait for work; the caller of the work is one more.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
    busy: AtomicBool,
    /// Of the items of work in steps.
    progress: Vec<Progress>,
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

impl Team {
    /// Starts a team of `threads` threads: the caller and `threads - 1` new ones, named `quasar-1`
    /// and so on.
    ///
    /// # Errors
    /// The system's error if a thread cannot be started.
    ///
    /// # Panics
    /// If `threads` is 0 or more than [`MAX_TEAM`].
    pub fn new(threads: usize) -> io::Result<Self> {
        assert!(
            (1..=MAX_TEAM).contains(&threads),
            "a team of {threads} threads; 1 to {MAX_TEAM}"
        );
        let mut team = Self {
            shared: Arc::new(Shared {
                state: AtomicU64::new(0),
                job: UnsafeCell::new(None),
                started: AtomicUsize::new(0),
                seats: (1..threads).map(|_| Seat::default()).collect(),
                panicked: AtomicBool::new(false),
                stop: AtomicBool::new(false),
            }),
            members: Vec::with_capacity(threads - 1),
            busy: AtomicBool::new(false),
            progress: (0..threads).map(|_| Progress::default()).collect(),
        };
        for member in 1..threads {
            let shared = Arc::clone(&team.shared);
            let builder = thread::Builder::new().name(format!("quasar-{member}"));
            // If one cannot be started, dropping the team ends the others.
            team.members
                .push(builder.spawn(move || shared.serve(member))?);
        }
        // A thread allocates when it starts: that must not fall into a frame.
        while team.shared.started.load(Ordering::Acquire) < team.members.len() {
            thread::yield_now();
        }
        Ok(team)
    }

    /// Returns the number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Wakes sleeping members ahead of work that comes within microseconds.
    pub fn wake(&self) {
        for member in &self.members {
            member.thread().unpark();
        }
    }

    /// Sends members back that have been moved to the core of the caller, which calls it.
    fn send_back(&self) {
        for (seat, member) in self.shared.seats.iter().zip(&self.members) {
            seat.send_back(|| member.thread().unpark());
        }
    }

    /// Claims the members for a job, unless there are none or another caller has them.
    fn claim(&self) -> bool {
        !self.members.is_empty() && !self.busy.swap(true, Ordering::Acquire)
    }

    /// Calls `work(0)` here, and `work(member)` in every member that enters before `work(0)` ends,
    /// again if the member was moved meanwhile.
    /// The caller has claimed the members, which are free again afterwards.
    fn fork(&self, work: &(dyn Fn(usize) + Sync)) {
        let shared = &self.shared;
        // SAFETY: only the lifetime changes; `Join` keeps this call from ending while somebody is
        // inside.
        let lent = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work)
        };
        let job = Job {
            work: lent,
            caller: thread::current(),
        };
        // SAFETY: this caller has the team to itself, and nobody is inside.
        shared.job.with_mut(|place| unsafe { *place = Some(job) });
        // The last job is closed and left: this opens the next one.
        shared.state.fetch_add(TURN | OPEN, Ordering::AcqRel);
        let panicked = Cell::new(false);
        let join = Join(self, &panicked);
        self.wake();
        work(0);
        drop(join);
        assert!(!panicked.get(), "a thread of the team panicked");
    }

    /// Calls `work(i, &mut items[i], rows)` for every item, with the item's `chunk` of `rows` (the
    /// last chunk may be shorter; it is empty once rows have run out). Each thread begins with the
    /// item of its number, so that an item stays in one core's cache from call to call. Threads
    /// that are done take items that nobody has begun.
    ///
    /// # Panics
    /// If `work` does, after all threads have ended, or if `chunk` is 0.
    pub fn for_each<A: Send, B: Send>(
        &self,
        items: &mut [A],
        rows: &mut [B],
        chunk: usize,
        work: impl Fn(usize, &mut A, &mut [B]) + Sync,
    ) {
        assert!(chunk > 0, "a chunk has at least one row");
        let own = self.threads().min(items.len());
        let begun: [AtomicBool; MAX_TEAM] = std::array::from_fn(|_| AtomicBool::new(false));
        let next = AtomicUsize::new(own);
        let (items, rows) = (Shares::new(items), Shares::new(rows));
        let work = |thread: usize| {
            let take = |i: usize| {
                // SAFETY: every i is taken once: those below `own` by who sets `begun`, the others
                // from the counter.
                let (item, rows) = unsafe { (items.share(i, 1), rows.share(i, chunk)) };
                work(i, &mut item[0], rows);
            };
            let begin = |i: usize| {
                if !begun[i].swap(true, Ordering::Relaxed) {
                    take(i);
                }
            };
            if thread < own {
                begin(thread);
            }
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= items.len {
                    break;
                }
                take(i);
            }
            (0..own).for_each(begin);
        };
        if self.claim() {
            self.fork(&work);
        } else {
            work(0);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.state.fetch_add(TURN | OPEN, Ordering::Release);
        self.wake();
        for member in self.members.drain(..) {
            // Members catch panics.
            let _ = member.join();
        }
    }
}

/// A slice that is shared out among threads.
struct Shares<'a, T> {
    first: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out disjoint parts of a slice of `Send` values; who shares all of them sees to
// it that they are `Sync`.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Self {
            first: slice.as_mut_ptr(),
            len: slice.len(),
            slice: std::marker::PhantomData,
        }
    }

    /// Returns the values from `i * chunk` on, `chunk` of them or as many as there are.
    ///
    /// # Safety
    /// No two results at a time with one `i` or different `chunk`s.
    #[allow(clippy::mut_from_ref)] // what it hands out is disjoint
    unsafe fn share(&self, i: usize, chunk: usize) -> &mut [T] {
        let start = i.saturating_mul(chunk).min(self.len);
        // SAFETY: within the slice that `self` borrows mutably, and disjoint from other shares by
        // the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.first.add(start), chunk.min(self.len - start))
        }
    }

    /// Returns all values.
    ///
    /// # Safety
    /// No share at the same time.
    unsafe fn all(&self) -> &[T] {
        // SAFETY: the slice that `self` borrows, of which nothing is written meanwhile.
        unsafe { std::slice::from_raw_parts(self.first, self.len) }
    }
}

//! Moves members that the system has preempted to the core of the caller that waits for them.
//!
//! A member that shares its core with another busy process is off the core half of the time, mostly
//! in the middle of its work, and nobody can take over a half. The caller has nothing to do then.
//! So it gives its own core: it allows the member that core alone, and sleeps. When the member has
//! left the job, it goes back to the cores that it had.
//!
//! A member counts as preempted if it is inside the job and its CPU time stands still. Nothing here
//! has to succeed: where the system refuses, the caller waits, as it does on other systems.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Time over which a member's CPU time is watched.
const LOOK: Duration = Duration::from_micros(10);

const WORDS: usize = 16;

/// A set of cores, as the system takes it: of 1024 cores, the first ones.
type Cores = [u64; WORDS];

/// A member, as a waiting caller sees it.
#[derive(Debug, Default)]
pub(super) struct Seat {
    thread: AtomicUsize,
    inside: AtomicBool,
    /// The member has been moved, and `cores` are those that it had.
    moved: AtomicBool,
    cores: [AtomicU64; WORDS],
}

impl Seat {
    /// Makes the calling thread the seat's member.
    pub(super) fn take(&self) {
        self.thread.store(own_thread(), Ordering::Relaxed);
    }

    /// Notes that the member is inside a job.
    pub(super) fn enter(&self) {
        self.inside.store(true, Ordering::Relaxed);
    }

    /// Returns true if the member, which calls it, is on the core of a caller that sleeps.
    pub(super) fn is_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed)
    }

    /// Notes that the member's work is done.
    pub(super) fn leave(&self) {
        self.inside.store(false, Ordering::SeqCst);
    }

    /// Takes the member, which calls it, back to the cores that it had if it was moved: away from
    /// the caller, which goes on there.
    pub(super) fn go_back(&self) {
        if !self.moved.swap(false, Ordering::SeqCst) {
            return;
        }
        let cores: Cores = std::array::from_fn(|i| self.cores[i].load(Ordering::Relaxed));
        if let Some((word, bit)) = core_here() {
            let mut others = cores;
            others[word] &= !bit;
            allow(own_thread(), &others);
        }
        allow(own_thread(), &cores);
    }

    /// Moves the member to the calling thread's core if it is inside a job and preempted. The
    /// caller goes to sleep next.
    pub(super) fn fetch_if_preempted(&self) {
        let thread = self.thread.load(Ordering::Relaxed);
        if !self.inside.load(Ordering::Relaxed) || self.moved.load(Ordering::Relaxed) {
            return;
        }
        let before = cpu_time(thread);
        let start = Instant::now();
        while start.elapsed() < LOOK {
            std::hint::spin_loop();
        }
        if before.is_none() || cpu_time(thread) != before || !self.inside.load(Ordering::Relaxed) {
            return;
        }
        let (Some(cores), Some((word, bit))) = (allowed(thread), core_here()) else {
            return;
        };
        let mut here = Cores::default();
        here[word] = bit;
        if cores[word] & bit == 0 || cores == here {
            return;
        }
        for (kept, cores) in self.cores.iter().zip(cores) {
            kept.store(cores, Ordering::Relaxed);
        }
        self.moved.store(true, Ordering::SeqCst);
        allow(thread, &here);
        // The member may have left, and gone back, before it was moved. It may be inside again.
        if !self.inside.load(Ordering::SeqCst) || !self.moved.load(Ordering::SeqCst) {
            allow(thread, &cores);
        }
    }
}

/// A thread of this process, a `pthread_t`.
type PosixThread = usize;

// Of the C library, which std links: these are in every version that std supports.
extern "C" {
    fn pthread_self() -> PosixThread;
    fn pthread_getcpuclockid(thread: PosixThread, clock: *mut c_int) -> c_int;
    fn pthread_getaffinity_np(thread: PosixThread, size: usize, cores: *mut Cores) -> c_int;
    fn pthread_setaffinity_np(thread: PosixThread, size: usize, cores: *const Cores) -> c_int;
    /// `time` has room for the largest `timespec`.
    fn clock_gettime(clock: c_int, time: *mut [i64; 2]) -> c_int;
    fn sched_getcpu() -> c_int;
}

fn own_thread() -> PosixThread {
    // SAFETY: it has no precondition.
    unsafe { pthread_self() }
}

/// Returns the CPU time of a live thread, as the bytes of a `timespec`.
fn cpu_time(thread: PosixThread) -> Option<[i64; 2]> {
    let (mut clock, mut time) = (0, [0; 2]);
    // SAFETY: a team's members live as long as it; `clock` and `time` can be written.
    let done = unsafe {
        pthread_getcpuclockid(thread, &raw mut clock) == 0
            && clock_gettime(clock, &raw mut time) == 0
    };
    done.then_some(time)
}

/// Returns the word and the bit of the core that the calling thread runs on.
fn core_here() -> Option<(usize, u64)> {
    // SAFETY: it has no precondition.
    let core = usize::try_from(unsafe { sched_getcpu() }).ok()?;
    (core < 64 * WORDS).then(|| (core / 64, 1 << (core % 64)))
}

/// Returns the cores on which a live thread may run.
fn allowed(thread: PosixThread) -> Option<Cores> {
    let mut cores = Cores::default();
    // SAFETY: a team's members live as long as it; `cores` is as large as said.
    let result = unsafe { pthread_getaffinity_np(thread, size_of::<Cores>(), &raw mut cores) };
    (result == 0).then_some(cores)
}

/// Lets a live thread run on these cores only.
fn allow(thread: PosixThread, cores: &Cores) {
    // SAFETY: a team's members live as long as it; `cores` is as large as said. A refusal changes
    // nothing.
    unsafe { pthread_setaffinity_np(thread, size_of::<Cores>(), &raw const *cores) };
}

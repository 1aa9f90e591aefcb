//! The system's calls for threads and cores: how long a thread has run, and where it may run.

use std::ffi::c_int;

pub(super) const WORDS: usize = 16;

/// A set of cores, as the system takes it: of 1024 cores, the first ones.
pub(super) type Cores = [u64; WORDS];

/// A thread of this process, a `pthread_t`.
pub(super) type PosixThread = usize;

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

pub(super) fn own_thread() -> PosixThread {
    // SAFETY: it has no precondition.
    unsafe { pthread_self() }
}

/// Returns the CPU time of a live thread, as the bytes of a `timespec`.
pub(super) fn cpu_time(thread: PosixThread) -> Option<[i64; 2]> {
    let (mut clock, mut time) = (0, [0; 2]);
    // SAFETY: a team's members live as long as it; `clock` and `time` can be written.
    let done = unsafe {
        pthread_getcpuclockid(thread, &raw mut clock) == 0
            && clock_gettime(clock, &raw mut time) == 0
    };
    done.then_some(time)
}

/// Returns the word and the bit of the core that the calling thread runs on.
pub(super) fn core_here() -> Option<(usize, u64)> {
    // SAFETY: it has no precondition.
    let core = usize::try_from(unsafe { sched_getcpu() }).ok()?;
    (core < 64 * WORDS).then(|| (core / 64, 1 << (core % 64)))
}

/// Returns the cores on which a live thread may run.
pub(super) fn allowed(thread: PosixThread) -> Option<Cores> {
    let mut cores = Cores::default();
    // SAFETY: a team's members live as long as it; `cores` is as large as said.
    let result = unsafe { pthread_getaffinity_np(thread, size_of::<Cores>(), &raw mut cores) };
    (result == 0).then_some(cores)
}

/// Lets a live thread run on these cores only.
pub(super) fn allow(thread: PosixThread, cores: &Cores) {
    // SAFETY: a team's members live as long as it; `cores` is as large as said. A refusal changes
    // nothing.
    unsafe { pthread_setaffinity_np(thread, size_of::<Cores>(), &raw const *cores) };
}

//! In the place of `cores` on systems where no thread is moved, and in loom's models, which know no
//! cores. In these, a member may count as preempted whenever its caller looks.

#[cfg(loom)]
std::thread_local! {
    /// Each look at a member finds it preempted; without it, nobody looks.
    pub(super) static PREEMPTS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// Number of changes of the cores on which a member may run.
    pub(super) static CHANGES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

pub(super) const WORDS: usize = 1;

pub(super) type Cores = [u64; WORDS];

pub(super) fn own_thread() -> usize {
    0
}

pub(super) fn cpu_time(_thread: usize) -> Option<[i64; 2]> {
    cfg!(loom).then_some([0; 2])
}

pub(super) fn core_here() -> Option<(usize, u64)> {
    Some((0, 1))
}

pub(super) fn allowed(_thread: usize) -> Option<Cores> {
    Some([3])
}

pub(super) fn allow(_thread: usize, _cores: &Cores) {
    #[cfg(loom)]
    CHANGES.set(CHANGES.get() + 1);
}

//! Moves members that the system has preempted to the core of the caller that waits for them.
//!
//! A member that shares its core with another busy process is off the core half of the time, mostly
//! in the middle of its work, and nobody can take over a half. The caller has nothing to do then.
//! So it gives its own core: it allows the member that core alone, and sleeps. When the member has
//! done its work, it leaves the job, wakes the caller, and sleeps until the caller has sent it back
//! to the cores that it had. Then it enters the job again, if that is still open.
//!
//! A member counts as preempted if it is waited for and its CPU time stands still. Nothing here has
//! to succeed: where the system refuses, the caller waits, as it does on other systems.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize};

use super::cores::{allow, allowed, core_here, cpu_time, own_thread, Cores, WORDS};
use super::sync::{AtomicBool, Ordering};

/// The end that a caller waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Awaited {
    /// Members that work have to end their work.
    Work,
    /// Members that are inside the job have to leave it.
    Job,
}

/// A member, as a waiting caller sees it.
#[derive(Debug, Default)]
pub(super) struct Seat {
    thread: AtomicUsize,
    inside: AtomicBool,
    working: AtomicBool,
    /// The member's CPU time when a caller has looked last.
    noted: [AtomicI64; 2],
    /// The member is on the caller's core, and `cores` are those that it had. The caller writes it.
    moved: AtomicBool,
    cores: [AtomicU64; WORDS],
}

impl Seat {
    /// Makes the calling thread the seat's member.
    pub(super) fn take(&self) {
        self.thread.store(own_thread(), Ordering::Relaxed);
    }

    /// Notes that the member is inside a job, and works.
    pub(super) fn enter(&self) {
        self.inside.store(true, Ordering::Relaxed);
        self.work();
    }

    /// Notes that the member works.
    pub(super) fn work(&self) {
        self.working.store(true, Ordering::Relaxed);
    }

    /// Notes that the member does not work, though it is inside the job.
    pub(super) fn rest(&self) {
        self.working.store(false, Ordering::SeqCst);
    }

    /// Returns true if the member, which calls it, is on the core of a caller that sleeps.
    pub(super) fn is_moved(&self) -> bool {
        self.moved.load(Ordering::SeqCst)
    }

    /// Notes that the member leaves the job.
    pub(super) fn leave(&self) {
        self.rest();
        self.inside.store(false, Ordering::SeqCst);
    }

    /// Sends the member back to the cores that it had, if it was moved: away from the caller, which
    /// goes on here. `wake` wakes the member.
    pub(super) fn send_back(&self, wake: impl FnOnce()) {
        if !self.is_moved() {
            return;
        }
        let thread = self.thread.load(Ordering::Relaxed);
        let cores = (self.cores.each_ref()).map(|word| word.load(Ordering::Relaxed));
        if let Some((word, bit)) = core_here() {
            let mut others = cores;
            others[word] &= !bit;
            allow(thread, &others);
        }
        self.moved.store(false, Ordering::SeqCst);
        // A thread that sleeps changes its core when it is woken.
        wake();
        allow(thread, &cores);
    }

    /// Notes the member's CPU time, for a look at it later.
    pub(super) fn note_time(&self) {
        if self.inside.load(Ordering::Relaxed) {
            let time = cpu_time(self.thread.load(Ordering::Relaxed)).unwrap_or([-1; 2]);
            for (noted, time) in self.noted.iter().zip(time) {
                noted.store(time, Ordering::Relaxed);
            }
        }
    }

    /// Moves the member to the calling thread's core if it is waited for and has not run since
    /// [`Self::note_time`]. Returns true if it has been moved: then the caller has to sleep.
    pub(super) fn fetch_if_preempted(&self, awaited: Awaited) -> bool {
        let awaited = match awaited {
            Awaited::Work => &self.working,
            Awaited::Job => &self.inside,
        };
        let thread = self.thread.load(Ordering::Relaxed);
        if !awaited.load(Ordering::Relaxed) || self.is_moved() {
            return false;
        }
        let noted = self
            .noted
            .each_ref()
            .map(|time| time.load(Ordering::Relaxed));
        if cpu_time(thread) != Some(noted) || !awaited.load(Ordering::Relaxed) {
            return false;
        }
        let (Some(cores), Some((word, bit))) = (allowed(thread), core_here()) else {
            return false;
        };
        let mut here = Cores::default();
        here[word] = bit;
        if cores[word] & bit == 0 || cores == here {
            return false;
        }
        for (kept, cores) in self.cores.iter().zip(cores) {
            kept.store(cores, Ordering::Relaxed);
        }
        self.moved.store(true, Ordering::SeqCst);
        allow(thread, &here);
        true
    }
}

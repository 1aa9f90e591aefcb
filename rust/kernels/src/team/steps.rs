//! Work in steps, of which each needs what all threads made in the one before.
//!
//! A job for each step would cost a fork and a join. Here threads stay in one job, and each item
//! shows how far it is. A step has two parts: as soon as the first part of all items is done, the
//! next step may begin, so that a thread which is a little late delays nobody while others are busy
//! with their second parts.

use super::preempted::{Awaited, Seat};
use super::progress::Progress;
use super::sync::{fence, thread, wait_between, AtomicBool, AtomicUsize, Ordering};
use super::{AwaitedMembers, Shares, Team};

/// Calls `first(step, i, &mut items[i], read, written)` and then `rest(step, i, &mut items[i])` for
/// every step and every item; there are as many steps as `chunks`. `written` is the item's chunk of
/// one of the two `exchanged`, of `chunks[step]` values (the last chunk may be shorter; it is empty
/// once there is no more). `read` is all of the other one: what the items wrote in the step before,
/// and in step 0 what was there.
///
/// A step of an item begins when the item's step before is done, and `first` of the step before of
/// all items. Each thread of the team works on the item of its number, and on items whose step
/// nobody has begun. Without a team, or while another caller uses it, the caller does everything.
///
/// # Panics
/// If `first` or `rest` does, after all threads have ended; if a chunk has no value, or if there
/// are more items than threads of the team.
pub fn for_each_step<A: Send, B: Send + Sync>(
    team: Option<&Team>,
    chunks: &[usize],
    items: &mut [A],
    exchanged: [&mut [B]; 2],
    first: impl Fn(usize, usize, &mut A, &[B], &mut [B]) + Sync,
    rest: impl Fn(usize, usize, &mut A) + Sync,
) {
    assert!(!chunks.contains(&0), "a chunk has at least one value");
    let fits = team.is_none_or(|team| items.len() <= team.threads());
    assert!(fits, "each item has a thread");
    let Some(team) = team.filter(|team| team.claim()) else {
        let [mut written, mut read] = exchanged;
        for (step, &chunk) in chunks.iter().enumerate() {
            let mut chunks = written.chunks_mut(chunk);
            for (i, item) in items.iter_mut().enumerate() {
                first(step, i, item, read, chunks.next().unwrap_or_default());
                rest(step, i, item);
            }
            std::mem::swap(&mut written, &mut read);
        }
        return;
    };
    let progress = &team.progress[..items.len()];
    progress.iter().for_each(Progress::reset);
    let items = Shares::new(items);
    let exchanged = exchanged.map(Shares::new);
    let (broken, sleepers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let caller = thread::current();
    let wake_sleepers = || {
        // Sleepers are counted before they look for the last time.
        fence(Ordering::SeqCst);
        if sleepers.load(Ordering::Relaxed) > 0 {
            caller.unpark();
            team.wake();
        }
    };
    // Does a step of an item unless another thread has begun it.
    let take = |step: usize, i: usize, seat: Option<&Seat>| {
        let Progress { begun, shown, done } = &progress[i];
        let free = begun.load(Ordering::Relaxed) == step
            && done.load(Ordering::Acquire) == step
            && begun
                .compare_exchange(step, step + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !free {
            return false;
        }
        let show = || {
            shown.store(step + 1, Ordering::Release);
            wake_sleepers();
        };
        // SAFETY: one thread begins a step of an item, after the step before is done. All calls
        // of `first` at one time are of one step, since the next one begins when all are over:
        // they write different chunks, and what they read is not written.
        unsafe {
            let item = &mut items.share(i, 1)[0];
            let (read, written) = (&exchanged[(step + 1) % 2], &exchanged[step % 2]);
            seat.inspect(|seat| seat.work());
            first(step, i, item, read.all(), written.share(i, chunks[step]));
            // On the caller's core the caller would only be in the way.
            let at_home = seat.is_none_or(|seat| !seat.is_moved());
            if at_home {
                show();
            }
            rest(step, i, item);
            seat.inspect(|seat| seat.rest());
            done.store(step + 1, Ordering::Release);
            if !at_home {
                show();
            }
            wake_sleepers();
        }
        true
    };
    team.fork(&|thread| {
        let unbroken = Unbroken(&broken, &wake_sleepers);
        let seat = thread.checked_sub(1).map(|seat| &team.shared.seats[seat]);
        // It works in its steps alone.
        seat.inspect(|seat| seat.rest());
        let others = AwaitedMembers {
            team,
            awaited: (thread == 0).then_some(Awaited::Work),
        };
        // The caller waits for its core. The thread comes back, to steps that are still to be done.
        let is_moved = || seat.is_some_and(Seat::is_moved);
        for step in 0..chunks.len() {
            if thread < progress.len() {
                take(step, thread, seat);
            }
            if is_moved() {
                break;
            }
            let all_shown = || {
                (0..progress.len()).fold(true, |all, i| {
                    let shown = progress[i].shown.load(Ordering::Acquire) > step;
                    all & (shown || take(step, i, seat))
                })
            };
            wait_between(
                || is_moved() || broken.load(Ordering::Relaxed) || all_shown(),
                &sleepers,
                &others,
            );
            if is_moved() || broken.load(Ordering::Relaxed) {
                break;
            }
        }
        unbroken.keep();
    });
}

/// Notes that a thread has panicked, and wakes those that wait for it.
struct Unbroken<'a, W: Fn()>(&'a AtomicBool, &'a W);

impl<W: Fn()> Unbroken<'_, W> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl<W: Fn()> Drop for Unbroken<'_, W> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        (self.1)();
    }
}

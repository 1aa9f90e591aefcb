//! The team's protocol under loom, which runs every interleaving of a model within its bound, with
//! every value that a load may read under the memory model of C11: `make loom`.
//!
//! Loom fails a model that deadlocks, leaks what it counts, or touches a cell while another thread
//! may. A caller's data is such a cell here, in the place of what a job borrows.

use std::cell::Cell;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed};
use std::sync::Once;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::cores::{CHANGES, PREEMPTS};
use super::{for_each_step, Team};

/// Runs a model and prints the number of its interleavings. `preemptions`: switches, at most, away
/// from a thread that could go on.
fn check(name: &str, preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    // The team's own panic is part of a model, some thousand times. Once: loom adds a hook, too.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = info.to_string();
            if !text.contains("a thread of the team panicked") {
                eprintln!("{text}");
            }
        }));
    });
    static RUNS: Count = Count::new(0);
    RUNS.store(0, Relaxed);
    let start = std::time::Instant::now();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(move || {
        RUNS.fetch_add(1, Relaxed);
        model();
    });
    let (runs, seconds) = (RUNS.load(Relaxed), start.elapsed().as_secs_f64());
    println!(
        "loom: {name}: {runs} interleavings (at most {preemptions} preemptions) in {seconds:.1} s"
    );
}

/// Data of a caller, which it lends to a job.
struct Lent(UnsafeCell<u32>);

// SAFETY: loom checks each access.
unsafe impl Sync for Lent {}

impl Lent {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// Reads it, as a member does.
    fn read(&self) -> u32 {
        // SAFETY: loom checks the access.
        self.0.with(|value| unsafe { *value })
    }

    /// Writes it, as a caller does between its jobs.
    fn write(&self, to: u32) {
        // SAFETY: loom checks the access.
        self.0.with_mut(|value| unsafe { *value = to });
    }
}

/// Lends a value to a member in two jobs, and takes it back.
fn two_jobs() {
    let team = Team::new(2).unwrap();
    let lent = Lent::new();
    for job in 1..=2 {
        lent.write(job);
        team.fork(&|_| assert_eq!(lent.read(), job));
    }
    lent.write(0);
}

#[test]
fn members_see_what_each_job_lends_and_leave_it_in_time() {
    check("a member, two jobs", 5, two_jobs);
}

#[test]
fn two_members_enter_and_leave_a_job() {
    check("two members, a job", 1, || {
        let team = Team::new(3).unwrap();
        let lent = Lent::new();
        lent.write(1);
        team.fork(&|_| assert_eq!(lent.read(), 1));
        lent.write(0);
    });
}

#[test]
fn the_caller_learns_of_each_panic_once() {
    check("a member that panics, two jobs", 4, || {
        let team = Team::new(2).unwrap();
        let entered = Lent::new();
        let fork = || {
            team.fork(&|member| {
                if member == 1 {
                    entered.write(1);
                    resume_unwind(Box::new(()));
                }
            });
        };
        let failed = catch_unwind(AssertUnwindSafe(fork)).is_err();
        assert_eq!(failed, entered.read() == 1);
        team.fork(&|_| ());
    });
}

#[test]
fn a_callers_panic_waits_for_the_members() {
    check("a caller that panics", 4, || {
        let team = Team::new(2).unwrap();
        let lent = Lent::new();
        let fork = || {
            team.fork(&|member| {
                if member == 0 {
                    resume_unwind(Box::new(()));
                }
                lent.read();
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(fork)).is_err());
        lent.write(1);
        team.fork(&|_| assert_eq!(lent.read(), 1));
    });
}

#[test]
fn two_callers_get_their_own_jobs_done() {
    check("two callers, a member", 3, || {
        let team = Arc::new(Team::new(2).unwrap());
        let call = |team: &Team, number| {
            let lent = Lent::new();
            lent.write(number);
            let own = Cell::new(0);
            let own = AssertOwn(&own);
            let work = |member| {
                assert_eq!(lent.read(), number);
                if member == 0 {
                    own.count();
                }
            };
            if team.claim() {
                team.fork(&work);
            } else {
                work(0);
            }
            lent.write(0);
            assert_eq!(own.0.get(), 1);
        };
        let other = {
            let team = Arc::clone(&team);
            thread::spawn(move || call(&team, 1))
        };
        call(&team, 2);
        other.join().unwrap();
    });
}

/// A count of the caller alone.
struct AssertOwn<'a>(&'a Cell<u32>);

// SAFETY: only `work(0)` counts, and its caller runs it.
unsafe impl Sync for AssertOwn<'_> {}

impl AssertOwn<'_> {
    fn count(&self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn a_team_without_a_job_ends() {
    check("two members, no job", 2, || {
        let team = Team::new(3).unwrap();
        team.wake();
    });
}

#[test]
fn each_item_is_worked_on_once() {
    check("three items, a member", 4, || {
        let team = Team::new(2).unwrap();
        let mut items = [0; 3];
        team.for_each(&mut items, &mut [(); 0], 1, |_, item, _| *item += 1);
        assert_eq!(items, [1; 3]);
    });
}

/// Goes through the steps of an item for each thread; loom sees who reads and writes what.
fn walk(team: &Team, threads: usize, steps: u32) {
    let cells = || (0..threads).map(|_| Lent::new()).collect::<Vec<_>>();
    let (mut even, mut odd) = (cells(), cells());
    let mut items = cells();
    for_each_step(
        Some(team),
        &vec![1; steps as usize],
        &mut items,
        [&mut even, &mut odd],
        |step, _, item, read, own| {
            assert_eq!(item.read(), 2 * step as u32);
            item.write(2 * step as u32 + 1);
            assert!(read.iter().all(|cell| cell.read() == step as u32));
            own[0].write(step as u32 + 1);
        },
        |step, _, item| {
            assert_eq!(item.read(), 2 * step as u32 + 1);
            item.write(2 * step as u32 + 2);
        },
    );
    assert!(items.iter().all(|item| item.read() == 2 * steps));
}

#[test]
fn steps_follow_each_other_in_all_threads() {
    check("a member, two steps", 2, || {
        walk(&Team::new(2).unwrap(), 2, 2);
    });
    check("a member, three steps", 1, || {
        walk(&Team::new(2).unwrap(), 2, 3);
    });
}

#[test]
fn members_that_are_moved_come_back() {
    PREEMPTS.set(true);
    check("a member that is moved, two steps", 1, || {
        walk(&Team::new(2).unwrap(), 2, 2);
    });
    let moved = CHANGES.take();
    check("a member that is moved, two jobs", 3, two_jobs);
    PREEMPTS.set(false);
    assert!(moved > 0 && CHANGES.take() > 0, "nobody was moved");
}

#[test]
fn a_member_that_panics_in_a_step_ends_the_job() {
    check("a member that panics in a step", 2, || {
        let team = Team::new(2).unwrap();
        let steps = || {
            for_each_step(
                Some(&team),
                &[1; 2],
                &mut [(); 2],
                [&mut [(); 2], &mut [(); 2]],
                |_, i, (), _, _| {
                    if i == 1 {
                        resume_unwind(Box::new(()));
                    }
                },
                |_, _, ()| (),
            );
        };
        assert!(catch_unwind(AssertUnwindSafe(steps)).is_err());
        walk(&team, 2, 1);
    });
}

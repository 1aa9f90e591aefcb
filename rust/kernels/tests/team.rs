//! The team of threads: every item once, panics, callers at once.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use quasar_kernels::Team;

#[test]
fn every_item_is_worked_on_once_with_its_rows() {
    for threads in [1, 2, 3, 7] {
        let team = Team::new(threads).unwrap();
        for items in [0, 1, 2, 5, 64] {
            let mut counts = vec![0; items];
            let mut rows = vec![0; (3 * items).saturating_sub(1)];
            for round in 1..200 {
                team.for_each(&mut counts, &mut rows, 3, |i, count, rows| {
                    *count += 1;
                    assert_eq!(rows.len(), if i + 1 == items { 2 } else { 3 });
                    for row in rows {
                        *row += i;
                    }
                });
                assert!(counts.iter().all(|&count| count == round));
            }
            for (at, &row) in rows.iter().enumerate() {
                assert_eq!(row, 199 * (at / 3));
            }
        }
    }
}

#[test]
fn a_team_survives_a_panic_in_any_thread() {
    let team = Team::new(3).unwrap();
    for loud in [0, 1, 2] {
        let run = || {
            team.for_each(&mut [(); 3], &mut [(); 0], 1, |i, (), _| {
                assert_ne!(i, loud, "on purpose");
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        let mut items = [0; 3];
        team.for_each(&mut items, &mut [(); 0], 1, |_, item, _| *item += 1);
        assert_eq!(items, [1; 3]);
    }
}

#[test]
fn callers_at_once_and_nested_calls_all_get_their_work_done() {
    let team = Team::new(2).unwrap();
    let calls = AtomicUsize::new(0);
    let count = || {
        team.for_each(&mut [(); 5], &mut [(); 0], 1, |_, (), _| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| count()));
        }
    });
    team.for_each(&mut [(); 2], &mut [(); 0], 1, |_, (), _| count());
    assert_eq!(calls.into_inner(), (4 * 500 + 2) * 5);
}

#[test]
fn items_are_spread_over_the_threads() {
    let team = Team::new(2).unwrap();
    let caller = thread::current().id();
    // Each item lasts until the other one is at work, too: with one thread this would not end.
    let working = AtomicUsize::new(0);
    let mut ids = [caller; 2];
    team.for_each(&mut ids, &mut [(); 0], 1, |_, id, _| {
        *id = thread::current().id();
        working.fetch_add(1, Ordering::AcqRel);
        while working.load(Ordering::Acquire) < 2 {
            thread::yield_now();
        }
    });
    assert_eq!(ids[0], caller);
    assert_ne!(ids[1], caller);
}

#[test]
fn panics_of_one_job_do_not_reach_the_next() {
    let team = Team::new(2).unwrap();
    let working = AtomicUsize::new(0);
    let run = || {
        team.for_each(&mut [(); 2], &mut [(); 0], 1, |_, (), _| {
            working.fetch_add(1, Ordering::AcqRel);
            while working.load(Ordering::Acquire) < 2 {
                thread::yield_now();
            }
            panic!("on purpose");
        });
    };
    assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    team.for_each(&mut [(); 2], &mut [(); 0], 1, |_, (), _| ());
}

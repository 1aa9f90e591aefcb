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
        let run = || team.run(&|i| assert_ne!(i, loud, "on purpose"));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        let calls = AtomicUsize::new(0);
        team.run(&|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 3);
    }
}

#[test]
fn callers_at_once_and_nested_calls_all_get_their_work_done() {
    let team = Team::new(2).unwrap();
    let calls = AtomicUsize::new(0);
    let count = |_| {
        calls.fetch_add(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    team.run(&count);
                }
            });
        }
    });
    team.run(&|_| team.run(&count));
    assert_eq!(calls.into_inner(), 4 * 500 * 2 + 4);
}

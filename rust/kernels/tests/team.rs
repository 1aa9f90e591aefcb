//! The team of threads: every item once, panics, callers at once.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use quasar_kernels::{for_each_step, Team};

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

/// An item that checks the rules of `for_each_step`: how far it is, and what it wrote.
#[derive(Clone, Default)]
struct Walker {
    firsts: usize,
    rests: usize,
    value: usize,
}

/// Takes all items through the steps, and checks what each step sees.
fn walk(team: Option<&Team>, items: usize, steps: usize) {
    // Each item writes two values in even steps and three in odd ones.
    let chunks: Vec<usize> = (0..steps).map(|step| 2 + step % 2).collect();
    let mut walkers = vec![Walker::default(); items];
    let mut exchanged = [vec![0; 2 * items], vec![1; 3 * items]];
    let first = |step: usize, i: usize, walker: &mut Walker, read: &[usize], own: &mut [usize]| {
        assert_eq!((walker.firsts, walker.rests), (step, step));
        assert_eq!(
            (own.len(), read.len()),
            (2 + step % 2, items * (3 - step % 2))
        );
        walker.firsts += 1;
        // Everybody's, of the step before.
        let expected = if step == 0 { 1 } else { step };
        assert!(read.iter().all(|&value| value == expected), "{read:?}");
        walker.value += i;
        own.fill(step + 1);
    };
    let rest = |step: usize, i: usize, walker: &mut Walker| {
        walker.rests += 1;
        assert_eq!((walker.firsts, walker.rests), (step + 1, step + 1));
        assert_eq!(walker.value, i * (step + 1));
    };
    let [even, odd] = &mut exchanged;
    let exchanged = [&mut even[..], &mut odd[..]];
    for_each_step(team, &chunks, &mut walkers, exchanged, first, rest);
    for (i, walker) in walkers.iter().enumerate() {
        assert_eq!((walker.rests, walker.value), (steps, i * steps));
    }
    if let (Some(last), true) = (steps.checked_sub(1), items > 0) {
        let last = if last % 2 == 0 { even } else { odd };
        assert_eq!(last.last(), Some(&steps));
    }
}

#[test]
fn every_step_sees_what_all_items_wrote_in_the_one_before() {
    for threads in [1, 2, 3, 8] {
        let team = Team::new(threads).unwrap();
        for items in [0, 1, threads.div_ceil(2), threads] {
            for steps in [0, 1, 2, 13] {
                (0..100).for_each(|_| walk(Some(&team), items, steps));
                walk(None, items, steps);
            }
        }
    }
}

#[test]
fn steps_of_callers_at_once_and_in_other_jobs_all_get_done() {
    let team = Team::new(2).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..300).for_each(|_| walk(Some(&team), 2, 5)));
        }
    });
    team.for_each(&mut [(); 2], &mut [(); 0], 1, |_, (), _| {
        walk(Some(&team), 2, 5);
    });
}

#[test]
fn a_panic_in_a_step_ends_all_threads() {
    let team = Team::new(3).unwrap();
    for (loud, in_rest) in [(0, false), (1, false), (2, true), (0, true)] {
        let panic = |step: usize, i: usize, rest: bool| {
            assert_ne!((step, i, rest), (3, loud, in_rest), "on purpose");
        };
        let mut exchanged = [[0; 3], [0; 3]];
        let [even, odd] = &mut exchanged;
        let run = || {
            for_each_step(
                Some(&team),
                &[1; 9],
                &mut [(); 3],
                [even, odd],
                |step, i, (), _, _| panic(step, i, false),
                |step, i, ()| panic(step, i, true),
            );
        };
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        walk(Some(&team), 3, 4);
    }
}

#[test]
fn a_thread_goes_on_while_others_do_the_rest_of_their_step() {
    let team = Team::new(2).unwrap();
    // Item 0 ends its first rest when item 1 is in its second step: a barrier would not end.
    let reached = AtomicUsize::new(0);
    let mut exchanged = [[0; 2], [0; 2]];
    let [even, odd] = &mut exchanged;
    for_each_step(
        Some(&team),
        &[1; 2],
        &mut [(); 2],
        [even, odd],
        |step, i, (), _, _| {
            if (step, i) == (1, 1) {
                reached.store(1, Ordering::Release);
            }
        },
        |step, i, ()| {
            while (step, i) == (0, 0) && reached.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
        },
    );
}

#[test]
#[should_panic(expected = "each item has a thread")]
fn more_items_than_threads_are_refused() {
    let (mut even, mut odd) = ([0; 3], [0; 3]);
    for_each_step(
        Some(&Team::new(2).unwrap()),
        &[1],
        &mut [(); 3],
        [&mut even, &mut odd],
        |_, _, (), _, _| (),
        |_, _, ()| (),
    );
}

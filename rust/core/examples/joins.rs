//! What a fork and join of empty work costs: `cargo run --release -p quasar-core --example joins [threads]`.
//!
//! The executor's team beside rayon's pool, in turns, in the rhythm of a frame: 25 joins with 50 us of work between them.

use std::hint::{black_box, spin_loop};
use std::time::{Duration, Instant};

use quasar_kernels::Team;
use rayon::prelude::*;

const JOINS: u32 = 25;

fn work(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        spin_loop();
    }
}

/// Microseconds of each of a frame's joins beyond the work in it.
fn frame(mut join: impl FnMut(&(dyn Fn() + Sync))) -> f64 {
    let part = Duration::from_micros(50);
    let start = Instant::now();
    for _ in 0..JOINS {
        join(&|| work(black_box(part)));
    }
    (start.elapsed().as_secs_f64() - f64::from(JOINS) * part.as_secs_f64()) / f64::from(JOINS) * 1e6
}

fn main() {
    let threads = std::env::args()
        .nth(1)
        .map_or(2, |n| n.parse().expect("a number of threads"));
    let team = Team::new(threads).expect("threads");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads");
    let mut members = vec![(); threads];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        ours.push(frame(|part| {
            team.for_each(&mut members, &mut [(); 0], 1, |_, (), _| part());
        }));
        theirs.push(pool.install(|| {
            frame(|part| {
                let members = (0..threads).into_par_iter().with_max_len(1);
                members.for_each(|_| part());
            })
        }));
    }
    for (name, mut times) in [("team", ours), ("rayon", theirs)] {
        times.sort_by(f64::total_cmp);
        println!(
            "{name:6} {threads} threads: a join costs {:.2} us at best, {:.2} us in the median frame",
            times[0],
            times[times.len() / 2]
        );
    }
}

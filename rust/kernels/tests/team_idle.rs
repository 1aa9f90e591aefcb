//! A team that waits for work costs no CPU time. Alone in its binary: all teams of the process are
//! counted.
#![cfg(target_os = "linux")]

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use quasar_kernels::Team;

/// Nanoseconds that the threads of teams have been on a CPU, and their number. The thread that
/// looks is not counted: under emulation, looking takes it milliseconds.
fn cpu_time() -> (u64, usize) {
    let (mut time, mut members) = (0, 0);
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let read = |file: &str| fs::read_to_string(task.as_ref().unwrap().path().join(file));
        if !read("comm").unwrap().starts_with("quasar-") {
            continue;
        }
        let spent = read("schedstat").unwrap();
        time += spent.split(' ').next().unwrap().parse::<u64>().unwrap();
        members += 1;
    }
    (time, members)
}

#[test]
fn an_idle_team_sleeps() {
    let team = Team::new(4).unwrap();
    for _ in 0..100 {
        team.for_each(&mut [(); 4], &mut [(); 0], 1, |_, (), _| {});
    }
    sleep(Duration::from_millis(50));
    assert_eq!(cpu_time().1, 3);
    // Once, emulated threads may be charged for a tick of the system.
    let spent = (0..3).map(|_| {
        let before = cpu_time().0;
        sleep(Duration::from_millis(500));
        Duration::from_nanos(cpu_time().0 - before)
    });
    let least = spent.min().unwrap();
    assert!(
        least < Duration::from_millis(5),
        "{least:?} of CPU time in half a second without work"
    );
    team.for_each(&mut [(); 4], &mut [(); 0], 1, |_, (), _| {});
}

//! A team whose cores are busy with something else: jobs get done, and each thread may afterwards
//! run where it might before. Alone in its binary: all threads of the process are looked at.
#![cfg(target_os = "linux")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quasar_kernels::{for_each_step, Team};

/// Returns the cores that each thread of a team may run on, as the system lists them.
fn cores_of_members() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let cores = tasks.filter_map(|task| {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let line = |name| status.lines().find_map(|line| line.strip_prefix(name));
        (line("Name:")?.trim().starts_with("quasar-"))
            .then(|| line("Cpus_allowed_list:").unwrap().trim().to_owned())
    });
    cores.collect()
}

fn work_for(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[test]
fn members_keep_their_cores_when_they_are_preempted() {
    let team = Team::new(3).unwrap();
    let before = cores_of_members();
    assert_eq!(before.len(), 2);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // More busy threads than cores: members are preempted in their work.
        for _ in 0..2 * thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(700) {
            let mut done = [0; 6];
            team.for_each(&mut done, &mut [(); 0], 1, |_, done, _| {
                work_for(Duration::from_micros(300));
                *done += 1;
            });
            assert_eq!(done, [1; 6]);
            let mut done = [0; 3];
            let exchanged: [&mut [u32]; 2] = [&mut [0; 3], &mut [0; 3]];
            for_each_step(
                Some(&team),
                &[1; 6],
                &mut done,
                exchanged,
                |step, _, _, read, written| {
                    work_for(Duration::from_micros(200));
                    assert_eq!(read, [step as u32; 3]);
                    written[0] = step as u32 + 1;
                },
                |_, _, done| *done += 1,
            );
            assert_eq!(done, [6; 3]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    // A member may be on its way back.
    let start = Instant::now();
    while cores_of_members() != before {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?} and not {before:?}",
            cores_of_members()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

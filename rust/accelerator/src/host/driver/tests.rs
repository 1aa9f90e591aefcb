use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Mutex};

use proptest::prelude::*;
use quasar_core::cpu::NEVER;

use super::*;
use crate::counts::UnitCounts;
use crate::host::faulty::{AccessFault, Faulty};
use crate::host::mock::{expected, forward_to_mock, program, Fault, Mock, Report};
use crate::host::watch::CLOSE_LIMIT;
use crate::isa::{counter_offset, Command, CountedUnit, Counter};

const DEADLINES: Deadlines = Deadlines {
    segment: Duration::from_millis(25),
    identity: Duration::from_millis(500),
};

/// Returns a generator of numbers below a bound.
fn random(mut seed: u64) -> impl FnMut(u64) -> u64 + Send {
    move |below| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

/// A driver on a mock, with frames that are numbered from 0.
struct Bench {
    program: Arc<Program>,
    queue: FrameQueue,
    report: Arc<Mutex<Report>>,
    /// Number of injected faults that took effect.
    spoiled: Arc<AtomicU64>,
}

impl Bench {
    fn new(
        frames: u64,
        ports: u64,
        plan: impl FnMut(u64) -> Option<Fault> + Send + 'static,
    ) -> Self {
        Self::of(Mock::new(program(frames, ports), DEADLINES.segment, plan))
    }

    fn of(mock: Mock) -> Self {
        Self::with(mock, &[])
    }

    /// Returns a bench with faults of accesses from the first frame on.
    fn with(mock: Mock, faults: &[(AccessFault, u64)]) -> Self {
        Self::watched(mock, faults, &Watch::new(Duration::from_secs(60)))
    }

    fn watched(mock: Mock, faults: &[(AccessFault, u64)], watch: &Arc<Watch>) -> Self {
        let (program, report) = (Arc::clone(&mock.program), Arc::clone(&mock.report));
        let faulty = Watched::connect(watch, || Ok(Faulty::new(mock))).unwrap();
        let mut driver = Driver::open(faulty, Arc::clone(&program), DEADLINES).unwrap();
        for &(fault, after) in faults {
            driver.transport.inject(fault.name(), after).unwrap();
        }
        let spoiled = driver.transport.inner().fired();
        Self {
            program,
            queue: FrameQueue::of(driver),
            report,
            spoiled,
        }
    }

    fn input(&self, frame: u64) -> Vec<u8> {
        let mut sample = random(frame);
        let mut codes = || sample(256) as i8;
        let codes: Vec<i8> = (0..self.program.patch_codes()).map(|_| codes()).collect();
        let mut input = vec![0; self.program.input_bytes()];
        self.program.pack_input(&codes, &mut input);
        input
    }

    fn submit(&self, frame: u64) -> Ticket {
        self.queue.submit(self.input(frame))
    }

    /// Runs frames with at most `ahead` unanswered frames.
    fn run(&self, frames: u64, ahead: usize) -> Vec<Result<Vec<i32>>> {
        let mut tickets = VecDeque::new();
        let mut answers = Vec::new();
        for frame in 0..frames {
            tickets.push_back(self.submit(frame));
            if tickets.len() == ahead {
                answers.push(tickets.pop_front().unwrap().wait(&NEVER));
            }
        }
        answers.extend(tickets.into_iter().map(|ticket| ticket.wait(&NEVER)));
        answers
    }

    /// Checks that each frame has its own logits or an error; counts the errors by kind.
    fn errors(&self, answers: &[Result<Vec<i32>>]) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for (frame, answer) in (0..).zip(answers) {
            match answer {
                Ok(logits) => assert_eq!(
                    *logits,
                    expected(&self.program, &self.input(frame)),
                    "frame {frame}"
                ),
                Err(error) => *kinds.entry(error.kind()).or_default() += 1,
            }
        }
        kinds
    }

    /// Ends the driver and checks that it kept to the protocol.
    fn finish(self, context: &str) -> Report {
        drop(self.queue);
        let report = self.report.lock().unwrap().clone();
        assert_eq!(report.violations, Vec::<String>::new(), "{context}");
        report
    }
}

/// Counts the expected errors of faults, by kind.
fn costs(fired: &[Fault]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for kind in fired.iter().filter_map(|fault| fault.error()) {
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[test]
fn frames_take_turns_in_two_slots() {
    // The first segment starts once all frames are in the queue.
    let (submitted, all) = mpsc::channel();
    let bench = Bench::new(2, 2, move |segment| {
        if segment == 0 {
            all.recv().unwrap();
        }
        None
    });
    let tickets: Vec<_> = (0..40).map(|frame| bench.submit(frame)).collect();
    submitted.send(()).unwrap();
    let answers: Vec<_> = tickets.into_iter().map(|t| t.wait(&NEVER)).collect();
    assert_eq!(bench.errors(&answers), BTreeMap::new());
    let mut expected = vec![Segment::Start(0)];
    expected.extend((0..39).map(|frame| Segment::Step(frame % 2)));
    expected.push(Segment::End(1));
    assert_eq!(bench.finish("").segments, expected);
}

#[test]
fn one_frame_at_a_time_has_no_steps() {
    for (frames, ahead) in [(1, 4), (2, 1)] {
        let bench = Bench::new(frames, 1, |_| None);
        let answers = bench.run(5, ahead);
        assert_eq!(bench.errors(&answers), BTreeMap::new());
        let segments = bench.finish("").segments;
        assert_eq!(segments, [Segment::Start(0), Segment::End(0)].repeat(5));
    }
}

#[test]
fn each_fault_costs_one_frame_at_most_and_the_next_succeeds() {
    for fault in Fault::ALL {
        let mut fired = 0;
        for at in 6..9 {
            for (frames, ahead) in [(1, 2), (2, 1), (2, 4)] {
                let bench = Bench::new(frames, 2, move |s| (s == at).then_some(fault));
                let errors = bench.errors(&bench.run(20, ahead));
                let context = format!("{fault:?} at {at}, {frames} frames, {ahead} ahead");
                let report = bench.finish(&context);
                assert_eq!(errors, costs(&report.fired), "{context}");
                fired += report.fired.len();
            }
        }
        // A fault cannot affect every kind of segment.
        assert!(fired >= 3, "{fault:?} fired {fired} times");
    }
}

#[test]
fn a_flipped_bit_of_any_command_costs_one_frame() {
    // Flips each bit of the commands in turn: 3 commands of 256 bits for each segment.
    let bench = Bench::new(2, 1, |segment| {
        (segment % 3 == 2).then_some(Fault::FlippedCommand)
    });
    let errors = bench.errors(&bench.run(2000, 4));
    let fired = bench.finish("").fired;
    assert!(fired.len() > 500, "{}", fired.len());
    assert_eq!(errors, costs(&fired));
}

#[test]
fn frames_behind_a_fault_run_again_in_their_order() {
    for fault in Fault::ALL {
        for at in 4..9 {
            let bench = Bench::new(2, 1, move |s| (s == at).then_some(fault));
            let inputs: Vec<_> = (0..12).map(|f| bench.input(f)).collect();
            let answers = bench.run(12, 12);
            let failed = answers.iter().position(Result::is_err);
            // All data except the check, whose key differs for each attempt.
            let data = |input: &Vec<u8>| input[..input.len() - PORT_BYTES].to_vec();
            let place = |input| inputs.iter().position(|i| data(i) == data(input)).unwrap();
            let mut begins = 0;
            for started in &bench.finish("").started {
                let places: Vec<_> = started.iter().map(place).collect();
                let expected: Vec<_> = (begins..).take(places.len()).collect();
                assert_eq!(places, expected, "{fault:?} at {at}");
                begins = failed.map_or(0, |failed| failed + 1);
            }
        }
    }
}

#[test]
fn no_two_segments_checks_start_alike() {
    let mock = Mock::new(program(2, 1), DEADLINES.segment, |_| None);
    let program = Arc::clone(&mock.program);
    let driver = Driver::open(Watched::of(mock), program, DEADLINES).unwrap();
    let starts: Vec<u32> = (driver.stored.iter())
        .map(|one| one.seed ^ one.count)
        .collect();
    for (i, start) in starts.iter().enumerate() {
        assert!(!starts[..i].contains(start));
        // Counts have fewer bits than the difference of two seeds.
        assert_eq!(driver.stored[i].count >> 24, 0);
        let apart = driver.stored[i].seed.wrapping_sub(driver.stored[0].seed);
        assert_eq!(apart, (i as u32) << 24);
    }
    assert!(starts.len() > 2);
}

#[test]
fn a_frame_is_not_answered_before_its_segment_is_read() {
    // The output is complete long before fetch has read the segment's last command, which has no
    // unit.
    for fault in [Fault::NoUnit, Fault::WrongIdentity] {
        let mut mock = Mock::new(program(1, 1), DEADLINES.segment, move |segment| {
            (segment == 3).then_some(fault)
        });
        mock.fetch_polls = 16;
        let answers = Bench::of(mock).run(4, 1);
        let failed: Vec<_> = answers.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, true, false, false], "{fault:?}");
    }
}

#[test]
fn a_wrong_number_of_transfers_fails_its_frame() {
    // A transfer that is counted but missing, and a transfer that is not counted.
    for transfers in [0, 2] {
        let mut shared = program(1, 1);
        let changed = Arc::get_mut(&mut shared).unwrap();
        let commands = changed.lists.iter_mut().flat_map(|list| &mut list.commands);
        for command in commands {
            if let Command::LoadEnd(end) = command {
                end.transfers = transfers;
            }
        }
        let bench = Bench::of(Mock::new(shared, DEADLINES.segment, |_| None));
        let kinds = bench.errors(&bench.run(3, 1));
        assert_eq!(kinds, BTreeMap::from([("CorruptOutput", 3)]), "{transfers}");
        bench.finish("");
    }
}

#[test]
fn lost_and_spurious_interrupts_are_counted() {
    let mut mock = Mock::new(program(2, 1), DEADLINES.segment, |segment| match segment {
        3 => Some(Fault::LostInterrupt),
        5 => Some(Fault::SpuriousInterrupts),
        _ => None,
    });
    // Outputs are slow, so the end of a segment and its output have separate interrupts.
    mock.store_polls = 30;
    let bench = Bench::of(mock);
    let answers = bench.run(8, 1);
    assert_eq!(bench.errors(&answers), BTreeMap::new());
    let counters = bench.queue.counters();
    assert_eq!((counters.frames, counters.resets), (8, 1));
    assert_eq!(counters.lost_interrupts, 1);
    assert!(counters.spurious_interrupts >= 1);
}

/// Waits of a transport: the longest, and the number ended by an interrupt.
#[derive(Debug, Default)]
struct Waits {
    longest: Duration,
    interrupts: u64,
}

/// A mock whose segments take time. Records the waits while fetch reads.
struct Slow {
    mock: Mock,
    /// The time of a segment.
    segment: Duration,
    /// The time at which fetch ends.
    ends: Option<Instant>,
    /// Times from fetch's end to the start of the next segment.
    gaps: Arc<Mutex<Vec<Duration>>>,
    ended: Option<Instant>,
    /// True if fetch raises interrupts.
    interrupts: bool,
    waits: Arc<Mutex<Waits>>,
}

impl Transport for Slow {
    forward_to_mock! { name allocate copy_in copy_out flush invalidate now sleep }

    fn read(&mut self, register: u32) -> Result<u32> {
        match self.ends {
            Some(ends) if register == register::FETCH_CTRL && self.mock.now() < ends => {
                return Ok(crate::isa::AP_START)
            }
            Some(ends) if register == register::FETCH_CTRL => self.ended = Some(ends),
            _ => {}
        }
        self.mock.read(register)
    }

    fn write(&mut self, register: u32, value: u32) -> Result<()> {
        if register == register::FETCH_CTRL {
            if let Some(ended) = self.ended.take() {
                let gap = self.mock.now() - ended;
                self.gaps.lock().unwrap().push(gap);
            }
            self.ends = Some(self.mock.now() + self.segment);
        }
        self.mock.write(register, value)
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let now = self.mock.now();
        let mut waits = self.waits.lock().unwrap();
        match self.ends.filter(|&ends| ends > now) {
            Some(ends) => {
                let left = ends - now;
                let came = self.interrupts && left <= timeout;
                self.mock.sleep(if came { left } else { timeout });
                waits.interrupts += u64::from(came);
                if left <= self.segment / 4 {
                    waits.longest = waits.longest.max(timeout);
                }
                Ok(came)
            }
            None => self.mock.wait(timeout),
        }
    }
}

#[test]
fn the_next_segment_starts_when_fetch_ends_or_a_tenth_of_a_millisecond_later() {
    for interrupts in [true, false] {
        let segment = Duration::from_micros(5230);
        let (waits, gaps) = (Arc::default(), Arc::default());
        let slow = Slow {
            mock: Mock::new(program(2, 1), DEADLINES.segment, |_| None),
            segment,
            ends: None,
            gaps: Arc::clone(&gaps),
            ended: None,
            interrupts,
            waits: Arc::clone(&waits),
        };
        let program = Arc::clone(&slow.mock.program);
        let driver = Driver::open(Watched::of(slow), Arc::clone(&program), DEADLINES).unwrap();
        let queue = FrameQueue::of(driver);
        let mut input = vec![0; program.input_bytes()];
        program.pack_input(&vec![1; program.patch_codes()], &mut input);
        let tickets: Vec<_> = (0..24).map(|_| queue.submit(input.clone())).collect();
        for ticket in tickets {
            ticket.wait(&NEVER).unwrap();
        }
        drop(queue);
        let waits = waits.lock().unwrap();
        assert!(waits.longest <= FETCH_SLICE, "{waits:?}");
        // Excludes the first segment of each kind, whose time is unknown, and late wake-ups.
        let gaps = gaps.lock().unwrap();
        let longest = *gaps[4..].iter().max().unwrap();
        assert!(longest <= FETCH_SLICE, "{gaps:?}");
        if interrupts {
            assert_eq!(longest, Duration::ZERO, "{gaps:?}");
            assert!(waits.interrupts >= 20, "{waits:?}");
        }
    }
}

#[test]
fn an_accelerator_that_stays_dead_gives_each_frame_its_error() {
    let bench = Bench::new(2, 1, |segment| (segment > 4).then_some(Fault::BusError));
    let answers = bench.run(12, 4);
    let kinds = bench.errors(&answers);
    assert!(kinds["DeviceFault"] >= 8, "{kinds:?}");
    assert!(answers[0].is_ok());
}

#[test]
fn a_frame_that_nobody_waits_for_is_not_started() {
    // The first segment waits until the frames behind it are abandoned.
    let (abandoned, wait) = mpsc::channel();
    let bench = Bench::new(1, 1, move |segment| {
        (segment == 0).then(|| {
            wait.recv().unwrap();
            Fault::Hang
        })
    });
    let hangs = bench.submit(0);
    for _ in 0..5 {
        drop(bench.submit(1));
    }
    abandoned.send(()).unwrap();
    let last = bench.submit(2);
    assert_eq!(hangs.wait(&NEVER).unwrap_err().kind(), "DeviceTimeout");
    let logits = expected(&bench.program, &bench.input(2));
    assert_eq!(last.wait(&NEVER).unwrap(), logits);
    assert_eq!(
        bench.finish("").segments,
        [Segment::Start(0), Segment::Start(0), Segment::End(0)]
    );
}

#[test]
fn a_cancelled_wait_ends() {
    let bench = Bench::new(1, 1, |_| Some(Fault::Hang));
    for _ in 0..20 {
        drop(bench.submit(0));
    }
    let cancel = AtomicBool::new(true);
    // The frame may also have hung before the first check.
    assert!(bench.submit(0).wait(&cancel).is_err());
}

#[test]
fn a_queue_that_is_dropped_finishes_its_frames() {
    let bench = Bench::new(2, 1, |_| None);
    let logits = |frame| expected(&bench.program, &bench.input(frame));
    let expected: Vec<_> = (0..9).map(logits).collect();
    let tickets: Vec<_> = (0..9).map(|frame| bench.submit(frame)).collect();
    bench.finish("");
    let answers: Vec<_> = tickets
        .into_iter()
        .map(|t| t.wait(&NEVER).unwrap())
        .collect();
    assert_eq!(answers, expected);
}

#[test]
fn a_spoiled_access_costs_one_frame_at_most() {
    let mut errors = BTreeMap::new();
    for &fault in AccessFault::ALL {
        for after in 0..60 {
            for (frames, ahead) in [(1, 1), (1, 3), (2, 1), (2, 5)] {
                let mock = Mock::new(program(frames, 2), DEADLINES.segment, |_| None);
                let bench = Bench::with(mock, &[(fault, after)]);
                // Runs as many frames as the fault needs, and some more.
                let mut costs: usize = 0;
                for round in 0.. {
                    let spoiled = bench.spoiled.load(Ordering::Relaxed) > 0;
                    costs += bench.errors(&bench.run(16, ahead)).values().sum::<usize>();
                    if spoiled {
                        break;
                    }
                    assert!(round < 8, "no access met {fault:?} after {after}");
                }
                assert!(
                    costs <= 1,
                    "{costs} errors of {fault:?} after {after}, {frames} frames, {ahead} ahead"
                );
                *errors.entry(fault).or_insert(0) += costs;
            }
        }
    }
    // Faults that retries cannot hide must fail frames.
    for fault in [
        AccessFault::LostStart,
        AccessFault::DoubledStart,
        AccessFault::LostFlush,
        AccessFault::LostInvalidate,
        AccessFault::LostWrite,
        AccessFault::TornWrite,
        AccessFault::StrayWrite,
    ] {
        assert!(errors[&fault] > 0, "{fault:?} cost no frame");
    }
}

#[test]
fn an_arena_of_another_process_is_not_multiplied() {
    let mut mock = Mock::new(program(2, 2), DEADLINES.segment, |_| None);
    // Memory has the arena of an earlier process, and the flush of the new arena is lost.
    mock.earlier_arena = mock.program.keyed_arena(0x0dd);
    let (program, report) = (Arc::clone(&mock.program), Arc::clone(&mock.report));
    let mut faulty = Faulty::new(mock);
    for after in [1, 1] {
        faulty.inject(AccessFault::LostFlush.name(), after).unwrap();
    }
    let mut driver = Driver::open(Watched::of(faulty), Arc::clone(&program), DEADLINES).unwrap();
    let spoiled = driver.transport.inner().fired();
    let bench = Bench {
        program,
        queue: FrameQueue::of(driver),
        report,
        spoiled,
    };
    let kinds = bench.errors(&bench.run(3, 1));
    assert_eq!(kinds, BTreeMap::from([("CorruptOutput", 1)]));
    assert_eq!(bench.spoiled.load(Ordering::Relaxed), 2);
}

/// Runs frames under random faults and checks every guarantee.
fn check_random_faults(seed: u64, frames: u64, slots: u64, ports: u64, ahead: usize, rate: u64) {
    let mut sample = random(seed);
    let bench = Bench::new(slots, ports, move |_| {
        (sample(1000) < rate).then(|| Fault::ALL[sample(Fault::ALL.len() as u64) as usize])
    });
    let answers = bench.run(frames, ahead);
    assert_eq!(answers.len() as u64, frames);
    let errors: usize = bench.errors(&answers).values().sum();
    let costs: usize = costs(&bench.finish("").fired).values().sum();
    // Two faults of the same frame cost one error.
    assert!(errors <= costs, "{errors} errors of {costs} faults");
    assert!(rate == 0 || costs == 0 || errors > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_schedule_of_faults_loses_exchanges_or_spoils_a_frame(
        seed: u64,
        slots in 1..=2u64,
        ports in 1..=4u64,
        ahead in 1..=6usize,
        rate in 0..400u64,
    ) {
        check_random_faults(seed, 60, slots, ports, ahead, rate);
    }
}

#[test]
fn thousands_of_frames_survive_random_faults() {
    check_random_faults(1, 4000, 2, 2, 5, 120);
}

/// Returns a frame's contribution to the counters: 1000 cycles; for each unit 4 commands and 100
/// busy cycles, of these 10 blocked and 20 starved.
fn frame_counts() -> BTreeMap<u32, u32> {
    let counts = CountedUnit::ALL.into_iter().flat_map(|unit| {
        let count = move |(counter, count)| (counter_offset(unit, counter), count);
        Counter::ALL.into_iter().zip([4, 100, 10, 20]).map(count)
    });
    let cycles = (register::COUNTERS_CYCLES, 1000);
    counts.chain([cycles]).collect()
}

fn counting(counts: BTreeMap<u32, u32>) -> Bench {
    let mut mock = Mock::new(program(2, 2), DEADLINES.segment, |_| None);
    mock.counts = counts;
    Bench::of(mock)
}

#[test]
fn counters_are_cleared_before_frames_and_held_after_them() {
    let bench = counting(frame_counts());
    assert_eq!(bench.errors(&bench.run(3, 1)), BTreeMap::new());
    for frames in [2, 5] {
        bench.queue.start_counters(&NEVER).unwrap();
        assert_eq!(bench.errors(&bench.run(frames, 1)), BTreeMap::new());
        let counts = bench.queue.stop_counters(&NEVER).unwrap();
        assert_eq!(counts.cycles, 1000 * frames);
        let expected = UnitCounts {
            commands: 4 * frames,
            busy: 100 * frames,
            blocked: 10 * frames,
            starved: 20 * frames,
        };
        assert!(counts.units.iter().all(|&unit| unit == expected));
    }
    bench.finish("counters");
}

#[test]
fn a_lost_write_to_the_counters_is_noticed() {
    let mock = Mock::new(program(2, 2), DEADLINES.segment, |_| None);
    let bench = Bench::with(mock, &[(AccessFault::LostWrite, 0)]);
    let error = bench.queue.start_counters(&NEVER).unwrap_err();
    assert!(error
        .to_string()
        .contains("counters_CONTROL is 0x0 after 1"));
}

#[test]
fn a_closed_driver_has_no_counters() {
    let bench = counting(frame_counts());
    assert!(bench.queue.close(Instant::now() + CLOSE_LIMIT));
    let error = bench.queue.stop_counters(&NEVER).unwrap_err();
    assert!(error.to_string().contains("thread has ended"));
}

/// Limit of a call in the tests below.
const CALL: Duration = Duration::from_millis(1500);

#[test]
fn a_long_queue_of_slow_calls_is_not_late() {
    let mock = Mock::new(program(1, 1), DEADLINES.segment, |_| {
        std::thread::sleep(CALL / 10);
        None
    });
    let bench = Bench::watched(mock, &[], &Watch::with_limit(CALL));
    let start = Instant::now();
    let answers = bench.run(20, 20);
    assert_eq!(bench.errors(&answers), BTreeMap::new());
    assert!(start.elapsed() > 3 * CALL);
}

use std::collections::BTreeMap;

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::mock::{Fault, Mock, MockProgram, Report};

const DEADLINES: Deadlines = Deadlines {
    segment: Duration::from_millis(25),
    identity: Duration::from_millis(500),
};

/// Numbers from a seed.
fn random(mut seed: u64) -> impl FnMut(u64) -> u64 + Send {
    move |below| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

fn queue(
    program: &MockProgram,
    plan: impl FnMut(u64) -> Option<Fault> + Send + 'static,
) -> (FrameQueue, Arc<Mutex<Report>>) {
    let mock = Mock::new(program.clone(), DEADLINES.segment, plan);
    let report = Arc::clone(&mock.report);
    let driver = Driver::open(mock, Arc::new(program.clone()), DEADLINES).unwrap();
    (FrameQueue::start(driver).unwrap(), report)
}

fn input(program: &MockProgram, frame: u64) -> Vec<u8> {
    let mut draw = random(frame);
    (0..program.input_bytes())
        .map(|_| draw(256) as u8)
        .collect()
}

/// What became of frames that were handed in with at most `ahead` unanswered.
fn run(
    program: &MockProgram,
    queue: &FrameQueue,
    frames: u64,
    ahead: usize,
) -> Vec<Result<Vec<i32>>> {
    let mut tickets = VecDeque::new();
    let mut answers = Vec::new();
    for frame in 0..frames {
        tickets.push_back(queue.submit(input(program, frame)));
        if tickets.len() == ahead {
            answers.push(tickets.pop_front().unwrap().wait(&NEVER));
        }
    }
    answers.extend(tickets.into_iter().map(|ticket| ticket.wait(&NEVER)));
    answers
}

static NEVER: AtomicBool = AtomicBool::new(false);

/// Checks that each frame has its own answer or an error; returns how often each kind of error came.
fn errors(program: &MockProgram, answers: &[Result<Vec<i32>>]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for (frame, answer) in answers.iter().enumerate() {
        match answer {
            Ok(logits) => assert_eq!(
                *logits,
                program.expected(&input(program, frame as u64)),
                "frame {frame}"
            ),
            Err(error) => *kinds.entry(error.kind()).or_default() += 1,
        }
    }
    kinds
}

fn costs(fired: &[Fault]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for kind in fired.iter().filter_map(|fault| fault.error()) {
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[test]
fn frames_take_turns_in_two_slots() {
    let program = MockProgram::new(2, 2);
    let (queue, report) = queue(&program, |_| None);
    let answers = run(&program, &queue, 40, 4);
    assert_eq!(errors(&program, &answers), BTreeMap::new());
    drop(queue);
    let report = report.lock().unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
    let steps = |s: &&Segment| matches!(s, Segment::Step(_));
    assert!(
        report.segments.iter().filter(steps).count() > 20,
        "{:?}",
        report.segments
    );
}

#[test]
fn one_frame_at_a_time_has_no_steps() {
    for (frames, ahead) in [(1, 4), (2, 1)] {
        let program = MockProgram::new(frames, 1);
        let (queue, report) = queue(&program, |_| None);
        let answers = run(&program, &queue, 5, ahead);
        assert_eq!(errors(&program, &answers), BTreeMap::new());
        drop(queue);
        let report = report.lock().unwrap();
        assert_eq!(report.violations, Vec::<String>::new());
        assert_eq!(
            report.segments,
            [Segment::Start(0), Segment::End(0)].repeat(5)
        );
    }
}

#[test]
fn each_fault_costs_one_frame_at_most_and_the_next_succeeds() {
    for fault in Fault::ALL {
        let mut fired = 0;
        for at in 6..9 {
            for (frames, ahead) in [(1, 2), (2, 1), (2, 4)] {
                let program = MockProgram::new(frames, 2);
                let (queue, report) = queue(&program, move |s| (s == at).then_some(fault));
                let answers = run(&program, &queue, 20, ahead);
                drop(queue);
                let report = report.lock().unwrap();
                let context = format!("{fault:?} at {at}, {frames} frames, {ahead} ahead");
                assert_eq!(report.violations, Vec::<String>::new(), "{context}");
                assert_eq!(
                    errors(&program, &answers),
                    costs(&report.fired),
                    "{context}"
                );
                fired += report.fired.len();
            }
        }
        // Not every fault can show in every segment.
        assert!(fired >= 3, "{fault:?} fired {fired} times");
    }
}

#[test]
fn a_flipped_bit_of_any_command_costs_one_frame() {
    // Of each segment of two frames in flight: 3 commands of 256 bits, met in turn.
    let program = MockProgram::new(2, 1);
    let (queue, report) = queue(&program, |segment| {
        (segment % 3 == 2).then_some(Fault::FlippedCommand)
    });
    let answers = run(&program, &queue, 2000, 4);
    drop(queue);
    let report = report.lock().unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
    assert!(report.fired.len() > 500, "{}", report.fired.len());
    assert_eq!(errors(&program, &answers), costs(&report.fired));
}

#[test]
fn frames_behind_a_fault_run_again_in_their_order() {
    for fault in Fault::ALL {
        for at in 4..9 {
            let program = MockProgram::new(2, 1);
            let (queue, report) = queue(&program, move |s| (s == at).then_some(fault));
            let frames: Vec<_> = (0..12).map(|f| input(&program, f)).collect();
            let tickets: Vec<_> = frames.iter().map(|f| queue.submit(f.clone())).collect();
            let answers: Vec<_> = tickets.into_iter().map(|t| t.wait(&NEVER)).collect();
            drop(queue);
            let failed = answers.iter().position(Result::is_err);
            let place = |input| frames.iter().position(|f| f == input).unwrap();
            let mut begins = 0;
            for started in &report.lock().unwrap().started {
                let places: Vec<_> = started.iter().map(place).collect();
                let expected: Vec<_> = (begins..).take(places.len()).collect();
                assert_eq!(places, expected, "{fault:?} at {at}");
                begins = failed.map_or(0, |failed| failed + 1);
            }
        }
    }
}

#[test]
fn a_frame_is_not_answered_before_its_segment_is_read() {
    // The output comes long before fetch has read the last of the segment's commands, which has no unit.
    for fault in [Fault::NoUnit, Fault::WrongIdentity] {
        let program = MockProgram::new(1, 1);
        let mut mock = Mock::new(program.clone(), DEADLINES.segment, move |segment| {
            (segment == 3).then_some(fault)
        });
        mock.fetch_looks = 16;
        let driver = Driver::open(mock, Arc::new(program.clone()), DEADLINES).unwrap();
        let queue = FrameQueue::start(driver).unwrap();
        let answers = run(&program, &queue, 4, 1);
        let failed: Vec<_> = answers.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, true, false, false], "{fault:?}");
    }
}

#[test]
fn lost_and_spurious_interrupts_are_counted() {
    let program = MockProgram::new(2, 1);
    let (queue, _) = queue(&program, |segment| match segment {
        3 => Some(Fault::LostInterrupt),
        5 => Some(Fault::SpuriousInterrupts),
        _ => None,
    });
    let answers = run(&program, &queue, 8, 1);
    assert_eq!(errors(&program, &answers), BTreeMap::new());
    let counters = queue.counters();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(read(&counters.frames), 8);
    assert_eq!(read(&counters.lost_interrupts), 1);
    assert!(read(&counters.spurious_interrupts) >= 1);
    assert_eq!(read(&counters.resets), 1);
}

#[test]
fn another_bitstream_is_refused_before_a_frame_runs() {
    let program = MockProgram::new(2, 1);
    let other = MockProgram {
        hash: program.hash ^ 1 << 40,
        ..program.clone()
    };
    let mock = Mock::new(other, DEADLINES.segment, |_| None);
    let report = Arc::clone(&mock.report);
    let error = Driver::open(mock, Arc::new(program), DEADLINES)
        .err()
        .unwrap();
    assert_eq!(error.kind(), "WrongBitstream");
    assert!(error.to_string().contains("configuration hash"), "{error}");
    assert_eq!(report.lock().unwrap().segments, []);
}

#[test]
fn an_accelerator_that_stays_dead_gives_each_frame_its_error() {
    let program = MockProgram::new(2, 1);
    let (queue, _) = queue(&program, |segment| (segment > 4).then_some(Fault::BusError));
    let answers = run(&program, &queue, 12, 4);
    let kinds = errors(&program, &answers);
    assert!(kinds["DeviceFault"] >= 8, "{kinds:?}");
    assert!(answers[0].is_ok());
}

#[test]
fn a_frame_that_nobody_waits_for_is_not_started() {
    let program = MockProgram::new(1, 1);
    let (queue, report) = queue(&program, |segment| (segment == 0).then_some(Fault::Hang));
    let hangs = queue.submit(input(&program, 0));
    for _ in 0..5 {
        drop(queue.submit(input(&program, 1)));
    }
    let last = queue.submit(input(&program, 2));
    assert_eq!(hangs.wait(&NEVER).unwrap_err().kind(), "DeviceTimeout");
    assert_eq!(
        last.wait(&NEVER).unwrap(),
        program.expected(&input(&program, 2))
    );
    drop(queue);
    // The first that was handed in behind it may have come to memory before it was abandoned.
    assert!(report.lock().unwrap().segments.len() <= 5);
}

#[test]
fn a_cancelled_wait_ends() {
    let program = MockProgram::new(1, 1);
    let (queue, _) = queue(&program, |_| Some(Fault::Hang));
    for _ in 0..20 {
        drop(queue.submit(input(&program, 0)));
    }
    let ticket = queue.submit(input(&program, 0));
    let cancel = AtomicBool::new(true);
    // It may as well have hung before the first look.
    assert!(ticket.wait(&cancel).is_err());
}

#[test]
fn a_queue_that_is_dropped_finishes_its_frames() {
    let program = MockProgram::new(2, 1);
    let (queue, _) = queue(&program, |_| None);
    let tickets: Vec<_> = (0..9).map(|f| queue.submit(input(&program, f))).collect();
    drop(queue);
    let answers: Vec<_> = tickets.into_iter().map(|t| t.wait(&NEVER)).collect();
    assert_eq!(errors(&program, &answers), BTreeMap::new());
}

/// Runs frames under random faults and checks all that must hold.
fn check_random_faults(
    seed: u64,
    frames: u64,
    slots: usize,
    ports: usize,
    ahead: usize,
    rate: u64,
) {
    let program = MockProgram::new(slots, ports);
    let mut draw = random(seed);
    let (queue, report) = queue(&program, move |_| {
        (draw(1000) < rate).then(|| Fault::ALL[draw(Fault::ALL.len() as u64) as usize])
    });
    let answers = run(&program, &queue, frames, ahead);
    assert_eq!(answers.len() as u64, frames);
    drop(queue);
    let report = report.lock().unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
    let errors: usize = errors(&program, &answers).values().sum();
    let costs: usize = costs(&report.fired).values().sum();
    // A fault that hits a frame which another has already hit costs nothing more.
    assert!(errors <= costs, "{errors} errors of {costs} faults");
    assert!(rate == 0 || costs == 0 || errors > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_schedule_of_faults_loses_exchanges_or_spoils_a_frame(
        seed: u64,
        slots in 1..=2usize,
        ports in 1..=4usize,
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

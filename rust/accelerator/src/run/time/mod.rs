//! The event model: replays command lists on the units with their queues, in declared cycles.
//!
//! Each process of the kernels walks the steps of [`crate::unit`] with a clock of its own
//! ([`process`]). Queues carry the times at which their items can be taken, and remember when slots
//! became free ([`queues`]). So the result does not depend on the order in which the processes run:
//! they form a Kahn process network. The array follows the rules of `docs/array-timing.md`
//! ([`rtl`]). Trip counts are those of the loops in `fpga/src/`; [`quasar_hardware::declared`]
//! holds depths and gaps. All results are modelled. Depends on [`crate::isa`], [`crate::program`],
//! [`crate::shape`] `unit` and the rules of
//! [`crate::host::driver`].

mod array;
mod buffer;
mod counts;
mod drain;
mod intervals;
mod memory;
mod norm;
mod process;
mod queues;
mod rtl;
mod softmax;
mod trace;

use std::collections::VecDeque;

use quasar_core::error::{Error, Result};
use quasar_hardware::declared::segment_gap;
use quasar_hardware::Hardware;

use self::array::{Array, ScoreStore};
use self::counts::{Activity, CycleSet, Lacking};
use self::drain::Drain;
pub use self::intervals::intervals;
use self::memory::{Fetch, Host, Loader, Store};
use self::norm::Norm;
use self::process::{Process, Sizes};
use self::queues::{Entry, Fifo, Queues};
pub use self::rtl::{array_cycles, Bounds, CoreSizes, Cycles, Issued, Surroundings, Work};
use self::softmax::Exponential;
pub use self::trace::{Cause, Span, Stalls, Trace};
use crate::counts::Counts;
use crate::isa::{Command, Kind};
use crate::program::{List, Segment, FINISHING};
use crate::shape::Shape;
use crate::unit::{steps, Memory, QueueName, Step};
pub use crate::unit::{Leaves, Pass};

/// The work of processes without commands of their own: `scores`, `gather_scales` and `store`.
#[derive(Default)]
struct Awaited {
    /// For each frame, the segment that finishes it.
    finishing: Vec<usize>,
    /// Logits of each frame.
    logits: VecDeque<u64>,
    /// Tokens of each attention tile.
    attention_tiles: VecDeque<u64>,
    /// Keys of each attention tile.
    keys: VecDeque<u64>,
}

impl Awaited {
    fn of(list: &VecDeque<Entry>, shape: Shape) -> Self {
        let (mut awaited, mut logits) = (Self::default(), 0);
        for &(segment, _, command) in list {
            let head = matches!(command, Command::Rows(rows) if rows.kind == Kind::Logits);
            let other = matches!(
                command,
                Command::Scores(_) | Command::Attend(_) | Command::LoadEnd(_)
            );
            if !head && !other {
                continue;
            }
            let mut keys = 0;
            for step in steps(command, shape) {
                match step {
                    Step::Pass(product) => keys += product.pass.rows.rows(),
                    Step::Write(range) if matches!(range.memory, Memory::Score(_)) => {
                        awaited.keys.push_back(keys);
                    }
                    Step::Take(QueueName::Scales, tokens, _) => {
                        awaited.attention_tiles.push_back(tokens as u64);
                    }
                    Step::Give(QueueName::Logits, count, _) => logits += count as u64,
                    // A frame's end follows the logits of all its heads.
                    Step::Give(QueueName::Checks, ..) if logits > 0 => {
                        awaited.finishing.push(segment);
                        awaited.logits.push_back(std::mem::take(&mut logits));
                    }
                    Step::Take(..)
                    | Step::Give(..)
                    | Step::TakeHalf(_)
                    | Step::FreeHalf(_)
                    | Step::Transfer(_)
                    | Step::Read(_)
                    | Step::Write(_)
                    | Step::Requantize { .. }
                    | Step::Turns { .. }
                    | Step::Normalise { .. }
                    | Step::Pool
                    | Step::Exponentials { .. }
                    | Step::EndLoop => {}
                }
            }
        }
        awaited
    }
}

/// The accelerator: queues, units and the kernels that access memory.
struct Model {
    sizes: Sizes,
    queues: Queues,
    trace: Trace,
    fetch: Fetch,
    loader: Loader,
    array: Array,
    scores: ScoreStore,
    drain: Drain,
    norm: Norm,
    exponential: Exponential,
    store: Store,
    /// For each frame, the segment that finishes it.
    finishing: Vec<usize>,
}

impl Model {
    fn new(hardware: &Hardware, lists: &[&[Command]], host: Option<Host>) -> Self {
        let sizes = Sizes::of(hardware);
        let list = lists.iter().enumerate().flat_map(|(segment, commands)| {
            let commands = commands.iter().enumerate();
            commands.map(move |(index, &command)| (segment, index, command))
        });
        let list: VecDeque<Entry> = list.collect();
        let Awaited {
            finishing,
            logits,
            attention_tiles,
            keys,
        } = Awaited::of(&list, sizes.shape);
        let scores = ScoreStore::new(keys);
        Self {
            sizes,
            scores,
            queues: Queues::new(hardware),
            trace: Trace::default(),
            store: Store::new(logits),
            finishing,
            drain: Drain::new(&sizes, attention_tiles),
            fetch: Fetch {
                list,
                now: 0,
                segment: None,
                host,
                started: Vec::new(),
                activity: Activity::default(),
                waiting: CycleSet::default(),
                read: Vec::new(),
            },
            loader: Loader::new(),
            array: Array::new(&sizes),
            norm: Norm::new(),
            exponential: Exponential::new(),
        }
    }

    /// Runs each process as far as it can go. Returns false if none could go on.
    fn advance(&mut self) -> bool {
        let Self {
            sizes,
            queues,
            trace,
            fetch,
            loader,
            array,
            scores,
            drain,
            norm,
            exponential,
            store,
            finishing: _,
        } = self;
        let (beat, lanes) = (sizes.shape.beat as u64, sizes.shape.lanes as u64);
        let mut moved = 0;
        let mut run = |step: &mut dyn FnMut() -> bool| {
            while step() {
                moved += 1;
            }
        };
        run(&mut || {
            let loaders = [&mut array.weights, &mut drain.rows, &mut norm.gains];
            fetch.advance(sizes, queues, trace, loaders)
        });
        run(&mut || loader.advance(sizes, queues, trace));
        run(&mut || array.weights.advance(beat, &mut queues[QueueName::Weights]));
        run(&mut || array.advance(sizes, queues, trace));
        run(&mut || array.leave(queues));
        run(&mut || scores.advance(queues));
        run(&mut || scores.send(sizes, queues));
        run(&mut || drain.rows.advance(beat, &mut queues[QueueName::Rows]));
        run(&mut || drain.scales.advance(lanes, &mut queues[QueueName::Scales]));
        run(&mut || drain.advance(sizes, queues, trace));
        run(&mut || norm.gains.advance(beat, &mut queues[QueueName::Gains]));
        run(&mut || norm.advance(sizes, queues, trace));
        run(&mut || exponential.advance(sizes, queues, trace));
        run(&mut || store.advance(queues, trace));
        moved > 0
    }

    /// Returns the trace, with the counts of all units.
    fn ended(self) -> Trace {
        let mut store = self.store.activity;
        let mut before = 0;
        for (&segment, &ended) in self.finishing.iter().zip(&self.trace.frames) {
            // The host starts store before the segment that finishes the frame.
            store.command(self.fetch.started[segment].max(before), ended);
            before = ended;
        }
        let fed = |queue: &Fifo| Lacking::Without(queue.fed.clone().unwrap_or_default());
        let within = |cycles| Lacking::Within(cycles, CycleSet::default());
        let units = [
            (self.fetch.activity, within(self.fetch.waiting)),
            (
                self.loader.worker.activity,
                Lacking::Within(self.loader.reading, self.loader.beats),
            ),
            (self.array.plan.activity, Lacking::Unknown),
            (self.array.worker.activity, within(self.array.waiting)),
            (self.scores.activity, fed(&self.queues.scores)),
            (
                self.drain.worker.activity,
                fed(&self.queues[QueueName::Sums]),
            ),
            (
                self.norm.worker.activity,
                fed(&self.queues[QueueName::Moments]),
            ),
            (
                self.exponential.worker.activity,
                fed(&self.queues[QueueName::Maxima]),
            ),
            (store, fed(&self.queues[QueueName::Logits])),
        ];
        Trace {
            units: units.map(|(activity, lacking)| activity.counts(&lacking)),
            ..self.trace
        }
    }
}

/// Replays command lists, one after another, on an accelerator that starts in cycle 0.
///
/// # Errors
/// [`Error::InvalidValue`] if the lists leave a unit waiting for ever.
pub fn replay(hardware: &Hardware, lists: &[&[Command]]) -> Result<Trace> {
    run(hardware, lists, None)
}

fn run(hardware: &Hardware, lists: &[&[Command]], host: Option<Host>) -> Result<Trace> {
    let commands: usize = lists.iter().map(|list| list.len()).sum();
    let mut model = Model::new(hardware, lists, host);
    while model.advance() {}
    let ended = model.trace.spans.len();
    if ended < commands {
        return Err(Error::InvalidValue(format!(
            "{} of {commands} commands never end: a credit is missing, or a queue is too short",
            commands - ended
        )));
    }
    Ok(model.ended())
}

/// The steady state: nothing changes any more from frame to frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steady {
    /// Cycles between two frames.
    pub period: u64,
    /// The replay.
    pub trace: Trace,
    /// Segments that were replayed; [`Span::segment`] is an index into them.
    pub segments: Vec<Segment>,
    /// Segments of the steady state.
    pub window: std::ops::Range<usize>,
    /// Frames in the window.
    pub frames: u64,
}

fn commands(lists: &[List], segment: Segment) -> Result<&[Command]> {
    let list = lists.iter().find(|list| list.segment == segment);
    list.map(|list| &list.commands[..])
        .ok_or_else(|| Error::InvalidValue(format!("the lists have no segment {segment}")))
}

/// Replays segments of a program's lists. `gap`: cycles that the host takes to start a segment
/// once it may, by the rules of [the driver](crate::host::driver); `None`: segments follow each
/// other without a gap.
///
/// # Errors
/// As [`replay`]; [`Error::InvalidValue`] for a segment that the lists lack.
pub fn replay_segments(
    hardware: &Hardware,
    lists: &[List],
    segments: &[Segment],
    gap: Option<u64>,
) -> Result<Trace> {
    let lists: Result<Vec<_>> = segments.iter().map(|&s| commands(lists, s)).collect();
    let mut finished = 0_usize;
    let answered = |segment: &Segment| {
        let before = finished;
        finished += usize::from(!matches!(segment, Segment::Start(_)));
        match segment {
            // It runs on an empty accelerator.
            Segment::Start(_) => before,
            _ => before.saturating_sub(FINISHING - 1),
        }
    };
    let answered = segments.iter().map(answered).collect();
    run(hardware, &lists?, gap.map(|gap| Host { gap, answered }))
}

/// Replays one frame alone.
///
/// # Errors
/// As [`replay`].
pub fn frame_alone(hardware: &Hardware, lists: &[List]) -> Result<Trace> {
    replay_segments(hardware, lists, &[Segment::Start(0), Segment::End(0)], None)
}

/// Returns what the counters on the chip count for a frame alone. The host starts the frame's
/// second segment [`segment_gap`] cycles after the first one is read.
///
/// # Errors
/// As [`replay`].
pub fn frame_counts(hardware: &Hardware, lists: &[List]) -> Result<Counts> {
    let segments = [Segment::Start(0), Segment::End(0)];
    let trace = replay_segments(hardware, lists, &segments, Some(segment_gap(hardware)))?;
    Ok(Counts {
        cycles: trace.frames.first().copied().unwrap_or_else(|| trace.end()),
        units: trace.units,
    })
}

/// Replays frame after frame, with as many in flight as the configuration has; `gap` as in
/// [`replay_segments`].
///
/// # Errors
/// As [`replay`].
pub fn steady(hardware: &Hardware, lists: &[List], gap: Option<u64>) -> Result<Steady> {
    let two = hardware.configuration().frames == 2;
    let (segments, window, frames) = if two {
        let steps = [Segment::Step(0), Segment::Step(1)].repeat(2);
        let ends = ([Segment::Start(0)], [Segment::End(0)]);
        ([&ends.0[..], &steps, &ends.1].concat(), 2..4, 2)
    } else {
        ([Segment::Start(0), Segment::End(0)].repeat(4), 4..6, 1)
    };
    let trace = replay_segments(hardware, lists, &segments, gap)?;
    let ends = &trace.frames;
    let period = if two {
        (ends[3] - ends[1]) / 2
    } else {
        ends[3] - ends[2]
    };
    Ok(Steady {
        period,
        trace,
        segments,
        window,
        frames,
    })
}

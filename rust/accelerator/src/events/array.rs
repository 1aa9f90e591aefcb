//! Models the kernels around the array in RTL: `plan`, which makes descriptors of passes, and
//! `scores`, which stores scores.

use std::collections::VecDeque;

use quasar_hardware::declared;
use quasar_hardware::tiling::RowTile;

use super::buffer::{BufferLoader, Content};
use super::counts::{Activity, CycleSet};
use super::process::{Process, Sizes, Worker};
use super::queues::{Fifo, Queues};
use super::rtl::{Bounds, Core, Issued, Leaves, Pass};
use super::trace::{Cause, Trace};
use crate::isa::{Command, Context, Gemm, Scores, Unit};

#[derive(Clone, Copy)]
pub(super) enum ArrayStep {
    /// Takes the command.
    Begin,
    /// Takes a credit.
    Wait(Cause),
    /// Takes a full half of the weights.
    Weights,
    /// Makes the descriptor of a pass.
    Plan,
    /// Issues the pass.
    Pass(Pass),
    /// Gives the half of the weights back.
    Release,
    /// Gives load a credit for `input`.
    GiveInput,
}

/// The kernel `plan`: goes through a command's passes ahead of issue, and takes the credits that
/// the passes wait for.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) now: u64,
    /// Reason of the last wait.
    pub(super) cause: Option<Cause>,
    pub(super) activity: Activity,
}

impl Plan {
    fn wait(&mut self, cause: Cause, until: u64) {
        if until > self.now {
            (self.now, self.cause) = (until, Some(cause));
        }
    }
}

/// The array, with the kernel that plans its passes. The clock of its worker is the fast one.
pub(super) struct Array {
    pub(super) worker: Worker<ArrayStep>,
    pub(super) plan: Plan,
    pub(super) core: Core,
    pub(super) weights: BufferLoader,
    /// Fast cycle in which the present half of the weights was full.
    pub(super) filled: u64,
    /// Slow cycles in which a pass could start, but for its weights.
    pub(super) waiting: CycleSet,
}

impl Process for Array {
    type Step = ArrayStep;
    const UNIT: Unit = Unit::Array;

    fn worker(&mut self) -> &mut Worker<ArrayStep> {
        &mut self.worker
    }

    fn expand(command: Command, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let steps = match command {
            Command::Gemm(gemm) => Self::gemm(gemm, sizes),
            Command::Scores(scores) => Self::scores(scores, sizes),
            Command::Context(context) => Self::context(context, sizes),
            _ => Vec::new(),
        };
        std::iter::once((ArrayStep::Begin, 1))
            .chain(steps)
            .filter(|&(_, times)| times > 0)
            .collect()
    }

    fn advance(&mut self, sizes: &Sizes, queues: &mut Queues, trace: &mut Trace) -> bool {
        if self.worker.running.is_none() {
            let commands = &mut queues.commands[Self::UNIT as usize];
            let came = commands.next();
            let Some((_, entry)) = commands.take(self.plan.now) else {
                return false;
            };
            self.worker.came = came.unwrap_or_default();
            self.worker.running = Some((entry, self.worker.clock.now));
            self.worker.steps = Self::expand(entry.2, sizes).into();
        } else if let Some(&(step, _)) = self.worker.steps.front() {
            if !self.once(step, sizes, queues) {
                return false;
            }
            let steps = &mut self.worker.steps;
            steps[0].1 -= 1;
            if steps[0].1 == 0 {
                steps.pop_front();
            }
        } else {
            let (came, planned) = (self.worker.came, self.plan.now);
            self.plan.activity.command(came, planned);
            self.worker.report(trace, sizes.core.ratio);
        }
        true
    }

    fn once(&mut self, step: ArrayStep, sizes: &Sizes, queues: &mut Queues) -> bool {
        let core = sizes.core;
        // The last word of the last pass.
        let end = self.worker.clock.now.saturating_sub(1);
        match step {
            ArrayStep::Begin => {
                self.plan.wait(Cause::Command, self.worker.came);
                let begun = self.plan.now + declared::COMMAND_GAP;
                self.plan.wait(Cause::Gap, begun);
                let running = self.worker.running.map(|(entry, _)| entry.2);
                if matches!(running, Some(Command::Scores(_))) {
                    queues.score_commands.push_back(begun);
                }
            }
            ArrayStep::Wait(cause) => {
                let Some((at, ())) = queues.credits(cause).take(self.plan.now) else {
                    return false;
                };
                self.plan.wait(cause, at);
            }
            ArrayStep::Weights => {
                let Some((at, ())) = self.weights.buffer.full.take(0) else {
                    return false;
                };
                self.filled = core.filled(at);
            }
            ArrayStep::Plan => {
                let planned = self.plan.now + declared::PLAN_INTERVAL;
                let Some(at) = queues.passes.put(planned, ()) else {
                    return false;
                };
                self.plan.activity.blocked.add(planned, at);
                self.plan.now = at;
            }
            ArrayStep::Pass(pass) => {
                // The array takes a descriptor as soon as it can, but the model only when it knows
                // when the pass starts.
                let planned = queues.passes.next().expect("the step before planned it");
                let taken = planned.max(self.core.takes());
                let Some(issued) = self.core.issue(pass, self.filled, taken) else {
                    return false;
                };
                queues.passes.take(taken);
                self.record(issued, taken, core.ratio);
                self.account(issued, pass.words);
                self.plan.cause = None;
            }
            ArrayStep::Release => {
                let freed = core.freed(end);
                return self.weights.buffer.free.put(freed + 1, ()).is_some();
            }
            ArrayStep::GiveInput => {
                let free = core.freed(end);
                return queues.array_to_load.put(free, ()).is_some();
            }
        }
        true
    }
}

impl Array {
    pub(super) fn new(sizes: &Sizes) -> Self {
        Self {
            worker: Worker::new(),
            plan: Plan::default(),
            core: Core::new(sizes.core),
            filled: 0,
            waiting: CycleSet::default(),
            weights: BufferLoader::new(0, |command, sizes| match command {
                Command::Gemm(gemm) => {
                    let (words, word) = (sizes.words(gemm.columns), sizes.weight_word());
                    let weights = Content::weights(words, word, sizes.beat_bytes);
                    vec![weights; sizes.tile_rows(gemm.rows4, gemm.rows8).count()]
                }
                _ => Vec::new(),
            }),
        }
    }

    /// Records a pass for the counters, whose cycles are slow ones.
    fn record(&mut self, issued: Issued, taken: u64, ratio: u64) {
        let Bounds {
            issued: free,
            chain,
            room,
            descriptor,
            ..
        } = issued.bounds;
        let could = free.max(chain).max(room).max(descriptor);
        self.waiting
            .add(could.div_ceil(ratio), issued.start / ratio);
        self.worker.activity.command(taken, issued.end / ratio + 1);
    }

    /// Accounts for the cycles of a pass and those in which it was held up, by cause.
    fn account(&mut self, issued: Issued, words: u64) {
        let bounds = issued.bounds;
        let mut waits = [
            (bounds.chain, Cause::Lanes),
            (bounds.room, Cause::Lanes),
            (bounds.weights, Cause::Memory),
            (bounds.descriptor, self.plan.cause.unwrap_or(Cause::Gap)),
        ];
        waits.sort_by_key(|&(until, _)| until);
        for (until, cause) in waits {
            self.worker.clock.wait(cause, until);
        }
        self.worker.clock.work(words);
    }

    fn gemm(gemm: Gemm, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![
            (ArrayStep::Wait(Cause::Patches), gemm.wait_load.into()),
            (ArrayStep::Wait(Cause::Result), gemm.wait_drain.into()),
        ];
        for (tile, rows) in sizes.row_tiles(gemm.rows4, gemm.rows8).enumerate() {
            steps.push((ArrayStep::Weights, 1));
            for groups in sizes.tile_groups(gemm.tokens) {
                if tile == 0 {
                    steps.push((ArrayStep::Wait(Cause::Norm), gemm.wait_norm.into()));
                    let stored = gemm.wait_drain_tiles.into();
                    steps.push((ArrayStep::Wait(Cause::Result), stored));
                }
                steps.extend(passes(sizes, gemm.columns, gemm.pass, rows, groups));
            }
            steps.push((ArrayStep::Release, 1));
        }
        steps.push((ArrayStep::GiveInput, gemm.post_load.into()));
        steps
    }

    fn scores(scores: Scores, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![(ArrayStep::Wait(Cause::Result), scores.wait_drain.into())];
        steps.extend(sizes.row_tiles(0, scores.keys).flat_map(|rows| {
            let pass = Pass {
                words: sizes.words(scores.columns),
                rows,
                groups: 0,
                leaves: Leaves::Scores,
            };
            [(ArrayStep::Plan, 1), (ArrayStep::Pass(pass), 1)]
        }));
        steps
    }

    fn context(context: Context, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![
            (ArrayStep::Wait(Cause::Result), context.wait_drain.into()),
            (ArrayStep::Wait(Cause::Softmax), 1),
        ];
        let groups = sizes.groups(context.tokens.into());
        for rows in sizes.row_tiles(0, context.rows) {
            steps.extend(passes(sizes, context.keys, context.pass, rows, groups));
        }
        steps
    }

    /// Lets the next sums or scores leave. Returns false if that is not possible yet.
    pub(super) fn leave(&mut self, queues: &mut Queues) -> bool {
        let blocked = &mut self.worker.activity.blocked;
        let mut put = |queue: &mut Fifo, offered: u64| {
            let at = queue.put(offered, ())?;
            blocked.add(offered, at);
            Some(at)
        };
        self.core.leave()
            | self.core.take_sum(|at| put(&mut queues.sums, at))
            | self.core.take_score(|at| put(&mut queues.scores, at))
    }
}

/// Returns the passes of a tile of `columns` columns, of at most `pass` columns each.
fn passes(
    sizes: &Sizes,
    columns: u32,
    pass: u32,
    rows: RowTile,
    groups: u64,
) -> impl Iterator<Item = (ArrayStep, u64)> + '_ {
    (0..columns).step_by(pass as usize).flat_map(move |first| {
        let left = columns - first;
        let leaves = if left > pass {
            Leaves::Stay
        } else {
            Leaves::Sums
        };
        let words = sizes.words(left.min(pass));
        let pass = Pass {
            words,
            rows,
            groups,
            leaves,
        };
        [(ArrayStep::Plan, 1), (ArrayStep::Pass(pass), 1)]
    })
}

/// The kernel `scores`: stores a key's scores a cycle, then sends the largest.
pub(super) struct ScoreStore {
    pub(super) now: u64,
    /// Keys of each attention tile.
    pub(super) tiles: VecDeque<u64>,
    /// Keys of the present one that are stored.
    pub(super) stored: u64,
    /// The largest scores of all tokens.
    pub(super) largest: Fifo,
    /// First cycle in which maxima can be sent, and their groups that have yet to be.
    pub(super) sending: u64,
    pub(super) left: u64,
    /// Cycles in which the commands were taken that have not ended.
    pub(super) commands: VecDeque<u64>,
    pub(super) activity: Activity,
}

impl ScoreStore {
    pub(super) fn new(tiles: VecDeque<u64>) -> Self {
        Self {
            now: 0,
            tiles,
            stored: 0,
            largest: Fifo::new(2),
            sending: 0,
            left: 0,
            commands: VecDeque::new(),
            activity: Activity::default(),
        }
    }

    /// Stores the next scores. Returns false if that is not possible yet.
    pub(super) fn advance(&mut self, queues: &mut Queues) -> bool {
        let Some(&keys) = self.tiles.front() else {
            return false;
        };
        if self.stored == keys {
            let sent = self.now - 1 + declared::SCORE_DEPTH;
            let Some(at) = self.largest.put(sent, ()) else {
                return false;
            };
            self.now = self.now.max(at - declared::SCORE_DEPTH);
            self.tiles.pop_front();
            self.stored = 0;
            return true;
        }
        let Some((at, ())) = queues.scores.take(self.now) else {
            return false;
        };
        if self.stored == 0 {
            let came = queues.score_commands.pop_front().unwrap_or(at);
            self.commands.push_back(came.max(self.now).min(at));
        }
        self.now = at + 1;
        self.stored += 1;
        true
    }

    /// Sends the next maxima. Returns false if that is not possible yet.
    pub(super) fn send(&mut self, sizes: &Sizes, queues: &mut Queues) -> bool {
        if self.left == 0 {
            let Some((at, ())) = self.largest.take(self.sending) else {
                return false;
            };
            (self.sending, self.left) = (at, sizes.tiling.tokens.div_ceil(sizes.exponential_lanes));
            return true;
        }
        let Some(at) = queues.maxima.put(self.sending, ()) else {
            return false;
        };
        self.activity.blocked.add(self.sending, at);
        (self.sending, self.left) = (at + 1, self.left - 1);
        if self.left == 0 {
            let taken = self.commands.pop_front().unwrap_or(at);
            self.activity.command(taken, at + 1);
        }
        true
    }
}

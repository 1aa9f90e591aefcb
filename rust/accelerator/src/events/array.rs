//! Models the array: plan, issue, the systolic array and `unpack_lanes`.

use std::collections::VecDeque;

use quasar_hardware::declared;

use super::buffer::{BufferLoader, Content};
use super::issue::{aligned, Issue, Pass};
use super::process::{Process, Sizes, Worker};
use super::queues::Queues;
use super::trace::Cause;
use crate::isa::{Command, Context, Gemm, Scores, Unit};

#[derive(Clone, Copy)]
pub(super) enum ArrayStep {
    /// Takes the command.
    Begin,
    /// Takes a credit.
    Wait(Cause),
    /// Takes a full half of the weights.
    Weights,
    /// Issues a pass.
    Pass {
        columns: u64,
        drain: u64,
        leaves: Leaves,
    },
    /// Gives the half of the weights back.
    Release,
    /// Gives load a credit for `input`.
    GiveInput,
}

#[derive(Clone, Copy)]
pub(super) enum Leaves {
    /// None: the next pass adds to the sums, or the sums are scores, which go to their buffer.
    Nothing,
    /// Sums.
    Sums,
    /// The maxima of the scores, when the last score is stored.
    Maxima,
}

/// Items that leave the array: `count` of them, one a cycle, the first in the array's cycle `at`.
pub(super) struct Leaving {
    pub(super) at: u64,
    pub(super) count: u64,
    pub(super) maxima: bool,
}

/// Most passes that are planned ahead of issue.
pub(super) const PLANNED: usize = 4;

/// The process `plan`: goes through a command's passes ahead of issue, and takes the credits that
/// the passes wait for.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) now: u64,
    /// Reason of the last wait.
    pub(super) cause: Option<Cause>,
    /// Cycles in which the last passes were issued.
    pub(super) issued: VecDeque<u64>,
}

impl Plan {
    pub(super) fn wait(&mut self, cause: Cause, until: u64) {
        if until > self.now {
            (self.now, self.cause) = (until, Some(cause));
        }
    }

    /// Plans the next pass. Returns the cycle.
    pub(super) fn pass(&mut self) -> u64 {
        if self.issued.len() == PLANNED {
            self.now = self.now.max(self.issued[0] + 1);
        }
        self.now += declared::PLAN_INTERVAL;
        self.now
    }
}

/// The array. Issue, the systolic array and `unpack_lanes` stand still together while a queue that
/// they write is full.
pub(super) struct Array {
    pub(super) worker: Worker<ArrayStep>,
    pub(super) plan: Plan,
    pub(super) issue: Issue,
    pub(super) weights: BufferLoader,
    pub(super) leaving: VecDeque<Leaving>,
    /// The array's cycles from which on it is later than the clock, since it stood still, and by
    /// how much.
    pub(super) late: Vec<(u64, u64)>,
}

impl Process for Array {
    type Step = ArrayStep;
    const UNIT: Unit = Unit::Array;
    // `Plan` counts the gap.
    const GAP: u64 = 0;

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
            .collect()
    }

    fn once(&mut self, step: ArrayStep, sizes: &Sizes, queues: &mut Queues) -> bool {
        match step {
            ArrayStep::Wait(cause) => {
                let Some(at) = self.arrival(queues.credits(cause).next(), queues) else {
                    return false;
                };
                queues.credits(cause).take(at);
                self.plan.wait(cause, at);
            }
            ArrayStep::Weights => {
                let Some(at) = self.arrival(self.weights.buffer.full.next(), queues) else {
                    return false;
                };
                self.weights.buffer.full.take(at);
                self.plan.wait(Cause::Memory, at);
            }
            ArrayStep::Begin => {
                let came = self.worker.came;
                self.plan.wait(Cause::Command, came);
                let begun = self.plan.now + declared::COMMAND_GAP;
                self.plan.wait(Cause::Gap, begun);
            }
            ArrayStep::Pass {
                columns,
                drain,
                leaves,
            } => {
                let mut issue = self.issue;
                issue.now = issue.now.max(self.cycle(self.worker.clock.now));
                let plan = Plan {
                    issued: self.plan.issued.clone(),
                    ..self.plan
                }
                .pass();
                if !self.let_leave(queues, |_, wall| wall <= plan) {
                    return false;
                }
                let issued = issue.pass(Pass {
                    columns,
                    drain,
                    ready: self.cycle(plan),
                });
                if !self.let_leave(queues, |cycle, _| cycle <= issued.end) {
                    return false;
                }
                self.issue = issue;
                self.plan.pass();
                self.plan.issued.push_back(self.wall(issued.start));
                if self.plan.issued.len() > PLANNED {
                    self.plan.issued.pop_front();
                }
                let cause = self.plan.cause.take().unwrap_or(Cause::Gap);
                let end = self.wall(issued.end);
                let clock = &mut self.worker.clock;
                clock.wait(Cause::Lanes, clock.now + issued.drain_stall);
                clock.wait(cause, clock.now + issued.weight_stall);
                clock.work(columns);
                clock.wait(Cause::Full, end + 1);
                let aligned = aligned(issued.end, sizes.tiling.tokens, sizes.tiling.pairs);
                let (at, count, maxima) = match leaves {
                    Leaves::Nothing => return true,
                    Leaves::Sums => (aligned + 1, drain, false),
                    Leaves::Maxima => {
                        let groups = sizes.tiling.tokens.div_ceil(sizes.exponential_lanes);
                        (aligned + drain + declared::SCORE_DEPTH, groups, true)
                    }
                };
                self.leaving.push_back(Leaving { at, count, maxima });
            }
            ArrayStep::Release => {
                return self.worker.put(&mut self.weights.buffer.free, 0);
            }
            ArrayStep::GiveInput => return self.worker.put(&mut queues.array_to_load, 1),
        }
        true
    }
}

impl Array {
    pub(super) fn new() -> Self {
        Self {
            worker: Worker::new(),
            issue: Issue::default(),
            plan: Plan::default(),
            weights: BufferLoader::new(|command, sizes| match command {
                Command::Gemm(gemm) => {
                    let columns = gemm.columns.into();
                    let weights = Content::weights(columns, sizes.tiling.pairs, sizes.beat_bytes);
                    vec![weights; sizes.tile_rows(gemm.rows4, gemm.rows8).count()]
                }
                _ => Vec::new(),
            }),
            leaving: VecDeque::new(),
            late: Vec::new(),
        }
    }

    pub(super) fn gemm(gemm: Gemm, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![
            (ArrayStep::Wait(Cause::Patches), gemm.wait_load.into()),
            (ArrayStep::Wait(Cause::Result), gemm.wait_drain.into()),
        ];
        for (tile, rows) in sizes.tile_rows(gemm.rows4, gemm.rows8).enumerate() {
            steps.push((ArrayStep::Weights, 1));
            for groups in sizes.tile_groups(gemm.tokens) {
                if tile == 0 {
                    steps.push((ArrayStep::Wait(Cause::Norm), gemm.wait_norm.into()));
                    let stored = gemm.wait_drain_tiles.into();
                    steps.push((ArrayStep::Wait(Cause::Result), stored));
                }
                steps.extend(passes(gemm.columns, gemm.pass, rows * groups));
            }
            steps.push((ArrayStep::Release, 1));
        }
        steps.push((ArrayStep::GiveInput, gemm.post_load.into()));
        steps
    }

    pub(super) fn scores(scores: Scores, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![(ArrayStep::Wait(Cause::Result), scores.wait_drain.into())];
        let mut tiles = sizes.tile_rows(0, scores.keys).peekable();
        while let Some(keys) = tiles.next() {
            let leaves = if tiles.peek().is_some() {
                Leaves::Nothing
            } else {
                Leaves::Maxima
            };
            let columns = scores.columns.into();
            let pass = ArrayStep::Pass {
                columns,
                drain: keys,
                leaves,
            };
            steps.push((pass, 1));
        }
        steps
    }

    pub(super) fn context(context: Context, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![
            (ArrayStep::Wait(Cause::Result), context.wait_drain.into()),
            (ArrayStep::Wait(Cause::Softmax), 1),
        ];
        let groups = sizes.groups(context.tokens.into());
        for rows in sizes.tile_rows(0, context.rows) {
            steps.extend(passes(context.keys, context.pass, rows * groups));
        }
        steps
    }

    /// Returns the time at which `plan` takes an item that arrives at `there`, or none if that is
    /// not known yet. Meanwhile sums leave.
    pub(super) fn arrival(&mut self, there: Option<u64>, queues: &mut Queues) -> Option<u64> {
        let at = there.map(|there| there.max(self.plan.now));
        let left = self.let_leave(queues, |_, wall| wall <= at.unwrap_or(u64::MAX));
        at.filter(|_| left)
    }

    /// Converts a cycle of the array to a cycle of all clocks.
    pub(super) fn wall(&self, cycle: u64) -> u64 {
        let late = self.late.iter().rev().find(|&&(from, _)| from <= cycle);
        cycle + late.map_or(0, |&(_, late)| late)
    }

    /// Returns the first cycle of the array that is not before `wall`.
    pub(super) fn cycle(&self, wall: u64) -> u64 {
        let mut later = u64::MAX;
        for &(from, late) in self.late.iter().rev() {
            if wall >= from + late {
                return later.min(wall - late);
            }
            later = from;
        }
        later.min(wall)
    }

    /// Lets items leave in the cycles (of the array, of all clocks) that are `within` a limit.
    /// Returns false if it is not known yet when a queue has room.
    pub(super) fn let_leave(
        &mut self,
        queues: &mut Queues,
        within: impl Fn(u64, u64) -> bool,
    ) -> bool {
        while let Some(leaving) = self.leaving.front() {
            let (cycle, maxima) = (leaving.at, leaving.maxima);
            let natural = self.wall(cycle);
            if !within(cycle, natural) {
                break;
            }
            let queue = if maxima {
                &mut queues.maxima
            } else {
                &mut queues.sums
            };
            let Some(at) = queue.put(natural, ()) else {
                return false;
            };
            if at > natural {
                let late = self.late.last().map_or(0, |&(_, late)| late);
                self.late.push((cycle, late + at - natural));
            }
            let leaving = &mut self.leaving[0];
            leaving.at += 1;
            leaving.count -= 1;
            if leaving.count == 0 {
                self.leaving.pop_front();
            }
        }
        true
    }
}

/// Returns the passes of a tile of `columns` columns, of at most `pass` columns each.
pub(super) fn passes(
    columns: u32,
    pass: u32,
    drain: u64,
) -> impl Iterator<Item = (ArrayStep, u64)> {
    (0..columns).step_by(pass as usize).map(move |first| {
        let left = columns - first;
        let leaves = if left > pass {
            Leaves::Nothing
        } else {
            Leaves::Sums
        };
        let columns = left.min(pass).into();
        let step = ArrayStep::Pass {
            columns,
            drain,
            leaves,
        };
        (step, 1)
    })
}

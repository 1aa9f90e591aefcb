//! Models the units: each is a process with a clock of its own that works off commands in steps.

use std::collections::VecDeque;

use quasar_hardware::declared::{self, beat_ticks};
use quasar_hardware::tiling::{RowTile, Tiling};
use quasar_hardware::Hardware;

use super::counts::Activity;
use super::queues::{Entry, Fifo, Queues};
use super::rtl::CoreSizes;
use super::trace::{Cause, Span, Stalls, Trace};
use crate::isa::{Command, Unit};
use crate::shape::Shape;

/// Sizes of a configuration that the loops depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) tiling: Tiling,
    pub(super) core: CoreSizes,
    pub(super) lanes: u64,
    pub(super) norm_lanes: u64,
    pub(super) exponential_lanes: u64,
    pub(super) beat_bytes: u64,
    /// [`declared::TICKS`] between two beats from memory.
    pub(super) beat_ticks: u64,
}

impl Sizes {
    pub(super) fn of(hardware: &Hardware) -> Self {
        let c = hardware.configuration();
        let beat_bytes = Shape::of(hardware).beat as u64;
        Self {
            tiling: Tiling::of(hardware),
            core: CoreSizes::of(hardware),
            lanes: c.lanes.requantize,
            norm_lanes: c.lanes.norm,
            exponential_lanes: c.lanes.exponential,
            beat_bytes,
            beat_ticks: beat_ticks(hardware, beat_bytes),
        }
    }

    /// Returns the groups of some tokens of a tile, as the drain takes them.
    pub(super) fn groups(self, tokens: u64) -> u64 {
        tokens.div_ceil(self.lanes)
    }

    /// Returns the groups of each tile of tokens, as the drain takes them.
    pub(super) fn tile_groups(self, tokens: u32) -> impl Iterator<Item = u64> {
        let sizes = self.tiling.token_sizes(tokens.into());
        sizes.map(move |tokens| self.groups(tokens))
    }

    /// Returns the words of C columns that hold some columns.
    pub(super) fn words(self, columns: u32) -> u64 {
        self.core.words(columns.into())
    }

    /// Returns the bytes of a word of weights.
    pub(super) const fn weight_word(self) -> u64 {
        self.core.pairs * self.core.cascade
    }

    /// Returns the tiles of row pairs.
    pub(super) fn row_tiles(self, rows4: u32, rows8: u32) -> impl Iterator<Item = RowTile> {
        self.tiling.row_tiles(rows4.into(), rows8.into())
    }

    /// Returns the rows of each tile of row pairs.
    pub(super) fn tile_rows(self, rows4: u32, rows8: u32) -> impl Iterator<Item = u64> {
        self.row_tiles(rows4, rows8).map(RowTile::rows)
    }
}

/// The clock of a process, with the uses of its cycles.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    pub(super) now: u64,
    pub(super) busy: u64,
    pub(super) stalls: Stalls,
}

impl Clock {
    pub(super) fn wait(&mut self, cause: Cause, until: u64) {
        if until > self.now {
            self.stalls[cause as usize] += until - self.now;
            self.now = until;
        }
    }

    pub(super) fn work(&mut self, cycles: u64) {
        self.busy += cycles;
        self.now += cycles;
    }
}

/// State of a unit: its clock, its command, and the steps that are left of the command.
pub(super) struct Worker<S> {
    pub(super) clock: Clock,
    pub(super) running: Option<(Entry, u64)>,
    /// Time at which the command arrived.
    pub(super) came: u64,
    /// Steps, and the number of times that each is still to be done.
    pub(super) steps: VecDeque<(S, u64)>,
    /// The clock at the end of the last command.
    pub(super) reported: Clock,
    pub(super) activity: Activity,
}

impl<S> Worker<S> {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::default(),
            running: None,
            came: 0,
            steps: VecDeque::new(),
            reported: Clock::default(),
            activity: Activity::default(),
        }
    }

    /// Takes an item. Returns false if the time of the next item is not known yet.
    pub(super) fn take(&mut self, queue: &mut Fifo, cause: Cause) -> bool {
        queue.take(self.clock.now).is_some_and(|(at, ())| {
            self.clock.wait(cause, at);
            true
        })
    }

    /// Writes an item that is visible `depth` cycles from now. Returns false if the time at which
    /// the queue has room is not known yet.
    pub(super) fn put(&mut self, queue: &mut Fifo, depth: u64) -> bool {
        let offered = self.clock.now + depth;
        queue.put(offered, ()).is_some_and(|at| {
            self.activity.blocked.add(offered, at);
            self.clock.wait(Cause::Full, at - depth);
            true
        })
    }

    /// Ends the command and adds its span to the trace. A cycle of the trace has `ratio` cycles of
    /// the unit's clock.
    pub(super) fn report(&mut self, trace: &mut Trace, ratio: u64) {
        let ((segment, index, command), start) = self.running.take().expect("a command ends once");
        // Rounded sums, so that no cycle is lost from command to command.
        let since = |now: u64, before: u64| now / ratio - before / ratio;
        let mut stalls = self.clock.stalls;
        for (stall, before) in stalls.iter_mut().zip(self.reported.stalls) {
            *stall = since(*stall, before);
        }
        trace.spans.push(Span {
            segment,
            index,
            command,
            start: start / ratio,
            end: self.clock.now.div_ceil(ratio),
            busy: since(self.clock.busy, self.reported.busy),
            stalls,
        });
        self.reported = self.clock.clone();
    }
}

/// A unit, as a process.
pub(super) trait Process {
    /// A step of a command.
    type Step: Copy;
    /// The unit.
    const UNIT: Unit;
    /// Cycles between a command's arrival and its first step.
    const GAP: u64 = declared::COMMAND_GAP;
    /// Cycles from a command's last interval to its end.
    const DEPTH: u64 = 0;

    /// Returns the unit's state.
    fn worker(&mut self) -> &mut Worker<Self::Step>;

    /// Returns the cycle in which the unit took the present command: its first process may take it
    /// before the last one begins with it.
    fn taken(&mut self) -> u64 {
        self.worker().running.map_or(0, |(_, start)| start)
    }

    /// Expands a command into steps and the number of times that each is done.
    fn expand(command: Command, sizes: &Sizes) -> Vec<(Self::Step, u64)>;

    /// Does a step once. Returns false if something that the step needs is not known yet.
    fn once(&mut self, step: Self::Step, sizes: &Sizes, queues: &mut Queues) -> bool;

    /// Does the next step. Returns false if that is not possible yet.
    fn advance(&mut self, sizes: &Sizes, queues: &mut Queues, trace: &mut Trace) -> bool {
        let worker = self.worker();
        if worker.running.is_none() {
            let commands = &mut queues.commands[Self::UNIT as usize];
            let came = commands.next();
            let Some((at, entry)) = commands.take(worker.clock.now) else {
                return false;
            };
            worker.came = came.unwrap_or_default();
            worker.clock.wait(Cause::Command, at);
            worker.running = Some((entry, worker.clock.now));
            let gap = worker.clock.now + Self::GAP;
            worker.clock.wait(Cause::Gap, gap);
            let steps = Self::expand(entry.2, sizes).into_iter();
            worker.steps = steps.filter(|&(_, times)| times > 0).collect();
        } else if let Some(&(step, _)) = worker.steps.front() {
            if !self.once(step, sizes, queues) {
                return false;
            }
            let steps = &mut self.worker().steps;
            steps[0].1 -= 1;
            if steps[0].1 == 0 {
                steps.pop_front();
            }
        } else {
            let taken = self.taken();
            let worker = self.worker();
            worker
                .activity
                .command(taken, worker.clock.now + Self::DEPTH);
            worker.report(trace, 1);
        }
        true
    }
}

//! Models the units: each is a process with a clock of its own that works off commands in steps.

use quasar_hardware::declared::{self, beat_ticks};
use quasar_hardware::Hardware;

use super::counts::Activity;
use super::queues::{Entry, Fifo, Queues};
use super::rtl::CoreSizes;
use super::trace::{Cause, Span, Stalls, Trace};
use crate::isa::{Command, Unit};
use crate::shape::Shape;
use crate::unit::{Step, Steps};

/// Sizes of a configuration that the loops depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) shape: Shape,
    pub(super) core: CoreSizes,
    /// [`declared::TICKS`] between two beats from memory.
    pub(super) beat_ticks: u64,
    /// [`declared::requantize_depth`].
    pub(super) requantize_depth: u64,
}

impl Sizes {
    pub(super) fn of(hardware: &Hardware) -> Self {
        let shape = Shape::of(hardware);
        Self {
            shape,
            core: CoreSizes::of(hardware),
            beat_ticks: beat_ticks(hardware, shape.beat as u64),
            requantize_depth: declared::requantize_depth(
                hardware.configuration().array.clock_ratio,
            ),
        }
    }

    /// Returns the groups of a tile's tokens, as the drain takes them.
    pub(super) const fn groups(self) -> u64 {
        self.shape.groups(self.shape.tokens) as u64
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

    /// Lets the next loop take its bounds.
    pub(super) fn end_loop(&mut self) {
        self.wait(Cause::Gap, self.now + declared::LOOP_GAP);
    }

    pub(super) fn work(&mut self, cycles: u64) {
        self.busy += cycles;
        self.now += cycles;
    }
}

/// State of a unit: its clock, its command, and the steps that are left of the command.
pub(super) struct Worker {
    pub(super) clock: Clock,
    pub(super) running: Option<(Entry, u64)>,
    /// Time at which the command arrived.
    pub(super) came: u64,
    pub(super) steps: Steps,
    /// The current step, and the times that it has yet to run.
    pub(super) step: Option<(Step, u64)>,
    /// The clock at the end of the last command.
    pub(super) reported: Clock,
    pub(super) activity: Activity,
}

impl Worker {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::default(),
            running: None,
            came: 0,
            steps: Vec::new().into_iter(),
            step: None,
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

    /// Returns the next step, which is done `times(step)` times.
    pub(super) fn next(&mut self, times: impl Fn(Step) -> u64) -> Option<Step> {
        while self.step.is_none_or(|(_, left)| left == 0) {
            let step = self.steps.next()?;
            self.step = Some((step, times(step)));
        }
        self.step.map(|(step, _)| step)
    }

    /// Counts that the present step was done once.
    pub(super) fn done(&mut self) {
        if let Some((_, left)) = &mut self.step {
            *left -= 1;
        }
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

/// Returns the number of items of a step that moves some, or else 1.
pub(super) const fn items(step: Step) -> u64 {
    match step {
        Step::Take(_, count, _) | Step::Give(_, count, _) => count as u64,
        _ => 1,
    }
}

/// A unit, as a process.
pub(super) trait Process {
    /// The unit.
    const UNIT: Unit;
    /// Returns the cycles from a command's last interval to its end.
    fn depth(_: &Sizes) -> u64 {
        0
    }

    /// Returns the unit's state.
    fn worker(&mut self) -> &mut Worker;

    /// Returns the cycle in which the unit took the present command: its first process may take it
    /// before the last one begins with it.
    fn taken(&mut self) -> u64 {
        self.worker().running.map_or(0, |(_, start)| start)
    }

    /// Begins a command, behind [`declared::COMMAND_GAP`].
    fn begin(&mut self, _: Command) {}

    /// Returns the number of times that [`Self::once`] does a step.
    fn times(step: Step, _: &Sizes) -> u64 {
        items(step)
    }

    /// Does a step once. Returns false if something that the step needs is not known yet.
    fn once(&mut self, step: Step, sizes: &Sizes, queues: &mut Queues) -> bool;

    /// Does the next step. Returns false if that is not possible yet.
    fn advance(&mut self, sizes: &Sizes, queues: &mut Queues, trace: &mut Trace) -> bool {
        let worker = self.worker();
        if worker.running.is_none() {
            let commands = &mut queues.commands[Self::UNIT as usize];
            let came = commands.next();
            let Some((at, (entry, steps))) = commands.take(worker.clock.now) else {
                return false;
            };
            worker.came = came.unwrap_or_default();
            worker.clock.wait(Cause::Command, at);
            worker.running = Some((entry, worker.clock.now));
            let gap = worker.clock.now + declared::COMMAND_GAP;
            worker.clock.wait(Cause::Gap, gap);
            worker.steps = steps;
            self.begin(entry.2);
        } else if let Some(step) = worker.next(|step| Self::times(step, sizes)) {
            if !self.once(step, sizes, queues) {
                return false;
            }
            self.worker().done();
        } else {
            let taken = self.taken();
            let worker = self.worker();
            worker
                .activity
                .command(taken, worker.clock.now + Self::depth(sizes));
            worker.report(trace, 1);
        }
        true
    }
}

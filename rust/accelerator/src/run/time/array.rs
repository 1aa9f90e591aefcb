//! Models the kernels around the array in RTL: `plan`, which makes descriptors of passes, and
//! `scores`, which stores scores.

use std::collections::VecDeque;

use quasar_hardware::declared;

use super::buffer::BufferLoader;
use super::counts::{Activity, CycleSet};
use super::process::{Process, Sizes, Worker};
use super::queues::{Fifo, Queues};
use super::rtl::{Bounds, Core, Issued};
use super::trace::{Cause, Trace};
use crate::isa::{Command, Unit};
use crate::unit::{ProductPass, QueueName, Step};

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
    pub(super) worker: Worker,
    pub(super) plan: Plan,
    pub(super) core: Core,
    /// Credits that the present step has taken.
    credits: usize,
    /// The descriptor of the present pass is made.
    planned: bool,
    pub(super) weights: BufferLoader,
    /// Fast cycle in which the present half of the weights was full.
    pub(super) filled: u64,
    /// Slow cycles in which a pass could start, but for its weights.
    pub(super) waiting: CycleSet,
}

impl Process for Array {
    const UNIT: Unit = Unit::Array;

    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn advance(&mut self, sizes: &Sizes, queues: &mut Queues, trace: &mut Trace) -> bool {
        if self.worker.running.is_none() {
            let commands = &mut queues.commands[Self::UNIT as usize];
            let came = commands.next();
            let Some((_, (entry, steps))) = commands.take(self.plan.now) else {
                return false;
            };
            self.worker.came = came.unwrap_or_default();
            self.worker.running = Some((entry, self.worker.clock.now));
            self.worker.steps = steps;
            self.plan.wait(Cause::Command, self.worker.came);
            let begun = self.plan.now + declared::COMMAND_GAP;
            self.plan.wait(Cause::Gap, begun);
            if matches!(entry.2, Command::Scores(_)) {
                queues.score_commands.push_back(begun);
            }
        } else if let Some(step) = self.worker.next(|_| 1) {
            if !self.once(step, sizes, queues) {
                return false;
            }
            self.worker.done();
        } else {
            let (came, planned) = (self.worker.came, self.plan.now);
            self.plan.activity.command(came, planned);
            self.worker.report(trace, sizes.core.ratio);
        }
        true
    }

    fn once(&mut self, step: Step, sizes: &Sizes, queues: &mut Queues) -> bool {
        let core = sizes.core;
        // The last word of the last pass.
        let end = self.worker.clock.now.saturating_sub(1);
        match step {
            Step::Take(queue, count, _) => {
                for _ in self.credits..count {
                    let Some((at, ())) = queues[queue].take(self.plan.now) else {
                        return false;
                    };
                    self.plan.wait(Cause::of(queue), at);
                    self.credits += 1;
                }
                self.credits = 0;
            }
            Step::TakeHalf(_) => {
                let Some((at, ())) = self.weights.buffer.full.take(0) else {
                    return false;
                };
                self.filled = core.filled(at);
            }
            Step::Pass(ProductPass { pass, .. }) => {
                if !self.planned {
                    let planned = self.plan.now + declared::PLAN_INTERVAL;
                    let Some(at) = queues.passes.put(planned, ()) else {
                        return false;
                    };
                    self.plan.activity.blocked.add(planned, at);
                    self.plan.now = at;
                    self.planned = true;
                }
                // The array takes a descriptor as soon as it can, but the model only when it knows
                // when the pass starts.
                let planned = queues.passes.next().expect("the pass is planned");
                let taken = planned.max(self.core.takes());
                let Some(issued) = self.core.issue(pass, self.filled, taken) else {
                    return false;
                };
                queues.passes.take(taken);
                self.record(issued, taken, core.ratio);
                self.account(issued, pass.words);
                self.plan.cause = None;
                self.planned = false;
            }
            Step::FreeHalf(_) => {
                let freed = core.freed(end);
                return self.weights.buffer.free.put(freed + 1, ()).is_some();
            }
            Step::Give(QueueName::ArrayToLoad, ..) => {
                let free = core.freed(end);
                return queues[QueueName::ArrayToLoad].put(free, ()).is_some();
            }
            // Memories are read in the cycles of a pass; sums and scores leave by themselves.
            Step::Give(..)
            | Step::Read(_)
            | Step::Write(_)
            | Step::Transfer(_)
            | Step::Requantize { .. }
            | Step::Turns { .. }
            | Step::Normalise { .. }
            | Step::Pool
            | Step::Exponentials { .. }
            | Step::EndLoop => {}
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
            credits: 0,
            planned: false,
            filled: 0,
            waiting: CycleSet::default(),
            weights: BufferLoader::new(QueueName::Weights, 0),
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

    /// Sends the next sums or scores to their queue. Returns false if their cycle is not known yet.
    pub(super) fn leave(&mut self, queues: &mut Queues) -> bool {
        let blocked = &mut self.worker.activity.blocked;
        let mut put = |queue: &mut Fifo, offered: u64| {
            let at = queue.put(offered, ())?;
            blocked.add(offered, at);
            Some(at)
        };
        self.core.leave()
            | self
                .core
                .take_sum(|at| put(&mut queues[QueueName::Sums], at))
            | self.core.take_score(|at| put(&mut queues.scores, at))
    }
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
            (self.sending, self.left) = (at, sizes.shape.exponential_groups() as u64);
            return true;
        }
        let Some(at) = queues[QueueName::Maxima].put(self.sending, ()) else {
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

//! Models the norm.

use quasar_hardware::declared;

use super::buffer::BufferLoader;
use super::process::{items, Process, Sizes, Worker};
use super::queues::Queues;
use super::trace::Cause;
use crate::isa::{Command, LayerNorm, Pooling, Unit};
use crate::unit::{QueueName, Step};

/// Cycles from a column's interval to its codes in memory: `NORM_DEPTH` is from a tile's moments.
const STORE_DEPTH: u64 = declared::NORM_DEPTH - declared::NORM_ROOT;

/// The norm.
pub(super) struct Norm {
    pub(super) worker: Worker,
    /// The present command.
    command: LayerNorm,
    pub(super) gains: BufferLoader,
    /// First cycle in which the process `collect` can take moments.
    collect: u64,
    /// First cycle in which the process `root` can begin with a group.
    root: u64,
    /// Cycles in which `root` and `normalise` took the last groups: as many wait in the queue
    /// between two processes.
    rooted: [u64; 2],
    normalised: [u64; 2],
    groups: usize,
}

impl Process for Norm {
    const UNIT: Unit = Unit::Norm;

    fn depth(_: &Sizes) -> u64 {
        STORE_DEPTH
    }

    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn taken(&mut self) -> u64 {
        self.worker.came
    }

    fn begin(&mut self, command: Command) {
        if let Command::LayerNorm(norm) = command {
            self.command = norm;
        }
    }

    fn times(step: Step, sizes: &Sizes) -> u64 {
        match step {
            // M tokens at a time.
            Step::Normalise { tokens, .. } => tokens.div_ceil(sizes.shape.norm_lanes) as u64,
            _ => items(step),
        }
    }

    fn once(&mut self, step: Step, sizes: &Sizes, queues: &mut Queues) -> bool {
        let worker = &mut self.worker;
        match step {
            Step::TakeHalf(_) => return worker.take(&mut self.gains.buffer.full, Cause::Memory),
            Step::FreeHalf(_) => return worker.put(&mut self.gains.buffer.free, 0),
            Step::Take(queue, ..) => {
                let Some((at, ())) = queues[queue].take(self.collect) else {
                    return false;
                };
                self.collect = at + 1;
            }
            Step::Give(queue, ..) => return worker.put(&mut queues[queue], STORE_DEPTH),
            Step::Pool => {
                worker.clock.wait(Cause::Result, self.collect);
                worker.clock.work(pooling(&self.command, sizes));
                self.collect = worker.clock.now;
            }
            Step::EndLoop => worker.clock.end_loop(),
            Step::Normalise { .. } => {
                let place = self.groups % 2;
                self.groups += 1;
                let handed = self.collect.max(self.rooted[place] + 1);
                self.collect = handed + 1;
                let begun = handed.max(self.root);
                self.rooted[place] = begun;
                let ready = begun + declared::NORM_ROOT;
                self.root = ready.max(self.normalised[place] + 1);
                worker.clock.wait(Cause::Result, ready);
                self.normalised[place] = worker.clock.now;
                worker.clock.work(self.command.embed.into());
            }
            // Memories are read and written in the cycles of `Normalise` and `Pool`.
            Step::Read(_)
            | Step::Write(_)
            | Step::Transfer(_)
            | Step::Pass(_)
            | Step::Requantize { .. }
            | Step::Turns { .. }
            | Step::Exponentials { .. } => {}
        }
        true
    }
}

/// Returns the cycles of a mean.
fn pooling(norm: &LayerNorm, sizes: &Sizes) -> u64 {
    let embed = u64::from(norm.embed);
    if norm.pool == Pooling::After {
        return embed;
    }
    let tiles = sizes.shape.token_tiles(norm.tokens);
    let groups = tiles.map(|tokens| tokens.div_ceil(sizes.shape.norm_lanes) as u64);
    // One column after another, a group of tokens a cycle.
    embed * (groups.sum::<u64>() + declared::LOOP_GAP)
}

impl Norm {
    pub(super) fn new() -> Self {
        Self {
            worker: Worker::new(),
            command: LayerNorm::default(),
            collect: 0,
            root: 0,
            rooted: [0; 2],
            normalised: [0; 2],
            groups: 0,
            gains: BufferLoader::new(QueueName::Gains, declared::FILL_DEPTH - 1),
        }
    }
}

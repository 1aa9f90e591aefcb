//! Models the norm.

use quasar_hardware::declared;

use super::buffer::{BufferLoader, Content};
use super::process::{Process, Sizes, Worker};
use super::queues::Queues;
use super::trace::Cause;
use crate::isa::{Command, LayerNorm, Pooling, Unit};

#[derive(Clone, Copy)]
pub(super) enum NormStep {
    /// Takes a full half of gains.
    Gains,
    /// Gives the half back.
    Release,
    /// Takes the moments of L tokens.
    Moments,
    /// Computes the means of the tokens.
    Mean(u64),
    /// Normalises M tokens.
    Group { embed: u64 },
    /// An inner loop ends.
    Gap,
    /// Gives the array a credit: a tile is stored.
    Post,
}

/// Cycles from a column's interval to its codes in memory: `NORM_DEPTH` is from a tile's moments.
const STORE_DEPTH: u64 = declared::NORM_DEPTH - declared::NORM_ROOT;

/// The norm.
pub(super) struct Norm {
    pub(super) worker: Worker<NormStep>,
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
    type Step = NormStep;
    const UNIT: Unit = Unit::Norm;
    const DEPTH: u64 = STORE_DEPTH;

    fn worker(&mut self) -> &mut Worker<NormStep> {
        &mut self.worker
    }

    fn taken(&mut self) -> u64 {
        self.worker.came
    }

    fn expand(command: Command, sizes: &Sizes) -> Vec<(NormStep, u64)> {
        let Command::LayerNorm(LayerNorm {
            pool,
            tokens,
            embed,
            ..
        }) = command
        else {
            return Vec::new();
        };
        let embed = u64::from(embed);
        let groups = |tokens: u64| tokens.div_ceil(sizes.norm_lanes);
        let tiles = sizes.tiling.token_sizes(tokens.into());
        let all: u64 = tiles.clone().map(groups).sum();
        let mut steps = vec![(NormStep::Gains, 1)];
        for tokens in tiles {
            steps.push((NormStep::Moments, sizes.groups(tokens)));
            if pool != Pooling::Before {
                steps.push((NormStep::Group { embed }, groups(tokens)));
                steps.push((NormStep::Post, u64::from(pool == Pooling::None)));
                steps.push((NormStep::Gap, 1));
            }
        }
        match pool {
            Pooling::Before => steps.extend([
                // One column after another, a group of tokens a cycle.
                (NormStep::Mean(embed * (all + declared::LOOP_GAP)), 1),
                (NormStep::Group { embed }, 1),
                (NormStep::Post, 1),
            ]),
            Pooling::After => steps.extend([(NormStep::Mean(embed), 1), (NormStep::Post, 1)]),
            Pooling::None => {}
        }
        steps.push((NormStep::Release, 1));
        steps
    }

    fn once(&mut self, step: NormStep, _: &Sizes, queues: &mut Queues) -> bool {
        let worker = &mut self.worker;
        match step {
            NormStep::Gains => return worker.take(&mut self.gains.buffer.full, Cause::Memory),
            NormStep::Release => return worker.put(&mut self.gains.buffer.free, 0),
            NormStep::Moments => {
                let Some((at, ())) = queues.moments.take(self.collect) else {
                    return false;
                };
                self.collect = at + 1;
            }
            NormStep::Post => return worker.put(&mut queues.norm_to_array, STORE_DEPTH),
            NormStep::Mean(cycles) => {
                worker.clock.wait(Cause::Result, self.collect);
                worker.clock.work(cycles);
                self.collect = worker.clock.now;
            }
            NormStep::Gap => {
                let now = worker.clock.now;
                worker.clock.wait(Cause::Gap, now + declared::LOOP_GAP);
            }
            NormStep::Group { embed } => {
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
                worker.clock.work(embed);
            }
        }
        true
    }
}

impl Norm {
    pub(super) fn new() -> Self {
        Self {
            worker: Worker::new(),
            collect: 0,
            root: 0,
            rooted: [0; 2],
            normalised: [0; 2],
            groups: 0,
            gains: BufferLoader::new(declared::FILL_DEPTH - 1, |command, sizes| match command {
                Command::LayerNorm(norm) => {
                    vec![Content::gains(norm.embed.into(), sizes.beat_bytes)]
                }
                _ => Vec::new(),
            }),
        }
    }
}

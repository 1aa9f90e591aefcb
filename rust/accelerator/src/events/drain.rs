//! Models the drain.

use std::collections::VecDeque;

use quasar_hardware::declared;

use super::buffer::{BufferLoader, Content};
use super::process::{Process, Sizes, Worker};
use super::queues::{Fifo, Queues};
use super::trace::Cause;
use crate::isa::{Attend, Command, Fill, Kind, RowsCommand, Unit};

#[derive(Clone, Copy)]
pub(super) enum DrainStep {
    /// Takes a full half of row parameters.
    Rows,
    /// Gives the half back.
    Release,
    /// Takes the scales of L tokens.
    Scales,
    /// Takes L sums and stores the results.
    Sums,
    /// Takes a sum and sends the logit.
    Logit,
    /// Takes a beat of a table or of the residual.
    Beat,
    /// Works on what the beats hold.
    Work,
    /// Sends the moments of L tokens.
    Moments,
    /// Gives the array a credit: results are stored.
    Post,
}

/// The process `gather_scales`: gathers the scales of an attention tile's tokens, one a cycle, into
/// groups of lanes.
pub(super) struct Gather {
    pub(super) now: u64,
    pub(super) attention_tiles: VecDeque<u64>,
    pub(super) gathered: u64,
    pub(super) words: Fifo,
}

impl Gather {
    /// Takes the next scale. Returns false if that is not possible yet.
    pub(super) fn advance(&mut self, lanes: u64, scales: &mut Fifo) -> bool {
        let Some(&tokens) = self.attention_tiles.front() else {
            return false;
        };
        if self.words.items.len() == self.words.depth {
            return false;
        }
        let Some((at, ())) = scales.take(self.now) else {
            return false;
        };
        self.now = at + 1;
        self.gathered += 1;
        let last = self.gathered == tokens;
        if last || self.gathered.is_multiple_of(lanes) {
            self.words.put(self.now, ());
        }
        if last {
            self.attention_tiles.pop_front();
            self.gathered = 0;
        }
        true
    }
}

/// The drain: requantizes and stores.
pub(super) struct Drain {
    pub(super) worker: Worker<DrainStep>,
    pub(super) rows: BufferLoader,
    pub(super) scales: Gather,
}

impl Process for Drain {
    type Step = DrainStep;
    const UNIT: Unit = Unit::Drain;
    const DEPTH: u64 = declared::REQUANTIZE_DEPTH;

    fn worker(&mut self) -> &mut Worker<DrainStep> {
        &mut self.worker
    }

    fn taken(&mut self) -> u64 {
        self.worker.came
    }

    fn expand(command: Command, sizes: &Sizes) -> Vec<(DrainStep, u64)> {
        match command {
            Command::Rows(rows) => Self::rows(rows, sizes),
            Command::Attend(Attend {
                tokens, rows, post, ..
            }) => {
                let groups = sizes.groups(tokens.into());
                vec![
                    (DrainStep::Scales, groups),
                    (DrainStep::Sums, u64::from(rows) * groups),
                    (DrainStep::Post, post.into()),
                ]
            }
            Command::Fill(Fill { words, .. }) => {
                // A word's groups are stored while the next word comes.
                let beats = (2 * sizes.tiling.tokens).div_ceil(sizes.beat_bytes);
                let word = [
                    (DrainStep::Beat, beats),
                    (
                        DrainStep::Work,
                        sizes.groups(sizes.tiling.tokens).saturating_sub(beats),
                    ),
                ];
                let mut steps = word.repeat(words as usize);
                steps.push((DrainStep::Work, sizes.groups(sizes.tiling.tokens)));
                steps
            }
            Command::Table(_) => {
                // An entry a cycle, to every lane.
                let beats = 256u64.div_ceil(sizes.beat_bytes);
                vec![(DrainStep::Beat, beats), (DrainStep::Work, 256 - beats)]
            }
            _ => Vec::new(),
        }
    }

    fn once(&mut self, step: DrainStep, _: &Sizes, queues: &mut Queues) -> bool {
        let worker = &mut self.worker;
        let (queue, cause) = match step {
            DrainStep::Rows => return worker.take(&mut self.rows.buffer.full, Cause::Memory),
            DrainStep::Release => return worker.put(&mut self.rows.buffer.free, 0),
            DrainStep::Moments => {
                return worker.put(&mut queues.moments, declared::REQUANTIZE_DEPTH);
            }
            DrainStep::Post => {
                return worker.put(&mut queues.drain_to_array, declared::REQUANTIZE_DEPTH);
            }
            DrainStep::Logit => {
                // The store takes a logit a cycle.
                if !worker.take(&mut queues.sums, Cause::Result) {
                    return false;
                }
                worker.clock.work(1);
                return worker.put(&mut queues.logits, declared::REQUANTIZE_DEPTH);
            }
            DrainStep::Work => {
                worker.clock.work(1);
                return true;
            }
            DrainStep::Scales => return worker.take(&mut self.scales.words, Cause::Softmax),
            DrainStep::Sums => (&mut queues.sums, Cause::Result),
            DrainStep::Beat => (&mut queues.rows, Cause::Memory),
        };
        let taken = worker.take(queue, cause);
        if taken {
            worker.clock.work(1);
        }
        taken
    }
}

impl Drain {
    pub(super) fn new(sizes: &Sizes, attention_tiles: VecDeque<u64>) -> Self {
        Self {
            worker: Worker::new(),
            scales: Gather {
                now: 0,
                attention_tiles,
                gathered: 0,
                words: Fifo::new(2 * sizes.groups(sizes.tiling.tokens) as usize),
            },
            rows: BufferLoader::new(declared::FILL_DEPTH - 1, |command, sizes| match command {
                Command::Rows(rows) => {
                    let tiles = sizes.tile_rows(rows.rows4, rows.rows8);
                    tiles
                        .map(|rows| Content::rows(rows, sizes.beat_bytes))
                        .collect()
                }
                _ => Vec::new(),
            }),
        }
    }

    pub(super) fn rows(rows: RowsCommand, sizes: &Sizes) -> Vec<(DrainStep, u64)> {
        let mut steps = Vec::new();
        let mut tiles = sizes.tile_rows(rows.rows4, rows.rows8).peekable();
        let step = if rows.kind == Kind::Logits {
            DrainStep::Logit
        } else {
            DrainStep::Sums
        };
        while let Some(outputs) = tiles.next() {
            let last = tiles.peek().is_none();
            steps.push((DrainStep::Rows, 1));
            for groups in sizes.tile_groups(rows.tokens) {
                steps.push((step, outputs * groups));
                if last {
                    steps.push((DrainStep::Moments, u64::from(rows.moments) * groups));
                    steps.push((DrainStep::Post, rows.post_tiles.into()));
                }
            }
            steps.push((DrainStep::Release, 1));
        }
        steps.push((DrainStep::Post, rows.post.into()));
        steps
    }
}

//! Models the drain.

use std::collections::VecDeque;

use quasar_hardware::declared;

use super::buffer::BufferLoader;
use super::process::{items, Process, Sizes, Worker};
use super::queues::{Fifo, Queues};
use super::trace::Cause;
use crate::isa::{Command, Kind, Unit};
use crate::unit::{Contents, Memory, QueueName, Range, Step};

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
        if self.words.full() {
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
    pub(super) worker: Worker,
    /// The present command makes logits.
    logits: bool,
    /// Tokens of the present tile, and its logits so far.
    tokens: u64,
    given: u64,
    /// Words of the present `Fill` or `Table`.
    words: usize,
    pub(super) rows: BufferLoader,
    pub(super) scales: Gather,
}

impl Process for Drain {
    const UNIT: Unit = Unit::Drain;

    fn depth(sizes: &Sizes) -> u64 {
        sizes.requantize_depth
    }

    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn taken(&mut self) -> u64 {
        self.worker.came
    }

    fn begin(&mut self, command: Command) {
        self.logits = matches!(command, Command::Rows(rows) if rows.kind == Kind::Logits);
        self.words = match command {
            Command::Fill(fill) => fill.words as usize,
            Command::Table(table) => table.words as usize,
            _ => 0,
        };
    }

    fn times(step: Step, sizes: &Sizes) -> u64 {
        match step {
            // Of L tokens at a time.
            Step::Take(QueueName::Scales, tokens, _) => sizes.shape.groups(tokens) as u64,
            _ => items(step),
        }
    }

    fn once(&mut self, step: Step, sizes: &Sizes, queues: &mut Queues) -> bool {
        let worker = &mut self.worker;
        match step {
            Step::TakeHalf(_) => return worker.take(&mut self.rows.buffer.full, Cause::Memory),
            Step::FreeHalf(_) => return worker.put(&mut self.rows.buffer.free, 0),
            Step::Take(QueueName::Scales, ..) => {
                return worker.take(&mut self.scales.words, Cause::Softmax);
            }
            // The logits of a group leave one by one, the first with the group's sums.
            Step::Take(QueueName::Sums, _, Contents::Sums { tokens, .. }) if self.logits => {
                (self.tokens, self.given) = (tokens.into(), 0);
            }
            Step::Give(QueueName::Logits, ..) => {
                let lane = self.given % self.tokens % sizes.shape.lanes as u64;
                if queues[QueueName::Logits].full()
                    || (lane == 0 && !worker.take(&mut queues[QueueName::Sums], Cause::Result))
                {
                    return false;
                }
                self.given += 1;
                worker.clock.work(1);
                return worker.put(&mut queues[QueueName::Logits], sizes.requantize_depth);
            }
            Step::Take(queue, ..) => {
                if !worker.take(&mut queues[queue], Cause::of(queue)) {
                    return false;
                }
                worker.clock.work(1);
            }
            Step::Give(queue, ..) => {
                return worker.put(&mut queues[queue], sizes.requantize_depth);
            }
            Step::Write(Range {
                memory: Memory::Residual(_),
                first,
                ..
            }) => {
                // A word's groups are stored while the next word comes.
                let beats = sizes.shape.beats(2 * sizes.shape.tokens) as u64;
                worker.clock.work(sizes.groups().saturating_sub(beats));
                if first + 1 == self.words {
                    worker.clock.work(sizes.groups());
                }
            }
            Step::Write(Range {
                memory: Memory::Table,
                ..
            }) => {
                // An entry a cycle, to every lane.
                worker.clock.work(256 - sizes.shape.beats(256) as u64);
            }
            Step::Write(Range {
                memory: Memory::Angles,
                ..
            }) => {
                let parts = self.words;
                (worker.clock).work((parts - sizes.shape.beats(16 * parts)) as u64);
            }
            Step::Turns { groups } => {
                worker.clock.work(declared::turn_cycles(groups as u64));
            }
            // Sums pass the lanes while others are taken; the other kinds are no step of the drain.
            Step::Read(_)
            | Step::Write(_)
            | Step::Requantize { .. }
            | Step::Transfer(_)
            | Step::Pass(_)
            | Step::Normalise { .. }
            | Step::Pool
            | Step::Exponentials { .. }
            | Step::EndLoop => {}
        }
        true
    }
}

impl Drain {
    pub(super) fn new(sizes: &Sizes, attention_tiles: VecDeque<u64>) -> Self {
        Self {
            worker: Worker::new(),
            logits: false,
            tokens: 0,
            given: 0,
            words: 0,
            scales: Gather {
                now: 0,
                attention_tiles,
                gathered: 0,
                words: Fifo::new(2 * sizes.groups() as usize),
            },
            rows: BufferLoader::new(QueueName::Rows, declared::FILL_DEPTH - 1),
        }
    }
}

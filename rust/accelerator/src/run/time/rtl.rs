//! Models the array in RTL by the rules of `docs/array-timing.md`: descriptors, start of passes,
//! the systolic array, the FIFOs of sums, and how sums and scores leave.
//!
//! The array runs on a fast clock, R cycles to a cycle of the kernels: slow cycle s has the fast
//! cycles R*s to R*s + R - 1.

use std::collections::VecDeque;

use quasar_core::error::{Error, Result};
use quasar_hardware::declared::array as timing;
use quasar_hardware::packing::DspKind;
use quasar_hardware::Hardware;

use super::buffer::BufferLoader;
use super::queues::Fifo;
use crate::unit::{BufferHalf, Leaves, Pass, QueueName};

/// Parameters of the array.
#[derive(Clone, Copy, Debug)]
pub struct CoreSizes {
    /// Tokens T.
    pub tokens: u64,
    /// Row pairs P.
    pub pairs: u64,
    /// Slices C of a cascade.
    pub cascade: u64,
    /// Fast cycles R in a slow one.
    pub ratio: u64,
    /// Packed sums that a token's FIFO holds.
    pub fifo: u64,
    /// The kind of the slices.
    pub dsp_kind: DspKind,
}

impl CoreSizes {
    /// Returns the parameters of a configuration's array.
    pub fn of(hardware: &Hardware) -> Self {
        let array = hardware.configuration().array;
        Self {
            tokens: array.tokens,
            pairs: array.pairs,
            cascade: array.cascade,
            ratio: array.clock_ratio,
            fifo: timing::FIFO_DEPTH,
            dsp_kind: hardware.board().dsp_kind,
        }
    }

    /// Returns the slow cycle in which the first item of a row pair can leave, by its `index` in
    /// its pass. `end`: fast cycle of the pass's last word.
    const fn arrives(&self, end: u64, index: u64) -> u64 {
        let arrived = end + timing::end_to_fifo(self.tokens, self.cascade, self.dsp_kind) + index;
        arrived / self.ratio + timing::FIFO_TO_ITEM
    }

    /// Returns the fast cycle from which on a pass can start whose weights fill their half in slow
    /// cycle `finish`.
    pub(super) const fn filled(&self, finish: u64) -> u64 {
        self.ratio * (finish + 1) + timing::FILLED_TO_START
    }

    /// Returns the slow cycle in which the loader sees that a pass has freed its half, and fills it
    /// from the next one on, or in which load's credit can be taken. `end`: fast cycle of the
    /// pass's last word.
    pub(super) const fn freed(&self, end: u64) -> u64 {
        (end + timing::END_TO_FREED) / self.ratio + 1
    }
}

/// The fast cycles of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Cycle of the first word.
    pub start: u64,
    /// Cycle of the last word.
    pub end: u64,
    /// The rules that the start satisfies.
    pub bounds: Bounds,
}

/// First fast cycles in which a pass can start, each as far as one rule is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The words of the pass before it have been issued.
    pub issued: u64,
    /// The chain is free.
    pub chain: u64,
    /// The FIFOs have room for the pass's sums.
    pub room: u64,
    /// The weights are there.
    pub weights: u64,
    /// The descriptor is there.
    pub descriptor: u64,
}

impl Bounds {
    /// Returns the first cycle that satisfies all rules.
    pub fn start(&self) -> u64 {
        let Self {
            issued,
            chain,
            room,
            weights,
            descriptor,
        } = *self;
        issued.max(chain).max(room).max(weights).max(descriptor)
    }
}

/// A row pair on its way out.
#[derive(Clone, Copy)]
struct Pair {
    /// First slow cycle in which its first item can leave.
    at: u64,
    /// Items that have yet to leave.
    left: u64,
    leaves: Leaves,
}

/// One of the outputs, `sums` or `scores`.
struct Output {
    /// Slow cycles in which items are visible that have yet to be taken.
    visible: VecDeque<u64>,
    /// Slow cycle after the one that took the last item.
    free: u64,
    /// Items so far, and the cycles in which those were taken that later items wait for.
    items: u64,
    taken: VecDeque<u64>,
}

impl Output {
    const fn new() -> Self {
        Self {
            visible: VecDeque::new(),
            free: 0,
            items: 0,
            taken: VecDeque::new(),
        }
    }

    /// Returns the first slow cycle in which the next item has room, or none if it is not known
    /// yet.
    fn room(&self) -> Option<u64> {
        if self.items < timing::OUTPUTS {
            Some(0)
        } else {
            self.taken.front().map(|taken| taken + 1)
        }
    }

    /// Adds an item.
    fn push(&mut self, visible: u64) {
        if self.items >= timing::OUTPUTS {
            self.taken.pop_front();
        }
        self.items += 1;
        self.visible.push_back(visible);
    }

    /// Lets the next item be taken. `take` returns the slow cycle, given the first possible one, or
    /// none if it is not known yet.
    fn take(&mut self, take: impl FnOnce(u64) -> Option<u64>) -> bool {
        let Some(&visible) = self.visible.front() else {
            return false;
        };
        let Some(at) = take(visible.max(self.free)) else {
            return false;
        };
        self.free = at + 1;
        self.visible.pop_front();
        self.taken.push_back(at);
        true
    }
}

/// The array in RTL.
pub(super) struct Core {
    sizes: CoreSizes,
    /// The last pass: its first and last word, its row pairs.
    last: Option<(u64, u64, u64)>,
    /// Slow cycle in which the last descriptor was taken.
    taken: Option<u64>,
    /// Slow cycles in which the last passes started.
    starts: VecDeque<u64>,
    /// Row pairs of all passes so far.
    issued: u64,
    /// Row pairs that have left, except the last ones.
    left: u64,
    /// Slow cycles in which the last ones left.
    popped: VecDeque<u64>,
    pairs: VecDeque<Pair>,
    /// First slow cycle in which the next item can leave.
    free: u64,
    sums: Output,
    scores: Output,
}

impl Core {
    pub(super) const fn new(sizes: CoreSizes) -> Self {
        Self {
            sizes,
            last: None,
            taken: None,
            starts: VecDeque::new(),
            issued: 0,
            left: 0,
            popped: VecDeque::new(),
            pairs: VecDeque::new(),
            free: 0,
            sums: Output::new(),
            scores: Output::new(),
        }
    }

    /// Returns the first fast cycle in which the FIFOs have room for some row pairs, or none if it
    /// is not known yet.
    fn room(&mut self, pairs: u64) -> Option<u64> {
        let Some(last) = (self.issued + pairs).checked_sub(self.sizes.fifo + 1) else {
            return Some(0);
        };
        while self.left < last {
            self.popped.pop_front()?;
            self.left += 1;
        }
        let popped = self.popped.front()?;
        Some(self.sizes.ratio * (popped + 1) + timing::ROOM_TO_START)
    }

    /// Returns the first slow cycle in which the array can take the next descriptor.
    pub(super) fn takes(&self) -> u64 {
        let ahead = if self.starts.len() as u64 == timing::DESCRIPTORS {
            self.starts[0] + 1
        } else {
            0
        };
        ahead.max(self.taken.map_or(0, |taken| taken + 1))
    }

    /// Issues a pass. `weights`: fast cycle from which on its weights can be used. `taken`: slow
    /// cycle in which its descriptor is taken. Returns none if it is not known yet when the FIFOs
    /// have room.
    pub(super) fn issue(&mut self, pass: Pass, weights: u64, taken: u64) -> Option<Issued> {
        let pairs = pass.rows.pairs();
        let (issued, chain) = self.last.map_or((0, 0), |(start, end, pairs)| {
            (
                (end + 1).max(start + timing::ISSUE_INTERVAL),
                end + 1 + pairs.saturating_sub(pass.words),
            )
        });
        let prepared = taken + timing::PREPARE;
        let bounds = Bounds {
            issued,
            chain,
            room: self.room(pairs)?,
            weights,
            descriptor: self.sizes.ratio * prepared + timing::DESCRIPTOR_TO_START,
        };
        let start = bounds.start();
        let end = start + pass.words - 1;
        self.last = Some((start, end, pairs));
        self.taken = Some(taken);
        if self.starts.len() as u64 == timing::DESCRIPTORS {
            self.starts.pop_front();
        }
        self.starts.push_back(start / self.sizes.ratio);
        self.issued += pairs;
        self.pairs.extend((0..pairs).map(|pair| Pair {
            at: self.sizes.arrives(end, pair),
            left: pass.items(pair),
            leaves: pass.leaves,
        }));
        Some(Issued { start, end, bounds })
    }

    /// Lets the next item leave. Returns false if that is not possible yet.
    pub(super) fn leave(&mut self) -> bool {
        let Some(pair) = self.pairs.front_mut() else {
            return false;
        };
        let output = match pair.leaves {
            Leaves::Stay => None,
            Leaves::Sums => Some((&mut self.sums, timing::ITEM_TO_SUMS)),
            Leaves::Scores => Some((&mut self.scores, timing::ITEM_TO_SCORES)),
        };
        let mut at = self.free.max(pair.at);
        if let Some((output, depth)) = output {
            let Some(room) = output.room() else {
                return false;
            };
            at = at.max(room);
            output.push(at + depth);
        }
        self.free = at + 1;
        pair.left -= 1;
        if pair.left == 0 {
            self.popped.push_back(at);
            self.pairs.pop_front();
        }
        true
    }

    /// Lets the next item of `sums` be taken, in the cycle that `take` returns, given the first
    /// possible one. Returns false if that is not possible yet.
    pub(super) fn take_sum(&mut self, take: impl FnOnce(u64) -> Option<u64>) -> bool {
        self.sums.take(take)
    }

    /// As [`Self::take_sum`], for `scores`.
    pub(super) fn take_score(&mut self, take: impl FnOnce(u64) -> Option<u64>) -> bool {
        self.scores.take(take)
    }
}

/// An item of work for [`array_cycles`].
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Weights of tiles of row pairs, for the passes that follow.
    Weights {
        /// Words of a tile.
        words: u64,
        /// Tiles.
        tiles: u64,
        /// Slow cycle in which the demand for them is taken.
        taken: u64,
    },
    /// A pass of a tile.
    Pass {
        /// Its size.
        pass: Pass,
        /// First slow cycle in which its descriptor can be taken.
        offered: u64,
        /// The pass uses the weights of a tile.
        uses_weights: bool,
        /// The pass is the last one that uses them.
        releases: bool,
    },
}

/// Slow cycles in which the array's surroundings offer and take what it needs.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// First cycle in which each beat of the weights can be taken.
    pub beats: Vec<u64>,
    /// First cycle in which each item of `sums` is taken if it is visible; missing ones always are.
    pub sums: Vec<u64>,
    /// The same for `scores`.
    pub scores: Vec<u64>,
}

/// Cycles of a pass and of the items that leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycles {
    /// Issue, in fast cycles.
    pub issued: Issued,
    /// Slow cycle in which its descriptor is taken.
    pub taken: u64,
    /// First slow cycles in which its sums or scores are visible.
    pub items: Vec<u64>,
}

/// Returns the contents of the halves of weights, and the slow cycles from which on each can begin.
fn demands(work: &[Work], word_bytes: u64, beat_bytes: u64) -> VecDeque<(u64, BufferHalf)> {
    let mut contents = VecDeque::new();
    for work in work {
        if let Work::Weights {
            words,
            tiles,
            taken,
        } = *work
        {
            let half = BufferHalf::new(QueueName::Weights, words, word_bytes, beat_bytes);
            let known = taken + timing::DEMAND_TO_FILL;
            contents.extend((0..tiles).map(|_| (known, half)));
        }
    }
    contents
}

/// Returns the cycles of passes, with weights in beats of `beat_bytes` bytes.
///
/// # Errors
/// [`Error::InvalidValue`] if a pass waits for ever: for weights that never arrive, for a half that
/// is never given back, or for room that the FIFOs do not have.
pub fn array_cycles(
    sizes: CoreSizes,
    beat_bytes: u64,
    around: &Surroundings,
    work: &[Work],
) -> Result<Vec<Cycles>> {
    let forever = |what| Error::InvalidValue(format!("a pass waits for ever: {what}"));
    let mut weights = BufferLoader::new(QueueName::Weights, 0);
    weights.contents = demands(work, sizes.pairs * sizes.cascade, beat_bytes);
    let mut beats = Fifo::new(around.beats.len());
    for &offered in &around.beats {
        beats.put(offered, ());
    }
    let (mut core, mut passes, mut filled) = (Core::new(sizes), Vec::new(), None);
    let mut items = VecDeque::new();
    let (mut sums, mut scores) = (around.sums.iter(), around.scores.iter());
    let mut leave = |core: &mut Core| loop {
        let mut take = |at: u64, first: Option<&u64>| {
            items.push_back(at);
            Some(at.max(first.copied().unwrap_or_default()))
        };
        let left = core.leave();
        let taken = core.take_sum(|at| take(at, sums.next()));
        if !(core.take_score(|at| take(at, scores.next())) || taken || left) {
            break;
        }
    };
    for work in work {
        let Work::Pass {
            pass,
            offered,
            uses_weights,
            releases,
        } = *work
        else {
            continue;
        };
        while uses_weights && filled.is_none() {
            if let Some((finish, ())) = weights.buffer.full.take(0) {
                filled = Some(sizes.filled(finish));
            } else if !weights.advance(beat_bytes, &mut beats) {
                return Err(forever("no half of the weights is filled"));
            }
        }
        leave(&mut core);
        let ready = filled.filter(|_| uses_weights).unwrap_or_default();
        let taken = core.takes().max(offered);
        let issued = core
            .issue(pass, ready, taken)
            .ok_or_else(|| forever("it has more row pairs than the FIFOs have room for"))?;
        if releases {
            weights.buffer.free.put(sizes.freed(issued.end) + 1, ());
            filled = None;
        }
        passes.push((issued, taken, pass));
    }
    leave(&mut core);
    let cycles = passes.into_iter().map(|(issued, taken, pass)| {
        let count = match pass.leaves {
            Leaves::Stay => 0,
            _ => pass.all_items() as usize,
        };
        Cycles {
            issued,
            taken,
            items: items.drain(..count).collect(),
        }
    });
    Ok(cycles.collect())
}

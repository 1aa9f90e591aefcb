//! Cycles of each stage: the closed form.
//!
//! `docs/hardware-model.md` describes the schedule behind the formulas. In short: tiles of (tokens
//! x row pairs) follow each other without a gap. A tile's sums leave through FIFOs while the next
//! tiles accumulate, so draining costs time only if a stage's sums take longer than its words. The
//! weights of the next tile of row pairs arrive meanwhile. Two frames take turns, half a block
//! each.
//!
//! Cycles are those of the kernels' clock; the array may have two in one of them.
//!
//! Depends on [`quasar_hardware::configuration`], [`quasar_hardware::packing`] and
//! [`quasar_hardware::workload`].

use quasar_core::subnet::config::Pool;
use quasar_hardware::configuration::{Array, Hardware, Lanes};
use quasar_hardware::declared::bytes_per_cycle;
use quasar_hardware::declared::{
    array as timing, BURST_BEATS, COMMAND_GAP, EXPONENTIAL_DEPTH, LOOP_GAP, MEMORY_LATENCY,
    NORM_DEPTH, NORM_ROOT, OPEN_BURSTS, PLAN_INTERVAL, REQUANTIZE_DEPTH, ROW_BYTES, SCORE_DEPTH,
    TRANSFERS_AHEAD,
};
use quasar_hardware::packing::{Activation, Pair};
use quasar_hardware::tiling::{Band, Tiling};
use quasar_hardware::workload::{BlockWork, RowWidths, Setting};

/// The destination of a tile's sums.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Through the requantizing lanes.
    Requantize,
    /// Through the requantizing lanes with a GELU table.
    Gelu,
    /// To the score buffer, all tokens of a row at once.
    Score,
}

/// Cycles of one array stage, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// Products are added up.
    pub accumulate: u64,
    /// The array waits until the lanes have taken the previous tile.
    pub drain_stall: u64,
    /// The array waits for weights.
    pub weight_stall: u64,
    /// Part of `weights`: the refill of a half whose beats have all arrived.
    turn_stall: u64,
    /// Part of `weights`: waits that one frame alone does not have.
    hidden: u64,
    /// The array waits for a result of the previous stage (or for softmax).
    pub wait: u64,
    /// Between commands.
    pub gap: u64,
    /// Row-pair products that the network needs; the array can make `slices` a cycle.
    pub slot_macs: u64,
    /// Multiply-accumulates of whole weights.
    pub macs: u64,
    /// Tiles of row pairs.
    pub row_tiles: u64,
    /// Tiles of tokens.
    pub token_tiles: u64,
    /// Largest number of accumulations into which a tile's columns are divided, so that no field
    /// overflows.
    pub passes: u64,
    /// Weights and row parameters that arrive from memory.
    pub bytes: u64,
    /// Cycles of these transfers.
    pub load: u64,
}

impl Stage {
    /// Returns all cycles.
    pub const fn cycles(&self) -> u64 {
        self.accumulate + self.drain_stall + self.weight_stall + self.wait + self.gap
    }

    fn add(&mut self, other: &Self) {
        self.accumulate += other.accumulate;
        self.drain_stall += other.drain_stall;
        self.weight_stall += other.weight_stall;
        self.turn_stall += other.turn_stall;
        self.hidden += other.hidden;
        self.wait += other.wait;
        self.gap += other.gap;
        self.slot_macs += other.slot_macs;
        self.macs += other.macs;
        self.row_tiles += other.row_tiles;
        self.token_tiles = self.token_tiles.max(other.token_tiles);
        self.passes = self.passes.max(other.passes);
        self.bytes += other.bytes;
        self.load += other.load;
    }
}

/// One matrix product.
#[derive(Clone, Copy)]
struct Gemm {
    tokens: u64,
    rows: RowWidths,
    columns: u64,
    activation: Activation,
    drain: Drain,
    /// True if its rows are weights from memory, false if they are keys or values on chip.
    streamed: bool,
}

/// A stage and the figures that the next stage needs.
#[derive(Clone, Copy, Default)]
struct Product {
    stage: Stage,
    /// Cycles that the lanes take for all its tiles.
    drain: u64,
    /// Cycles that the lanes take for its last tile.
    last_drain: u64,
    /// Cycles that the lanes take for its first tile.
    first_drain: u64,
    /// Cycles in which the array issues a tile.
    issue: u64,
    /// Cycles for which the lanes can be behind the array: their work that the queues hold.
    queued: u64,
    /// Load cycles of the weights that the ports and queues hold.
    ahead: u64,
    /// Cycles in which a half of the weights is filled.
    filled: u64,
    /// Cycles in which its passes are planned.
    planned: u64,
    /// Cycles for which the array waits for its first weights, which arrived in time.
    refill: u64,
    /// Cycles for which the lanes are behind the array at the end.
    backlog: u64,
}

impl Product {
    /// Returns the cycles between two tiles of tokens of the first tile of row pairs.
    fn first_spacing(&self) -> u64 {
        self.issue.max(self.first_drain)
    }

    /// Returns the cycles between two tiles of tokens of the last tile of row pairs.
    fn last_spacing(&self) -> u64 {
        self.issue.max(self.last_drain)
    }

    /// Returns the cycles of the array and its lanes without the waits for weights and results.
    fn busy(&self) -> u64 {
        let stage = self.stage;
        (stage.accumulate + stage.drain_stall + stage.gap).max(self.drain)
    }

    /// Adds the wait for lanes that are behind the array by `backlog` cycles at first.
    fn hold_up(&mut self, backlog: u64) {
        let (weights, wait) = (self.stage.weight_stall, self.stage.wait);
        let issued = self.stage.cycles() - weights - wait;
        // The lanes catch up while the array waits for weights or for a result.
        let behind = (backlog.saturating_sub(wait) + self.drain).saturating_sub(issued + weights);
        self.backlog = behind.min(self.queued);
        let stall = behind.max(self.drain.saturating_sub(issued));
        self.stage.drain_stall += stall - self.backlog;
    }

    /// Returns the product with the wait for its own lanes.
    fn held_up(mut self) -> Self {
        self.hold_up(0);
        self
    }
}

/// A band of tokens, the last product of its residual, and the array's cycles of its products.
struct Normed {
    band: Band,
    product: Product,
    cycles: u64,
}

/// The MLP of a band of tokens.
struct BandOfMlp {
    band: Band,
    fc1: Product,
    fc2: Product,
}

impl Normed {
    /// Returns one band of this many tokens.
    fn whole(product: &Product, tokens: u64) -> Self {
        Self {
            band: Band { tile: 0, tokens },
            product: *product,
            cycles: product.stage.cycles(),
        }
    }
}

impl BandOfMlp {
    fn normed(&self) -> Normed {
        Normed {
            band: self.band,
            product: self.fc2,
            cycles: self.fc1.stage.cycles() + self.fc2.stage.cycles(),
        }
    }
}

/// Weights that arrived before they were needed.
#[derive(Clone, Copy)]
struct Reserve {
    /// Load cycles done before the array needs the weights.
    cycles: u64,
    /// Halves that can hold them, in addition to the ports.
    halves: u64,
}

impl Reserve {
    /// Creates a reserve while both halves are free.
    const fn idle(cycles: u64) -> Self {
        Self { cycles, halves: 2 }
    }

    /// Creates a reserve while one half is in use.
    const fn busy(cycles: u64) -> Self {
        Self { cycles, halves: 1 }
    }
}

/// The reserve with the configured frames in flight, and with one.
#[derive(Clone, Copy)]
struct Lead {
    all: Reserve,
    alone: Reserve,
}

impl From<Reserve> for Lead {
    fn from(reserve: Reserve) -> Self {
        Self {
            all: reserve,
            alone: reserve,
        }
    }
}

/// The formulas, for one configuration and one setting.
pub struct Model<'a> {
    hardware: &'a Hardware,
    array: Array,
    tiling: Tiling,
    setting: Setting,
    bytes_per_cycle: f64,
    beat_bytes: u64,
}

/// Transfers from memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Bytes, in whole beats, checks included.
    pub bytes: u64,
    /// Cycles that memory takes to deliver them.
    pub given: u64,
    /// Cycles that the load kernel takes to receive them.
    pub taken: u64,
}

impl Side {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.given += other.given;
        self.taken += other.taken;
    }

    /// Returns the cycles of the transfers. The two counts overlap: the ports hold memory's data
    /// while the load kernel ends a command and takes the next.
    pub const fn cycles(&self) -> u64 {
        if self.given > self.taken {
            self.given
        } else {
            self.taken
        }
    }
}

/// Attention's half of a block, stage by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionHalf {
    /// Queries, keys, values.
    pub qkv: Stage,
    /// Queries times keys.
    pub scores: Stage,
    /// Cycles of the exponential lanes.
    pub softmax: u64,
    /// Probabilities times values; `wait` is the time of softmax that is not hidden.
    pub context: Stage,
    /// Projection and residual.
    pub proj: Stage,
    /// The `LayerNorm` of its result.
    pub norm: Norm,
    /// Transfers without weights: the norm's.
    pub side: Side,
    /// Commands, without those of weights.
    pub commands: u64,
}

/// The MLP's half of a block, stage by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MlpHalf {
    /// First layer, with GELU.
    pub fc1: Stage,
    /// Second layer and residual.
    pub fc2: Stage,
    /// The `LayerNorm` of its result, with the mean if the head pools.
    pub norm: Norm,
    /// Cycles of the wait for the norm before it that its bands hide.
    pub overlap: u64,
    /// Transfers without weights: the norm's, the table.
    pub side: Side,
    /// Commands, without those of weights.
    pub commands: u64,
}

/// A `LayerNorm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Norm {
    /// Cycles of its lanes.
    pub cycles: u64,
    /// Cycles from the last product before the norm until the array no longer waits for the norm.
    pub ready: u64,
}

/// A phase of a frame: the array's part, then `LayerNorm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Cycles of the array.
    pub array: u64,
    /// The norm of its result.
    pub norm: Norm,
    /// Waits for weights that one frame alone does not have, because its weights arrive while its
    /// norm works.
    pub hidden: u64,
    /// Cycles of the wait for the norm before this phase that its bands of tokens hide.
    pub overlap: u64,
}

/// Sums over phases. Two candidates compare by these alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cycles between two frames, by array and vector unit.
    pub interval: u64,
    /// Cycles of one frame alone, by array and vector unit.
    pub latency: u64,
    /// Cycles that all transfers of a frame take.
    pub transfer: u64,
}

impl Totals {
    /// Adds another part of the frame.
    pub fn add(&mut self, other: &Self) {
        self.interval += other.interval;
        self.latency += other.latency;
        self.transfer += other.transfer;
    }

    /// Returns the cycles of one frame alone.
    pub const fn alone(&self) -> u64 {
        if self.latency > self.transfer {
            self.latency
        } else {
            self.transfer
        }
    }

    /// Returns the cycles between two frames.
    pub const fn period(&self) -> u64 {
        if self.interval > self.transfer {
            self.interval
        } else {
            self.transfer
        }
    }
}

impl AttentionHalf {
    /// Returns this half of a block as a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            array: self.qkv.cycles()
                + self.scores.cycles()
                + self.context.cycles()
                + self.proj.cycles(),
            norm: self.norm,
            hidden: self.qkv.hidden + self.proj.hidden,
            overlap: 0,
        }
    }
}

impl MlpHalf {
    /// Returns this half of a block as a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            array: self.fc1.cycles() + self.fc2.cycles(),
            norm: self.norm,
            hidden: self.fc1.hidden + self.fc2.hidden,
            overlap: self.overlap,
        }
    }
}

/// First or last phase of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Patch embedding, or head.
    pub stage: Stage,
    /// The embedding's `LayerNorm`.
    pub norm: Norm,
    /// Transfers without weights.
    pub side: Side,
    /// Commands, without those of weights.
    pub commands: u64,
    /// Cycles in which the array waits for patches and for the residual's first values.
    pub exposed: u64,
    /// Cycles from the last product to the last logit in memory.
    pub tail: u64,
}

impl End {
    /// Returns this end of a frame as a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            array: self.stage.cycles(),
            norm: self.norm,
            hidden: 0,
            overlap: 0,
        }
    }
}

impl<'a> Model<'a> {
    /// Returns the formulas for a configuration and a setting.
    pub fn new(hardware: &'a Hardware, setting: Setting) -> Self {
        Self {
            hardware,
            array: hardware.configuration().array,
            tiling: Tiling::of(hardware),
            setting,
            bytes_per_cycle: bytes_per_cycle(hardware),
            beat_bytes: hardware.configuration().axi_ports * hardware.board().axi.bits / 8,
        }
    }

    /// Rounds bytes up to whole beats.
    fn padded(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.beat_bytes)
    }

    /// Returns the transfer of that many bytes and their check.
    fn side(&self, bytes: u64) -> Side {
        let bytes = self.padded(bytes) + self.beat_bytes;
        let beats = bytes / self.beat_bytes;
        Side {
            bytes,
            given: (bytes as f64 / self.bytes_per_cycle).ceil() as u64,
            taken: beats + COMMAND_GAP,
        }
    }

    /// Returns the tokens for which a block's attention output and MLP are needed. In the network's
    /// `last` block `token` pooling needs one.
    pub fn needed(&self, last: bool) -> u64 {
        if last && self.setting.pool == Pool::Token {
            1
        } else {
            self.setting.tokens()
        }
    }

    /// Models attention's half of a block; ignores `fc1` and `fc2` of `work`.
    pub fn attention_half(&self, embed: u64, work: &BlockWork, last: bool) -> AttentionHalf {
        let (n, needed) = (self.setting.tokens(), self.needed(last));
        // Two products: keys and queries, then values, so that scores start while values are
        // computed. If one query is needed: keys and values, then the query.
        let (first, second) = if needed == n {
            (work.key.plus(work.query), work.value)
        } else {
            (work.key.plus(work.value), work.query)
        };
        let (mut first, mut second) = (
            self.linear(n, first, embed),
            self.linear(needed, second, embed),
        );
        let inner = work.heads * self.array.padded(work.head_dim);
        let mut proj = self.linear(needed, work.proj, inner);
        let side = self.side(4 * embed);
        let norm = self.norm(&proj.held_up(), needed, embed);
        let mut lead = self.lead(&[first, second], side, norm, false);
        self.refill_first(&mut first, &proj);
        Self::supply(&mut lead, &mut first, self.carried(&proj));
        Self::refill(&mut second, &first);
        Self::supply(&mut lead, &mut second, first.backlog);
        let values = self.ready(&second);
        let queries = if needed == n {
            self.ready(&first).saturating_sub(second.stage.cycles())
        } else {
            values
        };
        let (scores, softmax, context) = self.attention(work, needed, &second, (queries, values));
        let units_cycles = scores.cycles() + context.stage.cycles();
        proj.stage.wait = self.wait(&context, &proj);
        // Both halves are free.
        for reserve in [&mut lead.all, &mut lead.alone] {
            *reserve = Reserve::idle(
                reserve.cycles + units_cycles + proj.stage.load / proj.stage.row_tiles,
            );
        }
        Self::supply(&mut lead, &mut proj, context.backlog);
        let norm = self.norm(&proj, needed, embed);
        let mut qkv = first.stage;
        qkv.add(&second.stage);
        let units = work.heads * self.tiling.token_tiles(needed);
        AttentionHalf {
            qkv,
            scores,
            softmax,
            context: context.stage,
            proj: proj.stage,
            norm,
            side,
            commands: 9 + 4 * units,
        }
    }

    /// Models the MLP's half of a block; ignores its other rows.
    pub fn mlp_half(&self, embed: u64, work: &BlockWork, last: bool) -> MlpHalf {
        let needed = self.needed(last);
        let mut bands: Vec<BandOfMlp> = (self.hardware)
            .hidden_bands(needed, work.hidden)
            .map(|band| BandOfMlp {
                band,
                fc1: self.gemm(Gemm {
                    tokens: band.tokens,
                    rows: work.fc1,
                    columns: embed,
                    activation: Activation::Signed,
                    drain: Drain::Gelu,
                    streamed: true,
                }),
                fc2: self.linear(band.tokens, work.fc2, work.hidden),
            })
            .collect();
        let mut side = self.side(4 * embed);
        side.add(self.side(256));
        let norm = |bands: &[Normed]| {
            if last {
                self.pooled(bands, embed)
            } else {
                self.norm_of_bands(bands, embed)
            }
        };
        let products: Vec<_> = (bands.iter().flat_map(|band| [band.fc1, band.fc2])).collect();
        let end = products[products.len() - 1];
        // The norm before this half, of all tokens, is assumed to be alike.
        let before = [Normed::whole(&end.held_up(), needed)];
        let mut lead = self.lead(&products, side, norm(&before), true);
        let mut previous = None;
        let (mut first, mut second) = (Stage::default(), Stage::default());
        for BandOfMlp { fc1, fc2, .. } in &mut bands {
            let backlog = if let Some(previous) = &previous {
                Self::refill(fc1, previous);
                previous.backlog
            } else {
                self.refill_first(fc1, &end);
                self.carried(&end)
            };
            Self::supply(&mut lead, fc1, backlog);
            fc2.stage.wait = self.wait(fc1, fc2);
            Self::refill(fc2, fc1);
            Self::supply(&mut lead, fc2, fc1.backlog);
            first.add(&fc1.stage);
            second.add(&fc2.stage);
            previous = Some(*fc2);
        }
        let after: Vec<_> = bands.iter().map(BandOfMlp::normed).collect();
        MlpHalf {
            norm: norm(&after),
            overlap: self.overlap(&before, &after, embed),
            fc1: first,
            fc2: second,
            side,
            commands: 4 + 4 * bands.len() as u64,
        }
    }

    /// Returns the part of the wait for the norm before bands of tokens that the bands hide: the
    /// first needs its own tokens alone.
    fn overlap(&self, before: &[Normed], bands: &[Normed], embed: u64) -> u64 {
        if bands.len() == 1 {
            return 0;
        }
        let next = self.next_spacing(&before[0].product, embed);
        let taken = |tile: u64| {
            let earlier = bands.iter().take_while(|band| band.band.tile <= tile);
            let starts = earlier.clone().map(|band| band.cycles).sum::<u64>();
            let own = earlier.last().expect("the first band begins with tile 0");
            starts - own.cycles + (tile - own.band.tile) * next
        };
        let all = self.norm_of_bands(before, embed);
        all.ready - self.norm_until(before, embed, taken).ready
    }

    /// Models the patch embedding of all tokens; prefix tokens are rows of zeros.
    pub fn embedding(&self, embed: u64, rows: RowWidths) -> End {
        let Setting {
            patches, patch_len, ..
        } = self.setting;
        let tokens = self.setting.tokens();
        // Each word of all tokens of a tile starts on a beat: patches, then the first values of the
        // residual, which the drain stores a group of tokens at a time.
        let word = |bytes: u64| self.padded(bytes * self.tiling.tokens);
        let words = self.tiling.token_tiles(tokens) * embed;
        let fill = self.side(words * word(2));
        let stored = words * self.tiling.tokens.div_ceil(self.lanes().requantize);
        let fill = Side {
            taken: fill.taken.max(stored),
            ..fill
        };
        let (mut stage, mut side, mut exposed) = (Stage::default(), Side::default(), 0);
        let mut bands = Vec::new();
        for band in self.hardware.input_bands(tokens, patch_len) {
            let mut product = self.linear(band.tokens, rows, patch_len);
            let first = product.stage.load / product.stage.row_tiles;
            Self::supply(&mut Reserve::idle(first).into(), &mut product, 0);
            let tiles = self.tiling.token_tiles(band.tokens);
            let mut transfers = self.side(tiles * patch_len * word(1));
            if band.tile == 0 {
                transfers.add(fill);
            }
            exposed += MEMORY_LATENCY + transfers.cycles() + first;
            side.add(transfers);
            stage.add(&product.stage);
            bands.push(Normed {
                band,
                product,
                cycles: product.stage.cycles(),
            });
        }
        stage.macs = patches * rows.total() * patch_len;
        stage.slot_macs = stage.slot_macs / tokens * patches;
        End {
            norm: self.norm_of_bands(&bands, embed),
            stage,
            side,
            commands: 3 + 3 * bands.len() as u64,
            exposed,
            tail: 0,
        }
    }

    /// Models the head.
    pub fn head(&self, embed: u64, rows: RowWidths) -> End {
        let mut product = self.linear(1, rows, embed);
        // Weights arrive while the last block and its norm work. With two frames in flight, the
        // other frame's products take some of that time.
        let tile = product.stage.load / product.stage.row_tiles;
        let alone = Reserve::idle(2 * tile + product.ahead);
        let all = if self.hardware.configuration().frames == 2 {
            Reserve::idle(tile + product.ahead / 2)
        } else {
            alone
        };
        Self::supply(&mut Lead { all, alone }, &mut product, 0);
        End {
            norm: Norm::default(),
            stage: product.stage,
            side: self.side(4 * embed),
            commands: 5,
            exposed: 0,
            tail: self.ready(&product),
        }
    }

    /// Returns a phase's part of a frame's totals.
    pub fn totals(&self, phase: &Phase) -> Totals {
        let waits = phase.norm.ready - phase.hidden.min(phase.norm.ready);
        let alone = (phase.array + waits).saturating_sub(phase.overlap);
        Totals {
            // The norm overlaps with the other frame's phase, which is assumed to be as long as
            // this one.
            interval: if self.hardware.configuration().frames == 2 {
                phase.array.max(phase.norm.ready)
            } else {
                alone
            },
            latency: alone,
            transfer: 0,
        }
    }

    /// Returns the part of attention's half of a block in a frame's totals.
    pub fn attention_totals(&self, half: &AttentionHalf) -> Totals {
        Totals {
            transfer: half.qkv.load + half.proj.load + half.side.cycles(),
            ..self.totals(&half.phase())
        }
    }

    /// Returns the part of the MLP's half of a block in a frame's totals.
    pub fn mlp_totals(&self, half: &MlpHalf) -> Totals {
        Totals {
            transfer: half.fc1.load + half.fc2.load + half.side.cycles(),
            ..self.totals(&half.phase())
        }
    }

    /// Returns a block's part of a frame's totals.
    pub fn block_totals(&self, embed: u64, work: &BlockWork, last: bool) -> Totals {
        let mut totals = self.attention_totals(&self.attention_half(embed, work, last));
        totals.add(&self.mlp_totals(&self.mlp_half(embed, work, last)));
        totals
    }

    /// Returns the part of the first or last phase in a frame's totals.
    pub fn end_totals(&self, end: &End) -> Totals {
        let mut totals = self.totals(&end.phase());
        totals.transfer = end.stage.load + end.side.cycles();
        totals.latency = totals.latency + end.exposed + end.tail - end.stage.hidden;
        totals.interval += end.exposed;
        totals
    }

    /// Returns the bytes of a column of a tile's weights.
    fn weight_bytes(&self) -> u64 {
        self.tiling.pairs
    }

    fn lanes(&self) -> Lanes {
        self.hardware.configuration().lanes
    }

    /// Returns the cycles for which the lanes are behind the array when a phase begins: with two
    /// frames in flight it follows another phase, which is assumed to end like this one, with
    /// product `last`.
    fn carried(&self, last: &Product) -> u64 {
        if self.hardware.configuration().frames == 2 {
            last.held_up().backlog
        } else {
            0
        }
    }

    /// Returns the words of C columns that hold some columns.
    const fn words(&self, columns: u64) -> u64 {
        columns.div_ceil(self.array.cascade)
    }

    /// Converts cycles of the array's clock.
    const fn slow(&self, fast: u64) -> u64 {
        fast.div_ceil(self.array.clock_ratio)
    }

    /// Returns the array's cycles from a pass's last word to the queues of all tokens.
    fn depth(&self) -> u64 {
        let dsp_kind = self.hardware.board().dsp_kind;
        timing::end_to_fifo(self.array.tokens, self.array.cascade, dsp_kind)
    }

    /// Returns the cycles from a pass's last word to its first sum.
    fn hops(&self) -> u64 {
        self.slow(self.depth()) + timing::FIFO_TO_ITEM + timing::ITEM_TO_SUMS
    }

    /// Models the `LayerNorm` of some tokens after a product.
    fn norm(&self, before: &Product, tokens: u64, embed: u64) -> Norm {
        self.norm_of_bands(&[Normed::whole(before, tokens)], embed)
    }

    /// Models the `LayerNorm` of tokens after products, band by band. The next product takes one
    /// tile after another, `embed` columns each.
    fn norm_of_bands(&self, bands: &[Normed], embed: u64) -> Norm {
        let next = self.next_spacing(&bands[bands.len() - 1].product, embed);
        self.norm_until(bands, embed, |tile| tile * next)
    }

    /// Returns the cycles in which a product after a norm takes a tile of tokens. It drains as the
    /// product `before` does.
    fn next_spacing(&self, before: &Product, embed: u64) -> u64 {
        self.slow(self.words(embed)).max(before.first_drain)
    }

    /// Models the `LayerNorm` of tokens after products, band by band: each tile of tokens starts as
    /// soon as its residual is stored. The next product takes each tile at `taken`; it waits for
    /// the last band.
    fn norm_until(&self, bands: &[Normed], embed: u64, taken: impl Fn(u64) -> u64) -> Norm {
        let mut norm = Norm::default();
        // Cycles from the last residual of the band before until the norm is ready for more.
        let mut behind = 0;
        for Normed {
            band,
            product,
            cycles,
        } in bands
        {
            let last = self.tiling.token_tiles(band.tokens) - 1;
            let spacing = product.last_spacing();
            let stored = self.ready(product);
            // Counted from the first tile's residual.
            let mut free = u64::saturating_sub(behind, cycles.saturating_sub(last * spacing));
            norm.ready = 0;
            for tile in 0..=last {
                let size = self.tiling.tile_tokens(band.tokens, tile);
                let cycles = size.div_ceil(self.lanes().norm) * embed.max(NORM_ROOT) + LOOP_GAP;
                free = (tile * spacing).max(free) + cycles;
                let ready = (stored + free + NORM_DEPTH + COMMAND_GAP)
                    .saturating_sub(last * spacing + taken(band.tile + tile));
                norm.cycles += cycles;
                norm.ready = norm.ready.max(ready);
            }
            behind = free.saturating_sub(last * spacing);
        }
        norm
    }

    /// Models the last `LayerNorm`, of the head's input.
    fn pooled(&self, bands: &[Normed], embed: u64) -> Norm {
        let tokens = self.setting.tokens();
        let before = &bands[bands.len() - 1].product;
        let after = match self.setting.pool {
            Pool::Token => return self.norm(before, 1, embed),
            Pool::MeanAfterNorm => {
                let mut norm = self.norm_of_bands(bands, embed);
                // The mean follows the last code; no product runs meanwhile.
                let others = self.tiling.token_tiles(tokens) - 1;
                norm.cycles += embed;
                norm.ready += others * self.slow(self.words(embed)) + embed;
                return norm;
            }
            Pool::Mean => {
                let (full, ragged) = (tokens / self.tiling.tokens, tokens % self.tiling.tokens);
                let groups = |tokens: u64| tokens.div_ceil(self.lanes().norm);
                // One column after another, a group of tokens a cycle.
                embed * (full * groups(self.tiling.tokens) + groups(ragged) + LOOP_GAP)
            }
        };
        let cycles = after + embed.max(NORM_ROOT);
        Norm {
            cycles,
            ready: self.ready(before) + COMMAND_GAP + cycles + NORM_DEPTH,
        }
    }

    /// Sets the wait for a product's first weights, which are written while the last tile of the
    /// product `before` is used.
    fn refill(product: &mut Product, before: &Product) {
        let used = before.busy() / before.stage.row_tiles.max(1) + product.stage.wait;
        product.refill = product.filled.saturating_sub(used);
    }

    /// As [`Self::refill`], for the first product of a phase: with two frames in flight it follows
    /// another phase, which is assumed to end like this one, with product `last`.
    fn refill_first(&self, product: &mut Product, last: &Product) {
        if self.hardware.configuration().frames == 2 {
            Self::refill(product, last);
        }
    }

    /// Adds a product's waits for its weights, and for lanes that are behind the array by `backlog`
    /// cycles at first. On entry `lead` describes this product's weights that arrived early; on
    /// return, the next one's. The other half of the weights and the capacity of the ports bound
    /// it.
    fn supply(lead: &mut Lead, product: &mut Product, backlog: u64) {
        let (busy, ahead) = (product.busy(), product.ahead);
        let stage = &mut product.stage;
        let tiles = stage.row_tiles.max(1);
        let (load, busy) = (stage.load / tiles, busy / tiles);
        let stalls = |lead: &mut Reserve| {
            if stage.wait > 0 {
                *lead = Reserve::idle(lead.cycles + stage.wait);
            }
            (0..stage.row_tiles)
                .map(|_| {
                    let there = lead.cycles.min(lead.halves * load + ahead);
                    *lead = Reserve::busy(there.saturating_sub(load) + busy);
                    load.saturating_sub(there)
                })
                .sum::<u64>()
        };
        let (stall, alone) = (stalls(&mut lead.all), stalls(&mut lead.alone));
        stage.weight_stall += stall.max(product.refill) + stage.turn_stall;
        stage.hidden = stall.saturating_sub(alone);
        product.hold_up(backlog);
    }

    /// Returns the lead with which a phase begins. Its first weights have arrived, unless its
    /// weights take longer than its products. With one frame in flight they arrive while the norm
    /// works and, for the MLP, while attention works. With two, every other phase follows another
    /// phase's attention.
    fn lead(&self, products: &[Product], side: Side, norm: Norm, mlp: bool) -> Lead {
        let first = products[0].stage.load / products[0].stage.row_tiles.max(1);
        let busy: u64 = products.iter().map(Product::busy).sum();
        let load: u64 = products.iter().map(|product| product.stage.load).sum();
        let before = (busy + first).saturating_sub(load + side.cycles());
        match (self.hardware.configuration().frames, mlp) {
            (1, true) => Lead::from(Reserve::idle(
                before.max(norm.ready + first + products[0].ahead),
            )),
            (1, false) => Lead::from(Reserve::idle(before.max(norm.ready))),
            _ => Lead {
                all: Reserve::busy(before.max(first.midpoint(products[0].ahead))),
                alone: Reserve::idle(before + norm.ready),
            },
        }
    }

    /// Returns the cycles from a stage's last product to its last stored result.
    fn ready(&self, product: &Product) -> u64 {
        self.hops() + product.last_drain + product.backlog + REQUANTIZE_DEPTH
    }

    /// Returns the array's wait between a stage and the next one on the same tokens: the first and
    /// the last tile of tokens must be stored before they are read.
    fn wait(&self, before: &Product, after: &Product) -> u64 {
        let others = after.stage.token_tiles - 1;
        self.ready(before)
            .saturating_sub(others * before.last_spacing().min(after.first_spacing()))
    }

    /// Returns the number of accumulations into which `columns` are divided.
    fn passes(&self, pair: Pair, activation: Activation, columns: u64) -> u64 {
        columns.div_ceil(self.hardware.board().dsp_kind.products(pair, activation))
    }

    /// Models a product with weights, requantized.
    fn linear(&self, tokens: u64, rows: RowWidths, columns: u64) -> Product {
        self.gemm(Gemm {
            tokens,
            rows,
            columns,
            activation: Activation::Signed,
            drain: Drain::Requantize,
            streamed: true,
        })
    }

    fn gemm(&self, gemm: Gemm) -> Product {
        let lanes = match gemm.drain {
            Drain::Requantize => self.lanes().requantize,
            Drain::Gelu => self.lanes().gelu,
            Drain::Score => self.tiling.tokens,
        };
        let (full, ragged) = (
            gemm.tokens / self.tiling.tokens,
            gemm.tokens % self.tiling.tokens,
        );
        let token_tiles = full + u64::from(ragged > 0);
        let mut stage = Stage {
            token_tiles,
            macs: gemm.tokens * gemm.rows.total() * gemm.columns,
            ..Stage::default()
        };
        let sizes = [(full, self.tiling.tokens), (u64::from(ragged > 0), ragged)];
        let last = if ragged > 0 {
            ragged
        } else {
            self.tiling.tokens
        };
        let (mut product, mut words, mut issue, mut all_passes) = (Product::default(), 0, 0, 0);
        for tile in (self.tiling).row_tiles(gemm.rows.four_bit, gemm.rows.eight_bit) {
            let (slots, outputs) = (tile.pairs(), tile.rows());
            let pair = if tile.rows8 > 0 {
                Pair::EightBit
            } else {
                Pair::FourBit
            };
            let passes = self.passes(pair, gemm.activation, gemm.columns);
            let drain = |tokens: u64| {
                if gemm.drain == Drain::Score {
                    slots
                } else {
                    outputs * tokens.div_ceil(lanes)
                }
            };
            let pass = self.words(gemm.columns.div_ceil(passes));
            let (mut busy, mut lanes_busy) = (0, 0);
            for (tiles, tokens) in sizes {
                busy += tiles * passes * self.spacing(pass, slots, drain(tokens));
                lanes_busy += tiles * passes * drain(tokens);
            }
            words += token_tiles * self.words(gemm.columns);
            issue += busy;
            product.drain += lanes_busy;
            all_passes += token_tiles * passes;
            stage.slot_macs += slots * gemm.columns * gemm.tokens;
            stage.passes = stage.passes.max(passes);
            stage.row_tiles += 1;
            if stage.row_tiles == 1 {
                product.first_drain = drain(gemm.tokens.min(self.tiling.tokens));
                // The FIFOs have room for the last pass when it starts; the others wait in them.
                let waiting = timing::FIFO_DEPTH.saturating_sub(slots);
                let most = drain(self.tiling.tokens) * waiting / slots;
                let flight = self.slow(self.depth() + pass);
                product.queued = most.saturating_sub(flight);
            }
            product.last_drain = drain(last);
            if gemm.streamed {
                // One byte of each column for every row pair of the array, also for those that the
                // tile does not have.
                let bytes = self.weight_bytes() * self.array.padded(gemm.columns);
                let mut load = self.side(bytes);
                load.add(self.side(outputs * ROW_BYTES));
                stage.bytes += load.bytes;
                stage.load += load.cycles();
                let beats = bytes.max(outputs * ROW_BYTES).div_ceil(self.beat_bytes);
                let queued = load.cycles() * BEATS_AHEAD / beats;
                // The ports hold what memory gave, but load takes no more than a beat a cycle.
                let ports =
                    read_ahead(load.cycles()) * load.given.saturating_sub(load.taken) / load.given;
                product.ahead = product.ahead.max(queued + ports);
                // A half is refilled once the last tile that used it has been issued, one beat and
                // one word a cycle.
                let filled = bytes
                    .div_ceil(self.beat_bytes)
                    .max(self.words(gemm.columns));
                let planned = PLAN_INTERVAL * token_tiles * passes;
                let busy = self.slow(busy).max(lanes_busy).max(planned);
                product.filled =
                    filled + self.slow(timing::END_TO_FREED + timing::FILLED_TO_START) + 3;
                let turn = product.filled.midpoint(busy).max(filled);
                stage.turn_stall += turn.saturating_sub(load.cycles().max(busy));
            }
        }
        stage.accumulate = self.slow(words);
        stage.drain_stall = self.slow(issue) - stage.accumulate;
        // Passes are planned while earlier ones are issued.
        let issued = stage.accumulate
            + stage
                .drain_stall
                .max(product.drain.saturating_sub(stage.accumulate));
        product.planned = COMMAND_GAP + PLAN_INTERVAL * all_passes;
        stage.gap = product.planned.saturating_sub(issued);
        product.issue = self.slow(self.words(gemm.columns));
        product.stage = stage;
        product
    }

    /// Returns the array's cycles between passes of these words and row pairs, which `drain` cycles
    /// take from the queues: the chain moves a row pair a cycle, and the queues must have room.
    fn spacing(&self, words: u64, pairs: u64, drain: u64) -> u64 {
        let ratio = self.array.clock_ratio;
        let ahead = (timing::FIFO_DEPTH / pairs).max(1);
        let rest = timing::FIFO_DEPTH % pairs;
        let taken = drain * ratio * pairs.saturating_sub(rest) / pairs;
        let around = words
            + self.depth()
            + ratio * (timing::FIFO_TO_ITEM + 1)
            + taken
            + timing::ROOM_TO_START;
        let room = around.div_ceil(ahead);
        let least = if words > pairs { words } else { pairs };
        if least > room {
            least
        } else {
            room
        }
    }

    /// Models scores, softmax and context of all heads. Units of (head, tile of tokens) pass
    /// through a pipeline of three: while the exponential lanes work, the array computes the scores
    /// of the next unit and the context of the previous one.
    fn attention(
        &self,
        work: &BlockWork,
        queries: u64,
        before: &Product,
        (queries_ready, values_ready): (u64, u64),
    ) -> (Stage, u64, Product) {
        let keys = self.setting.tokens();
        let size = |unit: u64| {
            let tile = unit % self.tiling.token_tiles(queries);
            self.tiling.tile_tokens(queries, tile)
        };
        let unit = |tokens: u64| {
            let scores = self.gemm(Gemm {
                tokens,
                rows: eight_bit(keys),
                columns: work.head_dim,
                activation: Activation::Signed,
                drain: Drain::Score,
                streamed: false,
            });
            let context = self.gemm(Gemm {
                tokens,
                rows: eight_bit(work.head_dim),
                columns: keys,
                activation: Activation::Unsigned,
                drain: Drain::Requantize,
                streamed: false,
            });
            let groups = tokens.div_ceil(self.lanes().exponential);
            let exponentials = groups * (keys + LOOP_GAP);
            (scores, exponentials, context)
        };
        let token_tiles = self.tiling.token_tiles(queries);
        let (whole, last) = (unit(size(0)), unit(size(token_tiles - 1)));
        let of = |i: u64| {
            if i % token_tiles == token_tiles - 1 {
                &last
            } else {
                &whole
            }
        };
        let units = work.heads * token_tiles;
        let (mut scores_stage, mut context) = (Stage::default(), Product::default());
        let mut softmax = 0;
        // Times since the end of qkv's products at which the array, the exponential lanes and each
        // unit's probabilities are ready; the cycles for which the drain is behind the array.
        let (mut free, mut backlog) = (0, before.backlog);
        // Cycles for which planning is ahead of the array.
        let (mut planned, most_planned) = (0, PLAN_INTERVAL * timing::DESCRIPTORS);
        let (mut lanes_free, mut probabilities) = (0, 0);
        let mut product = |stage: &mut Stage, of: &Product, needed: u64| {
            let mut one = *of;
            let wait = u64::saturating_sub(needed, free);
            // Planning stops at the credit for what the array waits for.
            planned = if wait > 0 { 0 } else { planned };
            one.stage.gap = one.stage.gap.saturating_sub(planned);
            one.hold_up(u64::saturating_sub(backlog, wait));
            planned = (planned + one.stage.cycles())
                .saturating_sub(one.planned)
                .min(most_planned);
            stage.add(&one.stage);
            stage.wait += wait;
            free += wait + one.stage.cycles();
            backlog = one.backlog;
            (free, backlog)
        };
        for i in 0..=units {
            let mut next_probabilities = 0;
            if i < units {
                let (scores, exponentials, _) = of(i);
                let needed = if i == 0 { queries_ready } else { 0 };
                let (end, backlog) = product(&mut scores_stage, scores, needed);
                let stored = end + self.hops() + backlog + scores.last_drain + SCORE_DEPTH;
                lanes_free = stored.max(lanes_free + COMMAND_GAP) + exponentials;
                next_probabilities = lanes_free - LOOP_GAP + EXPONENTIAL_DEPTH;
                softmax += exponentials + COMMAND_GAP;
            }
            if i > 0 {
                let (_, _, one) = of(i - 1);
                // The first context needs the values, too.
                let needed = if i == 1 {
                    probabilities.max(values_ready)
                } else {
                    probabilities
                };
                (_, context.backlog) = product(&mut context.stage, one, needed);
                context.last_drain = one.last_drain;
                context.issue = one.stage.accumulate / one.stage.token_tiles;
            }
            probabilities = next_probabilities;
        }
        scores_stage.token_tiles = token_tiles;
        context.stage.token_tiles = token_tiles;
        (scores_stage, softmax + EXPONENTIAL_DEPTH * units, context)
    }
}

/// Returns the load cycles of the tiles, of `load` cycles each, that the ports hold: a tile is two
/// transfers, each with a last burst of its own.
fn read_ahead(load: u64) -> u64 {
    let bursts = load / BURST_BEATS + 2;
    (OPEN_BURSTS * load / bursts).min(TRANSFERS_AHEAD / 2 * load)
}

/// Beats that the queues of weights and row parameters hold.
const BEATS_AHEAD: u64 = 64;

const fn eight_bit(rows: u64) -> RowWidths {
    RowWidths {
        four_bit: 0,
        eight_bit: rows,
    }
}

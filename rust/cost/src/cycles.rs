//! Cycles of each stage: the closed form.
//!
//! `docs/hardware-model.md` describes the schedule behind the formulas. In short: tiles of (tokens
//! x row pairs) follow each other without a gap. A tile's sums leave through a chain while the next
//! tile accumulates, so draining costs time only if it takes longer than that. The weights of the
//! next tile of row pairs arrive meanwhile. Two frames take turns, half a block each.
//!
//! Depends on [`quasar_hardware::configuration`], [`quasar_hardware::packing`] and
//! [`quasar_hardware::workload`].

use quasar_core::subnet::config::Pool;
use quasar_hardware::configuration::{Hardware, Lanes};
use quasar_hardware::declared::bytes_per_cycle;
use quasar_hardware::declared::{
    BURST_BEATS, COMMAND_GAP, EXPONENTIAL_DEPTH, FILL_DEPTH, LOOP_GAP, MEMORY_LATENCY, NORM_DEPTH,
    NORM_ROOT, OPEN_BURSTS, PLAN_INTERVAL, REQUANTIZE_DEPTH, ROW_BYTES, SCORE_DEPTH, SLICE_DEPTH,
    TRANSFERS_AHEAD,
};
use quasar_hardware::packing::{Activation, Pair};
use quasar_hardware::tiling::Tiling;
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

    /// Returns all cycles except the waits for weights.
    const fn unhindered(&self) -> u64 {
        self.accumulate + self.drain_stall + self.wait + self.gap
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
    /// Cycles that the lanes take for its last tile.
    last_drain: u64,
    /// Cycles that the lanes take for its first tile.
    first_drain: u64,
    columns: u64,
}

impl Product {
    /// Returns the cycles between two tiles of tokens of the first tile of row pairs.
    fn first_spacing(&self) -> u64 {
        self.columns.max(self.first_drain)
    }

    /// Returns the cycles between two tiles of tokens of the last tile of row pairs.
    fn last_spacing(&self) -> u64 {
        self.columns.max(self.last_drain)
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
        }
    }
}

impl<'a> Model<'a> {
    /// Returns the formulas for a configuration and a setting.
    pub fn new(hardware: &'a Hardware, setting: Setting) -> Self {
        Self {
            hardware,
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
        second.stage.drain_stall += first.last_drain.saturating_sub(embed);
        let values = self.ready(&second);
        let queries = if needed == n {
            self.ready(&first).saturating_sub(second.stage.cycles())
        } else {
            values
        };
        let (scores, softmax, context) = self.attention(work, needed, &second, (queries, values));
        let mut proj = self.linear(needed, work.proj, work.inner());
        proj.stage.wait = self.wait(&context, &proj);
        let side = self.side(4 * embed);
        let units_cycles = scores.cycles() + context.stage.cycles();
        let norm = self.norm(&proj, needed, embed);
        let mut lead = self.lead(&[&first.stage, &second.stage], side, norm, false);
        Self::supply(&mut lead, &mut first.stage);
        Self::supply(&mut lead, &mut second.stage);
        // Both halves are free.
        for reserve in [&mut lead.all, &mut lead.alone] {
            *reserve = Reserve::idle(
                reserve.cycles + units_cycles + proj.stage.load / proj.stage.row_tiles,
            );
        }
        Self::supply(&mut lead, &mut proj.stage);
        self.hand_over(&mut proj, embed);
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
        let mut fc1 = self.gemm(Gemm {
            tokens: needed,
            rows: work.fc1,
            columns: embed,
            activation: Activation::Signed,
            drain: Drain::Gelu,
            streamed: true,
        });
        let mut fc2 = self.linear(needed, work.fc2, work.hidden);
        fc2.stage.wait = self.wait(&fc1, &fc2);
        let mut side = self.side(4 * embed);
        side.add(self.side(256));
        let norm = if last {
            self.pooled(&fc2, embed)
        } else {
            self.norm(&fc2, needed, embed)
        };
        let mut lead = self.lead(&[&fc1.stage, &fc2.stage], side, norm, true);
        Self::supply(&mut lead, &mut fc1.stage);
        Self::supply(&mut lead, &mut fc2.stage);
        self.hand_over(&mut fc2, embed);
        MlpHalf {
            norm,
            fc1: fc1.stage,
            fc2: fc2.stage,
            side,
            commands: 8,
        }
    }

    /// Models the patch embedding of all tokens; prefix tokens are rows of zeros.
    pub fn embedding(&self, embed: u64, rows: RowWidths) -> End {
        let tokens = self.setting.tokens();
        let tiles = self.tiling.token_tiles(tokens);
        let mut product = self.linear(tokens, rows, self.setting.patch_len);
        product.stage.macs = self.setting.patches * rows.total() * self.setting.patch_len;
        product.stage.slot_macs = product.stage.slot_macs / tokens * self.setting.patches;
        let first = product.stage.load / product.stage.row_tiles;
        Self::supply(&mut Reserve::idle(first).into(), &mut product.stage);
        self.hand_over(&mut product, embed);
        // Each word of all tokens of a tile starts on a beat: patches, then the first values of the
        // residual, which the drain stores a group of tokens at a time.
        let word = |bytes: u64| self.padded(bytes * self.tiling.tokens);
        let mut side = self.side(tiles * self.setting.patch_len * word(1));
        let words = tiles * embed;
        let fill = self.side(words * word(2));
        let stored = words * self.tiling.tokens.div_ceil(self.lanes().requantize);
        side.add(Side {
            taken: fill.taken.max(stored),
            ..fill
        });
        End {
            norm: self.norm(&product, tokens, embed),
            stage: product.stage,
            side,
            commands: 6,
            exposed: MEMORY_LATENCY + side.cycles() + first,
            tail: 0,
        }
    }

    /// Models the head.
    pub fn head(&self, embed: u64, rows: RowWidths) -> End {
        let mut product = self.linear(1, rows, embed);
        // Weights arrive while the last block and its norm work. With two frames in flight, the
        // other frame's products take some of that time.
        let tile = product.stage.load / product.stage.row_tiles;
        let alone = Reserve::idle(2 * tile + read_ahead(tile));
        let all = if self.hardware.configuration().frames == 2 {
            Reserve::idle(tile + read_ahead(tile) / 2)
        } else {
            alone
        };
        Self::supply(&mut Lead { all, alone }, &mut product.stage);
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
        let alone = phase.array + phase.norm.ready - phase.hidden.min(phase.norm.ready);
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

    /// Lets the other frame's phase begin while the chain still drains this one's last tile.
    fn hand_over(&self, product: &mut Product, embed: u64) {
        if self.hardware.configuration().frames == 2 {
            product.stage.drain_stall += product.last_drain.saturating_sub(embed);
        }
    }

    /// Models the `LayerNorm` of some tokens after a product: each tile of tokens starts as soon as
    /// its residual is stored. The next product takes one tile after another, `embed` columns each.
    fn norm(&self, before: &Product, tokens: u64, embed: u64) -> Norm {
        let last = self.tiling.token_tiles(tokens) - 1;
        let (spacing, next) = (before.last_spacing(), embed.max(before.first_drain));
        let stored = self.ready(before);
        let (mut free, mut norm) = (0, Norm::default());
        for tile in 0..=last {
            let size = self.tiling.tile_tokens(tokens, tile);
            let cycles = size.div_ceil(self.lanes().norm) * embed.max(NORM_ROOT) + LOOP_GAP;
            // Counted from the first tile's residual.
            free = (tile * spacing).max(free) + cycles;
            let ready = (stored + free + NORM_DEPTH + COMMAND_GAP)
                .saturating_sub(last * spacing + tile * next);
            norm.cycles += cycles;
            norm.ready = norm.ready.max(ready);
        }
        norm
    }

    /// Models the last `LayerNorm`, of the head's input.
    fn pooled(&self, before: &Product, embed: u64) -> Norm {
        let tokens = self.setting.tokens();
        let after = match self.setting.pool {
            Pool::Token => return self.norm(before, 1, embed),
            Pool::MeanAfterNorm => {
                let mut norm = self.norm(before, tokens, embed);
                // The mean follows the last code; no product runs meanwhile.
                let others = self.tiling.token_tiles(tokens) - 1;
                norm.cycles += embed;
                norm.ready += others * embed + embed;
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

    /// Adds a stage's waits for its weights. On entry `lead` describes this stage's weights that
    /// arrived early; on return, the next stage's. The other half of the weights and the capacity
    /// of the ports bound it.
    fn supply(lead: &mut Lead, stage: &mut Stage) {
        let tiles = stage.row_tiles.max(1);
        let (load, busy) = (
            stage.load / tiles,
            (stage.accumulate + stage.drain_stall) / tiles,
        );
        let stalls = |lead: &mut Reserve| {
            if stage.wait > 0 {
                *lead = Reserve::idle(lead.cycles + stage.wait);
            }
            (0..stage.row_tiles)
                .map(|_| {
                    let there = lead.cycles.min(lead.halves * load + read_ahead(load));
                    *lead = Reserve::busy(there.saturating_sub(load) + busy);
                    load.saturating_sub(there)
                })
                .sum::<u64>()
        };
        let (stall, alone) = (stalls(&mut lead.all), stalls(&mut lead.alone));
        stage.weight_stall += stall + stage.turn_stall;
        stage.hidden = stall.saturating_sub(alone);
    }

    /// Returns the lead with which a phase begins. Its first weights have arrived, unless its
    /// weights take longer than its products. With one frame in flight they arrive while the norm
    /// works and, for the MLP, while attention works. With two, every other phase follows another
    /// phase's attention.
    fn lead(&self, stages: &[&Stage], side: Side, norm: Norm, mlp: bool) -> Lead {
        let first = stages[0].load / stages[0].row_tiles.max(1);
        let busy: u64 = stages.iter().map(|stage| stage.unhindered()).sum();
        let load: u64 = stages.iter().map(|stage| stage.load).sum();
        let before = (busy + first).saturating_sub(load + side.cycles());
        match (self.hardware.configuration().frames, mlp) {
            (1, true) => Lead::from(Reserve::idle(
                before.max(norm.ready + first + read_ahead(first)),
            )),
            (1, false) => Lead::from(Reserve::idle(before.max(norm.ready))),
            _ => Lead {
                all: Reserve::busy(before.max(first.midpoint(read_ahead(first)))),
                alone: Reserve::idle(before + norm.ready),
            },
        }
    }

    /// Returns the cycles from a stage's last product to its last stored result.
    fn ready(&self, product: &Product) -> u64 {
        self.tiling.tokens + self.tiling.pairs + SLICE_DEPTH + product.last_drain + REQUANTIZE_DEPTH
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
        let (mut first_drain, mut last_drain, mut last_stall, mut all_passes) = (0, 0, 0, 0);
        for tile in (self.tiling).row_tiles(gemm.rows.four_bit, gemm.rows.eight_bit) {
            let (slots, outputs) = (tile.pairs(), tile.rows());
            let pair = if tile.rows8 > 0 {
                Pair::EightBit
            } else {
                Pair::FourBit
            };
            let passes = self.passes(pair, gemm.activation, gemm.columns);
            let drain = |tokens: u64| outputs * tokens.div_ceil(lanes);
            let stall = |tokens: u64| (passes * drain(tokens)).saturating_sub(gemm.columns);
            // The next stage counts the last pass.
            last_stall = (if ragged > 0 {
                stall(ragged)
            } else {
                stall(self.tiling.tokens)
            }) / passes;
            let stalls =
                full * stall(self.tiling.tokens) + if ragged > 0 { stall(ragged) } else { 0 };
            let busy = token_tiles * gemm.columns + stalls;
            all_passes += token_tiles * passes;
            stage.accumulate += token_tiles * gemm.columns;
            stage.drain_stall += stalls;
            stage.slot_macs += slots * gemm.columns * gemm.tokens;
            stage.passes = stage.passes.max(passes);
            stage.row_tiles += 1;
            if stage.row_tiles == 1 {
                first_drain = drain(gemm.tokens.min(self.tiling.tokens));
            }
            last_drain = drain(if ragged > 0 {
                ragged
            } else {
                self.tiling.tokens
            });
            if gemm.streamed {
                // One byte of each column for every row pair of the array, also for those that the
                // tile does not have.
                let mut load = self.side(self.weight_bytes() * gemm.columns);
                load.add(self.side(outputs * ROW_BYTES));
                stage.bytes += load.bytes;
                stage.load += load.cycles();
                // A half is refilled once the last tile that used it has been issued, one beat and
                // one word a cycle.
                let filled = (self.weight_bytes() * gemm.columns)
                    .div_ceil(self.beat_bytes)
                    .max(gemm.columns);
                let turn = (filled + busy + FILL_DEPTH + PLAN_INTERVAL) / 2;
                stage.turn_stall += turn.saturating_sub(load.cycles().max(busy));
            }
        }
        stage.drain_stall -= last_stall;
        // Passes are planned while earlier ones are issued.
        stage.gap = (COMMAND_GAP + PLAN_INTERVAL * all_passes)
            .saturating_sub(stage.accumulate + stage.drain_stall);
        Product {
            stage,
            first_drain,
            last_drain,
            columns: gemm.columns,
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
        // Times since the end of qkv's products at which the array, its chain, the lanes and each
        // unit's probabilities are ready.
        let (mut free, mut chain) = (0, before.last_drain);
        let (mut lanes_free, mut probabilities) = (0, 0);
        let mut product = |stage: &mut Stage, of: &Product, columns: u64, needed: u64| {
            let chained = u64::max(free, u64::saturating_sub(chain, columns));
            stage.add(&of.stage);
            stage.drain_stall += chained - free;
            stage.wait += needed.saturating_sub(chained);
            free = chained.max(needed) + of.stage.cycles();
            chain = free + of.last_drain;
            free
        };
        for i in 0..=units {
            let mut next_probabilities = 0;
            if i < units {
                let (scores, exponentials, _) = of(i);
                let needed = if i == 0 { queries_ready } else { 0 };
                let end = product(&mut scores_stage, scores, work.head_dim, needed);
                let stored = end
                    + self.tiling.tokens
                    + self.tiling.pairs
                    + SLICE_DEPTH
                    + scores.last_drain
                    + SCORE_DEPTH;
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
                product(&mut context.stage, one, keys, needed);
                context.last_drain = one.last_drain;
                context.columns = one.stage.accumulate / one.stage.token_tiles;
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

const fn eight_bit(rows: u64) -> RowWidths {
    RowWidths {
        four_bit: 0,
        eight_bit: rows,
    }
}

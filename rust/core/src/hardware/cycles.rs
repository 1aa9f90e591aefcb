//! Cycles of each stage: the closed form.
//!
//! The schedule that the formulas stand for is in `docs/hardware-model.md`. In short: tiles of (tokens x row pairs) follow each other
//! without a gap; a tile's sums leave through a chain while the next tile adds up its own, so that draining costs time only where it
//! takes longer than that; weights of the next tile of row pairs arrive meanwhile; two frames take turns, half a block each.
//! Depends on [`super::configuration`], [`super::packing`] and [`super::workload`].

use super::configuration::{Hardware, Mode};
use super::packing::{Activation, Pair};
use super::workload::{BlockWork, Rows, Setting};
use crate::subnet::config::Pool;

/// What the model takes for granted about the accelerator's loops: declared, to be met by the HLS and checked by its counters. All loops
/// have an initiation interval of 1; depths and gaps are in cycles.
pub mod declared {
    /// Operand registers, multiplier and P of a slice.
    pub const SLICE_DEPTH: u64 = 4;
    /// From the chain's end to a stored code: join and correct the fields, shift, multiply, round, clamp, table, write.
    pub const REQUANTIZE_DEPTH: u64 = 16;
    /// From the chain's end to a stored score and the running maximum.
    pub const SCORE_DEPTH: u64 = 8;
    /// Difference, multiply, table, shift, sum, then the reciprocal of the last rows.
    pub const EXPONENTIAL_DEPTH: u64 = 56;
    /// Square root and reciprocal of the first tokens, then the normalising pipeline.
    pub const NORM_DEPTH: u64 = 96;
    /// Least cycles for each group of tokens: the square root and the reciprocal of the next group run beside the elements of this one.
    pub const NORM_ROOT: u64 = 64;
    /// Between two commands of a unit: its flattened loop ends, the next command's bounds are taken.
    pub const COMMAND_GAP: u64 = 16;
    /// Between two tiles of row pairs of a `Gemm`: the other half of the weights is taken.
    pub const TILE_GAP: u64 = 8;
    /// Between two commands that fetch hands out.
    pub const FETCH_INTERVAL: u64 = 2;
    /// Bytes of a command.
    pub const COMMAND_BYTES: u64 = 32;
    /// Bytes beside a row's weights: bias 4, mantissa 2, shift 1, destination 1, column 2, spare 6.
    pub const ROW_BYTES: u64 = 16;
    /// From a request to memory's first beat.
    pub const MEMORY_LATENCY: u64 = 64;
    /// Beats that an AXI port holds for requests that run ahead: 8 bursts of 64.
    pub const READ_AHEAD: u64 = 512;
    /// Share of an AXI port's cycles that carry data (bursts of 64 beats, several outstanding).
    pub const AXI_EFFICIENCY: f64 = 0.9;
}

use declared::{
    AXI_EFFICIENCY, COMMAND_BYTES, COMMAND_GAP, EXPONENTIAL_DEPTH, NORM_DEPTH, NORM_ROOT,
    REQUANTIZE_DEPTH, ROW_BYTES, SCORE_DEPTH, SLICE_DEPTH,
};

/// Bytes that arrive from memory in a cycle.
pub fn bytes_per_cycle(hardware: &Hardware) -> f64 {
    let (board, configuration) = (hardware.board(), hardware.configuration());
    let ports = (configuration.axi_ports * board.axi.bits) as f64 / 8.0 * AXI_EFFICIENCY;
    ports.min(board.ddr.peak_gb_s * 1e9 * board.ddr.efficiency / hardware.clock_hz())
}

/// Where a tile's sums go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Through the requantizing lanes.
    Requantize,
    /// Through those with a GELU table.
    Gelu,
    /// To the score buffer, all tokens of a row at once.
    Score,
}

/// Cycles of one array stage, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// Products are added up.
    pub accumulate: u64,
    /// The array waits until the lanes have taken the tile before.
    pub drain_stall: u64,
    /// The array waits for weights.
    pub weight_stall: u64,
    /// The array waits for a result of the stage before it (or for softmax).
    pub wait: u64,
    /// Between commands.
    pub gap: u64,
    /// Row-pair products that the network asks for, of `slices` possible ones a cycle.
    pub slot_macs: u64,
    /// Multiply-accumulates of whole weights.
    pub macs: u64,
    /// Tiles of row pairs.
    pub row_tiles: u64,
    /// Tiles of tokens.
    pub token_tiles: u64,
    /// Most accumulations that a tile's columns are divided into, so that no field overflows.
    pub passes: u64,
    /// Weights and row parameters that arrive from memory.
    pub bytes: u64,
    /// Cycles that they take.
    pub load: u64,
}

impl Stage {
    /// All cycles.
    pub const fn cycles(&self) -> u64 {
        self.accumulate + self.drain_stall + self.weight_stall + self.wait + self.gap
    }

    fn add(&mut self, other: &Self) {
        self.accumulate += other.accumulate;
        self.drain_stall += other.drain_stall;
        self.weight_stall += other.weight_stall;
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
    rows: Rows,
    columns: u64,
    activation: Activation,
    drain: Drain,
    /// Whether its rows are weights from memory (or keys and values on chip).
    streamed: bool,
}

/// One tile of row pairs.
struct RowTile {
    slots: u64,
    /// Rows.
    outputs: u64,
    /// Weight bytes of one column.
    bytes: u64,
    pair: Pair,
}

/// A stage and what the next one must know of it.
#[derive(Clone, Copy, Default)]
struct Product {
    stage: Stage,
    /// Cycles that the lanes take for its last tile.
    last_drain: u64,
    columns: u64,
}

/// The formulas, for one configuration and one setting.
pub struct Model<'a> {
    hardware: &'a Hardware,
    setting: Setting,
    bytes_per_cycle: f64,
}

/// Attention's half of a block, stage by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionHalf {
    /// The `LayerNorm` before it.
    pub norm: u64,
    /// Queries, keys, values.
    pub qkv: Stage,
    /// Queries times keys.
    pub scores: Stage,
    /// Exponential lanes' cycles.
    pub softmax: u64,
    /// Probabilities times values; `wait` is what softmax does not hide.
    pub context: Stage,
    /// Projection and residual.
    pub proj: Stage,
    /// Until the projection's last result is stored.
    pub tail: u64,
    /// Bytes beside weights: commands, norm, attention's parameters.
    pub side_bytes: u64,
}

/// The MLP's half of a block, stage by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MlpHalf {
    /// The `LayerNorm` before it.
    pub norm: u64,
    /// First layer, with GELU.
    pub fc1: Stage,
    /// Second layer and residual.
    pub fc2: Stage,
    /// Until fc2's last result is stored.
    pub tail: u64,
    /// Bytes beside weights: commands, norm, table.
    pub side_bytes: u64,
}

/// A phase of a frame: `norm` on the vector unit, then `array` on the array, then `tail` until its results are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Cycles of the vector unit before the array can start.
    pub norm: u64,
    /// Cycles of the array.
    pub array: u64,
    /// Cycles until its last result is stored.
    pub tail: u64,
}

/// Sums over phases. Two candidates compare by these alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cycles between two frames, by array and vector unit.
    pub interval: u64,
    /// Cycles of one frame alone.
    pub latency: u64,
    /// Cycles that all transfers of a frame take.
    pub transfer: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.interval += other.interval;
        self.latency += other.latency;
        self.transfer += other.transfer;
    }

    /// Cycles between two frames.
    pub const fn period(&self) -> u64 {
        if self.interval > self.transfer {
            self.interval
        } else {
            self.transfer
        }
    }
}

impl AttentionHalf {
    /// As a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            norm: self.norm,
            array: self.qkv.cycles()
                + self.scores.cycles()
                + self.context.cycles()
                + self.proj.cycles(),
            tail: self.tail,
        }
    }
}

impl MlpHalf {
    /// As a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            norm: self.norm,
            array: self.fc1.cycles() + self.fc2.cycles(),
            tail: self.tail,
        }
    }
}

/// First or last phase of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// `LayerNorm` (and mean) before it.
    pub norm: u64,
    /// Patch embedding, or head.
    pub stage: Stage,
    /// Until its last result is stored (embedding) or sent (head).
    pub tail: u64,
    /// Bytes beside weights.
    pub side_bytes: u64,
    /// Of them, those that arrive before the phase (pixels) and are not hidden from one frame alone.
    pub exposed: u64,
}

impl End {
    /// As a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            norm: self.norm,
            array: self.stage.cycles(),
            tail: self.tail,
        }
    }
}

impl<'a> Model<'a> {
    /// The formulas for a configuration and a setting.
    pub fn new(hardware: &'a Hardware, setting: Setting) -> Self {
        Self {
            hardware,
            setting,
            bytes_per_cycle: bytes_per_cycle(hardware),
        }
    }

    /// Cycles that a transfer takes.
    pub fn transfer(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.bytes_per_cycle).ceil() as u64
    }

    /// Tokens that a block's attention output and MLP are needed for. `last`: of the network, where `token` pooling leaves one.
    pub fn needed(&self, last: bool) -> u64 {
        if last && self.setting.pool == Pool::Token {
            1
        } else {
            self.setting.tokens()
        }
    }

    /// Attention's half of a block; `fc1` and `fc2` of `work` do not matter.
    pub fn attention_half(&self, embed: u64, work: &BlockWork, last: bool) -> AttentionHalf {
        let (n, needed) = (self.setting.tokens(), self.needed(last));
        let qkv = if needed == n {
            // Rows stand in the order k, q, v, so that scores can start while values drain.
            self.linear(n, work.qkv(), embed)
        } else {
            let mut both = self.linear(n, work.key.plus(work.value), embed);
            let query = self.linear(needed, work.query, embed);
            both.stage.add(&query.stage);
            both.last_drain = query.last_drain;
            both
        };
        let hidden_by_values = if needed == n {
            work.value.slots() / self.pairs() * n.div_ceil(self.tokens()) * embed
        } else {
            0
        };
        let (scores, softmax, context) = self.attention(work, needed, &qkv, hidden_by_values);
        let mut proj = self.linear(needed, work.proj, work.inner());
        proj.stage.wait = self.wait(&context, &proj);
        let units = work.heads * needed.div_ceil(self.tokens());
        AttentionHalf {
            norm: self.norm(n, embed),
            qkv: qkv.stage,
            scores,
            softmax,
            context: context.stage,
            proj: proj.stage,
            tail: self.ready(&proj),
            side_bytes: 4 * embed + 8 * work.heads + COMMAND_BYTES * (4 + 3 * units),
        }
    }

    /// The MLP's half of a block; its other rows do not matter.
    pub fn mlp_half(&self, embed: u64, work: &BlockWork, last: bool) -> MlpHalf {
        let needed = self.needed(last);
        let fc1 = self.gemm(Gemm {
            tokens: needed,
            rows: work.fc1,
            columns: embed,
            activation: Activation::Signed,
            drain: Drain::Gelu,
            streamed: true,
        });
        let mut fc2 = self.linear(needed, work.fc2, work.hidden);
        fc2.stage.wait = self.wait(&fc1, &fc2);
        MlpHalf {
            norm: self.norm(needed, embed),
            fc1: fc1.stage,
            fc2: fc2.stage,
            tail: self.ready(&fc2),
            side_bytes: 4 * embed + 256 + COMMAND_BYTES * 4,
        }
    }

    /// The patch embedding.
    pub fn embedding(&self, embed: u64, rows: Rows) -> End {
        let Setting {
            patches,
            patch_len,
            prefix_tokens,
            ..
        } = self.setting;
        let product = self.linear(patches, rows, patch_len);
        let pixels = patches * patch_len;
        End {
            norm: 0,
            stage: product.stage,
            tail: self.ready(&product),
            // Positions and prefix tokens are int16.
            side_bytes: pixels + 2 * embed * (patches + prefix_tokens) + 4 * COMMAND_BYTES,
            exposed: pixels,
        }
    }

    /// Pooling, the last `LayerNorm` and the head.
    pub fn head(&self, embed: u64, rows: Rows) -> End {
        let product = self.linear(1, rows, embed);
        // The mean runs over tokens for one element a cycle in each lane.
        let mean = self.setting.patches * embed.div_ceil(self.lanes().norm);
        let norm = match self.setting.pool {
            Pool::Token => self.norm(1, embed),
            Pool::Mean => mean + self.norm(1, embed),
            Pool::MeanAfterNorm => self.norm(self.setting.tokens(), embed) + mean,
        };
        let logits = 4 * rows.total();
        End {
            norm,
            stage: product.stage,
            tail: self.ready(&product),
            side_bytes: logits + 4 * embed + 4 * COMMAND_BYTES,
            exposed: logits,
        }
    }

    /// What a phase adds to a frame's totals.
    pub fn totals(&self, phase: &Phase) -> Totals {
        let alone = phase.norm + phase.array + phase.tail;
        Totals {
            interval: if self.hardware.configuration().frames == 2 {
                phase.array.max(phase.norm)
            } else {
                alone
            },
            latency: alone,
            transfer: 0,
        }
    }

    /// What attention's half of a block adds to a frame's totals.
    pub fn attention_totals(&self, half: &AttentionHalf) -> Totals {
        Totals {
            transfer: half.qkv.load + half.proj.load + self.transfer(half.side_bytes),
            ..self.totals(&half.phase())
        }
    }

    /// What the MLP's half of a block adds to a frame's totals.
    pub fn mlp_totals(&self, half: &MlpHalf) -> Totals {
        Totals {
            transfer: half.fc1.load + half.fc2.load + self.transfer(half.side_bytes),
            ..self.totals(&half.phase())
        }
    }

    /// What a block adds to a frame's totals.
    pub fn block_totals(&self, embed: u64, work: &BlockWork, last: bool) -> Totals {
        let mut totals = self.attention_totals(&self.attention_half(embed, work, last));
        totals.add(&self.mlp_totals(&self.mlp_half(embed, work, last)));
        totals
    }

    /// What the first or last phase adds to a frame's totals.
    pub fn end_totals(&self, end: &End) -> Totals {
        let mut totals = self.totals(&end.phase());
        totals.transfer = end.stage.load + self.transfer(end.side_bytes);
        let exposed = self.transfer(end.exposed);
        totals.latency += exposed;
        if self.hardware.configuration().frames == 1 {
            totals.interval += exposed;
        }
        totals
    }

    fn tokens(&self) -> u64 {
        self.hardware.configuration().array.tokens
    }

    fn pairs(&self) -> u64 {
        self.hardware.configuration().array.pairs
    }

    fn lanes(&self) -> super::configuration::Lanes {
        self.hardware.configuration().lanes
    }

    /// `LayerNorm` of some tokens.
    fn norm(&self, tokens: u64, embed: u64) -> u64 {
        tokens.div_ceil(self.lanes().norm) * embed.max(NORM_ROOT) + NORM_DEPTH
    }

    /// Cycles from a stage's last product to its last stored result.
    fn ready(&self, product: &Product) -> u64 {
        self.tokens() + self.pairs() + SLICE_DEPTH + product.last_drain + REQUANTIZE_DEPTH
    }

    /// Cycles that the array waits between a stage and the next, whose tokens are the same: the first and the last tile of tokens must
    /// be stored before they are read.
    fn wait(&self, before: &Product, after: &Product) -> u64 {
        let others = after.stage.token_tiles - 1;
        self.ready(before)
            .saturating_sub(others * before.columns.min(after.columns))
    }

    /// Tiles of row pairs.
    fn row_tiles(&self, rows: Rows) -> Vec<RowTile> {
        let configuration = self.hardware.configuration();
        let (pairs, extra) = (configuration.array.pairs, configuration.array.lut_pairs);
        let four_bit = rows.four_bit.div_ceil(2);
        let eight_bit = match configuration.mode {
            Mode::Nibble | Mode::LutShare => rows.eight_bit,
            Mode::DrainedPairs => rows.eight_bit.div_ceil(2),
        };
        // 8-bit rows need slices; LUTs take 4-bit rows, as many as let both finish together.
        let tiles = (four_bit + eight_bit)
            .div_ceil(pairs + extra)
            .max(eight_bit.div_ceil(pairs));
        let (mut four_left, mut eight_left) = (rows.four_bit, rows.eight_bit);
        let outputs_of_eight = if configuration.mode == Mode::DrainedPairs {
            2
        } else {
            1
        };
        let spread = |left: u64, tiles: u64| left.div_ceil(tiles.max(1));
        (0..tiles)
            .map(|tile| {
                let remaining = tiles - tile;
                let (fours, eights) = if extra == 0 {
                    // 4-bit pairs first, then 8-bit ones.
                    let fours = four_left.min(2 * pairs);
                    let free = pairs - fours.div_ceil(2);
                    (fours, eight_left.min(free * outputs_of_eight))
                } else {
                    let eights = spread(eight_left, remaining);
                    (four_left.min(2 * (pairs - eights + extra)), eights)
                };
                four_left -= fours;
                eight_left -= eights;
                RowTile {
                    slots: fours.div_ceil(2) + eights.div_ceil(outputs_of_eight),
                    outputs: fours + eights,
                    bytes: fours.div_ceil(2) + eights,
                    pair: if eights > 0 {
                        Pair::EightBit
                    } else {
                        Pair::FourBit
                    },
                }
            })
            .collect()
    }

    /// Accumulations that `columns` are divided into.
    fn passes(&self, pair: Pair, activation: Activation, columns: u64) -> u64 {
        match self.hardware.configuration().mode {
            // Accumulators in the fabric are 32 bits wide.
            Mode::DrainedPairs => 1,
            Mode::Nibble | Mode::LutShare => {
                columns.div_ceil(self.hardware.board().dsp_kind.products(pair, activation))
            }
        }
    }

    /// A product with weights, requantized.
    fn linear(&self, tokens: u64, rows: Rows, columns: u64) -> Product {
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
            Drain::Score => self.tokens(),
        };
        let (full, ragged) = (gemm.tokens / self.tokens(), gemm.tokens % self.tokens());
        let token_tiles = full + u64::from(ragged > 0);
        let mut stage = Stage {
            token_tiles,
            gap: COMMAND_GAP,
            macs: gemm.tokens * gemm.rows.total() * gemm.columns,
            ..Stage::default()
        };
        let mut last_drain = 0;
        for tile in self.row_tiles(gemm.rows) {
            let RowTile {
                slots,
                outputs,
                bytes,
                pair,
            } = tile;
            let passes = self.passes(pair, gemm.activation, gemm.columns);
            let drain = |tokens: u64| outputs * tokens.div_ceil(lanes);
            let stall = |tokens: u64| (passes * drain(tokens)).saturating_sub(gemm.columns);
            let stalls = full * stall(self.tokens()) + if ragged > 0 { stall(ragged) } else { 0 };
            let busy = token_tiles * gemm.columns + stalls;
            stage.accumulate += token_tiles * gemm.columns;
            stage.drain_stall += stalls;
            stage.slot_macs += slots * gemm.columns * gemm.tokens;
            stage.passes = stage.passes.max(passes);
            stage.row_tiles += 1;
            last_drain = drain(if ragged > 0 { ragged } else { self.tokens() });
            if gemm.streamed {
                let bytes = bytes * gemm.columns + outputs * ROW_BYTES;
                let load = self.transfer(bytes);
                stage.bytes += bytes;
                stage.load += load;
                stage.weight_stall += load.saturating_sub(busy);
            }
        }
        Product {
            stage,
            last_drain,
            columns: gemm.columns,
        }
    }

    /// Scores, softmax and context of all heads. Units of (head, tile of tokens) pass through a pipeline of three: the array makes the
    /// scores of the next unit and the context of the one before while the exponential lanes work.
    fn attention(
        &self,
        work: &BlockWork,
        queries: u64,
        qkv: &Product,
        hidden_by_values: u64,
    ) -> (Stage, u64, Product) {
        let keys = self.setting.tokens();
        let size = |unit: u64| {
            let tile = unit % queries.div_ceil(self.tokens());
            self.tokens().min(queries - tile * self.tokens())
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
            let exponentials = tokens.div_ceil(self.lanes().exponential) * keys;
            (scores, exponentials, context)
        };
        let token_tiles = queries.div_ceil(self.tokens());
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
        // Times since the end of qkv: when the array is free, when each unit's probabilities are there.
        let mut free = self.ready(qkv).saturating_sub(hidden_by_values);
        scores_stage.wait = free;
        let (mut lanes_free, mut probabilities) = (0, 0);
        for i in 0..=units {
            let mut next_probabilities = 0;
            if i < units {
                let (scores, exponentials, _) = of(i);
                scores_stage.add(&scores.stage);
                free += scores.stage.cycles();
                let stored = free
                    + self.tokens()
                    + self.pairs()
                    + SLICE_DEPTH
                    + scores.last_drain
                    + SCORE_DEPTH;
                lanes_free = stored.max(lanes_free) + exponentials;
                next_probabilities = lanes_free + EXPONENTIAL_DEPTH;
                softmax += exponentials;
            }
            if i > 0 {
                let (_, _, product) = of(i - 1);
                // The first context needs the values, too.
                let needed: u64 = if i == 1 {
                    probabilities.max(self.ready(qkv))
                } else {
                    probabilities
                };
                let wait = needed.saturating_sub(free);
                context.stage.add(&product.stage);
                context.stage.wait += wait;
                context.last_drain = product.last_drain;
                context.columns = product.stage.accumulate / product.stage.token_tiles;
                free += wait + product.stage.cycles();
            }
            probabilities = next_probabilities;
        }
        scores_stage.token_tiles = token_tiles;
        context.stage.token_tiles = token_tiles;
        (scores_stage, softmax + EXPONENTIAL_DEPTH * units, context)
    }
}

const fn eight_bit(rows: u64) -> Rows {
    Rows {
        four_bit: 0,
        eight_bit: rows,
    }
}

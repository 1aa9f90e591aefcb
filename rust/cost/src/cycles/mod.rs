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
//! | module | what it models |
//! |---|---|
//! | `product` | one product on the array |
//! | `weights` | the waits for weights |
//! | `norm` | `LayerNorm`, and the waits for it |
//! | `attention`, `mlp` | the halves of a block |
//! | `ends` | patch embedding and head |
//! | `totals` | the sums of a frame |
//!
//! Depends on [`quasar_hardware::configuration`], [`quasar_hardware::packing`] and
//! [`quasar_hardware::workload`].

mod attention;
mod ends;
mod mlp;
mod norm;
mod product;
mod totals;
mod weights;

use quasar_hardware::configuration::{Array, Hardware, Lanes};
use quasar_hardware::declared::{array as timing, bytes_per_cycle, COMMAND_GAP};
use quasar_hardware::tiling::Tiling;
use quasar_hardware::workload::Setting;

pub use totals::{Phase, Totals};

/// Cycles of one array stage, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// Products are added up.
    pub accumulate: u64,
    /// The array waits until the lanes have taken the previous tile.
    pub drain_stall: u64,
    /// The array waits for weights.
    pub weight_stall: u64,
    /// Part of `weight_stall`: the refill of a half whose beats have all arrived.
    turn_stall: u64,
    /// Waits that one frame alone does not have.
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
    /// Number of these transfers.
    pub transfers: u64,
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
        self.transfers += other.transfers;
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
    /// Their number.
    pub transfers: u64,
}

impl Side {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.given += other.given;
        self.taken += other.taken;
        self.transfers += other.transfers;
    }

    /// Returns the cycles of the transfers. The two counts overlap: the ports hold memory's data
    /// while the load kernel ends a command and takes the next.
    pub fn cycles(&self) -> u64 {
        self.given.max(self.taken)
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
    /// As [`Phase::covers`].
    pub covers: Option<u64>,
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
    /// As [`Phase::covers`].
    pub covers: Option<u64>,
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
    /// The same of one frame alone.
    pub exposed_alone: u64,
    /// Cycles from the last product to the last logit in memory.
    pub tail: u64,
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
            transfers: 1,
        }
    }

    /// Returns the tokens for which a block's attention output and MLP are needed. In the network's
    /// `last` block these are the tokens that the heads read.
    pub fn needed(&self, last: bool) -> u64 {
        self.setting.needed(last)
    }

    /// Returns the bytes of a column of a tile's weights.
    fn weight_bytes(&self) -> u64 {
        self.tiling.pairs
    }

    /// Returns the parts of 16 bytes of all angles.
    const fn angle_parts(&self) -> u64 {
        let (array, lanes) = (self.array, self.hardware.configuration().lanes.requantize);
        let places = array.tokens.div_ceil(lanes) * array.clock_ratio;
        self.setting.angles(array.tokens) * places * lanes.div_ceil(array.clock_ratio).div_ceil(4)
    }

    fn lanes(&self) -> Lanes {
        self.hardware.configuration().lanes
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
}

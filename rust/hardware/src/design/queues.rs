//! Declares the queues between the kernels.

use crate::configuration::Hardware;
use crate::declared::DRAIN_JOBS;

use super::lane_items::{LANE_JOB_BITS, LANE_ROW_BITS, MOMENT_BITS, SCALE_BITS};
use super::ram::{Family, Ram, RamCount};

/// Bits of an AXI port's beat.
pub(super) const PORT_BITS: u64 = 128;
/// Bits of a command that its unit gets: the words of its fields.
pub const COMMAND_BITS: u64 = 128;
/// Items that the smallest queue of the block design (`axis_data_fifo`) holds.
const SMALLEST: usize = 16;
/// Items, at most, of a queue in LUT RAM; deeper queues take block RAM.
const LUT_RAM_ITEMS: usize = 64;

/// The contents of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A command.
    Command,
    /// The descriptor of a pass of the array: 128 bits.
    Pass,
    /// Words and tiles of a matrix's weights: 29 bits.
    Demand,
    /// The data of all AXI ports in a cycle.
    Beat,
    /// Sums of L tokens, 27 bits each.
    Sums,
    /// Scores of all T tokens, 24 bits each.
    Scores,
    /// Sums and sums of squares of L tokens.
    Moments,
    /// The largest scores of E tokens, 24 bits each.
    Maxima,
    /// Mantissa, shift and rounding residue of a token.
    Scale,
    /// A logit: 32 bits.
    Logit,
    /// A command for the lanes ([`super::LANE_JOB`]).
    LaneJob,
    /// A row of a tile of tokens, with its addresses ([`super::LANE_ROW`]).
    LaneRow,
    /// Tokens of an attention tile: 11 bits.
    Tokens,
    /// Report on a frame's transfers: a bit, and a nonce of 32 bits.
    FrameCheck,
    /// An item without data: one bit.
    Credit,
}

impl Item {
    /// Returns the bits of an item.
    pub const fn bits(self, hardware: &Hardware) -> u64 {
        let c = hardware.configuration();
        match self {
            Self::Command => COMMAND_BITS,
            Self::Pass => 128,
            Self::Demand => 29,
            Self::Beat => PORT_BITS * c.axi_ports,
            Self::Sums => 27 * c.lanes.requantize,
            Self::Scores => 24 * c.array.tokens,
            Self::Moments => MOMENT_BITS * c.lanes.requantize,
            Self::Maxima => 24 * c.lanes.exponential,
            Self::Scale => SCALE_BITS,
            Self::Logit => 32,
            Self::LaneJob => LANE_JOB_BITS,
            Self::LaneRow => LANE_ROW_BITS,
            Self::Tokens => 11,
            Self::FrameCheck => 33,
            Self::Credit => 1,
        }
    }
}

/// A queue between two units, or between a unit and memory's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Name in the sources, and of the writer's port.
    pub name: &'static str,
    /// Kernel that writes.
    pub from: &'static str,
    /// Kernel that reads.
    pub to: &'static str,
    /// Items that the queue holds; 0 where the configuration sets it ([`Self::depth_in`]).
    pub depth: usize,
    /// Contents of an item.
    pub item: Item,
    /// Items that the queue holds after a reset.
    pub initial: usize,
}

impl Queue {
    /// Returns the number of items that the queue holds in a configuration.
    pub fn depth_in(&self, hardware: &Hardware) -> usize {
        match self.item {
            Item::Moments => moments_depth(hardware),
            Item::Maxima => maxima_depth(hardware),
            Item::Scale => scales_depth(hardware),
            _ => self.depth,
        }
    }

    /// Returns the reader's port: a kernel's commands come in at `commands`.
    pub fn reader_port(&self) -> &'static str {
        if self.item == Item::Command {
            "commands"
        } else {
            self.name
        }
    }

    /// Returns the number of items that the queue holds as it is built.
    pub fn built_depth(&self, hardware: &Hardware) -> usize {
        self.depth_in(hardware).max(SMALLEST)
    }

    /// Returns the bits of an item as the queue is built: whole bytes.
    pub fn built_bits(&self, hardware: &Hardware) -> u64 {
        self.item.bits(hardware).next_multiple_of(8)
    }

    /// Returns the primitives that hold the items.
    pub fn count(&self, hardware: &Hardware) -> RamCount {
        RamCount::of(
            self.ram(hardware),
            Family::of(hardware.board().dsp_kind),
            self.built_depth(hardware) as u64,
            self.built_bits(hardware),
            false,
        )
    }

    /// Returns the kind of RAM that holds the items.
    pub fn ram(&self, hardware: &Hardware) -> Ram {
        if self.built_depth(hardware) <= LUT_RAM_ITEMS {
            Ram::Lut
        } else {
            Ram::Block
        }
    }
}

/// Commands inside the lanes' queue.
const LANE_JOBS: usize = DRAIN_JOBS as usize;
/// Commands that load's queue holds.
pub const LOAD_COMMANDS: usize = 32;

/// All queues. The schedule check and the simulation hold command lists to these depths, and the
/// block design builds them.
pub const QUEUES: &[Queue] = &[
    queue(
        "load_commands",
        "fetch",
        "load",
        LOAD_COMMANDS,
        Item::Command,
    ),
    queue("array_commands", "fetch", "plan", 32, Item::Command),
    queue("drain_commands", "fetch", "drain", 32, Item::Command),
    queue("norm_commands", "fetch", "norm", 16, Item::Command),
    queue("softmax_commands", "fetch", "softmax", 32, Item::Command),
    queue("score_commands", "plan", "scores", 16, Item::Command),
    queue("passes", "plan", "array", 16, Item::Pass),
    queue("demands", "plan", "array", 16, Item::Demand),
    queue("weights", "load", "array", 64, Item::Beat),
    queue("rows", "load", "drain", 64, Item::Beat),
    queue("gains", "load", "norm", 256, Item::Beat),
    queue("lane_jobs", "drain", "lanes", LANE_JOBS, Item::LaneJob),
    queue("lane_rows", "drain", "lanes", 16, Item::LaneRow),
    queue("attention_tiles", "drain", "lanes", LANE_JOBS, Item::Tokens),
    queue("lane_beats", "drain", "lanes", 16, Item::Beat),
    queue("sums", "array", "lanes", 32, Item::Sums),
    queue("scores", "array", "scores", 16, Item::Scores),
    queue("moments", "lanes", "norm", 0, Item::Moments),
    queue("maxima", "scores", "softmax", 0, Item::Maxima),
    queue("scales", "softmax", "lanes", 0, Item::Scale),
    queue("logits", "lanes", "store", 64, Item::Logit),
    queue("checks", "load", "store", 4, Item::FrameCheck),
    queue("load_to_array", "load", "plan", 2, Item::Credit),
    // After a reset `input` is free.
    Queue {
        initial: 1,
        ..queue("array_to_load", "array", "load", 2, Item::Credit)
    },
    queue("drain_to_array", "lanes", "plan", 1024, Item::Credit),
    queue("norm_to_array", "norm", "plan", 2048, Item::Credit),
    queue("softmax_to_array", "softmax", "plan", 4, Item::Credit),
];

/// Returns the tiles of tokens of a frame, at most: the words of a score bank bound the tokens.
pub(super) fn max_tiles(hardware: &Hardware) -> u64 {
    let c = hardware.configuration();
    c.buffers.score.div_ceil(c.array.tokens)
}

/// Returns the groups of a frame, an item of moments each. The words of a score bank bound the
/// tokens of a network.
pub(super) fn frame_groups(hardware: &Hardware) -> u64 {
    let c = hardware.configuration();
    let tiles = max_tiles(hardware);
    tiles * c.array.tokens.div_ceil(c.lanes.requantize)
}

/// Returns the depth of `moments`: room for all groups of a frame, so that the drain never waits
/// for a norm. With one frame in flight it is at most a LUT RAM's depth: the norm then waits for
/// moments alone, and the next product waits for the norm.
fn moments_depth(hardware: &Hardware) -> usize {
    let all = frame_groups(hardware).next_power_of_two() as usize;
    if hardware.configuration().frames == 1 {
        all.min(32)
    } else {
        all
    }
}

/// Attention tiles whose maxima or scales may wait: those of both score buffers, and those that the
/// reader has begun with and that the writer is about to end.
const ATTENTION_TILES: u64 = 4;

/// Returns the depth of `maxima`, an item for each group of an attention tile.
fn maxima_depth(hardware: &Hardware) -> usize {
    let c = hardware.configuration();
    let groups = c.array.tokens.div_ceil(c.lanes.exponential);
    (ATTENTION_TILES * groups).next_power_of_two() as usize
}

/// Returns the depth of `scales`, an item for each token of an attention tile.
fn scales_depth(hardware: &Hardware) -> usize {
    let tokens = hardware.configuration().array.tokens;
    (ATTENTION_TILES * tokens).next_power_of_two() as usize
}

const fn queue(
    name: &'static str,
    from: &'static str,
    to: &'static str,
    depth: usize,
    item: Item,
) -> Queue {
    Queue {
        name,
        from,
        to,
        depth,
        item,
        initial: 0,
    }
}

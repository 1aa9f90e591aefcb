//! Lists the on-chip memories: between kernels, and inside them.

use crate::boards::Board;
use crate::configuration::{key_banks, value_banks, Hardware};

use super::queues::moments_depth;
use super::ram::{Family, Ram, RamCount};

/// The place where a memory is instantiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The block design: a cell for each bank, between two kernels' ports (`kernel/port`).
    Bank {
        /// Port that writes.
        writer: &'static str,
        /// Port that reads.
        reader: &'static str,
    },
    /// A kernel's own memory.
    Kernel(&'static str),
}

/// A memory. Its banks are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Name.
    pub name: &'static str,
    /// The place where it is instantiated.
    pub place: Place,
    /// RAMs.
    pub banks: u64,
    /// Bits of a word of a bank.
    pub bits: u64,
    /// Words of a bank.
    pub words: u64,
    /// True if bytes of a word are written one by one.
    pub byte_enables: bool,
    /// The kind of RAM that holds it.
    pub ram: Ram,
    /// True if no other kind may hold it.
    pub fixed: bool,
}

impl Memory {
    /// Returns the bits of a bank's address, at least 1.
    pub const fn address_bits(&self) -> u64 {
        let bits = (64 - (self.words - 1).leading_zeros()) as u64;
        if bits == 0 {
            1
        } else {
            bits
        }
    }

    /// Returns the primitives that hold it if it is of this kind.
    pub const fn count_as(&self, ram: Ram, family: Family) -> RamCount {
        RamCount::of(ram, family, self.words, self.bits, self.byte_enables).times(self.banks)
    }

    /// Returns the primitives that hold it.
    pub const fn count(&self, family: Family) -> RamCount {
        self.count_as(self.ram, family)
    }
}

/// Words, at most, of a memory that is in LUT RAM unless block RAM is left over.
const SHALLOW: u64 = 64;
/// Blocks of 18 kbit that one `UltraRAM` must replace to be used.
const URAM_WORTH: u64 = 3;

/// Lists the memories of a configuration, each with its kind of RAM.
pub fn memories(hardware: &Hardware) -> Vec<Memory> {
    let mut all = between_kernels(hardware);
    all.extend(inside_kernels(hardware));
    assign(&mut all, hardware.board());
    all
}

fn between_kernels(hardware: &Hardware) -> Vec<Memory> {
    let c = hardware.configuration();
    let (lanes, words) = (c.lanes, c.buffers);
    let groups = c.array.tokens.div_ceil(lanes.requantize);
    let norm_groups = c.array.tokens.div_ceil(lanes.norm);
    let exp_groups = c.array.tokens.div_ceil(lanes.exponential);
    let bank = |name, writer, reader, banks, bits, words| Memory {
        name,
        place: Place::Bank { writer, reader },
        banks,
        bits,
        words,
        byte_enables: false,
        ram: Ram::Block,
        fixed: false,
    };
    let codes = 8 * lanes.requantize;
    let (residuals, exponential) = (16 * lanes.requantize, lanes.exponential);
    vec![
        bank(
            "patches",
            "load/patches",
            "array/patches",
            groups,
            codes,
            words.input,
        ),
        bank(
            "residual",
            "drain/own_residual",
            "drain/residual",
            c.frames * groups,
            residuals,
            words.residual,
        ),
        bank(
            "norm_residual",
            "drain/norm_residual",
            "norm/residual",
            c.frames * groups,
            residuals,
            words.residual,
        ),
        bank(
            "normed",
            "norm/normed",
            "array/normed",
            c.frames * norm_groups,
            8 * lanes.norm,
            words.norm,
        ),
        bank(
            "query",
            "drain/query",
            "array/query",
            groups,
            codes,
            words.query,
        ),
        bank(
            "key",
            "drain/key",
            "array/key",
            key_banks(c.array, lanes),
            8,
            words.key,
        ),
        bank(
            "value",
            "drain/value",
            "array/value",
            value_banks(c.array, lanes),
            8,
            words.value,
        ),
        bank(
            "score",
            "array/score",
            "softmax/score",
            2 * exp_groups,
            24 * exponential,
            words.score,
        ),
        bank(
            "probability",
            "softmax/probability",
            "array/probability",
            2 * exp_groups,
            8 * exponential,
            words.score,
        ),
        bank(
            "hidden",
            "drain/hidden",
            "array/hidden",
            groups,
            codes,
            words.hidden,
        ),
    ]
}

/// Columns of the largest `LayerNorm` of a configuration.
pub fn max_embed(hardware: &Hardware) -> u64 {
    hardware.configuration().buffers.norm.min(1024)
}

fn inside_kernels(hardware: &Hardware) -> Vec<Memory> {
    let c = hardware.configuration();
    let own = |kernel, name, banks, bits, words, ram| Memory {
        name,
        place: Place::Kernel(kernel),
        banks,
        bits,
        words,
        byte_enables: false,
        ram,
        fixed: true,
    };
    let embed = max_embed(hardware);
    vec![
        own(
            "array",
            "weights",
            2,
            8 * c.array.pairs,
            c.buffers.weight,
            Ram::Block,
        ),
        own(
            "array",
            "partial sums",
            2,
            27 * c.array.tokens,
            c.array.pairs,
            Ram::Lut,
        ),
        // bias 27, mantissa 16, shift 5, destination 3, column 16, value bank 8 and block 16 bits
        own(
            "drain",
            "row parameters",
            2,
            91,
            2 * c.array.pairs,
            Ram::Lut,
        ),
        own("drain", "GELU tables", c.lanes.requantize, 8, 256, Ram::Lut),
        own(
            "drain",
            "means of values",
            1,
            13,
            c.buffers.query,
            Ram::Block,
        ),
        own(
            "drain",
            "moments of tiles",
            1,
            68 * c.lanes.requantize,
            moments_depth(hardware) as u64,
            Ram::Lut,
        ),
        own("norm", "gains", 2, 32, embed, Ram::Block),
        own("norm", "means of columns", 1, 16, embed, Ram::Block),
        own("norm", "sums of codes", 1, 18, embed, Ram::Block),
    ]
}

/// Assigns the kinds of RAM. Memories that save most block RAM by it take the board's `UltraRAMs`;
/// shallow ones take LUT RAM, and so do further ones, those of fewest LUTs for a block first, until
/// the block RAM suffices.
fn assign(memories: &mut [Memory], board: &Board) {
    let family = Family::of(board.dsp_kind);
    let usable = board.usable();
    let blocks = |memory: &Memory| memory.count_as(Ram::Block, family).bram18;
    let urams = |memory: &Memory| memory.count_as(Ram::Ultra, family).uram;
    for memory in memories.iter_mut().filter(|memory| !memory.fixed) {
        memory.ram = if memory.words <= SHALLOW {
            Ram::Lut
        } else {
            Ram::Block
        };
    }
    let mut left = usable.uram;
    let mut order: Vec<usize> = (0..memories.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(blocks(&memories[i])));
    for i in order {
        let memory = &mut memories[i];
        if !memory.fixed
            && memory.ram == Ram::Block
            && urams(memory) <= left
            && blocks(memory) >= URAM_WORTH * urams(memory)
        {
            left -= urams(memory);
            memory.ram = Ram::Ultra;
        }
    }
}

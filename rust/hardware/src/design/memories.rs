//! Lists the on-chip memories: between kernels, and inside them.

use quasar_core::subnet::config::MAX_EMBED;

use crate::boards::Board;
use crate::configuration::{key_banks, value_banks, Hardware};
use crate::declared::{array, DRAIN_JOBS, NORM_JOBS, PLAN_JOBS};

use super::queues::{frame_groups, COMMAND_BITS, QUEUES};
use super::ram::{block_ram_parts, Family, Ram, RamCount};

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
    /// The array's cell, which reads it on its own clock; a kernel's port writes it.
    Array {
        /// Port that writes.
        writer: &'static str,
    },
    /// Inside a kernel, or inside the array.
    Inside(&'static str),
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

    /// Returns true if its words are narrow enough for LUT RAM: on the array's clock, a register of
    /// the address and one of the enable drive all bits.
    const fn may_be_lut_ram(&self) -> bool {
        !matches!(self.place, Place::Array { .. }) || self.bits <= NARROW
    }

    /// Returns the primitives that hold it if it is of this kind.
    pub const fn count_as(&self, ram: Ram, family: Family) -> RamCount {
        RamCount::of(ram, family, self.words, self.bits, self.byte_enables).times(self.banks)
    }

    /// Returns the LUTs that choose between the block RAMs of a bank, if several hold its words one
    /// after the other.
    pub const fn deep_select(&self) -> u64 {
        if matches!(self.ram, Ram::Block) {
            // Both halves of a block of 36 kbit need no choice between them.
            block_ram_parts(self.words, self.bits)
                .div_ceil(2)
                .saturating_sub(1)
                .div_ceil(3)
                * self.bits
        } else {
            0
        }
    }

    /// Returns the primitives that hold it.
    pub const fn count(&self, family: Family) -> RamCount {
        self.count_as(self.ram, family)
    }
}

/// Moments and logits that the lanes hold (`OUTPUTS` in `fpga/rtl/lanes.sv`).
const LANE_OUTPUTS: u64 = 32;
/// Words, at most, of a memory that is in LUT RAM.
const SHALLOW: u64 = 64;
/// Words, at most, of a memory that moves to LUT RAM where block RAM runs out.
const MODERATE: u64 = 128;

/// Bits of a word, at most, of a LUT RAM that the array reads.
const NARROW: u64 = 120;

/// Columns of the largest `LayerNorm` of a configuration.
pub fn max_embed(hardware: &Hardware) -> u64 {
    hardware.configuration().buffers.norm.min(MAX_EMBED as u64)
}

/// Lists the memories of a configuration, each with its kind of RAM.
///
/// An `UltraRAM` has one clock for both ports. Memories between kernels have the kernels' clock.
/// Memories that the array reads would have the array's clock. Registers of the kernels' clock
/// write them, so that they would take each write in every cycle of the array, which does no harm.
pub fn memories(hardware: &Hardware) -> Vec<Memory> {
    let mut all = read_by_the_array(hardware);
    all.extend(between_kernels(hardware));
    all.extend(inside_the_array(hardware));
    all.extend(inside_kernels(hardware));
    let queues: u64 = (QUEUES.iter())
        .map(|queue| queue.count(hardware).bram18)
        .sum();
    let ports = PORT_BRAM18 * (hardware.configuration().axi_ports + PORTS_OF_COMMANDS);
    assign(&mut all, hardware.board(), queues + ports);
    all
}

const fn memory(name: &'static str, place: Place, banks: u64, bits: u64, words: u64) -> Memory {
    Memory {
        name,
        place,
        banks,
        bits,
        words,
        byte_enables: false,
        ram: Ram::Block,
        fixed: false,
    }
}

const fn inside(
    unit: &'static str,
    name: &'static str,
    (banks, bits, words): (u64, u64, u64),
    ram: Ram,
) -> Memory {
    Memory {
        ram,
        fixed: true,
        ..memory(name, Place::Inside(unit), banks, bits, words)
    }
}

fn read_by_the_array(hardware: &Hardware) -> Vec<Memory> {
    let c = hardware.configuration();
    let (shape, lanes, words) = (c.array, c.lanes, c.buffers);
    let groups = shape.tokens.div_ceil(lanes.requantize);
    let norm_groups = shape.tokens.div_ceil(lanes.norm);
    let exp_groups = shape.tokens.div_ceil(lanes.exponential);
    let cascade = shape.cascade;
    // Column k is in bank k mod C of its group.
    let read = |name, writer, groups, lanes, words: u64| {
        let place = Place::Array { writer };
        memory(
            name,
            place,
            groups * cascade,
            8 * lanes,
            words.div_ceil(cascade),
        )
    };
    let masked = |name, writer, banks, words: u64| Memory {
        byte_enables: cascade > 1,
        ..memory(
            name,
            Place::Array { writer },
            banks,
            8 * cascade,
            words.div_ceil(cascade),
        )
    };
    let (l, m, e) = (lanes.requantize, lanes.norm, lanes.exponential);
    let probability = "softmax/probability";
    vec![
        read("input", "load/patches", groups, l, words.input),
        read(
            "normed",
            "norm/normed",
            c.frames * norm_groups,
            m,
            words.norm,
        ),
        read("query", "lanes/query", groups, l, words.query),
        read("hidden", "lanes/hidden", groups, l, words.hidden),
        read("probability", probability, 2 * exp_groups, e, words.score),
        masked("key", "lanes/key", key_banks(shape, lanes), words.key),
        masked(
            "value",
            "lanes/value",
            value_banks(shape, lanes),
            words.value,
        ),
    ]
}

fn between_kernels(hardware: &Hardware) -> Vec<Memory> {
    let c = hardware.configuration();
    let (l, e) = (c.lanes.requantize, c.lanes.exponential);
    let groups = c.frames * c.array.tokens.div_ceil(l);
    let exp_groups = c.array.tokens.div_ceil(e);
    let residual = |name, writer, reader| {
        let place = Place::Bank { writer, reader };
        memory(name, place, groups, 16 * l, c.buffers.residual)
    };
    let place = Place::Bank {
        writer: "scores/score",
        reader: "softmax/score",
    };
    vec![
        residual("residual", "lanes/own_residual", "lanes/residual"),
        residual("norm_residual", "lanes/norm_residual", "norm/residual"),
        memory("score", place, 2 * exp_groups, 24 * e, c.buffers.score),
    ]
}

fn inside_the_array(hardware: &Hardware) -> Vec<Memory> {
    let c = hardware.configuration();
    let (shape, l) = (c.array, c.lanes.requantize);
    let packed = 2 * u64::from(hardware.board().dsp_kind.shift()) + 1;
    let items = 2 * shape.pairs * shape.tokens.div_ceil(l);
    let word = 8 * shape.pairs * shape.cascade;
    let half = c.buffers.weight.div_ceil(shape.cascade);
    let lut = |name, size| inside("array", name, size, Ram::Lut);
    vec![
        inside("array", "weights", (1, word, 2 * half), Ram::Block),
        lut("sums of tokens", (shape.tokens, packed, array::FIFO_DEPTH)),
        lut("partial sums", (1, 27 * l, items)),
        lut("sums to send", (1, 27 * l, array::OUTPUTS)),
        lut("scores to send", (1, 24 * shape.tokens, array::OUTPUTS)),
    ]
}

fn inside_kernels(hardware: &Hardware) -> Vec<Memory> {
    let c = hardware.configuration();
    let (pairs, l) = (c.array.pairs, c.lanes.requantize);
    let ratio = c.array.clock_ratio;
    // Lanes on the array's clock.
    let fast = l.div_ceil(ratio);
    let tile_groups = c.array.tokens.div_ceil(l);
    let embed = max_embed(hardware);
    let groups = frame_groups(hardware);
    // By the place of a token in its tile, each a power of two.
    let places = (tile_groups * ratio).next_power_of_two();
    let angles = c.buffers.angle.next_power_of_two() * places;
    let rotary = [
        inside("lanes", "angles", (fast, 32, angles), Ram::Block),
        // z of both rows of four pairs
        inside(
            "lanes",
            "values to rotate",
            (2 * fast, 16, 4 * places),
            Ram::Lut,
        ),
        // destination 3, column 16, angle 16, tokens 11, addresses 2 * 24, key bank 8, last 1 bit
        inside("lanes", "pairs to rotate", (1, 103, 4), Ram::Lut),
    ];
    let rotary = rotary.into_iter().filter(|_| c.buffers.angle > 0);
    let all = vec![
        // bias 27, mantissa 16, shift 5, destination 3, column 16, value bank 8 and block 16 bits
        inside("drain", "row parameters", (2, 91, 2 * pairs), Ram::Lut),
        inside("lanes", "GELU tables", (fast, 8, 256), Ram::Lut),
        inside(
            "lanes",
            "means of values",
            (1, 13, c.buffers.query.min(c.buffers.weight)),
            Ram::Block,
        ),
        inside(
            "lanes",
            "moments of tiles",
            (fast, 68, ratio * groups),
            Ram::Lut,
        ),
        inside(
            "lanes",
            "scales",
            (fast, 35, 2 * ratio * tile_groups),
            Ram::Lut,
        ),
        inside("lanes", "sums of values", (1, 19, 2 * pairs), Ram::Lut),
        inside(
            "lanes",
            "moments to send",
            (1, 68 * l, array::OUTPUTS),
            Ram::Lut,
        ),
        inside("lanes", "logits to send", (1, 32, LANE_OUTPUTS), Ram::Lut),
        inside("norm", "gains", (2, 32, embed), Ram::Block),
        inside("norm", "means of columns", (1, 16, embed), Ram::Block),
        inside("norm", "sums of codes", (1, 18, embed), Ram::Block),
        // What processes need of commands that wait inside a kernel. The drain's: what loads
        // parameters, rows; the norm's: gains, moments, residual, roots, codes.
        inside(
            "plan",
            "commands in plan",
            (1, COMMAND_BITS, PLAN_JOBS),
            Ram::Lut,
        ),
        inside(
            "drain",
            "commands in drain",
            (1, 55 + 75, DRAIN_JOBS),
            Ram::Lut,
        ),
        inside(
            "norm",
            "commands in norm",
            (1, 11 + 12 + 35 + 73 + 40, NORM_JOBS),
            Ram::Lut,
        ),
    ];
    all.into_iter().chain(rotary).collect()
}

/// Assigns the kinds of RAM to the memories that are not fixed: LUT RAM to shallow ones, block RAM
/// to the others. If these and the `taken` blocks exceed the device's block RAM, memories move:
/// first to `UltraRAM` those that save most block RAM for each one, then to LUT RAM moderate ones
/// that take the fewest LUTs for each block.
fn assign(memories: &mut [Memory], board: &Board, taken: u64) {
    let family = Family::of(board.dsp_kind);
    let usable = board.usable();
    let as_kind = |memory: &Memory, ram| memory.count_as(ram, family);
    for memory in memories.iter_mut().filter(|memory| !memory.fixed) {
        if memory.words <= SHALLOW && memory.may_be_lut_ram() {
            memory.ram = Ram::Lut;
        }
    }
    let blocks = |memories: &[Memory]| {
        let own = memories.iter().map(|memory| memory.count(family).bram18);
        taken + own.sum::<u64>()
    };
    let limit = 2 * usable.bram36;
    let mut urams = usable.uram;
    for ram in [Ram::Ultra, Ram::Lut] {
        while blocks(memories) > limit {
            let best = (0..memories.len())
                .filter(|&i| {
                    let memory = &memories[i];
                    let allowed = match ram {
                        Ram::Ultra => as_kind(memory, ram).uram <= urams,
                        _ => {
                            memory.words <= MODERATE && !matches!(memory.place, Place::Array { .. })
                        }
                    };
                    !memory.fixed && memory.ram == Ram::Block && allowed
                })
                .max_by_key(|&i| {
                    let memory = &memories[i];
                    let cost = as_kind(memory, ram);
                    let saved = as_kind(memory, Ram::Block).bram18;
                    (saved << 20) / (cost.uram + cost.lut).max(1)
                });
            let Some(best) = best else { break };
            urams -= as_kind(&memories[best], ram).uram;
            memories[best].ram = ram;
        }
    }
}

/// Blocks of 18 kbit of the adapter of a memory port of 128 bits.
pub const PORT_BRAM18: u64 = 4;
/// Adapters besides those of load's ports: of commands and of logits.
pub const PORTS_OF_COMMANDS: u64 = 2;

//! Resources of a configuration, block by block: formulas, not synthesis. Every coefficient is an
//! assumption, named and explained.
//!
//! Depends on [`quasar_hardware::configuration`].

use quasar_core::error::{Error, Result};
use quasar_hardware::boards::{Amounts, Board};
use quasar_hardware::configuration::{key_banks, value_banks, Array, Hardware, Multipliers};
use serde::Serialize;

/// LUTs and flip-flops of parts of the design: assumed, from counting bits of the registers,
/// multiplexers and adders that each needs.
pub mod assumed {
    /// Chain to the lanes: two 48-bit sources for each slice, two bits a LUT, and control.
    pub const SLICE_LUT: u64 = 26;
    /// Activation (8), W (27), chain (48) and control registers of a slice.
    pub const SLICE_FF: u64 = 86;
    /// A token's skew of activations, its chain's FIFO, and the score path (unpacking, running
    /// maximum).
    pub const TOKEN_LUT: u64 = 220;
    /// Registers of the same.
    pub const TOKEN_FF: u64 = 260;
    /// A row pair's unpacking into W, key and value selection (rotator).
    pub const PAIR_LUT: u64 = 90;
    /// Registers of the same.
    pub const PAIR_FF: u64 = 110;
    /// A requantizing lane: unpacking of fields, barrel shift, rounding, clamps, residual,
    /// statistics' adders.
    pub const REQUANTIZE_LUT: u64 = 620;
    /// Registers of the same.
    pub const REQUANTIZE_FF: u64 = 700;
    /// A lane's two GELU tables of 256 bytes (one is loaded while the other is used) in LUT RAM.
    pub const GELU_LUT: u64 = 96;
    /// A `LayerNorm` lane: square root and reciprocal (bit-serial), shift, rounding, clamps.
    pub const NORM_LUT: u64 = 1300;
    /// Registers of the same.
    pub const NORM_FF: u64 = 1100;
    /// An exponential lane: difference, table, shift, sums, reciprocal (bit-serial).
    pub const EXPONENTIAL_LUT: u64 = 750;
    /// Registers of the same.
    pub const EXPONENTIAL_FF: u64 = 700;
    /// A 16x16-bit multiplier in LUTs.
    pub const MULTIPLIER_LUT: u64 = 300;
    /// A 24x24-bit multiplier in LUTs (an exponential lane's difference times `mult`).
    pub const WIDE_MULTIPLIER_LUT: u64 = 650;
    /// DSP slices of a requantizing lane: the mantissa (or the reciprocal).
    pub const REQUANTIZE_DSP: u64 = 1;
    /// Second multipliers of a requantizing lane: squares for statistics, `L * m` of attention.
    pub const REQUANTIZE_MULTIPLIERS: u64 = 2;
    /// Multipliers of a `LayerNorm` lane: `D * x`, `t * inv`, `n * G`.
    pub const NORM_MULTIPLIERS: u64 = 3;
    /// DSP slices of an exponential lane's wide multiplier.
    pub const EXPONENTIAL_DSP: u64 = 2;
    /// Command processor, loader, registers.
    pub const CONTROL_LUT: u64 = 9000;
    /// Registers of the same.
    pub const CONTROL_FF: u64 = 12000;
    /// Block RAMs (18 kbit) of commands, norm parameters, FIFOs.
    pub const CONTROL_BRAM18: u64 = 12;
    /// An AXI master port.
    pub const PORT_LUT: u64 = 2500;
    /// Registers of the same.
    pub const PORT_FF: u64 = 4000;
    /// FIFOs of an AXI master port (18 kbit).
    pub const PORT_BRAM18: u64 = 4;
}

use assumed::{
    CONTROL_BRAM18, CONTROL_FF, CONTROL_LUT, EXPONENTIAL_DSP, EXPONENTIAL_FF, EXPONENTIAL_LUT,
    GELU_LUT, MULTIPLIER_LUT, NORM_FF, NORM_LUT, NORM_MULTIPLIERS, PAIR_FF, PAIR_LUT, PORT_BRAM18,
    PORT_FF, PORT_LUT, REQUANTIZE_DSP, REQUANTIZE_FF, REQUANTIZE_LUT, REQUANTIZE_MULTIPLIERS,
    SLICE_FF, SLICE_LUT, TOKEN_FF, TOKEN_LUT, WIDE_MULTIPLIER_LUT,
};

/// Resources of one part of the design.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Part {
    pub name: &'static str,
    pub dsp: u64,
    pub lut: u64,
    pub ff: u64,
    pub bram18: u64,
    pub uram: u64,
}

/// Resources of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// By part: logic first, then buffers.
    pub parts: Vec<Part>,
    /// All parts; BRAM in units of 36 kbit, rounded up.
    pub total: Amounts,
}

/// A buffer that many lanes read at one address: `lanes` elements of `bits` in a word, `depth`
/// words.
struct Buffer {
    name: &'static str,
    lanes: u64,
    bits: u64,
    depth: u64,
    /// True if each lane has an address of its own, so that no two share a block.
    apart: bool,
    copies: u64,
}

impl Buffer {
    /// Returns the blocks of 18 kbit with the best of the block RAM's shapes. Their 9-bit bytes
    /// hold 8 bits and have write enables of their own.
    fn bram18(&self) -> u64 {
        // (bytes a word, depth, blocks of 18 kbit)
        const SHAPES: [(u64, u64, u64); 8] = [
            (8, 512, 2),
            (4, 1024, 2),
            (2, 2048, 2),
            (1, 4096, 2),
            (4, 512, 1),
            (2, 1024, 1),
            (1, 2048, 1),
            (1, 4096, 2),
        ];
        let blocks = |(bytes, depth, blocks): &(u64, u64, u64)| {
            let elements = if self.apart { 1 } else { bytes * 8 / self.bits };
            let wide = if self.apart {
                self.lanes * self.bits.div_ceil(bytes * 8)
            } else if elements == 0 {
                return u64::MAX;
            } else {
                self.lanes.div_ceil(elements)
            };
            wide * self.depth.div_ceil(*depth) * blocks * self.copies
        };
        SHAPES.iter().map(blocks).min().unwrap_or(u64::MAX)
    }

    /// Returns the `UltraRAMs`: 4096 words of 8 bytes (the parity bits are unused).
    fn uram(&self) -> u64 {
        let elements = if self.apart { 1 } else { 64 / self.bits };
        self.lanes.div_ceil(elements) * self.depth.div_ceil(4096) * self.copies
    }

    /// Returns the LUTs if the buffer is so shallow that LUT RAM (64 words of 7 bits in 8 LUTs) is
    /// better; 0 otherwise.
    fn lut(&self) -> u64 {
        if self.depth <= 64 {
            (self.lanes * self.bits * self.copies * 8).div_ceil(7)
        } else {
            0
        }
    }
}

/// Blocks of 18 kbit that one `UltraRAM` must replace to be used.
const URAM_WORTH: u64 = 4;

impl Resources {
    /// Counts the resources of a configuration.
    pub fn of(hardware: &Hardware) -> Self {
        let configuration = hardware.configuration();
        let (array, lanes) = (configuration.array, configuration.lanes);
        let slices = array.tokens * array.pairs;
        let fabric = lanes.multipliers == Multipliers::Fabric;
        let multipliers = |name, count: u64, each_dsp: u64, each_lut: u64| Part {
            name,
            dsp: if fabric { 0 } else { count * each_dsp },
            lut: if fabric { count * each_lut } else { 0 },
            ..Part::default()
        };
        let mut parts = vec![
            Part {
                name: "array",
                dsp: slices,
                lut: slices * SLICE_LUT,
                ff: slices * SLICE_FF,
                ..Part::default()
            },
            Part {
                name: "operands and drain",
                lut: array.tokens * TOKEN_LUT + array.pairs * PAIR_LUT,
                ff: array.tokens * TOKEN_FF + array.pairs * PAIR_FF,
                ..Part::default()
            },
            Part {
                name: "partial sums",
                lut: partial_sums(array),
                ..Part::default()
            },
            Part {
                name: "requantizing lanes",
                dsp: lanes.requantize * REQUANTIZE_DSP,
                lut: lanes.requantize * REQUANTIZE_LUT + lanes.gelu * GELU_LUT,
                ff: lanes.requantize * REQUANTIZE_FF,
                ..Part::default()
            },
            multipliers(
                "multipliers of requantizing lanes",
                lanes.requantize * REQUANTIZE_MULTIPLIERS,
                1,
                MULTIPLIER_LUT,
            ),
            Part {
                name: "LayerNorm lanes",
                lut: lanes.norm * NORM_LUT,
                ff: lanes.norm * NORM_FF,
                ..Part::default()
            },
            multipliers(
                "multipliers of LayerNorm lanes",
                lanes.norm * NORM_MULTIPLIERS,
                1,
                MULTIPLIER_LUT,
            ),
            Part {
                name: "exponential lanes",
                lut: lanes.exponential * EXPONENTIAL_LUT,
                ff: lanes.exponential * EXPONENTIAL_FF,
                ..Part::default()
            },
            multipliers(
                "multipliers of exponential lanes",
                lanes.exponential,
                EXPONENTIAL_DSP,
                WIDE_MULTIPLIER_LUT,
            ),
            Part {
                name: "control and memory ports",
                lut: CONTROL_LUT + configuration.axi_ports * PORT_LUT,
                ff: CONTROL_FF + configuration.axi_ports * PORT_FF,
                bram18: CONTROL_BRAM18 + configuration.axi_ports * PORT_BRAM18,
                ..Part::default()
            },
        ];
        parts.extend(place(&buffers(hardware), hardware.board().usable().uram));
        parts.retain(|part| part.dsp + part.lut + part.ff + part.bram18 + part.uram > 0);
        let sum = |of: fn(&Part) -> u64| parts.iter().map(of).sum();
        let bram18: u64 = sum(|p| p.bram18);
        let total = Amounts {
            dsp: sum(|p| p.dsp),
            lut: sum(|p| p.lut),
            ff: sum(|p| p.ff),
            bram36: bram18.div_ceil(2),
            uram: sum(|p| p.uram),
        };
        Self { parts, total }
    }

    /// Refuses a design that needs more than `limit` of any resource.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] names the first such resource.
    pub fn check(&self, board: &Board, limit: Amounts) -> Result<()> {
        for (name, needed, available) in [
            ("DSP slices", self.total.dsp, limit.dsp),
            ("block RAMs (36 kbit)", self.total.bram36, limit.bram36),
            ("UltraRAMs", self.total.uram, limit.uram),
            ("LUTs", self.total.lut, limit.lut),
            ("flip-flops", self.total.ff, limit.ff),
        ] {
            if needed > available {
                return Err(Error::DoesNotFit {
                    what: format!("the configuration on board {:?}", board.name),
                    needed,
                    available,
                    unit: name,
                });
            }
        }
        Ok(())
    }

    /// Names the three parts that take the most block RAM: "input buffer 40, hidden buffer 36 and
    /// ...".
    pub(super) fn largest_memories(&self) -> String {
        let mut parts: Vec<&Part> = self.parts.iter().filter(|part| part.bram18 > 0).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.bram18));
        let words: Vec<String> = (parts.iter().take(3))
            .map(|part| format!("{} {}", part.name, part.bram18.div_ceil(2)))
            .collect();
        format!("of its block RAMs {}", words.join(", "))
    }

    /// Returns whether the design stays within the usable share of its board.
    pub fn fits(&self, limit: Amounts) -> bool {
        let Amounts {
            dsp,
            lut,
            ff,
            bram36,
            uram,
        } = self.total;
        dsp <= limit.dsp
            && lut <= limit.lut
            && ff <= limit.ff
            && bram36 <= limit.bram36
            && uram <= limit.uram
    }
}

/// Returns the LUT RAM of the sums to which a tile's later passes add: two rows of 27 bits for each
/// pair and token, 64 words of 7 bits in 8 LUTs.
fn partial_sums(array: Array) -> u64 {
    (2 * 27 * array.tokens * 8).div_ceil(7) * array.pairs.div_ceil(64)
}

fn buffers(hardware: &Hardware) -> Vec<Buffer> {
    let configuration = hardware.configuration();
    let (array, lanes, words) = (
        configuration.array,
        configuration.lanes,
        configuration.buffers,
    );
    let token = |name, bits, depth, copies| Buffer {
        name,
        lanes: array.tokens,
        bits,
        depth,
        apart: false,
        copies,
    };
    let bank = |name, lanes, depth| Buffer {
        name,
        lanes,
        bits: 8,
        depth,
        apart: true,
        copies: 1,
    };
    let all = vec![
        token("input buffer", 8, words.input, 1),
        token("residual buffer", 16, words.residual, configuration.frames),
        token("norm buffer", 8, words.norm, configuration.frames),
        token("query buffer", 8, words.query, 1),
        bank("key buffer", key_banks(array, lanes), words.key),
        bank("value buffer", value_banks(array, lanes), words.value),
        token("score buffer", 24, 2 * words.score, 1),
        token("probability buffer", 8, 2 * words.score, 1),
        token("hidden buffer", 8, words.hidden, 1),
        Buffer {
            name: "weight buffer",
            lanes: array.pairs,
            bits: 8,
            depth: 2 * words.weight,
            apart: false,
            copies: 1,
        },
        Buffer {
            name: "row parameters",
            lanes: 1,
            bits: 96,
            depth: 4 * array.pairs,
            apart: true,
            copies: 1,
        },
    ];
    all.into_iter().filter(|buffer| buffer.depth > 0).collect()
}

/// Assigns memories: LUT RAM to shallow buffers, `UltraRAM` to those that save most by it, block
/// RAM to the others.
fn place(buffers: &[Buffer], uram: u64) -> Vec<Part> {
    let mut left = uram;
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(buffers[i].bram18()));
    let mut parts: Vec<Part> = buffers
        .iter()
        .map(|buffer| Part {
            name: buffer.name,
            ..Part::default()
        })
        .collect();
    for i in order {
        let (buffer, part) = (&buffers[i], &mut parts[i]);
        let (bram18, urams) = (buffer.bram18(), buffer.uram());
        if buffer.lut() > 0 {
            part.lut = buffer.lut();
        } else if urams <= left && bram18 >= URAM_WORTH * urams {
            part.uram = urams;
            left -= urams;
        } else {
            part.bram18 = bram18;
        }
    }
    parts
}

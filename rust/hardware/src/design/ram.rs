//! Counts the RAM primitives of a memory, as the tools map it: LUT RAM, block RAM, `UltraRAM`.

use serde::Serialize;

use crate::packing::DspKind;

/// A device family's primitives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `UltraScale+`.
    UltraScalePlus,
    /// 7 series.
    Series7,
}

impl Family {
    /// Returns the family that has this DSP slice.
    pub const fn of(kind: DspKind) -> Self {
        match kind {
            DspKind::Dsp48e2 => Self::UltraScalePlus,
            DspKind::Dsp48e1 => Self::Series7,
        }
    }
}

/// A kind of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ram {
    /// LUTs of SLICEM.
    Lut,
    /// Block RAM.
    Block,
    /// `UltraRAM`: 4,096 words of 72 bits; both ports have one clock.
    Ultra,
}

impl Ram {
    /// Returns the kind as Vivado's attribute `ram_style` and the FIFO generator name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lut => "distributed",
            Self::Block => "block",
            Self::Ultra => "ultra",
        }
    }
}

/// Primitives that hold a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct RamCount {
    pub lut: u64,
    pub bram18: u64,
    pub uram: u64,
}

/// Bits of an `UltraRAM`'s word, and its words.
const ULTRA: (u64, u64) = (72, 4096);

impl RamCount {
    /// Counts the primitives of a RAM with one port for writing and one for reading. Of a word with
    /// byte enables, each 9-bit byte of the primitive holds 8 bits.
    pub const fn of(ram: Ram, family: Family, words: u64, bits: u64, byte_enables: bool) -> Self {
        let wide = if byte_enables {
            bits.div_ceil(8) * 9
        } else {
            bits
        };
        match ram {
            Ram::Lut => Self {
                lut: lut_ram(family, words, bits),
                bram18: 0,
                uram: 0,
            },
            Ram::Block => Self {
                lut: 0,
                bram18: block_ram(words, wide),
                uram: 0,
            },
            Ram::Ultra => Self {
                lut: 0,
                bram18: 0,
                uram: wide.div_ceil(ULTRA.0) * words.div_ceil(ULTRA.1),
            },
        }
    }

    /// Returns the primitives of several such RAMs.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self {
            lut: self.lut * count,
            bram18: self.bram18 * count,
            uram: self.uram * count,
        }
    }
}

/// Returns the blocks of 18 kbit in the best of their shapes: 36 bits of 512 words, 18 of 1,024, 9
/// of 2,048, 4 of 4,096 and so on, as many as words and bits take.
const fn block_ram(words: u64, bits: u64) -> u64 {
    best_shape(words, bits).1
}

/// Returns the number of blocks that hold a bit of the words one after the other.
pub const fn block_ram_parts(words: u64, bits: u64) -> u64 {
    words.div_ceil(best_shape(words, bits).0)
}

/// Returns the words of the best shape and the blocks that it takes; of equal ones the deepest.
const fn best_shape(words: u64, bits: u64) -> (u64, u64) {
    const SHAPES: [(u64, u64); 6] = [
        (512, 36),
        (1024, 18),
        (2048, 9),
        (4096, 4),
        (8192, 2),
        (16384, 1),
    ];
    let mut least = (0, u64::MAX);
    let mut i = 0;
    while i < SHAPES.len() {
        let count = words.div_ceil(SHAPES[i].0) * bits.div_ceil(SHAPES[i].1);
        if count <= least.1 {
            least = (SHAPES[i].0, count);
        }
        i += 1;
    }
    least
}

/// Returns the LUTs: of an `UltraScale+` device 8 hold 14 bits of 32 words or 7 bits of 64 words,
/// of the 7 series 4 hold 6 or 3 bits. Deeper RAMs take a multiplexer for each bit, two inputs a
/// LUT.
const fn lut_ram(family: Family, words: u64, bits: u64) -> u64 {
    let (narrow, luts) = match family {
        Family::UltraScalePlus => (7, 8),
        Family::Series7 => (3, 4),
    };
    if words <= 32 {
        return bits.div_ceil(2 * narrow) * luts;
    }
    let deep = words.div_ceil(64);
    deep * bits.div_ceil(narrow) * luts + bits * (deep - 1).div_ceil(3)
}

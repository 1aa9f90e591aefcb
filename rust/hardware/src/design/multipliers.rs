//! Lists the multiplier sites of the kernels: each place in the sources where a pipelined function
//! multiplies has a multiplier of its own. A product with a constant, or with a factor of one or
//! two bits, needs none: adders and multiplexers make it.

use crate::configuration::Hardware;

use super::ram::Family;

/// A multiplier site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiplier {
    /// Kernel.
    pub kernel: &'static str,
    /// The product.
    pub name: &'static str,
    /// Bits of both factors, as signed numbers.
    pub bits: (u64, u64),
    /// Number of them.
    pub count: u64,
    /// True if DSP slices make it.
    pub dsp: bool,
}

impl Multiplier {
    /// Returns the DSP slices of all of them. A slice makes a product of 27x18 bits (25x18 on the 7
    /// series); wider factors are cut into parts of 26 and 17 (24 and 17) bits.
    pub const fn dsps(&self, family: Family) -> u64 {
        let wide = match family {
            Family::UltraScalePlus => 26,
            Family::Series7 => 24,
        };
        let (a, b) = (self.bits.0 - 1, self.bits.1 - 1);
        let one = a.div_ceil(wide) * b.div_ceil(17);
        let other = b.div_ceil(wide) * a.div_ceil(17);
        if !self.dsp {
            0
        } else if one < other {
            one * self.count
        } else {
            other * self.count
        }
    }
}

/// Lists the multipliers of a configuration.
pub fn multipliers(hardware: &Hardware) -> Vec<Multiplier> {
    let c = hardware.configuration();
    let lanes = c.lanes;
    let norm_dsp = lanes.multipliers.are_slices();
    let exponential_dsp = lanes.exponential_multipliers.are_slices();
    let site = |kernel, name, bits, count, dsp| Multiplier {
        kernel,
        name,
        bits,
        count,
        dsp,
    };
    let (m, e) = (lanes.norm, lanes.exponential);
    // Requantizing lanes on the array's clock.
    let fast = lanes.requantize.div_ceil(c.array.clock_ratio);
    vec![
        site("lanes", "mantissa", (16, 16), fast, true),
        site("lanes", "square", (16, 16), fast, true),
        site("lanes", "residue", (15, 13), fast, true),
        site("lanes", "logit", (27, 16), 1, true),
        site("lanes", "mean of values", (19, 22), 1, true),
        site("drain", "address of queries", (12, 14), 1, true),
        site("lanes", "address of values", (17, 12), 1, true),
        site("norm", "squares by D", (42, 12), m, norm_dsp),
        site("norm", "square of the sum", (27, 27), m, norm_dsp),
        site("norm", "element by D", (16, 12), m, norm_dsp),
        site("norm", "reciprocal", (16, 16), m, norm_dsp),
        site("norm", "gain", (16, 16), m, norm_dsp),
        site("norm", "square of a mean", (16, 16), 1, true),
        // One factor has up to 25 bits, the other up to 17 (fpga/include/leaves.hpp).
        site("softmax", "difference", (26, 18), e, exponential_dsp),
        site("plan", "address of a command", (14, 14), 1, true),
    ]
}

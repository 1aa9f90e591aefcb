//! Holds the counts of equivalent circuits, from which the resource model counts the HLS kernels.
//!
//! `fpga/estimates/` has the circuits. `tests/fpga/test_estimates.py` counts them with Yosys
//! (`synth_xilinx -family xcup`, two outputs of a LUT not shared) and compares.

/// LUTs and flip-flops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logic {
    /// Look-up tables.
    pub lut: u64,
    /// Flip-flops.
    pub ff: u64,
}

impl Logic {
    /// Returns a number of such circuits.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self {
            lut: self.lut * count,
            ff: self.ff * count,
        }
    }

    /// Adds another circuit.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            lut: self.lut + other.lut,
            ff: self.ff + other.ff,
        }
    }
}

impl std::iter::Sum for Logic {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Self::plus)
    }
}

macro_rules! circuits {
    ($(
        $(#[$about:meta])*
        $constant:ident: $name:literal $parameters:literal $lut:literal $ff:literal;
    )*) => {
        $($(#[$about])* pub const $constant: Logic = Logic { lut: $lut, ff: $ff };)*
        /// Name, parameters and count of each circuit.
        pub const CIRCUITS: &[(&str, &str, Logic)] = &[$(($name, $parameters, $constant),)*];
    };
}

circuits! {
    /// A `LayerNorm` lane's root and reciprocal.
    ROOT: "root_lane" "" 554 419;
    /// A `LayerNorm` lane's elements, with the choice of one of eight groups.
    NORMALISE: "normalise_lane" "GN=8" 405 320;
    /// The same with the choice of one of four.
    NORMALISE_4: "normalise_lane" "GN=4" 386 320;
    /// An exponential lane.
    EXPONENTIAL: "exponential_lane" "" 174 192;
    /// The softmax's divider.
    QUOTIENT: "quotient" "" 957 850;
    /// A divider of a mean of codes, a bit a stage.
    FLOOR_DIVIDE: "floor_divide" "" 256 219;
    /// A divider of a mean of residuals, a bit a cycle.
    SERIAL_DIVIDE: "serial_divide" "" 116 93;
    /// The check of a word a cycle.
    CHECK_WORD: "check_beats" "BYTES=4" 292 97;
    /// The check of a beat of one AXI port.
    CHECK_BEAT: "check_beats" "BYTES=16" 664 97;
    /// The same of two ports.
    CHECK_BEAT_2: "check_beats" "BYTES=32" 1052 97;
    /// The same of four ports.
    CHECK_BEAT_4: "check_beats" "BYTES=64" 1872 97;
    /// The check of a command and its way to a unit.
    CHECK_COMMAND: "check_command" "" 916 326;
    /// A token's running maximum.
    MAXIMUM: "score_lane" "" 17 72;
    /// The control of a process: a command's loops and addresses.
    PROCESS: "process" "" 306 190;
    /// The read adapter of a port of 128 bits.
    ADAPTER: "axi_read" "BITS=128 OPEN=8" 304 853;
    /// The control of a process that only counts.
    SMALL_PROCESS: "small_process" "" 22 12;
    /// A register slice of 256 bits at an AXI stream or channel; two bits of its multiplexer share
    /// a LUT, since they share the select.
    SLICE: "hls_port" "BITS=256" 131 514;
    /// A signed multiplier of 16x12 bits in LUTs.
    FABRIC_16_12: "fabric_multiplier" "A=16 B=12" 291 223;
    /// One of 16x16 bits.
    FABRIC_16_16: "fabric_multiplier" "A=16 B=16" 399 309;
    /// One of 26x18 bits.
    FABRIC_26_18: "fabric_multiplier" "A=26 B=18" 724 546;
    /// One of 42x12 bits.
    FABRIC_42_12: "fabric_multiplier" "A=42 B=12" 730 509;
    /// One of 27x27 bits.
    FABRIC_27_27: "fabric_multiplier" "A=27 B=27" 1162 925;
    /// Pointers of a queue, without the RAM and the output register of 8 bits.
    QUEUE: "axis_fifo" "BITS=8 DEPTH=16" 34 23;
}

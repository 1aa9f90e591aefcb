//! Counts the logic of the HLS kernels, of their queues and of the interconnect, from the circuits.
//!
//! Depends on [`crate::circuits`] and [`quasar_hardware::design`].

use quasar_hardware::configuration::Hardware;
use quasar_hardware::design::{
    Queue, COMMAND_BITS, LANE_JOB_BITS, LANE_ROW_BITS, QUEUES, SCALE_BITS,
};

use crate::circuits::{
    Logic, ADAPTER, CHECK_BEAT, CHECK_BEAT_2, CHECK_BEAT_4, CHECK_COMMAND, CHECK_WORD, EXPONENTIAL,
    FABRIC_16_12, FABRIC_16_16, FABRIC_26_18, FABRIC_27_27, FABRIC_42_12, FLOOR_DIVIDE, MAXIMUM,
    NORMALISE, NORMALISE_4, PROCESS, QUEUE, QUOTIENT, ROOT, SERIAL_DIVIDE, SMALL_PROCESS,
};

/// Returns a register slice at an AXI stream or channel of `bits` bits, as
/// [`crate::circuits::SLICE`] has it.
const fn port(bits: u64) -> Logic {
    Logic {
        lut: bits.div_ceil(2) + 3,
        ff: 2 * bits + 2,
    }
}

/// Returns a stream inside a kernel: a shift register and its counter. A LUT holds two bits of 16
/// items or one of 32 (UG574).
const fn stream(bits: u64, depth: u64) -> Logic {
    let luts = if depth <= 16 {
        bits.div_ceil(2)
    } else {
        bits * depth.div_ceil(32)
    };
    Logic {
        lut: luts + 14,
        ff: 8,
    }
}

/// Returns the check of a beat of this many AXI ports. Circuits count one, two and four; each port
/// beyond two adds about as much.
const fn check_beat(ports: u64) -> Logic {
    match ports {
        1 => CHECK_BEAT,
        _ => Logic {
            lut: CHECK_BEAT_2.lut + (CHECK_BEAT_4.lut - CHECK_BEAT_2.lut) * (ports - 2) / 2,
            ff: CHECK_BEAT_2.ff,
        },
    }
}

fn sum(parts: &[Logic]) -> Logic {
    parts.iter().copied().sum()
}

/// Returns a block of `count` registers on AXI-Lite. Vitis HLS's own reports of small kernels have
/// 232 LUTs and 144 flip-flops, to which the registers are added.
const fn registers(count: u64) -> Logic {
    Logic {
        lut: 232 + 16 * count,
        ff: 144 + 32 * count,
    }
}

/// Sizes that the kernels depend on.
pub struct Kernels {
    t: u64,
    l: u64,
    m: u64,
    e: u64,
    norm_groups: u64,
    exp_groups: u64,
    /// Bits of a beat.
    beat: u64,
    /// The norm's multipliers are in LUTs.
    norm_fabric: bool,
    /// The exponentials' multipliers are in LUTs.
    exponential_fabric: bool,
}

impl Kernels {
    /// Returns the sizes of a configuration.
    pub fn of(hardware: &Hardware) -> Self {
        let c = hardware.configuration();
        let (t, l, m, e) = (
            c.array.tokens,
            c.lanes.requantize,
            c.lanes.norm,
            c.lanes.exponential,
        );
        Self {
            t,
            l,
            m,
            e,
            norm_groups: t.div_ceil(m),
            exp_groups: t.div_ceil(e),
            beat: 128 * c.axi_ports,
            norm_fabric: !c.lanes.multipliers.are_slices(),
            exponential_fabric: !c.lanes.exponential_multipliers.are_slices(),
        }
    }

    /// Returns each kernel's logic.
    pub fn logic(&self) -> [(&'static str, Logic); 8] {
        [
            ("fetch", Self::fetch()),
            ("load", self.load()),
            ("plan", Self::plan()),
            ("scores", self.scores()),
            ("drain", self.drain()),
            ("norm", self.norm()),
            ("softmax", self.softmax()),
            ("store", Self::store()),
        ]
    }

    fn fetch() -> Logic {
        sum(&[
            CHECK_COMMAND,
            PROCESS,
            port(COMMAND_BITS).times(5),
            port(1),
            registers(10),
        ])
    }

    fn load(&self) -> Logic {
        sum(&[
            check_beat(self.beat / 128),
            PROCESS.times(2),
            port(COMMAND_BITS),
            port(self.beat).times(3),
            port(1).times(3),
            port(33),
            registers(9),
            // The patches of a word; in each slot a frame's nonce and its number of transfers, the
            // choice of one, and the key of a check compared with the arena's; the key of a
            // command compared, for which Yosys counts 32 LUTs and 3 flip-flops.
            Logic {
                lut: 64 + 3 * 16 + 32,
                ff: 8 * self.t.next_multiple_of(self.beat / 8) + 450 + 3 * 32 + 2 * 16 + 3,
            },
        ])
    }

    fn plan() -> Logic {
        sum(&[
            PROCESS.times(2),
            SMALL_PROCESS,
            port(COMMAND_BITS).times(2),
            port(128),
            port(29),
            port(1).times(5),
        ])
    }

    fn scores(&self) -> Logic {
        sum(&[
            MAXIMUM.times(self.t),
            PROCESS,
            SMALL_PROCESS.times(2),
            port(COMMAND_BITS),
            port(24 * self.t),
            port(24 * self.e),
            port(1),
            stream(24 * self.t + 13, 2),
            stream(24 * self.t, 2),
            Logic {
                lut: 24 * self.e * (self.exp_groups.div_ceil(4)),
                ff: 24 * self.t,
            },
        ])
    }

    fn drain(&self) -> Logic {
        sum(&[
            port(COMMAND_BITS),
            port(self.beat).times(2),
            port(LANE_JOB_BITS),
            port(LANE_ROW_BITS),
            port(11),
            PROCESS.times(3),
            SMALL_PROCESS.times(2),
        ])
    }

    fn norm(&self) -> Logic {
        let multipliers = [
            FABRIC_42_12,
            FABRIC_27_27,
            FABRIC_16_12,
            FABRIC_16_16,
            FABRIC_16_16,
        ];
        sum(&[
            ROOT.times(self.m),
            if self.norm_groups > 4 {
                NORMALISE
            } else {
                NORMALISE_4
            }
            .times(self.m),
            sum(&multipliers).times(if self.norm_fabric { self.m } else { 0 }),
            port(COMMAND_BITS),
            port(self.beat),
            port(68 * self.l),
            port(1).times(2),
            stream(68 * self.m, 2),
            stream(68, 2),
            stream(47 * self.m, 2),
            stream(16 * self.m, 16),
            stream(8 * self.m + 34, 2),
            PROCESS.times(4),
            SMALL_PROCESS.times(4),
            FLOOR_DIVIDE,
            SERIAL_DIVIDE,
            // The moments of a tile, and the choice of a group of them; more than eight groups of
            // residuals.
            Logic {
                lut: 68 * self.m * self.norm_groups.div_ceil(4)
                    + 16 * self.m * self.norm_groups.saturating_sub(8) / 3
                    + 18 * self.m,
                ff: 68 * self.t.max(self.m * self.norm_groups),
            },
        ])
    }

    fn softmax(&self) -> Logic {
        sum(&[
            EXPONENTIAL.times(self.e),
            FABRIC_26_18.times(if self.exponential_fabric { self.e } else { 0 }),
            QUOTIENT,
            port(COMMAND_BITS),
            port(24 * self.e),
            port(SCALE_BITS),
            port(1).times(2),
            stream(40 * self.e + 28, 2),
            stream(8 * self.e + 20, 2),
            PROCESS,
            SMALL_PROCESS.times(3),
            // The largest scores of a group; sums on their way to the divider.
            Logic {
                lut: 40 * self.e,
                ff: 64 * self.e,
            },
        ])
    }

    fn store() -> Logic {
        sum(&[
            CHECK_WORD,
            PROCESS,
            port(32),
            port(33),
            port(1),
            registers(3),
            Logic { lut: 60, ff: 128 },
        ])
    }
}

/// Counts the logic of the queues: LUT RAM, pointers, output registers.
pub fn queues(hardware: &Hardware) -> Logic {
    let one = |queue: &Queue| {
        Logic {
            lut: queue.count(hardware).lut,
            ff: queue.built_bits(hardware),
        }
        .plus(QUEUE)
    };
    QUEUES.iter().map(one).sum()
}

/// Bits of an AXI channel besides data: address, length and marks; a master that only reads has an
/// address channel and data, one that writes also a response.
const ADDRESS: u64 = 77;

/// The same of an AXI4-Lite channel: address and protection.
const LITE_ADDRESS: u64 = 43;

/// Counts the adapters and the circuits between them and memory. Each adapter goes through a
/// shutdown manager, which has a register slice at both ends of each channel. The ports'
/// interconnects have the same and a FIFO of 32 beats; commands and logits share the first port's.
/// The registers' interconnect, of 32 bits, has the processor's way and one of AXI4-Lite to each of
/// `blocks` blocks. Resets are added.
pub fn interconnect(ports: u64, blocks: u64) -> Logic {
    let reads = |address: u64, bits: u64| port(address).plus(port(bits + 3)).times(2);
    let writes = |address: u64, bits: u64| {
        port(address)
            .plus(port(bits * 9 / 8 + 1))
            .plus(port(2))
            .times(2)
    };
    let fifo = |bits: u64| Logic {
        lut: (bits + 3).div_ceil(14) * 8 + 20,
        ff: 16,
    };
    let load = ADAPTER
        .plus(reads(ADDRESS, 128).times(2))
        .plus(fifo(128))
        .plus(SMALL_PROCESS.times(2))
        .times(ports);
    let commands = ADAPTER.plus(reads(ADDRESS, 128).times(2)).plus(fifo(128));
    let logits = ADAPTER.plus(writes(ADDRESS, 128).times(2)).plus(fifo(145));
    // The first port's choice between three masters.
    let choice = Logic {
        lut: 131 + 145 + 2 * ADDRESS,
        ff: 60,
    };
    let way = |address: u64| reads(address, 32).plus(writes(address, 32));
    let registers = way(ADDRESS).plus(way(LITE_ADDRESS).times(blocks));
    let resets = Logic { lut: 150, ff: 220 };
    sum(&[load, commands, logits, choice, registers, resets])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuits::SLICE;

    #[test]
    fn formulas_give_the_counts_of_the_circuits() {
        assert_eq!((port(256).lut, port(256).ff), (SLICE.lut, SLICE.ff));
    }
}

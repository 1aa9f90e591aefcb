//! Counts a design's resources part by part with formulas. No figure comes from synthesis.
//!
//! RAM and multipliers are those of the design's lists ([`quasar_hardware::design`]). The array's
//! logic follows the RTL register by register, and is compared with Yosys's netlists of it. The HLS
//! kernels' logic rests on equivalent circuits ([`crate::circuits`]), with a margin.
//!
//! Depends on [`quasar_hardware::design`].

use quasar_core::error::{Error, Result};
use quasar_hardware::boards::{Amounts, Board};
use quasar_hardware::configuration::{key_banks, value_banks, Hardware};
use quasar_hardware::declared::array::FIFO_DEPTH;
use quasar_hardware::declared::KERNEL_MARGIN_PERCENT;
use quasar_hardware::design::{
    memories, multipliers, Family, Memory, Place, Ram, RamCount, PORTS_OF_COMMANDS, PORT_BRAM18,
    QUEUES,
};
use quasar_hardware::packing::DspKind;
use serde::Serialize;

use crate::circuits::Logic;
use crate::kernels::{interconnect, queues, Kernels};
use crate::lanes::lanes_logic;

/// Blocks of registers, the counters' one included.
const BLOCKS: u64 = 5;
/// The counters' cell, as Yosys builds it.
const COUNTERS: Logic = Logic { lut: 413, ff: 444 };

/// The block that shows the clocks' status, and the MMCM's watchdog, as Yosys builds them.
const CLOCK_STATUS: Logic = Logic { lut: 7, ff: 41 };
const CLOCK_WATCHDOG: Logic = Logic { lut: 27, ff: 22 };

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
    /// The source of its logic.
    pub basis: Basis,
}

/// The source of a part's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The RTL, compared with Yosys's netlists at full size.
    #[default]
    Netlist,
    /// Equivalent circuits counted with Yosys, and the margin.
    Circuit,
    /// The list of memories and multipliers.
    List,
}

/// Resources of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// By part: logic first, then buffers.
    pub parts: Vec<Part>,
    /// All parts; BRAM in units of 36 kbit, rounded up.
    pub total: Amounts,
}

impl Resources {
    /// Counts the resources of a configuration.
    pub fn of(hardware: &Hardware) -> Self {
        let family = Family::of(hardware.board().dsp_kind);
        let (all, sites) = (memories(hardware), multipliers(hardware));
        let mut parts = vec![Part {
            name: "array",
            dsp: array_dsps(hardware),
            ..logic("array", Basis::Netlist, array_logic(hardware, &all))
        }];
        let of_lanes = sites.iter().filter(|site| site.kernel == "lanes");
        parts.push(Part {
            dsp: of_lanes.map(|site| site.dsps(family)).sum(),
            ..logic("lanes", Basis::Netlist, lanes_logic(hardware))
        });
        for (name, logic_of) in Kernels::of(hardware).logic() {
            let dsp = sites.iter().filter(|site| site.kernel == name);
            parts.push(Part {
                dsp: dsp.map(|site| site.dsps(family)).sum(),
                ..logic(name, Basis::Circuit, kernel_logic(hardware, name, logic_of))
            });
        }
        let queue = |count: RamCount| Part {
            bram18: count.bram18,
            ..logic("queues", Basis::Circuit, with_margin(queues(hardware)))
        };
        parts.push(queue(RamCount {
            bram18: QUEUES.iter().map(|q| q.count(hardware).bram18).sum(),
            ..RamCount::default()
        }));
        let ports = hardware.configuration().axi_ports;
        let counters = hardware.configuration().counters;
        let blocks = BLOCKS - u64::from(!counters);
        parts.push(Part {
            bram18: PORT_BRAM18 * (ports + PORTS_OF_COMMANDS),
            ..logic(
                "ports and interconnect",
                Basis::Circuit,
                with_margin(interconnect(ports, blocks)),
            )
        });
        let ratio = hardware.configuration().array.clock_ratio;
        let watched = [CLOCK_STATUS, CLOCK_WATCHDOG]
            .into_iter()
            .take(ratio as usize);
        parts.push(logic("clocks", Basis::Netlist, watched.sum()));
        if counters {
            parts.push(logic("counters", Basis::Netlist, COUNTERS));
        }
        parts.extend(all.iter().map(|memory| {
            let RamCount { lut, bram18, uram } = memory.count(family);
            Part {
                name: memory.name,
                lut,
                bram18,
                uram,
                basis: Basis::List,
                ..Part::default()
            }
        }));
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

    /// Refuses a design that needs more than the usable part of its board.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] names the resource of which it needs most beyond that.
    pub fn check(&self, board: &Board) -> Result<()> {
        let worst = (self.shares(board.usable()).into_iter())
            .filter(|share| share.needed > share.available)
            .max_by(|a, b| a.excess().total_cmp(&b.excess()));
        worst.map_or(Ok(()), |share| {
            Err(Error::DoesNotFit {
                what: format!(
                    "the configuration (counted, with {KERNEL_MARGIN_PERCENT} % on the logic of HLS kernels \
                     without a margin of their own) within the usable part of board {:?}",
                    board.name
                ),
                needed: share.needed,
                available: share.available,
                unit: share.name,
            })
        })
    }

    /// Returns true if the design stays within a limit.
    pub fn fits(&self, limit: Amounts) -> bool {
        self.shares(limit)
            .iter()
            .all(|share| share.needed <= share.available)
    }

    /// Returns the sum of each resource's excess over a limit, as a share of the limit; 0 if the
    /// design fits.
    pub(super) fn excess(&self, limit: Amounts) -> f64 {
        self.shares(limit).iter().map(Share::excess).sum()
    }

    fn shares(&self, limit: Amounts) -> [Share; 5] {
        let share = |name, needed, available| Share {
            name,
            needed,
            available,
        };
        let all = self.total;
        [
            share("DSP slices", all.dsp, limit.dsp),
            share("block RAMs (36 kbit)", all.bram36, limit.bram36),
            share("UltraRAMs", all.uram, limit.uram),
            share("LUTs", all.lut, limit.lut),
            share("flip-flops", all.ff, limit.ff),
        ]
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
}

/// A resource: the amounts that a design needs and that it may take.
struct Share {
    name: &'static str,
    needed: u64,
    available: u64,
}

impl Share {
    fn excess(&self) -> f64 {
        self.needed.saturating_sub(self.available) as f64 / self.available.max(1) as f64
    }
}

/// Returns a part that has logic alone.
fn logic(name: &'static str, basis: Basis, Logic { lut, ff }: Logic) -> Part {
    Part {
        name,
        lut,
        ff,
        basis,
        ..Part::default()
    }
}

fn with_margin(Logic { lut, ff }: Logic) -> Logic {
    let more = |count: u64| (count * (100 + KERNEL_MARGIN_PERCENT)).div_ceil(100);
    Logic {
        lut: more(lut),
        ff: more(ff),
    }
}

/// Returns a kernel's logic with the configuration's margin, else with [`KERNEL_MARGIN_PERCENT`].
fn kernel_logic(hardware: &Hardware, kernel: &str, counted: Logic) -> Logic {
    let Some(margin) = hardware.configuration().margins.get(kernel) else {
        return with_margin(counted);
    };
    let more =
        |count: u64, percent: i64| (count * 100_u64.saturating_add_signed(percent)).div_ceil(100);
    Logic {
        lut: more(counted.lut, margin.lut),
        ff: more(counted.ff, margin.ff),
    }
}

/// Returns the array's DSP slices. A DSP48E1 cannot add product, cascade and sum at once: a cascade
/// has one more.
fn array_dsps(hardware: &Hardware) -> u64 {
    let array = hardware.configuration().array;
    let sums = hardware.board().dsp_kind == DspKind::Dsp48e1 && array.cascade > 1;
    array.slices() + if sums { array.tokens * array.pairs } else { 0 }
}

/// Share that is added to the array's LUTs for the control that the formulas do not follow, in
/// percent: without it they give 89 to 97 % of Yosys's count.
const ARRAY_CONTROL_PERCENT: u64 = 8;

/// Counts the logic of the array and of its memories' ports, without RAM: the registers and the
/// selections of the RTL's modules.
fn array_logic(hardware: &Hardware, memories: &[Memory]) -> Logic {
    let c = hardware.configuration();
    let (t, p, cascade) = (c.array.tokens, c.array.pairs, c.array.cascade);
    let l = c.lanes.requantize;
    let packed = 2 * u64::from(hardware.board().dsp_kind.shift()) + 1;
    let (blocks, values) = (
        key_banks(c.array, c.lanes) / p,
        value_banks(c.array, c.lanes),
    );
    let groups = t.div_ceil(l);
    let (operand, word) = (9 * cascade, 8 * cascade);
    let slot = bits_of(FIFO_DEPTH);
    // The chain, its FIFO's output, and copies of the activations for eight row pairs.
    let tokens = Logic {
        lut: t * (p - 1) * packed,
        ff: t * ((p + 1) * packed + p.div_ceil(8) * operand + p),
    };
    // Row operands and marks go from two tokens to the next two. Skews are shift registers: those
    // of activations with their registers inside, those of rows with one behind.
    let stages = Logic {
        lut: t * operand + 9 * p * cascade.saturating_sub(2) + 49,
        ff: (t.div_ceil(2) - 1) * (p * operand + 3 + slot) + 9 * p * (cascade - 1),
    };
    // One LUT for each of an activation's 9 bits, since the tools put the resets of the memories'
    // registers to use. Values are turned in two steps, keys ORed.
    let quarters = values.div_ceil(4);
    let operands = Logic {
        lut: t * operand
            + p * operand
            + if blocks > 1 { p * word } else { 0 }
            + values * word
            + p * word * (quarters - 1).div_ceil(3),
        ff: p * operand + values * word + 2 * p * word + 2 * values + p * bits_of(quarters) + 2 * p,
    };
    // Scores; rows from packed sums, passes added up; both queues' outputs.
    let unpack = Logic {
        lut: 22 * t + l * (packed * (groups - 1).div_ceil(5) + 105),
        ff: t + slot * t.div_ceil(8) + 48 * t + l * (packed + 83) + 120,
    };
    let beat = 16 * c.axi_ports;
    let bytes = p * cascade;
    let piece = divisor(bytes, beat);
    let room = (bytes / piece - 1 + beat / piece) * piece * 8;
    let weights = Logic {
        lut: room * if bytes > piece { 2 } else { 1 },
        ff: room + 16 * bytes + 116,
    };
    // A word's register (a LUT RAM has two, an `UltraRAM` a write's, too), and the addresses.
    let mut ports = Logic::default();
    for memory in memories {
        if let Place::Array { .. } = memory.place {
            let enables = if memory.byte_enables { cascade } else { 0 };
            let address = memory.address_bits();
            let (copies, written) = match memory.ram {
                Ram::Lut => (2, 0),
                Ram::Ultra => (1, memory.bits + address + enables.max(1)),
                Ram::Block => (1, 0),
            };
            ports.lut += memory.banks * (2 + enables) + memory.banks * memory.deep_select();
            ports.ff += memory.banks * (copies * memory.bits + 2 + written)
                + address * (1 + memory.banks.div_ceil(cascade));
        }
    }
    let control = Logic { lut: 400, ff: 400 };
    let parts = [tokens, stages, operands, unpack, weights, ports, control];
    let all: Logic = parts.into_iter().sum();
    Logic {
        lut: all.lut * (100 + ARRAY_CONTROL_PERCENT) / 100,
        ..all
    }
}

/// Returns the bits of a number below `count`.
const fn bits_of(count: u64) -> u64 {
    count.next_power_of_two().trailing_zeros() as u64
}

const fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        divisor(b, a % b)
    }
}

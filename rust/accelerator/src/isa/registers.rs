//! Declares the registers that the host reads and writes.

use quasar_hardware::design::{CountedUnit, Counter};

/// A register of a control interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Name, as `block_NAME`.
    pub name: &'static str,
    /// Offset from the accelerator's base.
    pub offset: u32,
    /// True if the host may write the register; otherwise it only reads it.
    pub writable: bool,
    /// Contents.
    pub about: &'static str,
}

/// Bytes between two blocks of registers. The blocks are `fetch`, `store`, `load`, `reset` and
/// `counters`; a configuration without counters lacks the last one.
pub const BLOCK_BYTES: u32 = 0x1_0000;
/// Bytes of all registers.
pub const REGISTER_BYTES: u32 = 5 * BLOCK_BYTES;
/// Largest number of AXI ports of load.
pub const MAX_PORTS: usize = 4;
/// Bit of `AP_CTRL`: start.
pub const AP_START: u32 = 1;
/// Bit of `AP_CTRL`: done. Reading clears it.
pub const AP_DONE: u32 = 2;
/// Bit of `AP_CTRL`: idle.
pub const AP_IDLE: u32 = 4;

/// Contents of `counters_IDENTITY` ("QCNT").
pub const COUNTERS_IDENTITY: u32 = 0x5143_4e54;
/// Bit of `counters_CONTROL`: the counters run. Writing 1 clears and starts them; writing 0 stops
/// them.
pub const COUNTERS_RUN: u32 = 1;
/// Offset of the first unit's counters.
pub const FIRST_COUNTER: u32 = 0x4_0010;
/// Bytes of a unit's counters.
pub const UNIT_COUNTERS_BYTES: u32 = 4 * Counter::ALL.len() as u32;

/// Returns the offset of a unit's counter: a read-only register that saturates at 2^32 - 1.
pub const fn counter_offset(unit: CountedUnit, counter: Counter) -> u32 {
    FIRST_COUNTER + UNIT_COUNTERS_BYTES * unit as u32 + 4 * counter as u32
}

/// All registers except the units' counters ([`counter_offset`]). The HLS pragmas have the same
/// offsets within a block.
pub const REGISTERS: &[Register] = &[
    register(
        "fetch_CTRL",
        0x0_0000,
        true,
        "AP_CTRL: start 1, done 2, idle 4, ready 8",
    ),
    register("fetch_GIE", 0x0_0004, true, "global interrupt enable"),
    register(
        "fetch_IER",
        0x0_0008,
        true,
        "interrupt enable: done 1, ready 2",
    ),
    register(
        "fetch_ISR",
        0x0_000c,
        true,
        "interrupt status; writing 1 toggles",
    ),
    register(
        "fetch_COMMANDS",
        0x0_0010,
        true,
        "address of the segment's commands, 64 bits",
    ),
    register(
        "fetch_COUNT",
        0x0_001c,
        true,
        "commands of the segment; 0 only reports the identity",
    ),
    register(
        "fetch_INPUT",
        0x0_0024,
        true,
        "first beat of the frame's patches",
    ),
    register(
        "fetch_SEED",
        0x0_002c,
        true,
        "seed of the check of the segment's first command",
    ),
    register("fetch_MAGIC", 0x0_0040, false, "\"QVIT\""),
    register(
        "fetch_ABI",
        0x0_0050,
        false,
        "version of commands, registers and memory formats",
    ),
    register(
        "fetch_HASH_LOW",
        0x0_0060,
        false,
        "configuration hash, low word",
    ),
    register(
        "fetch_HASH_HIGH",
        0x0_0070,
        false,
        "configuration hash, high word",
    ),
    register(
        "fetch_ERROR",
        0x0_0080,
        false,
        "1 + index of the first command of the segment that fails its check or has no unit; 0: none",
    ),
    register(
        "store_CTRL",
        0x1_0000,
        true,
        "AP_CTRL: start 1, done 2, idle 4, ready 8",
    ),
    register("store_GIE", 0x1_0004, true, "global interrupt enable"),
    register(
        "store_IER",
        0x1_0008,
        true,
        "interrupt enable: done 1, ready 2",
    ),
    register(
        "store_ISR",
        0x1_000c,
        true,
        "interrupt status; writing 1 toggles",
    ),
    register(
        "store_OUTPUT",
        0x1_0010,
        true,
        "address of the output, 64 bits",
    ),
    register("store_COUNT", 0x1_001c, true, "logits"),
    register(
        "load_CTRL",
        0x2_0000,
        true,
        "AP_CTRL: start 1; once after each reset, when the arena's addresses are there",
    ),
    register(
        "load_ARENA0",
        0x2_0010,
        true,
        "address of stripe 0 of the arena, 64 bits",
    ),
    register(
        "load_ARENA1",
        0x2_001c,
        true,
        "stripe 1, where there are two AXI ports or more",
    ),
    register("load_ARENA2", 0x2_0028, true, "stripe 2"),
    register("load_ARENA3", 0x2_0034, true, "stripe 3"),
    register(
        "load_SEED",
        0x2_0040,
        true,
        "seed of the keys of the arena's checks",
    ),
    register("reset", 0x3_0000, true, "bit 0: hold all kernels in reset"),
    register(
        "counters_IDENTITY",
        0x4_0000,
        false,
        "\"QCNT\": the configuration has counters",
    ),
    register(
        "counters_CONTROL",
        0x4_0004,
        true,
        "1: clear all counters and run; 0: hold them",
    ),
    register(
        "counters_CYCLES",
        0x4_0008,
        false,
        "cycles of the kernels' clock while the counters ran",
    ),
];

const fn register(
    name: &'static str,
    offset: u32,
    writable: bool,
    about: &'static str,
) -> Register {
    Register {
        name,
        offset,
        writable,
        about,
    }
}

//! Declares the constants of the accelerator's loops that every model assumes. The HLS sources
//! declare them, too, and the counters on the chip check them.
//!
//! All loops have an initiation interval of 1, but for fetch's ([`FETCH_INTERVAL`]); depths and
//! gaps are in cycles. Depends on [`crate::array_timing`] and [`crate::configuration`].

pub use crate::array_timing as array;
use crate::configuration::Hardware;

/// From the chain's end to a stored score and the running maximum.
pub const SCORE_DEPTH: u64 = 8;
/// Difference, multiply, table, shift, sum, then the reciprocal of the last rows.
pub const EXPONENTIAL_DEPTH: u64 = 56;
/// Square root and reciprocal of the first tokens, then the normalising pipeline.
pub const NORM_DEPTH: u64 = 96;
/// Least cycles for each group of tokens: the square root and the reciprocal of the next group
/// overlap with the elements of this one.
pub const NORM_ROOT: u64 = 64;
/// Between two commands of a unit: its flattened loop ends, the next command's bounds are taken.
pub const COMMAND_GAP: u64 = 16;
/// From the last beat of a half to its last word, and to where it may be read.
pub const FILL_DEPTH: u64 = 2;
/// Between two passes of a tile, as they are planned ahead of issue.
pub const PLAN_INTERVAL: u64 = 8;
/// Between two groups of tokens of the softmax and two tiles of the norm, and two columns of a
/// mean: an inner loop ends.
pub const LOOP_GAP: u64 = 32;
/// Between two commands that fetch hands out.
pub const FETCH_INTERVAL: u64 = 2;
/// Bytes of a command.
pub const COMMAND_BYTES: u64 = 32;
/// Bytes of a row besides its weights: its parameters, some spare.
pub const ROW_BYTES: u64 = 16;
/// From a request to memory's first beat.
pub const MEMORY_LATENCY: u64 = 64;
/// Transfers that load requests ahead of the one that it reads.
pub const TRANSFERS_AHEAD: u64 = 4;
/// Commands that wait inside plan while a later Gemm's weights load.
pub const PLAN_JOBS: u64 = 32;
/// Commands inside the drain whose parameters may be on their way.
pub const DRAIN_JOBS: u64 = 32;
/// Commands that wait inside the norm.
pub const NORM_JOBS: u64 = 16;
/// Beats of a burst, at most.
pub const BURST_BEATS: u64 = 64;
/// Beats of 4 KiB on a port, whose borders no burst crosses.
pub const SECTION_BEATS: u64 = 256;
/// Bursts that an AXI port requests and holds before the first is read to its end.
pub const OPEN_BURSTS: u64 = 8;
/// Share that is added to the counted logic of HLS kernels, queues and interconnect, in percent;
/// kernels with a margin of the configuration have that one.
pub const KERNEL_MARGIN_PERCENT: u64 = 15;
/// Share of an AXI port's cycles that carry data (bursts of 64 beats, several outstanding).
pub const AXI_EFFICIENCY: f64 = 0.9;

/// Returns the cycles from the interval of an item's sums to the item's end, when its results are
/// stored (`DEPTH` in `fpga/rtl/lanes.sv`, which a test compares).
pub const fn requantize_depth(clock_ratio: u64) -> u64 {
    if clock_ratio == 2 {
        13
    } else {
        22
    }
}

/// Returns the bytes that arrive from memory in a cycle.
pub fn bytes_per_cycle(hardware: &Hardware) -> f64 {
    let (board, configuration) = (hardware.board(), hardware.configuration());
    let ports = (configuration.axi_ports * board.axi.bits) as f64 / 8.0 * AXI_EFFICIENCY;
    ports.min(board.ddr.peak_gb_s * 1e9 * board.ddr.efficiency / hardware.clock_hz())
}

/// Ticks of a cycle: the unit in which the times of beats are summed.
pub const TICKS: u64 = 1 << 14;

/// Returns the [`TICKS`] between two beats of `bytes` bytes from memory.
pub fn beat_ticks(hardware: &Hardware, bytes: u64) -> u64 {
    let cycles = bytes as f64 / bytes_per_cycle(hardware);
    (cycles * TICKS as f64).ceil() as u64
}

/// Returns the cycles from the end of a segment's reading to the start of the next segment, which
/// the host decides: [`Host::segment_us`](crate::boards::Host::segment_us), which boards assume.
pub fn segment_gap(hardware: &Hardware) -> u64 {
    let seconds = hardware.board().host.segment_us * 1e-6;
    (seconds * hardware.clock_hz()).ceil() as u64
}

/// Returns the cycles in which the lanes rotate a pair of rows of a tile, without those of its
/// sums. Rows of later pairs pass until the values are kept.
pub const fn turn_cycles(groups: u64) -> u64 {
    2 * groups
}

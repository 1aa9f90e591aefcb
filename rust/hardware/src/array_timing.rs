//! Constants of the array in RTL (`fpga/rtl`); `docs/array-timing.md` has its events.
//!
//! Fast cycles are those of the array's clock, slow cycles those of the kernels. Slow cycle s
//! begins with fast cycle R*s: that is its first fast cycle below. Depends on [`crate::packing`].

use crate::packing::DspKind;

/// Tokens that share a register of the row operands: token t is t div 2 fast cycles behind
/// token 0.
pub const TOKENS_A_STAGE: u64 = 2;
/// Descriptors that the array holds ahead of issue. It takes pass n in a later slow cycle than
/// the one that pass n - 8 starts in.
pub const DESCRIPTORS: u64 = 8;
/// Slow cycles in which a descriptor is prepared.
pub const PREPARE: u64 = 3;
/// From a prepared descriptor (its slow cycle's first fast cycle) to the pass's first word.
pub const DESCRIPTOR_TO_START: u64 = 5;
/// From the slow cycle after a pair's last item left its FIFO (first fast cycle) to the first
/// word that may start by its room.
pub const ROOM_TO_START: u64 = 4;
/// From the slow cycle after the one that writes a half's last word (first fast cycle) to the
/// first word that may start by it.
pub const FILLED_TO_START: u64 = 4;
/// Fast cycles between two passes' first words, at least.
pub const ISSUE_INTERVAL: u64 = 2;
/// From a word's issue to its operands at slice (0, 0).
pub const OPERAND_DEPTH: u64 = 7;
/// From lane C - 1's operands at token 0 to its sum in the token's FIFO: the slice's five
/// registers (operand, W, product, P, chain) and the FIFO's pointer.
pub const SLICE_TO_FIFO: u64 = 6;
/// One more register where the cascade of a DSP48E1 (C > 1) adds up in a slice of its own.
pub const DSP48E1_SUM: u64 = 1;
/// Slow cycles from the one in which a pair shows in the last token's FIFO to its first item.
pub const FIFO_TO_ITEM: u64 = 2;
/// Slow cycles from an item to `sums`.
pub const ITEM_TO_SUMS: u64 = 7;
/// Slow cycles from an item to `scores`.
pub const ITEM_TO_SCORES: u64 = 5;
/// Items of `sums`, and of `scores`, that may be under way or wait to be taken.
pub const OUTPUTS: u64 = 16;
/// Packed sums that a token's FIFO holds.
pub const FIFO_DEPTH: u64 = 64;
/// Slow cycles from a demand for weights to the first beat of its first fill.
pub const DEMAND_TO_FILL: u64 = 3;
/// Fast cycles from a pass's last word to the register that frees its half of the weights, or
/// gives `load` its credit; a slow register takes it then.
pub const END_TO_FREED: u64 = 5;

/// Returns the fast cycles from a pass's last word to its first sums in the FIFOs of all
/// `tokens`.
pub const fn end_to_fifo(tokens: u64, cascade: u64, dsp_kind: DspKind) -> u64 {
    let sum = match dsp_kind {
        DspKind::Dsp48e1 if cascade > 1 => DSP48E1_SUM,
        _ => 0,
    };
    let skew = (tokens.div_ceil(TOKENS_A_STAGE) - 1) + (cascade - 1);
    OPERAND_DEPTH + skew + SLICE_TO_FIFO + sum
}

//! The NEON tier of 32-bit Arm (Armv7-A). The arithmetic is that of the tier for baseline 64-bit
//! Arm, with half of its registers.
//!
//! Stable Rust has neither intrinsics nor a target feature for NEON on this architecture, so loops
//! are assembly, each a whole loop in one block. Wheels are built for CPUs without NEON:
//! `crate::detect` decides at run time.

mod epilogue;
mod pack;
mod rows;
mod tile;

use crate::tiled::{pack_keys, FourBitForm, Layout, Product, Tiles};
use crate::MatrixView;

/// Assembles instructions that may use every NEON register. `.fpu` ends with the block.
///
/// Clobbers are named as the double registers of VFP: without the feature NEON the compiler ignores
/// those that are named `q`.
macro_rules! neon {
    ($($line:expr),+ ; $($operands:tt)*) => {
        std::arch::asm!(
            ".fpu neon",
            $($line,)+
            $($operands)*
            out("d0") _, out("d1") _, out("d2") _, out("d3") _,
            out("d4") _, out("d5") _, out("d6") _, out("d7") _,
            out("d8") _, out("d9") _, out("d10") _, out("d11") _,
            out("d12") _, out("d13") _, out("d14") _, out("d15") _,
            out("d16") _, out("d17") _, out("d18") _, out("d19") _,
            out("d20") _, out("d21") _, out("d22") _, out("d23") _,
            out("d24") _, out("d25") _, out("d26") _, out("d27") _,
            out("d28") _, out("d29") _, out("d30") _, out("d31") _,
            options(nostack)
        )
    };
}
pub(crate) use neon;

/// The tier. Its functions need NEON.
pub(crate) struct Neon32;

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl Layout for Neon32 {
    type Weight = i8;
    type Code = i8;
    const ROWS: usize = 4;
    const PANEL: usize = 16;
    const LANES: usize = tile::LANES;
    const GROUP: usize = 16;
    const STEP: usize = 16;
    const CODE_OFFSET: i32 = 0;
    const PROB_OFFSET: i32 = -128;
    const FOUR_BIT: Option<FourBitForm> = Some(FourBitForm {
        group: 16,
        step: 16,
        code_offset: 0,
        pair: 1,
        sums: 8,
        tile: tile::tile_4_bit,
        expand: pack::expand_nibbles,
        probe: tile::probe_4_bit,
    });

    fn code(a: i8) -> i8 {
        a
    }

    unsafe fn pack_keys(keys: MatrixView<i8>, packed: &mut [i8], bias: &mut [i32]) {
        pack_keys::<Self>(keys, packed, bias);
    }

    unsafe fn pack_values(values: MatrixView<i8>, packed: &mut [i8], sums: &mut [i32]) {
        // SAFETY: the caller promises NEON.
        unsafe { pack::pack_values(values, packed, sums) }
    }

    unsafe fn expand_8_bit(stored: &[u8], bytes: usize, nibbles: usize, panel: &mut [i8]) {
        let groups = panel.chunks_exact_mut(bytes + nibbles);
        for (group, stored) in groups.zip(stored.chunks_exact(bytes + nibbles / 2)) {
            let (stored_bytes, stored_nibbles) = stored.split_at(bytes);
            let (whole, halves) = group.split_at_mut(bytes);
            for (w, &byte) in whole.iter_mut().zip(stored_bytes) {
                *w = byte as i8;
            }
            // SAFETY: the caller promises NEON; a row's group is 16 weights.
            unsafe { pack::expand_nibbles(stored_nibbles, halves) };
        }
    }

    fn prefetch(line: *const u8) {
        // SAFETY: a prefetch reads nothing.
        unsafe {
            std::arch::asm!(
                "pld [{0}]",
                in(reg) line,
                options(readonly, nostack, preserves_flags)
            );
        }
    }
}

// SAFETY: as above.
unsafe impl Tiles for Neon32 {
    unsafe fn tile(p: Product<i8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { tile::tile::<true>(p, out, out_stride) }
    }

    unsafe fn tile_any_weights(p: Product<i8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { tile::tile::<false>(p, out, out_stride) }
    }

    unsafe fn probe(iterations: u32) -> (u64, i32) {
        // SAFETY: the caller promises NEON.
        unsafe { tile::probe(iterations) }
    }
}

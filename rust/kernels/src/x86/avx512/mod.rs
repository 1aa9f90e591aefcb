//! The AVX-512 tiers. With VNNI (`vnni`) `vpdpbusd` multiplies unsigned activations (code + 128) by
//! signed weights, exactly; with AMX (`amx`) `tdpbssd` multiplies tiles of signed ones. Both pack
//! weights alike and share everything but the tiles.

mod epilogue;
mod norm;
mod pack;
mod softmax;
mod vectors;

/// The functions and constants of [`crate::tiled::Layout`] or [`crate::tiled::RowKernels`] that
/// both tiers share.
macro_rules! shared {
    (Layout) => {
        type Weight = i8;
        type Code = u8;
        const PANEL: usize = 64;
        const LANES: usize = 16;
        const GROUP: usize = 4;
        const LOGITS: usize = 16;
        const PROB_OFFSET: i32 = 0;

        unsafe fn encode(input: MatrixView<i8>, k: usize, codes: &mut [u8]) {
            // SAFETY: the caller's promise.
            unsafe { pack::encode(input, k, codes, Self::code(0)) }
        }

        unsafe fn pack_keys(keys: MatrixView<i8>, packed: &mut [i8], bias: &mut [i32]) {
            // SAFETY: the caller's promise.
            unsafe { pack::pack_keys::<Self>(keys, packed, bias) }
        }

        unsafe fn pack_values(values: MatrixView<i8>, packed: &mut [i8], sums: &mut [i32]) {
            // SAFETY: the caller's promise.
            unsafe { pack::pack_values::<Self>(values, packed, sums) }
        }

        unsafe fn expand_8_bit(stored: &[u8], bytes: usize, nibbles: usize, panel: &mut [i8]) {
            // SAFETY: the caller's promise.
            unsafe { pack::expand(stored, bytes, nibbles, panel) }
        }

        #[allow(clippy::inline_always)] // called between uses of tile registers
        #[inline(always)]
        fn prefetch(line: *const u8) {
            // SAFETY: a prefetch reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
        }
    };
    (RowKernels) => {
        unsafe fn reorder_codes(staged: Staged, out: Out<i8>) {
            // SAFETY: the caller's promise.
            unsafe { epilogue::reorder_codes::<Self>(staged, out) }
        }

        unsafe fn reorder_updates(staged: Staged, x: Out<i16>) {
            // SAFETY: the caller's promise.
            unsafe { epilogue::reorder_updates::<Self>(staged, x) }
        }

        unsafe fn row_scales(sums: &RowSums, _rows: usize, head: HeadParams) -> RowScales {
            // SAFETY: the caller's promise.
            unsafe { softmax::row_scales(sums, head) }
        }

        unsafe fn attention_output(
            acc: *const i32,
            means: *const i32,
            scales: &[RowScale],
            out: Out<i8>,
        ) {
            // SAFETY: the caller's promise.
            unsafe { epilogue::attention_output(acc, means, scales, out) }
        }

        unsafe fn rotate(z: &[i16], even: &[i16], odd: &[i16], out: &mut [i8]) {
            // SAFETY: the caller's promise; every CPU of the tier has AVX2.
            unsafe { crate::x86::Avx2::rotate(z, even, odd, out) }
        }

        unsafe fn layer_norm(norm: &LayerNorm, x: MatrixView<i16>, out: MatrixViewMut<i8>) {
            // SAFETY: the caller's promise.
            unsafe { norm::layer_norm(norm, x, out) }
        }
    };
}

// After the macro, which they use.
mod amx;
mod vnni;

pub(crate) use amx::Amx;
pub(crate) use vnni::Vnni;

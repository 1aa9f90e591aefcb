//! Epilogues: rows of 64 accumulators to codes or updates of the residual, and the outputs of
//! attention.

use std::arch::x86_64::*;

use super::vectors::{in_order32, in_order64, in_pack_order, mask16, mask32, put16, put8};
use crate::matrix::Out;
use crate::tiled::{lookup, Epilogue, Layout, Requant, RowScale, Staged, UnfinishedTile};

/// Loads 64 accumulators.
///
/// # Safety
/// They can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) unsafe fn accumulators(acc: *const i32) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    std::array::from_fn(|v| unsafe { _mm512_loadu_si512(acc.add(16 * v).cast()) })
}

/// The parameters of a panel that rows of accumulators share.
struct Panel<'a> {
    requant: &'a Requant,
    right: [__m512i; 4],
    mult: [__m512i; 2],
}

impl<'a> Panel<'a> {
    /// Loads the parameters.
    ///
    /// # Safety
    /// 64 parameters can be read.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn new(requant: &'a Requant) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                requant,
                right: accumulators(requant.right),
                mult: [mult(requant, 0), mult(requant, 1)],
            }
        }
    }

    /// Computes t of 64 accumulators (which hold the rounding half), as words in pack order:
    /// columns 0-31, then 32-63.
    ///
    /// # Safety
    /// 64 shifts can be read; the CPU has the tier's features.
    #[allow(clippy::inline_always)] // between uses of tile registers, nothing is called
    #[inline(always)]
    unsafe fn shifted<A: Accumulators>(&self, acc: [__m512i; 4]) -> [__m512i; 2] {
        let requant = self.requant;
        let mut t = acc;
        for (v, t) in t.iter_mut().enumerate() {
            // SAFETY: v < 4, the caller promises 64 of each.
            unsafe {
                let right = if A::IN_REGISTERS {
                    _mm512_loadu_si512(requant.right.add(16 * v).cast())
                } else {
                    self.right[v]
                };
                *t = _mm512_srav_epi32(*t, right);
                if requant.shifts_left {
                    let left = _mm512_loadu_si512(requant.left.add(16 * v).cast());
                    *t = _mm512_sllv_epi32(*t, left);
                }
            }
        }
        // SAFETY: as above.
        unsafe {
            [
                _mm512_packs_epi32(t[0], t[1]),
                _mm512_packs_epi32(t[2], t[3]),
            ]
        }
    }
}

/// Loads M of 32 columns.
///
/// # Safety
/// They can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn mult(requant: &Requant, half: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(requant.mult.add(32 * half).cast()) }
}

/// Requantizes rows of a panel to codes.
struct Codes<'a> {
    panel: Panel<'a>,
    /// M in pack order.
    mult: [__m512i; 2],
    offset: __m512i,
}

impl<'a> Codes<'a> {
    /// Loads the parameters.
    ///
    /// # Safety
    /// 64 parameters can be read.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn new(requant: &'a Requant, offset: i16) -> Self {
        // SAFETY: the caller's promise.
        let panel = unsafe { Panel::new(requant) };
        Self {
            mult: [in_pack_order(panel.mult[0]), in_pack_order(panel.mult[1])],
            panel,
            offset: _mm512_set1_epi16(offset),
        }
    }

    /// Requantizes a row.
    ///
    /// # Safety
    /// 64 parameters can be read; the CPU has the tier's features.
    #[allow(clippy::inline_always)] // between uses of tile registers, nothing is called
    #[inline(always)]
    unsafe fn row<A: Accumulators>(&self, acc: [__m512i; 4]) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let t = self.panel.shifted::<A>(acc);
            let y = |half: usize| {
                let z = _mm512_mulhrs_epi16(t[half], self.mult[half]);
                _mm512_srai_epi16::<6>(_mm512_adds_epi16(z, self.offset))
            };
            in_order64(_mm512_packs_epi16(y(0), y(1)))
        }
    }
}

/// A table of 256 codes, in registers.
struct Table([__m512i; 4]);

impl Table {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn new(table: &[i8; 256]) -> Self {
        // SAFETY: the table has 256 entries.
        Self(std::array::from_fn(|i| unsafe {
            _mm512_loadu_si512(table.as_ptr().add(64 * i).cast())
        }))
    }

    /// Looks up 64 codes.
    ///
    /// # Safety
    /// The CPU has the tier's features and VBMI.
    #[allow(clippy::inline_always)] // between uses of tile registers, nothing is called
    #[inline(always)]
    unsafe fn look_up(&self, y: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm512_permutex2var_epi8(self.0[0], y, self.0[1]);
            let high = _mm512_permutex2var_epi8(self.0[2], y, self.0[3]);
            _mm512_mask_blend_epi8(_mm512_movepi8_mask(y), high, low)
        }
    }
}

/// A row of 64 accumulators: in registers, or where to find it.
pub(super) trait Accumulators {
    /// They are in registers, which leaves none for a panel's parameters.
    const IN_REGISTERS: bool = false;

    /// Returns the accumulators.
    ///
    /// # Safety
    /// They are live; the CPU has the tier's features.
    unsafe fn load(self) -> [__m512i; 4];
}

impl Accumulators for *const i32 {
    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn load(self) -> [__m512i; 4] {
        // SAFETY: the caller's promise.
        unsafe { accumulators(self) }
    }
}

impl Accumulators for [__m512i; 4] {
    const IN_REGISTERS: bool = true;

    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn load(self) -> [__m512i; 4] {
        self
    }
}

/// The end of an epilogue, where rows of accumulators go. (A trait, since closures that are called
/// in several places are not inlined.)
pub(super) trait FinishRow {
    /// Finishes row `i`.
    ///
    /// # Safety
    /// The accumulators and 64 parameters can be read; the row is live and nothing else refers to
    /// it; the CPU has the tier's features.
    unsafe fn finish<A: Accumulators>(&self, i: usize, row: A);
}

/// Requantizes rows to codes.
struct ToCodes<'a> {
    codes: Codes<'a>,
    out: Out<i8>,
}

impl FinishRow for ToCodes<'_> {
    #[allow(clippy::inline_always)] // between uses of tile registers, nothing is called
    #[inline(always)]
    unsafe fn finish<A: Accumulators>(&self, i: usize, row: A) {
        let Self { codes, out } = self;
        // SAFETY: the caller's promise; the mask keeps the store inside the row.
        unsafe {
            let y = codes.row::<A>(row.load());
            put8(out.ptr.add(i * out.stride), out.cols, y);
        }
    }
}

/// Requantizes rows to codes and looks them up. Needs VBMI.
struct ToTableCodes<'a> {
    codes: Codes<'a>,
    table: Table,
    out: Out<i8>,
}

impl FinishRow for ToTableCodes<'_> {
    #[allow(clippy::inline_always)] // between uses of tile registers, nothing is called
    #[inline(always)]
    unsafe fn finish<A: Accumulators>(&self, i: usize, row: A) {
        let Self { codes, table, out } = self;
        // SAFETY: as above.
        unsafe {
            let y = table.look_up(codes.row::<A>(row.load()));
            put8(out.ptr.add(i * out.stride), out.cols, y);
        }
    }
}

/// Requantizes rows to updates, and adds them to the residual (`ADD`) or stores them.
struct ToUpdates<'a, const ADD: bool> {
    panel: Panel<'a>,
    x: Out<i16>,
}

impl<const ADD: bool> FinishRow for ToUpdates<'_, ADD> {
    #[allow(clippy::inline_always)] // between uses of tile registers, nothing is called
    #[inline(always)]
    unsafe fn finish<A: Accumulators>(&self, i: usize, row: A) {
        let Self { panel, x } = self;
        // SAFETY: the caller's promise; masks keep x inside its row.
        unsafe {
            for (half, t) in panel.shifted::<A>(row.load()).into_iter().enumerate() {
                let cols = x.cols.saturating_sub(32 * half);
                let mult = if A::IN_REGISTERS {
                    mult(panel.requant, half)
                } else {
                    panel.mult[half]
                };
                let at = x.ptr.add(i * x.stride).wrapping_add(32 * half);
                let update = _mm512_mulhrs_epi16(in_order32(t), mult);
                let new = if ADD {
                    let old = _mm512_maskz_loadu_epi16(mask32(cols), at);
                    _mm512_max_epi16(_mm512_adds_epi16(old, update), _mm512_set1_epi16(-i16::MAX))
                } else {
                    update
                };
                put16(at, cols, new);
            }
        }
    }
}

/// Copies rows.
struct ToCopies(Out<i32>);

impl FinishRow for ToCopies {
    #[allow(clippy::inline_always)] // between uses of tile registers, nothing is called
    #[inline(always)]
    unsafe fn finish<A: Accumulators>(&self, i: usize, row: A) {
        let out = &self.0;
        // SAFETY: the caller's promise; masks keep stores inside the row.
        unsafe {
            for (v, acc) in row.load().into_iter().enumerate() {
                let mask = mask16(out.cols.saturating_sub(16 * v));
                let to = out.ptr.add(i * out.stride).wrapping_add(16 * v);
                _mm512_mask_storeu_epi32(to, mask, acc);
            }
        }
    }
}

/// Rows of accumulators.
pub(super) trait AccumulatorRows {
    /// Finishes each row.
    ///
    /// # Safety
    /// As the tier's tile and [`FinishRow::finish`].
    unsafe fn for_each(self, to: &impl FinishRow);

    /// Returns the output, with its number of columns as a constant if the rows' kind implies it.
    fn constant_cols<T>(out: Out<T>) -> Out<T> {
        out
    }
}

/// Accumulators in memory.
pub(super) struct InMemory {
    pub acc: *const i32,
    pub rows: usize,
}

impl AccumulatorRows for InMemory {
    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn for_each(self, to: &impl FinishRow) {
        for i in 0..self.rows {
            // SAFETY: the caller's promise.
            unsafe { to.finish(i, self.acc.wrapping_add(64 * i)) }
        }
    }
}

/// Requantizes rows to codes.
///
/// # Safety
/// As [`RowKernels::finish`] and [`AccumulatorRows::for_each`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn codes<R: AccumulatorRows>(rows: R, requant: &Requant, offset: i16, out: &Out<i8>) {
    let out = R::constant_cols(*out);
    // SAFETY: the caller's promise.
    unsafe {
        let codes = Codes::new(requant, offset);
        rows.for_each(&ToCodes { codes, out });
    }
}

/// Requantizes rows to codes and looks them up.
///
/// # Safety
/// As [`RowKernels::finish`] and [`AccumulatorRows::for_each`]; the CPU has VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn table_codes<R: AccumulatorRows>(
    rows: R,
    requant: &Requant,
    offset: i16,
    table: &[i8; 256],
    out: &Out<i8>,
) {
    let out = R::constant_cols(*out);
    // SAFETY: the caller's promise.
    unsafe {
        let (codes, table) = (Codes::new(requant, offset), Table::new(table));
        rows.for_each(&ToTableCodes { codes, table, out });
    }
}

/// Requantizes rows to updates, and adds them to the residual or stores them.
///
/// # Safety
/// As [`RowKernels::finish`] and [`AccumulatorRows::for_each`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn updates<R: AccumulatorRows, const ADD: bool>(rows: R, requant: &Requant, x: &Out<i16>) {
    let x = R::constant_cols(*x);
    // SAFETY: the caller's promise.
    unsafe {
        let panel = Panel::new(requant);
        rows.for_each(&ToUpdates::<ADD> { panel, x });
    }
}

/// Copies rows.
///
/// # Safety
/// As [`RowKernels::finish`] and [`AccumulatorRows::for_each`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn copies<R: AccumulatorRows>(rows: R, out: &Out<i32>) {
    // SAFETY: the caller's promise.
    unsafe { rows.for_each(&ToCopies(*out)) }
}

/// Runs an epilogue on rows of accumulators, wherever they come from.
///
/// References are passed on. A copy reads at once what was written in parts, and such a read waits
/// until all earlier writes are in the cache, with AMX until earlier tiles are multiplied.
///
/// # Safety
/// As [`RowKernels::finish`] and [`AccumulatorRows::for_each`].
pub(super) unsafe fn run<R: AccumulatorRows>(rows: R, requant: &Requant, epilogue: &Epilogue) {
    // SAFETY: the caller's promise; VBMI is detected.
    unsafe {
        match epilogue {
            Epilogue::Codes { offset, table, out } => match table {
                Some(table) if is_x86_feature_detected!("avx512vbmi") => {
                    table_codes(rows, requant, *offset, table, out);
                }
                Some(table) => {
                    codes(rows, requant, *offset, out);
                    lookup(table, *out);
                }
                None => codes(rows, requant, *offset, out),
            },
            Epilogue::Add { x } => updates::<R, true>(rows, requant, x),
            Epilogue::Updates { out } => updates::<R, false>(rows, requant, out),
            Epilogue::Copy { out } => copies(rows, out),
        }
    }
}

/// Computes [`RowKernels::finish`].
///
/// # Safety
/// As there.
pub(super) unsafe fn finish(tile: &UnfinishedTile) {
    let (acc, rows) = (tile.acc, tile.epilogue.rows());
    // SAFETY: the caller's promise.
    unsafe { run(InMemory { acc, rows }, &tile.requant, &tile.epilogue) }
}

/// Puts staged codes in order.
///
/// # Safety
/// As [`RowKernels::reorder`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn reorder_codes<L: Layout>(staged: Staged, out: Out<i8>) {
    // SAFETY: the caller promises WINDOW values in each row of staged, as many places, and the rows
    // of out; masks keep stores inside them.
    unsafe {
        for half in 0..2 {
            let places =
                _mm512_cvtepu8_epi16(_mm256_loadu_si256(staged.order.add(32 * half).cast()));
            let mask = mask32(out.cols.saturating_sub(32 * half));
            for i in 0..out.rows {
                let words = |half: usize| {
                    let values = staged.values.add(i * L::STAGED + 32 * half);
                    _mm512_cvtepi8_epi16(_mm256_loadu_si256(values.cast()))
                };
                let y = _mm512_permutex2var_epi16(words(0), places, words(1));
                let at = out.ptr.add(i * out.stride).wrapping_add(32 * half);
                _mm512_mask_cvtepi16_storeu_epi8(at, mask, y);
            }
        }
    }
}

/// Puts staged updates in order and adds them to the residual.
///
/// # Safety
/// As [`RowKernels::reorder`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn reorder_updates<L: Layout>(staged: Staged, x: Out<i16>) {
    // SAFETY: as in reorder_codes.
    unsafe {
        let min = _mm512_set1_epi16(-i16::MAX);
        for half in 0..2 {
            let places =
                _mm512_cvtepu8_epi16(_mm256_loadu_si256(staged.order.add(32 * half).cast()));
            let mask = mask32(x.cols.saturating_sub(32 * half));
            for i in 0..x.rows {
                let words = |half: usize| {
                    _mm512_loadu_si512(staged.values.add(2 * (i * L::STAGED + 32 * half)).cast())
                };
                let update = _mm512_permutex2var_epi16(words(0), places, words(1));
                let at = x.ptr.add(i * x.stride).wrapping_add(32 * half);
                let old = _mm512_maskz_loadu_epi16(mask, at);
                let new = _mm512_max_epi16(_mm512_adds_epi16(old, update), min);
                _mm512_mask_storeu_epi16(at, mask, new);
            }
        }
    }
}

/// Computes [`RowKernels::attention_output`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn attention_output(
    acc: *const i32,
    means: *const i32,
    scales: &[RowScale],
    out: Out<i8>,
) {
    // SAFETY: the caller promises 64 means and accumulators for each row; the mask keeps stores
    // inside it.
    unsafe {
        let (eight, offset) = (_mm512_set1_epi32(8), _mm512_set1_epi16(32));
        for (i, scale) in scales.iter().enumerate() {
            // L and the means fit words: |L| <= 8 N <= 2^13, |m| <= 2049. The upper words of L are
            // 0, those of the means their signs.
            let residue = _mm512_set1_epi32(scale.rounding_residue & 0xffff);
            let half = _mm512_set1_epi32(1 << (scale.shift - 1));
            let shift = _mm_cvtsi32_si128(scale.shift as i32);
            let mult = _mm512_set1_epi16(scale.mult);
            let t = |v: usize| {
                let a = _mm512_loadu_si512(acc.add(64 * i + 16 * v).cast());
                let mean = _mm512_loadu_si512(means.add(16 * v).cast());
                let residue = _mm512_srai_epi32::<4>(_mm512_dpwssd_epi32(eight, mean, residue));
                let num = _mm512_add_epi32(_mm512_slli_epi32::<4>(a), residue);
                _mm512_sra_epi32(_mm512_add_epi32(num, half), shift)
            };
            let o = |t: __m512i| {
                let z = _mm512_mulhrs_epi16(t, mult);
                _mm512_srai_epi16::<6>(_mm512_adds_epi16(z, offset))
            };
            let low = o(_mm512_packs_epi32(t(0), t(1)));
            let high = o(_mm512_packs_epi32(t(2), t(3)));
            let y = in_order64(_mm512_packs_epi16(low, high));
            put8(out.ptr.add(i * out.stride), out.cols, y);
        }
    }
}

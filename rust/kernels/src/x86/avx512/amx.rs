//! The tier with AMX: `tdpbssd` and `tdpbusd` multiply 16 rows of 64 codes by 16 rows of 64 weights
//! in one instruction. (The intrinsics are not stable yet in Rust, hence the assembly.)
//!
//! A tile register holds 16 rows of 64 bytes. A register of codes holds 64 k of 16 input rows. A
//! register of weights holds 64 k of 16 rows of a panel, as they are packed: each row of the
//! register is a group of 4 k. Rows are read and written 16 at a time, so a tile's rows are rounded
//! up.

use std::arch::asm;
use std::arch::x86_64::{__m512i, _mm512_add_epi32, _mm_prefetch, _MM_HINT_T1};
use std::ops::RangeInclusive;

use super::epilogue::{self, accumulators, AccumulatorRows, Accumulators};
use super::{norm, pack, softmax};
use crate::matrix::Out;
use crate::tiled::{
    Epilogue, Isa, PanelTiles, Product, RowScale, RowScales, RowSums, Staged, UnfinishedTile,
};
use crate::{HeadParams, LayerNorm, MatrixView, MatrixViewMut};

/// The tier. Its functions need what [`super::Vnni`] needs, and AMX's tiles of 8-bit numbers.
pub(crate) struct Amx;

/// Input rows of a tile: two registers of inputs, two of weights and four of sums make eight.
const ROWS: usize = 2 * WHOLE_ROWS;
/// Rows of a register.
const WHOLE_ROWS: usize = 16;
/// k of a register.
const STEP: usize = 64;
/// The k for which tiles of [`WHOLE_ROWS`] rows are faster: they read weights twice as often as
/// those of [`ROWS`], but leave room for a panel in the first-level cache. With less k both fit,
/// with more neither does.
const SHORT_TILES: RangeInclusive<usize> = 257..=512;

/// Logits of a block up to which its softmax lets the multiplier fall asleep, if it takes that
/// long. Measured with 197 to 785 tokens: vector instructions are slower by some 6 % while it is
/// awake, and with more logits waking it takes longer than that.
const SHORT_SOFTMAX: usize = WHOLE_ROWS * 288;

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Configures eight registers of the largest size.
static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Assembly that may change any tile register.
///
/// Values stay in the registers from one use to the next. The Rust reference does not promise that:
/// a register that is no input of an `asm!` has any value there. They do keep their values, because
/// nothing else writes them:
///
/// - The compiler has no values for them. To Rust they are clobbers, never operands
///   (rust-lang/rust#97097). LLVM assigns them to values of the type `x86_amx` alone, which only
///   AMX's intrinsics make, where the feature `amx-tile` is on; nothing here turns it on.
/// - A function that is called may change them (System V ABI for x86-64: no `tmm` is preserved). So
///   nothing is called between two uses whose values matter: `meanwhile` is inlined.
/// - The kernel saves and restores them, with their configuration, when it switches threads or
///   delivers a signal, as it does the other XSAVE components (Linux's `arch/x86/xstate.rst`).
///
/// `tests/python/test_kernel_code.py` disassembles the crate and checks the first two.
macro_rules! tile_asm {
    ($($arguments:tt)*) => {
        asm!(
            $($arguments)*,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags)
        )
    };
}

/// Configures the tile registers of this thread.
///
/// # Safety
/// AMX is usable.
unsafe fn configure() {
    // SAFETY: reads 64 valid bytes; nobody else uses the tile registers of this thread meanwhile.
    unsafe { tile_asm!("ldtilecfg [{0}]", in(reg) &raw const CONFIGURATION) }
}

/// Empties the tile registers, so that the system need not save them.
///
/// # Safety
/// AMX is usable.
unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { tile_asm!("tilerelease") }
}

/// Loads 16 rows of 64 bytes that start `stride` bytes apart.
///
/// # Safety
/// They can be read; the registers are configured.
#[inline]
unsafe fn load<const TO: u8, T>(rows: *const T, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_asm!(
            "tileloadd tmm{to}, [{rows} + {stride}]",
            to = const TO,
            rows = in(reg) rows,
            stride = in(reg) stride
        );
    }
}

/// Sets a register to zeros.
///
/// # Safety
/// The registers are configured.
#[inline]
unsafe fn zero<const TO: u8>() {
    // SAFETY: the caller's promise.
    unsafe { tile_asm!("tilezero tmm{to}", to = const TO) }
}

/// Stores 16 rows of 64 bytes that start `stride` bytes apart.
///
/// # Safety
/// They can be written; the registers are configured.
#[inline]
unsafe fn store<const FROM: u8>(rows: *mut i32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_asm!(
            "tilestored [{rows} + {stride}], tmm{from}",
            from = const FROM,
            rows = in(reg) rows,
            stride = in(reg) stride
        );
    }
}

/// Adds the products of 16 rows of codes, signed or not, and 16 of weights.
///
/// # Safety
/// The registers are configured.
#[inline]
unsafe fn dot<const SIGNED: bool, const SUMS: u8, const CODES: u8, const WEIGHTS: u8>() {
    // SAFETY: the caller's promise.
    unsafe {
        if SIGNED {
            tile_asm!(
                "tdpbssd tmm{s}, tmm{c}, tmm{w}",
                s = const SUMS,
                c = const CODES,
                w = const WEIGHTS
            );
        } else {
            tile_asm!(
                "tdpbusd tmm{s}, tmm{c}, tmm{w}",
                s = const SUMS,
                c = const CODES,
                w = const WEIGHTS
            );
        }
    }
}

/// Multiplies any contents, so that the tile multiplier stays awake. Measured: it sleeps after
/// 1,600 to 3,200 cycles without work, and the next product then takes 1,500 cycles more.
///
/// # Safety
/// The registers are configured; their contents do not matter.
unsafe fn stay_awake() {
    // SAFETY: the caller's promise.
    unsafe { dot::<true, 0, 4, 6>() }
}

/// Computes rows 0 to 15, or 0 to 31 (`TALL`), by 16 * V columns (V is at most 2 if tall). Sums are
/// in registers 0 to 3, codes in 4 and 5, weights in 6 and 7. Calls `meanwhile` after each step.
///
/// # Safety
/// As [`tile_of`].
#[inline]
unsafe fn block<const SIGNED: bool, const TALL: bool, const V: usize>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
    mut meanwhile: impl FnMut(),
) {
    let Product {
        a,
        stride,
        w,
        width,
        k,
        ..
    } = p;
    // SAFETY: the caller promises all rows and columns.
    unsafe {
        zero::<0>();
        if V > 1 {
            zero::<1>();
        }
        if TALL || V > 2 {
            zero::<2>();
        }
        if TALL && V > 1 || V > 3 {
            zero::<3>();
        }
        let (mut a, mut w) = (a, w);
        for _ in 0..k / STEP {
            load::<4, _>(a, stride);
            load::<6, _>(w, 4 * width);
            dot::<SIGNED, 0, 4, 6>();
            if V > 1 {
                load::<7, _>(w.add(64), 4 * width);
                dot::<SIGNED, 1, 4, 7>();
            }
            if TALL {
                load::<5, _>(a.add(WHOLE_ROWS * stride), stride);
                dot::<SIGNED, 2, 5, 6>();
                if V > 1 {
                    dot::<SIGNED, 3, 5, 7>();
                }
            } else {
                if V > 2 {
                    load::<5, _>(w.add(128), 4 * width);
                    dot::<SIGNED, 2, 4, 5>();
                }
                if V > 3 {
                    load::<6, _>(w.add(192), 4 * width);
                    dot::<SIGNED, 3, 4, 6>();
                }
            }
            (a, w) = (a.wrapping_add(STEP), w.wrapping_add(STEP * width));
            meanwhile();
        }
        store::<0>(out, 4 * out_stride);
        if V > 1 {
            store::<1>(out.add(16), 4 * out_stride);
        }
        let lower = out.add(WHOLE_ROWS * out_stride);
        if TALL || V > 2 {
            store::<2>(if TALL { lower } else { out.add(32) }, 4 * out_stride);
        }
        if TALL && V > 1 || V > 3 {
            store::<3>(
                if TALL { lower.add(16) } else { out.add(48) },
                4 * out_stride,
            );
        }
    }
}

/// Returns how often [`tile_overlapped`] calls `meanwhile`.
fn parts(p: &Product<u8, i8>) -> usize {
    p.k / STEP
        * if p.rows > WHOLE_ROWS {
            p.width.div_ceil(32)
        } else {
            1
        }
}

/// Computes [`Isa::tile`] for codes, signed or not, and calls `meanwhile` between its products.
///
/// # Safety
/// As there, for rows rounded up to [`WHOLE_ROWS`], between [`configure`] and [`release`].
#[inline]
unsafe fn tile_overlapped<const SIGNED: bool>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
    mut meanwhile: impl FnMut(),
) {
    debug_assert!(p.rows <= ROWS && p.width.is_multiple_of(16) && p.k.is_multiple_of(STEP));
    // SAFETY: the caller promises whole registers of rows, and every column.
    unsafe {
        if p.rows > WHOLE_ROWS {
            for col in (0..p.width).step_by(32) {
                let (w, out) = (p.w.add(4 * col), out.add(col));
                let columns = Product { w, ..p };
                if p.width - col > 16 {
                    block::<SIGNED, true, 2>(columns, out, out_stride, &mut meanwhile);
                } else {
                    block::<SIGNED, true, 1>(columns, out, out_stride, &mut meanwhile);
                }
            }
        } else {
            match p.width / 16 {
                1 => block::<SIGNED, false, 1>(p, out, out_stride, meanwhile),
                2 => block::<SIGNED, false, 2>(p, out, out_stride, meanwhile),
                3 => block::<SIGNED, false, 3>(p, out, out_stride, meanwhile),
                _ => block::<SIGNED, false, 4>(p, out, out_stride, meanwhile),
            }
        }
    }
}

/// Computes a tile of more than [`WHOLE_ROWS`] rows and 64 columns.
///
/// # Safety
/// As [`tile_overlapped`].
#[allow(clippy::inline_always)] // so that nothing is called between uses of tile registers
#[inline(always)]
unsafe fn tall_tile(p: Product<u8, i8>, out: *mut i32, mut meanwhile: impl FnMut()) {
    // SAFETY: the caller's promise.
    unsafe {
        for col in [0, 32] {
            let w = p.w.add(4 * col);
            block::<true, true, 2>(Product { w, ..p }, out.add(col), 64, &mut meanwhile);
        }
    }
}

/// Computes [`Isa::tile`] for codes, signed or not.
///
/// # Safety
/// As there, for rows rounded up to [`WHOLE_ROWS`], between [`configure`] and [`release`].
unsafe fn tile_of<const SIGNED: bool>(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { tile_overlapped::<SIGNED>(p, out, out_stride, || ()) }
}

/// Prefetches weights into the second-level cache, a part at a time: all at once would keep a
/// tile's own loads waiting.
struct Prefetch {
    next: *const u8,
    /// Cache lines of a part.
    lines: usize,
}

impl Prefetch {
    /// Prepares to prefetch the weights `soon` in `parts` parts.
    fn new(soon: &[u8], parts: usize) -> Self {
        Self {
            next: soon.as_ptr(),
            lines: soon.len().div_ceil(64 * parts),
        }
    }

    /// Prefetches the next part.
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    fn step(&mut self) {
        for _ in 0..self.lines {
            Amx::prefetch(self.next);
            self.next = self.next.wrapping_add(64);
        }
    }
}

/// Computes [`Isa::tile_and_finish`] without a tile before. (A function of its own, so that the
/// calls of epilogues do not stand among its tile registers' uses.)
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn first_tile(p: &Product<u8, i8>, acc: *mut i32, prefetch: &mut Prefetch) {
    // SAFETY: the caller's promise.
    unsafe { tile_overlapped::<true>(*p, acc, Amx::PANEL, || prefetch.step()) }
}

/// A row of 64 accumulators to which the biases are still to be added.
struct Unbiased {
    acc: *const i32,
    bias: [__m512i; 4],
}

impl Accumulators for Unbiased {
    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn load(self) -> [__m512i; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let acc = accumulators(self.acc);
            std::array::from_fn(|v| _mm512_add_epi32(acc[v], self.bias[v]))
        }
    }
}

/// The rows of an unfinished tile.
struct StoredTile {
    acc: *const i32,
    bias: *const i32,
    rows: usize,
}

impl StoredTile {
    fn new(tile: &UnfinishedTile) -> Self {
        Self {
            acc: tile.acc,
            bias: tile.requant.bias,
            rows: tile.epilogue.rows(),
        }
    }

    /// Returns a function that calls `each(i, row)` for a part of the rows, for all of them in
    /// `calls` calls.
    ///
    /// # Safety
    /// The accumulators and biases can be read until the last call; the CPU has the tier's
    /// features.
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn in_parts(self, calls: usize, mut each: impl FnMut(usize, Unbiased)) -> impl FnMut() {
        let Self { acc, bias, rows } = self;
        // SAFETY: the caller's promise.
        let bias = unsafe { accumulators(bias) };
        let part = rows.div_ceil(calls);
        let mut done = 0;
        move || {
            let end = rows.min(done + part);
            for i in done..end {
                let acc = acc.wrapping_add(64 * i);
                each(i, Unbiased { acc, bias });
            }
            done = end;
        }
    }
}

impl AccumulatorRows for StoredTile {
    type Row = Unbiased;

    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn for_each(self, each: impl FnMut(usize, Unbiased)) {
        // SAFETY: the caller's promise.
        unsafe { self.in_parts(1, each)() }
    }
}

/// A tile that is multiplied into `acc` while the tile before is finished and weights are
/// prefetched.
struct OverlappedTile<'a> {
    p: &'a Product<u8, i8>,
    acc: *mut i32,
    before: StoredTile,
    prefetch: &'a mut Prefetch,
}

impl AccumulatorRows for OverlappedTile<'_> {
    type Row = Unbiased;

    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn for_each(self, each: impl FnMut(usize, Unbiased)) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut finish = self.before.in_parts(parts(self.p), each);
            tile_overlapped::<true>(*self.p, self.acc, Amx::PANEL, || {
                self.prefetch.step();
                finish();
            });
        }
    }
}

/// Multiplies a tile into `acc`. Meanwhile finishes the tile before, if there is one, and
/// prefetches.
///
/// # Safety
/// As [`Isa::tile_and_finish`].
unsafe fn finish_during(
    p: &Product<u8, i8>,
    acc: *mut i32,
    before: Option<&UnfinishedTile>,
    prefetch: &mut Prefetch,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(before) = before {
            let overlapped = OverlappedTile {
                p,
                acc,
                before: StoredTile::new(before),
                prefetch,
            };
            epilogue::run(overlapped, &before.requant, &before.epilogue);
        } else {
            first_tile(p, acc, prefetch);
        }
    }
}

/// All tiles of a panel but the first: each is multiplied while the tile before is finished.
struct FollowingTiles<'a> {
    tiles: &'a PanelTiles<'a, Amx>,
    prefetch: Prefetch,
}

impl AccumulatorRows for FollowingTiles<'_> {
    type Row = Unbiased;

    #[allow(clippy::inline_always)] // so that the stores need no mask
    #[inline(always)]
    fn constant_cols<T>(out: Out<T>) -> Out<T> {
        Out { cols: 64, ..out }
    }

    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn for_each(mut self, mut each: impl FnMut(usize, Unbiased)) {
        let &PanelTiles {
            rows, acc, requant, ..
        } = self.tiles;
        // SAFETY: the caller's promise.
        unsafe {
            for t in 1..self.tiles.count() {
                let before = StoredTile {
                    acc: acc[(t - 1) % 2],
                    bias: requant.bias,
                    rows,
                };
                let p = self.tiles.product(t);
                let first = (t - 1) * rows;
                let mut finish = before.in_parts(parts(&p), |i, row| each(first + i, row));
                let meanwhile = || {
                    self.prefetch.step();
                    finish();
                };
                let acc = acc[t % 2];
                if p.rows > WHOLE_ROWS {
                    tall_tile(p, acc, meanwhile);
                } else {
                    block::<true, false, 4>(p, acc, Amx::PANEL, meanwhile);
                }
            }
        }
    }
}

/// Computes [`Isa::probe`].
///
/// # Safety
/// As there.
unsafe fn probe(iterations: u32) -> (u64, i32) {
    let mut sums = [0; 16 * 16];
    // SAFETY: the caller's promise; one register of sums is stored.
    unsafe {
        configure();
        for _ in 0..iterations {
            dot::<true, 0, 4, 6>();
            dot::<true, 1, 4, 7>();
            dot::<true, 2, 5, 6>();
            dot::<true, 3, 5, 7>();
        }
        store::<0>(sums.as_mut_ptr(), 64);
        release();
    }
    (
        u64::from(iterations) * 4 * (16 * 16 * 64),
        sums.iter().sum(),
    )
}

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl Isa for Amx {
    shared!();
    const ROWS: usize = ROWS;
    const WHOLE_ROWS: usize = WHOLE_ROWS;
    const QUERIES: usize = WHOLE_ROWS;
    const STEP: usize = STEP;
    const CODE_OFFSET: i32 = 0;
    const OVERLAPS: bool = true;

    fn tile_rows(k: usize) -> usize {
        if SHORT_TILES.contains(&k) {
            WHOLE_ROWS
        } else {
            ROWS
        }
    }

    fn code(a: i8) -> u8 {
        a as u8
    }

    unsafe fn tile(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { tile_of::<true>(p, out, out_stride) }
    }

    unsafe fn tile_probs(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { tile_of::<false>(p, out, out_stride) }
    }

    unsafe fn finish(tile: &UnfinishedTile) {
        let rows = StoredTile::new(tile);
        // SAFETY: the caller's promise.
        unsafe { epilogue::run(rows, &tile.requant, &tile.epilogue) }
    }

    unsafe fn tile_and_finish(
        p: &Product<u8, i8>,
        acc: *mut i32,
        before: Option<&UnfinishedTile>,
        soon: &[u8],
    ) {
        let mut prefetch = Prefetch::new(soon, parts(p));
        // SAFETY: the caller's promise.
        unsafe { finish_during(p, acc, before, &mut prefetch) }
    }

    unsafe fn panel_and_finish(tiles: &PanelTiles<Self>, before: Option<&UnfinishedTile>) {
        let first = tiles.product(0);
        let mut prefetch = Prefetch::new(tiles.soon, tiles.count() * parts(&first));
        // SAFETY: the caller's promise.
        unsafe {
            finish_during(&first, tiles.acc[0], before, &mut prefetch);
            let rows = FollowingTiles { tiles, prefetch };
            epilogue::run(rows, &tiles.requant, &tiles.epilogue);
        }
    }

    unsafe fn enter_thread() {
        // SAFETY: the caller's promise.
        unsafe { configure() }
    }

    unsafe fn leave_thread() {
        // SAFETY: the caller's promise.
        unsafe { release() }
    }

    unsafe fn softmax(
        logits: *const i32,
        probs: *mut u8,
        strides: [usize; 2],
        [tokens, rows]: [usize; 2],
        mult: i32,
        sums: &mut RowSums,
    ) {
        // SAFETY: the caller's promise; `attention` has configured the registers.
        unsafe {
            let after_row = || {
                if tokens * rows > SHORT_SOFTMAX {
                    stay_awake();
                }
            };
            softmax::softmax(
                logits,
                probs,
                strides,
                [tokens, rows],
                mult,
                sums,
                after_row,
            );
        }
    }

    unsafe fn probe(iterations: u32) -> (u64, i32) {
        // SAFETY: the caller's promise.
        unsafe { probe(iterations) }
    }
}

//! The tier with AMX: `tdpbssd` and `tdpbusd` multiply 16 rows of 64 codes by 16 rows of 64 weights
//! in one instruction.
//!
//! `registers` holds the instructions, `blocks` the products of four registers of sums. Here they
//! become tiles, whose epilogues run during the next products. Rows are read and written 16 at a
//! time, so a tile's rows are rounded up.

mod blocks;
mod registers;

use std::arch::x86_64::{__m512i, _mm512_add_epi32, _mm_prefetch, _MM_HINT_T1};
use std::ops::RangeInclusive;

use super::epilogue::{self, accumulators, AccumulatorRows, Accumulators, FinishRow};
use super::{norm, pack, softmax};
use crate::matrix::Out;
use crate::tiled::{
    panels, Layout, Overlap, PanelTiles, Product, RowKernels, RowScale, RowScales, RowSums, Staged,
    Tiles, UnfinishedTile,
};
use crate::{HeadParams, LayerNorm, MatrixView, MatrixViewMut};
use blocks::{
    block, steps, tall_tile, tile_in_registers, tile_overlapped, Meanwhile, Start, Unstored, ROWS,
};
use registers::{configure, dot, release, stay_awake, store, STEP, WHOLE_ROWS};

/// The tier. Its functions need what [`super::Vnni`] needs, and AMX's tiles of 8-bit numbers.
pub(crate) struct Amx;

/// The k for which tiles of [`WHOLE_ROWS`] rows are faster: they read weights twice as often as
/// those of [`ROWS`], but leave room for a panel in the first-level cache. With less k both fit.
const SHORT_TILES: RangeInclusive<usize> = 257..=512;
/// The largest part into which a larger k is cut. All rows are multiplied in one part before the
/// next, in short tiles, so that a part of a panel stays in that cache.
const K_PART: usize = 448;

/// Logits of a block up to which its softmax lets the multiplier fall asleep, if it takes that
/// long. Measured with 197 to 785 tokens: vector instructions are slower by some 6 % while it is
/// awake, and with more logits waking it takes longer than that.
const SHORT_SOFTMAX: usize = WHOLE_ROWS * 288;

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
}

impl Meanwhile for Prefetch {
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn step(&mut self, _is_stored: bool) {
        for _ in 0..self.lines {
            Amx::prefetch(self.next);
            self.next = self.next.wrapping_add(64);
        }
    }
}

/// Computes [`Overlap::tile`] without a tile before. (A function of its own, so that the
/// calls of epilogues do not stand among its tile registers' uses.)
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn first_tile(p: &Product<u8, i8>, acc: *mut i32, prefetch: &mut Prefetch) {
    // SAFETY: the caller's promise.
    unsafe { tile_overlapped::<true>(*p, acc, Amx::PANEL, prefetch) }
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

    /// Prepares to finish the rows in `parts` parts: row `i` as row `first + i`.
    ///
    /// # Safety
    /// The biases can be read; the CPU has the tier's features.
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn in_parts<'a, T: FinishRow>(
        self,
        parts: usize,
        first: usize,
        to: &'a T,
        prefetch: &'a mut Prefetch,
    ) -> FinishInParts<'a, T> {
        let Self { acc, bias, rows } = self;
        FinishInParts {
            prefetch,
            to,
            acc,
            // SAFETY: the caller's promise.
            bias: unsafe { accumulators(bias) },
            rows,
            first,
            part: rows.div_ceil(parts),
            done: 0,
        }
    }
}

impl AccumulatorRows for StoredTile {
    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn for_each(self, to: &impl FinishRow) {
        // SAFETY: the caller's promise.
        unsafe { (self.in_parts(1, 0, to, &mut Prefetch::new(&[], 1))).step(true) }
    }
}

/// Finishes the rows of a tile, and prefetches, a part at a time.
struct FinishInParts<'a, T> {
    prefetch: &'a mut Prefetch,
    to: &'a T,
    acc: *const i32,
    bias: [__m512i; 4],
    rows: usize,
    /// The place of the tile's first row in what `to` finishes.
    first: usize,
    /// Rows of a part.
    part: usize,
    done: usize,
}

impl<T: FinishRow> Meanwhile for FinishInParts<'_, T> {
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn step(&mut self, is_stored: bool) {
        let part = if is_stored { self.part } else { 0 };
        let end = self.rows.min(self.done + part);
        // SAFETY: the caller's promise.
        unsafe {
            self.prefetch.step(is_stored);
            for i in self.done..end {
                let row = Unbiased {
                    acc: self.acc.wrapping_add(64 * i),
                    bias: self.bias,
                };
                self.to.finish(self.first + i, row);
            }
        }
        self.done = end;
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
    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn for_each(self, to: &impl FinishRow) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut meanwhile = (self.before).in_parts(steps(self.p)[1], 0, to, self.prefetch);
            tile_overlapped::<true>(*self.p, self.acc, Amx::PANEL, &mut meanwhile);
        }
    }
}

/// Multiplies a tile into `acc`. Meanwhile finishes the tile before, if there is one, and
/// prefetches.
///
/// # Safety
/// As [`Overlap::tile`].
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
    #[allow(clippy::inline_always)] // so that the stores need no mask
    #[inline(always)]
    fn constant_cols<T>(out: Out<T>) -> Out<T> {
        Out { cols: 64, ..out }
    }

    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn for_each(mut self, to: &impl FinishRow) {
        let &PanelTiles {
            rows, acc, requant, ..
        } = self.tiles;
        let mut unstored = Unstored::NONE;
        // SAFETY: the caller's promise.
        unsafe {
            for t in 1..self.tiles.count() {
                let before = StoredTile {
                    acc: acc[(t - 1) % 2],
                    bias: requant.bias,
                    rows,
                };
                let p = self.tiles.product(t, self.tiles.k_parts - 1);
                let first = (t - 1) * rows;
                let prefetch = &mut self.prefetch;
                let meanwhile = &mut before.in_parts(steps(&p)[1], first, to, prefetch);
                let acc = acc[t % 2];
                unstored = if p.rows > WHOLE_ROWS {
                    tall_tile(p, acc, unstored, meanwhile)
                } else {
                    let start = Start {
                        before: unstored,
                        from: sums_before(self.tiles, t, self.tiles.k_parts - 1),
                    };
                    block::<true, false, 4>(p, acc, Amx::PANEL, start, meanwhile)
                };
            }
            unstored.store();
        }
    }
}

/// Returns the room for the sums of tile `t` over all parts of k but the last.
fn part_sums(tiles: &PanelTiles<Amx>, t: usize) -> *mut i32 {
    tiles.sums.wrapping_add(t * tiles.rows * Amx::PANEL)
}

/// Returns the sums to which tile `t` adds in part `part` of k; null in the first one.
fn sums_before(tiles: &PanelTiles<Amx>, t: usize, part: usize) -> *const i32 {
    if part == 0 {
        std::ptr::null()
    } else {
        part_sums(tiles, t)
    }
}

/// Multiplies all parts of k but the last, and in that the first tile, for [`FollowingTiles`]. The
/// first tile of the first part is multiplied already.
///
/// # Safety
/// As [`Overlap::panel`].
unsafe fn multiply_parts(tiles: &PanelTiles<Amx>, prefetch: &mut Prefetch) {
    let last = tiles.k_parts - 1;
    let mut before = Unstored::NONE;
    for part in 0..=last {
        let (first, end) = (
            usize::from(part == 0),
            if part == last { 1 } else { tiles.count() },
        );
        for t in first..end {
            let to = if part == last {
                tiles.acc[0]
            } else {
                part_sums(tiles, t)
            };
            let start = Start {
                before,
                from: sums_before(tiles, t, part),
            };
            let p = tiles.product(t, part);
            // SAFETY: the caller's promise; there is room for the sums of all tiles.
            before = unsafe { block::<true, false, 4>(p, to, Amx::PANEL, start, prefetch) };
        }
    }
    // SAFETY: as above.
    unsafe { before.store() }
}

/// Computes [`Tiles::probe`].
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

/// Computes [`Overlap::tile`].
///
/// # Safety
/// As there.
unsafe fn overlapped_tile(
    p: &Product<u8, i8>,
    acc: *mut i32,
    before: Option<&UnfinishedTile>,
    soon: &[u8],
) {
    let mut prefetch = Prefetch::new(soon, steps(p)[0]);
    // SAFETY: the caller's promise.
    unsafe { finish_during(p, acc, before, &mut prefetch) }
}

/// Computes [`Overlap::panel`].
///
/// # Safety
/// As there.
unsafe fn overlapped_panel(tiles: &PanelTiles<Amx>, before: Option<&UnfinishedTile>) {
    debug_assert!(tiles.k_parts == 1 || tiles.rows == WHOLE_ROWS);
    let first = tiles.product(0, 0);
    // The last tile may have fewer rows, and so fewer steps.
    let tile_steps =
        |t: usize| (0..tiles.k_parts).map(move |part| steps(&tiles.product(t, part))[0]);
    let last = tiles.count() - 1;
    let all = last * tile_steps(0).sum::<usize>() + tile_steps(last).sum::<usize>();
    let mut prefetch = Prefetch::new(tiles.soon, all);
    // SAFETY: the caller's promise.
    unsafe {
        if tiles.k_parts == 1 {
            finish_during(&first, tiles.acc[0], before, &mut prefetch);
        } else {
            finish_during(&first, part_sums(tiles, 0), before, &mut prefetch);
            multiply_parts(tiles, &mut prefetch);
        }
        let rows = FollowingTiles { tiles, prefetch };
        epilogue::run(rows, &tiles.requant, &tiles.epilogue);
    }
}

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl Layout for Amx {
    shared!(Layout);
    const ROWS: usize = ROWS;
    const WHOLE_ROWS: usize = WHOLE_ROWS;
    const QUERIES: usize = WHOLE_ROWS;
    const STEP: usize = STEP;
    const CODE_OFFSET: i32 = 0;

    fn code(a: i8) -> u8 {
        a as u8
    }
}

// SAFETY: as above.
unsafe impl RowKernels for Amx {
    shared!(RowKernels);

    unsafe fn finish(tile: &UnfinishedTile) {
        let rows = StoredTile::new(tile);
        // SAFETY: the caller's promise.
        unsafe { epilogue::run(rows, &tile.requant, &tile.epilogue) }
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
}

// SAFETY: as above.
unsafe impl Tiles for Amx {
    const OVERLAP: Option<Overlap<Self>> = Some(Overlap {
        tile: overlapped_tile,
        panel: overlapped_panel,
    });

    fn k_parts(k: usize) -> usize {
        if k > *SHORT_TILES.end() {
            k.div_ceil(K_PART)
        } else {
            1
        }
    }

    fn tile_rows(k: usize) -> usize {
        if SHORT_TILES.contains(&k) {
            WHOLE_ROWS
        } else {
            ROWS
        }
    }

    unsafe fn tile(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { tile_overlapped::<true>(p, out, out_stride, &mut ()) }
    }

    unsafe fn tiles_of_panels(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
        let mut before = Unstored::NONE;
        // SAFETY: the caller's promise.
        unsafe {
            for (first, width) in panels::<Self>(p.width) {
                let (p, out) = (p.panel(first, width), out.add(first));
                before = tile_in_registers::<true>(p, out, out_stride, before, &mut ());
            }
            before.store();
        }
    }

    unsafe fn tile_probs(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { tile_overlapped::<false>(p, out, out_stride, &mut ()) }
    }

    unsafe fn enter_thread() {
        // SAFETY: the caller's promise.
        unsafe { configure() }
    }

    unsafe fn leave_thread() {
        // SAFETY: the caller's promise.
        unsafe { release() }
    }

    unsafe fn probe(iterations: u32) -> (u64, i32) {
        // SAFETY: the caller's promise.
        unsafe { probe(iterations) }
    }
}

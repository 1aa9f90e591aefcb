//! Preprocessing on Arm. NEON has no sum of products across a vector that is as wide as a weight,
//! so columns are summed as rows are: pixels of eight rows lie side by side in the lanes of
//! vectors. Both are widened to 32 bits once for the outputs of a group.
//!
//! `neon` has the loops of 64-bit Arm, `neon32` those of 32-bit Arm.

use std::array::from_fn;

use super::colour::YuvMatrix;
use super::scalar;
use super::windows::{Windows, GROUP, OUTPUTS, ROOM};
use crate::{MatrixView, MatrixViewMut};

/// Rows side by side.
pub(crate) const LANES: usize = 8;
/// Columns that are laid side by side, or split into rows, at a time.
pub(crate) const BLOCK: usize = 16;
/// Vectors of a row that are summed at a time.
const VECTORS: usize = 4;
/// Bytes of a row that are summed at a time.
const WIDE: usize = VECTORS * LANES;

/// Pixels that are converted at a time.
pub(crate) const PIXELS: usize = 16;

/// Vectors of 32-bit numbers that are kept: those of a group's pixels, and a block on either side,
/// or those of its rows. They take 20 KB.
const WIDENED: usize = VECTORS * ROOM;
const _: () = assert!(WIDENED >= 3 * ROOM + 2 * BLOCK);

/// Loops of an instruction set.
///
/// # Safety
/// An implementation does what the comments say, for what the caller promises.
pub(crate) unsafe trait Loops {
    /// Lays `blocks` blocks of 16 bytes of each row side by side, as 32-bit numbers.
    ///
    /// # Safety
    /// The CPU has NEON; each row has as many bytes, and `out` has room for as many columns.
    unsafe fn widen(rows: &[*const u8; LANES], blocks: usize, out: *mut [i32; LANES]);

    /// Writes [`WIDE`] bytes of `rows` rows, `stride` apart, as 32-bit numbers.
    ///
    /// # Safety
    /// The CPU has NEON; each row has as many bytes, and `out` has room for as many numbers.
    unsafe fn widen_rows(source: *const u8, stride: usize, rows: usize, out: *mut [i32; LANES]);

    /// Sums the pixels, of C vectors each, from `pixels` on by their weights and rounds the sums.
    ///
    /// # Safety
    /// The CPU has NEON; there are at least one weight, as many pixels, and room for one.
    unsafe fn sum<const C: usize>(
        pixels: *const [i32; LANES],
        weights: &[[i32; GROUP]],
        out: *mut [u8; LANES],
    );

    /// Splits columns into rows from `out` on, `stride` apart.
    ///
    /// # Safety
    /// The CPU has NEON; there is room for the rows.
    unsafe fn split(columns: &[[u8; LANES]; BLOCK], out: *mut u8, stride: usize);

    /// Lays 16 bytes of each row side by side, XOR `flip`: byte `j` of the first N rows from
    /// `out + places[j]` on. N is 4 or 8.
    ///
    /// # Safety
    /// The CPU has NEON; each row has as many bytes, and each place has room for N.
    unsafe fn lay<const N: usize>(
        rows: &[*const u8; LANES],
        flip: u8,
        places: &[usize; BLOCK],
        out: *mut u8,
    );

    /// Converts 16 pixels of NV12.
    ///
    /// # Safety
    /// The CPU has NEON.
    unsafe fn nv12(
        matrix: &YuvMatrix,
        luma: &[u8; PIXELS],
        chroma: &[u8; PIXELS],
        out: &mut [u8; 3 * PIXELS],
    );

    /// Converts 16 pixels of YUYV.
    ///
    /// # Safety
    /// The CPU has NEON.
    unsafe fn yuyv(matrix: &YuvMatrix, pixels: &[u8; 2 * PIXELS], out: &mut [u8; 3 * PIXELS]);
}

/// Computes [`scalar::rows`].
///
/// # Safety
/// The CPU has NEON; the windows along rows are inside `source`, which begins with source row
/// `first`; `out` has a row for each window and the source's columns.
pub(crate) unsafe fn rows<L: Loops>(
    windows: &Windows,
    source: &MatrixView<u8>,
    first: usize,
    out: &mut MatrixViewMut<u8>,
) {
    let cols = source.cols();
    if cols < WIDE || windows.longest() > ROOM {
        scalar::rows(windows, source, first, out);
        return;
    }
    let mut widened = [[0; LANES]; WIDENED];
    for (group, span) in &windows.groups {
        let (source, stride) = source.starting_at(span.start - first);
        let rows = out.block(group.start, group.len(), 0, cols);
        for at in (0..cols).step_by(WIDE) {
            // The last block overlaps the one before.
            let at = at.min(cols - WIDE);
            // SAFETY: the caller promises NEON and the rows. A block ends inside them, and a window
            // inside the group's room.
            unsafe {
                L::widen_rows(source.add(at), stride, span.len(), widened.as_mut_ptr());
                let mut out = rows.ptr.add(at);
                for (start, weights) in windows.padded(group) {
                    let from = widened.as_ptr().add(VECTORS * (start - span.start));
                    L::sum::<VECTORS>(from, weights, out.cast());
                    out = out.wrapping_add(rows.stride);
                }
            }
        }
    }
}

/// Computes [`scalar::columns`].
///
/// # Safety
/// The CPU has NEON; the windows along columns are inside the rows of `source`, whose first pixel
/// is source index `first`; `out` has the source's rows and a pixel for each window.
pub(crate) unsafe fn columns<L: Loops, const C: usize>(
    windows: &Windows,
    source: &MatrixView<u8>,
    first: usize,
    out: &mut MatrixViewMut<u8>,
) {
    let cols = source.cols();
    if cols < BLOCK || windows.longest() > ROOM {
        scalar::columns::<C>(windows, source, first, out);
        return;
    }
    let mut widened = [[0; LANES]; WIDENED];
    let mut sums = [[0; LANES]; 3 * OUTPUTS];
    for y in (0..source.rows()).step_by(LANES) {
        let live = LANES.min(source.rows() - y);
        // A row that is missing is the last one again.
        let row = |lane: usize| source.row(y + lane.min(live - 1)).as_ptr();
        let rows: [_; LANES] = from_fn(row);
        for (group, span) in &windows.groups {
            let from = (C * (span.start - first)).min(cols - BLOCK);
            let (blocks, whole) = (
                (C * (span.end - first) - from).div_ceil(BLOCK),
                (cols - from) / BLOCK,
            );
            let beginning = |at: usize| rows.map(|row| row.wrapping_add(at));
            // SAFETY: the caller promises NEON. Blocks end inside the rows: if the span's last one
            // would not, it ends with them. A window ends inside the group's room.
            unsafe {
                let columns = widened.as_mut_ptr();
                L::widen(&beginning(from), blocks.min(whole), columns);
                if blocks > whole {
                    let last = cols - BLOCK;
                    L::widen(&beginning(last), 1, columns.add(last - from));
                }
                let outputs = windows.padded(group).zip(sums.as_chunks_mut::<C>().0);
                for ((start, weights), sums) in outputs {
                    let from = columns.add(C * (start - first) - from);
                    L::sum::<C>(from, weights, sums.as_mut_ptr());
                }
            }
            let (from, end) = (C * group.start, C * group.end);
            let blocks = (from..end).step_by(BLOCK);
            for (at, columns) in blocks.zip(sums.as_chunks::<BLOCK>().0) {
                let bytes = BLOCK.min(end - at);
                let out = out.block(y, live, at, bytes);
                if live == LANES && bytes == BLOCK {
                    // SAFETY: the caller promises NEON, and the block is whole.
                    unsafe { L::split(columns, out.ptr, out.stride) };
                    continue;
                }
                let mut whole = [[0; BLOCK]; LANES];
                // SAFETY: the caller promises NEON; the block has as many rows and bytes.
                unsafe {
                    L::split(columns, whole.as_mut_ptr().cast(), BLOCK);
                    for (lane, row) in whole.iter().enumerate().take(live) {
                        let out = out.ptr.add(lane * out.stride);
                        out.copy_from_nonoverlapping(row.as_ptr(), bytes);
                    }
                }
            }
        }
    }
}

/// Computes [`scalar::interleave`].
///
/// # Safety
/// The CPU has NEON; the lines are inside `data`, and their places inside `out`.
pub(crate) unsafe fn interleave<L: Loops>(
    data: &[u8],
    starts: &[usize],
    flip: u8,
    places: &[usize],
    out: &mut [u8],
) {
    let (lines, bytes) = (starts.len(), places.len());
    let each = if lines < LANES { LANES / 2 } else { LANES };
    if lines < each || bytes < BLOCK {
        scalar::interleave(data, starts, flip, places, out);
        return;
    }
    for lane in (0..lines).step_by(each) {
        // The last lanes overlap the ones before, as do the last bytes.
        let lane = lane.min(lines - each);
        let rows: [_; LANES] = from_fn(|i| data.as_ptr().wrapping_add(starts[lane + i % each]));
        for at in (0..bytes).step_by(BLOCK) {
            let at = at.min(bytes - BLOCK);
            let rows = rows.map(|row| row.wrapping_add(at));
            let places = places[at..].first_chunk().expect("a block of places");
            // SAFETY: the caller promises NEON, the lines and the places.
            unsafe {
                let out = out.as_mut_ptr().add(lane);
                if each == LANES {
                    L::lay::<LANES>(&rows, flip, places, out);
                } else {
                    L::lay::<{ LANES / 2 }>(&rows, flip, places, out);
                }
            }
        }
    }
}

/// Computes [`scalar::nv12`].
///
/// # Safety
/// The CPU has NEON; the sizes agree.
pub(crate) unsafe fn nv12<L: Loops>(
    matrix: &YuvMatrix,
    luma: &[u8],
    chroma: &[u8],
    out: &mut [u8],
) {
    let (wholes, outs) = (chroma.as_chunks().0, out.as_chunks_mut().0);
    for ((luma, chroma), out) in luma.as_chunks().0.iter().zip(wholes).zip(outs) {
        // SAFETY: the caller promises NEON.
        unsafe { L::nv12(matrix, luma, chroma, out) };
    }
    // The last pixels overlap the ones before.
    match (luma.last_chunk(), chroma.last_chunk(), out.last_chunk_mut()) {
        // SAFETY: the caller promises NEON.
        (Some(luma), Some(chroma), Some(out)) => unsafe { L::nv12(matrix, luma, chroma, out) },
        _ => scalar::nv12(matrix, luma, chroma, out),
    }
}

/// Computes [`scalar::yuyv`].
///
/// # Safety
/// The CPU has NEON; the sizes agree.
pub(crate) unsafe fn yuyv<L: Loops>(matrix: &YuvMatrix, pixels: &[u8], out: &mut [u8]) {
    for (pixels, out) in pixels.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        // SAFETY: the caller promises NEON.
        unsafe { L::yuyv(matrix, pixels, out) };
    }
    match (pixels.last_chunk(), out.last_chunk_mut()) {
        // SAFETY: the caller promises NEON.
        (Some(pixels), Some(out)) => unsafe { L::yuyv(matrix, pixels, out) },
        _ => scalar::yuyv(matrix, pixels, out),
    }
}

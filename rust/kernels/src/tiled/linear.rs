//! Computes a layer's product: for each panel, multiplies every tile of input rows and runs its
//! epilogue.

use super::epilogue::{Epilogue, Outputs, Requant, Staged, UnfinishedTile};
use super::inputs::{whole_rows, Inputs};
use super::isa::{Isa, Product, ProductOf};
use crate::buffer::{Buffer, Plain};
use crate::layers::{Panel, WindowOfRows, WINDOW};
use crate::{Linear, LinearRows, MatrixView, MatrixViewMut, Scratch};

/// Returns the parameters of a panel, with the biases of all slots.
fn requant<I: Isa>(linear: &Linear, panel: &Panel, bias: &[i32]) -> Requant {
    let slots = panel.slot..panel.slot + I::PANEL;
    Requant {
        bias: bias[slots.clone()].as_ptr(),
        mult: linear.mult.as_slice::<i16>()[slots.clone()].as_ptr(),
        right: linear.right.as_slice::<i32>()[slots.clone()].as_ptr(),
        left: linear.left.as_slice::<i32>()[slots].as_ptr(),
        shifts_left: panel.shifts_left,
    }
}

/// A tile whose epilogue runs during the next multiplication.
struct PendingTile<'a> {
    tile: UnfinishedTile<'a>,
    /// Puts the outputs in order, if they are staged and complete their window.
    reorder: Option<(Staged, Epilogue<'a>)>,
}

impl PendingTile<'_> {
    /// Puts the outputs in order once the epilogue has run.
    ///
    /// # Safety
    /// As [`Isa::reorder`].
    unsafe fn reorder<I: Isa>(&self) {
        if let Some((staged, to)) = self.reorder {
            // SAFETY: the caller's promise.
            unsafe { I::reorder(staged, to) }
        }
    }
}

/// The weights and biases of a panel.
struct PanelWeights<W> {
    w: *const W,
    width: usize,
    k: usize,
    bias: *const i32,
}

impl<W> PanelWeights<W> {
    /// Returns the operands of the tile of `rows` rows from row `i` on, of which `whole` rows are
    /// read.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    fn tile<A: Plain>(
        &self,
        inputs: &Inputs<A>,
        i: usize,
        rows: usize,
        whole: usize,
    ) -> Product<A, W> {
        let (a, stride) = inputs.tile(i, rows, whole);
        let &Self { w, width, k, bias } = self;
        Product {
            a,
            stride,
            rows,
            w,
            width,
            k,
            bias,
        }
    }
}

/// The tiles of all input rows and a whole panel whose outputs are not staged; at least two tiles.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other tier overlaps tiles
pub(crate) struct PanelTiles<'a, I: Isa> {
    inputs: &'a Inputs<'a, I::Code>,
    weights: &'a PanelWeights<I::Weight>,
    /// Rows of all tiles but the last, which may have fewer.
    pub rows: usize,
    /// Room for the accumulators of tiles, which take turns.
    pub acc: [*mut i32; 2],
    /// Parts of k.
    pub k_parts: usize,
    /// Room for the sums of all tiles over the first parts, if there are several.
    pub sums: *mut i32,
    pub requant: Requant,
    /// Of all tiles but the last.
    pub epilogue: Epilogue<'a>,
    /// Weights to prefetch.
    pub soon: &'a [u8],
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // as above
impl<I: Isa> PanelTiles<'_, I> {
    /// Returns the number of tiles.
    pub fn count(&self) -> usize {
        self.inputs.input.rows().div_ceil(self.rows)
    }

    /// Returns the operands of tile `t` in part `part` of k.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    pub fn product(&self, t: usize, part: usize) -> ProductOf<I> {
        let i = t * self.rows;
        let rows = self.rows.min(self.inputs.input.rows() - i);
        let p = (self.weights).tile(self.inputs, i, rows, whole_rows::<I>(rows));
        let steps = p.k / I::STEP;
        let first = |part: usize| steps * part / self.k_parts * I::STEP;
        Product {
            a: p.a.wrapping_add(first(part)),
            w: p.w.wrapping_add(first(part) * p.width),
            k: first(part + 1) - first(part),
            ..p
        }
    }
}

/// Multiplies `input` by some rows of a layer: every tile, panel by panel.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
#[allow(clippy::too_many_lines)] // one walk over windows, panels and tiles
#[allow(clippy::inline_always)] // the kind of outputs is constant in each caller
#[inline(always)]
unsafe fn linear<I: Isa>(
    part: &LinearRows,
    bias: &Buffer,
    input: MatrixView<i8>,
    scratch: &mut Scratch,
    mut outputs: Outputs,
) {
    let n = input.rows();
    let layer = part.layer;
    let form = I::FOUR_BIT.filter(|_| part.panels().any(|panel| panel.four_bit));
    let four_bit = form.map(|form| Inputs::four_bit(input, form, &mut scratch.four_bit_codes));
    let four_bit_k = four_bit.as_ref().map_or(0, |inputs| inputs.k);
    let k = layer.k.next_multiple_of(I::STEP);
    // SAFETY: the caller promises the features.
    let eight_bit = (part.panels().any(|panel| !panel.four_bit))
        .then(|| unsafe { Inputs::new::<I>(input, k, &mut scratch.codes) });
    let (bias, order) = (bias.as_slice::<i32>(), layer.order.as_slice::<u8>());
    let sorted = part.windows().any(|rows| rows.window.sorted);
    let k_parts = if sorted { 1 } else { I::k_parts(k) };
    let tile_rows = I::tile_rows(k.div_ceil(k_parts));
    let tile_size = tile_rows * I::PANEL;
    let all_sums = n.next_multiple_of(tile_rows) * I::PANEL;
    let accumulators = (scratch.tile)
        .take::<i32>(2 * tile_size + if k_parts > 1 { all_sums } else { 0 })
        .as_mut_ptr();
    let value_bytes = outputs.value_bytes();
    let staged = scratch
        .staged
        .take::<u8>(if sorted {
            n * I::STAGED * value_bytes
        } else {
            0
        })
        .as_mut_ptr();
    // The previous tile, if the tier runs a tile's epilogue during the next multiplication.
    let mut pending: Option<PendingTile> = None;
    // SAFETY: the caller promises the features.
    unsafe { I::enter_thread() };
    for WindowOfRows {
        window,
        row: first,
        column,
        then,
    } in part.windows()
    {
        let cols = WINDOW.min(layer.rows - first);
        let staged_window = Staged {
            values: staged,
            order: order[first..first + WINDOW].as_ptr(),
        };
        // A tile that is a whole window is put in order at once, while it is in the cache.
        let at_once = window.sorted && window.panels.len() == 1;
        for index in window.panels.clone() {
            let panel = &layer.panels[index];
            let width = panel.width;
            let requant = requant::<I>(layer, panel, bias);
            // SAFETY: the caller promises the features.
            let (w, four_bit_w) =
                unsafe { panel.weights::<I>(layer, (k, four_bit_k), &mut scratch.expanded) };
            let weights = PanelWeights {
                w: w.as_ptr(),
                width,
                k,
                bias: requant.bias,
            };
            let soon = then.filter(|_| index + 1 == window.panels.end);
            let soon = soon.unwrap_or_else(|| panel.weights_behind(layer));
            let first_in_use = |pending: &Option<PendingTile>| {
                (pending.as_ref()).is_some_and(|pending| pending.tile.acc == accumulators)
            };
            let is_whole = width == I::PANEL && panel.slot + width <= layer.rows;
            if let (true, Some(inputs)) = (I::OVERLAPS && is_whole && !window.sorted, &eight_bit) {
                if n > tile_rows {
                    // SAFETY: there is room for two tiles.
                    let mut acc = [accumulators, unsafe { accumulators.add(tile_size) }];
                    if first_in_use(&pending) {
                        acc.swap(0, 1);
                    }
                    let last = (n - 1) / tile_rows * tile_rows;
                    let col = column + panel.slot - first;
                    let tiles = PanelTiles::<I> {
                        inputs,
                        weights: &weights,
                        rows: tile_rows,
                        acc,
                        k_parts,
                        // SAFETY: the sums, if there are any, are behind two tiles.
                        sums: unsafe { accumulators.add(2 * tile_size) },
                        requant,
                        epilogue: outputs.block(0, last, col, width),
                        soon,
                    };
                    let tile = UnfinishedTile {
                        acc: acc[last / tile_rows % 2],
                        requant,
                        epilogue: outputs.block(last, n - last, col, width),
                    };
                    let before = pending.replace(PendingTile {
                        tile,
                        reorder: None,
                    });
                    // SAFETY: as below.
                    unsafe {
                        let before_tile = before.as_ref().map(|before| &before.tile);
                        I::panel_and_finish(&tiles, before_tile);
                        if let Some(before) = before {
                            before.reorder::<I>();
                        }
                    }
                    continue;
                }
            }
            let mut soon = soon.chunks(soon.len().div_ceil(n.div_ceil(tile_rows).max(1)).max(64));
            for i in (0..n).step_by(tile_rows) {
                let rows = tile_rows.min(n - i);
                let soon = soon.next().unwrap_or_default();
                if !I::OVERLAPS {
                    I::prefetch_all(soon);
                }
                let epilogue = if window.sorted {
                    let row = if at_once { 0 } else { i };
                    let at = (row * I::STAGED + panel.slot - first) * value_bytes;
                    // SAFETY: there are n rows of STAGED values, and a panel starts inside a
                    // window.
                    let to = unsafe { staged.add(at) };
                    outputs.staged(to, I::STAGED, rows, I::PANEL)
                } else {
                    let col = column + panel.slot - first;
                    outputs.block(i, rows, col, width.min(layer.rows - panel.slot))
                };
                let first_in_use = first_in_use(&pending);
                // SAFETY: the slices have the sizes that a tile reads. There is room for two tiles
                // of `tile_rows` rows of PANEL. The epilogue writes a block of the outputs, or of
                // the staged ones, which have a value for each slot of `order`. The caller promises
                // the features.
                unsafe {
                    let acc = accumulators.add(if first_in_use { tile_size } else { 0 });
                    let tile = UnfinishedTile {
                        acc,
                        requant,
                        epilogue,
                    };
                    if let (true, Some(four_bit)) = (panel.four_bit, &four_bit) {
                        let weights = PanelWeights {
                            w: four_bit_w.as_ptr(),
                            width,
                            k: four_bit_k,
                            bias: requant.bias,
                        };
                        let p = weights.tile(four_bit, i, rows, rows);
                        I::tile_4_bit(p, panel.run, acc, I::PANEL);
                        I::finish(&tile);
                        if at_once {
                            I::reorder(staged_window, outputs.block(i, rows, column, cols));
                        }
                    } else if let Some(eight_bit) = &eight_bit {
                        let p = weights.tile(eight_bit, i, rows, whole_rows::<I>(rows));
                        if I::OVERLAPS {
                            let reorder = at_once
                                .then(|| (staged_window, outputs.block(i, rows, column, cols)));
                            let before = pending.replace(PendingTile { tile, reorder });
                            let tile = before.as_ref().map(|before| &before.tile);
                            I::tile_and_finish(&p, acc, tile, soon);
                            if let Some(before) = before {
                                before.reorder::<I>();
                            }
                        } else {
                            I::tile_and_finish(&p, acc, Some(&tile), soon);
                            if at_once {
                                I::reorder(staged_window, outputs.block(i, rows, column, cols));
                            }
                        }
                    }
                }
            }
        }
        if window.sorted && !at_once && n > 0 {
            // SAFETY: as above; the window is staged.
            unsafe { I::reorder(staged_window, outputs.block(0, n, column, cols)) };
        }
    }
    // SAFETY: as above.
    unsafe {
        if let Some(pending) = pending {
            I::finish(&pending.tile);
            pending.reorder::<I>();
        }
        I::leave_thread();
    }
}

/// Implements `Kernels::linear_i8`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_i8<I: Isa>(
    part: &LinearRows,
    input: MatrixView<i8>,
    out: MatrixViewMut<i8>,
    zero_point: i8,
    table: Option<&[i8; 256]>,
    scratch: &mut Scratch,
) {
    let outputs = Outputs::Codes {
        out,
        offset: 64 * i16::from(zero_point) + 32,
        table,
    };
    // SAFETY: the caller's promise.
    unsafe { linear::<I>(part, &part.layer.rounded, input, scratch, outputs) }
}

/// Implements `Kernels::linear_residual`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_residual<I: Isa>(
    part: &LinearRows,
    input: MatrixView<i8>,
    x: MatrixViewMut<i16>,
    scratch: &mut Scratch,
) {
    let outputs = Outputs::Residual { x };
    // SAFETY: the caller's promise.
    unsafe { linear::<I>(part, &part.layer.rounded, input, scratch, outputs) }
}

/// Implements `Kernels::linear_i32`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_i32<I: Isa>(
    part: &LinearRows,
    input: MatrixView<i8>,
    out: MatrixViewMut<i32>,
    scratch: &mut Scratch,
) {
    let outputs = Outputs::Accumulators { out };
    // SAFETY: the caller's promise.
    unsafe { linear::<I>(part, &part.layer.bias, input, scratch, outputs) }
}

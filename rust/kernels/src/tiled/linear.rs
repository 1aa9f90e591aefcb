//! Computes a layer's product: for each panel, multiplies every tile of input rows and runs its
//! epilogue.

use super::epilogue::{OutputBlock, Outputs, Requant, Staged, UnfinishedTile};
use super::inputs::{Inputs, PanelOperands, PanelTiles};
use super::isa::{Overlap, Tiles};
use super::layout::FourBitForm;
use crate::buffer::Buffer;
use crate::layers::{Panel, WindowOfRows, WINDOW};
use crate::{Linear, LinearRows, MatrixView, MatrixViewMut, Rotation, Scratch};

/// A tile whose epilogue runs during the next multiplication.
struct PendingTile<'a> {
    tile: UnfinishedTile<'a>,
    /// Puts the outputs in order, if they are staged and complete their window.
    reorder: Option<(Staged, OutputBlock)>,
}

impl PendingTile<'_> {
    /// Puts the outputs in order once the epilogue has run.
    ///
    /// # Safety
    /// As [`RowKernels::reorder`](super::RowKernels::reorder).
    unsafe fn reorder<I: Tiles>(&self) {
        if let Some((staged, to)) = self.reorder {
            // SAFETY: the caller's promise.
            unsafe { I::reorder(staged, to) }
        }
    }
}

/// A panel and its place in the outputs.
struct PlacedPanel<'a> {
    panel: &'a Panel,
    requant: Requant,
    /// Where its outputs are staged, if its window is sorted.
    staged: Option<Staged>,
    /// Its window is put in order tile by tile, while the tile is in the cache.
    at_once: bool,
    /// The first column of the window, and its columns.
    window: (usize, usize),
    /// The first slot, counted from the window's.
    first: usize,
    /// Columns that are outputs.
    cols: usize,
    /// Weights to prefetch.
    soon: &'a [u8],
}

/// A product of some rows of a layer, in progress.
struct LinearProduct<'a, I: Tiles> {
    layer: &'a Linear,
    /// The biases of all slots.
    bias: &'a [i32],
    /// Input rows.
    rows: usize,
    eight_bit: Option<Inputs<'a, I::Code>>,
    four_bit: Option<(FourBitForm, Inputs<'a, u8>)>,
    outputs: Outputs<'a>,
    k_parts: usize,
    tile_rows: usize,
    /// Room for two tiles, then for the sums of all tiles if there are several parts of k.
    accumulators: *mut i32,
    /// Room for the outputs of a window if one is sorted.
    staged: *mut u8,
    /// The previous tile, if the tier runs a tile's epilogue during the next multiplication.
    pending: Option<PendingTile<'a>>,
}

// All but `linear` is inlined into it, where the kind of outputs is constant.
#[allow(clippy::inline_always)]
impl<'a, I: Tiles> LinearProduct<'a, I> {
    /// Prepares to multiply `input` by some rows of a layer. The buffers are of `scratch`, without
    /// the one that panels are expanded into.
    ///
    /// # Safety
    /// The CPU has the tier's features.
    #[inline(always)]
    unsafe fn new(
        part: &LinearRows<'a>,
        bias: &'a Buffer,
        input: MatrixView<'a, i8>,
        [codes, four_bit_codes, tile, staged]: [&'a mut Buffer; 4],
        outputs: Outputs<'a>,
    ) -> Self {
        let (layer, rows) = (part.layer, input.rows());
        let form = I::FOUR_BIT.filter(|_| part.panels().any(|panel| panel.four_bit));
        let k = layer.k.next_multiple_of(I::STEP);
        let sorted = part.windows().any(|rows| rows.window.sorted);
        let k_parts = if sorted { 1 } else { I::k_parts(k) };
        let tile_rows = I::tile_rows(k.div_ceil(k_parts));
        let all_sums = match k_parts {
            1 => 0,
            _ => rows.next_multiple_of(tile_rows) * I::PANEL,
        };
        let staged_values = if sorted { rows * I::STAGED } else { 0 };
        Self {
            layer,
            bias: bias.as_slice(),
            rows,
            // SAFETY: the caller promises the features.
            eight_bit: (part.panels().any(|panel| !panel.four_bit))
                .then(|| unsafe { Inputs::new::<I>(input, k, codes) }),
            four_bit: form.map(|form| (form, Inputs::four_bit(input, form, four_bit_codes))),
            k_parts,
            tile_rows,
            accumulators: (tile.take(2 * tile_rows * I::PANEL + all_sums)).as_mut_ptr(),
            staged: (staged.take(staged_values * outputs.value_bytes())).as_mut_ptr(),
            outputs,
            pending: None,
        }
    }

    /// Multiplies by a window's rows.
    ///
    /// # Safety
    /// The CPU has the tier's features; the sizes agree.
    #[inline(always)]
    unsafe fn window(&mut self, rows: &WindowOfRows<'a>, expanded: &mut Buffer) {
        let (layer, window, first) = (self.layer, rows.window, rows.row);
        let cols = WINDOW.min(layer.rows - first);
        let staged = window.sorted.then(|| Staged {
            values: self.staged,
            order: layer.order.as_slice::<u8>()[first..first + WINDOW].as_ptr(),
        });
        let at_once = window.sorted && window.panels.len() == 1;
        for index in window.panels.clone() {
            let panel = &layer.panels[index];
            let soon = (rows.then).filter(|_| index + 1 == window.panels.end);
            let slots = panel.slot..panel.slot + I::PANEL;
            let placed = PlacedPanel {
                panel,
                requant: Requant {
                    bias: self.bias[slots.clone()].as_ptr(),
                    mult: layer.mult.as_slice::<i16>()[slots.clone()].as_ptr(),
                    right: layer.right.as_slice::<i32>()[slots.clone()].as_ptr(),
                    left: layer.left.as_slice::<i32>()[slots].as_ptr(),
                    shifts_left: panel.shifts_left,
                },
                staged,
                at_once,
                window: (rows.column, cols),
                first: panel.slot - first,
                cols: panel.width.min(layer.rows - panel.slot),
                soon: soon.unwrap_or_else(|| panel.weights_behind(layer)),
            };
            // SAFETY: the caller's promise.
            unsafe { self.panel(&placed, expanded) };
        }
        if let Some(staged) = staged.filter(|_| !at_once && self.rows > 0) {
            let to = self.outputs.block(0, self.rows, rows.column, cols);
            // SAFETY: the caller's promise; the window is staged, with a value for each slot.
            unsafe { I::reorder(staged, to) };
        }
    }

    /// Multiplies by a panel's rows.
    ///
    /// # Safety
    /// As [`LinearProduct::window`].
    #[inline(always)]
    unsafe fn panel(&mut self, placed: &PlacedPanel<'a>, expanded: &mut Buffer) {
        let &PlacedPanel { panel, requant, .. } = placed;
        let (layer, width, bias) = (self.layer, panel.width, requant.bias);
        let chunk = (placed.soon.len()).div_ceil(self.rows.div_ceil(self.tile_rows).max(1));
        let mut soon = placed.soon.chunks(chunk.max(64));
        let tiles = (0..self.rows).step_by(self.tile_rows);
        // SAFETY: the slices have the sizes that a tile reads. There is room for two tiles of
        // `tile_rows` rows of PANEL. The caller promises the features.
        unsafe {
            match (self.four_bit, self.eight_bit) {
                (Some((form, inputs)), _) if panel.four_bit => {
                    let w = panel.four_bit_weights(layer, inputs.k, form, expanded);
                    let w = w.as_ptr();
                    let operands = PanelOperands {
                        inputs,
                        w,
                        width,
                        bias,
                    };
                    for i in tiles {
                        I::prefetch_all(soon.next().unwrap_or_default());
                        let tile = self.tile(placed, i);
                        let p = operands.tile::<I>(i, self.tile_rows(i));
                        (form.tile)(p, panel.run, self.accumulators, I::PANEL);
                        I::finish(&tile);
                        self.reorder_at_once(placed, i);
                    }
                }
                (_, Some(inputs)) => {
                    let w = panel.weights::<I>(layer, inputs.k, expanded).as_ptr();
                    let operands = PanelOperands {
                        inputs,
                        w,
                        width,
                        bias,
                    };
                    if let Some(overlap) = I::OVERLAP {
                        let is_whole = placed.cols == I::PANEL && placed.staged.is_none();
                        if is_whole && self.rows > self.tile_rows {
                            return self.overlapped_panel(placed, &operands, &overlap);
                        }
                        for i in tiles {
                            let soon = soon.next().unwrap_or_default();
                            self.overlapped_tile(placed, &operands, &overlap, i, soon);
                        }
                        return;
                    }
                    for i in tiles {
                        I::prefetch_all(soon.next().unwrap_or_default());
                        let tile = self.tile(placed, i);
                        let p = operands.tile::<I>(i, self.tile_rows(i));
                        I::tile_and_finish(&p, self.accumulators, &tile);
                        self.reorder_at_once(placed, i);
                    }
                }
                _ => {}
            }
        }
    }

    /// Returns the number of rows of the tile from row `i` on.
    #[inline(always)]
    fn tile_rows(&self, i: usize) -> usize {
        self.tile_rows.min(self.rows - i)
    }

    /// Returns the tile of the rows from row `i` on, in the accumulators that are free.
    #[inline(always)]
    fn tile(&mut self, placed: &PlacedPanel, i: usize) -> UnfinishedTile<'a> {
        let rows = self.tile_rows(i);
        let epilogue = if placed.staged.is_some() {
            let row = if placed.at_once { 0 } else { i };
            let at = (row * I::STAGED + placed.first) * self.outputs.value_bytes();
            // There are as many rows of STAGED values, and a panel starts inside a window.
            let to = self.staged.wrapping_add(at);
            self.outputs.staged(to, I::STAGED, rows, I::PANEL)
        } else {
            let col = placed.window.0 + placed.first;
            self.outputs.epilogue(i, rows, col, placed.cols)
        };
        UnfinishedTile {
            acc: self.free_accumulators()[0],
            requant: placed.requant,
            epilogue,
        }
    }

    /// Returns the room of the next tile, and that of the tile after it.
    #[inline(always)]
    fn free_accumulators(&self) -> [*mut i32; 2] {
        let second = self.accumulators.wrapping_add(self.tile_rows * I::PANEL);
        match &self.pending {
            Some(pending) if pending.tile.acc == self.accumulators => [second, self.accumulators],
            _ => [self.accumulators, second],
        }
    }

    /// Returns the staged window and the block of its outputs, if the tile from row `i` on is put
    /// in order at once.
    #[inline(always)]
    fn unordered(&mut self, placed: &PlacedPanel, i: usize) -> Option<(Staged, OutputBlock)> {
        let (column, cols) = placed.window;
        let rows = self.tile_rows(i);
        let staged = placed.staged.filter(|_| placed.at_once)?;
        Some((staged, self.outputs.block(i, rows, column, cols)))
    }

    /// Puts a finished tile in order, if its window is put in order at once.
    ///
    /// # Safety
    /// As [`LinearProduct::window`].
    #[inline(always)]
    unsafe fn reorder_at_once(&mut self, placed: &PlacedPanel, i: usize) {
        if let Some((staged, to)) = self.unordered(placed, i) {
            // SAFETY: the caller's promise; the window is staged.
            unsafe { I::reorder(staged, to) };
        }
    }

    /// Finishes the previous tile, if it is not.
    ///
    /// # Safety
    /// As [`LinearProduct::window`].
    #[inline(always)]
    unsafe fn finish_pending(&mut self) {
        if let Some(pending) = self.pending.take() {
            // SAFETY: the caller's promise.
            unsafe {
                I::finish(&pending.tile);
                pending.reorder::<I>();
            }
        }
    }

    /// Multiplies a tile and finishes the one before.
    ///
    /// # Safety
    /// As [`LinearProduct::window`].
    #[inline(always)]
    unsafe fn overlapped_tile(
        &mut self,
        placed: &PlacedPanel,
        operands: &PanelOperands<I::Code, I::Weight>,
        overlap: &Overlap<I>,
        i: usize,
        soon: &[u8],
    ) {
        let acc = self.free_accumulators()[0];
        let tile = self.tile(placed, i);
        let p = operands.tile::<I>(i, self.tile_rows(i));
        let reorder = self.unordered(placed, i);
        let before = self.pending.replace(PendingTile { tile, reorder });
        // SAFETY: the caller's promise; there is room for two tiles.
        unsafe {
            (overlap.tile)(&p, acc, before.as_ref().map(|before| &before.tile), soon);
            if let Some(before) = before {
                before.reorder::<I>();
            }
        }
    }

    /// Multiplies all tiles of a panel that is not staged, and finishes all but the last.
    ///
    /// # Safety
    /// As [`LinearProduct::window`]; there are at least two tiles.
    #[inline(always)]
    unsafe fn overlapped_panel(
        &mut self,
        placed: &PlacedPanel,
        operands: &PanelOperands<I::Code, I::Weight>,
        overlap: &Overlap<I>,
    ) {
        let &PlacedPanel { requant, cols, .. } = placed;
        let (rows, acc) = (self.tile_rows, self.free_accumulators());
        let last = (self.rows - 1) / rows * rows;
        let tiles = PanelTiles::<I> {
            operands,
            rows,
            acc,
            k_parts: self.k_parts,
            sums: self.accumulators.wrapping_add(2 * rows * I::PANEL),
            requant,
            epilogue: (self.outputs).epilogue(0, last, placed.window.0 + placed.first, cols),
            soon: placed.soon,
        };
        let tile = UnfinishedTile {
            acc: acc[last / rows % 2],
            ..self.tile(placed, last)
        };
        let before = self.pending.replace(PendingTile {
            tile,
            reorder: None,
        });
        // SAFETY: the caller's promise; there is room for two tiles, and for the sums.
        unsafe {
            (overlap.panel)(&tiles, before.as_ref().map(|before| &before.tile));
            if let Some(before) = before {
                before.reorder::<I>();
            }
        }
    }
}

/// Multiplies `input` by some rows of a layer: every tile, panel by panel.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
#[allow(clippy::inline_always)] // the kind of outputs is constant in each caller
#[inline(always)]
unsafe fn linear<I: Tiles>(
    part: &LinearRows,
    bias: &Buffer,
    input: MatrixView<i8>,
    scratch: &mut Scratch,
    outputs: Outputs,
) {
    const {
        assert!(
            I::OVERLAP.is_none() || I::CODE_OFFSET == 0 && I::PROB_OFFSET == 0,
            "attention has no biases to add to its sums"
        );
        assert!(
            I::OVERLAP.is_none() || I::PANEL == WINDOW,
            "a window's outputs are put in order tile by tile"
        );
    }
    let Scratch {
        codes,
        four_bit_codes,
        expanded,
        tile,
        staged,
        ..
    } = scratch;
    // SAFETY: the caller's promise.
    unsafe {
        let buffers = [codes, four_bit_codes, tile, staged];
        let mut product = LinearProduct::<I>::new(part, bias, input, buffers, outputs);
        I::enter_thread();
        for rows in part.windows() {
            product.window(&rows, expanded);
        }
        product.finish_pending();
        I::leave_thread();
    }
}

/// Implements `Kernels::linear_i8`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_i8<I: Tiles>(
    part: &LinearRows,
    input: MatrixView<i8>,
    out: MatrixViewMut<i8>,
    zero_point: i8,
    table: Option<&[i8; 256]>,
    scratch: &mut Scratch,
) {
    let outputs = Outputs::codes(out, zero_point, table);
    // SAFETY: the caller's promise.
    unsafe { linear::<I>(part, &part.layer.rounded, input, scratch, outputs) }
}

/// Implements `Kernels::linear_rotated`: a window of 64ths of codes at a time, while it is in the
/// first-level cache.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_rotated<I: Tiles>(
    part: &LinearRows,
    input: MatrixView<i8>,
    out: MatrixViewMut<i8>,
    rotation: Rotation,
    scratch: &mut Scratch,
) {
    let Scratch {
        codes,
        four_bit_codes,
        expanded,
        tile,
        staged,
        rotated,
        ..
    } = scratch;
    let rows = input.rows();
    if rows == 0 {
        return;
    }
    let x = MatrixViewMut::packed(rotated.take(rows * WINDOW), WINDOW);
    let mut codes_out = Some(out);
    // SAFETY: the caller's promise.
    unsafe {
        let buffers = [codes, four_bit_codes, tile, staged];
        let outputs = Outputs::Residual { x };
        let mut product =
            LinearProduct::<I>::new(part, &part.layer.rounded, input, buffers, outputs);
        I::enter_thread();
        for window in part.windows() {
            let column = window.column;
            if column >= rotation.columns {
                if let Some(out) = codes_out.take() {
                    product.outputs = Outputs::codes(out, 0, None);
                }
                product.window(&window, expanded);
                continue;
            }
            if let Outputs::Residual { x } = &mut product.outputs {
                (0..rows).for_each(|i| x.row_mut(i).fill(0));
            }
            let cols = WINDOW.min(part.layer.rows - window.row);
            product.window(
                &WindowOfRows {
                    column: 0,
                    ..window
                },
                expanded,
            );
            product.finish_pending();
            if let (Outputs::Residual { x }, Some(out)) = (&product.outputs, &mut codes_out) {
                rotation.rotate::<I>(column, x, out.block(0, rows, column, cols));
            }
        }
        product.finish_pending();
        I::leave_thread();
    }
}

/// Implements `Kernels::linear_residual`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_residual<I: Tiles>(
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
pub(crate) unsafe fn linear_i32<I: Tiles>(
    part: &LinearRows,
    input: MatrixView<i8>,
    out: MatrixViewMut<i32>,
    scratch: &mut Scratch,
) {
    let outputs = Outputs::Accumulators { out };
    // SAFETY: the caller's promise.
    unsafe { linear::<I>(part, &part.layer.bias, input, scratch, outputs) }
}

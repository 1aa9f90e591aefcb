//! Epilogues: convert a tile's accumulators to outputs and write them.

use crate::matrix::Out;
use crate::MatrixViewMut;

/// Requantization parameters of one panel, `PANEL` entries each.
#[derive(Clone, Copy)]
pub(crate) struct Requant {
    /// Biases, if sums do not start at them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // none overlaps tiles
    pub bias: *const i32,
    /// M.
    pub mult: *const i16,
    /// max(p - 4, 0): the right shift of an accumulator that already holds the rounding half.
    pub right: *const i32,
    /// max(4 - p, 0): the left shift.
    pub left: *const i32,
    /// At least one left shift is not 0.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    // NEON shifts both ways in one instruction
    pub shifts_left: bool,
}

/// The conversion of accumulators to outputs, and the block of outputs to write.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// Requantizes to codes, and looks them up in a table if there is one.
    Codes {
        /// `64 * zero_point + 32`.
        offset: i16,
        table: Option<&'a [i8; 256]>,
        out: Out<i8>,
    },
    /// Requantizes to updates of the residual, and adds them to it.
    Add { x: Out<i16> },
    /// Requantizes to updates of the residual, and stores them.
    Updates { out: Out<i16> },
    /// Copies the accumulators.
    Copy { out: Out<i32> },
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // NEON finishes rows as it stores them
impl Epilogue<'_> {
    /// Returns the number of rows that it writes.
    pub fn rows(&self) -> usize {
        self.size().0
    }

    /// Returns the number of columns that it writes.
    pub fn cols(&self) -> usize {
        self.size().1
    }

    fn size(&self) -> (usize, usize) {
        match self {
            Self::Codes { out, .. } => (out.rows, out.cols),
            Self::Add { x: out } | Self::Updates { out } => (out.rows, out.cols),
            Self::Copy { out } => (out.rows, out.cols),
        }
    }
}

/// A tile whose epilogue has not run: its accumulators, and how to convert them.
#[derive(Clone, Copy)]
pub(crate) struct UnfinishedTile<'a> {
    pub acc: *const i32,
    pub requant: Requant,
    pub epilogue: Epilogue<'a>,
}

/// Outputs in the order of slots: rows of `WINDOW` values of the epilogue's type, `Layout::STAGED`
/// apart.
#[derive(Clone, Copy)]
pub(crate) struct Staged {
    pub values: *const u8,
    /// The slots of a window's rows: `WINDOW` entries, each below `WINDOW`.
    pub order: *const u8,
}

/// Scale of one query row's outputs.
#[derive(Clone, Copy, Default)]
pub(crate) struct RowScale {
    /// L.
    pub rounding_residue: i32,
    /// r.
    pub mult: i16,
    /// p, at least 1.
    pub shift: u32,
}

/// A block of a layer's outputs.
#[derive(Clone, Copy)]
pub(crate) enum OutputBlock {
    Codes(Out<i8>),
    Residual(Out<i16>),
    Accumulators(Out<i32>),
}

/// All outputs of a layer.
pub(super) enum Outputs<'a> {
    Codes {
        out: MatrixViewMut<'a, i8>,
        offset: i16,
        table: Option<&'a [i8; 256]>,
    },
    Residual {
        x: MatrixViewMut<'a, i16>,
    },
    Accumulators {
        out: MatrixViewMut<'a, i32>,
    },
}

impl<'a> Outputs<'a> {
    /// Returns codes with a zero point, looked up in a table if there is one.
    pub fn codes(out: MatrixViewMut<'a, i8>, zero_point: i8, table: Option<&'a [i8; 256]>) -> Self {
        let offset = 64 * i16::from(zero_point) + 32;
        Self::Codes { out, offset, table }
    }

    /// Returns the size of one output in bytes.
    pub fn value_bytes(&self) -> usize {
        match self {
            Self::Codes { .. } => 1,
            Self::Residual { .. } => 2,
            Self::Accumulators { .. } => 4,
        }
    }

    /// Returns a block of the outputs.
    #[inline]
    pub fn block(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> OutputBlock {
        match self {
            Self::Codes { out, .. } => OutputBlock::Codes(out.block(row, rows, col, cols)),
            Self::Residual { x } => OutputBlock::Residual(x.block(row, rows, col, cols)),
            Self::Accumulators { out } => {
                OutputBlock::Accumulators(out.block(row, rows, col, cols))
            }
        }
    }

    /// Returns the epilogue that writes a block of the outputs.
    #[inline]
    pub fn epilogue(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> Epilogue<'a> {
        match self {
            Self::Codes { out, offset, table } => Epilogue::Codes {
                offset: *offset,
                table: *table,
                out: out.block(row, rows, col, cols),
            },
            Self::Residual { x } => Epilogue::Add {
                x: x.block(row, rows, col, cols),
            },
            Self::Accumulators { out } => Epilogue::Copy {
                out: out.block(row, rows, col, cols),
            },
        }
    }

    /// Returns the epilogue that stages a block: `cols` values for each row, rows `stride` values
    /// apart.
    #[inline]
    pub fn staged(&self, to: *mut u8, stride: usize, rows: usize, cols: usize) -> Epilogue<'a> {
        fn out<T>(to: *mut u8, stride: usize, rows: usize, cols: usize) -> Out<T> {
            let ptr = to.cast();
            Out {
                ptr,
                stride,
                rows,
                cols,
            }
        }
        match self {
            Self::Codes { offset, table, .. } => Epilogue::Codes {
                offset: *offset,
                table: *table,
                out: out(to, stride, rows, cols),
            },
            Self::Residual { .. } => Epilogue::Updates {
                out: out(to, stride, rows, cols),
            },
            Self::Accumulators { .. } => Epilogue::Copy {
                out: out(to, stride, rows, cols),
            },
        }
    }
}

/// Looks each code up in the table, in place: the portable form.
///
/// # Safety
/// Every row of `out` is live and nothing else refers to it.
#[cfg(target_arch = "x86_64")] // NEON has a look-up of its own
pub(crate) unsafe fn lookup(table: &[i8; 256], out: Out<i8>) {
    for i in 0..out.rows {
        // SAFETY: the caller's promise.
        for y in unsafe { out.row(i) } {
            *y = table[usize::from(*y as u8 ^ 0x80)];
        }
    }
}

/// Copies a tile's accumulators to the output. Rows of accumulators are `stride` apart.
///
/// # Safety
/// Each row has an accumulator for each column of the output. The output's rows are live and
/// nothing else refers to them.
pub(crate) unsafe fn copy_accumulators(acc: *const i32, stride: usize, out: Out<i32>) {
    for m in 0..out.rows {
        // SAFETY: the caller's promise.
        unsafe {
            let acc = std::slice::from_raw_parts(acc.add(m * stride), out.cols);
            out.row(m).copy_from_slice(acc);
        }
    }
}

/// Copies staged accumulators to the output, in the order of rows. Rows of staged accumulators are
/// `stride` apart.
///
/// # Safety
/// Each row of the output has `WINDOW` staged accumulators, and there are `WINDOW` slots. The
/// output's rows are live and nothing else refers to them.
#[allow(clippy::cast_ptr_alignment)] // buffers are aligned to 64 bytes
pub(crate) unsafe fn copy_in_order(staged: Staged, stride: usize, out: Out<i32>) {
    for i in 0..out.rows {
        // SAFETY: the caller's promise.
        unsafe {
            let values = staged.values.cast::<i32>().add(i * stride);
            for (j, sum) in out.row(i).iter_mut().enumerate() {
                *sum = *values.add(usize::from(*staged.order.add(j)));
            }
        }
    }
}

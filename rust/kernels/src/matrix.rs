//! Checked views of row-major matrices whose rows may be slices of wider rows.

use std::marker::PhantomData;
use std::ops::Range;

/// A shared view of `rows` x `cols` values; row `i` starts at `i * stride`.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)] // `rows` is the only name for the number of rows
pub struct MatrixView<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// Returns the number of values that a view spans.
fn extent(rows: usize, cols: usize, stride: usize) -> usize {
    assert!(
        stride >= cols,
        "a row of {cols} values does not fit a stride of {stride}"
    );
    if rows == 0 {
        return 0;
    }
    (rows - 1)
        .checked_mul(stride)
        .and_then(|n| n.checked_add(cols))
        .expect("matrix extent overflows")
}

impl<'a, T> MatrixView<'a, T> {
    /// Creates a view of `rows` rows of `cols` values that start `stride` apart.
    ///
    /// # Panics
    /// If `stride < cols` or `data` is too short.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        let need = extent(rows, cols, stride);
        assert!(
            data.len() >= need,
            "{rows} x {cols} (stride {stride}) needs {need} values, got {}",
            data.len()
        );
        Self {
            data,
            rows,
            cols,
            stride,
        }
    }

    /// Creates a view of `data` as rows of `cols` values without gaps.
    ///
    /// # Panics
    /// If `cols` is 0 or does not divide the length.
    pub fn packed(data: &'a [T], cols: usize) -> Self {
        assert!(
            cols > 0 && data.len().is_multiple_of(cols),
            "{} values are no rows of {cols}",
            data.len()
        );
        Self {
            data,
            rows: data.len() / cols,
            cols,
            stride: cols,
        }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the start of row `i` (the rows after it follow), and the stride.
    #[inline]
    pub(crate) fn starting_at(&self, i: usize) -> (*const T, usize) {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: the row is inside the data.
        (
            unsafe { self.data.as_ptr().add(i * self.stride) },
            self.stride,
        )
    }

    /// Returns row `i`.
    ///
    /// # Panics
    /// If there is no row `i`.
    pub fn row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        &self.data[i * self.stride..][..self.cols]
    }

    /// Returns the columns in `range` of every row.
    ///
    /// # Panics
    /// If the range is reversed or ends past the last column.
    #[must_use]
    pub fn columns(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.cols,
            "columns {range:?} of {}",
            self.cols
        );
        let data = if self.rows == 0 {
            self.data
        } else {
            &self.data[range.start..]
        };
        Self {
            data,
            rows: self.rows,
            cols: range.len(),
            stride: self.stride,
        }
    }

    /// Returns the rows in `range`.
    ///
    /// # Panics
    /// If the range is reversed or ends past the last row.
    #[must_use]
    pub fn range(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.rows,
            "rows {range:?} of {}",
            self.rows
        );
        let data = if range.is_empty() {
            &self.data[..0]
        } else {
            &self.data[range.start * self.stride..]
        };
        Self {
            data,
            rows: range.len(),
            cols: self.cols,
            stride: self.stride,
        }
    }
}

/// Calls `f` once with a row of N values: `row`, or a copy of it if that is shorter, whose first
/// values are then its.
#[allow(clippy::inline_always)] // compiled for the features of its caller
#[inline(always)]
pub(crate) fn on_whole_row<T: Copy + Default, const N: usize>(
    row: &mut [T],
    f: impl FnOnce(*mut T),
) {
    let mut whole = [T::default(); N];
    let is_edge = row.len() != N;
    let at = if is_edge {
        whole[..row.len()].copy_from_slice(row);
        whole.as_mut_ptr()
    } else {
        row.as_mut_ptr()
    };
    f(at);
    if is_edge {
        row.copy_from_slice(&whole[..row.len()]);
    }
}

/// A block of values to write: row `i` is the `cols` values from `ptr + i * stride` on.
#[derive(Clone, Copy)]
pub(crate) struct Out<T> {
    pub ptr: *mut T,
    pub stride: usize,
    pub rows: usize,
    pub cols: usize,
}

impl<T> Out<T> {
    /// Returns row `i`.
    ///
    /// # Safety
    /// `i < rows`, the row is live and nothing else refers to it.
    pub unsafe fn row<'a>(self, i: usize) -> &'a mut [T] {
        debug_assert!(i < self.rows);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.stride), self.cols) }
    }
}

/// An exclusive view of `rows` x `cols` values. It can be split by rows and by columns, so that
/// several threads may fill one matrix.
///
/// Invariant: `ptr + i * stride .. + cols` for each `i < rows` is inside one live allocation,
/// initialised, and reachable through this view alone for `'a`.
#[derive(Debug)]
pub struct MatrixViewMut<'a, T> {
    ptr: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: the view is an exclusive borrow of values of type T, as `&mut [T]` is.
unsafe impl<T: Send> Send for MatrixViewMut<'_, T> {}
// SAFETY: through a shared view only shared borrows of T can be had, as with `&mut [T]`.
unsafe impl<T: Sync> Sync for MatrixViewMut<'_, T> {}

impl<'a, T> MatrixViewMut<'a, T> {
    /// Creates a view of `rows` rows of `cols` values that start `stride` apart.
    ///
    /// # Panics
    /// If `stride < cols` or `data` is too short.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Self {
        let need = extent(rows, cols, stride);
        assert!(
            data.len() >= need,
            "{rows} x {cols} (stride {stride}) needs {need} values, got {}",
            data.len()
        );
        Self {
            ptr: data.as_mut_ptr(),
            rows,
            cols,
            stride,
            data: PhantomData,
        }
    }

    /// Creates a view of `data` as rows of `cols` values without gaps.
    ///
    /// # Panics
    /// If `cols` is 0 or does not divide the length.
    pub fn packed(data: &'a mut [T], cols: usize) -> Self {
        assert!(
            cols > 0 && data.len().is_multiple_of(cols),
            "{} values are no rows of {cols}",
            data.len()
        );
        let rows = data.len() / cols;
        Self {
            ptr: data.as_mut_ptr(),
            rows,
            cols,
            stride: cols,
            data: PhantomData,
        }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns row `i`.
    ///
    /// # Panics
    /// If there is no row `i`.
    pub fn row(&self, i: usize) -> &[T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: i < rows, so by the invariant the row is live and nobody else writes it while
        // self is borrowed.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.stride), self.cols) }
    }

    /// Returns row `i`.
    ///
    /// # Panics
    /// If there is no row `i`.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: i < rows, so by the invariant the row is live and reachable through self alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.stride), self.cols) }
    }

    /// Returns the raw rows and columns of a block, for a kernel to write.
    #[inline]
    pub(crate) fn block(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> Out<T> {
        assert!(
            row + rows <= self.rows && col + cols <= self.cols && rows > 0,
            "block inside the matrix"
        );
        // SAFETY: the block's first value is inside the matrix (rows > 0), or one past its row's
        // end.
        let ptr = unsafe { self.ptr.add(row * self.stride + col) };
        Out {
            ptr,
            stride: self.stride,
            rows,
            cols,
        }
    }

    /// Splits into the first `n` rows and the others.
    ///
    /// # Panics
    /// If there are fewer than `n` rows.
    #[must_use]
    pub fn split_at_row(self, n: usize) -> (Self, Self) {
        assert!(n <= self.rows, "{n} rows of {}", self.rows);
        // The empty second half keeps the base address: `n * stride` may lie past the end.
        let offset = if n == self.rows { 0 } else { n * self.stride };
        // SAFETY: offset is 0 or the start of row n < rows, inside the allocation.
        let ptr = unsafe { self.ptr.add(offset) };
        let (cols, stride, data) = (self.cols, self.stride, PhantomData);
        (
            Self {
                ptr: self.ptr,
                rows: n,
                cols,
                stride,
                data,
            },
            Self {
                ptr,
                rows: self.rows - n,
                cols,
                stride,
                data,
            },
        )
    }

    /// Splits into the first `n` columns and the others, of every row.
    ///
    /// # Panics
    /// If there are fewer than `n` columns.
    #[must_use]
    pub fn split_at_column(self, n: usize) -> (Self, Self) {
        assert!(n <= self.cols, "{n} columns of {}", self.cols);
        let offset = if self.rows == 0 { 0 } else { n };
        // SAFETY: offset is 0 or at most cols, inside row 0 or one past its end.
        let ptr = unsafe { self.ptr.add(offset) };
        let (rows, stride, data) = (self.rows, self.stride, PhantomData);
        (
            Self {
                ptr: self.ptr,
                rows,
                cols: n,
                stride,
                data,
            },
            Self {
                ptr,
                rows,
                cols: self.cols - n,
                stride,
                data,
            },
        )
    }
}

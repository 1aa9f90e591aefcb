//! Views of matrices: the values that they cover, and the sizes that they refuse.

use std::thread;

use quasar_kernels::{MatrixView, MatrixViewMut};

#[test]
fn columns_and_ranges_are_slices_of_the_same_rows() {
    let data: Vec<i32> = (0..12).collect();
    let rows = MatrixView::packed(&data, 4);
    assert_eq!((rows.rows(), rows.cols()), (3, 4));
    let part = rows.columns(1..3).range(1..3);
    assert_eq!((part.row(0), part.row(1)), (&[5, 6][..], &[9, 10][..]));
    assert_eq!(rows.range(3..3).columns(4..4).rows(), 0);
}

#[test]
fn the_last_row_needs_no_gap_behind_it() {
    let data = [0i8; 3 * 5 + 2];
    assert_eq!(MatrixView::new(&data, 4, 2, 5).row(3).len(), 2);
}

#[test]
fn threads_fill_blocks_of_one_matrix() {
    let mut data = vec![0; 6 * 5];
    let (top, bottom) = MatrixViewMut::packed(&mut data, 5).split_at_row(2);
    let (left, right) = bottom.split_at_column(3);
    thread::scope(|scope| {
        for (mut part, value) in [(top, 1), (left, 2), (right, 3)] {
            scope.spawn(move || {
                for i in 0..part.rows() {
                    part.row_mut(i).fill(value);
                }
            });
        }
    });
    let expected: Vec<i32> = (0..30)
        .map(|i| if i < 10 { 1 } else { [2, 2, 2, 3, 3][i % 5] })
        .collect();
    assert_eq!(data, expected);
}

#[test]
fn a_split_may_be_empty() {
    let mut data = [7; 6];
    let (all, none) = MatrixViewMut::packed(&mut data, 3).split_at_row(2);
    assert_eq!((all.rows(), none.rows()), (2, 0));
    let (none, all) = all.split_at_column(0);
    assert_eq!((none.cols(), all.row(1)), (0, &[7, 7, 7][..]));
}

#[test]
#[should_panic(expected = "3 x 4 (stride 4) needs 12 values, got 11")]
fn too_little_data_is_refused() {
    let _ = MatrixView::new(&[0; 11], 3, 4, 4);
}

#[test]
#[should_panic(expected = "a row of 4 values does not fit a stride of 3")]
fn overlapping_rows_are_refused() {
    let _ = MatrixViewMut::new(&mut [0; 12], 3, 4, 3);
}

#[test]
#[should_panic(expected = "matrix extent overflows")]
fn an_extent_past_the_address_space_is_refused() {
    let _ = MatrixView::new(&[0; 12], usize::MAX, 1, 2);
}

#[test]
#[should_panic(expected = "row 2 of 2")]
fn a_row_past_the_end_is_refused() {
    let _ = MatrixViewMut::packed(&mut [0; 4], 2).row_mut(2);
}

//! Divides products into passes, as the kernel `plan` does.

use quasar_hardware::tiling::RowTile;

use super::{ProductPass, Step};
use crate::shape::Shape;

/// The destination of a pass's sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// Nowhere: the next pass adds to them.
    Stay,
    /// To the drain.
    Sums,
    /// To the score buffers, all tokens at once.
    Scores,
}

/// A pass of a tile through the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Words of C columns.
    pub words: u64,
    /// The rows of the tile.
    pub rows: RowTile,
    /// Groups of L tokens.
    pub groups: u64,
    /// The destination of the sums.
    pub leaves: Leaves,
}

impl Pass {
    /// Returns the items of a row pair.
    pub(crate) const fn items(&self, pair: u64) -> u64 {
        match self.leaves {
            Leaves::Scores => 1,
            _ if 2 * pair + 1 < self.rows.rows4 => 2 * self.groups,
            _ => self.groups,
        }
    }

    /// Returns the items of all row pairs: the slow cycles that they take.
    pub fn all_items(&self) -> u64 {
        (0..self.rows.pairs()).map(|pair| self.items(pair)).sum()
    }
}

/// Lists the passes of a tile of row pairs, whose first row is `row`, with a tile of tokens.
/// `pass`: columns of a pass.
pub(super) fn passes(
    s: Shape,
    (columns, pass): (u32, u32),
    (row, rows): (usize, RowTile),
    tokens: usize,
) -> impl Iterator<Item = Step> {
    let (columns, pass) = (columns as usize, pass.max(1) as usize);
    (0..columns).step_by(pass).map(move |first| {
        let left = columns - first;
        let leaves = if left > pass {
            Leaves::Stay
        } else {
            Leaves::Sums
        };
        let columns = left.min(pass);
        Step::Pass(ProductPass {
            pass: Pass {
                words: s.words(columns),
                rows,
                groups: s.groups(tokens) as u64,
                leaves,
            },
            row,
            columns: (first, columns),
            tokens,
        })
    })
}

/// Returns the pass that makes the scores of some keys.
pub(super) fn score_pass(
    s: Shape,
    columns: u32,
    (row, rows): (usize, RowTile),
    tokens: u32,
) -> Step {
    Step::Pass(ProductPass {
        pass: Pass {
            words: s.words(columns as usize),
            rows,
            groups: 0,
            leaves: Leaves::Scores,
        },
        row,
        columns: (0, columns as usize),
        tokens: tokens as usize,
    })
}

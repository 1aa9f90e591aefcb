//! How the array divides a product: tiles of row pairs, tiles and groups of tokens, transfers' sizes.
//!
//! Shared by all that executes commands. Depends on the hardware's configuration.

use quasar_hardware::configuration::{key_banks, value_banks};
use quasar_hardware::Hardware;

use crate::isa::{PORT_BYTES, ROW_BYTES};

/// Sizes of the array and of what stands around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens T.
    pub tokens: usize,
    /// Row pairs P.
    pub pairs: usize,
    /// Requantizing lanes L.
    pub lanes: usize,
    /// Bytes of a logical beat.
    pub beat: usize,
    /// Banks of keys B.
    pub key_banks: usize,
    /// Banks of values B'.
    pub value_banks: usize,
    /// S, the low field's bits.
    pub shift: u32,
    /// Frames in flight.
    pub frames: usize,
}

/// A tile of row pairs: 4-bit rows, then 8-bit rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowTile {
    /// 4-bit rows, two to a pair; of an odd number the last is alone.
    pub rows4: usize,
    /// 8-bit rows.
    pub rows8: usize,
}

impl RowTile {
    /// Rows.
    pub const fn rows(self) -> usize {
        self.rows4 + self.rows8
    }

    /// Row pairs.
    pub const fn pairs(self) -> usize {
        self.rows4.div_ceil(2) + self.rows8
    }
}

impl Shape {
    /// That of a configuration.
    pub fn of(hardware: &Hardware) -> Self {
        let c = hardware.configuration();
        Self {
            tokens: c.array.tokens as usize,
            pairs: c.array.pairs as usize,
            lanes: c.lanes.requantize as usize,
            beat: PORT_BYTES * c.axi_ports as usize,
            key_banks: key_banks(c.array, c.lanes) as usize,
            value_banks: value_banks(c.array, c.lanes) as usize,
            shift: hardware.board().dsp_kind.shift(),
            frames: c.frames as usize,
        }
    }

    /// Tiles of row pairs of a matrix.
    pub fn row_tiles(&self, mut rows4: usize, mut rows8: usize) -> Vec<RowTile> {
        let mut tiles = Vec::new();
        while rows4 + rows8 > 0 {
            let four = rows4.min(2 * self.pairs);
            let eight = rows8.min(self.pairs - four.div_ceil(2));
            tiles.push(RowTile {
                rows4: four,
                rows8: eight,
            });
            (rows4, rows8) = (rows4 - four, rows8 - eight);
        }
        tiles
    }

    /// Tokens of each tile of tokens.
    pub fn token_tiles(&self, tokens: usize) -> impl Iterator<Item = usize> + Clone {
        let lanes = self.tokens;
        (0..tokens)
            .step_by(lanes)
            .map(move |first| lanes.min(tokens - first))
    }

    /// Groups of L tokens.
    pub const fn groups(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.lanes)
    }

    /// Beats of so many bytes.
    pub const fn beats(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.beat)
    }

    /// Beats of the weights of a tile of row pairs.
    pub const fn weight_beats(&self, columns: usize) -> usize {
        self.beats(columns * self.pairs)
    }

    /// Beats of the parameters of some rows.
    pub const fn row_beats(&self, rows: usize) -> usize {
        self.beats(rows * ROW_BYTES)
    }

    /// Bank and address of a key's dimension. `stride`: dimensions of all heads.
    pub const fn key(&self, token: usize, column: usize, stride: usize) -> (usize, usize) {
        (
            token % self.key_banks,
            token / self.key_banks * stride + column,
        )
    }

    /// Bank and address of a value's dimension. `tokens`: of the network.
    pub const fn value(&self, token: usize, column: usize, tokens: usize) -> (usize, usize) {
        (
            (token + column) % self.value_banks,
            column / self.value_banks * tokens + token,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_divide_into_tiles_with_four_bit_pairs_first() {
        let shape = Shape {
            tokens: 5,
            pairs: 3,
            lanes: 2,
            beat: 16,
            key_banks: 3,
            value_banks: 3,
            shift: 23,
            frames: 2,
        };
        let tiles = shape.row_tiles(7, 3);
        let rows: Vec<_> = tiles
            .iter()
            .map(|t| (t.rows4, t.rows8, t.pairs()))
            .collect();
        assert_eq!(rows, [(6, 0, 3), (1, 2, 3), (0, 1, 1)]);
        assert!(shape.row_tiles(0, 0).is_empty());
        assert_eq!(shape.token_tiles(11).collect::<Vec<_>>(), [5, 5, 1]);
        assert_eq!((shape.groups(5), shape.weight_beats(11)), (3, 3));
    }

    #[test]
    fn a_lane_group_and_an_array_column_meet_every_bank_once() {
        let shape = Shape {
            tokens: 9,
            pairs: 4,
            lanes: 6,
            beat: 16,
            key_banks: 8,
            value_banks: 6,
            shift: 23,
            frames: 2,
        };
        let distinct = |banks: Vec<usize>| {
            let mut sorted = banks.clone();
            sorted.sort_unstable();
            sorted.dedup();
            sorted.len() == banks.len()
        };
        for first in 0..30 {
            assert!(distinct(
                (0..6).map(|i| shape.key(first + i, 3, 8).0).collect()
            ));
            assert!(distinct(
                (0..6).map(|i| shape.value(first + i, 3, 40).0).collect()
            ));
            assert!(distinct(
                (0..4).map(|i| shape.value(7, first + i, 40).0).collect()
            ));
        }
        for first in (0..32).step_by(4) {
            assert!(distinct(
                (0..4).map(|i| shape.key(first + i, 3, 8).0).collect()
            ));
        }
    }
}

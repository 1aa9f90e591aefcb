//! Divides a product into the tiles that the array works on.
//!
//! The compiler, the schedule check, the event model and the closed form divide by this one rule.
//! The kernels' form of it is `fpga/include/tiling.hpp`, which does not compile where it differs
//! from the tiles that `config.hpp` states. Depends on [`crate::configuration`].

use crate::configuration::Hardware;
use crate::workload::RowWidths;

/// Sizes of the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Tokens T of a tile of tokens.
    pub tokens: u64,
    /// Row pairs P of a tile of row pairs.
    pub pairs: u64,
}

/// A tile of row pairs: 4-bit rows, then 8-bit rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowTile {
    /// 4-bit rows, two to a pair. The last row of an odd number is alone in its pair.
    pub rows4: u64,
    /// 8-bit rows, one to a pair.
    pub rows8: u64,
}

impl RowTile {
    /// Returns the pairs of rows that are rotated, if any are: all rows but an odd one of zeros.
    pub const fn rotations(self) -> u64 {
        self.rows4 / 2 + self.rows8 / 2
    }

    /// Returns the number of rows.
    pub const fn rows(self) -> u64 {
        self.rows4 + self.rows8
    }

    /// Returns the number of row pairs.
    pub const fn pairs(self) -> u64 {
        self.rows4.div_ceil(2) + self.rows8
    }
}

/// Tiles of tokens next to each other, whose activations a buffer holds at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// First tile of tokens.
    pub tile: u64,
    /// Tokens.
    pub tokens: u64,
}

impl Tiling {
    /// Returns the sizes of a configuration's array.
    pub const fn of(hardware: &Hardware) -> Self {
        let array = hardware.configuration().array;
        Self {
            tokens: array.tokens,
            pairs: array.pairs,
        }
    }

    /// Adds the 8-bit rows of zeros that keep both rows of each rotated pair in one tile: one at
    /// the end of a tile that has room for a single row.
    #[must_use]
    pub const fn rotated(self, rows: RowWidths) -> RowWidths {
        let all = rows.eight_bit / 2;
        let room = self.pairs - rows.four_bit.div_ceil(2) % self.pairs;
        let (first, whole) = (room / 2, self.pairs / 2);
        if all <= first {
            return rows;
        }
        let tiles = (all - first).div_ceil(whole) - 1;
        RowWidths {
            four_bit: rows.four_bit,
            eight_bit: rows.eight_bit + room % 2 + tiles * (self.pairs % 2),
        }
    }

    /// Divides the rows of a matrix into tiles of row pairs.
    pub fn row_tiles(self, rows4: u64, rows8: u64) -> impl Iterator<Item = RowTile> + Clone {
        self.row_tile_runs(rows4, rows8)
            .flat_map(|(tile, count)| (0..count).map(move |_| tile))
    }

    /// Divides the rows of a matrix into tiles of row pairs. Lists equal tiles that follow each
    /// other once, with their number.
    pub fn row_tile_runs(
        self,
        rows4: u64,
        rows8: u64,
    ) -> impl Iterator<Item = (RowTile, u64)> + Clone {
        let mut left = RowTile { rows4, rows8 };
        std::iter::from_fn(move || {
            let rows4 = left.rows4.min(2 * self.pairs);
            let rows8 = left.rows8.min(self.pairs - rows4.div_ceil(2));
            let count = match (rows4, rows8) {
                (0, 0) => return None,
                (_, 0) => left.rows4 / rows4,
                (0, _) => left.rows8 / rows8,
                _ => 1,
            };
            left.rows4 -= count * rows4;
            left.rows8 -= count * rows8;
            Some((RowTile { rows4, rows8 }, count))
        })
    }

    /// Returns the number of tiles of tokens.
    pub const fn token_tiles(self, tokens: u64) -> u64 {
        tokens.div_ceil(self.tokens)
    }

    /// Divides tokens into the fewest bands that fit a buffer of `most` tiles of tokens. All bands
    /// but the last have equally many tiles.
    fn bands(self, tokens: u64, most: u64) -> impl Iterator<Item = Band> + Clone {
        let tiles = self.token_tiles(tokens);
        let size = tiles.div_ceil(tiles.div_ceil(most.max(1)));
        (0..tiles.div_ceil(size)).map(move |band| {
            let tile = band * size;
            Band {
                tile,
                tokens: (tokens - tile * self.tokens).min(size * self.tokens),
            }
        })
    }

    /// Returns the tokens of one tile of tokens.
    pub fn tile_tokens(self, tokens: u64, tile: u64) -> u64 {
        self.tokens.min(tokens - tile * self.tokens)
    }

    /// Returns the tokens of each tile of tokens.
    pub fn token_sizes(self, tokens: u64) -> impl Iterator<Item = u64> + Clone {
        (0..self.token_tiles(tokens)).map(move |tile| self.tile_tokens(tokens, tile))
    }
}

impl Hardware {
    /// Divides tokens into bands whose patches, of `columns` values each, fit the buffer `input`.
    pub fn input_bands(&self, tokens: u64, columns: u64) -> impl Iterator<Item = Band> + Clone {
        self.bands(tokens, columns, self.configuration().buffers.input)
    }

    /// Divides tokens into bands whose hidden layer, of `columns` values a token, fits the buffer
    /// `hidden`.
    pub fn hidden_bands(&self, tokens: u64, columns: u64) -> impl Iterator<Item = Band> + Clone {
        self.bands(tokens, columns, self.configuration().buffers.hidden)
    }

    fn bands(&self, tokens: u64, columns: u64, words: u64) -> impl Iterator<Item = Band> + Clone {
        let columns = self.configuration().array.padded(columns);
        Tiling::of(self).bands(tokens, words / columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_divide_into_tiles_with_four_bit_pairs_first() {
        let tiling = Tiling {
            tokens: 5,
            pairs: 3,
        };
        let rows: Vec<_> = tiling
            .row_tiles(7, 3)
            .map(|t| (t.rows4, t.rows8, t.pairs()))
            .collect();
        assert_eq!(rows, [(6, 0, 3), (1, 2, 3), (0, 1, 1)]);
        let runs = |rows4, rows8| -> Vec<_> {
            let runs = tiling.row_tile_runs(rows4, rows8);
            runs.map(|(t, count)| (t.rows4, t.rows8, count)).collect()
        };
        assert_eq!(runs(19, 8), [(6, 0, 3), (1, 2, 1), (0, 3, 2)]);
        assert_eq!(runs(5, 7), [(5, 0, 1), (0, 3, 2), (0, 1, 1)]);
        assert_eq!(tiling.row_tiles(0, 0).count(), 0);
        assert_eq!(tiling.token_sizes(11).collect::<Vec<_>>(), [5, 5, 1]);
    }

    #[test]
    fn bands_are_few_and_of_equally_many_tiles() {
        let tiling = Tiling {
            tokens: 5,
            pairs: 3,
        };
        let bands = |tokens, most| -> Vec<_> {
            let bands = tiling.bands(tokens, most);
            bands.map(|band| (band.tile, band.tokens)).collect()
        };
        assert_eq!(bands(23, 5), [(0, 23)]);
        assert_eq!(bands(23, 4), [(0, 15), (3, 8)]);
        assert_eq!(bands(23, 2), [(0, 10), (2, 10), (4, 3)]);
        assert_eq!(bands(1, 7), [(0, 1)]);
    }
}

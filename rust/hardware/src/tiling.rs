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
    /// the end of a tile that has room for a single row, but for the last tile.
    #[must_use]
    pub const fn rotated(self, rows: RowWidths) -> RowWidths {
        let whole = 2 * (self.pairs / 2);
        let (tiles, left) = (rows.eight_bit / whole, rows.eight_bit % whole);
        let room = self.pairs - rows.four_bit.div_ceil(2) % self.pairs;
        let divided = left > room && room % 2 == 1;
        let last = left == 0 && room == self.pairs && tiles > 0;
        let zeros = (tiles - last as u64) * (self.pairs % 2) + divided as u64;
        RowWidths {
            four_bit: rows.four_bit,
            eight_bit: rows.eight_bit + zeros,
        }
    }

    /// Divides the rows of a matrix into tiles of row pairs: whole tiles of 4-bit rows and of 8-bit
    /// rows take turns by their numbers of row pairs, because 4-bit rows keep the lanes busy twice
    /// as long; what is left of both comes last.
    pub fn row_tiles(self, rows4: u64, rows8: u64) -> impl Iterator<Item = RowTile> + Clone {
        let all4 = rows4.div_ceil(2);
        let (mut left, mut ahead) = (RowTile { rows4, rows8 }, 0);
        std::iter::from_fn(move || {
            let whole4 = left.rows4.div_ceil(2) >= self.pairs;
            let whole8 = left.rows8 >= self.pairs;
            let eight_bit = whole8 && (!whole4 || ahead >= all4);
            let tile = if eight_bit {
                RowTile {
                    rows4: 0,
                    rows8: self.pairs,
                }
            } else {
                self.tail(left)
            };
            ahead = if eight_bit {
                u64::saturating_sub(ahead, all4)
            } else {
                ahead + rows8
            };
            left.rows4 -= tile.rows4;
            left.rows8 -= tile.rows8;
            (tile.rows() > 0).then_some(tile)
        })
    }

    /// Returns each kind of tile of row pairs with its number; the last tile is the last one.
    pub fn row_tile_kinds(self, rows4: u64, rows8: u64) -> impl Iterator<Item = (RowTile, u64)> {
        let left = RowTile {
            rows4: rows4 % (2 * self.pairs),
            rows8: rows8 % self.pairs,
        };
        let tail = self.tail(left);
        let rest = RowTile {
            rows4: 0,
            rows8: left.rows8 - tail.rows8,
        };
        let whole = |rows4, rows8| RowTile { rows4, rows8 };
        [
            (whole(2 * self.pairs, 0), rows4 / (2 * self.pairs)),
            (whole(0, self.pairs), rows8 / self.pairs),
            (tail, u64::from(tail.rows() > 0)),
            (rest, u64::from(rest.rows() > 0)),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
    }

    /// Returns the tile that takes 4-bit rows as long as there are any, then 8-bit rows.
    fn tail(self, left: RowTile) -> RowTile {
        let rows4 = left.rows4.min(2 * self.pairs);
        let rows8 = left.rows8.min(self.pairs - rows4.div_ceil(2));
        RowTile { rows4, rows8 }
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
    fn tiles_of_four_bit_and_of_eight_bit_rows_take_turns() {
        let tiling = Tiling {
            tokens: 5,
            pairs: 3,
        };
        let rows = |rows4, rows8| -> Vec<_> {
            let tiles = tiling.row_tiles(rows4, rows8);
            tiles.map(|t| (t.rows4, t.rows8)).collect()
        };
        assert_eq!(rows(7, 3), [(6, 0), (0, 3), (1, 0)]);
        assert_eq!(
            rows(19, 8),
            [(6, 0), (6, 0), (0, 3), (6, 0), (0, 3), (1, 2)]
        );
        assert_eq!(
            rows(24, 6),
            [(6, 0), (6, 0), (0, 3), (6, 0), (6, 0), (0, 3)]
        );
        assert_eq!(rows(5, 8), [(5, 0), (0, 3), (0, 3), (0, 2)]);
        assert_eq!(rows(4, 5), [(0, 3), (4, 1), (0, 1)]);
        assert_eq!(tiling.row_tiles(0, 0).count(), 0);
        assert_eq!(tiling.token_sizes(11).collect::<Vec<_>>(), [5, 5, 1]);
    }

    #[test]
    fn kinds_of_tiles_are_the_tiles() {
        for pairs in 1..5 {
            let tiling = Tiling { tokens: 1, pairs };
            for (rows4, rows8) in (0..30).flat_map(|a| (0..30).map(move |b| (a, b))) {
                let mut tiles: Vec<_> = tiling.row_tiles(rows4, rows8).collect();
                let last = tiles.last().copied();
                let kinds: Vec<_> = tiling.row_tile_kinds(rows4, rows8).collect();
                for (tile, count) in kinds {
                    let before = tiles.len();
                    tiles.retain(|other| *other != tile);
                    assert_eq!(before - tiles.len(), count as usize, "{tile:?}");
                }
                assert_eq!(tiles, [], "{last:?}");
            }
        }
    }

    #[test]
    fn rows_of_zeros_keep_rotated_pairs_in_one_tile() {
        for pairs in 2..8 {
            let tiling = Tiling { tokens: 1, pairs };
            for (four_bit, eight_bit) in (0..40).flat_map(|a| (0..40).map(move |b| (2 * a, 2 * b)))
            {
                let rows = tiling.rotated(RowWidths {
                    four_bit,
                    eight_bit,
                });
                let (mut eight_bits, mut zeros, mut last_is_zero) = (0, 0, false);
                for tile in tiling.row_tiles(four_bit, rows.eight_bit) {
                    for row in 0..tile.rows8 {
                        let place = tile.rows4.div_ceil(2) + row;
                        last_is_zero = eight_bits % 2 == 0 && place + 1 == pairs;
                        *(if last_is_zero {
                            &mut zeros
                        } else {
                            &mut eight_bits
                        }) += 1;
                    }
                    assert_eq!(eight_bits % 2, 0);
                    last_is_zero &= tile.rows8 > 0;
                }
                assert_eq!(
                    (eight_bits, eight_bits + zeros),
                    (eight_bit, rows.eight_bit)
                );
                assert!(!last_is_zero, "{pairs} {four_bit} {eight_bit}");
            }
        }
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

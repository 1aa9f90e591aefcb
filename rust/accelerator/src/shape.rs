//! Holds the sizes of the array and of its memories, for the compiler, the steps and their runs.
//!
//! Depends on [`crate::isa`] and the hardware's configuration.

use quasar_hardware::configuration::{key_banks, value_banks};
use quasar_hardware::tiling::{RowTile, Tiling};
use quasar_hardware::Hardware;

use crate::isa::{Context, PORT_BYTES, ROW_BYTES};

/// Sizes of the array and of its memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens T.
    pub tokens: usize,
    /// Row pairs P.
    pub pairs: usize,
    /// Slices C of a cascade.
    pub cascade: usize,
    /// Requantizing lanes L.
    pub lanes: usize,
    /// Lanes M of the norm.
    pub norm_lanes: usize,
    /// Exponential lanes E.
    pub exponential_lanes: usize,
    /// Bytes of a logical beat.
    pub beat: usize,
    /// Banks of keys B.
    pub key_banks: usize,
    /// Banks of values B'.
    pub value_banks: usize,
    /// Frames in flight.
    pub frames: usize,
    /// Cycles R of the array in one of the kernels.
    pub ratio: usize,
}

/// Place of a code in a memory whose words have C bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bank.
    pub bank: usize,
    /// Word of the bank.
    pub word: usize,
    /// Byte of the word.
    pub byte: usize,
}

impl Shape {
    /// Returns the sizes of a configuration.
    pub fn of(hardware: &Hardware) -> Self {
        let c = hardware.configuration();
        Self {
            tokens: c.array.tokens as usize,
            pairs: c.array.pairs as usize,
            cascade: c.array.cascade as usize,
            lanes: c.lanes.requantize as usize,
            norm_lanes: c.lanes.norm as usize,
            exponential_lanes: c.lanes.exponential as usize,
            beat: PORT_BYTES * c.axi_ports as usize,
            key_banks: key_banks(c.array, c.lanes) as usize,
            value_banks: value_banks(c.array, c.lanes) as usize,
            frames: c.frames as usize,
            ratio: c.array.clock_ratio as usize,
        }
    }

    /// Returns the sizes of the array.
    pub const fn tiling(&self) -> Tiling {
        Tiling {
            tokens: self.tokens as u64,
            pairs: self.pairs as u64,
        }
    }

    /// Divides the rows of a matrix into tiles of row pairs.
    pub fn row_tiles(&self, rows4: u32, rows8: u32) -> impl Iterator<Item = RowTile> + Clone {
        self.tiling().row_tiles(rows4.into(), rows8.into())
    }

    /// Returns the tokens of each tile of tokens.
    pub fn token_tiles(&self, tokens: u32) -> impl Iterator<Item = usize> + Clone {
        let sizes = self.tiling().token_sizes(tokens.into());
        sizes.map(|tokens| tokens as usize)
    }

    /// Returns the columns of a memory that hold `columns` columns: whole words of C.
    pub const fn padded(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.cascade)
    }

    /// Returns the words of C columns that hold some columns.
    pub const fn words(&self, columns: usize) -> u64 {
        columns.div_ceil(self.cascade) as u64
    }

    /// Returns the groups of E tokens in a tile.
    pub const fn exponential_groups(&self) -> usize {
        self.tokens.div_ceil(self.exponential_lanes)
    }

    /// Returns the groups of L tokens.
    pub const fn groups(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.lanes)
    }

    /// Returns the parts of 16 bytes of a lane's `angles`: a part holds those of four lanes.
    pub const fn angle_parts(&self, angles: u64) -> usize {
        let places = self.tokens.div_ceil(self.lanes) * self.ratio;
        angles as usize * places * self.lanes.div_ceil(self.ratio).div_ceil(4)
    }

    /// Returns the beats of some bytes.
    pub const fn beats(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.beat)
    }

    /// Returns the beats of the residual of some tokens.
    pub const fn residual_beats(&self, embed: u64, tokens: u64) -> usize {
        let words = tokens.div_ceil(self.tokens as u64) * embed;
        words as usize * self.beats(2 * self.tokens)
    }

    /// Returns the beats of the weights of a tile of row pairs.
    pub const fn weight_beats(&self, columns: usize) -> usize {
        self.beats(self.padded(columns) * self.pairs)
    }

    /// Returns the beats of the parameters of some rows.
    pub const fn row_beats(&self, rows: usize) -> usize {
        self.beats(rows * ROW_BYTES)
    }

    /// Returns the place of a key's dimension: a word holds C dimensions of a token. `stride`:
    /// dimensions of all heads, padded.
    pub const fn key(&self, token: usize, column: usize, stride: usize) -> Place {
        Place {
            bank: token % self.key_banks,
            word: (token / self.key_banks * stride + column) / self.cascade,
            byte: column % self.cascade,
        }
    }

    /// Returns the first dimension of a `Context`'s head.
    pub const fn context_base(&self, context: &Context) -> u32 {
        context.block * self.value_banks as u32 + context.bank
    }

    /// Returns the cell of a value column in a tile of tokens: cells of `value` are numbered by
    /// column, then by tile, since `Context` does not state a stride.
    pub const fn value_cell(&self, column: usize, tile: usize, keys: u32) -> usize {
        column * (keys as usize).div_ceil(self.tokens) + tile
    }

    /// Returns the place of a value's dimension: a word holds one dimension of C tokens. `tokens`:
    /// tokens of the network.
    pub const fn value(&self, token: usize, column: usize, tokens: usize) -> Place {
        let word = token / self.cascade;
        Place {
            bank: (word + column) % self.value_banks,
            word: column / self.value_banks * tokens.div_ceil(self.cascade) + word,
            byte: token % self.cascade,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns true if no two of these places share a bank, unless they share a word of it.
    fn meet_each_bank_once(places: impl Iterator<Item = Place>) -> bool {
        let places: Vec<_> = places.collect();
        let clash = |a: &Place, b: &Place| a.bank == b.bank && a.word != b.word;
        !places.iter().any(|a| places.iter().any(|b| clash(a, b)))
    }

    #[test]
    fn a_lane_group_and_an_array_column_meet_every_bank_once() {
        for (cascade, value_banks) in [(1, 6), (2, 4), (4, 4)] {
            let shape = Shape {
                tokens: 9,
                pairs: 4,
                cascade,
                lanes: 6,
                norm_lanes: 1,
                exponential_lanes: 1,
                beat: 16,
                key_banks: 8,
                value_banks,
                frames: 2,
                ratio: 1,
            };
            for first in 0..30 {
                let lanes = first..first + 6;
                let keys = lanes.clone().map(|token| shape.key(token, 3, 8));
                assert!(meet_each_bank_once(keys));
                let values = lanes.map(|token| shape.value(token, 3, 40));
                assert!(meet_each_bank_once(values));
                let rows = (first..first + 4).map(|column| shape.value(7, column, 40));
                let mut banks: Vec<_> = rows.map(|place| place.bank).collect();
                banks.sort_unstable();
                banks.dedup();
                assert_eq!(banks.len(), 4);
            }
            for first in (0..32).step_by(4) {
                let keys = (first..first + 4).map(|token| shape.key(token, 3, 8));
                assert!(meet_each_bank_once(keys));
            }
        }
    }

    #[test]
    fn no_two_codes_share_a_byte() {
        type At<'a> = &'a dyn Fn(usize, usize) -> Place;
        let shape = Shape {
            tokens: 9,
            pairs: 4,
            cascade: 4,
            lanes: 6,
            norm_lanes: 1,
            exponential_lanes: 1,
            beat: 16,
            key_banks: 8,
            value_banks: 5,
            frames: 2,
            ratio: 1,
        };
        let codes = (0..21).flat_map(|token| (0..16).map(move |column| (token, column)));
        let places: [At; 2] = [
            &|token, column| shape.key(token, column, 16),
            &|token, column| shape.value(token, column, 21),
        ];
        for place in places {
            let mut all: Vec<_> = codes
                .clone()
                .map(|(token, column)| place(token, column))
                .map(|at| (at.bank, at.word, at.byte))
                .collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 21 * 16);
        }
    }
}

//! Holds the sizes of the array and of its memories, as the compiler and the schedule check use
//! them.
//!
//! Depends on [`crate::isa`] and the hardware's configuration.

use quasar_hardware::configuration::{key_banks, value_banks};
use quasar_hardware::tiling::{RowTile, Tiling};
use quasar_hardware::Hardware;

use crate::isa::{PORT_BYTES, ROW_BYTES};

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
    /// Bytes of a logical beat.
    pub beat: usize,
    /// Banks of keys B.
    pub key_banks: usize,
    /// Banks of values B'.
    pub value_banks: usize,
    /// Frames in flight.
    pub frames: usize,
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
            beat: PORT_BYTES * c.axi_ports as usize,
            key_banks: key_banks(c.array, c.lanes) as usize,
            value_banks: value_banks(c.array, c.lanes) as usize,
            frames: c.frames as usize,
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

    /// Returns the groups of L tokens.
    pub const fn groups(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.lanes)
    }

    /// Returns the beats of some bytes.
    pub const fn beats(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.beat)
    }

    /// Returns the beats of the weights of a tile of row pairs.
    pub const fn weight_beats(&self, columns: usize) -> usize {
        self.beats(columns.next_multiple_of(self.cascade) * self.pairs)
    }

    /// Returns the beats of the parameters of some rows.
    pub const fn row_beats(&self, rows: usize) -> usize {
        self.beats(rows * ROW_BYTES)
    }

    /// Returns bank and address of a key's dimension. `stride`: dimensions of all heads.
    pub const fn key(&self, token: usize, column: usize, stride: usize) -> (usize, usize) {
        (
            token % self.key_banks,
            token / self.key_banks * stride + column,
        )
    }

    /// Returns bank and address of a value's dimension. `tokens`: tokens of the network.
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
    fn a_lane_group_and_an_array_column_meet_every_bank_once() {
        let shape = Shape {
            tokens: 9,
            pairs: 4,
            cascade: 1,
            lanes: 6,
            beat: 16,
            key_banks: 8,
            value_banks: 6,
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

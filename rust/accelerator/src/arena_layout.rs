//! Lays out the arena, the accelerator's read-only memory: transfers in the formats of *Memory* in
//! `docs/accelerator.md`, each followed by its check.
//!
//! Depends on [`crate::isa`] only.

use crate::isa::{check, Destination, RowParameters};

/// The location of a transfer in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// First beat.
    pub(crate) address: u32,
    /// Beats, without the check.
    pub(crate) beats: u32,
}

/// A row: its codes for the array, its parameters for the drain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    /// One code for each column.
    pub(crate) codes: &'a [i8],
    pub(crate) bias: i32,
    /// Mantissa m.
    pub(crate) mult: i16,
    pub(crate) shift: u8,
    pub(crate) destination: Destination,
    pub(crate) column: u16,
    /// Pair of rows of the head, if the row is rotated.
    pub(crate) pair: Option<u8>,
}

/// The rows that one position of the array holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowPair<'a> {
    /// Two 4-bit rows, or an odd last one.
    FourBit(Row<'a>, Option<Row<'a>>),
    /// One 8-bit row.
    EightBit(Row<'a>),
}

impl<'a> RowPair<'a> {
    /// Returns the rows in the order in which their sums leave the array.
    pub(crate) fn rows(self) -> impl Iterator<Item = Row<'a>> {
        let (first, second) = match self {
            Self::FourBit(first, second) => (first, second),
            Self::EightBit(row) => (row, None),
        };
        std::iter::once(first).chain(second)
    }

    /// Returns the number of columns.
    fn columns(self) -> usize {
        let (Self::FourBit(row, _) | Self::EightBit(row)) = self;
        row.codes.len()
    }

    /// Returns the row operand of column k: two 4-bit codes (the first row's code in the low
    /// nibble) or one 8-bit code.
    fn byte(self, k: usize) -> u8 {
        match self {
            Self::FourBit(low, high) => {
                let high = high.map_or(0, |row| row.codes[k]);
                (low.codes[k] as u8 & 15) | (high as u8) << 4
            }
            Self::EightBit(row) => row.codes[k] as u8,
        }
    }
}

/// Reads bytes as little-endian words. Their number is a multiple of 4.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
}

/// Returns the number of beats of a word of `bytes` bytes; each word starts on a beat.
pub(crate) const fn word_beats(bytes: usize, beat: usize) -> usize {
    bytes.div_ceil(beat)
}

/// Allocates transfers one after another, with a beat for each check.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    next: usize,
}

impl Cursor {
    /// Allocates a transfer of `beats` beats.
    pub(crate) fn take(&mut self, beats: usize) -> Transfer {
        let address = self.next as u32;
        self.next += beats + 1;
        Transfer {
            address,
            beats: beats as u32,
        }
    }

    /// Returns the number of beats allocated so far.
    pub(crate) fn beats(self) -> usize {
        self.next
    }
}

/// The arena while it is filled.
#[derive(Clone, Debug)]
pub(crate) struct Arena {
    bytes: Vec<u8>,
    /// Offset of each check.
    checks: Vec<usize>,
    beat: usize,
}

impl Arena {
    pub(crate) fn new(beats: usize, beat: usize) -> Self {
        Self {
            bytes: vec![0; beats * beat],
            checks: Vec::new(),
            beat,
        }
    }

    /// Returns the bytes, and the offset of each check, in order.
    pub(crate) fn into_parts(mut self) -> (Vec<u8>, Vec<usize>) {
        self.checks.sort_unstable();
        (self.bytes, self.checks)
    }

    /// Writes a transfer and its check. Pads the last beat with zeros.
    ///
    /// # Panics
    /// If `data` needs another number of beats than allocated.
    pub(crate) fn put(&mut self, transfer: Transfer, data: &[u8]) {
        assert_eq!(data.len().div_ceil(self.beat), transfer.beats as usize);
        let first = transfer.address as usize * self.beat;
        let end = first + transfer.beats as usize * self.beat;
        self.bytes[first..first + data.len()].copy_from_slice(data);
        let check = check(&self.bytes[first..end]);
        self.bytes[end..end + 4].copy_from_slice(&check.to_le_bytes());
        self.checks.push(end);
    }
}

/// Lays out the weights of a tile of row pairs: for each of `padded` columns one byte for each
/// position. Row pair i is at position `positions - 1 - i`. Columns beyond the rows' end are 0.
pub(crate) fn weights(tile: &[RowPair], padded: usize, positions: usize) -> Vec<u8> {
    let mut data = vec![0; padded * positions];
    for (i, pair) in tile.iter().enumerate() {
        let bytes = data[positions - 1 - i..].iter_mut().step_by(positions);
        for (byte, k) in bytes.zip(0..pair.columns()) {
            *byte = pair.byte(k);
        }
    }
    data
}

/// Lays out the row parameters of a tile of row pairs. The memory `value` has `banks` banks.
pub(crate) fn rows(tile: &[RowPair], banks: usize) -> Vec<u8> {
    let mut data = Vec::new();
    for row in tile.iter().flat_map(|pair| pair.rows()) {
        let parameters = RowParameters {
            bias: row.bias,
            mult: row.mult,
            shift: row.shift,
            destination: row.destination as u8,
            column: row.column,
            value_block: match row.pair {
                Some(_) => 0,
                None => (usize::from(row.column) / banks) as u16,
            },
            value_bank: (row.pair).unwrap_or((usize::from(row.column) % banks) as u8),
        };
        data.extend(parameters.bytes());
    }
    data
}

/// Lays out `LayerNorm`'s gains and offsets.
pub(crate) fn gains(gains: &[i16], offsets: &[i16]) -> Vec<u8> {
    let pairs = gains.iter().zip(offsets);
    pairs
        .flat_map(|(gain, offset)| [gain.to_le_bytes(), offset.to_le_bytes()].concat())
        .collect()
}

/// Lays out the residual stream `[tokens, embed]`, tile by tile, in words of `lanes` tokens; each
/// word starts on a beat.
pub(crate) fn residual(values: &[i16], embed: usize, lanes: usize, beat: usize) -> Vec<u8> {
    let word = word_beats(2 * lanes, beat) * beat;
    let tokens = values.len() / embed;
    let mut data = vec![0; tokens.div_ceil(lanes) * embed * word];
    for (token, values) in values.chunks_exact(embed).enumerate() {
        let (tile, lane) = (token / lanes, token % lanes);
        for (d, value) in values.iter().enumerate() {
            let at = (tile * embed + d) * word + 2 * lane;
            data[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    data
}

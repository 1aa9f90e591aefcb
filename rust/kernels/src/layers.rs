//! Parameters of layers and heads, as callers pass them and as tiers pack them, and working memory.

use std::ops::Range;

use crate::buffer::{Buffer, Buffers};
use crate::scalar::{clamp8, rshift, sat16};
use crate::weights::Weights;
use crate::Tier;

/// Values that every row of logits or probabilities is padded to a multiple of.
pub(crate) const PAD: usize = 64;

/// Rows whose outputs are put in order together.
pub(crate) const WINDOW: usize = ROW_STEP;

/// The number of rows by which a layer can be cut into parts: see [`Linear::part`].
pub const ROW_STEP: usize = 64;

/// The parameters of a linear layer, rows in logical order.
#[derive(Clone, Copy, Debug)]
pub struct LinearParams<'a> {
    /// Output rows.
    pub rows: usize,
    /// Inputs of each row.
    pub k: usize,
    /// Weight codes in [-127, 127], `rows * k`, row-major.
    pub weights: &'a [i8],
    /// Accumulator offsets, `rows`.
    pub bias: &'a [i32],
    /// Requantization mantissas M, `rows`: 0 or in [2^14, 2^15).
    pub mult: &'a [i16],
    /// Requantization shifts p, `rows`: in [1, 30].
    pub shift: &'a [u8],
}

/// The form of weights in memory. Results do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// The form that the tier multiplies: one byte for each weight, on AVX2 two in 8-bit rows.
    Unpacked,
    /// Half a byte for each weight of rows within [-7, 7] (4-bit rows), a byte for others. Each
    /// call expands them, a panel at a time.
    Packed,
}

/// Rows of a layer whose outputs are put in order together.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub panels: Range<usize>,
    /// Slots are in another order than rows.
    pub sorted: bool,
}

/// A panel of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// First slot.
    pub slot: usize,
    pub width: usize,
    /// Number of rows, from the first one on, that are kept as bytes.
    pub byte_rows: usize,
    /// Its rows have the tier's form of 4-bit rows.
    pub four_bit: bool,
    /// Position of its weights, in bytes.
    pub weights: Range<usize>,
    /// The longest run of a 4-bit tile.
    pub run: usize,
    /// At least one row shifts to the left.
    pub shifts_left: bool,
}

/// A linear layer packed for one tier.
#[derive(Clone, Debug)]
pub struct Linear {
    pub(crate) tier: Tier,
    pub(crate) storage: Storage,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) weights: Weights,
    pub(crate) bias: Buffer,
    pub(crate) mult: Buffer,
    pub(crate) shift: Buffer,
    // SIMD tiers: the bias with the rounding half of the shift, and the shift as two. All are
    // indexed by slots.
    pub(crate) rounded: Buffer,
    pub(crate) right: Buffer,
    pub(crate) left: Buffer,
    // The slots of the windows' rows, one byte each.
    pub(crate) order: Buffer,
    pub(crate) windows: Vec<Window>,
    pub(crate) panels: Vec<Panel>,
}

impl Linear {
    /// Returns the number of output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of inputs of each row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Returns the tier that the layer is packed for.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Returns the form of the weights in memory.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Returns the bytes of the weights in memory, with padding.
    pub fn weight_bytes(&self) -> usize {
        self.weights.len()
    }

    /// Returns what it holds for each row beside the weights.
    pub(crate) fn parameters(&mut self) -> [&mut Buffer; 7] {
        [
            &mut self.bias,
            &mut self.mult,
            &mut self.shift,
            &mut self.rounded,
            &mut self.right,
            &mut self.left,
            &mut self.order,
        ]
    }
}

impl Linear {
    /// Moves the weights of layers next to each other, in the order in which a frame reads them,
    /// and their other parameters next to each other elsewhere.
    ///
    /// Each layer then prefetches the first weights of the next one. If there are 2 MB of weights
    /// or more, they are on large pages where the system has them, so that few reads wait for an
    /// address to be translated; fewer stay where they are, since caches hold them. The other
    /// parameters follow the rule of [`join`](crate::join).
    pub fn join(layers: &mut [&mut Self]) {
        Buffer::join(layers.iter_mut().flat_map(|layer| layer.parameters()));
        let mut weights: Vec<_> = (layers.iter_mut())
            .map(|layer| &mut layer.weights)
            .collect();
        Weights::join(&mut weights);
    }

    /// Returns the rows in `rows`, for a thread that computes these outputs only.
    ///
    /// # Panics
    /// If the range is empty or ends past the last row, or starts or ends inside a window of
    /// [`ROW_STEP`] rows.
    #[must_use]
    pub fn part(&self, rows: Range<usize>) -> LinearRows<'_> {
        let ends = rows.end == self.rows || rows.end.is_multiple_of(ROW_STEP);
        assert!(
            rows.start < rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        assert!(
            rows.start.is_multiple_of(ROW_STEP) && ends,
            "rows {rows:?} are no whole windows of {ROW_STEP}"
        );
        LinearRows {
            layer: self,
            runs: [rows, 0..0],
            then: None,
        }
    }

    /// Returns the windows of some rows. The scalar tier has none.
    fn windows(&self, rows: &Range<usize>) -> Range<usize> {
        let windows = rows.start / WINDOW..rows.end.div_ceil(WINDOW);
        if self.windows.is_empty() {
            0..0
        } else {
            windows
        }
    }

    /// Returns the weights of the first panel of some rows, `None` if there is none.
    fn first_weights(&self, rows: &Range<usize>) -> Option<&[u8]> {
        let window = self.windows[self.windows(rows)].first()?;
        Some(&self.weights[self.panels[window.panels.start].weights.clone()])
    }
}

/// Some rows of a linear layer, or all of them: one or two runs of rows.
#[derive(Clone, Debug)]
pub struct LinearRows<'a> {
    pub(crate) layer: &'a Linear,
    /// The second one may be empty.
    pub(crate) runs: [Range<usize>; 2],
    /// Weights that are read next, if they do not follow in memory.
    then: Option<&'a [u8]>,
}

impl<'a> From<&'a Linear> for LinearRows<'a> {
    fn from(layer: &'a Linear) -> Self {
        Self {
            layer,
            runs: [0..layer.rows, 0..0],
            then: None,
        }
    }
}

/// A window among some rows of a layer.
pub(crate) struct WindowOfRows<'a> {
    pub window: &'a Window,
    /// Its first row in the layer.
    pub row: usize,
    /// Its first column in the outputs.
    pub column: usize,
    /// Weights that are read after it, if they do not follow in memory.
    pub then: Option<&'a [u8]>,
}

impl<'a> LinearRows<'a> {
    /// Returns these rows and those of `rows` after them.
    ///
    /// # Panics
    /// As [`Linear::part`], if there are two runs of rows already, or if these end inside a window.
    #[must_use]
    pub fn and(self, rows: Range<usize>) -> Self {
        let [first, second] = self.runs;
        assert!(
            second.is_empty() && first.end.is_multiple_of(ROW_STEP),
            "rows {rows:?} follow a run of whole windows of {ROW_STEP} rows"
        );
        Self {
            runs: [first, self.layer.part(rows).runs[0].clone()],
            ..self
        }
    }

    /// Notes that the rows of `next` are read after these, so that their first weights are
    /// prefetched. Otherwise the weights that follow in memory are.
    #[must_use]
    pub fn before(self, next: &LinearRows<'a>) -> Self {
        let then = next.layer.first_weights(&next.runs[0]);
        Self { then, ..self }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.runs.iter().map(ExactSizeIterator::len).sum()
    }

    /// Returns the bytes of the weights of these rows in memory.
    pub fn weight_bytes(&self) -> usize {
        if self.layer.tier == Tier::Scalar {
            return self.rows() * self.layer.k;
        }
        self.panels().map(|panel| panel.weights.len()).sum()
    }

    /// Returns the windows of these rows.
    pub(crate) fn windows(&self) -> impl Iterator<Item = WindowOfRows<'a>> {
        let (layer, [first, second]) = (self.layer, self.runs.clone());
        let of_run = |rows: Range<usize>, column: usize, then: Option<&'a [u8]>| {
            let (first, windows) = (rows.start, layer.windows(&rows));
            windows.clone().map(move |w| WindowOfRows {
                window: &layer.windows[w],
                row: w * WINDOW,
                column: column + w * WINDOW - first,
                then: then.filter(|_| w + 1 == windows.end),
            })
        };
        let column = first.len();
        let to_second = layer.first_weights(&second).or(self.then);
        of_run(first, 0, to_second).chain(of_run(second, column, self.then))
    }

    /// Returns the panels of these rows.
    pub(crate) fn panels(&self) -> impl Iterator<Item = &'a Panel> {
        let layer = self.layer;
        self.windows()
            .flat_map(|window| &layer.panels[window.window.panels.clone()])
    }
}

/// The parameters of a `LayerNorm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerNorm {
    /// G, one for each column.
    pub gain: Vec<i16>,
    /// B, one for each column.
    pub bias: Vec<i16>,
    /// f, the output shift, in [0, 8].
    pub frac: u8,
    /// E, in [1, 2^50).
    pub epsilon: i64,
}

impl LayerNorm {
    /// Applies gain and offset to values that are not normalised: x stands in n's place.
    pub fn scale(&self, x: &[i16], out: &mut [i8]) {
        for (((out, &x), &gain), &bias) in out.iter_mut().zip(x).zip(&self.gain).zip(&self.bias) {
            let scaled = rshift(i32::from(x) * i32::from(gain), 15) + i32::from(bias);
            *out = clamp8(i32::from(sat16(scaled)) >> self.frac);
        }
    }
}

/// The largest number of columns of a `LayerNorm`.
pub const MAX_NORM_COLUMNS: usize = 1024;

/// Largest number of tokens of attention: the rounding residues of its rows fit 16 bits.
pub const MAX_TOKENS: usize = 1024;

/// Largest number of dimensions of a head: its logits have 23 bits.
pub const MAX_HEAD_DIM: usize = 128;

/// The parameters of one attention head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadParams {
    /// Factor from logit differences to exponents of 2 in units of 2^-26; in [1, 2^24].
    pub mult: i32,
    /// Mo, in [2^14, 2^15).
    pub out_mult: i16,
    /// po, in [11, 29].
    pub out_shift: u8,
}

impl HeadParams {
    /// Returns true if each parameter is within its range.
    pub(crate) fn is_valid(self) -> bool {
        (1..=1 << 24).contains(&self.mult)
            && self.out_mult >= 1 << 14
            && (11..=29).contains(&self.out_shift)
    }
}

/// The keys and values of one head, packed for one tier. Each frame refills them.
#[derive(Clone, Debug)]
pub struct KvHead {
    pub(crate) tier: Tier,
    pub(crate) max_tokens: usize,
    pub(crate) max_head_dim: usize,
    pub(crate) tokens: usize,
    pub(crate) head_dim: usize,
    pub(crate) keys: Buffer,
    pub(crate) values: Buffer,
    pub(crate) means: Buffer,
    // SIMD tiers: biases that undo the offsets of codes and probabilities.
    pub(crate) key_bias: Buffer,
    pub(crate) value_bias: Buffer,
}

impl KvHead {
    /// Creates an empty head with room for `max_tokens` keys and values of `max_head_dim` codes.
    ///
    /// # Panics
    /// If a size is 0, or above [`MAX_TOKENS`] and [`MAX_HEAD_DIM`].
    pub fn new(max_tokens: usize, max_head_dim: usize) -> Self {
        assert!(
            (1..=MAX_TOKENS).contains(&max_tokens) && (1..=MAX_HEAD_DIM).contains(&max_head_dim),
            "a head of {max_tokens} tokens and {max_head_dim} dimensions; at most {MAX_TOKENS} and \
             {MAX_HEAD_DIM}"
        );
        let buffer = Buffer::default;
        let mut kv = Self {
            tier: Tier::Scalar,
            max_tokens,
            max_head_dim,
            tokens: 0,
            head_dim: 0,
            keys: buffer(),
            values: buffer(),
            means: buffer(),
            key_bias: buffer(),
            value_bias: buffer(),
        };
        // The size of the largest tier, so that no frame allocates.
        let padded = |n: usize| n.next_multiple_of(PAD);
        kv.keys
            .grow::<i16>(padded(max_tokens) * padded(max_head_dim));
        kv.values
            .grow::<i16>(padded(max_tokens) * padded(max_head_dim));
        kv.means.grow::<i32>(padded(max_head_dim));
        kv.key_bias.grow::<i32>(padded(max_tokens));
        kv.value_bias.grow::<i32>(padded(max_head_dim));
        kv
    }

    /// Returns the number of keys.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Returns the number of codes of each key.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }
}

impl<'a> From<&'a mut KvHead> for Buffers<'a> {
    fn from(kv: &'a mut KvHead) -> Self {
        Self(vec![
            &mut kv.keys,
            &mut kv.values,
            &mut kv.means,
            &mut kv.key_bias,
            &mut kv.value_bias,
        ])
    }
}

/// Working memory of one thread. It grows to what the largest call needs and keeps that size.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    pub(crate) codes: Buffer,
    pub(crate) four_bit_codes: Buffer,
    pub(crate) expanded: Buffer,
    pub(crate) tile: Buffer,
    pub(crate) staged: Buffer,
    pub(crate) rotated: Buffer,
    pub(crate) attention: Buffer,
}

impl Scratch {
    /// Creates empty working memory.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<'a> From<&'a mut Scratch> for Buffers<'a> {
    fn from(scratch: &'a mut Scratch) -> Self {
        Self(vec![
            &mut scratch.codes,
            &mut scratch.four_bit_codes,
            &mut scratch.expanded,
            &mut scratch.tile,
            &mut scratch.staged,
            &mut scratch.rotated,
            &mut scratch.attention,
        ])
    }
}

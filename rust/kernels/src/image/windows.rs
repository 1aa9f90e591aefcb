//! Windows of a source image and their weights, for resizing along one axis.

use std::ops::Range;

/// Bits after the point in the weights of [`Windows`]: 32 less 8 for the pixel and 2 for overshoot
/// and sign.
pub const PRECISION: u32 = 32 - 8 - 2;

pub(crate) const HALF: i32 = 1 << (PRECISION - 1);

/// SIMD tiers multiply 16-bit halves of a weight: `weight = (high << SPLIT) + low`.
pub(crate) const SPLIT: u32 = 12;

/// Taps that a SIMD tier takes at a time.
pub(crate) const GROUP: usize = 4;
/// Pixels by which a row has to be longer than a window, so that 4 more bytes can be read after any
/// window or before it.
pub(crate) const MARGIN: usize = 3;

/// Outputs of a group: whole vectors of 16 bytes, of one and of three channels.
pub(crate) const OUTPUTS: usize = 64;
/// Source pixels of a group.
pub(crate) const ROOM: usize = 160;

/// The direction in which an image is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// Each output row is a sum of source rows.
    Rows,
    /// Each output column is a sum of source columns.
    Columns,
}

/// The outputs along one axis: each is the weighted sum of a window of the source.
#[derive(Clone, Debug)]
pub struct Windows {
    pub(super) along: Along,
    /// Of each output: the window's first source index and its length.
    bounds: Vec<(usize, usize)>,
    /// Of each output: `taps` weights, of which the first ones are used, as many as the window is
    /// long. The others are 0.
    weights: Vec<i32>,
    /// A multiple of [`GROUP`].
    taps: usize,
    /// The source indices that are read.
    span: Range<usize>,
    /// For SIMD tiers: the first source index of each output. Empty if the source is too small for
    /// pairs.
    pub(crate) starts: Vec<usize>,
    /// For SIMD tiers: each output's weights two by two, as halves (low, high) of 16 bits.
    pub(crate) pairs: Vec<[i32; 2]>,
    /// Pairs of each output.
    pub(crate) pairs_each: usize,
    /// For NEON: groups of at most [`OUTPUTS`] outputs and the source indices that they read, at
    /// most [`ROOM`] unless a window is longer. With the zeros of [`Self::padded`] they are, too.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code))]
    pub(crate) groups: Vec<(Range<usize>, Range<usize>)>,
}

impl Windows {
    /// Creates windows from each output's `bounds` (first source index, length) and `taps` weights
    /// ([`PRECISION`] bits after the point).
    ///
    /// # Panics
    /// If there is no output, a window is empty or longer than `taps`, a weight is 2^27 or more, or
    /// the lengths do not agree.
    pub fn new(along: Along, bounds: Vec<(usize, usize)>, weights: &[i32], taps: usize) -> Self {
        assert_eq!(
            weights.len(),
            bounds.len() * taps,
            "`taps` weights for each output"
        );
        assert!(
            !bounds.is_empty() && bounds.iter().all(|&(_, len)| (1..=taps).contains(&len)),
            "windows of 1 to `taps` elements"
        );
        assert!(
            weights.iter().all(|w| w.unsigned_abs() < 1 << (15 + SPLIT)),
            "weights below 2^27"
        );
        let longest = bounds.iter().map(|&(_, len)| len).max().unwrap_or(0);
        let padded = longest.next_multiple_of(GROUP);
        let mut used = vec![0; bounds.len() * padded];
        let rows = used
            .chunks_exact_mut(padded)
            .zip(weights.chunks_exact(taps));
        for ((to, from), &(_, len)) in rows.zip(&bounds) {
            to[..len].copy_from_slice(&from[..len]);
        }
        let first = bounds.iter().map(|&(start, _)| start).min().unwrap_or(0);
        let end = bounds.iter().map(|&(start, len)| start + len).max();
        let mut windows = Self {
            along,
            bounds,
            weights: used,
            taps: padded,
            span: first..end.unwrap_or(0),
            starts: Vec::new(),
            pairs: Vec::new(),
            pairs_each: 0,
            groups: Vec::new(),
        };
        windows.pair();
        windows.group();
        windows
    }

    /// Fills the tables of the SIMD tiers.
    fn pair(&mut self) {
        let longest = self.longest();
        // A window along columns is read whole. It begins early enough to end inside the row, with
        // weights of 0 in front.
        let (room, last) = match self.along {
            Along::Rows => (longest.next_multiple_of(2), self.span.end),
            Along::Columns => {
                let room = longest.next_multiple_of(GROUP);
                if self.span.len() < room + MARGIN {
                    return;
                }
                (room, self.span.end - room)
            }
        };
        self.pairs_each = room / 2;
        for (&(start, len), weights) in self.bounds.iter().zip(self.weights.chunks_exact(self.taps))
        {
            let from = start.min(last);
            let weight = |tap: usize| {
                let tap = tap.checked_sub(start - from);
                tap.filter(|&tap| tap < len).map_or(0, |tap| weights[tap])
            };
            self.starts.push(from);
            self.pairs.extend((0..self.pairs_each).map(|pair| {
                let (a, b) = (weight(2 * pair), weight(2 * pair + 1));
                let low = |w: i32| w & ((1 << SPLIT) - 1);
                let both = |a: i32, b: i32| (a & 0xffff) | (b << 16);
                [both(low(a), low(b)), both(a >> SPLIT, b >> SPLIT)]
            }));
        }
    }

    /// Returns the source indices that are read.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Returns the number of outputs.
    pub fn outputs(&self) -> usize {
        self.bounds.len()
    }

    /// Returns the length of the longest window.
    pub(super) fn longest(&self) -> usize {
        self.bounds.iter().map(|&(_, len)| len).max().unwrap_or(0)
    }

    /// Fills the groups of outputs.
    fn group(&mut self) {
        for (i, &(start, len)) in self.bounds.iter().enumerate() {
            if let Some((outputs, span)) = self.groups.last_mut() {
                let room = span.start..span.start + ROOM;
                let fits = start >= room.start && start + self.taps <= room.end;
                if fits && outputs.len() < OUTPUTS {
                    outputs.end += 1;
                    span.end = span.end.max(start + len);
                    continue;
                }
            }
            self.groups.push((i..i + 1, start..start + len));
        }
    }

    /// Returns start and weights of each window.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        (0..self.outputs()).map(|i| self.window(i))
    }

    /// Returns start and weights of an output's window.
    #[inline]
    pub(super) fn window(&self, i: usize) -> (usize, &[i32]) {
        let (start, len) = self.bounds[i];
        (start, &self.weights[i * self.taps..][..len])
    }

    /// Returns start and weights of the windows of some outputs, all of one length: weights of 0
    /// are added at their ends.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code))]
    pub(super) fn padded(
        &self,
        outputs: &Range<usize>,
    ) -> impl Iterator<Item = (usize, &[[i32; GROUP]])> {
        let weights = &self.weights[outputs.start * self.taps..outputs.end * self.taps];
        let weights = weights.chunks_exact(self.taps);
        let starts = self.bounds[outputs.clone()].iter().map(|&(start, _)| start);
        starts.zip(weights.map(|weights| weights.as_chunks().0))
    }
}

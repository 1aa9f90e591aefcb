//! Attention shared out by heads: each range has as many of its own.
//!
//! A range shows the first norm of its tokens to the others. Then it computes queries, keys and
//! values of its own heads for all tokens, and these heads' outputs for the others' tokens, which
//! it shows, too. It computes the outputs for its own tokens while the others get there.
//!
//! So a core reads and packs nothing of other heads, and reads fewer bytes that other cores have
//! written. But ranges meet twice in a block, not once.

use std::ops::Range;

use quasar_kernels::{HeadParams, LinearRows, MatrixView, MatrixViewMut};

use super::{norm1, rows_before, Frame, TokenRange};
use crate::network::Block;
use crate::trace::Point;

/// Some heads of a block, which one range computes.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Heads {
    first: usize,
    pub count: usize,
    dim: usize,
}

impl Heads {
    /// Returns the heads of range `range` of `ranges`.
    pub fn of_range(block: &Block, range: usize, ranges: usize) -> Self {
        let count = block.heads / ranges;
        Self {
            first: range * count,
            count,
            dim: block.head_dim,
        }
    }

    /// Returns the number of columns of their queries.
    pub fn inner(self) -> usize {
        self.count * self.dim
    }

    /// Returns the columns of each one among theirs, and its parameters.
    fn each(self, block: &Block) -> impl Iterator<Item = (Range<usize>, &HeadParams)> {
        let params = &block.attention[self.first..self.first + self.count];
        let columns = (0..self.count).map(move |h| h * self.dim..(h + 1) * self.dim);
        columns.zip(params)
    }

    /// Returns their columns among those of all heads.
    fn columns(self) -> Range<usize> {
        self.first * self.dim..(self.first + self.count) * self.dim
    }

    /// Returns the rows of the layers that compute their keys and values, and their queries.
    pub fn layers(self, block: &Block) -> [LinearRows<'_>; 2] {
        let Range { start, end } = self.columns();
        let inner = block.inner();
        let q = block.q.part(start..end);
        let kv = block.kv.part(start..end);
        let kv = kv.and(inner + start..inner + end).before(&q);
        [kv, q.before(&(&block.proj).into())]
    }
}

impl TokenRange {
    /// Computes the first norm of a block into the rows of its tokens in `out`, `[tokens, embed]`.
    pub fn show_norm(&mut self, frame: Frame, i: usize, out: &mut [i8]) {
        let size = self.tokens.len() * frame.network.config.embed;
        let place = [self.tokens.start, 0];
        let norm = norm1(frame, i, &self.x, &mut out[..size]);
        self.observer.i8(Point::Norm1(i), place, norm);
    }

    /// Computes queries, keys and values of its heads for all tokens, and the heads' outputs for
    /// all tokens but those behind the meeting, into their rows of `out`, `[tokens, own heads *
    /// head_dim]`. `norms` are the first norms of all tokens. Returns early if the frame is
    /// cancelled.
    pub fn attend_others(&mut self, frame: Frame, i: usize, norms: &[i8], out: &mut [i8]) {
        self.project(frame, i, norms);
        let (config, kernels) = (&frame.network.config, frame.network.kernels);
        let (tokens, needed) = (config.tokens(), config.needed(i));
        let block = &frame.network.blocks[i];
        let own = self.own_heads(block);
        let size = own.inner();
        let [k, v, q] = parts(&self.qkv[..tokens * 3 * size], size);
        let (scratch, observer) = (&mut self.scratch, &mut self.observer);
        let others = [0..self.behind.start, self.behind.end..tokens];
        let others = others.map(|range| range.start.min(needed)..range.end.min(needed));
        let others = || others.iter().filter(|rows| !rows.is_empty()).cloned();
        for ((columns, params), head) in own.each(block).zip(&mut self.heads) {
            if frame.is_cancelled() {
                return;
            }
            let [keys, values] = [k, v].map(|codes| codes.columns(columns.clone()));
            kernels.pack_kv(keys, values, head);
            for rows in others() {
                let q = q.range(rows.clone()).columns(columns.clone());
                let out = &mut out[size * rows.start..size * rows.end];
                let out = columns_mut(MatrixViewMut::packed(out, size), &columns);
                kernels.attention(q, head, params, out, &[], scratch);
            }
        }
        for rows in others() {
            let place = [rows.start, own.columns().start];
            let outputs = MatrixView::packed(&out[size * rows.start..size * rows.end], size);
            observer.i8(Point::Attention(i), place, outputs);
        }
    }

    /// Computes queries, keys and values of its heads for all tokens from their first norms.
    fn project(&mut self, frame: Frame, i: usize, norms: &[i8]) {
        let Frame { network, .. } = frame;
        let (config, block) = (&network.config, &network.blocks[i]);
        let (tokens, needed) = (config.tokens(), config.needed(i));
        let own = self.own_heads(block);
        let size = own.inner();
        let norms = MatrixView::packed(&norms[..tokens * config.embed], config.embed);
        let codes = &mut self.qkv[..tokens * 3 * size];
        let (kv, q) = MatrixViewMut::packed(codes, 3 * size).split_at_column(2 * size);
        let q = q.split_at_row(needed).0;
        for (layer, out) in own.layers(block).into_iter().zip([kv, q]) {
            let norms = norms.range(0..out.rows());
            network.project(layer, (0, norms), out, size, &mut self.scratch);
        }
        let [k, v, q] = parts(codes, size);
        for (part, codes) in [q.range(0..needed), k, v].into_iter().enumerate() {
            let place = [0, part * block.inner() + own.columns().start];
            self.observer.i8(Point::Qkv(i), place, codes);
        }
    }

    /// Computes the outputs of its heads for its tokens behind the meeting. Returns early if the
    /// frame is cancelled.
    pub fn attend_own(&mut self, frame: Frame, i: usize) {
        let network = frame.network;
        let block = &network.blocks[i];
        let own = self.own_heads(block);
        let (inner, size) = (block.inner(), own.inner());
        let rows = rows_before(&self.behind, network.config.needed(i));
        if rows == 0 {
            return;
        }
        let [.., q] = parts(
            &self.qkv[self.behind.start * 3 * size..][..rows * 3 * size],
            size,
        );
        let first = self.behind.start - self.tokens.start;
        let attended = &mut self.attended[first * inner..][..rows * inner];
        let out = MatrixViewMut::packed(attended, inner);
        let mut rest = columns_mut(out, &own.columns());
        for ((columns, params), head) in own.each(block).zip(&self.heads) {
            if frame.is_cancelled() {
                return;
            }
            let (out, others) = rest.split_at_column(own.dim);
            let (q, scratch) = (q.columns(columns), &mut self.scratch);
            (network.kernels).attention(q, head, params, out, &[], scratch);
            rest = others;
        }
        let place = [self.behind.start, own.columns().start];
        let outputs = MatrixView::packed(&*attended, inner).columns(own.columns());
        self.observer.i8(Point::Attention(i), place, outputs);
    }

    /// Takes the outputs of the other ranges' heads, `shown`, to those of its own: `[ranges,
    /// tokens, own heads * head_dim]`.
    pub fn gather(&mut self, frame: Frame, i: usize, shown: &[i8]) {
        let (config, block) = (&frame.network.config, &frame.network.blocks[i]);
        let inner = block.inner();
        let size = inner / self.ranges;
        let rows = self.rows_before(config.needed(i));
        let attended = self.attended[..rows * inner].chunks_exact_mut(inner);
        for (token, row) in (self.tokens.start..).zip(attended) {
            for (range, codes) in row.chunks_exact_mut(size).enumerate() {
                if range != self.number || !self.behind.contains(&token) {
                    let at = (range * config.tokens() + token) * size;
                    codes.copy_from_slice(&shown[at..at + size]);
                }
            }
        }
        self.observer.elapsed(Point::Attention(i));
    }

    fn own_heads(&self, block: &Block) -> Heads {
        Heads::of_range(block, self.number, self.ranges)
    }
}

/// Returns the keys, values and queries of some heads, each of `size` columns.
fn parts(codes: &[i8], size: usize) -> [MatrixView<'_, i8>; 3] {
    let codes = MatrixView::packed(codes, 3 * size);
    [0, 1, 2].map(|part| codes.columns(part * size..(part + 1) * size))
}

/// Returns some columns of every row.
fn columns_mut<'a>(matrix: MatrixViewMut<'a, i8>, columns: &Range<usize>) -> MatrixViewMut<'a, i8> {
    let (_, from_first) = matrix.split_at_column(columns.start);
    from_first.split_at_column(columns.len()).0
}

/// Returns the tokens of a range whose attention it computes behind the meeting: as many as are
/// whole blocks of queries. The rest of its tokens is next to those of other ranges, so that few
/// blocks are not whole.
pub(super) fn behind_meeting(range: &Range<usize>, tokens: usize, block: usize) -> Range<usize> {
    let rows = range.len() / block * block;
    if rows == 0 {
        0..0
    } else if range.end == tokens {
        range.end - rows..range.end
    } else {
        range.start..range.start + rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_of_queries_are_behind_the_meeting() {
        // Two ranges of 197 tokens, the one in the middle of three, and one with few tokens.
        assert_eq!(behind_meeting(&(0..99), 197, 16), 0..96);
        assert_eq!(behind_meeting(&(99..197), 197, 16), 101..197);
        assert_eq!(behind_meeting(&(66..132), 197, 12), 66..126);
        assert_eq!(behind_meeting(&(30..40), 50, 16), 0..0);
        assert_eq!(behind_meeting(&(30..40), 50, 1), 30..40);
    }
}

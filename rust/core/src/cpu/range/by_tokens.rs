//! Attention shared out by tokens.
//!
//! A range computes the keys and values of its tokens, shows them to the others, and computes its
//! queries while these get there. Then it packs all keys and values for itself, and computes all
//! heads of its tokens.

use quasar_kernels::{MatrixView, MatrixViewMut};

use super::{norm1, Frame, TokenRange};
use crate::trace::Point;

impl TokenRange {
    /// Computes the first norm, keys and values of a block, the latter into the rows of its tokens
    /// in `kv`, `[tokens, 2 * heads * head_dim]`.
    pub fn keys_and_values(&mut self, frame: Frame, i: usize, kv: &mut [i8]) {
        let (block, first) = (&frame.network.blocks[i], self.tokens.start);
        let inner = block.inner();
        let norm = norm1(frame, i, &self.x, &mut self.norm);
        self.observer.i8(Point::Norm1(i), [first, 0], norm);
        let kv = &mut kv[..norm.rows() * 2 * inner];
        let out = MatrixViewMut::packed(kv, 2 * inner);
        (frame.network).project(&block.kv, (first, norm), out, inner, &mut self.scratch);
        let kv = MatrixView::packed(&*kv, 2 * inner);
        self.observer.i8(Point::Qkv(i), [first, inner], kv);
    }

    /// Computes the queries of a block that are needed, from its first norm.
    pub fn queries(&mut self, frame: Frame, i: usize) {
        let network = frame.network;
        let block = &network.blocks[i];
        let needed = self.rows_before(network.config.needed(i));
        if needed == 0 {
            return;
        }
        let norm = MatrixView::packed(&self.norm, network.config.embed).range(0..needed);
        let q = &mut self.q[..needed * block.inner()];
        let out = MatrixViewMut::packed(q, block.inner());
        let (norm, inner) = ((self.tokens.start, norm), block.inner());
        network.project(&block.q, norm, out, inner, &mut self.scratch);
        let q = MatrixView::packed(&*q, block.inner());
        self.observer.i8(Point::Qkv(i), [self.tokens.start, 0], q);
    }

    /// Computes all heads of a block for its tokens. `kv` holds the keys and values of all tokens.
    /// Returns early if the frame is cancelled.
    pub fn attend(&mut self, frame: Frame, i: usize, kv: &[i8]) {
        let network = frame.network;
        let (block, kernels) = (&network.blocks[i], network.kernels);
        let (inner, dim) = (block.inner(), block.head_dim);
        let rows = self.rows_before(network.config.needed(i));
        if rows == 0 {
            return;
        }
        let attended = &mut self.attended[..rows * inner];
        let head = &mut self.heads[0];
        let q = MatrixView::packed(&self.q[..rows * inner], inner);
        let kv = &kv[..network.config.tokens() * 2 * inner];
        let kv = MatrixView::packed(kv, 2 * inner);
        let columns = |h: usize| h * dim..(h + 1) * dim;
        let head_columns = |h: usize| [h, block.heads + h].map(|at| kv.columns(columns(at)));
        let own = &self.tokens;
        let mut rest = MatrixViewMut::packed(attended, inner);
        for (h, params) in block.attention.iter().enumerate() {
            if frame.is_cancelled() {
                return;
            }
            let [k, v] = head_columns(h);
            let (out, others) = rest.split_at_column(dim);
            kernels.pack_kv(k, v, head);
            let soon = (h + 1 < block.heads).then(|| {
                head_columns(h + 1)
                    .map(|rows| [rows.range(0..own.start), rows.range(own.end..rows.rows())])
            });
            let soon = soon.as_ref().map_or(&[][..], |soon| soon.as_flattened());
            let q = q.columns(columns(h));
            kernels.attention(q, head, params, out, soon, &mut self.scratch);
            rest = others;
        }
        let attended = MatrixView::packed(&*attended, inner);
        self.observer
            .i8(Point::Attention(i), [self.tokens.start, 0], attended);
    }
}

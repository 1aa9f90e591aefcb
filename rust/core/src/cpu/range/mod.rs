//! One thread's range of tokens, and a frame's stages on it.
//!
//! All that a block computes belongs to one token, but for the keys and values of attention. There
//! are two ways to share attention out: [by tokens](by_tokens) and [by heads](by_heads). The rest
//! of a block follows from either.

mod by_heads;
mod by_tokens;

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use quasar_kernels::{
    Aligned, Buffers, KvHead, Linear, LinearRows, MatrixView, MatrixViewMut, Rotation, Scratch,
};

use super::cancel::check;
use crate::network::{Block, Network};
use crate::preprocess;
use crate::trace::{Observer, Point};

use by_heads::behind_meeting;
pub(super) use by_heads::Heads;

/// A frame, as all of its ranges see it.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub network: &'a Network,
    /// `[height, width, channels]`
    pub image: &'a [u8],
    pub cancel: &'a AtomicBool,
    /// For each block, whether its attention is shared out by heads.
    pub by_heads: &'a [bool],
}

impl Frame<'_> {
    pub fn is_cancelled(&self) -> bool {
        check(self.cancel).is_err()
    }
}

/// Some tokens, and the memory that belongs to them alone.
#[derive(Debug)]
pub(super) struct TokenRange {
    number: usize,
    /// Ranges of the frame.
    ranges: usize,
    pub tokens: Range<usize>,
    /// Its tokens for which it computes the outputs of its own heads behind the meeting. It shows
    /// the others.
    behind: Range<usize>,
    patches: Aligned<i8>,
    /// `[rows, embed]`, the residual stream.
    pub x: Aligned<i16>,
    /// `[rows, embed]`, the latest norm.
    pub norm: Aligned<i8>,
    /// `[rows, heads * head_dim]`, the queries.
    q: Aligned<i8>,
    /// `[tokens, 3 * own heads * head_dim]`, keys, values and queries of its own heads.
    qkv: Aligned<i8>,
    /// `[rows, heads * head_dim]`
    pub attended: Aligned<i8>,
    /// `[rows, hidden]`
    hidden: Aligned<i8>,
    /// Keys and values of its heads, or of one head at a time, of all tokens.
    heads: Vec<KvHead>,
    pub scratch: Scratch,
    pub observer: Observer,
}

impl TokenRange {
    /// Allocates memory for range `number` of `ranges`, which has the tokens `tokens`, and the
    /// heads of `by_heads` of each block whose attention is shared out by heads.
    pub fn new(
        network: &Network,
        [number, ranges]: [usize; 2],
        tokens: Range<usize>,
        by_heads: &[bool],
    ) -> Self {
        let config = &network.config;
        let rows = tokens.len();
        let own = network.blocks.iter().zip(by_heads);
        let own = own.filter(|(_, &by_heads)| by_heads);
        let own = own.map(|(block, _)| Heads::of_range(block, number, ranges));
        let (inner, hidden) = (network.widest(Block::inner), network.widest(|b| b.hidden));
        let projected = own.clone().map(|heads| 3 * heads.inner() * config.tokens());
        let own_heads = own.map(|heads| heads.count).max().unwrap_or(0);
        let by_tokens = by_heads.contains(&false);
        let queries = if by_tokens { rows * inner } else { 0 };
        let head_dim = network.widest(|b| b.head_dim).max(1);
        let head = |_| KvHead::new(config.tokens(), head_dim);
        Self {
            number,
            ranges,
            behind: behind_meeting(&tokens, config.tokens(), network.kernels.query_rows()),
            tokens,
            patches: Aligned::new(rows * config.patch_len()),
            x: Aligned::new(rows * config.embed),
            norm: Aligned::new(rows * config.embed),
            q: Aligned::new(queries),
            qkv: Aligned::new(projected.max().unwrap_or(0)),
            attended: Aligned::new(rows * inner),
            hidden: Aligned::new(rows * hidden),
            heads: (0..own_heads.max(usize::from(by_tokens)))
                .map(head)
                .collect(),
            scratch: Scratch::new(),
            observer: Observer::Off,
        }
    }

    /// Returns its memory, to be moved.
    pub fn buffers(&mut self) -> impl Iterator<Item = Buffers<'_>> {
        let codes = [
            (&mut self.patches).into(),
            (&mut self.x).into(),
            (&mut self.norm).into(),
            (&mut self.q).into(),
            (&mut self.qkv).into(),
            (&mut self.attended).into(),
            (&mut self.hidden).into(),
        ];
        let heads = self.heads.iter_mut().map(Into::into);
        codes
            .into_iter()
            .chain(heads)
            .chain([(&mut self.scratch).into()])
    }

    /// Returns how many of its rows are among the first `tokens` tokens.
    pub fn rows_before(&self, tokens: usize) -> usize {
        rows_before(&self.tokens, tokens)
    }

    /// Computes patches, patch embedding, position, the norm of the patches where there is one, and
    /// prefix.
    pub fn embed(&mut self, frame: Frame) {
        let Frame { network, image, .. } = frame;
        let config = &network.config;
        let embed = config.embed;
        let prefix = self.rows_before(config.prefix_tokens);
        let embedding = self.before_block(&network.embed, frame, 0);
        let (prefix_x, patches_x) = self.x.split_at_mut(prefix * embed);
        if prefix > 0 {
            prefix_x
                .copy_from_slice(&network.prefix[self.tokens.start * embed..][..prefix * embed]);
        }
        if prefix < self.tokens.len() {
            let first = self.tokens.start + prefix - config.prefix_tokens;
            let rows = self.tokens.len() - prefix;
            let patches = &mut self.patches[..rows * config.patch_len()];
            preprocess::patches_channels_last(
                image,
                config.image,
                config.patch,
                config.grid().1,
                first,
                patches,
            );
            patches_x.copy_from_slice(&network.position[first * embed..][..rows * embed]);
            network.kernels.linear_residual(
                embedding,
                MatrixView::packed(patches, config.patch_len()),
                MatrixViewMut::packed(patches_x, embed),
                &mut self.scratch,
            );
            if let Some((norm, layer)) = &network.embed_norm {
                let codes = &mut self.norm[..rows * embed];
                let place = [self.tokens.start + prefix - config.prefix_tokens, 0];
                let sum = MatrixView::packed(&*patches_x, embed);
                self.observer.i16(Point::Sum, place, sum);
                network.kernels.layer_norm(
                    norm,
                    MatrixView::packed(patches_x, embed),
                    MatrixViewMut::packed(codes, embed),
                );
                let codes = MatrixView::packed(codes, embed);
                self.observer.i8(Point::EmbedNorm, place, codes);
                patches_x.fill(0);
                network.kernels.linear_residual(
                    layer,
                    codes,
                    MatrixViewMut::packed(patches_x, embed),
                    &mut self.scratch,
                );
            }
        }
        let x = MatrixView::packed(&self.x, embed);
        self.observer.i16(Point::Embed, [self.tokens.start, 0], x);
    }

    /// Returns a layer that prefetches the first weights of block `i`.
    fn before_block<'a>(&self, layer: &'a Linear, frame: Frame<'a>, i: usize) -> LinearRows<'a> {
        let layer = LinearRows::from(layer);
        match frame.network.blocks.get(i) {
            Some(block) if frame.by_heads[i] => {
                let heads = Heads::of_range(block, self.number, self.ranges);
                layer.before(&heads.layers(block)[0])
            }
            _ => layer,
        }
    }

    /// Computes a block from its projection on.
    pub fn finish(&mut self, frame: Frame, i: usize) {
        let network = frame.network;
        let (block, embed, kernels) = (&network.blocks[i], network.config.embed, network.kernels);
        let rows = self.rows_before(network.config.needed(i));
        if rows == 0 || frame.is_cancelled() {
            return;
        }
        let fc2 = self.before_block(&block.fc2, frame, i + 1);
        let place = [self.tokens.start, 0];
        let x = &mut self.x[..rows * embed];
        let norm = &mut self.norm[..rows * embed];
        let hidden = &mut self.hidden[..rows * block.hidden];
        let (scratch, observer) = (&mut self.scratch, &mut self.observer);
        let attended = MatrixView::packed(&self.attended[..rows * block.inner()], block.inner());
        if network.config.pools(i) {
            x.fill(0);
        }
        let out = MatrixViewMut::packed(x, embed);
        kernels.linear_residual(&block.proj, attended, out, scratch);
        let mid = MatrixView::packed(&*x, embed);
        observer.i16(Point::Mid(i), place, mid);

        let out = MatrixViewMut::packed(norm, embed);
        kernels.layer_norm(&block.norm2, mid, out);
        let norm = MatrixView::packed(&*norm, embed);
        observer.i8(Point::Norm2(i), place, norm);
        let (zero_point, table) = (block.fc1_zero_point, Some(&block.activation));
        let out = MatrixViewMut::packed(hidden, block.hidden);
        kernels.linear_i8(&block.fc1, norm, out, zero_point, table, scratch);
        let hidden = MatrixView::packed(&*hidden, block.hidden);
        observer.i8(Point::Act(i), place, hidden);
        let out = MatrixViewMut::packed(x, embed);
        kernels.linear_residual(fc2, hidden, out, scratch);
        observer.i16(Point::X(i), place, MatrixView::packed(&*x, embed));
    }
}

impl Network {
    /// Computes codes of q, k or v of tokens from `token` on. The first `rotated` columns are those
    /// of q or k.
    fn project<'a>(
        &self,
        layer: impl Into<LinearRows<'a>>,
        (token, norms): (usize, MatrixView<i8>),
        out: MatrixViewMut<i8>,
        rotated: usize,
        scratch: &mut Scratch,
    ) {
        match &self.rotary {
            None => self.kernels.linear_i8(layer, norms, out, 0, None, scratch),
            Some(rotary) => {
                let rotation = Rotation {
                    rotary,
                    token,
                    columns: rotated,
                };
                (self.kernels).linear_rotated(layer, norms, out, rotation, scratch);
            }
        }
    }
}

/// Computes the first norm of a block from the residual stream, `[rows, embed]`, into `out`.
fn norm1<'a>(frame: Frame, i: usize, x: &[i16], out: &'a mut [i8]) -> MatrixView<'a, i8> {
    let (block, embed) = (&frame.network.blocks[i], frame.network.config.embed);
    (frame.network.kernels).layer_norm(
        &block.norm1,
        MatrixView::packed(x, embed),
        MatrixViewMut::packed(out, embed),
    );
    MatrixView::packed(out, embed)
}

/// Returns how many of `range` are among the first `tokens` tokens.
fn rows_before(range: &Range<usize>, tokens: usize) -> usize {
    tokens.clamp(range.start, range.end) - range.start
}

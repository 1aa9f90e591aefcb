//! The integer graph: a frame's working memory, and the stages that run on it.
//!
//! All that a block computes belongs to one token, but for the keys and values of attention. So
//! tokens are cut into ranges, one for each thread. A range goes from one block's attention to the
//! next block's keys and values without waiting, shows them to the others, and computes its queries
//! while these get there. Each range packs the keys and values for itself, which costs less than a
//! second meeting.
//!
//! Layers of one token, those of the heads and of a last block that only they read, are shared out
//! by rows of weights where [`partition`](super::partition) expects that to be faster.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use quasar_kernels::{
    for_each_step, join, Aligned, Buffers, KvHead, Linear, LinearRows, MatrixView, MatrixViewMut,
    Scratch, Team,
};

use super::check;
use super::partition::{self, Machine};
use crate::error::Result;
use crate::network::{Block, Network};
use crate::pool::for_each;
use crate::preprocess::{self, Preprocessor};
use crate::subnet::config::{Config, Pool};
use crate::trace::{Observer, Point, StageTime};

/// The working memory of one frame.
#[derive(Debug)]
pub(super) struct Workspace {
    pub preprocessor: Preprocessor,
    pub pixels: Vec<u8>,
    pub ranges: Vec<TokenRange>,
    /// Rows of each range but the last, which may have fewer.
    range_rows: usize,
    /// `[tokens, stride]`, twice: keys and values of one block and of the next; `stride` fits the
    /// widest block.
    kv: [Aligned<i8>; 2],
    stride: usize,
    token: Token,
    sums: Vec<i32>,
    mean: Vec<i16>,
    pooled: Vec<i8>,
    accumulators: Vec<i32>,
    joined: bool,
}

/// The values of one token, in layers that are shared out by rows of weights.
#[derive(Debug)]
struct Token {
    machine: Machine,
    /// `[embed]`
    x: Aligned<i16>,
    /// `[embed]`
    norm: Aligned<i8>,
    /// `[heads * head_dim]`
    attended: Aligned<i8>,
    /// `[hidden]`
    hidden: Aligned<i8>,
}

/// The tokens `first..first + rows`, and the memory that belongs to them alone.
#[derive(Debug)]
pub(super) struct TokenRange {
    first: usize,
    rows: usize,
    patches: Aligned<i8>,
    /// `[rows, embed]`, the residual stream.
    x: Aligned<i16>,
    /// `[rows, embed]`, the latest norm.
    norm: Aligned<i8>,
    /// `[rows, heads * head_dim]`, the queries.
    q: Aligned<i8>,
    /// `[rows, heads * head_dim]`
    attended: Aligned<i8>,
    /// `[rows, hidden]`
    hidden: Aligned<i8>,
    /// Keys and values of one head, of all tokens.
    head: KvHead,
    scratch: Scratch,
    pub observer: Observer,
}

impl Workspace {
    /// Allocates memory for a frame that runs in `ranges` ranges of tokens.
    pub(super) fn new(network: &Network, ranges: usize) -> Self {
        let config = &network.config;
        let tokens = config.tokens();
        let range_rows = tokens.div_ceil(ranges);
        let widest = |size: fn(&Block) -> usize| network.blocks.iter().map(size).max().unwrap_or(0);
        let (inner, hidden) = (widest(Block::inner), widest(|b| b.hidden));
        let range = |first: usize| {
            let rows = range_rows.min(tokens - first);
            TokenRange {
                first,
                rows,
                patches: Aligned::new(rows * config.patch_len()),
                x: Aligned::new(rows * config.embed),
                norm: Aligned::new(rows * config.embed),
                q: Aligned::new(rows * inner),
                attended: Aligned::new(rows * inner),
                hidden: Aligned::new(rows * hidden),
                head: KvHead::new(tokens, widest(|b| b.head_dim).max(1)),
                scratch: Scratch::new(),
                observer: Observer::Off,
            }
        };
        Self {
            preprocessor: network.preprocessor(),
            pixels: Vec::with_capacity(config.image.bytes()),
            ranges: (0..tokens).step_by(range_rows).map(range).collect(),
            range_rows,
            kv: std::array::from_fn(|_| Aligned::new(tokens * 2 * inner)),
            stride: 2 * inner,
            token: Token {
                machine: Machine::typical(network.tier()),
                x: Aligned::new(config.embed),
                norm: Aligned::new(config.embed),
                attended: Aligned::new(inner),
                hidden: Aligned::new(hidden),
            },
            sums: vec![0; config.embed],
            mean: vec![0; config.embed],
            pooled: vec![0; network.heads.len() * config.embed],
            accumulators: vec![0; config.outputs()],
            joined: false,
        }
    }

    /// Moves all memory next to each other, once a frame has made it grow to its size.
    fn join(&mut self) {
        let mut parts: Vec<Buffers> = self.kv.iter_mut().map(Into::into).collect();
        for range in &mut self.ranges {
            parts.extend([
                (&mut range.patches).into(),
                (&mut range.x).into(),
                (&mut range.norm).into(),
                (&mut range.q).into(),
                (&mut range.attended).into(),
                (&mut range.hidden).into(),
                (&mut range.head).into(),
                (&mut range.scratch).into(),
            ]);
        }
        join(parts);
        self.joined = true;
    }

    /// Makes every range note what `observer` asks for.
    pub(super) fn observe(&mut self, observer: &Observer) {
        for range in &mut self.ranges {
            range.observer = observer.clone();
        }
    }

    /// Returns the time of each stage after a frame under an [`Observer::clock`].
    pub(super) fn stage_times(&self, config: &Config, preprocess: Duration) -> Vec<StageTime> {
        StageTime::collect(
            config,
            preprocess,
            self.ranges.iter().map(|range| &range.observer),
        )
    }

    /// Returns the bytes of weights that each range's thread reads in a frame.
    pub(super) fn weight_traffic(&self, network: &Network) -> Vec<usize> {
        let whole = |layer: &Linear| LinearRows::from(layer).weight_bytes();
        let config = &network.config;
        let of_range = |(r, range): (usize, &TokenRange)| {
            let part = |layer: &Linear| {
                let rows = self.token.machine.part_rows(layer, self.ranges.len());
                let first = (r * rows).min(layer.rows());
                let last = (first + rows).min(layer.rows());
                if first < last {
                    layer.part(first..last).weight_bytes()
                } else {
                    0
                }
            };
            let mut bytes = 0;
            if range.rows_before(config.prefix_tokens) < range.rows {
                let layer = network.embed_norm.as_ref().map(|(_, layer)| whole(layer));
                bytes += whole(&network.embed) + layer.unwrap_or(0);
            }
            for (i, block) in network.blocks.iter().enumerate() {
                let needed = range.rows_before(config.needed(i)) > 0;
                bytes += whole(&block.kv) + if needed { whole(&block.q) } else { 0 };
                let layers = [&block.proj, &block.fc1, &block.fc2];
                if is_shared_out_by_rows(config, self.ranges.len(), i) {
                    bytes += layers.map(part).iter().sum::<usize>();
                } else if needed {
                    bytes += layers.map(whole).iter().sum::<usize>();
                }
            }
            bytes + (network.heads.iter().map(|head| part(&head.layer))).sum::<usize>()
        };
        self.ranges.iter().enumerate().map(of_range).collect()
    }

    /// Runs the network on one preprocessed image.
    pub(super) fn frame(
        &mut self,
        network: &Network,
        image: &[u8],
        logits: &mut [i32],
        team: Option<&Team>,
        cancel: &AtomicBool,
    ) -> Result<()> {
        let Self {
            ranges,
            kv: [even, odd],
            stride,
            range_rows,
            token,
            ..
        } = self;
        let (stride, chunk) = (*stride, *range_rows * *stride);
        let depth = network.blocks.len();
        // Blocks whose layers are shared out by tokens: all, or all but the last.
        let by_tokens = (0..depth)
            .find(|&i| is_shared_out_by_rows(&network.config, ranges.len(), i))
            .unwrap_or(depth);
        for_each_step(
            team,
            // Step i ends block i - 1 and begins block i.
            by_tokens + 1,
            ranges,
            [&mut **even, &mut **odd],
            chunk,
            |i, _, range, kv, next| {
                if check(cancel).is_err() {
                    return;
                }
                range.observer.start();
                if i == 0 {
                    range.embed(network, image);
                } else {
                    range.block(network, i - 1, kv, stride, cancel);
                }
                if i < depth {
                    range.keys_and_values(network, i, next, stride);
                }
            },
            |i, _, range| {
                if i < depth && check(cancel).is_ok() {
                    range.queries(network, i);
                }
            },
        );
        check(cancel)?;
        for i in by_tokens..depth {
            let kv = if i % 2 == 0 { &*even } else { &*odd };
            for range in ranges.iter_mut() {
                range.observer.start();
                range.attend(network, i, kv, stride, cancel);
            }
            check(cancel)?;
            token.finish_block(network, i, ranges, team);
        }
        self.classify(network, logits, team);
        if !self.joined {
            self.join();
        }
        Ok(())
    }

    /// Computes pooling, the final norm and the head.
    fn classify(&mut self, network: &Network, logits: &mut [i32], team: Option<&Team>) {
        let embed = network.config.embed;
        let kernels = network.kernels;
        let Self {
            ranges,
            token,
            sums,
            mean,
            pooled,
            accumulators,
            ..
        } = self;
        ranges[0].observer.start();
        let norm = |x: &[i16], out: &mut [i8]| {
            kernels.layer_norm(
                &network.norm,
                MatrixView::packed(x, embed),
                MatrixViewMut::packed(out, embed),
            );
        };
        let prefix = network.config.prefix_tokens;
        let patches = network.config.patches() as i32;
        let rounded = |sum: i32| (sum + patches / 2).div_euclid(patches);
        match network.config.pool {
            Pool::Token | Pool::TokenPair => {
                let rows = ranges.iter().flat_map(|range| range.x.chunks_exact(embed));
                for (x, pooled) in rows.zip(pooled.chunks_exact_mut(embed)) {
                    norm(x, pooled);
                }
            }
            Pool::Mean => {
                sums.fill(0);
                for range in ranges.iter() {
                    add_rows(sums, &range.x[range.rows_before(prefix) * embed..]);
                }
                for (mean, &sum) in mean.iter_mut().zip(sums.iter()) {
                    *mean = rounded(sum) as i16;
                }
                norm(mean, pooled);
            }
            Pool::MeanAfterNorm => {
                sums.fill(0);
                for range in ranges.iter_mut() {
                    norm(&range.x, &mut range.norm);
                    add_rows(sums, &range.norm[range.rows_before(prefix) * embed..]);
                }
                for (pooled, &sum) in pooled.iter_mut().zip(sums.iter()) {
                    *pooled = rounded(sum) as i8;
                }
            }
        }
        ranges[0]
            .observer
            .i8(Point::Pooled, MatrixView::packed(pooled, pooled.len()));
        logits.fill(0);
        for (head, pooled) in network.heads.iter().zip(pooled.chunks_exact(embed)) {
            let accumulators = &mut accumulators[..logits.len()];
            let input = MatrixView::packed(pooled, embed);
            (token.machine).share_out(
                team,
                ranges,
                &head.layer,
                accumulators,
                |part, out, scratch| kernels.linear_i32(part, input, out, scratch),
            );
            for ((logit, &acc), &mult) in logits.iter_mut().zip(accumulators.iter()).zip(&head.mult)
            {
                *logit += ((i64::from(acc) * i64::from(mult) + (1 << 14)) >> 15) as i32;
            }
        }
        ranges[0].observer.i32(Point::Logits, logits);
    }
}

/// Returns true if few of a block's tokens are needed after its attention, so that their layers may
/// be shared out by rows of weights.
fn is_shared_out_by_rows(config: &Config, ranges: usize, block: usize) -> bool {
    ranges > 1 && config.needed(block) < config.tokens()
}

/// Adds each row of `rows` to `sums`.
fn add_rows<T: Copy + Into<i32>>(sums: &mut [i32], rows: &[T]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += value.into();
        }
    }
}

impl Machine {
    /// Returns the rows of each part of a layer of one token.
    fn part_rows(&self, layer: &Linear, ranges: usize) -> usize {
        if self.prefers_rows(layer, ranges) {
            partition::part_rows(layer.rows(), ranges)
        } else {
            layer.rows()
        }
    }

    /// Computes a layer of one token, its rows shared out among the ranges' threads if that is
    /// faster.
    fn share_out<T: Send>(
        &self,
        team: Option<&Team>,
        ranges: &mut [TokenRange],
        layer: &Linear,
        out: &mut [T],
        work: impl Fn(LinearRows, MatrixViewMut<T>, &mut Scratch) + Sync,
    ) {
        let rows = self.part_rows(layer, ranges.len());
        if rows >= layer.rows() {
            let out = MatrixViewMut::packed(out, layer.rows());
            return work(layer.into(), out, &mut ranges[0].scratch);
        }
        for_each(team, ranges, out, rows, |i, range, out| {
            if let (first, cols @ 1..) = (i * rows, out.len()) {
                let out = MatrixViewMut::packed(out, cols);
                work(layer.part(first..first + cols), out, &mut range.scratch);
            }
        });
    }
}

impl Token {
    /// Computes a block from its projection on, for the few tokens that are needed.
    fn finish_block(
        &mut self,
        network: &Network,
        i: usize,
        ranges: &mut [TokenRange],
        team: Option<&Team>,
    ) {
        let (block, embed, kernels) = (&network.blocks[i], network.config.embed, network.kernels);
        let inner = block.inner();
        let Self {
            machine,
            x,
            norm,
            attended,
            hidden,
        } = self;
        let (attended, hidden) = (&mut attended[..inner], &mut hidden[..block.hidden]);
        for token in 0..network.config.needed(i) {
            let at = (ranges.iter())
                .position(|range| token < range.first + range.rows)
                .expect("every token has a range");
            let row = token - ranges[at].first;
            x.copy_from_slice(&ranges[at].x[row * embed..][..embed]);
            attended.copy_from_slice(&ranges[at].attended[row * inner..][..inner]);

            let input = MatrixView::packed(attended, inner);
            machine.share_out(team, ranges, &block.proj, x, |part, x, scratch| {
                kernels.linear_residual(part, input, x, scratch);
            });
            note(ranges, Point::Mid(i), |observer, point| {
                observer.i16(point, MatrixView::packed(x, embed));
            });
            kernels.layer_norm(
                &block.norm2,
                MatrixView::packed(x, embed),
                MatrixViewMut::packed(norm, embed),
            );
            let input = MatrixView::packed(norm, embed);
            note(ranges, Point::Norm2(i), |observer, point| {
                observer.i8(point, input);
            });
            machine.share_out(team, ranges, &block.fc1, hidden, |part, out, scratch| {
                let (zero_point, table) = (block.fc1_zero_point, Some(&block.gelu));
                kernels.linear_i8(part, input, out, zero_point, table, scratch);
            });
            let input = MatrixView::packed(hidden, block.hidden);
            note(ranges, Point::Act(i), |observer, point| {
                observer.i8(point, input);
            });
            machine.share_out(team, ranges, &block.fc2, x, |part, x, scratch| {
                kernels.linear_residual(part, input, x, scratch);
            });
            note(ranges, Point::X(i), |observer, point| {
                observer.i16(point, MatrixView::packed(x, embed));
            });
            ranges[at].x[row * embed..][..embed].copy_from_slice(x);
        }
    }
}

/// Records a value of the first range once, and its time for all ranges.
fn note(ranges: &mut [TokenRange], point: Point, record: impl Fn(&mut Observer, Point)) {
    let mut observers = ranges.iter_mut().map(|range| &mut range.observer);
    if let Some(first) = observers.next() {
        record(first, point);
    }
    observers.for_each(|observer| observer.elapsed(point));
}

impl TokenRange {
    /// Returns how many of its rows are among the first `tokens` tokens.
    fn rows_before(&self, tokens: usize) -> usize {
        tokens.saturating_sub(self.first).min(self.rows)
    }

    /// Computes patches, patch embedding, position, the norm of the patches where there is one, and
    /// prefix.
    fn embed(&mut self, network: &Network, image: &[u8]) {
        let config = &network.config;
        let embed = config.embed;
        let prefix = self.rows_before(config.prefix_tokens);
        let (prefix_x, patches_x) = self.x.split_at_mut(prefix * embed);
        if prefix > 0 {
            prefix_x.copy_from_slice(&network.prefix[self.first * embed..][..prefix * embed]);
        }
        if prefix < self.rows {
            let first = self.first + prefix - config.prefix_tokens;
            let rows = self.rows - prefix;
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
                &network.embed,
                MatrixView::packed(patches, config.patch_len()),
                MatrixViewMut::packed(patches_x, embed),
                &mut self.scratch,
            );
            if let Some((norm, layer)) = &network.embed_norm {
                let codes = &mut self.norm[..rows * embed];
                self.observer
                    .i16(Point::Sum, MatrixView::packed(patches_x, embed));
                network.kernels.layer_norm(
                    norm,
                    MatrixView::packed(patches_x, embed),
                    MatrixViewMut::packed(codes, embed),
                );
                let codes = MatrixView::packed(codes, embed);
                self.observer.i8(Point::EmbedNorm, codes);
                patches_x.fill(0);
                network.kernels.linear_residual(
                    layer,
                    codes,
                    MatrixViewMut::packed(patches_x, embed),
                    &mut self.scratch,
                );
            }
        }
        self.observer
            .i16(Point::Embed, MatrixView::packed(&self.x, embed));
    }

    /// Computes the first norm, keys and values of a block, into this range's rows of `kv`.
    fn keys_and_values(&mut self, network: &Network, i: usize, kv: &mut [i8], stride: usize) {
        let (block, embed, kernels) = (&network.blocks[i], network.config.embed, network.kernels);
        let (rows, inner) = (self.rows, block.inner());
        kernels.layer_norm(
            &block.norm1,
            MatrixView::packed(&self.x, embed),
            MatrixViewMut::packed(&mut self.norm, embed),
        );
        let norm = MatrixView::packed(&self.norm, embed);
        self.observer.i8(Point::Norm1(i), norm);
        let out = MatrixViewMut::new(kv, rows, 2 * inner, stride);
        kernels.linear_i8(&block.kv, norm, out, 0, None, &mut self.scratch);
        let kv = MatrixView::new(kv, rows, 2 * inner, stride);
        (self.observer).i8_columns(Point::Qkv(i), kv, inner..3 * inner, 3 * inner);
    }

    /// Computes the queries of a block from its first norm. Those that are not needed are 0, so
    /// that traces do not depend on earlier contents.
    fn queries(&mut self, network: &Network, i: usize) {
        let (block, embed, kernels) = (&network.blocks[i], network.config.embed, network.kernels);
        let inner = block.inner();
        let needed = self.rows_before(network.config.needed(i));
        let (q, others) = self.q[..self.rows * inner].split_at_mut(needed * inner);
        others.fill(0);
        if needed > 0 {
            let norm = MatrixView::packed(&self.norm, embed).range(0..needed);
            let out = MatrixViewMut::packed(q, inner);
            kernels.linear_i8(&block.q, norm, out, 0, None, &mut self.scratch);
        }
        let q = MatrixView::packed(&self.q[..self.rows * inner], inner);
        (self.observer).i8_columns(Point::Qkv(i), q, 0..inner, 3 * inner);
    }

    /// Computes a block's attention. `kv` holds the rows of all ranges. Returns early if the frame
    /// is cancelled.
    fn attend(
        &mut self,
        network: &Network,
        i: usize,
        kv: &[i8],
        stride: usize,
        cancel: &AtomicBool,
    ) {
        let (block, kernels) = (&network.blocks[i], network.kernels);
        let (inner, dim) = (block.inner(), block.head_dim);
        let rows = self.rows_before(network.config.needed(i));
        if rows == 0 {
            return;
        }
        let attended = &mut self.attended[..rows * inner];
        let Self {
            q,
            head,
            scratch,
            observer,
            ..
        } = self;

        let q = MatrixView::packed(&q[..rows * inner], inner);
        let kv = MatrixView::new(kv, network.config.tokens(), 2 * inner, stride);
        let columns = |h: usize| h * dim..(h + 1) * dim;
        let head_columns = |h: usize| [h, block.heads + h].map(|at| kv.columns(columns(at)));
        let own = self.first..self.first + self.rows;
        let mut rest = MatrixViewMut::packed(attended, inner);
        for (h, params) in block.attention.iter().enumerate() {
            if check(cancel).is_err() {
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
            kernels.attention(q.columns(columns(h)), head, params, out, soon, scratch);
            rest = others;
        }
        observer.i8(Point::Attention(i), MatrixView::packed(attended, inner));
    }

    /// Computes a block from its attention on. `kv` holds the rows of all ranges. Returns early if
    /// the frame is cancelled.
    fn block(
        &mut self,
        network: &Network,
        i: usize,
        kv: &[i8],
        stride: usize,
        cancel: &AtomicBool,
    ) {
        self.attend(network, i, kv, stride, cancel);
        let (block, embed, kernels) = (&network.blocks[i], network.config.embed, network.kernels);
        let rows = self.rows_before(network.config.needed(i));
        if rows == 0 || check(cancel).is_err() {
            return;
        }
        let x = &mut self.x[..rows * embed];
        let norm = &mut self.norm[..rows * embed];
        let hidden = &mut self.hidden[..rows * block.hidden];
        let (scratch, observer) = (&mut self.scratch, &mut self.observer);
        let attended = MatrixView::packed(&self.attended[..rows * block.inner()], block.inner());
        kernels.linear_residual(
            &block.proj,
            attended,
            MatrixViewMut::packed(x, embed),
            scratch,
        );
        observer.i16(Point::Mid(i), MatrixView::packed(x, embed));

        kernels.layer_norm(
            &block.norm2,
            MatrixView::packed(x, embed),
            MatrixViewMut::packed(norm, embed),
        );
        let norm = MatrixView::packed(norm, embed);
        observer.i8(Point::Norm2(i), norm);
        let out = MatrixViewMut::packed(hidden, block.hidden);
        kernels.linear_i8(
            &block.fc1,
            norm,
            out,
            block.fc1_zero_point,
            Some(&block.gelu),
            scratch,
        );
        let hidden = MatrixView::packed(hidden, block.hidden);
        observer.i8(Point::Act(i), hidden);
        kernels.linear_residual(&block.fc2, hidden, MatrixViewMut::packed(x, embed), scratch);
        observer.i16(Point::X(i), MatrixView::packed(x, embed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::supported_tiers;
    use crate::Subnet;

    #[test]
    fn a_frame_is_preprocessed_by_the_networks_tier() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/vectors/token.qvit"
        );
        let subnet = Subnet::load(path).unwrap();
        for tier in supported_tiers() {
            let network = Network::new(&subnet, tier).unwrap();
            assert_eq!(Workspace::new(&network, 1).preprocessor.tier(), tier);
        }
    }
}

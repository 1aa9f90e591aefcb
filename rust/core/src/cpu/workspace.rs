//! The integer graph: a frame's working memory, and the steps in which threads run it.
//!
//! Each thread has a range of tokens and goes with it from one block's attention to the next one's
//! without waiting: see [`range`](super::range). Layers of one token, those of the heads and of a
//! last block that only they read, are shared out by rows of weights: see [`token`](super::token).

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use quasar_kernels::{
    for_each_step, join, Aligned, Buffers, Linear, LinearRows, MatrixView, MatrixViewMut, Team,
};

use super::cancel::check;
use super::partition::Machine;
use super::range::{Frame, Heads, TokenRange};
use super::token::Token;
use crate::error::Result;
use crate::logits;
use crate::memory;
use crate::network::{Block, Network};
use crate::pool::for_each;
use crate::preprocess::Preprocessor;
use crate::subnet::config::{Config, Pool};
use crate::trace::{Observer, Point, StageTime};

/// A step of a frame, named by what its first part makes for all ranges. All but `Heads` end the
/// block before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameStep {
    /// Keys and values of a block for each range's tokens: `[tokens, 2 * heads * head_dim]`.
    KeysAndValues(usize),
    /// The first norm of a block for each range's tokens: `[tokens, embed]`.
    Norm(usize),
    /// The outputs of each range's heads: `[ranges, tokens, own heads * head_dim]`. A range leaves
    /// the rows out that only itself needs.
    Heads(usize),
    /// Nothing: the last block ends.
    End,
}

impl FrameStep {
    /// Returns the steps of a frame in `ranges` ranges.
    fn all(network: &Network, by_heads: &[bool], ranges: usize) -> Vec<Self> {
        let steps = by_heads.iter().enumerate().flat_map(|(i, &by_heads)| {
            let (first, second) = if by_heads {
                (Self::Norm(i), Some(Self::Heads(i)))
            } else {
                (Self::KeysAndValues(i), None)
            };
            std::iter::once(first).chain(second)
        });
        let end = (!ends_by_rows(&network.config, ranges)).then_some(Self::End);
        steps.chain(end).collect()
    }

    /// Returns the number of values that one range makes for all, `rows` being those of the largest
    /// range.
    fn chunk(self, network: &Network, ranges: usize, rows: usize) -> usize {
        match self {
            Self::KeysAndValues(i) => rows * 2 * network.blocks[i].inner(),
            Self::Norm(_) => rows * network.config.embed,
            Self::Heads(i) => network.config.tokens() * network.blocks[i].inner() / ranges,
            Self::End => 1,
        }
    }

    /// Computes what all ranges need. `before` is the step before, and `read` what all ranges made
    /// in it.
    fn first(
        self,
        before: Option<Self>,
        frame: Frame,
        range: &mut TokenRange,
        read: &[i8],
        written: &mut [i8],
    ) {
        range.observer.start();
        if let Self::Heads(i) = self {
            return range.attend_others(frame, i, read, written);
        }
        match before {
            None => range.embed(frame),
            Some(before) => {
                let i = before.end_attention(frame, range, read);
                range.finish(frame, i);
            }
        }
        match self {
            Self::KeysAndValues(i) => range.keys_and_values(frame, i, written),
            Self::Norm(i) => range.show_norm(frame, i, written),
            Self::Heads(_) | Self::End => {}
        }
    }

    /// Computes what only the range itself needs.
    fn rest(self, frame: Frame, range: &mut TokenRange) {
        match self {
            Self::KeysAndValues(i) => range.queries(frame, i),
            Self::Heads(i) => range.attend_own(frame, i),
            Self::Norm(_) | Self::End => {}
        }
    }

    /// Ends the attention of a block, whose last step it is. `read` is what all ranges made in it.
    /// Returns the block.
    fn end_attention(self, frame: Frame, range: &mut TokenRange, read: &[i8]) -> usize {
        match self {
            Self::KeysAndValues(i) => {
                range.attend(frame, i, read);
                i
            }
            Self::Heads(i) => {
                range.gather(frame, i, read);
                i
            }
            Self::Norm(_) | Self::End => unreachable!("no block's attention ends after {self:?}"),
        }
    }
}

/// The working memory of one frame.
#[derive(Debug)]
pub(super) struct Workspace {
    pub preprocessor: Preprocessor,
    pub pixels: Vec<u8>,
    pub ranges: Vec<TokenRange>,
    /// For each block, whether its attention is shared out by heads.
    pub by_heads: Vec<bool>,
    steps: Vec<FrameStep>,
    /// Values that a range makes for all in each step.
    chunks: Vec<usize>,
    /// Values that ranges make for each other in even and in odd steps.
    exchanged: [Aligned<i8>; 2],
    token: Token,
    sums: Vec<i32>,
    mean: Vec<i16>,
    pooled: Vec<i8>,
    accumulators: Vec<i32>,
    joined: bool,
}

impl Workspace {
    /// Allocates memory for a frame that runs in `ranges` ranges of tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(super) fn new(network: &Network, ranges: usize) -> Result<Self> {
        memory::check("a frame", Self::memory(network, ranges))?;
        Ok(Self::with_heads(network, ranges, by_heads(network, ranges)))
    }

    /// Returns the bytes that a frame takes at most in `ranges` ranges: memory that its threads
    /// make grow, and all of it once more while it is moved.
    pub(super) fn memory(network: &Network, ranges: usize) -> usize {
        /// Kernels work on tiles of some rows and columns.
        const TILE: usize = 64;
        /// Bytes of a range that do not depend on sizes.
        const RANGE_BYTES: usize = 64 << 10;

        let config = &network.config;
        let [rows, ranges] = cut(config.tokens(), ranges);
        let (rows, tokens) = (rows + TILE / 4, config.tokens() + TILE);
        let inner = network.widest(Block::inner);
        let hidden = network.widest(|block| block.hidden);
        let head_dim = network.widest(|block| block.head_dim) + TILE;
        let heads = network.widest(|block| block.heads).div_ceil(ranges) + 1;
        let widest = TILE + config.patch_len().max(config.embed).max(inner).max(hidden);
        // Patches, residual, norm, queries, attended and hidden codes; then what ranges exchange.
        let codes = rows * (config.patch_len() + 3 * config.embed + 2 * inner + hidden);
        let exchanged = 2 * rows * (2 * inner).max(config.embed);
        // The kernels' own copies of a layer's input, a panel of its weights, and its sums.
        let linear = 4 * rows * widest + 4 * TILE * widest + 18 * TILE * rows;
        let attention = heads * tokens * head_dim * (4 + 3) + 16 * TILE * tokens;
        let range = codes + exchanged + linear + attention + RANGE_BYTES;
        let pooled = 16 * config.embed * network.heads.len();
        let head = config.head_tokens() * (config.embed + 4 * config.head_rows());
        2 * ranges * range + config.image.bytes() + pooled + head
    }

    /// Allocates memory for a frame that runs in `ranges` ranges of tokens, or fewer. `by_heads`
    /// tells for each block whether they share its attention out by heads.
    fn with_heads(network: &Network, ranges: usize, by_heads: Vec<bool>) -> Self {
        let config = &network.config;
        let tokens = config.tokens();
        let [range_rows, ranges] = cut(tokens, ranges);
        let steps = FrameStep::all(network, &by_heads, ranges);
        let chunks: Vec<usize> = (steps.iter())
            .map(|step| step.chunk(network, ranges, range_rows))
            .collect();
        let exchanged = ranges * chunks.iter().max().unwrap_or(&0);
        let range = |number: usize| {
            let first = number * range_rows;
            let of_range = first..tokens.min(first + range_rows);
            TokenRange::new(network, [number, ranges], of_range, &by_heads)
        };
        Self {
            preprocessor: network.preprocessor(),
            pixels: Vec::with_capacity(config.image.bytes()),
            ranges: (0..ranges).map(range).collect(),
            by_heads,
            steps,
            chunks,
            exchanged: std::array::from_fn(|_| Aligned::new(exchanged)),
            token: Token::new(network),
            sums: vec![0; config.embed],
            mean: vec![0; config.embed],
            pooled: vec![0; network.heads.len() * config.head_tokens() * config.embed],
            accumulators: vec![0; config.head_tokens() * config.head_rows()],
            joined: false,
        }
    }

    /// Moves all memory next to each other, once a frame has made it grow to its size.
    fn join(&mut self) {
        let exchanged = self.exchanged.iter_mut().map(Buffers::from);
        let ranges = self.ranges.iter_mut().flat_map(TokenRange::buffers);
        join(exchanged.chain(ranges).collect::<Vec<_>>());
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
            if range.rows_before(config.prefix_tokens) < range.tokens.len() {
                let layer = network.embed_norm.as_ref().map(|(_, layer)| whole(layer));
                bytes += whole(&network.embed) + layer.unwrap_or(0);
            }
            for (i, block) in network.blocks.iter().enumerate() {
                let needed = range.rows_before(config.needed(i)) > 0;
                if self.by_heads[i] {
                    let own = Heads::of_range(block, r, self.ranges.len());
                    bytes += own
                        .layers(block)
                        .map(|layer| layer.weight_bytes())
                        .iter()
                        .sum::<usize>();
                } else {
                    bytes += whole(&block.kv) + if needed { whole(&block.q) } else { 0 };
                }
                let layers = [&block.proj, &block.fc1, &block.fc2];
                let is_last = i + 1 == network.blocks.len();
                if is_last && ends_by_rows(config, self.ranges.len()) {
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
            by_heads,
            steps,
            chunks,
            exchanged: [even, odd],
            token,
            ..
        } = self;
        let frame = Frame {
            network,
            image,
            cancel,
            by_heads,
        };
        let before = |step: usize| step.checked_sub(1).map(|before| steps[before]);
        for_each_step(
            team,
            chunks,
            ranges,
            [&mut **even, &mut **odd],
            |step, _, range, read, written| {
                if !frame.is_cancelled() {
                    steps[step].first(before(step), frame, range, read, written);
                }
            },
            |step, _, range| {
                if !frame.is_cancelled() {
                    steps[step].rest(frame, range);
                }
            },
        );
        check(cancel)?;
        if let (Some(&last), true) = (steps.last(), ends_by_rows(&network.config, ranges.len())) {
            let read = if steps.len() % 2 == 1 { &*even } else { &*odd };
            for range in ranges.iter_mut() {
                range.observer.start();
                last.end_attention(frame, range, read);
            }
            check(cancel)?;
            token.finish_block(network, network.blocks.len() - 1, ranges, team);
        }
        self.classify(network, logits, team);
        if !self.joined {
            self.join();
        }
        Ok(())
    }

    /// Computes pooling and the final norm.
    fn pool(&mut self, network: &Network, team: Option<&Team>) {
        let embed = network.config.embed;
        let Self {
            ranges,
            sums,
            mean,
            pooled,
            ..
        } = self;
        ranges[0].observer.start();
        let norm = |x: &[i16], out: &mut [i8]| {
            network.kernels.layer_norm(
                &network.norm,
                MatrixView::packed(x, embed),
                MatrixViewMut::packed(out, embed),
            );
        };
        let prefix = network.config.prefix_tokens;
        let patches = network.config.patches() as i32;
        let rounded = |sum: i32| (sum + patches / 2).div_euclid(patches);
        match network.config.pool {
            _ if network.config.patch_tokens => {
                let chunk = ranges[0].tokens.len() * embed;
                for_each(team, ranges, pooled, chunk, |_, range, out| {
                    norm(&range.x, out);
                });
            }
            Pool::Token | Pool::TokenPair => {
                let rows = ranges.iter().flat_map(|range| range.x.chunks_exact(embed));
                for (x, pooled) in rows.zip(pooled.chunks_exact_mut(embed)) {
                    norm(x, pooled);
                }
            }
            Pool::Attention => network.norm.scale(&ranges[0].x[..embed], pooled),
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
        let columns = pooled.len() / network.config.head_tokens();
        let pooled = MatrixView::packed(pooled, columns);
        ranges[0].observer.i8(Point::Pooled, [0, 0], pooled);
    }

    /// Computes the head of every token.
    fn classify_tokens(&mut self, network: &Network, outputs: &mut [i32], team: Option<&Team>) {
        let (config, head) = (&network.config, &network.heads[0]);
        let (embed, rows) = (config.embed, config.head_rows());
        let (pooled, ranges) = (&self.pooled, &mut self.ranges);
        let chunk = ranges[0].tokens.len() * rows;
        for_each(
            team,
            ranges,
            &mut self.accumulators,
            chunk,
            |_, range, out| {
                let tokens = range.tokens.start * embed..range.tokens.end * embed;
                (network.kernels).linear_i32(
                    &head.layer,
                    MatrixView::packed(&pooled[tokens], embed),
                    MatrixViewMut::packed(out, rows),
                    &mut range.scratch,
                );
                for outputs in out.chunks_exact_mut(rows) {
                    for (output, &mult) in outputs.iter_mut().zip(&head.mult) {
                        *output = logits::scaled(*output, mult);
                    }
                }
            },
        );
        logits::of_tokens(
            config.pool,
            config.prefix_tokens,
            rows,
            &self.accumulators,
            outputs,
        );
    }

    /// Computes pooling, the final norm and the head.
    fn classify(&mut self, network: &Network, outputs: &mut [i32], team: Option<&Team>) {
        self.pool(network, team);
        if network.config.patch_tokens {
            self.classify_tokens(network, outputs, team);
            return self.ranges[0].observer.i32(Point::Logits, outputs);
        }
        let (embed, kernels) = (network.config.embed, network.kernels);
        let Self {
            ranges,
            token,
            pooled,
            accumulators,
            ..
        } = self;
        outputs.fill(0);
        for (head, pooled) in network.heads.iter().zip(pooled.chunks_exact(embed)) {
            let accumulators = &mut accumulators[..outputs.len()];
            let input = MatrixView::packed(pooled, embed);
            (token.machine).share_out(
                team,
                ranges,
                &head.layer,
                accumulators,
                |part, out, scratch| kernels.linear_i32(part, input, out, scratch),
            );
            for ((output, &acc), &mult) in
                outputs.iter_mut().zip(accumulators.iter()).zip(&head.mult)
            {
                *output += logits::scaled(acc, mult);
            }
        }
        ranges[0].observer.i32(Point::Logits, outputs);
    }
}

/// Returns for each block whether `ranges` ranges, or fewer, share its attention out by heads.
pub(super) fn by_heads(network: &Network, ranges: usize) -> Vec<bool> {
    let (machine, tokens) = (Machine::typical(network.tier()), network.config.tokens());
    let [_, ranges] = cut(tokens, ranges);
    let blocks = network.blocks.iter();
    blocks
        .map(|block| machine.prefers_heads(block, tokens, ranges))
        .collect()
}

/// Cuts tokens into at most `ranges` ranges. Returns the rows of all but the last one, and the
/// number of ranges.
fn cut(tokens: usize, ranges: usize) -> [usize; 2] {
    let rows = tokens.div_ceil(ranges);
    [rows, tokens.div_ceil(rows)]
}

/// Returns true if few tokens are needed after the attention of the last block, so that their
/// layers are shared out by rows of weights.
fn ends_by_rows(config: &Config, ranges: usize) -> bool {
    let depth = config.blocks.len();
    ranges > 1 && depth > 0 && config.needed(depth - 1) < config.tokens()
}

/// Adds each row of `rows` to `sums`.
fn add_rows<T: Copy + Into<i32>>(sums: &mut [i32], rows: &[T]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += value.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use quasar_kernels::Storage;

    use super::super::cancel::NEVER;
    use super::*;
    use crate::network::supported_tiers;
    use crate::trace::Trace;
    use crate::Subnet;

    /// Numbers of ranges, and whether they divide the heads of each block of the vector `heads`,
    /// two and three.
    const DIVIDED: [(usize, [bool; 2]); 2] = [(2, [true, false]), (3, [false, true])];

    fn subnet(name: &str) -> Subnet {
        let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors");
        Subnet::load(format!("{vectors}/{name}.qvit")).unwrap()
    }

    #[test]
    fn a_frame_is_preprocessed_by_the_networks_tier() {
        let subnet = subnet("token");
        for tier in supported_tiers() {
            let network = Network::new(&subnet, tier).unwrap();
            assert_eq!(
                Workspace::new(&network, 1).unwrap().preprocessor.tier(),
                tier
            );
        }
    }

    #[test]
    fn blocks_shared_out_by_heads_have_the_same_intermediates() {
        for name in ["heads", "rotary"] {
            compare_shared_out(&subnet(name));
        }
    }

    fn compare_shared_out(subnet: &Subnet) {
        let trace = |network: &Network, mut workspace: Workspace, team: Option<&Team>| {
            let mut logits = vec![0; network.config.outputs()];
            // The second frame finds what one of another image has left.
            for factor in [11, 37] {
                let image: Vec<u8> = (0..network.config.image.bytes())
                    .map(|i| (i * factor % 251) as u8)
                    .collect();
                workspace.observe(&Observer::trace());
                workspace
                    .frame(network, &image, &mut logits, team, &NEVER)
                    .unwrap();
            }
            let observers = workspace.ranges.into_iter().map(|range| range.observer);
            Trace::new(&network.config, observers)
        };
        for tier in supported_tiers() {
            for storage in [Storage::Unpacked, Storage::Packed] {
                let network = Network::with_storage(subnet, tier, storage).unwrap();
                let expected = trace(&network, Workspace::new(&network, 1).unwrap(), None);
                for (ranges, divided) in DIVIDED {
                    let team = Team::new(ranges).unwrap();
                    for team in [None, Some(&team)] {
                        let workspace = Workspace::with_heads(&network, ranges, divided.to_vec());
                        let found = trace(&network, workspace, team);
                        let pairs = expected.tensors().iter().zip(found.tensors());
                        for ((name, expected), (_, found)) in pairs {
                            let place = format!("{name}: {tier}, {storage:?}, {ranges} ranges");
                            assert!(expected == found, "{place}");
                        }
                        assert_eq!(expected.tensors().len(), found.tensors().len());
                    }
                }
            }
        }
    }

    #[test]
    fn a_frame_after_a_cancelled_one_has_the_same_logits() {
        let network = Network::new(&subnet("heads"), supported_tiers().last().unwrap()).unwrap();
        let image: Vec<u8> = (0..network.config.image.bytes())
            .map(|i| (i * 37 % 251) as u8)
            .collect();
        let frame = |workspace: &mut Workspace, team: &Team, cancel: &AtomicBool| {
            let mut logits = vec![0; network.config.outputs()];
            let result = workspace.frame(&network, &image, &mut logits, Some(team), cancel);
            result.map(|()| logits)
        };
        for (ranges, divided) in DIVIDED {
            let team = Team::new(ranges).unwrap();
            let workspace = &mut Workspace::with_heads(&network, ranges, divided.to_vec());
            let expected = frame(workspace, &team, &NEVER).unwrap();
            for delay in (0..400).step_by(2) {
                let cancel = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let start = std::time::Instant::now();
                        while start.elapsed() < Duration::from_micros(delay) {}
                        cancel.store(true, std::sync::atomic::Ordering::Relaxed);
                    });
                    if let Ok(logits) = frame(workspace, &team, &cancel) {
                        assert_eq!(logits, expected);
                    }
                });
                assert_eq!(frame(workspace, &team, &NEVER).unwrap(), expected);
            }
        }
    }
}

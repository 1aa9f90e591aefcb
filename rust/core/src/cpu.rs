//! The executor: a frame through the network on this CPU, any number of threads, the same bits.
//!
//! Everything in a block but attention's keys and values belongs to one token. So tokens are cut into tiles, one for each thread; a tile
//! goes from one block's attention to the next block's qkv without waiting, and all tiles meet once a block: when everybody's keys
//! and values are there. Each tile packs them for itself, which costs less than to meet again. A workspace holds all memory of a frame: it
//! is taken from the idle ones before the first stage and given back after the last; between them a warm frame allocates nothing and
//! takes no lock.
//!
//! Depends on [`crate::network`], [`crate::preprocess`] and the kernels.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quasar_kernels::{Aligned, KvHead, Rows, RowsMut, Scratch, Team};

use crate::error::{Error, Result};
use crate::network::{Block, Network, Qkv};
use crate::pool::{self, for_each};
use crate::preprocess::{self, ImageView, Preprocessor};
use crate::subnet::config::Pool;
use crate::trace::{Observer, Point, StageTime, Trace};

pub use crate::pool::{default_threads, PerProcess, MAX_THREADS};

/// For frames that nobody cancels.
pub static NEVER: AtomicBool = AtomicBool::new(false);

/// Images of a batch that each thread takes before the team is asked for anew.
const IMAGES_AT_A_TIME: usize = 8;

/// Runs a network. Usable from several threads at once, and in forked processes; each running frame has a workspace of its own.
///
/// Setting a call's `cancel` ends it early, between two blocks or attention heads, with [`Error::Interrupted`]: a small file may hold
/// a network that takes minutes.
#[derive(Debug)]
pub struct Executor {
    network: Arc<Network>,
    threads: usize,
    workers: PerProcess<Workers>,
}

/// One process's threads and idle memory.
#[derive(Debug)]
struct Workers {
    /// `None` for one thread: the caller's.
    team: Option<Team>,
    /// Idle workspaces with a tile for each thread.
    wide: Mutex<Vec<Workspace>>,
    /// Idle workspaces with one tile, for batches.
    narrow: Mutex<Vec<Workspace>>,
    /// Idle workspaces of either kind, at most.
    most_idle: usize,
}

/// Wall time of the two parts of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameTime {
    /// Resize, crop, colour.
    pub preprocess: Duration,
    /// Patches to logits.
    pub network: Duration,
}

impl Executor {
    /// An executor with `threads` threads; `None` takes as many as the machine has.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for 0 or more than [`MAX_THREADS`], [`Error::Threads`] where they cannot be started.
    pub fn new(network: Arc<Network>, threads: Option<usize>) -> Result<Self> {
        let threads = threads.unwrap_or_else(default_threads);
        pool::check_threads(threads)?;
        let executor = Self {
            network,
            threads,
            workers: PerProcess::new(),
        };
        executor.workers()?;
        Ok(executor)
    }

    fn workers(&self) -> Result<&Workers> {
        self.workers.get(|| {
            Ok(Workers {
                team: match self.threads {
                    1 => None,
                    threads => Some(pool::team(threads)?),
                },
                wide: Mutex::default(),
                narrow: Mutex::default(),
                most_idle: self.threads.max(default_threads()),
            })
        })
    }

    /// The network that it runs.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs one image, as preprocessing leaves it (`[height, width, channels]`), to `logits` (one for each class).
    ///
    /// # Errors
    /// [`Error::InvalidImage`] and [`Error::InvalidValue`] for a wrong number of bytes or logits.
    pub fn run(&self, image: &[u8], logits: &mut [i32]) -> Result<()> {
        self.check_image(image)?;
        self.check_logits(1, logits)?;
        let workers = self.workers()?;
        workers.with_workspace(&self.network, self.threads, |workspace| {
            workers.frame(&self.network, workspace, image, logits, &NEVER)
        })
    }

    /// Preprocesses and runs one decoded image.
    ///
    /// # Errors
    /// [`Error::InvalidImage`], [`Error::InvalidValue`] for a wrong number of logits, [`Error::Interrupted`].
    pub fn infer(
        &self,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        self.check_logits(1, logits)?;
        let workers = self.workers()?;
        workers.with_workspace(&self.network, self.threads, |workspace| {
            workers.decoded_frame(&self.network, workspace, image, logits, cancel)
        })
    }

    /// Preprocesses and runs many decoded images, one thread an image; `logits` is `[images, classes]`. Bit-identical to
    /// [`Self::infer`].
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for the image that cannot be used, [`Error::InvalidValue`] for a wrong number of logits,
    /// [`Error::Interrupted`].
    pub fn infer_batch(
        &self,
        images: &[ImageView],
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<()> {
        self.check_logits(images.len(), logits)?;
        let classes = self.network.config.classes.len();
        let workers = self.workers()?;
        let mut results: Vec<Result<()>> = images.iter().map(|_| Ok(())).collect();
        // In parts: an error ends the batch, and a team that another caller had may be free for the next part.
        let part = IMAGES_AT_A_TIME * self.threads;
        for ((images, results), logits) in images
            .chunks(part)
            .zip(results.chunks_mut(part))
            .zip(logits.chunks_mut(part * classes))
        {
            let infer = |i: usize, result: &mut Result<()>, logits: &mut [i32]| {
                *result = check(cancel).and_then(|()| {
                    workers.with_workspace(&self.network, 1, |workspace| {
                        workers.decoded_frame(&self.network, workspace, &images[i], logits, cancel)
                    })?;
                    Ok(())
                });
            };
            for_each(workers.team.as_ref(), results, logits, classes, infer);
            results
                .iter_mut()
                .try_for_each(|result| std::mem::replace(result, Ok(())))?;
        }
        Ok(())
    }

    /// The time that each stage of one frame takes, in the order of a frame's path. Stages that tiles run side by side count the mean
    /// over tiles, so the sum is close to the frame's latency.
    ///
    /// # Errors
    /// [`Error::InvalidImage`], [`Error::Interrupted`].
    pub fn profile(&self, image: &ImageView, cancel: &AtomicBool) -> Result<Vec<StageTime>> {
        let workers = self.workers()?;
        let mut workspace = Workspace::new(&self.network, self.threads);
        let mut logits = vec![0; self.network.config.classes.len()];
        // Once to warm memory and tables up.
        workers.decoded_frame(&self.network, &mut workspace, image, &mut logits, cancel)?;
        workspace.observe(&Observer::clock(&self.network.config));
        let time =
            workers.decoded_frame(&self.network, &mut workspace, image, &mut logits, cancel)?;
        Ok(workspace.stage_times(&self.network.config, time.preprocess))
    }

    /// Runs one image, as preprocessing leaves it, and returns every intermediate.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for a wrong number of bytes, [`Error::Interrupted`].
    pub fn trace(&self, image: &[u8], cancel: &AtomicBool) -> Result<Trace> {
        self.check_image(image)?;
        let mut workspace = Workspace::new(&self.network, self.threads);
        workspace.observe(&Observer::trace());
        let mut logits = vec![0; self.network.config.classes.len()];
        self.workers()?
            .frame(&self.network, &mut workspace, image, &mut logits, cancel)?;
        let tiles = workspace
            .tiles
            .iter_mut()
            .map(|tile| std::mem::take(&mut tile.observer));
        Ok(Trace::new(&self.network.config, tiles))
    }

    fn check_image(&self, image: &[u8]) -> Result<()> {
        let size = self.network.config.image;
        if image.len() != size.bytes() {
            return Err(Error::InvalidImage(format!(
                "{} bytes; this subnet takes {} x {} x {}",
                image.len(),
                size.height,
                size.width,
                size.channels
            )));
        }
        Ok(())
    }

    fn check_logits(&self, images: usize, logits: &[i32]) -> Result<()> {
        let classes = self.network.config.classes.len();
        if logits.len() != images * classes {
            return Err(Error::InvalidValue(format!(
                "room for {} logits; {images} images of {classes} classes need {}",
                logits.len(),
                images * classes
            )));
        }
        Ok(())
    }
}

impl Workers {
    fn with_workspace<T>(
        &self,
        network: &Network,
        tiles: usize,
        run: impl FnOnce(&mut Workspace) -> T,
    ) -> T {
        let idle = if tiles == 1 { &self.narrow } else { &self.wide };
        let lock = || idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lock().pop();
        let mut workspace = taken.unwrap_or_else(|| Workspace::new(network, tiles));
        let result = run(&mut workspace);
        let mut idle = lock();
        // More callers at once than the machine has cores do not come back for their memory.
        if idle.len() < self.most_idle {
            idle.push(workspace);
        }
        result
    }

    fn decoded_frame(
        &self,
        network: &Network,
        workspace: &mut Workspace,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        let start = Instant::now();
        let mut pixels = std::mem::take(&mut workspace.pixels);
        if let Some(team) = self.team_of(workspace) {
            team.wake();
        }
        let team = self.team_of(workspace);
        let result = workspace.preprocessor.run_with(team, image, &mut pixels);
        let preprocess = start.elapsed();
        let start = Instant::now();
        let result = result.and_then(|()| self.frame(network, workspace, &pixels, logits, cancel));
        workspace.pixels = pixels;
        result.map(|()| FrameTime {
            preprocess,
            network: start.elapsed(),
        })
    }

    fn frame(
        &self,
        network: &Network,
        workspace: &mut Workspace,
        image: &[u8],
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<()> {
        workspace.frame(network, image, logits, self.team_of(workspace), cancel)
    }

    /// The threads for a workspace with several tiles.
    fn team_of(&self, workspace: &Workspace) -> Option<&Team> {
        self.team.as_ref().filter(|_| workspace.tiles.len() > 1)
    }
}

/// All memory of one frame.
#[derive(Debug)]
struct Workspace {
    preprocessor: Preprocessor,
    pixels: Vec<u8>,
    tiles: Vec<Tile>,
    /// Rows of a tile (of the last one, at most).
    tile_rows: usize,
    /// `[tokens, stride]`, twice: q, k and v of one block, and of the next one; `stride` is that of the widest block.
    qkv: [Aligned<i8>; 2],
    stride: usize,
    sums: Vec<i32>,
    mean: Vec<i16>,
    pooled: Vec<i8>,
    accumulators: Vec<i32>,
}

/// The tokens `first..first + rows` and all that belongs to them alone.
#[derive(Debug)]
struct Tile {
    first: usize,
    rows: usize,
    patches: Aligned<i8>,
    /// `[rows, embed]`, the residual stream.
    x: Aligned<i16>,
    /// `[rows, embed]`, the latest norm.
    norm: Aligned<i8>,
    /// `[rows, heads * head_dim]`
    attended: Aligned<i8>,
    /// `[rows, hidden]`
    hidden: Aligned<i8>,
    /// All tokens' keys and values of one head.
    head: KvHead,
    scratch: Scratch,
    observer: Observer,
}

impl Workspace {
    fn new(network: &Network, tiles: usize) -> Self {
        let config = &network.config;
        let tokens = config.tokens();
        let tile_rows = tokens.div_ceil(tiles);
        let widest = |size: fn(&Block) -> usize| network.blocks.iter().map(size).max().unwrap_or(0);
        let (inner, hidden) = (widest(Block::inner), widest(|b| b.hidden));
        let tile = |first: usize| {
            let rows = tile_rows.min(tokens - first);
            Tile {
                first,
                rows,
                patches: Aligned::new(rows * config.patch_len()),
                x: Aligned::new(rows * config.embed),
                norm: Aligned::new(rows * config.embed),
                attended: Aligned::new(rows * inner),
                hidden: Aligned::new(rows * hidden),
                head: KvHead::new(tokens, widest(|b| b.head_dim).max(1)),
                scratch: Scratch::new(),
                observer: Observer::Off,
            }
        };
        Self {
            preprocessor: Preprocessor::new(config),
            pixels: Vec::with_capacity(config.image.bytes()),
            tiles: (0..tokens).step_by(tile_rows).map(tile).collect(),
            tile_rows,
            qkv: std::array::from_fn(|_| Aligned::new(tokens * 3 * inner)),
            stride: 3 * inner,
            sums: vec![0; config.embed],
            mean: vec![0; config.embed],
            pooled: vec![0; config.embed],
            accumulators: vec![0; config.classes.len()],
        }
    }

    fn observe(&mut self, observer: &Observer) {
        for tile in &mut self.tiles {
            tile.observer = observer.clone();
        }
    }

    fn stage_times(
        &self,
        config: &crate::subnet::config::Config,
        preprocess: Duration,
    ) -> Vec<StageTime> {
        StageTime::collect(
            config,
            preprocess,
            self.tiles.iter().map(|tile| &tile.observer),
        )
    }

    fn frame(
        &mut self,
        network: &Network,
        image: &[u8],
        logits: &mut [i32],
        team: Option<&Team>,
        cancel: &AtomicBool,
    ) -> Result<()> {
        let Self {
            tiles,
            qkv: [now, next],
            stride,
            tile_rows,
            ..
        } = self;
        let (stride, chunk) = (*stride, *tile_rows * *stride);
        let (mut now, mut next) = (now, next);
        for_each(team, tiles, now, chunk, |_, tile, qkv| {
            tile.observer.start();
            tile.embed(network, image);
            tile.qkv(network, 0, qkv, stride);
        });
        for i in 0..network.blocks.len() {
            for_each(team, tiles, next, chunk, |_, tile, next| {
                tile.observer.start();
                tile.block(network, i, now, stride, cancel);
                if i + 1 < network.blocks.len() {
                    tile.qkv(network, i + 1, next, stride);
                }
            });
            check(cancel)?;
            std::mem::swap(&mut now, &mut next);
        }
        self.classify(network, logits);
        Ok(())
    }

    /// Pooling, the final norm and the head.
    fn classify(&mut self, network: &Network, logits: &mut [i32]) {
        let embed = network.config.embed;
        let kernels = network.kernels;
        let Self {
            tiles,
            sums,
            mean,
            pooled,
            accumulators,
            ..
        } = self;
        tiles[0].observer.start();
        let norm = |x: &[i16], out: &mut [i8]| {
            kernels.layer_norm(
                &network.norm,
                Rows::packed(x, embed),
                RowsMut::packed(out, embed),
            );
        };
        let prefix = network.config.prefix_tokens;
        let patches = network.config.patches() as i32;
        let rounded = |sum: i32| (sum + patches / 2).div_euclid(patches);
        match network.config.pool {
            Pool::Token => norm(&tiles[0].x[..embed], pooled),
            Pool::Mean => {
                sums.fill(0);
                for tile in tiles.iter() {
                    add_rows(sums, &tile.x[tile.rows_before(prefix) * embed..]);
                }
                for (mean, &sum) in mean.iter_mut().zip(sums.iter()) {
                    *mean = rounded(sum) as i16;
                }
                norm(mean, pooled);
            }
            Pool::MeanAfterNorm => {
                sums.fill(0);
                for tile in tiles.iter_mut() {
                    norm(&tile.x, &mut tile.norm);
                    add_rows(sums, &tile.norm[tile.rows_before(prefix) * embed..]);
                }
                for (pooled, &sum) in pooled.iter_mut().zip(sums.iter()) {
                    *pooled = rounded(sum) as i8;
                }
            }
        }
        tiles[0]
            .observer
            .i8(Point::Pooled, Rows::packed(pooled, embed));
        let out = RowsMut::new(accumulators, 1, logits.len(), logits.len());
        kernels.linear_i32(
            &network.head,
            Rows::packed(pooled, embed),
            out,
            &mut tiles[0].scratch,
        );
        for ((logit, &acc), &mult) in logits
            .iter_mut()
            .zip(accumulators.iter())
            .zip(&network.head_mult)
        {
            *logit = ((i64::from(acc) * i64::from(mult) + (1 << 14)) >> 15) as i32;
        }
        tiles[0].observer.i32(Point::Logits, logits);
    }
}

fn check(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}

/// Adds each row of `rows` to `sums`.
fn add_rows<T: Copy + Into<i32>>(sums: &mut [i32], rows: &[T]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += value.into();
        }
    }
}

impl Tile {
    /// How many of its rows are among the first `tokens` tokens.
    fn rows_before(&self, tokens: usize) -> usize {
        tokens.saturating_sub(self.first).min(self.rows)
    }

    /// Patches, patch embedding, position and prefix.
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
            preprocess::patch_pixels(
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
                Rows::packed(patches, config.patch_len()),
                RowsMut::packed(patches_x, embed),
                &mut self.scratch,
            );
        }
        self.observer
            .i16(Point::Embed, Rows::packed(&self.x, embed));
    }

    /// First norm and qkv of a block, into this tile's rows of `qkv`.
    fn qkv(&mut self, network: &Network, i: usize, qkv: &mut [i8], stride: usize) {
        let (block, embed, kernels) = (&network.blocks[i], network.config.embed, network.kernels);
        let (rows, inner) = (self.rows, block.inner());
        kernels.layer_norm(
            &block.norm1,
            Rows::packed(&self.x, embed),
            RowsMut::packed(&mut self.norm, embed),
        );
        let norm = Rows::packed(&self.norm, embed);
        self.observer.i8(Point::Norm1(i), norm);
        let out = RowsMut::new(qkv, rows, 3 * inner, stride);
        match &block.qkv {
            Qkv::Whole(layer) => kernels.linear_i8(layer, norm, out, 0, None, &mut self.scratch),
            Qkv::Split { q, kv } => {
                let (mut q_out, kv_out) = out.split_at_column(inner);
                kernels.linear_i8(kv, norm, kv_out, 0, None, &mut self.scratch);
                // Queries that nobody asks are 0, so that traces do not depend on what was there before.
                for row in 0..rows {
                    q_out.row_mut(row).fill(0);
                }
                if self.first == 0 {
                    let (q_out, _) = q_out.split_at_row(1);
                    kernels.linear_i8(q, norm.range(0..1), q_out, 0, None, &mut self.scratch);
                }
            }
        }
        self.observer
            .i8(Point::Qkv(i), Rows::new(qkv, rows, 3 * inner, stride));
    }

    /// A block from its attention on. `qkv` are everybody's rows. Ends anywhere where it is cancelled.
    fn block(
        &mut self,
        network: &Network,
        i: usize,
        qkv: &[i8],
        stride: usize,
        cancel: &AtomicBool,
    ) {
        let (block, embed, kernels) = (&network.blocks[i], network.config.embed, network.kernels);
        let (inner, dim) = (block.inner(), block.head_dim);
        let rows = match block.qkv {
            Qkv::Whole(_) => self.rows,
            Qkv::Split { .. } if self.first == 0 => 1,
            Qkv::Split { .. } => return,
        };
        let x = &mut self.x[..rows * embed];
        let norm = &mut self.norm[..rows * embed];
        let attended = &mut self.attended[..rows * inner];
        let hidden = &mut self.hidden[..rows * block.hidden];
        let Self {
            head,
            scratch,
            observer,
            ..
        } = self;

        let qkv = Rows::new(qkv, network.config.tokens(), 3 * inner, stride);
        let mut rest = RowsMut::packed(attended, inner);
        for (h, params) in block.attention.iter().enumerate() {
            if check(cancel).is_err() {
                return;
            }
            let [q, k, v] = [0, inner, 2 * inner]
                .map(|first| qkv.columns(first + h * dim..first + (h + 1) * dim));
            let (out, others) = rest.split_at_column(dim);
            kernels.pack_kv(k, v, head);
            let q = q.range(self.first..self.first + rows);
            kernels.attention(q, head, params, out, scratch);
            rest = others;
        }
        let attended = Rows::packed(attended, inner);
        observer.i8(Point::Attention(i), attended);
        kernels.linear_residual(&block.proj, attended, RowsMut::packed(x, embed), scratch);
        observer.i16(Point::Mid(i), Rows::packed(x, embed));

        kernels.layer_norm(
            &block.norm2,
            Rows::packed(x, embed),
            RowsMut::packed(norm, embed),
        );
        let norm = Rows::packed(norm, embed);
        observer.i8(Point::Norm2(i), norm);
        let out = RowsMut::packed(hidden, block.hidden);
        kernels.linear_i8(
            &block.fc1,
            norm,
            out,
            block.fc1_zero_point,
            Some(&block.gelu),
            scratch,
        );
        let hidden = Rows::packed(hidden, block.hidden);
        observer.i8(Point::Act(i), hidden);
        kernels.linear_residual(&block.fc2, hidden, RowsMut::packed(x, embed), scratch);
        observer.i16(Point::X(i), Rows::packed(x, embed));
    }
}

/// Probabilities of integer logits: softmax of `scale * logit` in float64.
pub fn softmax(logits: &[i32], scale: f64) -> Vec<f64> {
    let largest = logits.iter().copied().max().unwrap_or(0);
    let mut p: Vec<f64> = logits
        .iter()
        .map(|&l| ((i64::from(l) - i64::from(largest)) as f64 * scale).exp())
        .collect();
    let sum: f64 = p.iter().sum();
    for p in &mut p {
        *p /= sum;
    }
    p
}

/// The `k` classes with the largest logits, best first; of equals the lower class first.
pub fn top_k(logits: &[i32], k: usize) -> Vec<usize> {
    let rank = |&class: &usize| (std::cmp::Reverse(logits[class]), class);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    if 0 < k && k < order.len() {
        order.select_nth_unstable_by_key(k - 1, rank);
    }
    order.truncate(k);
    order.sort_unstable_by_key(rank);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use quasar_kernels::Tier;

    use crate::subnet::Subnet;

    fn executor(threads: usize) -> Executor {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/vectors/token.qvit"
        );
        let network = Network::new(&Subnet::load(path).unwrap(), Tier::Scalar).unwrap();
        Executor::new(Arc::new(network), Some(threads)).unwrap()
    }

    /// As many frames at once as the depth.
    fn nest(executor: &Executor, tiles: usize, depth: usize) {
        if depth > 0 {
            executor
                .workers()
                .unwrap()
                .with_workspace(&executor.network, tiles, |_| {
                    nest(executor, tiles, depth - 1);
                });
        }
    }

    #[test]
    fn a_crowd_of_callers_leaves_few_workspaces() {
        for threads in [1, 3] {
            let executor = executor(threads);
            let workers = executor.workers().unwrap();
            nest(&executor, threads, workers.most_idle + 5);
            let idle = |list: &Mutex<Vec<Workspace>>| list.lock().unwrap().len();
            assert_eq!(
                idle(&workers.wide) + idle(&workers.narrow),
                workers.most_idle
            );
        }
    }
}

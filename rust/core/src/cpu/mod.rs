//! The executor: runs frames through the network on this CPU, with any number of threads and the
//! same bits.
//!
//! A frame takes a workspace, all memory that it needs, from the idle ones and gives it back after
//! its last stage. In between a warm frame allocates nothing and takes no lock.
//!
//! `workspace` holds a frame's memory and steps, `range` the stages of one thread's tokens, `token`
//! layers of one token, and `partition` decides how threads share a layer. Depends on
//! [`crate::network`], [`crate::preprocess`], [`crate::pool`], [`crate::memory`], [`crate::trace`],
//! [`crate::error`] and the kernels.

mod cancel;
mod partition;
mod range;
mod token;
mod workspace;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use quasar_kernels::Team;

use crate::error::{Error, Result};
use crate::memory;
use crate::network::Network;
use crate::pool::{self, default_threads, for_each, IdlePool, PerProcess};
use crate::preprocess::{ImageView, Preprocessor};
use crate::trace::{Observer, StageTime, Trace};
use cancel::check;
pub use cancel::NEVER;
use workspace::Workspace;

/// Pixels of an image from which on [`Executor::prepare`] takes all cores.
const LARGE_IMAGE: usize = 500_000;

/// Images of a batch that each thread takes before the team is claimed again, and before a large
/// image may be prepared.
const IMAGES_AT_A_TIME: usize = 8;

/// Runs a network. Works from several threads at once, and in forked processes; each running frame
/// has its own workspace.
///
/// Setting a call's `cancel` ends the call early, between two blocks or attention heads, with
/// [`Error::Interrupted`]: a small file may hold a network that takes minutes.
#[derive(Debug)]
pub struct Executor {
    network: Arc<Network>,
    threads: usize,
    workers: PerProcess<Workers>,
}

/// The threads and idle memory of one process.
#[derive(Debug)]
struct Workers {
    /// `None` for one thread, the caller's.
    team: Option<Team>,
    /// The team leaves no core of the machine to others.
    all_cores: bool,
    /// Read by frames; written by [`Executor::prepare`] while it keeps all cores busy.
    cores: RwLock<()>,
    /// Workspaces with a range of tokens for each thread.
    parallel: IdlePool<Workspace>,
    /// Workspaces with one range, for batches.
    single: IdlePool<Workspace>,
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
    /// Creates an executor with `threads` threads; `None` takes as many as the machine has.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for 0 or more than [`pool::MAX_THREADS`], [`Error::Threads`] if they
    /// cannot be started.
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
        memory::check_limited("a frame")?;
        self.workers.get(|| {
            let most_idle = self.threads.max(default_threads());
            Ok(Workers {
                team: match self.threads {
                    1 => None,
                    threads => Some(pool::team(threads)?),
                },
                all_cores: self.threads >= default_threads(),
                cores: RwLock::new(()),
                parallel: IdlePool::new(most_idle),
                single: IdlePool::new(most_idle),
            })
        })
    }

    /// Returns the network.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// Returns the number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Returns the bytes of weights that each thread reads in a frame, if no thread takes over what
    /// is another's.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn weight_traffic(&self) -> Result<Vec<usize>> {
        let workspace = Workspace::new(&self.network, self.threads)?;
        Ok(workspace.weight_traffic(&self.network))
    }

    /// Returns the bytes of memory that a frame's workspace takes at most, in as many ranges of
    /// tokens as there are threads.
    pub fn workspace_memory(&self) -> usize {
        Workspace::memory(&self.network, self.threads)
    }

    /// Returns for each block whether `threads` threads would share its attention out by heads; if
    /// not, by tokens.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a number of threads that no team has.
    pub fn by_heads(&self, threads: usize) -> Result<Vec<bool>> {
        pool::check_threads(threads)?;
        Ok(workspace::by_heads(&self.network, threads))
    }

    /// Runs one preprocessed image (`[height, width, channels]`) to `logits`: one for each
    /// class, then the codes of the embedding if the subnet has one.
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
    /// [`Error::InvalidImage`], [`Error::InvalidValue`] for a wrong number of logits,
    /// [`Error::Interrupted`].
    pub fn infer(
        &self,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        self.check_logits(1, logits)?;
        let workers = self.workers()?;
        let _frame = workers.cores.read().unwrap_or_else(PoisonError::into_inner);
        workers.with_workspace(&self.network, self.threads, |workspace| {
            workers.decoded_frame(&self.network, workspace, image, logits, cancel)
        })
    }

    /// Returns true if [`Self::prepare`] takes all cores for an image. A caller that runs frames
    /// should then prepare it itself: the threads of two callers wake each other all the time.
    ///
    /// # Errors
    /// As [`Self::new`], in a forked process.
    pub fn prepares_on_all_cores(&self, image: &ImageView) -> Result<bool> {
        let workers = self.workers()?;
        Ok(workers.team.is_some() && workers.all_cores && image.pixels() >= LARGE_IMAGE)
    }

    /// Preprocesses an image for a later frame, while others may run. If they run on all cores, a
    /// large image is preprocessed between two frames, on all cores, too: the threads of both
    /// would keep each other waiting.
    ///
    /// # Errors
    /// [`Error::InvalidImage`].
    pub fn prepare(
        &self,
        preprocessor: &mut Preprocessor,
        image: &ImageView,
        pixels: &mut Vec<u8>,
    ) -> Result<()> {
        let workers = self.workers()?;
        match &workers.team {
            Some(team) if self.prepares_on_all_cores(image)? => {
                let _all = workers
                    .cores
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                team.wake();
                preprocessor.run_with(Some(team), image, pixels)
            }
            _ => preprocessor.run(image, pixels),
        }
    }

    /// Preprocesses and runs many decoded images, each on one thread; `logits` is `[images,
    /// outputs]`. The results are the same bits as those of [`Self::infer`].
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for the image that cannot be used, [`Error::InvalidValue`] for a
    /// wrong number of logits, [`Error::Interrupted`].
    pub fn infer_batch(
        &self,
        images: &[ImageView],
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<()> {
        self.check_logits(images.len(), logits)?;
        let outputs = self.network.config.outputs();
        let workers = self.workers()?;
        // Threads make their workspaces at the same time.
        let made = self.threads.saturating_sub(workers.single.idle());
        if made > 0 {
            memory::check("a batch", made * Workspace::memory(&self.network, 1))?;
        }
        let mut results: Vec<Result<()>> = images.iter().map(|_| Ok(())).collect();
        // In parts: an error ends the batch, and a team that another caller used may be free for
        // the next part.
        let part = IMAGES_AT_A_TIME * self.threads;
        for ((images, results), logits) in images
            .chunks(part)
            .zip(results.chunks_mut(part))
            .zip(logits.chunks_mut(part * outputs))
        {
            let infer = |i: usize, result: &mut Result<()>, logits: &mut [i32]| {
                *result = check(cancel).and_then(|()| {
                    workers.with_workspace(&self.network, 1, |workspace| {
                        workers.decoded_frame(&self.network, workspace, &images[i], logits, cancel)
                    })?;
                    Ok(())
                });
            };
            let frames = workers.cores.read().unwrap_or_else(PoisonError::into_inner);
            for_each(workers.team.as_ref(), results, logits, outputs, infer);
            drop(frames);
            results
                .iter_mut()
                .try_for_each(|result| std::mem::replace(result, Ok(())))?;
        }
        Ok(())
    }

    /// Measures the time of each stage of one frame, in the order in which they run. The time of a
    /// stage that runs in ranges of tokens is the mean over ranges, so the sum is close to the
    /// frame's latency.
    ///
    /// # Errors
    /// [`Error::InvalidImage`], [`Error::Interrupted`].
    pub fn profile(&self, image: &ImageView, cancel: &AtomicBool) -> Result<Vec<StageTime>> {
        let workers = self.workers()?;
        let mut workspace = Workspace::new(&self.network, self.threads)?;
        let mut logits = vec![0; self.network.config.outputs()];
        // One run makes memory grow to its size, and one warms it up.
        for _ in 0..2 {
            workers.decoded_frame(&self.network, &mut workspace, image, &mut logits, cancel)?;
        }
        workspace.observe(&Observer::clock(&self.network.config));
        let time =
            workers.decoded_frame(&self.network, &mut workspace, image, &mut logits, cancel)?;
        Ok(workspace.stage_times(&self.network.config, time.preprocess))
    }

    /// Runs one preprocessed image and returns every intermediate.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for a wrong number of bytes, [`Error::Interrupted`].
    pub fn trace(&self, image: &[u8], cancel: &AtomicBool) -> Result<Trace> {
        self.check_image(image)?;
        let mut workspace = Workspace::new(&self.network, self.threads)?;
        workspace.observe(&Observer::trace());
        let mut logits = vec![0; self.network.config.outputs()];
        self.workers()?
            .frame(&self.network, &mut workspace, image, &mut logits, cancel)?;
        let observers = workspace
            .ranges
            .iter_mut()
            .map(|range| std::mem::take(&mut range.observer));
        Ok(Trace::new(&self.network.config, observers))
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
        let outputs = self.network.config.outputs();
        if logits.len() != images * outputs {
            return Err(Error::InvalidValue(format!(
                "room for {} outputs; {images} images of {outputs} outputs need {}",
                logits.len(),
                images * outputs
            )));
        }
        Ok(())
    }
}

impl Workers {
    fn with_workspace<T>(
        &self,
        network: &Network,
        ranges: usize,
        run: impl FnOnce(&mut Workspace) -> Result<T>,
    ) -> Result<T> {
        let pool = if ranges == 1 {
            &self.single
        } else {
            &self.parallel
        };
        pool.with(|| Workspace::new(network, ranges), run)
    }

    /// Preprocesses and runs one decoded image.
    fn decoded_frame(
        &self,
        network: &Network,
        workspace: &mut Workspace,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        let start = Instant::now();
        if let Some(team) = self.team_of(workspace) {
            team.wake();
        }
        if let Some(pixels) = workspace.preprocessor.in_place(image) {
            let preprocess = start.elapsed();
            let start = Instant::now();
            self.frame(network, workspace, pixels, logits, cancel)?;
            return Ok(FrameTime {
                preprocess,
                network: start.elapsed(),
            });
        }
        let mut pixels = std::mem::take(&mut workspace.pixels);
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

    /// Returns the team for a workspace with several ranges.
    fn team_of(&self, workspace: &Workspace) -> Option<&Team> {
        self.team.as_ref().filter(|_| workspace.ranges.len() > 1)
    }
}

//! What an engine runs frames on: the CPU's executor, or an accelerator behind a transport.
//!
//! Depends on [`crate::driver`], [`crate::program`] and the executor.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quasar_core::cpu::{FrameTime, PerProcess};
use quasar_core::error::{Error, Result};
use quasar_core::preprocess::{patch_codes, ImageView, Preprocessor};
use quasar_core::{Executor, Subnet};

use crate::driver::{Counters, Deadlines, Driver, FrameQueue, Ticket};
use crate::program::Program;
use crate::transport::Transport;

/// Runs frames: preprocessing on the host, the network on the device. Usable from several threads at once, and in forked processes.
pub trait Device: Send + Sync {
    /// Preprocesses an image and hands it in. Frames come out in any order, each where its [`Frame`] is waited for.
    ///
    /// # Errors
    /// [`Error::InvalidImage`]; what the device says where it cannot be reached.
    fn begin(&self, image: &ImageView) -> Result<Frame>;

    /// Preprocesses and runs one image to `logits` (one for each class).
    ///
    /// # Errors
    /// Those of [`Self::begin`]; the fault that hit the frame, and [`Error::Interrupted`].
    fn infer(
        &self,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime>;

    /// Many images; `logits` is `[images, classes]`.
    ///
    /// # Errors
    /// Those of [`Self::infer`], for the first image that has one.
    fn infer_batch(
        &self,
        images: &[ImageView],
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<()>;

    /// Lets a simulated device misbehave once: see [`Transport::inject`].
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a device that is not simulated.
    fn inject(&self, fault: &str, after_frames: u64) -> Result<()>;

    /// What happened so far, where the device is an accelerator: frames answered, faults, resets, lost and spurious interrupts.
    ///
    /// # Errors
    /// Where the device cannot be reached.
    fn counters(&self) -> Result<Option<[u64; 5]>>;
}

/// A frame that was handed in.
#[derive(Debug)]
pub struct Frame {
    state: State,
    preprocess: Duration,
    begun: Instant,
}

#[derive(Debug)]
enum State {
    Done(Vec<i32>, Duration),
    Queued(Ticket),
}

impl Frame {
    /// Its logits, and how long preprocessing and the rest took, waiting for its turn included.
    ///
    /// # Errors
    /// The fault that hit this frame, or [`Error::Interrupted`].
    pub fn wait(self, cancel: &AtomicBool) -> Result<(Vec<i32>, FrameTime)> {
        let (logits, network) = match self.state {
            State::Done(logits, network) => (logits, network),
            State::Queued(ticket) => (ticket.wait(cancel)?, self.begun.elapsed()),
        };
        let time = FrameTime {
            preprocess: self.preprocess,
            network,
        };
        Ok((logits, time))
    }
}

/// The CPU runs a frame when it is handed in.
impl Device for Executor {
    fn begin(&self, image: &ImageView) -> Result<Frame> {
        let mut logits = vec![0; self.network().config().classes.len()];
        let time = Executor::infer(self, image, &mut logits, &quasar_core::cpu::NEVER)?;
        Ok(Frame {
            state: State::Done(logits, time.network),
            preprocess: time.preprocess,
            begun: Instant::now(),
        })
    }

    fn infer(
        &self,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        Executor::infer(self, image, logits, cancel)
    }

    fn infer_batch(
        &self,
        images: &[ImageView],
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<()> {
        Executor::infer_batch(self, images, logits, cancel)
    }

    fn inject(&self, fault: &str, after_frames: u64) -> Result<()> {
        Err(Error::InvalidValue(format!(
            "the CPU has no fault {fault:?} after {after_frames} frames; only a simulated device injects faults"
        )))
    }

    fn counters(&self) -> Result<Option<[u64; 5]>> {
        Ok(None)
    }
}

/// Frames that a batch has handed in and not yet taken back: two on the accelerator, one behind, one being preprocessed.
const AHEAD: usize = 4;

/// Idle memory of preprocessing, at most.
const MOST_IDLE: usize = 4;

/// Memory of an image's preprocessing.
#[derive(Debug)]
struct Workspace {
    preprocessor: Preprocessor,
    pixels: Vec<u8>,
    patches: Vec<i8>,
}

/// One process's driver and idle memory.
#[derive(Debug)]
struct Process {
    queue: FrameQueue,
    idle: Mutex<Vec<Workspace>>,
}

/// How a process comes to its transport: the process that makes an accelerator, and each that is forked from it.
type Connect<T> = Box<dyn Fn() -> Result<T> + Send + Sync>;

/// An accelerator that runs one subnet.
pub struct Accelerator<T> {
    subnet: Arc<Subnet>,
    program: Arc<Program>,
    deadlines: Deadlines,
    connect: Connect<T>,
    process: PerProcess<Process>,
}

impl<T: Transport + 'static> Accelerator<T> {
    /// An accelerator with the program of a subnet in its memory.
    ///
    /// # Errors
    /// Those of `connect` and of [`Driver::open`].
    pub fn new(
        subnet: Arc<Subnet>,
        program: Arc<Program>,
        deadlines: Deadlines,
        connect: impl Fn() -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let accelerator = Self {
            subnet,
            program,
            deadlines,
            connect: Box::new(connect),
            process: PerProcess::new(),
        };
        accelerator.process()?;
        Ok(accelerator)
    }

    fn process(&self) -> Result<&Process> {
        self.process.get(|| {
            let transport = (self.connect)()?;
            let driver = Driver::open(transport, Arc::clone(&self.program), self.deadlines)?;
            Ok(Process {
                queue: FrameQueue::start(driver)?,
                idle: Mutex::default(),
            })
        })
    }

    /// Preprocesses an image and packs its patches.
    fn input(&self, process: &Process, image: &ImageView) -> Result<Vec<u8>> {
        let config = self.subnet.config();
        let lock = || process.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = lock().pop();
        let mut workspace = idle.unwrap_or_else(|| Workspace {
            preprocessor: Preprocessor::new(config),
            pixels: Vec::new(),
            patches: vec![0; config.patches() * config.patch_len()],
        });
        let Workspace {
            preprocessor,
            pixels,
            patches,
        } = &mut workspace;
        let result = preprocessor.run(image, pixels).map(|()| {
            let mut input = vec![0; self.program.input_bytes()];
            patch_codes(
                pixels,
                config.image,
                config.patch,
                config.grid().1,
                0,
                patches,
            );
            self.program.pack_input(patches, &mut input);
            input
        });
        let mut idle = lock();
        if idle.len() < MOST_IDLE {
            idle.push(workspace);
        }
        result
    }
}

impl<T: Transport + 'static> Device for Accelerator<T> {
    fn begin(&self, image: &ImageView) -> Result<Frame> {
        let process = self.process()?;
        let start = Instant::now();
        let input = self.input(process, image)?;
        let begun = Instant::now();
        Ok(Frame {
            state: State::Queued(process.queue.submit(input)),
            preprocess: begun - start,
            begun,
        })
    }

    fn infer(
        &self,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        let (result, time) = self.begin(image)?.wait(cancel)?;
        logits.copy_from_slice(&result);
        Ok(time)
    }

    fn infer_batch(
        &self,
        images: &[ImageView],
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<()> {
        let mut frames = VecDeque::new();
        let mut results = logits.chunks_exact_mut(self.program.classes());
        let mut take = |frames: &mut VecDeque<Frame>| {
            if let (Some(frame), Some(logits)) = (frames.pop_front(), results.next()) {
                logits.copy_from_slice(&frame.wait(cancel)?.0);
            }
            Ok(())
        };
        for image in images {
            if frames.len() == AHEAD {
                take(&mut frames)?;
            }
            frames.push_back(self.begin(image)?);
        }
        while !frames.is_empty() {
            take(&mut frames)?;
        }
        Ok(())
    }

    fn inject(&self, fault: &str, after_frames: u64) -> Result<()> {
        self.process()?.queue.inject(fault, after_frames);
        Ok(())
    }

    fn counters(&self) -> Result<Option<[u64; 5]>> {
        let Counters {
            frames,
            faults,
            resets,
            lost_interrupts,
            spurious_interrupts,
        } = self.process()?.queue.counters();
        let counters = [frames, faults, resets, lost_interrupts, spurious_interrupts];
        Ok(Some(
            counters.map(|counter| counter.load(Ordering::Relaxed)),
        ))
    }
}

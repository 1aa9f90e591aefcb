//! The devices that an engine runs frames on: the CPU's executor, or an accelerator behind a
//! transport.
//!
//! Depends on [`crate::driver`], [`crate::program`], [`crate::transport`], [`crate::watch`] and the
//! executor.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quasar_core::cpu::{FrameTime, NEVER};
use quasar_core::error::{Error, Result};
use quasar_core::memory;
use quasar_core::pool::{IdlePool, PerProcess};
use quasar_core::preprocess::{patches_channels_first, ImageView, Preprocessor};
use quasar_core::{Executor, Subnet};

use crate::counters::{expect_counters, Counts};
use crate::driver::{Counters, Deadlines, Driver, FrameQueue, Ticket, IN_FLIGHT};
use crate::isa::COMMAND_BYTES;
use crate::program::Program;
use crate::run::time::frame_counts;
use crate::transport::Transport;
use crate::watch::{Watch, Watched};

/// Runs frames: preprocessing on the host, the network on the device. Several threads may use it at
/// once, and forked processes too.
pub trait Device: Send + Sync {
    /// Preprocesses an image and starts its frame or queues it. The caller may wait for its frames
    /// in any order.
    ///
    /// # Errors
    /// [`Error::InvalidImage`]; the device's own error if it cannot be reached.
    fn begin(&self, image: &ImageView) -> Result<PendingFrame>;

    /// Returns the number of frames that keep the device busy. A caller with many images begins
    /// that number before it waits for the first. The number is that of the host; the hardware
    /// configuration's `frames` counts those that take turns on the array.
    fn in_flight(&self) -> usize;

    /// Preprocesses and runs one image to `logits` (one for each class).
    ///
    /// # Errors
    /// Those of [`Self::begin`] and of [`PendingFrame::wait`].
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

    /// Ends the driver, for the end of the process. Frames without an answer get an error, as do
    /// later ones. Returns false if the driver has not ended by `limit`.
    fn shut_down(&self, _limit: Instant) -> bool {
        true
    }

    /// Announces that the device will be closed: see [`FrameQueue::close_soon`].
    fn close_soon(&self) {}

    /// Ends the driver after the frames that were begun, as [`FrameQueue::finish`] does. Returns
    /// false if the driver has not ended.
    fn finish(&self, _cancel: &AtomicBool) -> bool {
        true
    }

    /// Makes a simulated device fail once: see [`Transport::inject`].
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a device that is not simulated.
    fn inject(&self, fault: &str, after_frames: u64) -> Result<()>;

    /// Returns true if the device has counters of its units.
    fn has_counters(&self) -> bool {
        false
    }

    /// Runs an image `frames` times, one frame after the other, and returns what the counters on
    /// the chip counted. No other frame may run at the same time.
    ///
    /// # Errors
    /// Those of [`Self::infer`] and of the counters; [`Error::InvalidValue`] for the CPU, for 0
    /// frames, or if other frames ran.
    fn profile(&self, image: &ImageView, frames: u64, cancel: &AtomicBool) -> Result<Profile>;

    /// Returns the counts of an accelerator's driver; `None` for the CPU.
    ///
    /// # Errors
    /// The device's own error if it cannot be reached.
    fn counters(&self) -> Result<Option<Counters>>;
}

/// Counts of frames that ran one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Frames.
    pub frames: u64,
    /// Counts of all frames, by the device.
    pub counted: Counts,
    /// Counts of one frame, by the event model.
    pub modelled: Counts,
}

/// A frame that was begun.
#[derive(Debug)]
pub struct PendingFrame {
    state: State,
    preprocess: Duration,
    begun: Instant,
}

#[derive(Debug)]
enum State {
    Done(Vec<i32>, Duration),
    Queued(Ticket),
}

impl PendingFrame {
    /// Waits for the frame's logits; also returns how long preprocessing and the rest took, the
    /// time in the queue included.
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

/// The CPU runs a frame to its end when the frame is begun.
impl Device for Executor {
    fn begin(&self, image: &ImageView) -> Result<PendingFrame> {
        let mut logits = vec![0; self.network().config().outputs()];
        let time = Executor::infer(self, image, &mut logits, &NEVER)?;
        Ok(PendingFrame {
            state: State::Done(logits, time.network),
            preprocess: time.preprocess,
            begun: Instant::now(),
        })
    }

    fn in_flight(&self) -> usize {
        1
    }

    fn infer(
        &self,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        Executor::infer(self, image, logits, cancel)
    }

    fn inject(&self, fault: &str, after_frames: u64) -> Result<()> {
        Err(Error::InvalidValue(format!(
            "the CPU has no fault {fault:?} after {after_frames} frames; \
             only a simulated device injects faults"
        )))
    }

    fn profile(&self, _: &ImageView, _: u64, _: &AtomicBool) -> Result<Profile> {
        Err(Error::InvalidValue(
            "the CPU has no counters; only an accelerator does".into(),
        ))
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }
}

/// Address space of the driver's thread and of a simulated device's.
const THREADS_BYTES: usize = 24 << 20;
/// Largest number of workspaces that are kept idle.
const MOST_IDLE: usize = 4;

/// Memory for the preprocessing of one image.
#[derive(Debug)]
struct Workspace {
    preprocessor: Preprocessor,
    pixels: Vec<u8>,
    patches: Vec<i8>,
}

/// The driver and the idle workspaces of one process.
#[derive(Debug)]
struct Process {
    queue: FrameQueue,
    workspaces: IdlePool<Workspace>,
}

/// Opens the transport: for the process that makes an accelerator, and for each process forked from
/// it.
type Connect<T> = Arc<dyn Fn() -> Result<T> + Send + Sync>;

/// An accelerator that runs one subnet.
pub struct Accelerator<T> {
    subnet: Arc<Subnet>,
    program: Arc<Program>,
    deadlines: Deadlines,
    connect: Connect<T>,
    process: PerProcess<Process>,
}

impl<T: Transport + 'static> Accelerator<T> {
    /// Opens an accelerator and loads the program of a subnet into its memory.
    ///
    /// # Errors
    /// Those of `connect` and of [`FrameQueue::start`].
    pub fn new(
        subnet: Arc<Subnet>,
        program: Arc<Program>,
        deadlines: Deadlines,
        cancel: &AtomicBool,
        connect: impl Fn() -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let accelerator = Self {
            subnet,
            program,
            deadlines,
            connect: Arc::new(connect),
            process: PerProcess::new(),
        };
        accelerator.process_or(cancel)?;
        Ok(accelerator)
    }

    fn process(&self) -> Result<&Process> {
        self.process_or(&NEVER)
    }

    /// Returns this process's driver; opens it at the first call. `cancel` ends the wait for that.
    fn process_or(&self, cancel: &AtomicBool) -> Result<&Process> {
        memory::check_limited("a frame")?;
        self.process.get(|| {
            // What the driver copies, and the memory of a simulated device, on both sides.
            let commands: usize = self.program.segments().map(|(_, list)| list.len()).sum();
            let bytes = self.program.arena().len()
                + IN_FLIGHT * self.program.input_bytes()
                + COMMAND_BYTES * commands;
            memory::check("the accelerator's memory", 4 * bytes + THREADS_BYTES)?;
            let watch = Watch::new(self.deadlines.segment);
            let (own, deadlines) = (Arc::clone(&watch), self.deadlines);
            let (connect, program) = (Arc::clone(&self.connect), Arc::clone(&self.program));
            let open = move || {
                let transport = Watched::connect(&own, || connect())?;
                Driver::open(transport, program, deadlines)
            };
            Ok(Process {
                queue: FrameQueue::start(&watch, cancel, open)?,
                workspaces: IdlePool::new(MOST_IDLE),
            })
        })
    }

    /// Preprocesses an image, cuts it into patches and packs them.
    fn input(&self, process: &Process, image: &ImageView) -> Result<Vec<u8>> {
        let config = self.subnet.config();
        let workspace = || {
            memory::check("a frame", 2 * config.patches() * config.patch_len())?;
            Ok(Workspace {
                preprocessor: Preprocessor::new(config),
                pixels: Vec::new(),
                patches: vec![0; config.patches() * config.patch_len()],
            })
        };
        process.workspaces.with(workspace, |workspace| {
            let Workspace {
                preprocessor,
                pixels,
                patches,
            } = workspace;
            preprocessor.run(image, pixels)?;
            let mut input = vec![0; self.program.input_bytes()];
            patches_channels_first(
                pixels,
                config.image,
                config.patch,
                config.grid().1,
                0,
                patches,
            );
            self.program.pack_input(patches, &mut input);
            Ok(input)
        })
    }
}

impl<T: Transport + 'static> Device for Accelerator<T> {
    fn begin(&self, image: &ImageView) -> Result<PendingFrame> {
        let process = self.process()?;
        let start = Instant::now();
        let input = self.input(process, image)?;
        let begun = Instant::now();
        Ok(PendingFrame {
            state: State::Queued(process.queue.submit(input)),
            preprocess: begun - start,
            begun,
        })
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn shut_down(&self, limit: Instant) -> bool {
        self.process
            .existing()
            .is_none_or(|process| process.queue.close(limit))
    }

    fn close_soon(&self) {
        if let Some(process) = self.process.existing() {
            process.queue.close_soon();
        }
    }

    fn finish(&self, cancel: &AtomicBool) -> bool {
        self.process
            .existing()
            .is_none_or(|process| process.queue.finish(cancel))
    }

    fn inject(&self, fault: &str, after_frames: u64) -> Result<()> {
        self.process()?.queue.inject(fault, after_frames);
        Ok(())
    }

    fn has_counters(&self) -> bool {
        self.program.hardware().configuration().counters
    }

    fn profile(&self, image: &ImageView, frames: u64, cancel: &AtomicBool) -> Result<Profile> {
        if frames == 0 {
            return Err(Error::InvalidValue("0 frames have no profile".into()));
        }
        let hardware = self.program.hardware();
        expect_counters(hardware, "the accelerator")?;
        let queue = &self.process()?.queue;
        let before = queue.counters();
        queue.start_counters(cancel)?;
        for _ in 0..frames {
            self.begin(image)?.wait(cancel)?;
        }
        let counted = queue.stop_counters(cancel)?;
        let after = queue.counters();
        if (after.frames - before.frames, after.resets) != (frames, before.resets) {
            return Err(Error::InvalidValue(
                "other frames ran while the counters did; profile a device that nobody else uses"
                    .into(),
            ));
        }
        Ok(Profile {
            frames,
            counted,
            modelled: frame_counts(hardware, &self.program.lists)?,
        })
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(Some(self.process()?.queue.counters()))
    }
}

//! An accelerator as a device.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Instant;

use quasar_accelerator::host::counters::expect_counters;
use quasar_accelerator::host::driver::{Counters, Deadlines, Driver, FrameQueue, IN_FLIGHT};
use quasar_accelerator::host::transport::Transport;
use quasar_accelerator::host::watch::{Watch, Watched};
use quasar_accelerator::isa::COMMAND_BYTES;
use quasar_accelerator::run::time::frame_counts;
use quasar_accelerator::Program;
use quasar_core::cpu::NEVER;
use quasar_core::error::{Error, Result};
use quasar_core::memory;
use quasar_core::pool::{IdlePool, PerProcess};
use quasar_core::preprocess::{ImageView, Preprocessor};
use quasar_core::subnet::config::Config;
use quasar_core::{Kernels, Subnet};

use crate::{Device, PendingFrame, Profile, State};

/// Address space of the driver's thread and of a simulated device's.
const THREADS_BYTES: usize = 24 << 20;
/// Largest number of packers that are kept idle.
const MOST_IDLE: usize = 4;

/// Prepares images for an accelerator: preprocesses them, cuts them into patches and packs these.
/// Keeps its memory from one image to the next.
#[derive(Debug)]
pub struct Packer {
    preprocessor: Preprocessor,
    kernels: Kernels,
    pixels: Vec<u8>,
}

impl Packer {
    /// Creates a packer for the images of a subnet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &Config) -> Result<Self> {
        memory::check("a frame", 2 * config.patches() * config.patch_len())?;
        Ok(Self {
            preprocessor: Preprocessor::new(config),
            kernels: Kernels::best(),
            pixels: Vec::new(),
        })
    }

    /// Returns the packer with another tier's kernels. Every tier gives the same bytes.
    #[must_use]
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self {
            preprocessor: self.preprocessor.with_kernels(kernels),
            kernels,
            ..self
        }
    }

    /// Returns the input of one frame, for a program of the same subnet.
    ///
    /// # Errors
    /// Those of [`Preprocessor::run`].
    pub fn input(
        &mut self,
        config: &Config,
        program: &Program,
        image: &ImageView,
    ) -> Result<Vec<u8>> {
        self.preprocessor.run(image, &mut self.pixels)?;
        let mut input = vec![0; program.input_bytes()];
        let (size, patch, columns) = (config.image, config.patch, config.grid().1);
        program.pack_image(self.kernels, &self.pixels, size, patch, columns, &mut input);
        Ok(input)
    }
}

/// The driver and the idle packers of one process.
#[derive(Debug)]
struct Process {
    queue: FrameQueue,
    packers: IdlePool<Packer>,
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
                packers: IdlePool::new(MOST_IDLE),
            })
        })
    }

    /// Preprocesses an image, cuts it into patches and packs them.
    fn input(&self, process: &Process, image: &ImageView) -> Result<Vec<u8>> {
        let config = self.subnet.config();
        let packer = || Packer::new(config);
        (process.packers).with(packer, |packer| packer.input(config, &self.program, image))
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
            modelled: frame_counts(hardware, self.program.lists())?,
        })
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(Some(self.process()?.queue.counters()))
    }
}

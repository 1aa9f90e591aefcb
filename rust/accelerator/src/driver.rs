//! The driver: frames in a queue, two of them on the accelerator at a time, each with its answer or its own error.
//!
//! A segment finishes a frame, starts the next, or does both; the accelerator goes from one to the next without stopping, so up to three
//! frames are on it: one whose output is awaited, one whose last segment has been handed over behind it, and one half done. A fault
//! concerns the oldest of them: it gets the error, the kernels are reset, everything in memory is written again, and
//! the frames behind it run as if nothing had been.
//!
//! What could pass for an answer and is none: an interrupt is a hint, completion is read from `AP_CTRL`; the output is cleared before each
//! attempt, and each attempt has a tag of its own, so that neither a stale cache line nor a late write from before a reset is
//! taken for a result; the output carries a check, and the store says whether all transfers from memory were sound; commands carry checks
//! that fetch compares before a unit sees them, from a seed that no other segment has; the identity is read with every segment. Depends on [`crate::transport`] and [`crate::isa`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quasar_core::error::{Error, Result};

use crate::identity::configuration_hash;
use crate::isa::{ABI, AP_IDLE, AP_START, MAGIC, PORT_BYTES};
use crate::program::{Program, Segment};
use crate::transport::{register, Buffer, Transport, CACHE_LINE};

/// What the driver needs of a compiled network.
pub trait Executable: Send + Sync + 'static {
    /// The configuration that it is compiled for.
    fn configuration_hash(&self) -> u64;
    /// Frames on the accelerator at a time, 1 or 2.
    fn frames(&self) -> usize;
    /// AXI ports.
    fn ports(&self) -> usize;
    /// A segment's commands, as they stand in memory; their checks go on from `seed`.
    fn commands(&self, segment: Segment, seed: u32) -> Vec<u8>;
    /// Logical beats of the arena.
    fn arena(&self) -> &[u8];
    /// Bytes of a frame's input: whole logical beats.
    fn input_bytes(&self) -> usize;
    /// Bytes of a frame's output.
    fn output_bytes(&self) -> usize;
    /// Number of logits.
    fn classes(&self) -> usize;
    /// A frame's logits, by class.
    ///
    /// # Errors
    /// [`Error::CorruptOutput`] for anything but the sound output of the attempt with that tag.
    fn read_output(&self, bytes: &[u8], tag: u32, logits: &mut [i32]) -> Result<()>;
}

impl Executable for Program {
    fn configuration_hash(&self) -> u64 {
        configuration_hash(self.hardware())
    }

    fn frames(&self) -> usize {
        self.hardware().configuration().frames as usize
    }

    fn ports(&self) -> usize {
        self.beat_bytes() / PORT_BYTES
    }

    fn commands(&self, segment: Segment, seed: u32) -> Vec<u8> {
        self.command_bytes(segment, seed)
    }

    fn arena(&self) -> &[u8] {
        self.arena()
    }

    fn input_bytes(&self) -> usize {
        self.input_bytes()
    }

    fn output_bytes(&self) -> usize {
        self.output_bytes()
    }

    fn classes(&self) -> usize {
        self.classes()
    }

    fn read_output(&self, bytes: &[u8], tag: u32, logits: &mut [i32]) -> Result<()> {
        self.read_output(bytes, tag, logits)
    }
}

/// How long the driver waits, in wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a segment.
    pub segment: Duration,
    /// For the identity, which takes the accelerator some cycles.
    pub identity: Duration,
}

/// An interrupt that is lost costs this much: then completion is looked for without it.
const INTERRUPT_SLICE: Duration = Duration::from_millis(10);
/// Pauses between two looks at fetch, which has no interrupt: they grow from the first to the second.
const FETCH_PAUSES: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));
/// Frames whose last segment has been handed over, at most.
const FINISHING: usize = 2;
/// Inputs in memory: of the frames that are finished, of the one half done, of the one that is started, and of the next, which is written
/// meanwhile.
const INPUTS: usize = FINISHING + 3;
/// What a register reads as when nothing answers on the bus.
const NOBODY: u32 = u32::MAX;

/// What happened since the driver was made.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames that got their answer.
    pub frames: AtomicU64,
    /// Frames that got an error.
    pub faults: AtomicU64,
    /// Resets.
    pub resets: AtomicU64,
    /// Completions that no interrupt announced.
    pub lost_interrupts: AtomicU64,
    /// Interrupts that announced nothing.
    pub spurious_interrupts: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A frame that waits to be run.
#[derive(Debug)]
pub struct Job {
    input: Vec<u8>,
    answer: Sender<Result<Vec<i32>>>,
    abandoned: Arc<AtomicBool>,
}

/// Where a frame's answer will come.
#[derive(Debug)]
pub struct Ticket {
    answer: Receiver<Result<Vec<i32>>>,
    abandoned: Arc<AtomicBool>,
}

/// How often a waiting caller looks whether it is cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(20);

impl Ticket {
    /// The frame's logits, by class.
    ///
    /// # Errors
    /// The fault that hit this frame, or [`Error::Interrupted`].
    pub fn wait(self, cancel: &AtomicBool) -> Result<Vec<i32>> {
        loop {
            match self.answer.recv_timeout(CANCEL_INTERVAL) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if cancel.load(Ordering::Relaxed) => {
                    return Err(Error::Interrupted)
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::DeviceFault {
                        device: "accelerator".into(),
                        problem: "the driver's thread has ended".into(),
                    })
                }
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A frame that nobody waits for is not started.
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

/// Frames in the order in which they are handed in, run by a thread of the queue's own. Dropping it ends the thread, after the frames
/// that are in it.
#[derive(Debug)]
pub struct FrameQueue {
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    worker: Option<JoinHandle<()>>,
    counters: Arc<Counters>,
    faults: Sender<(String, u64)>,
}

impl FrameQueue {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Threads`] where there is none to be had.
    pub fn start<T: Transport + 'static, E: Executable>(mut driver: Driver<T, E>) -> Result<Self> {
        let (jobs, source) = mpsc::channel();
        let (faults, injected) = mpsc::channel();
        driver.injected = Some(injected);
        let counters = Arc::clone(&driver.counters);
        let worker = thread::Builder::new()
            .name("quasar-driver".into())
            .spawn(move || driver.serve(&source))
            .map_err(|error| Error::Threads {
                threads: 1,
                problem: error.to_string(),
            })?;
        Ok(Self {
            jobs: Some(jobs),
            worker: Some(worker),
            counters,
            faults,
        })
    }

    /// Hands a frame in: its packed input.
    pub fn submit(&self, input: Vec<u8>) -> Ticket {
        let (answer, ticket) = mpsc::channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let job = Job {
            input,
            answer,
            abandoned: Arc::clone(&abandoned),
        };
        if let Some(jobs) = &self.jobs {
            // A thread that has ended leaves the ticket without a sender: its wait says so.
            let _ = jobs.send(job);
        }
        Ticket {
            answer: ticket,
            abandoned,
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Lets a simulated device misbehave: see [`Transport::inject`]. It takes effect before the next frame that starts.
    pub fn inject(&self, fault: &str, after_frames: u64) {
        let _ = self.faults.send((fault.to_owned(), after_frames));
    }
}

impl Drop for FrameQueue {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(worker) = self.worker.take() {
            // A panic in it has been reported to whoever waited.
            let _ = worker.join();
        }
    }
}

/// A frame that is in memory.
#[derive(Debug)]
struct Frame {
    job: Job,
    /// Which of the inputs it has.
    input: usize,
    /// The slot that it runs in, once it is started.
    slot: u8,
}

/// Where a segment's commands stand.
#[derive(Clone, Copy, Debug)]
struct List {
    segment: Segment,
    offset: usize,
    count: u32,
    seed: u32,
}

/// A segment whose commands are being read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    segment: Segment,
    /// Whether it finishes the youngest of [`Driver::finishing`].
    finishes: bool,
    started: Instant,
}

/// An accelerator with a program in its memory.
#[derive(Debug)]
pub struct Driver<T, E> {
    transport: T,
    program: Arc<E>,
    deadlines: Deadlines,
    counters: Arc<Counters>,
    injected: Option<Receiver<(String, u64)>>,
    lists: Vec<List>,
    commands: Buffer,
    /// One for each AXI port: its stripe of the arena, then of each input.
    stripes: Vec<Buffer>,
    output: Buffer,
    /// Bytes of a stripe's arena, in whole cache lines.
    arena_bytes: usize,
    /// Bytes of a stripe's input, in whole cache lines.
    input_bytes: usize,
    /// Whether the accelerator is in a state that a frame can be started in.
    armed: bool,
    tag: u32,
    free: Vec<usize>,
    /// In memory, not started.
    staged: VecDeque<Frame>,
    /// Its first half has been handed over.
    half: Option<Frame>,
    /// All of it has been handed over, the oldest first; the store is started for that one.
    finishing: VecDeque<Frame>,
    reading: Option<Reading>,
    /// When the store was started.
    storing: Instant,
    /// Whether the last wait ended by an interrupt that no completion has explained yet.
    announced: bool,
}

impl<T: Transport, E: Executable> Driver<T, E> {
    /// Checks that the FPGA holds the bitstream that the program is for, and writes the program to memory.
    ///
    /// # Errors
    /// [`Error::WrongBitstream`], [`Error::DoesNotFit`] for too little DMA memory, [`Error::DeviceTimeout`] and [`Error::DeviceFault`].
    pub fn open(mut transport: T, program: Arc<E>, deadlines: Deadlines) -> Result<Self> {
        let ports = program.ports();
        let line = |bytes: usize| bytes.next_multiple_of(CACHE_LINE);
        let arena_bytes = line(program.arena().len() / ports);
        let input_bytes = line(program.input_bytes() / ports);
        // Memory may hold what another process left there: two are unlikely to have the same seeds.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let own = now.map_or(1, |now| now.as_nanos() as u32);
        let mut lists = Vec::new();
        let mut offset = 0;
        for (number, &segment) in (0..).zip(Segment::all(program.frames())) {
            let seed = own.wrapping_add(number);
            let bytes = program.commands(segment, seed).len();
            let count = (bytes / crate::isa::COMMAND_BYTES) as u32;
            lists.push(List {
                segment,
                offset,
                count,
                seed,
            });
            offset = line(offset + bytes);
        }
        let commands = transport.allocate(offset.max(CACHE_LINE))?;
        let stripes = (0..ports)
            .map(|_| transport.allocate(arena_bytes + INPUTS * input_bytes))
            .collect::<Result<_>>()?;
        let output = transport.allocate(line(program.output_bytes()))?;
        let storing = transport.now();
        let mut driver = Self {
            transport,
            program,
            deadlines,
            counters: Arc::default(),
            injected: None,
            lists,
            commands,
            stripes,
            output,
            arena_bytes,
            input_bytes,
            armed: false,
            tag: own,
            free: (0..INPUTS).rev().collect(),
            staged: VecDeque::new(),
            half: None,
            finishing: VecDeque::new(),
            reading: None,
            storing,
            announced: false,
        };
        driver.arm()?;
        Ok(driver)
    }

    /// Runs frames until nobody can hand in another.
    pub fn serve(mut self, jobs: &Receiver<Job>) {
        loop {
            let busy = self.half.is_some() || !self.finishing.is_empty();
            if self.staged.is_empty() {
                let job = if busy {
                    jobs.try_recv().ok()
                } else {
                    match jobs.recv() {
                        Ok(job) => Some(job),
                        Err(_) => return,
                    }
                };
                self.stage(job);
            }
            self.inject_faults();
            if let Err(error) = self.advance(jobs) {
                self.fail(error);
            }
        }
    }

    fn inject_faults(&mut self) {
        let faults: Vec<_> = self.injected.iter().flat_map(Receiver::try_iter).collect();
        for (fault, after_frames) in faults {
            if let Err(error) = self.transport.inject(&fault, after_frames) {
                self.fail(error);
            }
        }
    }

    /// Gives the oldest frame the error; those behind it will be started anew.
    fn fail(&mut self, error: Error) {
        self.armed = false;
        self.reading = None;
        let started = self.finishing.drain(..).chain(self.half.take());
        let mut frames: VecDeque<Frame> = started.chain(self.staged.drain(..)).collect();
        if let Some(frame) = frames.pop_front() {
            self.answer(frame, Err(error));
        }
        self.staged = frames;
    }

    /// Writes a frame's input to memory, where it is still wanted and that is possible; otherwise it has its answer.
    fn stage(&mut self, job: Option<Job>) {
        let Some(job) = job else { return };
        if job.abandoned.load(Ordering::Relaxed) {
            return;
        }
        let Some(input) = self.free.pop() else {
            unreachable!("at most {INPUTS} frames are in memory")
        };
        let frame = Frame {
            job,
            input,
            slot: 0,
        };
        match self.write_input(&frame) {
            Ok(()) => self.staged.push_back(frame),
            Err(error) => self.answer(frame, Err(error)),
        }
    }

    fn write_input(&mut self, frame: &Frame) -> Result<()> {
        let offset = self.arena_bytes + frame.input * self.input_bytes;
        self.write_stripes(&frame.job.input, offset, self.input_bytes)
    }

    /// Writes whole logical beats to the stripes and makes `bytes` of each visible to the device.
    fn write_stripes(&mut self, beats: &[u8], offset: usize, bytes: usize) -> Result<()> {
        let beat = PORT_BYTES * self.stripes.len();
        let mut stripe = Vec::with_capacity(beats.len() / self.stripes.len());
        for (port, buffer) in self.stripes.iter().enumerate() {
            let parts = beats.chunks_exact(beat);
            stripe.clear();
            stripe.extend(parts.flat_map(|b| &b[PORT_BYTES * port..][..PORT_BYTES]));
            self.transport.copy_in(buffer, offset, &stripe)?;
            self.transport.flush(buffer, offset, bytes)?;
        }
        Ok(())
    }

    /// Hands over one segment: what is half done is finished, what is staged is started. Without either, waits for what is on the
    /// accelerator.
    fn advance(&mut self, jobs: &Receiver<Job>) -> Result<()> {
        let finishes = self.half.is_some();
        let starts = !self.staged.is_empty() && (!finishes || self.program.frames() > 1);
        if !finishes {
            // A first segment stands behind nothing else.
            self.settle(0)?;
        }
        if !self.armed && starts {
            self.arm()?;
        }
        let (segment, slot) = match (self.half.as_ref().map(|frame| frame.slot), starts) {
            (None, true) => (Segment::Start(0), 0),
            (Some(slot), false) => (Segment::End(slot), 0),
            (Some(slot), true) => (Segment::Step(slot), 1 - slot),
            (None, false) => return Ok(()),
        };
        self.settle(FINISHING - 1)?;
        if let Some(frame) = self.half.take() {
            self.finishing.push_back(frame);
            if self.finishing.len() == 1 {
                self.start_store()?;
            }
        }
        if starts {
            self.half = self.staged.pop_front();
        }
        if let Some(frame) = &mut self.half {
            frame.slot = slot;
        }
        self.start_fetch(segment, finishes)?;
        if self.staged.is_empty() {
            // While the accelerator works, the next frame comes to memory.
            self.stage(jobs.try_recv().ok());
        }
        self.settle(FINISHING)
    }

    /// Waits until the commands of a segment are read and at most `left` frames await their output.
    fn settle(&mut self, left: usize) -> Result<()> {
        let mut pause = FETCH_PAUSES.0;
        while self.reading.is_some() || self.finishing.len() > left {
            // Taken before the looks: a thread that slept past a deadline still sees what was done in time.
            let now = self.transport.now();
            let moved = self.look_at_fetch(now)? | self.look_at_store(now)?;
            if moved {
                continue;
            }
            if self.finishing.is_empty() {
                self.transport.sleep(pause);
            } else {
                let most = if self.reading.is_some() {
                    pause
                } else {
                    INTERRUPT_SLICE
                };
                self.announced = self.transport.wait(most)?;
            }
            pause = (2 * pause).min(FETCH_PAUSES.1);
        }
        Ok(())
    }

    /// Whether the commands of the segment have just been read.
    fn look_at_fetch(&mut self, now: Instant) -> Result<bool> {
        let Some(Reading {
            segment, started, ..
        }) = self.reading
        else {
            return Ok(false);
        };
        if !self.idle(register::FETCH_CTRL)? {
            if now >= started + self.deadlines.segment {
                return Err(self.timeout("reading a segment's commands", started));
            }
            return Ok(false);
        }
        self.reading = None;
        // Fetch hands on neither a command that is not what was written nor any behind it.
        match self.transport.read(register::FETCH_ERROR)? {
            0 => self.check_identity()?,
            error => {
                let problem = format!(
                    "command {} of segment {segment} fails its check or has no unit",
                    error - 1
                );
                return Err(self.fault(problem));
            }
        }
        Ok(true)
    }

    /// Whether the oldest frame has just got its answer.
    fn look_at_store(&mut self, now: Instant) -> Result<bool> {
        // A frame is not answered before the segment that finishes it is known to be read as it was written.
        let read = self.finishing.len() > usize::from(self.reading.is_some_and(|r| r.finishes));
        if self.finishing.is_empty() || !self.idle(register::STORE_CTRL)? {
            if self.announced {
                self.announced = false;
                count(&self.counters.spurious_interrupts);
            }
            if !self.finishing.is_empty() && now >= self.storing + self.deadlines.segment {
                return Err(self.timeout("a frame's output", self.storing));
            }
            return Ok(false);
        }
        if !read {
            return Ok(false);
        }
        // It may have come between two looks.
        if !std::mem::take(&mut self.announced) && !self.transport.wait(Duration::ZERO)? {
            count(&self.counters.lost_interrupts);
        }
        self.clear_interrupt()?;
        let mut bytes = vec![0; self.program.output_bytes()];
        self.transport
            .invalidate(&self.output, 0, self.output.bytes)?;
        self.transport.copy_out(&self.output, 0, &mut bytes)?;
        let mut logits = vec![0; self.program.classes()];
        self.program.read_output(&bytes, self.tag, &mut logits)?;
        if let Some(frame) = self.finishing.pop_front() {
            self.answer(frame, Ok(logits));
        }
        if !self.finishing.is_empty() {
            self.start_store()?;
        }
        Ok(true)
    }

    fn answer(&mut self, frame: Frame, answer: Result<Vec<i32>>) {
        count(match answer {
            Ok(_) => &self.counters.frames,
            Err(_) => &self.counters.faults,
        });
        let Frame { job, input, .. } = frame;
        self.free.push(input);
        // Nobody may wait for it any more.
        let _ = job.answer.send(answer);
    }

    /// Starts the store for the oldest frame.
    fn start_store(&mut self) -> Result<()> {
        self.expect_idle("store", register::STORE_CTRL)?;
        self.clear_interrupt()?;
        self.tag = self.tag.wrapping_add(1);
        self.transport
            .copy_in(&self.output, 0, &vec![0; self.output.bytes])?;
        self.transport.flush(&self.output, 0, self.output.bytes)?;
        self.write_address(register::STORE_OUTPUT, self.output.physical)?;
        self.transport
            .write(register::STORE_COUNT, self.program.classes() as u32)?;
        self.transport.write(register::STORE_TAG, self.tag)?;
        self.storing = self.transport.now();
        self.transport.write(register::STORE_CTRL, AP_START)
    }

    fn start_fetch(&mut self, segment: Segment, finishes: bool) -> Result<()> {
        self.expect_idle("fetch", register::FETCH_CTRL)?;
        let Some(&List {
            offset,
            count,
            seed,
            ..
        }) = self.lists.iter().find(|l| l.segment == segment)
        else {
            unreachable!("lists are made of all segments")
        };
        self.write_address(
            register::FETCH_COMMANDS,
            self.commands.physical + offset as u64,
        )?;
        self.transport.write(register::FETCH_COUNT, count)?;
        self.transport.write(register::FETCH_SEED, seed)?;
        if let Some(frame) = &self.half {
            let first = self.arena_bytes + frame.input * self.input_bytes;
            self.transport
                .write(register::FETCH_INPUT, (first / PORT_BYTES) as u32)?;
        }
        self.reading = Some(Reading {
            segment,
            finishes,
            started: self.transport.now(),
        });
        self.transport.write(register::FETCH_CTRL, AP_START)
    }

    fn write_address(&mut self, low: u32, address: u64) -> Result<()> {
        self.transport.write(low, address as u32)?;
        self.transport.write(low + 4, (address >> 32) as u32)
    }

    /// Whether a kernel has done what it was started for. `AP_DONE` is cleared by the first look, so it is not relied on.
    fn idle(&mut self, control: u32) -> Result<bool> {
        match self.transport.read(control)? {
            NOBODY => Err(self.fault("nobody answers on the register bus".into())),
            value => Ok(value & (AP_START | AP_IDLE) == AP_IDLE),
        }
    }

    fn expect_idle(&mut self, kernel: &str, control: u32) -> Result<()> {
        if self.idle(control)? {
            Ok(())
        } else {
            Err(self.fault(format!("{kernel} is busy before it is started")))
        }
    }

    fn clear_interrupt(&mut self) -> Result<()> {
        match self.transport.read(register::STORE_ISR)? {
            0 => Ok(()),
            status => self.transport.write(register::STORE_ISR, status),
        }
    }

    /// Resets the accelerator, asks who it is, and writes everything in memory anew.
    fn arm(&mut self) -> Result<()> {
        count(&self.counters.resets);
        self.transport.reset()?;
        self.transport.write(register::STORE_GIE, 1)?;
        self.transport.write(register::STORE_IER, 1)?;
        self.clear_interrupt()?;
        // What was announced before the reset is of no interest.
        self.transport.wait(Duration::ZERO)?;
        self.announced = false;
        self.expect_idle("fetch", register::FETCH_CTRL)?;
        self.transport.write(register::FETCH_COUNT, 0)?;
        self.transport.write(register::FETCH_CTRL, AP_START)?;
        let started = self.transport.now();
        loop {
            let late = self.transport.now() >= started + self.deadlines.identity;
            if self.idle(register::FETCH_CTRL)? {
                break;
            }
            if late {
                return Err(self.timeout("the accelerator's identity", started));
            }
            self.transport.sleep(FETCH_PAUSES.0);
        }
        self.check_identity()?;
        for port in 0..self.stripes.len() {
            let address = self.stripes[port].physical;
            self.write_address(register::LOAD_ARENA[port], address)?;
        }
        // It runs until the next reset.
        self.transport.write(register::LOAD_CTRL, AP_START)?;
        let program = Arc::clone(&self.program);
        for List {
            segment,
            offset,
            seed,
            ..
        } in self.lists.clone()
        {
            let commands = program.commands(segment, seed);
            self.transport.copy_in(&self.commands, offset, &commands)?;
        }
        self.transport
            .flush(&self.commands, 0, self.commands.bytes)?;
        self.write_stripes(program.arena(), 0, self.arena_bytes)?;
        let staged = std::mem::take(&mut self.staged);
        let written = staged.iter().try_for_each(|frame| self.write_input(frame));
        self.staged = staged;
        written?;
        self.armed = true;
        Ok(())
    }

    fn check_identity(&mut self) -> Result<()> {
        let mut read = |register| self.transport.read(register).map(u64::from);
        let hash = read(register::FETCH_HASH_HIGH)? << 32 | read(register::FETCH_HASH_LOW)?;
        let found = [
            ("mark", read(register::FETCH_MAGIC)?, u64::from(MAGIC)),
            ("interface version", read(register::FETCH_ABI)?, ABI.into()),
            (
                "configuration hash",
                hash,
                self.program.configuration_hash(),
            ),
        ];
        for (what, found, expected) in found {
            if found != expected {
                return Err(Error::WrongBitstream {
                    device: self.transport.name(),
                    what,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }

    fn fault(&mut self, problem: String) -> Error {
        let details = self.transport.diagnosis();
        Error::DeviceFault {
            device: self.transport.name(),
            problem: if details.is_empty() {
                problem
            } else {
                format!("{problem}; {details}")
            },
        }
    }

    fn timeout(&mut self, what: &'static str, started: Instant) -> Error {
        let details = self.transport.diagnosis();
        Error::DeviceTimeout {
            device: self.transport.name(),
            what,
            waited: self.transport.now() - started,
            details: if details.is_empty() {
                details
            } else {
                format!("; {details}")
            },
        }
    }
}

#[cfg(test)]
mod tests;
